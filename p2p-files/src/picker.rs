//! Which chunk to ask of whom. No clock, no sockets: sources ask it, and tell it what became of their requests.
//!
//! A chunk is missing, in flight at one or two sources, or held, never two of these; only the methods here move it.
//!
//! While every source has everything, chunks go out in order, from a start of the caller's choice on and round the end. A
//! random start lets many that fetch from one source at the same time fetch different parts, which they can then
//! give each other. Once sources say that they have a part only, the chunk that fewest of them have goes first
//! (rarest first, as BitTorrent does); of several one that looks random, since others may be asking for the one that comes
//! next in order.
//!
//! When none is missing any more, a source that has nothing to do may double a request that another source has open (the
//! endgame), so that one slow source does not hold up the end; the number of doubled requests is bounded.

use std::collections::BTreeMap;

use crate::bitfield::Bitfield;

/// Most sources that are asked for the same chunk at the same time.
const HOLDERS_MAX: usize = 2;

/// Least number of doubled requests that are allowed in one download; for large files 2 % of the chunks.
const DOUBLES_MIN: u64 = 8;

/// Missing chunks that are compared when the rarest is looked for, so that a choice takes microseconds in any file.
const COMPARED_MAX: usize = 256;

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
/// assert_eq!(picker.take(slow), Some(0));
/// assert_eq!(picker.take(fast), Some(1));
/// assert!(picker.complete(1));
/// assert_eq!(picker.take(fast), Some(0), "the endgame");
/// assert!(picker.complete(0) && picker.is_complete());
/// ```
#[derive(Debug)]
pub struct Picker {
    held: Bitfield,
    /// Neither held nor in flight.
    missing: Bitfield,
    /// The chunk that goes first.
    start: u64,
    /// As it was given: different downloads choose differently by it.
    seed: u64,
    /// What sources have that do not have everything.
    parts: BTreeMap<SourceId, Bitfield>,
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
        Self::resume(Bitfield::new(chunks), 0)
    }

    /// A download that goes on: what is held already is not asked for. Of what is missing, the first chunk from `start` on
    /// goes first; a number beyond the end is taken modulo the number of chunks.
    #[must_use]
    pub fn resume(held: Bitfield, start: u64) -> Self {
        let mut missing = Bitfield::new(held.len());
        (0..held.len()).filter(|chunk| !held.get(*chunk)).for_each(|chunk| {
            missing.set(chunk);
        });
        let (seed, start) = (start, start.checked_rem(held.len()).unwrap_or(0));
        Self { held, missing, start, seed, parts: BTreeMap::new(), in_flight: BTreeMap::new(), doubles: 0 }
    }

    /// `source` does not have everything: at least the chunks whose bits, most significant first from chunk `first` on, are
    /// set. What it was said to have before it still has.
    pub fn has_part(&mut self, source: SourceId, first: u64, bits: &[u8]) {
        let part = self.parts.entry(source).or_insert_with(|| Bitfield::new(self.held.len()));
        part.set_bytes(first, bits);
    }

    /// Of `count` chunks from `first` on, how many `source` is known to have.
    #[must_use]
    pub fn known_of(&self, source: SourceId, first: u64, count: u64) -> u64 {
        self.parts.get(&source).map_or(0, |part| part.ones_in(first, count))
    }

    /// The chunk that `source` is to be asked for next; it is in flight from now on.
    pub fn take(&mut self, source: SourceId) -> Option<u64> {
        let chunk = self.rarest(source).or_else(|| self.double(source))?;
        self.missing.clear(chunk);
        let holders = self.in_flight.entry(chunk).or_default();
        holders.push(source);
        self.doubles += u64::from(holders.len() > 1);
        Some(chunk)
    }

    /// A chunk is verified and written; true if it was not held before.
    pub fn complete(&mut self, chunk: u64) -> bool {
        self.in_flight.remove(&chunk);
        self.missing.clear(chunk);
        self.held.set(chunk)
    }

    /// `source` does not give what it was asked for: what only it was asked for is missing again, and that is how many.
    /// What it has it still has; see [`Picker::forget`].
    pub fn release(&mut self, source: SourceId) -> usize {
        let mut released = 0;
        let missing = &mut self.missing;
        self.in_flight.retain(|&chunk, holders| {
            holders.retain(|holder| *holder != source);
            if holders.is_empty() {
                missing.set(chunk);
                released += 1;
            }
            !holders.is_empty()
        });
        released
    }

    /// `source` is gone.
    pub fn forget(&mut self, source: SourceId) -> usize {
        self.parts.remove(&source);
        self.release(source)
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
    pub const fn missing(&self) -> u64 {
        self.missing.ones()
    }

    /// Requests that were doubled so far.
    #[must_use]
    pub const fn doubles(&self) -> u64 {
        self.doubles
    }

    /// Whether every chunk is held.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.held.is_full()
    }

    /// Of what is missing and `source` has, the chunk that fewest others have.
    fn rarest(&self, source: SourceId) -> Option<u64> {
        let part = self.parts.get(&source);
        let from = |at: u64| {
            std::iter::successors(self.missing.next_one(at, part), move |chunk| {
                self.missing.next_one(chunk + 1, part)
            })
        };
        let mut candidates = from(self.start).chain(from(0).take_while(|chunk| *chunk < self.start));
        if self.parts.is_empty() {
            return candidates.next();
        }
        let copies = |chunk: u64| self.parts.values().filter(|part| part.get(chunk)).count();
        candidates.take(COMPARED_MAX).min_by_key(|chunk| (copies(*chunk), self.mixed(*chunk)))
    }

    /// A number for a chunk that is another for each start, without order (the finalizer of splitmix64).
    const fn mixed(&self, chunk: u64) -> u64 {
        let mut x = chunk.wrapping_add(self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// In the endgame, the chunk that another source was asked for last.
    fn double(&self, source: SourceId) -> Option<u64> {
        if self.missing() > 0 || self.doubles >= DOUBLES_MIN.max(self.held.len() / 50) {
            return None;
        }
        let free = |holders: &[SourceId]| holders.len() < HOLDERS_MAX && !holders.contains(&source);
        let has = |chunk: &u64| self.parts.get(&source).is_none_or(|part| part.get(*chunk));
        let mut candidates = self.in_flight.iter().rev();
        candidates.find(|(chunk, holders)| free(holders) && has(chunk)).map(|(chunk, _)| *chunk)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Take(u64),
        Part(u64, u64, Vec<u8>),
        Complete(usize),
        Release(u64),
        Forget(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0..4u64).prop_map(Step::Take),
            // Source 0 has everything.
            1 => (1..4u64, 0..8u64, prop::collection::vec(any::<u8>(), 0..9)).prop_map(|(s, at, bits)| Step::Part(s, 8 * at, bits)),
            3 => any::<usize>().prop_map(Step::Complete),
            1 => (0..4u64).prop_map(Step::Release),
            1 => (0..4u64).prop_map(Step::Forget),
        ];
        prop::collection::vec(step, 0..300)
    }

    proptest! {
        #[test]
        fn a_chunk_is_missing_in_flight_or_held(chunks in 0..60u64, start: u64, steps in steps()) {
            let mut picker = Picker::resume(Bitfield::new(chunks), start);
            let mut taken: Vec<(u64, SourceId)> = Vec::new();
            for step in steps {
                match step {
                    Step::Take(n) => {
                        let source = SourceId(n);
                        let missing = picker.missing();
                        let copies = |picker: &Picker, chunk| picker.parts.values().filter(|p| p.get(chunk)).count();
                        let had = |picker: &Picker, chunk| picker.parts.get(&source).is_none_or(|p| p.get(chunk));
                        let fewest = (0..chunks).filter(|c| picker.missing.get(*c) && had(&picker, *c)).map(|c| copies(&picker, c)).min();
                        if let Some(chunk) = picker.take(source) {
                            prop_assert!(chunk < chunks && !picker.has(chunk) && had(&picker, chunk));
                            prop_assert!(!taken.contains(&(chunk, source)));
                            let holders = taken.iter().filter(|(c, _)| *c == chunk).count();
                            prop_assert!(holders < HOLDERS_MAX);
                            prop_assert_eq!(picker.missing(), missing - u64::from(holders == 0));
                            if let Some(fewest) = fewest {
                                prop_assert_eq!((holders, copies(&picker, chunk)), (0, fewest), "rarest first");
                            }
                            taken.push((chunk, source));
                        } else {
                            prop_assert_eq!(fewest, None);
                        }
                    }
                    Step::Part(n, first, bits) => picker.has_part(SourceId(n), first, &bits),
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
                    Step::Forget(n) => {
                        picker.forget(SourceId(n));
                        taken.retain(|(_, s)| s.0 != n);
                    }
                }
                prop_assert!(picker.doubles() <= DOUBLES_MIN);
                let in_flight: BTreeSet<_> = taken.iter().map(|(c, _)| *c).collect();
                prop_assert_eq!(picker.missing() + picker.held() + in_flight.len() as u64, chunks);
            }
            // One honest source that has everything always brings it to an end.
            (0..4).for_each(|n| { picker.forget(SourceId(n)); });
            while let Some(chunk) = picker.take(SourceId(9)) {
                picker.complete(chunk);
            }
            prop_assert!(picker.is_complete());
        }
    }

    #[test]
    fn what_a_lost_source_had_goes_to_the_next_first() {
        let mut picker = Picker::new(10);
        let take3 =
            |picker: &mut Picker, n| (0..3).filter_map(|_| picker.take(SourceId(n))).collect::<Vec<_>>();
        assert_eq!(take3(&mut picker, 1), [0, 1, 2]);
        picker.complete(1);
        assert_eq!(picker.forget(SourceId(1)), 2);
        assert_eq!(take3(&mut picker, 2), [0, 2, 3]);
    }

    #[test]
    fn each_starts_elsewhere_and_goes_round_the_end() {
        let mut picker = Picker::resume(Bitfield::new(5), 3 + 5);
        let order: Vec<_> = (0..5).filter_map(|_| picker.take(SourceId(1))).collect();
        assert_eq!(order, [3, 4, 0, 1, 2]);
    }
}
