//! Any sequence of inputs to the views: no more neighbours than there may be, never ourselves, what was told is what is, no
//! end of outputs.
#![no_main]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use p2p_peers::Direction;
use p2p_peers::views::{Config, Input, Message, Output, Views};
use rand::SeedableRng;
use rand::rngs::SmallRng;

const ME: u8 = 0;
/// Ids, ours among them: more than all views together have room for.
const IDS: u8 = 64;
/// One input causes a bounded number of outputs.
const MOST_OUTPUTS: usize = 10_000;

/// Takes the input apart; zeros once it is used up.
struct Bytewise<'a>(&'a [u8]);

impl Bytewise<'_> {
    fn u8(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    fn bool(&mut self) -> bool {
        self.u8().is_multiple_of(2)
    }

    fn peer(&mut self) -> u8 {
        self.u8() % IDS
    }

    fn peers(&mut self) -> Vec<u8> {
        let count = self.u8() % 24;
        (0..count).map(|_| self.peer()).collect()
    }

    fn message(&mut self) -> Message<u8> {
        match self.u8() % 7 {
            0 => Message::Join,
            1 => Message::ForwardJoin { joiner: self.peer(), ttl: self.u8() },
            2 => Message::Neighbor { high: self.bool() },
            3 => Message::Accept { sample: self.peers() },
            4 => Message::Refuse { sample: self.peers() },
            5 => Message::Shuffle { id: u64::from(self.u8() % 4), ttl: self.u8(), peers: self.peers() },
            _ => Message::ShuffleReply { id: u64::from(self.u8() % 4), peers: self.peers() },
        }
    }
}

struct World {
    views: Views<u8, SmallRng>,
    now: Instant,
    /// Of [`Output::Up`] and [`Output::Down`].
    up: BTreeSet<u8>,
    /// Links that the user asked for: such neighbours come on top.
    asked: BTreeSet<u8>,
}

impl World {
    fn step(&mut self, input: &mut Bytewise<'_>) {
        let input = match input.u8() % 12 {
            0 | 1 => Input::LinkUp {
                peer: input.peer(),
                direction: if input.bool() { Direction::In } else { Direction::Out },
                asked: input.u8() % 8 == 1,
                urgent: input.u8() % 8 == 1,
            },
            2 => Input::LinkDown(input.peer()),
            3 => Input::DialFailed(input.peer()),
            4 => Input::Crowded(input.peer()),
            5 => Input::Suggested(input.peers()),
            6 => Input::Nudge,
            7 => Input::Withholds(input.peer()),
            8 => {
                self.now += Duration::from_millis(u64::from(input.u8()).pow(2));
                Input::Timeout
            }
            _ => Input::Received { from: input.peer(), message: input.message() },
        };
        match &input {
            Input::LinkUp { peer, asked: true, .. } => drop(self.asked.insert(*peer)),
            Input::LinkUp { peer, .. } | Input::LinkDown(peer) => drop(self.asked.remove(peer)),
            _ => {}
        }
        self.views.handle(self.now, input);
        self.drain();
        assert!(self.views.active().eq(self.up.iter().copied()), "what was told is not what is");
        let own = self.up.difference(&self.asked).count();
        assert!(own <= self.views.config().active + 2, "{own} neighbours that nobody asked for");
        assert!(!self.up.contains(&ME), "it is its own neighbour");
        let passive: Vec<u8> = self.views.passive().collect();
        assert!(passive.len() <= self.views.config().passive);
        let once: BTreeSet<u8> = passive.iter().copied().collect();
        assert_eq!(once.len(), passive.len(), "a peer is known twice");
        assert!(
            !once.contains(&ME) && once.is_disjoint(&self.up),
            "a neighbour, or itself, is kept as a replacement"
        );
    }

    fn drain(&mut self) {
        for count in 0.. {
            assert!(count < MOST_OUTPUTS, "outputs without end");
            match self.views.poll_output() {
                None => break,
                Some(Output::Up(peer)) => assert!(self.up.insert(peer), "up twice"),
                Some(Output::Down(peer)) => assert!(self.up.remove(&peer), "down, and was not up"),
                Some(Output::Send { to, .. } | Output::Dial { peer: to, .. } | Output::Hangup(to)) => {
                    assert_ne!(to, ME, "it talks to itself");
                }
                Some(_) => {}
            }
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let views = Views::new(ME, Config::default(), SmallRng::seed_from_u64(1));
    let mut world = World { views, now: Instant::now(), up: BTreeSet::new(), asked: BTreeSet::new() };
    let mut input = Bytewise(data);
    while !input.0.is_empty() {
        world.step(&mut input);
    }
});
