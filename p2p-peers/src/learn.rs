//! What is believed and kept, and what gives way when there is no room.

use std::net::SocketAddr;
use std::time::Instant;

use rand::Rng;
use tracing::debug;

use crate::addr::{group, is_dialable};
use crate::config::{MAX_LEARNED_ADDRS, MAX_RECORD_BYTES};
use crate::entry::{Entry, Worth};
use crate::table::{Seed, Timer};
use crate::{Key, PeerAddr, PeerTable, Reach, Record, Scope, Source, reach};

/// What an address list comes with.
struct Origin<P> {
    source: Source<P>,
    private_link: bool,
}

/// Ports below this belong to other people's servers.
const FIRST_UNPRIVILEGED_PORT: u16 = 1024;

impl<P: Key, R: Rng> PeerTable<P, R> {
    /// Says whether it changed anything: it need not be looked for somebody to dial if not, and most of what neighbours
    /// tell is known, or has no room.
    pub(crate) fn on_learned(
        &mut self,
        now: Instant,
        peer: P,
        addrs: &[PeerAddr],
        record: Option<Record>,
        source: Source<P>,
        private_link: bool,
    ) -> bool {
        let origin = Origin { source, private_link };
        if peer == self.me || !self.may_come_so(record.as_ref(), &origin) {
            return false;
        }
        let scope = record.as_ref().map(|record| record.scope);
        let held = scope.and_then(|scope| self.entry(peer)?.record(scope)).map(|record| record.seq);
        let newer = record.as_ref().is_some_and(|record| held.is_none_or(|seq| record.seq > seq));
        if record.as_ref().zip(held).is_some_and(|(record, seq)| record.seq < seq) {
            self.counters.stale_records += 1;
            return false;
        }
        let addrs = self.believable(peer, addrs, &origin, newer);
        let introduced_by = match source {
            Source::Peer(by) => Some(by),
            _ => None,
        };
        if !self.entries.contains_key(&peer) {
            let from_us = matches!(source, Source::User | Source::Store);
            let worth = match source {
                Source::User => Worth::Asked,
                Source::Hello => Worth::Visitor,
                Source::Peer(_) | Source::Store => Worth::Hearsay,
            };
            if (addrs.is_empty() && !from_us) || !self.ensure(peer, introduced_by, worth) {
                return false;
            }
        }
        let added = self.take_in(peer, &addrs, record.filter(|_| newer), scope);
        if added && (newer || introduced_by.is_none()) {
            self.hurry(peer);
        }
        if added || newer {
            self.changed(now);
        }
        self.drop_if_useless(peer);
        true
    }

    /// Whether a record of `peer` says nothing new: one with its number is held, and these addresses out of it. To learn
    /// it once more would change nothing; in a network that stands nearly all that neighbours tell is so.
    pub fn has_learned(
        &self,
        peer: P,
        scope: Scope,
        seq: u64,
        addrs: impl IntoIterator<Item = PeerAddr>,
    ) -> bool {
        let Some(entry) = self.entry(peer) else { return false };
        let known = |addr: PeerAddr| {
            let place = addr.socket_addr();
            let mut same = entry.addrs.iter().filter(|known| known.addr.socket_addr() == place);
            same.any(|known| known.scope == Some(scope) && known.addr.file_port == addr.file_port)
        };
        entry.record(scope).is_some_and(|record| record.seq == seq) && addrs.into_iter().all(known)
    }

    /// Whether `addr` of a record of this scope would be taken from a peer that is not its owner, over a link that is
    /// `private` or not. For addresses that are to be dialled and do not come into the table.
    pub fn believes_others(&self, scope: Scope, addr: SocketAddr, private: bool) -> bool {
        !self.strays(scope, private) && self.may_be_at(addr, private) && self.port_is_free(addr)
    }

    /// Local records travel over local links only.
    fn strays(&self, scope: Scope, private_link: bool) -> bool {
        scope == Scope::Local && !private_link && !self.config.allow_private
    }

    /// No record goes where it must not, and none is endless.
    fn may_come_so(&mut self, record: Option<&Record>, origin: &Origin<P>) -> bool {
        let Some(record) = record else { return true };
        let ours = matches!(origin.source, Source::User | Source::Store);
        let strayed = !ours && self.strays(record.scope, origin.private_link);
        let refused = strayed || record.bytes.len() > MAX_RECORD_BYTES;
        if refused {
            self.counters.refused_records += 1;
        }
        !refused
    }

    /// Those of `addrs` that may be kept for `peer`.
    fn believable(&mut self, peer: P, addrs: &[PeerAddr], origin: &Origin<P>, newer: bool) -> Vec<PeerAddr> {
        let entry = self.entry(peer);
        let hearsay = match entry {
            Some(entry) => entry.introduced_by.is_some(),
            None => matches!(origin.source, Source::Peer(_)),
        };
        // A newer record clears the memory of addresses where somebody else answered.
        let bad = |addr: SocketAddr| entry.is_some_and(|entry| !newer && entry.is_bad(addr));
        let known = |addr: SocketAddr| entry.is_some_and(|entry| entry.has_addr(addr));
        let (mut refused, mut crowded) = (addrs.len().saturating_sub(MAX_LEARNED_ADDRS), 0);
        let mut kept = Vec::new();
        for addr in addrs.iter().take(MAX_LEARNED_ADDRS) {
            let place = addr.socket_addr();
            let group = group(place.ip()).filter(|_| hearsay && !known(place));
            if !self.may_say(origin, place) || bad(place) || self.ours.contains(&place) {
                refused += 1;
            } else if group.is_some_and(|group| self.census.in_group(group) >= self.config.max_per_group) {
                crowded += 1;
            } else if kept.len() < self.config.max_addrs {
                kept.push(*addr);
            } else {
                refused += 1;
            }
        }
        self.counters.refused_addrs += refused as u64;
        self.counters.refused_group += crowded;
        kept
    }

