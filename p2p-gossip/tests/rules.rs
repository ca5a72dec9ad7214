//! One core and scripted neighbours: what is checked, dropped, pulled and refused.

mod net;

use bytes::Bytes;
use net::{
    announce, answer, check, core_with, deliveries, drain, faults, forged, genuine, id, ihave, ms, pulls,
    push, receive, start,
};
use p2p_gossip::{Config, Fault, Input, Message, Output, PublishError, Queued};

fn verifies(outputs: &[net::Out]) -> Vec<u32> {
    outputs
        .iter()
        .filter_map(|output| match output {
            Output::Verify { from, .. } => Some(*from),
            _ => None,
        })
        .collect()
}

#[test]
fn a_forged_copy_that_comes_first_suppresses_nothing() {
    let now = start();
    let mut core = core_with(0, &[1, 2, 3, 4], Config::default(), now);
    let id = id(9, 0, 0, 1);
    let first = receive(&mut core, now, 1, push(id, &forged(&id, 50)));
    assert_eq!(verifies(&first), [1]);
    // While the check is open: another forger with the same bytes, one with others, and an honest neighbour.
    for (from, envelope) in [(2, forged(&id, 50)), (3, forged(&id, 60)), (4, genuine(&id, 50))] {
        assert_eq!(receive(&mut core, now, from, push(id, &envelope)), []);
    }
    let outputs = answer(&mut core, now, first);
    assert_eq!(deliveries(&outputs), [(9, 0, false)]);
    let mut forgers = faults(&outputs);
    forgers.sort_by_key(|(peer, _)| *peer);
    assert_eq!(forgers, [(1, Fault::Forged), (2, Fault::Forged), (3, Fault::Forged)]);
    for output in &outputs {
        if let Output::Send { to, message: Message::Push { id, envelope, .. } } = output {
            assert!(check(id, envelope).is_some() && *to != 4, "only the genuine one, and not back");
        }
    }
    assert_eq!(core.stats().forged, 3);
}

#[test]
fn nothing_counts_as_seen_before_its_check_succeeded() {
    let now = start();
    let mut core = core_with(0, &[1, 2], Config::default(), now);
    let id = id(9, 0, 0, 1);
    let outputs = receive(&mut core, now, 1, push(id, &forged(&id, 50)));
    assert_eq!(outputs.len(), 1, "a check and nothing else");
    assert_eq!(faults(&answer(&mut core, now, outputs)), [(1, Fault::Forged)]);
    let outputs = receive(&mut core, now, 2, push(id, &genuine(&id, 50)));
    assert_eq!(deliveries(&answer(&mut core, now, outputs)), [(9, 0, false)]);
}

#[test]
fn an_id_that_lies_about_its_envelope_is_forged() {
    let now = start();
    let mut core = core_with(0, &[1], Config::default(), now);
    let (real, claimed) = (id(9, 0, 5, 1), id(9, 0, 5, 2));
    let outputs = receive(&mut core, now, 1, push(claimed, &genuine(&real, 50)));
    assert_eq!(faults(&answer(&mut core, now, outputs)), [(1, Fault::Forged)]);
}

#[test]
fn copies_of_a_verified_envelope_are_dropped_before_any_check() {
    let now = start();
    let mut core = core_with(0, &[1, 2], Config::default(), now);
    let id = id(9, 0, 0, 1);
    let outputs = receive(&mut core, now, 1, push(id, &genuine(&id, 50)));
    answer(&mut core, now, outputs);
    let prune = Output::Send { to: 2, message: Message::Prune };
    assert_eq!(receive(&mut core, now, 2, push(id, &genuine(&id, 50))), [prune]);
    for _ in 1..10 {
        assert_eq!(receive(&mut core, now, 2, push(id, &genuine(&id, 50))), []);
    }
    let fault = Fault::Duplicates { count: 11, limit: 10 };
    let outputs = receive(&mut core, now, 2, push(id, &genuine(&id, 50)));
    assert_eq!(outputs, [Output::Misbehaved { peer: 2, fault }]);
    assert_eq!(core.stats().duplicates, 11);
}

