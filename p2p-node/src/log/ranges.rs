//! Which seqs of one author were seen: [`Ranges`] bounded in number, and as bytes.

use p2p_gossip::Ranges;

/// As `p2p_gossip::Config::max_ranges`: beyond, the floor rises over the lowest hole.
const MAX_RANGES: usize = 4_096;

/// Adds `start..end`; nothing that was added is ever forgotten.
pub(super) fn add(ranges: &mut Ranges, start: u64, end: u64) {
    ranges.insert(start, end);
    while ranges.above().len() > MAX_RANGES {
        ranges.fill_lowest();
    }
}

/// Adds all of `more`.
pub(super) fn add_all(ranges: &mut Ranges, more: &Ranges) {
    ranges.raise_floor(more.floor());
    more.above().iter().for_each(|&(start, end)| add(ranges, start, end));
}

/// Floor, then start and end of each range: 8 bytes each, big-endian.
pub(super) fn encode(ranges: &Ranges) -> Vec<u8> {
    let above = ranges.above().iter().flat_map(|&(start, end)| [start, end]);
    std::iter::once(ranges.floor()).chain(above).flat_map(u64::to_be_bytes).collect()
}

/// `None` if it is nothing that [`encode`] gives.
pub(super) fn decode(bytes: &[u8]) -> Option<Ranges> {
    let (numbers, rest) = bytes.as_chunks::<8>();
    let mut numbers = numbers.iter().map(|bytes| u64::from_be_bytes(*bytes));
    let floor = numbers.next()?;
    let mut above = Vec::new();
    while let Some(start) = numbers.next() {
        above.push((start, numbers.next()?));
    }
    let fits = rest.is_empty() && above.len() <= MAX_RANGES;
    Ranges::from_parts(floor, above).filter(|_| fits)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_reads_back(inserts in proptest::collection::vec((0_u64..400, 1_u64..=64), 0..60)) {
            let mut ranges = Ranges::default();
            for (start, len) in inserts {
                add(&mut ranges, start, start + len);
            }
            prop_assert_eq!(decode(&encode(&ranges)), Some(ranges));
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            if let Some(ranges) = decode(&bytes) {
                prop_assert_eq!(encode(&ranges), bytes);
            }
        }
    }

    #[test]
    fn nothing_seen_is_forgotten_when_there_are_too_many_holes() {
        let mut ranges = Ranges::default();
        for n in 1..=5_000 {
            add(&mut ranges, n * 10, n * 10 + 1);
        }
        assert_eq!(ranges.above().len(), MAX_RANGES);
        assert_eq!(
            MAX_RANGES,
            p2p_gossip::Config::default().max_ranges,
            "what is kept is what the core takes up"
        );
        assert!((1..=5_000).all(|n| ranges.has(n * 10)));
    }
}
