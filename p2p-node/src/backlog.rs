//! Messages that wait for one link: each author has a queue of its own, and they are served in turn.
//!
//! So whoever floods fills its own queue only. When the link's limit is reached, it is the author that takes most of it
//! who gives way.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use p2p_wire::{EnvelopeId, NodeId};

/// A push, encoded.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) id: EnvelopeId,
    /// As in the frame.
    pub(crate) hops: u16,
    pub(crate) frame: Bytes,
    /// Somebody wants to know when the other side has handled it.
    pub(crate) followed: bool,
}

impl Item {
    fn taken(self) -> (Option<EnvelopeId>, Bytes) {
        (self.followed.then_some(self.id), self.frame)
    }
}

#[derive(Debug, Default)]
struct Author {
    items: VecDeque<Item>,
    bytes: usize,
}

/// The queues of one link, in bytes no more than their limit together; but one message always fits into empty ones.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    /// The only message that waits, with nothing behind it: most come one by one and go at once, and need no queues.
    lone: Option<Item>,
    /// Authors of whom something waits.
    authors: BTreeMap<NodeId, Author>,
    /// The same ones, the next to be served first.
    turns: VecDeque<NodeId>,
    /// The same ones by what they take.
    by_bytes: BTreeSet<(usize, NodeId)>,
    bytes: usize,
    /// Frames that follow what was queued before them.
    behind: VecDeque<Behind>,
    /// Who was served last, and whether that was somebody else before.
    served: Option<NodeId>,
    changed: bool,
}

/// A frame, and how many messages of each author are still before it.
#[derive(Debug)]
struct Behind {
    before: BTreeMap<NodeId, usize>,
    frame: Bytes,
}

/// Frames behind messages; a neighbour has no reason to cause so many.
const MAX_BEHIND: usize = 128;

impl Backlog {
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn behind_bytes(&self) -> usize {
        self.behind.iter().map(|behind| behind.frame.len()).sum()
    }

    /// Queues a frame that goes out once all messages that wait now did, or gave way. Gives it back if there are too
    /// many.
    pub(crate) fn push_behind(&mut self, frame: Bytes) -> Result<(), Bytes> {
        if self.behind.len() >= MAX_BEHIND {
            return Err(frame);
        }
        self.queue_lone();
        let before = self.authors.iter().map(|(author, queue)| (*author, queue.items.len())).collect();
        self.behind.push_back(Behind { before, frame });
        Ok(())
    }

    /// So many messages of an author are left; `popped`: its first one went, not its last.
    fn settle_behind(&mut self, author: NodeId, popped: bool) {
        if self.behind.is_empty() {
            return;
        }
        let left = self.authors.get(&author).map_or(0, |queue| queue.items.len());
        for behind in &mut self.behind {
            if let Some(before) = behind.before.get_mut(&author) {
                *before = if popped { *before - 1 } else { (*before).min(left) };
                if *before == 0 {
                    behind.before.remove(&author);
                }
            }
        }
    }

    /// Whether there is anything to [`pop`](Self::pop).
    pub(crate) fn has_frames(&self) -> bool {
        self.bytes > 0 || !self.behind.is_empty()
    }

    /// Queues a message; what had to go for it, or the message itself, goes into `displaced`. The newest of the author
    /// that takes most goes first: what it said before is nearer to its turn.
    pub(crate) fn push(&mut self, item: Item, limit: usize, displaced: &mut Vec<Item>) {
        let (author, len) = (item.id.author, item.frame.len());
        while self.bytes > 0 && self.bytes + len > limit {
            self.queue_lone();
            let own = self.authors.get(&author).map_or(0, |a| a.bytes) + len;
            let largest =
                self.by_bytes.last().copied().filter(|(bytes, other)| *other != author && *bytes > own);
            let Some(victim) = largest.and_then(|(_, other)| self.take_newest(other)) else {
                displaced.push(item);
                return;
            };
            displaced.push(victim);
        }
        if !self.has_frames() {
            self.bytes = len;
            self.lone = Some(item);
            return;
        }
        self.queue_lone();
        self.queue(item);
    }

