//! The table on paper: versioned JSON that a person can read, or python-p2p's bare list of addresses.
//!
//! ```json
//! {"version": 1,
//!  "peers": [{"id": "2f0c…", "addrs": [{"addr": "9.9.9.9:65432", "file_port": 65433, "scope": "public"}],
//!             "last_connected": "2026-01-31T12:00:00Z", "wanted": true, "banned": false,
//!             "records": [{"scope": "public", "seq": 3, "bytes": "base64"}]}],
//!  "seeds": ["9.9.9.9:65432"]}
//! ```
//!
//! Unknown fields are ignored, so fields can be added; another meaning needs another version. A file is as hostile as
//! the network: nothing in it is allocated before it is counted, and one bad entry costs that entry only.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use data_encoding::BASE64;
use serde::de::{DeserializeOwned, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::config::MAX_RECORD_BYTES;
use crate::{PeerAddr, Record, Scope};

/// The version written, and the only one read.
pub const SNAPSHOT_VERSION: u64 = 1;

/// Largest snapshot that is read, in bytes.
pub const MAX_SNAPSHOT_BYTES: usize = 16 * 1024 * 1024;

/// The port of a node where a list names none.
pub const DEFAULT_PORT: u16 = 65432;

/// Most peers read from one snapshot; the table's own limit may be lower.
const MAX_PEERS: usize = 65_536;
/// Most seeds read from one snapshot or list.
const MAX_SEEDS: usize = 65_536;
/// Most addresses read of one peer.
const MAX_ADDRS: usize = 64;
/// Most records read of one peer; there are two scopes.
const MAX_RECORDS: usize = 4;
/// The last second of the year 9999: RFC 3339 has no later ones.
const LAST_SECOND: Duration = Duration::from_secs(253_402_300_799);

/// What of a table outlives the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot<P> {
    /// The peers.
    pub peers: Vec<SavedPeer<P>>,
    /// Addresses the user named without an id.
    pub seeds: Vec<SocketAddr>,
}

impl<P> Default for Snapshot<P> {
    fn default() -> Self {
        Self { peers: Vec::new(), seeds: Vec::new() }
    }
}

/// One peer in a [`Snapshot`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedPeer<P> {
    /// Its id.
    pub id: P,
    /// Its addresses, best first.
    pub addrs: Vec<SavedAddr>,
    /// When it was linked last, to the second in the file.
    pub last_connected: Option<SystemTime>,
    /// The user asked for it.
    pub wanted: bool,
    /// It is one of the neighbours to dial first.
    pub anchor: bool,
    /// It was linked, but only ever because it dialled us.
    pub visitor: bool,
    /// The user banned it for good.
    pub banned: bool,
    /// Its signed address records, at most one per scope.
    pub records: Vec<Record>,
}

/// One address in a [`SavedPeer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SavedAddr {
    /// The address.
    pub addr: PeerAddr,
    /// The scope of the record that named it, if one did.
    pub scope: Option<Scope>,
}

/// How a file was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// By [`Snapshot::encode`].
    Snapshot,
    /// By python-p2p, or by hand: a bare JSON list of addresses.
    AddressList,
}

/// A snapshot that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded<P> {
    /// What was good in it.
    pub snapshot: Snapshot<P>,
    /// Entries, addresses, records and seeds that were not.
    pub skipped: usize,
    /// What it was.
    pub format: Format,
}

/// Bytes that are no snapshot.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// More bytes than any snapshot has.
    #[error("snapshot is {len} bytes, the limit is {limit}", limit = MAX_SNAPSHOT_BYTES)]
    TooLarge {
        /// Its length, as far as it was looked at.
        len: u64,
    },
    /// Written by a version of the program that knows more.
    #[error("snapshot has version {found}, this program reads version {}", SNAPSHOT_VERSION)]
    Version {
        /// The version in it.
        found: u64,
    },
    /// Not JSON, or not of this shape.
    #[error("not a snapshot")]
    Json(#[from] serde_json::Error),
}

