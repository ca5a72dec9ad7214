//! The latest envelopes: how each came, who is known to have it, and what is still to be announced.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::message::{Course, EnvelopeId, Key};

/// A neighbour's bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot(u8);

impl Slot {
    /// The first free one among [`Slots`]; `None` if all are taken.
    pub(crate) fn free(taken: Slots) -> Option<Self> {
        u8::try_from((!taken.0).trailing_zeros()).ok().filter(|bit| *bit < 128).map(Self)
    }
}

/// Some neighbours, by their bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Slots(u128);

impl Slots {
    pub(crate) fn insert(&mut self, slot: Option<Slot>) {
        if let Some(Slot(bit)) = slot {
            self.0 |= 1 << bit;
        }
    }

    pub(crate) fn add(&mut self, more: Self) {
        self.0 |= more.0;
    }

    pub(crate) fn remove(&mut self, slot: Option<Slot>) {
        if let Some(Slot(bit)) = slot {
            self.0 &= !(1 << bit);
        }
    }

    /// Without a bit nothing is known of a neighbour.
    pub(crate) fn contains(self, slot: Option<Slot>) -> bool {
        slot.is_some_and(|Slot(bit)| self.0 >> bit & 1 == 1)
    }
}

/// How an envelope came, and who has it.
#[derive(Clone, Debug)]
pub(crate) struct Arrival<P> {
    /// Who sent the copy that was verified; `None` if it is our own.
    pub(crate) from: Option<P>,
    /// With which hops; those of our push are one more.
    pub(crate) hops: u16,
    pub(crate) course: Course,
    /// It was missed, and goes on by announcements alone.
    pub(crate) history: bool,
    /// How old it was when it came.
    pub(crate) age: Duration,
    /// Sent it, or were sent it or told of it by us.
    pub(crate) have: Slots,
    /// Announced it.
    pub(crate) announced: Slots,
    /// Will not be pushed it, so must ask.
    pub(crate) ask: Slots,
    /// It is in the queue of what is to be announced.
    queued: bool,
}

impl<P> Arrival<P> {
    pub(crate) fn new(from: Option<P>, hops: u16, course: Course, age: Duration) -> Self {
        let (have, announced, ask) = (Slots::default(), Slots::default(), Slots::default());
        Self { from, hops, course, history: false, age, have, announced, ask, queued: false }
    }
}

/// The latest arrivals. When full, the oldest is forgotten.
///
/// They are numbered as they come. Most are never asked for by id, so the index of ids is brought up to date when somebody asks
/// for one, or all ask for the latest.
#[derive(Debug)]
pub(crate) struct Recent<P, A> {
    /// Those of the numbers from `first` on.
    arrivals: VecDeque<(EnvelopeId<A>, Arrival<P>)>,
    first: u64,
    numbers: BTreeMap<EnvelopeId<A>, u64>,
    /// Arrivals from this number on are not in `numbers` yet.
    indexed: u64,
    /// Numbers of those to be announced, in the order in which they were queued.
    queue: VecDeque<u64>,
    max: usize,
}

impl<P: Key, A: Key> Recent<P, A> {
    pub(crate) fn new(max: usize) -> Self {
        let (arrivals, numbers, queue) = (VecDeque::new(), BTreeMap::new(), VecDeque::new());
        Self { arrivals, first: 0, numbers, indexed: 0, queue, max: max.max(1) }
    }

    /// Adds an arrival, of whose id there is none. Returns its number, and whether another one that was not announced yet
    /// had to go for it.
    pub(crate) fn insert(&mut self, id: EnvelopeId<A>, arrival: Arrival<P>) -> (u64, bool) {
        let number = self.first + self.arrivals.len() as u64;
        self.arrivals.push_back((id, arrival));
        if self.arrivals.len() <= self.max {
            return (number, false);
        }
        let lost = self.arrivals.pop_front().is_some_and(|(id, oldest)| {
            self.numbers.remove(&id);
            oldest.queued
        });
        self.first += 1;
        self.indexed = self.indexed.max(self.first);
        (number, lost)
    }

    /// Brings the index of ids up to date.
    pub(crate) fn index(&mut self) {
        let fresh = usize::try_from(self.indexed - self.first).unwrap_or(usize::MAX);
        for ((id, _), number) in self.arrivals.iter().skip(fresh).zip(self.indexed..) {
            self.numbers.insert(*id, number);
        }
        self.indexed = self.first + self.arrivals.len() as u64;
    }

