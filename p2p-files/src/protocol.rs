//! The protocol `p2p-files/1`, byte by byte. One connection carries one file at a time, from the side that answers (the
//! provider) to the side that asks (the requester).
//!
//! # Frames
//!
//! `length u32 | kind u8 | body`. All integers are big-endian. The length counts kind and body, not itself, and is at
//! least 1: this is the format of tokio-util's `LengthDelimitedCodec` with its default settings. A `Run` frame is at
//! most [`FRAME_MAX`] bytes (1 MiB + 1 KiB), any other [`SMALL_FRAME_MAX`]; a longer one ends the connection before
//! anything is read or allocated for it.
//!
//! | from | kind | name | body |
//! | --- | --- | --- | --- |
//! | requester | 0x01 | Open | `hash [32]` |
//! | requester | 0x02 | Get | `first u64, count u8` |
//! | requester | 0x03 | Have | `first u64, known u32` |
//! | provider | 0x81 | Info | `tag u8, length u64, root [32]` |
//! | provider | 0x82 | NotFound | nothing |
//! | provider | 0x83 | Run | `first u64, count u8, hashes u8, proof [32 × hashes], data` |
//! | provider | 0x84 | Error | `code u8` |
//! | provider | 0x85 | Part | `tag u8, length u64, root [32]` |
//! | provider | 0x86 | Held | `first u64, bits [0 to 32768]` |
//!
//! # Conversation
//!
//! 1. `Open` names a file. The answer is `Info`, `Part` from who is still fetching it and gives what it has so far,
//!    `NotFound` (also for what is not shared: the two cannot be told apart) or `Error` Busy. `tag` is 0 for a file (`p2p/file/1`) and 1 for a directory manifest (`p2p/dir/1`). The requester
//!    computes `SHA-256(tag text || length || root)` and ends the connection if that is not the hash it asked for,
//!    before it believes or allocates anything.
//! 2. `Get` asks for a run of blocks of 16,384 bytes of the file opened last: `count` is 1, 2, 4, 8, 16, 32 or 64 and
//!    `first` a multiple of it and below the number of blocks. Requests may be sent ahead: a requester has at most
//!    [`GETS_MAX`] unanswered ones, a provider takes up to 64 and then stops reading.
//! 3. Every request gets exactly one answer, in the order of the requests. A `Get` after an `Open` that was refused is
//!    answered as that `Open` was, so that a requester that knows the length need not wait between the two.
//! 4. `Run` repeats `first` and `count`. `data` are the bytes of the blocks, cut at the end of the file, so its length
//!    follows from the file's length. `proof` holds, nearest first, the siblings on the way from the run's subtree to
//!    the root: `hashes` = (levels of the tree) − min(log2 count, levels of the tree), where a tree over n blocks has
//!    ceil(log2 n) levels. Padding subtrees are sent as what they hash to (BEP 52: zero leaves).
//! 5. `Error` codes: 1 Changed, the source is not what it was when it was shared and gives nothing more; 2 Busy, come
//!    back later; 3 Bad request, after which the provider closes. A code that is not known is treated as Busy.
//! 6. `Have` asks which chunks (runs of 64 blocks) a provider that said `Part` holds, from chunk `first` on, a multiple of
//!    8. `Held` repeats `first` and has one bit a chunk, most significant first, for all chunks from there to the end or
//!    [`HAVE_CHUNKS_MAX`]; bits behind the last chunk are 0. `known` is how many of these the requester knows of: while
//!    the provider has no more than that, it holds its answer back, until it gets more, another request comes, or
//!    [`HAVE_WAIT`] is over. At most one `Have` waits for its answer. A run that is asked for and not held is answered
//!    with `Error` Busy. Who said `Info` has everything and answers all ones.
//! 7. Another `Open` may follow on the same connection. Either side ends it by closing.
//!
//! # What is not known
//!
//! A frame of a kind not in the table and of at most [`SMALL_FRAME_MAX`] bytes is skipped, so that kinds can be added;
//! both sides give up on a connection with more than [`SKIPPED_MAX`] bytes of them. A frame of a known kind whose body
//! has another length than it says here ends the connection.

use std::time::Duration;

use crate::geometry::CHUNK;
use crate::hash::{FileHash, HASH_LEN, Info, Kind};

/// Most bytes of a `Run` frame, kind included: 1 MiB of data and up to 1 KiB around it.
pub const FRAME_MAX: usize = CHUNK + 1024;

