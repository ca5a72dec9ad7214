//! Laws: whatever comes in, in whatever order.

mod util;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use bytes::Bytes;
use p2p_peers::{
    Config, DialFailure, Direction, DownCause, Input, Output, PeerAddr, Record, SavedAddr, SavedPeer, Scope,
    Snapshot, Source, State, Target, reach,
};
use proptest::prelude::*;
use util::{Bench, ME, secs, wall};

const DIAL_PARALLEL: usize = 3;
const MAX_PEERS: usize = 12;
const MAX_SEEDS: usize = 4;
const MAX_ADDRS: usize = 3;

/// Small limits, so that every one of them is met.
fn tight(discover: bool) -> Config {
    Config {
        discover,
        target: 4,
        max_out: 3,
        max_in: 4,
        links_per_prefix: 2,
        dial_parallel: DIAL_PARALLEL,
        max_peers: MAX_PEERS,
        max_addrs: MAX_ADDRS,
        max_per_source: 4,
        max_per_group: 3,
        max_seeds: MAX_SEEDS,
        ..Config::default()
    }
}

#[derive(Debug, Clone)]
enum Step {
    Input(Input<u32>),
    /// Answer the `n`th open dial.
    Answer(usize, Result<Option<u32>, DialFailure>),
    Want(u32),
    Disconnect(u32),
    Ban(u32, Option<u64>),
    Unban(u32),
    Stop,
    Resume,
    Restore(Vec<SavedPeer<u32>>),
    Wait(u64),
}

fn peers() -> impl Strategy<Value = u32> {
    0..20_u32
}

fn socket_addrs() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![
        (0..4_u8, 0..4_u8, 1023..1026_u16).prop_map(|(c, d, port)| SocketAddr::from(([9, 9, c, d], port))),
        (0..6_u8, 65432..65434_u16).prop_map(|(d, port)| SocketAddr::from(([10, 0, 0, d], port))),
        (any::<[u8; 16]>(), any::<u16>()).prop_map(SocketAddr::from),
    ]
}

fn peer_addrs() -> impl Strategy<Value = PeerAddr> {
    let addr =
        |(addr, file_port): (SocketAddr, u16)| PeerAddr { ip: addr.ip(), port: addr.port(), file_port };
    (socket_addrs(), any::<u16>()).prop_map(addr)
}

fn records() -> impl Strategy<Value = Record> {
    let scope = prop_oneof![Just(Scope::Public), Just(Scope::Local)];
    let bytes = prop::collection::vec(any::<u8>(), 0..20).prop_map(Bytes::from);
    (scope, 0..4_u64, bytes).prop_map(|(scope, seq, bytes)| Record { scope, seq, bytes })
}

fn sources() -> impl Strategy<Value = Source<u32>> {
    prop_oneof![Just(Source::User), Just(Source::Hello), peers().prop_map(Source::Peer), Just(Source::Store)]
}

fn dial_failures() -> impl Strategy<Value = DialFailure> {
    use DialFailure::{Duplicate, Itself, Protocol, Refused, TimedOut, Unreachable, WrongIdentity};
    prop::sample::select(vec![Duplicate, Itself, Protocol, Refused, TimedOut, Unreachable, WrongIdentity])
}

fn down_causes() -> impl Strategy<Value = DownCause> {
    use DownCause::{Closed, Failed, HungUp, Misbehaved, Protocol, Silent};
    prop::sample::select(vec![Closed, Failed, HungUp, Misbehaved, Protocol, Silent])
}

fn targets() -> impl Strategy<Value = Target<u32>> {
    prop_oneof![peers().prop_map(Target::Peer), socket_addrs().prop_map(Target::Seed)]
}

