//! How much of the messages taken from a queue may be on their way over one link at once: between that queue, in which
//! authors are served in turn, and the other side's handling, everything waits in one row.
//!
//! Pings go with the messages as marks. Whoever answers one has handled all that came before it, so the time of the answer
//! is the length of that row, and the window follows it: a link that keeps up gets more and more, one that does not as much
//! as it handles in [`WAIT`]. (The measure of TCP Vegas, Brakmo and Peterson 1994, at the level of frames handled.)

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The row's length that is aimed at, as time beyond the shortest answer.
const WAIT: Duration = Duration::from_millis(100);
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
    /// Of all answers: a link whose way became longer by more than [`WAIT`] goes on with the least window.
    shortest: Option<Duration>,
    /// Since when messages have waited for an answer, since the last one.
    blocked: Option<Instant>,
}

#[derive(Debug)]
struct Mark {
    number: u64,
    /// What was taken before it.
    taken: u64,
    at: Instant,
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
            blocked: None,
        }
    }

    /// Bytes that may be taken now, half of the window at a time; what is larger is taken all the same when this is not 0.
    pub(crate) fn room(&self) -> usize {
        // Without a mark on its way nothing would ever open it.
        let used = if self.marks.is_empty() { 0 } else { self.taken - self.handled };
        self.limit.saturating_sub(usize::try_from(used).unwrap_or(usize::MAX)).min(self.limit / 2)
    }

    /// So much was taken. Returns the number of a ping that has to follow it, if one does.
    pub(crate) fn took(&mut self, now: Instant, bytes: usize) -> Option<u64> {
        (self.taken, self.blocked) = (self.taken + bytes as u64, None);
        let since = self.taken - self.marks.back().map_or(self.handled, |mark| mark.taken);
        if since < self.limit as u64 / 2 {
            return None;
        }
        self.marked += 1;
        let number = MARK | self.marked;
        self.marks.push_back(Mark { number, taken: self.taken, at: now });
        Some(number)
    }

    /// A ping was answered. Whether it was a mark, and the window may be open again.
    pub(crate) fn answered(&mut self, now: Instant, number: u64) -> bool {
        let Some(at) = self.marks.iter().position(|mark| mark.number == number) else { return false };
        let Some(mark) = self.marks.drain(..=at).next_back() else { return false };
        let was_full = self.taken - self.handled >= self.limit as u64 / 2;
        (self.handled, self.blocked) = (mark.taken, None);
        let took = now.saturating_duration_since(mark.at);
        let shortest = self.shortest.map_or(took, |old| took.min(old));
        self.shortest = Some(shortest);
        let aim = shortest + WAIT;
        if took > aim {
            let fits = self.limit as u128 * aim.as_micros() / took.as_micros();
            let fits = usize::try_from(fits).unwrap_or(MOST);
            self.limit = fits.clamp((self.limit / 2).max(LEAST), MOST);
        } else if was_full && took < shortest + WAIT / 2 {
            self.limit = (self.limit * 2).min(MOST);
        }
        true
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

    /// A link that handles so many bytes a millisecond, and answers after `way`; returns the row's length in each of the
    /// last rounds, for a sender that always has something.
    fn rows(bytes_per_ms: u64, way: Duration, rounds: usize) -> (Window, Vec<Duration>) {
        let (mut window, mut now) = (Window::new(), Instant::now());
        let (mut free, mut answers) = (now, VecDeque::new());
        let mut rows = Vec::new();
        while rows.len() < rounds {
            while window.room() > 0 {
                let bytes = window.room().min(8 << 10);
                let mark = window.took(now, bytes);
                free = free.max(now) + ms(1) * u32::try_from(bytes as u64 / bytes_per_ms).unwrap();
                if let Some(mark) = mark {
                    answers.push_back((free + way, mark));
                    rows.push(free - now);
                }
            }
            let (at, mark) = answers.pop_front().expect("a closed window waits for an answer");
            now = now.max(at);
            assert!(window.answered(now, mark));
        }
        (window, rows)
    }

    #[test]
    fn a_fast_link_is_filled_and_a_slow_one_has_a_short_row() {
        let (fast, _) = rows(20_000, ms(50), 200);
        assert_eq!(fast.limit, MOST);
        let (_, slow) = rows(800, ms(1), 200);
        let late = slow[100..].iter().max().unwrap();
        assert!(*late < ms(250), "{late:?} at 800 kB/s");
        let (_, least) = rows(20, ms(20), 100);
        let late = least.iter().max().unwrap();
        assert!(*late < ms(2_500), "{late:?} at 20 kB/s");
    }

    #[test]
    fn a_link_that_becomes_slow_gets_a_shorter_row() {
        let (mut window, now) = (rows(20_000, ms(5), 100).0, Instant::now() + ms(60_000));
        assert_eq!(window.limit, MOST);
        for second in 0..20 {
            let now = now + ms(1000) * second;
            while let Some(mark) = window.marks.front().map(|mark| mark.number) {
                window.answered(now, mark);
            }
            while window.room() > 0 {
                window.took(now, window.room());
            }
        }
        assert_eq!(window.limit, LEAST);
    }

    #[test]
    fn who_handles_nothing_has_its_time_and_who_stood_still_asks_again() {
        let (stall, now) = (ms(10_000), Instant::now());
        let mut window = Window::new();
        let marks: Vec<u64> = (0..2).map(|_| window.took(now, LEAST / 2).expect("half of it")).collect();
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
        let mark = window.took(now, LEAST).expect("it is full");
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
        fn it_never_closes_for_good(steps in prop::collection::vec((1usize..2_000_000, any::<bool>(), 0u64..3_000), 1..200)) {
            let (mut window, mut now) = (Window::new(), Instant::now());
            let mut on_its_way = VecDeque::new();
            for (bytes, answer, wait) in steps {
                now += ms(wait);
                if answer && let Some(mark) = on_its_way.pop_front() {
                    prop_assert!(window.answered(now, mark));
                }
                if window.room() > 0 {
                    on_its_way.extend(window.took(now, bytes));
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
