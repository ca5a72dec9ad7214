//! What we can still answer a pull with, bounded by age, bytes and count: the envelopes themselves, or an index of a log
//! outside.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::config::{Config, LogStore};
use crate::message::{EnvelopeId, Held, Key, Logged, MAX_ENTRIES, Span, Sum};
use crate::sums::{self, Sums};

/// Neighbours whose answers are counted per envelope; the oldest is forgotten first.
const COUNTED_PEERS: usize = 256;
/// When an envelope goes whose time is beyond the clock's range: a century.
const FAR: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// The log. When full, the author that holds most bytes loses its oldest envelope.
#[derive(Debug)]
pub(crate) struct Log<P, A> {
    /// Boxed, since a tree takes room for eleven at a time and thousands of simulated nodes keep one or two.
    entries: BTreeMap<Place<A>, Box<Entry<P>>>,
    by_age: BTreeMap<Due, EnvelopeId<A>>,
    authors: BTreeMap<A, Author>,
    by_bytes: BTreeSet<(usize, A)>,
    sums: Sums<A>,
    bytes: usize,
    next_pos: u64,
    store: LogStore,
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
    /// How often each neighbour had it because it asked.
    answers: VecDeque<(P, u32)>,
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
    /// It has to be read outside.
    Outside,
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
            entries: BTreeMap::new(),
            by_age: BTreeMap::new(),
            authors: BTreeMap::new(),
            by_bytes: BTreeSet::new(),
            sums: Sums::new(),
            bytes: 0,
            next_pos: 0,
            store: config.log_store,
            max_age: config.log_age,
            max_bytes: config.log_bytes,
            max_messages: config.log_messages,
        }
    }

    /// Adds an envelope. Of two with one id the one with the lower digest stays. [`evict`](Self::evict) until there is
    /// room again.
    pub(crate) fn insert(&mut self, now: Instant, entry: Logged<A>, envelope: Option<&Bytes>) {
        let Logged { id, len, age, hops, digest } = entry;
        if let Some(there) = self.entries.get(&place(&id)) {
            if there.digest <= digest {
                return;
            }
            self.remove(id);
        }
        self.sums.added(id.author, id.first);
        let left = self.max_age.saturating_sub(age).min(FAR);
        let due = (now.checked_add(left).unwrap_or(now), self.next_pos);
        self.next_pos += 1;
        self.weigh(id.author, |author| {
            author.bytes += len;
            author.due.insert(due);
        });
        self.bytes += len;
        self.by_age.insert(due, id);
        let envelope = match self.store {
            LogStore::Copied => envelope.map(|bytes| Bytes::copy_from_slice(bytes)),
            LogStore::Shared => envelope.cloned(),
            LogStore::Outside => None,
        };
        let answers = VecDeque::new();
        let entry = Entry { due, received: now, age, hops, len, digest, envelope, answers };
        self.entries.insert(place(&id), Box::new(entry));
    }

    /// Lets one envelope go if there are too many.
    pub(crate) fn evict(&mut self) -> Option<EnvelopeId<A>> {
        if self.bytes <= self.max_bytes && self.entries.len() <= self.max_messages {
            return None;
        }
        let (_, author) = self.by_bytes.last()?;
        let due = self.authors.get(author)?.due.first()?;
        let id = *self.by_age.get(due)?;
        self.remove(id);
        Some(id)
    }

    /// Lets one envelope go if it is too old.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<EnvelopeId<A>> {
        let (_, &id) = self.by_age.first_key_value().filter(|((at, _), _)| *at <= now)?;
        self.remove(id);
        Some(id)
    }

    /// When the oldest envelope has to go.
    pub(crate) fn expires_at(&self) -> Option<Instant> {
        self.by_age.first_key_value().map(|((at, _), _)| *at)
    }

    /// Answers a neighbour's pull, at most `limit` times.
    pub(crate) fn answer(&mut self, id: &EnvelopeId<A>, peer: P, limit: u32) -> Answer {
        let Some(entry) = self.entries.get_mut(&place(id)) else {
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
        entry.envelope.clone().map_or(Answer::Outside, Answer::Envelope)
    }

    /// The hops that an envelope had when it came, and its age now.
    pub(crate) fn travelled(&self, now: Instant, id: &EnvelopeId<A>) -> Option<(u16, Duration)> {
        let entry = self.entries.get(&place(id))?;
        Some((entry.hops, entry.age.saturating_add(now.saturating_duration_since(entry.received))))
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes an envelope out.
    pub(crate) fn remove(&mut self, id: EnvelopeId<A>) {
        let Some(entry) = self.entries.remove(&place(&id)) else {
            debug_assert!(false, "the indexes name entries that are there");
            return;
        };
        self.sums.removed(id.author, id.first);
        self.by_age.remove(&entry.due);
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

/// What neighbours compare and ask for.
impl<P: Key, A: Key> Log<P, A> {
    /// Into which of 256 buckets an author belongs. Only while the log is empty.
    pub(crate) fn set_buckets(&mut self, bucket_of: fn(&A) -> u8) {
        self.sums.set_buckets(bucket_of);
    }

    /// The sum of all envelopes.
    pub(crate) fn sum(&mut self) -> Sum {
        let Self { entries, sums, .. } = self;
        sums.whole(digests(entries))
    }

    /// The sums of the buckets.
    pub(crate) fn bucket_sums(&mut self) -> Vec<Sum> {
        let Self { entries, sums, .. } = self;
        sums.buckets(digests(entries))
    }

    /// The authors of these buckets, those with the newest envelopes first.
    pub(crate) fn authors_of(&self, buckets: impl IntoIterator<Item = usize>) -> Vec<A> {
        let authors = buckets.into_iter().flat_map(|bucket| self.sums.authors(bucket));
        let newest = |author: A| Some((self.authors.get(&author)?.due.last().copied()?, author));
        let mut authors: Vec<_> = authors.filter_map(newest).collect();
        authors.sort_unstable_by(|a, b| b.cmp(a));
        authors.into_iter().map(|(_, author)| author).collect()
    }

    /// What is here of an author: at most `max` ranges without a hole, the highest if there are more.
    pub(crate) fn held(&self, author: A, max: usize) -> Vec<Held<A>> {
        let mut runs: VecDeque<(Span<A>, Vec<Sum>)> = VecDeque::new();
        for (&(_, first, count, _), entry) in self.entries.range(places(author, 0, u64::MAX)) {
            let end = first.saturating_add(u64::from(count));
            match runs.back_mut() {
                Some((span, sums)) if first <= span.to => {
                    span.to = span.to.max(end);
                    sums.push(entry.digest);
                }
                _ => {
                    if runs.len() >= max {
                        runs.pop_front();
                    }
                    runs.push_back((Span { author, from: first, to: end }, vec![entry.digest]));
                }
            }
        }
        let held = |(span, digests)| Held { span, sum: sums::of_all(digests) };
        runs.into_iter().take(max).map(held).collect()
    }

    /// The envelopes with a seq in this range, rising.
    pub(crate) fn within(&self, span: Span<A>) -> impl Iterator<Item = (EnvelopeId<A>, usize, Sum)> + '_ {
        // One that begins before may reach into it.
        let first = span.from.saturating_sub(u64::from(MAX_ENTRIES) - 1);
        let entries = self.entries.range(places(span.author, first, span.to.saturating_sub(1)));
        let id = |&(author, first, count, run): &Place<A>| EnvelopeId { author, run, first, count };
        let found = entries.map(move |(place, entry)| (id(place), entry.len, entry.digest));
        found.filter(move |(id, _, _)| span.meets(&id.seqs()))
    }

    /// Other envelopes that have a seq of this one.
    pub(crate) fn rivals(&self, id: &EnvelopeId<A>, digest: Sum) -> Vec<(EnvelopeId<A>, Sum)> {
        let seqs = id.seqs();
        let span = Span { author: id.author, from: seqs.start, to: seqs.end };
        let others = self.within(span).filter(|(there, _, sum)| there != id || *sum != digest);
        others.map(|(there, _, sum)| (there, sum)).collect()
    }
}

/// Those of one author with a first seq from `first` to `last`.
fn places<A: Copy>(author: A, first: u64, last: u64) -> std::ops::RangeInclusive<Place<A>> {
    (author, first, 0, 0)..=(author, last, u8::MAX, u64::MAX)
}

fn digests<'a, P, A: Key>(
    entries: &'a BTreeMap<Place<A>, Box<Entry<P>>>,
) -> impl Fn(A, u64, u64) -> Digests<'a, P, A> {
    |author, first, last| Digests(entries.range(places(author, first, last)))
}

