//! Receipts that this node owes. Each author has a rate; what is above it waits, and authors have their turns.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound::{Excluded, Unbounded};
use std::time::{Duration, Instant};

use p2p_wire::NodeId;

/// Receipts given to one author: this many at once, then one each `REFILL`. A receipt is about as large as the
/// message that asks for it, so this bounds what one author makes this node say, not how far it spreads. 40 a second: 300 at
/// once have theirs within 6 s; a guess.
const BURST: u32 = 64;
const REFILL: Duration = Duration::from_millis(25);
/// Authors whose receipts are counted at once. Whoever has been quiet for as long as a burst takes to come back
/// is forgotten first; if nobody has, the newcomer gets none.
const MAX_AUTHORS: usize = 1024;
/// Receipts of one author that wait, 13 s at its rate: who waits longer is rare. What comes beyond it gets none.
const MAX_WAITING: usize = 512;
/// The same of all authors, 128 bytes each; beyond it one of each that is below its rate.
const MAX_WAITING_TOTAL: usize = 8 * MAX_WAITING;

/// A receipt, signed: for this message of this author.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) author: NodeId,
    pub(super) seq: u64,
    pub(super) signature: [u8; 64],
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Dues {
    buckets: BTreeMap<NodeId, Bucket>,
    /// No author is without any.
    waiting: BTreeMap<NodeId, VecDeque<Due>>,
    count: usize,
    /// Whose was given last.
    turn: Option<NodeId>,
    /// When the next one may be given.
    at: Option<Instant>,
}

#[derive(Debug)]
struct Bucket {
    left: u32,
    filled: Instant,
}

impl Dues {
    /// Whether one more can be owed to `author`; asked before it is signed.
    pub(super) fn has_room(&mut self, now: Instant, author: NodeId) -> bool {
        if !self.buckets.contains_key(&author) && self.buckets.len() >= MAX_AUTHORS {
            let waiting = &self.waiting;
            self.buckets.retain(|author, bucket| waiting.contains_key(author) || bucket.fill(now) < BURST);
            if self.buckets.len() >= MAX_AUTHORS {
                return false;
            }
        }
        let waiting = self.waiting.get(&author).map_or(0, VecDeque::len);
        // Who is below its rate does not have to wait, however many do.
        let at_once = waiting == 0 && self.buckets.get_mut(&author).is_none_or(|bucket| bucket.fill(now) > 0);
        at_once || (waiting < MAX_WAITING && self.count < MAX_WAITING_TOTAL)
    }

    /// Owes one more.
    pub(super) fn add(&mut self, now: Instant, due: Due) {
        let bucket = self.buckets.entry(due.author).or_insert(Bucket { left: BURST, filled: now });
        let at = bucket.ready_at(now);
        self.at = Some(self.at.map_or(at, |before| before.min(at)));
        self.waiting.entry(due.author).or_default().push_back(due);
        self.count += 1;
    }

    /// One that may be given now, of the author whose turn it is.
    pub(super) fn next(&mut self, now: Instant) -> Option<Due> {
        if self.at.is_none_or(|at| at > now) {
            return None;
        }
        let later = self.waiting.range((self.turn.map_or(Unbounded, Excluded), Unbounded));
        let earlier = self.turn.into_iter().flat_map(|turn| self.waiting.range(..=turn));
        let mut first = None;
        for (&author, _) in later.chain(earlier) {
            let at = self.buckets.get_mut(&author).map_or(now, |bucket| bucket.ready_at(now));
            if at <= now {
                return self.take(author);
            }
            first = Some(first.map_or(at, |before: Instant| before.min(at)));
        }
        self.at = first;
        None
    }

    /// They cannot be sent now.
    pub(super) fn wait(&mut self, now: Instant) {
        self.at = self.at.map(|at| at.max(now + REFILL));
    }

    /// When the next one may be given.
    pub(super) const fn deadline(&self) -> Option<Instant> {
        self.at
    }

    fn take(&mut self, author: NodeId) -> Option<Due> {
        let waiting = self.waiting.get_mut(&author)?;
        let due = waiting.pop_front()?;
        if waiting.is_empty() {
            self.waiting.remove(&author);
        }
        if let Some(bucket) = self.buckets.get_mut(&author) {
            bucket.left = bucket.left.saturating_sub(1);
        }
        self.count -= 1;
        self.turn = Some(author);
        Some(due)
    }
}

impl Bucket {
    /// Takes in what time has brought, and returns what is there.
    fn fill(&mut self, now: Instant) -> u32 {
        let refills = now.saturating_duration_since(self.filled).as_millis() / REFILL.as_millis();
        let refills = u32::try_from(refills).unwrap_or(u32::MAX);
        self.left = self.left.saturating_add(refills).min(BURST);
        // What is left of the time counts on, unless there is no room for it.
        self.filled = if self.left == BURST { now } else { self.filled + REFILL * refills };
        self.left
    }

