//! A part of the nodes with what is to happen to them. One thread at a time works on it.

use std::collections::BinaryHeap;

use bytes::BytesMut;

use super::meter::Meter;
use super::node::Node;
use super::queue::{Entry, Event, Queue, Time};
use super::turn::Turn;
use super::world::World;

/// Parts that the nodes are dealt out to, one after the other. More of them than threads, so that none waits for the
/// slowest; what comes out does not depend on it.
pub(super) const SHARDS: usize = 16;

/// Where a node lives: its part, and its place there.
pub(super) const fn place(node: usize) -> (usize, usize) {
    (node % SHARDS, node / SHARDS)
}

/// What is to happen at the nodes of one part.
#[derive(Debug)]
struct Post {
    entries: Vec<Entry>,
    /// When the first of it is due.
    soonest: Time,
}

impl Default for Post {
    fn default() -> Self {
        Self { entries: Vec::new(), soonest: Time::MAX }
    }
}

/// What is to happen at other nodes, by part.
#[derive(Debug, Default)]
pub(super) struct Away([Post; SHARDS]);

impl Away {
    pub(super) fn push(&mut self, entry: Entry) {
        let post = &mut self.0[place(entry.to as usize).0];
        post.soonest = post.soonest.min(entry.at);
        post.entries.push(entry);
    }
}

#[derive(Debug)]
pub(super) struct Shard {
    /// The nodes whose [`place`] is here.
    pub(super) nodes: Vec<Node>,
    queue: Queue,
    /// When the first of what is to happen here is due, the inbox included; `Time::MAX` for never.
    pub(super) soonest: Time,
    /// What other parts sent, to be sorted into the queue.
    inbox: Vec<Vec<Entry>>,
    /// Emptied ones of the inbox, at most one for each part, to be filled again.
    spare: Vec<Vec<Entry>>,
    away: Away,
    pub(super) meter: Meter,
    due: Vec<Entry>,
    mine: BinaryHeap<Entry>,
    scratch: BytesMut,
}

impl Default for Shard {
    fn default() -> Self {
        Self {
            nodes: Vec::new(),
            queue: Queue::default(),
            soonest: Time::MAX,
            inbox: Vec::new(),
            spare: Vec::new(),
            away: Away::default(),
            meter: Meter::default(),
            due: Vec::new(),
            mine: BinaryHeap::new(),
            scratch: BytesMut::new(),
        }
    }
}

impl Shard {
    /// Has one of the nodes do something.
    pub(super) fn with<T>(
        &mut self,
        world: &World,
        at: usize,
        now: Time,
        action: impl FnOnce(&mut Turn<'_>) -> T,
    ) -> T {
        let node = &mut self.nodes[at];
        node.now = now;
        let mut turn = Turn {
            world,
            node,
            now,
            mine: &mut self.mine,
            away: &mut self.away,
            meter: &mut self.meter,
            scratch: &mut self.scratch,
        };
        let result = action(&mut turn);
        self.settle(at);
        result
    }

    /// Everything that happens before `end`. Nothing lies before `start`, and nothing that one node causes in this window
    /// comes to another before `end`.
    pub(super) fn run(&mut self, world: &World, start: Time, end: Time) {
        self.sort_in();
        let mut due = std::mem::take(&mut self.due);
        self.queue.take(start, end, &mut due);
        due.sort_unstable_by_key(|entry| (entry.to, entry.key()));
        let mut events = due.drain(..).peekable();
        while let Some(first) = events.peek() {
            let number = first.to;
            let at = place(number as usize).1;
            let mut turn = Turn {
                world,
                now: start,
                node: &mut self.nodes[at],
                mine: &mut self.mine,
                away: &mut self.away,
                meter: &mut self.meter,
                scratch: &mut self.scratch,
            };
            turn.run(std::iter::from_fn(|| events.next_if(|entry| entry.to == number)), end);
            self.settle(at);
        }
        drop(events);
        self.due = due;
        self.soonest = self.queue.soonest();
    }

    /// Something will happen to one of the nodes.
    pub(super) fn push(&mut self, entry: Entry) {
        self.soonest = self.soonest.min(entry.at);
        self.queue.push(entry);
    }

    /// About how much happens before `end`, the inbox left out.
    pub(super) fn due(&self, end: Time) -> usize {
        self.queue.due(end)
    }

    /// What a node caused at itself goes into the queue, and when it is to be woken.
    fn settle(&mut self, at: usize) {
        while let Some(entry) = self.mine.pop() {
            self.push(entry);
        }
        let node = &mut self.nodes[at];
        // A later deadline finds out when the earlier event comes.
        if node.deadline < node.wake_at {
            node.wake_at = node.deadline;
            let (at, to, order) = (node.deadline.max(node.now), node.number, node.caused);
            node.caused = order.wrapping_add(1);
            self.push(Entry { at, to, from: to, order, event: Event::Wake });
        }
    }

    fn sort_in(&mut self) {
        for mut entries in self.inbox.drain(..) {
            entries.drain(..).for_each(|entry| self.queue.push(entry));
            if self.spare.len() < SHARDS {
                self.spare.push(entries);
            }
        }
    }

    /// Hands over what this part's nodes caused at others.
    pub(super) fn post(&mut self, mut to: impl FnMut(usize, Time, Vec<Entry>)) {
        for (number, post) in self.away.0.iter_mut().enumerate() {
            if !post.entries.is_empty() {
                let entries = std::mem::replace(&mut post.entries, self.spare.pop().unwrap_or_default());
                to(number, std::mem::replace(&mut post.soonest, Time::MAX), entries);
            }
        }
    }

    /// What nodes of another part caused at this one's.
    pub(super) fn receive(&mut self, soonest: Time, entries: Vec<Entry>) {
        self.soonest = self.soonest.min(soonest);
        self.inbox.push(entries);
    }
}
