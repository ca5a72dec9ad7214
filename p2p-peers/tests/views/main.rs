//! Laws of the views in networks of many, under virtual time.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a harness of tests; seeds and figures are printed"
)]

mod net;
mod safety;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use net::Net;
use p2p_peers::Direction;
use p2p_peers::views::{Config, Counters, Input, Message, Output, Views};
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// `n` nodes through the first one, 50 a second, then `settle`.
fn network(seed: u64, n: u32, settle: Duration) -> Net {
    println!("seed {seed}");
    let mut net = Net::new(seed, Config::default());
    net.join(None);
    for _ in 1..n {
        net.run(Duration::from_millis(20));
        net.join(Some(0));
    }
    net.run(settle);
    net
}

fn check_bounds(net: &Net) {
    let config = Config::default();
    for node in net.alive() {
        let views = net.views(node);
        let active: Vec<u32> = views.active().collect();
        assert!(active.len() <= config.active + 2, "{node} has {} neighbours", active.len());
        assert!(active.iter().eq(&net.ups[node as usize]), "what was told is what is");
        let passive: Vec<u32> = views.passive().collect();
        assert!(passive.len() <= config.passive);
        let mut once = passive.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), passive.len(), "{node} knows a peer twice");
        assert!(!active.contains(&node) && !passive.contains(&node), "{node} knows itself");
        assert!(passive.iter().all(|peer| !active.contains(peer)), "{node} has a peer in both views");
    }
}

fn asymmetric(net: &Net) -> usize {
    let one_sided = |node: &u32| {
        net.ups[*node as usize].iter().filter(|peer| !net.ups[**peer as usize].contains(node)).count()
    };
    net.alive().map(|node| one_sided(&node)).sum()
}

#[test]
fn up_to_eleven_are_a_full_mesh_within_a_second() {
    for (seed, n) in [(1, 2), (2, 3), (3, 5), (4, 8), (5, 11)] {
        let mut net = Net::new(seed, Config::default());
        net.join(None);
        for _ in 1..n {
            net.join(Some(0));
        }
        net.run(secs(1));
        for node in net.alive() {
            assert_eq!(net.ups[node as usize].len(), n - 1, "node {node} of {n}");
        }
    }
}

/// The table may name peers that it then has no room to dial: the driver would go round for ever.
#[test]
fn who_cannot_be_dialled_is_asked_for_again_after_a_pause() {
    let mut views = Views::new(0, Config::default(), StdRng::seed_from_u64(1));
    let begin = Net::new(1, Config::default()).now;
    let (mut now, mut asked) = (begin, 0);
    views.handle(now, Input::Nudge);
    while now < begin + secs(60) {
        let before = asked;
        while let Some(output) = views.poll_output() {
            match output {
                Output::Suggest { .. } => {
                    asked += 1;
                    assert_eq!(asked, before + 1, "again after {:?}", now - begin);
                    views.handle(now, Input::Suggested(vec![7]));
                }
                Output::Dial { peer, .. } => views.handle(now, Input::DialFailed(peer)),
                _ => {}
            }
        }
        let due = views.poll_timeout().unwrap();
        assert!(due > now);
        now = due;
        views.handle(now, Input::Timeout);
    }
    assert!((5..20).contains(&asked), "asked {asked} times in a minute");
}

#[test]
fn a_storm_of_joiners_ends_in_one_connected_network_of_even_degree() {
    for seed in 1..4 {
        let net = network(seed, 300, secs(30));
        check_bounds(&net);
        let (largest, alive) = net.component();
        assert_eq!(largest, alive, "connected");
        let mean = net.mean_degree();
        let least = net.alive().map(|node| net.ups[node as usize].len()).min().unwrap();
        println!("mean degree {mean:.2}, least {least}, introducer sent {}", net.sent[&0]);
        assert!((7.5..=10.0).contains(&mean) && least >= 4, "mean degree {mean}, least {least}");
        assert!(asymmetric(&net) <= 4, "{} neighbours on one side only", asymmetric(&net));
        let total: u64 = net.sent.values().sum();
        assert!(net.sent[&0] < total / 10, "the introducer says more than a tenth of all");
    }
}

