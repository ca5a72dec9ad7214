//! One round, step by step, from the search to the time of the next round.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::{Attempt, Leases, Phase, Request};
use crate::gateway::{Entry, GatewayError, Granted, Listing, SearchError, Site, Wanted};
use crate::plan::Plan;
use crate::port::{Held, Port};
use crate::status::{Mapping, Status};

impl Leases {
    pub(super) fn begin_round(&mut self, now: Instant) {
        self.failure = None;
        self.listing = Listing::default();
        self.deadline = Some(now + self.config.open_timeout);
        if self.lost || self.site.is_none() {
            self.phase = Phase::Search { tries: 1 };
            self.ask(Request::Search);
        } else {
            self.forget_next();
        }
    }

    pub(super) fn on_search(&mut self, now: Instant, tries: u32, result: Result<Site, SearchError>) {
        match result {
            Ok(site) => {
                self.arrive(now, site);
                self.forget_next();
            }
            Err(SearchError::NotFound { .. }) if tries < self.config.search_tries => {
                self.phase = Phase::Search { tries: tries + 1 };
                self.ask(Request::Search);
            }
            Err(SearchError::NotFound { .. }) => {
                self.failure = Some(Status::NoRouter);
                self.settle(now);
            }
            Err(error) => {
                self.fail(error);
                self.settle(now);
            }
        }
    }

    /// Behind another router, or with another address, nothing that was mapped leads to us any more.
    fn arrive(&mut self, now: Instant, site: Site) {
        self.lost = false;
        let Some(before) = self.site.replace(site) else { return };
        let same_router = before.gateway.ip() == site.gateway.ip();
        if same_router && before.local == site.local {
            return;
        }
        self.permanent = false;
        self.removals.clear();
        for port in &mut self.ports {
            port.expire(now);
            if let Some(external) = port.made().filter(|_| same_router) {
                self.removals.push_back((port.local, external));
            }
            *port = Port::new(port.local);
        }
    }

    pub(super) fn forget_next(&mut self) {
        if let Some((local_port, external_port)) = self.removals.pop_front() {
            self.phase = Phase::Forget;
            self.ask(Request::Unmap { local_port, external_port });
        } else {
            self.phase = Phase::External;
            self.ask(Request::ExternalIp);
        }
    }

    pub(super) fn on_external_ip(&mut self, now: Instant, result: Result<IpAddr, GatewayError>) {
        match result {
            Ok(ip) => {
                self.external_ip = Some(ip.to_canonical());
                self.phase = Phase::Look;
                self.ask(Request::List);
            }
            Err(error) => {
                self.lost |= error.is_lost();
                self.fail(format_args!("outside address: {error}"));
                self.settle(now);
            }
        }
    }

    pub(super) fn map_port(&mut self, now: Instant, index: usize) {
        if index == self.ports.len() {
            if self.ports.iter().any(|port| port.made().is_some()) {
                self.phase = Phase::Check;
                return self.ask(Request::List);
            }
            return self.settle(now);
        }
        match self.want(index, &self.other_ports(index)).map(|want| want.plan(&self.listing)) {
            Some(Plan::Use(entry)) => {
                self.hold(now, index, entry.external_port, false, entry.lease);
                self.map_port(now, index + 1);
            }
            Some(Plan::Ask(left)) => self.ask_port(now, Attempt { index, current: None, left, requests: 0 }),
            None => self.settle(now),
        }
    }

    fn ask_port(&mut self, now: Instant, mut attempt: Attempt) {
        let next = attempt.left.pop_front().filter(|_| attempt.requests < crate::MAX_REQUESTS);
        let Some(external_port) = next else {
            self.fail_port(attempt.index, "every outside port asked for is taken");
            return self.map_port(now, attempt.index + 1);
        };
        attempt.current = external_port;
        attempt.requests += 1;
        let lease = (!self.permanent).then_some(self.config.lease);
        let local_port = self.ports[attempt.index].local;
        self.phase = Phase::Map(attempt);
        self.ask(Request::Map(Wanted { local_port, external_port, lease }));
    }

