//! The log outside, ages, and what outlives a restart.

mod net;

use net::{Core, Id, answer, core_with, deliveries, drain, genuine, id, ms, receive, start};
use p2p_gossip::{
    Config, Course, Gossip, Held, Input, LogStore, Logged, Message, Output, Read, Restored, Span, Undelivered,
};
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

fn outside() -> Config {
    Config { log_store: LogStore::Outside, ..Config::default() }
}

fn push(id: Id, age: Duration) -> Message<u32> {
    Message::Push { id, hops: 1, course: Course::Tree, age, envelope: genuine(&id, 50) }
}

fn push_of(id: Id, len: usize) -> Message<u32> {
    Message::Push { id, hops: 1, course: Course::Tree, age: Duration::ZERO, envelope: genuine(&id, len) }
}

/// Hands a push in and has it checked. Returns all that comes of it.
fn take(core: &mut Core, now: Instant, from: u32, id: Id, age: Duration) -> Vec<net::Out> {
    let outputs = receive(core, now, from, push(id, age));
    answer(core, now, outputs)
}

fn appended(outputs: &[net::Out]) -> Vec<Logged<u32>> {
    let entry = |output: &net::Out| match output {
        Output::Append { entry, .. } => Some(*entry),
        _ => None,
    };
    outputs.iter().filter_map(entry).collect()
}

/// What was appended, and whether it said that a delivery follows.
fn to_come(outputs: &[net::Out]) -> Vec<(Id, bool)> {
    let told = |output: &net::Out| match output {
        Output::Append { entry, delivers, .. } => Some((entry.id, *delivers)),
        _ => None,
    };
    outputs.iter().filter_map(told).collect()
}

fn dropped(outputs: &[net::Out]) -> Vec<Id> {
    let id = |output: &net::Out| if let Output::Drop { id } = output { Some(*id) } else { None };
    outputs.iter().filter_map(id).collect()
}

#[test]
fn ages_travel_and_nothing_becomes_young_again() {
    let now = start();
    let hour = Duration::from_secs(3_600);
    let mut core = core_with(0, &[1, 2], Config::default(), now);
    let young = id(7, 0, 0, 1);
    let outputs = take(&mut core, now, 1, young, 23 * hour);
    assert_eq!(appended(&outputs).first().map(|entry| entry.age), Some(23 * hour));
    let asked = receive(&mut core, now + hour / 2, 2, Message::IWant { ids: vec![young] });
    let age = asked.iter().find_map(|output| match output {
        Output::Send { message: Message::Push { age, .. }, .. } => Some(*age),
        _ => None,
    });
    assert_eq!(age, Some(23 * hour + hour / 2));
    core.handle(now + hour, Input::Timeout);
    assert_eq!(dropped(&drain(&mut core)), [young]);

    let old = id(7, 0, 1, 1);
    let outputs = take(&mut core, now + hour, 1, old, 24 * hour);
    assert_eq!((appended(&outputs), deliveries(&outputs)), (vec![], vec![(7, 1, false)]));
    assert_eq!((core.stats().log_too_old, core.stats().log_messages), (1, 0));
}