/// Nearly all are full while nodes join. Who has enough neighbours does not try them one after the other.
#[test]
fn joiners_are_refused_a_few_times_and_a_full_network_rests() {
    let mut net = network(1, 300, secs(60));
    let sum = |net: &Net, count: fn(&Counters) -> u64| {
        net.alive().map(|node| count(net.views(node).counters())).sum::<u64>()
    };
    let (refused, displaced) = (sum(&net, |c| c.refused), sum(&net, |c| c.displaced));
    println!(
        "of 300 each refused {:.1} and displaced {:.1}",
        refused as f64 / 300.0,
        displaced as f64 / 300.0
    );
    assert!(refused < 10 * 300, "each refused {:.1}", refused as f64 / 300.0);
    assert!(displaced < 5 * 300, "each displaced {:.1}", displaced as f64 / 300.0);
    net.run(secs(300));
    let later = sum(&net, |c| c.displaced) - displaced;
    assert!(later < 30, "{later} more displaced in five minutes in which nobody joined");
}

/// Eight neighbours are enough. If it dialled one of them alone it dials others, for safety, and takes its time.
#[test]
fn who_has_enough_neighbours_makes_one_attempt_in_five_seconds() {
    let mut views = Views::new(0, Config::default(), StdRng::seed_from_u64(1));
    let begin = net::start();
    let link = |peer, direction| Input::LinkUp { peer, direction, asked: false, urgent: false };
    views.handle(begin, Input::Suggested((100..130).collect()));
    for peer in 1..=7 {
        views.handle(begin, link(peer, Direction::In));
        views.handle(begin, Input::Received { from: peer, message: Message::Neighbor { high: false } });
    }
    let (mut now, mut refused) = (begin, Vec::new());
    while now < begin + secs(40) {
        while let Some(output) = views.poll_output() {
            let Output::Dial { peer, .. } = output else { continue };
            views.handle(now, link(peer, Direction::Out));
            if views.active().count() < 8 {
                let message = Message::Accept { sample: vec![] };
                views.handle(now, Input::Received { from: peer, message });
            } else {
                refused.push(now - begin);
                views
                    .handle(now, Input::Received { from: peer, message: Message::Refuse { sample: vec![] } });
                views.handle(now, Input::LinkDown(peer));
            }
        }
        now = views.poll_timeout().unwrap();
        views.handle(now, Input::Timeout);
    }
    let later: Vec<_> = refused.iter().filter(|at| **at > secs(1)).collect();
    assert!((6..=8).contains(&later.len()), "{refused:?}");
    assert!(later.windows(2).all(|pair| *pair[1] - *pair[0] >= secs(5)), "{refused:?}");
}

/// Where most machines died, who has nobody left tries more at once than who lost some.
#[test]
fn who_lost_everybody_dials_eight_at_once() {
    for (left, dials) in [(0, 8), (1, 4)] {
        let mut views = Views::new(0, Config::default(), StdRng::seed_from_u64(1));
        let now = net::start();
        let sample: Vec<u32> = (100..116).collect();
        for peer in 1..=10 {
            views.handle(now, Input::LinkUp { peer, direction: Direction::Out, asked: false, urgent: false });
            let message = Message::Accept { sample: sample.iter().map(|id| id + peer * 20).collect() };
            views.handle(now, Input::Received { from: peer, message });
        }
        while views.poll_output().is_some() {}
        let later = now + secs(60);
        (1..=10 - left).for_each(|peer| views.handle(later, Input::LinkDown(peer)));
        let dialled = std::iter::from_fn(|| views.poll_output())
            .filter(|output| matches!(output, Output::Dial { peer, .. } if *peer > 100))
            .count();
        assert_eq!(dialled, dials, "with {left} left");
    }
}

#[test]
fn passive_views_are_full_and_even() {
    let net = network(7, 300, secs(180));
    let mut known = BTreeMap::<u32, usize>::new();
    let mut sizes = 0;
    for node in net.alive() {
        sizes += net.views(node).passive().count();
        for peer in net.views(node).passive() {
            *known.entry(peer).or_default() += 1;
        }
    }
    let (mean, most) = (sizes as f64 / 300.0, known.values().max().copied().unwrap());
    println!("passive {mean:.1}, known by at most {most}, {} known at all", known.len());
    assert!(mean >= 25.0, "passive views of {mean}");
    assert!(most <= 150, "somebody is in {most} passive views of 300");
    assert!(known.len() >= 297, "only {} are known to anybody", known.len());
    independent(&net);
}

