//! A stream of frames, cut where the input says: any cut must give the same frames.
#![no_main]

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use p2p_wire::{
    DecodeError, EncodeError, Frame, FrameBody, FrameCodec, MAX_FRAME_CONTROL, MAX_FRAME_PAYLOAD,
    encode_frame,
};
use tokio_util::codec::Decoder;

/// Raw bodies of two kinds; every other kind is unknown.
#[derive(Debug, PartialEq)]
struct Raw(u8, Bytes);

impl FrameBody for Raw {
    fn limit(kind: u8) -> usize {
        if kind == 16 { MAX_FRAME_PAYLOAD } else { MAX_FRAME_CONTROL }
    }
    fn kind(&self) -> u8 {
        self.0
    }
    fn encode(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        out.extend_from_slice(&self.1);
        Ok(())
    }
    fn decode(kind: u8, body: Bytes) -> Result<Option<Self>, DecodeError> {
        Ok(matches!(kind, 16 | 17).then_some(Self(kind, body)))
    }
}

/// The frames of a stream that arrives in pieces of `step` bytes, and whether it ended in an error.
fn read(stream: &[u8], step: usize) -> (Vec<Frame<Raw>>, bool) {
    let (mut codec, mut buffer, mut frames) = (FrameCodec::<Raw>::new(), BytesMut::new(), Vec::new());
    for piece in stream.chunks(step) {
        buffer.extend_from_slice(piece);
        loop {
            match codec.decode(&mut buffer) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(_) => return (frames, true),
            }
        }
    }
    (frames, false)
}

fuzz_target!(|data: &[u8]| {
    let Some((&step, stream)) = data.split_first() else { return };
    let whole = read(stream, stream.len().max(1));
    assert_eq!(whole, read(stream, usize::from(step).max(1)), "a cut changes the frames");
    for frame in whole.0 {
        if let Frame::Known { message, len } = frame {
            let again = encode_frame(&message).expect("what was read can be written");
            assert_eq!(again.len(), len);
        }
    }
});
