//! A token bucket on borrowed time.

use std::time::{Duration, Instant};

/// Tokens that refill at a rate up to a burst. Spending may overdraw it; the debt is paid before anything is
/// free again.
#[derive(Debug)]
pub(crate) struct Bucket {
    /// Thousandths of a token, so that refilling in small steps loses nothing worth having.
    milli: i64,
    per_sec: u32,
    burst: u32,
    refilled: Instant,
}

impl Bucket {
    pub(crate) fn new(now: Instant, per_sec: u32, burst: u32) -> Self {
        Self { milli: i64::from(burst) * 1_000, per_sec, burst, refilled: now }
    }

    /// Whether a whole token is there.
    pub(crate) fn has(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.milli >= 1_000
    }

    /// Takes a token, there or not.
    pub(crate) fn spend(&mut self, now: Instant) {
        self.refill(now);
        self.milli = self.milli.saturating_sub(1_000);
    }

    fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.refilled);
        let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        let gained = i64::try_from(millis).unwrap_or(i64::MAX).saturating_mul(i64::from(self.per_sec));
        // Whole milliseconds only: the rest counts next time.
        self.refilled += Duration::from_millis(millis);
        self.milli = self.milli.saturating_add(gained).min(i64::from(self.burst) * 1_000);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the first")]
    fn it_never_gives_more_than_burst_and_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(start, 5, 10);
        let mut given = 0;
        for ms in 0..10_000 {
            let now = start + Duration::from_millis(ms);
            if bucket.has(now) {
                bucket.spend(now);
                given += 1;
            }
        }
        assert_eq!(given, 10 + 49);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the first")]
    fn debt_is_paid_first_and_time_running_back_gives_nothing() {
        let start = Instant::now() + Duration::from_secs(60);
        let mut bucket = Bucket::new(start, 1, 1);
        for _ in 0..3 {
            bucket.spend(start);
        }
        assert!(!bucket.has(start - Duration::from_secs(30)));
        assert!(!bucket.has(start + Duration::from_secs(2)));
        assert!(bucket.has(start + Duration::from_secs(3)));
    }
}
