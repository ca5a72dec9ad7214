//! Which messages were verified: per author a floor and the ranges above it, exact and bounded.

use std::collections::BTreeMap;

use crate::message::{EnvelopeId, Key};
use crate::ranges::Ranges;
use crate::restore::AuthorState;

/// What we know of the seqs of one id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// At least one seq was never seen: bit `i` for seq `first + i`.
    New(u64),
    /// Each seq was verified.
    Seen,
    /// Each seq was verified or lies under the floor, and at least one was perhaps never seen.
    Old,
}

/// The seen seqs of all authors. Raised only by what was verified.
///
/// An author starts with floor 0 and nothing seen, so that what was sent before we met can still come. When
/// an author has too many ranges, its floor rises over the lowest one: the hole between is given up.
#[derive(Debug)]
pub(crate) struct Seen<A> {
    authors: BTreeMap<A, Author>,
    ranges: usize,
    max_authors: usize,
    max_ranges: usize,
    max_ranges_total: usize,
}

#[derive(Debug, Default)]
struct Author {
    /// Seqs below it were all seen; at most the floor of `seen`.
    whole: u64,
    /// Seqs below its floor are not looked at again.
    seen: Ranges,
}

impl<A: Key> Seen<A> {
    /// Knows `me` from the start, whatever the limit.
    pub(crate) fn new(me: A, max_authors: usize, max_ranges: usize, max_ranges_total: usize) -> Self {
        Self {
            authors: BTreeMap::from([(me, Author::default())]),
            ranges: 0,
            max_authors,
            max_ranges: max_ranges.max(1),
            max_ranges_total,
        }
    }

    /// Marks all seqs of a verified id. Returns the holes that were given up for it, or `None` if the author is new and the
    /// table full.
    pub(crate) fn insert(&mut self, id: &EnvelopeId<A>) -> Option<Vec<(u64, u64)>> {
        if self.is_full() && !self.knows(&id.author) {
            return None;
        }
        let author = self.authors.entry(id.author).or_default();
        let before = author.holes();
        author.insert(id.seqs().start, id.seqs().end);
        let others = self.ranges - before;
        let given_up = author.shrink(self.max_ranges, self.max_ranges_total.saturating_sub(others));
        self.ranges = others + author.holes();
        Some(given_up)
    }

    pub(crate) fn status(&self, id: &EnvelopeId<A>) -> Status {
        let Some(author) = self.authors.get(&id.author) else {
            return Status::New(all_entries(id));
        };
        let mut unseen = 0;
        let mut old = false;
        for (bit, seq) in id.seqs().enumerate() {
            if seq < author.seen.floor() {
                old |= seq >= author.whole;
            } else if !author.seen.has(seq) {
                unseen |= 1 << bit;
            }
        }
        match (unseen, old) {
            (0, true) => Status::Old,
            (0, false) => Status::Seen,
            _ => Status::New(unseen),
        }
    }

    /// Takes up what an earlier process saw. Whether there was room for the author.
    pub(crate) fn restore(&mut self, state: &AuthorState<A>) -> bool {
        if self.is_full() && !self.knows(&state.author) {
            return false;
        }
        let author = self.authors.entry(state.author).or_default();
        let before = author.holes();
        author.seen.raise_floor(state.floor);
        author.whole = author.whole.max(state.whole.min(state.floor));
        for &(start, end) in &state.ranges {
            author.insert(start, end);
        }
        // The earlier process may have had more room; what it saw stays seen.
        let others = self.ranges - before;
        author.shrink(self.max_ranges, self.max_ranges_total.saturating_sub(others));
        self.ranges = others + author.holes();
        true
    }

    pub(crate) fn state(&self, key: &A) -> Option<AuthorState<A>> {
        let Author { whole, seen } = self.authors.get(key)?;
        let (floor, ranges) = (seen.floor(), seen.above().to_vec());
        Some(AuthorState { author: *key, floor, whole: *whole, ranges, delivered: None })
    }

    /// What of `from..to` was never seen and may still come.
    pub(crate) fn unseen(&self, author: &A, from: u64, to: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        let known = self.authors.get(author);
        let all = (known.is_none() && from < to).then_some((from, to));
        known.into_iter().flat_map(move |author| author.seen.gaps(from, to)).chain(all)
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &A> {
        self.authors.keys()
    }

    pub(crate) fn knows(&self, author: &A) -> bool {
        self.authors.contains_key(author)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.authors.len() >= self.max_authors
    }

    pub(crate) fn authors(&self) -> usize {
        self.authors.len()
    }
}

impl Author {
    fn insert(&mut self, start: u64, end: u64) {
        let floor = self.seen.floor();
        self.seen.insert(start, end);
        if self.whole == floor {
            self.whole = self.seen.floor();
        }
    }

    /// Gives up the lowest holes until there are at most so many, and of all authors together as many as are left; one is always
    /// kept. Returns them.
    fn shrink(&mut self, max: usize, left: usize) -> Vec<(u64, u64)> {
        let mut given_up = Vec::new();
        while self.holes() > max.min(left).max(1) {
            let from = self.seen.floor();
            given_up.extend(self.seen.fill_lowest().map(|seqs| (from, from + seqs)));
        }
        given_up
    }

