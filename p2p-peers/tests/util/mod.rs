//! A table with a clock, for tests.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "test code, and each test file uses its part"
)]

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use p2p_peers::{
    Config, DialFailure, DownCause, HangupCause, Input, Output, PeerAddr, PeerTable, Record, Scope, Source,
    State, Target,
};
use rand::{SeedableRng, rngs::StdRng};

pub const ME: u32 = 0;

pub fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

pub fn wall(s: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + secs(s)
}

/// A global address per number, each in a /16 of its own.
pub fn addr(n: u16) -> PeerAddr {
    let [hi, lo] = n.to_be_bytes();
    PeerAddr { ip: [20 + hi, lo, 1, 1].into(), port: 65432, file_port: 65433 }
}

pub fn at(text: &str) -> PeerAddr {
    let addr: SocketAddr = text.parse().unwrap();
    PeerAddr { ip: addr.ip(), port: addr.port(), file_port: 0 }
}

pub fn record(scope: Scope, seq: u64, text: &'static str) -> Option<Record> {
    Some(Record { scope, seq, bytes: Bytes::from_static(text.as_bytes()) })
}

pub struct Bench {
    pub table: PeerTable<u32, StdRng>,
    pub now: Instant,
}

impl Bench {
    pub fn new(config: Config) -> Self {
        config.validate().unwrap();
        #[expect(clippy::disallowed_methods, reason = "there is no other way to make an instant")]
        let now = Instant::now();
        Self { table: PeerTable::new(ME, config, StdRng::seed_from_u64(1)), now }
    }

    pub fn handle(&mut self, input: Input<u32>) {
        self.table.handle(self.now, input);
    }

    /// All outputs but `Save`.
    pub fn drain(&mut self) -> Vec<Output<u32>> {
        std::iter::from_fn(|| self.table.poll_output()).filter(|output| *output != Output::Save).collect()
    }

    pub fn dials(&mut self) -> Vec<Target<u32>> {
        let target = |output| match output {
            Output::Dial { target, .. } => Some(target),
            _ => None,
        };
        self.drain().into_iter().filter_map(target).collect()
    }

    pub fn hangups(&mut self) -> Vec<(u32, HangupCause)> {
        let hangup = |output| match output {
            Output::Hangup { peer, cause } => Some((peer, cause)),
            _ => None,
        };
        self.drain().into_iter().filter_map(hangup).collect()
    }

    pub fn told(&mut self, peer: u32, addrs: &[PeerAddr], source: Source<u32>) {
        let addrs = addrs.to_vec();
        self.handle(Input::Learned { peer, addrs, record: None, source, private_link: false });
    }

    pub fn told_record(
        &mut self,
        peer: u32,
        addrs: &[PeerAddr],
        record: Option<Record>,
        source: Source<u32>,
    ) {
        let addrs = addrs.to_vec();
        self.handle(Input::Learned { peer, addrs, record, source, private_link: true });
    }

    pub fn dialled(&mut self, peer: u32, addr: PeerAddr) {
        let (target, addr) = (Some(Target::Peer(peer)), addr.socket_addr());
        self.handle(Input::Connected { peer, target, addr, seen_at: wall(1) });
    }

    pub fn inbound(&mut self, peer: u32, addr: PeerAddr) {
        self.handle(Input::Connected { peer, target: None, addr: addr.socket_addr(), seen_at: wall(1) });
    }

    pub fn failed(&mut self, target: Target<u32>, cause: DialFailure) {
        self.handle(Input::DialFailed { target, cause });
    }

    pub fn lost(&mut self, peer: u32, cause: DownCause) {
        self.handle(Input::Disconnected { peer, cause });
    }

    /// Lets time pass, firing timers when they are due, up to the first output but `Save` or until `limit` from now.
    pub fn wait(&mut self, limit: Duration) -> Vec<Output<u32>> {
        let end = self.now + limit;
        loop {
            let outputs = self.drain();
            if !outputs.is_empty() {
                return outputs;
            }
            match self.table.poll_timeout().filter(|at| *at <= end) {
                Some(at) => {
                    self.now = self.now.max(at);
                    self.handle(Input::Timeout);
                }
                None => {
                    self.now = end;
                    return outputs;
                }
            }
        }
    }

    pub fn state(&self, peer: u32) -> Option<State> {
        self.table.peer(peer).map(|view| view.state)
    }

    pub fn addrs(&self, peer: u32) -> Vec<PeerAddr> {
        self.table.peer(peer).map(|view| view.addrs).unwrap_or_default()
    }

    pub fn is_connected(&self, peer: u32) -> bool {
        matches!(self.state(peer), Some(State::Connected { .. }))
    }
}
