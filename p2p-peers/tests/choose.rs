//! What the views ask of the table: whom they could dial, dials that they want, and what waits after a refusal.

#![expect(clippy::unwrap_used, reason = "the line that panics says what failed")]

mod util;

use p2p_peers::{
    Config, DialFailure, DialStart, Direction, DownCause, Input, Refusal, Scope, Snapshot, Source, State,
    Target,
};
use util::{Bench, addr, at, record, secs};

/// A table that dials nothing by itself.
fn bench() -> Bench {
    Bench::new(Config { target: 0, ..Config::default() })
}

fn known(bench: &mut Bench, peers: std::ops::Range<u16>) {
    for peer in peers {
        bench.told(peer.into(), &[addr(peer)], Source::Peer(u32::from(peer) + 1000));
    }
}

fn dial(bench: &mut Bench, peer: u32, spread: bool) -> DialStart {
    let now = bench.now;
    bench.table.dial(now, peer, spread)
}

fn suggest(bench: &mut Bench, count: usize, desperate: bool) -> Vec<u32> {
    let now = bench.now;
    bench.table.suggest(now, count, desperate)
}

/// The dial that is under way ends in a link.
fn up(bench: &mut Bench, peer: u32) {
    let addr = bench.addrs(peer)[0];
    bench.dialled(peer, addr);
}

fn pass(bench: &mut Bench, s: u64) {
    bench.now += secs(s);
    bench.handle(Input::Timeout);
}

/// The wait before the next dial, in seconds.
fn wait(bench: &Bench, peer: u32) -> u64 {
    match bench.table.peer(peer).unwrap().state {
        State::Backoff { until } => until.duration_since(bench.now).as_secs(),
        state => panic!("{state:?}"),
    }
}

#[test]
fn nothing_is_dialled_that_nobody_asked_for() {
    let mut bench = bench();
    known(&mut bench, 1..10);
    assert_eq!(bench.dials(), []);
    assert_eq!(dial(&mut bench, 3, true), DialStart::Started);
    assert_eq!(bench.dials(), [Target::Peer(3)]);
    assert_eq!(dial(&mut bench, 3, true), DialStart::Started, "it is under way");
    assert_eq!(bench.dials(), []);
    assert_eq!(dial(&mut bench, 99, true), DialStart::No, "nobody knows where that is");
    bench.failed(Target::Peer(3), DialFailure::TimedOut);
    assert_eq!(dial(&mut bench, 3, true), DialStart::No, "not so soon");
    let now = bench.now;
    bench.table.ban(now, 4, None);
    bench.table.disconnect(now, 5);
    bench.table.stop(now);
    assert_eq!(dial(&mut bench, 6, true), DialStart::No, "the node has left");
    bench.table.resume(now);
    assert_eq!(dial(&mut bench, 4, true), DialStart::No, "banned");
    assert_eq!(dial(&mut bench, 5, true), DialStart::No, "held");
    assert_eq!(dial(&mut bench, 6, true), DialStart::Started);
}

#[test]
fn dials_that_should_spread_leave_out_networks_that_are_dialled_into() {
    let mut bench = bench();
    for (peer, place) in [(1, "9.9.1.1:4000"), (2, "9.9.2.2:4000"), (3, "9.8.1.1:4000"), (4, "10.0.0.1:4000")]
    {
        bench.told(peer, &[at(place)], Source::User);
    }
    bench.told(5, &[at("10.0.0.2:4000")], Source::User);
    dial(&mut bench, 1, true);
    up(&mut bench, 1);
    assert_eq!(dial(&mut bench, 2, true), DialStart::Crowded);
    assert_eq!(dial(&mut bench, 2, false), DialStart::Started);
    assert_eq!(dial(&mut bench, 3, true), DialStart::Started);
    dial(&mut bench, 4, true);
    up(&mut bench, 4);
    assert_eq!(dial(&mut bench, 5, true), DialStart::Started, "a private network is one's own");
    bench.lost(1, DownCause::Closed);
    bench.failed(Target::Peer(2), DialFailure::Duplicate);
    pass(&mut bench, 2);
    assert_eq!(dial(&mut bench, 2, true), DialStart::Started, "the link is gone");
}

