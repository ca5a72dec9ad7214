//! A token bucket on borrowed time.

use std::time::{Duration, Instant};

/// Tokens that refill at a rate up to a burst. Spending may overdraw it; the debt is paid before anything is
/// free again.
#[derive(Debug)]
pub(crate) struct Bucket {
    /// So many make a token that one token a minute comes in whole ones, one a millisecond: refilling in small
    /// steps loses nothing worth having.
    parts: i64,
    per_minute: i64,
    burst: u32,
    refilled: Instant,
}

/// Parts of a token.
const TOKEN: i64 = 60_000;

impl Bucket {
    pub(crate) fn new(now: Instant, per_sec: u32, burst: u32) -> Self {
        Self::with_rate(now, i64::from(per_sec) * 60, burst)
    }

    pub(crate) fn per_minute(now: Instant, per_minute: u32, burst: u32) -> Self {
        Self::with_rate(now, i64::from(per_minute), burst)
    }

    fn with_rate(now: Instant, per_minute: i64, burst: u32) -> Self {
        Self { parts: i64::from(burst) * TOKEN, per_minute, burst, refilled: now }
    }

    /// Takes a token if one is there.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let has = self.has(now);
        if has {
            self.spend(now);
        }
        has
    }

    /// Takes so many tokens if they are there.
    pub(crate) fn take_many(&mut self, now: Instant, tokens: u32) -> bool {
        let has = self.tokens(now) >= u64::from(tokens);
        if has {
            self.parts -= i64::from(tokens) * TOKEN;
        }
        has
    }

    /// How many whole tokens are there.
    pub(crate) fn tokens(&mut self, now: Instant) -> u64 {
        self.refill(now);
        u64::try_from(self.parts / TOKEN).unwrap_or(0)
    }

    /// Whether a whole token is there.
    pub(crate) fn has(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.parts >= TOKEN
    }

    /// How long until a whole token is there.
    pub(crate) fn wait(&mut self, now: Instant) -> Duration {
        self.refill(now);
        let lacking = u64::try_from(TOKEN - self.parts).unwrap_or(0);
        let per_ms = u64::try_from(self.per_minute).unwrap_or(0).max(1);
        // Refills count from the last whole millisecond.
        let since = now.saturating_duration_since(self.refilled);
        Duration::from_millis(lacking.div_ceil(per_ms)).saturating_sub(since)
    }

    /// Whether all of the burst is there.
    pub(crate) fn is_full(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.parts >= i64::from(self.burst) * TOKEN
    }

    /// Takes a token, there or not.
    pub(crate) fn spend(&mut self, now: Instant) {
        self.refill(now);
        self.parts = self.parts.saturating_sub(TOKEN);
    }

    fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.refilled);
        let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        let gained = i64::try_from(millis).unwrap_or(i64::MAX).saturating_mul(self.per_minute);
        // Whole milliseconds only: the rest counts next time.
        self.refilled += Duration::from_millis(millis);
        self.parts = self.parts.saturating_add(gained).min(i64::from(self.burst) * TOKEN);
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
    fn a_token_is_there_when_it_said_and_not_before() {
        let mut now = Instant::now();
        let mut bucket = Bucket::new(now, 7, 3);
        for _ in 0..20 {
            let wait = bucket.wait(now);
            if let Some(before) = wait.checked_sub(Duration::from_millis(1)) {
                assert!(!bucket.has(now + before));
            }
            now += wait;
            assert!(bucket.take(now), "after {wait:?}");
            now += Duration::from_micros(300);
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the first")]
    fn many_are_taken_all_or_none() {
        let start = Instant::now();
        let mut bucket = Bucket::new(start, 10, 100);
        assert!(bucket.take_many(start, 60) && !bucket.take_many(start, 60) && bucket.take_many(start, 40));
        assert_eq!(bucket.tokens(start + Duration::from_secs(3)), 30);
        bucket.spend(start);
        assert_eq!(bucket.tokens(start + Duration::from_secs(3)), 29);
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