impl<P: Serialize> Snapshot<P> {
    /// The snapshot as JSON, one line per peer.
    ///
    /// # Errors
    ///
    /// Only if `P` cannot be written as JSON.
    pub fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut out = format!("{{\"version\":{SNAPSHOT_VERSION},\"peers\":[").into_bytes();
        for (i, peer) in self.peers.iter().enumerate() {
            out.extend_from_slice(if i == 0 { b"\n" } else { b",\n" });
            serde_json::to_writer(&mut out, &PeerOut::from(peer))?;
        }
        out.extend_from_slice(b"\n],\"seeds\":");
        serde_json::to_writer(&mut out, &self.seeds)?;
        out.extend_from_slice(b"}\n");
        Ok(out)
    }
}

impl<P: DeserializeOwned> Snapshot<P> {
    /// Reads what [`encode`](Self::encode) wrote, or a bare list of addresses. What is wrong in parts is skipped and
    /// counted.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] if the whole is of no use. Never panics, whatever the bytes.
    pub fn decode(bytes: &[u8]) -> Result<Loaded<P>, DecodeError> {
        if bytes.len() > MAX_SNAPSHOT_BYTES {
            return Err(DecodeError::TooLarge { len: bytes.len() as u64 });
        }
        let mut skipped = 0;
        if bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[') {
            let list: Items<'_, MAX_SEEDS> = serde_json::from_slice(bytes)?;
            let snapshot = Self { peers: Vec::new(), seeds: list.parse(&mut skipped, parse_seed) };
            return Ok(Loaded { snapshot, skipped, format: Format::AddressList });
        }
        let file: FileIn<'_> = serde_json::from_slice(bytes)?;
        if file.version != SNAPSHOT_VERSION {
            return Err(DecodeError::Version { found: file.version });
        }
        let peers: Items<'_, MAX_PEERS> = items(file.peers)?;
        let seeds: Items<'_, MAX_SEEDS> = items(file.seeds)?;
        let mut bad_parts = 0;
        let peers = peers.parse(&mut skipped, |raw| parse_peer(raw, &mut bad_parts));
        let seeds = seeds.parse(&mut skipped, parse_seed);
        let skipped = skipped + bad_parts;
        Ok(Loaded { snapshot: Self { peers, seeds }, skipped, format: Format::Snapshot })
    }
}

#[derive(Serialize)]
struct PeerOut<'a, P> {
    id: &'a P,
    addrs: Vec<AddrOut>,
    last_connected: Option<String>,
    wanted: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    anchor: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    visitor: bool,
    banned: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    records: Vec<RecordOut>,
}

#[derive(Serialize)]
struct AddrOut {
    addr: SocketAddr,
    file_port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<Scope>,
}

#[derive(Serialize)]
struct RecordOut {
    scope: Scope,
    seq: u64,
    bytes: String,
}

impl<'a, P> From<&'a SavedPeer<P>> for PeerOut<'a, P> {
    fn from(peer: &'a SavedPeer<P>) -> Self {
        let addr = |saved: &SavedAddr| {
            let SavedAddr { addr, scope } = *saved;
            AddrOut { addr: addr.socket_addr(), file_port: addr.file_port, scope }
        };
        let record = |record: &Record| RecordOut {
            scope: record.scope,
            seq: record.seq,
            bytes: BASE64.encode(&record.bytes),
        };
        Self {
            id: &peer.id,
            addrs: peer.addrs.iter().map(addr).collect(),
            last_connected: peer.last_connected.map(format_time),
            wanted: peer.wanted,
            anchor: peer.anchor,
            visitor: peer.visitor,
            banned: peer.banned,
            records: peer.records.iter().map(record).collect(),
        }
    }
}

#[derive(Deserialize)]
struct FileIn<'a> {
    version: u64,
    #[serde(borrow, default)]
    peers: Option<&'a RawValue>,
    #[serde(borrow, default)]
    seeds: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct PeerIn<'a> {
    #[serde(borrow)]
    id: &'a RawValue,
    #[serde(borrow, default)]
    addrs: Items<'a, MAX_ADDRS>,
    #[serde(borrow, default)]
    last_connected: Option<Cow<'a, str>>,
    #[serde(default)]
    wanted: bool,
    #[serde(default)]
    anchor: bool,
    /// Files of before do not say; all in them count as reached.
    #[serde(default)]
    visitor: bool,
    #[serde(default)]
    banned: bool,
    #[serde(borrow, default)]
    records: Items<'a, MAX_RECORDS>,
}

#[derive(Deserialize)]
struct AddrIn<'a> {
    #[serde(borrow)]
    addr: Cow<'a, str>,
    #[serde(default)]
    file_port: u16,
    #[serde(default)]
    scope: Option<Scope>,
}

