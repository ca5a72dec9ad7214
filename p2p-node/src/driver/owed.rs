//! Own messages that a neighbour was told of and that it has not been sent: large ones, which it has to ask for. They hold
//! the publisher back as a full queue does, or the log would let them go before anybody had them.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use p2p_wire::EnvelopeId;

/// Bytes above which nothing more is published. 4 MiB: twice the queue of a link, and a sixteenth of what a log keeps.
const MOST: usize = 4 << 20;
/// A neighbour that was sent none of them for this long is not waited for: it has them from others, or does not want them.
/// 4 s, longer than a pull may take.
const PATIENCE: Duration = Duration::from_secs(4);

/// What one neighbour may ask for. Bounded by [`MOST`] and one message more.
#[derive(Debug, Default)]
pub(super) struct Owed {
    envelopes: VecDeque<(EnvelopeId, usize)>,
    bytes: usize,
    /// When it was told of the first of these, or sent one.
    moved: Option<Instant>,
}

impl Owed {
    /// It was told of an envelope of so many bytes.
    pub(super) fn announced(&mut self, now: Instant, id: EnvelopeId, len: usize) {
        if self.moved.is_none_or(|at| now.saturating_duration_since(at) >= PATIENCE) {
            self.forget();
            self.moved = Some(now);
        }
        self.bytes += len;
        self.envelopes.push_back((id, len));
    }

    /// It is in its queue.
    pub(super) fn sent(&mut self, now: Instant, id: &EnvelopeId) {
        let Some(at) = self.envelopes.iter().position(|(owed, _)| owed == id) else { return };
        if let Some((_, len)) = self.envelopes.remove(at) {
            self.bytes -= len;
            self.moved = (self.bytes > 0).then_some(now);
        }
    }

    /// Bytes that it may still ask for.
    pub(super) fn bytes(&self, now: Instant) -> usize {
        let waits = self.moved.is_some_and(|at| now.saturating_duration_since(at) < PATIENCE);
        if waits { self.bytes } else { 0 }
    }

    /// Whether it has enough to ask for.
    pub(super) fn is_full(&self, now: Instant) -> bool {
        self.bytes(now) > MOST
    }

    fn forget(&mut self) {
        (self.bytes, self.moved) = (0, None);
        self.envelopes.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(first: u64) -> EnvelopeId {
        EnvelopeId { author: p2p_wire::NodeId::from_bytes([1; 32]), run: 0, first, count: 1 }
    }

    #[test]
    fn one_that_asks_for_nothing_is_not_waited_for_and_begins_anew() {
        let now = Instant::now();
        let mut owed = Owed::default();
        for seq in 0..5 {
            assert!(!owed.is_full(now));
            owed.announced(now, id(seq), 1 << 20);
        }
        assert!(owed.is_full(now));
        let later = now + PATIENCE / 2;
        owed.sent(later, &id(7));
        owed.sent(later, &id(3));
        assert!(!owed.is_full(later) && owed.bytes(later) == MOST);
        owed.announced(later, id(5), 1 << 20);
        assert!(owed.is_full(later + PATIENCE / 2), "it was sent one");
        let stuck = later + PATIENCE;
        assert_eq!((owed.is_full(stuck), owed.bytes(stuck)), (false, 0));
        owed.announced(stuck, id(6), 10);
        assert_eq!((owed.bytes(stuck), owed.envelopes.len()), (10, 1));
        owed.sent(stuck, &id(6));
        assert_eq!(owed.bytes(stuck), 0);
    }
}
