//! What is kept about one peer.

use std::net::SocketAddr;
use std::time::{Instant, SystemTime};

use crate::addr::{Group, group};
use crate::{Direction, PeerAddr, Record, Scope, State};

/// Failures in a row after which an address may be forgotten (faults row 43).
const FORGET_AFTER: u32 = 3;

/// Addresses where somebody else answered, remembered per peer until its next record.
const MAX_BAD: usize = 8;

/// One address of one peer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Address {
    pub(crate) addr: PeerAddr,
    /// The scope of the record that named it; a newer record of that scope replaces it. `None`: from the user, or
    /// found by dialling.
    pub(crate) scope: Option<Scope>,
    /// Failed dials in a row.
    pub(crate) failures: u32,
}

/// Whether links with the peer are refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Ban {
    #[default]
    No,
    /// Lifted by a timer; not saved.
    Until(Instant),
    Forever,
}

/// How much is lost when an entry goes; the lowest goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Worth {
    /// Hearsay that did not prove true.
    Failed,
    /// Hearsay not tried yet.
    Hearsay,
    /// Linked before, but never reached by us.
    Visitor,
    /// Reached by us before.
    Reached,
    /// The user's wish or ban.
    Asked,
    /// Linked or being dialled: never goes.
    Busy,
}

/// Tables are full of peers that somebody told of and that were never dialled, so what only few have is behind pointers: 152
/// bytes an entry with ids of 32.
#[derive(Debug)]
pub(crate) struct Entry<P> {
    phase: Phase,
    /// In the order in which they are dialled, but for failures.
    pub(crate) addrs: Vec<Address>,
    pub(crate) public: Option<Record>,
    pub(crate) local: Option<Box<Record>>,
    /// Who told us of it, until it is linked for the first time: that many more this neighbour may not introduce.
    pub(crate) introduced_by: Option<P>,
    pub(crate) wanted: bool,
    /// The user asked for it, and it was not reached since.
    pub(crate) fresh: bool,
    /// The user hung up: not dialled by ourselves.
    pub(crate) held: bool,
    /// Failed dials in a row, short links included.
    pub(crate) failures: u32,
    /// Dials and links in a row that ended because the other side had no room.
    pub(crate) refusals: u32,
    /// One of the neighbours to dial first after a restart.
    pub(crate) anchor: bool,
    /// Somebody else answered one of several addresses: find out which by dialling one at a time.
    pub(crate) singly: bool,
    pub(crate) reached: bool,
    /// The file says that it was linked shortly before the node ended.
    pub(crate) lately_before_restart: bool,
    rare: Option<Box<Rare>>,
}

/// [`State`], in the room that most need.
#[derive(Debug)]
enum Phase {
    Known,
    Dialing,
    Connected(Box<Link>),
    Backoff { until: Instant },
}

#[derive(Debug)]
struct Link {
    direction: Direction,
    addr: SocketAddr,
    since: Instant,
}

/// What is remembered of few peers: of those that were linked, that are banned, or where somebody else answered.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rare {
    pub(crate) last_connected: Option<SystemTime>,
    /// When it was last known to be linked.
    pub(crate) last_linked: Option<Instant>,
    /// Until when it is dialled more often than others.
    pub(crate) eager_until: Option<Instant>,
    pub(crate) ban: Ban,
    /// Addresses where somebody else answered; at most [`MAX_BAD`], the oldest first.
    bad: Vec<SocketAddr>,
}

impl<P: Copy> Entry<P> {
    pub(crate) fn new(introduced_by: Option<P>) -> Self {
        Self {
            phase: Phase::Known,
            addrs: Vec::new(),
            public: None,
            local: None,
            introduced_by,
            wanted: false,
            fresh: false,
            held: false,
            failures: 0,
            refusals: 0,
            anchor: false,
            singly: false,
            reached: false,
            lately_before_restart: false,
            rare: None,
        }
    }

    pub(crate) fn state(&self) -> State {
        match &self.phase {
            Phase::Known => State::Known,
            Phase::Dialing => State::Dialing,
            Phase::Connected(link) => {
                let Link { direction, addr, since } = **link;
                State::Connected { direction, addr, since }
            }
            Phase::Backoff { until } => State::Backoff { until: *until },
        }
    }

    pub(crate) fn set_state(&mut self, state: State) {
        self.phase = match state {
            State::Known => Phase::Known,
            State::Dialing => Phase::Dialing,
            State::Connected { direction, addr, since } => {
                Phase::Connected(Box::new(Link { direction, addr, since }))
            }
            State::Backoff { until } => Phase::Backoff { until },
        };
    }

    pub(crate) fn last_connected(&self) -> Option<SystemTime> {
        self.rare.as_ref()?.last_connected
    }

    pub(crate) fn last_linked(&self) -> Option<Instant> {
        self.rare.as_ref()?.last_linked
    }

