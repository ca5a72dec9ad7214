//! Whom to dial next.

use std::cmp::Reverse;
use std::net::{IpAddr, SocketAddr};
use std::time::{Instant, SystemTime};

use rand::{Rng, RngExt};

use crate::addr::is_dialable;
use crate::entry::Entry;
use crate::table::Timer;
use crate::{Key, Output, PeerTable, State, Target};

/// The order of dials; the smallest goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// The user waits for it.
    FreshSeed,
    /// Wished for, linked last first.
    Asked(Reverse<Option<Instant>>),
    Seed,
    /// Found by discovery and linked before, last first: those that are likely there.
    Proven(Reverse<Option<Instant>>, Reverse<Option<SystemTime>>),
    /// Only heard of, in random order, so that nobody can arrange to be tried first.
    Hearsay,
}

/// Dials at once of what the user asked for, however many others are under way: those that the views want, eight where
/// there is no neighbour, may take as long as whoever answers likes. A guess.
const ASKED_DIALS: usize = 2;

impl<P: Key, R: Rng> PeerTable<P, R> {
    /// Starts as many dials as there are reasons and room for.
    pub(crate) fn fill(&mut self, now: Instant) {
        if self.stopped || !self.may_dial(true) {
            return;
        }
        for target in self.candidates() {
            if !self.may_dial(true) {
                break;
            }
            if self.has_room(target) && self.may_dial(self.is_asked_target(target)) {
                self.start_dial(now, target);
            }
        }
    }

    /// Whether one more dial may be under way.
    fn may_dial(&self, asked: bool) -> bool {
        let all = self.config.dial_parallel;
        let kept = || self.dials.keys().filter(|target| self.is_asked_target(**target)).count();
        self.dials.len() < all || (asked && kept() < ASKED_DIALS.min(all))
    }

    fn is_asked_target(&self, target: Target<P>) -> bool {
        match target {
            Target::Seed(_) => true,
            Target::Peer(peer) => self.is_asked(peer),
        }
    }

    /// All that could be dialled now, best first. Without room for discovered peers the table is not walked: that
    /// happens with every input.
    fn candidates(&mut self) -> Vec<Target<P>> {
        let mut ranked = Vec::new();
        for (&addr, seed) in &self.seeds {
            let target = Target::Seed(addr);
            let idle = seed.until.is_none() && !self.dials.contains_key(&target);
            if idle && (seed.fresh || !self.is_served(addr, seed.peer)) {
                let rank = if seed.fresh { Rank::FreshSeed } else { Rank::Seed };
                ranked.push((rank, 0, target));
            }
        }
        let wanted = |peer: &P| self.entries.get(peer).is_some_and(|entry| entry.wanted);
        self.wishes.retain(wanted);
        let mut asked = self.wishes.clone();
        asked.extend(self.seeds.values().filter_map(|seed| seed.peer));
        for &peer in &asked {
            let Some(entry) = self.entry(peer) else { continue };
            if entry.is_idle() && !entry.addrs.is_empty() {
                let rank = Rank::Asked(Reverse(entry.last_linked()));
                ranked.push((rank, self.rng.random::<u32>(), Target::Peer(peer)));
            }
        }
        if self.config.discover && self.has_room_for_discovered() {
            for (&peer, entry) in &self.entries {
                if !entry.is_idle() || entry.addrs.is_empty() || asked.contains(&peer) {
                    continue;
                }
                let rank = match entry.ever_connected() {
                    true => Rank::Proven(Reverse(entry.last_linked()), Reverse(entry.last_connected())),
                    false => Rank::Hearsay,
                };
                ranked.push((rank, self.rng.random::<u32>(), Target::Peer(peer)));
            }
        }
        ranked.sort_unstable();
        ranked.into_iter().map(|(_, _, target)| target).collect()
    }

