//! What we can still answer a pull with: a log in memory, bounded by age of receipt, bytes and count.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::message::{EnvelopeId, Key};

/// Neighbours whose answers are counted per envelope; the oldest is forgotten first.
const COUNTED_PEERS: usize = 256;

/// The log. When full, the author that holds most bytes loses its oldest envelope.
#[derive(Debug)]
pub(crate) struct Log<P, A> {
    entries: BTreeMap<EnvelopeId<A>, Entry<P>>,
    /// By position, which is the order of receipt.
    by_age: BTreeMap<u64, EnvelopeId<A>>,
    authors: BTreeMap<A, Author>,
    by_bytes: BTreeSet<(usize, A)>,
    bytes: usize,
    next_pos: u64,
    max_age: Duration,
    max_bytes: usize,
    max_messages: usize,
}

#[derive(Debug)]
struct Entry<P> {
    pos: u64,
    received: Instant,
    hops: u16,
    envelope: Bytes,
    /// How often each neighbour had it because it asked.
    answers: VecDeque<(P, u32)>,
}

#[derive(Debug, Default)]
struct Author {
    bytes: usize,
    /// Of its envelopes, oldest first.
    positions: VecDeque<u64>,
}

/// What a pull gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The envelope, and the hops it had when it came here.
    Envelope(Bytes, u16),
    /// It is not here.
    Unknown,
    /// The neighbour had it often enough.
    Refused,
}

impl<P: Key, A: Key> Log<P, A> {
    pub(crate) fn new(max_age: Duration, max_bytes: usize, max_messages: usize) -> Self {
        Self {
            entries: BTreeMap::new(),
            by_age: BTreeMap::new(),
            authors: BTreeMap::new(),
            by_bytes: BTreeSet::new(),
            bytes: 0,
            next_pos: 0,
            max_age,
            max_bytes,
            max_messages,
        }
    }

    /// Adds an envelope that is not in it. Returns how many had to go for it, itself perhaps among them.
    pub(crate) fn insert(&mut self, now: Instant, id: EnvelopeId<A>, hops: u16, envelope: &Bytes) -> u64 {
        if self.entries.contains_key(&id) {
            debug_assert!(false, "what is in the log was seen, and is not verified again");
            return 0;
        }
        let pos = self.next_pos;
        self.next_pos += 1;
        self.weigh(id.author, |author| {
            author.bytes += envelope.len();
            author.positions.push_back(pos);
        });
        self.bytes += envelope.len();
        self.by_age.insert(pos, id);
        // Copied: the bytes may be a slice of a read buffer, which would stay alive with them for a day.
        let envelope = Bytes::copy_from_slice(envelope);
        self.entries.insert(id, Entry { pos, received: now, hops, envelope, answers: VecDeque::new() });
        let mut evicted = 0;
        while self.bytes > self.max_bytes || self.entries.len() > self.max_messages {
            self.evict();
            evicted += 1;
        }
        evicted
    }

    /// Drops what is too old, and returns how many.
    pub(crate) fn expire(&mut self, now: Instant) -> u64 {
        let mut expired = 0;
        while self.oldest().is_some_and(|received| now.saturating_duration_since(received) >= self.max_age) {
            if let Some((_, id)) = self.by_age.first_key_value() {
                self.remove(*id);
            }
            expired += 1;
        }
        expired
    }

    /// When the oldest envelope has to go.
    pub(crate) fn expires_at(&self) -> Option<Instant> {
        // An age beyond the clock's range never ends.
        self.oldest()?.checked_add(self.max_age)
    }

