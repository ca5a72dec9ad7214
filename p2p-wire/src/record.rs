//! Signed address records: where a node says it can be reached.
//!
//! Others pass the bytes on as they are. [`PeerRecord`] shows the layout.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use bytes::{BufMut, Bytes, BytesMut};
use thiserror::Error;

use crate::{
    BadSignature, NodeId, SecretKey, domain,
    limits::{MAX_RECORD, MAX_RECORD_ADDRS},
    reader::Reader,
};

const VERSION: u8 = 1;
const SIGNATURE: usize = 64;

/// Where the addresses of a record mean something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Anywhere; the record may be told to everyone.
    Public,
    /// In the owner's own network (private and loopback addresses): told only over links that are private or
    /// loopback themselves.
    Local,
}

/// One address of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerAddr {
    /// The host. IPv4-mapped IPv6 addresses are refused on the wire: use [`IpAddr::to_canonical`].
    pub ip: IpAddr,
    /// The node port, not 0.
    pub port: u16,
    /// The file port, 0 for none.
    pub file_port: u16,
}

impl PeerAddr {
    /// Where to dial the node.
    #[must_use]
    pub fn node(&self) -> SocketAddr {
        SocketAddr::new(self.ip, self.port)
    }

    /// Where to dial its file port, if it has one.
    #[must_use]
    pub fn files(&self) -> Option<SocketAddr> {
        (self.file_port != 0).then(|| SocketAddr::new(self.ip, self.file_port))
    }
}

/// A signed address record whose structure is sound; [`PeerRecord::verify`] tells whether its owner made it.
///
/// Of two records with one id and scope, the one with the higher [`seq`](PeerRecord::seq) counts.
///
/// A record without addresses says that there are none (any more).
///
/// # Layout
///
/// All numbers are big-endian. There is exactly one encoding of each content.
///
/// ```text
/// offset  bytes
///      0      1  version, 1
///      1     32  id: Ed25519 public key
///     33      1  scope: 0 public, 1 local
///     34      8  seq: rises with every new record of this id
///     42      1  count: 0 to 8
///     43         addresses in the owner's order of preference, no two equal:
///         0      1  4 or 6
///         1  4 | 16  IP address; never an IPv4-mapped one (::ffff:0:0/96)
///                2  node port, not 0
///                2  file port, 0 for none
///    end         64  signature over "p2p/addr/1" and all bytes before it
/// ```
///
/// # Example
///
/// ```
/// use p2p_wire::{PeerAddr, PeerRecord, Scope, SecretKey};
///
/// let key = SecretKey::from_bytes(&[1; 32]);
/// let addr = PeerAddr { ip: "192.0.2.1".parse()?, port: 65432, file_port: 65433 };
/// let record = PeerRecord::sign(&key, Scope::Public, 1, &[addr])?;
///
/// let received = PeerRecord::decode(record.bytes().clone())?;
/// received.verify()?;
/// assert_eq!((received.id(), received.addrs()), (key.id(), &[addr][..]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct PeerRecord {
    id: NodeId,
    scope: Scope,
    seq: u64,
    addrs: Vec<PeerAddr>,
    bytes: Bytes,
}

impl PeerRecord {
    /// Makes and signs a record. `seq` must be higher than in any earlier record of this key.
    ///
    /// # Errors
    ///
    /// [`RecordError`] if a limit or rule of the format is broken.
    pub fn sign(key: &SecretKey, scope: Scope, seq: u64, addrs: &[PeerAddr]) -> Result<Self, RecordError> {
        let mut out = BytesMut::with_capacity(MAX_RECORD);
        out.put_u8(VERSION);
        out.put_slice(key.id().as_bytes());
        out.put_u8(match scope {
            Scope::Public => 0,
            Scope::Local => 1,
        });
        out.put_u64(seq);
        write_addrs(&mut out, addrs)?;
        let signature = key.sign(domain::ADDR, &[&out]);
        out.put_slice(&signature);
        Ok(Self { id: key.id(), scope, seq, addrs: addrs.to_vec(), bytes: out.freeze() })
    }

    /// Reads a record that is exactly `bytes`. The signature is not checked.
    ///
    /// # Errors
    ///
    /// [`RecordError`] says what is wrong; whoever sent it is at fault.
    pub fn decode(bytes: Bytes) -> Result<Self, RecordError> {
        const END: RecordError = RecordError::Truncated;
        if bytes.len() > MAX_RECORD {
            return Err(RecordError::TooLong { len: bytes.len() });
        }
        let mut reader = Reader::new(&bytes);
        match reader.u8().ok_or(END)? {
            VERSION => {}
            version => return Err(RecordError::Version { version }),
        }
        let id = NodeId::from_bytes(reader.array().ok_or(END)?);
        let scope = match reader.u8().ok_or(END)? {
            0 => Scope::Public,
            1 => Scope::Local,
            scope => return Err(RecordError::Scope { scope }),
        };
        let seq = reader.u64().ok_or(END)?;
        let addrs = read_addrs(&mut reader)?;
        match reader.remaining() {
            SIGNATURE => Ok(Self { id, scope, seq, addrs, bytes }),
            less if less < SIGNATURE => Err(END),
            more => Err(RecordError::TrailingBytes { count: more - SIGNATURE }),
        }
    }

