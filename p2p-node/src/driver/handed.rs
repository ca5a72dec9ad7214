//! Own messages on their way to somebody: those that nobody was sent yet, and those that nobody is known to have handled.
//!
//! Small ones are pushed; large ones are announced and have to be asked for, and those that were sent without a link too. While
//! there are links, what nobody was sent holds the publisher back as a full queue does, or the log would let it go before anybody
//! had it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use p2p_wire::{EnvelopeId, NodeId};

/// Bytes that nobody was sent above which nothing more is published. 4 MiB: twice the queue of a link, and a sixteenth of what a
/// log keeps.
const MOST: usize = 4 << 20;
/// When nobody was sent any of them for this long, nobody is waited for until somebody is. 4 s, longer than a pull may take.
const PATIENCE: Duration = Duration::from_secs(4);
/// So long after one was sent, neighbours are asked whether they have handled it, and again until they have: nobody can ask one that
/// is gone.
const ASK: Duration = Duration::from_millis(500);
/// The oldest is not counted when there are more: what is asked for is asked for from the lowest seq on, so who has the last ones
/// mostly has those before.
const MAX_ENVELOPES: usize = 1_024;

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Handed {
    /// Nobody is known to have handled these. By their first seq: neighbours say by the thousand which ones they hold.
    open: BTreeMap<u64, Open>,
    /// Of these, what each neighbour was sent and has not said to have handled.
    sent: BTreeMap<NodeId, BTreeSet<EnvelopeId>>,
    /// Bytes of those that are with no neighbour.
    unsent: usize,
    /// When the first of these was published, or one was sent to somebody.
    moved: Option<Instant>,
    /// When neighbours are to be asked.
    ask: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Open {
    id: EnvelopeId,
    len: usize,
    /// Neighbours that it is with.
    with: usize,
}

impl Handed {
    /// An own envelope of so many bytes is to go out.
    pub(super) fn published(&mut self, now: Instant, id: EnvelopeId, len: usize) {
        if self.open.len() >= MAX_ENVELOPES
            && let Some((_, &Open { id: oldest, .. })) = self.open.first_key_value()
        {
            self.close(&oldest);
        }
        self.open.insert(id.first, Open { id, len, with: 0 });
        self.unsent += len;
        self.moved.get_or_insert(now);
    }

    /// Whether this is one that nobody is known to have handled. One of the same seq, made by another process with this key, is
    /// not meant.
    pub(super) fn waits_for(&self, id: &EnvelopeId) -> bool {
        self.open.get(&id.first).is_some_and(|open| open.id == *id)
    }

    /// It is in the queue of a neighbour.
    pub(super) fn sent(&mut self, now: Instant, to: NodeId, id: EnvelopeId) {
        let Some(open) = self.open.get_mut(&id.first).filter(|open| open.id == id) else { return };
        if self.sent.entry(to).or_default().insert(id) {
            open.with += 1;
            self.ask.get_or_insert(now + ASK);
            if open.with == 1 {
                self.unsent -= open.len;
                // What comes after the last of these is waited for anew.
                self.moved = (self.unsent > 0).then_some(now);
            }
        }
    }

    /// It has no room there any more.
    pub(super) fn displaced(&mut self, to: NodeId, id: &EnvelopeId) {
        if self.sent.get_mut(&to).is_some_and(|sent| sent.remove(id)) {
            self.is_without(id);
        }
    }

    /// When neighbours are to be asked what they have handled.
    pub(super) const fn ask_at(&self) -> Option<Instant> {
        self.ask
    }

    /// They have just been asked.
    pub(super) fn asked(&mut self, now: Instant) {
        self.ask = self.sent.values().any(|sent| !sent.is_empty()).then(|| now + ASK);
    }

    /// Who was sent something.
    pub(super) fn peers(&self) -> impl Iterator<Item = NodeId> {
        self.sent.keys().copied()
    }

    /// A neighbour has handled these.
    pub(super) fn handled(&mut self, peer: NodeId, ids: &[EnvelopeId]) {
        let Some(sent) = self.sent.get_mut(&peer) else { return };
        let known: Vec<EnvelopeId> = ids.iter().filter(|id| sent.remove(id)).copied().collect();
        if sent.is_empty() {
            self.sent.remove(&peer);
        }
        known.iter().for_each(|id| self.close(id));
    }

    /// Its link has ended: what it had not handled it may never handle.
    pub(super) fn gone(&mut self, peer: NodeId) {
        let Some(sent) = self.sent.remove(&peer) else { return };
        sent.iter().for_each(|id| self.is_without(id));
    }

    /// A neighbour says that it holds all with a seq in `from..to`.
    pub(super) fn held(&mut self, from: u64, to: u64) {
        let is_whole = |id: &EnvelopeId| id.first.saturating_add(u64::from(id.count)) <= to;
        let begin_there = self.open.range(from..to.max(from)).map(|(_, open)| open.id);
        let held: Vec<EnvelopeId> = begin_there.filter(is_whole).collect();
        held.iter().for_each(|id| self.close(id));
    }

    /// How many nobody is known to have handled.
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// How many are with no neighbour.
    pub(super) fn unsent(&self) -> usize {
        self.open.values().filter(|open| open.with == 0).count()
    }

    /// Whether there is enough to ask for, and somebody does.
    pub(super) fn is_full(&self, now: Instant) -> bool {
        let waits = |at: Instant| now.saturating_duration_since(at) < PATIENCE;
        self.unsent > MOST && self.moved.is_some_and(waits)
    }

    fn is_without(&mut self, id: &EnvelopeId) {
        if let Some(open) = self.open.get_mut(&id.first) {
            open.with -= 1;
            if open.with == 0 {
                self.unsent += open.len;
            }
        }
    }

    fn close(&mut self, id: &EnvelopeId) {
        let Some(open) = self.open.remove(&id.first) else { return };
        if open.with == 0 {
            self.unsent -= open.len;
        } else {
            self.sent.values_mut().for_each(|sent| {
                sent.remove(id);
            });
        }
        if self.unsent == 0 {
            self.moved = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything that it was sent.
    fn handle_all(handed: &mut Handed, peer: NodeId) {
        let all: Vec<EnvelopeId> = handed.sent.get(&peer).into_iter().flatten().copied().collect();
        handed.handled(peer, &all);
    }

    fn peer(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    fn id(first: u64) -> EnvelopeId {
        EnvelopeId { author: peer(1), run: 1, first, count: 1 }
    }

    #[test]
    fn who_asks_for_nothing_is_not_waited_for_until_somebody_does() {
        let (now, mut handed) = (Instant::now(), Handed::default());
        for seq in 0..5 {
            assert!(!handed.is_full(now));
            handed.published(now, id(seq), 1 << 20);
        }
        assert!(handed.is_full(now));
        let stuck = now + PATIENCE;
        assert!(!handed.is_full(stuck));
        handed.published(stuck, id(5), 1 << 20);
        assert!(!handed.is_full(stuck), "nobody has asked meanwhile");
        handed.sent(stuck, peer(2), id(7));
        handed.sent(stuck, peer(2), id(3));
        assert!(handed.is_full(stuck));
        handed.sent(stuck, peer(2), id(5));
        assert!(!handed.is_full(stuck) && (handed.unsent(), handed.len()) == (4, 6));
        handle_all(&mut handed, peer(2));
        assert_eq!((handed.unsent(), handed.len(), handed.unsent), (4, 4, 4 << 20));
        handed.held(0, 5);
        assert_eq!((handed.len(), handed.unsent, handed.moved), (0, 0, None));
        for seq in 0..3 * MAX_ENVELOPES as u64 {
            handed.published(now, id(seq), 1);
            handed.sent(now, peer(2), id(seq));
        }
        assert_eq!(
            (handed.len(), handed.sent[&peer(2)].len(), handed.unsent),
            (MAX_ENVELOPES, MAX_ENVELOPES, 0)
        );
    }

    #[test]
    fn what_was_not_sent_to_somebody_was_not_handled_there() {
        let (now, mut handed) = (Instant::now(), Handed::default());
        handed.published(now, id(1), 10);
        handed.published(now, id(2), 10);
        handed.sent(now, peer(2), id(1));
        handed.handled(peer(2), &[id(2), id(3)]);
        handed.handled(peer(3), &[id(1)]);
        assert_eq!((handed.len(), handed.unsent()), (2, 1));
        handed.asked(now);
        assert!(handed.ask_at().is_some());
        handed.handled(peer(2), &[id(1), id(1)]);
        assert_eq!((handed.len(), handed.peers().count()), (1, 0));
    }

    #[test]
    fn who_holds_a_part_of_an_envelope_or_none_does_not_hold_it() {
        let (now, mut handed) = (Instant::now(), Handed::default());
        let long = EnvelopeId { count: 10, ..id(10) };
        handed.published(now, long, 10);
        for (from, to) in [(0, 10), (10, 19), (11, 20), (20, u64::MAX), (20, 10), (u64::MAX, 0)] {
            handed.held(from, to);
            assert_eq!(handed.len(), 1, "{from} to {to}");
        }
        let rival = EnvelopeId { count: 1, ..long };
        handed.sent(now, peer(2), rival);
        assert_eq!((handed.unsent(), handed.peers().count()), (1, 0));
        handed.held(10, 20);
        assert_eq!((handed.len(), handed.unsent), (0, 0));
    }

    #[test]
    fn what_was_sent_long_ago_says_nothing_of_what_nobody_was_sent() {
        let (now, mut handed) = (Instant::now(), Handed::default());
        handed.published(now, id(1), 10);
        handed.sent(now, peer(2), id(1));
        // Its neighbour is always busy, or slow.
        let later = now + PATIENCE;
        for seq in 2..=6 {
            handed.published(later, id(seq), 1 << 20);
        }
        assert!(handed.is_full(later));
    }

    #[test]
    fn one_neighbour_that_handled_it_is_enough_and_one_that_broke_is_none() {
        let (now, mut handed) = (Instant::now(), Handed::default());
        for first in 1..=3 {
            handed.published(now, id(first), 10);
        }
        handed.sent(now, peer(2), id(1));
        handed.sent(now, peer(2), id(2));
        handed.sent(now, peer(3), id(2));
        assert_eq!(handed.unsent, 10);
        handed.displaced(peer(3), &id(2));
        assert_eq!(handed.unsent, 10, "another one was sent it");
        handle_all(&mut handed, peer(3));
        assert_eq!((handed.len(), handed.unsent()), (3, 1));
        handed.gone(peer(2));
        handle_all(&mut handed, peer(2));
        assert_eq!((handed.len(), handed.unsent(), handed.unsent), (3, 3, 30));
        // It comes back and asks for what it missed, and has the rest.
        handed.sent(now, peer(2), id(1));
        handed.sent(now, peer(4), id(3));
        handle_all(&mut handed, peer(2));
        assert_eq!((handed.len(), handed.unsent()), (2, 1));
        handed.held(2, 3);
        handle_all(&mut handed, peer(4));
        assert_eq!((handed.len(), handed.peers().count(), handed.unsent), (0, 0, 0));
        handed.sent(now, peer(2), id(1));
        assert_eq!(handed.peers().count(), 0, "somebody has it");
        // Neighbours are asked for as long as there is something to ask for.
        handed.published(now, id(4), 10);
        assert_eq!(handed.ask_at(), Some(now + ASK));
        handed.asked(now + ASK);
        assert_eq!(handed.ask_at(), None, "it is with nobody");
        handed.sent(now, peer(2), id(4));
        handed.asked(now + ASK);
        assert_eq!(handed.ask_at(), Some(now + 2 * ASK));
        handed.held(4, 5);
        handed.asked(now + 2 * ASK);
        assert_eq!(handed.ask_at(), None);
    }
}