    /// It is not alone any more.
    fn queue_lone(&mut self) {
        if let Some(item) = self.lone.take() {
            self.bytes = 0;
            self.queue(item);
        }
    }

    fn queue(&mut self, item: Item) {
        let (author, len) = (item.id.author, item.frame.len());
        if !self.authors.contains_key(&author) {
            self.turns.push_back(author);
        }
        self.change(author, |queue| {
            queue.bytes += len;
            queue.items.push_back(item);
        });
    }

    /// Takes the next message, of the author whose turn it is; with its id if it is followed.
    pub(crate) fn pop(&mut self) -> Option<(Option<EnvelopeId>, Bytes)> {
        if let Some(first) = self.behind.pop_front_if(|first| first.before.is_empty()) {
            return Some((None, first.frame));
        }
        if let Some(item) = self.lone.take() {
            self.bytes = 0;
            self.serves(item.id.author);
            return Some(item.taken());
        }
        let author = self.turns.pop_front()?;
        let item = self.change(author, |queue| queue.take(VecDeque::pop_front));
        self.serves(author);
        self.settle_behind(author, true);
        if self.authors.contains_key(&author) {
            self.turns.push_back(author);
        }
        item.map(Item::taken)
    }

    fn serves(&mut self, author: NodeId) {
        self.changed |= self.served.replace(author).is_some_and(|before| before != author);
    }

    /// Whether messages of several authors were taken since the last question.
    pub(crate) const fn several_taken(&mut self) -> bool {
        std::mem::replace(&mut self.changed, false)
    }

    fn take_newest(&mut self, author: NodeId) -> Option<Item> {
        let item = self.change(author, |queue| queue.take(VecDeque::pop_back));
        self.settle_behind(author, false);
        if !self.authors.contains_key(&author) {
            self.turns.retain(|waiting| *waiting != author);
        }
        item
    }

    /// Changes one author's queue and keeps the sums; an empty queue is forgotten.
    fn change<T>(&mut self, author: NodeId, change: impl FnOnce(&mut Author) -> T) -> T {
        let queue = self.authors.entry(author).or_default();
        let before = queue.bytes;
        let result = change(queue);
        let after = queue.bytes;
        self.bytes = self.bytes - before + after;
        self.by_bytes.remove(&(before, author));
        if queue.items.is_empty() {
            self.authors.remove(&author);
        } else {
            self.by_bytes.insert((after, author));
        }
        result
    }
}

