//! Many views under virtual time: links with a fixed delay, a process that dies resets its links.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::{Duration, Instant};

use p2p_peers::Direction;
use p2p_peers::views::{Config, Input, Message, Output, Views};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

const DELAY: Duration = Duration::from_millis(30);
/// What the harness's stand-in for the peer table remembers per node.
const KNOWN: usize = 64;

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A dial arrives.
    Dial(u32, u32),
    /// An answer to it: the link stands or not.
    Dialled(u32, u32, Option<u64>),
    Deliver(u64, u32, u32, usize),
    Reset(u64, u32, u32),
    Timer(u32),
}

pub(crate) struct Net {
    pub(crate) now: Instant,
    pub(crate) nodes: Vec<Option<Views<u32, StdRng>>>,
    pub(crate) ups: Vec<BTreeSet<u32>>,
    known: Vec<Vec<u32>>,
    links: BTreeMap<(u32, u32), u64>,
    queue: BinaryHeap<Reverse<(Instant, u64, Event)>>,
    messages: Vec<Option<Message<u32>>>,
    free: Vec<usize>,
    timers: Vec<Option<Instant>>,
    count: u64,
    asked: BTreeSet<(u32, u32)>,
    rng: StdRng,
    config: Config,
    pub(crate) sent: BTreeMap<u32, u64>,
    /// Nodes below do not reach those from here on.
    cut_at: u32,
}

fn key(a: u32, b: u32) -> (u32, u32) {
    (a.min(b), a.max(b))
}

#[expect(clippy::disallowed_methods, reason = "there is no other way to make an instant")]
pub(crate) fn start() -> Instant {
    Instant::now()
}

impl Net {
    pub(crate) fn new(seed: u64, config: Config) -> Self {
        Self {
            now: start(),
            nodes: Vec::new(),
            ups: Vec::new(),
            known: Vec::new(),
            links: BTreeMap::new(),
            queue: BinaryHeap::new(),
            messages: Vec::new(),
            free: Vec::new(),
            timers: Vec::new(),
            count: 0,
            asked: BTreeSet::new(),
            rng: StdRng::seed_from_u64(seed),
            config,
            sent: BTreeMap::new(),
            cut_at: 0,
        }
    }

    /// A new node that dials `through`, if it is not the first.
    pub(crate) fn join(&mut self, through: Option<u32>) -> u32 {
        let me = u32::try_from(self.nodes.len()).unwrap();
        let rng = StdRng::seed_from_u64(self.rng.random());
        self.nodes.push(Some(Views::new(me, self.config.clone(), rng)));
        self.ups.push(BTreeSet::new());
        self.known.push(Vec::new());
        self.timers.push(None);
        self.input(me, Input::Timeout);
        if let Some(through) = through {
            self.known[me as usize].push(through);
            self.push(DELAY, Event::Dial(me, through));
        }
        me
    }

    pub(crate) fn kill(&mut self, node: u32) {
        self.nodes[node as usize] = None;
        self.ups[node as usize].clear();
        let lost: Vec<_> = self.links.keys().filter(|(a, b)| *a == node || *b == node).copied().collect();
        for (a, b) in lost {
            self.close(a, b, node);
        }
    }

    /// Cuts the network in two: links over the cut break. At 0: it is healed.
    pub(crate) fn cut(&mut self, at: u32) {
        self.cut_at = at;
        let over: Vec<_> = self.links.keys().filter(|(a, b)| self.is_cut(*a, *b)).copied().collect();
        for (a, b) in over {
            self.close(a, b, a);
            self.close(a, b, b);
        }
    }

    fn is_cut(&self, a: u32, b: u32) -> bool {
        (a < self.cut_at) != (b < self.cut_at)
    }

