//! One virtual node: a whole [`Stack`] with what the driver would keep beside it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use p2p_gossip::Gossip;
use p2p_peers::views::Views;
use p2p_peers::{PeerTable, Reach, reach};
use p2p_wire::{PeerAddr, PeerRecord, Scope, SecretKey};
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::SimConfig;
use super::dial::Dial;
use super::link::{Half, mix, nanos};
use super::meter::Got;
use super::queue::{Entry, LinkId, Time};
use super::world::Face;
use crate::claims::Claims;
use crate::config::{DEFAULT_FILE_PORT, DEFAULT_PORT};
use crate::link::FLUSH;
use crate::stack::Stack;

/// Numbers between two runs of one node: what it had reserved on disk when it was killed.
const RESERVED: u64 = 10_000;

/// How a node ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kill {
    /// The program: its system closes its links, and answers dials with a refusal.
    Process,
    /// The machine, or its cable: nothing comes from it any more.
    Machine,
}

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Conduct {
    /// It does what it should.
    #[default]
    Honest,
    /// It behaves, but passes no message on and announces none: a covert flash.
    Withholding,
    /// It behaves, and [`Sim::inject`](super::Sim::inject) makes it ask for more than its share: what it is sent is
    /// counted.
    Greedy,
    /// It tells of nobody but others like it and passes no message on. Such nodes come last.
    Eclipsing,
}

/// What one node has for itself.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) number: u32,
    pub(super) key: SecretKey,
    /// `None`: it does not run.
    pub(super) stack: Option<Box<Stack<StdRng>>>,
    /// When it last did something.
    pub(super) now: Time,
    /// Its stack's deadline; `Time::MAX` for none.
    pub(super) deadline: Time,
    /// When its earliest [`Wake`](super::queue::Event::Wake) is due; `Time::MAX` for none.
    pub(super) wake_at: Time,
    /// Counts starts: what belongs to an earlier one is void.
    pub(super) life: u32,
    pub(super) claims: Claims,
    pub(super) dials: Vec<Dial>,
    pub(super) last_dial: u32,
    pub(super) links: Vec<Half>,
    /// Links that it hung up in this life, and until when it reads on.
    hung_up: Vec<(LinkId, Time)>,
    /// Events that it caused.
    pub(super) caused: u32,
    /// Moves on with each random number that is drawn here.
    luck: u64,
    pub(super) checks_until: Time,
    pub(super) sends_until: Time,
    pub(super) run: u64,
    pub(super) next_seq: u64,
    /// Bytes per second that it sends on all its links; 0 is no limit.
    pub(super) rate: u64,
    /// What arrived over a cut, to be delivered once it is healed.
    pub(super) held: Vec<Entry>,
    /// By message.
    pub(super) got: Vec<Got>,
    /// Of links that are gone: when they were made, and bytes of digests and ranges that this end wrote.
    pub(super) summaries: Vec<(LinkId, Time, u64)>,
    /// Of a greedy node, by message and sender: copies that it got.
    pub(super) answers: BTreeMap<(u32, u32), u32>,
}

impl Node {
    /// A node that has not started, and how others find it.
    pub(super) fn new(config: &SimConfig, number: u32, (ip, port): (IpAddr, u16)) -> (Self, Face) {
        let mut seed = [0; 32];
        for (i, chunk) in (0_u64..).zip(seed.chunks_exact_mut(8)) {
            chunk.copy_from_slice(&mix(mix(config.seed) ^ mix((u64::from(number) << 3) | i)).to_be_bytes());
        }
        let key = SecretKey::from_bytes(&seed);
        let id = key.id();
        let addr = PeerAddr { ip, port, file_port: DEFAULT_FILE_PORT };
        let record = PeerRecord::sign(&key, Scope::Public, 1, &[addr])
            .expect("a record of one address is within every limit");
        let face = Face {
            id,
            addr: addr.node(),
            record,
            runs: false,
            down: Kill::Process,
            conduct: Conduct::Honest,
            group: 0,
            up_since: 0,
            down_at: 0,
        };
        let node = Self {
            number,
            stack: None,
            now: 0,
            deadline: Time::MAX,
            wake_at: Time::MAX,
            life: 0,
            claims: Claims::new(id),
            dials: Vec::new(),
            last_dial: 0,
            links: Vec::new(),
            hung_up: Vec::new(),
            caused: 0,
            luck: mix(config.seed ^ mix(u64::from(number) ^ (4 << 20))),
            checks_until: 0,
            sends_until: 0,
            run: 1,
            next_seq: 1,
            rate: config.node_rate,
            held: Vec::new(),
            got: Vec::new(),
            summaries: Vec::new(),
            answers: BTreeMap::new(),
            key,
        };
        (node, face)
    }

