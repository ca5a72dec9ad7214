//! How much of the messages taken from a queue may be on their way over one link at once: between that queue, in which
//! authors are served in turn, and the other side's handling, everything waits in one row.
//!
//! Pings go with the messages as marks. Whoever answers one has handled all that came before it, so the time of the answer
//! is the length of that row, and the window follows it: as much as the other side handles in a time that is short where
//! authors compete, since who says little waits behind who says much. (The measure of TCP Vegas, Brakmo and Peterson 1994, and
//! the law of FAST TCP, Wei, Jin, Low and Hegde 2006, at the level of frames handled.)

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

/// The row's length that is aimed at, beyond the shortest answer.
const WAIT: Duration = Duration::from_millis(50);
/// The same where several authors' messages go: as long again as the shortest answer, within these. A longer way varies more;
/// where it is short, the other side's processor having other work for a moment takes as long. (With one author it is not
/// worth its price: among 100 nodes on 2 cores a sixth to a third fewer messages went through.)
const SHARED_WAIT: RangeInclusive<Duration> = Duration::from_millis(10)..=WAIT;
/// How long authors are taken to compete after they did.
const SHARED: Duration = Duration::from_secs(2);
/// The window at first, and when a link is slow.
const LEAST: usize = 16 << 10;
/// At a round trip of 100 ms enough for 10 MB/s.
const MOST: usize = 1 << 20;
/// Who comes back this much too late to look stood still itself, and the other side may have answered meanwhile.
const LATE: Duration = Duration::from_secs(1);
/// Marks are told from the pings of liveness, which count from 1.
const MARK: u64 = 1 << 63;

/// The window of one link. Bytes are those of frames.
#[derive(Debug)]
pub(crate) struct Window {
    limit: usize,
    /// Since the link came up.
    taken: u64,
    handled: u64,
    /// Not answered yet; those whose answers would open the window first.
    marks: VecDeque<Mark>,
    marked: u64,
    /// How long an answer takes without a row: the shortest one. While the window is the least one, which leaves no row to speak
    /// of, it follows longer ones: the way became longer.
    shortest: Option<Duration>,
    /// Bytes that were under way when the mark was sent that was answered last, and how long they took beyond the shortest
    /// answer.
    flight: u64,
    row: Duration,
    /// When messages of several authors were taken.
    shared_at: Option<Instant>,
    /// Since when messages have waited for an answer, since the last one.
    blocked: Option<Instant>,
}

#[derive(Debug)]
struct Mark {
    number: u64,
    /// What was taken before it.
    taken: u64,
    at: Instant,
    /// What had been handled then.
    handled: u64,
}

impl Window {
    pub(crate) const fn new() -> Self {
        Self {
            limit: LEAST,
            taken: 0,
            handled: 0,
            marks: VecDeque::new(),
            marked: 0,
            shortest: None,
            flight: LEAST as u64,
            row: Duration::ZERO,
            shared_at: None,
            blocked: None,
        }
    }

    /// Bytes that may be taken now, half of the window at a time; what is larger is taken all the same when this is not 0.
    pub(crate) fn room(&self) -> usize {
        // Without a mark on its way nothing would ever open it.
        let used = if self.marks.is_empty() { 0 } else { self.taken - self.handled };
        self.limit.saturating_sub(usize::try_from(used).unwrap_or(usize::MAX)).min(self.limit / 2)
    }

    /// So much was taken, of several authors or of one. Returns the number of a ping that has to follow it, if one does.
    pub(crate) fn took(&mut self, now: Instant, bytes: usize, several: bool) -> Option<u64> {
        (self.taken, self.blocked) = (self.taken + bytes as u64, None);
        if several {
            let was_shared = self.is_shared(now);
            self.shared_at = Some(now);
            if !was_shared {
                // At once: what one author filled before drains only as fast as the other side handles it.
                self.limit = self.fits(true).clamp(LEAST, self.limit);
            }
        }
        let since = self.taken - self.marks.back().map_or(self.handled, |mark| mark.taken);
        if since < self.limit as u64 / 2 {
            return None;
        }
        Some(self.push_mark(now))
    }

    /// Bytes that were taken.
    pub(crate) const fn taken(&self) -> u64 {
        self.taken
    }

    /// Of these, what the other side has said to have handled.
    pub(crate) const fn handled(&self) -> u64 {
        self.handled
    }

    /// Bytes that were taken and are not known to have been handled.
    pub(crate) const fn under_way(&self) -> u64 {
        self.taken - self.handled
    }

    /// The number of a ping to send now, behind all that was taken, if none is on its way there.
    pub(crate) fn mark(&mut self, now: Instant) -> Option<u64> {
        let is_marked = self.marks.back().is_some_and(|mark| mark.taken == self.taken);
        (self.under_way() > 0 && !is_marked).then(|| self.push_mark(now))
    }

    fn push_mark(&mut self, now: Instant) -> u64 {
        self.marked += 1;
        let number = MARK | self.marked;
        self.marks.push_back(Mark { number, taken: self.taken, at: now, handled: self.handled });
        number
    }

