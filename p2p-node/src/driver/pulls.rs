//! Envelopes that a neighbour asks for while its link is full, and pushes that had no room there: they wait for it.
//!
//! A push follows out of the log once there is room. That would not do for the answer to a pull: the core does not know what of it
//! had none, and the neighbour does not ask again because of an announcement. What is read for it from the log
//! on disk takes room from then on.

use std::time::Instant;

use p2p_gossip::{Read, Span, Ticket};
use p2p_wire::{EnvelopeId, NodeId};

use crate::packet::Packet;
use crate::stack::Input;

use super::{Driver, LinkHandle};

/// Pulls of one neighbour that wait for room: all that it remembers of our announcements. What it asks for
/// beyond is not answered, and counted.
const MAX_PULLS: usize = 4096;

/// Of these, the ones for ranges: a neighbour has one open at a time, and asks for another only if that takes too long.
const MAX_RANGE_PULLS: usize = 16;

/// So often in one turn what had no room is pushed to one neighbour: twice what its queue holds, of which the writer takes some meanwhile.
const MAX_ROUNDS: u32 = 16;

/// A neighbour wants an envelope, and perhaps to be pushed to from now on, or what it missed.
#[derive(Debug, Clone)]
pub(super) enum Pull {
    Graft(EnvelopeId),
    IWant(EnvelopeId),
    Ranges(u32, Vec<Span<NodeId>>),
}

impl Pull {
    fn packet(self) -> Packet {
        match self {
            Self::Graft(id) => Packet::Graft(Some(id)),
            Self::IWant(id) => Packet::IWant(vec![id]),
            Self::Ranges(number, spans) => Packet::Pull { number, spans },
        }
    }
}

/// What is being read from the log on disk for a neighbour.
#[derive(Debug)]
pub(super) struct LogRead {
    ticket: Ticket,
    bytes: usize,
    /// What was found, while what was asked for before is not here yet.
    envelopes: Option<Vec<Read>>,
}

impl LinkHandle {
    /// Whether any envelope fits into the queue, when what is being read for it is there too.
    fn has_room(&self) -> bool {
        self.outbox.has_room(self.reads.iter().map(|read| read.bytes).sum())
    }
}

impl Driver {
    /// The core wants to answer out of the log on disk.
    pub(super) fn begin_read(&mut self, ticket: Ticket, to: NodeId, ids: Vec<EnvelopeId>, bytes: usize) {
        if let Some(link) = self.links.get_mut(&to) {
            link.reads.push_back(LogRead { ticket, bytes, envelopes: None });
        }
        self.read_log(ticket, to, ids);
    }

    pub(super) fn on_fetched(&mut self, now: Instant, to: NodeId, ticket: Ticket, envelopes: Vec<Read>) {
        let read = |link: &mut LinkHandle| link.reads.iter().position(|read| read.ticket == ticket);
        let Some((link, at)) = self.links.get_mut(&to).and_then(|link| read(link).map(|at| (link, at)))
        else {
            // It was asked for over a link that is gone.
            return self.stack.handle(now, Input::Fetched { ticket, envelopes });
        };
        link.reads[at].envelopes = Some(envelopes);
        // In the order in which they were asked for: several threads read.
        while let Some(link) = self.links.get_mut(&to)
            && let Some(LogRead { ticket, envelopes: Some(envelopes), .. }) =
                link.reads.pop_front_if(|read| read.envelopes.is_some())
        {
            self.stack.handle(now, Input::Fetched { ticket, envelopes });
            self.perform_all();
        }
    }

    /// A neighbour asks for an envelope.
    pub(super) fn on_pull(&mut self, now: Instant, from: NodeId, pull: Pull) {
        let Some(link) = self.links.get_mut(&from) else { return };
        let ranges = |pull: &&Pull| matches!(pull, Pull::Ranges(..));
        let full = ranges(&&pull) && link.pulls.iter().filter(ranges).count() >= MAX_RANGE_PULLS;
        if link.pulls.is_empty() && link.has_room() {
            self.stack.handle(now, Input::Packet { from, packet: pull.packet() });
        } else if link.pulls.len() < MAX_PULLS && !full {
            link.pulls.push_back(pull);
            self.pulling.insert(from);
        } else {
            self.counters.pulls_full += 1;
        }
    }

    /// Answers what waits, as far as there is room.
    pub(super) fn answer_pulls(&mut self) {
        let waiting: Vec<NodeId> = self.pulling.iter().copied().collect();
        for from in waiting {
            while let Some(link) = self.links.get_mut(&from)
                && link.has_room()
                && let Some(pull) = link.pulls.pop_front()
            {
                self.stack.handle(Instant::now(), Input::Packet { from, packet: pull.packet() });
                self.perform_all();
            }
            if self.links.get(&from).is_none_or(|link| link.pulls.is_empty()) {
                self.pulling.remove(&from);
            }
        }
    }

    /// Pushes what had no room before, as far as there is some.
    pub(super) fn push_owed(&mut self) {
        let owed: Vec<NodeId> = self.owed.iter().copied().collect();
        for to in owed {
            let mut rounds = 0;
            while self.links.get(&to).is_some_and(|link| !link.outbox.is_closed() && link.has_room()) {
                let more = self.stack.push_owed(Instant::now(), to);
                self.perform_all();
                rounds += 1;
                if rounds == MAX_ROUNDS {
                    // Others have their turn.
                    self.shared.drained.notify_one();
                }
                if !more || rounds == MAX_ROUNDS {
                    break;
                }
            }
            if let Some(link) = self.links.get(&to) {
                link.outbox.set_owed(self.stack.is_owed_ours(to));
            }
            if !self.stack.is_owed(to) {
                self.owed.remove(&to);
            }
        }
    }

    /// Whether something waits for room in the queue of a link.
    pub(super) fn waits_for_room(&self) -> bool {
        self.publisher.is_blocked() || !self.pulling.is_empty() || !self.owed.is_empty()
    }
}
