//! One author's messages in the order of their seqs: a hole holds later ones back for a while.
//!
//! Holes are looked for inside one run; seqs between runs were never messages. An author starts with whatever
//! came first.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::config::Config;
use crate::message::{EnvelopeId, Key};

/// A verified envelope on its way to the application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item<P, A> {
    pub(crate) id: EnvelopeId<A>,
    pub(crate) envelope: Bytes,
    /// The entries to deliver; not 0.
    pub(crate) entries: u64,
    pub(crate) from: P,
}

/// What goes out now.
#[derive(Debug)]
pub(crate) struct Ready<P, A> {
    /// In order, each with whether it is late.
    pub(crate) items: Vec<(Item<P, A>, bool)>,
    /// Holes that were given up for it.
    pub(crate) holes_given_up: u64,
}

/// The order of all authors, each of which was verified once.
#[derive(Debug)]
pub(crate) struct Order<P, A> {
    authors: BTreeMap<A, Author<P, A>>,
    held: usize,
    bytes: usize,
    hold_time: Duration,
    max_messages: usize,
    max_bytes: usize,
    max_bytes_total: usize,
}

#[derive(Debug)]
struct Author<P, A> {
    run: u64,
    /// One above the highest seq delivered.
    next: u64,
    /// By lowest seq to deliver.
    held: BTreeMap<u64, Held<P, A>>,
    bytes: usize,
}

#[derive(Debug)]
struct Held<P, A> {
    item: Item<P, A>,
    since: Instant,
}

impl<P: Key, A: Key> Order<P, A> {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            authors: BTreeMap::new(),
            held: 0,
            bytes: 0,
            hold_time: config.hold_time,
            max_messages: config.hold_messages,
            max_bytes: config.hold_bytes,
            max_bytes_total: config.hold_bytes_total,
        }
    }

    /// Takes an envelope in, and returns what can go out with it.
    pub(crate) fn admit(&mut self, now: Instant, item: Item<P, A>) -> Ready<P, A> {
        let mut ready = Ready::nothing();
        let key = item.id.author;
        let others = self.bytes - self.authors.get(&key).map_or(0, |a| a.bytes);
        let author = self.authors.entry(key).or_insert_with(|| Author {
            run: item.id.run,
            next: item.lowest(),
            held: BTreeMap::new(),
            bytes: 0,
        });
        let (held, bytes) = (author.held.len(), author.bytes);
        author.hold(now, item);
        author.drain(&mut ready);
        while author.held.len() > self.max_messages
            || author.bytes > self.max_bytes
            || (author.bytes > 0 && others + author.bytes > self.max_bytes_total)
        {
            author.give_up_hole(&mut ready);
        }
        self.held = self.held - held + author.held.len();
        self.bytes = self.bytes - bytes + author.bytes;
        ready
    }

    /// Lets go what has been held back long enough, and all before it.
    pub(crate) fn expire(&mut self, now: Instant, key: A) -> Ready<P, A> {
        let mut ready = Ready::nothing();
        let Some(author) = self.authors.get_mut(&key) else {
            return ready;
        };
        let (held, bytes) = (author.held.len(), author.bytes);
        let is_over = |held: &Held<P, A>| now.saturating_duration_since(held.since) >= self.hold_time;
        while author.held.values().any(is_over) {
            author.give_up_hole(&mut ready);
        }
        self.held = self.held - held + author.held.len();
        self.bytes = self.bytes - bytes + author.bytes;
        ready
    }

    /// When something of this author has been held back long enough.
    pub(crate) fn deadline(&self, key: A) -> Option<Instant> {
        let held = &self.authors.get(&key)?.held;
        let oldest = held.values().map(|held| held.since).min()?;
        // A time beyond the clock's range never comes.
        oldest.checked_add(self.hold_time)
    }

    /// Takes up how far an author was delivered. Only ever raises it.
    pub(crate) fn restore(&mut self, key: A, run: u64, next: u64) {
        let fresh = || Author { run, next, held: BTreeMap::new(), bytes: 0 };
        let author = self.authors.entry(key).or_insert_with(fresh);
        author.run = author.run.max(run);
        author.next = author.next.max(next);
    }

    /// The run of the latest delivery, and one above the highest seq delivered.
    pub(crate) fn delivered(&self, key: &A) -> Option<(u64, u64)> {
        self.authors.get(key).map(|author| (author.run, author.next))
    }

    pub(crate) fn held(&self) -> usize {
        self.held
    }
}

impl<P: Key, A: Key> Author<P, A> {
    fn hold(&mut self, now: Instant, item: Item<P, A>) {
        self.bytes += item.envelope.len();
        let lowest = item.lowest();
        let twin = self.held.insert(lowest, Held { item, since: now });
        debug_assert!(twin.is_none(), "a seq is verified once");
    }

    /// Lets out what has no hole before it.
    fn drain(&mut self, ready: &mut Ready<P, A>) {
        while let Some((&lowest, held)) = self.held.first_key_value() {
            let run = held.item.id.run;
            // Nothing of the old run is held any more, so its end is behind us, and the new run starts at its
            // own number.
            let expected = if run > self.run { self.next.max(run) } else { self.next };
            if lowest > expected {
                break;
            }
            self.let_out(ready);
        }
    }

    /// Lets out the first one held and what follows it without a hole.
    fn give_up_hole(&mut self, ready: &mut Ready<P, A>) {
        ready.holes_given_up += 1;
        self.let_out(ready);
        self.drain(ready);
    }

