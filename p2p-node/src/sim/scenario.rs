//! The runs that are compared: the same from change to change.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::report::ratio;
use super::{Conduct, Outcome, Report, Sim, SimConfig};

/// A message counts as received if it is there this long after it was sent, catch-up included.
pub(super) const IN_TIME: Duration = Duration::from_secs(10);
/// After the last node has joined, before the first message.
const SETTLE: Duration = Duration::from_secs(30);
/// Links that the flood optimum is looked for over, in all messages together; beyond, only some messages are looked at.
const OPTIMUM_WORK: usize = 20_000_000;

/// What happens in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Scenario {
    /// One node sends all messages.
    OneSender,
    /// Each message comes from another node.
    RandomSenders,
    /// A share of the nodes dies at once.
    MassDeath,
    /// Nodes die and start again all the time.
    Churn,
    /// The network is cut in two and healed, both halves sending.
    Partition,
    /// One node is cut off while the others send.
    Absence,
    /// A share of the nodes passes nothing on from one moment to the next.
    CovertFlash,
    /// A share of the nodes announces what is not there and asks for everything again and again.
    Spam,
    /// Many hostile nodes want to be all that one node sees, which is started again and again.
    Eclipse,
}

impl Scenario {
    /// All there are.
    pub const ALL: [Self; 9] = [
        Self::OneSender,
        Self::RandomSenders,
        Self::MassDeath,
        Self::Churn,
        Self::Partition,
        Self::Absence,
        Self::CovertFlash,
        Self::Spam,
        Self::Eclipse,
    ];

    /// As on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::OneSender => "one-sender",
            Self::RandomSenders => "random-senders",
            Self::MassDeath => "mass-death",
            Self::Churn => "churn",
            Self::Partition => "partition",
            Self::Absence => "absence",
            Self::CovertFlash => "covert-flash",
            Self::Spam => "spam",
            Self::Eclipse => "eclipse",
        }
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// There is no scenario of this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no scenario `{0}`")]
pub struct UnknownScenario(String);

impl FromStr for Scenario {
    type Err = UnknownScenario;

    fn from_str(name: &str) -> Result<Self, UnknownScenario> {
        let named = Self::ALL.into_iter().find(|scenario| scenario.name() == name);
        named.ok_or_else(|| UnknownScenario(name.to_owned()))
    }
}

/// The numbers of a run.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Options {
    /// Nodes.
    pub nodes: usize,
    /// Messages that count; restarts of the victim of an eclipse.
    pub messages: usize,
    /// Messages before them, sent the same way, that do not.
    pub warm_up: usize,
    /// Bytes of a payload.
    pub size: usize,
    /// From one message to the next.
    pub interval: Duration,
    /// Nodes that join in a second.
    pub join_rate: u32,
    /// All join through the first node. Off: each through a random one that runs.
    pub one_introducer: bool,
    /// The part of the nodes that something happens to.
    pub share: f64,
    /// Whole machines die, not processes.
    pub machines: bool,
    /// How long something lasts: the cut, the absence, the time after a restart; the mean life under churn.
    pub lasts: Duration,
    /// The part of the nodes that sends slowly, whatever happens. Default 0.
    pub slow_share: f64,
    /// Bytes per second that such a node sends on all its links. Default 128 KiB, a poor uplink.
    pub slow_rate: u64,
    /// The network.
    pub sim: SimConfig,
}

impl Options {
    /// What the table in `docs/gossip.md` is made with.
    #[must_use]
    pub fn of(scenario: Scenario) -> Self {
        let options = Self {
            nodes: 1000,
            messages: 100,
            warm_up: 30,
            size: 1024,
            interval: Duration::from_millis(200),
            join_rate: 50,
            one_introducer: true,
            share: 0.5,
            machines: false,
            lasts: Duration::from_secs(120),
            slow_share: 0.0,
            slow_rate: 128 * 1024,
            sim: SimConfig::default(),
        };
        match scenario {
            Scenario::Churn => Self {
                lasts: Duration::from_secs(60),
                messages: 300,
                interval: Duration::from_secs(1),
                sim: SimConfig {
                    loss: 0.05,
                    latency: (Duration::from_millis(200), Duration::from_millis(200)),
                    ..options.sim
                },
                ..options
            },
            Scenario::Partition => {
                Self { nodes: 100, messages: 400, interval: Duration::from_millis(250), ..options }
            }
            Scenario::Absence => Self {
                nodes: 50,
                messages: 10_000,
                interval: Duration::from_millis(350),
                lasts: Duration::from_secs(3600),
                ..options
            },
            Scenario::Spam => Self { nodes: 100, share: 0.1, lasts: Duration::from_secs(60), ..options },
            // 200 of 220 mean harm.
            Scenario::Eclipse => Self {
                nodes: 220,
                share: 0.9091,
                messages: 50,
                lasts: Duration::from_secs(60),
                interval: Duration::from_secs(2),
                ..options
            },
            Scenario::CovertFlash => Self { nodes: 60, interval: Duration::from_secs(1), ..options },
            _ => options,
        }
    }
}

