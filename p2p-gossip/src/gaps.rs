//! Messages that are missing inside a run, although later ones came: each neighbour in turn is asked for them. If all
//! lack them for long enough, the application is told.
//!
//! That a message is missing is known from what was verified alone; what neighbours say they hold or lack makes no
//! hole, and no floor rises because of one.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use rand::Rng;
use tracing::debug;

use crate::claims::MAX_SPANS;
use crate::message::{Key, Message, Output, Span};
use crate::order::Hole;
use crate::state::{Gossip, Timer};

/// The neighbours are asked one after the other, one each so many parts of the time after which all must lack it.
const PARTS: u32 = 60;
/// Whoever does not answer is asked again after twice as long, up to 32 parts of the time.
const DOUBLINGS: u32 = 5;

/// The holes, oldest first.
#[derive(Debug)]
pub(crate) struct Gaps<P, A> {
    holes: VecDeque<Missing<P, A>>,
    max: usize,
}

#[derive(Debug)]
struct Missing<P, A> {
    span: Span<A>,
    since: Instant,
    /// Who said that it lacks it, and when last.
    lacked: BTreeMap<P, Instant>,
    /// Who was asked, when last, and how often without an answer.
    asked: BTreeMap<P, (Instant, u32)>,
    told: bool,
}

/// How a neighbour stands to a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stand {
    /// It may be asked.
    Free,
    /// It was asked, and may still answer.
    Waits,
    /// It said that it lacks it.
    Lacks,
}

impl<P: Key, A> Missing<P, A> {
    fn stand(&self, now: Instant, peer: P, step: Duration, gap_after: Duration) -> Stand {
        let after = |at: Instant| now.saturating_duration_since(at);
        if self.lacked.get(&peer).is_some_and(|at| after(*at) <= gap_after.saturating_mul(2)) {
            return Stand::Lacks;
        }
        match self.asked.get(&peer) {
            None => Stand::Free,
            Some(&(at, times)) if after(at) < step.saturating_mul(1 << times.min(DOUBLINGS)) => Stand::Waits,
            Some(_) => Stand::Free,
        }
    }
}

impl<P: Key, A: Key> Gaps<P, A> {
    pub(crate) fn new(max: usize) -> Self {
        Self { holes: VecDeque::new(), max }
    }

    pub(crate) fn down(&mut self, peer: P) {
        for hole in &mut self.holes {
            hole.lacked.remove(&peer);
            hole.asked.remove(&peer);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.holes.len()
    }

    /// Adds a hole. Whether another one had to go for it.
    fn add(&mut self, now: Instant, span: Span<A>) -> bool {
        if self
            .holes
            .iter()
            .any(|hole| hole.span.author == span.author && hole.span.meets(&(span.from..span.to)))
        {
            return false;
        }
        self.holes.push_back(Missing {
            span,
            since: now,
            lacked: BTreeMap::new(),
            asked: BTreeMap::new(),
            told: false,
        });
        self.holes.len() > self.max && self.holes.pop_front().is_some()
    }
}

impl<P: Key, A: Key, R: Rng> Gossip<P, A, R> {
    /// Holes that the order of an author did not wait for any longer.
    pub(crate) fn note_holes(&mut self, now: Instant, author: A, holes: &[Hole]) {
        for &(_, from, to) in holes {
            let unseen: Vec<_> = self.seen.unseen(&author, from, to).collect();
            for (from, to) in unseen {
                self.stats.holes_forgotten += u64::from(self.gaps.add(now, Span { author, from, to }));
            }
        }
        if self.gaps.len() > 0 && self.timers.get(Timer::Gap).is_none() {
            self.timers.set(Timer::Gap, now.checked_add(self.gap_step()));
        }
    }

    /// What may not come any more. What of it is a hole that somebody was asked for is a gap.
    pub(crate) fn lose(&mut self, lost: Span<A>) {
        let of_it = |hole: &&mut Missing<P, A>| hole.span.author == lost.author && !hole.told;
        for hole in self.gaps.holes.iter_mut().filter(of_it) {
            let (from, to) = (hole.span.from.max(lost.from), hole.span.to.min(lost.to));
            if from < to {
                self.stats.gaps += 1;
                self.outputs.push_back(Output::Gap { missing: Span { from, to, ..lost } });
            }
        }
    }

    fn gap_step(&self) -> Duration {
        (self.config.gap_after / PARTS).max(Duration::from_millis(1))
    }

    pub(crate) fn on_gap_timer(&mut self, now: Instant) {
        let seen = &self.seen;
        self.gaps
            .holes
            .retain(|hole| seen.unseen(&hole.span.author, hole.span.from, hole.span.to).next().is_some());
        let (mut open, step, gap_after) = (false, self.gap_step(), self.config.gap_after);
        let mut asks: BTreeMap<P, Vec<Span<A>>> = BTreeMap::new();
        for hole in self.gaps.holes.iter_mut().filter(|hole| !hole.told) {
            let stand = |peer: P| hole.stand(now, peer, step, gap_after);
            let peers = || self.tree.iter().map(|(peer, _)| peer);
            let waits = peers().any(|peer| stand(peer) == Stand::Waits);
            let free = peers().filter(|peer| stand(*peer) == Stand::Free);
            // Whoever does not answer is behind those that were not asked yet.
            let next = free.min_by_key(|peer| hole.asked.get(peer).map(|(at, _)| *at));
            match next {
                Some(peer) => {
                    let spans = asks.entry(peer).or_default();
                    if spans.len() < MAX_SPANS {
                        spans.push(hole.span);
                        let (at, times) = hole.asked.entry(peer).or_insert((now, 0));
                        (*at, *times) = (now, times.saturating_add(1));
                    }
                }
                None if !waits
                    && self.tree.len() > 0
                    && now.saturating_duration_since(hole.since) >= gap_after =>
                {
                    hole.told = true;
                    debug!(span = ?hole.span, "nobody has it");
                    self.stats.gaps += 1;
                    let unseen = self.seen.unseen(&hole.span.author, hole.span.from, hole.span.to);
                    let missing = unseen.map(|(from, to)| Span { from, to, ..hole.span });
                    self.outputs.extend(missing.map(|missing| Output::Gap { missing }));
                    continue;
                }
                None => {}
            }
            open = true;
        }
        for (peer, spans) in asks {
            let number = self.asks.open(peer, spans.clone(), false);
            self.send(peer, Message::Pull { number, spans });
        }
        let again = now.checked_add(self.gap_step()).filter(|_| open);
        self.timers.set(Timer::Gap, again);
    }

    /// A neighbour answered a question: what did not come with the answer it lacks.
    pub(crate) fn on_asked(&mut self, now: Instant, peer: P, number: u32, done: u16) -> bool {
        let Some(ask) = self.asks.close(peer, number) else { return false };
        for span in ask.spans.iter().take(done.into()) {
            for hole in self.gaps.holes.iter_mut().filter(|hole| hole.span == *span) {
                hole.lacked.insert(peer, now);
                hole.asked.remove(&peer);
            }
        }
        true
    }
}