    pub(crate) fn eager_until(&self) -> Option<Instant> {
        self.rare.as_ref()?.eager_until
    }

    pub(crate) fn ban(&self) -> Ban {
        self.rare.as_ref().map_or(Ban::No, |rare| rare.ban)
    }

    pub(crate) fn rare_mut(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    pub(crate) fn is_connected(&self) -> bool {
        matches!(self.phase, Phase::Connected(_))
    }

    /// Linked, or about to be.
    pub(crate) fn is_busy(&self) -> bool {
        matches!(self.phase, Phase::Connected(_) | Phase::Dialing)
    }

    /// Not dialled before a time.
    pub(crate) fn is_backing_off(&self) -> bool {
        matches!(self.phase, Phase::Backoff { .. })
    }

    pub(crate) fn is_banned(&self) -> bool {
        self.ban() != Ban::No
    }

    /// Could be dialled, if there is an address and a reason.
    pub(crate) fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Known) && !self.held && !self.is_banned()
    }

    pub(crate) fn ever_connected(&self) -> bool {
        self.last_connected().is_some()
    }

    /// Nothing is lost when it goes: it cannot be dialled and the user said nothing about it.
    pub(crate) fn is_useless(&self) -> bool {
        !self.is_busy() && self.addrs.is_empty() && !self.wanted && !self.held && !self.is_banned()
    }

    pub(crate) fn worth(&self) -> Worth {
        if self.is_busy() {
            Worth::Busy
        } else if self.wanted || self.is_banned() || self.held {
            Worth::Asked
        } else if self.reached {
            Worth::Reached
        } else if self.ever_connected() {
            Worth::Visitor
        } else if self.failures >= FORGET_AFTER {
            Worth::Failed
        } else {
            Worth::Hearsay
        }
    }

    pub(crate) fn record(&self, scope: Scope) -> Option<&Record> {
        match scope {
            Scope::Public => self.public.as_ref(),
            Scope::Local => self.local.as_deref(),
        }
    }

    pub(crate) fn set_record(&mut self, record: Record) {
        match record.scope {
            Scope::Public => self.public = Some(record),
            Scope::Local => self.local = Some(Box::new(record)),
        }
    }

    pub(crate) fn has_addr(&self, addr: SocketAddr) -> bool {
        self.addrs.iter().any(|known| known.addr.socket_addr() == addr)
    }

    /// Adds or refreshes an address; says whether it is a new one. A full list loses the one that failed most often,
    /// of equals the last.
    pub(crate) fn add_addr(&mut self, addr: PeerAddr, scope: Option<Scope>, max: usize) -> bool {
        let place = addr.socket_addr();
        if let Some(known) = self.addrs.iter_mut().find(|known| known.addr.socket_addr() == place) {
            known.scope = scope.or(known.scope);
            if addr.file_port != 0 {
                known.addr.file_port = addr.file_port;
            }
            return false;
        }
        if self.addrs.len() >= max.max(1) {
            let worst = (0..self.addrs.len()).max_by_key(|&i| (self.addrs[i].failures, i));
            self.addrs.remove(worst.expect("a full list is not empty"));
        }
        let addr = PeerAddr { ip: place.ip(), ..addr };
        // Most have one, and a vector's first room is for four.
        self.addrs.reserve_exact(1);
        self.addrs.push(Address { addr, scope, failures: 0 });
        true
    }

    pub(crate) fn drop_addr(&mut self, addr: SocketAddr) {
        self.addrs.retain(|known| known.addr.socket_addr() != addr);
    }

    /// Somebody else answers at `addr`.
    pub(crate) fn mark_bad(&mut self, addr: SocketAddr) {
        self.drop_addr(addr);
        let bad = &mut self.rare_mut().bad;
        if bad.len() >= MAX_BAD {
            bad.remove(0);
        }
        bad.push(addr);
    }

    /// Whether somebody else answered there.
    pub(crate) fn is_bad(&self, addr: SocketAddr) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.bad.contains(&addr))
    }

    /// Any of its addresses may be its own again.
    pub(crate) fn forgive(&mut self) {
        if let Some(rare) = &mut self.rare {
            rare.bad.clear();
        }
    }

    /// Our dial of `addr` reached the peer: from now on it is tried first.
    pub(crate) fn mark_reached(&mut self, addr: SocketAddr, max: usize) {
        self.reached = true;
        self.singly = false;
        if let Some(rare) = &mut self.rare {
            rare.bad.retain(|bad| *bad != addr);
        }
        let known = self.addrs.iter().position(|known| known.addr.socket_addr() == addr);
        let mut first = match known {
            Some(i) => self.addrs.remove(i),
            None => {
                self.addrs.truncate(max.max(1) - 1);
                let addr = PeerAddr { ip: addr.ip(), port: addr.port(), file_port: 0 };
                Address { addr, scope: None, failures: 0 }
            }
        };
        first.failures = 0;
        self.addrs.insert(0, first);
    }

    /// Dials of these addresses failed. One that failed [`FORGET_AFTER`] times in a row is forgotten if another one
    /// did better, or if nothing speaks for the peer at all.
    ///
    /// A peer that is only asleep fails at all its addresses alike, and keeps them.
    pub(crate) fn mark_failed(&mut self, tried: &[SocketAddr]) {
        for known in &mut self.addrs {
            if tried.contains(&known.addr.socket_addr()) {
                known.failures = known.failures.saturating_add(1);
            }
        }
        let best = self.addrs.iter().map(|known| known.failures).min().unwrap_or(0);
        let hopeless = !self.ever_connected() && !self.wanted;
        self.addrs.retain(|known| known.failures < FORGET_AFTER || (!hopeless && known.failures <= best));
    }

    /// Drops what an older record of `scope` named and the newer one does not, but for the address of our own link.
    pub(crate) fn retain_scope(&mut self, scope: Scope, named: &[PeerAddr]) {
        let linked = match &self.phase {
            Phase::Connected(link) => Some(link.addr),
            _ => None,
        };
        self.addrs.retain(|known| {
            let place = known.addr.socket_addr();
            let named = named.iter().any(|addr| addr.socket_addr() == place);
            known.scope != Some(scope) || named || linked == Some(place)
        });
    }

    /// Where to dial, best first.
    pub(crate) fn dial_order(&self) -> Vec<PeerAddr> {
        let mut order: Vec<&Address> = self.addrs.iter().collect();
        order.sort_by_key(|known| known.failures);
        order.into_iter().map(|known| known.addr).collect()
    }

    /// The groups of its addresses, each once.
    pub(crate) fn groups(&self) -> Vec<Group> {
        let mut groups: Vec<Group> = self.addrs.iter().filter_map(|known| group(known.addr.ip)).collect();
        groups.sort_unstable();
        groups.dedup();
        groups
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(n: u8) -> PeerAddr {
        PeerAddr { ip: [9, 9, 9, n].into(), port: 65432, file_port: 0 }
    }

    fn entry(addrs: &[u8]) -> Entry<u32> {
        let mut entry = Entry::new(None);
        for &n in addrs {
            entry.add_addr(addr(n), None, 8);
        }
        entry
    }

    fn left(entry: &Entry<u32>) -> Vec<PeerAddr> {
        entry.dial_order()
    }

    /// 100,000 simulated nodes keep 256 each; allocators have a class of 224 bytes below one of 256.
    #[test]
    fn an_entry_is_small() {
        let bytes = size_of::<Entry<[u8; 32]>>();
        assert!(bytes <= 224, "{bytes} bytes");
    }

    #[test]
    fn an_address_that_fails_alone_is_forgotten_after_three() {
        let mut entry = entry(&[1, 2]);
        entry.rare_mut().last_connected = Some(SystemTime::UNIX_EPOCH);
        for _ in 0..2 {
            entry.mark_failed(&[addr(1).socket_addr()]);
        }
        assert_eq!(left(&entry), [addr(2), addr(1)]);
        entry.mark_failed(&[addr(1).socket_addr()]);
        assert_eq!(left(&entry), [addr(2)]);
    }

    #[test]
    fn a_sleeping_peer_keeps_its_addresses_and_a_stranger_does_not() {
        let both = [addr(1).socket_addr(), addr(2).socket_addr()];
        let mut known = entry(&[1, 2]);
        known.rare_mut().last_connected = Some(SystemTime::UNIX_EPOCH);
        let mut wanted = entry(&[1, 2]);
        wanted.wanted = true;
        let mut stranger = entry(&[1, 2]);
        for _ in 0..5 {
            known.mark_failed(&both);
            wanted.mark_failed(&both);
            stranger.mark_failed(&both);
        }
        assert_eq!(known.addrs.len(), 2);
        assert_eq!(wanted.addrs.len(), 2);
        assert!(stranger.addrs.is_empty() && stranger.is_useless());
    }

    #[test]
    fn a_full_list_loses_the_worst_address() {
        let mut entry = entry(&[1, 2, 3]);
        entry.mark_failed(&[addr(2).socket_addr()]);
        entry.add_addr(addr(4), None, 3);
        assert_eq!(left(&entry), [addr(1), addr(3), addr(4)]);
    }

    #[test]
    fn a_newer_record_replaces_its_scope_only() {
        let mut entry = entry(&[1]);
        entry.add_addr(addr(2), Some(Scope::Public), 8);
        entry.add_addr(addr(3), Some(Scope::Local), 8);
        entry.retain_scope(Scope::Public, &[addr(4)]);
        assert_eq!(left(&entry), [addr(1), addr(3)]);
    }

    #[test]
    fn an_entry_stays_small() {
        // 256 of them in each of 100,000 simulated nodes are most of what these take.
        assert!(size_of::<Entry<[u8; 32]>>() <= 160);
    }
}
