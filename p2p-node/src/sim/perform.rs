//! What the driver does with a stack's outputs, done to the virtual network.

use std::time::{Duration, Instant};

use bytes::Bytes;
use p2p_gossip::Ticket;
use p2p_peers::{DialFailure, DownCause, HangupCause, Target};
use p2p_wire::{Envelope, EnvelopeId, FrameBody, MAX_FRAME_PAYLOAD, NodeId, PeerRecord};
use rand::RngExt;
use rand::rngs::StdRng;

use super::Sim;
use super::link::nanos;
use super::node::Conduct;
use super::queue::Event;
use crate::packet::{ByeReason, Packet};
use crate::stack::{Hangup, Input, Output, Stack};

/// Bytes of control frames that may wait, as in `outbox.rs`.
const CONTROL_BYTES: u64 = 512 << 10;
const SIGNATURE: usize = 64;

impl Sim {
    pub(super) fn input(&mut self, node: u32, input: Input) {
        self.with_stack(node, |stack, now| stack.handle(now, input));
    }

    pub(super) fn with_stack(&mut self, node: u32, action: impl FnOnce(&mut Stack<StdRng>, Instant)) {
        let now = self.epoch + Duration::from_nanos(self.now);
        if let Some(stack) = &mut self.nodes[node as usize].stack {
            action(stack, now);
            self.perform(node);
        }
    }

    /// Carries out everything that a stack wants.
    pub(super) fn perform(&mut self, node: u32) {
        while let Some(output) =
            self.nodes[node as usize].stack.as_mut().and_then(|stack| stack.poll_output())
        {
            self.on_output(node, output);
        }
        self.set_timer(node);
    }

    pub(super) fn set_timer(&mut self, number: u32) {
        let node = &mut self.nodes[number as usize];
        let Some(due) = node.stack.as_ref().and_then(|stack| stack.poll_timeout()) else { return };
        let at = nanos(due.saturating_duration_since(self.epoch)).max(self.now);
        // A later deadline finds out when the earlier event fires.
        if at < node.timer_at {
            node.timer_at = at;
            self.queue.push(at, Event::Timer { node: number });
        }
    }

    fn on_output(&mut self, node: u32, output: Output) {
        match output {
            Output::Send { to, packet } => self.send(node, to, packet),
            Output::Dial { target, addrs } => {
                let linked = matches!(target, Target::Peer(peer) if self.link_with(node, peer).is_some());
                if linked {
                    self.feed(node, Input::DialFailed { target, cause: DialFailure::Duplicate });
                } else {
                    self.dial(node, target, &addrs);
                }
            }
            Output::Hangup { peer, reason } => self.hang_up(node, peer, reason),
            Output::Verify { ticket, id, envelope } => self.verify(node, ticket, id, envelope),
            Output::Deliver { envelope, entries, late, .. } => self.deliver(node, &envelope, entries, late),
            Output::Misbehaved { peer, .. } => {
                self.meter.misbehaved += 1;
                self.hang_up(node, peer, Hangup::Misbehaved);
            }
            // The log is in memory.
            Output::Append { .. } | Output::Fetch { .. } => {}
            Output::Up(_) | Output::Down(_) => {}
            Output::Gap(_) => self.meter.gaps += 1,
            Output::Forked(_) => self.meter.forks += 1,
            Output::Lookup { .. } | Output::Found { .. } | Output::OwnAhead(_) | Output::Save => {}
        }
    }

    /// As [`Sim::input`], from within [`Sim::perform`], which goes on draining.
    fn feed(&mut self, node: u32, input: Input) {
        let now = self.epoch + Duration::from_nanos(self.now);
        if let Some(stack) = &mut self.nodes[node as usize].stack {
            stack.handle(now, input);
        }
    }

    fn link_with(&self, node: u32, peer: NodeId) -> Option<(u32, u32)> {
        let other = *self.by_id.get(&peer)?;
        Some((other, self.nodes[node as usize].link_to(other)?))
    }

    fn hang_up(&mut self, node: u32, peer: NodeId, reason: Hangup) {
        let Some((other, _)) = self.link_with(node, peer) else { return };
        let (bye, cause) = match reason {
            Hangup::Silent | Hangup::Unread => {
                let there = &self.nodes[other as usize];
                self.meter.false_deaths += u64::from(there.stack.is_some() && !self.cut(node, other));
                (ByeReason::Other, DownCause::Silent)
            }
            Hangup::Misbehaved => (ByeReason::Misbehaved, DownCause::Misbehaved),
            Hangup::NoRoom => (ByeReason::Full, DownCause::HungUp),
            Hangup::Table(HangupCause::Banned) => (ByeReason::Banned, DownCause::HungUp),
            Hangup::Table(HangupCause::Stopped) => (ByeReason::Leaving, DownCause::HungUp),
            Hangup::Table(HangupCause::Full) => (ByeReason::Full, DownCause::HungUp),
            Hangup::Table(_) => (ByeReason::Disconnected, DownCause::HungUp),
        };
        self.close(node, other, bye, cause);
    }

