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
#[derive(Debug)]
pub(crate) struct Recent<P, A> {
    arrivals: BTreeMap<EnvelopeId<A>, Arrival<P>>,
    order: VecDeque<EnvelopeId<A>>,
    /// To be announced, in the order in which they came.
    queue: VecDeque<EnvelopeId<A>>,
    max: usize,
}

impl<P: Key, A: Key> Recent<P, A> {
    pub(crate) fn new(max: usize) -> Self {
        Self { arrivals: BTreeMap::new(), order: VecDeque::new(), queue: VecDeque::new(), max: max.max(1) }
    }

    /// Adds an arrival. Returns whether another one that was not announced yet had to go for it.
    pub(crate) fn insert(&mut self, id: EnvelopeId<A>, arrival: Arrival<P>) -> bool {
        let mut lost = false;
        if self.arrivals.insert(id, arrival).is_none() {
            self.order.push_back(id);
            if self.order.len() > self.max
                && let Some(oldest) = self.order.pop_front()
            {
                lost = self.arrivals.remove(&oldest).is_some_and(|arrival| arrival.queued);
            }
        }
        lost
    }

    pub(crate) fn get_mut(&mut self, id: &EnvelopeId<A>) -> Option<&mut Arrival<P>> {
        self.arrivals.get_mut(id)
    }

    /// Queues an arrival to be announced to those that have not got it.
    pub(crate) fn queue(&mut self, id: EnvelopeId<A>) {
        if let Some(arrival) = self.arrivals.get_mut(&id)
            && !arrival.queued
        {
            arrival.queued = true;
            self.queue.push_back(id);
        }
    }

    /// Takes up to `max` ids of the queue.
    pub(crate) fn take_queue(&mut self, max: usize) -> Vec<EnvelopeId<A>> {
        let mut taken = Vec::with_capacity(self.queue.len().min(max));
        while taken.len() < max
            && let Some(id) = self.queue.pop_front()
        {
            // One that was forgotten meanwhile was counted then.
            if let Some(arrival) = self.arrivals.get_mut(&id) {
                arrival.queued = false;
                taken.push(id);
            }
        }
        taken
    }

    /// The first `max` ids of the queue.
    pub(crate) fn queue_of(&self, max: usize) -> Vec<EnvelopeId<A>> {
        self.queue.iter().take(max).copied().collect()
    }

    pub(crate) fn queued(&self) -> usize {
        self.queue.len()
    }

    /// The bit is another neighbour's from now on.
    pub(crate) fn forget(&mut self, slot: Option<Slot>) {
        for arrival in self.arrivals.values_mut() {
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
        let mut recent = Recent::<u32, u32>::new(2);
        for seq in 0..2 {
            assert!(!recent.insert(id(seq), Arrival::new(None, 0, Course::Tree, Duration::ZERO)));
        }
        recent.queue(id(0));
        recent.queue(id(0));
        assert_eq!(recent.queued(), 1);
        assert!(
            recent.insert(id(2), Arrival::new(None, 0, Course::Tree, Duration::ZERO)),
            "0 was to be announced"
        );
        assert!(!recent.insert(id(3), Arrival::new(None, 0, Course::Tree, Duration::ZERO)));
        assert_eq!(recent.take_queue(9), []);
        recent.queue(id(3));
        assert_eq!(recent.take_queue(9), [id(3)]);
        assert_eq!(recent.arrivals.len(), 2);
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