    /// Ranges above the floor, each with a hole below it.
    fn holes(&self) -> usize {
        self.seen.above().len()
    }
}

/// One bit per entry of a valid id.
pub(crate) fn all_entries<A>(id: &EnvelopeId<A>) -> u64 {
    u64::MAX >> (64_u32.saturating_sub(u32::from(id.count))).min(63)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn id(author: u32, first: u64, count: u8) -> EnvelopeId<u32> {
        EnvelopeId { author, run: 0, first, count }
    }

    #[test]
    fn only_unseen_entries_of_an_overlapping_bundle_are_new() {
        let mut seen = Seen::new(0, 9, 8, 64);
        assert_eq!(seen.status(&id(1, 10, 64)), Status::New(u64::MAX));
        assert_eq!(seen.insert(&id(1, 10, 2)), Some(vec![]));
        assert_eq!(seen.status(&id(1, 9, 4)), Status::New(0b1001));
        assert_eq!(seen.status(&id(1, 10, 2)), Status::Seen);
        assert_eq!(seen.status(&id(2, 10, 2)), Status::New(0b11));
    }

    #[test]
    fn a_full_author_gives_up_its_lowest_hole_and_counts_it() {
        let mut seen = Seen::new(0, 9, 2, 64);
        for first in [10, 20] {
            assert_eq!(seen.insert(&id(1, first, 1)), Some(vec![]));
        }
        assert_eq!(seen.insert(&id(1, 30, 1)), Some(vec![(0, 10)]));
        assert_eq!(seen.status(&id(1, 5, 1)), Status::Old);
        assert_eq!(seen.status(&id(1, 12, 1)), Status::New(1));
        assert_eq!(seen.status(&id(1, 20, 1)), Status::Seen);
    }

    #[test]
    fn a_full_table_refuses_new_authors_and_serves_known_ones() {
        let mut seen = Seen::new(0, 2, 8, 64);
        assert_eq!(seen.insert(&id(1, 0, 1)), Some(vec![]));
        assert_eq!(seen.insert(&id(2, 0, 1)), None);
        assert_eq!(seen.insert(&id(1, 1, 1)), Some(vec![]));
        assert_eq!(seen.authors(), 2);
    }

    #[test]
    fn what_an_earlier_process_saw_stays_seen_where_there_is_less_room() {
        let ranges = (1..=100).map(|n| (n * 10, n * 10 + 1)).collect();
        let state = AuthorState { author: 1, floor: 0, whole: 0, ranges, delivered: None };
        let mut seen = Seen::new(0, 9, 8, 64);
        assert!(seen.restore(&state));
        assert!((1..=100).all(|n| !matches!(seen.status(&id(1, n * 10, 1)), Status::New(_))));
        assert_eq!(seen.authors[&1].holes(), 8);
    }

    proptest! {
        /// Against a plain set: with room for every hole it is exact; without, it never forgets what it saw.
        #[test]
        fn it_agrees_with_a_set(
            ids in proptest::collection::vec((0_u64..300, 1_u8..=64), 0..60),
            max_ranges in 1_usize..200,
        ) {
            let mut seen = Seen::new(0, 9, max_ranges, 1_000);
            let mut model = BTreeSet::new();
            let mut given_up = 0;
            for (first, count) in ids {
                let id = id(7, first, count);
                let status = seen.status(&id);
                let unseen: u64 = id.seqs().enumerate()
                    .filter(|(_, seq)| !model.contains(seq))
                    .map(|(bit, _)| 1 << bit)
                    .sum();
                match status {
                    Status::New(mask) => prop_assert_eq!(mask & !unseen, 0),
                    Status::Seen => prop_assert_eq!(unseen, 0),
                    Status::Old => prop_assert!(given_up > 0),
                }
                if given_up == 0 {
                    prop_assert_eq!(status, if unseen == 0 { Status::Seen } else { Status::New(unseen) });
                }
                given_up += seen.insert(&id).unwrap().len();
                model.extend(id.seqs());
                let author = &seen.authors[&7];
                prop_assert!(author.holes() <= max_ranges);
                prop_assert_eq!(author.holes(), seen.ranges);
                let unseen: Vec<u64> = seen.unseen(&7, 5, 200).flat_map(|(start, end)| start..end).collect();
                let expected = (5..200).filter(|seq| !model.contains(seq) && *seq >= author.seen.floor());
                prop_assert_eq!(unseen, expected.collect::<Vec<_>>());
            }
            prop_assert_eq!(seen.unseen(&8, 3, 9).collect::<Vec<_>>(), [(3, 9)]);
        }

        #[test]
        fn all_ranges_together_are_bounded(
            ids in proptest::collection::vec((0_u32..10, 0_u64..u64::MAX - 64, 1_u8..=64), 0..200),
        ) {
            let mut seen = Seen::new(0, 10, 8, 20);
            for (author, first, count) in ids {
                prop_assert!(seen.insert(&id(author, first, count)).is_some());
                prop_assert_eq!(seen.ranges, seen.authors.values().map(Author::holes).sum::<usize>());
                prop_assert!(seen.ranges <= 20 + 10);
            }
        }
    }
}