/// Most bytes of any other frame, kind included.
pub const SMALL_FRAME_MAX: usize = 64 * 1024;

/// Bytes of frames of unknown kinds that are skipped in one connection before it is given up.
pub const SKIPPED_MAX: usize = 1 << 20;

/// Most unanswered requests a requester has in one connection.
pub const GETS_MAX: usize = 16;

/// Most chunks that one `Held` tells of: 32 KiB of bits, 256 GiB of content.
pub const HAVE_CHUNKS_MAX: u64 = 8 * 32 * 1024;

/// How long the answer to a `Have` is held back while there is no news.
pub const HAVE_WAIT: Duration = Duration::from_secs(5);

/// Bytes of the length before each frame.
pub(crate) const PREFIX: usize = 4;

/// Bytes between the length and the proof in a `Run` frame: kind, first, count, hashes.
pub(crate) const RUN_HEAD: usize = 1 + 8 + 1 + 1;

pub(crate) const OPEN: u8 = 0x01;
pub(crate) const GET: u8 = 0x02;
pub(crate) const HAVE: u8 = 0x03;
pub(crate) const INFO: u8 = 0x81;
pub(crate) const NOT_FOUND: u8 = 0x82;
pub(crate) const RUN: u8 = 0x83;
pub(crate) const ERROR: u8 = 0x84;
pub(crate) const PART: u8 = 0x85;
pub(crate) const HELD: u8 = 0x86;

/// What a requester sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Request {
    /// Which file the following requests are about.
    Open(FileHash),
    /// A run of blocks; whether it exists is for [`Geometry::run`](crate::Geometry::run) to say.
    Get {
        /// Number of the first block.
        first: u64,
        /// Number of blocks.
        count: u8,
    },
    /// Which chunks the provider holds.
    Have {
        /// Number of the first chunk that is asked about.
        first: u64,
        /// Chunks from there on that the requester knows the provider to hold.
        known: u32,
    },
}

impl Request {
    /// Appends the frame, length included.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Open(hash) => put_frame(out, OPEN, &[hash.as_bytes()]),
            Self::Get { first, count } => put_frame(out, GET, &[&first.to_be_bytes(), &[*count]]),
            Self::Have { first, known } => {
                put_frame(out, HAVE, &[&first.to_be_bytes(), &known.to_be_bytes()]);
            }
        }
    }

    /// Reads a frame's kind and body; `None` for a kind that is not known and is to be skipped.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] when the body is not what the kind says.
    pub fn decode(frame: &[u8]) -> Result<Option<Self>, DecodeError> {
        let (&kind, body) = frame.split_first().ok_or(DecodeError::Empty)?;
        match kind {
            OPEN => {
                let hash = FileHash::from_bytes(exact(kind, body)?);
                Ok(Some(Self::Open(hash)))
            }
            GET => {
                let [first @ .., count]: [u8; 9] = exact(kind, body)?;
                Ok(Some(Self::Get { first: u64::from_be_bytes(first), count }))
            }
            HAVE => {
                let [first @ .., a, b, c, d]: [u8; 12] = exact(kind, body)?;
                let known = u32::from_be_bytes([a, b, c, d]);
                Ok(Some(Self::Have { first: u64::from_be_bytes(first), known }))
            }
            INFO | NOT_FOUND | RUN | ERROR | PART | HELD => Err(DecodeError::Direction { kind }),
            _ => Ok(None),
        }
    }
}

/// What a provider sends, except for the data of a run, which follows its head as raw bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reply {
    /// The file is here, and this is what its hash is made of.
    Info(Info),
    /// The file is being fetched here; what is here of it can be had.
    Part(Info),
    /// Which chunks are here.
    Held {
        /// Number of the chunk of the first bit.
        first: u64,
        /// One bit a chunk, most significant first.
        bits: Vec<u8>,
    },
    /// No such file is shared here.
    NotFound,
    /// The head of a run; `hashes × 32` bytes of proof and the data follow.
    Run {
        /// Number of the first block.
        first: u64,
        /// Number of blocks asked for.
        count: u8,
        /// Hashes in the proof.
        hashes: u8,
    },
    /// The request cannot be answered.
    Error(ErrorCode),
}

