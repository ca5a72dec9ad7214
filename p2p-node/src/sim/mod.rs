//! A virtual network: thousands of whole [`Stack`]s in one thread, under a clock that only the events move.
//!
//! Nothing is simulated of a node but what is not in its [`Stack`]: sockets become [`SimConfig`]'s links, dials take the
//! round trips that TCP, TLS and hello take, crossing dials are settled by the same rule, full queues do what the
//! driver does. Messages are really signed; their check is taken for granted unless [`SimConfig::real_checks`] says
//! otherwise. TLS's own bytes (22 for each 16 KiB) are not counted.
//!
//! The same seed and the same calls give the same run, to the last number.
//!
//! ```
//! use std::time::Duration;
//! use p2p_node::sim::{Sim, SimConfig};
//!
//! let mut sim = Sim::new(SimConfig { seed: 7, ..SimConfig::default() });
//! let first = sim.add(None);
//! for _ in 1..10 {
//!     sim.add(Some(first));
//!     sim.run_for(Duration::from_millis(20));
//! }
//! sim.run_for(Duration::from_secs(5));
//! let message = sim.publish(3, 1024);
//! sim.run_for(Duration::from_secs(10));
//! assert_eq!(sim.outcome(message, Duration::from_secs(10)).missed, 0);
//! ```
//!
//! [`Scenario`] has the runs that `cargo xtask sim` knows.

mod attack;
mod config;
mod dial;
mod eclipse;
mod link;
mod meter;
mod node;
mod outcome;
mod overlay;
mod perform;
mod queue;
mod report;
mod scenario;

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use p2p_peers::{DownCause, Snapshot};
use p2p_wire::{Envelope, NewEntry, NodeId};
use rand::SeedableRng;
use rand::rngs::StdRng;

pub use config::SimConfig;
pub use node::{Conduct, Kill};
pub use outcome::{Outcome, Totals};
pub use overlay::Overlay;
pub use report::{Bar, Report};
pub use scenario::{Options, Scenario, UnknownScenario};

use crate::packet::{ByeReason, Packet};
use crate::stack::{Input, Stack};
use link::{Link, nanos};
use meter::Meter;
use node::{Addresses, Node};
use queue::{Event, Queue, Slots, Time, index};

/// The network; see the [module](self).
pub struct Sim {
    config: SimConfig,
    /// What the cores see as the clock's zero.
    epoch: Instant,
    now: Time,
    rng: StdRng,
    queue: Queue,
    packets: Slots<Packet>,
    dials: Slots<dial::Dial>,
    nodes: Vec<Node>,
    links: Vec<Link>,
    addresses: Addresses,
    /// Looked up, never walked through: their order does not show.
    by_id: HashMap<NodeId, u32>,
    by_addr: HashMap<SocketAddr, u32>,
    /// What arrived at a cut, to be delivered once it is healed.
    held: Vec<Event>,
    meter: Meter,
    scratch: BytesMut,
    zeros: Vec<u8>,
}

impl fmt::Debug for Sim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sim")
            .field("now", &self.elapsed())
            .field("nodes", &self.nodes.len())
            .finish_non_exhaustive()
    }
}

/// What a node and its world are doing.
impl Sim {
    /// A network without nodes.
    #[must_use]
    pub fn new(config: SimConfig) -> Self {
        Self {
            rng: StdRng::seed_from_u64(config.seed),
            config,
            epoch: Instant::now(),
            now: 0,
            queue: Queue::default(),
            packets: Slots::default(),
            dials: Slots::default(),
            nodes: Vec::new(),
            links: Vec::new(),
            addresses: Addresses::default(),
            by_id: HashMap::new(),
            by_addr: HashMap::new(),
            held: Vec::new(),
            meter: Meter::default(),
            scratch: BytesMut::new(),
            zeros: Vec::new(),
        }
    }

    /// Starts a new node that knows the address of `via` and nothing else. Returns its number; they count from 0.
    pub fn add(&mut self, via: Option<usize>) -> usize {
        self.add_as(Conduct::Honest, via)
    }

    /// [`Sim::add`], for one that behaves like this from the start.
    pub fn add_as(&mut self, conduct: Conduct, via: Option<usize>) -> usize {
        let number = self.nodes.len();
        let mut node = Node::new(&self.config, index(number), self.addresses.next());
        node.conduct = conduct;
        self.by_id.insert(node.id, index(number));
        self.by_addr.insert(node.addr, index(number));
        self.nodes.push(node);
        self.start(number, via);
        number
    }

    /// Starts a node that was killed, with its key and its numbers and an empty table and log. No effect on one that runs.
    pub fn start(&mut self, node: usize, via: Option<usize>) {
        if self.nodes[node].stack.is_some() {
            return;
        }
        self.nodes[node].start(&self.config, index(node), self.now);
        if let Some(via) = via {
            let seed = self.nodes[via].addr;
            self.input(index(node), Input::Seed(seed));
        }
    }

