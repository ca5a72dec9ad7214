//! What keeps a view from being somebody's choice (faults rows 23 and 25): who withholds is replaced, strangers are felt for,
//! and what one source told alone is not relied on.

use std::time::{Duration, Instant};

use p2p_peers::Direction;
use p2p_peers::views::{Config, Input, Message, Output, Views};
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::net;

type Core = Views<u32, StdRng>;

fn core() -> Core {
    Views::new(0, Config::default(), StdRng::seed_from_u64(1))
}

fn outputs(views: &mut Core) -> Vec<Output<u32>> {
    std::iter::from_fn(|| views.poll_output()).collect()
}

fn link(views: &mut Core, now: Instant, peer: u32, direction: Direction, asked: bool) {
    views.handle(now, Input::LinkUp { peer, direction, asked, urgent: asked });
}

/// A neighbour that we dialled, which tells of these.
fn dialled(views: &mut Core, now: Instant, peer: u32, asked: bool, sample: Vec<u32>) {
    link(views, now, peer, Direction::Out, asked);
    views.handle(now, Input::Received { from: peer, message: Message::Accept { sample } });
}

/// A node that dials and asks.
fn called(views: &mut Core, now: Instant, peer: u32) {
    link(views, now, peer, Direction::In, false);
    views.handle(now, Input::Received { from: peer, message: Message::Neighbor { high: true } });
}

/// Lets timers pass until `end`, and counts what is told meanwhile.
fn wait(views: &mut Core, end: Instant, mut counts: impl FnMut(&Output<u32>) -> bool) -> usize {
    let mut count = 0;
    while let Some(due) = views.poll_timeout().filter(|due| *due < end) {
        views.handle(due, Input::Timeout);
        count += outputs(views).iter().filter(|output| counts(output)).count();
    }
    count
}

/// Five neighbours that we dialled and five that dialled us; others are known.
fn full(now: Instant) -> Core {
    let mut views = core();
    for peer in 1..=5 {
        dialled(&mut views, now, peer, false, (100 + peer * 10..110 + peer * 10).collect());
    }
    (6..=10).for_each(|peer| called(&mut views, now, peer));
    assert_eq!(views.active().count(), 10);
    outputs(&mut views);
    views
}

#[test]
fn who_withholds_is_replaced_two_a_minute_and_not_taken_back_for_a_minute() {
    let (begin, after) = (net::start(), Duration::from_secs);
    let mut views = full(begin);
    views.handle(begin, Input::Withholds(8));
    let told = outputs(&mut views);
    assert!(told.contains(&Output::Down(8)) && told.contains(&Output::Hangup(8)), "{told:?}");
    views.handle(begin, Input::LinkDown(8));
    views.handle(begin + after(29), Input::Withholds(9));
    assert!(views.is_active(9), "one in 30 s");
    views.handle(begin + after(30), Input::Withholds(9));
    assert!(!views.is_active(9));
    // There is room, and yet.
    called(&mut views, begin + after(59), 8);
    assert!(!views.is_active(8), "taken back after 59 s");
    views.handle(begin + after(59), Input::LinkDown(8));
    called(&mut views, begin + after(61), 8);
    assert!(views.is_active(8));
    assert_eq!(views.counters().replaced, 2);
}

#[test]
fn whom_the_user_asked_for_stays_whatever_it_withholds() {
    let now = net::start();
    let mut views = full(now);
    dialled(&mut views, now, 50, true, vec![]);
    views.handle(now, Input::Withholds(50));
    assert!(views.is_active(50));
}

/// While it was dialled others took its place.
#[test]
fn who_is_found_where_too_many_are_does_not_overfill_the_passive_view() {
    let now = net::start();
    let mut views = core();
    let names = |views: &mut Core, first: u32| {
        views.handle(now, Input::Suggested((first..first + 16).collect()));
    };
    names(&mut views, 1);
    views.handle(now, Input::Nudge);
    let dialled = outputs(&mut views).iter().find_map(|output| match output {
        Output::Dial { peer, .. } => Some(*peer),
        _ => None,
    });
    [17, 33, 49].into_iter().for_each(|first| names(&mut views, first));
    assert_eq!(views.passive().count(), views.config().passive);
    // From now on fewer are dialled at once, so nobody is drawn instead.
    link(&mut views, now, 99, Direction::Out, false);
    views.handle(now, Input::Crowded(dialled.expect("who has no neighbour dials")));
    assert_eq!(views.passive().count(), views.config().passive);
}

#[test]
fn a_stranger_is_felt_for_every_one_or_two_minutes() {
    let begin = net::start();
    let mut views = full(begin);
    let felt = wait(&mut views, begin + Duration::from_secs(3_600), |output| *output == Output::Feel);
    assert!((30..=60).contains(&felt), "{felt} in an hour");
}

#[test]
fn when_one_source_told_of_all_neighbours_the_users_addresses_are_asked_again() {
    let hour = Duration::from_secs(3_600);
    for (sources, reseeds) in [(1, 5..=6), (2, 0..=0)] {
        let begin = net::start();
        let mut views = core();
        for source in 1..=sources {
            dialled(&mut views, begin, source, true, (source * 100..source * 100 + 10).collect());
        }
        let (mut now, mut asked) = (begin, Vec::new());
        while now < begin + Duration::from_secs(30) {
            while let Some(output) = views.poll_output() {
                let Output::Dial { peer, .. } = output else { continue };
                if asked.iter().filter(|known| *known / 100 == peer / 100).count() < 3 {
                    asked.push(peer);
                    dialled(&mut views, now, peer, false, vec![]);
                } else {
                    views.handle(now, Input::DialFailed(peer));
                }
            }
            now = views.poll_timeout().unwrap_or(begin + hour);
            views.handle(now, Input::Timeout);
        }
        assert_eq!(asked.iter().map(|peer| peer / 100).max(), Some(sources), "{asked:?}");
        let count = wait(&mut views, begin + hour, |output| *output == Output::Reseed);
        assert!(reseeds.contains(&count), "{count} in an hour, {sources} sources");
    }
}