impl Options {
    /// Messages that are sent in this time.
    pub(super) fn fits(&self, time: Duration) -> usize {
        usize::try_from(time.as_nanos() / self.interval.as_nanos().max(1)).unwrap_or(usize::MAX)
    }

    /// Whether something happens to this node: `share` of all, spread evenly.
    pub(super) fn is_struck(&self, node: usize) -> bool {
        is_one_of(self.share, node)
    }
}

/// Whether a node is among `share` of all, spread evenly.
#[expect(clippy::cast_precision_loss, reason = "numbers of nodes are far below 2^53")]
fn is_one_of(share: f64, node: usize) -> bool {
    (share * (node + 1) as f64).floor() > (share * node as f64).floor()
}

pub(super) struct Run {
    pub(super) sim: Sim,
    pub(super) options: Options,
    scenario: Scenario,
    pub(super) rng: StdRng,
}

impl Scenario {
    /// Runs it to the end. `report.wall_s` is left to the caller.
    #[must_use]
    pub fn run(self, options: &Options) -> Report {
        let mut run = Run {
            sim: Sim::new(options.sim.clone()),
            options: options.clone(),
            scenario: self,
            rng: StdRng::seed_from_u64(options.sim.seed ^ 0x5ce0),
        };
        run.join();
        let mut report = match self {
            Self::OneSender | Self::RandomSenders => run.steady(),
            Self::MassDeath => run.mass_death(),
            Self::Churn => run.churn(),
            Self::Partition => run.parted(|options, node| u8::from(node >= options.nodes / 2)),
            Self::Absence => run.parted(|options, node| u8::from(node + 1 == options.nodes)),
            Self::CovertFlash => run.covert_flash(),
            Self::Spam => run.spam(),
            Self::Eclipse => run.eclipse(),
        };
        report.virtual_s = run.sim.elapsed().as_secs_f64();
        report
    }
}

impl Run {
    /// Everybody joins.
    fn join(&mut self) {
        let pause = Duration::from_secs(1) / self.options.join_rate.max(1);
        self.sim.add(None);
        while self.sim.len() < self.options.nodes {
            let via = if self.options.one_introducer { 0 } else { self.rng.random_range(0..self.sim.len()) };
            let hostile = self.scenario == Scenario::Eclipse && self.sim.len() >= self.honest();
            if hostile && self.sim.len() == self.honest() {
                self.sim.run_for(SETTLE);
            }
            let conduct = if hostile { Conduct::Eclipsing } else { Conduct::Honest };
            let node = self.sim.add_as(conduct, Some(via));
            if is_one_of(self.options.slow_share, node) {
                self.sim.set_rate(node, self.options.slow_rate);
            }
            self.sim.run_for(pause);
        }
        self.sim.run_for(SETTLE);
    }

    pub(super) fn sender(&mut self) -> usize {
        if self.scenario == Scenario::OneSender && self.sim.runs(1) {
            return 1.min(self.sim.len() - 1);
        }
        let linked = |sim: &Sim, node| sim.runs(node) && sim.neighbours(node).next().is_some();
        if !(0..self.sim.len()).any(|node| linked(&self.sim, node)) {
            return (0..self.sim.len()).find(|&node| self.sim.runs(node)).unwrap_or(0);
        }
        loop {
            let node = self.rng.random_range(0..self.sim.len());
            // `send` tells who has no neighbour so: its message waits for one, and is lost with a node that dies before.
            if linked(&self.sim, node) {
                return node;
            }
        }
    }

    /// Sends messages, one after the other, and returns their numbers.
    pub(super) fn send(&mut self, count: usize) -> Vec<usize> {
        let mut sent = Vec::with_capacity(count);
        for _ in 0..count {
            let sender = self.sender();
            sent.push(self.sim.publish(sender, self.options.size));
            self.sim.run_for(self.options.interval);
        }
        sent
    }