    pub(super) fn send(&mut self, node: u32, to: NodeId, packet: Packet) {
        let Some((_, link)) = self.link_with(node, to) else { return };
        let Some(packet) = self.as_it_behaves(node, packet) else { return };
        let len = self.frame_len(&packet);
        let there = &mut self.links[link as usize];
        let side = u8::from(there.ends[1] == node);
        let sender = &self.nodes[node as usize];
        let waiting = there.waiting(&self.config, sender.rate, self.now, side);
        let is_push = matches!(packet, Packet::Push { .. });
        let limit = if is_push { self.config.queue_bytes } else { CONTROL_BYTES + self.config.queue_bytes };
        if waiting > 0 && waiting + len > limit {
            return self.on_full(node, to, packet);
        }
        let luck =
            if self.config.loss > 0.0 || !self.config.jitter.is_zero() { self.rng.random() } else { 0 };
        let sender = &mut self.nodes[node as usize];
        let at = there.send(&self.config, self.now, side, len, (sender.rate, &mut sender.sends_until), luck);
        let kind = usize::from(packet.kind());
        self.meter.traffic.bytes[kind] += len;
        self.meter.traffic.frames[kind] += 1;
        if matches!(packet, Packet::Digest(_) | Packet::Ranges(_)) {
            self.links[link as usize].summaries += len;
        }
        let packet = self.packets.put(packet);
        self.queue.push(at, Event::Frame { link, to: 1 - side, packet });
    }

    fn on_full(&mut self, node: u32, to: NodeId, packet: Packet) {
        let now = self.epoch + Duration::from_nanos(self.now);
        if let Packet::Push { id, hops, .. } = packet {
            self.meter.announced_instead += 1;
            if let Some(stack) = &mut self.nodes[node as usize].stack {
                stack.announce_instead(now, to, id, hops);
            }
        } else {
            self.hang_up(node, to, Hangup::Unread);
        }
    }

    /// A frame is here, decoded.
    pub(super) fn on_packet(&mut self, me: u32, other: u32, packet: Packet) {
        let from = self.nodes[other as usize].id;
        match packet {
            Packet::View(view) => {
                let records =
                    view.records().iter().filter_map(|bytes| PeerRecord::decode(bytes.clone()).ok());
                let view = view.clone().with(records.collect());
                self.input(me, Input::View { from, view });
            }
            Packet::Graft(Some(_)) | Packet::IWant(_) | Packet::Pull { .. } if !self.has_room(me, other) => {
                self.answer_later(me, other, packet);
            }
            packet => {
                if let Packet::Push { id, hops, .. } = &packet {
                    self.meter.arrived(id, me, *hops);
                    if self.nodes[me as usize].conduct == Conduct::Greedy {
                        self.meter.answered(id, other, me);
                    }
                }
                self.input(me, Input::Packet { from, packet });
            }
        }
    }

    /// Whether any frame fits into the queue of the link, as `Outbox::has_room`.
    fn has_room(&self, me: u32, other: u32) -> bool {
        let node = &self.nodes[me as usize];
        let Some(number) = node.link_to(other) else { return true };
        let link = &self.links[number as usize];
        let waiting = link.waiting(&self.config, node.rate, self.now, u8::from(link.ends[1] == me));
        waiting == 0 || waiting + MAX_FRAME_PAYLOAD as u64 <= self.config.queue_bytes
    }

    /// What a neighbour asks for while its link is full waits for room.
    fn answer_later(&mut self, me: u32, other: u32, packet: Packet) {
        let Some(link) = self.nodes[me as usize].link_to(other) else { return };
        let to = u8::from(self.links[link as usize].ends[1] == me);
        let packet = self.packets.put(packet);
        self.queue.push(self.now + nanos(Duration::from_millis(10)), Event::Frame { link, to, packet });
    }

    fn verify(&mut self, node: u32, ticket: Ticket, id: EnvelopeId, envelope: Bytes) {
        let ok = if self.config.real_checks {
            Envelope::decode(envelope).is_ok_and(|e| e.id() == id && e.verify().is_ok())
        } else {
            id_of(&envelope) == Some(id) && envelope.iter().rev().take(SIGNATURE).any(|byte| *byte != 0)
        };
        let check = nanos(self.config.check);
        if check == 0 {
            return self.feed(node, Input::Verified { ticket, ok });
        }
        let there = &mut self.nodes[node as usize];
        there.checks_until = there.checks_until.max(self.now) + check;
        let life = there.life;
        self.queue.push(there.checks_until, Event::Checked { node, life, ticket, ok });
    }

    fn deliver(&mut self, node: u32, envelope: &Bytes, entries: u64, late: bool) {
        let Some(id) = id_of(envelope) else { return };
        let life = self.nodes[node as usize].life;
        for entry in (0..id.count).filter(|entry| entries >> entry & 1 == 1) {
            let first = id.first + u64::from(entry);
            self.meter.delivered(&EnvelopeId { first, ..id }, node, life, self.now, late);
        }
    }
}

/// The id in front of an envelope, behind its version; the rest is not looked at.
fn id_of(envelope: &Bytes) -> Option<EnvelopeId> {
    let id = envelope.get(1..)?.first_chunk::<{ EnvelopeId::LEN }>()?;
    EnvelopeId::from_bytes(id).ok()
}
