//! What every attack needs: a victim with an honest neighbour, and the hostile peer.

mod channel;
mod peer;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use p2p_node::{Event, Events, Limits, Message, Node, NodeBuilder, NodeId, PeerInfo, SecretKey, Target};
use p2p_wire::{Envelope, NewEntry, PeerAddr, PeerRecord, Scope};
use tokio::time::timeout;

pub(crate) use channel::{CERTIFIED, Channel, Shown, server_config};
pub(crate) use peer::{Hostile, Server, frame, hello};

/// Longer than anything here takes on a slow machine; only a failing test waits for it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);
/// A dropped link, a refusal: at once, with room for a slow machine.
pub(crate) const SOON: Duration = Duration::from_secs(5);

/// Kinds of frames as `docs/wire.md` numbers them.
pub(crate) mod kind {
    pub(crate) const HELLO: u8 = 1;
    pub(crate) const BYE: u8 = 2;
    pub(crate) const PING: u8 = 3;
    pub(crate) const PONG: u8 = 4;
    pub(crate) const SHUFFLE: u8 = 10;
    pub(crate) const PUSH: u8 = 16;
    pub(crate) const IHAVE: u8 = 17;
    pub(crate) const GRAFT: u8 = 18;
    pub(crate) const PRUNE: u8 = 19;
    pub(crate) const IWANT: u8 = 26;
    pub(crate) const QUERY: u8 = 32;
    pub(crate) const ANSWER: u8 = 33;
}

pub(crate) fn key(n: u64) -> SecretKey {
    let mut seed = [0xA7; 32];
    seed[..8].copy_from_slice(&n.to_be_bytes());
    SecretKey::from_bytes(&seed)
}

pub(crate) fn local() -> NodeBuilder {
    Node::builder().host([127, 0, 0, 1]).port(0).file_port(0)
}

pub(crate) async fn start() -> Node {
    local().start().await.unwrap()
}

/// Deadlines short enough to be waited for.
pub(crate) fn hasty(change: impl FnOnce(&mut Limits)) -> NodeBuilder {
    let mut limits = Limits::default();
    change(&mut limits);
    local().limits(limits)
}

pub(crate) fn addr(node: &Node) -> SocketAddr {
    node.listen_addrs()[0]
}

pub(crate) fn target(node: &Node) -> Target {
    Target::Addr(addr(node))
}

/// The next event that `pick` wants.
pub(crate) async fn until<T>(events: &mut Events, mut pick: impl FnMut(Event) -> Option<T>) -> T {
    let wait = async {
        loop {
            if let Some(found) = pick(events.next().await.expect("the node stopped")) {
                return found;
            }
        }
    };
    timeout(DEADLINE, wait).await.expect("the event never came")
}

pub(crate) async fn message(events: &mut Events) -> Message {
    until(events, |event| if let Event::Message(m) = event { Some(m) } else { None }).await
}

pub(crate) async fn peer_up(events: &mut Events, peer: NodeId) {
    until(events, |event| matches!(event, Event::PeerUp { id, .. } if id == peer).then_some(())).await;
}

pub(crate) async fn peer_down(events: &mut Events, peer: NodeId) -> String {
    until(events, |event| match event {
        Event::PeerDown { id, reason } if id == peer => Some(reason),
        _ => None,
    })
    .await
}

/// What a counter of [`p2p_node::Status`] says.
pub(crate) async fn refused(node: &Node, what: &str) -> u64 {
    node.status().await.refused.get(what).copied().unwrap_or(0)
}

/// The peer as `node` knows it.
pub(crate) async fn peer(node: &Node, id: NodeId) -> Option<PeerInfo> {
    node.peers().await.into_iter().find(|p| p.id == id)
}

/// Waits until something holds that no event tells of.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// Connections that came to nothing; a peer sees its end a moment before it is counted.
pub(crate) async fn refused_connections(node: &Node, count: u64) {
    eventually("every connection is counted", async || refused(node, "connections").await >= count).await;
    assert_eq!(refused(node, "connections").await, count);
}

/// A node under attack with an honest neighbour, linked before the attack begins.
pub(crate) struct Stage {
    pub(crate) victim: Node,
    pub(crate) honest: Node,
    at_victim: Events,
    at_honest: Events,
}

/// Messages of others than the two of the stage that were delivered meanwhile, the honest neighbour's
/// payloads of a test included.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Delivered {
    pub(crate) victim: Vec<Bytes>,
    pub(crate) honest: Vec<Bytes>,
}

impl Stage {
    pub(crate) async fn new() -> Self {
        Self::with(local()).await
    }

    pub(crate) async fn with(victim: NodeBuilder) -> Self {
        let (victim, honest) =
            (victim.start().await.unwrap(), local().discover(false).start().await.unwrap());
        honest.connect(target(&victim)).await.unwrap();
        let (at_victim, at_honest) = (victim.events(), honest.events());
        Self { victim, honest, at_victim, at_honest }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        addr(&self.victim)
    }

    /// The victim and its neighbour still hear each other. Returns what else was delivered since the last
    /// time: whatever the attack brought about comes before the marks.
    pub(crate) async fn alive(&mut self) -> Delivered {
        const MARK: &[u8] = b"\0mark";
        self.honest.send(MARK).await.unwrap();
        let victim = until_mark(&mut self.at_victim, self.honest.id(), MARK).await;
        // By its own author, so that nothing of the honest node's is still under way.
        self.victim.send(MARK).await.unwrap();
        let honest = until_mark(&mut self.at_honest, self.victim.id(), MARK).await;
        Delivered { victim, honest }
    }

    /// [`Stage::alive`], and nothing else was delivered anywhere.
    pub(crate) async fn alive_and_untouched(&mut self) {
        let nothing = Delivered { victim: Vec::new(), honest: Vec::new() };
        assert_eq!(self.alive().await, nothing);
    }

    /// The next of the victim's events that `pick` wants; earlier ones are gone.
    pub(crate) async fn victim_event<T>(&mut self, pick: impl FnMut(Event) -> Option<T>) -> T {
        until(&mut self.at_victim, pick).await
    }

    /// The same of the honest neighbour's.
    pub(crate) async fn honest_event<T>(&mut self, pick: impl FnMut(Event) -> Option<T>) -> T {
        until(&mut self.at_honest, pick).await
    }
}

async fn until_mark(events: &mut Events, author: NodeId, mark: &[u8]) -> Vec<Bytes> {
    let mut before = Vec::new();
    loop {
        let m = message(events).await;
        if m.author == author && m.payload == mark {
            return before;
        }
        before.push(m.payload);
    }
}

/// An envelope of one entry.
pub(crate) fn envelope(key: &SecretKey, seq: u64, payload: &[u8]) -> Envelope {
    let entry = NewEntry { topic: "t", time_ms: 0, recipient: None, payload };
    Envelope::sign(key, 1, seq, &[entry]).unwrap()
}

/// The body of a push frame around any bytes.
pub(crate) fn push(envelope: &[u8]) -> Vec<u8> {
    // One link travelled, no time on the way.
    frame(kind::PUSH, &[&1u16.to_be_bytes()[..], &0u32.to_be_bytes(), envelope].concat())
}

pub(crate) fn record(key: &SecretKey, seq: u64, addrs: &[SocketAddr]) -> PeerRecord {
    let addrs: Vec<_> = addrs.iter().map(|a| PeerAddr { ip: a.ip(), port: a.port(), file_port: 0 }).collect();
    PeerRecord::sign(key, Scope::Local, seq, &addrs).unwrap()
}
