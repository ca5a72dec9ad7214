//! Cores wired in memory: a virtual clock, links with random delays that reorder, and checks that take a
//! while.

#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod full;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;
use p2p_gossip::{
    Announced, Config, Course, EnvelopeId, Fault, Gossip, Input, Message, Output, Stats, Sum, Ticket,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

pub(crate) type Id = EnvelopeId<u32>;
pub(crate) type Core = Gossip<u32, u32, StdRng>;
pub(crate) type Out = Output<u32, u32>;

pub(crate) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[expect(clippy::disallowed_methods, reason = "any instant will do as the first of a virtual clock")]
pub(crate) fn start() -> Instant {
    Instant::now()
}

pub(crate) fn id(author: u32, run: u64, first: u64, count: u8) -> Id {
    Id { author, run, first, count }
}

/// An envelope that the stub of a signature check holds for genuine.
pub(crate) fn genuine(id: &Id, len: usize) -> Bytes {
    signed(id, b'+', len)
}

/// One that it does not.
pub(crate) fn forged(id: &Id, len: usize) -> Bytes {
    signed(id, b'-', len)
}

fn signed(id: &Id, mark: u8, len: usize) -> Bytes {
    let mut bytes = Vec::new();
    bytes.extend(id.author.to_be_bytes());
    bytes.extend(id.run.to_be_bytes());
    bytes.extend(id.first.to_be_bytes());
    bytes.push(id.count);
    bytes.push(mark);
    bytes.resize(bytes.len().max(len), 0);
    bytes.into()
}

/// The stub: the envelope's own id is the one claimed, and the mark is right.
pub(crate) fn check(id: &Id, envelope: &Bytes) -> Option<Sum> {
    envelope.starts_with(&genuine(id, 0)).then(|| p2p_gossip::digest(envelope))
}

pub(crate) fn core(me: u32, config: Config) -> Core {
    Gossip::new(me, config, StdRng::seed_from_u64(u64::from(me)))
}

/// A core with these neighbours up.
pub(crate) fn core_with(me: u32, neighbors: &[u32], config: Config, now: Instant) -> Core {
    let mut core = core(me, config);
    for &peer in neighbors {
        core.handle(now, Input::NeighborUp(peer));
    }
    // The digests that each is told.
    drain(&mut core);
    core
}

pub(crate) fn drain(core: &mut Core) -> Vec<Out> {
    std::iter::from_fn(|| core.poll_output()).collect()
}

/// Hands a message in and returns what comes out, checks unanswered.
pub(crate) fn receive(core: &mut Core, now: Instant, from: u32, message: Message<u32>) -> Vec<Out> {
    core.handle(now, Input::Received { from, message });
    drain(core)
}

pub(crate) fn push(id: Id, envelope: &Bytes) -> Message<u32> {
    Message::Push { id, hops: 1, course: Course::Tree, age: Duration::ZERO, envelope: envelope.clone() }
}

/// Of envelopes that nobody pushes.
pub(crate) fn ihave(ids: &[Id]) -> Message<u32> {
    announce(ids, false)
}

pub(crate) fn announce(ids: &[Id], wait: bool) -> Message<u32> {
    let announced = |id: &Id| Announced { id: *id, hops: 1, wait };
    Message::IHave { ids: ids.iter().map(announced).collect() }
}

/// Answers all checks in these outputs, and those that follow; returns all outputs but the checks.
pub(crate) fn answer(core: &mut Core, now: Instant, outputs: Vec<Out>) -> Vec<Out> {
    let mut rest = Vec::new();
    let mut todo = outputs;
    while !todo.is_empty() {
        let mut next = Vec::new();
        for output in todo {
            if let Output::Verify { ticket, id, envelope, .. } = output {
                let digest = check(&id, &envelope);
                core.handle(now, Input::Verified { ticket, digest });
                next.extend(drain(core));
            } else {
                rest.push(output);
            }
        }
        todo = next;
    }
    rest
}

/// The (author, seq) that outputs deliver, with whether late.
pub(crate) fn deliveries(outputs: &[Out]) -> Vec<(u32, u64, bool)> {
    let mut found = Vec::new();
    for output in outputs {
        if let Output::Deliver { id, entries, late, .. } = output {
            let new = id.seqs().enumerate().filter(|(bit, _)| entries >> bit & 1 == 1);
            found.extend(new.map(|(_, seq)| (id.author, seq, *late)));
        }
    }
    found
}

/// Neighbours that outputs ask for an envelope.
pub(crate) fn pulls(outputs: &[Out]) -> Vec<(u32, Id)> {
    outputs
        .iter()
        .flat_map(|output| match output {
            Output::Send { to, message: Message::Graft { id: Some(id) } } => vec![(*to, *id)],
            Output::Send { to, message: Message::IWant { ids } } => ids.iter().map(|id| (*to, *id)).collect(),
            _ => Vec::new(),
        })
        .collect()
}

pub(crate) fn faults(outputs: &[Out]) -> Vec<(u32, Fault)> {
    outputs
        .iter()
        .filter_map(|output| match output {
            Output::Misbehaved { peer, fault } => Some((*peer, *fault)),
            _ => None,
        })
        .collect()
}

enum Event {
    Arrive { from: u32, to: u32, message: Message<u32> },
    Checked { node: u32, ticket: Ticket, digest: Option<Sum> },
}

/// Some cores and the links between them.
pub(crate) struct Net {
    pub(crate) now: Instant,
    pub(crate) nodes: Vec<Node>,
    /// Longest delay of a message and of a check.
    pub(crate) delay: (Duration, Duration),
    /// Each link keeps one delay, and so its order.
    pub(crate) ordered: bool,
    links: BTreeSet<(u32, u32)>,
    events: BTreeMap<(Instant, u64), Event>,
    events_made: u64,
    rng: StdRng,
}

pub(crate) struct Node {
    pub(crate) core: Core,
    /// What its application got, in order.
    pub(crate) got: Vec<(u32, u64, bool)>,
    pub(crate) faults: Vec<(u32, Fault)>,
    /// Bytes of the envelopes pushed to it.
    pub(crate) pushed: usize,
    next_seq: u64,
    run: u64,
}

impl Net {
    pub(crate) fn new(seed: u64, nodes: u32, config: &Config) -> Self {
        let nodes = (0..nodes)
            .map(|me| Node {
                core: core(me, config.clone()),
                got: Vec::new(),
                faults: Vec::new(),
                pushed: 0,
                next_seq: 100 * u64::from(me),
                run: 100 * u64::from(me),
            })
            .collect();
        Self {
            now: start(),
            nodes,
            delay: (ms(50), ms(5)),
            ordered: false,
            links: BTreeSet::new(),
            events: BTreeMap::new(),
            events_made: 0,
            rng: StdRng::seed_from_u64(seed),
        }
    }

    pub(crate) fn link(&mut self, a: u32, b: u32) {
        if a == b || !self.links.insert((a.min(b), a.max(b))) {
            return;
        }
        self.input(a, Input::NeighborUp(b));
        self.input(b, Input::NeighborUp(a));
    }

    /// What is on its way is lost.
    pub(crate) fn cut(&mut self, a: u32, b: u32) {
        if self.links.remove(&(a.min(b), a.max(b))) {
            self.input(a, Input::NeighborDown(b));
            self.input(b, Input::NeighborDown(a));
        }
    }

    /// A bundle of `count` under the next seqs of this node.
    pub(crate) fn publish(&mut self, author: u32, count: u8, len: usize) -> Id {
        let node = &mut self.nodes[author as usize];
        let id = id(author, node.run, node.next_seq, count);
        node.next_seq += u64::from(count);
        node.core.publish(self.now, id, genuine(&id, len)).expect("a good envelope");
        self.perform(author);
        id
    }

    pub(crate) fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let event = self.events.first_key_value().map(|((at, _), _)| *at);
            let timer = self.nodes.iter().filter_map(|node| node.core.poll_timeout()).min();
            let Some(next) = event.into_iter().chain(timer).min().filter(|at| *at <= end) else {
                break;
            };
            self.now = self.now.max(next);
            if timer.is_some_and(|at| at <= self.now) {
                for node in 0..self.nodes.len() {
                    self.input(u32::try_from(node).expect("few nodes"), Input::Timeout);
                }
            }
            while let Some(entry) = self.events.first_entry().filter(|e| e.key().0 <= self.now) {
                let event = entry.remove();
                self.happen(event);
            }
        }
        self.now = end;
    }

    pub(crate) fn stats(&self, node: u32) -> Stats {
        self.nodes[node as usize].core.stats()
    }

    pub(crate) fn input(&mut self, node: u32, input: Input<u32, u32>) {
        self.nodes[node as usize].core.handle(self.now, input);
        self.perform(node);
    }

    pub(crate) fn random(&mut self, below: u32) -> u32 {
        self.rng.random_range(0..below)
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrive { from, to, message } => {
                if !self.links.contains(&(from.min(to), from.max(to))) {
                    return;
                }
                if let Message::Push { envelope, .. } = &message {
                    self.nodes[to as usize].pushed += envelope.len();
                }
                self.input(to, Input::Received { from, message });
            }
            Event::Checked { node, ticket, digest } => self.input(node, Input::Verified { ticket, digest }),
        }
    }

    fn perform(&mut self, node: u32) {
        for output in drain(&mut self.nodes[node as usize].core) {
            let mine = &mut self.nodes[node as usize];
            mine.got.extend(deliveries(std::slice::from_ref(&output)));
            mine.faults.extend(faults(std::slice::from_ref(&output)));
            let (delay, event) = match output {
                Output::Send { to, message } => (self.delay.0, Event::Arrive { from: node, to, message }),
                Output::Verify { ticket, id, envelope, .. } => {
                    let digest = check(&id, &envelope);
                    (self.delay.1, Event::Checked { node, ticket, digest })
                }
                _ => continue,
            };
            let part = match event {
                Event::Arrive { from, to, .. } if self.ordered => {
                    let link = u64::from(from.min(to)) << 32 | u64::from(from.max(to));
                    StdRng::seed_from_u64(link).random_range(0.1..=1.0)
                }
                _ => self.rng.random_range(0.1..=1.0),
            };
            let at = self.now + delay.mul_f64(part);
            self.events.insert((at, self.events_made), event);
            self.events_made += 1;
        }
    }
}
