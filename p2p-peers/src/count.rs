//! Running totals that the limits are checked against.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::Direction;
use crate::addr::{Group, Prefix, Reach, group, prefix, reach};
use crate::entry::Entry;

/// What the table refused or gave up, since it was made. Nothing is dropped without a count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Address lists whose record was older than the one held.
    pub stale_records: u64,
    /// Records that were too large, or local ones over a link that is not.
    pub refused_records: u64,
    /// Addresses that may not be taken from whom they came, or that are known to be wrong.
    pub refused_addrs: u64,
    /// Entries refused because the table was full of better ones.
    pub refused_full: u64,
    /// Entries refused because their source had introduced its share.
    pub refused_source: u64,
    /// Addresses refused because their /16 (IPv6: /32) had its share.
    pub refused_group: u64,
    /// Entries that gave way to better ones.
    pub evicted: u64,
    /// Seeds that gave way to newer ones.
    pub evicted_seeds: u64,
    /// Dials whose end was never reported.
    pub lost_dials: u64,
}

/// Links by direction, by address and by network.
#[derive(Debug, Default)]
pub(crate) struct Links {
    inbound: usize,
    outbound: usize,
    by_prefix: BTreeMap<Prefix, usize>,
    by_ip: BTreeMap<IpAddr, usize>,
    /// Where we dialled to.
    out_groups: BTreeMap<Group, usize>,
}

impl Links {
    pub(crate) fn add(&mut self, direction: Direction, ip: IpAddr) {
        *self.side(direction) += 1;
        if let Some(prefix) = prefix(ip) {
            *self.by_prefix.entry(prefix).or_default() += 1;
        }
        *self.by_ip.entry(ip.to_canonical()).or_default() += 1;
        if let Some(group) = group(ip).filter(|_| direction == Direction::Out) {
            *self.out_groups.entry(group).or_default() += 1;
        }
    }

    pub(crate) fn remove(&mut self, direction: Direction, ip: IpAddr) {
        *self.side(direction) -= 1;
        if let Some(prefix) = prefix(ip) {
            decrement(&mut self.by_prefix, prefix);
        }
        decrement(&mut self.by_ip, ip.to_canonical());
        if let Some(group) = group(ip).filter(|_| direction == Direction::Out) {
            decrement(&mut self.out_groups, group);
        }
    }

    fn side(&mut self, direction: Direction) -> &mut usize {
        match direction {
            Direction::In => &mut self.inbound,
            Direction::Out => &mut self.outbound,
        }
    }

    pub(crate) fn count(&self, direction: Direction) -> usize {
        match direction {
            Direction::In => self.inbound,
            Direction::Out => self.outbound,
        }
    }

    pub(crate) fn total(&self) -> usize {
        self.inbound + self.outbound
    }

    /// Links into the /24 or /64 of `ip`; 0 for private and loopback addresses.
    pub(crate) fn in_prefix(&self, ip: IpAddr) -> usize {
        prefix(ip).and_then(|prefix| self.by_prefix.get(&prefix).copied()).unwrap_or(0)
    }

    /// Links to the address; 0 for loopback.
    pub(crate) fn at_ip(&self, ip: IpAddr) -> usize {
        let counted = reach(ip) != Reach::Loopback;
        if counted { self.by_ip.get(&ip.to_canonical()).copied().unwrap_or(0) } else { 0 }
    }

    /// Whether a link that we dialled leads into the /16 (IPv6: /32) of `ip`; never for private and loopback addresses.
    pub(crate) fn out_near(&self, ip: IpAddr) -> bool {
        group(ip).is_some_and(|group| self.out_groups.contains_key(&group))
    }
}

/// Entries from peer exchange that never connected, by who introduced them and by where they are.
#[derive(Debug)]
pub(crate) struct Census<P> {
    by_source: BTreeMap<P, usize>,
    by_group: BTreeMap<Group, usize>,
}

impl<P: Copy + Ord> Census<P> {
    pub(crate) fn new() -> Self {
        Self { by_source: BTreeMap::new(), by_group: BTreeMap::new() }
    }

    pub(crate) fn add(&mut self, entry: &Entry<P>) {
        let Some(source) = entry.introduced_by else { return };
        *self.by_source.entry(source).or_default() += 1;
        for group in entry.groups() {
            *self.by_group.entry(group).or_default() += 1;
        }
    }

    /// To be called with the entry as it was when added.
    pub(crate) fn remove(&mut self, entry: &Entry<P>) {
        let Some(source) = entry.introduced_by else { return };
        decrement(&mut self.by_source, source);
        for group in entry.groups() {
            decrement(&mut self.by_group, group);
        }
    }

    pub(crate) fn by_source(&self, source: P) -> usize {
        self.by_source.get(&source).copied().unwrap_or(0)
    }

    pub(crate) fn in_group(&self, group: Group) -> usize {
        self.by_group.get(&group).copied().unwrap_or(0)
    }
}

fn decrement<K: Ord>(counts: &mut BTreeMap<K, usize>, key: K) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}
