//! What the table does, one behaviour per test.

mod util;

use p2p_peers::{
    Config, DialFailure, Direction, DownCause, HangupCause, Input, Output, PeerAddr, Refusal, Scope, Source,
    State, Target,
};
use util::{Bench, ME, addr, at, record, secs, wall};

fn bench() -> Bench {
    Bench::new(Config::default())
}

/// A peer that was linked for a minute and was lost just now.
fn lost_friend(bench: &mut Bench, peer: u32, addr: PeerAddr) {
    bench.told(peer, &[addr], Source::User);
    bench.dialled(peer, addr);
    bench.now += secs(60);
    bench.lost(peer, DownCause::Closed);
    bench.drain();
}

#[test]
fn a_learned_peer_is_dialled_once_at_a_time() {
    let mut bench = bench();
    for _ in 0..3 {
        bench.told(5, &[addr(5)], Source::Peer(1));
    }
    assert_eq!(bench.dials(), [Target::Peer(5)]);
    bench.failed(Target::Peer(5), DialFailure::Unreachable);
    assert!(matches!(bench.state(5), Some(State::Backoff { .. })));
    bench.told(5, &[addr(5)], Source::Peer(1));
    assert_eq!(bench.dials(), [], "told again is no reason to hurry");
    assert_eq!(bench.wait(secs(1)).len(), 1);
}

#[test]
fn without_discovery_only_wishes_and_seeds_are_dialled() {
    let mut bench = Bench::new(Config::no_discover());
    bench.told(5, &[addr(5)], Source::Peer(1));
    bench.told(6, &[addr(6)], Source::Peer(1));
    assert_eq!(bench.dials(), []);
    bench.table.want(bench.now, 6);
    bench.handle(Input::Seed(addr(7).socket_addr()));
    assert_eq!(bench.dials(), [Target::Peer(6), Target::Seed(addr(7).socket_addr())]);
}

#[test]
fn a_wish_waits_for_an_address() {
    let mut bench = Bench::new(Config::no_discover());
    bench.table.want(bench.now, 6);
    assert_eq!(bench.dials(), []);
    bench.told(6, &[addr(6)], Source::Peer(1));
    assert_eq!(bench.dials(), [Target::Peer(6)]);
}

#[test]
fn small_networks_become_a_full_mesh_and_large_ones_stop_at_the_target() {
    let mut bench = bench();
    for n in 1..=40 {
        bench.told(u32::from(n), &[addr(n)], Source::User);
    }
    let mut linked = 0;
    loop {
        let dials = bench.dials();
        if dials.is_empty() {
            break;
        }
        assert!(dials.len() <= 8, "at most 8 dials at once");
        for target in dials {
            let Target::Peer(peer) = target else { panic!("no seeds here") };
            let n = u16::try_from(peer).unwrap();
            bench.dialled(peer, addr(n));
            linked += 1;
        }
    }
    assert_eq!(linked, 16);
    let first = bench.table.connected().next().unwrap();
    bench.lost(first, DownCause::Closed);
    assert_eq!(bench.dials().len(), 1, "a lost link is replaced at once");
}

#[test]
fn a_lost_friend_is_redialled_every_fifteen_seconds_for_ten_minutes_then_less() {
    let mut bench = bench();
    lost_friend(&mut bench, 5, addr(5));
    let lost_at = bench.now;
    while bench.now < lost_at + secs(600) {
        let before = bench.now;
        let outputs = bench.wait(secs(15));
        assert_eq!(outputs.len(), 1, "{:?} after the loss", before - lost_at);
        bench.failed(Target::Peer(5), DialFailure::TimedOut);
    }
    for _ in 0..3 {
        bench.wait(secs(600));
        bench.failed(Target::Peer(5), DialFailure::TimedOut);
    }
    assert_eq!(bench.wait(secs(299)), [], "backed off to minutes");
    assert_eq!(bench.wait(secs(301)).len(), 1);
}

#[test]
fn a_network_change_redials_lost_friends_at_once() {
    let mut bench = bench();
    lost_friend(&mut bench, 5, addr(5));
    bench.told(6, &[addr(6)], Source::Peer(1));
    bench.drain();
    bench.failed(Target::Peer(6), DialFailure::Unreachable);
    for _ in 0..4 {
        bench.wait(secs(15));
        bench.failed(Target::Peer(5), DialFailure::Unreachable);
        bench.failed(Target::Peer(6), DialFailure::Unreachable);
    }
    bench.drain();
    bench.handle(Input::NetworkChanged);
    assert_eq!(bench.dials(), [Target::Peer(5)]);
}

