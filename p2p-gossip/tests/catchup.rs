//! Catch-up: who was away gets what it missed, once, in order, and from whoever has it.

mod net;

use std::collections::BTreeSet;

use bytes::Bytes;
use net::{
    Core, Id, Net, Out, answer, core_with, deliveries, drain, faults, genuine, id, ms, push, receive, start,
};
use p2p_gossip::{Config, Fault, Held, Input, LogStore, Message, Output, Read, Span};

/// A network whose links keep their order, as TCP does.
fn net(seed: u64, nodes: u32, config: &Config) -> Net {
    let mut net = Net::new(seed, nodes, config);
    net.ordered = true;
    net
}

fn mesh(net: &mut Net, nodes: std::ops::Range<u32>) {
    for a in nodes.clone() {
        for b in nodes.start..a {
            net.link(a, b);
        }
    }
}

/// Each node has each of these exactly once, each author's in order, none late.
fn assert_all_once(net: &Net, ids: &[Id]) {
    for (me, node) in net.nodes.iter().enumerate() {
        let mut expected: Vec<_> = ids
            .iter()
            .filter(|id| id.author as usize != me)
            .flat_map(|id| id.seqs().map(|seq| (id.author, seq, false)))
            .collect();
        let mut got = node.got.clone();
        got.sort_by_key(|(author, _, _)| *author);
        expected.sort_unstable();
        let late: Vec<_> = got.iter().filter(|(_, _, late)| *late).collect();
        assert!(late.is_empty(), "late at node {me}: {late:?}");
        assert!(got == expected, "node {me} has {} of {}", got.len(), expected.len());
        assert_eq!(node.faults, [], "node {me}");
    }
}

fn pushed(net: &Net) -> usize {
    net.nodes.iter().map(|node| node.pushed).sum()
}

#[test]
fn two_halves_end_with_the_same_messages_at_little_more_than_their_size() {
    const LEN: usize = 500;
    for seed in 0..4 {
        let mut net = net(seed, 12, &Config::default());
        mesh(&mut net, 0..6);
        mesh(&mut net, 6..12);
        let mut ids = Vec::new();
        for n in 0..120 {
            ids.push(net.publish(n % 12, 1 + u8::try_from(n % 3).unwrap(), LEN));
            net.run_for(ms(20));
        }
        net.run_for(ms(10_000));
        let before = pushed(&net);
        for (a, b) in [(0, 6), (1, 7), (2, 9), (5, 11)] {
            net.link(a, b);
        }
        net.run_for(ms(10_000));
        assert_all_once(&net, &ids);
        let (bytes, missing) = (pushed(&net) - before, 120 * 6 * LEN);
        assert!(bytes * 10 <= missing * 11, "seed {seed}: {bytes} bytes for {missing}");
    }
}

#[test]
fn who_was_away_catches_up_while_messages_go_on() {
    for seed in 0..4 {
        let mut net = net(seed, 6, &Config::default());
        mesh(&mut net, 0..6);
        // Before the tree is made, one's first messages may overtake each other on different ways.
        let mut ids = Vec::new();
        for author in 0..5 {
            ids.push(net.publish(author, 1, 100));
            net.run_for(ms(1_000));
        }
        for other in 0..5 {
            net.cut(5, other);
        }
        for n in 0..1_500 {
            ids.push(net.publish(n % 5, 1, 100));
            net.run_for(ms(5));
        }
        for other in 0..5 {
            net.link(5, other);
        }
        for n in 0..100 {
            ids.push(net.publish(n % 5, 1, 100));
            net.run_for(ms(40));
        }
        net.run_for(ms(5_000));
        assert_all_once(&net, &ids);
        assert!(net.stats(5).caught_up > 1_000, "{:?}", net.stats(5));
    }
}

