//! How many questions are taken from a neighbour, and how many are passed on.
//!
//! What a neighbour asks itself and what it passes on are two *flows*, and neither takes anything from the other. An honest
//! node passes on no more than is taken of it, so what is too much is left out where its flows are known, and each of them
//! has its part.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::{Duration, Instant};

use p2p_wire::NodeId;

use crate::query::Query;

/// Questions of its own taken from one neighbour: one a second, ten at once.
const OWN: Rate = Rate { every: Duration::from_secs(1), burst: 10 };
/// Questions of others taken from it: one a second, and eight more at once than a node passes on, for those that the way
/// brought together.
const OTHERS: Rate = Rate { every: PASS_EVERY, burst: PLACES + 8 };
/// Questions passed on, in the long run. Each reaches every node, so this is what questions may cost the network.
const PASS_EVERY: Duration = Duration::from_secs(1);
/// Questions passed on at once by one node. A guess: a single flow has 15 of them, and when ten neighbours fill both of theirs
/// at once, the last has one or two and eight are left.
const PLACES: usize = 128;
/// A flow may hold so much of what is free: one part of this many.
const PARTS: usize = 8;
/// For so long a neighbour is new, and what those hold that are gone counts as its own: ids are made at will, and each that comes,
/// asks and goes would have a part.
const NEW: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy)]
struct Rate {
    every: Duration,
    burst: usize,
}

/// What one neighbour asks itself, or what it passes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Flow {
    from: NodeId,
    own: bool,
}

impl Flow {
    /// The flow that this question comes with. TLS proves the neighbour's id and the signature the origin's.
    pub(super) fn of(from: NodeId, query: &Query) -> Self {
        Self { from, own: query.origin == from }
    }

    const fn rate(self) -> Rate {
        if self.own { OWN } else { OTHERS }
    }
}

/// The rates of the neighbours.
#[derive(Debug, Default)]
pub(super) struct Rates {
    taken: BTreeMap<Flow, Bucket>,
    /// Since when each is a neighbour.
    up: BTreeMap<NodeId, Instant>,
    places: Places,
}

impl Rates {
    /// Whether one more is taken.
    pub(super) fn take(&mut self, now: Instant, flow: Flow) -> bool {
        self.taken.entry(flow).or_insert_with(|| Bucket::new(now, flow.rate())).take(now)
    }

    /// Whether one more is passed on.
    pub(super) fn pass(&mut self, now: Instant, flow: Flow) -> bool {
        let is_new = |since: &Instant| now.saturating_duration_since(*since) < NEW;
        let is_new = self.up.get(&flow.from).is_none_or(is_new);
        self.places.take(now, flow, is_new)
    }

    pub(super) fn on_neighbour_up(&mut self, now: Instant, from: NodeId) {
        self.up.insert(from, now);
    }

    /// The places stay taken.
    pub(super) fn on_neighbour_down(&mut self, from: NodeId) {
        self.up.remove(&from);
        for own in [false, true] {
            let flow = Flow { from, own };
            self.taken.remove(&flow);
            self.places.leave(flow);
        }
    }
}

/// Tokens of one flow.
#[derive(Debug)]
struct Bucket {
    rate: Rate,
    tokens: usize,
    refilled: Instant,
}

impl Bucket {
    const fn new(now: Instant, rate: Rate) -> Self {
        Self { rate, tokens: rate.burst, refilled: now }
    }

    fn take(&mut self, now: Instant) -> bool {
        let Rate { every, burst } = self.rate;
        while self.tokens < burst && now.saturating_duration_since(self.refilled) >= every {
            self.tokens += 1;
            self.refilled += every;
        }
        if self.tokens == burst {
            self.refilled = now;
        }
        let allowed = self.tokens > 0;
        self.tokens -= usize::from(allowed);
        allowed
    }
}

/// Fair queueing without a queue: a question goes on at once, and holds the place until its flow's turn would have come. The
/// turns go round the flows that hold any, so each of them passes on equally many in the long run.
///
/// How many a flow may hold goes by what is free (dynamic thresholds: Choudhury and Hahne, IEEE/ACM Transactions on Networking
/// 6(2), 1998), so those that ask much leave some for who asks seldom, and the last [`PARTS`] are for flows that hold none.
#[derive(Debug, Default)]
struct Places {
    /// Only flows that hold some; `None` is what those hold together whose neighbours are gone.
    held: BTreeMap<Option<Flow>, usize>,
    /// Whose turn was last, and when.
    last: Option<Option<Flow>>,
    freed: Option<Instant>,
}