    /// A seed needs no dial of its own while the peer behind it is linked, or will be dialled there under its id.
    fn is_served(&self, addr: SocketAddr, peer: Option<P>) -> bool {
        if let Some(entry) = peer.and_then(|peer| self.entry(peer)) {
            let underway = entry.is_busy();
            if underway || entry.is_banned() || entry.has_addr(addr) {
                return true;
            }
        }
        self.entries.values().any(|entry| entry.is_connected() && entry.has_addr(addr))
    }

    fn has_room(&self, target: Target<P>) -> bool {
        if self.is_asked_target(target) {
            self.links.total() + self.dials.len() < self.config.max_links()
        } else {
            self.has_room_for_discovered()
        }
    }

    fn has_room_for_discovered(&self) -> bool {
        let out = self.links.count(crate::Direction::Out) + self.dials.len();
        let all = self.links.total() + self.dials.len();
        all < self.config.target && out < self.config.max_out
    }

    pub(crate) fn start_dial(&mut self, now: Instant, target: Target<P>) {
        let addrs = match target {
            Target::Seed(addr) => vec![addr],
            Target::Peer(peer) => self.addrs_to_dial(peer),
        };
        if addrs.is_empty() {
            return;
        }
        if let Target::Peer(peer) = target {
            self.shift(peer, State::Dialing);
        }
        self.dials.insert(target, addrs.clone());
        self.timers.set(Timer::DialLost(target), now + self.config.dial_deadline);
        self.outputs.push_back(Output::Dial { target, addrs });
    }

    pub(crate) fn addrs_to_dial(&self, peer: P) -> Vec<SocketAddr> {
        let Some(entry) = self.entry(peer) else { return Vec::new() };
        let asked = self.is_asked(peer);
        let order = entry.dial_order().into_iter().map(|addr| addr.socket_addr());
        let fits = |addr: &SocketAddr| {
            let free = self.links.in_prefix(addr.ip()) < self.config.links_per_prefix
                && self.links.at_ip(addr.ip()) < self.config.links_per_ip;
            (asked || free) && is_dialable(*addr) && !self.ours.contains(addr)
        };
        let limit = if entry.singly { 1 } else { self.config.max_addrs.max(1) };
        order.filter(fits).take(limit).collect()
    }

    /// A dial is over, one way or the other.
    pub(crate) fn end_dial(&mut self, target: Target<P>) {
        self.dials.remove(&target);
        self.timers.cancel(Timer::DialLost(target));
    }

    /// Whether the user asked for this peer, by id or by an address where it answered.
    pub fn is_asked(&self, peer: P) -> bool {
        let wanted = |entry: &Entry<P>| entry.wanted;
        self.entry(peer).is_some_and(wanted) || self.seeds.values().any(|seed| seed.peer == Some(peer))
    }

    /// Whether the user asked for this peer, by id or by an address where it answered, since this was asked last: a
    /// link to it is urgent once. A restart counts as asking.
    pub fn take_fresh(&mut self, peer: P) -> bool {
        let fresh = self.entry(peer).is_some_and(|entry| entry.fresh);
        if fresh {
            self.edit(peer, |entry| entry.fresh = false);
        }
        fresh
    }

    /// The user asks for whoever answered at this seed, now or by starting the node again: what was hung up before may be
    /// dialled again.
    pub(crate) fn ask_anew(&mut self, seed: SocketAddr) {
        if let Some(peer) = self.seeds.get(&seed).and_then(|seed| seed.peer) {
            self.edit(peer, |entry| (entry.fresh, entry.held) = (true, false));
        }
    }

    /// Whether a seed at `ip` is being dialled: its owner's id is not known yet, but the user asked for it.
    pub(crate) fn dialled_as_seed(&self, ip: IpAddr) -> bool {
        let at_ip =
            |target: &Target<P>| matches!(target, Target::Seed(addr) if addr.ip() == ip.to_canonical());
        self.dials.keys().any(at_ip)
    }
}