/// Of some entries in a row.
struct Digests<'a, P, A>(std::collections::btree_map::Range<'a, Place<A>, Box<Entry<P>>>);

impl<P, A> Iterator for Digests<'_, P, A> {
    type Item = Sum;

    fn next(&mut self) -> Option<Sum> {
        self.0.next().map(|(_, entry)| entry.digest)
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "any instant will do as the first")]
mod tests {
    use super::*;

    fn id(author: u32, first: u64) -> EnvelopeId<u32> {
        EnvelopeId { author, run: 0, first, count: 1 }
    }

    fn log(max_bytes: usize, max_messages: usize) -> Log<u32, u32> {
        let log_age = Duration::from_secs(60);
        Log::new(&Config { log_age, log_bytes: max_bytes, log_messages: max_messages, ..Config::default() })
    }

    /// Adds zeros, and returns how many had to go for it.
    fn insert(log: &mut Log<u32, u32>, now: Instant, id: EnvelopeId<u32>, len: usize, age: u64) -> usize {
        let entry = Logged { id, len, age: Duration::from_secs(age), hops: 4, digest: [0; 16] };
        log.insert(now, entry, Some(&Bytes::from(vec![0; len])));
        std::iter::from_fn(|| log.evict()).count()
    }

    fn expired(log: &mut Log<u32, u32>, now: Instant) -> usize {
        std::iter::from_fn(|| log.expire(now)).count()
    }