impl Reply {
    /// Appends the frame, length included. For [`Reply::Run`] that is the head with a length that counts the `data_len`
    /// bytes of data too; proof and data are for the caller to append.
    pub fn encode(&self, data_len: u32, out: &mut Vec<u8>) {
        match self {
            Self::Info(info) => put_info(out, INFO, info),
            Self::Part(info) => put_info(out, PART, info),
            Self::Held { first, bits } => put_frame(out, HELD, &[&first.to_be_bytes(), bits]),
            Self::NotFound => put_frame(out, NOT_FOUND, &[]),
            Self::Run { first, count, hashes } => {
                let proof_len = u32::from(*hashes) * 32;
                let len = 11 + proof_len + data_len;
                out.extend_from_slice(&len.to_be_bytes());
                out.push(RUN);
                out.extend_from_slice(&first.to_be_bytes());
                out.extend_from_slice(&[*count, *hashes]);
            }
            Self::Error(code) => put_frame(out, ERROR, &[&[code.to_byte()]]),
        }
    }

    /// Reads a frame's kind and body, of a `Run` frame the first 11 bytes or more; `None` for a kind that is not known and is
    /// to be skipped.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] when the body is not what the kind says.
    pub fn decode(frame: &[u8]) -> Result<Option<Self>, DecodeError> {
        let (&kind, body) = frame.split_first().ok_or(DecodeError::Empty)?;
        match kind {
            INFO => read_info(kind, body).map(|info| Some(Self::Info(info))),
            PART => read_info(kind, body).map(|info| Some(Self::Part(info))),
            HELD => {
                let wrong = DecodeError::Length { kind, len: body.len() };
                let (first, bits) = body.split_first_chunk().ok_or(wrong)?;
                if bits.len() as u64 > HAVE_CHUNKS_MAX / 8 {
                    return Err(wrong);
                }
                Ok(Some(Self::Held { first: u64::from_be_bytes(*first), bits: bits.to_vec() }))
            }
            NOT_FOUND => exact::<0>(kind, body).map(|_| Some(Self::NotFound)),
            RUN => {
                let (head, _) =
                    body.split_first_chunk::<10>().ok_or(DecodeError::Length { kind, len: body.len() })?;
                let [first @ .., count, hashes] = *head;
                Ok(Some(Self::Run { first: u64::from_be_bytes(first), count, hashes }))
            }
            ERROR => exact::<1>(kind, body).map(|[code]| Some(Self::Error(ErrorCode::from_byte(code)))),
            OPEN | GET | HAVE => Err(DecodeError::Direction { kind }),
            _ => Ok(None),
        }
    }
}

/// Why a provider does not answer with what was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorCode {
    /// The source is not what it was when it was shared.
    Changed,
    /// Too many at once, or a passing trouble on the provider's disk.
    Busy,
    /// The request is malformed, or names what does not exist.
    BadRequest,
}

impl ErrorCode {
    /// The byte on the wire.
    #[must_use]
    pub const fn to_byte(self) -> u8 {
        match self {
            Self::Changed => 1,
            Self::Busy => 2,
            Self::BadRequest => 3,
        }
    }

    /// What a byte on the wire stands for; one that is not known counts as Busy.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Self::Changed,
            3 => Self::BadRequest,
            _ => Self::Busy,
        }
    }
}

/// Why a frame could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// A frame of length 0 has no kind.
    #[error("empty frame")]
    Empty,
    /// The body has not the length that belongs to the kind.
    #[error("frame of kind {kind:#04x} with a body of {len} bytes")]
    Length {
        /// Kind of the frame.
        kind: u8,
        /// Bytes after the kind.
        len: usize,
    },
    /// The frame is one that only the other side sends.
    #[error("frame of kind {kind:#04x} from the wrong side")]
    Direction {
        /// Kind of the frame.
        kind: u8,
    },
    /// Neither a file nor a directory.
    #[error("content tag {tag} is not known")]
    Tag {
        /// The byte.
        tag: u8,
    },
}

