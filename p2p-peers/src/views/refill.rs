//! Finding neighbours: whom to dial, how many at once, and when to look again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::Rng;

use super::link::Phase;
use super::{Output, Views};
use crate::views::passive::Entry;
use crate::{Direction, Key};

/// Looking again for somebody to dial: after this, doubling.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
const LOOK_AGAIN_MAX: Duration = Duration::from_secs(15);
/// The same while there is no neighbour at all.
const LOOK_AGAIN_ALONE: Duration = Duration::from_secs(8);

/// Dials under way, and when to look again.
#[derive(Debug)]
pub(super) struct Hunt<P> {
    dials: BTreeMap<P, (Instant, Option<P>)>,
    look_at: Option<Instant>,
    pause: Duration,
}

impl<P: Key> Hunt<P> {
    pub(super) const fn new() -> Self {
        Self { dials: BTreeMap::new(), look_at: None, pause: LOOK_AGAIN }
    }

    pub(super) fn pending(&self) -> usize {
        self.dials.len()
    }

    pub(super) fn is_pending(&self, peer: P) -> bool {
        self.dials.contains_key(&peer)
    }

    /// Says who told of the peer.
    pub(super) fn end(&mut self, peer: P) -> Option<P> {
        self.dials.remove(&peer).and_then(|(_, via)| via)
    }

    /// Something changed: look at once.
    pub(super) fn restart(&mut self, now: Instant) {
        (self.pause, self.look_at) = (LOOK_AGAIN, Some(now));
    }

    pub(super) fn expire(&mut self, now: Instant) {
        self.dials.retain(|_, (until, _)| *until > now);
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.dials.values().map(|(until, _)| *until).chain(self.look_at).min()
    }
}

impl<P: Key, R: Rng> Views<P, R> {
    pub(super) fn on_dial_failed(&mut self, peer: P) {
        self.hunt.end(peer);
        self.passive.remove(peer);
    }

    pub(super) fn on_crowded(&mut self, peer: P) {
        if self.hunt.is_pending(peer) {
            let via = self.hunt.end(peer);
            self.passive.put_back(Entry { peer, via, crowded: true });
        }
    }

    pub(super) fn on_suggested(&mut self, now: Instant, peers: Vec<P>) {
        for peer in peers {
            if peer == self.me || self.links.contains_key(&peer) || self.hunt.is_pending(peer) {
                continue;
            }
            if self.dials_wanted() > 0 && self.cold.iter().all(|(cold, _)| *cold != peer) {
                self.dial(now, peer);
            } else {
                self.keep_in_mind(peer, None, &[]);
            }
        }
    }

    /// One more neighbour of our own choice has a place.
    pub(super) fn has_free_place(&self) -> bool {
        self.config.discover && self.taken() + self.hunt.pending() < self.config.active
    }

    /// Another neighbour of our own choice is of use, whatever else is under way.
    pub(super) fn wants_more(&self) -> bool {
        self.config.discover && (self.taken() < self.config.active || self.outbound() < self.config.outbound)
    }

    fn outbound(&self) -> usize {
        let ours = self.links.values().filter(|link| link.direction == Direction::Out);
        ours.filter(|link| matches!(link.phase, Phase::Active(_) | Phase::Asked(_))).count()
    }

    /// How many more dials to begin now: two for each single neighbour that is missing, so that one that is gone costs
    /// no time, and never more than there are places.
    fn dials_wanted(&self) -> usize {
        let (config, small) = (&self.config, self.is_small_world());
        let active = self.links.values().filter(|link| link.is_active()).count();
        let goal = if small { config.active } else { config.seek.min(config.active) };
        let short_out = if small { 0 } else { config.outbound.saturating_sub(self.outbound()) };
        let missing = goal.saturating_sub(active).max(short_out);
        if missing == 0 {
            return 0;
        }
        let asked = self.links.values().filter(|link| matches!(link.phase, Phase::Asked(_))).count();
        let under_way = self.hunt.pending() + asked;
        let at_once = missing.clamp(2, config.parallel.max(2)).saturating_sub(under_way);
        let places = config.active.saturating_sub(self.taken() + self.hunt.pending());
        at_once.min(places.max(short_out.saturating_sub(self.hunt.pending())))
    }

    pub(super) fn refill(&mut self, now: Instant) {
        if !self.config.discover {
            self.hunt.look_at = None;
            return;
        }
        let mut wanted = self.dials_wanted();
        while wanted > 0 {
            let Some(entry) = self.passive.draw(&mut self.rng) else { break };
            self.begin(now, entry.peer, entry.via, !entry.crowded);
            wanted = self.dials_wanted();
        }
        if wanted == 0 {
            self.hunt.look_at = None;
        } else if self.hunt.look_at.is_none_or(|at| at <= now) {
            let desperate = self.active().next().is_none();
            self.outputs.push_back(Output::Suggest { count: wanted.max(self.config.parallel), desperate });
            self.hunt.look_at = Some(now + self.hunt.pause);
            let longest = if desperate { LOOK_AGAIN_ALONE } else { LOOK_AGAIN_MAX };
            self.hunt.pause = (self.hunt.pause * 2).min(longest);
        }
    }

    pub(super) fn dial(&mut self, now: Instant, peer: P) {
        let via = self.passive.remove(peer).and_then(|entry| entry.via);
        self.begin(now, peer, via, true);
    }

    fn begin(&mut self, now: Instant, peer: P, via: Option<P>, spread: bool) {
        self.hunt.dials.insert(peer, (now + self.config.dial_wait, via));
        self.outputs.push_back(Output::Dial { peer, spread });
    }
}