#[test]
fn equal_logs_cost_one_digest_each_and_nothing_more() {
    let now = start();
    let mut core = core_with(0, &[1], Config::default(), now);
    let mut other = core_with(1, &[0], Config::default(), now);
    let id = id(9, 0, 3, 2);
    for (core, from) in [(&mut core, 1), (&mut other, 0)] {
        let outputs = receive(core, now, from, push(id, &genuine(&id, 50)));
        answer(core, now, outputs);
    }
    core.handle(now, Input::NeighborUp(7));
    other.handle(now, Input::NeighborUp(7));
    let digest = |outputs: Vec<Out>| match &outputs[..] {
        [Output::Send { to: 7, message: message @ Message::Digest { sums } }] if sums.len() == 1 => {
            message.clone()
        }
        other => panic!("{other:?}"),
    };
    let theirs = digest(drain(&mut other));
    assert_eq!(digest(drain(&mut core)), theirs);
    assert_eq!(receive(&mut core, now, 7, theirs), []);
}

/// The pull that outputs send to this neighbour.
fn range_pull(outputs: &[Out], peer: u32) -> Option<(u32, Vec<Span<u32>>)> {
    outputs.iter().find_map(|output| match output {
        Output::Send { to, message: Message::Pull { number, spans } } if *to == peer => {
            Some((*number, spans.clone()))
        }
        _ => None,
    })
}

fn claims(spans: &[(u32, u64, u64)]) -> Message<u32> {
    let held = |&(author, from, to): &(u32, u64, u64)| Held { span: Span { author, from, to }, sum: [1; 16] };
    Message::Ranges { held: spans.iter().map(held).collect() }
}

fn after(core: &mut Core, now: std::time::Instant) -> Vec<Out> {
    core.handle(now, Input::Timeout);
    drain(core)
}

#[test]
fn a_range_is_asked_of_one_neighbour_and_of_the_next_if_that_one_is_silent() {
    let now = start();
    let mut core = core_with(0, &[1, 2], Config::default(), now);
    assert_eq!(receive(&mut core, now, 1, claims(&[(9, 5, 8)])), []);
    assert_eq!(receive(&mut core, now, 2, claims(&[(9, 5, 8)])), []);
    assert_eq!(after(&mut core, now + ms(499)), [], "the tree may bring it");
    let outputs = after(&mut core, now + ms(500));
    let wanted = vec![Span { author: 9, from: 5, to: 8 }];
    let first = if range_pull(&outputs, 1).is_some() { 1 } else { 2 };
    assert_eq!(range_pull(&outputs, first).map(|(_, spans)| spans), Some(wanted.clone()));
    assert_eq!(range_pull(&outputs, 3 - first), None);
    assert_eq!(range_pull(&after(&mut core, now + ms(5_000)), 3 - first), None);
    let outputs = after(&mut core, now + ms(5_500));
    assert_eq!(range_pull(&outputs, 3 - first).map(|(_, spans)| spans), Some(wanted));
    assert_eq!(core.stats().ranges_timed_out, 1);
}

#[test]
fn an_answer_without_what_was_claimed_is_not_asked_for_again() {
    let now = start();
    let mut core = core_with(0, &[1], Config::default(), now);
    receive(&mut core, now, 1, claims(&[(9, 5, 8), (9, 20, 22)]));
    let (number, spans) = range_pull(&after(&mut core, now + ms(500)), 1).expect("a pull");
    assert_eq!(spans.len(), 2);
    // It cannot claim something into being, nor silence anybody.
    receive(&mut core, now + ms(500), 1, Message::Served { number, done: 2, upto: 0 });
    for seconds in 1..120 {
        assert_eq!(range_pull(&after(&mut core, now + ms(seconds * 1_000)), 1), None);
    }
    assert_eq!((core.stats().gaps, core.stats().authors), (0, 1));
    let id = id(9, 0, 0, 1);
    let outputs = receive(&mut core, now, 1, push(id, &genuine(&id, 0)));
    assert_eq!(deliveries(&answer(&mut core, now, outputs)), [(9, 0, false)]);
}

