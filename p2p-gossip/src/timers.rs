//! Deadlines, one per key, earliest first.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// At most one deadline per key, so it is never larger than what it times. Ties come in key order.
#[derive(Debug)]
pub(crate) struct Timers<K> {
    at: BTreeMap<K, Instant>,
    queue: BTreeSet<(Instant, K)>,
    /// The first of the queue: it is asked for far more often than it changes.
    next: Option<Instant>,
}

impl<K: Copy + Ord> Timers<K> {
    pub(crate) fn new() -> Self {
        Self { at: BTreeMap::new(), queue: BTreeSet::new(), next: None }
    }

    /// Sets or moves the deadline of `key`; `None` clears it.
    pub(crate) fn set(&mut self, key: K, at: Option<Instant>) {
        let old = match at {
            Some(at) => self.at.insert(key, at),
            None => self.at.remove(&key),
        };
        if old == at {
            return;
        }
        if let Some(old) = old {
            self.queue.remove(&(old, key));
        }
        if let Some(at) = at {
            self.queue.insert((at, key));
        }
        self.next = self.queue.first().map(|&(at, _)| at);
    }

    pub(crate) fn get(&self, key: K) -> Option<Instant> {
        self.at.get(&key).copied()
    }

    /// Takes the earliest deadline that has come.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<K> {
        self.next.filter(|at| *at <= now)?;
        let &(_, key) = self.queue.first()?;
        self.set(key, None);
        Some(key)
    }

    pub(crate) const fn next(&self) -> Option<Instant> {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the first")]
    fn a_moved_or_cleared_deadline_fires_once_or_never() {
        let start = Instant::now();
        let after = |s| start + Duration::from_secs(s);
        let mut timers = Timers::new();
        timers.set('a', Some(after(1)));
        timers.set('b', Some(after(1)));
        timers.set('c', Some(after(1)));
        timers.set('a', Some(after(3)));
        timers.set('b', None);
        assert_eq!(timers.next(), Some(after(1)));
        assert_eq!(timers.expire(start), None);
        assert_eq!(timers.expire(after(2)), Some('c'));
        assert_eq!(timers.expire(after(2)), None);
        assert_eq!(timers.expire(after(3)), Some('a'));
        assert_eq!(timers.next(), None);
    }
}
