//! Scenarios in the virtual network, small and quick; `cargo xtask sim` runs the large ones.

use std::time::Duration;

use p2p_node::sim::{Conduct, Kill, Options, Scenario, Sim, SimConfig};

const IN_TIME: Duration = Duration::from_secs(10);

fn small(scenario: Scenario, seed: u64) -> Options {
    let mut options = Options::of(scenario);
    (options.nodes, options.messages, options.warm_up) = (30, 10, 20);
    options.sim.seed = seed;
    options
}

#[test]
fn one_seed_one_run() {
    let run = |seed| Scenario::RandomSenders.run(&small(Scenario::RandomSenders, seed));
    let (a, b, other) = (run(7), run(7), run(8));
    assert_eq!(a, b);
    assert_ne!(a.last_ms, other.last_ms);
}

/// The floods of first messages make windows that are shared out; loss, jitter and a slow node draw on every randomness.
#[test]
fn threads_do_not_show() {
    for scenario in [Scenario::RandomSenders, Scenario::MassDeath] {
        let run = |threads| {
            let mut options = small(scenario, 9);
            (options.nodes, options.messages, options.warm_up) = (60, 5, 3);
            (options.sim.loss, options.sim.jitter) = (0.02, Duration::from_millis(3));
            (options.slow_share, options.slow_rate, options.sim.threads) = (0.1, 64 * 1024, threads);
            scenario.run(&options)
        };
        assert_eq!(run(1), run(3), "{scenario}");
    }
}

#[test]
fn it_does_not_matter_how_often_one_looks() {
    let run = |steps: u32| {
        let mut sim = Sim::new(SimConfig { seed: 10, ..SimConfig::default() });
        let first = sim.add(None);
        for _ in 1..10 {
            sim.add(Some(first));
        }
        let pass = |sim: &mut Sim| {
            let step = Duration::from_secs(3) / steps;
            (0..steps).for_each(|_| sim.run_for(step));
        };
        pass(&mut sim);
        sim.kill(4, Kill::Process);
        let message = sim.publish(first, 100);
        pass(&mut sim);
        (sim.totals(), sim.outcome(message, IN_TIME))
    };
    assert_eq!(run(1), run(600));
}

#[test]
fn without_a_shortest_latency_it_is_right_as_well() {
    let run = |threads| {
        let mut options = small(Scenario::RandomSenders, 11);
        (options.sim.latency.0, options.sim.threads) = (Duration::ZERO, threads);
        (options.nodes, options.messages, options.warm_up) = (12, 5, 3);
        Scenario::RandomSenders.run(&options)
    };
    let report = run(1);
    assert_eq!((report.missed, report.duplicates), (0, 0), "{report:?}");
    assert_eq!(report, run(2));
}

#[test]
fn everybody_gets_everything_once() {
    for scenario in [Scenario::OneSender, Scenario::RandomSenders] {
        for seed in 1..=3 {
            let report = scenario.run(&small(scenario, seed));
            assert_eq!((report.missed, report.duplicates), (0, 0), "{scenario}, seed {seed}: {report:?}");
            assert_eq!(report.overlay.largest, 30, "{scenario}, seed {seed}: all are linked together");
            assert!(
                report.last_ms >= report.optimum_ms,
                "{scenario}, seed {seed}: nothing is faster than light"
            );
        }
    }
}

#[test]
fn halves_that_were_cut_off_end_with_the_same_messages() {
    for (seed, nodes) in [(1, 20), (2, 30)] {
        let mut options = Options::of(Scenario::Partition);
        (options.nodes, options.messages, options.warm_up) = (nodes, 60, 20);
        options.sim.seed = seed;
        let report = Scenario::Partition.run(&options);
        for bar in report.bars() {
            assert!(bar.is_met(), "seed {seed}, {}: {} > {}: {report:?}", bar.name, bar.value, bar.limit);
        }
    }
}

#[test]
fn a_node_that_was_away_gets_all_it_missed() {
    let mut options = Options::of(Scenario::Absence);
    (options.nodes, options.messages, options.warm_up) = (12, 400, 20);
    options.lasts = Duration::from_secs(180);
    let report = Scenario::Absence.run(&options);
    for bar in report.bars() {
        assert!(bar.is_met(), "{}: {} > {}: {report:?}", bar.name, bar.value, bar.limit);
    }
}

#[test]
fn loss_delays_and_loses_nothing() {
    let mut options = small(Scenario::RandomSenders, 3);
    options.sim.loss = 0.05;
    let report = Scenario::RandomSenders.run(&options);
    assert_eq!((report.missed, report.duplicates, report.false_deaths), (0, 0, 0), "{report:?}");
}

/// Who is refused still sends for a while, and what it was told may have to be repeated: it learns it all the same, as a
/// program does whose other end reads on after its goodbye.
#[test]
fn whoever_is_refused_learns_it_although_lines_lose() {
    let config = SimConfig { seed: 13, loss: 0.2, ..SimConfig::default() };
    let mut sim = Sim::new(config);
    let first = sim.add(None);
    for _ in 0..80 {
        sim.add(Some(first));
        sim.run_for(Duration::from_millis(20));
    }
    sim.run_for(Duration::from_secs(30));
    let totals = sim.totals();
    assert_eq!((totals.resets, totals.false_deaths), (0, 0), "{totals:?}");
    sim.kill(first, Kill::Process);
    sim.run_for(Duration::from_secs(1));
    assert!(sim.totals().resets > 0, "a killed program's links are reset");
}

