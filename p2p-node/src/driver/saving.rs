//! When the peer table is written: once it has changed, and again a while after that failed.

use std::time::{Duration, Instant};

/// After a failed write the next one waits so long, doubling: a disk that is full, or a folder that is gone, stays so for a
/// while, and may be mended at any time.
const AGAIN: Duration = Duration::from_secs(2);
const AGAIN_MAX: Duration = Duration::from_secs(300);

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Saving {
    /// The table changed since it was last written.
    changed: bool,
    running: bool,
    /// Not before then, and how long that was.
    again: Option<(Instant, Duration)>,
}

impl Saving {
    pub(super) const fn change(&mut self) {
        self.changed = true;
    }

    /// Whether it is to be written now; it is being written then, until [`Saving::end`].
    pub(super) fn begin(&mut self, now: impl FnOnce() -> Instant) -> bool {
        let waits = !self.changed || self.running;
        if waits || self.again.is_some_and(|(at, _)| now() < at) {
            return false;
        }
        (self.changed, self.running) = (false, true);
        true
    }

    /// It was written, or not. Whether to say so: the first failure of a row is news.
    pub(super) fn end(&mut self, now: Instant, written: bool) -> bool {
        self.running = false;
        let before = self.again.take();
        if !written {
            let wait = before.map_or(AGAIN, |(_, wait)| (wait * 2).min(AGAIN_MAX));
            (self.changed, self.again) = (true, Some((now + wait, wait)));
        }
        before.is_none()
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.again.filter(|_| self.changed && !self.running).map(|(at, _)| at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_written_once() {
        let (now, mut saving) = (Instant::now(), Saving::default());
        assert!(!saving.begin(|| now));
        saving.change();
        assert!(saving.begin(|| now) && !saving.begin(|| now));
        saving.change();
        assert!(!saving.begin(|| now), "one at a time");
        saving.end(now, true);
        assert!(saving.begin(|| now) && !saving.begin(|| now));
        assert_eq!(saving.deadline(), None);
    }

    #[test]
    fn a_failed_write_is_made_up_for_without_another_change_and_not_in_a_hot_loop() {
        let (start, mut saving) = (Instant::now(), Saving::default());
        let mut now = start;
        saving.change();
        assert!(saving.begin(|| now));
        assert!(saving.end(now, false), "news");
        let mut tries = 0;
        while now < start + Duration::from_secs(3600) {
            let at = saving.deadline().unwrap();
            assert!(at >= now + AGAIN && at <= now + AGAIN_MAX);
            saving.change();
            assert!(!saving.begin(|| now), "a change does not hurry it");
            now = at;
            assert!(saving.begin(|| now));
            assert_eq!(saving.deadline(), None);
            assert!(!saving.end(now, false), "no news");
            tries += 1;
        }
        assert!(tries < 25, "{tries} in an hour");
        now = saving.deadline().unwrap();
        assert!(saving.begin(|| now));
        saving.end(now, true);
        assert!(!saving.begin(|| now) && saving.deadline().is_none());
        saving.change();
        assert!(saving.begin(|| now) && saving.end(now, false), "news again");
    }
}
