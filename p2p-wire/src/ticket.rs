//! Tickets: everything needed to reach a node, and perhaps a file there, as one word to paste or scan.
//!
//! [`Ticket`] shows the layout.
//!
//! Later versions keep first and last part, so that a mistyped ticket and a newer one are told apart. The checksum
//! finds typing errors; it proves nothing. Nor is a ticket signed: the id in it is proved when the node is dialled.

use std::{fmt, str::FromStr};

use bytes::{BufMut, Bytes, BytesMut};
use data_encoding::BASE32_NOPAD;
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::{
    NodeId, PeerAddr, RecordError, domain,
    limits::{MAX_FILE_NAME, MAX_RECORD_ADDRS, MAX_TICKET},
    reader::Reader,
    record::{read_addrs, write_addrs},
};

const PREFIX: &str = "p2p:";
const VERSION: u8 = 1;
const CHECKSUM: usize = 4;

/// What the hash in a ticket names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TicketKind {
    /// One file.
    File,
    /// A directory: the hash is its manifest's.
    Dir,
}

/// The file a ticket leads to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TicketFile {
    /// File or directory.
    pub kind: TicketKind,
    /// Its 32-byte hash.
    pub hash: [u8; 32],
    /// Its length in bytes, for people to see before they fetch; the hash binds the real one.
    pub length: u64,
    /// What it is called at the sharer's, at most 255 bytes, may be empty. A hint from a stranger: to be sanitised
    /// before it is shown or used as a name.
    pub name: String,
}

/// A node to dial, and perhaps a file to fetch.
///
/// `Display` writes what fits the format: the first 8 usable addresses (port not 0, IPv4-mapped ones as IPv4, none
/// twice) and the name cut to 255 bytes at a character. What was parsed is written again as it was.
///
/// # Layout
///
/// `p2p:` and RFC 4648 base32, lower case, no padding, of these bytes, numbers big-endian. Reading ignores case, so a
/// ticket in upper case fits the alphanumeric mode of a QR code.
///
/// ```text
/// offset  bytes
///      0      1  version, 1
///      1     32  id: Ed25519 public key
///     33      1  what: 0 a node, 1 a file, 2 a directory
///     34      1  count of addresses, 0 to 8
///     35         addresses as in an address record
///                only if what is not 0:
///         0     32  hash
///        32      8  length in bytes
///        40      1  name length in bytes
///        41      n  name, UTF-8
///    end          4  first bytes of SHA-256("p2p/ticket/1" || all bytes before)
/// ```
///
/// # Example
///
/// ```
/// use p2p_wire::{SecretKey, Ticket};
///
/// let ticket = Ticket { id: SecretKey::from_bytes(&[1; 32]).id(), addrs: Vec::new(), file: None };
/// let text = ticket.to_string();
/// assert!(text.starts_with("p2p:ag"));
/// assert_eq!(text.parse::<Ticket>()?, ticket);
/// assert_eq!(text.to_uppercase().parse::<Ticket>()?, ticket);
/// # Ok::<(), p2p_wire::ParseTicketError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Ticket {
    /// The node.
    pub id: NodeId,
    /// Where it may be reached, at most 8, in order of preference.
    pub addrs: Vec<PeerAddr>,
    /// What to fetch from it, if anything.
    pub file: Option<TicketFile>,
}

impl Ticket {
    fn to_bytes(&self) -> BytesMut {
        let mut out = BytesMut::with_capacity(MAX_TICKET);
        out.put_u8(VERSION);
        out.put_slice(self.id.as_bytes());
        out.put_u8(match self.file.as_ref().map(|file| file.kind) {
            None => 0,
            Some(TicketKind::File) => 1,
            Some(TicketKind::Dir) => 2,
        });
        write_addrs(&mut out, &self.usable_addrs()).expect("usable_addrs keeps the rules");
        if let Some(file) = &self.file {
            let name = &file.name[..file.name.floor_char_boundary(MAX_FILE_NAME)];
            out.put_slice(&file.hash);
            out.put_u64(file.length);
            out.put_u8(u8::try_from(name.len()).expect("cut to 255 bytes"));
            out.put_slice(name.as_bytes());
        }
        let checksum = checksum(&out);
        out.put_slice(&checksum);
        out
    }

