//! What the handlers of [`Gossip`] have in common: sending, pulling, keeping and handing over.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;
use rand::Rng;
use tracing::debug;

use crate::checks::Candidate;
use crate::message::{EnvelopeId, Fault, Key, Message, Output};
use crate::order::Ready;
use crate::state::{Gossip, Timer};

/// Sending.
impl<P: Key, A: Key, R: Rng> Gossip<P, A, R> {
    /// Pushes or announces to all but `havers`; `hops` are those it came with. Returns to how many.
    pub(crate) fn forward(&mut self, id: EnvelopeId<A>, hops: u16, envelope: &Bytes, havers: &[P]) -> usize {
        let targets = self.tree.targets(havers, &mut self.rng);
        let links = targets.len();
        let small = envelope.len() <= self.config.eager_limit;
        for (to, eager) in targets {
            if eager && small {
                self.push(to, id, hops, envelope.clone());
            } else {
                self.stats.ihaves_sent += 1;
                let ids = vec![(id, hops.saturating_add(1))];
                self.send(to, Message::IHave { ids });
            }
        }
        links
    }

    /// Sends an envelope that came with `hops`.
    pub(crate) fn push(&mut self, to: P, id: EnvelopeId<A>, hops: u16, envelope: Bytes) {
        self.stats.pushes_sent += 1;
        let hops = hops.saturating_add(1);
        self.send(to, Message::Push { id, hops, envelope });
    }

    fn send(&mut self, to: P, message: Message<A>) {
        self.outputs.push_back(Output::Send { to, message });
    }

    pub(crate) fn set_eager(&mut self, peer: P, eager: bool) {
        if let Some(neighbor) = self.tree.get_mut(peer) {
            neighbor.eager = eager;
        }
    }

    pub(crate) fn blame(&mut self, peer: P, fault: Fault) {
        debug!(?peer, %fault, "a neighbour misbehaved");
        self.outputs.push_back(Output::Misbehaved { peer, fault });
    }

    pub(crate) fn refuse_malformed(&mut self, peer: P) {
        self.stats.refused_malformed += 1;
        self.blame(peer, Fault::Malformed);
    }
}

/// Pulling.
impl<P: Key, A: Key, R: Rng> Gossip<P, A, R> {
    /// Notes that a neighbour has an envelope that is new to us, and pulls it if nobody was asked yet.
    pub(crate) fn announce(&mut self, now: Instant, from: P, id: EnvelopeId<A>) {
        if self.missing.announce(id, from) {
            self.pull(now, id);
        } else {
            self.stats.refused_announced += 1;
        }
    }

    /// Asks the next announcer for an id, unless one was asked or a copy is being checked.
    pub(crate) fn pull(&mut self, now: Instant, id: EnvelopeId<A>) {
        if self.checks.contains(&id) {
            return;
        }
        let (checks, config) = (&self.checks, &self.config);
        let ready = |peer| checks.load(peer).fits(config, 1);
        let Some(peer) = self.missing.ask(id, ready) else {
            return;
        };
        self.timers.set(Timer::Pull(id), now.checked_add(self.config.pull_timeout));
        self.stats.pulls_sent += 1;
        self.send(peer, Message::Graft { id: Some(id) });
    }

    /// Asks a neighbour for what it announced, as far as it has room.
    pub(crate) fn pull_from(&mut self, now: Instant, peer: P) {
        while self.has_room(peer, 1) {
            let checks = &self.checks;
            let Some(id) = self.missing.next_of(peer, |id| !checks.contains(id)) else {
                return;
            };
            let before = self.stats.pulls_sent;
            self.pull(now, id);
            if self.stats.pulls_sent == before {
                return;
            }
        }
    }

    /// Ends a pull that was answered.
    pub(crate) fn end_pull(&mut self, now: Instant, id: &EnvelopeId<A>, from: P) {
        if self.missing.end_pull(id, from) {
            self.timers.set(Timer::Pull(*id), None);
            self.pull_from(now, from);
        }
    }

    pub(crate) fn on_pull_timeout(&mut self, now: Instant, id: EnvelopeId<A>) {
        let Some(peer) = self.missing.asked(&id) else {
            debug_assert!(false, "a pull that ended has no deadline");
            return;
        };
        debug!(?peer, ?id, "a pull was not answered in time");
        self.stats.pulls_timed_out += 1;
        self.missing.end_pull(&id, peer);
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

/// Checking, keeping and handing over.
impl<P: Key, A: Key, R: Rng> Gossip<P, A, R> {
    /// Whether a neighbour has fewer checks open than `times` the limits.
    pub(crate) fn has_room(&self, peer: P, times: usize) -> bool {
        self.checks.load(peer).fits(&self.config, times)
    }

    /// Has the first candidate checked.
    pub(crate) fn check(&mut self, id: EnvelopeId<A>, candidates: VecDeque<Candidate<P>>) {
        if let Some((ticket, envelope, from)) = self.checks.open(id, candidates) {
            self.outputs.push_back(Output::Verify { ticket, id, envelope, from });
        }
    }

    /// Whether the author is known, or may be introduced by this neighbour now.
    pub(crate) fn admits_author(&mut self, now: Instant, from: P, id: &EnvelopeId<A>) -> bool {
        if self.seen.knows(&id.author) {
            return true;
        }
        if self.seen.is_full() {
            self.stats.refused_authors_full += 1;
            return false;
        }
        let admits = self.tree.get_mut(from).is_some_and(|neighbor| neighbor.introductions.has(now));
        if !admits {
            self.stats.refused_new_authors += 1;
        }
        admits
    }

    pub(crate) fn mark_seen(&mut self, id: &EnvelopeId<A>) {
        let given_up = self.seen.insert(id);
        debug_assert!(given_up.is_some(), "the author is known or has room");
        self.stats.seqs_given_up += given_up.unwrap_or(0);
    }

    /// Puts a verified envelope into the logs, inside and outside.
    pub(crate) fn keep(&mut self, now: Instant, id: EnvelopeId<A>, hops: u16, envelope: &Bytes) {
        self.outputs.push_back(Output::Append { id, envelope: envelope.clone() });
        self.stats.log_evicted += self.log.insert(now, id, hops, envelope);
        self.expire_log(now);
    }

    pub(crate) fn expire_log(&mut self, now: Instant) {
        self.stats.log_expired += self.log.expire(now);
        self.timers.set(Timer::LogAge, self.log.expires_at());
    }

    pub(crate) fn deliver(&mut self, author: A, ready: Ready<P, A>) {
        self.stats.holes_given_up += ready.holes_given_up;
        for (item, late) in ready.items {
            let messages = u64::from(item.entries.count_ones());
            self.stats.delivered += messages;
            self.stats.delivered_late += if late { messages } else { 0 };
            self.outputs.push_back(Output::Deliver {
                id: item.id,
                envelope: item.envelope,
                entries: item.entries,
                late,
                from: item.from,
            });
        }
        self.timers.set(Timer::Hole(author), self.order.deadline(author));
    }

    /// Brings the gauges up to date.
    pub(crate) fn measure(&mut self) {
        self.stats.log_messages = self.log.len();
        self.stats.log_bytes = self.log.bytes();
        self.stats.authors = self.seen.authors();
        self.stats.open_checks = self.checks.len();
        self.stats.missing = self.missing.len();
        self.stats.held = self.order.held();
        self.stats.neighbors = self.tree.len();
    }
}
