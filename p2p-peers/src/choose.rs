//! What the [`views`](crate::views) need of the table: whom they could dial, and dials that they want.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Instant;

use bytes::Bytes;
use rand::{Rng, RngExt};

use crate::entry::Entry;
use crate::table::Timer;
use crate::{Key, PeerTable, Scope, Target};

/// What became of [`PeerTable::dial`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DialStart {
    /// An [`Output::Dial`](crate::Output::Dial) says where to, or a dial was under way.
    Started,
    /// Every address of the peer is in the same /16 (IPv6: /32) as a link that we dialled, and the dial should spread.
    Crowded,
    /// It cannot be dialled now: no address, linked, banned, held or in back-off, or no room for another link, be it of
    /// all, of its network or of its address.
    No,
}

/// The order of [`PeerTable::suggest`]; the smallest goes first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Merit {
    Anchor,
    Lately(Reverse<Instant>),
    Proven,
    /// After so many others that the same peer told of.
    Hearsay(u32),
    Refused,
}

impl<P: Key, R: Rng> PeerTable<P, R> {
    /// Dials `peer` because it should become a neighbour; with `spread` only where no link that we dialled leads into
    /// the same /16 (IPv6: /32) of the internet.
    pub fn dial(&mut self, now: Instant, peer: P, spread: bool) -> DialStart {
        self.begin(now);
        let started = self.dials.contains_key(&Target::Peer(peer));
        let Some(entry) = self.entry(peer).filter(|_| !self.stopped && !started) else {
            return if started { DialStart::Started } else { DialStart::No };
        };
        if !entry.is_idle() || entry.addrs.is_empty() || !self.has_room_for_another() {
            return DialStart::No;
        }
        let addrs = self.addrs_to_dial(peer);
        if addrs.is_empty() {
            return DialStart::No;
        }
        if spread && addrs.iter().all(|addr| self.links.out_near(addr.ip())) {
            return DialStart::Crowded;
        }
        self.start_dial(now, Target::Peer(peer));
        DialStart::Started
    }

    /// Up to `count` peers that [`dial`](Self::dial) would take, best first: anchors, those linked within
    /// [`Config::recent`](crate::Config::recent), those linked before, and of those only heard of a random choice, one after
    /// the other of each that told of any: whoever tells of many does not crowd out the rest.
    /// `desperate`: also those that had no room a while ago, whose back-off ends with that, and seeds that refused us are
    /// dialled again.
    pub fn suggest(&mut self, now: Instant, count: usize, desperate: bool) -> Vec<P> {
        self.begin(now);
        if self.stopped {
            return Vec::new();
        }
        if desperate {
            self.hurry_refused_seeds(now);
        }
        let recent = self.config.recent;
        let mut ranked = Vec::new();
        for (&peer, entry) in &self.entries {
            let waits = entry.is_backing_off();
            let refused = desperate && waits && entry.refusals > 0 && !entry.held && !entry.is_banned();
            if entry.addrs.is_empty() || !(entry.is_idle() || refused) {
                continue;
            }
            let lately = entry.last_linked().filter(|at| now.saturating_duration_since(*at) <= recent);
            let merit = match lately {
                _ if refused => Merit::Refused,
                _ if entry.anchor => Merit::Anchor,
                Some(at) => Merit::Lately(Reverse(at)),
                None if entry.ever_connected() => Merit::Proven,
                None => Merit::Hearsay(0),
            };
            ranked.push((merit, self.rng.random::<u32>(), peer));
        }
        let count = count.min(ranked.len());
        if count == 0 {
            return Vec::new();
        }
        ranked.sort_unstable();
        let mut told = BTreeMap::new();
        for (merit, _, peer) in &mut ranked {
            if let Merit::Hearsay(after) = merit {
                let by = self.entries.get(peer).and_then(|entry| entry.introduced_by);
                let so_far = told.entry(by).or_insert(0);
                *after = *so_far;
                *so_far += 1;
            }
        }
        ranked.sort_unstable();
        ranked.truncate(count);
        for (_, _, peer) in ranked.iter().filter(|(merit, ..)| *merit == Merit::Refused) {
            self.hurry(*peer);
        }
        ranked.into_iter().map(|(_, _, peer)| peer).collect()
    }

    /// A node without neighbours may know nothing but an address where it was refused.
    fn hurry_refused_seeds(&mut self, now: Instant) {
        let mut hurried = false;
        for (&addr, seed) in &mut self.seeds {
            if seed.until.is_some() && seed.alone_until.take_if(|at| *at <= now).is_some() {
                (seed.until, hurried) = (None, true);
                self.timers.cancel(Timer::RetrySeed(addr));
            }
        }
        if hurried {
            self.fill(now);
        }
    }

    /// The signed records of `peer`, as its owner signed them; the local one only for a link that is itself private or
    /// loopback.
    pub fn records(&self, peer: P, private_link: bool) -> impl Iterator<Item = &Bytes> {
        let scopes: &[Scope] = if private_link { &[Scope::Public, Scope::Local] } else { &[Scope::Public] };
        let entry = self.entry(peer);
        scopes.iter().filter_map(move |&scope| Some(&entry?.record(scope)?.bytes))
    }

    /// Dials a random peer that was only heard of, to see whether it is there: what proves true is worth more when
    /// there is nothing better, and what fails goes first. Says whom.
    pub fn feel(&mut self, now: Instant) -> Option<P> {
        self.begin(now);
        let untried =
            |entry: &Entry<P>| entry.is_idle() && !entry.ever_connected() && !entry.addrs.is_empty();
        let (mut chosen, mut seen) = (None, 0_u32);
        for (&peer, _) in self.entries.iter().filter(|(_, entry)| untried(entry)) {
            seen += 1;
            if self.rng.random_range(0..seen) == 0 {
                chosen = Some(peer);
            }
        }
        chosen.filter(|&peer| self.dial(now, peer, false) == DialStart::Started)
    }

    /// Dials the addresses again that the user named without an id, whoever is linked.
    pub fn reseed(&mut self, now: Instant) {
        self.begin(now);
        for seed in self.seeds.values_mut() {
            let linked =
                seed.peer.and_then(|peer| self.entries.get(&peer)).is_some_and(|entry| entry.is_connected());
            seed.fresh |= !linked && seed.until.is_none();
        }
        self.fill(now);
    }

    /// These are to be dialled first after a restart, and no others.
    pub fn set_anchors(&mut self, anchors: &[P]) {
        for (peer, entry) in &mut self.entries {
            entry.anchor = anchors.contains(peer);
        }
    }

    fn has_room_for_another(&self) -> bool {
        let out = self.links.count(crate::Direction::Out) + self.dials.len();
        out < self.config.max_out && self.links.total() + self.dials.len() < self.config.max_links()
    }
}