fn put_frame(out: &mut Vec<u8>, kind: u8, parts: &[&[u8]]) {
    let len = 1 + parts.iter().map(|part| part.len()).sum::<usize>();
    let len = u32::try_from(len).expect("these frames are at most 32 KiB and a little");
    out.extend_from_slice(&len.to_be_bytes());
    out.push(kind);
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

fn put_info(out: &mut Vec<u8>, kind: u8, info: &Info) {
    put_frame(out, kind, &[&[info.kind.to_byte()], &info.length.to_be_bytes(), &info.root]);
}

fn read_info(kind: u8, body: &[u8]) -> Result<Info, DecodeError> {
    let body: [u8; 41] = exact(kind, body)?;
    let (tag, rest) = (body[0], &body[1..]);
    let kind = Kind::from_byte(tag).ok_or(DecodeError::Tag { tag })?;
    let (length, root) = rest.split_first_chunk().expect("40 bytes are left");
    let root: [u8; HASH_LEN] = root.try_into().expect("32 bytes are left");
    Ok(Info { kind, length: u64::from_be_bytes(*length), root })
}

fn exact<const N: usize>(kind: u8, body: &[u8]) -> Result<[u8; N], DecodeError> {
    body.try_into().map_err(|_| DecodeError::Length { kind, len: body.len() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn requests() -> impl Strategy<Value = Request> {
        prop_oneof![
            any::<[u8; 32]>().prop_map(|bytes| Request::Open(FileHash::from_bytes(bytes))),
            any::<(u64, u8)>().prop_map(|(first, count)| Request::Get { first, count }),
            any::<(u64, u32)>().prop_map(|(first, known)| Request::Have { first, known }),
        ]
    }

    fn replies() -> impl Strategy<Value = Reply> {
        prop_oneof![
            any::<(bool, bool, u64, [u8; 32])>().prop_map(|(part, dir, length, root)| {
                let info = Info { kind: if dir { Kind::Dir } else { Kind::File }, length, root };
                if part { Reply::Part(info) } else { Reply::Info(info) }
            }),
            Just(Reply::NotFound),
            any::<(u64, u8, u8)>().prop_map(|(first, count, hashes)| Reply::Run { first, count, hashes }),
            (1..4u8).prop_map(|code| Reply::Error(ErrorCode::from_byte(code))),
        ]
    }

    proptest! {
        #[test]
        fn requests_round_trip(request in requests()) {
            let mut frame = Vec::new();
            request.encode(&mut frame);
            prop_assert_eq!(usize::try_from(u32::from_be_bytes(frame[..4].try_into().unwrap())).unwrap(), frame.len() - 4);
            prop_assert_eq!(Request::decode(&frame[4..]), Ok(Some(request)));
            prop_assert!(Reply::decode(&frame[4..]).is_err());
            frame.push(0);
            prop_assert!(Request::decode(&frame[4..]).is_err());
        }

        #[test]
        fn replies_round_trip(reply in replies()) {
            let mut frame = Vec::new();
            reply.encode(0, &mut frame);
            prop_assert_eq!(Reply::decode(&frame[4..]), Ok(Some(reply)));
            prop_assert!(Request::decode(&frame[4..]).is_err());
            prop_assert!(Reply::decode(&frame[4..frame.len() - 1]).is_err());
        }

        #[test]
        fn what_is_held_round_trips(first: u64, bits in prop::collection::vec(any::<u8>(), 0..300)) {
            let (mut frame, reply) = (Vec::new(), Reply::Held { first, bits });
            reply.encode(0, &mut frame);
            prop_assert_eq!(Reply::decode(&frame[4..]), Ok(Some(reply)));
            prop_assert!(Request::decode(&frame[4..]).is_err());
            prop_assert!(Reply::decode(&frame[4..12]).is_err());
        }

        #[test]
        fn no_bytes_panic(frame in prop::collection::vec(any::<u8>(), 0..60), kind in 0..0x90u8) {
            let _ = (Request::decode(&frame), Reply::decode(&frame));
            let frame = [&[kind], frame.as_slice()].concat();
            let _ = (Request::decode(&frame), Reply::decode(&frame));
        }
    }

    #[test]
    fn the_longest_list_of_what_is_held_fits_the_frame() {
        let bits = vec![0xff; usize::try_from(HAVE_CHUNKS_MAX / 8).unwrap()];
        let mut frame = Vec::new();
        Reply::Held { first: 0, bits }.encode(0, &mut frame);
        assert!(frame.len() <= PREFIX + SMALL_FRAME_MAX);
        assert!(Reply::decode(&frame[4..]).is_ok());
        frame.push(0);
        assert!(Reply::decode(&frame[4..]).is_err());
    }

    #[test]
    fn the_longest_proof_fits_the_frame() {
        let geometry = crate::Geometry::new(crate::LENGTH_MAX).unwrap();
        for shift in 0..7 {
            let run = geometry.run(0, 1 << shift).unwrap();
            assert!(RUN_HEAD + run.proof_len() * HASH_LEN + run.len() <= FRAME_MAX);
        }
    }
}