    /// A ping was answered. Whether it was a mark, and the window may be open again.
    pub(crate) fn answered(&mut self, now: Instant, number: u64) -> bool {
        let Some(at) = self.marks.iter().position(|mark| mark.number == number) else { return false };
        let Some(mark) = self.marks.drain(..=at).next_back() else { return false };
        (self.handled, self.blocked) = (mark.taken, None);
        self.learn(now, mark.taken - mark.handled, now.saturating_duration_since(mark.at));
        true
    }

    fn is_shared(&self, now: Instant) -> bool {
        self.shared_at.is_some_and(|at| now.saturating_duration_since(at) < SHARED)
    }

    /// What is handled in the time that is aimed at, at the latest pace.
    fn fits(&self, is_shared: bool) -> usize {
        let shortest = self.shortest.unwrap_or_default();
        let wait = if is_shared { shortest.clamp(*SHARED_WAIT.start(), *SHARED_WAIT.end()) } else { WAIT };
        let row = self.row.as_micros().max(1);
        usize::try_from(u128::from(self.flight) * wait.as_micros() / row).unwrap_or(MOST)
    }

    /// So many bytes were under way when a mark followed them, and this long after it they were handled. The window goes half of
    /// the way to what fits.
    fn learn(&mut self, now: Instant, flight: u64, took: Duration) {
        let mut shortest = self.shortest.map_or(took, |old| took.min(old));
        if self.limit == LEAST {
            shortest += (took - shortest) / 2;
        }
        self.shortest = Some(shortest);
        (self.flight, self.row) = (flight, took.saturating_sub(shortest));
        let fits = self.fits(self.is_shared(now)).clamp(self.limit / 2, self.limit * 2);
        // A window that was not used says nothing of a larger one.
        if fits < self.limit || flight >= self.limit as u64 / 2 {
            self.limit = ((self.limit + fits) / 2).clamp(LEAST, MOST);
        }
    }

    /// Messages wait, and there is no room for them. Returns until when an answer may open the window, `None` if none came
    /// within `stall`. Counted from the first call since something was taken or answered: before that the writer may
    /// still have been at work on what was taken.
    pub(crate) fn wait(&mut self, now: Instant, stall: Duration) -> Option<Instant> {
        let until = *self.blocked.get_or_insert(now) + stall;
        if now > until + LATE {
            self.blocked = Some(now);
            return Some(now + stall);
        }
        (now < until).then_some(until)
    }