#[test]
fn a_thousand_messages_replayed_ten_times_come_once_also_when_the_log_lost_them() {
    let now = start();
    let config = Config { log_messages: 10, max_duplicates: 100, ..Config::default() };
    let mut core = core_with(0, &[1, 2], config, now);
    let mut got = Vec::new();
    for round in 0..11 {
        for seq in 0..1_000 {
            let id = id(9, 0, seq, 1);
            let outputs = receive(&mut core, now, 1 + round % 2, push(id, &genuine(&id, 50)));
            got.extend(deliveries(&answer(&mut core, now, outputs)));
        }
    }
    let once: Vec<_> = (0..1_000).map(|seq| (9, seq, false)).collect();
    assert_eq!(got, once);
    assert_eq!(core.stats().duplicates, 10_000);
    assert_eq!(core.stats().log_evicted, 990);
}

#[test]
fn overlapping_bundles_deliver_only_what_is_new() {
    let now = start();
    let mut core = core_with(0, &[1, 2], Config::default(), now);
    for (first, count, new) in [(10, 2, vec![10, 11]), (11, 3, vec![12, 13]), (10, 4, vec![])] {
        let id = id(9, 0, first, count);
        let outputs = receive(&mut core, now, 1, push(id, &genuine(&id, 50)));
        let got: Vec<_> =
            deliveries(&answer(&mut core, now, outputs)).into_iter().map(|(_, seq, _)| seq).collect();
        assert_eq!(got, new);
    }
}

#[test]
fn an_announced_envelope_is_pulled_from_the_next_one_after_three_seconds() {
    let now = start();
    let mut core = core_with(0, &[1, 2, 3], Config::default(), now);
    let id = id(9, 0, 0, 1);
    assert_eq!(pulls(&receive(&mut core, now, 1, ihave(&[id]))), [(1, id)]);
    assert_eq!(pulls(&receive(&mut core, now, 2, ihave(&[id]))), []);
    assert_eq!(core.poll_timeout(), Some(now + ms(3_000)));
    core.handle(now + ms(2_999), Input::Timeout);
    assert_eq!(drain(&mut core), []);
    let now = now + ms(3_000);
    core.handle(now, Input::Timeout);
    assert_eq!(pulls(&drain(&mut core)), [(2, id)]);
    // The last announcer fails too: forgotten, until someone announces it again.
    let now = now + ms(3_000);
    core.handle(now, Input::Timeout);
    assert_eq!(pulls(&drain(&mut core)), []);
    assert_eq!((core.stats().missing, core.stats().pulls_abandoned), (0, 1));
    assert_eq!(pulls(&receive(&mut core, now, 3, ihave(&[id]))), [(3, id)]);
    let outputs = receive(&mut core, now, 3, push(id, &genuine(&id, 40_000)));
    assert_eq!(deliveries(&answer(&mut core, now, outputs)), [(9, 0, false)]);
    assert_eq!(core.stats().missing, 0);
}

#[test]
fn a_neighbour_that_goes_during_a_pull_is_replaced_at_once() {
    let now = start();
    let mut core = core_with(0, &[1, 2], Config::default(), now);
    let id = id(9, 0, 0, 1);
    receive(&mut core, now, 1, ihave(&[id]));
    receive(&mut core, now, 2, ihave(&[id]));
    core.handle(now, Input::NeighborDown(1));
    assert_eq!(pulls(&drain(&mut core)), [(2, id)]);
    core.handle(now, Input::NeighborDown(2));
    assert_eq!(drain(&mut core), []);
    assert_eq!((core.stats().missing, core.poll_timeout()), (0, None));
}

#[test]
fn a_forged_answer_to_a_pull_sends_us_to_the_next_announcer() {
    let now = start();
    let mut core = core_with(0, &[1, 2], Config::default(), now);
    let id = id(9, 0, 0, 1);
    receive(&mut core, now, 1, ihave(&[id]));
    receive(&mut core, now, 2, ihave(&[id]));
    let outputs = receive(&mut core, now, 1, push(id, &forged(&id, 40_000)));
    let outputs = answer(&mut core, now, outputs);
    assert_eq!(faults(&outputs), [(1, Fault::Forged)]);
    assert_eq!(pulls(&outputs), [(2, id)]);
}