#[test]
fn whoever_claims_everything_of_everybody_costs_little() {
    let mut now = start();
    let mut core = core_with(0, &[1, 2], Config::default(), now);
    let all: Vec<_> = (0..1_024).map(|author| (author + 10, 0, u64::MAX)).collect();
    for _ in 0..10 {
        receive(&mut core, now, 1, claims(&all));
    }
    let too_many: Vec<_> = (0..1_025).map(|author| (author + 10, 0, 1)).collect();
    let fault = Fault::TooManyIds { count: 1_025, limit: 1_024 };
    assert_eq!(faults(&receive(&mut core, now, 1, claims(&too_many))), [(1, fault)]);
    assert_eq!(faults(&receive(&mut core, now, 1, claims(&[(10, 5, 5)]))), [(1, Fault::Malformed)]);
    let more: Vec<_> = (0..100).map(|author| (author + 5_000, 0, 1)).collect();
    receive(&mut core, now, 1, claims(&more));
    assert_eq!(core.stats().refused_claims, 100);
    // It is asked now and then, and what another says of one of them is asked of that one.
    now += ms(600);
    let (_, spans) = range_pull(&after(&mut core, now), 1).expect("a pull");
    assert!(spans.iter().map(|span| span.to - span.from).sum::<u64>() <= 512);
    receive(&mut core, now, 2, claims(&[(10, 3, 5), (11, 3, 5)]));
    let outputs: Vec<_> = (0..30).flat_map(|n| after(&mut core, now + ms(n * 500))).collect();
    assert!(range_pull(&outputs, 2).is_some());
}

#[test]
fn a_pull_is_answered_within_its_bytes_and_says_how_far() {
    let now = start();
    let config = Config { range_bytes: 1_000, ..Config::default() };
    let mut core = core_with(0, &[1, 2], config, now);
    let ids: Vec<Id> = (0..6).map(|n| id(9, 0, 3 + 2 * n, 2)).collect();
    for id in &ids {
        let outputs = receive(&mut core, now, 1, push(*id, &genuine(id, 400)));
        answer(&mut core, now, outputs);
    }
    let answered = |outputs: &[Out]| {
        let sent = |output: &Out| match output {
            Output::Send { to: 2, message: Message::Push { id, .. } } => Some(id.first),
            _ => None,
        };
        let served = outputs.iter().find_map(|output| match output {
            Output::Send { to: 2, message: Message::Served { done, upto, .. } } => Some((*done, *upto)),
            _ => None,
        });
        (outputs.iter().filter_map(sent).collect::<Vec<_>>(), served)
    };
    let pull = |from, to| {
        let empty = Span { author: 4, from: 0, to: 9 };
        Message::Pull { number: 7, spans: vec![empty, Span { author: 9, from, to }] }
    };
    assert_eq!(answered(&receive(&mut core, now, 2, pull(4, 100))), (vec![3, 5], Some((1, 7))));
    assert_eq!(answered(&receive(&mut core, now, 2, pull(7, 9))), (vec![7], Some((2, 0))));
    assert_eq!(answered(&receive(&mut core, now, 2, pull(50, 60))), (vec![], Some((2, 0))));
    // Each at most three times.
    for _ in 0..3 {
        receive(&mut core, now, 2, pull(7, 9));
    }
    assert_eq!(answered(&receive(&mut core, now, 2, pull(7, 9))), (vec![], Some((2, 0))));
    let many = Message::Pull { number: 1, spans: vec![Span { author: 9, from: 0, to: 9 }; 257] };
    assert_eq!(faults(&receive(&mut core, now, 2, many)).len(), 1);
    for _ in 0..200 {
        receive(&mut core, now, 2, pull(50, 60));
    }
    assert!(core.stats().pulls_refused > 90, "{:?}", core.stats());
}

#[test]
fn a_log_outside_answers_pulls_of_ranges_too() {
    let now = start();
    let mut core = core_with(0, &[1, 2], Config { log_store: LogStore::Outside, ..Config::default() }, now);
    let ids: Vec<Id> = (0..3).map(|n| id(9, 0, n, 1)).collect();
    for id in &ids {
        let outputs = receive(&mut core, now, 1, push(*id, &genuine(id, 50)));
        answer(&mut core, now, outputs);
    }
    let spans = vec![Span { author: 9, from: 0, to: 9 }];
    let outputs = receive(&mut core, now, 2, Message::Pull { number: 3, spans });
    let [Output::Fetch { ticket, ids: read, .. }] = &outputs[..] else { panic!("{outputs:?}") };
    assert_eq!(*read, ids);
    let read = |id: &Id| if id.first == 1 { Read::Gone } else { Read::Found(genuine(id, 50)) };
    let envelopes = ids.iter().map(read).collect();
    core.handle(now, Input::Fetched { ticket: *ticket, envelopes });
    let outputs = drain(&mut core);
    let [
        Output::Send { message: Message::Push { .. }, .. },
        Output::Send { message: Message::Push { .. }, .. },
        last,
    ] = &outputs[..]
    else {
        panic!("{outputs:?}")
    };
    assert_eq!(*last, Output::Send { to: 2, message: Message::Served { number: 3, done: 1, upto: 0 } });
}

