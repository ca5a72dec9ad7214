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

/// The events to come. Its size is what the nodes have on its way; the memory of the machine bounds it.
#[derive(Debug, Default)]
pub(super) struct Queue {
    heap: BinaryHeap<Entry>,
    order: u64,
}

impl Queue {
    pub(super) fn push(&mut self, at: Time, event: Event) {
        self.order += 1;
        self.heap.push(Entry { at, order: self.order, event });
    }

    /// The next event, if it is due by `until`.
    pub(super) fn pop(&mut self, until: Time) -> Option<(Time, Event)> {
        if self.heap.peek()?.at > until {
            return None;
        }
        self.heap.pop().map(|entry| (entry.at, entry.event))
    }
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
