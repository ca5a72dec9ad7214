//! Who becomes a neighbour: requests and their answers.

use std::time::{Duration, Instant};

use rand::Rng;
use rand::seq::IndexedRandom;

use super::link::Phase;
use super::{Message, Output, Views, remember};
use crate::{Direction, Key};

impl<P: Key, R: Rng> Views<P, R> {
    /// We dialled: ask to be taken.
    pub(super) fn ask(&mut self, peer: P, urgent: bool) {
        let alone = self.active().next().is_none();
        let message = if alone && self.config.discover {
            Message::Join
        } else {
            Message::Neighbor { high: alone || urgent }
        };
        self.outputs.push_back(Output::Send { to: peer, message });
    }

    /// It dialled and asks.
    pub(super) fn on_request(&mut self, now: Instant, from: P, high: bool, join: bool) {
        let Some(link) = self.links.get(&from) else { return };
        if !matches!(link.phase, Phase::Waiting(_)) {
            self.counters.unexpected += 1;
            return;
        }
        let asked = link.asked;
        let is_cold = self.cold.iter().any(|(cold, _)| *cold == from);
        let again = self.displacers.iter().any(|(peer, _)| *peer == from);
        if !asked
            && (is_cold || !(self.has_room_for_caller() || (high && !again && self.displace(now, from))))
        {
            self.counters.refused += 1;
            self.dismiss(now, from);
            return;
        }
        let sample = self.sample(from);
        self.outputs.push_back(Output::Send { to: from, message: Message::Accept { sample } });
        self.become_neighbours(now, from, None);
        if join {
            self.spread_news(from);
        }
    }

    /// Some places are kept for those we choose ourselves, where there are others to choose.
    fn has_room_for_caller(&self) -> bool {
        let inbound = self.chosen(Direction::In).len();
        let reserved = if self.is_small_world() || !self.config.discover { 0 } else { self.config.outbound };
        self.taken() < self.config.active && inbound + reserved < self.config.active
    }

    /// Makes room for a request that should not be refused: who asks so has nobody else, or its user named this node.
    fn displace(&mut self, now: Instant, newcomer: P) -> bool {
        let Some(peer) = self.give_way(newcomer, &[]) else { return false };
        remember(&mut self.displacers, newcomer, now + self.config.cold);
        self.counters.displaced += 1;
        self.dismiss(now, peer);
        true
    }

    /// Those who were taken for having nobody, a moment ago.
    fn let_in(&self) -> Vec<P> {
        self.displacers.iter().map(|(peer, _)| *peer).collect()
    }

    /// Who goes for `newcomer`: any neighbour but the oldest, of those that dialled us and of those that we dialled, and one
    /// of `spared` only where there is no other. A full view always has one, so that a node without neighbours is taken
    /// wherever it asks.
    fn give_way(&mut self, newcomer: P, spared: &[P]) -> Option<P> {
        let mut open = Vec::new();
        for (direction, kept) in
            [(Direction::In, self.config.protected), (Direction::Out, self.config.outbound)]
        {
            let mut held = self.chosen(direction);
            held.sort_unstable();
            open.extend(held.into_iter().skip(kept).map(|(_, peer)| peer).filter(|peer| *peer != newcomer));
        }
        if !open.iter().all(|peer| spared.contains(peer)) {
            open.retain(|peer| !spared.contains(peer));
        }
        open.choose(&mut self.rng).copied()
    }

    /// `answered_after` is what it took to answer our request, nothing if it asked.
    fn become_neighbours(&mut self, now: Instant, peer: P, answered_after: Option<Duration>) {
        if self.active().next().is_none() {
            self.hunt.joined(now, answered_after);
        }
        if let Some(link) = self.links.get_mut(&peer) {
            link.phase = Phase::Active(now);
            self.outputs.push_back(Output::Up(peer));
        }
        if self.is_small_world() {
            self.shuffle_soon(now);
        }
    }

    pub(super) fn on_accept(&mut self, now: Instant, from: P, sample: Vec<P>) {
        let Some(Phase::Asked(until)) = self.links.get(&from).map(|link| link.phase) else {
            self.counters.unexpected += 1;
            return;
        };
        let left = until.saturating_duration_since(now);
        self.become_neighbours(now, from, Some(self.config.answer_wait.saturating_sub(left)));
        if self.taken() > self.config.active
            && let Some(other) = self.give_way(from, &self.let_in())
        {
            self.counters.displaced += 1;
            self.dismiss_for(now, other, Some(from));
        }
        self.take_in(from, sample, &[]);
    }

    /// It has no room, or no longer.
    pub(super) fn on_refuse(&mut self, now: Instant, from: P, sample: Vec<P>) {
        let Some(link) = self.links.get_mut(&from) else { return };
        let was_active = link.is_active();
        if !was_active && !matches!(link.phase, Phase::Asked(_)) {
            self.counters.unexpected += 1;
            return;
        }
        link.phase = Phase::Leaving(now + self.config.answer_wait);
        self.counters.refused_there += 1;
        let first = sample.first().copied();
        self.take_in(from, sample, &[]);
        if was_active {
            self.outputs.push_back(Output::Down(from));
            self.hunt.restart(now);
            self.keep_in_mind(from, None, &[]);
            // Most likely the one that took our place there, and new.
            let free =
                |peer: &P| *peer != self.me && !self.links.contains_key(peer) && !self.hunt.is_pending(*peer);
            if let Some(peer) = first.filter(free)
                && self.has_free_place()
            {
                self.dial(now, peer);
            }
        }
    }
}
