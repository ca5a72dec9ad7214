//! Which chunk to ask of whom. No clock, no sockets: sources ask it, and tell it what became of their requests.
//!
//! A chunk is missing, in flight at one or two sources, or held, never two of these; only the methods here move it.
//! Chunks go out in order, so a file on disk grows from its start. When none is missing any more, a source that has
//! nothing to do may double a request that another source has open (the endgame), so that one slow source does not hold
//! up the end; the number of doubled requests is bounded.

use std::collections::{BTreeMap, BTreeSet};

use crate::bitfield::Bitfield;

/// Most sources that are asked for the same chunk at the same time.
const HOLDERS_MAX: usize = 2;

/// Least number of doubled requests that are allowed in one download; for large files 2 % of the chunks.
const DOUBLES_MIN: u64 = 16;

/// Who of the sources of a download.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(pub(crate) u64);

/// The state of every chunk of one download.
///
/// ```
/// use p2p_files::{Picker, SourceId};
///
/// let (fast, slow) = (SourceId::from_number(1), SourceId::from_number(2));
/// let mut picker = Picker::new(2);
/// assert_eq!(picker.take(slow, |_| true), Some(0));
/// assert_eq!(picker.take(fast, |_| true), Some(1));
/// assert!(picker.complete(1));
/// assert_eq!(picker.take(fast, |_| true), Some(0), "the endgame");
/// assert!(picker.complete(0) && picker.is_complete());
/// ```
#[derive(Debug)]
pub struct Picker {
    held: Bitfield,
    /// Chunks from here on were never asked for.
    next: u64,
    /// Chunks before `next` that are missing: given back, or not had by the sources that asked.
    returned: BTreeSet<u64>,
    in_flight: BTreeMap<u64, Vec<SourceId>>,
    doubles: u64,
}

impl SourceId {
    /// A source with this number; equal numbers are the same source.
    #[must_use]
    pub const fn from_number(number: u64) -> Self {
        Self(number)
    }
}

impl Picker {
    /// A download of `chunks` chunks of which none is held.
    ///
    /// # Panics
    ///
    /// When a bit for each chunk does not fit in memory (32-bit systems).
    #[must_use]
    pub fn new(chunks: u64) -> Self {
        Self::resume(Bitfield::new(chunks))
    }

    /// A download that goes on: what is held already is not asked for.
    #[must_use]
    pub const fn resume(held: Bitfield) -> Self {
        Self { held, next: 0, returned: BTreeSet::new(), in_flight: BTreeMap::new(), doubles: 0 }
    }

    /// The chunk that `source`, which has the chunks `has` says, is to be asked for next; it is in flight from now on.
    pub fn take(&mut self, source: SourceId, has: impl Fn(u64) -> bool) -> Option<u64> {
        let chunk = self.take_missing(&has).or_else(|| self.take_double(source, &has))?;
        let holders = self.in_flight.entry(chunk).or_default();
        holders.push(source);
        self.doubles += u64::from(holders.len() > 1);
        Some(chunk)
    }

    /// A chunk is verified and written; true if it was not held before.
    pub fn complete(&mut self, chunk: u64) -> bool {
        self.in_flight.remove(&chunk);
        self.returned.remove(&chunk);
        self.held.set(chunk)
    }

    /// `source` is gone: what only it was asked for is missing again. Returns how many chunks that are.
    pub fn release(&mut self, source: SourceId) -> usize {
        let before = self.returned.len();
        let returned = &mut self.returned;
        self.in_flight.retain(|&chunk, holders| {
            holders.retain(|holder| *holder != source);
            if holders.is_empty() {
                returned.insert(chunk);
            }
            !holders.is_empty()
        });
        self.returned.len() - before
    }

    /// Whether a chunk is held.
    #[must_use]
    pub fn has(&self, chunk: u64) -> bool {
        self.held.get(chunk)
    }

    /// Number of chunks held.
    #[must_use]
    pub const fn held(&self) -> u64 {
        self.held.ones()
    }