#[test]
fn bogus_announcements_cost_little_and_stop_nobody() {
    let now = start();
    let mut core = core_with(0, &[1, 2], Config::default(), now);
    let mut asked = 0;
    for batch in 0..100 {
        let ids: Vec<_> = (0..1_000).map(|n| id(8, 0, batch * 1_000 + n, 1)).collect();
        asked += pulls(&receive(&mut core, now, 1, ihave(&ids))).len();
    }
    assert_eq!(asked, 64);
    assert_eq!(core.stats().missing, 4_096);
    assert_eq!(core.stats().refused_announced, 100_000 - 4_096);
    let real = id(9, 0, 0, 1);
    assert_eq!(pulls(&receive(&mut core, now, 2, ihave(&[real]))), [(2, real)]);
    let ids: Vec<_> = (0..1_001).map(|n| id(8, 0, n, 1)).collect();
    let fault = Fault::TooManyIds { count: 1_001, limit: 1_000 };
    assert_eq!(faults(&receive(&mut core, now, 2, ihave(&ids))), [(2, fault)]);
}

/// Faults row 18: the liar's pulls are all taken when it is time to ask.
#[test]
fn who_announces_what_is_overdue_is_asked_at_once() {
    let now = start();
    let mut core = core_with(0, &[1, 2], Config::default(), now);
    let bogus: Vec<_> = (0..100).map(|n| id(8, 0, n, 1)).collect();
    assert_eq!(pulls(&receive(&mut core, now, 1, ihave(&bogus))).len(), 64);
    let real = id(9, 0, 0, 1);
    assert_eq!(pulls(&receive(&mut core, now, 1, announce(&[real], true))), []);
    let later = now + ms(1_000);
    core.handle(later, Input::Timeout);
    assert_eq!(pulls(&drain(&mut core)), []);
    assert_eq!(pulls(&receive(&mut core, later, 2, announce(&[real], true))), [(2, real)]);
}

/// Faults row 16: what is too much of one author is fetched within its share.
#[test]
fn a_flood_of_announcements_of_one_author_holds_no_other_up() {
    let now = start();
    let mut core = core_with(0, &[1, 2], Config::default(), now);
    let flood: Vec<_> = (0..5_000).map(|n| id(8, 0, n, 1)).collect();
    let mut pulled = Vec::new();
    for ids in flood.chunks(1_000) {
        pulled.extend(pulls(&receive(&mut core, now, 1, ihave(ids))));
    }
    assert_eq!((pulled.len(), core.stats().missing, core.stats().refused_announced), (64, 4_096, 904));
    // The list is full and all pulls are taken: of another author there is room all the same, and its turn is the next.
    let other = id(9, 0, 0, 1);
    assert_eq!(pulls(&receive(&mut core, now, 1, ihave(&[other]))), []);
    assert_eq!((core.stats().missing, core.stats().refused_announced), (4_096, 905));
    let (_, first) = pulled[0];
    let outputs = receive(&mut core, now, 1, push(first, &genuine(&first, 40_000)));
    let next = pulls(&answer(&mut core, now, outputs.clone()));
    assert!(pulls(&outputs).into_iter().chain(next).any(|pull| pull == (1, other)), "{outputs:?}");
    // What gave way is the newest, and can be announced again.
    let gone = flood[4_095];
    assert_eq!(pulls(&receive(&mut core, now, 2, ihave(&[gone]))), [(2, gone)]);
}

