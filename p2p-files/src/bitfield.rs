//! A fixed number of bits: which chunks are held.

/// `len` bits, all clear at first; memory is one bit each (128 KiB for the chunks of 1 TiB).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bitfield {
    words: Vec<u64>,
    len: u64,
    ones: u64,
}

impl Bitfield {
    /// `len` clear bits.
    ///
    /// # Panics
    ///
    /// When the memory for that many bits cannot be addressed (32-bit systems).
    #[must_use]
    pub fn new(len: u64) -> Self {
        let words = usize::try_from(len.div_ceil(64)).expect("a bit for each chunk fits in memory");
        Self { words: vec![0; words], len, ones: 0 }
    }

    /// Sets a bit; true if it was clear. A bit beyond the end stays what it is and gives false.
    pub fn set(&mut self, index: u64) -> bool {
        if index >= self.len || self.get(index) {
            return false;
        }
        let (word, mask) = Self::place(index);
        self.words[word] |= mask;
        self.ones += 1;
        true
    }

    /// Clears a bit; true if it was set.
    pub fn clear(&mut self, index: u64) -> bool {
        if !self.get(index) {
            return false;
        }
        let (word, mask) = Self::place(index);
        self.words[word] &= !mask;
        self.ones -= 1;
        true
    }

    /// The first bit from `index` on that is set here and, if that is given, in `with`.
    pub(crate) fn next_one(&self, index: u64, with: Option<&Self>) -> Option<u64> {
        let (first, _) = Self::place(index);
        let mut below = (1 << (index % 64)) - 1;
        for (at, word) in self.words.iter().enumerate().skip(first) {
            let also = with.map_or(u64::MAX, |with| with.words.get(at).copied().unwrap_or(0));
            let found = word & also & !below;
            if found != 0 {
                return Some(at as u64 * 64 + u64::from(found.trailing_zeros()));
            }
            below = 0;
        }
        None
    }

    /// The bits from `first` (a multiple of 8) on, `count` of them or as many as there are, most significant first.
    pub(crate) fn to_bytes(&self, first: u64, count: u64) -> Vec<u8> {
        let end = self.len.min(first.saturating_add(count));
        let byte = |at: u64| (0..8).fold(0, |byte, bit| byte | (u8::from(self.get(at + bit)) << (7 - bit)));
        (first..end).step_by(8).map(byte).collect()
    }

    /// Number of bits set from `first` on, `count` of them or as many as there are.
    pub(crate) fn ones_in(&self, first: u64, count: u64) -> u64 {
        let end = self.len.min(first.saturating_add(count));
        if first == 0 && end == self.len {
            return self.ones;
        }
        let mut ones = 0;
        let mut at = first;
        while at < end {
            let (word, _) = Self::place(at);
            let take = (64 - at % 64).min(end - at);
            let bits = self.words[word] >> (at % 64);
            let bits = if take < 64 { bits & ((1 << take) - 1) } else { bits };
            ones += u64::from(bits.count_ones());
            at += take;
        }
        ones
    }

    /// Sets the bits that are set in `bytes`, whose first bit is number `first`; what lies beyond the end is left out.
    pub(crate) fn set_bytes(&mut self, first: u64, bytes: &[u8]) {
        for (at, byte) in (0u64..).zip(bytes).filter(|(_, byte)| **byte != 0) {
            let ones = (0..8).filter(|bit| byte >> (7 - bit) & 1 == 1);
            ones.for_each(|bit| {
                self.set(first.saturating_add(8 * at + bit));
            });
        }
    }

    /// Whether a bit is set; false beyond the end.
    #[must_use]
    pub fn get(&self, index: u64) -> bool {
        let (word, mask) = Self::place(index);
        index < self.len && self.words[word] & mask != 0
    }

    /// Number of bits.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no bits at all.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Number of bits that are set.
    #[must_use]
    pub const fn ones(&self) -> u64 {
        self.ones
    }

    /// Whether every bit is set; true for a bitfield without bits.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.ones == self.len
    }

    fn place(index: u64) -> (usize, u64) {
        (usize::try_from(index / 64).unwrap_or(usize::MAX), 1 << (index % 64))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_set_of_numbers(len in 0..300u64, indices in prop::collection::vec(any::<u64>(), 0..200)) {
            let mut bits = Bitfield::new(len);
            let mut model = BTreeSet::new();
            for index in indices {
                let index = index % 320;
                prop_assert_eq!(bits.set(index), index < len && model.insert(index));
                prop_assert_eq!(bits.ones(), model.len() as u64);
                prop_assert_eq!(bits.is_full(), model.len() as u64 == len);
            }
            for index in (0..320).chain([u64::MAX]) {
                prop_assert_eq!(bits.get(index), model.contains(&index));
                prop_assert_eq!(bits.next_one(index, None), model.range(index..).next().copied());
            }
        }

        #[test]
        fn it_travels_as_bytes(len in 1..300u64, indices in prop::collection::vec(0..300u64, 0..200), first in 0..40u64, count in 1..400u64) {
            let mut bits = Bitfield::new(len);
            indices.iter().for_each(|index| { bits.set(*index); });
            let first = first * 8;
            let bytes = bits.to_bytes(first, count.next_multiple_of(8));
            let mut copy = Bitfield::new(len);
            copy.set_bytes(first, &bytes);
            let inside = |index: &u64| (first..first + count.next_multiple_of(8)).contains(index);
            prop_assert_eq!(copy.ones(), bits.ones_in(first, count.next_multiple_of(8)));
            for index in 0..len {
                prop_assert_eq!(copy.get(index), inside(&index) && bits.get(index));
                prop_assert_eq!(bits.next_one(index, Some(&copy)), copy.next_one(index, None));
            }
            copy.set_bytes(u64::MAX - 7, &[255; 3]);
            let gone = indices.iter().filter(|index| bits.clear(**index)).count() as u64;
            prop_assert_eq!((bits.ones(), gone <= len), (0, true));
        }
    }
}
