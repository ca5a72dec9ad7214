//! Cores on a random overlay under virtual time: what the tree costs and how fast it is, beside a flood of the same
//! overlay.
//!
//! `cargo run --release -p p2p-gossip --example random_overlay -- NODES SENDERS MESSAGES SEED WARM_UP`, where SENDERS is
//! how many of the nodes take turns at random; before that WARM_UP of them (as many unless told) take turns for half as
//! many messages. Links have 10 to 50 ms.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::{Duration, Instant};

use bytes::Bytes;
use p2p_gossip::{Config, EnvelopeId, Gossip, Input, Message, Output};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

const DEGREE: usize = 10;
const EVERY: Duration = Duration::from_millis(1_000);

type Core = Gossip<u32, u32, StdRng>;

struct Net {
    cores: Vec<Core>,
    latency: BTreeMap<(u32, u32), Duration>,
    queue: BinaryHeap<Reverse<(Instant, u64, u32, u32)>>,
    messages: BTreeMap<u64, Message<u32>>,
    timers: BTreeSet<(Instant, u32)>,
    due: Vec<Option<Instant>>,
    made: u64,
    now: Instant,
    /// Of the message under way: copies, when each node got it first, and with which hops.
    copies: u64,
    bytes: u64,
    got: Vec<Option<(Instant, u16)>>,
    hops: Vec<u16>,
}

/// Means over the measured messages.
#[derive(Default)]
struct Figures {
    missed: usize,
    redundant: f64,
    hops: f64,
    last_ms: f64,
    flood_ms: f64,
    control: f64,
}

#[expect(clippy::print_stdout, reason = "an example prints")]
fn main() {
    let args: Vec<u32> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let arg = |at: usize, default: u32| args.get(at).copied().unwrap_or(default);
    let (nodes, senders, messages, seed) = (arg(0, 1_000), arg(1, 1), arg(2, 100), arg(3, 1));
    let warm_up = arg(4, senders);
    let mut rng = StdRng::seed_from_u64(seed.into());
    let mut net = Net::random(nodes, &mut rng);
    let mut figures = Figures::default();
    for n in 0..messages / 2 + messages {
        if n == messages / 2 {
            figures = Figures::default();
        }
        let sender = rng.random_range(0..if n < messages / 2 { warm_up } else { senders });
        net.measure(sender, n.into(), &mut figures);
    }
    let (per, others) = (f64::from(messages), f64::from(nodes - 1));
    let Figures { missed, redundant, hops, last_ms, flood_ms, control } = figures;
    println!("{nodes} nodes, {senders} senders, {warm_up} in the warm-up, seed {seed}: missed {missed}");
    println!("  copies beyond one per node  {:.3}", redundant / per / others);
    println!("  hops to the last node       {:.1}", hops / per);
    println!("  last node after             {:.0} ms, a flood {:.0} ms", last_ms / per, flood_ms / per);
    println!("  other bytes per node        {:.0} a message", control / per / others);
}

impl Net {
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the first of a virtual clock")]
    fn random(nodes: u32, rng: &mut StdRng) -> Self {
        let cores = (0..nodes)
            .map(|me| Gossip::new(me, Config::default(), StdRng::seed_from_u64(u64::from(me))))
            .collect();
        let mut net = Self {
            cores,
            latency: BTreeMap::new(),
            queue: BinaryHeap::new(),
            messages: BTreeMap::new(),
            timers: BTreeSet::new(),
            due: vec![None; nodes as usize],
            made: 0,
            now: Instant::now(),
            copies: 0,
            bytes: 0,
            got: vec![None; nodes as usize],
            hops: vec![0; nodes as usize],
        };
        // Each pass is a random ring: two links a node.
        for _ in 0..DEGREE / 2 {
            let mut ring: Vec<u32> = (0..nodes).collect();
            ring.shuffle(rng);
            for n in 0..ring.len() {
                let (a, b) = (ring[n], ring[(n + 1) % ring.len()]);
                let latency = Duration::from_micros(rng.random_range(10_000..50_000));
                if net.latency.insert((a, b), latency).is_none() {
                    net.latency.insert((b, a), latency);
                    net.input(a, Input::NeighborUp(b));
                    net.input(b, Input::NeighborUp(a));
                }
            }
        }
        net
    }

