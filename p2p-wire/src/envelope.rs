//! Signed envelopes: what an author says, as it travels and as it is kept.
//!
//! An envelope is a bundle of 1 to 64 entries with consecutive seqs under one Ed25519 signature. It is relayed,
//! kept and checked whole, as the very bytes its author made. [`Envelope`] shows the layout.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use sha2::{Digest, Sha256};

use crate::{
    BadSignature, NodeId, PublicKey, SecretKey, domain,
    limits::{MAX_BUNDLE_BYTES, MAX_ENVELOPE, MAX_PAYLOAD, MAX_SEALED_PAYLOAD, MAX_TOPIC},
    reader::Reader,
};

mod error;
mod id;

pub use error::EnvelopeError;
pub use id::EnvelopeId;

const VERSION: u8 = 2;
const SIGNATURE: usize = 64;
const HEADER: usize = 1 + EnvelopeId::LEN;
const HAS_RECIPIENT: u8 = 1;

/// An entry to be signed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct NewEntry<'a> {
    /// What it is about: the application's word, at most 255 bytes, may be empty.
    pub topic: &'a str,
    /// The author's clock, milliseconds since 1970-01-01 UTC. A label for people; nothing is decided by it.
    pub time_ms: u64,
    /// Whom it is for; the payload is then a body from [`seal`](crate::seal).
    pub recipient: Option<NodeId>,
    /// The bytes, at most 1 MiB; with a recipient a sealed
    /// [`PrivateBody`](crate::PrivateBody).
    pub payload: &'a [u8],
}

/// One entry of a received envelope.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its number; with the author it is the message's id.
    pub seq: u64,
    /// As in [`NewEntry`].
    pub topic: String,
    /// As in [`NewEntry`].
    pub time_ms: u64,
    /// As in [`NewEntry`].
    pub recipient: Option<NodeId>,
    /// The bytes, a part of the envelope's, not a copy.
    pub payload: Bytes,
}

/// An envelope whose structure is sound. Whether its signature is, only [`Envelope::verify`] tells: one that was
/// decoded and not verified may come from anyone.
///
/// # Layout
///
/// All numbers are big-endian. There is exactly one encoding of each content. With several entries, the whole is at
/// most 64 KiB.
///
/// ```text
/// offset  bytes
///      0      1  version, 2
///      1     32  author: Ed25519 public key
///     33      8  run: the first seq used since the author's process started
///     41      8  first: seq of the first entry; at least run
///     49      1  count: 1 to 64; first + count does not exceed 2^64 - 1
///     50         entries, one behind the other:
///         0      8  time: milliseconds since 1970-01-01 UTC by the author's clock, a label only
///         8      1  flags: bit 0 set if a recipient follows, all others 0
///         9  0 | 32  recipient: Ed25519 public key
///                1  topic length in bytes
///                t  topic, UTF-8
///                4  payload length in bytes: at most 1 MiB, with a recipient 1 MiB + 49
///                p  payload; with a recipient, a sealed body
///    end         64  signature over "p2p/envelope/2" and the SHA-256 of all bytes before it
/// ```
///
/// The hash is signed, not the bytes, because Ed25519 takes its message through SHA-512, for which few processors have
/// instructions, while most have them for SHA-256: many messages of 1 KiB among 10 nodes take a quarter less CPU time
/// (`docs/gossip.md`). What is lost is that a collision of the hash would be one of the signature.
///
/// # Example
///
/// ```
/// use p2p_wire::{Envelope, NewEntry, SecretKey};
///
/// let key = SecretKey::from_bytes(&[1; 32]);
/// let entry = NewEntry { topic: "chat", time_ms: 0, recipient: None, payload: b"hello" };
/// let sent = Envelope::sign(&key, 5, 7, &[entry])?;
///
/// let received = Envelope::decode(sent.bytes().clone())?;
/// received.verify()?;
/// assert_eq!((received.id().author, received.id().first), (key.id(), 7));
/// assert_eq!(received.entries().next().unwrap().payload, &b"hello"[..]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Envelope {
    id: EnvelopeId,
    bytes: Bytes,
}