#[test]
fn a_peer_that_closes_every_link_at_once_is_backed_off() {
    let mut bench = bench();
    bench.told(5, &[addr(5)], Source::User);
    bench.drain();
    let start = bench.now;
    let mut links = 0;
    while bench.now < start + secs(3600) {
        bench.dialled(5, addr(5));
        bench.lost(5, DownCause::Closed);
        links += 1;
        bench.wait(secs(600));
    }
    assert!(links < 120, "{links} links in an hour");
}

#[test]
fn a_peer_found_again_at_another_port_loses_the_old_address() {
    let mut bench = bench();
    bench.inbound(5, at("9.9.9.9:50001"));
    bench.told_record(5, &[at("9.9.9.9:1111")], record(Scope::Public, 1, "old"), Source::Hello);
    bench.told_record(5, &[at("10.0.0.5:1111")], record(Scope::Local, 1, "near"), Source::Hello);
    bench.lost(5, DownCause::Closed);
    bench.inbound(5, at("9.9.9.9:50002"));
    bench.told_record(5, &[at("9.9.9.9:2222")], record(Scope::Public, 2, "new"), Source::Hello);
    assert_eq!(bench.addrs(5), [at("10.0.0.5:1111"), at("9.9.9.9:2222")]);
    bench.told_record(5, &[at("9.9.9.9:1111")], record(Scope::Public, 1, "old"), Source::Peer(7));
    assert_eq!(bench.addrs(5).len(), 2, "an old record is no news");
    assert_eq!(bench.table.counters().stale_records, 1);
    assert_eq!(bench.table.exchange(7, false), ["new"]);
}

#[test]
fn a_newer_record_ends_the_backoff() {
    let mut bench = bench();
    bench.told_record(5, &[addr(5)], record(Scope::Public, 1, "old"), Source::Peer(1));
    bench.drain();
    bench.failed(Target::Peer(5), DialFailure::Unreachable);
    assert_eq!(bench.dials(), []);
    bench.told_record(5, &[addr(6)], record(Scope::Public, 2, "new"), Source::Peer(1));
    let dial = Output::Dial { target: Target::Peer(5), addrs: vec![addr(6).socket_addr()] };
    assert_eq!(bench.drain(), [dial]);
}

#[test]
fn a_wrong_key_costs_the_address_and_only_that() {
    let mut bench = bench();
    bench.told(5, &[addr(5), addr(6)], Source::User);
    bench.table.want(bench.now, 5);
    bench.drain();
    bench.failed(Target::Peer(5), DialFailure::WrongIdentity);
    assert_eq!(bench.addrs(5).len(), 2, "which of the two is not known yet");
    let mut bad = addr(5);
    for _ in 0..2 {
        let outputs = bench.wait(secs(10));
        let [Output::Dial { addrs, .. }] = outputs.as_slice() else { panic!("{outputs:?}") };
        assert_eq!(addrs.len(), 1, "one at a time now");
        if addrs[0] == addr(5).socket_addr() {
            bench.failed(Target::Peer(5), DialFailure::WrongIdentity);
        } else {
            bad = addr(6);
            bench.failed(Target::Peer(5), DialFailure::TimedOut);
        }
    }
    assert_eq!(bench.addrs(5), [addr(6)]);
    assert_eq!(bad, addr(6), "both were tried");
    bench.told(5, &[addr(5)], Source::Peer(9));
    assert_eq!(bench.addrs(5), [addr(6)], "the bad address does not come back by hearsay");
}

#[test]
fn somebody_else_at_a_peers_address_is_linked_as_himself() {
    let mut bench = bench();
    bench.told(5, &[addr(5)], Source::User);
    bench.drain();
    let (target, addr) = (Some(Target::Peer(5)), addr(5).socket_addr());
    bench.handle(Input::Connected { peer: 6, target, addr, seen_at: wall(1) });
    assert!(bench.is_connected(6));
    assert_eq!(bench.state(5), None, "nothing is known of 5 any more");
}