    fn measure(&mut self, sender: u32, seq: u64, figures: &mut Figures) {
        let begin = self.now;
        self.publish(sender, seq);
        self.run_until(begin + EVERY);
        let others = self.cores.len() - 1;
        let got: Vec<_> = self.got.iter().flatten().collect();
        let last = got.iter().map(|(at, _)| *at - begin).max().unwrap_or_default();
        figures.missed += others - got.len();
        figures.redundant += self.copies as f64 - others as f64;
        figures.hops += f64::from(got.iter().map(|(_, hops)| *hops).max().unwrap_or(0));
        figures.last_ms += last.as_secs_f64() * 1e3;
        figures.flood_ms += self.flood(sender).as_secs_f64() * 1e3;
        figures.control += self.bytes as f64;
    }

    fn publish(&mut self, author: u32, seq: u64) {
        self.copies = 0;
        self.bytes = 0;
        self.got.fill(None);
        // A run of its own, so that nobody waits for the seqs between.
        let id = EnvelopeId { author, run: seq, first: seq, count: 1 };
        self.cores[author as usize]
            .publish(self.now, id, Bytes::from(vec![0; 1_024]))
            .expect("a good envelope");
        self.perform(author);
    }

    fn run_until(&mut self, end: Instant) {
        loop {
            let message = self.queue.peek().map(|Reverse((at, ..))| *at);
            let timer = self.timers.first().map(|(at, _)| *at);
            let Some(next) = message.into_iter().chain(timer).min().filter(|at| *at <= end) else { break };
            self.now = next;
            if timer == Some(next)
                && let Some((_, node)) = self.timers.pop_first()
            {
                self.due[node as usize] = None;
                self.input(node, Input::Timeout);
            } else if let Some(Reverse((_, number, from, to))) = self.queue.pop()
                && let Some(message) = self.messages.remove(&number)
            {
                match &message {
                    Message::Push { hops, .. } => {
                        self.copies += 1;
                        self.hops[to as usize] = *hops;
                    }
                    Message::IHave { ids } => self.bytes += 5 + 44 * ids.len() as u64,
                    Message::IWant { ids } => self.bytes += 5 + 49 * ids.len() as u64,
                    Message::Graft { id } => self.bytes += 5 + if id.is_some() { 49 } else { 0 },
                    _ => self.bytes += 5,
                }
                self.input(to, Input::Received { from, message });
            }
        }
        self.now = end;
    }

    fn input(&mut self, node: u32, input: Input<u32, u32>) {
        self.cores[node as usize].handle(self.now, input);
        self.perform(node);
    }

    fn perform(&mut self, node: u32) {
        while let Some(output) = self.cores[node as usize].poll_output() {
            match output {
                Output::Send { to, message } => {
                    self.made += 1;
                    let at = self.now + self.latency[&(node, to)];
                    self.queue.push(Reverse((at, self.made, node, to)));
                    self.messages.insert(self.made, message);
                }
                Output::Verify { ticket, envelope, .. } => {
                    let digest = Some(p2p_gossip::digest(&envelope));
                    self.cores[node as usize].handle(self.now, Input::Verified { ticket, digest });
                }
                Output::Deliver { .. } => {
                    self.got[node as usize] = Some((self.now, self.hops[node as usize]))
                }
                _ => {}
            }
        }
        let due = self.cores[node as usize].poll_timeout();
        if due != self.due[node as usize] {
            if let Some(old) = self.due[node as usize] {
                self.timers.remove(&(old, node));
            }
            if let Some(at) = due {
                self.timers.insert((at, node));
            }
            self.due[node as usize] = due;
        }
    }

    /// When the last node would have it if everybody sent to everybody linked.
    fn flood(&self, from: u32) -> Duration {
        let mut reached = vec![None; self.cores.len()];
        let mut queue = BinaryHeap::from([Reverse((Duration::ZERO, from))]);
        let mut last = Duration::ZERO;
        while let Some(Reverse((at, node))) = queue.pop() {
            if reached[node as usize].is_some() {
                continue;
            }
            reached[node as usize] = Some(at);
            last = at;
            for (&(_, to), latency) in self.latency.range((node, 0)..=(node, u32::MAX)) {
                if reached[to as usize].is_none() {
                    queue.push(Reverse((at + *latency, to)));
                }
            }
        }
        last
    }
}