impl Envelope {
    /// Makes and signs an envelope of entries with the seqs from `first` on.
    ///
    /// A seq must never be used twice with one key: two envelopes with one id are a fork.
    ///
    /// # Errors
    ///
    /// [`EnvelopeError`] if a limit or rule of the format is broken.
    pub fn sign(
        key: &SecretKey,
        run: u64,
        first: u64,
        entries: &[NewEntry<'_>],
    ) -> Result<Self, EnvelopeError> {
        let count = u8::try_from(entries.len()).unwrap_or(u8::MAX);
        let id = EnvelopeId { author: key.id(), run, first, count };
        id.check()?;
        let len = HEADER + entries.iter().map(NewEntry::wire_len).sum::<usize>() + SIGNATURE;
        for entry in entries {
            entry.check()?;
        }
        check_len(len, count)?;
        let mut out = BytesMut::with_capacity(len);
        out.put_u8(VERSION);
        out.put_slice(&id.to_bytes());
        for entry in entries {
            entry.write(&mut out);
        }
        let signature = key.sign(domain::ENVELOPE, &[&Sha256::digest(&out)]);
        out.put_slice(&signature);
        debug_assert_eq!(out.len(), len, "wire_len and write agree");
        Ok(Self { id, bytes: out.freeze() })
    }

    /// Reads an envelope that is exactly `bytes`. The signature is not checked.
    ///
    /// # Errors
    ///
    /// [`EnvelopeError`] says what is wrong; whoever sent it is at fault.
    pub fn decode(bytes: Bytes) -> Result<Self, EnvelopeError> {
        if bytes.len() > MAX_ENVELOPE {
            return Err(EnvelopeError::TooLong { len: bytes.len(), limit: MAX_ENVELOPE });
        }
        let mut reader = Reader::new(&bytes);
        match reader.u8().ok_or(EnvelopeError::Truncated)? {
            VERSION => {}
            version => return Err(EnvelopeError::Version { version }),
        }
        let id = EnvelopeId::from_bytes(&reader.array().ok_or(EnvelopeError::Truncated)?)?;
        check_len(bytes.len(), id.count)?;
        for _ in id.seqs() {
            RawEntry::read(&mut reader)?;
        }
        match reader.remaining() {
            SIGNATURE => Ok(Self { id, bytes }),
            less if less < SIGNATURE => Err(EnvelopeError::Truncated),
            more => Err(EnvelopeError::TrailingBytes { count: more - SIGNATURE }),
        }
    }

    /// Author, run and seqs.
    #[must_use]
    pub fn id(&self) -> EnvelopeId {
        self.id
    }

    /// The whole envelope as its author made it, signature included.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The entries in the order of their seqs; payloads share the envelope's bytes.
    #[must_use]
    pub fn entries(&self) -> Entries<'_> {
        Entries { seqs: self.id.seqs(), reader: Reader::at(&self.bytes, HEADER) }
    }

    /// Checks the author's signature, which covers every byte before it, and returns the [`digest`](Self::digest),
    /// since the bytes had to be hashed for the check.
    ///
    /// Costs 20 to 60 µs, and for large payloads the hashing of them.
    ///
    /// # Errors
    ///
    /// [`BadSignature`] if the author did not make exactly these bytes.
    pub fn verify(&self) -> Result<[u8; 32], BadSignature> {
        self.verify_with(&self.id.author.public_key().ok_or(BadSignature)?)
    }

    /// [`Envelope::verify`] with the author's key made ready before.
    ///
    /// # Errors
    ///
    /// [`BadSignature`] as there, and if the key is another author's.
    pub fn verify_with(&self, author: &PublicKey) -> Result<[u8; 32], BadSignature> {
        let (signed, signature) = self.bytes.split_last_chunk::<SIGNATURE>().ok_or(BadSignature)?;
        if author.id() != self.id.author {
            return Err(BadSignature);
        }
        let mut hash = Sha256::new_with_prefix(signed);
        author.verify(domain::ENVELOPE, &[&hash.clone().finalize()], signature)?;
        hash.update(signature);
        Ok(hash.finalize().into())
    }

    /// SHA-256 of all bytes, to tell two envelopes with one id apart: of a fork, every log keeps the lower digest.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(&self.bytes).into()
    }
}

/// The entries of an [`Envelope`], from [`Envelope::entries`].
#[derive(Clone)]
pub struct Entries<'a> {
    seqs: std::ops::Range<u64>,
    reader: Reader<'a>,
}

impl Iterator for Entries<'_> {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        let seq = self.seqs.next()?;
        Some(read_entry(&mut self.reader, seq).expect("checked when the envelope was made"))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.seqs.size_hint()
    }
}

/// An entry as it lies in the envelope.
struct RawEntry<'a> {
    time_ms: u64,
    recipient: Option<NodeId>,
    topic: &'a str,
    payload_len: usize,
}