    /// The number of an id.
    pub(crate) fn number(&mut self, id: &EnvelopeId<A>) -> Option<u64> {
        self.index();
        self.numbers.get(id).copied()
    }

    pub(crate) fn get_mut(&mut self, id: &EnvelopeId<A>) -> Option<&mut Arrival<P>> {
        let number = self.number(id)?;
        self.numbered(number).map(|(_, arrival)| arrival)
    }

    /// The arrival of a number, if it was not forgotten.
    pub(crate) fn numbered(&mut self, number: u64) -> Option<(EnvelopeId<A>, &mut Arrival<P>)> {
        let at = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.arrivals.get_mut(at).map(|(id, arrival)| (*id, arrival))
    }

    /// Queues an arrival to be announced to those that have not got it.
    pub(crate) fn queue(&mut self, number: u64) {
        if let Some((_, arrival)) = self.numbered(number)
            && !arrival.queued
        {
            arrival.queued = true;
            self.queue.push_back(number);
        }
    }

    /// Takes up to `max` numbers of the queue.
    pub(crate) fn take_queue(&mut self, max: usize) -> Vec<u64> {
        let mut taken = Vec::with_capacity(self.queue.len().min(max));
        while taken.len() < max
            && let Some(number) = self.queue.pop_front()
        {
            // One that was forgotten meanwhile was counted then.
            if let Some((_, arrival)) = self.numbered(number) {
                arrival.queued = false;
                taken.push(number);
            }
        }
        taken
    }

    /// The first `max` numbers of the queue.
    pub(crate) fn queue_of(&self, max: usize) -> Vec<u64> {
        self.queue.iter().take(max).copied().collect()
    }

    pub(crate) fn queued(&self) -> usize {
        self.queue.len()
    }

    /// The bit is another neighbour's from now on.
    pub(crate) fn forget(&mut self, slot: Option<Slot>) {
        for (_, arrival) in &mut self.arrivals {
            arrival.have.remove(slot);
            arrival.announced.remove(slot);
            arrival.ask.remove(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(first: u64) -> EnvelopeId<u32> {
        EnvelopeId { author: 1, run: 0, first, count: 1 }
    }

    #[test]
    fn it_stays_bounded_and_says_what_it_loses() {
        let fresh = || Arrival::new(None, 0, Course::Tree, Duration::ZERO);
        let mut recent = Recent::<u32, u32>::new(2);
        assert_eq!([0, 1].map(|seq| recent.insert(id(seq), fresh())), [(0, false), (1, false)]);
        recent.queue(0);
        recent.queue(0);
        assert_eq!(recent.queued(), 1);
        assert_eq!(recent.number(&id(0)), Some(0));
        assert_eq!(recent.insert(id(2), fresh()), (2, true), "0 was to be announced");
        assert_eq!(recent.insert(id(3), fresh()), (3, false));
        assert_eq!(recent.take_queue(9), []);
        recent.queue(3);
        assert_eq!(recent.take_queue(9), [3]);
        assert_eq!([0, 1, 2, 3].map(|seq| recent.number(&id(seq))), [None, None, Some(2), Some(3)]);
        assert_eq!((recent.arrivals.len(), recent.numbers.len()), (2, 2));
    }

    #[test]
    fn an_id_finds_its_own_arrival_however_late_it_is_asked_for() {
        for asked_every in 1..9 {
            let mut recent = Recent::<u32, u32>::new(5);
            for seq in 0..40 {
                let hops = u16::try_from(seq).unwrap();
                recent.insert(id(seq), Arrival::new(None, hops, Course::Tree, Duration::ZERO));
                if seq % asked_every == 0 {
                    for (seq, hops) in (0..=seq).zip(0..) {
                        let found = recent.get_mut(&id(seq)).map(|arrival| arrival.hops);
                        assert_eq!(found, (recent.first <= seq).then_some(hops));
                    }
                }
            }
            assert!(recent.numbers.len() <= 5);
        }
    }

    #[test]
    fn bits_are_handed_out_once() {
        let mut taken = Slots::default();
        for _ in 0..128 {
            let slot = Slot::free(taken);
            assert!(slot.is_some() && !taken.contains(slot));
            taken.insert(slot);
        }
        assert_eq!(Slot::free(taken), None);
        assert!(!taken.contains(None));
        taken.remove(Some(Slot(77)));
        assert_eq!(Slot::free(taken), Some(Slot(77)));
    }
}
