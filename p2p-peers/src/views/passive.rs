//! The passive view: whom to ask when a neighbour is lost.

use rand::Rng;
use rand::seq::{IndexedRandom, IteratorRandom};

#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<P> {
    pub(super) peer: P,
    /// The neighbour that told of it.
    pub(super) via: Option<P>,
    /// Tried, and found where too many are already.
    pub(super) crowded: bool,
}

/// Random peers, each once.
#[derive(Debug)]
pub(super) struct Passive<P> {
    entries: Vec<Entry<P>>,
}

impl<P: Copy + Ord> Passive<P> {
    pub(super) const fn new() -> Self {
        Self { entries: Vec::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn contains(&self, peer: P) -> bool {
        self.entries.iter().any(|entry| entry.peer == peer)
    }

    pub(super) fn peers(&self) -> impl Iterator<Item = P> + '_ {
        self.entries.iter().map(|entry| entry.peer)
    }

    /// Adds a peer. A full view gives up one of `given` (what was told in exchange), else any; a source that has its
    /// share gives up one of its own.
    pub(super) fn add<R: Rng>(
        &mut self,
        peer: P,
        via: Option<P>,
        (max, share): (usize, usize),
        given: &[P],
        rng: &mut R,
    ) {
        if max == 0 || self.contains(peer) {
            return;
        }
        let same = |entry: &Entry<P>| via.is_some() && entry.via == via;
        if self.entries.iter().filter(|entry| same(entry)).count() >= share.max(1) {
            self.give_up(same, rng);
        } else if self.entries.len() >= max && !self.give_up(|entry| given.contains(&entry.peer), rng) {
            self.give_up(|_| true, rng);
        }
        self.entries.push(Entry { peer, via, crowded: false });
    }

    fn give_up<R: Rng>(&mut self, among: impl Fn(&Entry<P>) -> bool, rng: &mut R) -> bool {
        let found = (0..self.entries.len()).filter(|&i| among(&self.entries[i])).choose(rng);
        found.map(|i| self.entries.swap_remove(i)).is_some()
    }

    pub(super) fn remove(&mut self, peer: P) -> Option<Entry<P>> {
        let at = self.entries.iter().position(|entry| entry.peer == peer)?;
        Some(self.entries.swap_remove(at))
    }

    /// Takes one of `among` out to be dialled: any that is not crowded, else any.
    pub(super) fn draw<R: Rng>(
        &mut self,
        among: impl Fn(&Entry<P>) -> bool,
        rng: &mut R,
    ) -> Option<Entry<P>> {
        let found = |crowded: bool, rng: &mut R| {
            let fits = |&i: &usize| self.entries[i].crowded == crowded && among(&self.entries[i]);
            (0..self.entries.len()).filter(fits).choose(rng)
        };
        let at = found(false, rng).or_else(|| found(true, rng))?;
        Some(self.entries.swap_remove(at))
    }

    /// Puts one back that was drawn, unless others took its place meanwhile.
    pub(super) fn put_back(&mut self, entry: Entry<P>, max: usize) {
        if self.len() < max && !self.contains(entry.peer) {
            self.entries.push(entry);
        }
    }

    pub(super) fn forget_crowds(&mut self) {
        self.entries.iter_mut().for_each(|entry| entry.crowded = false);
    }

    pub(super) fn sample<R: Rng>(&self, count: usize, rng: &mut R) -> Vec<P> {
        self.entries.sample(rng, count).map(|entry| entry.peer).collect()
    }
}