    /// The peer table that a node has on disk; empty if it does not run.
    pub fn saved_table(&mut self, node: usize) -> Snapshot<NodeId> {
        let none = Snapshot { peers: Vec::new(), seeds: Vec::new() };
        self.nodes[node].stack.as_mut().map_or(none, |stack| stack.snapshot())
    }

    /// [`Sim::start`], with the peer table that was saved.
    pub fn start_with(&mut self, node: usize, table: Snapshot<NodeId>) {
        if self.nodes[node].stack.is_none() {
            self.nodes[node].start(&self.config, index(node), self.now);
            self.with_stack(index(node), |stack, now| {
                stack.with_table(now, |there, now| there.restore(now, table));
            });
        }
    }

    /// Ends a node without a goodbye. No effect on one that does not run.
    pub fn kill(&mut self, number: usize, how: Kill) {
        let node = &mut self.nodes[number];
        if node.stack.take().is_none() {
            return;
        }
        (node.down, node.down_at) = (how, self.now);
        for (_, link) in std::mem::take(&mut node.links) {
            let there = &mut self.links[link as usize];
            let side = u8::from(there.ends[1] as usize == number);
            there.up[usize::from(side)] = false;
            if how == Kill::Process {
                let at = self.now + there.latency;
                self.queue.push(at, Event::Closed { link, to: 1 - side, bye: None });
            }
        }
    }

    /// Cuts the network: a node reaches those of its own group only. What is on its way over the cut waits for the heal,
    /// as TCP repeats it; links that hear nothing for too long die. All in one group: the cut is healed.
    pub fn partition(&mut self, group: impl Fn(usize) -> u8) {
        for (number, node) in self.nodes.iter_mut().enumerate() {
            node.group = group(number);
        }
        for event in std::mem::take(&mut self.held) {
            self.queue.push(self.now, event);
        }
    }

    /// Tells a node that its machine's addresses changed, as it is when a network comes back.
    pub fn network_changed(&mut self, node: usize) {
        self.input(index(node), Input::NetworkChanged);
    }

    /// From now on a node sends so many bytes per second on all its links; 0 is no limit.
    pub fn set_rate(&mut self, node: usize, rate: u64) {
        self.nodes[node].rate = rate;
    }

    /// From now on a node behaves like this.
    pub fn set_conduct(&mut self, node: usize, conduct: Conduct) {
        self.nodes[node].conduct = conduct;
    }

    /// A frame from one node to another over their link, whatever the sender's stack thinks of it. `false`: no link.
    pub fn inject(&mut self, from: usize, to: usize, packet: Packet) -> bool {
        let linked = self.nodes[from].link_to(index(to)).is_some();
        if linked {
            let to = self.nodes[to].id;
            self.send(index(from), to, packet);
        }
        linked
    }

    /// A node sends a message of so many bytes to everybody. Returns the number of the message; they count from 0.
    ///
    /// # Panics
    /// If the node does not run, or the payload is above 1 MiB.
    pub fn publish(&mut self, node: usize, size: usize) -> usize {
        if self.zeros.len() < size {
            self.zeros.resize(size, 0);
        }
        let sender = &mut self.nodes[node];
        let entry = NewEntry {
            topic: "",
            time_ms: self.now / 1_000_000,
            recipient: None,
            payload: &self.zeros[..size],
        };
        let envelope = Envelope::sign(&sender.key, sender.run, sender.next_seq, &[entry])
            .expect("a payload within the limit makes an envelope");
        sender.next_seq += 1;
        let message = self.meter.publish(&envelope.id(), index(node), self.now, self.nodes.len());
        let stack = self.nodes[node].stack.as_mut().expect("the sender runs");
        stack.publish(self.epoch + Duration::from_nanos(self.now), &envelope).expect("numbers rise");
        self.perform(index(node));
        message
    }

    /// Lets time pass.
    pub fn run_for(&mut self, time: Duration) {
        let until = self.now.saturating_add(nanos(time));
        while let Some((at, event)) = self.queue.pop(until) {
            self.now = at;
            self.on_event(event);
        }
        self.now = until;
    }

    /// Time since the beginning.
    #[must_use]
    pub const fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.now)
    }

    /// The whole node, to look at; `None` if it does not run.
    #[must_use]
    pub fn stack(&self, node: usize) -> Option<&Stack<StdRng>> {
        self.nodes[node].stack.as_deref()
    }

    /// A node's id.
    #[must_use]
    pub fn id(&self, node: usize) -> NodeId {
        self.nodes[node].id
    }

    /// The neighbours of a node, as it sees them.
    pub fn neighbours(&self, node: usize) -> impl Iterator<Item = usize> + '_ {
        let near = self.nodes[node].stack.iter().flat_map(|stack| stack.views().active());
        near.filter_map(|id| self.by_id.get(&id)).map(|number| *number as usize)
    }

    /// Those of its neighbours that it dialled.
    pub fn dialled(&self, node: usize) -> impl Iterator<Item = usize> + '_ {
        self.neighbours(node).filter(move |&peer| {
            let link = self.nodes[node].link_to(index(peer));
            link.is_some_and(|link| self.links[link as usize].ends[0] as usize == node)
        })
    }

    /// Nodes made so far, those that do not run included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is no node.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Whether a node runs.
    #[must_use]
    pub fn runs(&self, node: usize) -> bool {
        self.nodes[node].stack.is_some()
    }

    fn lives(&self, node: u32, life: u32) -> bool {
        let node = &self.nodes[node as usize];
        node.stack.is_some() && node.life == life
    }

    fn cut(&self, a: u32, b: u32) -> bool {
        self.nodes[a as usize].group != self.nodes[b as usize].group
    }
}

