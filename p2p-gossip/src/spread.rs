//! What the handlers of [`Gossip`] have in common: sending, keeping and handing over.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::seq::SliceRandom;
use rand::{Rng, RngExt};
use tracing::debug;

use crate::bucket::Bucket;
use crate::checks::Candidate;
use crate::message::{Course, EnvelopeId, Fault, Key, Logged, Message, Output, Span, Sum};
use crate::order::{Item, Ready};
use crate::recent::{Arrival, Slots};
use crate::state::{Gossip, Timer};
use crate::stats::Stats;

/// Between two looks at what waits for older messages.
const RECHECK: Duration = Duration::from_millis(100);

/// Sending.
impl<P: Key, A: Key, R: Rng> Gossip<P, A, R> {
    /// Pushes to the eager neighbours that have not got it, and queues it to be announced to the others. Returns
    /// to how many either.
    pub(crate) fn forward(
        &mut self,
        now: Instant,
        id: EnvelopeId<A>,
        mut arrival: Arrival<P>,
        envelope: &Bytes,
    ) -> usize {
        // What was missed comes in numbers, and is pushed to nobody as it is.
        let within = arrival.history || self.pace.admits(now, &id);
        self.stats.author_too_fast += u64::from(!within);
        let small = within && envelope.len() <= self.config.eager_limit;
        let pushed_on = small && !arrival.history;
        if !arrival.history {
            self.tree.count(id);
        }
        if !pushed_on {
            arrival.course = Course::Tree;
        }
        if arrival.course == Course::Anew && self.tree.allows_renewal(&self.config) {
            self.stats.renewals += 1;
            self.tree.renew(id);
        }
        let start = self.rng.random_range(0..self.tree.len().max(1));
        let goes_round = arrival.from.is_some() && !arrival.history;
        let (mut pushed, mut owed, mut announced) = (Vec::new(), Vec::new(), 0);
        for (peer, neighbor) in self.tree.iter_mut() {
            if arrival.have.contains(neighbor.slot) || arrival.from == Some(peer) {
                continue;
            }
            if neighbor.eager && pushed_on {
                arrival.have.insert(neighbor.slot);
                let follows = self.behind.get(&peer).is_some_and(|behind| behind.covers(&id));
                // What the log does not hold cannot follow.
                if follows && self.log.travelled(now, &id).is_some() {
                    owed.push(peer);
                } else {
                    pushed.push(peer);
                }
                continue;
            }
            announced += 1;
            if !pushed_on {
                arrival.ask.insert(neighbor.slot);
            }
            if goes_round && !neighbor.eager && neighbor.on_other(now, &self.config) {
                debug!(?peer, "brings nothing");
                self.outputs.push_back(Output::Withholds { peer });
            }
        }
        let sent_to = pushed.len() + owed.len();
        let links = sent_to + announced;
        if arrival.from.is_none() && pushed_on && links > 1 && sent_to < 2 && self.tree.is_unsettled(now) {
            announced -= self.double(&mut arrival, &mut pushed, &owed);
        }
        let hint = (arrival.hops, arrival.course, arrival.age);
        let (number, lost) = self.recent.insert(id, arrival);
        self.stats.announcements_lost += u64::from(lost);
        // From a random one on, so that nobody is always the last one served.
        let start = start % pushed.len().max(1);
        pushed.rotate_left(start);
        for to in pushed {
            self.push(to, id, hint, envelope.clone());
        }
        if announced > 0 {
            // What was missed comes in numbers: its announcements gather.
            self.announce_to_others(now, number, !small);
        }
        links
    }

    /// Has an envelope of our own go to two neighbours although the tree has us at its edge. Returns how many of them will not
    /// need an announcement.
    fn double(&mut self, arrival: &mut Arrival<P>, pushed: &mut Vec<P>, owed: &[P]) -> usize {
        let is_left = |peer: &P| !pushed.contains(peer) && !owed.contains(peer);
        let mut others: Vec<P> = self.tree.iter().map(|(peer, _)| peer).filter(is_left).collect();
        let (more, _) = others.partial_shuffle(&mut self.rng, 2 - pushed.len() - owed.len());
        arrival.have.add(self.slots(more.iter().copied()));
        arrival.course = Course::Doubled;
        self.stats.doubled += 1;
        pushed.extend_from_slice(more);
        more.len()
    }

    /// The bits of these neighbours.
    pub(crate) fn slots(&self, peers: impl Iterator<Item = P>) -> Slots {
        let mut slots = Slots::default();
        for peer in peers {
            slots.insert(self.tree.get(peer).and_then(|neighbor| neighbor.slot));
        }
        slots
    }

    /// Sends an envelope that came with `hops` and is now of this age.
    pub(crate) fn push(
        &mut self,
        to: P,
        id: EnvelopeId<A>,
        (hops, course, age): (u16, Course, Duration),
        envelope: Bytes,
    ) {
        self.stats.pushes_sent += 1;
        let hops = hops.saturating_add(1);
        self.send(to, Message::Push { id, hops, course, age, envelope });
    }

