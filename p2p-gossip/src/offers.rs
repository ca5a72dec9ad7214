//! What one neighbour announced and has not sent yet. Authors have their turns: a flood of one of them is no reason for
//! another's envelope to wait (faults row 16).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};

use crate::message::{EnvelopeId, Key};

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Offers<A> {
    /// It was asked for these and has not answered.
    asked: BTreeSet<EnvelopeId<A>>,
    /// It has these as well, and was not asked. By author and by the order of the want; no author is without any.
    waiting: BTreeMap<A, BTreeSet<(u64, EnvelopeId<A>)>>,
    /// How many wait of each author, the largest last.
    loads: BTreeSet<(usize, A)>,
    /// All that wait.
    count: usize,
    /// Whose envelope it was asked for last.
    turn: Option<A>,
}

impl<A: Key> Offers<A> {
    pub(crate) const fn new() -> Self {
        Self {
            asked: BTreeSet::new(),
            waiting: BTreeMap::new(),
            loads: BTreeSet::new(),
            count: 0,
            turn: None,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.count + self.asked.len()
    }

    /// Pulls that are open.
    pub(crate) fn asked(&self) -> usize {
        self.asked.len()
    }

    pub(crate) fn insert(&mut self, order: u64, id: EnvelopeId<A>) {
        if self.waiting.entry(id.author).or_default().insert((order, id)) {
            let load = self.waiting[&id.author].len();
            self.loads.remove(&(load - 1, id.author));
            self.loads.insert((load, id.author));
            self.count += 1;
        }
    }

    pub(crate) fn remove(&mut self, order: u64, id: EnvelopeId<A>) {
        let Some(ids) = self.waiting.get_mut(&id.author) else { return };
        if ids.remove(&(order, id)) {
            let load = ids.len();
            self.loads.remove(&(load + 1, id.author));
            if load == 0 {
                self.waiting.remove(&id.author);
            } else {
                self.loads.insert((load, id.author));
            }
            self.count -= 1;
        }
    }

    /// It is asked for an envelope that waited.
    pub(crate) fn ask(&mut self, order: u64, id: EnvelopeId<A>) {
        self.remove(order, id);
        self.asked.insert(id);
        self.turn = Some(id.author);
    }

    pub(crate) fn end(&mut self, id: &EnvelopeId<A>) {
        self.asked.remove(id);
    }

    /// What to ask for next: the oldest one that is `wanted`, of the author whose turn it is.
    pub(crate) fn next(&self, mut wanted: impl FnMut(&EnvelopeId<A>) -> bool) -> Option<EnvelopeId<A>> {
        let later = self.waiting.range((self.turn.map_or(Unbounded, Excluded), Unbounded));
        let earlier = self.turn.into_iter().flat_map(|turn| self.waiting.range(..=turn));
        later.chain(earlier).flat_map(|(_, ids)| ids).map(|&(_, id)| id).find(|id| wanted(id))
    }

    /// What gives way to one more of `author`: the newest of the author of which most waits, if that is more than there
    /// would be of this one.
    pub(crate) fn gives_way(&self, author: A) -> Option<EnvelopeId<A>> {
        let &(most, largest) = self.loads.last()?;
        let own = self.waiting.get(&author).map_or(0, BTreeSet::len);
        let newest = self.waiting.get(&largest)?.last()?;
        (most > own + 1).then_some(newest.1)
    }

    /// Everything: what it was asked for, and what waits.
    pub(crate) fn into_parts(self) -> (BTreeSet<EnvelopeId<A>>, impl Iterator<Item = EnvelopeId<A>>) {
        (self.asked, self.waiting.into_values().flatten().map(|(_, id)| id))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(author: u32, first: u64) -> EnvelopeId<u32> {
        EnvelopeId { author, run: 0, first, count: 1 }
    }

    #[test]
    fn authors_have_their_turns() {
        let mut offers = Offers::new();
        for order in 0..10 {
            offers.insert(order, id(1, order));
        }
        offers.insert(10, id(2, 0));
        offers.insert(11, id(3, 0));
        let mut served = Vec::new();
        while let Some(next) = offers.next(|_| true) {
            let order = if next.author == 1 { next.first } else { 8 + u64::from(next.author) };
            offers.ask(order, next);
            served.push(next.author);
        }
        assert_eq!(served, [1, 2, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1]);
        assert_eq!((offers.len(), offers.asked()), (12, 12));
    }

    #[test]
    fn the_newest_of_the_largest_gives_way() {
        let mut offers = Offers::new();
        assert_eq!(offers.gives_way(1), None);
        for order in 0..3 {
            offers.insert(order, id(1, order));
        }
        assert_eq!(offers.gives_way(1), None, "not to its own");
        assert_eq!(offers.gives_way(2), Some(id(1, 2)));
        offers.insert(3, id(2, 0));
        offers.insert(4, id(2, 1));
        assert_eq!(offers.gives_way(2), None, "to and fro otherwise");
    }

    proptest! {
        #[test]
        fn the_counts_are_those_of_the_lists(ops in prop::collection::vec((0_u8..4, 0_u32..4, 0_u64..8), 0..200)) {
            let mut offers = Offers::new();
            for (op, author, first) in ops {
                let (order, id) = (first, id(author, first));
                match op {
                    0 | 1 => offers.insert(order, id),
                    2 => offers.remove(order, id),
                    _ => if let Some(next) = offers.next(|_| true) { offers.ask(next.first, next) },
                }
                prop_assert_eq!(offers.count, offers.waiting.values().map(BTreeSet::len).sum::<usize>());
                let loads: BTreeSet<_> = offers.waiting.iter().map(|(&author, ids)| (ids.len(), author)).collect();
                prop_assert_eq!(&offers.loads, &loads);
                prop_assert!(offers.waiting.values().all(|ids| !ids.is_empty()));
            }
        }
    }
}
