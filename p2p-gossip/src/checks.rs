//! Envelopes being checked, and the other copies that came meanwhile.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::config::Config;
use crate::message::{Course, EnvelopeId, Key, Ticket, ids_of};

/// One version of an envelope and who sent exactly these bytes.
#[derive(Debug)]
pub(crate) struct Candidate<P> {
    pub(crate) envelope: Bytes,
    /// Of the first copy.
    pub(crate) hint: Hint,
    /// Not empty; the first sender first.
    pub(crate) senders: Vec<Sender<P>>,
}

/// What a push says of itself, unsigned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hint {
    pub(crate) hops: u16,
    pub(crate) course: Course,
    age: Duration,
    at: Instant,
}

impl Hint {
    pub(crate) const fn new(now: Instant, hops: u16, course: Course, age: Duration) -> Self {
        Self { hops, course, age, at: now }
    }

    /// The age that came with it, and the time since.
    pub(crate) fn age(&self, now: Instant) -> Duration {
        self.age.saturating_add(now.saturating_duration_since(self.at))
    }
}

/// Who sent a copy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sender<P> {
    pub(crate) peer: P,
    /// We had asked for it; otherwise the tree brought it.
    pub(crate) asked: bool,
    /// As a part of a range that was missed.
    pub(crate) caught_up: bool,
}

/// What became of a copy whose id is being checked already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Copied {
    /// It is tried if those before it fail, or fails and passes with an equal one.
    Kept,
    /// The same neighbour sent a copy before.
    Repeated,
}

/// The open checks: one candidate of an id is checked at a time, the others wait.
///
/// Each neighbour has one copy per id at most, and its number and bytes of copies are counted, so all is
/// bounded by the limits per neighbour that [`Gossip`](crate::Gossip) puts before it.
#[derive(Debug)]
pub(crate) struct Checks<P, A> {
    /// The first candidate is with the caller.
    open: BTreeMap<EnvelopeId<A>, VecDeque<Candidate<P>>>,
    tickets: BTreeMap<Ticket, EnvelopeId<A>>,
    loads: BTreeMap<P, Load>,
    next_ticket: u64,
}

/// What one neighbour has in checks.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Load {
    pub(crate) copies: usize,
    pub(crate) bytes: usize,
}

impl Load {
    /// Whether it is below `times` the limits.
    pub(crate) const fn fits(self, config: &Config, times: usize) -> bool {
        self.copies < config.max_open_checks.saturating_mul(times)
            && self.bytes < config.max_open_bytes.saturating_mul(times)
    }
}

/// The answered check.
#[derive(Debug)]
pub(crate) struct Closed<P, A> {
    pub(crate) id: EnvelopeId<A>,
    pub(crate) candidate: Candidate<P>,
    /// Versions that were not tried, in the order they came.
    pub(crate) others: VecDeque<Candidate<P>>,
}

impl<P: Key, A: Key> Checks<P, A> {
    pub(crate) fn new() -> Self {
        Self { open: BTreeMap::new(), tickets: BTreeMap::new(), loads: BTreeMap::new(), next_ticket: 0 }
    }

    /// Opens the check of an id, of which none is open, with its first candidate.
    pub(crate) fn open(
        &mut self,
        id: EnvelopeId<A>,
        candidates: VecDeque<Candidate<P>>,
    ) -> Option<(Ticket, Bytes, P)> {
        debug_assert!(!self.open.contains_key(&id), "one check per id");
        let first = candidates.front()?;
        let (envelope, from) = (first.envelope.clone(), first.senders.first()?.peer);
        for candidate in &candidates {
            self.charge(candidate);
        }
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.tickets.insert(ticket, id);
        self.open.insert(id, candidates);
        Some((ticket, envelope, from))
    }

    /// Adds a copy of an id whose check is open; `None` if none is.
    pub(crate) fn copy(
        &mut self,
        id: &EnvelopeId<A>,
        sender: Sender<P>,
        hint: Hint,
        envelope: &Bytes,
    ) -> Option<Copied> {
        let from = sender.peer;
        let candidates = self.open.get_mut(id)?;
        if candidates.iter().any(|c| c.senders.iter().any(|s| s.peer == from)) {
            return Some(Copied::Repeated);
        }
        match candidates.iter_mut().find(|c| c.envelope == *envelope) {
            Some(equal) => equal.senders.push(sender),
            None => {
                candidates.push_back(Candidate { envelope: envelope.clone(), hint, senders: vec![sender] })
            }
        }
        let load = self.loads.entry(from).or_default();
        load.copies += 1;
        load.bytes += envelope.len();
        Some(Copied::Kept)
    }

    /// Ends the check that the ticket opened.
    pub(crate) fn close(&mut self, ticket: Ticket) -> Option<Closed<P, A>> {
        let id = self.tickets.remove(&ticket)?;
        let mut others = self.open.remove(&id)?;
        for candidate in &others {
            self.discharge(candidate);
        }
        let candidate = others.pop_front()?;
        Some(Closed { id, candidate, others })
    }

    pub(crate) fn contains(&self, id: &EnvelopeId<A>) -> bool {
        self.open.contains_key(id)
    }

    /// The ids of an author.
    pub(crate) fn of(&self, author: A) -> impl Iterator<Item = &EnvelopeId<A>> {
        self.open.range(ids_of(author)).map(|(id, _)| id)
    }

    /// The lowest seq of an author that is being checked. Runs rise with the seqs, so it is of the first id.
    pub(crate) fn lowest(&self, author: A) -> Option<u64> {
        self.open.range(ids_of(author)).next().map(|(id, _)| id.first)
    }

    pub(crate) fn load(&self, peer: P) -> Load {
        self.loads.get(&peer).copied().unwrap_or_default()
    }

    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }

    fn charge(&mut self, candidate: &Candidate<P>) {
        for sender in &candidate.senders {
            let load = self.loads.entry(sender.peer).or_default();
            load.copies += 1;
            load.bytes += candidate.envelope.len();
        }
    }

    fn discharge(&mut self, candidate: &Candidate<P>) {
        for sender in &candidate.senders {
            let Some(load) = self.loads.get_mut(&sender.peer) else {
                debug_assert!(false, "a sender of a waiting copy has a load");
                continue;
            };
            load.copies -= 1;
            load.bytes -= candidate.envelope.len();
            if load.copies == 0 {
                self.loads.remove(&sender.peer);
            }
        }
    }
}
