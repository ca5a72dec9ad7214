//! What a download says of itself, of a file or of a folder: its events in order, and how fast it is.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::event::DownloadEvent;

/// Events that wait to be read; beyond that the oldest is dropped and logged.
const EVENTS_MAX: usize = 256;

/// The time over which the rate is an average.
const RATE_OVER: Duration = Duration::from_secs(3);

/// The events of a download, until they are taken.
#[derive(Debug, Default)]
pub(crate) struct Events {
    waiting: Mutex<Waiting>,
    /// Wakes whoever waits for one.
    happened: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    events: VecDeque<DownloadEvent>,
    /// The last one was taken.
    over: bool,
}

impl Events {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn push(&self, event: DownloadEvent) {
        {
            let mut waiting = self.waiting();
            if waiting.events.len() >= EVENTS_MAX {
                let dropped = waiting.events.pop_front();
                tracing::warn!(?dropped, "nobody reads the events of a download");
            }
            waiting.events.push_back(event);
        }
        self.happened.notify_waiters();
    }

    /// The next event; `None` after the end was taken.
    ///
    /// Cancel safe: no event is lost.
    pub(crate) async fn next(&self) -> Option<DownloadEvent> {
        loop {
            // Listens before it looks, so that nothing in between is missed.
            let happened = self.happened.notified();
            {
                let mut waiting = self.waiting();
                if let Some(event) = waiting.events.pop_front() {
                    if matches!(event, DownloadEvent::Finished(_) | DownloadEvent::Failed(_)) {
                        waiting.over = true;
                        // Another task may wait for the end as well.
                        self.happened.notify_waiters();
                    }
                    return Some(event);
                }
                if waiting.over {
                    return None;
                }
            }
            happened.await;
        }
    }
}

/// Bytes per second, over the last 3 seconds.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// Times and bytes done.
    samples: VecDeque<(Instant, u64)>,
}

impl Pace {
    /// The rate now that so many bytes are done. Asked every 100 ms.
    pub(crate) fn at(&mut self, now: Instant, done: u64) -> u64 {
        self.samples.push_back((now, done));
        while self.samples.len() > 2 && self.samples.front().is_some_and(|(at, _)| now - *at > RATE_OVER) {
            self.samples.pop_front();
        }
        let (since, before) = self.samples.front().copied().unwrap_or((now, done));
        let ms = u64::try_from((now - since).as_millis()).unwrap_or(u64::MAX);
        done.saturating_sub(before).saturating_mul(1000).checked_div(ms).unwrap_or(0)
    }

    /// So many of the bytes that are done were there before and did not come just now.
    pub(crate) fn leave_out(&mut self, bytes: u64) {
        self.samples.iter_mut().for_each(|(_, done)| *done += bytes);
    }

    /// What is done so far was there before.
    pub(crate) fn begin_anew(&mut self) {
        self.samples.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_of_too_many_events_goes_and_nothing_follows_the_end() {
        let events = Events::default();
        for _ in 0..EVENTS_MAX {
            events.push(DownloadEvent::Resumed);
        }
        events.push(DownloadEvent::Failed(crate::DownloadError::Cancelled));
        for _ in 1..EVENTS_MAX {
            assert!(matches!(events.next().await, Some(DownloadEvent::Resumed)));
        }
        let (end, after) = tokio::join!(events.next(), events.next());
        assert!(matches!(end, Some(DownloadEvent::Failed(_))) && after.is_none());
    }

    #[test]
    fn the_rate_is_that_of_the_last_seconds_and_of_what_came() {
        let (start, mut pace) = (Instant::now(), Pace::default());
        assert_eq!(pace.at(start, 500), 0);
        for tenth in 1..=100 {
            let rate = pace.at(start + Duration::from_millis(100 * tenth), 500 + 1_000 * tenth);
            assert_eq!(rate, 10_000);
        }
        pace.leave_out(1 << 40);
        assert_eq!(pace.at(start + Duration::from_millis(10_100), (1 << 40) + 101_500), 10_000);
        pace.begin_anew();
        assert_eq!(pace.at(start + Duration::from_secs(11), 1 << 50), 0);
    }
}
