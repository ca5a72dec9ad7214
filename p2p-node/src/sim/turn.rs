//! What happens to one node while a window passes. It sees itself and the [`World`]; to others it sends [`Entry`]s.

use std::collections::BinaryHeap;
use std::time::Instant;

use bytes::BytesMut;
use p2p_peers::DownCause;
use rand::rngs::StdRng;

use super::link::latency;
use super::meter::Meter;
use super::node::Node;
use super::outcome;
use super::queue::{Entry, Event, LinkId, Time};
use super::shard::Away;
use super::world::World;
use crate::packet::{ByeReason, Packet};
use crate::stack::{Input, Stack};

/// One node at work.
pub(super) struct Turn<'a> {
    pub(super) world: &'a World,
    pub(super) node: &'a mut Node,
    pub(super) now: Time,
    /// What the node causes at itself.
    pub(super) mine: &'a mut BinaryHeap<Entry>,
    /// What it causes at others.
    pub(super) away: &'a mut Away,
    pub(super) meter: &'a mut Meter,
    pub(super) scratch: &'a mut BytesMut,
}

impl Turn<'_> {
    /// Everything of this node that is due before `end`: `events`, what they cause here, and deadlines. A deadline comes
    /// behind events of its instant.
    pub(super) fn run(&mut self, events: impl Iterator<Item = Entry>, end: Time) {
        let mut events = events.peekable();
        loop {
            let given = events.peek().map(Entry::key);
            let own = self.mine.peek().map(Entry::key).filter(|(at, ..)| *at < end);
            let next = given.into_iter().chain(own).min();
            let due = self.node.deadline.max(self.node.now);
            if due < next.map_or(end, |(at, ..)| at) {
                self.go(due);
                self.input(Input::Timeout);
                continue;
            }
            let entry = match next {
                None => return,
                _ if next == given => events.next(),
                _ => self.mine.pop(),
            };
            let Some(entry) = entry else { return };
            self.go(entry.at);
            self.on_event(entry);
        }
    }

    fn go(&mut self, to: Time) {
        self.now = to;
        self.node.now = to;
    }

    /// Something will happen.
    pub(super) fn cause(&mut self, to: u32, at: Time, event: Event) {
        let order = self.node.caused;
        self.node.caused = order.wrapping_add(1);
        let entry = Entry { at, to, from: self.node.number, order, event };
        if to == self.node.number {
            self.mine.push(entry);
        } else {
            self.away.push(entry);
        }
    }

    fn on_event(&mut self, entry: Entry) {
        let from = entry.from;
        match entry.event {
            Event::Wake => {
                if self.node.wake_at <= self.now {
                    self.node.wake_at = Time::MAX;
                }
            }
            Event::Frame { .. } | Event::Closed { .. } if self.world.cut(self.node.number, from) => {
                self.node.held.push(entry);
            }
            Event::Room { link } => self.on_room(link),
            Event::Frame { link, packet } => self.on_frame(link, from, *packet),
            Event::Closed { link, bye } => self.on_closed(link, bye),
            Event::DialFailed { dial, cause } => self.on_dial_failed(dial, cause),
            Event::DialProved { dial } => self.on_dial_proved(dial),
            Event::DialHello { dial } => self.on_dial_hello(from, dial),
            Event::DialAnswer { dial, answer } => self.on_dial_answer(from, dial, answer),
            Event::Checked { life, ticket, digest } => {
                if self.node.life == life {
                    self.input(Input::Verified { ticket, digest });
                }
            }
        }
    }

    pub(super) fn input(&mut self, input: Input) {
        self.with_stack(|stack, now| stack.handle(now, input));
    }

    pub(super) fn with_stack(&mut self, action: impl FnOnce(&mut Stack<StdRng>, Instant)) {
        if let Some(stack) = &mut self.node.stack {
            action(stack, self.world.instant(self.now));
            self.perform();
        }
    }

    pub(super) fn runs(&self) -> bool {
        self.node.stack.is_some()
    }

    pub(super) fn latency(&self, other: u32) -> Time {
        latency(&self.world.config, self.node.number, other)
    }

    fn on_frame(&mut self, link: LinkId, from: u32, packet: Packet) {
        let Some(half) = self.node.link(link) else {
            if self.node.drains(link, self.now) {
                if matches!(packet, Packet::Push { .. }) {
                    self.on_packet(link, (from, self.world.face(from).id), packet);
                }
            } else if self.runs() && from != self.node.number {
                // A machine that came back knows nothing of the connection: it resets it.
                self.cause(from, self.now + self.latency(from), Event::Closed { link, bye: None });
            }
            return;
        };
        self.on_packet(link, (half.peer, half.id), packet);
    }

    fn on_closed(&mut self, link: LinkId, bye: Option<ByeReason>) {
        let Some(half) = self.node.link(link) else { return };
        let peer = half.id;
        if matches!(bye, Some(ByeReason::Disconnected | ByeReason::Banned)) {
            self.with_stack(|stack, now| {
                stack.with_table(now, |table, now| table.disconnect(now, peer));
            });
        }
        let cause = match bye {
            Some(ByeReason::Misbehaved) => DownCause::Protocol,
            Some(ByeReason::Full) => DownCause::NoRoom,
            Some(ByeReason::Duplicate) => DownCause::Replaced,
            Some(_) => DownCause::Closed,
            None => {
                self.meter.resets += 1;
                DownCause::Failed
            }
        };
        self.link_down(link, cause);
    }

    /// Closes the link to another node from this side, with a goodbye behind what is queued.
    pub(super) fn close(&mut self, other: u32, bye: ByeReason, cause: DownCause) {
        let Some(half) = self.node.link_to(other) else { return };
        let (link, at) = (half.link, half.close(self.now));
        self.node.hangs_up(link, self.now);
        self.cause(other, at, Event::Closed { link, bye: Some(bye) });
        self.link_down(link, cause);
    }

    fn link_down(&mut self, link: LinkId, cause: DownCause) {
        if let Some(half) = self.node.unlink(link) {
            self.input(Input::LinkDown { peer: half.id, cause });
        }
    }

    /// Bytes of a frame on the wire.
    pub(super) fn frame_len(&mut self, packet: &Packet) -> u64 {
        outcome::frame_len(self.scratch, packet)
    }
}
