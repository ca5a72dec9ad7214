//! One link as the views see it.

use std::time::{Duration, Instant};

use crate::Direction;

/// Where the agreement about a link stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// We dialled and asked; until then an answer must come.
    Asked(Instant),
    /// It dialled; until then it must ask.
    Waiting(Instant),
    /// Neighbours, since then.
    Active(Instant),
    /// Refused or given up; until then the other side should have closed.
    Leaving(Instant),
}

#[derive(Debug)]
pub(super) struct Link<P> {
    pub(super) direction: Direction,
    pub(super) asked: bool,
    pub(super) via: Option<P>,
    pub(super) phase: Phase,
    pub(super) walks: Walks,
}

impl<P> Link<P> {
    pub(super) const fn is_active(&self) -> bool {
        matches!(self.phase, Phase::Active(_))
    }

    pub(super) const fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Asked(at) | Phase::Waiting(at) | Phase::Leaving(at) => Some(at),
            Phase::Active(_) => None,
        }
    }
}

/// A rate, as that of walks from one neighbour: a bucket that holds four seconds' worth.
#[derive(Debug, Default)]
pub struct Walks {
    /// When the bucket would be full, were nothing more taken; `None`: it is.
    full_at: Option<Instant>,
}

impl Walks {
    /// Whether one more may come; if so it is counted.
    pub fn take(&mut self, now: Instant, per_sec: u32) -> bool {
        let next = self.full_at.map_or(now, |at| at.max(now)) + Duration::from_secs(1) / per_sec.max(1);
        let allowed = next.saturating_duration_since(now) <= Duration::from_secs(4);
        if allowed {
            self.full_at = Some(next);
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_seconds_worth_at_once_then_the_rate() {
        let start = crate::testing::start();
        let mut walks = Walks::default();
        assert_eq!((0..1000).filter(|_| walks.take(start, 50)).count(), 200);
        let later = start + Duration::from_secs(1);
        assert_eq!((0..1000).filter(|_| walks.take(later, 50)).count(), 50);
    }
}
