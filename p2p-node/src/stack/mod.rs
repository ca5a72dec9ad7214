//! The whole node without sockets and clock: peer table, views, liveness, gossip and questions joined.
//!
//! A deterministic state machine: the same seed and the same inputs give the same outputs. The driver
//! gives it sockets and a clock; a simulator can give it others. After each call that takes `&mut self`
//! drain [`Stack::poll_output`] to `None`.

mod guests;
mod message;
mod neighbours;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Instant;

use p2p_gossip::{Gossip, Message as GossipMessage, PublishError, Restored};
use p2p_peers::views::Views;
use p2p_peers::{DownCause, Liveness, LivenessConfig, PeerTable, Probe, Snapshot, Source, Target};
use p2p_wire::{Envelope, EnvelopeId, NodeId, PeerRecord};
use rand::Rng;

use crate::convert;
use crate::event::Direction;
use crate::packet::Packet;
pub use message::{Hangup, Input, LinkUp, LinkView, Output};

use crate::query::{Queries, Query, QueryOutput};

#[derive(Debug)]
struct Link {
    liveness: Liveness,
    addr: SocketAddr,
    direction: Direction,
    private: bool,
    /// Both sides agreed: it is a neighbour's.
    near: bool,
}

/// The parts of a node joined: what each of them wants of another one it is told here, and the rest comes out.
#[derive(Debug)]
pub struct Stack<R> {
    table: PeerTable<NodeId, R>,
    views: Views<NodeId, R>,
    gossip: Gossip<NodeId, NodeId, R>,
    queries: Queries,
    links: BTreeMap<NodeId, Link>,
    guests: guests::Guests,
    liveness: LivenessConfig,
    /// No link has to be probed before then. Links that are heard of make it later; that is found out when it comes.
    probe_at: Option<Instant>,
    /// This node's own signed records.
    own: Vec<PeerRecord>,
    /// Records that came with the frame that is being handled.
    brought: Vec<PeerRecord>,
    /// Frames of messages and questions over links that are not a neighbour's.
    strangers: u64,
    out: VecDeque<Output>,
}

impl<R: Rng> Stack<R> {
    /// Joins the parts, which carry their own randomness. The table's `target` should be 0: the views choose whom to dial.
    pub fn new(
        table: PeerTable<NodeId, R>,
        views: Views<NodeId, R>,
        mut gossip: Gossip<NodeId, NodeId, R>,
        liveness: LivenessConfig,
    ) -> Self {
        gossip.set_buckets(convert::bucket);
        Self {
            table,
            views,
            gossip,
            queries: Queries::default(),
            links: BTreeMap::new(),
            guests: guests::Guests::default(),
            liveness,
            probe_at: None,
            own: Vec::new(),
            brought: Vec::new(),
            strangers: 0,
            out: VecDeque::new(),
        }
    }

    /// Takes up what an earlier process knew of messages; see [`Gossip::restore`]. Before the first input.
    pub fn restore(&mut self, now: Instant, restored: Restored<NodeId>) {
        self.gossip.restore(now, restored);
        self.settle(now);
    }

