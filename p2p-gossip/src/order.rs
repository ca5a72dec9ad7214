//! One author's messages in the order of their seqs: a hole holds later ones back for a while.
//!
//! Holes are looked for inside one run; seqs between runs were never messages. An author starts with whatever
//! came first, unless earlier messages are known to be on their way: while neighbours hand over what was missed, what
//! comes live waits for it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::config::Config;
use crate::message::{EnvelopeId, Key};

/// While something is on its way, so many times as many messages are held back: a range that was missed comes at once,
/// and its checks may end in any order.
const COMING_ROOM: usize = 4;

/// A verified envelope on its way to the application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item<P, A> {
    pub(crate) id: EnvelopeId<A>,
    pub(crate) envelope: Bytes,
    /// The entries to deliver; not 0.
    pub(crate) entries: u64,
    /// `None`: it came to an earlier process.
    pub(crate) from: Option<P>,
}

/// What goes out now.
#[derive(Debug)]
pub(crate) struct Ready<P, A> {
    /// In order, each with whether it is late.
    pub(crate) items: Vec<(Item<P, A>, bool)>,
    /// Holes that were given up for it.
    pub(crate) holes_given_up: u64,
    /// Of those, the ones whose ends are known: run, and the seqs between.
    pub(crate) holes: Vec<Hole>,
}

/// Run, first seq, and one above the last seq of what did not come.
pub(crate) type Hole = (u64, u64, u64);

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
    /// Something was delivered, in this process or an earlier one.
    begun: bool,
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

    /// Takes an envelope in, and returns what can go out with it. `coming`: the lowest seq of this author that is
    /// likely to be brought by a neighbour that hands over what was missed.
    pub(crate) fn admit(&mut self, now: Instant, item: Item<P, A>, coming: Option<u64>) -> Ready<P, A> {
        let room = if coming.is_some() { COMING_ROOM } else { 1 };
        self.take_in(now, item.id.author, [item], coming, room)
    }

    /// Takes up what an earlier process had not handed over of an author, and returns what can go out. What has a hole
    /// before it waits on, as does all of an author of whom nothing was delivered: something before it may have been on
    /// its way.
    pub(crate) fn resume(&mut self, now: Instant, key: A, items: Vec<Item<P, A>>) -> Ready<P, A> {
        let coming = if self.delivered(&key).is_some() { None } else { Some(0) };
        // It may have been on its way for the others too, so as much as that may have waited.
        self.take_in(now, key, items, coming, COMING_ROOM)
    }

    fn take_in(
        &mut self,
        now: Instant,
        key: A,
        items: impl IntoIterator<Item = Item<P, A>>,
        coming: Option<u64>,
        room: usize,
    ) -> Ready<P, A> {
        let mut ready = Ready::nothing();
        let others = self.bytes - self.authors.get(&key).map_or(0, |a| a.bytes);
        // Before the first delivery neither counts.
        let author = self.authors.entry(key).or_insert_with(|| Author::new(false, 0, 0));
        let (held, bytes) = (author.held.len(), author.bytes);
        items.into_iter().for_each(|item| author.hold(now, item));
        author.drain(&mut ready, coming);
        while author.held.len() > self.max_messages.saturating_mul(room)
            || author.bytes > self.max_bytes
            || (author.bytes > 0 && others + author.bytes > self.max_bytes_total)
        {
            author.give_up_hole(&mut ready, coming);
        }
        self.held = self.held - held + author.held.len();
        self.bytes = self.bytes - bytes + author.bytes;
        ready
    }

    /// Lets go what has been held back long enough, and all before it.
    /// What waits for something that is coming waits for at most `patience`.
    pub(crate) fn expire(
        &mut self,
        now: Instant,
        key: A,
        coming: Option<u64>,
        patience: Duration,
    ) -> Ready<P, A> {
        let mut ready = Ready::nothing();
        let Some(author) = self.authors.get_mut(&key) else {
            return ready;
        };
        let (held, bytes) = (author.held.len(), author.bytes);
        author.drain(&mut ready, coming);
        let (short, long) = (self.hold_time, patience.max(self.hold_time));
        let is_over = |(lowest, held): (&u64, &Held<P, A>)| {
            let limit = if coming.is_some_and(|coming| coming < *lowest) { long } else { short };
            now.saturating_duration_since(held.since) >= limit
        };
        while author.held.iter().any(is_over) {
            author.give_up_hole(&mut ready, coming);
        }
        self.held = self.held - held + author.held.len();
        self.bytes = self.bytes - bytes + author.bytes;
        ready
    }

    /// Authors of whom nothing was delivered, because something before it may come.
    pub(crate) fn not_begun(&self) -> Vec<A> {
        let waits = |author: &Author<P, A>| !author.begun && !author.held.is_empty();
        self.authors.iter().filter(|(_, author)| waits(author)).map(|(key, _)| *key).collect()
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
        let author = self.authors.entry(key).or_insert_with(|| Author::new(true, run, next));
        author.run = author.run.max(run);
        author.next = author.next.max(next);
    }

    /// The run of the latest delivery, and one above the highest seq delivered.
    pub(crate) fn delivered(&self, key: &A) -> Option<(u64, u64)> {
        self.authors.get(key).filter(|author| author.begun).map(|author| (author.run, author.next))
    }

    pub(crate) fn held(&self) -> usize {
        self.held
    }
}

