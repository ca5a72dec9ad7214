//! The neighbours, eager and lazy (Plumtree, SRDS 2007, section 3), and when the tree is to be made anew.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::message::{EnvelopeId, Key};
use crate::neighbor::{Neighbor, Standing};
use crate::recent::{Slot, Slots};

/// Messages in a row after which an author's are most of what comes; more do not make it surer.
const MAJORITY: u32 = 16;

/// How long neighbours are taken to come and go after one went, or after the first one came. 60 s: where nodes live as long as
/// that on average and have ten neighbours, one goes every 6 s.
const UNSETTLED: Duration = Duration::from_secs(60);

/// The neighbour sets. Bounded by the caller's links.
#[derive(Debug)]
pub(crate) struct Tree<P, A> {
    neighbors: BTreeMap<P, Neighbor<A>>,
    taken: Slots,
    /// Whose messages come most: Boyer and Moore's majority vote, with a bounded count.
    majority: Option<(A, u32)>,
    /// The message that made the tree.
    root: Option<EnvelopeId<A>>,
    /// Messages since then.
    messages: u32,
    /// Links that came since then, not in the tree but by chance.
    new_links: usize,
    /// When a link went last, or the first one came.
    changed_at: Option<Instant>,
}

impl<P: Key, A: Key> Tree<P, A> {
    pub(crate) fn new() -> Self {
        Self {
            neighbors: BTreeMap::new(),
            taken: Slots::default(),
            majority: None,
            root: None,
            messages: 0,
            new_links: 0,
            changed_at: None,
        }
    }

    pub(crate) fn up(&mut self, now: Instant, peer: P, config: &Config) {
        if self.neighbors.contains_key(&peer) {
            return;
        }
        let slot = Slot::free(self.taken);
        self.taken.insert(slot);
        self.new_links += 1;
        if self.neighbors.is_empty() {
            self.changed_at = Some(now);
        }
        self.neighbors.insert(peer, Neighbor::new(now, slot, config));
    }

    /// The neighbour that was up.
    pub(crate) fn down(&mut self, now: Instant, peer: P) -> Option<Neighbor<A>> {
        let neighbor = self.neighbors.remove(&peer)?;
        self.changed_at = Some(now);
        self.taken.remove(neighbor.slot);
        Some(neighbor)
    }

    /// Whether neighbours come and go.
    pub(crate) fn is_unsettled(&self, now: Instant) -> bool {
        self.changed_at.is_some_and(|at| now.saturating_duration_since(at) < UNSETTLED)
    }

    pub(crate) fn get(&self, peer: P) -> Option<&Neighbor<A>> {
        self.neighbors.get(&peer)
    }

    pub(crate) fn get_mut(&mut self, peer: P) -> Option<&mut Neighbor<A>> {
        self.neighbors.get_mut(&peer)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (P, &Neighbor<A>)> {
        self.neighbors.iter().map(|(&peer, neighbor)| (peer, neighbor))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (P, &mut Neighbor<A>)> {
        self.neighbors.iter_mut().map(|(&peer, neighbor)| (peer, neighbor))
    }

    /// From which seq on, no lower than `next`, something of this author is being pushed to us, by whoever is farthest behind of
    /// those that pushed something new less than `time` ago.
    pub(crate) fn pushes(&self, now: Instant, (author, next): (A, u64), time: Duration) -> Option<u64> {
        let pushes = self.neighbors.values().filter_map(|neighbor| neighbor.pushes(now, author, time));
        pushes.filter(|upto| *upto >= next).min()
    }

    /// These had something genuine before us.
    pub(crate) fn are_ahead(&mut self, peers: &[P]) {
        for peer in peers {
            if let Some(neighbor) = self.neighbors.get_mut(peer) {
                neighbor.standing = Standing::Ahead;
            }
        }
    }

    pub(crate) fn contains(&self, peer: P) -> bool {
        self.neighbors.contains_key(&peer)
    }

    pub(crate) fn len(&self) -> usize {
        self.neighbors.len()
    }

    pub(crate) fn eager(&self) -> usize {
        self.neighbors.values().filter(|neighbor| neighbor.eager).count()
    }

    pub(crate) fn has_eager_besides(&self, peer: P) -> bool {
        self.neighbors.iter().any(|(other, neighbor)| *other != peer && neighbor.eager)
    }

    /// A message goes round in the tree as it is.
    pub(crate) fn count(&mut self, id: EnvelopeId<A>) {
        let author = id.author;
        if self.root.is_none() {
            // The very first one floods, since new links are eager.
            (self.root, self.new_links) = (Some(id), 0);
        }
        self.messages = self.messages.saturating_add(1);
        self.majority = match self.majority {
            Some((of, count)) if of == author => Some((of, (count + 1).min(MAJORITY))),
            Some((of, count)) if count > 1 => Some((of, count - 1)),
            _ => Some((author, 1)),
        };
    }

    /// Whether a message of this author, us, should make the tree anew: because most that comes is ours and the tree
    /// is another's, or because so many links are new that the tree is as chance left it. A tree serves its root
    /// best; where many send, no root is better than another.
    pub(crate) fn wants_renewal(&self, author: A, config: &Config) -> bool {
        let ours =
            self.majority == Some((author, MAJORITY)) && self.root.is_none_or(|root| root.author != author);
        let stale = 2 * self.new_links >= self.neighbors.len();
        self.messages >= config.renew_after && (ours || stale)
    }

    /// Whether we take part when another's message is to make the tree anew. Nearly as long as for our own: others
    /// count a little more or less than we do, but nobody can have each message flooded.
    pub(crate) fn allows_renewal(&self, config: &Config) -> bool {
        self.messages >= config.renew_after - config.renew_after / 4
    }

    /// All neighbours are eager again: this message floods, and leaves the tree of the fastest ways from its author.
    pub(crate) fn renew(&mut self, id: EnvelopeId<A>) {
        self.root = Some(id);
        self.messages = 0;
        self.new_links = 0;
        for neighbor in self.neighbors.values_mut() {
            neighbor.make_eager();
        }
    }

    /// Whether this is the message that makes the tree: whatever link brings it late is not part of it.
    pub(crate) fn is_root(&self, id: &EnvelopeId<A>) -> bool {
        self.root.as_ref() == Some(id)
    }
}
