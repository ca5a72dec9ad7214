//! Nobody holds up what others have: not by claiming much and handing over little, nor by announcing what it never sends.

mod net;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use net::{
    Core, Id, Out, announce, answer, core_with, deliveries, drain, genuine, id, ihave, ms, pulls, push,
    receive, start,
};
use p2p_gossip::{Config, Held, Input, Message, Output, Span};

const A: u32 = 10;
const B: u32 = 20;

fn held(author: u32, from: u64, to: u64) -> Held<u32> {
    Held { span: Span { author, from, to }, sum: [9; 16] }
}

fn ranges(held: impl IntoIterator<Item = Held<u32>>) -> Message<u32> {
    Message::Ranges { held: held.into_iter().collect() }
}

/// Lets all deadlines come until `until`, and answers checks.
fn run(core: &mut Core, now: &mut Instant, until: Instant) -> Vec<Out> {
    let mut all = Vec::new();
    for _ in 0..200_000 {
        let Some(at) = core.poll_timeout().filter(|at| *at <= until) else { break };
        *now = (*now).max(at);
        core.handle(*now, Input::Timeout);
        let outs = drain(core);
        all.extend(answer(core, *now, outs));
    }
    *now = until;
    all
}

fn asks(out: &Out, of: u32) -> bool {
    let message = match out {
        Output::Send { to, message } if *to == of => message,
        _ => return false,
    };
    matches!(message, Message::Pull { .. } | Message::IWant { .. } | Message::Graft { .. })
}

/// One id waits for a range, and those announced behind it do not wait for that.
#[test]
fn what_waits_for_a_free_pull_is_asked_for_in_the_end() {
    let (x, y) = (5, 3);
    let mut now = start();
    let mut core = core_with(1, &[A, B], Config::default(), now);
    receive(&mut core, now, B, ranges([held(x, 0, 100)]));
    let until = now + ms(600);
    let outs = run(&mut core, &mut now, until);
    let number = outs.iter().find_map(|out| match out {
        Output::Send { to: B, message: Message::Pull { number, .. } } => Some(*number),
        _ => None,
    });
    let number = number.expect("B is asked for the range");
    let first: Vec<Id> = (0..64).map(|seq| id(y, 0, seq, 1)).collect();
    let more: Vec<Id> = (64..104).map(|seq| id(y, 0, seq, 1)).collect();
    assert_eq!(pulls(&receive(&mut core, now, A, ihave(&first))).len(), 64);
    receive(&mut core, now, A, ihave(&[id(x, 0, 0, 1)]));
    receive(&mut core, now, A, ihave(&more));
    let mut asked = BTreeSet::new();
    for one in &first {
        let outs = receive(&mut core, now, A, push(*one, &genuine(one, 50)));
        asked.extend(pulls(&answer(&mut core, now, outs)));
    }
    for seq in 0..100 {
        let one = id(x, 0, seq, 1);
        let outs = receive(&mut core, now, B, push(one, &genuine(&one, 50)));
        answer(&mut core, now, outs);
    }
    receive(&mut core, now, B, Message::Served { number, done: 1, upto: 0 });
    let asked: Vec<Id> = asked.into_iter().map(|(_, id)| id).filter(|id| id.author == y).collect();
    assert_eq!(asked, more);
}