/// Neighbours that lack all they are asked for, for so many seconds. Returns the gaps that are told.
fn nobody_has_it(
    core: &mut Core,
    peers: &[u32],
    from: std::time::Instant,
    seconds: u64,
) -> Vec<(u64, Span<u32>)> {
    let mut gaps = Vec::new();
    for second in 0..seconds {
        let now = from + ms(second * 1_000);
        let outputs = after(core, now);
        for output in &outputs {
            if let Output::Gap { missing } = output {
                gaps.push((second, *missing));
            }
        }
        for &peer in peers {
            if let Some((number, spans)) = range_pull(&outputs, peer) {
                let done = u16::try_from(spans.len()).expect("few spans");
                receive(core, now, peer, Message::Served { number, done, upto: 0 });
            }
        }
    }
    gaps
}

/// A core that got 0 and 5 to 6 of author 9, and gave up waiting for 1 to 4.
fn with_hole(peers: &[u32], now: std::time::Instant) -> Core {
    let mut core = core_with(0, peers, Config::default(), now);
    for id in [id(9, 0, 0, 1), id(9, 0, 5, 2)] {
        let outputs = receive(&mut core, now, 1, push(id, &genuine(&id, 0)));
        answer(&mut core, now, outputs);
    }
    core
}

#[test]
fn what_every_neighbour_lacks_for_a_minute_is_a_gap_and_told_once() {
    let now = start();
    let mut core = with_hole(&[1, 2, 3], now);
    let gap = Span { author: 9, from: 1, to: 5 };
    let gaps = nobody_has_it(&mut core, &[1, 2, 3], now, 200);
    assert!(matches!(gaps[..], [(60..=63, span)] if span == gap), "{gaps:?}");
    // It turns up all the same.
    let late = id(9, 0, 2, 1);
    let outputs = receive(&mut core, now + ms(200_000), 2, push(late, &genuine(&late, 0)));
    assert_eq!(deliveries(&answer(&mut core, now, outputs)), [(9, 2, true)]);
}

#[test]
fn a_hole_that_there_is_no_room_for_is_a_gap() {
    let now = start();
    let mut core = core_with(0, &[1], Config { max_ranges: 4, ..Config::default() }, now);
    let mut outputs = Vec::new();
    for seq in [0, 5, 6, 10, 20, 30] {
        // Nobody waits for what is missing any longer when the next one comes.
        let (now, id) = (now + ms(seq * 1_000), id(9, 0, seq, 1));
        outputs.extend(after(&mut core, now));
        let check = receive(&mut core, now, 1, push(id, &genuine(&id, 0)));
        outputs.extend(answer(&mut core, now, check));
    }
    assert!(!outputs.iter().any(|output| matches!(output, Output::Gap { .. })));
    let (now, last) = (now + ms(40_000), id(9, 0, 40, 1));
    outputs = receive(&mut core, now, 1, push(last, &genuine(&last, 0)));
    let outputs = answer(&mut core, now, outputs);
    let gap = Output::Gap { missing: Span { author: 9, from: 1, to: 5 } };
    assert!(outputs.contains(&gap), "{outputs:?}");
    assert_eq!(core.stats().seqs_given_up, 4);
}

/// As when a link is full, and what is announced is asked for while the author goes on.
#[test]
fn a_burst_of_which_every_second_envelope_comes_late_is_complete() {
    const ENVELOPES: u64 = 4_000;
    let now = start();
    let mut core = core_with(0, &[1], Config::default(), now);
    let mut got = Vec::new();
    for seq in (0..ENVELOPES).step_by(2).chain((1..ENVELOPES).step_by(2)) {
        let id = id(9, 0, seq, 1);
        let outputs = receive(&mut core, now, 1, push(id, &genuine(&id, 0)));
        got.extend(deliveries(&answer(&mut core, now, outputs)).into_iter().map(|(_, seq, _)| seq));
    }
    got.sort_unstable();
    assert_eq!(got, (0..ENVELOPES).collect::<Vec<_>>());
    assert_eq!(core.stats().seqs_given_up, 0);
}

