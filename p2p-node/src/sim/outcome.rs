//! What came of a message, and of all of them.

use std::time::Duration;

use bytes::BytesMut;
use p2p_wire::{EnvelopeId, FrameBody};

use super::Sim;
use super::link::nanos;
use super::queue::Time;
use crate::packet::{Packet, kind};

/// Length and kind in front of each body.
const FRAME_HEAD: u64 = 5;
/// Hops, a flag and the age in front of the envelope in a push.
const PUSH_HEAD: u64 = 6;

/// Bytes of a frame on the wire. The payloads are not copied for that.
pub(super) fn frame_len(scratch: &mut BytesMut, packet: &Packet) -> u64 {
    if let Packet::Push { envelope, .. } = packet {
        return FRAME_HEAD + PUSH_HEAD + envelope.len() as u64;
    }
    scratch.clear();
    packet.encode(scratch).expect("a stack's packets can be encoded");
    FRAME_HEAD + scratch.len() as u64
}

/// What came of one message.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Outcome {
    /// Nodes that should have it: they ran from before it was sent to the end of the time. Its author does not count.
    pub expected: usize,
    /// Of those, the ones that did not get it in that time.
    pub missed: usize,
    /// When the last of them got it, after it was sent.
    pub last: Duration,
    /// Links that the copy had travelled that the last one got.
    pub hops: u8,
    /// Copies of the payload that arrived anywhere, answers to pulls included.
    pub copies: u64,
    /// No broadcast over the links as they are now can be with the last node sooner.
    pub optimum: Duration,
}

/// What was counted since the beginning, over all nodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Totals {
    /// Bytes of frames that carry payloads.
    pub payload_bytes: u64,
    /// Bytes of all other frames.
    pub control_bytes: u64,
    /// Of those, pings and their answers.
    pub ping_bytes: u64,
    /// Of those, what catch-up compares: digests and ranges.
    pub summary_bytes: u64,
    /// Of those, what it asks for, and the ends of the answers. The answers themselves are payload.
    pub range_pull_bytes: u64,
    /// Of those, peer lists, and what keeps the views.
    pub peer_bytes: u64,
    /// Frames of both kinds.
    pub frames: u64,
    /// Messages that an application got twice in one life of its node.
    pub duplicates: u64,
    /// Messages handed to an application.
    pub deliveries: u64,
    /// Messages handed over after a later one of the same author.
    pub late: u64,
    /// Links closed for silence although the other end ran and could be reached.
    pub false_deaths: u64,
    /// Neighbours called misbehaving.
    pub misbehaved: u64,
    /// Pushes that did not fit into a link's queue.
    pub announced_instead: u64,
    /// Holes that applications were told of.
    pub gaps: u64,
    /// Forked authors that applications were told of.
    pub forks: u64,
}

impl Sim {
    /// What came of a message within `time` of its sending. Ask once that time is over; nodes that were started or
    /// killed meanwhile are not counted.
    #[must_use]
    pub fn outcome(&self, message: usize, time: Duration) -> Outcome {
        let tracked = &self.meter.messages[message];
        let until = tracked.sent_at + nanos(time);
        let (mut expected, mut missed, mut last) = (0, 0, (0, 0));
        for (number, node) in self.nodes.iter().enumerate() {
            let stayed = node.up_since <= tracked.sent_at && node.down_at >= until.min(self.now);
            if number == tracked.author as usize || !stayed {
                continue;
            }
            expected += 1;
            match tracked.delivered_after(number) {
                Some(after) if after <= nanos(time) => last = last.max((after, tracked.hops(number))),
                _ => missed += 1,
            }
        }
        Outcome {
            expected,
            missed,
            last: Duration::from_nanos(last.0),
            hops: last.1,
            copies: tracked.copies,
            optimum: Duration::ZERO,
        }
    }

    /// [`Sim::outcome`] with the flood's optimum, which costs a walk over all links.
    #[must_use]
    pub fn outcome_with_optimum(&self, message: usize, time: Duration) -> Outcome {
        let author = self.meter.messages[message].author as usize;
        let optimum: Time = self.flood_optimum(author);
        Outcome { optimum: Duration::from_nanos(optimum), ..self.outcome(message, time) }
    }

    /// Whether a node's application has a message, and how long after its sending it came.
    #[must_use]
    pub fn delivered_after(&self, message: usize, node: usize) -> Option<Duration> {
        self.meter.messages[message].delivered_after(node).map(Duration::from_nanos)
    }

    /// When a message was sent.
    #[must_use]
    pub fn sent_at(&self, message: usize) -> Duration {
        Duration::from_nanos(self.meter.messages[message].sent_at)
    }

    /// Who sent it.
    #[must_use]
    pub fn author(&self, message: usize) -> usize {
        self.meter.messages[message].author as usize
    }

    /// Bytes of digests and ranges that went over one link, both ways: the most of any that was made since the link
    /// with this number. They count from 0.
    #[must_use]
    pub fn summaries_of_a_link(&self, since: usize) -> u64 {
        self.links.iter().skip(since).map(|link| link.summaries).max().unwrap_or(0)
    }

    /// Links made so far.
    #[must_use]
    pub fn links_made(&self) -> usize {
        self.links.len()
    }

    /// The id of a message's envelope.
    #[must_use]
    pub fn envelope_id(&self, message: usize) -> EnvelopeId {
        self.meter.messages[message].id
    }

    /// How often one node sent one message to one [`Greedy`](super::Conduct::Greedy) node at the most.
    #[must_use]
    pub const fn most_answers(&self) -> u32 {
        self.meter.most_answers
    }

    /// What was counted so far.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let meter = &self.meter;
        let of = |kinds: &[u8]| kinds.iter().map(|&k| meter.traffic.bytes[usize::from(k)]).sum::<u64>();
        let all: u64 = meter.traffic.bytes.iter().sum();
        let payload_bytes = of(&[kind::PUSH]);
        Totals {
            payload_bytes,
            control_bytes: all - payload_bytes,
            summary_bytes: of(&[kind::DIGEST, kind::RANGES]),
            range_pull_bytes: of(&[kind::PULL, kind::SERVED]),
            ping_bytes: of(&[kind::PING, kind::PONG]),
            peer_bytes: of(&[6, 7, 8, 9, 10, 11]),
            frames: meter.traffic.frames.iter().sum(),
            duplicates: meter.duplicates,
            deliveries: meter.deliveries,
            late: meter.late,
            false_deaths: meter.false_deaths,
            misbehaved: meter.misbehaved,
            announced_instead: meter.announced_instead,
            gaps: meter.gaps,
            forks: meter.forks,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2p_wire::{Envelope, NewEntry, SecretKey, encode_frame};

    #[test]
    fn lengths_are_those_of_the_encoded_frames() {
        let key = SecretKey::from_bytes(&[1; 32]);
        let entry = NewEntry { topic: "", time_ms: 1, recipient: None, payload: &[7; 100] };
        let envelope = Envelope::sign(&key, 1, 1, &[entry]).unwrap();
        let push = Packet::Push {
            id: envelope.id(),
            hops: 3,
            renew: true,
            age: Duration::ZERO,
            envelope: envelope.bytes().clone(),
        };
        for packet in [push, Packet::Ping(300), Packet::Graft(Some(envelope.id())), Packet::Prune] {
            let len = frame_len(&mut BytesMut::new(), &packet);
            assert_eq!(len, encode_frame(&packet).unwrap().len() as u64, "{packet:?}");
        }
    }
}