/// Events.
impl Sim {
    fn on_event(&mut self, event: Event) {
        match event {
            Event::Timer { node } => self.on_timer(node),
            Event::Frame { link, to, packet } => self.on_frame(link, to, packet),
            Event::Closed { link, to, bye } => self.on_closed(link, to, bye),
            Event::DialFailed { dial, cause } => self.on_dial_failed(dial, cause),
            Event::DialProved { dial } => self.on_dial_proved(dial),
            Event::DialHello { dial } => self.on_dial_hello(dial),
            Event::DialAnswer { dial, answer } => self.on_dial_answer(dial, answer),
            Event::Checked { node, life, ticket, ok } => {
                if self.lives(node, life) {
                    self.input(node, Input::Verified { ticket, ok });
                }
            }
        }
    }

    fn on_timer(&mut self, node: u32) {
        let now = self.epoch + Duration::from_nanos(self.now);
        let there = &mut self.nodes[node as usize];
        if there.timer_at > self.now {
            return;
        }
        there.timer_at = Time::MAX;
        let Some(stack) = &there.stack else { return };
        if stack.poll_timeout().is_some_and(|due| due <= now) {
            self.input(node, Input::Timeout);
        } else {
            self.set_timer(node);
        }
    }

    fn on_frame(&mut self, link: u32, to: u8, slot: u32) {
        let there = &self.links[link as usize];
        let (me, other) = (there.ends[usize::from(to)], there.ends[usize::from(1 - to)]);
        if self.cut(me, other) {
            return self.held.push(Event::Frame { link, to, packet: slot });
        }
        let Some(packet) = self.packets.take(slot) else { return };
        if !there.up[usize::from(to)] {
            // A machine that came back knows nothing of the connection: it resets it.
            if self.nodes[me as usize].stack.is_some() && there.up[usize::from(1 - to)] {
                let at = self.now + there.latency;
                self.queue.push(at, Event::Closed { link, to: 1 - to, bye: None });
            }
            return;
        }
        self.on_packet(me, other, packet);
    }

    fn on_closed(&mut self, link: u32, to: u8, bye: Option<ByeReason>) {
        let there = &self.links[link as usize];
        let (me, other) = (there.ends[usize::from(to)], there.ends[usize::from(1 - to)]);
        if !there.up[usize::from(to)] || self.nodes[me as usize].stack.is_none() {
            return;
        }
        if self.cut(me, other) {
            return self.held.push(Event::Closed { link, to, bye });
        }
        let peer = self.nodes[other as usize].id;
        if matches!(bye, Some(ByeReason::Disconnected | ByeReason::Banned)) {
            self.with_stack(me, |stack, now| {
                stack.with_table(now, |table, now| table.disconnect(now, peer));
            });
        }
        let cause = match bye {
            Some(ByeReason::Misbehaved) => DownCause::Protocol,
            Some(ByeReason::Full) => DownCause::NoRoom,
            Some(ByeReason::Duplicate) => DownCause::Replaced,
            Some(_) => DownCause::Closed,
            None => DownCause::Failed,
        };
        self.link_down(me, other, link, cause);
    }

    /// Closes the link that stands between the two from this side, with a goodbye behind what is queued.
    fn close(&mut self, me: u32, other: u32, bye: ByeReason, cause: DownCause) {
        let Some(link) = self.nodes[me as usize].link_to(other) else { return };
        let there = &self.links[link as usize];
        let side = u8::from(there.ends[1] == me);
        let at = there.close(self.now, side);
        self.queue.push(at, Event::Closed { link, to: 1 - side, bye: Some(bye) });
        self.link_down(me, other, link, cause);
    }

    fn link_down(&mut self, me: u32, other: u32, link: u32, cause: DownCause) {
        let there = &mut self.links[link as usize];
        there.up[usize::from(there.ends[1] == me)] = false;
        let node = &mut self.nodes[me as usize];
        let before = node.links.len();
        node.links.retain(|(_, number)| *number != link);
        if node.links.len() < before {
            let peer = self.nodes[other as usize].id;
            self.input(me, Input::LinkDown { peer, cause });
        }
    }

    /// Bytes of a frame on the wire.
    fn frame_len(&mut self, packet: &Packet) -> u64 {
        outcome::frame_len(&mut self.scratch, packet)
    }
}
