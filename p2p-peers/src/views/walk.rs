//! What walks through the network: the news of joiners, and shuffles.

use std::time::{Duration, Instant};

use rand::seq::{IteratorRandom, SliceRandom};
use rand::{Rng, RngExt};

use super::{Message, Output, Views};
use crate::Key;

/// Ways back of shuffles that came through here; the oldest is forgotten first. A guess: in the steady state a node
/// passes on one every 12 s.
const MAX_ROUTES: usize = 64;
/// How long a way back is kept. A guess: far above any walk.
const ROUTE_FOR: Duration = Duration::from_secs(30);

/// The way back of a shuffle.
#[derive(Debug)]
pub(super) struct Route<P> {
    id: u64,
    from: P,
    until: Instant,
}

/// Our own shuffle that waits for its answer.
#[derive(Debug)]
pub(super) struct Outstanding<P> {
    id: u64,
    told: Vec<P>,
}

impl<P: Key, R: Rng> Views<P, R> {
    /// Somebody joined here: tell of it.
    pub(super) fn spread_news(&mut self, joiner: P) {
        let others = self.active().filter(|peer| *peer != joiner).collect::<Vec<_>>();
        let chosen = others.into_iter().sample(&mut self.rng, self.config.walks);
        let ttl = self.config.walk;
        for to in chosen {
            self.outputs.push_back(Output::Send { to, message: Message::ForwardJoin { joiner, ttl } });
        }
    }

    pub(super) fn on_forward_join(&mut self, now: Instant, from: P, joiner: P, ttl: u8) {
        if !self.may_walk(now, from) || joiner == self.me || joiner == from {
            return;
        }
        let ttl = ttl.min(self.config.walk);
        let known = self.links.contains_key(&joiner) || self.hunt.is_pending(joiner);
        let next = self.step(&[from, joiner]).filter(|_| ttl > 0);
        if let Some(to) = next {
            if ttl == self.config.walk_passive && !known {
                self.take_in(from, vec![joiner], &[]);
            }
            self.outputs
                .push_back(Output::Send { to, message: Message::ForwardJoin { joiner, ttl: ttl - 1 } });
        } else if !known && self.config.discover {
            self.take_in(from, vec![joiner], &[]);
            if !self.hunt.takes_news(from) {
                self.counters.limited += 1;
            } else if self.has_free_place() {
                self.dial_news(now, joiner, from, false);
            } else if self.makes_way.take(now, self.config.makes_way_per_sec) {
                self.dial_news(now, joiner, from, true);
            }
        }
    }

    /// Where everybody could be a neighbour, a new one has more to tell than the next shuffle in a minute.
    pub(super) fn shuffle_soon(&mut self, now: Instant) {
        let soon = now + Duration::from_secs(1);
        if let Some(next) = self.next_shuffle.as_mut().filter(|next| **next > soon) {
            (*next, self.shuffles) = (soon, 0);
        }
    }

    pub(super) fn shuffle(&mut self, now: Instant) {
        self.passive.forget_crowds();
        self.outstanding = None;
        let Some(to) = self.step(&[]) else { return };
        let near = self.active().filter(|peer| *peer != to).collect::<Vec<_>>();
        let mut told = near.into_iter().sample(&mut self.rng, self.config.shuffle_active);
        told.extend(self.passive.sample(self.config.shuffle_passive, &mut self.rng));
        told.shuffle(&mut self.rng);
        let id = self.rng.random();
        let mut peers = vec![self.me];
        peers.extend(&told);
        self.outstanding = Some(Outstanding { id, told });
        self.routes.retain(|route| route.until > now);
        let ttl = self.config.shuffle_walk;
        self.outputs.push_back(Output::Send { to, message: Message::Shuffle { id, ttl, peers } });
    }

    pub(super) fn on_shuffle(&mut self, now: Instant, from: P, (id, ttl, mut peers): (u64, u8, Vec<P>)) {
        if !self.may_walk(now, from) {
            return;
        }
        peers.truncate(1 + self.config.shuffle_active + self.config.shuffle_passive);
        let Some(&origin) = peers.first() else { return };
        if origin == self.me {
            return;
        }
        let ttl = ttl.min(self.config.shuffle_walk);
        if let Some(to) = self.step(&[from, origin]).filter(|_| ttl > 1) {
            if self.routes.len() >= MAX_ROUTES {
                self.routes.pop_front();
            }
            self.routes.push_back(Route { id, from, until: now + ROUTE_FOR });
            self.outputs
                .push_back(Output::Send { to, message: Message::Shuffle { id, ttl: ttl - 1, peers } });
            return;
        }
        let mut told = self.passive.sample(peers.len(), &mut self.rng);
        if told.is_empty() {
            told = self.sample(from);
            told.truncate(peers.len());
        }
        told.retain(|peer| *peer != origin);
        let message = Message::ShuffleReply { id, peers: told.clone() };
        self.outputs.push_back(Output::Send { to: from, message });
        self.take_in(from, peers, &told);
    }

    /// Answers are taken only to what was asked, once.
    pub(super) fn on_shuffle_reply(&mut self, now: Instant, from: P, id: u64, mut peers: Vec<P>) {
        if let Some(own) = self.outstanding.take_if(|own| own.id == id) {
            self.take_in(from, peers, &own.told);
            return;
        }
        let route = self.routes.iter().rposition(|route| route.id == id && route.until > now);
        let Some(route) = route.and_then(|at| self.routes.remove(at)) else {
            self.counters.unexpected += 1;
            return;
        };
        if self.is_active(route.from) {
            peers.truncate(1 + self.config.shuffle_active + self.config.shuffle_passive);
            let message = Message::ShuffleReply { id, peers };
            self.outputs.push_back(Output::Send { to: route.from, message });
        }
    }

    /// Walks come from neighbours only, at their rate.
    fn may_walk(&mut self, now: Instant, from: P) -> bool {
        let rate = self.config.walks_per_sec;
        let Some(link) = self.links.get_mut(&from).filter(|link| link.is_active()) else {
            self.counters.unexpected += 1;
            return false;
        };
        let allowed = link.walks.take(now, rate);
        self.counters.limited += u64::from(!allowed);
        allowed
    }

    /// A random neighbour that is none of these.
    fn step(&mut self, but: &[P]) -> Option<P> {
        let near = self.links.iter().filter(|(peer, link)| link.is_active() && !but.contains(peer));
        near.map(|(&peer, _)| peer).choose(&mut self.rng)
    }
}
