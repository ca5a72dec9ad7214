//! The numbers of this node's own messages: they never repeat for its key, not after kill -9 either.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::data::{RESERVE, read_reserved, write_reserved};

/// Hands out numbers below what is reserved on disk, or all of them where nothing is kept on disk: such a node has a key of
/// its own that nobody knows after it, or one that it was given and goes on by the clock.
#[derive(Debug)]
pub(crate) struct Sequence {
    /// The first number of this process; holes are looked for from here on only.
    run: u64,
    next: u64,
    /// Numbers below this one may be used.
    reserved: u64,
    reserving: bool,
    path: Option<PathBuf>,
}

impl Sequence {
    /// `new_identity`: the key was made just now, so no number can have been used.
    pub(crate) fn open(path: Option<PathBuf>, new_identity: bool) -> Self {
        let now_us = micros_since_1970();
        let run = match &path {
            _ if new_identity => 1,
            Some(path) => read_reserved(path, now_us),
            None => now_us,
        };
        Self { run, next: run, reserved: reserved_from(run, path.as_deref()), reserving: false, path }
    }

    pub(crate) const fn run(&self) -> u64 {
        self.run
    }

    /// Whether [`Sequence::take`] would give one.
    pub(crate) const fn has_next(&self) -> bool {
        self.next < self.reserved
    }

    /// The next number, unless it has to be reserved first.
    pub(crate) const fn take(&mut self) -> Option<u64> {
        if !self.has_next() {
            return None;
        }
        self.next += 1;
        Some(self.next - 1)
    }

    /// What has to be written to disk now, if anything: the caller does it on a blocking thread and
    /// reports to [`Sequence::on_reserved`].
    pub(crate) fn reservation(&mut self) -> Option<impl FnOnce() -> std::io::Result<u64> + Send + use<>> {
        let until = self.next.saturating_add(RESERVE);
        // Behind the last number of all there is nothing to reserve.
        if self.reserving || self.reserved - self.next >= RESERVE / 2 || until == self.reserved {
            return None;
        }
        self.reserving = true;
        let path = self.path.clone()?;
        Some(move || write_reserved(&path, until).map(|()| until))
    }

    pub(crate) fn on_reserved(&mut self, result: &std::io::Result<u64>) {
        self.reserving = false;
        if let Ok(until) = result {
            self.reserved = self.reserved.max(*until);
        }
    }

    /// What has to be written to disk at the end, so that the next process goes on right behind the last number that was used:
    /// numbers without a hole are one range to all that keep or compare them. No number is given out after it. One is used up
    /// where none was: a run rises from start to start, and address records go by it.
    pub(crate) fn give_back(&mut self) -> Option<impl FnOnce() -> std::io::Result<()> + Send + use<>> {
        // A reservation that is being written may come after what is written here; then some numbers stay unused.
        if self.reserving || self.next >= self.reserved {
            return None;
        }
        self.reserved = self.next;
        let (path, next) = (self.path.clone()?, self.next.max(self.run.saturating_add(1)));
        Some(move || write_reserved(&path, next))
    }

    /// Somebody used numbers of this key up to `end` (exclusive): go on behind them, as a new run.
    /// Returns whether that was news.
    pub(crate) fn jump(&mut self, end: u64) -> bool {
        if end <= self.next {
            return false;
        }
        self.run = end;
        self.next = end;
        self.reserved = reserved_from(end, self.path.as_deref());
        true
    }
}

/// Numbers below this one may be used by a run that starts at `run` before anything is written.
fn reserved_from(run: u64, path: Option<&Path>) -> u64 {
    if path.is_some() { run } else { u64::MAX }
}

fn micros_since_1970() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reserve(sequence: &mut Sequence) {
        if let Some(write) = sequence.reservation() {
            sequence.on_reserved(&write());
        }
    }

    #[test]
    fn a_number_is_never_used_twice_whenever_the_process_dies() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seq");
        let mut last = 0;
        for run in 0..5u64 {
            let mut sequence = Sequence::open(Some(path.clone()), run == 0);
            assert_eq!(sequence.take(), None, "nothing before the reservation is on disk");
            for _ in 0..=run * 3000 {
                reserve(&mut sequence);
                let n = sequence.take().unwrap();
                assert!(n > last || (run == 0 && n == 1));
                last = n;
            }
            // Dropped here without a word: kill -9.
        }
    }

    #[test]
    fn one_that_ends_well_leaves_no_numbers_unused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seq");
        for run in 0..3u64 {
            let mut sequence = Sequence::open(Some(path.clone()), run == 0);
            assert_eq!(sequence.run(), 1 + 5 * run);
            assert!(sequence.give_back().is_none(), "nothing is reserved");
            reserve(&mut sequence);
            for n in 0..5 {
                assert_eq!(sequence.take(), Some(1 + 5 * run + n));
            }
            let give_back = sequence.give_back().unwrap();
            assert_eq!(sequence.take(), None);
            give_back().unwrap();
        }
        // A run that used none is not the next one's.
        let mut sequence = Sequence::open(Some(path.clone()), false);
        reserve(&mut sequence);
        sequence.give_back().unwrap()().unwrap();
        // One that dies, or whose reservation is under way, gives nothing back.
        let mut sequence = Sequence::open(Some(path.clone()), false);
        reserve(&mut sequence);
        sequence.next = sequence.reserved - 1;
        let write = sequence.reservation().unwrap();
        assert!(sequence.give_back().is_none());
        write().unwrap();
        assert_eq!(Sequence::open(Some(path), false).run(), 17 + 2 * RESERVE - 1);
    }

    #[test]
    fn a_jump_goes_past_what_was_seen_and_starts_a_new_run() {
        let dir = tempfile::tempdir().unwrap();
        let mut sequence = Sequence::open(Some(dir.path().join("seq")), true);
        reserve(&mut sequence);
        assert_eq!(sequence.take(), Some(1));
        assert!(!sequence.jump(2));
        assert!(sequence.jump(500));
        assert_eq!(sequence.take(), None);
        reserve(&mut sequence);
        assert_eq!((sequence.take(), sequence.run()), (Some(500), 500));
        // Behind the last number nothing is asked of the disk again and again.
        assert!(sequence.jump(u64::MAX - 1));
        reserve(&mut sequence);
        assert_eq!((sequence.take(), sequence.take()), (Some(u64::MAX - 1), None));
        assert!(sequence.reservation().is_none());
    }

    #[test]
    fn without_a_disk_all_numbers_may_be_used_and_a_key_that_was_given_goes_on_by_the_clock() {
        let mut own = Sequence::open(None, true);
        assert_eq!((own.take(), own.run(), own.reservation().is_none()), (Some(1), 1, true));
        assert!(own.jump(500) && own.reservation().is_none());
        assert_eq!((own.take(), own.run()), (Some(500), 500));
        let before = micros_since_1970();
        let given = Sequence::open(None, false);
        assert!((before..=micros_since_1970()).contains(&given.run()) && given.has_next());
    }
}