#[test]
fn a_pull_is_answered_three_times() {
    let now = start();
    let mut core = core_with(0, &[1, 2], Config::default(), now);
    let id = id(0, 7, 7, 1);
    let queued = core.publish(now, id, genuine(&id, 40_000)).unwrap();
    assert_eq!(queued, Queued { links: 2 });
    let announced = drain(&mut core);
    assert!(
        announced.iter().all(|output| !matches!(output, Output::Send { message: Message::Push { .. }, .. }))
    );
    let graft = Message::Graft { id: Some(id) };
    for times in 0..10 {
        let answers = receive(&mut core, now, 1, graft.clone()).len();
        assert_eq!(answers, usize::from(times < 3));
    }
    assert_eq!(receive(&mut core, now, 2, graft.clone()).len(), 1);
    // Who comes back at once has had it; who lost it has it again some time later.
    let answers = |core: &mut net::Core, now| {
        core.handle(now, Input::NeighborDown(1));
        core.handle(now, Input::NeighborUp(1));
        drain(core);
        (0..10).map(|_| receive(core, now, 1, graft.clone()).len()).sum::<usize>()
    };
    let later = now + Config::default().answers_age;
    assert_eq!(answers(&mut core, later - ms(1)), 0);
    assert_eq!((answers(&mut core, later), answers(&mut core, later + ms(1))), (3, 0));
    // A day later it is gone.
    core.handle(now + Config::default().log_age, Input::Timeout);
    assert!(drain(&mut core).contains(&Output::Drop { id }));
    assert_eq!(receive(&mut core, now, 2, graft), []);
    assert_eq!((core.stats().log_messages, core.stats().pulls_unknown), (0, 1));
}

#[test]
fn a_busy_neighbour_is_not_read_and_what_it_sends_all_the_same_is_not_lost() {
    let now = start();
    let config = Config { max_open_checks: 2, ..Config::default() };
    let mut core = core_with(0, &[1], config, now);
    let mut checks = Vec::new();
    for seq in 0..6 {
        assert_eq!(core.ready_for(1), seq < 2);
        let id = id(9, 0, seq, 1);
        checks.extend(receive(&mut core, now, 1, push(id, &genuine(&id, 50))));
    }
    assert_eq!((core.stats().open_checks, core.stats().refused_busy), (4, 2));
    let outputs = answer(&mut core, now, checks);
    assert!(core.ready_for(1));
    assert_eq!(pulls(&outputs).len(), 2);
    let mut got = deliveries(&outputs);
    for (_, id) in pulls(&outputs) {
        let outputs = receive(&mut core, now, 1, push(id, &genuine(&id, 50)));
        got.extend(deliveries(&answer(&mut core, now, outputs)));
    }
    let all: Vec<_> = (0..6).map(|seq| (9, seq, false)).collect();
    assert_eq!(got, all);
}

#[test]
fn one_neighbour_introduces_new_authors_slowly() {
    let mut now = start();
    let config = Config { new_authors_burst: 3, max_authors: 8, ..Config::default() };
    let mut core = core_with(0, &[1, 2], config, now);
    let introduce = |core: &mut net::Core, now, from, author| {
        let id = id(author, 0, 0, 1);
        let outputs = receive(core, now, from, push(id, &genuine(&id, 50)));
        deliveries(&answer(core, now, outputs)).len()
    };
    let taken: usize = (10..20).map(|author| introduce(&mut core, now, 1, author)).sum();
    assert_eq!((taken, core.stats().refused_new_authors), (3, 7));
    assert_eq!(introduce(&mut core, now, 2, 19), 1, "another neighbour may");
    now += ms(400);
    let taken: usize = (20..30).map(|author| introduce(&mut core, now, 1, author)).sum();
    assert_eq!(taken, 2, "five a second");
    now += ms(60_000);
    let taken: usize = (30..40).map(|author| introduce(&mut core, now, 2, author)).sum();
    assert_eq!((taken, core.stats().authors), (1, 8), "the table is full, ourselves counted");
    assert!(core.stats().refused_authors_full > 0);
}

