//! What all links of a node may keep in their queues together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Bytes that are taken, and who waits for some to be given back.
#[derive(Debug)]
pub(crate) struct Budget {
    used: AtomicUsize,
    limit: usize,
    freed: Notify,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Self {
        Self { used: AtomicUsize::new(0), limit, freed: Notify::new() }
    }

    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Whether `bytes` are there now, or all that there could be.
    pub(crate) fn has(&self, bytes: usize) -> bool {
        let used = self.used();
        used == 0 || used.saturating_add(bytes) <= self.limit
    }

    /// Takes `bytes` if they are there.
    pub(crate) fn try_take(&self, bytes: usize) -> bool {
        let more = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= self.limit);
        self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok()
    }

    /// Takes `bytes` whether they are there or not: for what must not be refused and has a bound of its own.
    pub(crate) fn take(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::AcqRel);
    }

    pub(crate) fn give(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::AcqRel);
        self.freed.notify_waiters();
    }

    /// Waits until `bytes` are there and takes them; given back when the charge is dropped. More than all there is
    /// would wait for ever: it then takes all.
    pub(crate) async fn charge(self: &Arc<Self>, bytes: usize) -> Charge {
        let bytes = bytes.min(self.limit);
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            freed.as_mut().enable();
            if self.try_take(bytes) {
                return Charge { budget: Arc::clone(self), bytes };
            }
            freed.await;
        }
    }
}

/// Bytes taken from a [`Budget`] until it is dropped.
#[derive(Debug)]
pub(crate) struct Charge {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.give(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_gets_what_is_given_back() {
        let budget = Arc::new(Budget::new(100));
        let first = budget.charge(70).await;
        assert!(!budget.try_take(31) && budget.try_take(30));
        let waiting = tokio::spawn({
            let budget = Arc::clone(&budget);
            async move { budget.charge(1000).await }
        });
        tokio::task::yield_now().await;
        drop(first);
        assert_eq!(budget.used(), 30);
        budget.give(30);
        let all = waiting.await.unwrap();
        assert_eq!((all.bytes, budget.used()), (100, 100), "no more than there is");
        budget.take(5);
        drop(all);
        assert_eq!(budget.used(), 5);
    }
}
