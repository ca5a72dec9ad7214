//! Own messages that nobody has been sent yet: large ones, which are announced and have to be asked for, and those that were sent
//! without a link. While there are links they hold the publisher back as a full queue does, or the log would let them go before
//! anybody had them.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use p2p_wire::EnvelopeId;

/// Bytes above which nothing more is published. 4 MiB: twice the queue of a link, and a sixteenth of what a log keeps.
const MOST: usize = 4 << 20;
/// When nobody was sent any of them for this long, nobody is waited for until somebody is. 4 s, longer than a pull may take.
const PATIENCE: Duration = Duration::from_secs(4);
/// The oldest is not counted when there are more.
const MAX_ENVELOPES: usize = 1_024;

/// What is in no neighbour's queue, and was in none.
#[derive(Debug, Default)]
pub(super) struct Owed {
    envelopes: VecDeque<(EnvelopeId, usize)>,
    bytes: usize,
    /// When the first of these was published, or one was sent to somebody.
    moved: Option<Instant>,
}

impl Owed {
    /// An own envelope of so many bytes is to go out; or it was in a queue and has no room there any more.
    pub(super) fn published(&mut self, now: Instant, id: EnvelopeId, len: usize) {
        self.moved.get_or_insert(now);
        if self.envelopes.len() >= MAX_ENVELOPES
            && let Some((_, len)) = self.envelopes.pop_front()
        {
            self.bytes -= len;
        }
        self.bytes += len;
        self.envelopes.push_back((id, len));
    }

    /// It is in the queue of a neighbour.
    pub(super) fn sent(&mut self, now: Instant, id: &EnvelopeId) {
        // Mostly it is the last one.
        let Some(at) = self.envelopes.iter().rposition(|(owed, _)| owed == id) else { return };
        if let Some((_, len)) = self.envelopes.remove(at) {
            self.bytes -= len;
            self.moved = (!self.envelopes.is_empty()).then_some(now);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.envelopes.len()
    }

    /// Whether there is enough to ask for, and somebody does.
    pub(super) fn is_full(&self, now: Instant) -> bool {
        let waits = |at: Instant| now.saturating_duration_since(at) < PATIENCE;
        self.bytes > MOST && self.moved.is_some_and(waits)
    }

    /// The node leaves.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(first: u64) -> EnvelopeId {
        EnvelopeId { author: p2p_wire::NodeId::from_bytes([1; 32]), run: 0, first, count: 1 }
    }

    #[test]
    fn who_asks_for_nothing_is_not_waited_for_until_somebody_does() {
        let now = Instant::now();
        let mut owed = Owed::default();
        for seq in 0..5 {
            assert!(!owed.is_full(now));
            owed.published(now, id(seq), 1 << 20);
        }
        assert!(owed.is_full(now));
        let stuck = now + PATIENCE;
        assert!(!owed.is_full(stuck));
        owed.published(stuck, id(5), 1 << 20);
        assert!(!owed.is_full(stuck), "nobody has asked meanwhile");
        owed.sent(stuck, &id(7));
        owed.sent(stuck, &id(3));
        assert!(owed.is_full(stuck));
        owed.sent(stuck, &id(5));
        assert!(!owed.is_full(stuck) && owed.len() == 4);
        for seq in [0, 1, 2, 4] {
            owed.sent(stuck, &id(seq));
        }
        assert_eq!((owed.len(), owed.bytes, owed.moved), (0, 0, None));
        for seq in 0..2_000 {
            owed.published(now, id(seq), 1);
        }
        assert_eq!((owed.len(), owed.bytes), (MAX_ENVELOPES, MAX_ENVELOPES));
    }
}
