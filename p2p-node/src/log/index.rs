//! What the log holds and where, in memory: about 250 bytes an envelope.

use std::collections::{BTreeMap, VecDeque};

use p2p_wire::EnvelopeId;

/// Where an envelope is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) id: EnvelopeId,
    pub(super) segment: u64,
    /// Of its record.
    pub(super) offset: u32,
    /// Of its record, header included.
    pub(super) len: u32,
}

/// Messages that were handed to the application.
#[derive(Debug, Clone, Copy)]
pub(super) struct Given {
    /// Of the first; the others follow.
    pub(super) pos: u64,
    pub(super) n: u64,
    pub(super) at_ms: u64,
    pub(super) shown: u64,
    pub(super) late: bool,
}

impl Given {
    /// The position behind the last of them.
    pub(super) fn end(&self) -> u64 {
        self.pos + u64::from(self.shown.count_ones())
    }
}

/// Envelopes by number and by id, messages by position.
#[derive(Debug, Default)]
pub(super) struct Index {
    envelopes: BTreeMap<u64, Place>,
    by_id: BTreeMap<EnvelopeId, u64>,
    given: VecDeque<Given>,
    /// In the envelopes.
    messages: u64,
    /// Of the next message.
    pub(super) next_pos: u64,
}

impl Index {
    pub(super) fn add(&mut self, n: u64, place: Place) {
        self.messages += u64::from(place.id.count);
        self.envelopes.insert(n, place);
        self.by_id.insert(place.id, n);
    }

    /// Positions only rise; one that does not is damage, and left out.
    pub(super) fn give(&mut self, given: Given) {
        if given.shown != 0 && self.given.back().is_none_or(|last| last.end() <= given.pos) {
            self.given.push_back(given);
            self.next_pos = self.next_pos.max(given.end());
        }
    }

    pub(super) fn place(&self, n: u64) -> Option<&Place> {
        self.envelopes.get(&n)
    }

    pub(super) fn last_n(&self) -> Option<u64> {
        self.envelopes.last_key_value().map(|(n, _)| *n)
    }

    pub(super) fn of_id(&self, id: &EnvelopeId) -> Option<&Place> {
        self.place(*self.by_id.get(id)?)
    }

    pub(super) fn len(&self) -> usize {
        self.envelopes.len()
    }

    /// Messages in the envelopes, whoever they are for.
    pub(super) const fn messages(&self) -> u64 {
        self.messages
    }

    /// Messages with a position of at least `pos`, in their order.
    pub(super) fn since(&self, pos: u64) -> impl Iterator<Item = (&Given, &Place)> {
        let from = self.given.partition_point(|given| given.end() <= pos);
        self.given.range(from..).filter_map(|given| Some((given, self.place(given.n)?)))
    }

    /// The position of the first message that came at or after `at_ms`.
    pub(super) fn pos_at(&self, at_ms: u64) -> u64 {
        let from = self.given.partition_point(|given| given.at_ms < at_ms);
        self.given.get(from).map_or(self.next_pos, |given| given.pos)
    }

    /// What the oldest segment holds.
    pub(super) fn of_oldest(&self, segment: u64) -> impl Iterator<Item = (u64, &Place)> {
        // It holds the lowest numbers.
        let places = self.envelopes.iter().map(|(n, place)| (*n, place));
        places.take_while(move |(_, place)| place.segment == segment)
    }

    /// Forgets the oldest segment.
    pub(super) fn forget(&mut self, segment: u64) {
        while let Some(first) = self.envelopes.first_entry()
            && first.get().segment == segment
        {
            let (n, place) = first.remove_entry();
            self.messages -= u64::from(place.id.count);
            if self.by_id.get(&place.id) == Some(&n) {
                self.by_id.remove(&place.id);
            }
        }
        while self.given.front().is_some_and(|given| !self.envelopes.contains_key(&given.n)) {
            self.given.pop_front();
        }
    }
}
