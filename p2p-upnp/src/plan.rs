//! Which outside ports to ask for, given what the router lists.

use std::collections::VecDeque;
use std::net::IpAddr;

use crate::gateway::{Entry, Listing};

/// Most mapping requests per port and round. Each may take a whole `call_timeout`, and a router that refuses five
/// ports refuses the sixth.
pub const MAX_REQUESTS: u32 = 5;

/// How far above the wanted number we look before any port will do.
const NEIGHBOURS: u16 = 10;

/// What to do about one port.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// A mapping that leads to us and that we did not make, such as one entered by hand: use it, never touch it.
    Use(Entry),
    /// Ask for these outside ports in turn; none means any. At most [`MAX_REQUESTS`].
    Ask(VecDeque<Option<u16>>),
}

/// One port of ours and what is known about it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Want<'a> {
    /// Our address as the router sees it.
    pub(crate) local: IpAddr,
    pub(crate) local_port: u16,
    /// The outside port that this process holds for it.
    pub(crate) held: Option<u16>,
    /// Outside ports wanted or held for our other ports.
    pub(crate) others: &'a [u16],
    pub(crate) description: &'a str,
}

impl Want<'_> {
    /// Leads to this port of ours, whoever made it.
    pub(crate) fn is_ours(&self, entry: &Entry) -> bool {
        entry.client == Some(self.local) && entry.local_port == self.local_port
    }

    /// We made it: in this run, or in one that was killed.
    pub(crate) fn is_made_by_us(&self, entry: &Entry) -> bool {
        self.is_ours(entry)
            && (self.held == Some(entry.external_port) || entry.description == self.description)
    }

    pub(crate) fn plan(&self, listing: &Listing) -> Plan {
        let entries = || listing.entries.iter().filter(|entry| self.is_ours(entry));
        if let Some(entry) = entries().find(|entry| entry.enabled && !self.is_made_by_us(entry)) {
            return Plan::Use(entry.clone());
        }
        let earlier = entries().find(|entry| self.is_made_by_us(entry)).map(|entry| entry.external_port);
        let free = |port: &u16| {
            !self.others.contains(port) && listing.at(*port).is_none_or(|entry| self.is_ours(entry))
        };
        let neighbours = (1..=NEIGHBOURS).filter_map(|step| self.local_port.checked_add(step));
        let mut ask: VecDeque<Option<u16>> = VecDeque::new();
        for port in
            self.held.into_iter().chain(earlier).chain([self.local_port]).chain(neighbours).filter(free)
        {
            if ask.len() + 1 < MAX_REQUESTS as usize && !ask.contains(&Some(port)) {
                ask.push_back(Some(port));
            }
        }
        ask.push_back(None);
        Plan::Ask(ask)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const US: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 168, 1, 10));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 168, 1, 11));
    const WANT: Want<'static> =
        Want { local: US, local_port: 7000, held: None, others: &[7001], description: "p2p" };

    fn entry(external_port: u16, client: IpAddr, description: &str) -> Entry {
        let description = description.to_owned();
        Entry {
            external_port,
            client: Some(client),
            local_port: 7000,
            enabled: true,
            description,
            lease: None,
        }
    }

    fn ask(want: Want<'_>, entries: Vec<Entry>) -> Vec<Option<u16>> {
        match want.plan(&Listing { entries, complete: true }) {
            Plan::Ask(ask) => ask.into(),
            Plan::Use(entry) => panic!("uses {entry:?}"),
        }
    }

    #[test]
    fn the_same_number_first_then_its_neighbours_then_any() {
        assert_eq!(ask(WANT, vec![]), [Some(7000), Some(7002), Some(7003), Some(7004), None]);
    }

    #[test]
    fn ports_of_other_machines_are_not_asked_for() {
        let taken = vec![entry(7000, OTHER, "p2p"), entry(7002, OTHER, "x")];
        assert_eq!(ask(WANT, taken), [Some(7003), Some(7004), Some(7005), Some(7006), None]);
    }

    #[test]
    fn what_we_held_or_left_behind_comes_first() {
        let held = Want { held: Some(9000), ..WANT };
        assert_eq!(ask(held, vec![])[..2], [Some(9000), Some(7000)]);
        assert_eq!(ask(WANT, vec![entry(7004, US, "p2p")])[..2], [Some(7004), Some(7000)]);
        assert_eq!(ask(WANT, vec![entry(7000, US, "p2p")])[..2], [Some(7000), Some(7002)]);
    }

    #[test]
    fn a_forward_made_by_hand_is_used_as_it_is() {
        let by_hand = entry(443, US, "my server");
        let listing = Listing { entries: vec![by_hand.clone()], complete: false };
        assert_eq!(WANT.plan(&listing), Plan::Use(by_hand.clone()));
        let off = Entry { enabled: false, ..by_hand };
        assert_eq!(ask(WANT, vec![off])[0], Some(7000));
    }

    #[test]
    fn a_mapping_of_this_run_is_ours_whatever_the_router_calls_it() {
        let held = Want { held: Some(7000), ..WANT };
        assert_eq!(ask(held, vec![entry(7000, US, "P2P (renamed)")])[0], Some(7000));
    }

    proptest! {
        #[test]
        fn never_asks_too_often_nor_for_a_port_of_others(
            local_port in 1u16.., held in proptest::option::of(1u16..), others: Vec<u16>,
            entries in proptest::collection::vec((0u16.., any::<bool>(), any::<bool>()), 0..40),
        ) {
            let want = Want { local_port, held, others: &others, ..WANT };
            let entries: Vec<Entry> = entries.into_iter().map(|(port, ours, named)| Entry {
                local_port,
                ..entry(port, if ours { US } else { OTHER }, if named { "p2p" } else { "x" })
            }).collect();
            let listing = Listing { entries, complete: true };
            match want.plan(&listing) {
                Plan::Use(entry) => prop_assert!(want.is_ours(&entry)),
                Plan::Ask(ask) => {
                    prop_assert!(ask.len() <= MAX_REQUESTS as usize && ask.back() == Some(&None));
                    for port in ask.into_iter().flatten() {
                        prop_assert!(!others.contains(&port));
                        prop_assert!(listing.at(port).is_none_or(|entry| want.is_ours(entry)));
                    }
                }
            }
        }
    }
}
