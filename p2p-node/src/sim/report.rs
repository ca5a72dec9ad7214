//! What a scenario's run came to, and what it should have come to.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Options, Outcome, Overlay, Scenario, Totals};

/// One run of a scenario. As JSON it is one line.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct Report {
    /// Its name.
    pub scenario: &'static str,
    /// Nodes.
    pub nodes: usize,
    /// The seed.
    pub seed: u64,
    /// Messages that count.
    pub messages: usize,
    /// Deliveries that should have been and were not, in time.
    pub missed: u64,
    /// Messages that an application got twice.
    pub duplicates: u64,
    /// Relative message redundancy, the mean of all messages: payload copies received / (nodes - 1) - 1. 0 is a perfect
    /// tree.
    pub rmr: f64,
    /// Last delivery hops: links that the copy had travelled that the last node got; the mean of all messages.
    pub ldh: f64,
    /// When the last node got a message, after it was sent, in milliseconds: the mean of all messages.
    pub last_ms: f64,
    /// The worst of them.
    pub last_ms_max: f64,
    /// What a flood over the same links would have taken, in milliseconds; the mean of the messages that were looked at.
    pub optimum_ms: f64,
    /// Bytes that a node sent while the messages were sent, the mean.
    pub bytes_per_node: u64,
    /// All bytes but those of payload frames, as a part of those.
    pub control_ratio: f64,
    /// The same without pings and peer lists, which time costs, not messages.
    pub gossip_ratio: f64,
    /// Messages handed over after a later one of the same author.
    pub late: u64,
    /// Links that died for silence although both ends were well.
    pub false_deaths: u64,
    /// The links and tables when the messages were sent.
    #[serde(flatten)]
    pub overlay: Overlay,
    /// What the scenario adds.
    #[serde(flatten)]
    pub more: BTreeMap<&'static str, f64>,
    /// Virtual time, in seconds.
    pub virtual_s: f64,
    /// Time that it took, in seconds; not part of what a seed fixes. Set by the caller.
    pub wall_s: f64,
}

/// One thing that a run must show.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Bar {
    /// What is compared.
    pub name: &'static str,
    /// The value of this run.
    pub value: f64,
    /// The highest that will do.
    pub limit: f64,
}

impl Bar {
    /// Whether the run shows it.
    #[must_use]
    pub fn is_met(&self) -> bool {
        self.value <= self.limit
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

#[expect(clippy::cast_precision_loss, reason = "counts of messages and bytes are far below 2^53")]
pub(super) fn ratio(a: u64, b: u64) -> f64 {
    if b == 0 { 0.0 } else { a as f64 / b as f64 }
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, n) = values.fold((0.0, 0.0), |(sum, n), value| (sum + value, n + 1.0));
    if n > 0.0 { sum / n } else { 0.0 }
}

impl Report {
    pub(super) fn new(scenario: Scenario, options: &Options, overlay: Overlay) -> Self {
        Self {
            scenario: scenario.name(),
            nodes: options.nodes,
            seed: options.sim.seed,
            messages: 0,
            missed: 0,
            duplicates: 0,
            rmr: 0.0,
            ldh: 0.0,
            last_ms: 0.0,
            last_ms_max: 0.0,
            optimum_ms: 0.0,
            bytes_per_node: 0,
            control_ratio: 0.0,
            gossip_ratio: 0.0,
            late: 0,
            false_deaths: 0,
            overlay,
            more: BTreeMap::new(),
            virtual_s: 0.0,
            wall_s: 0.0,
        }
    }

    pub(super) fn add_outcomes(&mut self, outcomes: &[Outcome]) {
        self.messages = outcomes.len();
        self.missed = outcomes.iter().map(|o| o.missed as u64).sum();
        self.rmr = mean(outcomes.iter().map(|o| ratio(o.copies, o.expected as u64) - 1.0));
        self.ldh = mean(outcomes.iter().map(|o| f64::from(o.hops)));
        self.last_ms = mean(outcomes.iter().map(|o| ms(o.last)));
        self.last_ms_max = outcomes.iter().map(|o| ms(o.last)).fold(0.0, f64::max);
        self.optimum_ms = mean(outcomes.iter().filter(|o| !o.optimum.is_zero()).map(|o| ms(o.optimum)));
    }

