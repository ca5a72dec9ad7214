//! A link that was full, and all that may come between: answers, reads that fail or come late, what the neighbour has itself.

mod net;

use net::full::*;

use std::time::Duration;

use net::{Id, Out, answer, core_with, deliveries, drain, genuine, ms, push, receive, start};
use p2p_gossip::{Config, Course, Input, LogStore, Message, Output, Read};

/// An answer (IWANT, GRAFT, PULL) that lost its place is counted as answered, so nobody sends or announces it.
#[test]
fn an_answer_that_lost_its_place_while_its_author_is_owed_still_goes_there() {
    let now = start();
    let mut core = full(Config::default(), now);
    assert_eq!(pushed(&receive(&mut core, now, B, Message::IWant { ids: vec![of(AUTHOR, 10)] })), [10]);
    // Another author's push had it displaced.
    core.put_off(now, B, of(AUTHOR, 10), 2);
    let mut outs = push_owed(&mut core, now);
    outs.extend(wait(&mut core, now + ms(5_000)));
    assert!(
        pushed(&outs).contains(&10) || told(&outs).contains(&10),
        "{:?} {:?}",
        pushed(&outs),
        told(&outs)
    );
}

/// The same with nothing owed before: all that it has already is pushed again, but not what it asked for.
#[test]
fn an_answer_that_lost_its_place_does_not_bring_all_behind_it_again() {
    let now = start();
    let mut core = core_with(1, &[A, B], Config::default(), now);
    brings(&mut core, now, AUTHOR, 0..100);
    assert_eq!(pushed(&receive(&mut core, now, B, Message::IWant { ids: vec![of(AUTHOR, 7)] })), [7]);
    core.put_off(now, B, of(AUTHOR, 7), 2);
    let mut outs = push_owed(&mut core, now);
    outs.extend(wait(&mut core, now + ms(5_000)));
    assert_eq!([pushed(&outs), told(&outs)].concat(), [7]);
}

/// What the neighbour itself pushed to us meanwhile.
#[test]
fn what_it_brought_itself_is_not_pushed_back() {
    let now = start();
    let mut core = core_with(1, &[A, B], Config::default(), now);
    brings(&mut core, now, AUTHOR, 0..4);
    core.put_off(now, B, of(AUTHOR, 3), 2);
    from(&mut core, now, B, AUTHOR, 4..50);
    brings(&mut core, now, AUTHOR, 50..52);
    assert_eq!(pushed(&push_owed(&mut core, now)), [3, 50, 51]);
}

/// The newest of an author that gives up its place is not among the latest that came.
#[test]
fn what_waited_long_in_the_queue_and_had_to_go_is_owed() {
    let now = start();
    let mut core = core_with(1, &[A, B], Config { max_recent: 64, ..Config::default() }, now);
    brings(&mut core, now, AUTHOR, 0..10);
    brings(&mut core, now, 6, 0..100);
    // The queue holds more than 64; AUTHOR's are larger. Nobody asked.
    core.put_off(now, B, of(AUTHOR, 9), 2);
    assert_eq!(pushed(&brings(&mut core, now, AUTHOR, 10..12)), [], "they would overtake 9");
    assert_eq!(pushed(&push_owed(&mut core, now)), [9, 10, 11]);
}

/// Covered, but the log does not keep it.
#[test]
fn what_the_log_does_not_keep_goes_there_all_the_same() {
    let now = start();
    let config = Config::default();
    let age = config.log_age;
    let mut core = full(config, now);
    let old = of(AUTHOR, 100);
    let envelope = genuine(&old, 50);
    let outs =
        receive(&mut core, now, A, Message::Push { id: old, hops: 1, course: Course::Tree, age, envelope });
    let mut outs = answer(&mut core, now, outs);
    outs.extend(push_owed(&mut core, now));
    outs.extend(wait(&mut core, now + ms(5_000)));
    assert!(pushed(&outs).contains(&100) || told(&outs).contains(&100), "{:?}", told(&outs));
}

