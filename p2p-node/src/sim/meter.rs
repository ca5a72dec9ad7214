//! What is counted: who got which message when, over how many links, and what went over the links.

use super::queue::Time;

/// Delivery times are kept in steps of 0.1 ms, to keep them in 32 bits.
const STEP: Time = 100_000;

/// What one node had of one message.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Got {
    /// When it was delivered first, in steps after it was sent, plus 1; 0 is never.
    steps: u32,
    /// Copies that arrived; 65,535 stands for more.
    pub(super) copies: u16,
    /// Links that the first copy had travelled; 255 stands for more.
    pub(super) hops: u8,
    /// The life in which it was delivered last, modulo 256.
    life: u8,
}

impl Got {
    /// When it was delivered, after it was sent.
    pub(super) fn delivered_after(&self) -> Option<Time> {
        (self.steps > 0).then(|| Time::from(self.steps - 1) * STEP)
    }

    /// A copy arrived.
    pub(super) fn arrived(&mut self, hops: u16) {
        self.copies = self.copies.saturating_add(1);
        if self.hops == 0 {
            self.hops = u8::try_from(hops).unwrap_or(u8::MAX);
        }
    }

    /// The message was handed to the application; `true`: twice in this life of its node.
    pub(super) fn delivered(&mut self, life: u32, after: Time) -> bool {
        let life = life.to_le_bytes()[0];
        let twice = self.steps > 0 && self.life == life;
        self.life = life;
        if self.steps == 0 {
            self.steps = u32::try_from(after.div_ceil(STEP) + 1).unwrap_or(u32::MAX);
        }
        twice
    }
}

/// What happened at a part of the nodes.
#[derive(Debug, Clone)]
pub(super) struct Meter {
    /// Bytes and frames of each kind that they sent.
    pub(super) bytes: [u64; 256],
    pub(super) frames: [u64; 256],
    pub(super) duplicates: u64,
    pub(super) late: u64,
    pub(super) false_deaths: u64,
    pub(super) resets: u64,
    pub(super) misbehaved: u64,
    pub(super) put_off: u64,
    pub(super) gaps: u64,
    pub(super) forks: u64,
    pub(super) deliveries: u64,
    pub(super) most_answers: u32,
}

impl Default for Meter {
    fn default() -> Self {
        Self {
            bytes: [0; 256],
            frames: [0; 256],
            duplicates: 0,
            late: 0,
            false_deaths: 0,
            resets: 0,
            misbehaved: 0,
            put_off: 0,
            gaps: 0,
            forks: 0,
            deliveries: 0,
            most_answers: 0,
        }
    }
}

impl Meter {
    pub(super) fn add(&mut self, other: &Self) {
        let pairs = |a: &mut [u64; 256], b: &[u64; 256]| {
            a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
        };
        pairs(&mut self.bytes, &other.bytes);
        pairs(&mut self.frames, &other.frames);
        self.duplicates += other.duplicates;
        self.late += other.late;
        self.false_deaths += other.false_deaths;
        self.resets += other.resets;
        self.misbehaved += other.misbehaved;
        self.put_off += other.put_off;
        self.gaps += other.gaps;
        self.forks += other.forks;
        self.deliveries += other.deliveries;
        self.most_answers = self.most_answers.max(other.most_answers);
    }
}