fn inputs() -> impl Strategy<Value = Input<u32>> {
    let addrs = prop::collection::vec(peer_addrs(), 0..6);
    let learned = (peers(), addrs, prop::option::of(records()), sources(), any::<bool>());
    let connected = (peers(), prop::option::of(targets()), socket_addrs(), 0..9_u64);
    prop_oneof![
        4 => learned.prop_map(|(peer, addrs, record, source, private_link)| Input::Learned {
            peer, addrs, record, source, private_link
        }),
        1 => socket_addrs().prop_map(Input::Seed),
        2 => connected.prop_map(|(peer, target, addr, s)| Input::Connected { peer, target, addr, seen_at: wall(s) }),
        1 => (targets(), dial_failures()).prop_map(|(target, cause)| Input::DialFailed { target, cause }),
        3 => (peers(), down_causes()).prop_map(|(peer, cause)| Input::Disconnected { peer, cause }),
        1 => prop_oneof![Just(Input::NetworkChanged), Just(Input::Timeout)],
    ]
}

fn saved_peers() -> impl Strategy<Value = SavedPeer<u32>> {
    let scope = prop::option::of(prop_oneof![Just(Scope::Public), Just(Scope::Local)]);
    let addr = (peer_addrs(), scope)
        .prop_map(|(addr, scope)| SavedAddr { addr: PeerAddr { ip: addr.ip.to_canonical(), ..addr }, scope });
    let parts = (
        peers(),
        prop::collection::vec(addr, 0..5),
        prop::option::of((0..4_000_000_000_u64).prop_map(wall)),
        any::<[bool; 4]>(),
        prop::collection::vec(records(), 0..3),
    );
    parts.prop_map(|(id, addrs, last_connected, [wanted, anchor, visitor, banned], records)| SavedPeer {
        id,
        addrs,
        last_connected,
        wanted,
        anchor,
        visitor,
        banned,
        records,
    })
}

fn steps() -> impl Strategy<Value = Step> {
    let answer = prop_oneof![prop::option::of(peers()).prop_map(Ok), dial_failures().prop_map(Err)];
    prop_oneof![
        10 => inputs().prop_map(Step::Input),
        6 => (0..DIAL_PARALLEL, answer).prop_map(|(n, answer)| Step::Answer(n, answer)),
        2 => peers().prop_map(Step::Want),
        1 => peers().prop_map(Step::Disconnect),
        1 => (peers(), prop::option::of(1..1000_u64)).prop_map(|(peer, s)| Step::Ban(peer, s)),
        1 => peers().prop_map(Step::Unban),
        1 => prop_oneof![Just(Step::Stop), Just(Step::Resume)],
        1 => prop::collection::vec(saved_peers(), 0..15).prop_map(Step::Restore),
        4 => (0..700_u64).prop_map(Step::Wait),
    ]
}

/// A table and, beside it, the dials that a node would have under way.
struct World {
    bench: Bench,
    dials: Vec<(Target<u32>, Vec<SocketAddr>)>,
}

impl World {
    fn new(discover: bool) -> Self {
        Self { bench: Bench::new(tight(discover)), dials: Vec::new() }
    }

    fn take(&mut self, step: Step) {
        let now = self.bench.now;
        let table = &mut self.bench.table;
        match step {
            Step::Input(input) => {
                if let Input::DialFailed { target, .. } | Input::Connected { target: Some(target), .. } =
                    &input
                {
                    self.dials.retain(|(open, _)| open != target);
                }
                table.handle(now, input);
            }
            Step::Answer(n, answer) => self.answer(n, answer),
            Step::Want(peer) => table.want(now, peer),
            Step::Disconnect(peer) => drop(table.disconnect(now, peer)),
            Step::Ban(peer, s) => table.ban(now, peer, s.map(|s| now + secs(s))),
            Step::Unban(peer) => drop(table.unban(peer)),
            Step::Stop => table.stop(now),
            Step::Resume => table.resume(now),
            Step::Restore(peers) => drop(table.restore(now, Snapshot { peers, seeds: Vec::new() })),
            Step::Wait(s) => {
                self.bench.now += secs(s);
                self.bench.handle(Input::Timeout);
                // Dials whose end nobody reported for so long are forgotten on both sides.
                if s >= 90 {
                    self.dials.clear();
                }
            }
        }
        self.settle();
    }

    fn answer(&mut self, n: usize, answer: Result<Option<u32>, DialFailure>) {
        if n >= self.dials.len() {
            return;
        }
        let (target, addrs) = self.dials.remove(n);
        let input = match (answer, target) {
            (Err(cause), _) => Input::DialFailed { target, cause },
            (Ok(None), Target::Peer(peer)) | (Ok(Some(peer)), _) => {
                Input::Connected { peer, target: Some(target), addr: addrs[0], seen_at: wall(1) }
            }
            (Ok(None), Target::Seed(_)) => Input::DialFailed { target, cause: DialFailure::TimedOut },
        };
        self.bench.handle(input);
    }

