//! What the user asked for is dialled soon: when the network comes, when nobody else is known, and whatever else is dialled.

mod util;

use p2p_peers::{Config, DialFailure, DialStart, DownCause, Input, Snapshot, Source, Target};
use util::{Bench, addr, at, secs, wall};

/// A table that dials nobody by itself but whom the user asked for.
fn bench() -> Bench {
    Bench::new(Config { target: 0, ..Config::default() })
}

/// `peer` was dialled and linked once.
fn linked(bench: &mut Bench, peer: u16) {
    bench.told(peer.into(), &[addr(peer)], Source::User);
    let now = bench.now;
    assert_eq!(bench.table.dial(now, peer.into(), false), DialStart::Started);
    bench.dialled(peer.into(), addr(peer));
}

/// The time passes, no dial comes to anything, and whoever has no neighbour looks for one every 8 s.
fn offline(bench: &mut Bench, s: u64) {
    let end = bench.now + secs(s);
    while bench.now < end {
        let now = bench.now;
        for peer in bench.table.suggest(now, 8, true) {
            bench.table.dial(now, peer, false);
        }
        for target in bench.dials() {
            bench.failed(target, DialFailure::Unreachable);
        }
        bench.now += secs(8);
        bench.handle(Input::Timeout);
    }
    // Nothing is due at this moment by itself.
    for target in bench.dials() {
        bench.failed(target, DialFailure::Unreachable);
    }
}

/// Everybody that is dialled or may be.
fn sought(bench: &mut Bench) -> Vec<Target<u32>> {
    let now = bench.now;
    let mut all: Vec<_> = bench.table.suggest(now, 100, true).into_iter().map(Target::Peer).collect();
    all.extend(bench.dials());
    all.sort_unstable();
    all
}

#[test]
fn when_the_network_comes_after_a_restart_wishes_anchors_and_the_last_neighbours_are_dialled_at_once() {
    let mut first = bench();
    // Linked two hours before the others, one of them an anchor.
    for (peer, at) in [(1, 0), (2, 0), (3, 7200), (4, 7200)] {
        linked(&mut first, peer);
        first.lost(peer.into(), DownCause::Closed);
        let addr = addr(peer).socket_addr();
        first.handle(Input::Connected { peer: peer.into(), target: None, addr, seen_at: wall(1 + at) });
    }
    first.told(5, &[addr(5)], Source::User);
    first.told(6, &[addr(6)], Source::Peer(1));
    let now = first.now;
    first.table.want(now, 5);
    first.table.set_anchors(&[1]);
    let bytes = first.table.snapshot().encode().unwrap();
    let mut bench = bench();
    let now = bench.now;
    assert_eq!(bench.table.restore(now, Snapshot::decode(&bytes).unwrap().snapshot), 6);
    offline(&mut bench, 40 * 60);
    bench.handle(Input::NetworkChanged);
    let all = sought(&mut bench);
    assert!([1, 3, 4, 5].into_iter().all(|peer| all.contains(&Target::Peer(peer))), "{all:?}");
    assert!(!all.contains(&Target::Peer(2)) && !all.contains(&Target::Peer(6)), "{all:?}");
}

#[test]
fn when_the_network_comes_a_wish_that_was_never_linked_is_dialled_at_once() {
    let mut bench = bench();
    bench.told(1, &[addr(1)], Source::User);
    let now = bench.now;
    bench.table.want(now, 1);
    offline(&mut bench, 3600);
    bench.handle(Input::NetworkChanged);
    assert_eq!(bench.dials(), [Target::Peer(1)]);
}

/// The seed itself is not dialled: the peer that answered there is.
#[test]
fn however_long_the_network_was_away_whom_the_seed_led_to_and_the_last_neighbours_are_dialled_at_once() {
    let mut bench = bench();
    let seed = addr(1).socket_addr();
    bench.handle(Input::Seed(seed));
    let target = Some(Target::Seed(seed));
    bench.handle(Input::Connected { peer: 1, target, addr: seed, seen_at: wall(1) });
    linked(&mut bench, 2);
    bench.lost(2, DownCause::Closed);
    bench.now += secs(7200);
    linked(&mut bench, 3);
    bench.lost(3, DownCause::Failed);
    bench.lost(1, DownCause::Failed);
    offline(&mut bench, 5 * 3600);
    bench.handle(Input::NetworkChanged);
    let all = sought(&mut bench);
    assert!(all.contains(&Target::Peer(1)) && all.contains(&Target::Peer(3)), "{all:?}");
    assert!(!all.contains(&Target::Peer(2)), "{all:?}");
}