    /// What was sent from `before` to `after`.
    pub(super) fn add_traffic(&mut self, before: &Totals, after: &Totals, nodes: usize) {
        let payload = after.payload_bytes - before.payload_bytes;
        let control = after.control_bytes - before.control_bytes;
        let idle = after.ping_bytes + after.peer_bytes - before.ping_bytes - before.peer_bytes;
        self.bytes_per_node = (payload + control) / (nodes as u64).max(1);
        self.control_ratio = ratio(control, payload);
        self.gossip_ratio = ratio(control - idle, payload);
        self.late = after.late - before.late;
        self.duplicates = after.duplicates;
        self.false_deaths = after.false_deaths;
    }

    /// What the run must show: `None` for a size that nothing was said of.
    #[must_use]
    pub fn bars(&self) -> Vec<Bar> {
        #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
        let count = |n: u64| n as f64;
        let mut bars = vec![Bar { name: "duplicates", value: count(self.duplicates), limit: 0.0 }];
        let mut must = |name, value, limit| bars.push(Bar { name, value, limit });
        let all = count(self.missed);
        must("mean degree", self.overlay.degree_mean, 10.0);
        // Elsewhere so few messages go that pings and shuffles, which go by the clock, outweigh them, or attackers' frames do.
        if matches!(self.scenario, "one-sender" | "random-senders" | "mass-death") {
            must("control / payload", self.control_ratio, 0.25);
        }
        let tree: Option<[f64; 3]> = match (self.scenario, self.nodes) {
            ("one-sender", ..=1000) => Some([0.05, 170.0, 10.0]),
            ("one-sender", ..=5000) => Some([0.05, 210.0, 12.0]),
            ("one-sender", ..=100_000) => Some([0.05, 320.0, f64::INFINITY]),
            ("random-senders", ..=1000) => Some([0.1, 270.0, 15.0]),
            ("random-senders", ..=5000) => Some([0.1, 330.0, 18.0]),
            _ => None,
        };
        if let Some([rmr, last, ldh]) = tree {
            must("rmr", self.rmr, rmr);
            must("last_ms", self.last_ms, last);
            if ldh.is_finite() {
                must("ldh", self.ldh, ldh);
            }
        }
        match self.scenario {
            "churn" => {
                must("missed share", self.more.get("missed_share").copied().unwrap_or(1.0), 0.001);
                must("false deaths", count(self.false_deaths), 0.0);
            }
            "mass-death" => {
                must("missed", all, 0.0);
                must(
                    "missed share at first",
                    self.more.get("first_missed_share").copied().unwrap_or(1.0),
                    0.01,
                );
            }
            "partition" | "absence" => {
                must("missed", all, 0.0);
                must("seconds after heal", self.more.get("healed_s").copied().unwrap_or(f64::INFINITY), 30.0);
                must("late", count(self.late), 0.0);
                must(
                    "payload / missing",
                    self.more.get("payload_ratio").copied().unwrap_or(f64::INFINITY),
                    1.2,
                );
                must(
                    "summary bytes of a link",
                    self.more.get("summary_bytes_link").copied().unwrap_or(f64::INFINITY),
                    65_536.0,
                );
            }
            "covert-flash" => {
                must("missed", all, 0.0);
                let of = |key: &str| self.more.get(key).copied().unwrap_or(f64::INFINITY);
                must("p99 ms", of("p99_ms"), 5000.0);
                must("last after 90 s / before", of("after_90s_ms") / of("baseline_ms"), 2.0);
            }
            "spam" => {
                must("missed", all, 0.0);
                must("last of all, ms", self.last_ms_max, 4000.0);
                must(
                    "answers to one pull",
                    self.more.get("answers_max").copied().unwrap_or(f64::INFINITY),
                    4.0,
                );
            }
            "eclipse" => {
                let of = |key: &str| self.more.get(key).copied().unwrap_or(0.0);
                must("missed", all, 0.0);
                // 49 of 50 (faults.md, row 23).
                must(
                    "restarts without an honest dial",
                    (of("restarts") - of("honest_dialled")) / of("restarts"),
                    0.02,
                );
                must("restarts without a message", (of("restarts") - of("heard")) / of("restarts"), 0.02);
            }
            _ => must("missed", all, 0.0),
        }
        bars
    }
}
