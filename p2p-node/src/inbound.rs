//! What came over a link: frames out of its buffer, with everything checked that needs no state.

use std::mem::size_of;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use p2p_peers::views::Walks;
use p2p_wire::{Frame, FrameCodec, FrameError, Hello, NodeId, PeerRecord};
use tokio::time::Instant;
use tokio_util::codec::Decoder;

use crate::link::Closed;
use crate::packet::Packet;
use crate::records::CheckedRecords;
use crate::view::View;

/// Frames handed over at once, in bytes of memory.
const BATCH_BYTES: usize = 256 * 1024;
/// Decoding and checking for one link before others on the same thread have their turn. Whoever makes more work than
/// that at once is then not read for as long as it took: at most half of a core is spent on one neighbour.
pub(crate) const WORK: Duration = Duration::from_millis(1);
/// Frames of the views taken from one link per second, with a burst of four times as many; the rest is dropped and counted.
/// As [`p2p_peers::views::Config::walks_per_sec`].
const RECORD_FRAMES_PER_SEC: u32 = 50;

/// What came in, with everything checked that needs no state.
#[derive(Debug)]
pub(crate) enum Inbound {
    Packet(Packet),
    /// A frame of the views; signatures of its records checked.
    View(View<PeerRecord>),
    /// One that came above the rate; not looked at.
    Limited,
    /// A frame of a kind this version does not know.
    Unknown,
}

/// The complete frames of a buffer, or the first of them.
#[derive(Debug, Default)]
pub(crate) struct Decoded {
    pub(crate) batch: Vec<Inbound>,
    /// Of the frames.
    pub(crate) bytes: usize,
    /// Of memory, until the batch has been handled: an announced id is 12 bytes of a frame, and 64 in the batch.
    pub(crate) held: usize,
}

impl Decoded {
    fn push(&mut self, len: usize, heap: usize, inbound: Inbound) {
        self.bytes += len;
        self.held += len.max(size_of::<Inbound>() + heap);
        self.batch.push(inbound);
    }
}

/// Takes the complete frames out of the buffer.
pub(crate) fn decode_batch(
    codec: &mut FrameCodec<Packet>,
    buffer: &mut BytesMut,
    walks: &mut Walks,
    records: &CheckedRecords,
) -> Result<Decoded, Closed> {
    let began = Instant::now();
    let mut decoded = Decoded::default();
    // One frame at the least, however long this thread stood still meanwhile: what is in the buffer rings no bell.
    while decoded.batch.is_empty() || (decoded.held < BATCH_BYTES && began.elapsed() < WORK) {
        match codec.decode(buffer) {
            Ok(None) => break,
            Ok(Some(Frame::Unknown { len, .. })) => decoded.push(len, 0, Inbound::Unknown),
            Ok(Some(Frame::Known { message, len })) => {
                let heap = message.heap();
                decoded.push(len, heap, check(message, walks, records)?);
            }
            Err(FrameError::Io(e)) => return Err(Closed::Io(e.to_string())),
            Err(e) => return Err(Closed::Protocol(e.to_string())),
        }
    }
    decoded.held += (decoded.batch.capacity() - decoded.batch.len()) * size_of::<Inbound>();
    Ok(decoded)
}

/// Signatures that are checked here, in the link's own work: those of records and questions. Envelopes
/// are checked by the driver, which knows whether one is still needed.
fn check(packet: Packet, walks: &mut Walks, records: &CheckedRecords) -> Result<Inbound, Closed> {
    match packet {
        Packet::Hello(_) => Err(Closed::Protocol("hello came twice".into())),
        Packet::Query(query) => {
            query.verify().map_err(|_| Closed::Protocol("a question with a forged signature".into()))?;
            Ok(Inbound::Packet(Packet::Query(query)))
        }
        // Before the checks, or the rate would not bound that work.
        Packet::View(view) if !walks.take(std::time::Instant::now(), RECORD_FRAMES_PER_SEC) => {
            drop(view);
            Ok(Inbound::Limited)
        }
        Packet::View(view) => {
            let records = verify_records(view.records().to_vec(), records)?;
            Ok(Inbound::View(view.with(records)))
        }
        other => Ok(Inbound::Packet(other)),
    }
}

fn verify_records(records: Vec<Bytes>, checked: &CheckedRecords) -> Result<Vec<PeerRecord>, Closed> {
    let decode = |bytes| checked.decode(bytes).map_err(|e| Closed::Protocol(e.to_string()));
    records.into_iter().map(decode).collect()
}

/// The records in a hello must be the sender's own.
pub(crate) fn verify_own_records(
    hello: &Hello,
    peer: NodeId,
    checked: &CheckedRecords,
) -> Result<Vec<PeerRecord>, Closed> {
    let records = verify_records(hello.records.clone(), checked)?;
    if records.iter().any(|r| r.id() != peer) {
        return Err(Closed::Protocol("hello brings somebody else's address record".into()));
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use p2p_wire::EnvelopeId;

    use super::*;
    use crate::ihave::{Announced, MAX_IHAVE};

    #[test]
    fn a_batch_is_bounded_by_the_memory_that_it_takes() {
        let id = |first| EnvelopeId { author: NodeId::from_bytes([1; 32]), run: 1, first, count: 1 };
        let line = |first| Announced { id: id(first), hops: 1, wait: false };
        let lines = 1..=u64::try_from(MAX_IHAVE).unwrap();
        let announced = p2p_wire::encode_frame(&Packet::IHave(lines.map(line).collect())).unwrap();
        let prune = p2p_wire::encode_frame(&Packet::Prune).unwrap();
        for frame in [announced, prune] {
            let mut buffer = BytesMut::from(frame.repeat(BATCH_BYTES / frame.len()).as_slice());
            let (mut codec, mut walks, mut frames) = (FrameCodec::new(), Walks::default(), 0);
            while !buffer.is_empty() {
                let records = CheckedRecords::default();
                let decoded = decode_batch(&mut codec, &mut buffer, &mut walks, &records).unwrap();
                let heap = decoded.batch.iter().map(|inbound| match inbound {
                    Inbound::Packet(packet) => packet.heap(),
                    other => panic!("{other:?}"),
                });
                let memory = decoded.batch.capacity() * size_of::<Inbound>() + heap.sum::<usize>();
                assert!(decoded.held >= memory, "{} for {memory} bytes of memory", decoded.held);
                // One frame beyond, and as much again as the vector grew ahead.
                assert!(decoded.held <= 2 * BATCH_BYTES + 2 * 65_536, "{} bytes", decoded.held);
                frames += decoded.batch.len();
            }
            assert_eq!(frames, BATCH_BYTES / frame.len());
        }
    }
}
