//! What each report from outside does to the table.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use rand::Rng;
use tracing::debug;

use crate::addr::{canonical, is_dialable};
use crate::backoff;
use crate::entry::{Ban, Worth};
use crate::table::Timer;
use crate::{
    Config, DialFailure, Direction, DownCause, HangupCause, Key, Output, PeerTable, Refusal, State, Target,
};

/// Addresses known to be our own; the oldest is forgotten when there are more.
const MAX_OURS: usize = 64;

/// Whoever has no neighbour and was refused where the user said asks there again after this, doubling up to
/// [`Config::refused_base`]: it may know nobody else. As often as it looks for somebody else.
const REFUSED_ALONE: Duration = Duration::from_secs(8);

impl<P: Key, R: Rng> PeerTable<P, R> {
    pub(crate) fn on_seed(&mut self, now: Instant, addr: SocketAddr) {
        let addr = canonical(addr);
        if !is_dialable(addr) {
            self.counters.refused_addrs += 1;
            return;
        }
        self.insert_seed(addr);
        if let Some(seed) = self.seeds.get_mut(&addr) {
            (seed.fresh, seed.until, seed.refusals) = (true, None, 0);
            self.timers.cancel(Timer::RetrySeed(addr));
        }
        self.ask_anew(addr);
        self.changed(now);
    }

    pub(crate) fn on_connected(
        &mut self,
        now: Instant,
        peer: P,
        target: Option<Target<P>>,
        addr: SocketAddr,
        seen_at: SystemTime,
    ) {
        match target {
            Some(target) if peer == self.me => self.on_dial_failed(now, target, DialFailure::Itself),
            Some(Target::Peer(asked)) if asked != peer => {
                self.dials.entry(Target::Peer(asked)).and_modify(|tried| *tried = vec![addr]);
                self.on_dial_failed(now, Target::Peer(asked), DialFailure::WrongIdentity);
            }
            Some(target) => self.end_dial(target),
            None => {}
        }
        if peer == self.me || !self.ensure(peer, None, Worth::Reached) {
            let cause = if peer == self.me { HangupCause::Itself } else { HangupCause::Full };
            self.outputs.push_back(Output::Hangup { peer, cause });
            return;
        }
        let direction = if target.is_some() { Direction::Out } else { Direction::In };
        let mut refusal = self.refusal_of(peer, direction, addr, target);
        if let Some(Target::Seed(seed)) = target
            && let Some(seed) = self.seeds.get_mut(&seed)
        {
            let fresh = seed.peer != Some(peer);
            (seed.peer, seed.fresh) = (Some(peer), false);
            (seed.failures, seed.duplicates, seed.refusals, seed.alone_until) = (0, 0, 0, None);
            refusal = refusal.filter(|cause| *cause != HangupCause::Disconnect);
            self.edit(peer, |entry| {
                entry.held = false;
                entry.fresh |= fresh;
            });
        }
        let max_addrs = self.config.max_addrs;
        if direction == Direction::Out {
            // Somebody else proved to be there.
            self.ours.retain(|own| *own != addr);
        }
        self.edit(peer, |entry| {
            entry.introduced_by = None;
            let rare = entry.rare_mut();
            (rare.last_connected, rare.last_linked) = (Some(seen_at), Some(now));
            if direction == Direction::Out && is_dialable(addr) {
                entry.mark_reached(addr, max_addrs);
            }
        });
        self.shift(peer, State::Connected { direction, addr, since: now });
        if let Some(cause) = refusal {
            self.hang_up(peer, cause);
        }
        self.changed(now);
    }

    /// Why this link has to go again; the caller of `admit` may not have known all.
    fn refusal_of(
        &self,
        peer: P,
        direction: Direction,
        addr: SocketAddr,
        target: Option<Target<P>>,
    ) -> Option<HangupCause> {
        let held = self.entry(peer).is_some_and(|entry| entry.held);
        match self.admit(peer, direction, addr.ip()) {
            Err(Refusal::Banned) => Some(HangupCause::Banned),
            Err(Refusal::Itself) => Some(HangupCause::Itself),
            Err(Refusal::Stopped) => Some(HangupCause::Stopped),
            // A seed's dial is ended by now, so `admit` cannot see that the user asked for it.
            Err(_)
                if !matches!(target, Some(Target::Seed(_)))
                    || self.links.total() >= self.config.max_links() =>
            {
                Some(HangupCause::Full)
            }
            _ if held && direction == Direction::Out => Some(HangupCause::Disconnect),
            _ => None,
        }
    }

    pub(crate) fn on_dial_failed(&mut self, now: Instant, target: Target<P>, cause: DialFailure) {
        let Some(tried) = self.dials.get(&target).cloned() else { return };
        self.end_dial(target);
        debug!(?target, ?cause, "dial failed");
        if let (DialFailure::Itself, &[addr]) = (cause, tried.as_slice()) {
            self.disown(addr);
        }
        match target {
            Target::Peer(peer) => self.on_peer_dial_failed(now, peer, cause, &tried),
            Target::Seed(addr) => self.on_seed_dial_failed(now, addr, cause),
        }
    }

