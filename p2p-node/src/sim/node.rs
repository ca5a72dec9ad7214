//! One virtual node: a whole [`Stack`] with what the driver would keep beside it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use p2p_gossip::Gossip;
use p2p_peers::views::Views;
use p2p_peers::{PeerTable, Reach, reach};
use p2p_wire::{NodeId, PeerAddr, PeerRecord, Scope, SecretKey};
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::SimConfig;
use super::link::mix;
use super::queue::Time;
use crate::claims::Claims;
use crate::config::{DEFAULT_FILE_PORT, DEFAULT_PORT};
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

#[derive(Debug)]
pub(super) struct Node {
    pub(super) key: SecretKey,
    pub(super) id: NodeId,
    pub(super) addr: SocketAddr,
    pub(super) record: PeerRecord,
    /// `None`: it does not run.
    pub(super) stack: Option<Box<Stack<StdRng>>>,
    pub(super) down: Kill,
    /// Counts starts: what belongs to an earlier one is void.
    pub(super) life: u32,
    pub(super) claims: Claims,
    /// Who is at the other end, and the link.
    pub(super) links: Vec<(u32, u32)>,
    /// When its earliest timer event is due; `Time::MAX` for none.
    pub(super) timer_at: Time,
    pub(super) checks_until: Time,
    pub(super) sends_until: Time,
    pub(super) run: u64,
    pub(super) next_seq: u64,
    pub(super) up_since: Time,
    pub(super) down_at: Time,
    pub(super) conduct: Conduct,
    /// Bytes per second that it sends on all its links; 0 is no limit.
    pub(super) rate: u64,
    /// Nodes of different groups do not reach each other.
    pub(super) group: u8,
}

impl Node {
    pub(super) fn new(config: &SimConfig, index: u32, ip: Ipv4Addr) -> Self {
        let mut seed = [0; 32];
        for (i, chunk) in (0_u64..).zip(seed.chunks_exact_mut(8)) {
            chunk.copy_from_slice(&mix(mix(config.seed) ^ mix((u64::from(index) << 3) | i)).to_be_bytes());
        }
        let key = SecretKey::from_bytes(&seed);
        let id = key.id();
        let addr = PeerAddr { ip: IpAddr::V4(ip), port: DEFAULT_PORT, file_port: DEFAULT_FILE_PORT };
        let record = PeerRecord::sign(&key, Scope::Public, 1, &[addr])
            .expect("a record of one address is within every limit");
        Self {
            id,
            addr: addr.node(),
            record,
            stack: None,
            down: Kill::Process,
            life: 0,
            claims: Claims::new(id),
            links: Vec::new(),
            timer_at: Time::MAX,
            checks_until: 0,
            sends_until: 0,
            run: 1,
            next_seq: 1,
            up_since: 0,
            down_at: 0,
            conduct: Conduct::Honest,
            rate: config.node_rate,
            group: 0,
            key,
        }
    }

    /// Starts it with nothing but its key and its numbers.
    pub(super) fn start(&mut self, config: &SimConfig, index: u32, now: Time) {
        self.life += 1;
        if self.life > 1 {
            self.run = self.next_seq.next_multiple_of(RESERVED) + 1;
            self.next_seq = self.run;
        }
        let rng = |salt: u64| {
            let who = (u64::from(index) << 32) | u64::from(self.life);
            StdRng::seed_from_u64(mix(config.seed ^ mix(who ^ (salt << 20))))
        };
        let table = PeerTable::new(self.id, config.peers.clone(), rng(1));
        let mut gossip = Gossip::new(self.id, config.gossip.clone(), rng(2));
        gossip.resume_at(self.run);
        let views = Views::new(self.id, config.views.clone(), rng(3));
        let mut stack = Stack::new(table, views, gossip, config.liveness);
        stack.set_own_records(vec![self.record.clone()]);
        self.stack = Some(Box::new(stack));
        self.claims = Claims::new(self.id);
        self.links.clear();
        (self.timer_at, self.checks_until, self.sends_until) = (Time::MAX, now, now);
        (self.up_since, self.down_at) = (now, Time::MAX);
    }

    pub(super) fn link_to(&self, peer: u32) -> Option<u32> {
        self.links.iter().find(|(other, _)| *other == peer).map(|(_, link)| *link)
    }
}

/// Addresses of the whole internet, none twice: neighbours in number are far apart in address, so that limits per
/// prefix do not bind by chance alone.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    taken: u32,
}

impl Addresses {
    pub(super) fn next(&mut self) -> Ipv4Addr {
        loop {
            self.taken += 1;
            // An odd factor: every number comes once. It is the golden ratio's.
            let ip = Ipv4Addr::from_bits(self.taken.wrapping_mul(0x9e37_79b1));
            if reach(IpAddr::V4(ip)) == Reach::Global {
                return ip;
            }
        }
    }
}
