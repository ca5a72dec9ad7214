//! A network of your own numbers: 200 nodes on slow lines, of which 20 die at once.
//!
//! `cargo run --release -p p2p-node --example own_numbers`
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::time::Duration;

use p2p_node::sim::{Kill, Sim, SimConfig};

fn main() {
    let ms = Duration::from_millis;
    let config = SimConfig {
        seed: 42,
        latency: (ms(20), ms(120)),
        jitter: ms(5),
        loss: 0.01,
        node_rate: 250_000,
        ..SimConfig::default()
    };
    let mut sim = Sim::new(config);
    let first = sim.add(None);
    for number in 1..200 {
        // Each through another one.
        sim.add(Some(if number < 20 { first } else { number / 2 }));
        sim.run_for(ms(20));
    }
    sim.run_for(Duration::from_secs(30));
    let in_time = Duration::from_secs(10);
    for round in 0..10 {
        if round == 5 {
            (100..120).for_each(|node| sim.kill(node, Kill::Process));
        }
        let message = sim.publish(7, 4096);
        sim.run_for(in_time);
        let outcome = sim.outcome_with_optimum(message, in_time);
        println!(
            "message {round}: {} of {} nodes, the last after {:?} and {} links; a flood would need {:?}",
            outcome.expected - outcome.missed,
            outcome.expected,
            outcome.last,
            outcome.hops,
            outcome.optimum,
        );
    }
    let overlay = sim.overlay();
    println!(
        "{} nodes with {:.1} links each; {} in one piece",
        overlay.nodes, overlay.degree_mean, overlay.largest
    );
}
