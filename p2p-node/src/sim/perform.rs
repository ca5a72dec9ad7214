//! What the driver does with a stack's outputs, done to the virtual network.

use bytes::Bytes;
use p2p_gossip::Ticket;
use p2p_peers::{DialFailure, DownCause, HangupCause, Target};
use p2p_wire::{Envelope, EnvelopeId, FrameBody, MAX_FRAME_PAYLOAD, NodeId, PeerRecord};

use super::link::nanos;
use super::node::Conduct;
use super::queue::{Event, LinkId, Time};
use super::turn::Turn;
use crate::packet::{ByeReason, Packet};
use crate::stack::{Hangup, Input, Output};

/// Bytes of control frames that may wait, and of those that can be spared, as in `outbox`.
const CONTROL_BYTES: u64 = 512 << 10;
const SPARED_BYTES: u64 = CONTROL_BYTES / 2;
/// Before a link without room is looked at again: 10 ms, in nanoseconds.
const LOOK_AGAIN: Time = 10_000_000;
const SIGNATURE: usize = 64;

impl Turn<'_> {
    /// Carries out everything that the stack wants.
    pub(super) fn perform(&mut self) {
        while let Some(output) = self.node.stack.as_mut().and_then(|stack| stack.poll_output()) {
            self.on_output(output);
        }
        let deadline = self.node.stack.as_ref().and_then(|stack| stack.poll_timeout());
        self.node.deadline = deadline.map_or(Time::MAX, |at| self.world.time(at));
    }

    fn on_output(&mut self, output: Output) {
        match output {
            Output::Send { to, packet } => self.send(to, packet),
            Output::Dial { target, addrs } => {
                let linked = matches!(target, Target::Peer(peer) if self.linked(&peer));
                if linked {
                    self.feed(Input::DialFailed { target, cause: DialFailure::Duplicate });
                } else {
                    self.dial(target, &addrs);
                }
            }
            Output::Hangup { peer, reason } => self.hang_up(peer, reason),
            Output::Verify { ticket, id, envelope } => self.verify(ticket, id, envelope),
            Output::Deliver { envelope, entries, late, .. } => self.deliver(&envelope, entries, late),
            Output::Misbehaved { peer, .. } => {
                self.meter.misbehaved += 1;
                self.hang_up(peer, Hangup::Misbehaved);
            }
            // The log is in memory.
            Output::Append { .. } | Output::Fetch { .. } => {}
            Output::Up(_) | Output::Down(_) => {}
            Output::Gap(_) => self.meter.gaps += 1,
            Output::Forked(_) => self.meter.forks += 1,
            Output::Lookup { .. }
            | Output::Found { .. }
            | Output::OwnAhead(_)
            | Output::HoldsOwn { .. }
            | Output::Save => {}
        }
    }

    /// As [`Turn::input`], from within [`Turn::perform`], which goes on draining.
    fn feed(&mut self, input: Input) {
        if let Some(stack) = &mut self.node.stack {
            stack.handle(self.world.instant(self.now), input);
        }
    }

    fn linked(&self, peer: &NodeId) -> bool {
        self.node.links.iter().any(|half| half.id == *peer)
    }

    fn hang_up(&mut self, peer: NodeId, reason: Hangup) {
        let Some(half) = self.node.links.iter().find(|half| half.id == peer) else { return };
        let other = half.peer;
        let (bye, cause) = match reason {
            Hangup::Silent | Hangup::Unread => {
                let well = self.world.face(other).runs && !self.world.cut(self.node.number, other);
                self.meter.false_deaths += u64::from(well);
                (ByeReason::Other, DownCause::Silent)
            }
            Hangup::Misbehaved => (ByeReason::Misbehaved, DownCause::Misbehaved),
            Hangup::NoRoom => (ByeReason::Full, DownCause::HungUp),
            Hangup::Table(HangupCause::Banned) => (ByeReason::Banned, DownCause::HungUp),
            Hangup::Table(HangupCause::Stopped) => (ByeReason::Leaving, DownCause::HungUp),
            Hangup::Table(HangupCause::Full) => (ByeReason::Full, DownCause::HungUp),
            Hangup::Table(_) => (ByeReason::Disconnected, DownCause::HungUp),
        };
        self.close(other, bye, cause);
    }

    pub(super) fn send(&mut self, to: NodeId, packet: Packet) {
        let Some(at) = self.node.links.iter().position(|half| half.id == to) else { return };
        let Some(packet) = self.as_it_behaves(packet) else { return };
        let len = self.frame_len(&packet);
        let config = &self.world.config;
        let waiting = self.node.links[at].waiting(config, self.node.rate, self.now);
        let limit = match &packet {
            Packet::Push { .. } => config.queue_bytes,
            packet if packet.can_be_spared() => SPARED_BYTES + config.queue_bytes,
            _ => CONTROL_BYTES + config.queue_bytes,
        };
        if waiting > 0 && waiting + len > limit {
            return self.on_full(to, packet);
        }
        let luck = if config.loss > 0.0 || !config.jitter.is_zero() { self.node.random() } else { 0 };
        let node = &mut *self.node;
        let half = &mut node.links[at];
        let arrives = half.send(config, self.now, len, (node.rate, &mut node.sends_until), luck);
        let kind = usize::from(packet.kind());
        self.meter.bytes[kind] += len;
        self.meter.frames[kind] += 1;
        if matches!(packet, Packet::Digest(_) | Packet::Ranges(_)) {
            half.summaries += len;
        }
        let (link, peer) = (half.link, half.peer);
        self.cause(peer, arrives, Event::Frame { link, packet: Box::new(packet) });
    }

    fn on_full(&mut self, to: NodeId, packet: Packet) {
        if let Packet::Push { id, hops, .. } = packet {
            self.meter.put_off += 1;
            if let Some(stack) = &mut self.node.stack {
                stack.put_off(self.world.instant(self.now), to, id, hops);
            }
            if let Some(half) = self.node.links.iter_mut().find(|half| half.id == to)
                && !std::mem::replace(&mut half.owes, true)
            {
                let link = half.link;
                self.cause(self.node.number, self.now + LOOK_AGAIN, Event::Room { link });
            }
        } else if !packet.can_be_spared() {
            self.hang_up(to, Hangup::Unread);
        }
    }

    /// What had no room on a link follows as far as there is some, as the driver does it.
    pub(super) fn on_room(&mut self, link: LinkId) {
        let Some(peer) = self.node.link(link).map(|half| half.id) else { return };
        let mut more = true;
        while more && self.has_room(link) {
            more = false;
            self.with_stack(|stack, now| more = stack.push_owed(now, peer));
        }
        if self.node.stack.as_ref().is_some_and(|stack| stack.is_owed(peer)) {
            self.cause(self.node.number, self.now + LOOK_AGAIN, Event::Room { link });
        } else if let Some(half) = self.node.links.iter_mut().find(|half| half.link == link) {
            half.owes = false;
        }
    }

    /// A frame is here, decoded.
    pub(super) fn on_packet(&mut self, link: LinkId, (other, from): (u32, NodeId), packet: Packet) {
        match packet {
            Packet::View(view) => {
                let records =
                    view.records().iter().filter_map(|bytes| PeerRecord::decode(bytes.clone()).ok());
                let records = records.collect();
                let view = view.with(records);
                self.input(Input::View { from, view });
            }
            Packet::Graft(Some(_)) | Packet::IWant(_) | Packet::Pull { .. } if !self.has_room(link) => {
                // What a neighbour asks for while its link is full waits for room.
                let at = self.now + LOOK_AGAIN;
                self.cause(self.node.number, at, Event::Frame { link, packet: Box::new(packet) });
            }
            packet => {
                if let Packet::Push { id, hops, .. } = &packet {
                    self.arrived(id, other, *hops);
                }
                self.input(Input::Packet { from, packet });
            }
        }
    }

    /// A copy of a message arrived.
    fn arrived(&mut self, id: &EnvelopeId, other: u32, hops: u16) {
        let Some(message) = self.world.message(id) else { return };
        self.node.got(message).arrived(hops);
        if self.world.face(self.node.number).conduct == Conduct::Greedy {
            let copies = self.node.answers.entry((message, other)).or_default();
            *copies += 1;
            self.meter.most_answers = self.meter.most_answers.max(*copies);
        }
    }

    /// Whether any frame fits into the queue of the link, as `Outbox::has_room`.
    fn has_room(&self, link: LinkId) -> bool {
        let Some(half) = self.node.link(link) else { return true };
        let waiting = half.waiting(&self.world.config, self.node.rate, self.now);
        waiting == 0 || waiting + MAX_FRAME_PAYLOAD as u64 <= self.world.config.queue_bytes
    }

    fn verify(&mut self, ticket: Ticket, id: EnvelopeId, envelope: Bytes) {
        let ok = if self.world.config.real_checks {
            Envelope::decode(envelope.clone()).is_ok_and(|e| e.id() == id && e.verify().is_ok())
        } else {
            id_of(&envelope) == Some(id) && envelope.iter().rev().take(SIGNATURE).any(|byte| *byte != 0)
        };
        let digest = ok.then(|| p2p_gossip::digest(&envelope));
        let check = nanos(self.world.config.check);
        if check == 0 {
            return self.feed(Input::Verified { ticket, digest });
        }
        let node = &mut *self.node;
        node.checks_until = node.checks_until.max(self.now) + check;
        let (number, at, life) = (node.number, node.checks_until, node.life);
        self.cause(number, at, Event::Checked { life, ticket, digest });
    }

    fn deliver(&mut self, envelope: &Bytes, entries: u64, late: bool) {
        let Some(id) = id_of(envelope) else { return };
        for entry in (0..id.count).filter(|entry| entries >> entry & 1 == 1) {
            self.meter.deliveries += 1;
            self.meter.late += u64::from(late);
            let first = id.first + u64::from(entry);
            let Some(message) = self.world.message(&EnvelopeId { first, ..id }) else { continue };
            let after = self.now.saturating_sub(self.world.messages[message as usize].sent_at);
            let life = self.node.life;
            self.meter.duplicates += u64::from(self.node.got(message).delivered(life, after));
        }
    }
}

/// The id in front of an envelope, behind its version; the rest is not looked at.
fn id_of(envelope: &Bytes) -> Option<EnvelopeId> {
    let id = envelope.get(1..)?.first_chunk::<{ EnvelopeId::LEN }>()?;
    EnvelopeId::from_bytes(id).ok()
}