    fn on_peer_dial_failed(&mut self, now: Instant, peer: P, cause: DialFailure, tried: &[SocketAddr]) {
        self.edit(peer, |entry| {
            match cause {
                DialFailure::Duplicate => return,
                DialFailure::Unreachable | DialFailure::TimedOut => entry.mark_failed(tried),
                DialFailure::WrongIdentity | DialFailure::Itself => match tried {
                    [addr] => entry.mark_bad(*addr),
                    _ => entry.singly = true,
                },
                DialFailure::Refused => return,
                DialFailure::Protocol => {}
            }
            entry.failures = entry.failures.saturating_add(1);
        });
        if self.entry(peer).is_some_and(|entry| entry.state() == State::Dialing) {
            if cause == DialFailure::Refused {
                self.back_off_refused(now, peer);
            } else {
                self.back_off(now, peer, cause != DialFailure::Protocol);
            }
        }
        self.drop_if_useless(peer);
        self.changed(now);
    }

    fn on_seed_dial_failed(&mut self, now: Instant, addr: SocketAddr, cause: DialFailure) {
        if cause == DialFailure::Itself {
            self.seeds.remove(&addr);
            self.timers.cancel(Timer::RetrySeed(addr));
            self.changed(now);
            return;
        }
        let Config { backoff_base, backoff_max, refused_base, .. } = self.config;
        let base = if cause == DialFailure::Refused { self.refused_base(true) } else { backoff_base };
        let Some(seed) = self.seeds.get_mut(&addr) else { return };
        seed.fresh = false;
        seed.alone_until = None;
        if cause == DialFailure::Refused {
            seed.refusals = seed.refusals.saturating_add(1);
            let wait = backoff::delay(seed.refusals, REFUSED_ALONE, refused_base, &mut self.rng);
            seed.alone_until = Some(now + wait);
        } else {
            seed.refusals = 0;
        }
        let tries = if cause == DialFailure::Duplicate { &mut seed.duplicates } else { &mut seed.failures };
        *tries = tries.saturating_add(1);
        let wait = backoff::delay(*tries, base, backoff_max, &mut self.rng);
        seed.until = Some(now + wait);
        self.timers.set(Timer::RetrySeed(addr), now + wait);
    }

    pub(crate) fn on_disconnected(&mut self, now: Instant, peer: P, cause: DownCause) {
        let Some(entry) = self.entries.get_mut(&peer) else { return };
        let State::Connected { since, .. } = entry.state() else { return };
        debug!(?peer, ?cause, "link down");
        entry.rare_mut().last_linked = Some(now);
        let stable = now.saturating_duration_since(since) >= self.config.stable_after;
        if stable {
            (entry.failures, entry.refusals) = (0, 0);
        } else if cause != DownCause::NoRoom {
            entry.failures = entry.failures.saturating_add(1);
        }
        if stable || entry.eager_until().is_none() {
            entry.rare_mut().eager_until = Some(now + self.config.eager_for);
        }
        if self.dials.contains_key(&Target::Peer(peer)) {
            self.shift(peer, State::Dialing);
        } else if cause == DownCause::NoRoom {
            self.back_off_refused(now, peer);
        } else {
            self.back_off(now, peer, true);
        }
        let until = now + self.config.misbehaved_for;
        let banned_for_longer =
            |ban| matches!(ban, Ban::Forever) || matches!(ban, Ban::Until(at) if at >= until);
        if cause == DownCause::Misbehaved && !self.entry(peer).is_some_and(|e| banned_for_longer(e.ban())) {
            self.set_ban(peer, Ban::Until(until));
        }
        self.drop_if_useless(peer);
        self.changed(now);
    }

    pub(crate) fn on_network_changed(&mut self, now: Instant) {
        // An address that was ours may be somebody else's now.
        self.ours.clear();
        let eager_until = now + self.config.eager_for;
        // Without any link the network was gone, perhaps for long: who was linked shortly before that counts.
        let connected = self.links.total() > 0;
        let last = self.entries.values().filter_map(|entry| entry.last_linked()).max();
        let last = last.filter(|_| !connected).unwrap_or(now);
        let behind_seeds: BTreeSet<P> = self.seeds.values().filter_map(|seed| seed.peer).collect();
        let mut hurried = Vec::new();
        for (&peer, entry) in &mut self.entries {
            let lately = match entry.last_linked() {
                Some(at) => last.saturating_duration_since(at) <= self.config.recent,
                None => entry.lately_before_restart,
            };
            let due = lately || entry.anchor || entry.wanted || behind_seeds.contains(&peer);
            if due && !entry.is_connected() {
                entry.rare_mut().eager_until = Some(eager_until);
                hurried.push(peer);
            }
        }
        for peer in hurried {
            self.hurry(peer);
        }
        for (&addr, seed) in &mut self.seeds {
            // What failed elsewhere says little about here.
            (seed.until, seed.failures) = (None, 0);
            self.timers.cancel(Timer::RetrySeed(addr));
        }
    }

    /// `addr` turned out to be our own: nobody else has it.
    fn disown(&mut self, addr: SocketAddr) {
        if self.ours.len() >= MAX_OURS {
            self.ours.pop_front();
        }
        self.ours.push_back(addr);
        let owners: Vec<P> =
            self.entries.iter().filter(|(_, entry)| entry.has_addr(addr)).map(|(&peer, _)| peer).collect();
        for peer in owners {
            self.edit(peer, |entry| entry.drop_addr(addr));
            self.drop_if_useless(peer);
        }
    }
}