    /// Checks the owner's signature, which covers every byte before it.
    ///
    /// # Errors
    ///
    /// [`BadSignature`] if the owner did not make exactly these bytes.
    pub fn verify(&self) -> Result<(), BadSignature> {
        let (signed, signature) = self.bytes.split_last_chunk::<SIGNATURE>().ok_or(BadSignature)?;
        self.id.verify(domain::ADDR, &[signed], signature)
    }

    /// Whose addresses these are.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// Where they mean something.
    #[must_use]
    pub fn scope(&self) -> Scope {
        self.scope
    }

    /// The record's number; the highest of an id and scope counts.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// The addresses, at most 8, in the owner's order of preference.
    #[must_use]
    pub fn addrs(&self) -> &[PeerAddr] {
        &self.addrs
    }

    /// The whole record as its owner made it, signature included: what is passed on.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

impl fmt::Debug for PeerRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerRecord")
            .field("id", &self.id)
            .field("scope", &self.scope)
            .field("seq", &self.seq)
            .field("addrs", &self.addrs)
            .finish_non_exhaustive()
    }
}

/// Appends count and addresses; tickets use the same form.
pub(crate) fn write_addrs(out: &mut BytesMut, addrs: &[PeerAddr]) -> Result<(), RecordError> {
    check_addrs(addrs)?;
    out.put_u8(u8::try_from(addrs.len()).expect("check_addrs bounds the count"));
    for addr in addrs {
        match addr.ip {
            IpAddr::V4(ip) => {
                out.put_u8(4);
                out.put_slice(&ip.octets());
            }
            IpAddr::V6(ip) => {
                out.put_u8(6);
                out.put_slice(&ip.octets());
            }
        }
        out.put_u16(addr.port);
        out.put_u16(addr.file_port);
    }
    Ok(())
}

pub(crate) fn read_addrs(reader: &mut Reader<'_>) -> Result<Vec<PeerAddr>, RecordError> {
    const END: RecordError = RecordError::Truncated;
    let count = usize::from(reader.u8().ok_or(END)?);
    if count > MAX_RECORD_ADDRS {
        return Err(RecordError::TooManyAddrs { count });
    }
    let mut addrs = Vec::with_capacity(count);
    for _ in 0..count {
        let ip = match reader.u8().ok_or(END)? {
            4 => IpAddr::from(reader.array::<4>().ok_or(END)?),
            6 => IpAddr::from(reader.array::<16>().ok_or(END)?),
            family => return Err(RecordError::Family { family }),
        };
        let port = reader.u16().ok_or(END)?;
        let file_port = reader.u16().ok_or(END)?;
        addrs.push(PeerAddr { ip, port, file_port });
    }
    check_addrs(&addrs)?;
    Ok(addrs)
}

fn check_addrs(addrs: &[PeerAddr]) -> Result<(), RecordError> {
    if addrs.len() > MAX_RECORD_ADDRS {
        return Err(RecordError::TooManyAddrs { count: addrs.len() });
    }
    for (index, addr) in addrs.iter().enumerate() {
        if addr.port == 0 {
            return Err(RecordError::PortZero { ip: addr.ip });
        }
        if addr.ip.to_canonical() != addr.ip {
            return Err(RecordError::Mapped { ip: addr.ip });
        }
        if addrs[..index].contains(addr) {
            return Err(RecordError::Repeated { ip: addr.ip });
        }
    }
    Ok(())
}

/// Why an address record cannot be made or is not one. When decoding, whoever sent the bytes is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RecordError {
    /// More addresses than a record or ticket may have.
    #[error("{count} addresses, the limit is {MAX_RECORD_ADDRS}")]
    TooManyAddrs {
        /// How many.
        count: usize,
    },
    /// Nobody can be dialled at port 0.
    #[error("address {ip} has port 0")]
    PortZero {
        /// The address.
        ip: IpAddr,
    },
    /// An IPv4 address in IPv6 clothes: it has a shorter form.
    #[error("address {ip} is an IPv4-mapped one")]
    Mapped {
        /// The address.
        ip: IpAddr,
    },
    /// The same address and ports twice.
    #[error("address {ip} is there twice")]
    Repeated {
        /// The address.
        ip: IpAddr,
    },
    /// Neither IPv4 nor IPv6.
    #[error("address family {family} is not known")]
    Family {
        /// The family byte.
        family: u8,
    },
    /// Neither public nor local.
    #[error("scope {scope} is not known")]
    Scope {
        /// The scope byte.
        scope: u8,
    },
    /// A layout of a newer version.
    #[error("record version {version} is not known")]
    Version {
        /// The version byte.
        version: u8,
    },
    /// Longer than any record.
    #[error("record is {len} bytes, the limit is {MAX_RECORD}")]
    TooLong {
        /// Bytes of the record.
        len: usize,
    },
    /// The bytes end too early.
    #[error("record is cut off")]
    Truncated,
    /// Bytes follow the last address besides the signature.
    #[error("{count} bytes too many")]
    TrailingBytes {
        /// How many.
        count: usize,
    },
}