    /// Does what the table says, and checks what may be checked at any time.
    fn settle(&mut self) {
        while let Some(output) = self.bench.table.poll_output() {
            match output {
                Output::Dial { target, addrs } => {
                    assert!(!addrs.is_empty() && addrs.len() <= MAX_ADDRS, "{addrs:?}");
                    assert!(addrs.iter().all(|addr| p2p_peers::is_dialable(*addr)), "{addrs:?}");
                    self.dials.retain(|(open, _)| *open != target);
                    self.dials.push((target, addrs));
                }
                Output::Hangup { peer, .. } => {
                    self.bench.handle(Input::Disconnected { peer, cause: DownCause::HungUp });
                }
                _ => {}
            }
        }
        self.check();
    }

    fn check(&mut self) {
        let config = self.bench.table.config().clone();
        let table = &mut self.bench.table;
        assert!(table.len() <= MAX_PEERS);
        assert!(table.snapshot().seeds.len() <= MAX_SEEDS);
        assert_eq!(table.links(), table.connected().count());
        assert!(table.links() <= config.max_in + config.max_out);
        assert!(table.peer(ME).is_none());
        let dialled: BTreeSet<u32> = self
            .dials
            .iter()
            .filter_map(|(target, _)| match target {
                Target::Peer(peer) => Some(*peer),
                Target::Seed(_) => None,
            })
            .collect();
        for view in table.peers() {
            assert!(view.addrs.len() <= MAX_ADDRS);
            match view.state {
                State::Dialing => {
                    assert!(dialled.contains(&view.id), "{view:?} waits for a dial that is not")
                }
                State::Backoff { until } => {
                    assert!(table.poll_timeout().is_some_and(|at| at <= until), "{view:?}")
                }
                State::Known | State::Connected { .. } => {}
            }
        }
        let told = table.exchange(1, false).len() + table.exchange(2, true).len();
        assert!(told <= 4 * MAX_PEERS);
    }

