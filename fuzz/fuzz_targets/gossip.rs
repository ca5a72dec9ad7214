//! Any sequence of inputs to the gossip core: no message twice, never our own, no end of outputs.
#![no_main]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use p2p_gossip::{
    Announced, Config, Course, EnvelopeId, Gossip, Held, Input, Message, Output, Span, Sum, Ticket,
};
use rand::SeedableRng;
use rand::rngs::SmallRng;

const ME: u8 = 0;
/// One input causes a bounded number of outputs.
const MOST_OUTPUTS: usize = 100_000;

/// Takes the input apart; zeros once it is used up.
struct Bytewise<'a>(&'a [u8]);

impl Bytewise<'_> {
    fn u8(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    /// Small numbers mostly, so that ids meet; the largest now and then.
    fn seq(&mut self) -> u64 {
        match self.u8() {
            255 => u64::MAX - u64::from(self.u8()),
            n => u64::from(n % 32),
        }
    }

    fn id(&mut self) -> EnvelopeId<u8> {
        EnvelopeId { author: self.u8() % 6, run: self.seq(), first: self.seq(), count: self.u8() % 67 }
    }

    fn span(&mut self) -> Span<u8> {
        Span { author: self.u8() % 6, from: self.seq(), to: self.seq() }
    }

    fn message(&mut self) -> Message<u8> {
        match self.u8() % 9 {
            0 => {
                let (id, hops) = (self.id(), self.u8().into());
                let course = match self.u8() % 4 {
                    0 => Course::Doubled,
                    2 => Course::Anew,
                    _ => Course::Tree,
                };
                let age = Duration::from_secs(u64::from(self.u8()) * 600);
                Message::Push { id, hops, course, age, envelope: self.envelope() }
            }
            1 => {
                let count = self.u8() % 8;
                let wait = self.u8().is_multiple_of(2);
                Message::IHave {
                    ids: (0..count).map(|_| Announced { id: self.id(), hops: 1, wait }).collect(),
                }
            }
            2 => Message::Graft { id: self.u8().is_multiple_of(2).then(|| self.id()) },
            3 => {
                let count = self.u8() % 8;
                Message::IWant { ids: (0..count).map(|_| self.id()).collect() }
            }
            4 => {
                let count = [1, 256, 7][usize::from(self.u8() % 3)];
                Message::Digest { sums: vec![[self.u8(); 16]; count] }
            }
            5 => {
                let count = self.u8() % 8;
                Message::Ranges {
                    held: (0..count).map(|_| Held { span: self.span(), sum: [self.u8() % 3; 16] }).collect(),
                }
            }
            6 => {
                let (number, count) = (u32::from(self.u8() % 4), self.u8() % 8);
                Message::Pull { number, spans: (0..count).map(|_| self.span()).collect() }
            }
            7 => Message::Served {
                number: u32::from(self.u8() % 4),
                done: u16::from(self.u8() % 4),
                upto: self.seq(),
            },
            _ => Message::Prune,
        }
    }

    /// Even first bytes are genuine, odd ones forged.
    fn envelope(&mut self) -> Bytes {
        let (first, size) = (self.u8(), usize::from(self.u8() % 4) * 20_000 + 1);
        vec![first; size].into()
    }
}

struct World {
    gossip: Gossip<u8, u8, SmallRng>,
    now: Instant,
    open: Vec<(Ticket, Option<Sum>)>,
    delivered: BTreeSet<(u8, u64)>,
}

impl World {
    fn step(&mut self, input: &mut Bytewise<'_>) {
        match input.u8() % 8 {
            0 => self.gossip.handle(self.now, Input::NeighborUp(input.u8() % 5)),
            1 => self.gossip.handle(self.now, Input::NeighborDown(input.u8() % 5)),
            2 => {
                self.now += Duration::from_millis(u64::from(input.u8()) * 50);
                self.gossip.handle(self.now, Input::Timeout);
            }
            3 if !self.open.is_empty() => {
                let (ticket, digest) = self.open.swap_remove(usize::from(input.u8()) % self.open.len());
                self.gossip.handle(self.now, Input::Verified { ticket, digest });
            }
            4 => {
                let id = EnvelopeId { author: ME, ..input.id() };
                self.gossip.publish(self.now, id, input.envelope()).ok();
            }
            _ => {
                let received = Input::Received { from: input.u8() % 5, message: input.message() };
                self.gossip.handle(self.now, received);
            }
        }
        self.drain();
    }

    fn drain(&mut self) {
        for count in 0.. {
            assert!(count < MOST_OUTPUTS, "outputs without end");
            match self.gossip.poll_output() {
                None => break,
                Some(Output::Verify { ticket, envelope, .. }) => {
                    let genuine = envelope[0].is_multiple_of(2);
                    self.open.push((ticket, genuine.then(|| p2p_gossip::digest(&envelope))));
                }
                Some(Output::Deliver { id, entries, envelope, .. }) => {
                    assert!(envelope[0].is_multiple_of(2), "a forged message was delivered");
                    assert_ne!(id.author, ME, "it heard itself");
                    for bit in (0..u64::from(id.count)).filter(|bit| entries >> bit & 1 == 1) {
                        assert!(self.delivered.insert((id.author, id.first + bit)), "delivered twice");
                    }
                }
                Some(_) => {}
            }
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let gossip = Gossip::new(ME, Config::default(), SmallRng::seed_from_u64(1));
    let mut world = World { gossip, now: Instant::now(), open: Vec::new(), delivered: BTreeSet::new() };
    let mut input = Bytewise(data);
    while !input.0.is_empty() {
        world.step(&mut input);
    }
});