    /// Something happened outside.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::LinkUp(link) => self.on_link_up(now, link),
            Input::Visit { peer, addr, private } => self.on_visit(now, peer, addr, private),
            Input::LinkDown { peer, cause } => self.on_link_down(now, peer, cause),
            Input::Packet { from, packet } => self.on_packet(now, from, packet),
            Input::View { from, view } => self.on_view(now, from, view),
            Input::DialFailed { target, cause } => {
                self.table.handle(now, p2p_peers::Input::DialFailed { target, cause });
                if let Target::Peer(peer) = target {
                    self.views.handle(now, p2p_peers::views::Input::DialFailed(peer));
                }
            }
            Input::Seed(addr) => self.table.handle(now, p2p_peers::Input::Seed(addr)),
            Input::Learned { peer, addrs, source } => {
                self.table.handle(
                    now,
                    p2p_peers::Input::Learned { peer, addrs, record: None, source, private_link: false },
                );
                self.views.handle(now, p2p_peers::views::Input::Nudge);
            }
            Input::Verified { ticket, digest } => {
                self.gossip.handle(now, p2p_gossip::Input::Verified { ticket, digest });
            }
            Input::Fetched { ticket, envelopes } => {
                self.gossip.handle(now, p2p_gossip::Input::Fetched { ticket, envelopes });
            }
            Input::Holding { to, answer } => self.queries.on_holding(to, answer),
            Input::NetworkChanged => {
                self.table.handle(now, p2p_peers::Input::NetworkChanged);
                self.views.handle(now, p2p_peers::views::Input::Nudge);
            }
            Input::Timeout => self.on_timeout(now),
        }
        self.settle(now);
        self.brought.clear();
    }

    /// Sends an own envelope to everybody.
    ///
    /// # Errors
    /// As [`Gossip::publish`]; nothing has been sent then.
    pub fn publish(&mut self, now: Instant, envelope: &Envelope) -> Result<usize, PublishError> {
        let queued = self.gossip.publish(now, convert::gossip_id(envelope.id()), envelope.bytes().clone())?;
        self.settle(now);
        Ok(queued.links)
    }

    /// As [`Gossip::is_comparing`].
    pub fn is_comparing(&mut self, now: Instant) -> bool {
        self.gossip.is_comparing(now)
    }

    /// As [`Gossip::handed_at`].
    pub fn handed_at(&self) -> Option<Instant> {
        self.gossip.handed_at()
    }

    /// As [`Gossip::is_handing`].
    pub fn is_handing(&self, now: Instant) -> bool {
        self.gossip.is_handing(now)
    }

    /// Asks who has a file; `ttl` 1 asks the neighbours alone. Returns how many were asked.
    pub fn ask(&mut self, now: Instant, query: &Query) -> usize {
        let asked = self.queries.ask(now, query, near(&self.links));
        self.settle(now);
        asked
    }

    /// A message did not fit into the queue of a link: as [`Gossip::put_off`].
    pub fn put_off(&mut self, now: Instant, to: NodeId, id: EnvelopeId, hops: u16) {
        self.gossip.put_off(now, to, convert::gossip_id(id), hops);
        self.settle(now);
    }

    /// As [`Gossip::is_owed`].
    pub fn is_owed(&self, to: NodeId) -> bool {
        self.gossip.is_owed(to)
    }

    /// As [`Gossip::is_owed_ours`].
    pub fn is_owed_ours(&self, to: NodeId) -> bool {
        self.gossip.is_owed_ours(to)
    }

    /// As [`Gossip::push_owed`].
    pub fn push_owed(&mut self, now: Instant, to: NodeId) -> bool {
        let more = self.gossip.push_owed(now, to);
        self.settle(now);
        more
    }

    /// Asks the peer table for something that only the application can want.
    pub fn with_table<T>(
        &mut self,
        now: Instant,
        action: impl FnOnce(&mut PeerTable<NodeId, R>, Instant) -> T,
    ) -> T {
        let result = action(&mut self.table, now);
        for &peer in self.links.keys() {
            self.views.set_asked(peer, self.table.is_asked(peer));
        }
        // There may be somebody new to dial.
        self.views.handle(now, p2p_peers::views::Input::Nudge);
        self.settle(now);
        result
    }

    /// This node's own records, signed by itself: what it tells of itself in shuffles.
    pub fn set_own_records(&mut self, records: Vec<PeerRecord>) {
        self.own = records;
    }

    /// What of the peer table is worth keeping.
    pub fn snapshot(&mut self) -> Snapshot<NodeId> {
        let anchors = self.views.anchors();
        // With nobody linked, those of before are still the best guess.
        if !anchors.is_empty() {
            self.table.set_anchors(&anchors);
        }
        self.table.snapshot()
    }

    /// What is to be done next outside; `None` once everything has been said.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// When [`Input::Timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let parts = [self.table.poll_timeout(), self.views.poll_timeout(), self.gossip.poll_timeout()];
        parts.into_iter().chain([self.probe_at, self.guests.deadline()]).flatten().min()
    }

    /// The peer table, to look at.
    pub const fn table(&self) -> &PeerTable<NodeId, R> {
        &self.table
    }

    /// The views, to look at.
    pub const fn views(&self) -> &Views<NodeId, R> {
        &self.views
    }

    /// The gossip core, to look at.
    pub const fn gossip(&self) -> &Gossip<NodeId, NodeId, R> {
        &self.gossip
    }

    /// Questions refused because a neighbour asked too often.
    pub const fn queries_limited(&self) -> u64 {
        self.queries.limited
    }

    /// Frames of messages and questions that came over links that are not a neighbour's, and were not looked at.
    pub const fn strangers(&self) -> u64 {
        self.strangers
    }

    /// The neighbours, by id.
    pub fn links(&self) -> impl Iterator<Item = LinkView> + '_ {
        self.links.iter().filter(|(_, link)| link.near).map(|(peer, link)| LinkView {
            peer: *peer,
            addr: link.addr,
            direction: link.direction,
            rtt: link.liveness.last_rtt(),
            heard_at: link.liveness.last_heard(),
        })
    }

    fn on_link_up(&mut self, now: Instant, up: LinkUp) {
        let LinkUp { peer, addr, direction, target, private, records, seen_at } = up;
        let link =
            Link { liveness: Liveness::new(now, &self.liveness), addr, direction, private, near: false };
        self.links.insert(peer, link);
        self.table.handle(now, p2p_peers::Input::Connected { peer, target, addr, seen_at });
        for record in records {
            self.learn(now, &record, Source::Hello, private);
        }
        let direction = match direction {
            Direction::In => p2p_peers::Direction::In,
            Direction::Out => p2p_peers::Direction::Out,
        };
        let (asked, urgent) = (self.table.is_asked(peer), self.table.take_fresh(peer));
        self.views.handle(now, p2p_peers::views::Input::LinkUp { peer, direction, asked, urgent });
        self.probe(now, peer);
        let next = self.links.get(&peer).map(|link| link.liveness.deadline());
        self.probe_at = self.probe_at.into_iter().chain(next).min();
    }

    fn on_link_down(&mut self, now: Instant, peer: NodeId, cause: DownCause) {
        if self.guests.remove(&peer) || self.links.remove(&peer).is_none() {
            return;
        }
        self.table.handle(now, p2p_peers::Input::Disconnected { peer, cause });
        self.views.handle(now, p2p_peers::views::Input::LinkDown(peer));
    }

    fn on_packet(&mut self, now: Instant, from: NodeId, packet: Packet) {
        let Some(link) = self.links.get_mut(&from) else { return self.on_late(now, from, packet) };
        link.liveness.heard(now);
        if !link.near && !matches!(packet, Packet::Ping(_) | Packet::Pong(_)) {
            return self.on_late(now, from, packet);
        }
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
                return self.queries.on_query(now, from, query, near(&self.links));
            }
            Packet::Answer(answer) => return self.queries.on_answer(now, from, &answer),
            Packet::Push { id, hops, course, age, envelope } => {
                GossipMessage::Push { id: convert::gossip_id(id), hops, course, age, envelope }
            }
            Packet::IHave(ids) => GossipMessage::IHave { ids: ids.into_iter().map(convert::line).collect() },
            Packet::IWant(ids) => {
                GossipMessage::IWant { ids: ids.into_iter().map(convert::gossip_id).collect() }
            }
            Packet::Graft(id) => GossipMessage::Graft { id: id.map(convert::gossip_id) },
            Packet::Prune => GossipMessage::Prune,
            Packet::Digest(sums) => GossipMessage::Digest { sums },
            Packet::Ranges(held) => GossipMessage::Ranges { held },
            Packet::Pull { number, spans } => GossipMessage::Pull { number, spans },
            Packet::Served { number, done, upto } => GossipMessage::Served { number, done, upto },
            // The link's task and the driver deal with these.
            Packet::Hello(_) | Packet::Bye(_) | Packet::View(_) => return,
        };
        self.gossip.handle(now, p2p_gossip::Input::Received { from, message });
    }

    /// Over a link that is not a neighbour's, or not any more: what it pushed before it knew may still be new.
    fn on_late(&mut self, now: Instant, from: NodeId, packet: Packet) {
        let (Packet::Push { id, hops, course, age, envelope }, false) = (packet, self.is_guest(from)) else {
            self.strangers += 1;
            return;
        };
        let message = GossipMessage::Push { id: convert::gossip_id(id), hops, course, age, envelope };
        self.gossip.handle(now, p2p_gossip::Input::Received { from, message });
    }

    fn on_timeout(&mut self, now: Instant) {
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if is_due(self.probe_at) {
            let due = |link: &Link| link.liveness.deadline() <= now;
            let due = self.links.iter().filter(|(_, link)| due(link)).map(|(peer, _)| *peer);
            for peer in due.collect::<Vec<_>>() {
                self.probe(now, peer);
            }
            self.probe_at = self.links.values().map(|link| link.liveness.deadline()).min();
        }
        self.dismiss_guests(now);
        if is_due(self.table.poll_timeout()) {
            self.table.handle(now, p2p_peers::Input::Timeout);
        }
        if is_due(self.views.poll_timeout()) {
            self.views.handle(now, p2p_peers::views::Input::Timeout);
        }
        if is_due(self.gossip.poll_timeout()) {
            self.gossip.handle(now, p2p_gossip::Input::Timeout);
        }
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

    /// Carries what one part says to the others until every part is quiet.
    fn settle(&mut self, now: Instant) {
        loop {
            if let Some(output) = self.gossip.poll_output() {
                self.on_gossip(now, output);
            } else if let Some(output) = self.table.poll_output() {
                self.out.push_back(match output {
                    p2p_peers::Output::Dial { target, addrs } => Output::Dial { target, addrs },
                    p2p_peers::Output::Hangup { peer, cause } => {
                        Output::Hangup { peer, reason: Hangup::Table(cause) }
                    }
                    p2p_peers::Output::Save => Output::Save,
                });
            } else if let Some(output) = self.views.poll_output() {
                self.on_views(now, output);
            } else if let Some(output) = self.queries.poll_output() {
                self.out.push_back(match output {
                    QueryOutput::Send { to, packet } => Output::Send { to, packet },
                    QueryOutput::Lookup { id, hash, from } => Output::Lookup { id, hash, from },
                    QueryOutput::Found { id, from, provider, records, name } => {
                        let private = self.links.get(&from).is_some_and(|link| link.private);
                        Output::Found { id, provider, records, name, private }
                    }
                });
            } else {
                return;
            }
        }
    }

    fn on_gossip(&mut self, now: Instant, output: p2p_gossip::Output<NodeId, NodeId>) {
        use p2p_gossip::Output as G;
        self.out.push_back(match output {
            G::Send { to, message } => Output::Send { to, packet: convert::packet(message) },
            G::Verify { ticket, id, envelope, .. } => {
                Output::Verify { ticket, id: convert::wire_id(id), envelope }
            }
            G::Deliver { envelope, entries, late, .. } => Output::Deliver { envelope, entries, late },
            G::HoldsOwn { from, to } => Output::HoldsOwn { from, to },
            G::OwnAhead { id } => Output::OwnAhead(convert::wire_id(id)),
            G::Withholds { peer } => {
                return self.views.handle(now, p2p_peers::views::Input::Withholds(peer));
            }
            G::Gap { missing } => Output::Gap(missing),
            G::Forked { author } => Output::Forked(author),
            G::Misbehaved { peer, fault } => Output::Misbehaved { peer, fault: fault.to_string() },
            G::Append { entry, envelope, delivers } => Output::Append { entry, envelope, delivers },
            G::Fetch { ticket, to, ids, bytes } => {
                let ids = ids.into_iter().map(convert::wire_id).collect();
                Output::Fetch { ticket, to, ids, bytes }
            }
            // A log on disk lets whole segments go, by limits of its own.
            G::Drop { .. } => return,
        });
    }
}

/// The neighbours among the links.
fn near(links: &BTreeMap<NodeId, Link>) -> impl Iterator<Item = NodeId> + Clone + '_ {
    links.iter().filter(|(_, link)| link.near).map(|(peer, _)| *peer)
}
