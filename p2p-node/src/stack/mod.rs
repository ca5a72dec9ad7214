//! The whole node without sockets and clock: peer table, liveness, gossip and questions joined.
//!
//! A deterministic state machine: the same seed and the same inputs give the same outputs. The driver
//! gives it sockets and a clock; a simulator can give it others. After each call that takes `&mut self`
//! drain [`Stack::poll_output`] to `None`.

mod message;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use p2p_gossip::{Gossip, Message as GossipMessage, PublishError, Restored};
use p2p_peers::{DownCause, Liveness, LivenessConfig, PeerTable, Probe, Record, Source};
use p2p_wire::{Envelope, EnvelopeId, NodeId, PeerRecord};
use rand::Rng;

use crate::convert;
use crate::event::Direction;
use crate::packet::Packet;
pub use message::{Hangup, Input, LinkUp, LinkView, Output};

use crate::query::{Queries, Query, QueryOutput};

/// Peer lists are told on a new link and then again at this interval (faults: one list a minute).
const EXCHANGE_EVERY: Duration = Duration::from_secs(60);
/// Lists taken from one neighbour: one at once, then one each this long, with some slack for its clock.
const EXCHANGE_MIN: Duration = Duration::from_secs(45);

#[derive(Debug)]
struct Link {
    liveness: Liveness,
    addr: SocketAddr,
    direction: Direction,
    private: bool,
    exchange_at: Instant,
    list_taken: Option<Instant>,
}

/// The parts of a node joined; see the module's text.
#[derive(Debug)]
pub struct Stack<R> {
    table: PeerTable<NodeId, R>,
    gossip: Gossip<NodeId, NodeId, R>,
    queries: Queries,
    links: BTreeMap<NodeId, Link>,
    liveness: LivenessConfig,
    discover: bool,
    out: VecDeque<Output>,
}

impl<R: Rng> Stack<R> {
    /// Joins the parts. `table` and `gossip` carry their own randomness.
    pub fn new(
        table: PeerTable<NodeId, R>,
        gossip: Gossip<NodeId, NodeId, R>,
        liveness: LivenessConfig,
        discover: bool,
    ) -> Self {
        Self {
            table,
            gossip,
            queries: Queries::default(),
            links: BTreeMap::new(),
            liveness,
            discover,
            out: VecDeque::new(),
        }
    }

    /// Takes up what an earlier process knew of messages; see [`Gossip::restore`]. Before the first input.
    pub fn restore(&mut self, now: Instant, restored: Restored<NodeId>) {
        self.gossip.restore(now, restored);
        self.settle();
    }

