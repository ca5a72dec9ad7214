//! A set of seqs of one author: a floor and the ranges above it, exact and small while there are few holes.

/// Everything below `floor`, and `ranges`: sorted, not empty, not touching, above the floor.
///
/// ```
/// use p2p_gossip::Ranges;
///
/// let mut seen = Ranges::default();
/// seen.insert(0, 3);
/// seen.insert(5, 7);
/// assert_eq!((seen.floor(), seen.above()), (3, &[(5, 7)][..]));
/// assert_eq!(seen.gaps(1, 9).collect::<Vec<_>>(), [(3, 5), (7, 9)]);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges {
    floor: u64,
    ranges: Vec<(u64, u64)>,
}

impl Ranges {
    /// From what [`floor`](Self::floor) and [`above`](Self::above) gave. `None` if the ranges do not rise, touch or are
    /// empty.
    #[must_use]
    pub fn from_parts(floor: u64, ranges: Vec<(u64, u64)>) -> Option<Self> {
        let mut above = floor;
        for &(start, end) in &ranges {
            if start <= above || end <= start {
                return None;
            }
            above = end;
        }
        Some(Self { floor, ranges })
    }

    /// Everything below it is in the set.
    #[must_use]
    pub const fn floor(&self) -> u64 {
        self.floor
    }

    /// The ranges above the floor, each from the first up to, not including, the second.
    #[must_use]
    pub fn above(&self) -> &[(u64, u64)] {
        &self.ranges
    }

    /// Adds `start..end`; an empty or reversed range adds nothing.
    pub fn insert(&mut self, start: u64, end: u64) {
        let start = start.max(self.floor);
        if start >= end {
            return;
        }
        // The ranges that overlap or touch [start, end) become one with it.
        let from = self.ranges.partition_point(|&(_, e)| e < start);
        let to = self.ranges.partition_point(|&(s, _)| s <= end);
        let merged = match self.ranges.get(from..to) {
            Some([(s, e)]) => (start.min(*s), end.max(*e)),
            Some([(s, _), .., (_, e)]) => (start.min(*s), end.max(*e)),
            _ => (start, end),
        };
        self.ranges.splice(from..to, [merged]);
        if let Some(&(start, end)) = self.ranges.first()
            && start == self.floor
        {
            self.ranges.remove(0);
            self.floor = end;
        }
    }

    /// Adds everything below `floor`.
    pub fn raise_floor(&mut self, floor: u64) {
        self.insert(0, floor);
    }

    /// Fills the lowest hole, and returns how many seqs that adds; `None` if there is no hole.
    pub fn fill_lowest(&mut self) -> Option<u64> {
        let &(start, end) = self.ranges.first()?;
        let added = start - self.floor;
        self.ranges.remove(0);
        self.floor = end;
        Some(added)
    }

    /// Whether `seq` is in the set.
    #[must_use]
    pub fn has(&self, seq: u64) -> bool {
        let next = self.ranges.partition_point(|&(start, _)| start <= seq);
        seq < self.floor
            || next.checked_sub(1).and_then(|i| self.ranges.get(i)).is_some_and(|&(_, end)| seq < end)
    }

    /// What of `from..to` is not in the set, rising; nothing if `from` is not below `to`.
    pub fn gaps(&self, from: u64, to: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        let first = self.ranges.partition_point(|&(_, end)| end <= from);
        let mut at = from.max(self.floor);
        let above = self.ranges.get(first..).unwrap_or_default().iter().copied();
        above
            .chain([(to.max(at), u64::MAX)])
            .map_while(move |(start, end)| {
                let gap = (at, start.min(to));
                (at < to).then(|| at = at.max(end)).map(|()| gap)
            })
            .filter(|(start, end)| start < end)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_agrees_with_a_set(
            inserts in proptest::collection::vec((0_u64..400, 0_u64..=64), 0..60),
            floor in 0_u64..50,
            (from, len) in (0_u64..400, 0_u64..200),
        ) {
            let (mut ranges, mut model) = (Ranges::default(), BTreeSet::new());
            for (start, len) in inserts {
                ranges.insert(start, start + len);
                model.extend(start..start + len);
            }
            ranges.raise_floor(floor);
            model.extend(0..floor);
            for seq in 0..500 {
                prop_assert_eq!(ranges.has(seq), model.contains(&seq));
            }
            let gaps: Vec<_> = ranges.gaps(from, from + len).collect();
            prop_assert!(gaps.windows(2).all(|w| w[0].1 < w[1].0) && gaps.iter().all(|(s, e)| s < e));
            let missing: Vec<u64> = gaps.iter().flat_map(|&(s, e)| s..e).collect();
            let expected: Vec<u64> = (from..from + len).filter(|seq| !model.contains(seq)).collect();
            prop_assert_eq!(missing, expected);
            let again = Ranges::from_parts(ranges.floor(), ranges.above().to_vec());
            prop_assert_eq!(again, Some(ranges.clone()));
            while let Some(added) = ranges.fill_lowest() {
                let holes = (0..ranges.floor()).filter(|seq| !model.contains(seq)).count();
                prop_assert!(added <= holes as u64);
            }
            prop_assert_eq!(ranges.floor(), model.last().map_or(0, |last| last + 1));
        }
    }

    #[test]
    fn parts_that_do_not_fit_are_refused() {
        for ranges in [vec![(3, 5)], vec![(5, 5)], vec![(6, 5)], vec![(5, 6), (6, 7)], vec![(8, 9), (5, 6)]] {
            assert_eq!(Ranges::from_parts(3, ranges.clone()), None, "{ranges:?}");
        }
    }

    #[test]
    fn the_ends_of_the_numbers_do_not_overflow() {
        let mut ranges = Ranges::default();
        ranges.insert(u64::MAX - 1, u64::MAX);
        assert_eq!(ranges.gaps(0, u64::MAX).collect::<Vec<_>>(), [(0, u64::MAX - 1)]);
        assert_eq!(ranges.gaps(5, 5).count() + ranges.gaps(6, 5).count(), 0);
    }
}
