//! The network as it stands: who is linked to whom, and the fastest that any broadcast could be over it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use p2p_peers::views::Counters;

use super::Sim;
use super::queue::{Time, index};

/// The links of the nodes that run.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct Overlay {
    /// Nodes that run.
    #[serde(rename = "running")]
    pub nodes: usize,
    /// Links of a node: the mean, the fewest, the most.
    pub degree_mean: f64,
    /// The fewest.
    pub degree_min: usize,
    /// The most.
    pub degree_max: usize,
    /// Nodes in the largest part that is linked together.
    pub largest: usize,
    /// Different ids in all passive views together.
    pub known_ids: usize,
    /// In how many passive views an id stands: the mean.
    pub in_degree_mean: f64,
    /// The standard deviation of that: 0 if all are known equally well; its square root of the mean if by chance alone.
    pub in_degree_deviation: f64,
    /// Requests to be a neighbour that a node refused since it started: the mean.
    pub refused_mean: f64,
    /// Neighbours of a node that gave way to others since it started: the mean.
    pub displaced_mean: f64,
}

#[expect(clippy::cast_precision_loss, reason = "counts of nodes are far below 2^53")]
fn mean_and_deviation(counts: &[usize]) -> (f64, f64) {
    if counts.is_empty() {
        return (0.0, 0.0);
    }
    let n = counts.len() as f64;
    let mean = counts.iter().sum::<usize>() as f64 / n;
    let variance = counts.iter().map(|&c| (c as f64 - mean).powi(2)).sum::<f64>() / n;
    (mean, variance.sqrt())
}

/// Links to flood, and what came of it.
#[derive(Debug)]
pub(super) struct Floods {
    links: Vec<Vec<(usize, Time)>>,
    optima: BTreeMap<usize, Time>,
}

impl Floods {
    /// After how long a message of `from` would be with the last node, if every node passed it on at once over each of
    /// its links: no broadcast over these links is faster. In nanoseconds; nodes that cannot be reached do not count.
    pub(super) fn optimum(&mut self, from: usize) -> Time {
        if let Some(known) = self.optima.get(&from) {
            return *known;
        }
        let optimum = self.flood(from);
        self.optima.insert(from, optimum);
        optimum
    }

    fn flood(&self, from: usize) -> Time {
        let mut at = vec![Time::MAX; self.links.len()];
        let mut heap = BinaryHeap::from([Reverse((0, from))]);
        (at[from], heap) = (0, heap);
        let mut last = 0;
        while let Some(Reverse((time, node))) = heap.pop() {
            if time > at[node] {
                continue;
            }
            last = time;
            for &(peer, latency) in &self.links[node] {
                if time + latency < at[peer] {
                    at[peer] = time + latency;
                    heap.push(Reverse((time + latency, peer)));
                }
            }
        }
        last
    }
}

impl Sim {
    /// Looks at all neighbours and passive views.
    #[must_use]
    pub fn overlay(&self) -> Overlay {
        let running: Vec<usize> = (0..self.len()).filter(|&n| self.runs(n)).collect();
        let degrees: Vec<usize> = running.iter().map(|&n| self.standing_links(n).count()).collect();
        let mut known = vec![0_usize; self.len()];
        for &n in &running {
            for peer in self.node(n).stack.iter().flat_map(|stack| stack.views().passive()) {
                if let Some(peer) = self.world.by_id(&peer) {
                    known[peer as usize] += 1;
                }
            }
        }
        let in_degrees: Vec<usize> = running.iter().map(|&n| known[n]).collect();
        let (in_degree_mean, in_degree_deviation) = mean_and_deviation(&in_degrees);
        let of_views = |count: fn(&Counters) -> u64| {
            let of =
                |&n: &usize| self.node(n).stack.as_ref().map_or(0, |stack| count(stack.views().counters()));
            let counts: Vec<usize> =
                running.iter().map(|n| usize::try_from(of(n)).unwrap_or(usize::MAX)).collect();
            mean_and_deviation(&counts).0
        };
        Overlay {
            refused_mean: of_views(|counters| counters.refused),
            displaced_mean: of_views(|counters| counters.displaced),
            nodes: running.len(),
            degree_mean: mean_and_deviation(&degrees).0,
            degree_min: degrees.iter().copied().min().unwrap_or(0),
            degree_max: degrees.iter().copied().max().unwrap_or(0),
            largest: self.largest(&running),
            known_ids: known.iter().filter(|&&n| n > 0).count(),
            in_degree_mean,
            in_degree_deviation,
        }
    }

    /// The links as they are now, to flood.
    pub(super) fn floods(&self) -> Floods {
        let links = (0..self.len()).map(|node| self.standing_links(node).collect()).collect();
        Floods { links, optima: BTreeMap::new() }
    }

    /// The links that stand on both sides between nodes that run and reach each other.
    fn standing_links(&self, node: usize) -> impl Iterator<Item = (usize, Time)> + '_ {
        self.node(node).links.iter().filter_map(move |half| {
            let peer = half.peer as usize;
            let stands = self.node(peer).link(half.link).is_some()
                && self.are_neighbours(node, peer)
                && !self.world.cut(index(node), half.peer);
            stands.then_some((peer, half.latency))
        })
    }

    fn are_neighbours(&self, a: usize, b: usize) -> bool {
        let near = |a: usize, b: usize| {
            let stack = self.node(a).stack.as_ref();
            stack.is_some_and(|stack| stack.views().is_active(self.id(b)))
        };
        near(a, b) && near(b, a)
    }

    fn largest(&self, running: &[usize]) -> usize {
        let mut seen = vec![false; self.len()];
        let mut largest = 0;
        for &start in running {
            if std::mem::replace(&mut seen[start], true) {
                continue;
            }
            let (mut size, mut next) = (0, vec![start]);
            while let Some(node) = next.pop() {
                size += 1;
                for (peer, _) in self.standing_links(node) {
                    if !std::mem::replace(&mut seen[peer], true) {
                        next.push(peer);
                    }
                }
            }
            largest = largest.max(size);
        }
        largest
    }
}
