//! The table to a [`Snapshot`] and back.

use std::time::{Duration, Instant};

use rand::Rng;

use crate::addr::{canonical, is_dialable};
use crate::entry::{Ban, Entry, Worth};
use crate::{HangupCause, Key, PeerTable, SavedAddr, SavedPeer, Scope, Snapshot};

impl<P: Key, R: Rng> PeerTable<P, R> {
    /// What of the table is worth keeping. Bans that end by themselves are not.
    pub fn snapshot(&self) -> Snapshot<P> {
        let saved = |id: P, entry: &Entry<P>| {
            let mut addrs: Vec<_> = entry.addrs.iter().collect();
            addrs.sort_by_key(|known| known.failures);
            SavedPeer {
                id,
                addrs: addrs.iter().map(|known| SavedAddr { addr: known.addr, scope: known.scope }).collect(),
                last_connected: entry.last_connected(),
                wanted: entry.wanted,
                anchor: entry.anchor,
                visitor: entry.ever_connected() && !entry.reached,
                banned: entry.ban() == Ban::Forever,
                records: [Scope::Public, Scope::Local]
                    .iter()
                    .filter_map(|&s| entry.record(s).cloned())
                    .collect(),
            }
        };
        Snapshot {
            peers: self.entries.iter().map(|(&id, entry)| saved(id, entry)).collect(),
            seeds: self.seeds.keys().copied().collect(),
        }
    }

    /// Adds what an earlier run knew; says how many of its peers are in the table now. What is known already stays as
    /// it is, but for wishes and bans, which are added. Within the table's limits; peers that were linked come first.
    pub fn restore(&mut self, now: Instant, snapshot: Snapshot<P>) -> usize {
        self.begin(now);
        let Snapshot { mut peers, seeds } = snapshot;
        let newest = peers.iter().filter_map(|peer| peer.last_connected).max();
        peers.sort_by_key(|peer| std::cmp::Reverse((peer.wanted || peer.banned, peer.last_connected)));
        let mut restored = 0;
        for peer in peers {
            // There is no wall clock here; what was linked shortly before the newest link likely was to the end.
            let lately = newest.zip(peer.last_connected).is_some_and(|(newest, at)| {
                newest.duration_since(at).unwrap_or(Duration::ZERO) <= self.config.recent
            });
            restored += usize::from(self.restore_peer(now, peer, lately));
        }
        for addr in seeds.into_iter().map(canonical).filter(|addr| is_dialable(*addr)) {
            if self.seeds.len() < self.config.max_seeds {
                self.insert_seed(addr);
                self.ask_anew(addr);
            } else {
                self.counters.evicted_seeds += 1;
            }
        }
        self.changed(now);
        self.fill(now);
        restored
    }

    fn restore_peer(&mut self, now: Instant, saved: SavedPeer<P>, lately: bool) -> bool {
        let worth = if saved.wanted || saved.banned { Worth::Asked } else { Worth::Hearsay };
        if saved.id == self.me || !self.ensure(saved.id, None, worth) {
            return false;
        }
        if saved.wanted {
            self.wishes.insert(saved.id);
        }
        let (max_addrs, eager_until) = (self.config.max_addrs, now + self.config.eager_for);
        let dialable = |saved: &SavedAddr| {
            let addr = saved.addr.socket_addr();
            is_dialable(addr) && !self.ours.contains(&addr)
        };
        let (addrs, refused): (Vec<_>, Vec<_>) = saved.addrs.into_iter().partition(dialable);
        self.counters.refused_addrs += refused.len() as u64;
        self.edit(saved.id, |entry| {
            for SavedAddr { addr, scope } in addrs {
                if entry.addrs.len() < max_addrs {
                    entry.add_addr(addr, scope, max_addrs);
                }
            }
            for record in saved.records {
                if entry.record(record.scope).is_none_or(|known| known.seq < record.seq) {
                    entry.set_record(record);
                }
            }
            if saved.wanted && !saved.banned {
                (entry.wanted, entry.fresh, entry.held) = (true, true, false);
            }
            entry.anchor |= saved.anchor;
            if entry.last_connected().is_none() && saved.last_connected.is_some() {
                (entry.reached, entry.lately_before_restart) = (!saved.visitor, lately);
                let rare = entry.rare_mut();
                rare.last_connected = saved.last_connected;
                rare.eager_until = lately.then_some(eager_until);
            }
        });
        if saved.banned {
            self.edit(saved.id, |entry| entry.wanted = false);
            self.set_ban(saved.id, Ban::Forever);
            self.hang_up(saved.id, HangupCause::Banned);
        }
        self.drop_if_useless(saved.id);
        self.entries.contains_key(&saved.id)
    }
}