    /// No message waits.
    pub(crate) const fn rest(&mut self) {
        self.blocked = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// A link that handles so many bytes a millisecond, and whose answers are then under way for `way`. Gives it messages of one
    /// author or of several for so many rounds, always enough of them; returns the row's length in each.
    fn rows(
        window: &mut Window,
        bytes_per_ms: u64,
        mut way: impl FnMut() -> Duration,
        several: bool,
        rounds: usize,
    ) -> Vec<Duration> {
        // Later than all that came before.
        let mut now = Instant::now() + ms(window.taken);
        let (mut free, mut back, mut answers) = (now, now, VecDeque::new());
        let mut rows = Vec::new();
        while rows.len() < rounds {
            while window.room() > 0 {
                let bytes = window.room().min(8 << 10);
                let mark = window.took(now, bytes, several);
                free = free.max(now) + Duration::from_micros(1000 * bytes as u64 / bytes_per_ms);
                if let Some(mark) = mark {
                    back = back.max(free + way());
                    answers.push_back((back, mark));
                    rows.push(free - now);
                }
            }
            let (at, mark) = answers.pop_front().expect("a closed window waits for an answer");
            now = now.max(at);
            assert!(window.answered(now, mark));
        }
        for (at, mark) in answers {
            window.answered(at, mark);
        }
        rows
    }

    #[test]
    fn a_fast_link_is_filled_and_a_slow_one_has_a_short_row() {
        for several in [false, true] {
            let mut fast = Window::new();
            rows(&mut fast, 20_000, || ms(50), several, 200);
            assert_eq!(fast.limit, MOST, "{fast:?}");
            let waits = if several { [30, 50, 2_500] } else { [120, 120, 2_500] };
            for ((bytes_per_ms, way), longest) in [(4_000, 1), (800, 1), (20, 20)].into_iter().zip(waits) {
                let rows = rows(&mut Window::new(), bytes_per_ms, || ms(way), several, 200);
                let row = rows[100..].iter().max().unwrap();
                assert!(*row < ms(longest), "{row:?} at {bytes_per_ms} kB/s, several: {several}");
            }
        }
    }

    /// Ways that vary: as much as they are long, and a short one of which some answers are much later.
    #[test]
    fn a_way_that_varies_is_no_row() {
        let mut seed = 1_u64;
        let mut random = move || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) as f64 / (1_u64 << 31) as f64
        };
        let mut far = Window::new();
        rows(&mut far, 20_000, || ms(40).mul_f64(1.0 + random()), true, 400);
        assert!(far.limit > MOST / 2, "{}", far.limit);
        let mut radio = Window::new();
        rows(&mut radio, 20_000, || ms(2) + ms(30).mul_f64(random().powi(4)), true, 400);
        // More than what is handled in such a time.
        assert!(radio.limit > 20_000 * 10, "{}", radio.limit);
    }

    #[test]
    fn a_way_that_becomes_longer_is_learnt() {
        let mut window = Window::new();
        rows(&mut window, 20_000, || ms(5), true, 100);
        rows(&mut window, 20_000, || ms(200), true, 400);
        assert_eq!(window.limit, MOST);
    }

    #[test]
    fn a_link_that_becomes_slow_gets_a_shorter_row() {
        let mut window = Window::new();
        rows(&mut window, 20_000, || ms(5), true, 100);
        assert!(window.limit > 20_000 * 10, "{}", window.limit);
        let rows = rows(&mut window, 100, || ms(5), true, 200);
        assert!(rows[..10].iter().max() > Some(&ms(2_000)), "{rows:?}");
        assert!(rows[50..].iter().max() < Some(&ms(500)), "{rows:?}");
        assert!(window.limit < 3 * LEAST, "{}", window.limit);
    }

    /// 4 MB/s: one author has 50 ms of it under way, and the moment another one comes about 10.
    #[test]
    fn a_second_author_shortens_the_row_at_once() {
        let (mut window, mut now) = (Window::new(), Instant::now());
        let (mut free, mut answers) = (now, VecDeque::new());
        let mut before = 0;
        for round in 0..600 {
            let several = round >= 500;
            if round == 500 {
                before = window.limit;
            }
            while window.room() > 0 {
                let bytes = window.room().min(8 << 10);
                free = free.max(now) + Duration::from_micros(bytes as u64 / 4);
                answers.extend(window.took(now, bytes, several).map(|mark| (free + ms(1), mark)));
            }
            if round == 500 {
                let most = 2 * 4_000 * 10;
                assert!(
                    before > 4_000 * 50 && (LEAST..most).contains(&window.limit),
                    "{before}, {}",
                    window.limit
                );
            }
            let (at, mark) = answers.pop_front().expect("a closed window waits for an answer");
            now = now.max(at);
            assert!(window.answered(now, mark));
        }
        assert!(window.limit < 2 * 4_000 * 10, "{}", window.limit);
    }

    #[test]
    fn who_handles_nothing_has_its_time_and_who_stood_still_asks_again() {
        let (stall, now) = (ms(10_000), Instant::now());
        let mut window = Window::new();
        let marks: Vec<u64> =
            (0..2).map(|_| window.took(now, LEAST / 2, false).expect("half of it")).collect();
        // What was taken is written for long.
        let now = now + ms(60_000);
        assert_eq!(window.wait(now, stall), Some(now + stall));
        assert_eq!(window.wait(now + ms(9_999), stall), Some(now + stall));
        assert_eq!(window.wait(now + stall, stall), None);
        assert!(window.answered(now + stall, marks[0]));
        let now = now + stall + ms(1);
        assert_eq!(window.wait(now, stall), Some(now + stall), "it goes on");
        let late = now + stall + LATE + ms(1);
        assert_eq!(window.wait(late, stall), Some(late + stall), "its answer may lie unread");
        assert_eq!(window.wait(late + stall, stall), None);
        window.rest();
        assert!(window.wait(late + stall, stall).is_some());
    }

    #[test]
    fn answers_that_were_not_asked_for_change_nothing() {
        let (mut window, now) = (Window::new(), Instant::now());
        assert_eq!(window.room(), LEAST / 2);
        let mark = window.took(now, LEAST, false).expect("it is full");
        assert_eq!(window.room(), 0);
        for number in [0, 1, mark + 1, mark & !MARK] {
            assert!(!window.answered(now, number));
        }
        assert_eq!(window.room(), 0);
        assert!(window.answered(now + ms(1), mark) && !window.answered(now, mark));
        assert!(window.room() >= LEAST / 2);
    }

    proptest! {
        /// Whatever is taken and answered when: a closed window waits for an answer, and no more is on its way than the
        /// largest window and one frame beyond it.
        #[test]
        fn it_never_closes_for_good(steps in prop::collection::vec((1usize..2_000_000, any::<[bool; 2]>(), 0u64..3_000), 1..200)) {
            let (mut window, mut now) = (Window::new(), Instant::now());
            let mut on_its_way = VecDeque::new();
            for (bytes, [answer, several], wait) in steps {
                now += ms(wait);
                if answer && let Some(mark) = on_its_way.pop_front() {
                    prop_assert!(window.answered(now, mark));
                }
                if window.room() > 0 {
                    on_its_way.extend(window.took(now, bytes, several));
                }
                prop_assert!(window.room() > 0 || !on_its_way.is_empty());
                prop_assert!((LEAST..=MOST).contains(&window.limit));
                prop_assert_eq!(window.marks.len(), on_its_way.len());
                // A mark for each half of the least window at most.
                prop_assert!(window.marks.len() <= 2 * MOST / LEAST + 1);
            }
        }
    }
}