#[test]
fn one_neighbour_that_does_not_say_that_it_lacks_it_makes_no_gap() {
    let now = start();
    let mut core = with_hole(&[1, 2, 3], now);
    assert_eq!(nobody_has_it(&mut core, &[1, 3], now, 200), []);
    // Nor is there one when nobody is linked.
    for peer in [1, 2, 3] {
        core.handle(now + ms(200_000), Input::NeighborDown(peer));
    }
    assert_eq!(nobody_has_it(&mut core, &[], now + ms(200_000), 100), []);
    core.handle(now + ms(300_000), Input::NeighborUp(4));
    assert_eq!(nobody_has_it(&mut core, &[4], now + ms(300_000), 5).len(), 1, "the only one lacks it");
}

#[test]
fn a_hole_that_one_of_many_can_fill_is_filled_and_no_gap() {
    let now = start();
    let mut core = with_hole(&[1, 2, 3], now);
    let mut got = Vec::new();
    for second in 0..20 {
        let now = now + ms(second * 1_000);
        let outputs = after(&mut core, now);
        for peer in [1, 2, 3] {
            let Some((number, spans)) = range_pull(&outputs, peer) else { continue };
            if peer == 3 {
                for seq in 1..5 {
                    let id = id(9, 0, seq, 1);
                    let outputs = receive(&mut core, now, peer, push(id, &genuine(&id, 0)));
                    got.extend(deliveries(&answer(&mut core, now, outputs)));
                }
            }
            let done = u16::try_from(spans.len()).expect("a few");
            receive(&mut core, now, peer, Message::Served { number, done, upto: 0 });
        }
    }
    assert_eq!(got, (1..5).map(|seq| (9, seq, true)).collect::<Vec<_>>());
    assert_eq!(nobody_has_it(&mut core, &[1, 2, 3], now + ms(20_000), 100), []);
}

#[test]
fn one_neighbour_that_never_answers_does_not_keep_others_from_being_asked() {
    let now = start();
    let mut core = with_hole(&[1, 2, 3], now);
    let mut asked = BTreeSet::new();
    for second in 0..9 {
        let outputs = after(&mut core, now + ms(second * 1_000));
        asked.extend([1, 2, 3].into_iter().filter(|&peer| range_pull(&outputs, peer).is_some()));
    }
    assert_eq!(asked, BTreeSet::from([1, 2, 3]));
}

/// A core that holds 0 to 99 of author 9.
fn with_hundred(now: std::time::Instant) -> Core {
    let mut core = core_with(0, &[1, 2], Config::default(), now);
    for seq in 0..100 {
        let id = id(9, 0, seq, 1);
        let outputs = receive(&mut core, now, 2, push(id, &genuine(&id, 0)));
        answer(&mut core, now, outputs);
    }
    core
}

#[test]
fn a_digest_of_an_old_neighbour_holds_nothing_back() {
    let mut now = start();
    let mut core = with_hundred(now);
    receive(&mut core, now, 1, Message::Digest { sums: vec![[0; 16]] });
    now += ms(60_000);
    after(&mut core, now);
    // Sums of any two differ while something is on its way.
    receive(&mut core, now, 1, Message::Digest { sums: vec![[1; 16]] });
    let first = id(7, 0, 3, 1);
    let outputs = receive(&mut core, now, 2, push(first, &genuine(&first, 0)));
    assert_eq!(deliveries(&answer(&mut core, now, outputs)).len(), 1);
}

#[test]
fn what_a_new_neighbour_might_bring_is_waited_for_until_it_has_said_what_it_holds() {
    let mut now = start();
    for held in [vec![], vec![(7, 0, 4)]] {
        let mut core = with_hundred(now);
        receive(&mut core, now, 1, Message::Digest { sums: vec![[1; 16]] });
        // An author whose first message came without those before it, if there are any.
        let first = id(7, 0, 3, 1);
        let outputs = receive(&mut core, now, 2, push(first, &genuine(&first, 0)));
        assert_eq!(deliveries(&answer(&mut core, now, outputs)).len(), 0);
        now += ms(100);
        let outputs = receive(&mut core, now, 1, claims(&held));
        assert_eq!(deliveries(&outputs).len(), usize::from(held.is_empty()), "{held:?}");
    }
}

