//! Whole networks in memory: everybody gets everything exactly once.

mod net;

use net::{Id, Net, ms};
use p2p_gossip::Config;

/// Names, and links between nodes, of the shapes that are tried.
fn shapes(nodes: u32, net: &mut Net) -> Vec<(&'static str, Vec<(u32, u32)>)> {
    let line: Vec<_> = (1..nodes).map(|n| (n - 1, n)).collect();
    let mut ring = line.clone();
    ring.push((0, nodes - 1));
    let mesh = (0..nodes).flat_map(|a| (0..a).map(move |b| (a, b))).collect();
    let mut random: Vec<_> = (1..nodes).map(|n| (net.random(n), n)).collect();
    for _ in 0..2 * nodes {
        random.push((net.random(nodes), net.random(nodes)));
    }
    vec![("line", line), ("ring", ring), ("mesh", mesh), ("random", random)]
}

/// Networks of each shape, linked and having heard of each other.
fn networks(seed: u64, nodes: u32) -> Vec<(String, Net)> {
    let shapes = shapes(nodes, &mut Net::new(seed, 1, &Config::default()));
    let mut networks = Vec::new();
    for (name, links) in shapes {
        let mut net = Net::new(seed, nodes, &Config::default());
        for (a, b) in links {
            net.link(a, b);
        }
        for author in 0..nodes {
            net.publish(author, 1, 0);
        }
        net.run_for(ms(5_000));
        for node in &mut net.nodes {
            node.got.clear();
        }
        networks.push((format!("{name} of {nodes}, seed {seed}"), net));
    }
    networks
}

/// Each node got each of these exactly once, its own excepted, in each author's order, and nothing else.
fn assert_exactly_once(name: &str, net: &Net, ids: &[Id]) {
    for (me, node) in net.nodes.iter().enumerate() {
        let mut expected: Vec<_> = ids
            .iter()
            .filter(|id| id.author as usize != me)
            .flat_map(|id| id.seqs().map(|seq| (id.author, seq, false)))
            .collect();
        let mut got = node.got.clone();
        // Stable, so each author's order stays.
        got.sort_by_key(|(author, _, _)| *author);
        expected.sort_unstable();
        assert_eq!(got, expected, "node {me} in a {name}");
        assert_eq!(node.faults, [], "node {me} in a {name}");
        let stats = node.core.stats();
        assert_eq!((stats.open_checks, stats.missing, stats.held), (0, 0, 0), "{name}");
    }
}

#[test]
fn everybody_gets_everything_once_and_in_order() {
    for seed in 0..4 {
        for (name, mut net) in networks(seed, 12) {
            let mut ids = Vec::new();
            for _ in 0..60 {
                let author = net.random(12);
                let count = u8::try_from(net.random(5) + 1).unwrap();
                ids.push(net.publish(author, count, 200));
                net.run_for(ms(10));
            }
            net.run_for(ms(5_000));
            assert_exactly_once(&name, &net, &ids);
        }
    }
}

#[test]
fn large_envelopes_are_pulled_and_cost_one_copy() {
    for (name, mut net) in networks(1, 8) {
        for node in &mut net.nodes {
            node.pushed = 0;
        }
        let len = 1024 * 1024;
        let ids = [net.publish(3, 1, len), net.publish(0, 1, len), net.publish(3, 1, 10)];
        net.run_for(ms(10_000));
        assert_exactly_once(&name, &net, &ids);
        for node in &net.nodes {
            assert!(node.pushed < 2 * len + 1_000, "{} bytes in a {name}", node.pushed);
        }
    }
}

#[test]
fn who_joins_midway_gets_all_there_is_in_order() {
    let mut net = Net::new(3, 6, &Config::default());
    net.ordered = true;
    for (a, b) in [(0, 1), (1, 2), (2, 3), (3, 4)] {
        net.link(a, b);
    }
    let mut all = Vec::new();
    for _ in 0..10 {
        all.push(net.publish(0, 1, 100));
    }
    net.run_for(ms(2_000));
    net.link(4, 5);
    for _ in 0..10 {
        all.push(net.publish(0, 1, 100));
        net.run_for(ms(300));
    }
    net.run_for(ms(2_000));
    let all: Vec<_> = all.iter().map(|id| (id.author, id.first, false)).collect();
    assert_eq!(net.nodes[5].got, all);
    assert_eq!(net.stats(5).holes_given_up, 0);
}

#[test]
fn links_that_come_and_go_cause_no_second_delivery() {
    for seed in 0..4 {
        let mut net = Net::new(seed, 8, &Config::default());
        for _ in 0..300 {
            let (a, b) = (net.random(8), net.random(8));
            match net.random(4) {
                0 => net.cut(a, b),
                1 => {
                    let len = if net.random(4) == 0 { 40_000 } else { 100 };
                    net.publish(a, 1, len);
                }
                _ => net.link(a, b),
            }
            net.run_for(ms(7));
        }
        net.run_for(ms(60_000));
        for (me, node) in net.nodes.iter().enumerate() {
            let mut got: Vec<_> = node.got.iter().map(|(author, seq, _)| (author, seq)).collect();
            got.sort_unstable();
            let all = got.len();
            got.dedup();
            assert_eq!(all, got.len(), "node {me}, seed {seed}");
            assert!(got.iter().all(|(author, _)| **author as usize != me));
            assert_eq!(node.faults, []);
            assert_eq!((node.core.stats().missing, node.core.stats().held), (0, 0));
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = || {
        let (_, mut net) = networks(7, 8).remove(3);
        for author in [1, 5, 1, 7] {
            net.publish(author, 2, 50_000);
            net.run_for(ms(3));
        }
        net.run_for(ms(5_000));
        let got: Vec<_> = net.nodes.iter().map(|node| node.got.clone()).collect();
        let stats: Vec<_> = (0..8).map(|node| net.stats(node)).collect();
        (got, stats)
    };
    assert_eq!(run(), run());
}