    #[test]
    fn the_author_with_most_bytes_loses_its_oldest() {
        let now = Instant::now();
        let mut log = log(100, 10);
        for (id, len) in [(id(1, 0), 40), (id(2, 0), 30), (id(1, 1), 20)] {
            assert_eq!(insert(&mut log, now, id, len, 0), 0);
        }
        assert_eq!(insert(&mut log, now, id(3, 0), 20, 0), 1);
        assert_eq!(log.answer(&id(1, 0), 9, 3), Answer::Unknown);
        assert_ne!(log.answer(&id(1, 1), 9, 3), Answer::Unknown);
        assert_eq!((log.len(), log.bytes()), (3, 70));
    }

    #[test]
    fn what_was_published_first_goes_first_whenever_it_came() {
        let now = Instant::now();
        let mut log = log(100, 10);
        insert(&mut log, now, id(1, 5), 40, 0);
        insert(&mut log, now, id(1, 4), 40, 30);
        assert_eq!(
            log.travelled(now + Duration::from_secs(2), &id(1, 4)),
            Some((4, Duration::from_secs(32)))
        );
        assert_eq!(log.expires_at(), Some(now + Duration::from_secs(30)));
        insert(&mut log, now, id(1, 3), 40, 50);
        assert_eq!(log.answer(&id(1, 3), 9, 3), Answer::Unknown);
        assert_ne!(log.answer(&id(1, 4), 9, 3), Answer::Unknown);
    }

    #[test]
    fn count_and_bytes_stay_bounded_even_by_one_that_fits_nowhere() {
        let now = Instant::now();
        let mut log = log(100, 3);
        for seq in 0..5 {
            insert(&mut log, now, id(1, seq), 10, 0);
        }
        assert_eq!((log.len(), log.bytes()), (3, 30));
        assert_eq!(insert(&mut log, now, id(2, 0), 101, 0), 1);
        assert_eq!((log.len(), log.bytes()), (3, 30));
    }

