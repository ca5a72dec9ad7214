//! How long the tree may still take once an envelope was announced: a measured wait with a floor.

use std::time::Duration;

/// What is longer says nothing more; sums of a few of these do not overflow.
const LONGEST: Duration = Duration::from_secs(3_600);

/// Mean and mean deviation of what was measured, as TCP estimates its retransmission time (RFC 6298, section 2).
#[derive(Debug)]
pub(crate) struct Wait {
    /// Nothing measured yet: `None`.
    mean: Option<Duration>,
    deviation: Duration,
    min: Duration,
    max: Duration,
}

impl Wait {
    pub(crate) fn new(min: Duration, max: Duration) -> Self {
        Self { mean: None, deviation: Duration::ZERO, min, max: max.min(LONGEST) }
    }

    pub(crate) fn measured(&mut self, wait: Duration) {
        // One that is far beyond the longest wait says no more than that one.
        let wait = wait.min(self.max);
        let Some(mean) = self.mean else {
            (self.mean, self.deviation) = (Some(wait), wait / 2);
            return;
        };
        self.deviation = self.deviation * 3 / 4 + mean.abs_diff(wait) / 4;
        self.mean = Some(mean * 7 / 8 + wait / 8);
    }

    /// The mean and four deviations, within the limits.
    pub(crate) fn limit(&self) -> Duration {
        let Some(mean) = self.mean else { return self.min };
        (mean + self.deviation * 4).max(self.min).min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_follows_what_is_measured_within_its_limits() {
        let ms = Duration::from_millis;
        let mut wait = Wait::new(ms(100), ms(3_000));
        assert_eq!(wait.limit(), ms(100));
        for _ in 0..100 {
            wait.measured(ms(400));
        }
        assert!((ms(400)..ms(410)).contains(&wait.limit()), "{:?}", wait.limit());
        for n in 0..100 {
            wait.measured(ms(if n % 2 == 0 { 100 } else { 900 }));
        }
        assert!(wait.limit() > ms(1_200), "{:?}", wait.limit());
        wait.measured(Duration::MAX);
        for _ in 0..100 {
            wait.measured(Duration::MAX);
        }
        assert_eq!(wait.limit(), ms(3_000));
        for _ in 0..200 {
            wait.measured(ms(1));
        }
        assert_eq!(wait.limit(), ms(100));
    }
}
