//! Answers to pulls: out of the log in memory at once, out of a log outside once it was read.

use std::collections::BTreeMap;
use std::time::Instant;

use bytes::Bytes;
use rand::Rng;

use crate::claims::MAX_SPANS;
use crate::config::LogStore;
use crate::log::Answer;
use crate::message::{Course, EnvelopeId, Fault, Key, Message, Output, Read, Span, Ticket};
use crate::state::Gossip;

/// Envelopes being read for one neighbour; what it asks for beyond is not answered, and counted. As many as four full
/// IWANTs.
const MAX_PER_PEER: usize = 256;
/// Envelopes looked at for one pull of ranges; what is beyond is left for the next.
const MAX_LOOKED_AT: usize = 1_024;
/// Tickets of checks count up from 0; those of reads from here.
const FIRST_TICKET: u64 = 1 << 63;

/// What is being read, and for whom.
#[derive(Debug)]
pub(crate) struct Fetches<P, A> {
    open: BTreeMap<Ticket, Fetch<P, A>>,
    loads: BTreeMap<P, usize>,
    next: u64,
}

/// Envelopes being read for a neighbour, and what to say behind them.
#[derive(Debug)]
struct Fetch<P, A> {
    peer: P,
    ids: Vec<EnvelopeId<A>>,
    served: Option<Message<A>>,
    /// It did not ask: its link had no room when they came.
    owed: bool,
}

impl<P: Key, A: Key> Fetches<P, A> {
    pub(crate) fn new() -> Self {
        Self { open: BTreeMap::new(), loads: BTreeMap::new(), next: FIRST_TICKET }
    }

    fn has_room(&self, peer: P, more: usize) -> bool {
        self.loads.get(&peer).copied().unwrap_or(0) + more < MAX_PER_PEER
    }

    fn open(&mut self, fetch: Fetch<P, A>) -> Ticket {
        let ticket = Ticket(self.next);
        self.next += 1;
        if !fetch.owed {
            *self.loads.entry(fetch.peer).or_default() += fetch.ids.len();
        }
        self.open.insert(ticket, fetch);
        ticket
    }

    fn close(&mut self, ticket: Ticket) -> Option<Fetch<P, A>> {
        let fetch = self.open.remove(&ticket)?;
        if let Some(load) = self.loads.get_mut(&fetch.peer).filter(|_| !fetch.owed) {
            *load -= fetch.ids.len();
            if *load == 0 {
                self.loads.remove(&fetch.peer);
            }
        }
        Some(fetch)
    }
}

impl<P: Key, A: Key, R: Rng> Gossip<P, A, R> {
    /// Sends what a neighbour asked for, as far as it is in the log.
    pub(crate) fn answer_pulls(&mut self, now: Instant, from: P, ids: &[EnvelopeId<A>]) {
        self.expire_log(now);
        let (mut read, mut bytes) = (Vec::new(), 0);
        for &id in ids {
            if self.config.log_store == LogStore::Outside && !self.fetches.has_room(from, read.len()) {
                self.stats.pulls_refused += 1;
                continue;
            }
            match self.log.answer(now, &id, from, self.config.max_answers) {
                Answer::Envelope(envelope) => self.send_logged(now, from, id, envelope),
                Answer::Outside(len) => {
                    bytes += len;
                    read.push(id);
                }
                Answer::Unknown => self.stats.pulls_unknown += 1,
                Answer::Refused => self.stats.pulls_refused += 1,
            }
        }
        if !read.is_empty() {
            self.fetch(from, (read, bytes), None);
        }
    }

    fn fetch(&mut self, to: P, (ids, bytes): (Vec<EnvelopeId<A>>, usize), served: Option<Message<A>>) {
        let ticket = self.fetches.open(Fetch { peer: to, ids: ids.clone(), served, owed: false });
        self.outputs.push_back(Output::Fetch { ticket, to, ids, bytes });
    }

    /// Reads what a neighbour is owed. That takes no room of what it asks for.
    pub(crate) fn fetch_owed(&mut self, to: P, ids: Vec<EnvelopeId<A>>, bytes: usize) -> Ticket {
        let ticket = self.fetches.open(Fetch { peer: to, ids: ids.clone(), served: None, owed: true });
        self.outputs.push_back(Output::Fetch { ticket, to, ids, bytes });
        ticket
    }

