//! How much of one author is pushed on: what is above waits to be asked for.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::bucket::Bucket;
use crate::message::{EnvelopeId, Key};

/// Authors whose buckets are kept before those that are full again are looked for.
const SWEEP: usize = 1024;

/// A bucket per author that was heard within the last second; no more than `max`.
#[derive(Debug)]
pub(crate) struct Pace<A> {
    per_sec: Option<u32>,
    max: usize,
    authors: BTreeMap<A, Bucket>,
    sweep_at: usize,
}

impl<A: Key> Pace<A> {
    pub(crate) fn new(per_sec: Option<u32>, max: usize) -> Self {
        Self { per_sec, max, authors: BTreeMap::new(), sweep_at: SWEEP }
    }

    /// Counts the entries of an envelope against its author's rate. Whether it was within.
    pub(crate) fn admits(&mut self, now: Instant, id: &EnvelopeId<A>) -> bool {
        let Some(per_sec) = self.per_sec else { return true };
        if self.authors.len() >= self.sweep_at.min(self.max) && !self.authors.contains_key(&id.author) {
            self.authors.retain(|_, bucket| !bucket.is_full(now));
            self.sweep_at = SWEEP.max(2 * self.authors.len());
            if self.authors.len() >= self.max {
                return false;
            }
        }
        let bucket = self.authors.entry(id.author).or_insert_with(|| Bucket::new(now, per_sec, per_sec));
        let within = bucket.has(now);
        if within {
            (0..id.count).for_each(|_| bucket.spend(now));
        }
        within
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "any instant will do as the first")]
mod tests {
    use std::time::Duration;

    use super::*;

    fn id(author: u32, count: u8) -> EnvelopeId<u32> {
        EnvelopeId { author, run: 0, first: 0, count }
    }

    #[test]
    fn an_author_has_its_rate_and_nobody_else_pays() {
        let start = Instant::now();
        let mut pace = Pace::new(Some(100), 10);
        let within =
            (0..10_000).filter(|ms| pace.admits(start + Duration::from_millis(*ms), &id(1, 1))).count();
        assert!((1_090..=1_100).contains(&within), "{within}");
        let end = start + Duration::from_secs(10);
        assert!(pace.admits(end, &id(2, 64)) && pace.admits(end, &id(2, 64)) && !pace.admits(end, &id(2, 1)));
        assert!(Pace::new(None, 0).admits(end, &id(1, 64)));
    }

    #[test]
    fn buckets_are_bounded_and_come_free() {
        let start = Instant::now();
        let mut pace = Pace::new(Some(1), 3);
        assert!((0..3).all(|author| pace.admits(start, &id(author, 1))));
        assert!(!pace.admits(start, &id(3, 1)));
        assert!(pace.admits(start + Duration::from_secs(1), &id(3, 1)));
        assert_eq!(pace.authors.len(), 1);
    }
}
