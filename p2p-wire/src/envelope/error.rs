use thiserror::Error;

use crate::limits::{MAX_BUNDLE_ENTRIES, MAX_TOPIC};

/// Why an envelope cannot be made or is not one. Nothing was changed; when decoding, whoever sent the bytes is at
/// fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EnvelopeError {
    /// No entries or too many; counts above 255 show as 255.
    #[error("envelope has {count} entries, it must be 1 to {MAX_BUNDLE_ENTRIES}")]
    Count {
        /// How many.
        count: u8,
    },
    /// The payload is too long; when signing, a file is the way to send it.
    #[error("payload is {len} bytes, the limit is {limit}")]
    PayloadTooLong {
        /// Bytes of the payload.
        len: usize,
        /// The largest allowed.
        limit: usize,
    },
    /// The topic is too long.
    #[error("topic is {len} bytes, the limit is {MAX_TOPIC}")]
    TopicTooLong {
        /// Bytes of the topic.
        len: usize,
    },
    /// The whole is too long: a bundle of several over 64 KiB, or longer than any envelope.
    #[error("envelope is {len} bytes, the limit is {limit}")]
    TooLong {
        /// Bytes of the envelope.
        len: usize,
        /// The largest allowed.
        limit: usize,
    },
    /// The first seq lies before the run it is said to belong to.
    #[error("first seq {first} is below the run {run}")]
    BeforeRun {
        /// First seq of the run.
        run: u64,
        /// First seq of the envelope.
        first: u64,
    },
    /// The seqs do not fit into 64 bits.
    #[error("{count} seqs from {first} on overflow")]
    SeqOverflow {
        /// First seq of the envelope.
        first: u64,
        /// How many.
        count: u8,
    },
    /// The bytes end too early.
    #[error("envelope is cut off")]
    Truncated,
    /// Bytes follow the last entry besides the signature.
    #[error("{count} bytes too many")]
    TrailingBytes {
        /// How many.
        count: usize,
    },
    /// A layout of another version.
    #[error("envelope version {version} is not known")]
    Version {
        /// The version byte.
        version: u8,
    },
    /// A flag that is not defined.
    #[error("entry flags {flags:#04x} are not known")]
    Flags {
        /// The flags byte.
        flags: u8,
    },
    /// The topic is not text.
    #[error("topic is not UTF-8")]
    TopicNotUtf8,
}
