//! This node's own addresses and the two records it signs of them.
//!
//! The public record holds what the whole internet can reach and goes anywhere; the local one holds
//! private addresses, loopback if there is nothing else, and is told only over links that are private
//! or loopback themselves.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use p2p_peers::{Reach, reach};
use p2p_wire::{MAX_RECORD_ADDRS, PeerAddr, PeerRecord, Scope, SecretKey};

/// Whether local addresses may be told to, and taken from, this address.
pub(crate) fn is_private(ip: IpAddr) -> bool {
    matches!(reach(ip), Reach::Private | Reach::Loopback)
}

/// Addresses as they are known now.
#[derive(Debug)]
pub(crate) struct OwnAddrs {
    /// Where the node listens; unspecified means on every interface.
    host: IpAddr,
    port: u16,
    file_port: u16,
    interfaces: Vec<IpAddr>,
    /// What the router maps: local port to external address.
    mapped: BTreeMap<u16, SocketAddr>,
    /// Who saw this node last and at which address, over links that are not private; one a place, oldest first.
    observed: VecDeque<(IpAddr, IpAddr)>,
    /// What the router named and somebody saw as well, oldest first.
    confirmed: VecDeque<IpAddr>,
    records: [Option<PeerRecord>; 2],
    seq: u64,
}

/// Records signed in one run before their numbers meet those of the next one: an address change a second
/// for an hour.
const RECORDS_A_RUN: u64 = 4096;
/// Observations kept until the router names what was seen; the oldest goes. A guess: the first neighbours of a node tell of
/// it before its router has answered.
const MAX_OBSERVED: usize = 16;
/// Confirmed addresses kept, those that the router names now among them (one, or two if its ports differ): it may name an
/// earlier one again, and links that stand do not tell twice what they see.
const MAX_CONFIRMED: usize = 4;

impl OwnAddrs {
    /// `run` is the first message number of this process: it rises from start to start, whatever the
    /// clock says, and so do the records' numbers that begin with it. Without a file of numbers it is the clock's, in
    /// microseconds: above 2^52, in the year 2112, records have numbers that rise within one run only.
    pub(crate) fn new(listen: SocketAddr, file_port: u16, interfaces: Vec<IpAddr>, run: u64) -> Self {
        Self {
            host: listen.ip().to_canonical(),
            port: listen.port(),
            file_port,
            interfaces,
            mapped: BTreeMap::new(),
            observed: VecDeque::new(),
            confirmed: VecDeque::new(),
            records: [None, None],
            seq: run.saturating_mul(RECORDS_A_RUN).min(u64::MAX - RECORDS_A_RUN),
        }
    }

    /// Returns whether anything changed; so do the following.
    pub(crate) fn set_interfaces(&mut self, interfaces: Vec<IpAddr>) -> bool {
        let changed = self.interfaces != interfaces;
        if changed {
            self.interfaces = interfaces;
            self.records = [None, None];
        }
        changed
    }

    pub(crate) fn set_mapped(&mut self, mapped: Vec<(u16, SocketAddr)>) -> bool {
        let mapped = mapped.into_iter().collect();
        let changed = self.mapped != mapped;
        if changed {
            self.mapped = mapped;
            self.confirm();
            self.records = [None, None];
        }
        changed
    }

    /// Somebody at `by` sees this node at `ip`. What a router says is believed once an outside peer
    /// confirms it this way: a second NAT, or a router that does not know its address, is noticed. Others may lie: they
    /// neither keep out who comes after them nor undo what was confirmed.
    pub(crate) fn on_observed(&mut self, ip: IpAddr, by: IpAddr) -> bool {
        let (ip, by) = (ip.to_canonical(), by.to_canonical());
        if is_private(by) || reach(ip) != Reach::Global {
            return false;
        }
        self.observed.retain(|(observer, _)| *observer != by);
        self.observed.push_back((by, ip));
        if self.observed.len() > MAX_OBSERVED {
            self.observed.pop_front();
        }
        let news = self.confirm();
        if news {
            self.records = [None, None];
        }
        news
    }

    /// Keeps what the router names and somebody saw, however many see something else from now on. Whether there is any news.
    fn confirm(&mut self) -> bool {
        let named: Vec<IpAddr> = self.mapped.values().map(|external| external.ip().to_canonical()).collect();
        let seen = |ip: &IpAddr| self.observed.iter().any(|(_, seen)| seen == ip);
        let mut news: Vec<IpAddr> = named.iter().copied().filter(seen).collect();
        news.sort_unstable();
        news.dedup();
        news.retain(|ip| !self.confirmed.contains(ip));
        self.confirmed.extend(&news);
        while self.confirmed.len() > MAX_CONFIRMED
            && let Some(past) = self.confirmed.iter().position(|ip| !named.contains(ip))
        {
            self.confirmed.remove(past);
        }
        !news.is_empty()
    }