    /// Number of chunks that are neither held nor in flight.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.held.len() - self.held.ones() - self.in_flight.len() as u64
    }

    /// Whether every chunk is held.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.held.is_full()
    }

    fn take_missing(&mut self, has: &impl Fn(u64) -> bool) -> Option<u64> {
        if let Some(chunk) = self.returned.iter().copied().find(|chunk| has(*chunk)) {
            self.returned.remove(&chunk);
            return Some(chunk);
        }
        while self.next < self.held.len() {
            let chunk = self.next;
            self.next += 1;
            if self.held.get(chunk) {
                continue;
            }
            if has(chunk) {
                return Some(chunk);
            }
            self.returned.insert(chunk);
        }
        None
    }

    /// In the endgame, the chunk that another source was asked for last.
    fn take_double(&self, source: SourceId, has: &impl Fn(u64) -> bool) -> Option<u64> {
        if self.doubles >= DOUBLES_MIN.max(self.held.len() / 50) {
            return None;
        }
        let free = |holders: &[SourceId]| holders.len() < HOLDERS_MAX && !holders.contains(&source);
        let mut candidates = self.in_flight.iter().rev();
        candidates.find(|(chunk, holders)| free(holders) && has(**chunk)).map(|(chunk, _)| *chunk)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Take(u64),
        Complete(usize),
        Release(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0..4u64).prop_map(Step::Take),
            3 => any::<usize>().prop_map(Step::Complete),
            1 => (0..4u64).prop_map(Step::Release),
        ];
        prop::collection::vec(step, 0..300)
    }

    proptest! {
        #[test]
        fn a_chunk_is_missing_in_flight_or_held(chunks in 0..60u64, steps in steps()) {
            let mut picker = Picker::new(chunks);
            let mut taken: Vec<(u64, SourceId)> = Vec::new();
            for step in steps {
                match step {
                    Step::Take(n) => {
                        let source = SourceId(n);
                        let missing = picker.missing();
                        if let Some(chunk) = picker.take(source, |chunk| !(chunk + n).is_multiple_of(5)) {
                            prop_assert!(chunk < chunks && !picker.has(chunk));
                            prop_assert!(!taken.contains(&(chunk, source)));
                            let holders = taken.iter().filter(|(c, _)| *c == chunk).count();
                            prop_assert!(holders < HOLDERS_MAX);
                            prop_assert_eq!(picker.missing(), missing - u64::from(holders == 0));
                            taken.push((chunk, source));
                        }
                    }
                    Step::Complete(i) if !taken.is_empty() => {
                        let (chunk, _) = taken[i % taken.len()];
                        taken.retain(|(c, _)| *c != chunk);
                        prop_assert!(picker.complete(chunk));
                        prop_assert!(!picker.complete(chunk));
                    }
                    Step::Complete(_) => {}
                    Step::Release(n) => {
                        picker.release(SourceId(n));
                        taken.retain(|(_, s)| s.0 != n);
                    }
                }
                prop_assert!(picker.doubles <= DOUBLES_MIN);
                let in_flight: BTreeSet<_> = taken.iter().map(|(c, _)| *c).collect();
                prop_assert_eq!(picker.missing() + picker.held() + in_flight.len() as u64, chunks);
            }
            // One honest source that has everything always brings it to an end.
            (0..4).for_each(|n| { picker.release(SourceId(n)); });
            while let Some(chunk) = picker.take(SourceId(9), |_| true) {
                picker.complete(chunk);
            }
            prop_assert!(picker.is_complete());
        }
    }

    #[test]
    fn what_a_lost_source_had_goes_to_the_next_first() {
        let mut picker = Picker::new(10);
        let all = |_| true;
        assert_eq!((0..3).filter_map(|_| picker.take(SourceId(1), all)).collect::<Vec<_>>(), [0, 1, 2]);
        picker.complete(1);
        assert_eq!(picker.release(SourceId(1)), 2);
        assert_eq!((0..3).filter_map(|_| picker.take(SourceId(2), all)).collect::<Vec<_>>(), [0, 2, 3]);
    }
}
