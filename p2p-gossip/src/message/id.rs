//! What names things: keys of nodes, ids of envelopes, spans of one author's seqs.

use std::fmt::Debug;
use std::hash::Hash;
use std::ops::{Range, RangeInclusive};

/// A small key of a neighbour or an author; anything cheap to copy and totally ordered is one.
pub trait Key: Copy + Ord + Hash + Debug {}

impl<T: Copy + Ord + Hash + Debug> Key for T {}

/// Most entries one envelope can hold; the bits of [`Output::Deliver`](super::Output::Deliver)'s `entries`.
pub(crate) const MAX_ENTRIES: u8 = 64;

/// Names one envelope: a bundle of 1 to 64 messages of one author with consecutive numbers.
///
/// The id of a single message is (`author`, seq); its seq is `first + i` for entry `i`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EnvelopeId<A> {
    /// Who signed it.
    pub author: A,
    /// The first seq that the author used since its process started; at most `first`. Holes are looked for
    /// inside a run only.
    pub run: u64,
    /// Seq of the first entry.
    pub first: u64,
    /// Number of entries, 1 to 64.
    pub count: u8,
}

impl<A> EnvelopeId<A> {
    /// Whether some envelope can have this id: 1 to 64 entries, `run <= first`, and no seq overflows.
    pub const fn is_valid(&self) -> bool {
        self.count >= 1
            && self.count <= MAX_ENTRIES
            && self.run <= self.first
            && self.first.checked_add(self.count as u64).is_some()
    }

    /// The seqs of its entries. Saturates at `u64::MAX` for an id that is not valid.
    pub const fn seqs(&self) -> Range<u64> {
        self.first..self.first.saturating_add(self.count as u64)
    }
}

/// All ids of one author, for a range of an ordered map.
pub(crate) fn ids_of<A: Copy>(author: A) -> RangeInclusive<EnvelopeId<A>> {
    let first = EnvelopeId { author, run: 0, first: 0, count: 0 };
    first..=EnvelopeId { author, run: u64::MAX, first: u64::MAX, count: u8::MAX }
}

/// Some seqs of one author.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span<A> {
    /// Whose.
    pub author: A,
    /// The first.
    pub from: u64,
    /// One above the last; more than `from`.
    pub to: u64,
}

impl<A> Span<A> {
    /// Whether it holds any seq.
    pub(crate) const fn is_valid(&self) -> bool {
        self.from < self.to
    }

    /// Whether it has a seq in common with this range.
    pub(crate) const fn meets(&self, seqs: &Range<u64>) -> bool {
        self.from < seqs.end && seqs.start < self.to
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_cannot_be_are_told_apart() {
        let id = |run, first, count| EnvelopeId { author: 1_u32, run, first, count };
        for (id, valid, why) in [
            (id(0, 0, 1), true, "the very first message"),
            (id(5, 5, 64), true, "a full bundle"),
            (id(0, 0, 0), false, "no entries"),
            (id(0, 0, 65), false, "more entries than a bundle holds"),
            (id(6, 5, 1), false, "older than its run"),
            (id(0, u64::MAX - 1, 1), true, "the last seq"),
            (id(0, u64::MAX, 1), false, "its end overflows"),
            (id(0, u64::MAX - 62, 64), false, "its end overflows"),
        ] {
            assert_eq!(id.is_valid(), valid, "{why}");
            assert!(id.seqs().end >= id.first);
        }
    }
}
