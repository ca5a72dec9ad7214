//! The first frame in both directions. [`Hello`] shows the layout.
//!
//! Agent and name are shown to people, so control characters (also U+2028, U+2029, U+FEFF), the bidirectional
//! controls (U+061C, U+200E, U+200F, U+202A to U+202E, U+2066 to U+2069) and white space at the ends are refused,
//! on both sides: what arrives is what was meant. Records are only measured here; [`PeerRecord`](crate::PeerRecord)
//! reads them.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    limits::{MAX_AGENT, MAX_HELLO_RECORDS, MAX_NAME, MAX_RECORD},
    msgpack::{self, DecodeError, EncodeError},
};

/// The version of the node protocol that this crate speaks.
pub const PROTOCOL_VERSION: u16 = 1;

/// The ALPN protocol id (RFC 7301) of node links.
pub const ALPN: &[u8] = b"p2p/1";

/// The ALPN protocol id (RFC 7301) of file transfer links.
pub const FILES_ALPN: &[u8] = b"p2p-files/1";

/// What each side says first.
///
/// With serde it is this map, checked by the same rules when it is read.
///
/// # Layout
///
/// A MessagePack map; a key marked ? may be missing, unknown keys are ignored.
///
/// ```text
/// "v"    integer      protocol version, 1
/// "a"    string       agent: program and version, 1 to 64 bytes
/// "n" ?  string       the name a person gave the node, 1 to 32 bytes
/// "o" ?  binary       the address the sender sees the receiver at: IP (4 or 16 bytes) and port (2, big-endian)
/// "r" ?  array        at most 2 binaries: the sender's own address records
/// ```
///
/// # Example
///
/// ```
/// use p2p_wire::{Hello, PROTOCOL_VERSION};
///
/// let hello = Hello {
///     version: PROTOCOL_VERSION,
///     agent: "p2p/0.1.0".into(),
///     name: Some("kitchen".into()),
///     observed: Some("192.0.2.1:40000".parse()?),
///     records: Vec::new(),
/// };
/// assert_eq!(Hello::decode(&hello.encode()?)?, hello);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Fields", into = "Fields")]
pub struct Hello {
    /// The protocol version spoken, [`PROTOCOL_VERSION`].
    pub version: u16,
    /// Program and version, see [`check_agent`].
    pub agent: String,
    /// The name a person gave the node, see [`check_name`]. Not unique, not proved.
    pub name: Option<String>,
    /// The address at which the sender sees the receiver. A hint: the sender may lie. IPv4-mapped addresses arrive
    /// as IPv4, an IPv6 scope id does not travel.
    pub observed: Option<SocketAddr>,
    /// The sender's own address records, at most 2.
    pub records: Vec<Bytes>,
}

impl Hello {
    /// The body of a hello frame.
    ///
    /// # Errors
    ///
    /// [`HelloError`] if a field breaks a rule that the receiver would refuse it for.
    pub fn encode(&self) -> Result<Vec<u8>, HelloError> {
        self.check()?;
        Ok(msgpack::to_vec(self)?)
    }

    /// Reads the body of a hello frame.
    ///
    /// # Errors
    ///
    /// [`HelloError`] says what is wrong; the sender is at fault.
    pub fn decode(body: &[u8]) -> Result<Self, HelloError> {
        msgpack::from_slice::<Fields>(body)?.try_into()
    }

    fn check(&self) -> Result<(), HelloError> {
        check_agent(&self.agent).map_err(HelloError::Agent)?;
        if let Some(name) = &self.name {
            check_name(name).map_err(HelloError::Name)?;
        }
        if self.records.len() > MAX_HELLO_RECORDS {
            return Err(HelloError::TooManyRecords { count: self.records.len() });
        }
        match self.records.iter().map(Bytes::len).max() {
            Some(len) if len > MAX_RECORD => Err(HelloError::RecordTooLong { len }),
            _ => Ok(()),
        }
    }
}

/// The map on the wire.
#[derive(Serialize, Deserialize)]
struct Fields {
    v: u16,
    a: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    n: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    o: Option<Bytes>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    r: Vec<Bytes>,
}