/// A read of the link before.
#[test]
fn a_read_of_the_link_before_does_not_end_that_of_the_new_one() {
    let now = start();
    let mut core = full(Config { log_store: LogStore::Outside, ..Config::default() }, now);
    let read = |outs: &[Out]| match outs {
        [Output::Fetch { ticket, to: B, ids, .. }] => (*ticket, ids.clone()),
        _ => panic!("{outs:?}"),
    };
    let found = |ids: &[Id]| ids.iter().map(|id| Read::Found(genuine(id, 50))).collect::<Vec<_>>();
    let outs = push_owed(&mut core, now);
    let (old, old_ids) = read(&outs);
    core.handle(now, Input::NeighborDown(B));
    core.handle(now, Input::NeighborUp(B));
    drain(&mut core);
    assert_eq!(pushed(&brings(&mut core, now, AUTHOR, 100..102)), all(100..102));
    core.put_off(now, B, of(AUTHOR, 101), 2);
    let outs = push_owed(&mut core, now);
    let (new, new_ids) = read(&outs);
    core.handle(now, Input::Fetched { ticket: old, envelopes: found(&old_ids) });
    let mut outs = drain(&mut core);
    outs.extend(push_owed(&mut core, now));
    outs.extend(brings(&mut core, now, AUTHOR, 102..103));
    core.handle(now, Input::Fetched { ticket: new, envelopes: found(&new_ids) });
    outs.extend(drain(&mut core));
    assert_eq!(pushed(&outs), [101], "102 is owed, and nothing of the old link's");
}

/// More authors than are remembered, in turn, as a queue serves them.
#[test]
fn a_hole_is_waited_for_though_many_authors_are_pushed_in_turn() {
    let mut now = start();
    let config = Config { new_authors_burst: 5_000, ..Config::default() };
    let mut core = core_with(1, &[A, B], config, now);
    brings(&mut core, now, AUTHOR, 0..1);
    let ahead = of(AUTHOR, 40);
    let outs = receive(&mut core, now, B, push(ahead, &genuine(&ahead, 50)));
    assert_eq!(deliveries(&answer(&mut core, now, outs)), []);
    for seq in 1..30 {
        // 42 ms for a round of 21 authors, far below 300 ms.
        for author in 100..120 {
            now += ms(2);
            let outs = wait(&mut core, now);
            assert_eq!(deliveries(&outs), [], "{seq} {:?}", now);
            brings(&mut core, now, author, seq..seq + 1);
        }
        now += ms(2);
        brings(&mut core, now, AUTHOR, seq..seq + 1);
    }
}

/// `while push_owed` ends.
#[test]
fn with_the_least_range_it_ends() {
    let now = start();
    let mut core = full(Config { range_bytes: 0, ..Config::default() }, now);
    let mut goes = 0;
    while core.push_owed(now, B) {
        goes += 1;
        assert!(goes < 10_000, "a busy loop");
    }
}

/// A read that failed.
#[test]
fn what_could_not_be_read_is_announced_or_read_again() {
    let now = start();
    let mut core = full(Config { log_store: LogStore::Outside, ..Config::default() }, now);
    let outs = push_owed(&mut core, now);
    let [Output::Fetch { ticket, ids, .. }] = &outs[..] else { panic!("{outs:?}") };
    core.handle(
        now,
        Input::Fetched { ticket: *ticket, envelopes: ids.iter().map(|_| Read::Failed).collect() },
    );
    let mut outs = drain(&mut core);
    outs.extend(push_owed(&mut core, now));
    outs.extend(wait(&mut core, now + Duration::from_secs(5)));
    let again = outs.iter().any(|out| matches!(out, Output::Fetch { .. }));
    assert!(again || !told(&outs).is_empty(), "97 messages are neither pushed nor announced");
}

