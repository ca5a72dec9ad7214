//! What the handlers of [`Gossip`] have in common: sending, pulling, keeping and handing over.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::seq::SliceRandom;
use rand::{Rng, RngExt};
use tracing::debug;

use crate::bucket::Bucket;
use crate::checks::Candidate;
use crate::message::{Course, EnvelopeId, Fault, Key, Logged, Message, Output, Sum};
use crate::missing::Noted;
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
        let (mut pushed, mut announced) = (Vec::new(), 0);
        for (peer, neighbor) in self.tree.iter_mut() {
            if arrival.have.contains(neighbor.slot) || arrival.from == Some(peer) {
                continue;
            }
            if neighbor.eager && pushed_on {
                arrival.have.insert(neighbor.slot);
                pushed.push(peer);
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
        let links = pushed.len() + announced;
        if arrival.from.is_none() && pushed_on && links > 1 && pushed.len() < 2 && self.tree.is_unsettled(now)
        {
            announced -= self.double(&mut arrival, &mut pushed);
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
    fn double(&mut self, arrival: &mut Arrival<P>, pushed: &mut Vec<P>) -> usize {
        let mut others: Vec<P> =
            self.tree.iter().map(|(peer, _)| peer).filter(|peer| !pushed.contains(peer)).collect();
        let (more, _) = others.partial_shuffle(&mut self.rng, 2 - pushed.len());
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

/// Pulling.
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
        self.stats.seqs_given_up += given_up.unwrap_or(0);
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
    /// over by a neighbour that has handed something over just now, or announced, which is easily said.
    fn coming(&mut self, now: Instant, author: A) -> (Option<u64>, Duration) {
        let claimed = self.claims.coming(now, author, &self.seen);
        let surely = claimed.into_iter().chain(self.checks.lowest(author)).min();
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