impl From<Hello> for Fields {
    fn from(hello: Hello) -> Self {
        Self {
            v: hello.version,
            a: hello.agent,
            n: hello.name,
            o: hello.observed.map(write_addr),
            r: hello.records,
        }
    }
}

impl TryFrom<Fields> for Hello {
    type Error = HelloError;

    fn try_from(fields: Fields) -> Result<Self, HelloError> {
        let observed = fields.o.as_deref().map(read_addr).transpose()?;
        let hello = Self { version: fields.v, agent: fields.a, name: fields.n, observed, records: fields.r };
        hello.check()?;
        Ok(hello)
    }
}

fn write_addr(addr: SocketAddr) -> Bytes {
    let mut out = match addr.ip().to_canonical() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    out.extend_from_slice(&addr.port().to_be_bytes());
    out.into()
}

fn read_addr(bytes: &[u8]) -> Result<SocketAddr, HelloError> {
    let wrong = HelloError::Observed { len: bytes.len() };
    let (ip, port) = bytes.split_last_chunk::<2>().ok_or(wrong)?;
    let ip = match ip.len() {
        4 => <[u8; 4]>::try_from(ip).map(IpAddr::from),
        _ => <[u8; 16]>::try_from(ip).map(IpAddr::from),
    };
    let ip = ip.map_err(|_| HelloError::Observed { len: bytes.len() })?;
    Ok(SocketAddr::new(ip.to_canonical(), u16::from_be_bytes(*port)))
}

/// Whether a node may be called this: 1 to 32 bytes that are safe to show in a list.
///
/// # Errors
///
/// [`LabelError`] says what is wrong with it.
pub fn check_name(name: &str) -> Result<(), LabelError> {
    check_label(name, MAX_NAME)
}

/// Whether a program may call itself this: 1 to 64 bytes that are safe to show in a list.
///
/// # Errors
///
/// [`LabelError`] says what is wrong with it.
pub fn check_agent(agent: &str) -> Result<(), LabelError> {
    check_label(agent, MAX_AGENT)
}

fn check_label(label: &str, limit: usize) -> Result<(), LabelError> {
    if label.is_empty() || label.len() > limit {
        return Err(LabelError::Length { len: label.len(), limit });
    }
    if let Some(character) = label.chars().find(|character| is_unsafe_to_show(*character)) {
        return Err(LabelError::Character { code: character.into() });
    }
    if label.trim() != label {
        return Err(LabelError::Spaces);
    }
    Ok(())
}

fn is_unsafe_to_show(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}'
        )
}

/// Why a name or agent is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LabelError {
    /// Empty or too long.
    #[error("{len} bytes long, it must be 1 to {limit}")]
    Length {
        /// Bytes of it.
        len: usize,
        /// The largest allowed.
        limit: usize,
    },
    /// A control character, or one that changes the direction of writing.
    #[error("character U+{code:04X} is not allowed")]
    Character {
        /// Its Unicode scalar value.
        code: u32,
    },
    /// White space at the beginning or end.
    #[error("white space at the beginning or end")]
    Spaces,
}

/// Why a hello cannot be made or is not one. When decoding, the sender is at fault.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HelloError {
    /// The agent is not allowed.
    #[error("agent is not allowed")]
    Agent(#[source] LabelError),
    /// The name is not allowed.
    #[error("name is not allowed")]
    Name(#[source] LabelError),
    /// The observed address is neither IPv4 nor IPv6 with a port.
    #[error("observed address is {len} bytes, it must be 6 or 18")]
    Observed {
        /// Bytes of it.
        len: usize,
    },
    /// More records than a node has.
    #[error("{count} address records, the limit is {MAX_HELLO_RECORDS}")]
    TooManyRecords {
        /// How many.
        count: usize,
    },
    /// A record that is longer than any.
    #[error("address record is {len} bytes, the limit is {MAX_RECORD}")]
    RecordTooLong {
        /// Bytes of the longest.
        len: usize,
    },
    /// The body is not the map that it should be.
    #[error("hello is not valid")]
    Decode(#[from] DecodeError),
    /// The body cannot be written.
    #[error("hello cannot be written")]
    Encode(#[from] EncodeError),
}