    fn usable_addrs(&self) -> Vec<PeerAddr> {
        let mut usable = Vec::with_capacity(MAX_RECORD_ADDRS);
        for addr in self.addrs.iter().filter(|addr| addr.port != 0) {
            let addr = PeerAddr { ip: addr.ip.to_canonical(), ..*addr };
            if usable.len() < MAX_RECORD_ADDRS && !usable.contains(&addr) {
                usable.push(addr);
            }
        }
        usable
    }

    fn from_bytes(bytes: &Bytes) -> Result<Self, ParseTicketError> {
        const END: ParseTicketError = ParseTicketError::Layout;
        let (content, sum) = bytes.split_last_chunk::<CHECKSUM>().ok_or(ParseTicketError::Mistyped)?;
        if *sum != checksum(content) {
            return Err(ParseTicketError::Mistyped);
        }
        let content = bytes.slice(..content.len());
        let mut reader = Reader::new(&content);
        match reader.u8().ok_or(END)? {
            VERSION => {}
            version => return Err(ParseTicketError::Version { version }),
        }
        let id = NodeId::from_bytes(reader.array().ok_or(END)?);
        let kind = match reader.u8().ok_or(END)? {
            0 => None,
            1 => Some(TicketKind::File),
            2 => Some(TicketKind::Dir),
            _ => return Err(END),
        };
        let addrs = read_addrs(&mut reader).map_err(ParseTicketError::Addrs)?;
        let file = kind.map(|kind| read_file(&mut reader, kind).ok_or(END)).transpose()?;
        if reader.remaining() != 0 {
            return Err(END);
        }
        Ok(Self { id, addrs, file })
    }
}

fn read_file(reader: &mut Reader<'_>, kind: TicketKind) -> Option<TicketFile> {
    let hash = reader.array()?;
    let length = reader.u64()?;
    let name_len = reader.u8()?;
    let name = std::str::from_utf8(reader.slice(name_len.into())?).ok()?.to_owned();
    Some(TicketFile { kind, hash, length, name })
}

fn checksum(content: &[u8]) -> [u8; CHECKSUM] {
    let digest: [u8; 32] = Sha256::new().chain_update(domain::TICKET).chain_update(content).finalize().into();
    *digest.first_chunk().expect("a digest has 32 bytes")
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = BASE32_NOPAD.encode(&self.to_bytes());
        text.make_ascii_lowercase();
        write!(f, "{PREFIX}{text}")
    }
}

impl FromStr for Ticket {
    type Err = ParseTicketError;

    /// Reads a ticket; case and white space around it do not matter.
    fn from_str(text: &str) -> Result<Self, ParseTicketError> {
        let text = text.trim();
        let (prefix, body) = text.split_at_checked(PREFIX.len()).ok_or(ParseTicketError::NotATicket)?;
        if !prefix.eq_ignore_ascii_case(PREFIX) {
            return Err(ParseTicketError::NotATicket);
        }
        if body.len() > MAX_TICKET.div_ceil(5) * 8 {
            return Err(ParseTicketError::TooLong { len: text.len() });
        }
        let bytes = BASE32_NOPAD.decode(body.to_ascii_uppercase().as_bytes());
        Self::from_bytes(&bytes.map_err(|_| ParseTicketError::Mistyped)?.into())
    }
}

/// Why a text is not a ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ParseTicketError {
    /// Something else altogether.
    #[error("not a ticket: tickets begin with p2p:")]
    NotATicket,
    /// The checksum or the alphabet says that characters were lost or changed.
    #[error("ticket is mistyped or incomplete")]
    Mistyped,
    /// Complete, and made by a newer program.
    #[error("ticket has version {version}, this program knows version {VERSION} only")]
    Version {
        /// The version byte.
        version: u8,
    },
    /// Longer than any ticket.
    #[error("ticket is {len} characters, too many for any ticket")]
    TooLong {
        /// Bytes of the text.
        len: usize,
    },
    /// The checksum is right and the addresses are not: made by a faulty program.
    #[error("ticket has unusable addresses")]
    Addrs(#[source] RecordError),
    /// The checksum is right and the rest is not: made by a faulty program.
    #[error("ticket's content is not valid")]
    Layout,
}