#[test]
fn our_own_address_is_dropped_for_good() {
    let mut bench = bench();
    let own = addr(9).socket_addr();
    bench.handle(Input::Seed(own));
    assert_eq!(bench.dials(), [Target::Seed(own)]);
    bench.failed(Target::Seed(own), DialFailure::Itself);
    assert_eq!(bench.wait(secs(7200)), []);
    assert!(bench.table.snapshot().seeds.is_empty());
    bench.told(5, &[addr(9)], Source::Peer(1));
    assert_eq!(bench.dials(), [], "nobody else has it either");
    bench.told(ME, &[addr(9)], Source::Peer(1));
    assert_eq!(bench.table.len(), 0);
}

#[test]
fn our_own_address_does_not_come_back_out_of_a_snapshot() {
    let mut other = bench();
    other.told(5, &[addr(9)], Source::User);
    other.told(6, &[addr(9), addr(6)], Source::User);
    other.table.want(other.now, 5);
    other.table.want(other.now, 6);
    let mut bench = bench();
    bench.handle(Input::Seed(addr(9).socket_addr()));
    bench.failed(Target::Seed(addr(9).socket_addr()), DialFailure::Itself);
    bench.table.restore(bench.now, other.table.snapshot());
    assert_eq!(bench.addrs(5), [], "it could never be dialled");
    assert_eq!(bench.addrs(6), [addr(6)]);
    assert_eq!(bench.table.counters().refused_addrs, 2);
    assert!(bench.table.peer(5).unwrap().wanted, "the wish stays until an address is known");
}

#[test]
fn an_address_where_a_peer_proves_itself_is_not_our_own_any_more() {
    let mut bench = bench();
    bench.told(5, &[addr(9)], Source::User);
    bench.told(6, &[addr(9)], Source::User);
    assert_eq!(bench.dials().len(), 2);
    bench.failed(Target::Peer(5), DialFailure::Itself);
    bench.dialled(6, addr(9));
    bench.lost(6, DownCause::Closed);
    assert_eq!(bench.wait(secs(15)).len(), 1);
}

#[test]
fn a_restored_wish_ends_a_hold() {
    let mut first = bench();
    first.told(5, &[addr(5)], Source::User);
    first.table.want(first.now, 5);
    let snapshot = first.table.snapshot();
    first.table.disconnect(first.now, 5);
    first.drain();
    first.failed(Target::Peer(5), DialFailure::Unreachable);
    assert_eq!(first.wait(secs(3600)), []);
    first.table.restore(first.now, snapshot);
    assert_eq!(first.dials(), [Target::Peer(5)]);
}

#[test]
fn a_link_to_ourselves_is_hung_up() {
    let mut bench = bench();
    assert_eq!(bench.table.admit(ME, Direction::In, addr(1).ip), Err(Refusal::Itself));
    bench.inbound(ME, addr(1));
    assert_eq!(bench.hangups(), [(ME, HangupCause::Itself)]);
    assert_eq!(bench.table.links(), 0);
}

#[test]
fn a_duplicate_is_no_failure() {
    let mut bench = bench();
    bench.told(5, &[addr(5)], Source::User);
    bench.drain();
    bench.inbound(5, addr(5));
    bench.failed(Target::Peer(5), DialFailure::Duplicate);
    assert!(bench.is_connected(5));
    let view = bench.table.peer(5).unwrap();
    assert_eq!((view.failures, view.addrs.len()), (0, 1));
}

#[test]
fn a_link_lost_while_a_dial_is_out_waits_for_the_dial() {
    let mut bench = bench();
    bench.told(5, &[addr(5)], Source::User);
    bench.drain();
    bench.inbound(5, addr(5));
    bench.lost(5, DownCause::Closed);
    assert_eq!(bench.state(5), Some(State::Dialing));
    assert_eq!(bench.dials(), [], "one is out already");
    bench.failed(Target::Peer(5), DialFailure::Unreachable);
    assert!(matches!(bench.state(5), Some(State::Backoff { .. })));
}

#[test]
fn a_dial_that_never_ends_is_given_up() {
    let mut bench = bench();
    bench.told(5, &[addr(5)], Source::User);
    bench.table.want(bench.now, 5);
    assert_eq!(bench.dials().len(), 1);
    assert_eq!(bench.wait(secs(89)), []);
    assert_eq!(bench.wait(secs(10)).len(), 1);
    assert_eq!(bench.table.counters().lost_dials, 1);
}