    pub(super) fn on_map(
        &mut self,
        now: Instant,
        mut attempt: Attempt,
        result: Result<Granted, GatewayError>,
    ) {
        let index = attempt.index;
        let error = match result {
            Ok(granted) => {
                self.hold(now, index, granted.external_port, true, granted.lease);
                return self.map_port(now, index + 1);
            }
            Err(error) => error,
        };
        match error {
            GatewayError::PortInUse => {
                if let Some(entry) = self.listed_as_ours(index, attempt.current) {
                    self.hold(now, index, entry.external_port, true, entry.lease);
                    return self.map_port(now, index + 1);
                }
                let port = &mut self.ports[index];
                port.held = port.held.filter(|held| Some(held.external) != attempt.current);
                self.ask_port(now, attempt);
            }
            GatewayError::OnlyPermanent if !self.permanent => {
                self.permanent = true;
                attempt.left.push_front(attempt.current);
                self.ask_port(now, attempt);
            }
            GatewayError::OnlySamePort => {
                let local = self.ports[index].local;
                attempt.left.retain(|port| *port == Some(local));
                if attempt.left.is_empty() {
                    self.fail_port(index, &error);
                    return self.map_port(now, index + 1);
                }
                self.ask_port(now, attempt);
            }
            // A rule about port numbers may allow the router's own choice.
            GatewayError::Refused { code: 606, .. } if attempt.left.contains(&None) => {
                attempt.left.retain(Option::is_none);
                self.ask_port(now, attempt);
            }
            error if error.is_lost() => {
                self.lost = true;
                self.ports[index].uncertain = true;
                self.fail_port(index, error);
                self.settle(now);
            }
            error => {
                self.fail_port(index, error);
                self.map_port(now, index + 1);
            }
        }
    }

    pub(super) fn on_check(&mut self, now: Instant, listing: &Listing) {
        for index in 0..self.ports.len() {
            let Some(external) = self.ports[index].made() else { continue };
            let fault = match (listing.at(external), self.want(index, &[])) {
                (Some(entry), Some(want)) if want.is_ours(entry) => {
                    if let Some(held) = &mut self.ports[index].held {
                        let granted = entry.lease.filter(|_| !self.permanent);
                        let listed = Held::new(now, external, true, granted, self.config.lease);
                        held.renew_at = held.renew_at.min(listed.renew_at);
                        held.expires = held.expires.min(listed.expires);
                    }
                    continue;
                }
                (Some(_), _) => "the router gave the port to another machine",
                (None, _) if listing.complete => "the router agreed but lists no such mapping",
                (None, _) => continue,
            };
            self.ports[index].held = None;
            self.ports[index].uncertain = true;
            self.fail_port(index, fault);
        }
        self.settle(now);
    }

    /// Ends the round: says how things stand and sets the time of the next one.
    pub(super) fn settle(&mut self, now: Instant) {
        self.ports.iter_mut().for_each(|port| port.expire(now));
        let status = self.judge();
        let unknown = matches!(&status, Status::DoubleNat { reported } if reported.is_unspecified());
        let renewal = self.ports.iter().filter_map(|port| port.held).map(|held| held.renew_at).min();
        let next = if self.failure.is_none() && !unknown {
            self.failures = 0;
            renewal
        } else {
            self.failures = self.failures.saturating_add(1);
            let retry = now + self.config.backoff(self.failures);
            let given_up = self.failures >= self.config.give_up_after;
            // An expiry is a change of state that must be told, and a held mapping is worth one more try before it.
            let held = self.ports.iter().filter_map(|port| port.held);
            let soonest = held.flat_map(|held| [held.renew_at, held.expires]).filter(|at| *at > now).min();
            [(!given_up).then_some(retry), soonest].into_iter().flatten().min()
        };
        self.phase = Phase::Idle;
        self.deadline = next;
        self.status(status);
    }

    fn judge(&self) -> Status {
        let held = || self.ports.iter().filter_map(|port| Some((port.local, port.held?.external)));
        match (held().next(), self.external_ip, self.site) {
            (Some(_), Some(ip), Some(site)) => {
                if !crate::is_global_unicast(ip) || ip.is_ipv4() != site.local.is_ipv4() {
                    return Status::DoubleNat { reported: ip };
                }
                let external = |port| SocketAddr::new(ip, port);
                let mapping = |(local_port, port)| Mapping { local_port, external: external(port) };
                Status::Mapped { mappings: held().map(mapping).collect() }
            }
            _ => self.failure.clone().unwrap_or(Status::NoRouter),
        }
    }

    fn hold(&mut self, now: Instant, index: usize, external: u16, made: bool, lease: Option<Duration>) {
        let lease = lease.filter(|_| !self.permanent);
        let held = Held::new(now, external, made, lease, self.config.lease);
        let before = self.ports[index].made();
        self.ports[index].held = Some(held);
        // Moved to another port: the old mapping may still be there.
        self.ports[index].uncertain |= before.is_some_and(|before| before != external);
    }

    fn other_ports(&self, index: usize) -> Vec<u16> {
        let others = self.ports.iter().enumerate().filter(|(i, _)| *i != index).map(|(_, port)| port);
        others.flat_map(|port| [Some(port.local), port.held.map(|held| held.external)]).flatten().collect()
    }

    fn listed_as_ours(&self, index: usize, external: Option<u16>) -> Option<Entry> {
        let entry = self.listing.at(external?)?;
        let counts = entry.enabled && self.want(index, &[])?.is_made_by_us(entry);
        counts.then(|| entry.clone())
    }

    fn fail_port(&mut self, index: usize, detail: impl std::fmt::Display) {
        let port = self.ports[index].local;
        self.fail(format_args!("port {port}: {detail}"));
    }
}
