//! A link that was full: what had no room there, and what comes behind it, follows in the author's order.

mod net;

use net::full::*;

use std::time::Duration;

use net::{Core, Out, answer, core_with, deliveries, drain, genuine, ms, push, receive, start};
use p2p_gossip::{Config, Input, LogStore, Message, Output, PublishError, Read};

const LARGE: usize = 40_000;

#[test]
fn what_comes_behind_one_that_had_no_room_follows_it() {
    let now = start();
    let mut core = full(Config::default(), now);
    assert_eq!(pushed(&brings(&mut core, now, 6, 0..1)), [0], "of others there is room");
    assert_eq!(pushed(&push_owed(&mut core, now)), all(3..100));
    assert!(!core.is_owed(B));
    assert_eq!(pushed(&brings(&mut core, now, AUTHOR, 100..103)), all(100..103));
    assert_eq!((core.stats().put_off, push_owed(&mut core, now)), (1, vec![]));
}

#[test]
fn so_much_is_pushed_at_once_and_there_may_be_no_room_again() {
    let now = start();
    let mut core = full(Config { range_bytes: 500, ..Config::default() }, now);
    assert!(core.push_owed(now, B));
    assert_eq!(pushed(&drain(&mut core)), all(3..13));
    // Those that wait give up their place newest first.
    (5..13).rev().for_each(|seq| core.put_off(now, B, of(AUTHOR, seq), 2));
    assert_eq!(pushed(&brings(&mut core, now, AUTHOR, 100..101)), []);
    assert_eq!(pushed(&push_owed(&mut core, now)), all(5..101));
}

#[test]
fn authors_have_their_turns() {
    let now = start();
    let mut core = full(Config { range_bytes: 500, ..Config::default() }, now);
    brings(&mut core, now, 6, 0..1);
    core.put_off(now, B, of(6, 0), 2);
    brings(&mut core, now, 6, 1..3);
    core.push_owed(now, B);
    let outs = drain(&mut core);
    assert_eq!(pushed(&outs), [3, 0, 4, 1, 5, 2, 6, 7, 8, 9]);
    assert_eq!(pushed(&brings(&mut core, now, 6, 3..4)), [3], "no more of that one is left");
}

#[test]
fn whoever_pruned_the_link_compares_logs_instead() {
    let now = start();
    let mut core = full(Config::default(), now);
    receive(&mut core, now, B, Message::Prune);
    let outs = push_owed(&mut core, now);
    assert!(matches!(outs[..], [Output::Send { to: B, message: Message::Digest { .. } }]), "{outs:?}");
    assert!(!core.is_owed(B));
    core.put_off(now, B, of(AUTHOR, 99), 2);
    assert!(!core.is_owed(B));
    assert_eq!(told(&drain(&mut core)), [99], "it is announced");
}

#[test]
fn a_neighbour_that_comes_back_is_owed_nothing() {
    let now = start();
    let mut core = full(Config::default(), now);
    core.handle(now, Input::NeighborDown(B));
    core.put_off(now, B, of(AUTHOR, 50), 2);
    assert!(!core.is_owed(B) && !core.push_owed(now, B));
    core.handle(now, Input::NeighborUp(B));
    drain(&mut core);
    assert_eq!(pushed(&brings(&mut core, now, AUTHOR, 100..101)), [100]);
}

#[test]
fn of_more_authors_than_are_kept_what_has_no_room_is_announced() {
    let now = start();
    let mut core = core_with(1, &[A, B], Config { new_authors_burst: 5_000, ..Config::default() }, now);
    for author in 100..1_200 {
        brings(&mut core, now, author, 0..1);
        core.put_off(now, B, of(author, 0), 2);
    }
    let mut outs = drain(&mut core);
    core.handle(now + ms(10_000), Input::Timeout);
    outs.extend(drain(&mut core));
    let outs: Vec<Out> = (1_120..1_130).flat_map(|author| brings(&mut core, now, author, 1..2)).collect();
    // 1,024 from 100 on.
    assert_eq!(pushed(&outs), [1; 6]);
    assert_eq!(pushed(&push_owed(&mut core, now)).len(), 1_024 + 4);
}

#[test]
fn what_it_asked_for_is_not_pushed_again_and_large_ones_are_announced_as_ever() {
    let now = start();
    let mut core = full(Config::default(), now);
    let ids = (10..40).map(|seq| of(AUTHOR, seq)).collect();
    assert_eq!(pushed(&receive(&mut core, now, B, Message::IWant { ids })), all(10..40));
    let large = of(AUTHOR, 100);
    let outs = receive(&mut core, now, A, push(large, &genuine(&large, LARGE)));
    let mut outs = answer(&mut core, now, outs);
    core.handle(now + ms(1_000), Input::Timeout);
    outs.extend(drain(&mut core));
    assert_eq!(told(&outs), [100]);
    assert_eq!(pushed(&push_owed(&mut core, now)), [all(3..10), all(40..100)].concat());
}

