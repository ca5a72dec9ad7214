//! Dials: TCP, TLS, hello there and back, and who keeps a link that both began, as `dial.rs` and `driver/admit.rs` do it.

use std::net::SocketAddr;

use p2p_peers::{DialFailure, DownCause, Refusal, Target};
use p2p_wire::NodeId;

use super::link::{Half, latency, nanos};
use super::node::Kill;
use super::queue::{Event, LinkId};
use super::turn::Turn;
use super::world::World;
use crate::claims::{Claim, Verdict};
use crate::event::Direction;
use crate::packet::ByeReason;
use crate::stack::{Input, LinkUp};

/// A dial on its way.
#[derive(Debug)]
pub(super) struct Dial {
    /// They count from 1; 0 is none.
    number: u32,
    target: Target<NodeId>,
    to: u32,
    addr: SocketAddr,
    claim: Option<Claim>,
}

impl Turn<'_> {
    /// Tries the addresses one after the other: the first that answers decides, as it would in a race.
    pub(super) fn dial(&mut self, target: Target<NodeId>, addrs: &[SocketAddr]) {
        let me = self.node.number;
        let config = &self.world.config;
        let expected = match target {
            Target::Peer(peer) => Some(peer),
            Target::Seed(_) => None,
        };
        let mut outcome = (self.now + nanos(config.dial_timeout), Some(DialFailure::TimedOut), me, None);
        for addr in addrs {
            let Some(to) = self.world.by_addr(addr) else { continue };
            let there = self.world.face(to);
            let one_way = latency(config, me, to);
            if self.world.cut(me, to) || (!there.runs && there.down == Kill::Machine) {
                continue;
            }
            outcome = if !there.runs {
                (self.now + 2 * one_way, Some(DialFailure::Unreachable), to, Some(*addr))
            } else if to == me {
                (self.now + 4 * one_way, Some(DialFailure::Itself), to, Some(*addr))
            } else if expected.is_some_and(|id| id != there.id) {
                (self.now + 4 * one_way, Some(DialFailure::WrongIdentity), to, Some(*addr))
            } else {
                (self.now + 4 * one_way, None, to, Some(*addr))
            };
            if outcome.1.is_none() {
                break;
            }
        }
        let (at, failure, to, addr) = outcome;
        let addr = addr.or_else(|| addrs.first().copied()).unwrap_or_else(|| self.world.face(me).addr);
        self.node.last_dial = self.node.last_dial.wrapping_add(1);
        let dial = self.node.last_dial;
        self.node.dials.push(Dial { number: dial, target, to, addr, claim: None });
        let event = failure.map_or(Event::DialProved { dial }, |cause| Event::DialFailed { dial, cause });
        self.cause(me, at, event);
    }

    /// A dial of this life.
    fn dial_mut(&mut self, number: u32) -> Option<&mut Dial> {
        self.node.dials.iter_mut().find(|dial| dial.number == number)
    }

    fn end_dial(&mut self, number: u32) -> Option<Dial> {
        let at = self.node.dials.iter().position(|dial| dial.number == number)?;
        Some(self.node.dials.remove(at))
    }

    pub(super) fn on_dial_failed(&mut self, number: u32, cause: DialFailure) {
        let Some(dial) = self.end_dial(number) else { return };
        drop(dial.claim);
        if cause == DialFailure::Duplicate
            && let Target::Seed(seed) = dial.target
        {
            let peer = self.world.face(dial.to).id;
            self.with_stack(|stack, now| {
                stack.with_table(now, |table, _| table.identify(seed, peer));
            });
        }
        self.input(Input::DialFailed { target: dial.target, cause });
    }

    /// TLS stands. Nothing is said if a link to the peer is there or being made.
    pub(super) fn on_dial_proved(&mut self, number: u32) {
        let Some(dial) = self.dial_mut(number) else { return };
        let to = dial.to;
        let peer = self.world.face(to).id;
        let banned = |stack: &crate::Stack<_>| stack.table().peer(peer).is_some_and(|p| p.banned);
        if self.node.stack.as_deref().is_some_and(banned) {
            return self.on_dial_failed(number, DialFailure::Refused);
        }
        if self.node.stack.as_deref().is_some_and(|stack| stack.is_guest(peer)) {
            self.close(to, ByeReason::Full, DownCause::HungUp);
        }
        let claim = match self.node.link_to(to) {
            Some(_) => None,
            None => self.node.claims.claim(peer),
        };
        match claim {
            Some(claim) => {
                if let Some(dial) = self.dial_mut(number) {
                    dial.claim = Some(claim);
                }
                self.cause(to, self.now + self.latency(to), Event::DialHello { dial: number });
            }
            None => self.on_dial_failed(number, DialFailure::Duplicate),
        }
    }

    /// The dialler's hello arrives: the link is taken or refused.
    pub(super) fn on_dial_hello(&mut self, from: u32, dial: u32) {
        let one_way = self.latency(from);
        let cut = self.world.cut(from, self.node.number);
        if !self.runs() || cut {
            let wait = if cut { nanos(self.world.config.dial_timeout) } else { 0 };
            let event = Event::DialFailed { dial, cause: DialFailure::Unreachable };
            return self.cause(from, self.now + one_way.max(wait), event);
        }
        let dialler = self.world.face(from).addr;
        let verdict = self.judge(from, Direction::In, dialler);
        let visits = verdict == Err(ByeReason::Full) && self.may_visit(from, dialler);
        let answer = if visits { Ok(()) } else { verdict.map(|_| ()) };
        self.cause(from, self.now + one_way, Event::DialAnswer { dial, answer });
        // The port that the dialler's system chose.
        let addr = SocketAddr::new(dialler.ip(), 49_152);
        let link = LinkId { dialler: from, dial };
        if visits {
            let peer = self.connect(link, from);
            self.input(Input::Visit { peer, addr, private: false });
        } else if let Ok(verdict) = verdict {
            self.take(link, from, None, addr, verdict);
        }
    }

    /// The other side's answer arrives at the dialler.
    pub(super) fn on_dial_answer(&mut self, from: u32, number: u32, answer: Result<(), ByeReason>) {
        let link = LinkId { dialler: self.node.number, dial: number };
        let there = self.dial_mut(number).map(|dial| dial.addr);
        let (addr, answer) = match (there, answer) {
            (Some(addr), answer) => (addr, answer),
            // Of an earlier life.
            (None, Ok(())) => {
                return self.cause(from, self.now + self.latency(from), Event::Closed { link, bye: None });
            }
            (None, Err(_)) => return,
        };
        if let Err(bye) = answer {
            return self.on_dial_failed(number, cause(bye));
        }
        match self.judge(from, Direction::Out, addr) {
            Ok(verdict) => {
                let Some(dial) = self.end_dial(number) else { return };
                self.take(link, from, Some(dial.target), addr, verdict);
                drop(dial.claim);
            }
            Err(bye) => {
                self.node.hangs_up(link, self.now);
                self.cause(from, self.now + self.latency(from), Event::Closed { link, bye: Some(bye) });
                self.on_dial_failed(number, cause(bye));
            }
        }
    }

    /// As the driver's `judge`.
    fn judge(&self, other: u32, direction: Direction, addr: SocketAddr) -> Result<Verdict, ByeReason> {
        let (node, peer) = (&*self.node, self.world.face(other).id);
        let Some(stack) = &node.stack else { return Err(ByeReason::Leaving) };
        let way = match direction {
            Direction::In => p2p_peers::Direction::In,
            Direction::Out => p2p_peers::Direction::Out,
        };
        stack.table().admit(peer, way, addr.ip()).map_err(|refusal| match refusal {
            Refusal::Itself => ByeReason::Duplicate,
            Refusal::Banned => ByeReason::Banned,
            Refusal::Stopped => ByeReason::Leaving,
            _ => ByeReason::Full,
        })?;
        let existing = node.link_to(other).map(|half| match half.dialled {
            true => Direction::Out,
            false => Direction::In,
        });
        match node.claims.judge(peer, direction, existing) {
            Verdict::Refuse => Err(ByeReason::Duplicate),
            verdict => Ok(verdict),
        }
    }

    /// As the driver's.
    fn may_visit(&self, other: u32, addr: SocketAddr) -> bool {
        let (node, peer) = (&*self.node, self.world.face(other).id);
        node.link_to(other).is_none()
            && node.claims.judge(peer, Direction::In, None) == Verdict::Take
            && node.stack.as_ref().is_some_and(|stack| stack.has_room_for_guest(addr.ip()))
    }

    /// The connection stands.
    fn connect(&mut self, link: LinkId, other: u32) -> NodeId {
        let peer = self.world.face(other).id;
        let dialled = link.dialler == self.node.number;
        self.node.links.push(Half::new(link, (other, peer), dialled, self.latency(other), self.now));
        peer
    }

    fn take(
        &mut self,
        link: LinkId,
        other: u32,
        target: Option<Target<NodeId>>,
        addr: SocketAddr,
        verdict: Verdict,
    ) {
        if verdict == Verdict::Replace {
            self.close(other, ByeReason::Duplicate, DownCause::Replaced);
        }
        let peer = self.connect(link, other);
        let dialled = link.dialler == self.node.number;
        let up = LinkUp {
            peer,
            addr,
            direction: if dialled { Direction::Out } else { Direction::In },
            target,
            private: false,
            records: vec![self.world.face(other).record.clone()],
            seen_at: World::wall(self.now),
        };
        self.input(Input::LinkUp(up));
    }
}

const fn cause(bye: ByeReason) -> DialFailure {
    match bye {
        ByeReason::Duplicate => DialFailure::Duplicate,
        _ => DialFailure::Refused,
    }
}
