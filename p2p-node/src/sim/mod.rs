//! A virtual network: thousands of whole [`Stack`]s in one process, under a clock that only the events move.
//!
//! Nothing is simulated of a node but what is not in its [`Stack`]: sockets become [`SimConfig`]'s links, dials take the
//! round trips that TCP, TLS and hello take, crossing dials are settled by the same rule, full queues do what the
//! driver does. Messages are really signed; their check is taken for granted unless [`SimConfig::real_checks`] says
//! otherwise. TLS's own bytes (22 for each 16 KiB) are not counted.
//!
//! The same seed and the same calls give the same run, to the last number, on any number of threads. No frame is faster
//! than the shortest latency, so for so long no node can know what another one does: time passes in windows of that
//! length, in which each node goes through its own events and deadlines alone (conservative parallel simulation: Chandy and
//! Misra, IEEE TSE 1979; with a common window as in Lubachevsky, CACM 1989). Events at one node come by time, sender and the sender's order, and each node
//! has a randomness of its own; so neither threads nor windows show. Without a shortest latency it is right, and slow.
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
//!
//! # Panics
//! Whatever takes the number of a node or a message panics for one that was never given out.

mod attack;
mod config;
mod death;
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
mod shard;
mod turn;
mod windows;
mod world;

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use p2p_peers::Snapshot;
use p2p_wire::{Envelope, NewEntry, NodeId};
use rand::rngs::StdRng;

pub use config::SimConfig;
pub use node::{Conduct, Kill};
pub use outcome::{Outcome, Totals};
pub use overlay::Overlay;
pub use report::{Bar, Report};
pub use scenario::{Options, Scenario, UnknownScenario};

use crate::packet::Packet;
use crate::stack::{Input, Stack};
use link::nanos;
use node::{Addresses, Node};
use queue::{Entry, Event, Time, index};
use shard::{SHARDS, Shard, place};
use turn::Turn;
use world::{Published, World};

/// The network; see the [module](self).
pub struct Sim {
    world: World,
    /// The nodes, dealt out.
    shards: Vec<Shard>,
    now: Time,
    addresses: Addresses,
    zeros: Vec<u8>,
}

impl fmt::Debug for Sim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sim")
            .field("now", &self.elapsed())
            .field("nodes", &self.len())
            .finish_non_exhaustive()
    }
}

/// What a node and its world are doing.
impl Sim {
    /// A network without nodes.
    #[must_use]
    pub fn new(config: SimConfig) -> Self {
        Self {
            world: World::new(config),
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            now: 0,
            addresses: Addresses::default(),
            zeros: Vec::new(),
        }
    }

    /// Starts a new node that knows the address of `via` and nothing else. Returns its number; they count from 0.
    pub fn add(&mut self, via: Option<usize>) -> usize {
        self.add_as(Conduct::Honest, via)
    }

    /// [`Sim::add`], for one that behaves like this from the start.
    pub fn add_as(&mut self, conduct: Conduct, via: Option<usize>) -> usize {
        let at = self.addresses.next();
        self.add_at(at, conduct, via)
    }

    /// [`Sim::add_as`], on the machine of another node: with its address and a port of its own.
    pub fn add_beside(&mut self, node: usize, conduct: Conduct, via: Option<usize>) -> usize {
        let ip = self.world.faces[node].addr.ip();
        let there = self.world.faces.iter().map(|face| face.addr).filter(|addr| addr.ip() == ip);
        let port = there.map(|addr| addr.port()).max().map_or(u16::MAX, |port| port.saturating_add(1));
        self.add_at((ip, port), conduct, via)
    }

    fn add_at(&mut self, at: (IpAddr, u16), conduct: Conduct, via: Option<usize>) -> usize {
        let number = self.len();
        let (node, mut face) = Node::new(&self.world.config, index(number), at);
        face.conduct = conduct;
        self.world.add(face);
        self.shards[place(number).0].nodes.push(node);
        self.start(number, via);
        number
    }

    /// Starts a node that was killed, with its key and its numbers and an empty table and log. No effect on one that runs.
    pub fn start(&mut self, node: usize, via: Option<usize>) {
        if self.boot(node)
            && let Some(via) = via
        {
            let seed = self.world.faces[via].addr;
            self.with(node, |turn| turn.input(Input::Seed(seed)));
        }
    }

    /// Whether it did not run before.
    fn boot(&mut self, node: usize) -> bool {
        let face = &mut self.world.faces[node];
        if face.runs {
            return false;
        }
        (face.runs, face.up_since, face.down_at) = (true, self.now, Time::MAX);
        let (shard, at) = place(node);
        self.shards[shard].nodes[at].start(&self.world.config, &self.world.faces[node], self.now);
        true
    }

    /// The peer table that a node has on disk; empty if it does not run.
    pub fn saved_table(&mut self, node: usize) -> Snapshot<NodeId> {
        let none = Snapshot { peers: Vec::new(), seeds: Vec::new() };
        self.node_mut(node).stack.as_mut().map_or(none, |stack| stack.snapshot())
    }

    /// [`Sim::start`], with the peer table that was saved.
    pub fn start_with(&mut self, node: usize, table: Snapshot<NodeId>) {
        if self.boot(node) {
            self.with(node, |turn| {
                turn.with_stack(|stack, now| {
                    stack.with_table(now, |there, now| there.restore(now, table));
                });
            });
        }
    }