#[derive(Deserialize)]
struct RecordIn<'a> {
    scope: Scope,
    seq: u64,
    #[serde(borrow)]
    bytes: Cow<'a, str>,
}

/// A JSON array, cut into elements that are not parsed yet, at most `MAX` of them.
#[derive(Default)]
struct Items<'a, const MAX: usize> {
    raw: Vec<&'a RawValue>,
    beyond: usize,
}

impl<'a, const MAX: usize> Items<'a, MAX> {
    fn parse<T>(&self, skipped: &mut usize, mut parse: impl FnMut(&'a RawValue) -> Option<T>) -> Vec<T> {
        let parsed: Vec<T> = self.raw.iter().filter_map(|raw| parse(raw)).collect();
        *skipped += self.beyond + self.raw.len() - parsed.len();
        parsed
    }
}

impl<'de: 'a, 'a, const MAX: usize> Deserialize<'de> for Items<'a, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Cut<'a, const MAX: usize>(PhantomData<&'a ()>);
        impl<'de: 'a, 'a, const MAX: usize> Visitor<'de> for Cut<'a, MAX> {
            type Value = Items<'a, MAX>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut items = Items { raw: Vec::new(), beyond: 0 };
                while items.raw.len() < MAX {
                    match seq.next_element()? {
                        Some(raw) => items.raw.push(raw),
                        None => return Ok(items),
                    }
                }
                while seq.next_element::<IgnoredAny>()?.is_some() {
                    items.beyond += 1;
                }
                Ok(items)
            }
        }
        deserializer.deserialize_seq(Cut(PhantomData))
    }
}

fn items<const MAX: usize>(raw: Option<&RawValue>) -> Result<Items<'_, MAX>, serde_json::Error> {
    raw.map_or_else(|| Ok(Items::default()), |raw| serde_json::from_str(raw.get()))
}

fn parse_peer<P: DeserializeOwned>(raw: &RawValue, skipped: &mut usize) -> Option<SavedPeer<P>> {
    let peer: PeerIn<'_> = serde_json::from_str(raw.get()).ok()?;
    let id = serde_json::from_str(peer.id.get()).ok()?;
    let last_connected = match &peer.last_connected {
        Some(text) => Some(humantime::parse_rfc3339(text).ok()?),
        None => None,
    };
    let addrs = peer.addrs.parse(skipped, parse_addr);
    let records = peer.records.parse(skipped, parse_record);
    let PeerIn { wanted, anchor, visitor, banned, .. } = peer;
    Some(SavedPeer { id, addrs, last_connected, wanted, anchor, visitor, banned, records })
}

fn parse_addr(raw: &RawValue) -> Option<SavedAddr> {
    let AddrIn { addr, file_port, scope } = serde_json::from_str(raw.get()).ok()?;
    let addr: SocketAddr = addr.parse().ok()?;
    let addr = PeerAddr { ip: addr.ip().to_canonical(), port: addr.port(), file_port };
    Some(SavedAddr { addr, scope })
}

fn parse_record(raw: &RawValue) -> Option<Record> {
    let RecordIn { scope, seq, bytes } = serde_json::from_str(raw.get()).ok()?;
    if bytes.len() > BASE64.encode_len(MAX_RECORD_BYTES) {
        return None;
    }
    let bytes = Bytes::from(BASE64.decode(bytes.as_bytes()).ok()?);
    (bytes.len() <= MAX_RECORD_BYTES).then_some(Record { scope, seq, bytes })
}

/// `"1.2.3.4"`, `"1.2.3.4:65432"`, `"::1"` or `"[::1]:65432"`.
fn parse_seed(raw: &RawValue) -> Option<SocketAddr> {
    let text: Cow<'_, str> = serde_json::from_str(raw.get()).ok()?;
    let with_port = || text.parse::<SocketAddr>().ok();
    let without = || text.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, DEFAULT_PORT));
    let addr = with_port().or_else(without)?;
    Some(SocketAddr::new(addr.ip().to_canonical(), addr.port()))
}

/// RFC 3339 in UTC, whole seconds; what it cannot say is moved to the nearest it can.
fn format_time(time: SystemTime) -> String {
    let since_epoch = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().min(LAST_SECOND);
    humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + since_epoch).to_string()
}
