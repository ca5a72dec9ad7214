//! What came of a message, and of all of them.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::BytesMut;
use p2p_wire::{EnvelopeId, FrameBody};

use super::Sim;
use super::link::nanos;
use super::meter::{Got, Meter};
use super::overlay::Floods;
use super::queue::{LinkId, Time};
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
    /// No broadcast over the links as they are now can be with the last node sooner; zero unless
    /// [`Sim::outcome_with_optimum`] was asked.
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
    /// Ends of links that were reset: the program at the other end was killed, or knows nothing of them.
    pub resets: u64,
    /// Neighbours called misbehaving.
    pub misbehaved: u64,
    /// Pushes that did not fit into a link's queue.
    pub put_off: u64,
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
        let published = &self.world.messages[message];
        let until = published.sent_at + nanos(time);
        let (mut expected, mut missed, mut last, mut copies) = (0, 0, (0, 0), 0);
        for (number, face) in self.world.faces.iter().enumerate() {
            let got = self.got(message, number);
            copies += u64::from(got.copies);
            let stayed = face.up_since <= published.sent_at && face.down_at >= until.min(self.now);
            if number == published.author as usize || !stayed {
                continue;
            }
            expected += 1;
            match got.delivered_after() {
                Some(after) if after <= nanos(time) => last = last.max((after, got.hops)),
                _ => missed += 1,
            }
        }
        Outcome {
            expected,
            missed,
            last: Duration::from_nanos(last.0),
            hops: last.1,
            copies,
            optimum: Duration::ZERO,
        }
    }

    /// [`Sim::outcome`] with the flood's optimum, which costs a walk over all links.
    #[must_use]
    pub fn outcome_with_optimum(&self, message: usize, time: Duration) -> Outcome {
        self.outcome_of_flood(message, time, &mut self.floods())
    }

    pub(super) fn outcome_of_flood(&self, message: usize, time: Duration, floods: &mut Floods) -> Outcome {
        let optimum = floods.optimum(self.author(message));
        Outcome { optimum: Duration::from_nanos(optimum), ..self.outcome(message, time) }
    }

    /// Whether a node's application has a message, and how long after its sending it came.
    #[must_use]
    pub fn delivered_after(&self, message: usize, node: usize) -> Option<Duration> {
        self.got(message, node).delivered_after().map(Duration::from_nanos)
    }

    /// When a message was sent.
    #[must_use]
    pub fn sent_at(&self, message: usize) -> Duration {
        Duration::from_nanos(self.world.messages[message].sent_at)
    }

    /// Who sent it.
    #[must_use]
    pub fn author(&self, message: usize) -> usize {
        self.world.messages[message].author as usize
    }

    /// Bytes of digests and ranges that went over one link, both ways: the most of any that was made since then.
    #[must_use]
    pub fn summaries_of_a_link(&self, since: Duration) -> u64 {
        let nodes = self.shards.iter().flat_map(|shard| &shard.nodes);
        let ends = nodes.flat_map(|node| {
            let there = node.links.iter().map(|half| (half.link, half.made_at, half.summaries));
            there.chain(node.summaries.iter().copied())
        });
        let mut links: BTreeMap<LinkId, (Time, u64)> = BTreeMap::new();
        for (link, made_at, bytes) in ends {
            let both = links.entry(link).or_insert((Time::MAX, 0));
            *both = (both.0.min(made_at), both.1 + bytes);
        }
        let made_since = links.values().filter(|(made_at, _)| *made_at >= nanos(since));
        made_since.map(|(_, bytes)| *bytes).max().unwrap_or(0)
    }

    /// The id of a message's envelope.
    #[must_use]
    pub fn envelope_id(&self, message: usize) -> EnvelopeId {
        self.world.messages[message].id
    }

    /// How often one node sent one message to one [`Greedy`](super::Conduct::Greedy) node at the most.
    #[must_use]
    pub fn most_answers(&self) -> u32 {
        self.meter().most_answers
    }

    /// What was counted so far.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let meter = self.meter();
        let of = |kinds: &[u8]| kinds.iter().map(|&k| meter.bytes[usize::from(k)]).sum::<u64>();
        let all: u64 = meter.bytes.iter().sum();
        let payload_bytes = of(&[kind::PUSH]);
        Totals {
            payload_bytes,
            control_bytes: all - payload_bytes,
            summary_bytes: of(&[kind::DIGEST, kind::RANGES]),
            range_pull_bytes: of(&[kind::PULL, kind::SERVED]),
            ping_bytes: of(&[kind::PING, kind::PONG]),
            peer_bytes: of(&[6, 7, 8, 9, 10, 11]),
            frames: meter.frames.iter().sum(),
            duplicates: meter.duplicates,
            deliveries: meter.deliveries,
            late: meter.late,
            false_deaths: meter.false_deaths,
            resets: meter.resets,
            misbehaved: meter.misbehaved,
            put_off: meter.put_off,
            gaps: meter.gaps,
            forks: meter.forks,
        }
    }

    fn meter(&self) -> Meter {
        let mut all = Meter::default();
        self.shards.iter().for_each(|shard| all.add(&shard.meter));
        all
    }

    fn got(&self, message: usize, node: usize) -> Got {
        self.node(node).got.get(message).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2p_gossip::Course;
    use p2p_wire::{Envelope, NewEntry, SecretKey, encode_frame};

    #[test]
    fn lengths_are_those_of_the_encoded_frames() {
        let key = SecretKey::from_bytes(&[1; 32]);
        let entry = NewEntry { topic: "", time_ms: 1, recipient: None, payload: &[7; 100] };
        let envelope = Envelope::sign(&key, 1, 1, &[entry]).unwrap();
        let push = Packet::Push {
            id: envelope.id(),
            hops: 3,
            course: Course::Anew,
            age: Duration::ZERO,
            envelope: envelope.bytes().clone(),
        };
        for packet in [push, Packet::Ping(300), Packet::Graft(Some(envelope.id())), Packet::Prune] {
            let len = frame_len(&mut BytesMut::new(), &packet);
            assert_eq!(len, encode_frame(&packet).unwrap().len() as u64, "{packet:?}");
        }
    }
}