/// It was answered on a link that is gone; whether it got it nobody knows.
#[test]
fn an_answer_over_the_link_before_says_nothing() {
    let now = start();
    let mut core = core_with(1, &[A, B], Config::default(), now);
    brings(&mut core, now, AUTHOR, 0..100);
    receive(&mut core, now, B, Message::IWant { ids: vec![of(AUTHOR, 50)] });
    core.handle(now, Input::NeighborDown(B));
    let later = now + Config::default().answers_age;
    core.handle(later, Input::NeighborUp(B));
    drain(&mut core);
    brings(&mut core, later, AUTHOR, 100..101);
    for seq in (49..101).rev() {
        core.put_off(later, B, of(AUTHOR, seq), 2);
    }
    assert_eq!(pushed(&push_owed(&mut core, later)), all(49..101));
}

/// More gives way than the latest that are remembered (2,048; a queue of 2 MiB holds 5,000 messages of 400 bytes).
#[test]
fn what_gives_way_to_a_burst_of_another_author_is_owed_from_the_lowest_on() {
    let now = start();
    let mut core = core_with(1, &[A, B], Config { max_recent: 64, ..Config::default() }, now);
    brings(&mut core, now, AUTHOR, 0..200);
    let mut alone = 0;
    for seq in 0..100 {
        brings(&mut core, now, 6, seq..seq + 1);
        // As `Backlog::push` does it: the newest of the one with most.
        core.put_off(now, B, of(AUTHOR, 199 - seq), 2);
        alone += told(&drain(&mut core)).len();
    }
    assert_eq!((alone, pushed(&push_owed(&mut core, now))), (0, all(100..200)));
}

/// It pruned us while the log was read.
#[test]
fn who_pruned_the_link_meanwhile_is_pushed_nothing() {
    let now = start();
    let mut core = full(Config { log_store: LogStore::Outside, ..Config::default() }, now);
    let outs = push_owed(&mut core, now);
    let [Output::Fetch { ticket, ids, .. }] = &outs[..] else { panic!("{outs:?}") };
    receive(&mut core, now, B, Message::Prune);
    let envelopes = ids.iter().map(|id| Read::Found(genuine(id, 50))).collect();
    core.handle(now, Input::Fetched { ticket: *ticket, envelopes });
    assert_eq!(pushed(&drain(&mut core)), []);
}

/// PRUNE and GRAFT while there is no room: what was announced and asked for meanwhile, and what it has of others.
#[test]
fn pruned_and_grafted_again_while_there_is_no_room() {
    let now = start();
    let mut core = full(Config::default(), now);
    receive(&mut core, now, B, Message::Prune);
    brings(&mut core, now, AUTHOR, 100..110);
    let told_of = told(&wait(&mut core, now + ms(2_000)));
    assert_eq!(told_of, all(100..110));
    let later = now + ms(2_000);
    receive(&mut core, later, B, Message::Graft { id: Some(of(AUTHOR, 100)) });
    assert_eq!(pushed(&brings(&mut core, later, AUTHOR, 110..112)), []);
    assert_eq!(pushed(&push_owed(&mut core, later)), [all(3..100), all(101..112)].concat());
    assert!(!core.is_owed(B));
}

/// Near the end of the seqs.
#[test]
fn the_last_seqs() {
    let now = start();
    let mut core = core_with(1, &[A, B], Config::default(), now);
    let last = u64::MAX - 1;
    brings(&mut core, now, AUTHOR, last - 3..last - 1);
    core.put_off(now, B, of(AUTHOR, last - 2), 2);
    assert_eq!(pushed(&brings(&mut core, now, AUTHOR, last - 1..last + 1)), []);
    assert_eq!(pushed(&push_owed(&mut core, now)), [last - 2, last - 1, last]);
    assert!(!core.is_owed(B));
}

/// What it has said to have. (It announced them: it needs none of them.)
#[test]
fn what_it_announced_itself_is_not_pushed() {
    let now = start();
    let mut core = full(Config::default(), now);
    let ids: Vec<Id> = (3..90).map(|seq| of(AUTHOR, seq)).collect();
    receive(&mut core, now, B, net::ihave(&ids));
    assert_eq!(pushed(&push_owed(&mut core, now)), all(90..100));
}