#[test]
fn two_links_to_one_address_but_on_loopback_and_for_those_asked_for() {
    let mut bench = bench();
    for n in 1..=2 {
        assert_eq!(bench.table.admit(n, Direction::In, at("9.9.9.9:1").ip), Ok(()));
        bench.inbound(n, at(&format!("9.9.9.9:{n}")));
    }
    let full = Err(Refusal::AddressFull { limit: 2 });
    assert_eq!(bench.table.admit(3, Direction::In, at("9.9.9.9:1").ip), full);
    assert_eq!(bench.table.admit(3, Direction::Out, "::ffff:9.9.9.9".parse().unwrap()), full);
    bench.told(3, &[at("9.9.9.9:4000")], Source::User);
    assert_eq!(dial(&mut bench, 3, false), DialStart::No);
    let now = bench.now;
    bench.table.want(now, 3);
    assert_eq!(bench.table.admit(3, Direction::In, at("9.9.9.9:1").ip), Ok(()), "asked for");
    bench.lost(1, DownCause::Closed);
    assert_eq!(bench.table.admit(4, Direction::In, at("9.9.9.9:1").ip), Ok(()));
    for n in 10..20 {
        bench.inbound(n, at(&format!("127.0.0.1:{n}")));
    }
    assert_eq!(bench.table.links(), 11);
}

#[test]
fn who_has_no_room_is_left_alone_for_a_minute_and_longer_each_time() {
    let mut bench = bench();
    known(&mut bench, 1..3);
    for full in [60, 120, 240, 480, 600, 600] {
        dial(&mut bench, 1, false);
        bench.failed(Target::Peer(1), DialFailure::Refused);
        let wait = wait(&bench, 1);
        assert!((full / 2..=full).contains(&wait), "{wait} s instead of {full}");
        pass(&mut bench, full);
    }
    // A link that was taken and soon given up is no other.
    dial(&mut bench, 2, false);
    up(&mut bench, 2);
    bench.lost(2, DownCause::NoRoom);
    assert!((30..=60).contains(&wait(&bench, 2)));
    pass(&mut bench, 60);
    dial(&mut bench, 2, false);
    up(&mut bench, 2);
    pass(&mut bench, 31);
    bench.lost(2, DownCause::NoRoom);
    assert!((30..=60).contains(&wait(&bench, 2)), "a link that held begins anew");
}

#[test]
fn who_is_asked_for_and_full_is_asked_again_after_ten_minutes() {
    let mut bench = bench();
    known(&mut bench, 1..2);
    let now = bench.now;
    bench.table.want(now, 1);
    assert_eq!(bench.dials(), [Target::Peer(1)]);
    bench.failed(Target::Peer(1), DialFailure::Refused);
    assert!((300..=600).contains(&wait(&bench, 1)));
    pass(&mut bench, 600);
    assert_eq!(bench.dials(), [Target::Peer(1)]);
    let seed = at("9.9.9.9:4000").socket_addr();
    bench.handle(Input::Seed(seed));
    assert_eq!(bench.dials(), [Target::Seed(seed)]);
    bench.failed(Target::Seed(seed), DialFailure::Refused);
    pass(&mut bench, 299);
    assert!(!bench.dials().contains(&Target::Seed(seed)));
    pass(&mut bench, 301);
    assert!(bench.dials().contains(&Target::Seed(seed)));
}

#[test]
fn anchors_come_first_then_who_was_linked_lately_then_hearsay_and_the_full_in_need_only() {
    let mut bench = bench();
    known(&mut bench, 1..8);
    for peer in [1, 2, 3] {
        dial(&mut bench, peer, false);
        up(&mut bench, peer);
        pass(&mut bench, 40);
    }
    bench.table.set_anchors(&[1]);
    for peer in [1, 3, 2] {
        bench.lost(peer, DownCause::Closed);
        pass(&mut bench, 2);
    }
    dial(&mut bench, 4, false);
    bench.failed(Target::Peer(4), DialFailure::Refused);
    dial(&mut bench, 5, false);
    bench.failed(Target::Peer(5), DialFailure::TimedOut);
    let order = suggest(&mut bench, 10, false);
    assert_eq!(order[..3], [1, 2, 3]);
    assert_eq!(order.len(), 5, "{order:?}: not who is full, not who does not answer");
    assert_eq!(suggest(&mut bench, 2, false), [1, 2]);
    assert_eq!(dial(&mut bench, 4, false), DialStart::No);
    let order = suggest(&mut bench, 10, true);
    assert_eq!((order.len(), order[5]), (6, 4), "{order:?}");
    assert_eq!(dial(&mut bench, 4, false), DialStart::Started);
    assert_eq!(suggest(&mut bench, 0, true), [0; 0]);
}

/// Those may all be made up.
#[test]
fn of_hearsay_as_much_is_suggested_of_who_told_little_as_of_who_told_a_lot() {
    let mut bench = bench();
    for peer in 1..=60 {
        bench.told(peer.into(), &[addr(peer)], Source::Peer(1000));
    }
    for (peer, by) in (101..=112).zip((1001..=1004).cycle()) {
        bench.told(peer.into(), &[addr(peer)], Source::Peer(by));
    }
    let told_much = |peers: &[u32]| peers.iter().filter(|peer| **peer <= 60).count();
    let first = suggest(&mut bench, 10, false);
    assert_eq!((first.len(), told_much(&first)), (10, 2), "{first:?}");
    assert_ne!(first, suggest(&mut bench, 10, false), "nobody can arrange to be first");
    assert_eq!(suggest(&mut bench, 100, false).len(), 72);
}

