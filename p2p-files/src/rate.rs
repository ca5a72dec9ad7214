//! Byte rates that several connections share.
//!
//! A limit is one moment: when its next byte may pass. Who wants to pass bytes moves that moment on by what they take
//! and waits until it comes (the "virtual scheduling" form of the leaky bucket, ITU-T I.371 annex A). Connections ask
//! for one small slice at a time, so those that wait are served in turn and get equal shares.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// What may pass at once after a pause. Long enough for timers of a millisecond, too short to fill the queue of a line.
const BURST: Duration = Duration::from_millis(20);

/// Slices in one second, where the bounds below allow it.
const SLICES: u64 = 64;

/// Least and most bytes that are taken at once: a fuller TLS record costs less, a shorter wait shares better.
const SLICE_MIN: u64 = 1 << 10;
const SLICE_MAX: u64 = 64 << 10;

/// A limit on bytes per second, shared by whoever holds it.
///
/// ```
/// use std::sync::Arc;
/// use p2p_files::{RateLimit, Throttle};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let limit = Arc::new(RateLimit::new(1_000_000));
/// let throttle = Throttle::new([limit]);
/// let begin = tokio::time::Instant::now();
/// let mut left = 500_000;
/// while left > 0 {
///     left -= throttle.take(left).await;
/// }
/// let took = begin.elapsed().as_secs_f64();
/// assert!((0.45..=0.5).contains(&took), "{took} s");
/// # }
/// ```
#[derive(Debug)]
pub struct RateLimit {
    bytes_per_second: u64,
    /// When the next byte may pass; `None` before the first.
    next: Mutex<Option<Instant>>,
}

impl RateLimit {
    /// At most so many bytes a second; 0 counts as 1.
    #[must_use]
    pub fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), next: Mutex::new(None) }
    }

    /// The rate.
    #[must_use]
    pub const fn bytes_per_second(&self) -> u64 {
        self.bytes_per_second
    }

    /// Bytes that are taken at once.
    fn slice(&self) -> u64 {
        (self.bytes_per_second / SLICES).clamp(SLICE_MIN, SLICE_MAX)
    }

    /// Most bytes that are taken at once where another limit has larger slices: a quarter of a second's worth.
    fn largest_slice(&self) -> u64 {
        (self.bytes_per_second / 4).max(SLICE_MIN)
    }

    /// Takes the next so many bytes: when they may pass.
    fn reserve(&self, now: Instant, bytes: u64) -> Instant {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = next.map_or(now, |next| next.max(now.checked_sub(BURST).unwrap_or(now)));
        #[expect(clippy::cast_precision_loss, reason = "a rate near 2^53 B/s is no limit")]
        let takes = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        *next = Some(begin + takes);
        begin
    }
}

/// All limits that one connection is under; without any, nothing waits.
#[derive(Debug, Clone, Default)]
pub struct Throttle(Vec<Arc<RateLimit>>);

impl Throttle {
    /// Under all of these at once.
    #[must_use]
    pub fn new(limits: impl IntoIterator<Item = Arc<RateLimit>>) -> Self {
        Self(limits.into_iter().collect())
    }

    /// These and one more, if there is one.
    #[must_use]
    pub fn and(&self, limit: Option<Arc<RateLimit>>) -> Self {
        Self(self.0.iter().cloned().chain(limit).collect())
    }

    /// Waits until some of these bytes may pass and says how many, at least 1 of a `want` that is not 0.
    ///
    /// # Cancel safety
    ///
    /// What was taken by a call that is dropped is lost: at most 64 KiB of the limit's time.
    pub async fn take(&self, want: usize) -> usize {
        // Slices of one size where connections meet, or those with smaller ones would get less in each turn.
        let slice = self.0.iter().map(|limit| limit.slice()).max();
        let Some(slice) = slice else { return want };
        let largest = self.0.iter().map(|limit| limit.largest_slice()).min().unwrap_or(slice);
        let take = usize::try_from(slice.min(largest)).unwrap_or(want).min(want);
        let now = Instant::now();
        let begins = self.0.iter().map(|limit| limit.reserve(now, take as u64));
        if let Some(at) = begins.max().filter(|at| *at > now) {
            sleep_until(at).await;
        }
        take
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn pass(throttle: Throttle, bytes: usize) -> f64 {
        let begin = Instant::now();
        let mut left = bytes;
        while left > 0 {
            left -= throttle.take(left).await;
        }
        begin.elapsed().as_secs_f64()
    }

    #[tokio::test(start_paused = true)]
    async fn every_rate_is_kept_within_five_percent() {
        for rate in [2_000, 50_000, 1_250_000, 300_000_000] {
            let bytes = usize::try_from(10 * rate).unwrap();
            let took = pass(Throttle::new([Arc::new(RateLimit::new(rate))]), bytes).await;
            assert!((9.5..=10.5).contains(&took), "{rate} B/s: {took} s instead of 10");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_wait_get_equal_shares_and_the_tightest_limit_counts() {
        let shared = Arc::new(RateLimit::new(1_000_000));
        let tight = Arc::new(RateLimit::new(100_000));
        let wide = Throttle::new([Arc::clone(&shared)]);
        let narrow = Throttle::new([Arc::clone(&shared), tight]);
        // 100 kB/s for the narrow one; the rest is halved by the other two. A last slice is not waited for.
        let (a, b, c) = tokio::join!(pass(wide.clone(), 900_000), pass(wide, 900_000), pass(narrow, 200_000));
        for took in [a, b, c] {
            assert!((1.7..=2.1).contains(&took), "{a} {b} {c}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_saves_up_no_more_than_a_burst() {
        let limit = Arc::new(RateLimit::new(1_000_000));
        pass(Throttle::new([Arc::clone(&limit)]), 100_000).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        let took = pass(Throttle::new([limit]), 1_000_000).await;
        assert!(took >= 0.95, "{took}");
        assert_eq!(Throttle::default().take(5).await, 5);
    }
}
