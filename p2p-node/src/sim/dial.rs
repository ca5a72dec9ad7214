//! Dials: TCP, TLS, hello there and back, and who keeps a link that both began, as `dial.rs` and `driver/admit.rs` do it.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use p2p_peers::{DialFailure, DownCause, Refusal, Target};
use p2p_wire::NodeId;

use super::Sim;
use super::link::{Link, latency, nanos};
use super::node::Kill;
use super::queue::{Event, Side, index};
use crate::claims::Verdict;
use crate::event::Direction;
use crate::packet::ByeReason;
use crate::stack::{Input, LinkUp};

/// A dial on its way.
#[derive(Debug)]
pub(super) struct Dial {
    from: u32,
    life: u32,
    target: Target<NodeId>,
    to: u32,
    addr: SocketAddr,
    claim: u64,
}

impl Sim {
    /// Tries the addresses one after the other: the first that answers decides, as it would in a race.
    pub(super) fn dial(&mut self, from: u32, target: Target<NodeId>, addrs: &[SocketAddr]) {
        let node = &self.nodes[from as usize];
        let (life, group) = (node.life, node.group);
        let expected = match target {
            Target::Peer(peer) => Some(peer),
            Target::Seed(_) => None,
        };
        let mut outcome =
            (self.now + nanos(self.config.dial_timeout), Some(DialFailure::TimedOut), from, None);
        for addr in addrs {
            let Some(&to) = self.by_addr.get(addr) else { continue };
            let there = &self.nodes[to as usize];
            let one_way = latency(&self.config, from, to);
            if there.group != group || (there.stack.is_none() && there.down == Kill::Machine) {
                continue;
            }
            outcome = if there.stack.is_none() {
                (self.now + 2 * one_way, Some(DialFailure::Unreachable), to, Some(*addr))
            } else if to == from {
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
        let addr = addr.or_else(|| addrs.first().copied()).unwrap_or(self.nodes[from as usize].addr);
        let dial = self.dials.put(Dial { from, life, target, to, addr, claim: 0 });
        let event = failure.map_or(Event::DialProved { dial }, |cause| Event::DialFailed { dial, cause });
        self.queue.push(at, event);
    }

    pub(super) fn on_dial_failed(&mut self, dial: u32, cause: DialFailure) {
        let Some(dial) = self.dials.take(dial) else { return };
        if self.lives(dial.from, dial.life) {
            if cause == DialFailure::Duplicate
                && let Target::Seed(seed) = dial.target
            {
                let peer = self.nodes[dial.to as usize].id;
                self.with_stack(dial.from, |stack, now| {
                    stack.with_table(now, |table, _| table.identify(seed, peer));
                });
            }
            self.input(dial.from, Input::DialFailed { target: dial.target, cause });
        }
    }

    /// TLS stands. Nothing is said if a link to the peer is there or being made.
    pub(super) fn on_dial_proved(&mut self, number: u32) {
        let Some(dial) = self.dials.get_mut(number) else { return };
        let (from, to) = (dial.from, dial.to);
        if self.nodes[from as usize].stack.is_none() || self.nodes[from as usize].life != dial.life {
            self.dials.take(number);
            return;
        }
        let peer = self.nodes[to as usize].id;
        let node = &mut self.nodes[from as usize];
        let banned = |stack: &crate::Stack<_>| stack.table().peer(peer).is_some_and(|p| p.banned);
        if node.stack.as_deref().is_some_and(banned) {
            return self.on_dial_failed(number, DialFailure::Refused);
        }
        let linked = node.link_to(to).is_some();
        match node.claims.claim(peer).filter(|_| !linked) {
            Some(claim) => {
                dial.claim = claim;
                let at = self.now + latency(&self.config, from, to);
                self.queue.push(at, Event::DialHello { dial: number });
            }
            None => self.on_dial_failed(number, DialFailure::Duplicate),
        }
    }

    /// The dialler's hello arrives: the link is taken or refused.
    pub(super) fn on_dial_hello(&mut self, number: u32) {
        let Some(dial) = self.dials.get(number) else { return };
        let (from, to) = (dial.from, dial.to);
        let one_way = latency(&self.config, from, to);
        if self.nodes[to as usize].stack.is_none() || self.cut(from, to) {
            self.release(number);
            let at =
                self.now + one_way.max(if self.cut(from, to) { nanos(self.config.dial_timeout) } else { 0 });
            return self.queue.push(at, Event::DialFailed { dial: number, cause: DialFailure::Unreachable });
        }
        let dialler = self.nodes[from as usize].addr;
        let answer = match self.judge(to, from, Direction::In, dialler) {
            Err(bye) => Err(bye),
            Ok(verdict) => {
                let link = index(self.links.len());
                self.links.push(Link::new([from, to], one_way, self.now));
                Ok((link, verdict))
            }
        };
        let event = Event::DialAnswer { dial: number, answer: answer.map(|(link, _)| link) };
        self.queue.push(self.now + one_way, event);
        if let Ok((link, verdict)) = answer {
            // The port that the dialler's system chose.
            let addr = SocketAddr::new(dialler.ip(), 49_152);
            self.take(link, 1, None, addr, verdict);
        }
    }

    /// The other side's answer arrives at the dialler.
    pub(super) fn on_dial_answer(&mut self, number: u32, answer: Result<u32, ByeReason>) {
        let Some(dial) = self.dials.get(number) else { return };
        let (from, to, target, addr) = (dial.from, dial.to, dial.target, dial.addr);
        if !self.lives(from, dial.life) {
            self.dials.take(number);
            if let Ok(link) = answer {
                let at = self.now + self.links[link as usize].latency;
                self.queue.push(at, Event::Closed { link, to: 1, bye: None });
            }
            return;
        }
        let link = match answer {
            Ok(link) => link,
            Err(bye) => {
                self.release(number);
                return self.on_dial_failed(number, cause(bye));
            }
        };
        match self.judge(from, to, Direction::Out, addr) {
            Ok(verdict) => {
                self.take(link, 0, Some(target), addr, verdict);
                self.release(number);
                self.dials.take(number);
            }
            Err(bye) => {
                let at = self.now + self.links[link as usize].latency;
                self.queue.push(at, Event::Closed { link, to: 1, bye: Some(bye) });
                self.release(number);
                self.on_dial_failed(number, cause(bye));
            }
        }
    }

    fn release(&mut self, number: u32) {
        let Some(dial) = self.dials.get(number) else { return };
        let (from, to, claim) = (dial.from, dial.to, dial.claim);
        if self.lives(from, dial.life) {
            let peer = self.nodes[to as usize].id;
            self.nodes[from as usize].claims.release(peer, claim);
        }
    }

    /// As the driver's `judge`.
    fn judge(
        &self,
        me: u32,
        other: u32,
        direction: Direction,
        addr: SocketAddr,
    ) -> Result<Verdict, ByeReason> {
        let (node, peer) = (&self.nodes[me as usize], self.nodes[other as usize].id);
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
        let existing = node.link_to(other).map(|link| match self.links[link as usize].ends[0] == me {
            true => Direction::Out,
            false => Direction::In,
        });
        match node.claims.judge(peer, direction, existing) {
            Verdict::Refuse => Err(ByeReason::Duplicate),
            verdict => Ok(verdict),
        }
    }

    fn take(
        &mut self,
        link: u32,
        side: Side,
        target: Option<Target<NodeId>>,
        addr: SocketAddr,
        verdict: Verdict,
    ) {
        let ends = self.links[link as usize].ends;
        let (me, other) = (ends[usize::from(side)], ends[usize::from(1 - side)]);
        if verdict == Verdict::Replace {
            self.close(me, other, ByeReason::Duplicate, DownCause::Replaced);
        }
        self.links[link as usize].up[usize::from(side)] = true;
        self.nodes[me as usize].links.push((other, link));
        let peer = &self.nodes[other as usize];
        let up = LinkUp {
            peer: peer.id,
            addr,
            direction: if side == 0 { Direction::Out } else { Direction::In },
            target,
            private: false,
            records: vec![peer.record.clone()],
            seen_at: self.wall(),
        };
        self.input(me, Input::LinkUp(up));
    }

    /// The time on everybody's wall.
    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000) + Duration::from_nanos(self.now)
    }
}

const fn cause(bye: ByeReason) -> DialFailure {
    match bye {
        ByeReason::Duplicate => DialFailure::Duplicate,
        _ => DialFailure::Refused,
    }
}
