//! Answers to pulls: out of the log in memory at once, out of a log outside once it was read.

use std::collections::BTreeMap;
use std::time::Instant;

use bytes::Bytes;
use rand::Rng;

use crate::log::Answer;
use crate::message::{EnvelopeId, Key, Output, Ticket};
use crate::state::Gossip;

/// Envelopes being read for one neighbour; what it asks for beyond is not answered, and counted. As many as four full
/// IWANTs.
const MAX_PER_PEER: usize = 256;
/// Tickets of checks count up from 0; those of reads from here.
const FIRST_TICKET: u64 = 1 << 63;

/// What is being read, and for whom.
#[derive(Debug)]
pub(crate) struct Fetches<P, A> {
    open: BTreeMap<Ticket, (P, Vec<EnvelopeId<A>>)>,
    loads: BTreeMap<P, usize>,
    next: u64,
}

impl<P: Key, A: Key> Fetches<P, A> {
    pub(crate) fn new() -> Self {
        Self { open: BTreeMap::new(), loads: BTreeMap::new(), next: FIRST_TICKET }
    }

    fn has_room(&self, peer: P, more: usize) -> bool {
        self.loads.get(&peer).copied().unwrap_or(0) + more < MAX_PER_PEER
    }

    fn open(&mut self, peer: P, ids: Vec<EnvelopeId<A>>) -> Ticket {
        let ticket = Ticket(self.next);
        self.next += 1;
        *self.loads.entry(peer).or_default() += ids.len();
        self.open.insert(ticket, (peer, ids));
        ticket
    }

    fn close(&mut self, ticket: Ticket) -> Option<(P, Vec<EnvelopeId<A>>)> {
        let (peer, ids) = self.open.remove(&ticket)?;
        if let Some(load) = self.loads.get_mut(&peer) {
            *load -= ids.len();
            if *load == 0 {
                self.loads.remove(&peer);
            }
        }
        Some((peer, ids))
    }
}

impl<P: Key, A: Key, R: Rng> Gossip<P, A, R> {
    /// Sends what a neighbour asked for, as far as it is in the log.
    pub(crate) fn answer_pulls(&mut self, now: Instant, from: P, ids: &[EnvelopeId<A>]) {
        self.expire_log(now);
        let mut read = Vec::new();
        for &id in ids {
            if !self.config.log_in_memory && !self.fetches.has_room(from, read.len()) {
                self.stats.pulls_refused += 1;
                continue;
            }
            match self.log.answer(&id, from, self.config.max_answers) {
                Answer::Envelope(envelope) => self.send_logged(now, from, id, envelope),
                Answer::Outside => read.push(id),
                Answer::Unknown => self.stats.pulls_unknown += 1,
                Answer::Refused => self.stats.pulls_refused += 1,
            }
        }
        if !read.is_empty() {
            let ticket = self.fetches.open(from, read.clone());
            self.outputs.push_back(Output::Fetch { ticket, ids: read });
        }
    }

    pub(crate) fn on_fetched(&mut self, now: Instant, ticket: Ticket, envelopes: Vec<Option<Bytes>>) {
        let Some((peer, ids)) = self.fetches.close(ticket) else {
            self.stats.unknown_tickets += 1;
            return;
        };
        if !self.tree.contains(peer) {
            return;
        }
        let mut envelopes = envelopes.into_iter();
        for id in ids {
            match envelopes.next().flatten() {
                Some(envelope) => self.send_logged(now, peer, id, envelope),
                None => self.stats.pulls_unknown += 1,
            }
        }
    }

    fn send_logged(&mut self, now: Instant, to: P, id: EnvelopeId<A>, envelope: Bytes) {
        // It may have been dropped while it was read.
        let Some((hops, age)) = self.log.travelled(now, &id) else {
            self.stats.pulls_unknown += 1;
            return;
        };
        self.stats.pulls_answered += 1;
        let slot = self.tree.get(to).and_then(|neighbor| neighbor.slot);
        if let Some(arrival) = self.recent.get_mut(&id) {
            arrival.have.insert(slot);
        }
        self.push(to, id, (hops, false, age), envelope);
    }
}
