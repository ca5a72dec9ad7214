//! What we can still answer a pull with, bounded by age, bytes and count: the envelopes themselves, or an index of a log
//! outside.

mod compare;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::config::{Config, LogStore};
use crate::message::{EnvelopeId, Key, Logged, Sum};
use crate::sums::Sums;

/// Neighbours whose answers are counted per envelope; the oldest is forgotten first.
const COUNTED_PEERS: usize = 256;
/// Envelopes that wait to be put into the indexes together.
const MAX_FRESH: usize = 32;
/// When an envelope goes whose time is beyond the clock's range: a century.
const FAR: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// The log. When full, the author that holds most bytes loses its oldest envelope.
///
/// The indexes are eight trees, each somewhere else in memory, and nobody looks into them while messages merely pass. So what
/// comes is only noted at first, and put into them up to 32 at a time: bursts go 6 to 13 % faster than when each went there at
/// once (`cargo xtask bench gossip --burst 1000`, 10 and 100 nodes, 2026-11-30).
#[derive(Debug)]
pub(crate) struct Log<P, A> {
    /// What came last, in order; not in the indexes yet.
    fresh: Vec<(EnvelopeId<A>, Box<Entry<P>>)>,
    /// When the first of them is too old.
    fresh_due: Option<Instant>,
    /// Boxed, since a tree takes room for eleven at a time and thousands of simulated nodes keep one or two.
    entries: BTreeMap<Place<A>, Box<Entry<P>>>,
    by_age: BTreeMap<Due, EnvelopeId<A>>,
    /// When the first of those is too old: asked for with each envelope.
    next_due: Option<Instant>,
    authors: BTreeMap<A, Author>,
    by_bytes: BTreeSet<(usize, A)>,
    sums: Sums<A>,
    /// Of all, those that are not in the indexes included.
    bytes: usize,
    next_pos: u64,
    store: LogStore,
    /// How long answers count.
    answers_age: Duration,
    max_age: Duration,
    max_bytes: usize,
    max_messages: usize,
}

/// An id in the order of seqs: author, first, count, run.
type Place<A> = (A, u64, u8, u64);
/// When an envelope is too old; then the order of receipt.
type Due = (Instant, u64);

#[derive(Debug)]
struct Entry<P> {
    due: Due,
    received: Instant,
    /// Of the moment of receipt.
    age: Duration,
    hops: u16,
    len: usize,
    digest: Sum,
    /// `None`: it is in the log outside.
    envelope: Option<Bytes>,
    answers: VecDeque<Answers<P>>,
}

/// How often a neighbour had an envelope because it asked. It outlives the link, or whoever comes back at once would be
/// answered without end; it is forgotten after a while, or one that lost its log would never have it again.
#[derive(Debug)]
struct Answers<P> {
    peer: P,
    count: u32,
    last: Instant,
}

#[derive(Debug, Default)]
struct Author {
    bytes: usize,
    /// Of its envelopes.
    due: BTreeSet<Due>,
}

/// What a pull gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The envelope.
    Envelope(Bytes),
    /// It has to be read outside; its bytes.
    Outside(usize),
    /// It is not here.
    Unknown,
    /// The neighbour had it often enough.
    Refused,
}

const fn place<A: Copy>(id: &EnvelopeId<A>) -> Place<A> {
    (id.author, id.first, id.count, id.run)
}