#[test]
fn anchors_outlive_a_restart() {
    let mut first = bench();
    known(&mut first, 1..6);
    first.table.set_anchors(&[2, 4]);
    let bytes = first.table.snapshot().encode().unwrap();
    let snapshot = Snapshot::<u32>::decode(&bytes).unwrap().snapshot;
    let mut again = bench();
    let now = again.now;
    again.table.restore(now, snapshot);
    let mut order = suggest(&mut again, 2, false);
    order.sort_unstable();
    assert_eq!(order, [2, 4]);
    again.table.set_anchors(&[]);
    assert!(again.table.snapshot().peers.iter().all(|peer| !peer.anchor));
}

/// Who dialled us may be behind a router that lets nobody in.
#[test]
fn after_a_restart_too_who_dialled_us_gives_way_before_whom_we_reached() {
    let config = || Config { target: 0, max_in: 2, max_out: 2, max_peers: 5, ..Config::default() };
    let mut bench = Bench::new(config());
    known(&mut bench, 1..2);
    assert_eq!(dial(&mut bench, 1, false), DialStart::Started);
    up(&mut bench, 1);
    bench.lost(1, DownCause::Closed);
    for peer in 2..6 {
        pass(&mut bench, 1);
        let (link, seen_at) = (addr(peer).socket_addr(), util::wall(100 + u64::from(peer)));
        bench.handle(Input::Connected { peer: peer.into(), target: None, addr: link, seen_at });
        bench.told(peer.into(), &[addr(peer)], Source::Hello);
        bench.lost(peer.into(), DownCause::Closed);
    }
    let bytes = bench.table.snapshot().encode().unwrap();
    let mut again = Bench::new(config());
    let now = again.now;
    assert_eq!(again.table.restore(now, Snapshot::decode(&bytes).unwrap().snapshot), 5);
    again.inbound(9, addr(9));
    assert!(again.table.peer(1).is_some() && again.table.peer(9).is_some());
    // As a file of before.
    let text = String::from_utf8(bytes).unwrap().replace("\"visitor\":true,", "");
    let saved = Snapshot::<u32>::decode(text.as_bytes()).unwrap();
    assert!(saved.skipped == 0 && saved.snapshot.peers.iter().all(|peer| !peer.visitor));
}

#[test]
fn a_feeler_goes_to_who_was_never_linked() {
    let mut bench = bench();
    known(&mut bench, 1..4);
    for peer in [1, 2] {
        bench.inbound(peer, addr(u16::try_from(peer).unwrap()));
        bench.lost(peer, DownCause::Closed);
    }
    pass(&mut bench, 2);
    let now = bench.now;
    assert_eq!(bench.table.feel(now), Some(3));
    assert_eq!(bench.dials(), [Target::Peer(3)]);
    up(&mut bench, 3);
    assert_eq!(bench.table.feel(now), None);
}

#[test]
fn seeds_are_dialled_anew_when_asked_again() {
    let mut bench = bench();
    let seed = at("9.9.9.9:4000");
    let target = Target::Seed(seed.socket_addr());
    bench.handle(Input::Seed(seed.socket_addr()));
    assert_eq!(bench.dials(), [target]);
    bench.handle(Input::Connected {
        peer: 7,
        target: Some(target),
        addr: seed.socket_addr(),
        seen_at: util::wall(1),
    });
    let now = bench.now;
    bench.table.reseed(now);
    assert_eq!(bench.dials(), [], "it is linked");
    bench.lost(7, DownCause::NoRoom);
    assert_eq!(bench.dials(), [], "whoever lives there has no room");
    bench.table.reseed(now);
    assert_eq!(bench.dials(), [target], "perhaps somebody else does");
}

#[test]
fn records_are_told_as_they_were_signed_and_local_ones_near_only() {
    let mut bench = bench();
    bench.told_record(1, &[addr(1)], record(Scope::Public, 1, "public"), Source::Hello);
    bench.told_record(1, &[at("10.0.0.1:4000")], record(Scope::Local, 1, "local"), Source::Hello);
    let told = |private| bench.table.records(1, private).map(|bytes| bytes.to_vec()).collect::<Vec<_>>();
    assert_eq!(told(false), [b"public"]);
    assert_eq!(told(true), [&b"public"[..], b"local"]);
    assert_eq!(bench.table.records(2, true).count(), 0);
}
