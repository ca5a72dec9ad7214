//! What links bring, heard in turn: a busy link waits for the others, and all of them for the rest of the node.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use p2p_wire::NodeId;

use crate::inbound::Inbound;
use crate::link::{Closed, LinkEvent, Taken};
use crate::packet::Packet;
use crate::stack::Input;

use super::Driver;
use super::pulls::Pull;

/// One link is heard for this long before the next one is: about five checks of signatures. So a neighbour has at
/// most half of the driver's time while another one waits.
pub(super) const SLICE: Duration = Duration::from_micros(250);
/// Links are heard for this long before commands, deadlines and own messages have their turn.
pub(super) const TURN: Duration = Duration::from_millis(1);

/// What came over one link and waits for its turn, in order. Bounded by the link's inbox.
#[derive(Debug, Default)]
pub(super) struct Waiting(VecDeque<Heard>);

#[derive(Debug)]
pub(super) enum Heard {
    Batch { rest: std::vec::IntoIter<Inbound>, _taken: Taken },
    Closed(Closed),
}

impl Waiting {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn push(&mut self, heard: Heard) {
        self.0.push_back(heard);
    }

    pub(super) fn next(&mut self) -> Option<Next> {
        loop {
            match self.0.front_mut()? {
                Heard::Closed(_) => {
                    let Some(Heard::Closed(cause)) = self.0.pop_front() else { return None };
                    return Some(Next::Closed(cause));
                }
                Heard::Batch { rest, .. } => {
                    let next = rest.next();
                    if rest.as_slice().is_empty() {
                        self.0.pop_front();
                    }
                    if let Some(inbound) = next {
                        return Some(Next::Frame(inbound));
                    }
                }
            }
        }
    }
}

pub(super) enum Next {
    Frame(Inbound),
    Closed(Closed),
}

/// Links of which something waits, the next one first; each once.
#[derive(Debug, Default)]
pub(super) struct Turns(VecDeque<NodeId>);

impl Turns {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A link is gone, with all that it brought.
    pub(super) fn remove(&mut self, peer: NodeId) {
        self.0.retain(|waiting| *waiting != peer);
    }
}

impl Driver {
    /// Puts what a link says behind what the same link said before. Of a link that was replaced or hung up meanwhile, pushes
    /// alone count.
    pub(super) fn take_in(&mut self, event: LinkEvent) {
        let (link, peer, heard) = match event {
            LinkEvent::Batch { link, peer, batch, taken } => {
                (link, peer, Heard::Batch { rest: batch.into_iter(), _taken: taken })
            }
            LinkEvent::Closed { link, peer, cause } => (link, peer, Heard::Closed(cause)),
        };
        let Some(handle) = self.links.get_mut(&peer).filter(|handle| handle.id == link) else {
            return self.leavers.take_in(link, heard);
        };
        if handle.waiting.is_empty() {
            self.turns.0.push_back(peer);
        }
        handle.waiting.push(heard);
    }

    /// Hears the links that have something to say, for a [`TURN`] in all.
    pub(super) fn hear_links(&mut self) {
        while let Some(event) = self.shared.arrivals.pop() {
            self.take_in(event);
        }
        let began = Instant::now();
        let mut now = began;
        while now.duration_since(began) < TURN
            && let Some(peer) = self.turns.0.pop_front()
        {
            now = self.hear(now, peer);
            if self.links.get(&peer).is_some_and(|link| !link.waiting.is_empty()) {
                self.turns.0.push_back(peer);
            }
            // What is to be passed on goes out while the next link is heard.
            self.ring_links();
        }
        self.hear_leavers();
    }

    /// Hears one link for a [`SLICE`]. Returns the time.
    fn hear(&mut self, began: Instant, peer: NodeId) -> Instant {
        let mut now = began;
        while now.duration_since(began) < SLICE
            && let Some(next) = self.links.get_mut(&peer).and_then(|link| link.waiting.next())
        {
            match next {
                Next::Frame(inbound) => self.on_inbound(now, peer, inbound),
                Next::Closed(cause) => self.link_is_down(peer, &cause),
            }
            self.perform_all();
            now = Instant::now();
        }
        now
    }

    fn on_inbound(&mut self, now: Instant, from: NodeId, inbound: Inbound) {
        match inbound {
            Inbound::Unknown => self.counters.unknown_frames += 1,
            Inbound::Limited => self.counters.walks_limited += 1,
            Inbound::View(view) => self.stack.handle(now, Input::View { from, view }),
            Inbound::Packet(Packet::Bye(reason)) => self.on_bye(now, from, reason),
            Inbound::Packet(Packet::Graft(Some(id))) => self.on_pull(now, from, Pull::Graft(id)),
            Inbound::Packet(Packet::Pull { number, spans }) => {
                self.on_pull(now, from, Pull::Ranges(number, spans));
            }
            Inbound::Packet(Packet::IWant(ids)) => {
                for id in ids {
                    self.on_pull(now, from, Pull::IWant(id));
                    self.perform_all();
                }
            }
            Inbound::Packet(packet) => {
                if let (Packet::Pong(number), Some(link)) = (&packet, self.links.get(&from)) {
                    link.outbox.answered(*number);
                }
                self.stack.handle(now, Input::Packet { from, packet });
            }
        }
    }
}