/// Its news walks and brings it neighbours; whom it would dial is full, or as new. Who dialled it measured nothing for it.
#[test]
fn a_joiner_with_a_neighbour_dials_nobody_while_its_news_walks_and_then_does() {
    let ms = Duration::from_millis;
    let cases = [
        (Direction::Out, 0, 100),
        (Direction::Out, 10, 200),
        (Direction::Out, 80, 1_000),
        (Direction::In, 10, 1_000),
    ];
    for (direction, answered_after, pause) in cases {
        let begin = net::start();
        let config = Config { active: 6, ..Config::default() };
        let mut views = Views::new(0, config, StdRng::seed_from_u64(1));
        link(&mut views, begin, 1, direction, direction == Direction::Out);
        let joined = begin + ms(answered_after);
        let answer = match direction {
            Direction::Out => Message::Accept { sample: vec![] },
            Direction::In => Message::Neighbor { high: true },
        };
        let others = Message::Shuffle { id: 1, ttl: 0, peers: (100..108).collect() };
        for message in [answer, others] {
            views.handle(joined, Input::Received { from: 1, message });
        }
        let is_dial = |output: &Output<u32>| matches!(output, Output::Dial { .. });
        let begun = outputs(&mut views);
        assert!(!begun.iter().any(is_dial), "{direction:?}: {begun:?}");
        assert_eq!(wait(&mut views, joined + ms(pause), is_dial), 0);
        assert!(wait(&mut views, joined + ms(pause + 1), is_dial) > 0, "{direction:?}, after {pause} ms");
    }
}

/// Who lost everybody and is dialled has no news on its way, and knows how long that would take where it is.
#[test]
fn who_is_dialled_after_it_lost_everybody_waits_as_long_as_when_it_joined() {
    let ms = Duration::from_millis;
    let begin = net::start();
    let config = Config { active: 6, ..Config::default() };
    let mut views = Views::new(0, config, StdRng::seed_from_u64(1));
    link(&mut views, begin, 1, Direction::Out, true);
    views.handle(begin + ms(10), Input::Received { from: 1, message: Message::Accept { sample: vec![] } });
    let lost = begin + ms(500);
    views.handle(lost, Input::LinkDown(1));
    called(&mut views, lost, 2);
    let peers = (100..108).collect();
    views.handle(lost, Input::Received { from: 2, message: Message::Shuffle { id: 1, ttl: 0, peers } });
    let is_dial = |output: &Output<u32>| matches!(output, Output::Dial { .. });
    assert!(!outputs(&mut views).iter().any(|output| matches!(output, Output::Dial { peer: 100.., .. })));
    views.handle(lost, Input::DialFailed(1));
    assert_eq!(wait(&mut views, lost + ms(200), is_dial), 0);
    assert!(wait(&mut views, lost + ms(201), is_dial) > 0);
}

/// A joiner that `by` tells of, whose walk ends here.
fn news(views: &mut Core, now: Instant, by: u32, joiner: u32) -> bool {
    views.handle(now, Input::Received { from: by, message: Message::ForwardJoin { joiner, ttl: 0 } });
    outputs(views).iter().any(|output| matches!(output, Output::Dial { peer, .. } if *peer == joiner))
}

/// They may be made up, and each dial of one that does not answer takes seconds.
#[test]
fn four_joiners_are_dialled_at_once_that_one_neighbour_told_of_and_eight_in_all() {
    let now = net::start();
    let mut views = full(now);
    let dialled = |views: &mut Core, by: u32| {
        (0..100).map(|n| by * 1000 + n).filter(|joiner| news(views, now, by, *joiner)).collect::<Vec<_>>()
    };
    let first = dialled(&mut views, 6);
    assert_eq!((first.len(), dialled(&mut views, 7).len(), dialled(&mut views, 8).len()), (4, 4, 0));
    assert!(views.counters().limited >= 200, "{:?}", views.counters());
    let later = now + Duration::from_secs(1);
    views.handle(later, Input::DialFailed(first[0]));
    assert!(news(&mut views, later, 8, 8500), "one of the eight is over");
}

/// One hostile neighbour would else keep a node from finding others for as long as it likes.
#[test]
fn news_of_joiners_that_do_not_answer_holds_up_no_replacement_of_lost_neighbours() {
    let (begin, half) = (net::start(), Duration::from_millis(500));
    let mut views = full(begin);
    let (mut now, mut joiner, mut reached) = (begin, 10_000, Vec::new());
    for round in 0..40 {
        if round == 20 {
            (1..=9).filter(|peer| *peer != 6).for_each(|peer| views.handle(now, Input::LinkDown(peer)));
        }
        let told = outputs(&mut views);
        for output in told {
            match output {
                // Made-up ones never answer, lost ones are gone, and the others take a neighbour.
                Output::Dial { peer: peer @ 100..1_000, .. } => {
                    reached.push((peer, round));
                    dialled(&mut views, now, peer, false, vec![]);
                }
                Output::Dial { peer: peer @ ..100, .. } => views.handle(now, Input::DialFailed(peer)),
                _ => {}
            }
        }
        for _ in 0..2 {
            joiner += 1;
            views.handle(now, Input::Received { from: 6, message: Message::ForwardJoin { joiner, ttl: 0 } });
        }
        now += half;
        views.handle(now, Input::Timeout);
    }
    let honest = views.active().filter(|peer| *peer != 6).count();
    assert!(honest >= 7, "{honest} others: {reached:?}");
}
