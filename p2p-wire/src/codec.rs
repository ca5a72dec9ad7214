//! Frames on a byte stream, for `tokio_util::codec::Framed`.

use std::{fmt, marker::PhantomData};

use bytes::{Buf, Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

use crate::{
    Frame, FrameBody, FrameError,
    frame::{PREFIX, append_frame},
    limits::READ_STEP,
};

/// Splits a byte stream into [`Frame`]s of `M` and writes them.
///
/// A frame's length is checked against the largest limit of all kinds once its 4 bytes are there and against the
/// limit of its kind once the fifth is, before anything is allocated for it. The read buffer then asks for at most
/// [`READ_STEP`] at a time; with the doubling of its allocation it stays within twice what arrived and two steps. Bodies are handed out as parts of that buffer, without a copy.
///
/// Besides messages it writes [`Bytes`] that hold one frame from [`encode_frame`](crate::encode_frame), as they are.
pub struct FrameCodec<M> {
    /// The largest limit of all kinds: beyond it a frame is refused without knowing its kind.
    largest: usize,
    messages: PhantomData<fn() -> M>,
}

impl<M: FrameBody> FrameCodec<M> {
    /// A codec at the start of a stream.
    #[must_use]
    pub fn new() -> Self {
        let largest = (0..=u8::MAX).map(M::limit).max().unwrap_or(0);
        Self { largest, messages: PhantomData }
    }

    /// The length field, if it and the kind have arrived.
    fn length(&self, src: &BytesMut) -> Result<Option<usize>, FrameError> {
        let Some(prefix) = src.first_chunk::<PREFIX>() else { return Ok(None) };
        let len = usize::try_from(u32::from_be_bytes(*prefix)).unwrap_or(usize::MAX);
        if len == 0 {
            return Err(FrameError::Empty);
        }
        if len > self.largest {
            return Err(FrameError::TooLong { kind: None, len, limit: self.largest });
        }
        let Some(&kind) = src.get(PREFIX) else { return Ok(None) };
        let limit = M::limit(kind);
        if len > limit {
            return Err(FrameError::TooLong { kind: Some(kind), len, limit });
        }
        Ok(Some(len))
    }
}

impl<M: FrameBody> Default for FrameCodec<M> {
    fn default() -> Self {
        Self::new()
    }
}

impl<M: FrameBody> Decoder for FrameCodec<M> {
    type Item = Frame<M>;
    type Error = FrameError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Frame<M>>, FrameError> {
        let Some(len) = self.length(src)? else { return Ok(None) };
        let wire = PREFIX + len;
        if src.len() < wire {
            src.reserve((wire - src.len()).min(READ_STEP));
            return Ok(None);
        }
        let mut frame = src.split_to(wire);
        frame.advance(PREFIX);
        let kind = frame.get_u8();
        match M::decode(kind, frame.freeze()) {
            Ok(Some(message)) => Ok(Some(Frame::Known { message, len: wire })),
            Ok(None) => Ok(Some(Frame::Unknown { kind, len: wire })),
            Err(source) => Err(FrameError::Decode { kind, source }),
        }
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<Frame<M>>, FrameError> {
        match self.decode(src)? {
            None if !src.is_empty() => Err(FrameError::Truncated { have: src.len() }),
            frame => Ok(frame),
        }
    }
}

impl<M: FrameBody> Encoder<M> for FrameCodec<M> {
    type Error = FrameError;

    fn encode(&mut self, message: M, out: &mut BytesMut) -> Result<(), FrameError> {
        Ok(append_frame(&message, out)?)
    }
}

impl<M: FrameBody> Encoder<Bytes> for FrameCodec<M> {
    type Error = FrameError;

    fn encode(&mut self, frame: Bytes, out: &mut BytesMut) -> Result<(), FrameError> {
        out.extend_from_slice(&frame);
        Ok(())
    }
}

impl<M> fmt::Debug for FrameCodec<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameCodec").field("largest", &self.largest).finish_non_exhaustive()
    }
}
