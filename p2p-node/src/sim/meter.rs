//! What is counted: who got which message when, over how many links, and what went over the links.

use std::collections::HashMap;

use p2p_wire::EnvelopeId;

use super::link::mix;
use super::queue::Time;

/// Delivery times are kept in steps of 0.1 ms, to keep them in 32 bits.
const STEP: Time = 100_000;

/// One published message.
#[derive(Debug)]
pub(super) struct Tracked {
    pub(super) id: EnvelopeId,
    pub(super) author: u32,
    pub(super) sent_at: Time,
    /// By node: when it was delivered, in steps after `sent_at`, plus 1; 0 is never.
    delivered: Vec<u32>,
    /// By node: links that its first copy had travelled.
    hops: Vec<u8>,
    /// By node: the life in which it was delivered last, modulo 256.
    lives: Vec<u8>,
    /// Copies that arrived anywhere.
    pub(super) copies: u64,
}

impl Tracked {
    /// When it was delivered to this node, after it was sent.
    pub(super) fn delivered_after(&self, node: usize) -> Option<Time> {
        let steps = *self.delivered.get(node)?;
        (steps > 0).then(|| Time::from(steps - 1) * STEP)
    }

    pub(super) fn hops(&self, node: usize) -> u8 {
        self.hops.get(node).copied().unwrap_or(0)
    }
}

/// Bytes and frames of each kind, sent by all nodes together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Traffic {
    pub(super) bytes: [u64; 256],
    pub(super) frames: [u64; 256],
}

impl Default for Traffic {
    fn default() -> Self {
        Self { bytes: [0; 256], frames: [0; 256] }
    }
}

#[derive(Debug, Default)]
pub(super) struct Meter {
    pub(super) messages: Vec<Tracked>,
    /// Author and seq, mixed, to the message. Two that mix to the same 64 bits: not in this universe's lifetime.
    numbers: HashMap<u64, u32>,
    pub(super) traffic: Traffic,
    pub(super) duplicates: u64,
    pub(super) late: u64,
    pub(super) false_deaths: u64,
    pub(super) misbehaved: u64,
    pub(super) announced_instead: u64,
    pub(super) gaps: u64,
    pub(super) forks: u64,
    pub(super) deliveries: u64,
    /// By message, sender and greedy receiver: copies sent.
    answers: HashMap<(u64, u32, u32), u32>,
    pub(super) most_answers: u32,
}

fn key(id: &EnvelopeId) -> u64 {
    let (head, _) = id.author.as_bytes().split_first_chunk::<8>().expect("an id has 32 bytes");
    u64::from_be_bytes(*head) ^ mix(id.first)
}

impl Meter {
    pub(super) fn publish(&mut self, id: &EnvelopeId, author: u32, now: Time, nodes: usize) -> usize {
        let number = self.messages.len();
        self.numbers.insert(key(id), super::queue::index(number));
        self.messages.push(Tracked {
            id: *id,
            author,
            sent_at: now,
            delivered: vec![0; nodes],
            hops: vec![0; nodes],
            lives: vec![0; nodes],
            copies: 0,
        });
        number
    }

    fn find(&mut self, id: &EnvelopeId) -> Option<&mut Tracked> {
        let number = *self.numbers.get(&key(id))?;
        self.messages.get_mut(number as usize)
    }

    /// A copy arrived at a node.
    pub(super) fn arrived(&mut self, id: &EnvelopeId, node: u32, hops: u16) {
        let Some(message) = self.find(id) else { return };
        message.copies += 1;
        if let Some(first @ 0) = message.hops.get_mut(node as usize) {
            *first = u8::try_from(hops).unwrap_or(u8::MAX);
        }
    }

    /// A copy arrived at a greedy node.
    pub(super) fn answered(&mut self, id: &EnvelopeId, from: u32, to: u32) {
        let copies = self.answers.entry((key(id), from, to)).or_default();
        *copies += 1;
        self.most_answers = self.most_answers.max(*copies);
    }

    /// The message was handed to a node's application.
    pub(super) fn delivered(&mut self, id: &EnvelopeId, node: u32, life: u32, now: Time, late: bool) {
        self.deliveries += 1;
        self.late += u64::from(late);
        let life = life.to_le_bytes()[0];
        let Some(message) = self.find(id) else { return };
        let after = now.saturating_sub(message.sent_at).div_ceil(STEP);
        let Some(steps) = message.delivered.get_mut(node as usize) else { return };
        let twice = *steps > 0 && message.lives[node as usize] == life;
        message.lives[node as usize] = life;
        if *steps == 0 {
            *steps = u32::try_from(after + 1).unwrap_or(u32::MAX);
        }
        self.duplicates += u64::from(twice);
    }
}