/// All behind it is there already.
#[test]
fn an_old_one_that_it_asked_for_and_had_no_room_is_announced_alone() {
    let now = start();
    let mut core = core_with(1, &[A, B], Config { max_recent: 64, ..Config::default() }, now);
    brings(&mut core, now, AUTHOR, 0..200);
    for is_owed in [false, true] {
        let asked = receive(&mut core, now, B, Message::IWant { ids: vec![of(AUTHOR, 7)] });
        assert_eq!(pushed(&asked), [7]);
        core.put_off(now, B, of(AUTHOR, 7), 2);
        assert_eq!(core.is_owed(B), is_owed);
        assert_eq!(told(&drain(&mut core)), [7]);
        core.put_off(now, B, of(AUTHOR, 190), 2);
    }
    assert_eq!(pushed(&push_owed(&mut core, now)), all(190..200));
}

#[test]
fn with_a_limit_for_authors_what_had_no_room_is_announced() {
    let now = start();
    let config = Config { author_entries_per_sec: Some(1_000), ..Config::default() };
    let mut core = core_with(1, &[A, B], config, now);
    brings(&mut core, now, AUTHOR, 0..1);
    core.put_off(now, B, of(AUTHOR, 0), 2);
    assert!(!core.is_owed(B));
}

#[test]
fn nothing_overtakes_what_is_being_read() {
    let now = start();
    let mut core = full(Config { log_store: LogStore::Outside, ..Config::default() }, now);
    let read = |core: &mut Core| {
        assert!(!core.push_owed(now, B));
        let outs = drain(core);
        let [Output::Fetch { ticket, to: B, ids, .. }] = &outs[..] else { panic!("{outs:?}") };
        (*ticket, ids.clone())
    };
    let (ticket, ids) = read(&mut core);
    assert_eq!(ids.iter().map(|id| id.first).collect::<Vec<_>>(), all(3..100));
    assert_eq!(pushed(&brings(&mut core, now, AUTHOR, 100..103)), []);
    assert_eq!(push_owed(&mut core, now), [], "one at a time");
    let envelopes = ids.iter().map(|id| match id.first {
        7 => Read::Gone,
        8 => Read::Failed,
        _ => Read::Found(genuine(id, 50)),
    });
    core.handle(now, Input::Fetched { ticket, envelopes: envelopes.collect() });
    assert_eq!(pushed(&drain(&mut core)), [all(3..7), all(9..100)].concat());
    assert!(core.is_owed(B));
    let (ticket, ids) = read(&mut core);
    let envelopes = ids.iter().map(|id| Read::Found(genuine(id, 50))).collect();
    core.handle(now, Input::Fetched { ticket, envelopes });
    assert_eq!(pushed(&drain(&mut core)), all(100..103));
    assert_eq!(push_owed(&mut core, now), []);
    assert!(!core.is_owed(B));
    assert_eq!(pushed(&brings(&mut core, now, AUTHOR, 103..104)), [103]);
}

#[test]
fn own_messages_follow_as_those_of_others_do() -> Result<(), PublishError> {
    let now = start();
    let mut core = core_with(1, &[A, B], Config::default(), now);
    core.publish(now, of(1, 0), genuine(&of(1, 0), 50))?;
    drain(&mut core);
    core.put_off(now, B, of(1, 0), 1);
    for seq in 1..4 {
        let queued = core.publish(now, of(1, seq), genuine(&of(1, seq), 50))?;
        assert_eq!(queued.links, 2, "it is on its way there too");
    }
    assert_eq!(pushed(&drain(&mut core)), []);
    assert_eq!(pushed(&push_owed(&mut core, now)), all(0..4));
    Ok(())
}

/// The other end: A has a long queue of the author, B is ahead of it.
#[test]
fn what_is_behind_a_neighbours_last_push_is_waited_for_while_it_pushes() {
    let mut now = start();
    let mut core = core_with(1, &[A, B], Config::default(), now);
    brings(&mut core, now, AUTHOR, 0..1);
    let ahead = of(AUTHOR, 40);
    let outs = receive(&mut core, now, B, push(ahead, &genuine(&ahead, 50)));
    assert_eq!(deliveries(&answer(&mut core, now, outs)), []);
    for seq in 1..30 {
        now += ms(100);
        assert_eq!(deliveries(&wait(&mut core, now)), [], "{seq}");
        // Other authors between.
        assert_eq!(deliveries(&brings(&mut core, now, 6, seq..seq + 1)), [(6, seq, false)]);
        assert_eq!(deliveries(&brings(&mut core, now, AUTHOR, seq..seq + 1)), [(AUTHOR, seq, false)]);
    }
    // It pushes no more: what lacks is given up.
    let outs = wait(&mut core, now + Duration::from_secs(2));
    assert_eq!(deliveries(&outs), [(AUTHOR, 40, false)]);
}

/// Those are no sign that what lacks is coming.
#[test]
fn who_pushes_old_ones_that_nobody_had_holds_nothing_up() {
    let mut now = start();
    let mut core = core_with(1, &[A, B], Config::default(), now);
    for seq in [100, 102] {
        let one = of(AUTHOR, seq);
        let outs = receive(&mut core, now, B, push(one, &genuine(&one, 50)));
        answer(&mut core, now, outs);
    }
    let (mut outs, begin) = (Vec::new(), now);
    for seq in 0..15 {
        now += ms(100);
        outs.extend(wait(&mut core, now));
        brings(&mut core, now, AUTHOR, seq..seq + 1);
    }
    assert!(now - begin < 2 * Config::default().hold_time);
    assert_eq!(deliveries(&outs), [(AUTHOR, 102, false)]);
}