#[test]
fn a_log_outside_is_asked_and_what_it_lost_is_not_answered() {
    let now = start();
    let mut core = core_with(0, &[1, 2], outside(), now);
    let ids = [id(7, 0, 0, 1), id(7, 0, 1, 1)];
    for id in ids {
        take(&mut core, now, 1, id, ms(0));
    }
    let outputs = receive(&mut core, now, 2, Message::IWant { ids: ids.to_vec() });
    let [Output::Fetch { ticket, to: 2, ids: read, bytes }] = &outputs[..] else { panic!("{outputs:?}") };
    assert_eq!((&read[..], *bytes), (&ids[..], 2 * genuine(&ids[0], 50).len()));
    let envelopes = vec![Read::Gone, Read::Found(genuine(&ids[1], 50))];
    core.handle(now, Input::Fetched { ticket: *ticket, envelopes: envelopes.clone() });
    let outputs = drain(&mut core);
    assert!(
        matches!(&outputs[..], [Output::Send { to: 2, message: Message::Push { id, .. } }] if *id == ids[1]),
        "{outputs:?}"
    );
    core.handle(now, Input::Fetched { ticket: *ticket, envelopes });
    assert_eq!((drain(&mut core), core.stats().unknown_tickets), (vec![], 1));
    // What could not be read just now is asked for again.
    let outputs = receive(&mut core, now, 2, Message::IWant { ids: vec![ids[1]] });
    let [Output::Fetch { ticket, .. }] = &outputs[..] else { panic!("{outputs:?}") };
    core.handle(now, Input::Fetched { ticket: *ticket, envelopes: vec![Read::Failed] });
    assert_eq!(drain(&mut core), []);
    // Nor is it claimed any more: a neighbour whose log differs would ask again with each digest.
    assert_eq!(core.stats().log_messages, 1);
    assert_eq!(receive(&mut core, now, 2, Message::IWant { ids: vec![ids[0]] }), []);
    assert_eq!(take(&mut core, now, 1, ids[0], ms(0)), [], "it was seen");
}

#[test]
fn reads_for_one_neighbour_are_bounded() {
    let now = start();
    let mut core = core_with(0, &[1, 2], outside(), now);
    for seq in 0..1_000 {
        take(&mut core, now, 1, id(7, 0, seq, 1), ms(0));
    }
    let mut reading = 0;
    for seq in 0..1_000 {
        for output in receive(&mut core, now, 2, Message::IWant { ids: vec![id(7, 0, seq, 1)] }) {
            if let Output::Fetch { ids, .. } = output {
                reading += ids.len();
            }
        }
    }
    assert!(reading <= 256, "{reading}");
    assert_eq!(core.stats().pulls_refused, 1_000 - reading as u64);
}

/// Faults row 14: 1,000 recorded messages, ten times, across restarts, with and without the log.
#[test]
fn a_replay_is_delivered_once_across_restarts_and_after_the_log_dropped_it() {
    let now = start();
    let ids: Vec<_> = (0..1_000).map(|n| id(1 + n % 7, 0, u64::from(n / 7), 1)).collect();
    let config = Config { log_messages: 100, ..outside() };
    let mut core = core_with(0, &[8], config.clone(), now);
    let (mut got, mut log) = (Vec::new(), Vec::new());
    for round in 0..10_u32 {
        for &id in &ids {
            let outputs = take(&mut core, now, 8, id, ms(0));
            got.extend(deliveries(&outputs));
            log.extend(appended(&outputs));
            let gone = dropped(&outputs);
            log.retain(|entry| !gone.contains(&entry.id));
        }
        if round % 3 == 1 {
            let authors = core.author_states().collect();
            core = Gossip::new(0, config.clone(), StdRng::seed_from_u64(1));
            core.restore(now, Restored { authors, envelopes: log.clone(), undelivered: vec![] });
            assert_eq!(drain(&mut core), []);
            assert_eq!(core.stats().log_messages, log.len());
            core.handle(now, Input::NeighborUp(8));
        }
    }
    assert_eq!((got.len(), log.len()), (1_000, 100));
    // The order goes on where it was.
    let outputs = take(&mut core, now, 8, id(1, 0, 143, 1), ms(0));
    assert_eq!(deliveries(&outputs), [(1, 143, false)]);
}

/// What was dropped of a fork may still lie in the log outside.
#[test]
fn of_a_fork_in_the_log_the_lower_digest_is_restored() {
    let now = start();
    let entry = |first, count, digest| Logged {
        id: id(3, 0, first, count),
        len: 50,
        age: ms(0),
        hops: 2,
        digest: [digest; 16],
    };
    let (winner, losers) = (entry(4, 3, 1), [entry(4, 1, 2), entry(6, 1, 3)]);
    for envelopes in [vec![losers[0], losers[1], winner], vec![winner, losers[0], losers[1]]] {
        let mut core = core_with(0, &[8], outside(), now);
        core.restore(now, Restored { authors: vec![], envelopes, undelivered: vec![] });
        assert_eq!(dropped(&drain(&mut core)), losers.map(|loser| loser.id));
        assert_eq!(core.stats().log_messages, 1);
        let outputs = receive(&mut core, now, 8, Message::IWant { ids: vec![winner.id] });
        assert!(matches!(&outputs[..], [Output::Fetch { .. }]), "{outputs:?}");
    }
}

