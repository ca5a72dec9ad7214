//! Which links are taken.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use p2p_peers::{DownCause, Refusal, Source};
use p2p_wire::{Hello, NodeId, PROTOCOL_VERSION, PeerAddr, encode_frame};
use tokio::sync::oneshot;

use crate::claims::Verdict;
use crate::command::{Admitted, Agreed, Claim, Offer};
use crate::convert;
use crate::event::{Direction, Event};
use crate::info::Connected;
use crate::link::LinkId;
use crate::outbox::Outbox;
use crate::own::is_private;
use crate::packet::{ByeReason, Packet};
use crate::stack::{Input, LinkUp};

use super::{Driver, LinkHandle, MAX_WAITERS, Stage};

impl Driver {
    /// May a dial that has proved the peer's id say hello?
    pub(super) fn on_claim(&mut self, peer: NodeId, addr: SocketAddr, reply: oneshot::Sender<Claim>) {
        if self.stack.is_guest(peer) {
            // It is dialled by this node now: its visit would only be in the way.
            self.close_link(peer, ByeReason::Full, DownCause::HungUp, "no room for it");
        }
        let answer = if self.links.contains_key(&peer) {
            Claim::Linked
        } else if self.stack.table().peer(peer).is_some_and(|p| p.banned) {
            Claim::Banned
        } else {
            match self.claims.claim(peer) {
                Some(claim) => Claim::Go { claim, hello: Box::new(self.hello(addr)) },
                None => Claim::Pending,
            }
        };
        reply.send(answer).ok();
    }

    /// What this node says of itself to whoever is at `addr`.
    fn hello(&mut self, addr: SocketAddr) -> Hello {
        let config = &self.shared.config;
        let records = self.own.records(&self.shared.key, is_private(addr.ip()));
        Hello {
            version: PROTOCOL_VERSION,
            agent: config.agent.clone(),
            name: config.name.clone(),
            observed: Some(addr),
            records: records.iter().map(|r| r.bytes().clone()).collect(),
        }
    }

    /// A handshake went well: take the link or say why not.
    pub(super) fn on_admit(
        &mut self,
        now: Instant,
        offer: Offer,
        reply: oneshot::Sender<Result<Admitted, ByeReason>>,
    ) {
        let peer = offer.peer;
        if offer.asked {
            // Before the link is judged: a peer that was disconnected, or one too many, is taken then.
            self.stack.with_table(now, |table, now| table.want(now, peer));
        }
        let verdict = match self.judge(&offer) {
            Err(ByeReason::Full) if self.may_visit(&offer) => {
                let admitted = self.take(now, offer, true);
                return self.tell_admitted(peer, Ok(admitted), reply);
            }
            verdict => verdict,
        };
        let answer = verdict.map(|verdict| {
            if verdict == Verdict::Replace {
                self.close_link(
                    peer,
                    ByeReason::Duplicate,
                    DownCause::Replaced,
                    "a newer link takes its place",
                );
            }
            self.take(now, offer, false)
        });
        if matches!(answer, Err(ByeReason::Duplicate)) {
            self.on_rival(now, peer);
        }
        self.tell_admitted(peer, answer, reply);
    }

    fn tell_admitted(
        &mut self,
        peer: NodeId,
        answer: Result<Admitted, ByeReason>,
        reply: oneshot::Sender<Result<Admitted, ByeReason>>,
    ) {
        if let Err(Ok(admitted)) = reply.send(answer)
            && self.links.get(&peer).is_some_and(|link| link.id == admitted.link)
        {
            // The task is gone, and the connection with it. One that was refused has no part in the link that stands.
            self.close_link(peer, ByeReason::Other, DownCause::Failed, "the connection broke");
        }
    }

    fn judge(&self, offer: &Offer) -> Result<Verdict, ByeReason> {
        let direction = match offer.direction {
            Direction::In => p2p_peers::Direction::In,
            Direction::Out => p2p_peers::Direction::Out,
        };
        self.stack.table().admit(offer.peer, direction, offer.addr.ip()).map_err(
            |refusal| match refusal {
                Refusal::Itself => ByeReason::Duplicate,
                Refusal::Banned => ByeReason::Banned,
                Refusal::Stopped => ByeReason::Leaving,
                _ => ByeReason::Full,
            },
        )?;
        let existing = self.links.get(&offer.peer).map(|l| l.direction);
        match self.claims.judge(offer.peer, offer.direction, existing) {
            Verdict::Refuse => Err(ByeReason::Duplicate),
            verdict => Ok(verdict),
        }
    }

    /// A caller for whom there is no room is told of others, unless this node dials it at the same time.
    fn may_visit(&self, offer: &Offer) -> bool {
        let Offer { peer, direction, addr, .. } = offer;
        *direction == Direction::In
            && !self.links.contains_key(peer)
            && self.claims.judge(*peer, *direction, None) == Verdict::Take
            && self.stack.has_room_for_guest(addr.ip())
    }