    /// Every open dial fails until the table has nothing more to say for a while; returns who was dialled.
    fn fail_everything(&mut self, cause: DialFailure, limit: u64) -> BTreeSet<Target<u32>> {
        let mut seen = BTreeSet::new();
        let end = self.bench.now + secs(limit);
        loop {
            self.settle();
            while let Some((target, _)) = self.dials.pop() {
                seen.insert(target);
                self.bench.failed(target, cause);
                self.settle();
            }
            match self.bench.table.poll_timeout().filter(|at| *at <= end) {
                Some(at) => {
                    self.bench.now = self.bench.now.max(at);
                    self.bench.handle(Input::Timeout);
                }
                None => return seen,
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happened before: bounds hold after every step, every dial ends, and who is wanted or discovered and
    /// has an address is dialled again before the longest backoff is over.
    #[test]
    fn no_history_leaves_an_entry_stuck(discover: bool, history in prop::collection::vec(steps(), 0..60)) {
        let mut world = World::new(discover);
        for step in history {
            world.take(step);
        }
        world.take(Step::Resume);
        // All links go, so that there is room; all dials end.
        let linked: Vec<u32> = world.bench.table.connected().collect();
        for peer in linked {
            world.bench.lost(peer, DownCause::Closed);
            world.settle();
        }
        world.fail_everything(DialFailure::Refused, 0);
        for view in world.bench.table.peers() {
            prop_assert!(matches!(view.state, State::Known | State::Backoff { .. }), "{view:?}");
        }
        let due = |view: &p2p_peers::PeerView<u32>| !view.banned && !view.addrs.is_empty() && view.wanted;
        let expected: Vec<u32> = world.bench.table.peers().filter(due).map(|view| view.id).collect();
        let seen = world.fail_everything(DialFailure::Refused, 1300);
        for peer in expected {
            prop_assert!(seen.contains(&Target::Peer(peer)), "{peer} was not dialled again");
        }
        prop_assert!(world.dials.is_empty());
    }

    /// The same inputs and seed give the same outputs.
    #[test]
    fn runs_repeat(history in prop::collection::vec(steps(), 0..40)) {
        let mut worlds = [World::new(true), World::new(true)];
        worlds[1].bench.now = worlds[0].bench.now;
        for step in history {
            for world in &mut worlds {
                world.take(step.clone());
            }
            prop_assert_eq!(&worlds[0].dials, &worlds[1].dials);
        }
        prop_assert_eq!(worlds[0].bench.table.snapshot(), worlds[1].bench.table.snapshot());
    }

    /// Discovered peers are dialled again too, as long as they are kept.
    #[test]
    fn discovered_peers_are_dialled_again(failures in 0..30_u32, cause in dial_failures()) {
        let mut world = World::new(true);
        let addr = PeerAddr { ip: [9, 9, 9, 9].into(), port: 65432, file_port: 0 };
        world.bench.told(5, &[addr], Source::Peer(1));
        world.settle();
        for _ in 0..failures {
            for (target, _) in std::mem::take(&mut world.dials) {
                world.bench.failed(target, cause);
            }
            world.settle();
            if let Some(at) = world.bench.table.poll_timeout() {
                world.bench.now = at;
                world.bench.handle(Input::Timeout);
                world.settle();
            }
        }
        let kept = world.bench.table.peer(5).is_some();
        prop_assert_eq!(kept, world.fail_everything(cause, 1300).contains(&Target::Peer(5)));
    }

    #[test]
    fn any_address_can_be_judged(ip: [u8; 16], v4: [u8; 4]) {
        let mapped = std::net::Ipv4Addr::from(v4).to_ipv6_mapped();
        prop_assert_eq!(reach(v4.into()), reach(mapped.into()));
        let _ = reach(ip.into());
    }

    #[test]
    fn snapshots_come_back_as_they_were(
        peers in prop::collection::vec(saved_peers(), 0..8),
        seeds in prop::collection::vec(socket_addrs(), 0..8),
    ) {
        let seeds = seeds.into_iter().map(|addr| SocketAddr::new(addr.ip().to_canonical(), addr.port())).collect();
        let snapshot = Snapshot { peers, seeds };
        let loaded = Snapshot::<u32>::decode(&snapshot.encode().unwrap()).unwrap();
        prop_assert_eq!(loaded.skipped, 0);
        prop_assert_eq!(loaded.snapshot, snapshot);
    }

    #[test]
    fn no_bytes_panic_the_decoder(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Snapshot::<u32>::decode(&bytes);
    }

    /// Bytes that are nearly right reach deeper.
    #[test]
    fn no_damage_panics_the_decoder(
        peers in prop::collection::vec(saved_peers(), 1..4),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut: prop::sample::Index,
    ) {
        let mut bytes = Snapshot { peers, seeds: Vec::new() }.encode().unwrap();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = Snapshot::<u32>::decode(&bytes);
        bytes.truncate(cut.index(bytes.len() - 1));
        prop_assert!(Snapshot::<u32>::decode(&bytes).is_err());
    }

    #[test]
    fn admission_never_lets_more_in_than_there_is_room(peers in prop::collection::vec((1..60_u32, any::<bool>(), socket_addrs()), 0..80)) {
        let mut bench = Bench::new(tight(false));
        for (peer, out, addr) in peers {
            let direction = if out { Direction::Out } else { Direction::In };
            // Which of two links to one peer stays is the caller's rule, and may turn the direction.
            if !bench.is_connected(peer) && bench.table.admit(peer, direction, addr.ip()).is_ok() {
                let target = out.then_some(Target::Peer(peer));
                bench.handle(Input::Connected { peer, target, addr, seen_at: wall(1) });
                prop_assert!(bench.hangups().is_empty(), "who was admitted stays");
            }
        }
        let ins = |view: &p2p_peers::PeerView<u32>| matches!(view.state, State::Connected { direction: Direction::In, .. });
        let inbound = bench.table.peers().filter(ins).count();
        prop_assert!(inbound <= 4 && bench.table.links() - inbound <= 3);
    }
}