    fn ready_at(&mut self, now: Instant) -> Instant {
        if self.fill(now) > 0 { now } else { self.filled + REFILL }
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_id as id;
    use super::*;

    fn owe(dues: &mut Dues, now: Instant, author: u64, seq: u64) -> bool {
        let room = dues.has_room(now, id(author));
        if room {
            dues.add(now, Due { author: id(author), seq, signature: [0; 64] });
        }
        room
    }

    fn given(dues: &mut Dues, now: Instant) -> Vec<(NodeId, u64)> {
        std::iter::from_fn(|| dues.next(now)).map(|due| (due.author, due.seq)).collect()
    }

    #[test]
    fn what_is_above_the_rate_waits_and_all_of_it_comes_in_order() {
        let (start, mut dues) = (Instant::now(), Dues::default());
        let mut now = start;
        assert_eq!(dues.deadline(), None);
        assert!((0..300).all(|seq| owe(&mut dues, now, 1, seq)));
        let mut all = given(&mut dues, now);
        assert_eq!(all.len(), BURST as usize);
        while let Some(at) = dues.deadline() {
            assert!(at > now, "no busy loop");
            // A clock that is looked at somewhat later each time costs nothing.
            now = at + Duration::from_millis(3);
            all.extend(given(&mut dues, now));
        }
        assert_eq!(all, (0..300).map(|seq| (id(1), seq)).collect::<Vec<_>>());
        let took = now - start;
        assert!(took >= REFILL * (300 - BURST) && took < Duration::from_secs(6), "{took:?}");
        // As many at once again after the time of a burst, and no more.
        assert!((0..100).all(|seq| owe(&mut dues, now + REFILL * BURST, 1, seq)));
        assert_eq!(given(&mut dues, now + REFILL * BURST).len(), BURST as usize);
    }

    #[test]
    fn authors_have_their_turns() {
        let (now, mut dues) = (Instant::now(), Dues::default());
        assert!((0..3).all(|seq| owe(&mut dues, now, 1, seq) && owe(&mut dues, now, 2, seq)));
        let turns = (0..3).flat_map(|seq| [(id(1), seq), (id(2), seq)]);
        assert_eq!(given(&mut dues, now), turns.collect::<Vec<_>>());
        assert_eq!((dues.count, dues.deadline()), (0, None));
    }

    #[test]
    fn while_nothing_can_be_sent_it_waits() {
        let (now, mut dues) = (Instant::now(), Dues::default());
        assert!(owe(&mut dues, now, 1, 7));
        dues.wait(now);
        assert_eq!((dues.deadline(), dues.next(now)), (Some(now + REFILL), None));
        assert_eq!(given(&mut dues, now + REFILL), [(id(1), 7)]);
    }

    #[test]
    fn what_waits_and_who_is_counted_is_bounded() {
        let (now, mut dues) = (Instant::now(), Dues::default());
        let full = |dues: &mut Dues, author| (0..).take_while(|&seq| owe(dues, now, author, seq)).count();
        assert_eq!(full(&mut dues, 1), MAX_WAITING);
        let of_seven = (2..9).map(|author| full(&mut dues, author)).sum::<usize>();
        assert_eq!(of_seven, MAX_WAITING_TOTAL - MAX_WAITING);
        assert!((9..20).all(|author| full(&mut dues, author) == 1), "one that need not have waited");
        let mut dues = Dues::default();
        let author = |n: usize| u64::try_from(n).unwrap();
        for n in 0..2 * MAX_AUTHORS {
            assert_eq!(owe(&mut dues, now, author(n), 0), n < MAX_AUTHORS);
        }
        assert_eq!(given(&mut dues, now).len(), MAX_AUTHORS);
        assert!(!owe(&mut dues, now, author(MAX_AUTHORS), 0));
        assert!(owe(&mut dues, now + REFILL, author(MAX_AUTHORS), 0), "the others have been quiet");
        assert_eq!(dues.buckets.len(), 1);
    }

    #[test]
    fn an_author_below_its_rate_has_room_however_many_wait() {
        let (now, mut dues) = (Instant::now(), Dues::default());
        let mut owe = |author: u64| {
            let has_room = dues.has_room(now, id(author));
            if has_room {
                dues.add(now, Due { author: id(author), seq: 0, signature: [0; 64] });
                while dues.next(now).is_some() {}
            }
            has_room
        };
        for author in 0..9 {
            while owe(author) {}
        }
        assert!((0..9).all(|author| !owe(author)) && owe(9) && owe(9));
    }
}