    /// Ends a node without a goodbye. No effect on one that does not run.
    pub fn kill(&mut self, node: usize, how: Kill) {
        let face = &mut self.world.faces[node];
        if !face.runs {
            return;
        }
        (face.runs, face.down, face.down_at) = (false, how, self.now);
        self.with(node, |turn| {
            for half in turn.node.stop() {
                if how == Kill::Process {
                    turn.cause(
                        half.peer,
                        turn.now + half.latency,
                        Event::Closed { link: half.link, bye: None },
                    );
                }
            }
        });
    }

    /// Cuts the network: a node reaches those of its own group only. What is on its way over the cut waits for the heal,
    /// as TCP repeats it; links that hear nothing for too long die. All in one group: the cut is healed.
    pub fn partition(&mut self, group: impl Fn(usize) -> u8) {
        for (number, face) in self.world.faces.iter_mut().enumerate() {
            face.group = group(number);
        }
        let faces = &self.world.faces;
        self.world.parted = faces.windows(2).any(|pair| pair[0].group != pair[1].group);
        for shard in &mut self.shards {
            for at in 0..shard.nodes.len() {
                for entry in std::mem::take(&mut shard.nodes[at].held) {
                    shard.push(Entry { at: self.now, ..entry });
                }
            }
        }
    }

    /// Tells a node that its machine's addresses changed, as it is when a network comes back.
    pub fn network_changed(&mut self, node: usize) {
        self.with(node, |turn| turn.input(Input::NetworkChanged));
    }

    /// From now on a node sends so many bytes per second on all its links; 0 is no limit.
    pub fn set_rate(&mut self, node: usize, rate: u64) {
        self.node_mut(node).rate = rate;
    }

    /// From now on a node behaves like this.
    pub fn set_conduct(&mut self, node: usize, conduct: Conduct) {
        self.world.faces[node].conduct = conduct;
    }

    /// A frame from one node to another over their link, whatever the sender's stack thinks of it. `false`: no link.
    pub fn inject(&mut self, from: usize, to: usize, packet: Packet) -> bool {
        let linked = self.node(from).link_to(index(to)).is_some();
        if linked {
            let to = self.world.faces[to].id;
            self.with(from, |turn| turn.send(to, packet));
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
        let (shard, at) = place(node);
        let sender = &mut self.shards[shard].nodes[at];
        let entry = NewEntry {
            topic: "",
            time_ms: self.now / 1_000_000,
            recipient: None,
            payload: &self.zeros[..size],
        };
        let envelope = Envelope::sign(&sender.key, sender.run, sender.next_seq, &[entry])
            .expect("a payload within the limit makes an envelope");
        sender.next_seq += 1;
        let id = envelope.id();
        let message = self.world.publish(Published { id, author: index(node), sent_at: self.now });
        self.with(node, |turn| {
            assert!(turn.runs(), "the sender runs");
            turn.with_stack(|stack, now| {
                stack.publish(now, &envelope).expect("numbers rise");
            });
        });
        message
    }

    /// Lets time pass.
    pub fn run_for(&mut self, time: Duration) {
        let until = self.now.saturating_add(nanos(time));
        windows::run(&self.world, &mut self.shards, until);
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
        self.node(node).stack.as_deref()
    }

    /// A node's id.
    #[must_use]
    pub fn id(&self, node: usize) -> NodeId {
        self.world.faces[node].id
    }

    /// The neighbours of a node, as it sees them.
    pub fn neighbours(&self, node: usize) -> impl Iterator<Item = usize> + '_ {
        let near = self.node(node).stack.iter().flat_map(|stack| stack.views().active());
        near.filter_map(|id| self.world.by_id(&id)).map(|number| number as usize)
    }

    /// Those of its neighbours that it dialled.
    pub fn dialled(&self, node: usize) -> impl Iterator<Item = usize> + '_ {
        self.neighbours(node)
            .filter(move |&peer| self.node(node).link_to(index(peer)).is_some_and(|half| half.dialled))
    }

    /// Nodes made so far, those that do not run included.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.world.faces.len()
    }

    /// Whether there is no node.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.world.faces.is_empty()
    }

    /// Whether a node runs.
    #[must_use]
    pub fn runs(&self, node: usize) -> bool {
        self.world.faces[node].runs
    }

    fn node(&self, node: usize) -> &Node {
        let (shard, at) = place(node);
        &self.shards[shard].nodes[at]
    }

    fn node_mut(&mut self, node: usize) -> &mut Node {
        let (shard, at) = place(node);
        &mut self.shards[shard].nodes[at]
    }

    /// Has a node do something now.
    fn with<T>(&mut self, node: usize, action: impl FnOnce(&mut Turn<'_>) -> T) -> T {
        let (shard, at) = place(node);
        let result = self.shards[shard].with(&self.world, at, self.now, action);
        let mut posts = Vec::new();
        self.shards[shard].post(|to, soonest, entries| posts.push((to, soonest, entries)));
        for (to, soonest, entries) in posts {
            self.shards[to].receive(soonest, entries);
        }
        result
    }
}