impl<P: Key, A: Key> Log<P, A> {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            fresh: Vec::new(),
            fresh_due: None,
            entries: BTreeMap::new(),
            by_age: BTreeMap::new(),
            next_due: None,
            authors: BTreeMap::new(),
            by_bytes: BTreeSet::new(),
            sums: Sums::new(),
            bytes: 0,
            next_pos: 0,
            store: config.log_store,
            answers_age: config.answers_age,
            max_age: config.log_age,
            max_bytes: config.log_bytes,
            max_messages: config.log_messages,
        }
    }

    /// Adds an envelope; whatever is looked up afterwards finds it. Of two with one id the one with the lower digest stays.
    /// [`evict`](Self::evict) until there is room again.
    pub(crate) fn insert(&mut self, now: Instant, logged: Logged<A>, envelope: Option<&Bytes>) {
        let Logged { id, len, age, hops, digest } = logged;
        let left = self.max_age.saturating_sub(age).min(FAR);
        let due = (now.checked_add(left).unwrap_or(now), self.next_pos);
        self.next_pos += 1;
        let envelope = match self.store {
            LogStore::Copied => envelope.map(|bytes| Bytes::copy_from_slice(bytes)),
            LogStore::Shared => envelope.cloned(),
            LogStore::Outside => None,
        };
        let answers = VecDeque::new();
        let entry = Entry { due, received: now, age, hops, len, digest, envelope, answers };
        self.bytes += len;
        self.fresh_due = self.fresh_due.into_iter().chain([due.0]).min();
        self.fresh.push((id, Box::new(entry)));
        if self.fresh.len() >= MAX_FRESH {
            self.index_fresh();
        }
    }

    /// Puts what came last into the indexes. Whoever looks anything up there calls it first, and the core with each
    /// deadline, so that messages that come one by one, to all nodes at once, do not pay for it all at once.
    pub(crate) fn index_fresh(&mut self) {
        self.fresh_due = None;
        for (id, entry) in std::mem::take(&mut self.fresh) {
            self.index(id, entry);
        }
    }

    fn index(&mut self, id: EnvelopeId<A>, entry: Box<Entry<P>>) {
        if let Some(there) = self.entries.get(&place(&id)) {
            if there.digest <= entry.digest {
                self.bytes -= entry.len;
                return;
            }
            self.remove_indexed(id);
        }
        self.sums.added(id.author, id.first);
        self.weigh(id.author, |author| {
            author.bytes += entry.len;
            author.due.insert(entry.due);
        });
        self.by_age.insert(entry.due, id);
        self.next_due = self.next_due.into_iter().chain([entry.due.0]).min();
        self.entries.insert(place(&id), entry);
    }

    /// Lets one envelope go if there are too many.
    pub(crate) fn evict(&mut self) -> Option<EnvelopeId<A>> {
        if self.is_over() {
            self.index_fresh();
        }
        if !self.is_over() {
            return None;
        }
        let (_, author) = self.by_bytes.last()?;
        let due = self.authors.get(author)?.due.first()?;
        let id = *self.by_age.get(due)?;
        self.remove_indexed(id);
        Some(id)
    }

    fn is_over(&self) -> bool {
        self.bytes > self.max_bytes || self.len() > self.max_messages
    }

    /// Lets one envelope go if it is too old.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<EnvelopeId<A>> {
        let is_over = |due: Option<Instant>| due.is_some_and(|at| at <= now);
        if is_over(self.fresh_due) {
            self.index_fresh();
        }
        if !is_over(self.next_due) {
            return None;
        }
        let (_, &id) = self.by_age.first_key_value()?;
        self.remove_indexed(id);
        Some(id)
    }

    /// When the oldest envelope has to go.
    pub(crate) fn expires_at(&self) -> Option<Instant> {
        self.next_due.into_iter().chain(self.fresh_due).min()
    }

    /// Answers a neighbour's pull, at most `limit` times in a while.
    pub(crate) fn answer(&mut self, now: Instant, id: &EnvelopeId<A>, peer: P, limit: u32) -> Answer {
        self.index_fresh();
        let Some(entry) = self.entries.get_mut(&place(id)) else {
            return Answer::Unknown;
        };
        match entry.answers.iter_mut().find(|answers| answers.peer == peer) {
            _ if limit == 0 => return Answer::Refused,
            Some(answers) if now.saturating_duration_since(answers.last) >= self.answers_age => {
                (answers.count, answers.last) = (1, now);
            }
            Some(answers) if answers.count >= limit => return Answer::Refused,
            Some(answers) => (answers.count, answers.last) = (answers.count + 1, now),
            None => {
                if entry.answers.len() >= COUNTED_PEERS {
                    entry.answers.pop_front();
                }
                entry.answers.push_back(Answers { peer, count: 1, last: now });
            }
        }
        let len = entry.len;
        entry.envelope.clone().map_or(Answer::Outside(len), Answer::Envelope)
    }

    /// Whether a neighbour was sent it because it asked, no longer ago than `since`.
    pub(crate) fn has_answered(&mut self, id: &EnvelopeId<A>, peer: P, since: Instant) -> bool {
        self.index_fresh();
        let entry = self.entries.get(&place(id));
        entry.is_some_and(|entry| {
            entry.answers.iter().any(|answers| answers.peer == peer && answers.last >= since)
        })
    }

    /// The envelope, unless it is in the log outside.
    pub(crate) fn envelope(&mut self, id: &EnvelopeId<A>) -> Option<Bytes> {
        self.index_fresh();
        self.entries.get(&place(id))?.envelope.clone()
    }

    /// The hops that an envelope had when it came, and its age now.
    pub(crate) fn travelled(&mut self, now: Instant, id: &EnvelopeId<A>) -> Option<(u16, Duration)> {
        self.index_fresh();
        let entry = self.entries.get(&place(id))?;
        Some((entry.hops, entry.age.saturating_add(now.saturating_duration_since(entry.received))))
    }

    /// Until the next lookup one that was added twice counts twice, here and in [`bytes`](Self::bytes).
    pub(crate) fn len(&self) -> usize {
        self.entries.len() + self.fresh.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes an envelope out.
    pub(crate) fn remove(&mut self, id: EnvelopeId<A>) {
        self.index_fresh();
        self.remove_indexed(id);
    }

    fn remove_indexed(&mut self, id: EnvelopeId<A>) {
        let Some(entry) = self.entries.remove(&place(&id)) else {
            debug_assert!(false, "the indexes name entries that are there");
            return;
        };
        self.sums.removed(id.author, id.first);
        self.by_age.remove(&entry.due);
        self.next_due = self.by_age.first_key_value().map(|((at, _), _)| *at);
        self.bytes -= entry.len;
        self.weigh(id.author, |author| {
            author.bytes -= entry.len;
            author.due.remove(&entry.due);
        });
    }

    /// Changes an author's share and keeps the index by bytes true.
    fn weigh(&mut self, key: A, change: impl FnOnce(&mut Author)) {
        let author = self.authors.entry(key).or_default();
        self.by_bytes.remove(&(author.bytes, key));
        change(author);
        if author.due.is_empty() {
            self.authors.remove(&key);
        } else {
            self.by_bytes.insert((author.bytes, key));
        }
    }
}

#[cfg(test)]
mod tests;
