//! Announcements: gathered for a while, then one frame to each neighbour that may lack something.

use std::time::Instant;

use rand::{Rng, RngExt};

use crate::bucket::Bucket;
use crate::message::{Announced, EnvelopeId, Key, Message};
use crate::state::{Gossip, Timer};

/// What may be announced at once, in seconds of the rate: large envelopes that follow each other need not wait for company.
/// A neighbour takes ten seconds' worth at once, and what gathers on a link that stands still for as long as it may comes on top.
const BURST_SECS: u32 = 2;

impl<P: Key, A: Key, R: Rng> Gossip<P, A, R> {
    /// Announces one that a neighbour's link had no room for.
    pub(crate) fn announce_alone(&mut self, now: Instant, to: P, id: EnvelopeId<A>, hops: u16) {
        let slot = self.tree.get(to).and_then(|neighbor| neighbor.slot);
        if slot.is_some()
            && let Some(number) = self.recent.number(&id)
            && let Some((_, arrival)) = self.recent.numbered(number)
        {
            arrival.have.remove(slot);
            arrival.ask.insert(slot);
            self.recent.queue(number);
            self.announce_soon(now);
        } else {
            // It was pushed long after it came (an answer), or the neighbour has no bit.
            self.stats.ihaves_sent += 1;
            let ids = vec![Announced { id, hops, wait: false }];
            self.send(to, Message::IHave { ids });
        }
    }

    /// Queues the arrival of this number for those that it was not pushed to; `prompt` if nobody pushes it to them.
    pub(crate) fn announce_to_others(&mut self, now: Instant, number: u64, prompt: bool) {
        self.recent.queue(number);
        if prompt || self.recent.queued() >= self.config.max_ids.max(1) {
            self.announce_soon(now);
        } else if self.timers.get(Timer::Announce).is_none() {
            // Neighbours got it at about the same time: who happens to wait longer is spared the announcement.
            let delay = self.config.ihave_delay.saturating_mul(self.rng.random_range(25..175)) / 100;
            self.timers.set(Timer::Announce, now.checked_add(delay));
        }
    }

    /// At once if the rate allows it, else as soon as it does.
    fn announce_soon(&mut self, now: Instant) {
        let rate = self.config.ihaves_sent_per_sec.max(1);
        let burst = rate.saturating_mul(BURST_SECS);
        let bucket = self.announcing.get_or_insert_with(|| Bucket::new(now, rate, burst));
        if bucket.take(now) {
            return self.announce_all(now);
        }
        let next = now.checked_add(bucket.wait(now));
        if self.timers.get(Timer::Announce).is_none_or(|at| next.is_some_and(|next| next < at)) {
            self.timers.set(Timer::Announce, next);
        }
    }

    /// A neighbour that mends its tree should not have to wait for what the tree did not bring it meanwhile.
    pub(crate) fn announce_to(&mut self, peer: P) {
        let Some(slot) = self.tree.get(peer).map(|neighbor| neighbor.slot) else { return };
        let mut ids = Vec::new();
        for number in self.recent.queue_of(self.config.max_ids.max(1)) {
            if let Some((id, arrival)) = self.recent.numbered(number)
                && !arrival.have.contains(slot)
            {
                arrival.have.insert(slot);
                ids.push(Announced { id, hops: arrival.hops.saturating_add(1), wait: false });
            }
        }
        if !ids.is_empty() {
            self.stats.ihaves_sent += ids.len() as u64;
            self.send(peer, Message::IHave { ids });
        }
    }

    pub(crate) fn on_announce_timer(&mut self, now: Instant) {
        if self.recent.queued() > 0 {
            self.announce_soon(now);
        }
    }

    fn announce_all(&mut self, now: Instant) {
        let mut lists: Vec<Vec<Announced<A>>> = vec![Vec::new(); self.tree.len()];
        for number in self.recent.take_queue(self.config.max_ids.max(1)) {
            let Some((id, arrival)) = self.recent.numbered(number) else { continue };
            let hops = arrival.hops.saturating_add(1);
            for ((_, neighbor), list) in self.tree.iter_mut().zip(&mut lists) {
                let slot = neighbor.slot;
                let spared = arrival.announced.contains(slot) && !neighbor.shows_evidence();
                if !arrival.have.contains(slot) && !spared {
                    arrival.have.insert(slot);
                    list.push(Announced { id, hops, wait: !arrival.ask.contains(slot) });
                }
            }
        }
        let peers: Vec<P> = self.tree.iter().map(|(peer, _)| peer).collect();
        for (peer, ids) in peers.into_iter().zip(lists).filter(|(_, ids)| !ids.is_empty()) {
            self.stats.ihaves_sent += ids.len() as u64;
            self.send(peer, Message::IHave { ids });
        }
        if self.recent.queued() > 0 {
            self.timers.set(Timer::Announce, now.checked_add(self.config.ihave_delay));
        } else {
            self.timers.set(Timer::Announce, None);
        }
    }
}