    pub(crate) fn alive(&self) -> impl Iterator<Item = u32> + '_ {
        (0..).zip(&self.nodes).filter(|(_, node)| node.is_some()).map(|(id, _)| id)
    }

    pub(crate) fn views(&self, node: u32) -> &Views<u32, StdRng> {
        self.nodes[node as usize].as_ref().unwrap()
    }

    fn push(&mut self, after: Duration, event: Event) {
        self.count += 1;
        self.queue.push(Reverse((self.now + after, self.count, event)));
    }

    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.queue.peek().is_some_and(|Reverse((at, ..))| *at <= end) {
            let Reverse((at, _, event)) = self.queue.pop().unwrap();
            self.now = at;
            self.on_event(event);
        }
        self.now = end;
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Dial(from, to) => {
                let stands = self.links.contains_key(&key(from, to));
                let up = self.nodes[to as usize].is_some() && self.nodes[from as usize].is_some() && !stands;
                let up = up && !self.is_cut(from, to);
                let link = up.then(|| {
                    self.count += 1;
                    self.links.insert(key(from, to), self.count);
                    self.count
                });
                if up {
                    self.input(
                        to,
                        Input::LinkUp { peer: from, direction: Direction::In, asked: false, urgent: false },
                    );
                }
                self.push(DELAY, Event::Dialled(from, to, link));
            }
            Event::Dialled(from, to, link) => {
                if link.is_some() && self.links.get(&key(from, to)).copied() == link {
                    let asked = self.asked.contains(&(from, to));
                    self.input(
                        from,
                        Input::LinkUp { peer: to, direction: Direction::Out, asked, urgent: asked },
                    );
                } else {
                    self.input(from, Input::DialFailed(to));
                }
            }
            Event::Deliver(link, from, to, at) => {
                let message = self.messages[at].take().unwrap();
                self.free.push(at);
                if self.links.get(&key(from, to)) == Some(&link) {
                    self.input(to, Input::Received { from, message });
                }
            }
            Event::Reset(link, at, other) => {
                if self.links.get(&key(at, other)).is_none_or(|now| *now == link) {
                    self.links.remove(&key(at, other));
                    self.input(at, Input::LinkDown(other));
                }
            }
            Event::Timer(node) => {
                if self.timers[node as usize] == Some(self.now) {
                    self.timers[node as usize] = None;
                    self.input(node, Input::Timeout);
                }
            }
        }
    }

    /// What was sent before still arrives; then the other side sees the end.
    fn close(&mut self, a: u32, b: u32, by: u32) {
        if let Some(&link) = self.links.get(&key(a, b)) {
            let other = if by == a { b } else { a };
            self.push(DELAY, Event::Reset(link, other, by));
        }
    }

    pub(crate) fn input(&mut self, at: u32, input: Input<u32>) {
        let Some(mut views) = self.nodes[at as usize].take() else { return };
        views.handle(self.now, input);
        while let Some(output) = views.poll_output() {
            self.perform(at, &mut views, output);
        }
        if let Some(due) = views.poll_timeout()
            && self.timers[at as usize].is_none_or(|set| due < set || set <= self.now)
        {
            let due = due.max(self.now + Duration::from_millis(1));
            self.timers[at as usize] = Some(due);
            self.push(due - self.now, Event::Timer(at));
        }
        self.nodes[at as usize] = Some(views);
    }

    fn perform(&mut self, at: u32, views: &mut Views<u32, StdRng>, output: Output<u32>) {
        match output {
            Output::Send { to, message } => {
                let Some(&link) = self.links.get(&key(at, to)) else { return };
                *self.sent.entry(at).or_default() += 1;
                let slot = self.free.pop().unwrap_or_else(|| {
                    self.messages.push(None);
                    self.messages.len() - 1
                });
                self.messages[slot] = Some(message);
                self.push(DELAY, Event::Deliver(link, at, to, slot));
            }
            Output::Dial { peer, .. } => self.push(DELAY, Event::Dial(at, peer)),
            Output::Hangup(peer) => {
                self.close(at, peer, at);
                views.handle(self.now, Input::LinkDown(peer));
            }
            Output::Up(peer) => assert!(self.ups[at as usize].insert(peer), "{peer} came up twice at {at}"),
            Output::Down(peer) => assert!(self.ups[at as usize].remove(&peer), "{peer} was not up at {at}"),
            Output::Learn { peers, .. } => {
                let known = &mut self.known[at as usize];
                for peer in peers {
                    if known.len() >= KNOWN {
                        let gone = self.rng.random_range(0..known.len());
                        known.swap_remove(gone);
                    }
                    known.push(peer);
                }
            }
            Output::Suggest { count, .. } => {
                let some = self.known[at as usize].sample(&mut self.rng, count).copied().collect();
                views.handle(self.now, Input::Suggested(some));
            }
            Output::Feel | Output::Reseed => {}
        }
    }

    /// The size of the largest component of neighbours, and the number of nodes.
    pub(crate) fn component(&self) -> (usize, usize) {
        let alive: BTreeSet<u32> = self.alive().collect();
        let (mut left, mut largest) = (alive.clone(), 0);
        while let Some(first) = left.pop_first() {
            let (mut stack, mut size) = (vec![first], 0);
            while let Some(node) = stack.pop() {
                size += 1;
                for peer in self.ups[node as usize].iter().filter(|peer| alive.contains(peer)) {
                    if left.remove(peer) {
                        stack.push(*peer);
                    }
                }
            }
            largest = largest.max(size);
        }
        (largest, alive.len())
    }

    pub(crate) fn mean_degree(&self) -> f64 {
        let (sum, n) =
            self.alive().fold((0, 0), |(sum, n), node| (sum + self.ups[node as usize].len(), n + 1));
        sum as f64 / f64::from(n)
    }
}