#[test]
fn we_never_hear_ourselves_and_learn_when_we_run_elsewhere() {
    let now = start();
    let mut core = core_with(0, &[1, 2], Config::default(), now);
    core.resume_at(100);
    let mine = id(0, 100, 100, 1);
    core.publish(now, mine, genuine(&mine, 50)).unwrap();
    drain(&mut core);
    let prune = Output::Send { to: 1, message: Message::Prune };
    assert_eq!(receive(&mut core, now, 1, push(mine, &genuine(&mine, 50))), [prune]);
    for (other, ahead) in [(id(0, 50, 60, 1), false), (id(0, 100, 500, 2), true)] {
        let outputs = receive(&mut core, now, 1, push(other, &genuine(&other, 50)));
        let outputs = answer(&mut core, now, outputs);
        assert_eq!(deliveries(&outputs), []);
        assert_eq!(faults(&outputs), []);
        assert_eq!(outputs.contains(&Output::OwnAhead { id: other }), ahead);
        assert!(outputs.iter().any(|o| matches!(o, Output::Send { to: 2, .. })), "passed on");
    }
    let used = id(0, 100, 101, 1);
    let error = core.publish(now, used, genuine(&used, 50)).unwrap_err();
    assert_eq!(error, PublishError::UsedSeq { first: 101, next: 502 });
    // A forged claim moves nothing.
    let liar = id(0, 100, 9_000, 1);
    let outputs = receive(&mut core, now, 1, push(liar, &forged(&liar, 50)));
    assert_eq!(answer(&mut core, now, outputs).len(), 1);
    let next = id(0, 502, 502, 1);
    assert!(core.publish(now, next, genuine(&next, 50)).is_ok());
}

#[test]
fn what_cannot_be_published_is_refused_and_nothing_happens() {
    let now = start();
    let mut core = core_with(0, &[1], Config::default(), now);
    let limit = Config::default().max_envelope;
    for (id, len, error) in [
        (id(1, 0, 0, 1), 1, PublishError::NotOurs),
        (id(0, 0, 0, 65), 1, PublishError::BadId),
        (id(0, 0, 0, 1), limit + 1, PublishError::TooLarge { len: limit + 1, limit }),
    ] {
        let refused = core.publish(now, id, Bytes::from(vec![0; len]));
        assert_eq!((refused, drain(&mut core)), (Err(error), vec![]));
    }
    assert_eq!(core.stats().published, 0);
}

#[test]
fn what_no_honest_neighbour_sends_is_a_fault() {
    let now = start();
    let mut core = core_with(0, &[1], Config::default(), now);
    let limit = Config::default().max_envelope;
    let (bad, good) = (id(9, 0, 0, 0), id(9, 0, 0, 1));
    for (message, fault) in [
        (push(bad, &Bytes::new()), Fault::Malformed),
        (ihave(&[good, bad]), Fault::Malformed),
        (push(good, &Bytes::from(vec![0; limit + 1])), Fault::TooLarge { len: limit + 1, limit }),
    ] {
        assert_eq!(faults(&receive(&mut core, now, 1, message)), [(1, fault)]);
    }
}

#[test]
fn strangers_and_stale_answers_are_ignored() {
    let now = start();
    let mut core = core_with(0, &[1], Config::default(), now);
    let id = id(9, 0, 0, 1);
    assert_eq!(receive(&mut core, now, 5, push(id, &genuine(&id, 50))), []);
    let outputs = receive(&mut core, now, 1, push(id, &genuine(&id, 50)));
    let Some(Output::Verify { ticket, envelope, .. }) = outputs.first() else { panic!("a check") };
    let (ticket, digest) = (*ticket, Some(p2p_gossip::digest(envelope)));
    core.handle(now, Input::NeighborDown(1));
    core.handle(now, Input::Verified { ticket, digest });
    assert_eq!(deliveries(&drain(&mut core)), [(9, 0, false)], "the link went, the message did not");
    core.handle(now, Input::Verified { ticket, digest });
    assert_eq!(drain(&mut core), []);
    assert_eq!((core.stats().not_neighbor, core.stats().unknown_tickets), (1, 1));
}

