//! How far ahead a source is asked.

use tokio::time::Instant;

use crate::geometry::CHUNK;
use crate::protocol;

/// Requests ahead before anything is known about a source's speed.
const WINDOW_START: usize = 2;

/// How fast a source is, and so how much to ask ahead: about a second's worth, so that little has to be asked again
/// when it fails, and a slow source holds little at the end.
pub(super) struct Speed {
    last: Instant,
    bytes_per_second: f64,
}

impl Speed {
    pub(super) fn new() -> Self {
        Self { last: Instant::now(), bytes_per_second: 0.0 }
    }

    /// Time without a request does not count.
    pub(super) fn pause(&mut self) {
        self.last = Instant::now();
    }

    #[expect(clippy::cast_precision_loss, reason = "at most 1 MiB")]
    pub(super) fn received(&mut self, bytes: usize) {
        let now = Instant::now();
        let seconds = (now - self.last).as_secs_f64().max(1e-6);
        let rate = bytes as f64 / seconds;
        // The first measure counts whole, later ones a quarter.
        let weight = if self.bytes_per_second == 0.0 { 1.0 } else { 0.25 };
        self.bytes_per_second += weight * (rate - self.bytes_per_second);
        self.last = now;
    }

    pub(super) fn window(&self, max: usize) -> usize {
        #[expect(clippy::cast_precision_loss, reason = "exactly 2^20")]
        let runs = self.bytes_per_second / CHUNK as f64;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 64")]
        let ahead = runs.clamp(0.0, 64.0) as usize;
        (ahead + 1).clamp(WINDOW_START, max.clamp(WINDOW_START, protocol::GETS_MAX))
    }
}
