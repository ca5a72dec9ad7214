//! The upkeep of the tree: who pushes to whom (Plumtree, SRDS 2007, sections 3.2 to 3.4).
//!
//! The first message floods, and each superfluous copy is answered by PRUNE: what is left is the tree of the fastest
//! ways from its author, which is the flood's own time for that author and at most twice its depth for others. What
//! fails is mended by GRAFT, which does not look at speed; so now and then a message floods again ([`Tree::renew`]).

use std::cmp::Ordering;
use std::time::{Duration, Instant};

use rand::seq::SliceRandom;
use rand::{Rng, RngExt};

use crate::bucket::Bucket;
use crate::message::{Course, EnvelopeId, Fault, Key, Message};
use crate::neighbor::Standing;
use crate::state::{Gossip, Timer};
#[cfg(doc)]
use crate::tree::Tree;

/// How long a circle that a repair or a new link closed stays at the most, while messages show it. 2 s: several times what a PRUNE
/// needs to be felt round the circle.
const CUT_WITHIN: Duration = Duration::from_secs(2);

impl<P: Key, A: Key, R: Rng> Gossip<P, A, R> {
    pub(crate) fn on_neighbor_down(&mut self, now: Instant, peer: P) {
        let Some(neighbor) = self.tree.down(now, peer) else { return };
        self.recent.forget(neighbor.slot);
        if neighbor.eager {
            let waiting = self.missing.waiting();
            if neighbor.is_above && waiting.is_empty() {
                self.graft_another(now);
            }
            // Perhaps it was to bring what is announced: nobody waits for it any more.
            for id in waiting {
                self.timers.set(Timer::Graft(id), Some(now));
            }
        }
        self.drop_offers(now, peer);
        self.drop_claims(now, peer);
        self.behind.remove(&peer);
        self.former.gone(now, peer, neighbor.introductions);
    }

    /// The tree has lost a branch through us: another link takes its place before the next message is missed here and at
    /// those below. One to a neighbour that is nearer to the author, as far as is known; which is a guess, so a message that is
    /// missed all the same is repaired as if there had been none. Half as many a minute as one neighbour takes: who comes,
    /// pushes something and goes again and again leaves the rest to repairs.
    fn graft_another(&mut self, now: Instant) {
        let per_min = self.config.grafts_per_min / 2;
        if !self.replacing.get_or_insert_with(|| Bucket::per_minute(now, per_min, per_min)).has(now) {
            return;
        }
        let lazy = self.tree.iter().filter(|(_, neighbor)| !neighbor.eager && !neighbor.is_shunned(now));
        let mut could: Vec<_> = lazy.map(|(peer, neighbor)| (neighbor.standing, peer)).collect();
        could.shuffle(&mut self.rng);
        could.sort_by_key(|&(standing, _)| standing);
        if could.into_iter().any(|(_, peer)| self.graft(now, peer, None))
            && let Some(bucket) = &mut self.replacing
        {
            bucket.spend(now);
        }
    }

    /// Asks a neighbour to push, and for an envelope that is missing; not if it was asked too often.
    pub(crate) fn graft(&mut self, now: Instant, peer: P, id: Option<EnvelopeId<A>>) -> bool {
        let grafts = self.tree.get_mut(peer).is_some_and(|neighbor| neighbor.graft(now));
        if grafts {
            self.stats.grafts_sent += 1;
            self.send(peer, Message::Graft { id });
        }
        grafts
    }

    /// A neighbour has another way.
    pub(crate) fn on_prune(&mut self, from: P) {
        if let Some(neighbor) = self.tree.get_mut(from) {
            neighbor.make_lazy();
        }
    }

    pub(crate) fn on_graft(&mut self, now: Instant, from: P, id: Option<EnvelopeId<A>>) {
        if let Some(id) = id {
            self.answer_pulls(now, from, &[id]);
        }
        let Some(neighbor) = self.tree.get_mut(from) else { return };
        if !neighbor.grafts.take(now) {
            self.stats.refused_grafts += 1;
            return;
        }
        neighbor.make_eager();
        self.announce_to(from);
    }

    pub(crate) fn on_iwant(&mut self, now: Instant, from: P, ids: &[EnvelopeId<A>]) {
        if ids.len() > self.config.max_pulls.max(1) {
            let (count, limit) = (ids.len(), self.config.max_pulls);
            return self.blame(from, Fault::TooManyIds { count, limit });
        }
        self.answer_pulls(now, from, ids);
    }

    /// A push that nobody asked for brought something new: its sender is a parent.
    pub(crate) fn on_first(&mut self, now: Instant, from: P, id: &EnvelopeId<A>, course: Course) {
        let Some(neighbor) = self.tree.get_mut(from) else { return };
        if course == Course::Doubled && !neighbor.eager {
            // Its author pushed it here once.
            return;
        }
        neighbor.brings(now, id);
        if !neighbor.was_pruned_lately(now) {
            neighbor.eager = true;
        }
    }

    /// A push that nobody asked for brought nothing new: one link of the tree is too many.
    ///
    /// The message that makes the tree cuts all such links at once, and leaves it whole. Any other message shows one
    /// circle, which is cut at a time that each of those who notice it draws, so mostly by one: if each of several
    /// messages under way had it cut at another place at once, the tree would be in pieces.
    pub(crate) fn on_redundant(&mut self, now: Instant, from: P, id: &EnvelopeId<A>, course: Course) {
        self.stats.redundant += 1;
        if course == Course::Doubled {
            return;
        }
        let made = self.tree.is_root(id);
        let Some(neighbor) = self.tree.get_mut(from) else { return };
        let after = CUT_WITHIN.mul_f64(self.rng.random_range(0.0..1.0));
        if made || neighbor.cuts(now, after, CUT_WITHIN) {
            self.prune(now, from);
        }
    }

    pub(crate) fn prune(&mut self, now: Instant, peer: P) {
        let Some(neighbor) = self.tree.get_mut(peer) else { return };
        neighbor.make_lazy();
        if neighbor.prunes(now) {
            self.stats.prunes_sent += 1;
            self.send(peer, Message::Prune);
        }
    }

    /// A neighbour announced what had come already.
    pub(crate) fn on_offer(&mut self, now: Instant, from: P, id: &EnvelopeId<A>, hops: u16) {
        let Some(neighbor) = self.tree.get_mut(from) else { return };
        let Some(arrival) = self.recent.get_mut(id) else { return };
        arrival.announced.insert(neighbor.slot);
        neighbor.on_evidence(now);
        // What it announces is the hops of its push, one more than those with which the envelope came to it.
        neighbor.standing = match hops.cmp(&arrival.hops.saturating_add(1)) {
            Ordering::Less => Standing::Ahead,
            Ordering::Equal => Standing::Beside,
            Ordering::Greater => Standing::Below,
        };
    }
}