/// What two nodes know in common is what chance gives, neighbours or not, and who came early knows no more of those.
fn independent(net: &Net) {
    let nodes: Vec<u32> = net.alive().collect();
    let n = nodes.len() as f64;
    let views: Vec<BTreeSet<u32>> = nodes.iter().map(|&node| net.views(node).passive().collect()).collect();
    let overlap = |a: u32, b: u32| {
        let (a, b) = (&views[a as usize], &views[b as usize]);
        a.intersection(b).count() as f64 / (a.len() * b.len()) as f64 * n
    };
    let mean = |pairs: &mut dyn Iterator<Item = (u32, u32)>| {
        let (sum, count) = pairs.fold((0.0, 0.0), |(sum, count), (a, b)| (sum + overlap(a, b), count + 1.0));
        sum / count
    };
    let near = mean(&mut nodes.iter().flat_map(|&a| net.ups[a as usize].iter().map(move |&b| (a, b))));
    let any =
        mean(&mut nodes.iter().flat_map(|&a| nodes.iter().map(move |&b| (a, b))).filter(|(a, b)| a != b));
    let half = nodes[nodes.len() / 2];
    let (mut same, mut all) = (0.0, 0.0);
    for (&node, view) in nodes.iter().zip(&views) {
        same += view.iter().filter(|&&peer| (peer < half) == (node < half)).count() as f64;
        all += view.len() as f64;
    }
    let same = same / all;
    println!("in common: {any:.2} of chance, neighbours {near:.2}; of the same half {same:.2}");
    assert!(any < 1.5 && near < 2.0, "in common: {any:.2} of chance, neighbours {near:.2}");
    assert!((0.35..0.65).contains(&same), "{same:.2} of what a node knows joined in the same half");
}

#[test]
fn survivors_of_a_mass_death_find_together() {
    let n = 300;
    for (seed, percent, within) in [(1, 30, 10), (2, 50, 10), (3, 80, 30)] {
        let mut net = network(seed, n, secs(120));
        for node in (0..n).filter(|node| node * 37 % 100 < percent) {
            net.kill(node);
        }
        net.run(secs(within));
        let (largest, alive) = net.component();
        println!("{percent} %: {largest} of {alive}");
        assert_eq!(largest, alive, "{percent} % killed");
        check_bounds(&net);
    }
}

#[test]
fn two_halves_are_one_again_after_the_cut() {
    let mut net = network(11, 100, secs(60));
    net.cut(50);
    net.run(secs(300));
    assert_eq!(net.component(), (50, 100), "each half is whole");
    net.cut(0);
    net.run(secs(90));
    let (largest, alive) = net.component();
    assert_eq!(largest, alive, "whole again");
    check_bounds(&net);
}

/// A full view, of which `dialled` neighbours were dialled and the others dialled us, after a request of high priority.
fn asked_when_full(dialled: u32) -> (Views<u32, StdRng>, Vec<Output<u32>>) {
    let config = Config::default();
    let (active, now) = (u32::try_from(config.active).unwrap(), net::start());
    let mut views = Views::new(0, config, StdRng::seed_from_u64(1));
    // Somebody else is known: the world is not a small one.
    let sample: Vec<u32> = (100..116).collect();
    let link = |peer, direction| Input::LinkUp { peer, direction, asked: false, urgent: false };
    for peer in 1..=active {
        let (direction, message) = match peer <= dialled {
            true => (Direction::Out, Message::Accept { sample: sample.clone() }),
            false => (Direction::In, Message::Neighbor { high: false }),
        };
        views.handle(now, link(peer, direction));
        views.handle(now, Input::Received { from: peer, message });
    }
    while views.poll_output().is_some() {}
    assert_eq!(views.active().count(), views.config().active, "{dialled} dialled");
    views.handle(now, link(99, Direction::In));
    views.handle(now, Input::Received { from: 99, message: Message::Neighbor { high: true } });
    let outputs = std::iter::from_fn(|| views.poll_output()).collect();
    (views, outputs)
}

#[test]
fn a_node_without_neighbours_is_taken_by_a_full_one_whoever_dialled() {
    for dialled in 3..=10 {
        let (views, outputs) = asked_when_full(dialled);
        assert!(views.is_active(99), "refused where {dialled} of 10 were dialled");
        let down: Vec<u32> = outputs
            .iter()
            .filter_map(|output| if let Output::Down(peer) = output { Some(*peer) } else { None })
            .collect();
        let &[displaced] = down.as_slice() else { panic!("{down:?} went for one") };
        assert!(displaced > 3, "of those dialled the oldest three stay");
        let callers = dialled + 1..dialled + 5;
        assert!(!callers.contains(&displaced), "of those that dialled the oldest four stay");
    }
}

