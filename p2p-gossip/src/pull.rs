//! Asking for what was announced: of one announcer at a time, and of the next if it does not come.

use std::time::{Duration, Instant};

use rand::Rng;
use tracing::debug;

use crate::message::{EnvelopeId, Key, Message};
use crate::missing::Noted;
use crate::state::{Gossip, Timer};

impl<P: Key, A: Key, R: Rng> Gossip<P, A, R> {
    /// Notes that a neighbour has an envelope that is new to us. If the tree may bring it, that is waited for;
    /// otherwise it is pulled, if nobody was asked yet.
    pub(crate) fn announce(&mut self, now: Instant, from: P, id: EnvelopeId<A>, wait: bool) {
        if let Some(neighbor) = self.tree.get_mut(from) {
            neighbor.on_evidence(now);
        }
        let noted = self.missing.announce(now, id, from);
        self.stats.refused_announced += u64::from(noted != Noted::Yes);
        if let Noted::InsteadOf(other) = noted
            && !self.missing.contains(&other)
        {
            self.timers.set(Timer::Graft(other), None);
        }
        if noted == Noted::No {
            return;
        }
        if !wait {
            self.timers.set(Timer::Graft(id), None);
            self.missing.set_due(&id);
            self.pull(now, id);
        } else if self.missing.is_due(&id) {
            // It was waited for long enough, and perhaps nobody who had it could be asked.
            self.on_graft_timer(now, id);
        } else if self.timers.get(Timer::Graft(id)).is_none() {
            self.timers.set(Timer::Graft(id), now.checked_add(self.wait.limit()));
        }
    }

    /// The tree did not bring it: it is pulled, and the tree mended.
    pub(crate) fn on_graft_timer(&mut self, now: Instant, id: EnvelopeId<A>) {
        self.missing.set_due(&id);
        // One new parent at a time: what else is missing comes without changing the tree further.
        let pause = self.wait.limit();
        let grafts = self.grafted_at.is_none_or(|at| now.saturating_duration_since(at) >= pause);
        if let Some(peer) = self.ask(now, id) {
            let grafts = grafts && !self.checks.contains(&id) && self.graft(now, peer, Some(id));
            if grafts {
                self.grafted_at = Some(now);
            } else {
                self.send(peer, Message::IWant { ids: vec![id] });
            }
        }
    }

    /// Asks the next announcer for an id, unless one was asked or a copy is being checked.
    pub(crate) fn pull(&mut self, now: Instant, id: EnvelopeId<A>) {
        if let Some(peer) = self.ask(now, id) {
            self.send(peer, Message::IWant { ids: vec![id] });
        }
    }

    /// Whom to ask now. The caller does.
    fn ask(&mut self, now: Instant, id: EnvelopeId<A>) -> Option<P> {
        if self.checks.contains(&id) {
            return None;
        }
        if self.comes_with_range(now, &id) {
            let until = self.missing.since(&id).and_then(|since| since.checked_add(self.range_patience()));
            self.timers.set(Timer::Graft(id), until);
            return None;
        }
        let (checks, config, tree) = (&self.checks, &self.config, &self.tree);
        let ready = |peer| checks.load(peer).fits(config, 1);
        let trusted = |peer| ready(peer) && !tree.get(peer).is_some_and(|n| n.is_shunned(now));
        let peer = self.missing.ask(id, trusted).or_else(|| self.missing.ask(id, ready))?;
        self.timers.set(Timer::Pull(id), now.checked_add(self.config.pull_timeout));
        self.stats.pulls_sent += 1;
        Some(peer)
    }

    /// Whether a neighbour is asked for it as a part of a range. Who announced it is not asked then, unless that has lasted: a
    /// neighbour that hands over little, and claimed much, would keep out all who have it.
    fn comes_with_range(&self, now: Instant, id: &EnvelopeId<A>) -> bool {
        let waited = |since| now.saturating_duration_since(since);
        self.claims.is_asked(id)
            && self.missing.since(id).is_none_or(|since| waited(since) < self.range_patience())
    }

    /// Two pulls.
    fn range_patience(&self) -> Duration {
        self.config.pull_timeout.saturating_mul(2)
    }

    /// Asks a neighbour for what it announced, as far as it has room.
    pub(crate) fn pull_from(&mut self, now: Instant, peer: P) {
        while self.has_room(peer, 1) {
            let wanted = |id: &EnvelopeId<A>| !self.checks.contains(id) && !self.comes_with_range(now, id);
            let Some(id) = self.missing.next_of(peer, wanted) else {
                return;
            };
            let before = self.stats.pulls_sent;
            self.pull(now, id);
            if self.stats.pulls_sent == before {
                return;
            }
        }
    }

    /// Ends a pull that was answered. Whether there was one.
    pub(crate) fn end_pull(&mut self, now: Instant, id: &EnvelopeId<A>, from: P) -> bool {
        let asked = self.missing.end_pull(id, from);
        if asked {
            self.timers.set(Timer::Pull(*id), None);
            if let Some(neighbor) = self.tree.get_mut(from) {
                neighbor.on_promise_kept();
            }
            self.pull_from(now, from);
        }
        asked
    }

    pub(crate) fn on_pull_timeout(&mut self, now: Instant, id: EnvelopeId<A>) {
        let Some(peer) = self.missing.asked(&id) else {
            debug_assert!(false, "a pull that ended has no deadline");
            return;
        };
        debug!(?peer, ?id, "a pull was not answered in time");
        self.stats.pulls_timed_out += 1;
        self.missing.end_pull(&id, peer);
        let (limit, lately) = (self.config.broken_promises, self.config.pull_timeout);
        if let Some(neighbor) = self.tree.get_mut(peer)
            && neighbor.on_promise_broken(now, limit)
        {
            self.stats.promises_broken += 1;
            // One that pushes what is new is late and no liar: without its pushes all would have to be pulled, at the pace
            // at which it does not answer. And without the only eager one nothing comes or goes but by announcements.
            if !neighbor.brought_within(now, lately) && self.tree.has_eager_besides(peer) {
                self.prune(now, peer);
            }
        }
        self.pull_again(now, id);
        self.pull_from(now, peer);
    }

    /// A neighbour went: others are asked for what it was asked for.
    pub(crate) fn drop_offers(&mut self, now: Instant, peer: P) {
        let before = self.missing.len();
        for id in self.missing.down(peer) {
            self.timers.set(Timer::Pull(id), None);
            self.pull(now, id);
        }
        self.stats.pulls_abandoned += (before - self.missing.len()) as u64;
    }

    /// Forgets an id that is here now, and returns who is known to have it.
    pub(crate) fn forget_missing(&mut self, now: Instant, id: &EnvelopeId<A>) -> Vec<P> {
        let asked = self.missing.asked(id);
        let announcers = self.missing.remove(id);
        self.timers.set(Timer::Graft(*id), None);
        if let Some(peer) = asked {
            self.timers.set(Timer::Pull(*id), None);
            self.pull_from(now, peer);
        }
        announcers
    }

    fn pull_again(&mut self, now: Instant, id: EnvelopeId<A>) {
        if self.missing.contains(&id) {
            self.pull(now, id);
        } else if !self.checks.contains(&id) {
            self.stats.pulls_abandoned += 1;
        }
    }
}