    /// Sends what is here of what a neighbour missed, within the limits of one pull, and says how far that went.
    pub(crate) fn on_pull(&mut self, now: Instant, from: P, number: u32, spans: &[Span<A>]) {
        if spans.len() > MAX_SPANS {
            return self.blame(from, Fault::TooManyIds { count: spans.len(), limit: MAX_SPANS });
        }
        if !spans.iter().all(Span::is_valid) {
            return self.refuse_malformed(from);
        }
        if !self.claims.get_mut(from).is_some_and(|of| of.pulls.take(now)) {
            self.stats.pulls_refused += 1;
            return;
        }
        self.expire_log(now);
        let (mut read, mut reading, mut bytes, mut looked_at) = (Vec::new(), 0, 0, 0);
        let (mut done, mut upto) = (0, 0);
        'spans: for span in spans {
            let here: Vec<_> = self.log.within(*span).take(MAX_LOOKED_AT + 1 - looked_at).collect();
            for (id, len, _) in here {
                let full = bytes > 0 && bytes + len > self.config.range_bytes;
                let outside = self.config.log_store == LogStore::Outside;
                if full || looked_at >= MAX_LOOKED_AT || (outside && !self.fetches.has_room(from, read.len()))
                {
                    upto = id.first;
                    break 'spans;
                }
                looked_at += 1;
                match self.log.answer(now, &id, from, self.config.max_answers) {
                    Answer::Envelope(envelope) => {
                        bytes += len;
                        self.send_logged(now, from, id, envelope);
                    }
                    Answer::Outside(len) => {
                        (bytes, reading) = (bytes + len, reading + len);
                        read.push(id);
                    }
                    Answer::Unknown => self.stats.pulls_unknown += 1,
                    Answer::Refused => self.stats.pulls_refused += 1,
                }
            }
            done += 1;
        }
        let served = Message::Served { number, done, upto };
        if read.is_empty() {
            self.send(from, served);
        } else {
            self.fetch(from, (read, reading), Some(served));
        }
    }

    pub(crate) fn on_fetched(&mut self, now: Instant, ticket: Ticket, envelopes: Vec<Read>) {
        let Some(Fetch { peer, ids, served, owed }) = self.fetches.close(ticket) else {
            self.stats.unknown_tickets += 1;
            return;
        };
        if !self.tree.contains(peer) {
            return;
        }
        if owed {
            let read = envelopes.into_iter().chain(std::iter::repeat(Read::Failed));
            return self.on_owed_read(now, peer, ticket, ids.into_iter().zip(read).collect());
        }
        let mut envelopes = envelopes.into_iter();
        for id in ids {
            match envelopes.next() {
                Some(Read::Found(envelope)) => self.send_logged(now, peer, id, envelope),
                Some(Read::Gone) => self.forget_logged(now, id),
                Some(Read::Failed) | None => self.stats.pulls_unknown += 1,
            }
        }
        if let Some(served) = served {
            self.send(peer, served);
        }
    }

    /// The log outside has let it go. What is claimed for ever and never handed over would be asked for again with each digest.
    pub(crate) fn forget_logged(&mut self, now: Instant, id: EnvelopeId<A>) {
        self.stats.pulls_unknown += 1;
        if self.log.travelled(now, &id).is_some() {
            self.log.remove(id);
        }
    }

    fn send_logged(&mut self, now: Instant, to: P, id: EnvelopeId<A>, envelope: Bytes) {
        if id.author == self.me
            && self.own_run != Some(id.run)
            && let Some(of) = self.claims.get_mut(to)
        {
            of.own_told = Some(now);
        }
        self.stats.pulls_answered += u64::from(self.push_logged(now, to, id, envelope));
    }

    /// Pushes one out of the log. Whether it is there: it may have been dropped while it was read.
    pub(crate) fn push_logged(&mut self, now: Instant, to: P, id: EnvelopeId<A>, envelope: Bytes) -> bool {
        let Some((hops, age)) = self.log.travelled(now, &id) else {
            self.stats.pulls_unknown += 1;
            return false;
        };
        let slot = self.tree.get(to).and_then(|neighbor| neighbor.slot);
        if let Some(arrival) = self.recent.get_mut(&id) {
            arrival.have.insert(slot);
        }
        self.push(to, id, (hops, Course::Tree, age), envelope);
        true
    }
}
