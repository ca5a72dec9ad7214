//! Frames: what travels on a link.

use bytes::{Bytes, BytesMut};
use thiserror::Error;

use crate::msgpack::{DecodeError, EncodeError};

/// Bytes of the length field.
pub(crate) const PREFIX: usize = 4;

/// A protocol's messages: which kinds there are, how long each may be, and how their bodies look.
///
/// # Layout
///
/// ```text
/// offset  bytes
///      0      4  length of kind and body, big-endian; 0 is refused
///      4      1  kind
///      5      n  body, n = length - 1
/// ```
///
/// # Example
///
/// ```
/// use bytes::{Bytes, BytesMut};
/// use p2p_wire::{DecodeError, EncodeError, FrameBody, MAX_FRAME_CONTROL, encode_frame, msgpack};
///
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct Ping { n: u64 }
///
/// impl FrameBody for Ping {
///     fn limit(_kind: u8) -> usize { MAX_FRAME_CONTROL }
///     fn kind(&self) -> u8 { 3 }
///     fn encode(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
///         out.extend_from_slice(&msgpack::to_vec(self)?);
///         Ok(())
///     }
///     fn decode(kind: u8, body: Bytes) -> Result<Option<Self>, DecodeError> {
///         if kind == 3 { msgpack::from_slice(&body).map(Some) } else { Ok(None) }
///     }
/// }
///
/// assert_eq!(&encode_frame(&Ping { n: 7 })?[..], [0, 0, 0, 5, 3, 0x81, 0xa1, b'n', 7]);
/// # Ok::<(), EncodeError>(())
/// ```
pub trait FrameBody: Sized {
    /// The largest length field (bytes of kind and body) a frame of this kind may have.
    ///
    /// For kinds this program does not know: [`MAX_FRAME_CONTROL`](crate::MAX_FRAME_CONTROL). Must always give the
    /// same answer for the same kind.
    fn limit(kind: u8) -> usize;

    /// The kind of this message.
    fn kind(&self) -> u8;

    /// Appends the body, without length and kind, to `out`.
    ///
    /// # Errors
    ///
    /// [`EncodeError`] if the message is one the receiver would refuse; what was appended is then thrown away.
    fn encode(&self, out: &mut BytesMut) -> Result<(), EncodeError>;

    /// Reads a body. `Ok(None)` if the kind is unknown: such a frame is skipped and counted.
    ///
    /// `body` shares the read buffer; a small part that is kept for long is better copied, or it keeps the whole
    /// buffer in memory.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] if the kind is known and the body is not valid.
    fn decode(kind: u8, body: Bytes) -> Result<Option<Self>, DecodeError>;
}

/// One frame as received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame<M> {
    /// A message of a kind this program knows.
    Known {
        /// The message.
        message: M,
        /// Bytes on the wire, prefix included.
        len: usize,
    },
    /// A kind from a newer version; the body is skipped.
    Unknown {
        /// The kind.
        kind: u8,
        /// Bytes on the wire, prefix included.
        len: usize,
    },
}

/// Encodes one whole frame, so that it can be queued on many links and is encoded only once.
///
/// # Errors
///
/// [`EncodeError`] from the body, or [`EncodeError::TooLong`] if the frame exceeds the limit of its kind.
pub fn encode_frame<M: FrameBody>(message: &M) -> Result<Bytes, EncodeError> {
    let mut out = BytesMut::new();
    append_frame(message, &mut out)?;
    Ok(out.freeze())
}

/// Appends one frame to `out`, which is as before if that fails.
pub(crate) fn append_frame<M: FrameBody>(message: &M, out: &mut BytesMut) -> Result<(), EncodeError> {
    let start = out.len();
    let appended = try_append(message, out);
    if appended.is_err() {
        out.truncate(start);
    }
    appended
}

fn try_append<M: FrameBody>(message: &M, out: &mut BytesMut) -> Result<(), EncodeError> {
    let (start, kind) = (out.len(), message.kind());
    out.extend_from_slice(&[0; PREFIX]);
    out.extend_from_slice(&[kind]);
    message.encode(out)?;
    let len = out.len() - start - PREFIX;
    let limit = M::limit(kind);
    let prefix = u32::try_from(len).ok().filter(|_| len <= limit);
    let prefix = prefix.ok_or(EncodeError::TooLong { kind, len, limit })?;
    out[start..start + PREFIX].copy_from_slice(&prefix.to_be_bytes());
    Ok(())
}

/// Why a stream of frames ended. Except for [`FrameError::Io`] and [`FrameError::Encode`] the other side is at
/// fault; there is no way to find the next frame, so the link has to be closed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FrameError {
    /// A length of 0: not even a kind.
    #[error("frame has length 0")]
    Empty,
    /// Longer than any kind, or than this kind, may be. Nothing was allocated for it.
    #[error("frame is {len} bytes, the limit is {limit}")]
    TooLong {
        /// The kind, if it had arrived.
        kind: Option<u8>,
        /// The length field.
        len: usize,
        /// The largest allowed.
        limit: usize,
    },
    /// The stream ended inside a frame.
    #[error("stream ended inside a frame, {have} bytes of it had arrived")]
    Truncated {
        /// Bytes of the unfinished frame, prefix included.
        have: usize,
    },
    /// The body of a known kind is not valid.
    #[error("frame of kind {kind} is not valid")]
    Decode {
        /// The kind.
        kind: u8,
        /// What is wrong.
        #[source]
        source: DecodeError,
    },
    /// A message of our own cannot be sent. Nothing was written; the link can go on.
    #[error("message cannot be sent")]
    Encode(#[from] EncodeError),
    /// Reading or writing the stream failed.
    #[error("link failed")]
    Io(#[from] std::io::Error),
}