/// Seconds between the dials of a seed that refuses, for an hour, with a node that says every 8 s whether it has no neighbour.
fn refused(config: Config, desperate: Option<bool>) -> Vec<u64> {
    let mut bench = Bench::new(config);
    let seed = at("9.9.9.9:4000").socket_addr();
    bench.handle(Input::Seed(seed));
    let (mut last, mut waits) = (bench.now, Vec::new());
    for _ in 0..3600 / 8 {
        if !bench.dials().is_empty() {
            waits.push((bench.now - last).as_secs());
            last = bench.now;
            bench.failed(Target::Seed(seed), DialFailure::Refused);
        }
        bench.now += secs(8);
        bench.handle(Input::Timeout);
        if let Some(desperate) = desperate {
            let now = bench.now;
            assert_eq!(bench.table.suggest(now, 8, desperate), [0; 0]);
        }
    }
    waits
}

#[test]
fn a_node_without_neighbours_that_was_refused_at_the_one_address_it_knows_asks_there_every_minute() {
    let config = || Config { target: 0, ..Config::default() };
    let alone = refused(config(), Some(true));
    assert!(alone[1] <= 8 && alone[2] <= 16 && alone.iter().all(|s| *s <= 64), "{alone:?}");
    assert!(alone.iter().skip(5).all(|s| *s >= 24), "not a flood: {alone:?}");
    let others = refused(config(), Some(false));
    assert!(others.iter().skip(1).all(|s| *s >= 300), "{others:?}");
    // Nobody looks for others, nor says that there are none.
    let wishes_only = refused(Config::no_discover(), None);
    assert!((24..=64).contains(&wishes_only[1]) && wishes_only.len() > 6, "{wishes_only:?}");
}

/// Those that the views dial may answer as slowly as they like, and there are always more.
#[test]
fn what_the_user_asked_for_is_dialled_however_many_others_are() {
    let mut bench = bench();
    for peer in 1..=10 {
        bench.told(peer.into(), &[addr(peer)], Source::Peer(1000));
        let now = bench.now;
        assert_eq!(bench.table.dial(now, peer.into(), false), DialStart::Started);
    }
    assert_eq!(bench.dials().len(), 10);
    let seeds: Vec<_> = (1..=3).map(|n| at(&format!("9.9.9.{n}:4000")).socket_addr()).collect();
    seeds.iter().for_each(|seed| bench.handle(Input::Seed(*seed)));
    let dials = bench.dials();
    assert_eq!(dials, [Target::Seed(seeds[0]), Target::Seed(seeds[1])], "two places are kept");
    bench.failed(dials[0], DialFailure::TimedOut);
    assert_eq!(bench.dials(), [Target::Seed(seeds[2])]);
    bench.told(20, &[addr(20)], Source::User);
    let now = bench.now;
    bench.table.want(now, 20);
    assert_eq!(bench.dials(), []);
    bench.failed(dials[1], DialFailure::TimedOut);
    assert_eq!(bench.dials(), [Target::Peer(20)]);
}

/// `disconnect` ended the wish; this is another.
#[test]
fn an_address_named_again_after_a_disconnect_is_dialled_until_it_answers() {
    let mut bench = bench();
    linked(&mut bench, 1);
    let now = bench.now;
    bench.table.disconnect(now, 1);
    bench.lost(1, DownCause::HungUp);
    bench.drain();
    let seed = addr(1).socket_addr();
    bench.handle(Input::Seed(seed));
    let mut dials = 0;
    for _ in 0..3600 {
        for target in bench.dials() {
            dials += 1;
            bench.failed(target, DialFailure::Unreachable);
        }
        bench.now += secs(1);
        bench.handle(Input::Timeout);
    }
    assert!(dials > 10, "{dials} dials in an hour");
}