/// A neighbour claims what it has not and hands over one envelope of its own again and again, which it was asked for as well.
#[test]
fn a_pull_that_is_kept_open_keeps_nobody_out() {
    let begin = start();
    let mut core = core_with(1, &[A, B], Config::default(), begin);
    let victims = || (100..150).map(|victim| held(victim, 0, 4));
    receive(&mut core, begin, B, ranges(victims().chain([held(6, 0, 300)])));
    let (mut now, mut seq, mut copies) = (begin, 0, 0);
    let (mut by_announcement, mut by_range) = (None, None);
    for step in 1..50 {
        let until = begin + Duration::from_secs(4) * step;
        let mut outs = run(&mut core, &mut now, until);
        let one = id(6, 0, seq, 1);
        outs.extend(receive(&mut core, now, B, push(one, &genuine(&one, 50))));
        copies += 1;
        if copies == 10 {
            (seq, copies) = (seq + 1, 0);
        }
        if step == 3 {
            let all: Vec<Id> =
                (100..125).flat_map(|victim| (0..4).map(move |seq| id(victim, 0, seq, 1))).collect();
            outs.extend(receive(&mut core, now, A, ihave(&all)));
            outs.extend(receive(&mut core, now, A, ranges(victims())));
        }
        let outs = answer(&mut core, now, outs);
        assert!(!outs.iter().any(|out| matches!(out, Output::Misbehaved { .. })));
        for out in outs.iter().filter(|out| asks(out, A)) {
            let by = match out {
                Output::Send { message: Message::Pull { .. }, .. } => &mut by_range,
                _ => &mut by_announcement,
            };
            by.get_or_insert(now - begin);
        }
    }
    // Announced after 12 s: two pulls more, and the step in which it shows.
    assert!(by_announcement.is_some_and(|after| after <= Duration::from_secs(24)), "{by_announcement:?}");
    assert!(by_range.is_some_and(|after| after <= Duration::from_secs(70)), "{by_range:?}");
}

/// All that a neighbour claims it announced as well, and does not send when it is asked.
#[test]
fn what_is_on_its_way_is_looked_for_ever_less_often() {
    let mut now = start();
    let config = Config { digest_every: Duration::from_secs(3_600), ..Config::default() };
    let mut core = core_with(1, &[A], config, now);
    let ids: Vec<Id> = (0..640).map(|n| id(5, 0, 1_000 * n, 1)).collect();
    receive(&mut core, now, A, announce(&ids, true));
    receive(&mut core, now, A, ranges(ids.iter().map(|id| held(5, id.first, id.first + 1))));
    // Pulls end after 3 s, and only then something is to be done.
    let (begin, mut turns) = (now, BTreeSet::new());
    while let Some(at) = core.poll_timeout().filter(|at| *at <= begin + Duration::from_secs(60)) {
        now = now.max(at);
        turns.insert(now);
        core.handle(now, Input::Timeout);
        drain(&mut core);
        assert!(turns.len() < 1_000);
    }
    assert!(turns.len() < 60, "{} turns in a minute", turns.len());
}

/// It might have what is missing, so there is no gap; but it is not asked every second for ever.
#[test]
fn whoever_never_answers_is_asked_ever_less_often() {
    let begin = start();
    let mut core = core_with(1, &[A], Config::default(), begin);
    for first in [0, 2] {
        let one = id(5, 0, first, 1);
        let outs = receive(&mut core, begin, A, push(one, &genuine(&one, 50)));
        answer(&mut core, begin, outs);
    }
    let mut now = begin;
    let outs = run(&mut core, &mut now, begin + Duration::from_secs(600));
    let asked = outs.iter().filter(|out| asks(out, A)).count();
    assert!((15..=25).contains(&asked), "{asked} questions in ten minutes");
    assert!(!outs.iter().any(|out| matches!(out, Output::Gap { .. })));
}

#[test]
fn whoever_comes_back_again_and_again_introduces_no_more_authors_for_it() {
    let mut now = start();
    let mut core = core_with(1, &[A], Config::default(), now);
    for round in 0..70_u32 {
        core.handle(now, Input::NeighborUp(66));
        drain(&mut core);
        for n in 0..1_000 {
            let one = id(1_000 + round * 1_000 + n, 0, 0, 1);
            let outs = receive(&mut core, now, 66, push(one, &genuine(&one, 40)));
            answer(&mut core, now, outs);
        }
        core.handle(now, Input::NeighborDown(66));
        drain(&mut core);
        now += ms(2_500);
    }
    // 1,000 at once and 5 a second.
    assert!(core.stats().authors <= 1_000 + 5 * 175 + 5, "{}", core.stats().authors);
    let one = id(7, 0, 0, 1);
    let outs = receive(&mut core, now, A, push(one, &genuine(&one, 40)));
    assert_eq!(deliveries(&answer(&mut core, now, outs)), [(7, 0, false)]);
}