/// Faults row 41: loss of 5 %, 200 ms one way, 1 Mbit/s, ten minutes.
#[test]
fn ten_minutes_of_bad_lines_lose_no_message_and_part_no_neighbours() {
    let ms = Duration::from_millis;
    let config = SimConfig {
        seed: 12,
        latency: (ms(200), ms(200)),
        loss: 0.05,
        node_rate: 125_000,
        ..SimConfig::default()
    };
    let mut sim = Sim::new(config);
    let first = sim.add(None);
    // All are neighbours of all, so nobody leaves one for a better one.
    let nodes: Vec<usize> = std::iter::once(first).chain((1..8).map(|_| sim.add(Some(first)))).collect();
    sim.run_for(Duration::from_secs(60));
    let links = |sim: &Sim| nodes.iter().map(|node| sim.neighbours(*node).count()).sum::<usize>();
    assert_eq!(links(&sim), 8 * 7);
    let messages: Vec<usize> = (0..600)
        .map(|second| {
            let message = sim.publish(nodes[second * 5 % 8], 4096);
            sim.run_for(Duration::from_secs(1));
            assert_eq!(links(&sim), 8 * 7, "after {second} s");
            message
        })
        .collect();
    sim.run_for(IN_TIME);
    for message in messages {
        let outcome = sim.outcome(message, IN_TIME);
        assert_eq!((outcome.expected, outcome.missed), (7, 0), "{outcome:?}");
    }
    let totals = sim.totals();
    assert_eq!((totals.duplicates, totals.false_deaths, totals.misbehaved), (0, 0, 0), "{totals:?}");
}

#[test]
fn checks_may_be_real_and_cost_time() {
    let mut options = small(Scenario::OneSender, 4);
    let free = Scenario::OneSender.run(&options);
    options.sim.real_checks = true;
    options.sim.check = Duration::from_millis(20);
    let dear = Scenario::OneSender.run(&options);
    assert_eq!(dear.missed, 0);
    assert!(dear.last_ms > free.last_ms + 19.0, "{} and {}", free.last_ms, dear.last_ms);
}

#[test]
fn a_process_that_dies_is_noticed_at_once_and_a_machine_after_the_dead_time() {
    for how in [Kill::Process, Kill::Machine] {
        let mut sim = Sim::new(SimConfig { seed: 5, ..SimConfig::default() });
        let first = sim.add(None);
        let second = sim.add(Some(first));
        sim.run_for(IN_TIME);
        assert_eq!(sim.neighbours(first).collect::<Vec<_>>(), [second]);
        sim.kill(second, how);
        sim.run_for(Duration::from_millis(100));
        assert_eq!(sim.neighbours(first).count(), usize::from(how == Kill::Machine), "{how:?}");
        // What came last may have come up to 10 s before the end.
        sim.run_for(Duration::from_secs(19));
        assert_eq!(sim.neighbours(first).count(), usize::from(how == Kill::Machine), "{how:?}");
        sim.run_for(Duration::from_secs(12));
        assert_eq!(sim.neighbours(first).count(), 0, "{how:?}");
    }
}

#[test]
fn two_that_dial_each_other_end_with_one_link() {
    for seed in 1..=20 {
        let mut sim = Sim::new(SimConfig { seed, ..SimConfig::default() });
        let (a, b) = (sim.add(None), sim.add(None));
        sim.kill(a, Kill::Process);
        sim.kill(b, Kill::Process);
        sim.start(a, Some(b));
        sim.start(b, Some(a));
        sim.run_for(IN_TIME);
        assert_eq!((sim.neighbours(a).count(), sim.neighbours(b).count()), (1, 1), "seed {seed}");
        let message = sim.publish(a, 10);
        sim.run_for(IN_TIME);
        assert_eq!(sim.outcome(message, IN_TIME).missed, 0, "seed {seed}");
    }
}

#[test]
fn spam_bounds_nobody_but_the_spammer() {
    let mut options = small(Scenario::Spam, 5);
    options.lasts = Duration::from_secs(5);
    let report = Scenario::Spam.run(&options);
    assert_eq!((report.missed, report.duplicates), (0, 0), "{report:?}");
    for bar in report.bars() {
        assert!(bar.is_met(), "{bar:?}: {report:?}");
    }
    assert!(report.more["answers_max"] >= 1.0, "somebody was asked: {report:?}");
}

