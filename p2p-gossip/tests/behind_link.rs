//! Two cores and a link with a queue between them, as a driver has it: how far its reader is behind, and whether in order.

mod net;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::time::{Duration, Instant};

use net::{Core, Out, answer, core, deliveries, drain, genuine, id, ms, start};
use p2p_gossip::{Config, Input, Message, Output};

const A: u32 = 1;
const B: u32 = 2;
/// What the link carries in a second, and what its queue holds.
const RATE: f64 = 1e6;
const LIMIT: usize = 256 << 10;
const STEP: Duration = Duration::from_millis(5);

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// From A, that publishes, to B.
struct Link {
    begin: Instant,
    now: Instant,
    a: Core,
    b: Core,
    latency: Duration,
    /// When it carries nothing.
    stalls: Range<Duration>,
    queue: VecDeque<Message<u32>>,
    bytes: usize,
    credit: f64,
    to_b: VecDeque<(Instant, Message<u32>)>,
    to_a: VecDeque<(Instant, Message<u32>)>,
    sent: BTreeMap<u64, Instant>,
    /// How long each took, and whether it was late.
    delays: BTreeMap<u64, (Duration, bool)>,
}

fn len(message: &Message<u32>) -> usize {
    if let Message::Push { envelope, .. } = message { envelope.len() } else { 0 }
}

impl Link {
    fn new(config: &Config, round_trip: Duration, stalls: Range<Duration>) -> Self {
        let now = start();
        let mut link = Self {
            begin: now,
            now,
            a: core(A, config.clone()),
            b: core(B, config.clone()),
            latency: round_trip / 2,
            stalls,
            queue: VecDeque::new(),
            bytes: 0,
            credit: 0.0,
            to_b: VecDeque::new(),
            to_a: VecDeque::new(),
            sent: BTreeMap::new(),
            delays: BTreeMap::new(),
        };
        link.a.handle(now, Input::NeighborUp(B));
        link.b.handle(now, Input::NeighborUp(A));
        link.perform();
        link
    }

    fn perform(&mut self) {
        let due = self.now + self.latency;
        loop {
            let outs = drain(&mut self.a);
            let a: Vec<Out> = answer(&mut self.a, self.now, outs);
            let outs = drain(&mut self.b);
            let b: Vec<Out> = answer(&mut self.b, self.now, outs);
            if a.is_empty() && b.is_empty() {
                return;
            }
            for out in a {
                match out {
                    Output::Send { message: Message::Push { id, hops, envelope, .. }, .. }
                        if self.bytes + envelope.len() > LIMIT =>
                    {
                        self.a.put_off(self.now, B, id, hops);
                    }
                    Output::Send {
                        message: message @ (Message::Push { .. } | Message::Served { .. }),
                        ..
                    } => {
                        self.bytes += len(&message);
                        self.queue.push_back(message);
                    }
                    Output::Send { message, .. } => self.to_b.push_back((due, message)),
                    _ => {}
                }
            }
            for (_, seq, late) in deliveries(&b) {
                let twice = self.delays.insert(seq, (self.now - self.sent[&seq], late));
                assert_eq!(twice, None);
            }
            let sends =
                |out| if let Output::Send { message, .. } = out { Some((due, message)) } else { None };
            self.to_a.extend(b.into_iter().filter_map(sends));
        }
    }

    fn write(&mut self) {
        if self.stalls.contains(&(self.now - self.begin)) {
            return;
        }
        self.credit += RATE * STEP.as_secs_f64();
        while let Some(message) = self.queue.pop_front_if(|message| len(message) as f64 <= self.credit) {
            self.credit -= len(&message) as f64;
            self.bytes -= len(&message);
            self.to_b.push_back((self.now + self.latency, message));
        }
        if self.queue.is_empty() {
            self.credit = 0.0;
        }
    }

    fn step(&mut self) {
        self.now += STEP;
        self.write();
        while let Some((_, message)) = self.to_b.pop_front_if(|(at, _)| *at <= self.now) {
            self.b.handle(self.now, Input::Received { from: A, message });
            self.perform();
        }
        // What asks for messages waits for room, which is for what had none as well.
        while self.bytes * 2 <= LIMIT
            && let Some((_, message)) = self.to_a.pop_front_if(|(at, _)| *at <= self.now)
        {
            self.a.handle(self.now, Input::Received { from: B, message });
            self.perform();
        }
        while self.bytes * 2 <= LIMIT && self.a.push_owed(self.now, B) {
            self.perform();
        }
        for core in [&mut self.a, &mut self.b] {
            if core.poll_timeout().is_some_and(|at| at <= self.now) {
                core.handle(self.now, Input::Timeout);
            }
        }
        self.perform();
    }

    /// So many messages a second of `len` bytes for 100 s, then silence for 30. All have come in order, those of the last 60 s
    /// without having waited.
    fn carries(&mut self, rate: u64, len: usize) {
        let mut next = 0;
        for step in 0..130 * 200 {
            while next < (step * rate / 200).min(100 * rate) {
                self.sent.insert(next, self.now);
                self.a.publish(self.now, id(A, 0, next, 1), genuine(&id(A, 0, next, 1), len)).expect("good");
                next += 1;
                self.perform();
            }
            self.step();
        }
        assert!(self.a.stats().put_off > 0, "it was full");
        assert_eq!(self.delays.len(), self.sent.len());
        assert_eq!(self.delays.values().filter(|(_, late)| *late).count(), 0);
        let longest = self.delays.range(40 * rate..).map(|(_, (delay, _))| *delay).max().expect("some");
        assert!(longest < self.latency + ms(100), "{longest:?}");
    }
}

/// 100 KB/s over a link of 1 MB/s that stands still for 6 s. More messages than can be asked for in a round trip.
#[test]
fn a_reader_far_away_catches_up() {
    Link::new(&Config::default(), ms(200), secs(10)..secs(16)).carries(500, 200);
}

#[test]
fn a_reader_nearer_by_catches_up() {
    Link::new(&Config::default(), ms(50), secs(10)..secs(16)).carries(600, 200);
}

#[test]
fn a_reader_that_compares_logs_meanwhile_catches_up() {
    let config = Config { digest_every: secs(13), ..Config::default() };
    Link::new(&config, ms(100), secs(10)..secs(16)).carries(600, 200);
}
