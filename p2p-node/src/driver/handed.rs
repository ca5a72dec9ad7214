//! Own messages that are somewhere else: a neighbour has said that it handled them.

use std::collections::{BTreeMap, BTreeSet};

use p2p_wire::{EnvelopeId, NodeId};

/// The oldest is not counted when there are more. A link keeps one author's order, so who has the last ones has those before.
const MAX_ENVELOPES: usize = 256;

/// What nobody is known to have handled, and who was sent it.
#[derive(Debug, Default)]
pub(super) struct Handed {
    open: BTreeSet<EnvelopeId>,
    /// Of these, what each neighbour was sent and has not said to have handled.
    sent: BTreeMap<NodeId, BTreeSet<EnvelopeId>>,
}

impl Handed {
    /// An own envelope is to go out.
    pub(super) fn published(&mut self, id: EnvelopeId) {
        self.open.insert(id);
        if self.open.len() > MAX_ENVELOPES
            && let Some(oldest) = self.open.pop_first()
        {
            for sent in self.sent.values_mut() {
                sent.remove(&oldest);
            }
        }
    }

    /// It is in the queue of a neighbour.
    pub(super) fn sent(&mut self, to: NodeId, id: EnvelopeId) {
        if self.open.contains(&id) {
            self.sent.entry(to).or_default().insert(id);
        }
    }

    /// It has no room there any more.
    pub(super) fn displaced(&mut self, to: NodeId, id: &EnvelopeId) {
        if let Some(sent) = self.sent.get_mut(&to) {
            sent.remove(id);
        }
    }

    /// Who was sent something.
    pub(super) fn peers(&self) -> impl Iterator<Item = NodeId> {
        self.sent.keys().copied()
    }

    /// A neighbour has handled all that it was sent.
    pub(super) fn handled(&mut self, peer: NodeId) {
        for id in self.sent.remove(&peer).into_iter().flatten() {
            self.open.remove(&id);
        }
    }

    /// Its link broke before that.
    pub(super) fn gone(&mut self, peer: NodeId) {
        self.sent.remove(&peer);
    }

    pub(super) fn len(&self) -> usize {
        self.open.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    fn id(first: u64) -> EnvelopeId {
        EnvelopeId { author: peer(1), run: 1, first, count: 1 }
    }

    #[test]
    fn one_neighbour_that_handled_it_is_enough_and_one_that_broke_is_none() {
        let mut handed = Handed::default();
        for first in 1..=3 {
            handed.published(id(first));
        }
        handed.sent(peer(2), id(1));
        handed.sent(peer(2), id(2));
        handed.sent(peer(3), id(2));
        handed.displaced(peer(3), &id(2));
        handed.handled(peer(3));
        assert_eq!(handed.len(), 3);
        handed.gone(peer(2));
        handed.handled(peer(2));
        assert_eq!(handed.len(), 3);
        // It comes back and asks for what it missed.
        handed.sent(peer(2), id(1));
        handed.sent(peer(2), id(2));
        handed.sent(peer(4), id(3));
        handed.handled(peer(2));
        assert_eq!(handed.len(), 1);
        handed.handled(peer(4));
        assert_eq!((handed.len(), handed.peers().count()), (0, 0));
        handed.sent(peer(2), id(1));
        assert_eq!(handed.peers().count(), 0, "somebody has it");
    }

    #[test]
    fn it_stays_bounded() {
        let mut handed = Handed::default();
        for first in 0..3 * MAX_ENVELOPES as u64 {
            handed.published(id(first));
            handed.sent(peer(2), id(first));
        }
        assert_eq!((handed.len(), handed.sent[&peer(2)].len()), (MAX_ENVELOPES, MAX_ENVELOPES));
    }
}