#[test]
fn a_seed_is_dialled_until_somebody_answers_and_again_when_lost() {
    let mut bench = Bench::new(Config::no_discover());
    let seed = addr(5).socket_addr();
    bench.handle(Input::Seed(seed));
    assert_eq!(bench.dials(), [Target::Seed(seed)]);
    bench.failed(Target::Seed(seed), DialFailure::Unreachable);
    assert_eq!(bench.wait(secs(1)).len(), 1);
    bench.handle(Input::Connected {
        peer: 5,
        target: Some(Target::Seed(seed)),
        addr: seed,
        seen_at: wall(1),
    });
    assert_eq!(bench.wait(secs(3600)), [], "linked: nothing to do");
    bench.lost(5, DownCause::Silent);
    let dial = Output::Dial { target: Target::Peer(5), addrs: vec![seed] };
    assert_eq!(bench.wait(secs(15)), [dial], "now by its id");
    bench.failed(Target::Peer(5), DialFailure::WrongIdentity);
    assert!(bench.wait(secs(15)).contains(&Output::Dial { target: Target::Seed(seed), addrs: vec![seed] }));
}

#[test]
fn a_seed_named_again_is_dialled_again_even_if_linked() {
    let mut bench = bench();
    let seed = addr(5).socket_addr();
    bench.handle(Input::Seed(seed));
    bench.handle(Input::Connected {
        peer: 5,
        target: Some(Target::Seed(seed)),
        addr: seed,
        seen_at: wall(1),
    });
    bench.drain();
    bench.handle(Input::Seed(seed));
    assert_eq!(bench.dials(), [Target::Seed(seed)], "whoever asked gets an answer");
    bench.failed(Target::Seed(seed), DialFailure::Duplicate);
    assert_eq!(bench.wait(secs(3600)), []);
}

#[test]
fn a_seed_that_meets_a_link_is_not_dialled_every_second() {
    let mut bench = bench();
    let seed = addr(5).socket_addr();
    bench.inbound(5, at("9.9.9.9:50000"));
    bench.handle(Input::Seed(seed));
    bench.drain();
    bench.failed(Target::Seed(seed), DialFailure::Duplicate);
    bench.table.identify(seed, 5);
    assert_eq!(bench.wait(secs(7200)), []);
}

#[test]
fn disconnect_ends_link_wish_and_seed() {
    let mut bench = bench();
    let seed = addr(5).socket_addr();
    bench.handle(Input::Seed(seed));
    bench.handle(Input::Connected {
        peer: 5,
        target: Some(Target::Seed(seed)),
        addr: seed,
        seen_at: wall(1),
    });
    bench.table.want(bench.now, 5);
    bench.drain();
    assert!(bench.table.disconnect(bench.now, 5));
    assert_eq!(bench.hangups(), [(5, HangupCause::Disconnect)]);
    bench.lost(5, DownCause::HungUp);
    assert_eq!(bench.wait(secs(7200)), [], "not dialled by itself");
    assert!(!bench.table.disconnect(bench.now, 5), "nothing left to end");
    assert_eq!(bench.table.admit(5, Direction::In, seed.ip()), Ok(()), "it may come itself");
    bench.table.want(bench.now, 5);
    assert_eq!(bench.dials(), [Target::Peer(5)]);
}

#[test]
fn a_dial_that_succeeds_after_disconnect_is_hung_up() {
    let mut bench = bench();
    bench.told(5, &[addr(5)], Source::User);
    bench.drain();
    assert!(bench.table.disconnect(bench.now, 5));
    bench.dialled(5, addr(5));
    assert_eq!(bench.hangups(), [(5, HangupCause::Disconnect)]);
}