#[test]
fn who_claims_ever_more_and_hands_over_nothing_holds_nobody_up_for_long() {
    claims_ever_more(false);
    claims_ever_more(true);
}

fn claims_ever_more(answers: bool) {
    let now = start();
    let mut core = with_hundred(now);
    receive(&mut core, now, 1, claims(&[(7, 0, 1)]));
    let live = id(7, 0, 50, 1);
    let outputs = receive(&mut core, now, 2, push(live, &genuine(&live, 0)));
    assert_eq!(deliveries(&answer(&mut core, now, outputs)), [], "what was claimed is waited for");
    let mut waited = 0;
    while core.stats().held > 0 {
        waited += 500;
        assert!(waited <= 4_000, "held up for {waited} ms");
        let now = now + ms(waited);
        receive(&mut core, now, 1, claims(&[(7, 0, 1 + waited / 500)]));
        let asked = range_pull(&after(&mut core, now), 1);
        // A liar that answers every pull with nothing is no better.
        if let Some((number, spans)) = asked.filter(|_| answers) {
            let done = u16::try_from(spans.len()).expect("a few");
            receive(&mut core, now, 1, Message::Served { number, done, upto: 0 });
        }
    }
    assert!(waited >= 3_000, "it was waited for {waited} ms");
}

#[test]
fn what_is_here_by_now_leaves_room_for_other_claims() {
    let mut now = start();
    let config = Config { max_claims: 4, ..Config::default() };
    let mut core = core_with(0, &[1], config, now);
    for author in 10..30 {
        let outputs = receive(&mut core, now, 1, claims(&[(author, 0, 1)]));
        drop(outputs);
        let id = id(author, 0, 0, 1);
        let outputs = receive(&mut core, now, 1, push(id, &genuine(&id, 0)));
        answer(&mut core, now, outputs);
        now += ms(100);
    }
    assert_eq!(core.stats().refused_claims, 0);
}

/// Genuine for the stub, with other bytes.
fn other(id: &Id) -> Bytes {
    genuine(id, 77)
}

#[test]
fn a_fork_shows_on_both_sides_and_the_logs_become_equal() {
    for seed in 0..3 {
        let mut net = net(seed, 2, &Config::default());
        // The same 40 messages on both, but for one.
        let all: Vec<Id> = (0..40).map(|n| id(9, 0, n, 1)).collect();
        for id in &all {
            let forked = id.first == 17 + seed;
            for node in 0..2_u32 {
                let from = 1 - node;
                net.nodes[node as usize].core.handle(net.now, Input::NeighborUp(from));
                let bytes = if forked && node == 1 { other(id) } else { genuine(id, 60) };
                net.input(node, Input::Received { from, message: push(*id, &bytes) });
                net.run_for(ms(50));
                net.input(node, Input::NeighborDown(from));
            }
        }
        net.link(0, 1);
        net.run_for(ms(10_000));
        for node in 0..2 {
            let seqs: Vec<_> = net.nodes[node].got.iter().map(|(_, seq, _)| *seq).collect();
            assert_eq!(seqs, (0..40).collect::<Vec<_>>(), "each once, the fork delivers nothing again");
            assert_eq!(net.stats(u32::try_from(node).unwrap()).forked, 1, "seed {seed}, node {node}");
            assert_eq!(net.nodes[node].faults, []);
        }
        let digests: BTreeSet<_> = (0..2)
            .map(|node| {
                net.nodes[node].core.handle(net.now, Input::NeighborUp(5));
                let outputs = drain(&mut net.nodes[node].core);
                outputs.into_iter().find_map(|output| match output {
                    Output::Send { to: 5, message: Message::Digest { sums } } => Some(sums),
                    _ => None,
                })
            })
            .collect();
        assert_eq!(digests.len(), 1, "seed {seed}");
    }
}