    fn let_out(&mut self, ready: &mut Ready<P, A>) {
        let Some((lowest, Held { item, .. })) = self.held.pop_first() else {
            return;
        };
        let late = lowest < self.next;
        self.bytes -= item.envelope.len();
        self.run = self.run.max(item.id.run);
        self.next = self.next.max(item.above());
        ready.items.push((item, late));
    }
}

impl<P, A> Item<P, A> {
    /// The lowest seq to deliver.
    fn lowest(&self) -> u64 {
        self.id.first.saturating_add(u64::from(self.entries.trailing_zeros()))
    }

    /// One above the highest seq to deliver.
    fn above(&self) -> u64 {
        self.id.first.saturating_add(u64::from(64 - self.entries.leading_zeros()))
    }
}

impl<P, A> Ready<P, A> {
    const fn nothing() -> Self {
        Self { items: Vec::new(), holes_given_up: 0 }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "any instant will do as the first")]
mod tests {
    use super::*;

    fn item(run: u64, first: u64, len: usize) -> Item<u32, u32> {
        Item {
            id: EnvelopeId { author: 1, run, first, count: 1 },
            envelope: Bytes::from(vec![0; len]),
            entries: 1,
            from: 9,
        }
    }

    fn order(config: Config) -> Order<u32, u32> {
        Order::new(&config)
    }

    fn out(ready: Ready<u32, u32>) -> Vec<(u64, bool)> {
        ready.items.into_iter().map(|(item, late)| (item.id.first, late)).collect()
    }

    #[test]
    fn a_hole_that_fills_lets_all_out_in_order() {
        let now = Instant::now();
        let mut order = order(Config::default());
        assert_eq!(out(order.admit(now, item(5, 7, 1))), [(7, false)]);
        assert_eq!(out(order.admit(now, item(5, 10, 1))), []);
        assert_eq!(out(order.admit(now, item(5, 9, 1))), []);
        assert_eq!(order.held(), 2);
        let all = [(8, false), (9, false), (10, false)];
        assert_eq!(out(order.admit(now, item(5, 8, 1))), all);
        assert_eq!((order.held(), order.bytes, order.deadline(1)), (0, 0, None));
    }

    #[test]
    fn a_hole_that_stays_holds_for_its_time_and_what_fills_it_is_late() {
        let now = Instant::now();
        let mut order = order(Config::default());
        let second = Duration::from_secs(1);
        order.admit(now, item(0, 0, 1));
        order.admit(now, item(0, 2, 1));
        order.admit(now + second / 2, item(0, 4, 1));
        assert_eq!(order.deadline(1), Some(now + second));
        assert_eq!(out(order.expire(now + second / 2, 1)), []);
        assert_eq!(out(order.expire(now + second, 1)), [(2, false)]);
        assert_eq!(out(order.admit(now + second, item(0, 1, 1))), [(1, true)]);
        assert_eq!(order.deadline(1), Some(now + second * 3 / 2));
        assert_eq!(out(order.expire(now + 2 * second, 1)), [(4, false)]);
    }

    #[test]
    fn between_runs_there_are_no_holes_and_inside_the_new_one_there_are() {
        let now = Instant::now();
        let mut order = order(Config::default());
        order.admit(now, item(0, 0, 1));
        assert_eq!(out(order.admit(now, item(1_000, 1_000, 1))), [(1_000, false)]);
        assert_eq!(out(order.admit(now, item(2_000, 2_001, 1))), []);
        let both = [(2_000, false), (2_001, false)];
        assert_eq!(out(order.admit(now, item(2_000, 2_000, 1))), both);
    }

    #[test]
    fn a_new_run_waits_for_what_an_old_run_holds_back() {
        let now = Instant::now();
        let mut order = order(Config::default());
        order.admit(now, item(0, 0, 1));
        assert_eq!(out(order.admit(now, item(0, 2, 1))), []);
        assert_eq!(out(order.admit(now, item(50, 50, 1))), []);
        let all = [(1, false), (2, false), (50, false)];
        assert_eq!(out(order.admit(now, item(0, 1, 1))), all);
    }

    #[test]
    fn too_much_held_back_gives_the_lowest_hole_up() {
        let now = Instant::now();
        let config = Config { hold_messages: 2, hold_bytes: 100, hold_bytes_total: 150, ..Config::default() };
        let mut order = order(config);
        order.admit(now, item(0, 0, 1));
        order.admit(now, item(0, 2, 1));
        order.admit(now, item(0, 4, 1));
        assert_eq!(out(order.admit(now, item(0, 6, 1))), [(2, false)]);
        assert_eq!(out(order.admit(now, item(0, 8, 99))), [(4, false)]);
        assert_eq!(out(order.admit(now, item(0, 10, 99))), [(6, false), (8, false)]);
        let other = |first| {
            let mut item = item(0, first, 60);
            item.id.author = 2;
            item
        };
        assert_eq!(out(order.admit(now, other(0))), [(0, false)]);
        assert_eq!(out(order.admit(now, other(2))), [(2, false)]);
        assert_eq!((order.held(), order.bytes), (1, 99));
    }

    #[test]
    fn entries_seen_before_are_no_hole() {
        let now = Instant::now();
        let mut order = order(Config::default());
        let bundle = |first, count, entries| {
            let mut item = item(0, first, 1);
            item.id.count = count;
            item.entries = entries;
            item
        };
        order.admit(now, item(0, 3, 1));
        assert_eq!(out(order.admit(now, item(0, 5, 1))), []);
        // Seq 5 is held, so only 6 and 7 of this bundle are new.
        assert_eq!(out(order.admit(now, bundle(5, 3, 0b110))), []);
        assert_eq!(out(order.admit(now, item(0, 4, 1))), [(4, false), (5, false), (5, false)]);
    }
}