impl<'a> RawEntry<'a> {
    /// Reads up to the payload and checks that this is there; the reader then stands behind it.
    fn read(reader: &mut Reader<'a>) -> Result<Self, EnvelopeError> {
        let entry = Self::read_head(reader)?;
        reader.slice(entry.payload_len).ok_or(EnvelopeError::Truncated)?;
        Ok(entry)
    }

    fn read_head(reader: &mut Reader<'a>) -> Result<Self, EnvelopeError> {
        const END: EnvelopeError = EnvelopeError::Truncated;
        let time_ms = reader.u64().ok_or(END)?;
        let recipient = match reader.u8().ok_or(END)? {
            0 => None,
            HAS_RECIPIENT => Some(NodeId::from_bytes(reader.array().ok_or(END)?)),
            flags => return Err(EnvelopeError::Flags { flags }),
        };
        let topic_len = reader.u8().ok_or(END)?;
        let topic = reader.slice(topic_len.into()).ok_or(END)?;
        let topic = std::str::from_utf8(topic).map_err(|_| EnvelopeError::TopicNotUtf8)?;
        let payload_len = usize::try_from(reader.u32().ok_or(END)?).unwrap_or(usize::MAX);
        check_payload(payload_len, recipient.is_some())?;
        Ok(Self { time_ms, recipient, topic, payload_len })
    }
}

fn read_entry(reader: &mut Reader<'_>, seq: u64) -> Result<Entry, EnvelopeError> {
    let RawEntry { time_ms, recipient, topic, payload_len } = RawEntry::read_head(reader)?;
    let payload = reader.shared(payload_len).ok_or(EnvelopeError::Truncated)?;
    Ok(Entry { seq, topic: topic.to_owned(), time_ms, recipient, payload })
}

fn check_payload(len: usize, sealed: bool) -> Result<(), EnvelopeError> {
    let limit = if sealed { MAX_SEALED_PAYLOAD } else { MAX_PAYLOAD };
    if len > limit { Err(EnvelopeError::PayloadTooLong { len, limit }) } else { Ok(()) }
}

fn check_len(len: usize, count: u8) -> Result<(), EnvelopeError> {
    let limit = if count > 1 { MAX_BUNDLE_BYTES } else { MAX_ENVELOPE };
    if len > limit { Err(EnvelopeError::TooLong { len, limit }) } else { Ok(()) }
}

impl NewEntry<'_> {
    /// Bytes this entry adds to an envelope. Whoever bundles adds these up to stay within
    /// [`MAX_BUNDLE_BYTES`], with [`Envelope::OVERHEAD`] for the rest.
    #[must_use]
    pub fn wire_len(&self) -> usize {
        8 + 1 + self.recipient.map_or(0, |_| 32) + 1 + self.topic.len() + 4 + self.payload.len()
    }

    fn check(&self) -> Result<(), EnvelopeError> {
        if self.topic.len() > MAX_TOPIC {
            return Err(EnvelopeError::TopicTooLong { len: self.topic.len() });
        }
        check_payload(self.payload.len(), self.recipient.is_some())
    }

    fn write(&self, out: &mut BytesMut) {
        out.put_u64(self.time_ms);
        out.put_u8(self.recipient.map_or(0, |_| HAS_RECIPIENT));
        if let Some(recipient) = self.recipient {
            out.put_slice(recipient.as_bytes());
        }
        out.put_u8(u8::try_from(self.topic.len()).expect("check() bounds the topic"));
        out.put_slice(self.topic.as_bytes());
        out.put_u32(u32::try_from(self.payload.len()).expect("check() bounds the payload"));
        out.put_slice(self.payload);
    }
}

impl Envelope {
    /// Bytes of an envelope besides its entries: header and signature.
    pub const OVERHEAD: usize = HEADER + SIGNATURE;
}

impl fmt::Debug for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Envelope").field("id", &self.id).field("len", &self.bytes.len()).finish()
    }
}

impl fmt::Debug for Entries<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entries").field("seqs", &self.seqs).finish_non_exhaustive()
    }
}

impl fmt::Debug for NewEntry<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewEntry")
            .field("topic", &self.topic)
            .field("time_ms", &self.time_ms)
            .field("recipient", &self.recipient)
            .field("len", &self.payload.len())
            .finish()
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("seq", &self.seq)
            .field("topic", &self.topic)
            .field("time_ms", &self.time_ms)
            .field("recipient", &self.recipient)
            .field("len", &self.payload.len())
            .finish()
    }
}