    fn take(&mut self, now: Instant, offer: Offer, visits: bool) -> Admitted {
        let Offer { peer, addr, direction, target, agreed, hello, records, .. } = offer;
        if let Some(agreed) = agreed {
            self.wait_for(peer, agreed);
        }
        self.next_link += 1;
        let link = LinkId(self.next_link);
        let outbox = Arc::new(Outbox::new(
            self.shared.config.limits.queue_bytes,
            Arc::clone(&self.shared.budget),
            Arc::clone(&self.shared.drained),
        ));
        if direction == Direction::In
            && let Ok(frame) = encode_frame(&Packet::Hello(Box::new(self.hello(addr))))
        {
            // The answer to its hello goes first; an empty queue takes it.
            outbox.push_control(frame).ok();
            outbox.ring();
        }
        if let Some(observed) = hello.observed
            && self.own.on_observed(observed.ip(), addr.ip())
        {
            self.publish_own_addrs();
        }
        let handle = LinkHandle {
            id: link,
            outbox: Arc::clone(&outbox),
            direction,
            name: hello.name.clone(),
            agent: hello.agent,
            addr,
            stage: Stage::Asked,
            bye: None,
            pulls: std::collections::VecDeque::new(),
            reads: std::collections::VecDeque::new(),
            waiting: super::hear::Waiting::default(),
            since: now,
            is_copied: false,
        };
        self.links.insert(peer, handle);
        tracing::debug!(peer = %peer.short(), %addr, direction = direction.as_str(), "link up");
        let private = is_private(addr.ip());
        let up = if visits {
            Input::Visit { peer, addr, private }
        } else {
            let seen_at = SystemTime::now();
            Input::LinkUp(LinkUp { peer, addr, direction, target, private, records, seen_at })
        };
        self.stack.handle(now, up);
        Admitted { link, outbox }
    }

    /// Both sides agreed on the link.
    pub(super) fn on_up(&mut self, peer: NodeId) {
        let Some(link) = self.links.get_mut(&peer) else { return };
        link.stage = Stage::Agreed;
        self.copies.linked(peer);
        let (addr, direction, name) = (link.addr, link.direction, link.name.clone());
        self.count_neighbours();
        self.shared.events.publish(Event::PeerUp { id: peer, addr, direction, name });
        self.tell_waiters(peer, &Ok(Connected::new(peer, addr, false)));
    }

    /// The peer is a neighbour no more; the end of its link says why.
    pub(super) fn on_down(&mut self, peer: NodeId) {
        if let Some(link) = self.links.get_mut(&peer) {
            link.stage = Stage::Over;
            self.count_neighbours();
        }
    }

    pub(super) fn count_neighbours(&self) {
        self.shared.submissions.set_links(self.neighbours());
    }

    pub(super) fn neighbours(&self) -> usize {
        self.links.values().filter(|link| link.stage == Stage::Agreed).count()
    }

    pub(super) fn wait_for(&mut self, peer: NodeId, reply: oneshot::Sender<Agreed>) {
        self.waiters.retain(|(_, waiting)| !waiting.is_closed());
        if self.waiters.len() < MAX_WAITERS {
            self.waiters.push((peer, reply));
        }
    }

    pub(super) fn tell_waiters(&mut self, peer: NodeId, agreed: &Agreed) {
        for (_, reply) in self.waiters.extract_if(.., |(waiting_for, _)| *waiting_for == peer) {
            reply.send(agreed.clone()).ok();
        }
    }

    /// The application asked for this peer.
    pub(super) fn on_want(&mut self, now: Instant, peer: NodeId, addrs: Vec<PeerAddr>) {
        self.on_learn(now, peer, addrs);
        self.stack.with_table(now, |table, now| table.want(now, peer));
    }

    pub(super) fn on_learn(&mut self, now: Instant, peer: NodeId, addrs: Vec<PeerAddr>) {
        if !addrs.is_empty() {
            let addrs = addrs.into_iter().map(convert::table_addr).collect();
            self.stack.handle(now, Input::Learned { peer, addrs, source: Source::User });
        }
    }

    /// The addresses of this node changed: sign them anew and keep them where the handle finds them.
    pub(super) fn publish_own_addrs(&mut self) {
        let addrs = self.own.addrs();
        *self.shared.own_addrs.write().unwrap_or_else(std::sync::PoisonError::into_inner) = addrs;
        let records = self.own.records(&self.shared.key, true).to_vec();
        self.stack.set_own_records(records);
    }
}

#[cfg(test)]
mod tests {
    use p2p_wire::SecretKey;

    use super::*;
    use crate::command::Command;
    use crate::{Node, Target};

    /// Offers a link for one who is gone before it is answered.
    async fn offer_in_vain(node: &Node, peer: NodeId, addr: SocketAddr) {
        let hello = Hello {
            version: PROTOCOL_VERSION,
            agent: "x".into(),
            name: None,
            observed: None,
            records: Vec::new(),
        };
        let offer = Offer {
            peer,
            addr,
            direction: Direction::In,
            target: None,
            asked: false,
            agreed: None,
            hello: Box::new(hello),
            records: Vec::new(),
        };
        let (reply, _) = oneshot::channel();
        node.shared().commands.send(Command::Admit { offer: Box::new(offer), reply }).await.unwrap();
    }

    #[tokio::test]
    async fn an_offer_whose_task_is_gone_ends_no_link_but_its_own() {
        let local = || Node::builder().host([127, 0, 0, 1]).port(0).file_port(0).discover(false).start();
        let (a, b) = (local().await.unwrap(), local().await.unwrap());
        let (low, high) = if a.id() < b.id() { (a, b) } else { (b, a) };
        let addr = high.listen_addrs()[0];
        low.connect(Target::Addr(addr)).await.unwrap();
        // It is refused: the link that the lower id dialled stands.
        offer_in_vain(&low, high.id(), addr).await;
        assert_eq!(low.status().await.links, 1);
        // It is taken, and nobody runs it.
        let stranger = SecretKey::from_bytes(&[1; 32]).id();
        offer_in_vain(&low, stranger, addr).await;
        assert_eq!(low.status().await.links, 1);
        assert!(low.peers().await.iter().all(|peer| peer.id != stranger || peer.agent.is_none()));
        high.shutdown().await;
        low.shutdown().await;
    }
}
