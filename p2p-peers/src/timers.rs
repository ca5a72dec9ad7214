//! Timers by key: what fires next, and when.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// At most one deadline per key; equal instants fire in the order in which they were set.
///
/// Setting a key again moves its deadline, so the queue never holds more than one entry per key and nothing stale has
/// to be sorted out when it fires.
#[derive(Debug)]
pub(crate) struct TimerQueue<K> {
    by_key: BTreeMap<K, (Instant, u64)>,
    by_time: BTreeSet<(Instant, u64, K)>,
    /// The first of them: it is asked for far more often than it changes.
    next: Option<Instant>,
    set: u64,
}

impl<K: Copy + Ord> TimerQueue<K> {
    pub(crate) fn new() -> Self {
        Self { by_key: BTreeMap::new(), by_time: BTreeSet::new(), next: None, set: 0 }
    }

    /// Fires `key` at `at`, instead of whenever it was to fire before.
    pub(crate) fn set(&mut self, key: K, at: Instant) {
        self.cancel(key);
        self.set += 1;
        self.by_key.insert(key, (at, self.set));
        self.by_time.insert((at, self.set, key));
        self.next = self.next.into_iter().chain([at]).min();
    }

    /// As [`set`](Self::set), but leaves a key alone that already waits.
    pub(crate) fn set_if_idle(&mut self, key: K, at: Instant) {
        if !self.by_key.contains_key(&key) {
            self.set(key, at);
        }
    }

    pub(crate) fn cancel(&mut self, key: K) {
        if let Some((at, order)) = self.by_key.remove(&key) {
            self.by_time.remove(&(at, order, key));
            self.next = self.by_time.first().map(|&(at, _, _)| at);
        }
    }

    /// Takes the next key that is due at `now`.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<K> {
        self.next.filter(|at| *at <= now)?;
        let &(_, _, key) = self.by_time.first()?;
        self.cancel(key);
        Some(key)
    }

    pub(crate) const fn deadline(&self) -> Option<Instant> {
        self.next
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.by_key.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn fires_by_instant_then_by_order_of_setting() {
        let start = crate::testing::start();
        let at = |s| start + Duration::from_secs(s);
        let mut queue = TimerQueue::new();
        queue.set('c', at(2));
        queue.set('b', at(1));
        queue.set('a', at(1));
        assert_eq!(queue.deadline(), Some(at(1)));
        assert_eq!(queue.pop(start), None);
        let fired: Vec<char> = std::iter::from_fn(|| queue.pop(at(5))).collect();
        assert_eq!(fired, ['b', 'a', 'c']);
        assert_eq!(queue.deadline(), None);
    }

    #[test]
    fn setting_again_moves_the_deadline() {
        let start = crate::testing::start();
        let mut queue = TimerQueue::new();
        queue.set(1, start + Duration::from_secs(1));
        queue.set(1, start + Duration::from_secs(9));
        queue.set_if_idle(1, start);
        assert_eq!(queue.len(), 1);
        assert_eq!(queue.pop(start + Duration::from_secs(8)), None);
        assert_eq!(queue.pop(start + Duration::from_secs(9)), Some(1));
        queue.set(1, start);
        queue.cancel(1);
        assert_eq!(queue.pop(start), None);
    }
}