    pub(crate) fn send(&mut self, to: P, message: Message<A>) {
        self.outputs.push_back(Output::Send { to, message });
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

/// Checking, keeping and handing over.
impl<P: Key, A: Key, R: Rng> Gossip<P, A, R> {
    /// Whether a neighbour has fewer checks open than `times` the limits.
    pub(crate) fn has_room(&self, peer: P, times: usize) -> bool {
        self.checks.load(peer).fits(&self.config, times)
    }

    /// Whether a push is taken, not only noted: up to twice the limits, and what was asked for as a part of a range
    /// beyond that, as far as one such pull goes.
    pub(crate) fn takes(&self, peer: P, caught_up: bool) -> bool {
        let load = self.checks.load(peer);
        let copies = self.config.max_open_checks.saturating_mul(2);
        let extra = usize::try_from(self.config.range_messages).unwrap_or(usize::MAX);
        let copies = copies.saturating_add(if caught_up { extra } else { 0 });
        load.copies < copies && load.bytes < self.config.max_open_bytes.saturating_mul(2)
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
        let admits = self.introductions(from).is_some_and(|introductions| introductions.has(now));
        if !admits {
            self.stats.refused_new_authors += 1;
        }
        admits
    }

    /// New authors that this one may introduce, a neighbour or one that was.
    pub(crate) fn introductions(&mut self, from: P) -> Option<&mut Bucket> {
        match self.tree.get_mut(from) {
            Some(neighbor) => Some(&mut neighbor.introductions),
            None => self.former.introductions(from),
        }
    }

    pub(crate) fn mark_seen(&mut self, id: &EnvelopeId<A>) {
        let given_up = self.seen.insert(id);
        debug_assert!(given_up.is_some(), "the author is known or has room");
        for (from, to) in given_up.into_iter().flatten() {
            self.stats.seqs_given_up += to - from;
            self.lose(Span { author: id.author, from, to });
        }
    }

    /// Puts a verified envelope into the logs, inside and outside, unless it is too old for them. `delivers`: it is
    /// handed over too.
    pub(crate) fn keep(
        &mut self,
        now: Instant,
        id: EnvelopeId<A>,
        (hops, age): (u16, Duration),
        envelope: &Bytes,
        digest: Sum,
        delivers: bool,
    ) {
        if age >= self.config.log_age {
            self.stats.log_too_old += 1;
            return;
        }
        let entry = Logged { id, len: envelope.len(), age, hops, digest };
        self.outputs.push_back(Output::Append { entry, envelope: envelope.clone(), delivers });
        self.log.insert(now, entry, Some(envelope));
        self.shrink_log();
        self.expire_log(now);
    }

    /// Lets go what the log has no room for.
    pub(crate) fn shrink_log(&mut self) {
        while let Some(id) = self.log.evict() {
            self.stats.log_evicted += 1;
            self.outputs.push_back(Output::Drop { id });
        }
    }

    /// Lets go what is too old.
    pub(crate) fn expire_log(&mut self, now: Instant) {
        while let Some(id) = self.log.expire(now) {
            self.stats.log_expired += 1;
            self.outputs.push_back(Output::Drop { id });
        }
        self.timers.set(Timer::LogAge, self.log.expires_at());
    }

    /// Takes a verified envelope into the order of its author, and hands over what is ready.
    pub(crate) fn admit(&mut self, now: Instant, item: Item<P, A>) {
        let author = item.id.author;
        let (coming, _) = self.coming(now, author);
        let ready = self.order.admit(now, item, coming);
        self.deliver(now, author, ready);
    }

    /// Something of this author was held back long enough, unless older messages are still coming.
    pub(crate) fn on_hole_timer(&mut self, now: Instant, author: A) {
        let (coming, patience) = self.coming(now, author);
        let ready = self.order.expire(now, author, coming, patience);
        self.deliver(now, author, ready);
    }

    /// The lowest seq of an author that is on its way, and how long to wait for it: being checked, about to be handed
    /// over by a neighbour that has handed something over just now, behind what one pushes, or announced, which is easily said.
    fn coming(&mut self, now: Instant, author: A) -> (Option<u64>, Duration) {
        let claimed = self.claims.coming(now, author, &self.seen);
        // Mostly nothing is held back, and nobody has to be looked at. Who pushes what is older than the hole does not bring that.
        let next = self.order.delivered(&author).map_or(0, |(_, next)| next);
        let lately = self.config.graft_min.saturating_mul(2);
        let pushed = if self.order.held() > 0 { self.tree.pushes(now, (author, next), lately) } else { None };
        let surely = claimed.into_iter().chain(self.checks.lowest(author)).chain(pushed).min();
        let patience = if surely.is_some() { self.config.catch_up_hold } else { self.config.hold_time };
        (surely.into_iter().chain(self.missing.lowest(author)).min(), patience)
    }

    pub(crate) fn deliver(&mut self, now: Instant, author: A, ready: Ready<P, A>) {
        self.stats.holes_given_up += ready.holes_given_up;
        self.note_holes(now, author, &ready.holes);
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
        // What is overdue waits for what is coming, and is looked at again soon.
        let soon = now.checked_add(RECHECK);
        let deadline = self.order.deadline(author);
        self.timers
            .set(Timer::Hole(author), if deadline.is_some_and(|at| at <= now) { soon } else { deadline });
    }

    /// Counters, and the gauges of now.
    pub fn stats(&self) -> Stats {
        Stats {
            log_messages: self.log.len(),
            log_bytes: self.log.bytes(),
            authors: self.seen.authors(),
            open_checks: self.checks.len(),
            missing: self.missing.len(),
            held: self.order.held(),
            neighbors: self.tree.len(),
            eager: self.tree.eager(),
            ..self.stats
        }
    }
}
