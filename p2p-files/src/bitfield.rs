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
            }
        }
    }
}
