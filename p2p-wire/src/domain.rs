//! Domain tags: the bytes in front of everything that is signed, sealed or hashed, so that bytes made for one
//! purpose are never valid for another.
//!
//! No tag is a prefix of another one, and none can begin a TLS 1.3 CertificateVerify content (RFC 8446 section
//! 4.4.3, which starts with 64 spaces), which the same key signs too.

/// Signed envelopes, see [`Envelope`](crate::Envelope).
pub const ENVELOPE: &[u8] = b"p2p/envelope/2";

/// Signed address records, see [`PeerRecord`](crate::PeerRecord).
pub const ADDR: &[u8] = b"p2p/addr/1";

/// The HPKE `info` of private bodies, see [`seal`](crate::seal).
pub const SEALED: &[u8] = b"p2p/sealed/1";

/// Signed queries for a file.
pub const QUERY: &[u8] = b"p2p/query/1";

/// Signed receipts for a private message, see [`Receipt`](crate::Receipt).
pub const RECEIPT: &[u8] = b"p2p/receipt/1";

/// The checksum of tickets, see [`Ticket`](crate::Ticket).
pub const TICKET: &[u8] = b"p2p/ticket/1";