    /// Answers a neighbour's pull, at most `limit` times.
    pub(crate) fn answer(&mut self, id: &EnvelopeId<A>, peer: P, limit: u32) -> Answer {
        let Some(entry) = self.entries.get_mut(id) else {
            return Answer::Unknown;
        };
        match entry.answers.iter_mut().find(|(p, _)| *p == peer) {
            Some((_, count)) if *count >= limit => return Answer::Refused,
            Some((_, count)) => *count += 1,
            None if limit == 0 => return Answer::Refused,
            None => {
                if entry.answers.len() >= COUNTED_PEERS {
                    entry.answers.pop_front();
                }
                entry.answers.push_back((peer, 1));
            }
        }
        Answer::Envelope(entry.envelope.clone(), entry.hops)
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    fn oldest(&self) -> Option<Instant> {
        let (_, id) = self.by_age.first_key_value()?;
        self.entries.get(id).map(|entry| entry.received)
    }

    fn evict(&mut self) {
        let oldest = self
            .by_bytes
            .last()
            .and_then(|(_, author)| self.authors.get(author))
            .and_then(|author| author.positions.front())
            .and_then(|pos| self.by_age.get(pos));
        if let Some(&id) = oldest {
            self.remove(id);
        }
    }

    /// Removes an envelope that is the oldest of its author.
    fn remove(&mut self, id: EnvelopeId<A>) {
        let Some(entry) = self.entries.remove(&id) else {
            debug_assert!(false, "the indexes name entries that are there");
            return;
        };
        self.by_age.remove(&entry.pos);
        self.bytes -= entry.envelope.len();
        self.weigh(id.author, |author| {
            author.bytes -= entry.envelope.len();
            let front = author.positions.pop_front();
            debug_assert_eq!(front, Some(entry.pos), "only an author's oldest goes");
        });
    }

    /// Changes an author's share and keeps the index by bytes true.
    fn weigh(&mut self, key: A, change: impl FnOnce(&mut Author)) {
        let author = self.authors.entry(key).or_default();
        self.by_bytes.remove(&(author.bytes, key));
        change(author);
        if author.positions.is_empty() {
            self.authors.remove(&key);
        } else {
            self.by_bytes.insert((author.bytes, key));
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "any instant will do as the first")]
mod tests {
    use super::*;

    fn id(author: u32, first: u64) -> EnvelopeId<u32> {
        EnvelopeId { author, run: 0, first, count: 1 }
    }

    fn bytes(len: usize) -> Bytes {
        Bytes::from(vec![0; len])
    }

    #[test]
    fn the_author_with_most_bytes_loses_its_oldest() {
        let now = Instant::now();
        let mut log = Log::<u32, u32>::new(Duration::from_secs(60), 100, 10);
        for (id, len) in [(id(1, 0), 40), (id(2, 0), 30), (id(1, 1), 20)] {
            assert_eq!(log.insert(now, id, 1, &bytes(len)), 0);
        }
        assert_eq!(log.insert(now, id(3, 0), 1, &bytes(20)), 1);
        assert_eq!(log.answer(&id(1, 0), 9, 3), Answer::Unknown);
        assert_ne!(log.answer(&id(1, 1), 9, 3), Answer::Unknown);
        assert_eq!((log.len(), log.bytes()), (3, 70));
    }

    #[test]
    fn count_and_bytes_stay_bounded_even_by_one_that_fits_nowhere() {
        let now = Instant::now();
        let mut log = Log::<u32, u32>::new(Duration::from_secs(60), 100, 3);
        for seq in 0..5 {
            log.insert(now, id(1, seq), 1, &bytes(10));
        }
        assert_eq!((log.len(), log.bytes()), (3, 30));
        assert_eq!(log.insert(now, id(2, 0), 1, &bytes(101)), 1);
        assert_eq!((log.len(), log.bytes()), (3, 30));
    }

    #[test]
    fn what_is_too_old_goes() {
        let now = Instant::now();
        let mut log = Log::<u32, u32>::new(Duration::from_secs(60), 100, 10);
        log.insert(now, id(1, 0), 1, &bytes(10));
        log.insert(now + Duration::from_secs(30), id(1, 1), 1, &bytes(10));
        assert_eq!(log.expires_at(), Some(now + Duration::from_secs(60)));
        assert_eq!(log.expire(now + Duration::from_secs(59)), 0);
        assert_eq!(log.expire(now + Duration::from_secs(60)), 1);
        assert_eq!(log.expires_at(), Some(now + Duration::from_secs(90)));
        assert_eq!(log.expire(now + Duration::from_secs(600)), 1);
        assert_eq!((log.len(), log.bytes(), log.expires_at()), (0, 0, None));
        assert!(log.authors.is_empty() && log.by_bytes.is_empty());
    }

    #[test]
    fn one_peer_gets_one_envelope_three_times() {
        let now = Instant::now();
        let mut log = Log::<u32, u32>::new(Duration::from_secs(60), 100, 10);
        log.insert(now, id(1, 0), 4, &bytes(10));
        for _ in 0..3 {
            assert_eq!(log.answer(&id(1, 0), 7, 3), Answer::Envelope(bytes(10), 4));
        }
        assert_eq!(log.answer(&id(1, 0), 7, 3), Answer::Refused);
        assert_eq!(log.answer(&id(1, 0), 8, 3), Answer::Envelope(bytes(10), 4));
    }
}