/// Both have one id, and to drop it would drop the winner.
#[test]
fn of_two_envelopes_with_one_id_in_the_log_none_is_dropped() {
    let now = start();
    let entry = |digest| Logged { id: id(3, 0, 4, 1), len: 50, age: ms(0), hops: 2, digest: [digest; 16] };
    for envelopes in [vec![entry(1), entry(2)], vec![entry(2), entry(1)]] {
        let mut core = core_with(0, &[8], outside(), now);
        core.restore(now, Restored { authors: vec![], envelopes, undelivered: vec![] });
        assert_eq!((dropped(&drain(&mut core)), core.stats().log_messages), (vec![], 1));
    }
}

#[test]
fn a_log_alone_restores_what_it_holds() {
    let now = start();
    let mut core = core_with(0, &[8], outside(), now);
    let entry = |first, age| Logged { id: id(3, 5, first, 1), len: 50, age, hops: 2, digest: [0; 16] };
    let day = Duration::from_secs(24 * 3_600);
    let envelopes = vec![entry(5, day), entry(6, ms(10)), entry(7, ms(5))];
    core.restore(now, Restored { authors: vec![], envelopes, undelivered: vec![] });
    assert_eq!(dropped(&drain(&mut core)), [id(3, 5, 5, 1)]);
    assert_eq!(take(&mut core, now, 8, id(3, 5, 7, 1), ms(0)), []);
    assert_eq!(deliveries(&take(&mut core, now, 8, id(3, 5, 8, 1), ms(0))), [(3, 8, false)]);
}

/// Whoever leaves waits for neighbours that ask for what an earlier process left. What this one published it knows more of.
#[test]
fn only_own_messages_of_earlier_runs_count_as_being_handed_over() {
    let now = start();
    let mut core = core_with(3, &[8], outside(), now);
    let (old, new) = (id(3, 5, 5, 1), id(3, 9, 9, 1));
    let entry = Logged { id: old, len: 50, age: ms(5), hops: 0, digest: [0; 16] };
    core.restore(now, Restored { authors: vec![], envelopes: vec![entry], undelivered: vec![] });
    core.publish(now, new, genuine(&new, 50)).unwrap();
    drain(&mut core);
    let begin = core.handed_at();
    let answers = |core: &mut Core, now, one: Id| {
        let outputs = receive(core, now, 8, Message::IWant { ids: vec![one] });
        let [Output::Fetch { ticket, .. }] = outputs[..] else { panic!("{outputs:?}") };
        core.handle(now, Input::Fetched { ticket, envelopes: vec![Read::Found(genuine(&one, 50))] });
        assert!(matches!(drain(core)[..], [Output::Send { message: Message::Push { .. }, .. }]));
    };
    let later = now + ms(5_000);
    answers(&mut core, later, new);
    assert_eq!((core.handed_at(), core.is_handing(later)), (begin, false));
    answers(&mut core, later, old);
    assert_eq!(core.handed_at(), Some(later));
    assert!(core.is_handing(later + ms(1_499)) && !core.is_handing(later + ms(1_500)));
}

