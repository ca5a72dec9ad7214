//! Which seqs of one author were seen, as `p2p_gossip` counts them: a floor and the ranges above it.

/// As `p2p_gossip::Config::max_ranges`: beyond, the floor rises over the lowest hole.
const MAX_RANGES: usize = 256;

/// `ranges` are sorted, not empty, do not touch, and lie above `floor`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ranges {
    /// Seqs below it are not looked at again.
    pub(crate) floor: u64,
    pub(crate) ranges: Vec<(u64, u64)>,
}

impl Ranges {
    /// Adds `start..end`.
    pub(crate) fn insert(&mut self, start: u64, end: u64) {
        let start = start.max(self.floor);
        if start >= end {
            return;
        }
        let from = self.ranges.partition_point(|&(_, e)| e < start);
        let to = self.ranges.partition_point(|&(s, _)| s <= end);
        let merged = match self.ranges.get(from..to) {
            Some([(s, e)]) => (start.min(*s), end.max(*e)),
            Some([(s, _), .., (_, e)]) => (start.min(*s), end.max(*e)),
            _ => (start, end),
        };
        self.ranges.splice(from..to, [merged]);
        while let Some(&(start, end)) = self.ranges.first()
            && (start <= self.floor || self.ranges.len() > MAX_RANGES)
        {
            self.ranges.remove(0);
            self.floor = end;
        }
    }

    pub(crate) fn has(&self, seq: u64) -> bool {
        let next = self.ranges.partition_point(|&(start, _)| start <= seq);
        seq < self.floor
            || next.checked_sub(1).and_then(|i| self.ranges.get(i)).is_some_and(|&(_, end)| seq < end)
    }

    /// Floor, then start and end of each range: 8 bytes each, big-endian.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let ranges = self.ranges.iter().flat_map(|&(start, end)| [start, end]);
        std::iter::once(self.floor).chain(ranges).flat_map(u64::to_be_bytes).collect()
    }

    /// `None` if it is nothing that [`Ranges::encode`] gives.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (numbers, rest) = bytes.as_chunks::<8>();
        let mut numbers = numbers.iter().map(|bytes| u64::from_be_bytes(*bytes));
        let mut this = Self { floor: numbers.next()?, ranges: Vec::new() };
        let mut above = this.floor;
        while let Some(start) = numbers.next() {
            let end = numbers.next()?;
            if start <= above || end <= start || this.ranges.len() >= MAX_RANGES {
                return None;
            }
            this.ranges.push((start, end));
            above = end;
        }
        rest.is_empty().then_some(this)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_agrees_with_a_set_and_reads_back(inserts in proptest::collection::vec((0_u64..400, 1_u64..=64), 0..60)) {
            let (mut ranges, mut model) = (Ranges::default(), BTreeSet::new());
            for (start, len) in inserts {
                ranges.insert(start, start + len);
                model.extend(start..start + len);
            }
            for seq in 0..500 {
                prop_assert_eq!(ranges.has(seq), model.contains(&seq));
            }
            prop_assert_eq!(Ranges::decode(&ranges.encode()), Some(ranges));
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            if let Some(ranges) = Ranges::decode(&bytes) {
                prop_assert_eq!(ranges.encode(), bytes);
            }
        }
    }

    #[test]
    fn nothing_seen_is_forgotten_when_there_are_too_many_holes() {
        let mut ranges = Ranges::default();
        for n in 1..=1_000 {
            ranges.insert(n * 10, n * 10 + 1);
        }
        assert_eq!(ranges.ranges.len(), MAX_RANGES);
        assert!((1..=1_000).all(|n| ranges.has(n * 10)));
    }
}