    /// Something happened outside.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::LinkUp(link) => self.on_link_up(now, link),
            Input::LinkDown { peer, cause } => self.on_link_down(now, peer, cause),
            Input::Packet { from, packet } => self.on_packet(now, from, packet),
            Input::Records { from, records } => self.on_records(now, from, records),
            Input::DialFailed { target, cause } => {
                self.table.handle(now, p2p_peers::Input::DialFailed { target, cause });
            }
            Input::Seed(addr) => self.table.handle(now, p2p_peers::Input::Seed(addr)),
            Input::Learned { peer, addrs, source } => self.table.handle(
                now,
                p2p_peers::Input::Learned { peer, addrs, record: None, source, private_link: false },
            ),
            Input::Verified { ticket, ok } => {
                self.gossip.handle(now, p2p_gossip::Input::Verified { ticket, ok })
            }
            Input::Fetched { ticket, envelopes } => {
                self.gossip.handle(now, p2p_gossip::Input::Fetched { ticket, envelopes });
            }
            Input::Holding { to, answer } => self.queries.on_holding(to, answer),
            Input::NetworkChanged => self.table.handle(now, p2p_peers::Input::NetworkChanged),
            Input::Timeout => self.on_timeout(now),
        }
        self.settle();
    }

    /// Sends an own envelope to everybody.
    ///
    /// # Errors
    /// As [`Gossip::publish`]; nothing has been sent then.
    pub fn publish(&mut self, now: Instant, envelope: &Envelope) -> Result<usize, PublishError> {
        let queued = self.gossip.publish(now, convert::gossip_id(envelope.id()), envelope.bytes().clone())?;
        self.settle();
        Ok(queued.links)
    }

    /// Asks who has a file; `ttl` 1 asks the neighbours alone. Returns how many were asked.
    pub fn ask(&mut self, now: Instant, query: &Query) -> usize {
        let asked = self.queries.ask(now, query, self.links.keys().copied());
        self.settle();
        asked
    }

    /// A message did not fit into the queue of a link: it is announced there, to be asked for.
    pub fn announce_instead(&mut self, now: Instant, to: NodeId, id: EnvelopeId, hops: u16) {
        self.gossip.announce_instead(now, to, convert::gossip_id(id), hops);
        self.settle();
    }

    /// Asks the peer table for something that only the application can want.
    pub fn with_table<T>(
        &mut self,
        now: Instant,
        action: impl FnOnce(&mut PeerTable<NodeId, R>, Instant) -> T,
    ) -> T {
        let result = action(&mut self.table, now);
        self.settle();
        result
    }

    /// What is to be done next outside; `None` once everything has been said.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// When [`Input::Timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let links = self.links.values().map(|l| {
            let alive = l.liveness.deadline();
            if self.discover { alive.min(l.exchange_at) } else { alive }
        });
        links.chain(self.table.poll_timeout()).chain(self.gossip.poll_timeout()).min()
    }

    /// The peer table, to look at.
    pub const fn table(&self) -> &PeerTable<NodeId, R> {
        &self.table
    }

    /// The gossip core, to look at.
    pub const fn gossip(&self) -> &Gossip<NodeId, NodeId, R> {
        &self.gossip
    }

    /// Questions refused because a neighbour asked too often.
    pub const fn queries_limited(&self) -> u64 {
        self.queries.limited
    }

    /// The links that stand, by id.
    pub fn links(&self) -> impl Iterator<Item = LinkView> + '_ {
        self.links.iter().map(|(peer, link)| LinkView {
            peer: *peer,
            addr: link.addr,
            direction: link.direction,
            rtt: link.liveness.last_rtt(),
            heard_at: link.liveness.last_heard(),
        })
    }

    fn on_link_up(&mut self, now: Instant, up: LinkUp) {
        let LinkUp { peer, addr, direction, target, private, records, seen_at } = up;
        let link = Link {
            liveness: Liveness::new(now, &self.liveness),
            addr,
            direction,
            private,
            exchange_at: now + EXCHANGE_EVERY,
            list_taken: None,
        };
        self.links.insert(peer, link);
        self.table.handle(now, p2p_peers::Input::Connected { peer, target, addr, seen_at });
        for record in records {
            self.learn(now, record, Source::Hello, private);
        }
        self.exchange(peer);
        self.gossip.handle(now, p2p_gossip::Input::NeighborUp(peer));
        self.probe(now, peer);
    }

    fn on_link_down(&mut self, now: Instant, peer: NodeId, cause: DownCause) {
        if self.links.remove(&peer).is_none() {
            return;
        }
        self.gossip.handle(now, p2p_gossip::Input::NeighborDown(peer));
        self.queries.on_neighbour_down(peer);
        self.table.handle(now, p2p_peers::Input::Disconnected { peer, cause });
    }

    fn on_packet(&mut self, now: Instant, from: NodeId, packet: Packet) {
        let Some(link) = self.links.get_mut(&from) else { return };
        link.liveness.heard(now);
        let message = match packet {
            Packet::Ping(nonce) => {
                self.out.push_back(Output::Send { to: from, packet: Packet::Pong(nonce) });
                return;
            }
            Packet::Pong(nonce) => {
                link.liveness.pong(now, nonce);
                return;
            }
            Packet::Query(query) => {
                return self.queries.on_query(now, from, query, self.links.keys().copied());
            }
            Packet::Answer(answer) => return self.queries.on_answer(now, answer),
            Packet::Push { id, hops, renew, age, envelope } => {
                GossipMessage::Push { id: convert::gossip_id(id), hops, renew, age, envelope }
            }
            Packet::IHave(ids) => GossipMessage::IHave { ids: ids.into_iter().map(convert::line).collect() },
            Packet::IWant(ids) => {
                GossipMessage::IWant { ids: ids.into_iter().map(convert::gossip_id).collect() }
            }
            Packet::Graft(id) => GossipMessage::Graft { id: id.map(convert::gossip_id) },
            Packet::Prune => GossipMessage::Prune,
            // The link's task and the driver deal with these.
            Packet::Hello(_) | Packet::Bye(_) | Packet::Peers(_) => return,
        };
        self.gossip.handle(now, p2p_gossip::Input::Received { from, message });
    }

    fn on_records(&mut self, now: Instant, from: NodeId, records: Vec<PeerRecord>) {
        let Some(link) = self.links.get_mut(&from) else { return };
        link.liveness.heard(now);
        let private = link.private;
        if link.list_taken.is_some_and(|at| now.saturating_duration_since(at) < EXCHANGE_MIN) {
            return;
        }
        link.list_taken = Some(now);
        for record in records {
            let source = if record.id() == from { Source::Hello } else { Source::Peer(from) };
            self.learn(now, record, source, private);
        }
    }

    fn learn(&mut self, now: Instant, record: PeerRecord, source: Source<NodeId>, private_link: bool) {
        let input = p2p_peers::Input::Learned {
            peer: record.id(),
            addrs: record.addrs().iter().map(|a| convert::table_addr(*a)).collect(),
            record: Some(Record {
                scope: convert::table_scope(record.scope()),
                seq: record.seq(),
                bytes: record.bytes().clone(),
            }),
            source,
            private_link,
        };
        self.table.handle(now, input);
    }

    fn on_timeout(&mut self, now: Instant) {
        let due: Vec<NodeId> =
            self.links.iter().filter(|(_, l)| l.liveness.deadline() <= now).map(|(peer, _)| *peer).collect();
        for peer in due {
            self.probe(now, peer);
        }
        if self.discover {
            let due: Vec<NodeId> =
                self.links.iter().filter(|(_, l)| l.exchange_at <= now).map(|(peer, _)| *peer).collect();
            for peer in due {
                if let Some(link) = self.links.get_mut(&peer) {
                    link.exchange_at = now + EXCHANGE_EVERY;
                }
                self.exchange(peer);
            }
        }
        self.table.handle(now, p2p_peers::Input::Timeout);
        self.gossip.handle(now, p2p_gossip::Input::Timeout);
    }

    fn probe(&mut self, now: Instant, peer: NodeId) {
        let Some(link) = self.links.get_mut(&peer) else { return };
        match link.liveness.poll(now) {
            Some(Probe::Ping(nonce)) => {
                self.out.push_back(Output::Send { to: peer, packet: Packet::Ping(nonce) });
            }
            Some(Probe::Dead) => self.out.push_back(Output::Hangup { peer, reason: Hangup::Silent }),
            None => {}
        }
    }

    fn exchange(&mut self, peer: NodeId) {
        let Some(link) = self.links.get(&peer) else { return };
        let records = self.table.exchange(peer, link.private);
        if !records.is_empty() {
            self.out.push_back(Output::Send { to: peer, packet: Packet::Peers(records) });
        }
    }

    /// Carries what one part says to the others until every part is quiet.
    fn settle(&mut self) {
        loop {
            if let Some(output) = self.gossip.poll_output() {
                self.on_gossip(output);
            } else if let Some(output) = self.table.poll_output() {
                self.out.push_back(match output {
                    p2p_peers::Output::Dial { target, addrs } => Output::Dial { target, addrs },
                    p2p_peers::Output::Hangup { peer, cause } => {
                        Output::Hangup { peer, reason: Hangup::Table(cause) }
                    }
                    p2p_peers::Output::Save => Output::Save,
                });
            } else if let Some(output) = self.queries.poll_output() {
                self.out.push_back(match output {
                    QueryOutput::Send { to, packet } => Output::Send { to, packet },
                    QueryOutput::Lookup { id, hash, from } => Output::Lookup { id, hash, from },
                    QueryOutput::Found { id, provider, records, name } => {
                        Output::Found { id, provider, records, name }
                    }
                });
            } else {
                return;
            }
        }
    }

    fn on_gossip(&mut self, output: p2p_gossip::Output<NodeId, NodeId>) {
        use p2p_gossip::Output as G;
        self.out.push_back(match output {
            G::Send { to, message } => Output::Send { to, packet: convert::packet(message) },
            G::Verify { ticket, id, envelope, .. } => {
                Output::Verify { ticket, id: convert::wire_id(id), envelope }
            }
            G::Deliver { envelope, entries, late, .. } => Output::Deliver { envelope, entries, late },
            G::OwnAhead { id } => Output::OwnAhead(convert::wire_id(id)),
            // For the views, once there are any.
            G::Withholds { .. } => return,
            G::Misbehaved { peer, fault } => Output::Misbehaved { peer, fault: fault.to_string() },
            G::Append { entry, envelope } => Output::Append { entry, envelope },
            G::Fetch { ticket, ids } => {
                Output::Fetch { ticket, ids: ids.into_iter().map(convert::wire_id).collect() }
            }
            // A log on disk lets whole segments go, by limits of its own.
            G::Drop { .. } => return,
        });
    }
}