impl Places {
    fn take(&mut self, now: Instant, flow: Flow, is_new: bool) -> bool {
        self.free(now);
        let free = PLACES - self.held.values().sum::<usize>();
        let held = |flow| self.held.get(&flow).copied().unwrap_or(0);
        let counted = held(Some(flow)) + if is_new { held(None) } else { 0 };
        let allowed = counted * PARTS < free;
        if allowed {
            *self.held.entry(Some(flow)).or_default() += 1;
        }
        allowed
    }

    fn leave(&mut self, flow: Flow) {
        if let Some(held) = self.held.remove(&Some(flow)) {
            *self.held.entry(None).or_default() += held;
        }
    }

    /// Gives back what is due by now.
    fn free(&mut self, now: Instant) {
        let mut freed = self.freed.unwrap_or(now);
        while now.saturating_duration_since(freed) >= PASS_EVERY && self.free_next() {
            freed += PASS_EVERY;
        }
        // Time in which nobody held any is not saved up.
        self.freed = Some(if self.held.is_empty() { now } else { freed });
    }

    fn free_next(&mut self) -> bool {
        let behind = self.last.map_or(Bound::Unbounded, Bound::Excluded);
        let next = self.held.range((behind, Bound::Unbounded)).next().or_else(|| self.held.iter().next());
        let Some((&flow, &held)) = next else { return false };
        self.last = Some(flow);
        if held > 1 {
            self.held.insert(flow, held - 1);
        } else {
            self.held.remove(&flow);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(from: u8, own: bool) -> Flow {
        Flow { from: NodeId::from_bytes([from; 32]), own }
    }

    /// How many of `count` find a place.
    fn taken(places: &mut Places, now: Instant, flow: Flow, count: usize) -> usize {
        (0..count).filter(|_| places.take(now, flow, false)).count()
    }

    #[test]
    fn one_flow_has_its_part_and_then_one_a_second() {
        let (mut places, now) = (Places::default(), Instant::now());
        assert_eq!(taken(&mut places, now, flow(1, true), 1000), 15);
        for n in 1..100 {
            let (now, half) = (now + PASS_EVERY * n, PASS_EVERY / 2);
            assert_eq!(taken(&mut places, now, flow(1, true), 10), 1, "after {n} s");
            assert_eq!(taken(&mut places, now + half, flow(1, true), 10), 0, "half a second later");
        }
    }

    #[test]
    fn ten_neighbours_that_fill_both_flows_at_once_leave_places() {
        let (mut places, now) = (Places::default(), Instant::now());
        for from in 0..10 {
            assert!(taken(&mut places, now, flow(from, true), 1000) > 0);
            assert!(taken(&mut places, now, flow(from, false), 1000) > 0);
        }
        assert_eq!(PLACES - places.held.values().sum::<usize>(), PARTS);
        // A second later one of the twenty has its turn, and it takes nothing of what is left for others.
        let later = now + PASS_EVERY;
        for from in 0..10 {
            taken(&mut places, later, flow(from, true), 1000);
            taken(&mut places, later, flow(from, false), 1000);
        }
        assert!((0..8).all(|from| taken(&mut places, later, flow(100 + from, true), 1) == 1));
    }

    #[test]
    fn places_keep_their_bound_and_all_come_back() {
        let (mut places, now) = (Places::default(), Instant::now());
        let all: usize = (0..200).map(|from| taken(&mut places, now, flow(from, false), 1000)).sum();
        assert_eq!((all, places.held.values().sum()), (PLACES, PLACES));
        let later = now + PASS_EVERY * 128;
        places.free(later);
        assert!(places.held.is_empty());
        assert_eq!(taken(&mut places, later, flow(1, true), 1000), 15, "a pause saves nothing up");
    }

    #[test]
    fn those_who_come_ask_and_go_have_one_part_together() {
        let (mut rates, began) = (Rates::default(), Instant::now());
        let honest = flow(0, true);
        rates.on_neighbour_up(began, honest.from);
        let (mut passed, mut others) = (0, 0);
        for second in 0..200_u32 {
            let now = began + PASS_EVERY * second;
            for n in 0..10 {
                let mut id = [n + 1; 32];
                id[..4].copy_from_slice(&second.to_be_bytes());
                let fresh = Flow { from: NodeId::from_bytes(id), own: true };
                rates.on_neighbour_up(now, fresh.from);
                others += u32::from(rates.pass(now, fresh));
                rates.on_neighbour_down(fresh.from);
            }
            if PASS_EVERY * second >= NEW && second % 2 == 0 {
                assert!(rates.pass(now, honest), "after {second} s");
                passed += 1;
            }
        }
        assert!(passed == 70 && (100..=215).contains(&others), "{passed}, {others}");
        assert_eq!(rates.up.len(), 1);
    }
}