#[test]
fn sums_that_differ_prove_no_fork_alone() {
    let now = start();
    let mut core = core_with(0, &[1], Config::default(), now);
    let there = id(9, 0, 0, 1);
    let outputs = receive(&mut core, now, 1, push(there, &genuine(&there, 60)));
    answer(&mut core, now, outputs);
    let outputs = receive(&mut core, now, 1, claims(&[(9, 0, 1)]));
    assert!(range_pull(&outputs, 1).is_some(), "{outputs:?}");
    // A forged one costs its sender what any does.
    let outputs = receive(&mut core, now, 1, push(there, &net::forged(&there, 60)));
    assert_eq!(faults(&answer(&mut core, now, outputs)), [(1, Fault::Forged)]);
    assert_eq!(core.stats().forked, 0);
    // The genuine one that we have is dropped unchecked.
    assert_eq!(receive(&mut core, now, 1, push(there, &genuine(&there, 60))), []);
    let outputs = receive(&mut core, now, 1, push(there, &other(&there)));
    let outputs = answer(&mut core, now, outputs);
    assert!(outputs.contains(&Output::Forked { author: 9 }), "{outputs:?}");
    assert_eq!(deliveries(&outputs), []);
}

/// A node that got these from somebody who is gone, and one that links to it.
fn newcomer(ids: &[Id]) -> Net {
    let mut net = net(1, 2, &Config::default());
    net.input(0, Input::NeighborUp(77));
    for id in ids {
        net.input(0, Input::Received { from: 77, message: push(*id, &genuine(id, 20)) });
        net.run_for(ms(5));
        if net.nodes[0].got.len().is_multiple_of(900) {
            // New authors are let in at a rate.
            net.run_for(ms(200_000));
        }
    }
    net.input(0, Input::NeighborDown(77));
    assert_eq!(net.nodes[0].got.len(), ids.len());
    net.link(0, 1);
    net
}

/// Each start of a program that died, or of a tool that sends one message, may leave numbers unused between the messages.
#[test]
fn all_ranges_of_one_author_are_told_however_many() {
    for ranges in [64, 65, 300, 700] {
        let ids: Vec<Id> = (0..ranges).map(|n| id(9, 10_000 * n, 10_000 * n, 1)).collect();
        let mut net = newcomer(&ids);
        net.run_for(ms(60_000));
        let mut got: Vec<_> = net.nodes[1].got.iter().map(|(_, seq, _)| *seq).collect();
        got.sort_unstable();
        assert_eq!(got, ids.iter().map(|id| id.first).collect::<Vec<_>>(), "{ranges}");
    }
}

#[test]
fn all_authors_are_told_of_however_many() {
    let ids: Vec<Id> = (1_000..2_600).map(|author| id(author, 0, 0, 1)).collect();
    let mut net = newcomer(&ids);
    net.run_for(ms(240_000));
    assert_eq!(net.nodes[1].got.len(), ids.len());
}

/// Telling of all takes longer than it is between two comparisons, and is not begun anew with each.
#[test]
fn what_takes_long_to_be_told_is_told_to_the_end() {
    let ids: Vec<Id> =
        (100..120).flat_map(|author| (0..250).map(move |n| id(author, 1_000 * n, 1_000 * n, 1))).collect();
    let mut net = newcomer(&ids);
    net.run_for(ms(600_000));
    assert_eq!(net.nodes[1].got.len(), ids.len());
}

/// What an author says meanwhile is no reason to leave out what it said before.
#[test]
fn an_author_that_goes_on_is_told_to_the_end_too() {
    let ids: Vec<Id> = (0..400).map(|n| id(9, 10_000 * n, 10_000 * n, 1)).collect();
    let mut net = newcomer(&ids);
    net.input(0, Input::NeighborUp(77));
    for n in 0..600 {
        let live = id(9, 10_000_000, 10_000_000 + n, 1);
        net.input(0, Input::Received { from: 77, message: push(live, &genuine(&live, 20)) });
        net.run_for(ms(100));
    }
    let mut got: Vec<_> = net.nodes[1].got.iter().map(|(_, seq, _)| *seq).collect();
    got.sort_unstable();
    got.truncate(ids.len());
    assert_eq!(got, ids.iter().map(|id| id.first).collect::<Vec<_>>());
}