#[test]
fn a_ban_hangs_up_refuses_and_ends() {
    let mut bench = bench();
    bench.told(5, &[addr(5)], Source::User);
    bench.dialled(5, addr(5));
    bench.drain();
    bench.table.ban(bench.now, 5, Some(bench.now + secs(100)));
    assert_eq!(bench.hangups(), [(5, HangupCause::Banned)]);
    bench.lost(5, DownCause::HungUp);
    assert_eq!(bench.table.admit(5, Direction::In, addr(5).ip), Err(Refusal::Banned));
    assert_eq!(bench.wait(secs(99)), []);
    assert_eq!(bench.wait(secs(15)).len(), 1, "the ban is over");
    bench.table.ban(bench.now, 5, None);
    bench.failed(Target::Peer(5), DialFailure::Unreachable);
    assert_eq!(bench.wait(secs(100_000)), []);
    assert!(bench.table.unban(5) && !bench.table.unban(5));
    assert_eq!(bench.dials(), [Target::Peer(5)]);
}

#[test]
fn misbehaving_costs_ten_minutes_for_the_id_and_nothing_for_the_address() {
    let mut bench = bench();
    bench.inbound(5, at("9.9.9.9:50000"));
    bench.lost(5, DownCause::Misbehaved);
    assert_eq!(bench.table.admit(5, Direction::In, at("9.9.9.9:1").ip), Err(Refusal::Banned));
    assert_eq!(bench.table.admit(6, Direction::In, at("9.9.9.9:1").ip), Ok(()));
    bench.wait(secs(601));
    assert_eq!(bench.table.admit(5, Direction::In, at("9.9.9.9:1").ip), Ok(()));
}

#[test]
fn links_are_limited_by_direction_and_by_prefix_but_not_near() {
    let config = Config { max_in: 20, max_out: 2, ..Config::default() };
    let mut bench = Bench::new(config);
    for n in 0..8_u8 {
        let ip = [9, 9, 9, n].into();
        assert_eq!(bench.table.admit(u32::from(n) + 1, Direction::In, ip), Ok(()));
        bench.inbound(u32::from(n) + 1, PeerAddr { ip, port: 1, file_port: 0 });
    }
    let full = Err(Refusal::PrefixFull { limit: 8 });
    assert_eq!(bench.table.admit(50, Direction::In, [9, 9, 9, 99].into()), full);
    assert_eq!(bench.table.admit(50, Direction::In, "::ffff:9.9.9.99".parse().unwrap()), full);
    assert_eq!(bench.table.admit(50, Direction::In, [9, 9, 8, 99].into()), Ok(()));
    for n in 0..12_u16 {
        bench.inbound(u32::from(n) + 100, PeerAddr { ip: [127, 0, 0, 1].into(), port: n + 1, file_port: 0 });
    }
    assert_eq!(bench.table.links(), 20);
    assert_eq!(bench.table.admit(50, Direction::In, [127, 0, 0, 1].into()), Err(Refusal::Full { limit: 20 }));
    assert_eq!(bench.table.admit(50, Direction::Out, [127, 0, 0, 1].into()), Ok(()));
    bench.inbound(51, at("127.0.0.1:9"));
    assert_eq!(bench.hangups(), [(51, HangupCause::Full)], "who was let in anyway goes again");
    bench.table.want(bench.now, 52);
    assert_eq!(bench.table.admit(52, Direction::In, [127, 0, 0, 1].into()), Ok(()), "wanted");
}

#[test]
fn a_stopped_table_dials_nothing_and_resumes() {
    let mut bench = bench();
    bench.told(5, &[addr(5)], Source::User);
    bench.dialled(5, addr(5));
    bench.drain();
    bench.table.stop(bench.now);
    assert_eq!(bench.hangups(), [(5, HangupCause::Stopped)]);
    bench.lost(5, DownCause::HungUp);
    bench.told(6, &[addr(6)], Source::User);
    bench.handle(Input::Seed(addr(7).socket_addr()));
    assert_eq!(bench.wait(secs(3600)), []);
    assert_eq!(bench.table.admit(6, Direction::In, addr(6).ip), Err(Refusal::Stopped));
    bench.table.resume(bench.now);
    assert_eq!(bench.dials().len(), 3);
}

