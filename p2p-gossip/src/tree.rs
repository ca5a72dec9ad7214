//! The neighbours, eager and lazy (Plumtree, SRDS 2007, section 3). All start eager; a neighbour makes itself
//! lazy with PRUNE.

use std::collections::BTreeMap;
use std::time::Instant;

use rand::{Rng, RngExt};

use crate::config::Config;
use crate::message::Key;
use crate::neighbor::Neighbor;

/// The neighbour sets. Bounded by the caller's links.
#[derive(Debug)]
pub(crate) struct Tree<P, A> {
    neighbors: BTreeMap<P, Neighbor<A>>,
}

impl<P: Key, A: Key> Tree<P, A> {
    pub(crate) fn new() -> Self {
        Self { neighbors: BTreeMap::new() }
    }

    pub(crate) fn up(&mut self, now: Instant, peer: P, config: &Config) {
        self.neighbors.entry(peer).or_insert_with(|| Neighbor::new(now, config));
    }

    /// Whether it was up.
    pub(crate) fn down(&mut self, peer: P) -> bool {
        self.neighbors.remove(&peer).is_some()
    }

    pub(crate) fn get_mut(&mut self, peer: P) -> Option<&mut Neighbor<A>> {
        self.neighbors.get_mut(&peer)
    }

    /// The neighbours that are not among `havers`, each with whether it is eager.
    ///
    /// In key order from a random one on, so that nobody is always the last one served.
    pub(crate) fn targets<R: Rng>(&self, havers: &[P], rng: &mut R) -> Vec<(P, bool)> {
        let mut targets: Vec<_> = self
            .neighbors
            .iter()
            .filter(|(peer, _)| !havers.contains(peer))
            .map(|(&peer, neighbor)| (peer, neighbor.eager))
            .collect();
        if targets.len() > 1 {
            let start = rng.random_range(0..targets.len());
            targets.rotate_left(start);
        }
        targets
    }

    pub(crate) fn contains(&self, peer: P) -> bool {
        self.neighbors.contains_key(&peer)
    }

    pub(crate) fn len(&self) -> usize {
        self.neighbors.len()
    }
}