    #[test]
    fn what_is_too_old_goes() {
        let now = Instant::now();
        let mut log = log(100, 10);
        insert(&mut log, now, id(1, 0), 10, 0);
        insert(&mut log, now + Duration::from_secs(30), id(1, 1), 10, 0);
        assert_eq!(log.expires_at(), Some(now + Duration::from_secs(60)));
        assert_eq!(expired(&mut log, now + Duration::from_secs(59)), 0);
        assert_eq!(expired(&mut log, now + Duration::from_secs(60)), 1);
        assert_eq!(log.expires_at(), Some(now + Duration::from_secs(90)));
        assert_eq!(expired(&mut log, now + Duration::from_secs(600)), 1);
        assert_eq!((log.len(), log.bytes(), log.expires_at()), (0, 0, None));
        assert!(log.authors.is_empty() && log.by_bytes.is_empty());
    }

    #[test]
    fn one_peer_gets_one_envelope_three_times() {
        let now = Instant::now();
        let mut log = log(100, 10);
        insert(&mut log, now, id(1, 0), 10, 0);
        let zeros = Answer::Envelope(Bytes::from(vec![0; 10]));
        for _ in 0..3 {
            assert_eq!(log.answer(&id(1, 0), 7, 3), zeros);
        }
        assert_eq!(log.answer(&id(1, 0), 7, 3), Answer::Refused);
        assert_eq!(log.answer(&id(1, 0), 8, 3), zeros);
    }

    fn whole(log: &mut Log<u32, u32>) -> (Sum, Vec<Sum>) {
        (log.sum(), log.bucket_sums())
    }

    #[test]
    fn what_is_held_are_ranges_without_holes_and_their_sums() {
        let now = Instant::now();
        let mut log = log(1_000, 100);
        let entry = |first, count, digest| Logged {
            id: EnvelopeId { author: 7, run: 0, first, count },
            len: 1,
            age: Duration::ZERO,
            hops: 0,
            digest: [digest; 16],
        };
        for (first, count, digest) in [(3, 1, 1), (4, 3, 2), (7, 1, 3), (20, 2, 4), (30, 1, 5)] {
            log.insert(now, entry(first, count, digest), None);
        }
        let held = |from, to, digests: &[u8]| Held {
            span: Span { author: 7, from, to },
            sum: sums::of_all(digests.iter().map(|d| [*d; 16])),
        };
        let all = [held(3, 8, &[1, 2, 3]), held(20, 22, &[4]), held(30, 31, &[5])];
        assert_eq!(log.held(7, 9), all);
        assert_eq!(log.held(7, 2), all[1..]);
        assert_eq!((log.held(8, 9), log.held(7, 0)), (vec![], vec![]));
        let within =
            |from, to| log.within(Span { author: 7, from, to }).map(|(id, ..)| id.first).collect::<Vec<_>>();
        assert_eq!(within(6, 21), [4, 7, 20], "one begins before, one ends behind");
        assert_eq!(within(8, 20), []);
        let rivals = log.rivals(&EnvelopeId { author: 7, run: 0, first: 6, count: 2 }, [1; 16]);
        assert_eq!(rivals.iter().map(|(id, _)| id.first).collect::<Vec<_>>(), [4, 7]);
    }

    #[test]
    fn sums_follow_what_comes_and_goes_and_of_two_with_one_id_the_lower_stays() {
        let now = Instant::now();
        let mut log = log(1_000, 100);
        let empty = whole(&mut log);
        let entry =
            |digest| Logged { id: id(1, 0), len: 1, age: Duration::ZERO, hops: 0, digest: [digest; 16] };
        log.insert(now, entry(5), None);
        let five = whole(&mut log);
        assert_ne!(five, empty);
        log.insert(now, entry(6), None);
        assert_eq!(whole(&mut log), five);
        log.insert(now, entry(4), None);
        assert_ne!(whole(&mut log), five);
        assert_eq!((log.len(), log.bytes(), log.held(1, 9)[0].sum), (1, 1, sums::of_all([[4; 16]])));
        expired(&mut log, now + Duration::from_secs(60));
        assert_eq!(whole(&mut log), empty);
    }
}