#[test]
fn exchange_tells_linked_then_lately_linked_peers_and_keeps_local_records_local() {
    let mut bench = bench();
    for peer in [1, 2, 3] {
        bench.inbound(peer, at("10.0.0.1:50000"));
    }
    bench.told_record(1, &[addr(1)], record(Scope::Public, 1, "one"), Source::Hello);
    bench.told_record(2, &[addr(2)], record(Scope::Public, 1, "two"), Source::Hello);
    bench.told_record(2, &[at("10.0.0.2:65432")], record(Scope::Local, 1, "two near"), Source::Hello);
    bench.told_record(3, &[addr(3)], record(Scope::Public, 1, "three"), Source::Hello);
    bench.told_record(4, &[addr(4)], record(Scope::Public, 1, "hearsay"), Source::Peer(1));
    bench.lost(3, DownCause::Closed);
    assert_eq!(bench.table.exchange(1, false), ["two", "three"]);
    assert_eq!(bench.table.exchange(1, true), ["two near", "two", "three"]);
    assert_eq!(bench.table.exchange(2, true), ["one", "three"], "never its own");
    bench.table.disconnect(bench.now, 3);
    bench.now += secs(3601);
    bench.handle(Input::Timeout);
    assert_eq!(bench.table.exchange(1, false), ["two"], "who is gone for an hour is told no more");
}

#[test]
fn exchange_is_bounded() {
    let mut bench = bench();
    for n in 1..=80_u16 {
        bench.inbound(u32::from(n), at("10.0.0.1:50000"));
        bench.told_record(u32::from(n), &[addr(n)], record(Scope::Public, 1, "r"), Source::Hello);
    }
    assert_eq!(bench.table.exchange(1, false).len(), 64);
}

#[test]
fn changes_ask_to_be_saved_once_a_second() {
    let mut bench = bench();
    for n in 1..=9 {
        bench.told(u32::from(n), &[addr(n)], Source::User);
    }
    let mut saves = 0;
    bench.now += secs(1);
    bench.handle(Input::Timeout);
    while let Some(output) = bench.table.poll_output() {
        saves += usize::from(output == Output::Save);
    }
    assert_eq!(saves, 1);
}

#[test]
fn a_restored_table_dials_its_friends_again() {
    let mut first = Bench::new(Config::no_discover());
    first.told(5, &[addr(5)], Source::User);
    first.table.want(first.now, 5);
    first.dialled(5, addr(5));
    first.told_record(5, &[addr(5)], record(Scope::Public, 3, "five"), Source::Hello);
    first.told(6, &[addr(6)], Source::User);
    first.table.ban(first.now, 6, None);
    first.handle(Input::Seed(addr(7).socket_addr()));
    let snapshot = first.table.snapshot();

    let mut second = Bench::new(Config::no_discover());
    assert_eq!(second.table.restore(second.now, snapshot.clone()), 2);
    assert_eq!(second.dials(), [Target::Peer(5), Target::Seed(addr(7).socket_addr())]);
    assert_eq!(second.table.admit(6, Direction::In, addr(6).ip), Err(Refusal::Banned));
    assert_eq!(second.table.snapshot(), snapshot);
}

#[test]
fn a_link_that_the_user_asked_for_is_urgent_once_and_again_after_a_restart() {
    let mut first = Bench::new(Config::no_discover());
    first.told(5, &[addr(5)], Source::User);
    assert!(!first.table.take_fresh(5), "heard of, not asked for");
    first.table.want(first.now, 5);
    let seed = addr(7).socket_addr();
    first.handle(Input::Seed(seed));
    first.dialled(5, addr(5));
    first.handle(Input::Connected {
        peer: 7,
        target: Some(Target::Seed(seed)),
        addr: seed,
        seen_at: wall(1),
    });
    for peer in [5, 7] {
        assert!(first.table.take_fresh(peer) && !first.table.take_fresh(peer), "{peer}");
    }
    first.table.want(first.now, 5);
    assert!(first.table.take_fresh(5), "asked for anew");

    let mut second = Bench::new(Config::no_discover());
    second.table.restore(second.now, first.table.snapshot());
    assert!(second.table.take_fresh(5) && second.table.take_fresh(7));
}

#[test]
fn a_restored_friend_is_dialled_often_at_first() {
    let mut first = bench();
    first.told(5, &[addr(5)], Source::User);
    first.dialled(5, addr(5));
    let mut second = bench();
    second.table.restore(second.now, first.table.snapshot());
    second.drain();
    for _ in 0..20 {
        second.failed(Target::Peer(5), DialFailure::Unreachable);
        assert_eq!(second.wait(secs(15)).len(), 1);
    }
}
