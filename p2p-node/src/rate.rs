//! How fast a link is read: a rate of bytes and one of frames, kept by not reading.

use std::time::Duration;

use tokio::time::Instant;

/// What may come at once after a pause, as the time it takes at the rate.
const BURST: Duration = Duration::from_millis(250);

/// Both rates of one link. Each is a moment that moves on by what was read (GCRA, ITU-T I.371): while it lies ahead, the
/// link is not read.
#[derive(Debug)]
pub(crate) struct Rate {
    bytes: Meter,
    frames: Meter,
}

#[derive(Debug)]
struct Meter {
    per_sec: u32,
    until: Instant,
}

impl Rate {
    pub(crate) fn new(now: Instant, bytes_per_sec: u32, frames_per_sec: u32) -> Self {
        let meter = |per_sec: u32| Meter { per_sec: per_sec.max(1), until: now };
        Self { bytes: meter(bytes_per_sec), frames: meter(frames_per_sec) }
    }

    /// So much was read. Returns when the link may be read again, if not at once.
    pub(crate) fn spend(&mut self, now: Instant, bytes: usize, frames: usize) -> Option<Instant> {
        let ready = self.bytes.spend(now, bytes).max(self.frames.spend(now, frames));
        let ready = ready.checked_sub(BURST).unwrap_or(now);
        (ready > now).then_some(ready)
    }
}

impl Meter {
    fn spend(&mut self, now: Instant, amount: usize) -> Instant {
        let nanos = amount as u128 * 1_000_000_000 / u128::from(self.per_sec);
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let start = self.until.max(now);
        self.until = start.checked_add(cost).unwrap_or(start);
        self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_lets_through_the_rate_and_one_burst() {
        let start = Instant::now();
        for (bytes, frames) in [(1000, 1), (10, 10)] {
            let mut rate = Rate::new(start, 100_000, 1000);
            let (mut now, mut steps) = (start, 0u32);
            while now < start + Duration::from_secs(2) {
                steps += 1;
                if let Some(at) = rate.spend(now, bytes, frames) {
                    now = at;
                }
            }
            // 100 steps a second by either measure, and a quarter of a second's worth before.
            assert!((225..=227).contains(&steps), "{steps}");
        }
    }

    #[test]
    fn a_pause_saves_up_no_more_than_a_burst() {
        let start = Instant::now();
        let mut rate = Rate::new(start, 1000, 1000);
        let later = start + Duration::from_secs(100);
        assert_eq!(rate.spend(later, 250, 1), None);
        assert_eq!(rate.spend(later, 100, 1), Some(later + Duration::from_millis(100)));
    }
}