    /// Starts it with nothing but its key and its numbers.
    pub(super) fn start(&mut self, config: &SimConfig, face: &Face, now: Time) {
        self.life += 1;
        if self.life > 1 {
            self.run = self.next_seq.next_multiple_of(RESERVED) + 1;
            self.next_seq = self.run;
        }
        let rng = |salt: u64| {
            let who = (u64::from(self.number) << 32) | u64::from(self.life);
            StdRng::seed_from_u64(mix(config.seed ^ mix(who ^ (salt << 20))))
        };
        let table = PeerTable::new(face.id, config.peers.clone(), rng(1));
        let mut gossip = Gossip::new(face.id, config.gossip.clone(), rng(2));
        gossip.resume_at(self.run);
        let views = Views::new(face.id, config.views.clone(), rng(3));
        let mut stack = Stack::new(table, views, gossip, config.liveness);
        stack.set_own_records(vec![face.record.clone()]);
        self.stack = Some(Box::new(stack));
        self.claims = Claims::new(face.id);
        (self.now, self.checks_until, self.sends_until) = (now, now, now);
        self.deadline = Time::MAX;
    }

    /// Ends it, and says what links it had.
    pub(super) fn stop(&mut self) -> Vec<Half> {
        self.stack = None;
        self.deadline = Time::MAX;
        self.dials.clear();
        self.hung_up.clear();
        let links = std::mem::take(&mut self.links);
        links.iter().for_each(|half| self.note(half));
        links
    }

    /// Takes a link away.
    pub(super) fn unlink(&mut self, link: LinkId) -> Option<Half> {
        let at = self.links.iter().position(|half| half.link == link)?;
        let half = self.links.remove(at);
        self.note(&half);
        Some(half)
    }

    /// It closes a link of its own accord, and as the program reads on for [`FLUSH`]: a reset would overtake the last frames.
    pub(super) fn hangs_up(&mut self, link: LinkId, now: Time) {
        self.hung_up.retain(|(_, until)| now < *until);
        self.hung_up.push((link, now + nanos(FLUSH)));
    }

    /// Whether it still reads what comes on a link that it hung up.
    pub(super) fn drains(&self, link: LinkId, now: Time) -> bool {
        self.hung_up.iter().any(|(of, until)| *of == link && now < *until)
    }

    fn note(&mut self, half: &Half) {
        if half.summaries > 0 {
            self.summaries.push((half.link, half.made_at, half.summaries));
        }
    }

    pub(super) fn link_to(&self, peer: u32) -> Option<&Half> {
        self.links.iter().find(|half| half.peer == peer)
    }

    pub(super) fn link(&self, link: LinkId) -> Option<&Half> {
        self.links.iter().find(|half| half.link == link)
    }

    /// A random number of this node's own.
    pub(super) fn random(&mut self) -> u64 {
        self.luck = self.luck.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.luck)
    }

    pub(super) fn got(&mut self, message: u32) -> &mut Got {
        let at = message as usize;
        if self.got.len() <= at {
            self.got.resize(at + 1, Got::default());
        }
        &mut self.got[at]
    }
}

/// Addresses of the whole internet, none twice: neighbours in number are far apart in address, so that limits per
/// prefix do not bind by chance alone.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    taken: u32,
}

impl Addresses {
    pub(super) fn next(&mut self) -> (IpAddr, u16) {
        loop {
            self.taken += 1;
            // An odd factor: every number comes once. It is the golden ratio's.
            let ip = IpAddr::V4(Ipv4Addr::from_bits(self.taken.wrapping_mul(0x9e37_79b1)));
            if reach(ip) == Reach::Global {
                return (ip, DEFAULT_PORT);
            }
        }
    }
}
