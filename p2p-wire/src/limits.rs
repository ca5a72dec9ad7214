//! Every size limit of the formats in this crate, each with its reason.
//!
//! A peer notices these, so changing one is a change of the protocol. All are checked before anything is
//! allocated for the thing they bound, by the sender as well as by the receiver.

use crate::sealed::SEAL_OVERHEAD;

/// Largest payload of one message as its author wrote it, in bytes: 1 MiB.
///
/// Every node of the network holds and passes on every message; what is larger belongs into a file, which only
/// those fetch who want it.
pub const MAX_PAYLOAD: usize = 1 << 20;

/// Largest plain text of a private body, in bytes: a full [`MAX_PAYLOAD`] behind the byte that says what it is.
///
/// So a private message may be as long as a public one.
pub const MAX_PRIVATE_BODY: usize = 1 + MAX_PAYLOAD;

/// Largest payload of an entry with a recipient, in bytes: a full [`MAX_PRIVATE_BODY`] once it is sealed.
pub const MAX_SEALED_PAYLOAD: usize = MAX_PRIVATE_BODY + SEAL_OVERHEAD;

/// Largest length field (kind and body) of a frame that carries a payload, in bytes: 1 MiB + 64 KiB.
///
/// The 64 KiB leave room for everything around the payload: envelope header, topic, signature, message fields.
pub const MAX_FRAME_PAYLOAD: usize = MAX_PAYLOAD + (64 << 10);

/// Largest length field (kind and body) of every other frame, in bytes: 64 KiB.
///
/// Large enough for 64 signed address records or 1,000 message ids, small enough that decoding one frame never
/// takes a noticeable time.
pub const MAX_FRAME_CONTROL: usize = 64 << 10;

/// Deepest nesting of maps and arrays in a MessagePack body. Ours nest three deep; the rest is room to grow.
pub const MAX_DEPTH: usize = 16;

/// Most entries of one MessagePack map. Maps are messages with named fields here, never tables.
pub const MAX_MAP_ENTRIES: usize = 64;

/// Longest key of a MessagePack map, in bytes. Field names on the wire have one to a few letters.
pub const MAX_KEY: usize = 32;

/// Most entries in one envelope.
///
/// One signature check costs about 50 µs; a bundle of 64 brings that below 1 µs a message, more gains little.
/// It also lets a set of entries be one `u64` bit mask.
pub const MAX_BUNDLE_ENTRIES: usize = 64;

/// Largest envelope of several entries, in bytes, signature included: 64 KiB.
///
/// Bundles are relayed whole, so a large one would hold up what is behind it. A single entry may be larger.
pub const MAX_BUNDLE_BYTES: usize = 64 << 10;

/// Longest topic of an entry, in bytes of UTF-8: what its length byte can say.
pub const MAX_TOPIC: usize = 255;

/// Largest envelope in bytes, signature included: one private entry with everything at its limit.
pub const MAX_ENVELOPE: usize = 50 + 8 + 1 + 32 + 1 + MAX_TOPIC + 4 + MAX_SEALED_PAYLOAD + 64;

/// Longest name a person gives a node, in bytes of UTF-8. It has to fit into a column of a list.
pub const MAX_NAME: usize = 32;

/// Longest agent string (program and version), in bytes of UTF-8.
pub const MAX_AGENT: usize = 64;

/// Most addresses in one address record or ticket: a few interfaces in IPv4 and IPv6.
pub const MAX_RECORD_ADDRS: usize = 8;

/// Largest address record in bytes, signature included: eight IPv6 addresses.
pub const MAX_RECORD: usize = 43 + MAX_RECORD_ADDRS * 21 + 64;

/// Most address records in a [`Hello`](crate::Hello): one public, one local.
pub const MAX_HELLO_RECORDS: usize = 2;

/// Longest file name in a ticket, in bytes of UTF-8: the longest that common file systems take.
pub const MAX_FILE_NAME: usize = 255;

/// Largest ticket in bytes before base32: all addresses IPv6, a file with the longest name.
pub const MAX_TICKET: usize = 35 + MAX_RECORD_ADDRS * 21 + 32 + 8 + 1 + MAX_FILE_NAME + 4;

/// Most bytes a read buffer grows by at a time while a frame arrives, 64 KiB.
///
/// A length field alone therefore never costs the receiver more than this; further memory has to be paid for
/// with bytes that really arrived.
pub const READ_STEP: usize = 64 << 10;