#[test]
fn what_one_pushed_before_it_knew_that_it_is_a_neighbour_no_more_is_taken_and_nothing_else() {
    let now = start();
    let mut core = core_with(0, &[1, 2], Config::default(), now);
    core.handle(now, Input::NeighborDown(1));
    drain(&mut core);
    let (first, second, late) = (id(9, 0, 0, 1), id(9, 0, 1, 1), id(9, 0, 2, 1));
    // Its author, which is new, is introduced by it.
    let outputs = receive(&mut core, now + ms(1_999), 1, push(first, &genuine(&first, 50)));
    let outputs = answer(&mut core, now + ms(1_999), outputs);
    assert_eq!(deliveries(&outputs), [(9, 0, false)]);
    let sends = |output: &net::Out, peer: u32| matches!(output, Output::Send { to, .. } if *to == peer);
    assert!(outputs.iter().any(|output| sends(output, 2)), "it is passed on");
    assert_eq!(receive(&mut core, now, 1, announce(&[second], false)), [], "it cannot be asked");
    assert_eq!(core.stats().not_neighbor, 1);
    assert_eq!(receive(&mut core, now + ms(2_000), 1, push(late, &genuine(&late, 50))), []);
    assert_eq!(core.stats().not_neighbor, 2);
    // A copy from it, and one that is forged, send nothing to it.
    core.handle(now, Input::NeighborDown(2));
    let copy = receive(&mut core, now, 2, push(first, &genuine(&first, 50)));
    let lie = receive(&mut core, now, 2, push(second, &forged(&second, 50)));
    let lie = answer(&mut core, now, lie);
    assert!(!copy.iter().chain(&lie).any(|output| sends(output, 1) || sends(output, 2)), "{copy:?} {lie:?}");
    assert_eq!(faults(&lie), [(2, Fault::Forged)]);
}

#[test]
fn of_those_that_went_the_last_32_are_heard() {
    let now = start();
    let neighbors: Vec<u32> = (1..=33).collect();
    let mut core = core_with(0, &neighbors, Config::default(), now);
    for peer in &neighbors {
        core.handle(now, Input::NeighborDown(*peer));
    }
    drain(&mut core);
    let ids = [id(9, 0, 0, 1), id(9, 0, 1, 1)];
    assert_eq!(receive(&mut core, now, 1, push(ids[0], &genuine(&ids[0], 50))), []);
    assert_eq!(verifies(&receive(&mut core, now, 2, push(ids[1], &genuine(&ids[1], 50)))), [2]);
}

#[test]
fn a_pruned_link_gets_announcements_until_it_grafts() {
    let now = start();
    let mut core = core_with(0, &[1], Config::default(), now);
    let publish = |core: &mut net::Core, seq| {
        let id = id(0, 0, seq, 1);
        core.publish(now, id, genuine(&id, 50)).unwrap();
        drain(core).iter().any(|o| matches!(o, Output::Send { message: Message::Push { .. }, .. }))
    };
    assert!(publish(&mut core, 0));
    receive(&mut core, now, 1, Message::Prune);
    assert!(!publish(&mut core, 1));
    let answers = receive(&mut core, now, 1, Message::Graft { id: Some(id(0, 0, 1, 1)) });
    assert_eq!(answers.len(), 1);
    assert!(publish(&mut core, 2));
}

#[test]
fn a_hole_holds_back_delivery_but_not_forwarding() {
    let now = start();
    let mut core = core_with(0, &[1, 2], Config::default(), now);
    let take = |core: &mut net::Core, now, seq| {
        let id = id(9, 0, seq, 1);
        let outputs = receive(core, now, 1, push(id, &genuine(&id, 50)));
        let outputs = answer(core, now, outputs);
        assert!(outputs.iter().any(|o| matches!(o, Output::Send { to: 2, .. })));
        deliveries(&outputs)
    };
    assert_eq!(take(&mut core, now, 5), [(9, 5, false)], "the first one seen waits for nothing");
    assert_eq!(take(&mut core, now, 7), []);
    let later = now + ms(1_000);
    core.handle(later, Input::Timeout);
    assert_eq!(deliveries(&drain(&mut core)), [(9, 7, false)]);
    assert_eq!(take(&mut core, later, 6), [(9, 6, true)]);
    assert_eq!((core.stats().holes_given_up, core.stats().delivered_late), (1, 1));
}
