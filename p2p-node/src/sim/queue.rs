//! What happens when: a ring of milliseconds, of which whole windows are taken.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use p2p_gossip::{Sum, Ticket};
use p2p_peers::DialFailure;

use crate::packet::{ByeReason, Packet};

/// Virtual time in nanoseconds since the simulation began.
pub(super) type Time = u64;

/// A link: who dialled, and the number of that dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LinkId {
    pub(super) dialler: u32,
    pub(super) dial: u32,
}

/// Something that will happen at one node. Small: it is moved about.
#[derive(Debug)]
pub(super) enum Event {
    /// A deadline of the node may have come.
    Wake,
    /// A frame is at this end of a link.
    Frame { link: LinkId, packet: Box<Packet> },
    /// A link of the node that had no room for a push may have some.
    Room { link: LinkId },
    /// The other end closed the link, with a goodbye or without.
    Closed { link: LinkId, bye: Option<ByeReason> },
    /// A dial of this node brought nothing.
    DialFailed { dial: u32, cause: DialFailure },
    /// TLS stands: the dialler knows who is there.
    DialProved { dial: u32 },
    /// The dialler's hello is at the other side.
    DialHello { dial: u32 },
    /// The answer to it is here: a link, or why not.
    DialAnswer { dial: u32, answer: Result<(), ByeReason> },
    /// A signature check is done.
    Checked { life: u32, ticket: Ticket, digest: Option<Sum> },
}

/// An [`Event`], and when, where and by whom.
///
/// At one node events come by time, then by who caused them, then in the order in which that one did. No two are equal, so
/// the order does not depend on how they got here.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) at: Time,
    pub(super) to: u32,
    pub(super) from: u32,
    /// Counted by `from`. It starts again after 2^32: then two of the same instant may come in the other order.
    pub(super) order: u32,
    pub(super) event: Event,
}

impl Entry {
    pub(super) const fn key(&self) -> (Time, u32, u32) {
        (self.at, self.from, self.order)
    }
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
    /// Reversed: a heap gives the greatest first.
    fn cmp(&self, other: &Self) -> Ordering {
        other.key().cmp(&self.key())
    }
}

/// Time that one place of the ring stands for: 2^20 ns, about a millisecond.
const SPAN: u32 = 20;
/// Places of the ring: about four seconds.
const PLACES: u64 = 4096;
/// The longest window that may be taken at once: a quarter of the ring.
pub(super) const MAX_WINDOW: Time = (PLACES / 4) << SPAN;
/// Empty places that keep their memory, to be filled again.
const SPARE: usize = 64;

/// The events to come. Its size is what the nodes have on its way; the memory of the machine bounds it.
///
/// Those of the next seconds are in a ring of milliseconds, unsorted, the rest in a heap: one heap of all was a fifth of a
/// run's time.
#[derive(Debug)]
pub(super) struct Queue {
    ring: Vec<Vec<Entry>>,
    /// In the ring, all places together.
    in_ring: usize,
    later: BinaryHeap<Entry>,
    /// The place of the ring with the earliest events; those before it were taken.
    at: u64,
    spare: Vec<Vec<Entry>>,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            ring: (0..PLACES).map(|_| Vec::new()).collect(),
            in_ring: 0,
            later: BinaryHeap::new(),
            at: 0,
            spare: Vec::new(),
        }
    }
}

impl Queue {
    pub(super) fn push(&mut self, entry: Entry) {
        let place = (entry.at >> SPAN).max(self.at);
        if place >= self.at + PLACES {
            return self.later.push(entry);
        }
        let row = &mut self.ring[place_in_ring(place)];
        if row.capacity() == 0
            && let Some(spare) = self.spare.pop()
        {
            *row = spare;
        }
        row.push(entry);
        self.in_ring += 1;
    }

    /// When the earliest is due; `Time::MAX` for none.
    pub(super) fn soonest(&self) -> Time {
        if self.in_ring == 0 {
            return self.later.peek().map_or(Time::MAX, |entry| entry.at);
        }
        let mut places = (self.at..self.at + PLACES).map(|place| &self.ring[place_in_ring(place)]);
        let first = places.find(|row| !row.is_empty());
        first.into_iter().flatten().map(|entry| entry.at).min().unwrap_or(Time::MAX)
    }

    /// About how many are due before `end`.
    pub(super) fn due(&self, end: Time) -> usize {
        let last = (end >> SPAN).min(self.at + PLACES - 1);
        (self.at..=last).map(|place| self.ring[place_in_ring(place)].len()).sum()
    }

    /// Takes all that are due before `end`, in any order. `start`: when the earliest is due, or before.
    ///
    /// The two are at most [`MAX_WINDOW`] apart.
    pub(super) fn take(&mut self, start: Time, end: Time, due: &mut Vec<Entry>) {
        debug_assert!(end - start <= MAX_WINDOW, "a window beyond the ring");
        // Nothing lies before `start`.
        self.advance(start >> SPAN);
        let last = end >> SPAN;
        for place in self.at..=last {
            let row = &mut self.ring[place_in_ring(place)];
            let before = due.len();
            if place < last {
                due.append(row);
                if row.capacity() > 0 && self.spare.len() < SPARE {
                    self.spare.push(std::mem::take(row));
                } else {
                    *row = Vec::new();
                }
            } else {
                due.extend(row.extract_if(.., |entry| entry.at < end));
            }
            self.in_ring -= due.len() - before;
        }
        self.advance(last);
    }

    /// The ring begins at this place; what comes within its reach is sorted in.
    fn advance(&mut self, place: u64) {
        self.at = self.at.max(place);
        while self.later.peek().is_some_and(|entry| entry.at >> SPAN < self.at + PLACES) {
            if let Some(entry) = self.later.pop() {
                self.push(entry);
            }
        }
    }
}

const fn place_in_ring(place: u64) -> usize {
    (place % PLACES) as usize
}

/// Nodes and messages are counted in 32 bits, to keep events small.
///
/// # Panics
/// Beyond 4 billion, far more than any machine's memory holds of what is counted here.
pub(super) fn index(n: usize) -> u32 {
    u32::try_from(n).expect("fewer than 2^32 of them fit into memory")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A list of all events says the same, wherever windows begin and end.
    #[test]
    fn windows_hold_all_events_of_their_time_however_far_they_lie() {
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
                queue.push(Entry { at, to: 0, from: node, order: 0, event: Event::Wake });
                model.push((at, node));
                node += 1;
            }
            let soonest = model.iter().map(|(at, _)| *at).min().unwrap_or(Time::MAX);
            assert_eq!(queue.soonest(), soonest);
            let start = soonest.min(now + 2_000_000_000);
            let end = start + random(MAX_WINDOW.min([2, 2_000_000, MAX_WINDOW][node as usize % 3]) + 1);
            let mut due = Vec::new();
            queue.take(start, end, &mut due);
            let mut due: Vec<_> = due.iter().map(|entry| (entry.at, entry.from)).collect();
            let mut expected: Vec<_> = model.extract_if(.., |(at, _)| *at < end).collect();
            due.sort_unstable();
            expected.sort_unstable();
            assert_eq!(due, expected);
            now = end;
        }
        assert!(!model.is_empty(), "some lie beyond the end");
    }
}