    /// What to tell a friend: public addresses first.
    pub(crate) fn addrs(&self) -> Vec<PeerAddr> {
        let (mut all, local) = self.split();
        all.extend(local);
        all.truncate(MAX_RECORD_ADDRS);
        all
    }

    /// The records for a peer: the local one only if its link is private.
    pub(crate) fn records(&mut self, key: &SecretKey, private: bool) -> Vec<PeerRecord> {
        if self.records.iter().all(Option::is_none) {
            self.sign(key);
        }
        let [public, local] = &self.records;
        let local = local.as_ref().filter(|_| private);
        public.iter().chain(local).cloned().collect()
    }

    fn sign(&mut self, key: &SecretKey) {
        self.seq = self.seq.saturating_add(1);
        let (public, local) = self.split();
        let record = |scope, addrs: &[PeerAddr]| {
            let addrs = &addrs[..addrs.len().min(MAX_RECORD_ADDRS)];
            let signed = PeerRecord::sign(key, scope, self.seq, addrs);
            signed.inspect_err(|e| tracing::error!(error = %e, "own addresses could not be signed")).ok()
        };
        self.records = [
            Some(public).filter(|a| !a.is_empty()).and_then(|a| record(Scope::Public, &a)),
            Some(local).filter(|a| !a.is_empty()).and_then(|a| record(Scope::Local, &a)),
        ];
    }

    /// Public and local addresses.
    fn split(&self) -> (Vec<PeerAddr>, Vec<PeerAddr>) {
        let listening: Vec<IpAddr> =
            if self.host.is_unspecified() { self.interfaces.clone() } else { vec![self.host] };
        let of = |wanted: Reach| {
            let ips = listening.iter().map(|ip| ip.to_canonical());
            ips.filter(|ip| reach(*ip) == wanted && self.listens_for(*ip))
                .map(|ip| self.addr(ip))
                .collect::<Vec<_>>()
        };
        let mut public: Vec<PeerAddr> = self.confirmed_mapping().into_iter().collect();
        public.extend(of(Reach::Global));
        let mut local = of(Reach::Private);
        if local.is_empty() && public.is_empty() {
            local = of(Reach::Loopback);
        }
        (public, local)
    }

    /// A socket on 0.0.0.0 takes no IPv6.
    const fn listens_for(&self, ip: IpAddr) -> bool {
        !(self.host.is_ipv4() && ip.is_ipv6())
    }

    fn confirmed_mapping(&self) -> Option<PeerAddr> {
        let node = self.mapped.get(&self.port)?;
        let confirmed =
            reach(node.ip()) == Reach::Global && self.confirmed.contains(&node.ip().to_canonical());
        confirmed.then(|| PeerAddr {
            ip: node.ip(),
            port: node.port(),
            file_port: self.mapped.get(&self.file_port).map_or(0, SocketAddr::port),
        })
    }

    const fn addr(&self, ip: IpAddr) -> PeerAddr {
        PeerAddr { ip, port: self.port, file_port: self.file_port }
    }
}

/// The addresses of this machine's interfaces, in a stable order; link-local ones are left out (they
/// mean nothing without their interface).
pub(crate) fn interfaces() -> Vec<IpAddr> {
    let found = if_addrs::get_if_addrs().unwrap_or_else(|error| {
        tracing::warn!(%error, "the addresses of this machine could not be read");
        Vec::new()
    });
    let mut ips: Vec<IpAddr> = found.iter().map(if_addrs::Interface::ip).collect();
    ips.retain(|ip| reach(*ip) != Reach::Forbidden && !is_link_local(*ip));
    ips.sort_unstable();
    ips.dedup();
    ips
}

const fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn own(host: &str, interfaces: &[&str]) -> OwnAddrs {
        OwnAddrs::new(SocketAddr::new(ip(host), 7000), 7001, interfaces.iter().map(|i| ip(i)).collect(), 5)
    }

    fn ips(addrs: &[PeerAddr]) -> Vec<String> {
        addrs.iter().map(|a| a.ip.to_string()).collect()
    }

    #[test]
    fn local_addresses_go_into_the_local_record_only() {
        let mut own = own("0.0.0.0", &["127.0.0.1", "192.168.1.5", "11.0.0.7", "2001:4860::1"]);
        let key = SecretKey::from_bytes(&[1; 32]);
        let public = own.records(&key, false);
        assert_eq!(public.iter().map(|r| ips(r.addrs())).collect::<Vec<_>>(), [["11.0.0.7"]]);
        let both = own.records(&key, true);
        assert_eq!(ips(both[1].addrs()), ["192.168.1.5"]);
    }

    #[test]
    fn loopback_is_told_only_where_there_is_nothing_else() {
        assert_eq!(ips(&own("127.0.0.1", &[]).addrs()), ["127.0.0.1"]);
        assert_eq!(ips(&own("::", &["127.0.0.1", "10.0.0.1"]).addrs()), ["10.0.0.1"]);
        assert_eq!(ips(&own("::", &["127.0.0.1"]).addrs()), ["127.0.0.1"]);
    }

    #[test]
    fn a_mapping_is_told_once_an_outside_peer_confirms_it() {
        let mut own = own("0.0.0.0", &["192.168.1.5"]);
        own.set_mapped(vec![(7000, "11.0.113.1:7000".parse().unwrap())]);
        assert_eq!(ips(&own.addrs()), ["192.168.1.5"]);
        assert!(
            !own.on_observed(ip("11.0.113.1"), ip("192.168.1.9")),
            "a neighbour on the LAN is not outside"
        );
        assert!(!own.on_observed(ip("11.9.9.9"), ip("11.0.0.100")), "another address than the router's");
        assert!(own.on_observed(ip("11.0.113.1"), ip("11.0.0.100")));
        assert_eq!(ips(&own.addrs()), ["11.0.113.1", "192.168.1.5"]);
    }

    #[test]
    fn a_mapping_is_confirmed_however_many_other_addresses_were_seen_before() {
        let mut own = own("0.0.0.0", &["192.168.1.5"]);
        for n in 1..=200 {
            own.on_observed(ip(&format!("11.7.7.{n}")), ip(&format!("11.3.{n}.1")));
        }
        own.set_mapped(vec![(7000, "11.0.113.1:7000".parse().unwrap())]);
        assert!(own.on_observed(ip("11.0.113.1"), ip("11.3.1.1")));
        assert_eq!(ips(&own.addrs()), ["11.0.113.1", "192.168.1.5"]);
    }

    #[test]
    fn a_confirmed_mapping_stays_so_however_many_see_other_addresses_afterwards() {
        let mut own = own("0.0.0.0", &["192.168.1.5"]);
        let mapping = || vec![(7000, "11.0.113.1:7000".parse().unwrap())];
        own.set_mapped(mapping());
        assert!(own.on_observed(ip("11.0.113.1"), ip("11.0.0.100")));
        let lie = |own: &mut OwnAddrs, last: u8| {
            for n in 0..=255 {
                let news = own.on_observed(ip(&format!("11.{n}.7.{last}")), ip(&format!("11.3.{n}.{last}")));
                assert!(!news);
            }
            assert!(own.observed.len() <= MAX_OBSERVED, "{} observations", own.observed.len());
        };
        lie(&mut own, 1);
        assert_eq!(ips(&own.addrs()), ["11.0.113.1", "192.168.1.5"]);
        // The router is started anew, and nobody greets this node again.
        assert!(own.set_mapped(Vec::new()));
        assert_eq!(ips(&own.addrs()), ["192.168.1.5"]);
        lie(&mut own, 2);
        assert!(own.set_mapped(mapping()));
        assert_eq!(ips(&own.addrs()), ["11.0.113.1", "192.168.1.5"]);
    }

    #[test]
    fn each_address_of_a_long_life_is_confirmed_in_its_turn() {
        let mut own = own("0.0.0.0", &["192.168.1.5"]);
        for day in 1..=200 {
            let external = format!("11.0.113.{day}");
            own.set_mapped(vec![(7000, SocketAddr::new(ip(&external), 7000))]);
            assert_eq!(ips(&own.addrs()), ["192.168.1.5"]);
            // One observer tells of all of them.
            assert!(own.on_observed(ip(&external), ip("11.0.0.100")));
            assert_eq!(ips(&own.addrs()), [external.as_str(), "192.168.1.5"]);
            assert!(own.confirmed.len() <= MAX_CONFIRMED);
        }
    }

    #[test]
    fn each_new_record_has_a_higher_number() {
        let mut own = own("0.0.0.0", &["192.168.1.5"]);
        let key = SecretKey::from_bytes(&[1; 32]);
        let first = own.records(&key, true)[0].seq();
        assert_eq!(own.records(&key, true)[0].seq(), first, "signed once");
        own.set_interfaces(vec![ip("192.168.1.6")]);
        assert!(own.records(&key, true)[0].seq() > first);
    }

    #[test]
    fn a_clock_in_another_century_leaves_the_records_of_a_run_in_order() {
        for run in [(1 << 52) - 1, 1 << 52, 1 << 53, u64::MAX - RECORDS_A_RUN] {
            let mut own =
                OwnAddrs::new(SocketAddr::new(ip("0.0.0.0"), 7000), 0, vec![ip("192.168.1.5")], run);
            let key = SecretKey::from_bytes(&[1; 32]);
            let first = own.records(&key, true)[0].seq();
            own.set_interfaces(vec![ip("192.168.1.6")]);
            assert!(own.records(&key, true)[0].seq() > first && first >= run, "run {run}");
        }
    }
}
