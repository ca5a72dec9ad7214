//! Every number of the views, with its reason.

use std::time::Duration;

use crate::config::{LONGEST, MOST};

/// Shorter waits count as this one, or what is due again at once would never let a transport rest.
const SHORTEST: Duration = Duration::from_millis(1);

/// Ids told in one sample, and taken from one list. Sixteen records of 275 bytes are far below a control frame.
pub const MAX_SAMPLE: usize = 16;

/// How the views decide. `Default` is for networks of 2 to 100,000 nodes. Times below 1 ms count as 1 ms, those of more than ten
/// years as ten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Look for neighbours by itself, shuffle and feel. Off: links that were asked for become neighbours, and others'
    /// requests are answered. Default on.
    pub discover: bool,
    /// Neighbours at most; of those the user asked for, what is more than half of this comes on top. Default 10: the
    /// bar of a mean degree of 10, and a full mesh of 11 nodes (the paper has 5; more neighbours make the tree
    /// shallower).
    pub active: usize,
    /// Neighbours below which others are looked for, in a network larger than `active`. Default 8: the rest is room
    /// for those who join, so that few are refused.
    pub seek: usize,
    /// Neighbours that we dialled, at least, where there is anybody to dial; as many of the oldest of them no request
    /// displaces. Default 3 (faults row 23).
    pub outbound: usize,
    /// Of the neighbours that dialled us, the oldest that no request displaces. Default 4 (a guess, after Bitcoin's
    /// protection of long-lived peers).
    pub protected: usize,
    /// Peers kept to replace neighbours with. Default 30 (HyParView, section 5.1, for 10,000 nodes).
    pub passive: usize,
    /// Of these, told by one neighbour. Default 10, a third (faults row 23).
    pub passive_per_source: usize,
    /// Links that the news of somebody who joins walks: ARWL of the paper, 6.
    pub walk: u8,
    /// Links left when it is put into the passive view on the way: PRWL of the paper, 3.
    pub walk_passive: u8,
    /// Such walks per joiner. Default 5, one per neighbour of the paper's active view.
    pub walks: usize,
    /// Peers told in an answer to a request or with a goodbye, at most [`MAX_SAMPLE`]. Default 10, as many as are kept of
    /// one source.
    pub sample: usize,
    /// Links that a shuffle walks. Default 4 (a guess: two links already reach some 70 nodes).
    pub shuffle_walk: u8,
    /// Neighbours told in a shuffle: 3, and peers of the passive view: 4 (the paper, section 5.1).
    pub shuffle_active: usize,
    /// See [`shuffle_active`](Self::shuffle_active).
    pub shuffle_passive: usize,
    /// Between shuffles; the first come after 1, 2, 4, ... s. Up to a half is taken off at random. Default 60 s (a
    /// guess: 300 bytes/s).
    pub shuffle_every: Duration,
    /// Attempts at replacing neighbours at once; 2 even for one. Default 4 (a guess).
    pub parallel: usize,
    /// The same for a node that has no neighbour. Default 8: where four of five machines died, four attempts of 5 s fail
    /// two times in five, and eight one time in six.
    pub parallel_alone: usize,
    /// An attempt that has come to nothing after this no longer counts. Default 15 s: a dial of 5 s and a handshake of
    /// 10 s.
    pub dial_wait: Duration,
    /// How long a link may be without agreement whether it is a neighbour's. Default 10 s, as a handshake.
    pub answer_wait: Duration,
    /// How long a neighbour that was replaced for what it did is neither asked nor taken, and how long an id that
    /// displaced another cannot do so again. Default 60 s (faults row 20).
    pub cold: Duration,
    /// Between two neighbours replaced because they withhold. Default 30 s (faults row 25: 2 a minute).
    pub replace_every: Duration,
    /// Between dials that only find out whether somebody is there. Default 2 min (faults row 23).
    pub feel_every: Duration,
    /// Between two goes at the addresses the user once named, when all neighbours are known from one source. Default
    /// 10 min (a guess).
    pub reseed_every: Duration,
    /// Neighbours per second that give way to somebody new whose news ended its walk here, with a burst of four times as
    /// many; never the oldest. Default 2: a guess between joins, which should end anywhere, and what a liar may move.
    pub makes_way_per_sec: u32,
    /// Walks (news of joiners, shuffles) taken from one neighbour per second, with a burst of four times as many; the
    /// rest is dropped and counted. Default 50: what 50 joiners a second through one neighbour make at the worst.
    pub walks_per_sec: u32,
}

impl Default for Config {
    fn default() -> Self {
        let secs = Duration::from_secs;
        Self {
            discover: true,
            active: 10,
            seek: 8,
            outbound: 3,
            protected: 4,
            passive: 30,
            passive_per_source: 10,
            walk: 6,
            walk_passive: 3,
            walks: 5,
            sample: 10,
            shuffle_walk: 4,
            shuffle_active: 3,
            shuffle_passive: 4,
            shuffle_every: secs(60),
            parallel: 4,
            parallel_alone: 8,
            dial_wait: secs(15),
            answer_wait: secs(10),
            cold: secs(60),
            replace_every: secs(30),
            feel_every: secs(120),
            reseed_every: secs(600),
            makes_way_per_sec: 2,
            walks_per_sec: 50,
        }
    }
}

impl Config {
    /// The same where no sum overflows and nothing is due again at once.
    pub(super) fn within_reason(mut self) -> Self {
        for number in [
            &mut self.active,
            &mut self.seek,
            &mut self.outbound,
            &mut self.protected,
            &mut self.passive,
            &mut self.passive_per_source,
            &mut self.walks,
            &mut self.sample,
            &mut self.shuffle_active,
            &mut self.shuffle_passive,
            &mut self.parallel,
            &mut self.parallel_alone,
        ] {
            *number = MOST.min(*number);
        }
        for time in [
            &mut self.shuffle_every,
            &mut self.dial_wait,
            &mut self.answer_wait,
            &mut self.cold,
            &mut self.replace_every,
            &mut self.feel_every,
            &mut self.reseed_every,
        ] {
            *time = (*time).clamp(SHORTEST, LONGEST);
        }
        self
    }
}