/// Handed over at once, it would go before what it waits for, which would come as late.
#[test]
fn what_waited_for_a_hole_waits_again_after_a_restart() {
    let now = start();
    let run = |first| id(3, 5, first, 1);
    let entry = |first| Logged { id: run(first), len: 50, age: ms(5), hops: 2, digest: [0; 16] };
    let left = |first| Undelivered { id: run(first), envelope: genuine(&run(first), 50), entries: 1 };
    let restarted = || {
        let mut core = core_with(0, &[8], outside(), now);
        // 5 was delivered, 6 was written and not handed over, 8 waits for 7, and of author 4 nothing was delivered.
        let other = id(4, 1, 9, 1);
        let envelopes = vec![entry(5), entry(6), entry(8), Logged { id: other, ..entry(9) }];
        let waits = Undelivered { id: other, envelope: genuine(&other, 50), entries: 1 };
        let undelivered = vec![left(6), left(8), waits];
        core.restore(now, Restored { authors: vec![], envelopes, undelivered });
        assert_eq!(deliveries(&drain(&mut core)), [(3, 6, false)]);
        assert_eq!((core.stats().held, core.stats().log_messages), (2, 4));
        core
    };
    let mut core = restarted();
    let later = now + ms(400);
    assert_eq!(take(&mut core, later, 8, run(8), ms(0)), [], "it was seen");
    assert_eq!(deliveries(&take(&mut core, later, 8, run(7), ms(0))), [(3, 7, false), (3, 8, false)]);
    assert_eq!(core.author_state(&3).and_then(|state| state.delivered), Some((5, 9)));

    let mut core = restarted();
    let over = now + Config::default().hold_time;
    assert!(core.poll_timeout().is_some_and(|at| at <= over));
    core.handle(over, Input::Timeout);
    assert_eq!(deliveries(&drain(&mut core)), [(3, 8, false), (4, 9, false)]);
    assert_eq!(deliveries(&take(&mut core, over, 8, run(7), ms(0))), [(3, 7, true)]);
}

#[test]
fn more_than_may_wait_goes_out_at_a_restart() {
    let now = start();
    let config = Config { hold_messages: 2, ..outside() };
    let mut core = core_with(0, &[8], config, now);
    let left = |first| {
        let id = id(3, 0, first, 1);
        Undelivered { id, envelope: genuine(&id, 50), entries: 1 }
    };
    let undelivered = (0..20).map(|n| left(5 + 2 * n)).collect();
    core.restore(now, Restored { authors: vec![], envelopes: vec![], undelivered });
    let went = deliveries(&drain(&mut core));
    assert_eq!(went, (0..12).map(|n| (3, 5 + 2 * n, false)).collect::<Vec<_>>());
    assert_eq!(core.stats().held, 8);
}

/// A log outside keeps a list of what is to be handed over: what never is would stay on it.
#[test]
fn what_is_appended_says_whether_it_is_delivered_too() {
    let now = start();
    let (first, overlaps) = (id(7, 0, 0, 2), id(7, 0, 1, 2));
    let mut winners = Vec::new();
    for lens in [[50, 60], [60, 50]] {
        let mut core = core_with(0, &[1], Config::default(), now);
        let own = id(0, 0, 0, 1);
        core.publish(now, own, genuine(&own, 50)).unwrap();
        assert_eq!(to_come(&drain(&mut core)), [(own, false)]);
        let mut take = |message| {
            let outputs = receive(&mut core, now, 1, message);
            answer(&mut core, now, outputs)
        };
        let outputs = take(push_of(first, lens[0]));
        assert_eq!((to_come(&outputs), deliveries(&outputs).len()), (vec![(first, true)], 2));
        // Another one with the same numbers is asked for when the sums differ, and one of the two is kept.
        let span = Span { author: 7, from: 0, to: 2 };
        take(Message::Ranges { held: vec![Held { span, sum: [9; 16] }] });
        let outputs = take(push_of(first, lens[1]));
        assert_eq!(deliveries(&outputs), []);
        winners.push(to_come(&outputs));
    }
    winners.sort();
    assert_eq!(winners, [vec![], vec![(first, false)]]);
    // Of two that overlap one is kept as well; what is new of the second is delivered whichever it is, and once.
    let mut kept = BTreeSet::new();
    for len in 50..70 {
        let mut core = core_with(0, &[1], Config::default(), now);
        let outputs = receive(&mut core, now, 1, push_of(first, len));
        answer(&mut core, now, outputs);
        let outputs = receive(&mut core, now, 1, push_of(overlaps, len));
        let outputs = answer(&mut core, now, outputs);
        assert_eq!(deliveries(&outputs), [(7, 2, false)]);
        kept.insert(to_come(&outputs));
    }
    assert_eq!(kept, BTreeSet::from([vec![], vec![(overlaps, true)]]));
}