impl<P: Key, A: Key> Author<P, A> {
    const fn new(begun: bool, run: u64, next: u64) -> Self {
        Self { begun, run, next, held: BTreeMap::new(), bytes: 0 }
    }

    fn hold(&mut self, now: Instant, item: Item<P, A>) {
        self.bytes += item.envelope.len();
        let lowest = item.lowest();
        let twin = self.held.insert(lowest, Held { item, since: now });
        debug_assert!(twin.is_none(), "a seq is verified once");
    }

    /// Lets out what has no hole before it.
    fn drain(&mut self, ready: &mut Ready<P, A>, coming: Option<u64>) {
        while let Some((&lowest, held)) = self.held.first_key_value() {
            let waits = coming.is_some_and(|coming| coming < lowest);
            let goes = if self.begun {
                let expected = self.expected(held.item.id.run);
                lowest <= self.next || (lowest <= expected && !waits)
            } else {
                !waits
            };
            if !goes {
                break;
            }
            self.let_out(ready);
        }
    }

    /// The next seq, as far as a message of this run tells.
    fn expected(&self, run: u64) -> u64 {
        // If nothing of the old run is held any more, its end is behind us, and the new run starts at its own number.
        if run > self.run { self.next.max(run) } else { self.next }
    }

    /// Lets out the first one held and what follows it without a hole.
    fn give_up_hole(&mut self, ready: &mut Ready<P, A>, coming: Option<u64>) {
        ready.holes_given_up += 1;
        if let Some((&lowest, held)) = self.held.first_key_value() {
            let run = held.item.id.run;
            let from = self.expected(run);
            if self.begun && from < lowest {
                ready.holes.push((run, from, lowest));
            }
        }
        self.let_out(ready);
        self.drain(ready, coming);
    }