impl Author {
    fn take(&mut self, from: impl FnOnce(&mut VecDeque<Item>) -> Option<Item>) -> Option<Item> {
        let item = from(&mut self.items)?;
        self.bytes -= item.frame.len();
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn item(author: u8, first: u64, len: usize) -> Item {
        let id = EnvelopeId { author: NodeId::from_bytes([author; 32]), run: 0, first, count: 1 };
        Item { id, hops: 1, frame: Bytes::from(vec![author; len.max(1)]), followed: false }
    }

    fn push(backlog: &mut Backlog, item: Item, limit: usize) -> Vec<(u8, u64)> {
        let mut displaced = Vec::new();
        backlog.push(item, limit, &mut displaced);
        displaced.iter().map(|item| (item.id.author.as_bytes()[0], item.id.first)).collect()
    }

    #[test]
    fn authors_are_served_in_turn() {
        let mut backlog = Backlog::default();
        for first in 0..5 {
            assert_eq!(push(&mut backlog, item(1, first, 10), 1000), []);
        }
        assert_eq!(push(&mut backlog, item(2, 0, 10), 1000), []);
        assert_eq!(push(&mut backlog, item(3, 0, 10), 1000), []);
        let order: Vec<u8> = std::iter::from_fn(|| backlog.pop()).map(|(_, frame)| frame[0]).collect();
        assert_eq!(order, [1, 2, 3, 1, 1, 1, 1]);
        assert_eq!(backlog.bytes(), 0);
        assert!(backlog.several_taken() && !backlog.several_taken());
        push(&mut backlog, item(1, 5, 10), 1000);
        assert!(backlog.pop().is_some() && !backlog.several_taken(), "the same one as before");
        push(&mut backlog, item(2, 1, 10), 1000);
        assert!(backlog.pop().is_some() && backlog.several_taken());
    }

    #[test]
    fn what_is_behind_follows_all_that_was_there_and_nothing_later() {
        let mut backlog = Backlog::default();
        for (author, first) in [(1, 0), (1, 1), (1, 2), (2, 0)] {
            push(&mut backlog, item(author, first, 100), 500);
        }
        backlog.push_behind(Bytes::from_static(&[9])).unwrap();
        // The newest of author 1 give way to author 3, and with them what was to come before.
        assert_eq!(push(&mut backlog, item(3, 0, 200), 500), [(1, 2)]);
        push(&mut backlog, item(2, 1, 1), 501);
        backlog.push_behind(Bytes::from_static(&[8])).unwrap();
        assert_eq!(backlog.behind_bytes(), 2);
        let order: Vec<u8> = std::iter::from_fn(|| backlog.pop()).map(|(_, frame)| frame[0]).collect();
        assert_eq!(order, [1, 2, 3, 1, 9, 2, 8]);
        for _ in 0..MAX_BEHIND {
            backlog.push_behind(Bytes::new()).unwrap();
        }
        assert!(backlog.push_behind(Bytes::new()).is_err());
    }

    #[test]
    fn whoever_takes_most_gives_way_and_loses_its_newest() {
        let mut backlog = Backlog::default();
        for first in 0..10 {
            assert_eq!(push(&mut backlog, item(1, first, 100), 1000), []);
        }
        assert_eq!(push(&mut backlog, item(1, 10, 100), 1000), [(1, 10)], "its own");
        assert_eq!(push(&mut backlog, item(2, 0, 150), 1000), [(1, 9), (1, 8)]);
        assert_eq!(backlog.bytes(), 950);
        assert_eq!(push(&mut backlog, item(3, 0, 900), 1000), [(3, 0)], "it would take most itself");
    }

    #[test]
    fn one_always_fits_into_empty_queues() {
        let mut backlog = Backlog::default();
        assert_eq!(push(&mut backlog, item(1, 0, 5000), 1000), []);
        assert_eq!(push(&mut backlog, item(2, 0, 1), 1000), [(1, 0)]);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_an_author_keeps_its_order(
            pushes in prop::collection::vec((0u8..4, 1usize..200, any::<bool>()), 1..200),
            limit in 1usize..2000,
        ) {
            let (mut backlog, mut gone, mut out) = (Backlog::default(), Vec::new(), Vec::new());
            let mut firsts = [0; 4];
            let total = pushes.len();
            for (author, len, pop) in pushes {
                let first = firsts[usize::from(author)];
                firsts[usize::from(author)] += 1;
                // The number is in the length's place too, so that it comes out again.
                let id = item(author, first, 0).id;
                let mut frame = vec![author; len + 9];
                frame[1..9].copy_from_slice(&first.to_be_bytes());
                let mut displaced = Vec::new();
                backlog.push(Item { id, hops: 1, frame: frame.into(), followed: false }, limit, &mut displaced);
                gone.extend(displaced.iter().map(|i| (i.id.author.as_bytes()[0], i.id.first)));
                let authors = backlog.authors.len() + usize::from(backlog.lone.is_some());
                prop_assert!(backlog.bytes() <= limit || authors == 1);
                prop_assert!(backlog.lone.is_none() || backlog.authors.is_empty());
                prop_assert_eq!(backlog.turns.len(), backlog.authors.len());
                prop_assert_eq!(backlog.by_bytes.len(), backlog.authors.len());
                if pop {
                    out.extend(backlog.pop().map(|(_, frame)| frame));
                }
            }
            out.extend(std::iter::from_fn(|| backlog.pop()).map(|(_, frame)| frame));
            prop_assert!(backlog.bytes() == 0 && backlog.authors.is_empty());
            let out: Vec<_> = out.iter().map(|f| (f[0], u64::from_be_bytes(*f[1..].first_chunk().unwrap()))).collect();
            for author in 0..4 {
                prop_assert!(out.iter().filter(|o| o.0 == author).is_sorted());
            }
            let mut all = [out, gone].concat();
            all.sort_unstable();
            all.dedup();
            prop_assert_eq!(all.len(), total);
        }
    }
}