#[test]
fn who_was_taken_for_having_nobody_does_not_go_for_one_that_we_dialled() {
    for seed in 0..20 {
        let (mut views, _) = asked_when_full(3 + seed % 8);
        // Whom we dial has a place here, wherever it comes from.
        for peer in [98, 97] {
            views.handle(
                net::start(),
                Input::LinkUp { peer, direction: Direction::Out, asked: true, urgent: false },
            );
            views.handle(
                net::start(),
                Input::Received { from: peer, message: Message::Accept { sample: vec![] } },
            );
            while views.poll_output().is_some() {}
            assert!(views.is_active(99), "{seed}: before {peer}");
        }
    }
}

fn hostile() -> impl Strategy<Value = Input<u32>> {
    let peer = 0_u32..40;
    let peers = prop::collection::vec(0_u32..40, 0..20);
    let message = prop_oneof![
        Just(Message::Join),
        (peer.clone(), any::<u8>()).prop_map(|(joiner, ttl)| Message::ForwardJoin { joiner, ttl }),
        any::<bool>().prop_map(|high| Message::Neighbor { high }),
        peers.clone().prop_map(|sample| Message::Accept { sample }),
        peers.clone().prop_map(|sample| Message::Refuse { sample }),
        (0_u64..4, any::<u8>(), peers.clone()).prop_map(|(id, ttl, peers)| Message::Shuffle {
            id,
            ttl,
            peers
        }),
        (0_u64..4, peers.clone()).prop_map(|(id, peers)| Message::ShuffleReply { id, peers }),
    ];
    let directions = [Direction::In, Direction::Out];
    prop_oneof![
        3 => (peer.clone(), prop::sample::select(directions.to_vec()))
            .prop_map(|(peer, direction)| Input::LinkUp { peer, direction, asked: false, urgent: false }),
        1 => (peer.clone(), any::<bool>())
            .prop_map(|(peer, urgent)| Input::LinkUp { peer, direction: Direction::Out, asked: true, urgent }),
        6 => (peer.clone(), message).prop_map(|(from, message)| Input::Received { from, message }),
        1 => peer.clone().prop_map(Input::LinkDown),
        1 => peer.clone().prop_map(Input::DialFailed),
        1 => peer.clone().prop_map(Input::Crowded),
        1 => peer.prop_map(Input::Withholds),
        1 => peers.prop_map(Input::Suggested),
        1 => Just(Input::Nudge),
        1 => Just(Input::Timeout),
    ]
}

proptest! {
    #[test]
    fn no_input_breaks_the_bounds(inputs in prop::collection::vec((0_u64..3000, hostile()), 0..300)) {
        let mut net = Net::new(1, Config::default());
        net.join(None);
        let config = Config::default();
        let mut views = net.nodes[0].take().unwrap();
        let (mut now, mut up) = (net.now, BTreeSet::new());
        let mut asked = BTreeSet::new();
        for (wait, input) in inputs {
            now += Duration::from_millis(wait);
            match &input {
                Input::LinkUp { peer, asked: true, .. } => drop(asked.insert(*peer)),
                Input::LinkUp { peer, .. } | Input::LinkDown(peer) => drop(asked.remove(peer)),
                _ => {}
            }
            views.handle(now, input);
            while let Some(output) = views.poll_output() {
                use p2p_peers::views::Output;
                match output {
                    Output::Up(peer) => prop_assert!(up.insert(peer)),
                    Output::Down(peer) => prop_assert!(up.remove(&peer)),
                    Output::Send { to, .. } => prop_assert!(to != 0),
                    Output::Dial { peer, .. } => prop_assert!(peer != 0 && !up.contains(&peer)),
                    _ => {}
                }
            }
            let active: Vec<u32> = views.active().collect();
            prop_assert!(active.iter().eq(&up));
            let own = active.iter().filter(|peer| !asked.contains(peer)).count();
            prop_assert!(own <= config.active + 2 && !up.contains(&0), "{} of our own", own);
            prop_assert!(views.passive().count() <= config.passive);
            prop_assert!(views.passive().all(|peer| peer != 0 && !up.contains(&peer)));
        }
    }
}