    fn let_out(&mut self, ready: &mut Ready<P, A>) {
        let Some((lowest, Held { item, .. })) = self.held.pop_first() else {
            return;
        };
        let late = self.begun && lowest < self.next;
        self.bytes -= item.envelope.len();
        let (run, next) = if self.begun { (self.run, self.next) } else { (0, 0) };
        self.begun = true;
        self.run = run.max(item.id.run);
        self.next = next.max(item.above());
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
        Self { items: Vec::new(), holes_given_up: 0, holes: Vec::new() }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "any instant will do as the first")]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    fn item(run: u64, first: u64, len: usize) -> Item<u32, u32> {
        Item {
            id: EnvelopeId { author: 1, run, first, count: 1 },
            envelope: Bytes::from(vec![0; len]),
            entries: 1,
            from: Some(9),
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
        assert_eq!(out(order.admit(now, item(5, 7, 1), None)), [(7, false)]);
        assert_eq!(out(order.admit(now, item(5, 10, 1), None)), []);
        assert_eq!(out(order.admit(now, item(5, 9, 1), None)), []);
        assert_eq!(order.held(), 2);
        let all = [(8, false), (9, false), (10, false)];
        assert_eq!(out(order.admit(now, item(5, 8, 1), None)), all);
        assert_eq!((order.held(), order.bytes, order.deadline(1)), (0, 0, None));
    }

    #[test]
    fn a_hole_that_stays_holds_for_its_time_and_what_fills_it_is_late() {
        let now = Instant::now();
        let mut order = order(Config::default());
        let second = Duration::from_secs(1);
        order.admit(now, item(0, 0, 1), None);
        order.admit(now, item(0, 2, 1), None);
        order.admit(now + second / 2, item(0, 4, 1), None);
        assert_eq!(order.deadline(1), Some(now + second));
        assert_eq!(out(order.expire(now + second / 2, 1, None, LONG)), []);
        assert_eq!(out(order.expire(now + second, 1, None, LONG)), [(2, false)]);
        assert_eq!(out(order.admit(now + second, item(0, 1, 1), None)), [(1, true)]);
        assert_eq!(order.deadline(1), Some(now + second * 3 / 2));
        assert_eq!(out(order.expire(now + 2 * second, 1, None, LONG)), [(4, false)]);
    }

    #[test]
    fn between_runs_there_are_no_holes_and_inside_the_new_one_there_are() {
        let now = Instant::now();
        let mut order = order(Config::default());
        order.admit(now, item(0, 0, 1), None);
        assert_eq!(out(order.admit(now, item(1_000, 1_000, 1), None)), [(1_000, false)]);
        assert_eq!(out(order.admit(now, item(2_000, 2_001, 1), None)), []);
        let both = [(2_000, false), (2_001, false)];
        assert_eq!(out(order.admit(now, item(2_000, 2_000, 1), None)), both);
    }

    #[test]
    fn a_new_run_waits_for_what_an_old_run_holds_back() {
        let now = Instant::now();
        let mut order = order(Config::default());
        order.admit(now, item(0, 0, 1), None);
        assert_eq!(out(order.admit(now, item(0, 2, 1), None)), []);
        assert_eq!(out(order.admit(now, item(50, 50, 1), None)), []);
        let all = [(1, false), (2, false), (50, false)];
        assert_eq!(out(order.admit(now, item(0, 1, 1), None)), all);
    }

    #[test]
    fn too_much_held_back_gives_the_lowest_hole_up() {
        let now = Instant::now();
        let config = Config { hold_messages: 2, hold_bytes: 100, hold_bytes_total: 150, ..Config::default() };
        let mut order = order(config);
        order.admit(now, item(0, 0, 1), None);
        order.admit(now, item(0, 2, 1), None);
        order.admit(now, item(0, 4, 1), None);
        assert_eq!(out(order.admit(now, item(0, 6, 1), None)), [(2, false)]);
        assert_eq!(out(order.admit(now, item(0, 8, 99), None)), [(4, false)]);
        assert_eq!(out(order.admit(now, item(0, 10, 99), None)), [(6, false), (8, false)]);
        let other = |first| {
            let mut item = item(0, first, 60);
            item.id.author = 2;
            item
        };
        assert_eq!(out(order.admit(now, other(0), None)), [(0, false)]);
        assert_eq!(out(order.admit(now, other(2), None)), [(2, false)]);
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
        order.admit(now, item(0, 3, 1), None);
        assert_eq!(out(order.admit(now, item(0, 5, 1), None)), []);
        // Seq 5 is held, so only 6 and 7 of this bundle are new.
        assert_eq!(out(order.admit(now, bundle(5, 3, 0b110), None)), []);
        assert_eq!(out(order.admit(now, item(0, 4, 1), None)), [(4, false), (5, false), (5, false)]);
    }

    #[test]
    fn what_comes_live_waits_for_what_is_handed_over_and_not_for_ever() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let mut order = order(Config::default());
        // Nothing is known of the author, and 3 to 5 of an earlier run are on their way.
        assert_eq!(out(order.admit(now, item(10, 12, 1), Some(3))), []);
        assert_eq!(order.delivered(&1), None);
        assert_eq!(out(order.expire(now + second, 1, Some(3), LONG)), []);
        assert_eq!(out(order.admit(now + second, item(3, 3, 1), Some(4))), [(3, false)]);
        assert_eq!(out(order.admit(now + second, item(3, 4, 1), Some(5))), [(4, false)]);
        assert_eq!(out(order.admit(now + second, item(10, 10, 1), Some(5))), [], "the run is not over");
        assert_eq!(out(order.admit(now + second, item(3, 5, 1), None)), [(5, false), (10, false)]);
        // 11 is missing in its run: what is on its way does not come for ever.
        assert_eq!(out(order.expire(now + second * 2, 1, Some(11), LONG)), []);
        let ready = order.expire(now + second * 30, 1, Some(11), LONG);
        assert_eq!(ready.holes, [(10, 11, 12)]);
        assert_eq!(out(ready), [(12, false)]);
    }
}