#[test]
fn a_slow_uplink_takes_its_time() {
    let mut options = small(Scenario::RandomSenders, 6);
    (options.slow_share, options.slow_rate) = (0.2, 16 * 1024);
    // The tree goes round them where it can, so how much later the last node has a message is a matter of luck.
    let slow = Scenario::RandomSenders.run(&options);
    assert_eq!((slow.missed, slow.duplicates), (0, 0), "{slow:?}");
    let mut sim = Sim::new(SimConfig { seed: 6, ..SimConfig::default() });
    let nodes: Vec<usize> = (0..3).map(|node| sim.add((node > 0).then_some(0))).collect();
    sim.run_for(Duration::from_secs(5));
    sim.set_rate(nodes[0], 16 * 1024);
    let message = sim.publish(nodes[0], 1024);
    sim.run_for(IN_TIME);
    for &node in &nodes[1..] {
        let after = sim.delivered_after(message, node);
        assert!(after > Some(Duration::from_millis(1000 / 16)), "1 KiB at 16 KiB/s takes longer: {after:?}");
    }
}

/// It sends ten times as fast as its line carries for a while, so its links' queues fill.
#[test]
fn what_had_no_room_on_a_link_comes_in_order_all_the_same() {
    for seed in 1..=3 {
        let mut sim = Sim::new(SimConfig { seed, ..SimConfig::default() });
        let nodes: Vec<usize> = (0..4).map(|node| sim.add((node > 0).then_some(0))).collect();
        sim.run_for(Duration::from_secs(5));
        sim.set_rate(nodes[0], 1_000_000);
        let messages: Vec<usize> = (0..8_000)
            .map(|_| {
                sim.run_for(Duration::from_micros(200));
                sim.publish(nodes[0], 2_000)
            })
            .collect();
        let time = Duration::from_secs(90);
        sim.run_for(time);
        let totals = sim.totals();
        let missed = messages.iter().filter(|message| sim.outcome(**message, time).missed > 0).count();
        assert_eq!((missed, totals.late, totals.duplicates), (0, 0, 0), "seed {seed}: {totals:?}");
        assert!(totals.put_off > 0, "seed {seed}: {totals:?}");
    }
}

#[test]
fn hostile_nodes_do_not_shut_a_restarted_one_off() {
    let mut options = Options::of(Scenario::Eclipse);
    (options.nodes, options.share, options.messages) = (30, 0.8, 3);
    let report = Scenario::Eclipse.run(&options);
    assert_eq!(report.more["restarts"], 3.0);
    for bar in report.bars() {
        assert!(bar.is_met(), "{}: {} > {}: {report:?}", bar.name, bar.value, bar.limit);
    }
}

/// Faults row 24: a hundred ids on one machine are two neighbours at most, whoever dials, and honest nodes keep theirs.
#[test]
fn many_ids_on_one_machine_are_two_neighbours() {
    let mut sim = Sim::new(SimConfig { seed: 24, ..SimConfig::default() });
    let victim = sim.add(None);
    let honest: Vec<usize> = (0..5).map(|_| sim.add(Some(victim))).collect();
    sim.run_for(Duration::from_secs(5));
    let first = sim.add_as(Conduct::Eclipsing, Some(victim));
    let crowd = first..=first + 99;
    for _ in 1..100 {
        sim.add_beside(first, Conduct::Eclipsing, Some(victim));
        sim.run_for(Duration::from_millis(200));
        for &node in honest.iter().chain([&victim]) {
            let of_crowd = sim.neighbours(node).filter(|peer| crowd.contains(peer)).count();
            assert!(of_crowd <= 2, "{of_crowd} ids of one machine are neighbours of {node}");
        }
    }
    sim.run_for(Duration::from_secs(60));
    let near: Vec<usize> = sim.neighbours(victim).collect();
    assert!(honest.iter().all(|node| near.contains(node)), "{near:?} of {honest:?} and the crowd");
    let message = sim.publish(honest[0], 100);
    sim.run_for(IN_TIME);
    let late: Vec<&usize> = honest[1..]
        .iter()
        .chain([&victim])
        .filter(|&&node| sim.delivered_after(message, node).is_none())
        .collect();
    assert!(late.is_empty(), "{late:?} did not get the message");
}

/// Eight computers behind one public address, with a port of its own forwarded to each, and twelve nodes elsewhere. Two links
/// to one address are all that each of these has, and all eight begin with the same one.
#[test]
fn an_office_behind_one_address_gets_into_the_network() {
    for seed in 1..4 {
        let mut sim = Sim::new(SimConfig { seed, ..SimConfig::default() });
        let hub = sim.add(None);
        for _ in 0..11 {
            sim.add(Some(hub));
            sim.run_for(Duration::from_secs(1));
        }
        let first = sim.add(Some(hub));
        let mut office = vec![first];
        for _ in 0..7 {
            sim.run_for(Duration::from_secs(5));
            office.push(sim.add_beside(first, Conduct::Honest, Some(hub)));
        }
        let mut alone = vec![Duration::ZERO; office.len()];
        let step = Duration::from_secs(10);
        for _ in 0..90 {
            sim.run_for(step);
            for (alone, &node) in alone.iter_mut().zip(&office) {
                *alone += if sim.neighbours(node).count() == 0 { step } else { Duration::ZERO };
            }
        }
        assert!(alone.iter().all(|alone| *alone < Duration::from_secs(120)), "seed {seed}: {alone:?}");
    }
}
