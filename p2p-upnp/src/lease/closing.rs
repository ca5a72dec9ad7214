//! The end: remove what we made, and nothing else, in the time there is.

use std::time::{Duration, Instant};

use super::{Leases, Output, Phase, Request};
use crate::gateway::Listing;
use crate::status::Status;

impl Leases {
    pub(super) fn on_close(&mut self, now: Instant) {
        if self.is_closing() {
            return;
        }
        self.abandon();
        self.ports.iter_mut().for_each(|port| port.expire(now));
        let anything = self.ports.iter().any(|port| port.uncertain || port.made().is_some());
        if self.site.is_none() || (!anything && self.removals.is_empty()) {
            return self.finish();
        }
        // The last one read may be half a lease old.
        self.listing = Listing::default();
        self.phase = Phase::CloseLook;
        self.close_by = Some(now + self.config.close_timeout);
        self.deadline = Some(now + self.config.close_timeout / 3);
        self.ask(Request::List);
    }

    /// Next removal, or the end. A removal gets an even share of the time that is left.
    pub(super) fn close_step(&mut self, now: Instant) {
        if matches!(self.phase, Phase::CloseLook) {
            self.plan_removals();
            self.phase = Phase::CloseUnmap;
        }
        let left = self.close_by.map_or(Duration::ZERO, |end| end.saturating_duration_since(now));
        let share = u32::try_from(self.removals.len()).map_or(left, |count| left / count.max(1));
        match self.removals.pop_front() {
            Some((local_port, external_port)) if !left.is_zero() => {
                self.deadline = Some(now + share);
                self.ask(Request::Unmap { local_port, external_port });
            }
            _ => self.finish(),
        }
    }

    /// What to remove at the end: what we made, unless the list shows that it is another machine's by now, and what the
    /// list shows to be ours although its answer was lost.
    fn plan_removals(&mut self) {
        for index in 0..self.ports.len() {
            let Some(want) = self.want(index, &[]) else { continue };
            let local = want.local_port;
            let mut found: Vec<u16> = Vec::new();
            if let Some(external) = self.ports[index].made()
                && self.listing.at(external).is_none_or(|entry| want.is_ours(entry))
            {
                found.push(external);
            }
            if self.ports[index].uncertain {
                let ours = self.listing.entries.iter().filter(|entry| want.is_made_by_us(entry));
                found.extend(ours.map(|entry| entry.external_port));
            }
            found.sort_unstable();
            found.dedup();
            self.removals.extend(found.into_iter().map(|external| (local, external)));
        }
    }

    fn finish(&mut self) {
        self.open = None;
        self.phase = Phase::Closed;
        self.deadline = None;
        self.status(Status::Closed);
        self.outputs.push_back(Output::Finished);
    }
}