    /// Whether `addr` may be taken from there at all.
    fn may_say(&self, origin: &Origin<P>, addr: SocketAddr) -> bool {
        match origin.source {
            Source::User | Source::Store => is_dialable(addr),
            Source::Hello => self.may_be_at(addr, origin.private_link),
            Source::Peer(_) => self.may_be_at(addr, origin.private_link) && self.port_is_free(addr),
        }
    }

    /// Whether what a link that is private or not told of can be there.
    fn may_be_at(&self, addr: SocketAddr, private_link: bool) -> bool {
        let reach_ok = match reach(addr.ip()) {
            Reach::Global => true,
            Reach::Private | Reach::Loopback => private_link || self.config.allow_private,
            Reach::Forbidden => false,
        };
        is_dialable(addr) && reach_ok
    }

    fn port_is_free(&self, addr: SocketAddr) -> bool {
        addr.port() >= FIRST_UNPRIVILEGED_PORT || self.config.allow_privileged_ports
    }

    /// Writes addresses and a newer record into an entry; says whether an address was new.
    fn take_in(&mut self, peer: P, addrs: &[PeerAddr], newer: Option<Record>, scope: Option<Scope>) -> bool {
        let max = self.config.max_addrs;
        let mut added = false;
        self.edit(peer, |entry| {
            if let Some(record) = newer {
                entry.retain_scope(record.scope, addrs);
                entry.forgive();
                entry.set_record(record);
            }
            for addr in addrs {
                added |= entry.add_addr(*addr, scope, max);
            }
        });
        added
    }

    /// Changes an entry and keeps the census true.
    pub(crate) fn edit(&mut self, peer: P, change: impl FnOnce(&mut Entry<P>)) {
        let Some(entry) = self.entries.get_mut(&peer) else { return };
        self.census.remove(entry);
        change(entry);
        self.census.add(entry);
    }

    /// Makes sure that there is an entry for `peer`; what is `worth` less than that gives way to it. Says whether
    /// there is one.
    pub(crate) fn ensure(&mut self, peer: P, introduced_by: Option<P>, worth: Worth) -> bool {
        if self.entries.contains_key(&peer) {
            return true;
        }
        let share = self.config.max_per_source;
        if introduced_by.is_some_and(|source| self.census.by_source(source) >= share) {
            self.counters.refused_source += 1;
            return false;
        }
        if self.entries.len() >= self.config.max_peers && !self.make_room(worth) {
            self.counters.refused_full += 1;
            return false;
        }
        let entry = Entry::new(introduced_by);
        self.census.add(&entry);
        self.entries.insert(peer, Box::new(entry));
        true
    }

    /// Drops the entry that is worth least, the one linked longest ago among equals, if it is worth no more than
    /// `worth`; hearsay only drives out what failed.
    fn make_room(&mut self, worth: Worth) -> bool {
        let least = self.entries.iter().min_by_key(|(_, entry)| {
            (entry.worth(), entry.last_linked(), entry.last_connected(), std::cmp::Reverse(entry.failures))
        });
        let Some((&peer, entry)) = least else { return false };
        let gives_way = match worth {
            Worth::Hearsay => entry.worth() < worth,
            _ => entry.worth() <= worth,
        };
        if gives_way {
            debug!(?peer, "forgotten, the table is full");
            self.counters.evicted += 1;
            self.remove(peer);
        }
        gives_way
    }

    pub(crate) fn drop_if_useless(&mut self, peer: P) {
        if self.entry(peer).is_some_and(Entry::is_useless) {
            self.remove(peer);
        }
    }

    fn remove(&mut self, peer: P) {
        self.timers.cancel(Timer::Retry(peer));
        self.timers.cancel(Timer::Unban(peer));
        if let Some(entry) = self.entries.remove(&peer) {
            self.census.remove(&entry);
        }
    }

    /// Keeps `addr` as a seed; of too many, the one that failed most often gives way.
    pub(crate) fn insert_seed(&mut self, addr: SocketAddr) {
        if self.seeds.contains_key(&addr) {
            return;
        }
        if self.seeds.len() >= self.config.max_seeds.max(1) {
            let worst =
                self.seeds.iter().max_by_key(|(_, seed)| (!seed.fresh, seed.failures, seed.peer.is_some()));
            if let Some((&worst, _)) = worst {
                self.seeds.remove(&worst);
                self.timers.cancel(Timer::RetrySeed(worst));
                self.counters.evicted_seeds += 1;
            }
        }
        let owner = self.entries.iter().filter(|(_, entry)| entry.ever_connected() && entry.has_addr(addr));
        let peer = owner.max_by_key(|(_, entry)| entry.last_connected()).map(|(&peer, _)| peer);
        self.seeds.insert(addr, Seed::new(peer));
    }
}
