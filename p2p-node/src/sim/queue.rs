//! What happens when: one heap, ordered by time and then by the order in which things were said.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use p2p_gossip::Ticket;
use p2p_peers::DialFailure;

use crate::packet::ByeReason;

/// Virtual time in nanoseconds since the simulation began.
pub(super) type Time = u64;

/// One end of a link: 0 dialled, 1 was dialled.
pub(super) type Side = u8;

/// Something that will happen. Small: the heap moves it about.
#[derive(Debug, Clone, Copy)]
pub(super) enum Event {
    /// A node's deadline may have come.
    Timer { node: u32 },
    /// A frame is at this end of a link. Its packet lies in [`Slots`].
    Frame { link: u32, to: Side, packet: u32 },
    /// The other end closed the link, with a goodbye or without.
    Closed { link: u32, to: Side, bye: Option<ByeReason> },
    /// A dial brought nothing.
    DialFailed { dial: u32, cause: DialFailure },
    /// TLS stands: the dialler knows who is there.
    DialProved { dial: u32 },
    /// The dialler's hello is at the other side.
    DialHello { dial: u32 },
    /// The answer to it is here: a link, or why not.
    DialAnswer { dial: u32, answer: Result<u32, ByeReason> },
    /// A signature check is done.
    Checked { node: u32, life: u32, ticket: Ticket, ok: bool },
}

#[derive(Debug)]
struct Entry {
    at: Time,
    order: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    /// Reversed: the heap gives the greatest first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

/// Time that one place of the ring stands for: 2^20 ns, about a millisecond.
const SPAN: u32 = 20;
/// Places of the ring: about four seconds.
const PLACES: u64 = 4096;

/// The events to come. Its size is what the nodes have on its way; the memory of the machine bounds it.
///
/// Of hundreds of thousands of events those of this millisecond are in a heap, those of the next seconds in a ring of
/// milliseconds, unsorted, and the rest in another heap: one heap of all was a fifth of a run's time.
#[derive(Debug)]
pub(super) struct Queue {
    /// Those of the place `at` and before.
    soon: BinaryHeap<Entry>,
    ring: Vec<Vec<Entry>>,
    /// In the ring, all places together.
    in_ring: usize,
    later: BinaryHeap<Entry>,
    at: u64,
    order: u64,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            soon: BinaryHeap::new(),
            ring: (0..PLACES).map(|_| Vec::new()).collect(),
            in_ring: 0,
            later: BinaryHeap::new(),
            at: 0,
            order: 0,
        }
    }
}

impl Queue {
    pub(super) fn push(&mut self, at: Time, event: Event) {
        self.order += 1;
        self.sort_in(Entry { at, order: self.order, event });
    }

    /// The next event, if it is due by `until`.
    pub(super) fn pop(&mut self, until: Time) -> Option<(Time, Event)> {
        while self.soon.is_empty() {
            if !self.advance(until >> SPAN) {
                return None;
            }
        }
        if self.soon.peek()?.at > until {
            return None;
        }
        self.soon.pop().map(|entry| (entry.at, entry.event))
    }

    fn sort_in(&mut self, entry: Entry) {
        let place = entry.at >> SPAN;
        if place <= self.at {
            self.soon.push(entry);
        } else if place < self.at + PLACES {
            self.ring[place_in_ring(place)].push(entry);
            self.in_ring += 1;
        } else {
            self.later.push(entry);
        }
    }

    /// Goes on to the next place with events, at most to `last`; `false`: it is there.
    fn advance(&mut self, last: u64) -> bool {
        if self.at >= last {
            return false;
        }
        self.at = if self.in_ring > 0 {
            let next = (self.at + 1..last).find(|&place| !self.ring[place_in_ring(place)].is_empty());
            next.unwrap_or(last)
        } else {
            self.later.peek().map_or(last, |entry| (entry.at >> SPAN).clamp(self.at + 1, last))
        };
        let due = &mut self.ring[place_in_ring(self.at)];
        self.in_ring -= due.len();
        self.soon.extend(due.drain(..));
        while self.later.peek().is_some_and(|entry| entry.at >> SPAN < self.at + PLACES) {
            if let Some(entry) = self.later.pop() {
                self.sort_in(entry);
            }
        }
        true
    }
}

const fn place_in_ring(place: u64) -> usize {
    (place % PLACES) as usize
}

/// Values that events point to; places are used again.
#[derive(Debug)]
pub(super) struct Slots<T> {
    values: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { values: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slots<T> {
    pub(super) fn put(&mut self, value: T) -> u32 {
        if let Some(slot) = self.free.pop() {
            self.values[slot as usize] = Some(value);
            return slot;
        }
        self.values.push(Some(value));
        index(self.values.len() - 1)
    }

    pub(super) fn get(&self, slot: u32) -> Option<&T> {
        self.values[slot as usize].as_ref()
    }

    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut T> {
        self.values[slot as usize].as_mut()
    }

    pub(super) fn take(&mut self, slot: u32) -> Option<T> {
        let value = self.values[slot as usize].take();
        if value.is_some() {
            self.free.push(slot);
        }
        value
    }
}

/// Places are counted in 32 bits, to keep events small.
///
/// # Panics
/// Beyond 4 billion, far more than any machine's memory holds of what is counted here.
pub(super) fn index(n: usize) -> u32 {
    u32::try_from(n).expect("fewer than 2^32 of them fit into memory")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A heap of all events says the same.
    #[test]
    fn events_come_in_their_order_however_far_they_lie() {
        let (mut queue, mut model) = (Queue::default(), Vec::new());
        let (mut z, mut now, mut node) = (7_u64, 0, 0);
        let mut random = move |below: u64| {
            z = z.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (z >> 20) % below
        };
        for _ in 0..3000 {
            for _ in 0..random(4) {
                let far =
                    [1, 1_000, 3_000_000, 900_000_000, 20_000_000_000][usize::try_from(random(5)).unwrap()];
                let at = now + random(far);
                queue.push(at, Event::Timer { node });
                model.push((at, node));
                node += 1;
            }
            let until = now + random(2_000_000_000);
            while let Some((at, Event::Timer { node })) = queue.pop(until) {
                let next = (0..model.len()).min_by_key(|&i| model[i]).unwrap();
                assert_eq!((at, node), model.swap_remove(next));
                assert!(at >= now && at <= until);
                now = at;
            }
            assert!(model.iter().all(|(at, _)| *at > until));
            now = until;
        }
        assert!(!model.is_empty(), "some lie beyond the end");
    }
}