    pub(super) fn outcomes(&self, messages: &[usize]) -> Vec<Outcome> {
        self.outcomes_within(messages, IN_TIME)
    }

    pub(super) fn outcomes_within(&self, messages: &[usize], time: Duration) -> Vec<Outcome> {
        let work = self.options.nodes * 10;
        let step = (messages.len() * work).div_ceil(OPTIMUM_WORK).max(1);
        let mut floods = self.sim.floods();
        let outcome = |(i, &message): (usize, &usize)| match i % step {
            0 => self.sim.outcome_of_flood(message, time, &mut floods),
            _ => self.sim.outcome(message, time),
        };
        messages.iter().enumerate().map(outcome).collect()
    }

    pub(super) fn report(&self) -> Report {
        Report::new(self.scenario, &self.options, self.sim.overlay())
    }

    fn steady(&mut self) -> Report {
        self.send(self.options.warm_up);
        let mut report = self.report();
        let before = self.sim.totals();
        let sent = self.send(self.options.messages);
        let after = self.sim.totals();
        self.sim.run_for(IN_TIME);
        report.add_outcomes(&self.outcomes(&sent));
        report.add_traffic(&before, &after, self.options.nodes);
        report
    }

    /// The network is cut, both sides send, the cut heals; then everybody must have everything.
    fn parted(&mut self, group: impl Fn(&Options, usize) -> u8) -> Report {
        self.send(self.options.warm_up);
        let mut report = self.report();
        let options = self.options.clone();
        let begin = self.sim.elapsed();
        self.sim.partition(|node| group(&options, node));
        // So long that links over the cut are gone before the first message: what TCP repeats is not caught up.
        self.sim.run_for(options.sim.liveness.dead_after + Duration::from_secs(5));
        let mut sent = Vec::new();
        for number in 0..options.messages {
            let side = u8::from(self.scenario == Scenario::Partition && number % 2 == 1);
            let node = loop {
                let node = self.sender();
                if group(&options, node) == side {
                    break node;
                }
            };
            sent.push(self.sim.publish(node, options.size));
            self.sim.run_for(options.interval);
        }
        let spent = self.sim.elapsed() - begin;
        self.sim.run_for(options.lasts.saturating_sub(spent).max(IN_TIME));
        let before = self.sim.totals();
        self.sim.partition(|_| 0);
        for node in 0..self.sim.len() {
            self.sim.network_changed(node);
        }
        let healed = self.sim.elapsed();
        self.sim.run_for(Duration::from_secs(60));
        let after = self.sim.totals();
        let whole = self.sim.elapsed();
        let outcomes: Vec<Outcome> = sent.iter().map(|&m| self.sim.outcome(m, whole)).collect();
        report.add_outcomes(&outcomes);
        report.add_traffic(&before, &after, options.nodes);
        let mut last = Duration::ZERO;
        let (mut missing, mut sent_at) = (0_u64, begin);
        for &message in &sent {
            sent_at = self.sim.sent_at(message).max(sent_at);
            for node in 0..self.sim.len() {
                let got =
                    self.sim.delivered_after(message, node).map(|after| self.sim.sent_at(message) + after);
                if got.is_none_or(|at| at > healed) && node != self.sim.author(message) {
                    missing += 1;
                }
                last = last.max(got.map_or(Duration::ZERO, |at| at.saturating_sub(healed)));
            }
        }
        let envelope = (options.size + p2p_wire::Envelope::OVERHEAD + 14) as u64;
        report.more.insert("healed_s", if report.missed == 0 { last.as_secs_f64() } else { f64::INFINITY });
        report.more.insert("missing", ratio(missing, 1));
        report.more.insert("gaps", ratio(after.gaps, 1));
        report.more.insert("payload_bytes", ratio(after.payload_bytes - before.payload_bytes, 1));
        report.more.insert("summary_bytes", ratio(after.summary_bytes - before.summary_bytes, 1));
        report.more.insert("range_pull_bytes", ratio(after.range_pull_bytes - before.range_pull_bytes, 1));
        report.more.insert("summary_bytes_link", ratio(self.sim.summaries_of_a_link(healed), 1));
        report
            .more
            .insert("payload_ratio", ratio(after.payload_bytes - before.payload_bytes, missing * envelope));
        report
    }
}
