//! Scenarios in which some nodes mean harm (faults.md, rows 18 to 20, 25). The last ones to join do; only honest nodes
//! count and send.

use std::time::Duration;

use p2p_wire::{EnvelopeId, NodeId};
use rand::RngExt;

use super::scenario::{IN_TIME, Run};
use super::{Conduct, Report};
use crate::ihave::{Announced, MAX_IHAVE};
use crate::packet::Packet;

/// A spammer sends to each neighbour as often as this.
const SPAM_EVERY: Duration = Duration::from_millis(100);
/// Each time it asks for the newest message as often as this, and to be pushed to as often as the other.
const PULLS: usize = 20;
const GRAFTS: usize = 2;

impl Run {
    /// Sybils behave for 120 s, then pass nothing on. Only honest nodes count and send.
    pub(super) fn covert_flash(&mut self) -> Report {
        let honest = self.honest();
        let calm = self.send_honest(self.options.fits(Duration::from_secs(120)), honest);
        self.sim.run_for(IN_TIME);
        let baseline = self.lasts(&calm, honest);
        for node in honest..self.sim.len() {
            self.sim.set_conduct(node, Conduct::Withholding);
        }
        let mut report = self.report();
        let before = self.sim.totals();
        let during = self.send_honest(self.options.fits(Duration::from_secs(90)), honest);
        let later = self.send_honest(self.options.messages, honest);
        let after = self.sim.totals();
        self.sim.run_for(IN_TIME);
        let all: Vec<usize> = during.iter().chain(&later).copied().collect();
        report.add_outcomes(&self.outcomes(&all));
        report.add_traffic(&before, &after, self.options.nodes);
        let times = self.times(&all, honest);
        report.missed = times.missed;
        report.more.insert("p99_ms", times.ms(0.99));
        report.more.insert("baseline_ms", baseline);
        report.more.insert("after_90s_ms", self.lasts(&later, honest));
        report
    }

    fn send_honest(&mut self, count: usize, honest: usize) -> Vec<usize> {
        let mut sent = Vec::new();
        for _ in 0..count {
            let sender = self.rng.random_range(0..honest);
            sent.push(self.sim.publish(sender, self.options.size));
            self.sim.run_for(self.options.interval);
        }
        sent
    }

    /// The mean over messages of when the last honest node had it, in milliseconds.
    fn lasts(&self, messages: &[usize], honest: usize) -> f64 {
        let last =
            |&m: &usize| (0..honest).filter_map(|n| self.sim.delivered_after(m, n)).max().unwrap_or_default();
        messages.iter().map(|m| last(m).as_secs_f64() * 1000.0).sum::<f64>() / messages.len().max(1) as f64
    }

    /// Spammers announce a thousand messages that are not there ten times a second to each neighbour, ask each for the
    /// newest message two hundred times a second, and graft and prune all the time.
    pub(super) fn spam(&mut self) -> Report {
        let honest = self.honest();
        self.send_honest(self.options.warm_up, honest);
        for node in honest..self.sim.len() {
            self.sim.set_conduct(node, Conduct::Greedy);
        }
        let mut report = self.report();
        let before = self.sim.totals();
        let (mut sent, mut waiting) = (Vec::new(), 0_usize);
        let (begin, mut next_at) = (self.sim.elapsed(), self.sim.elapsed());
        while self.sim.elapsed() - begin < self.options.lasts {
            if self.sim.elapsed() >= next_at {
                let sender = self.rng.random_range(0..honest);
                sent.push(self.sim.publish(sender, self.options.size));
                next_at += self.options.interval;
            }
            let newest = sent.last().map(|&message| self.sim.envelope_id(message));
            for node in honest..self.sim.len() {
                self.pester(node, newest);
            }
            self.sim.run_for(SPAM_EVERY);
            waiting = waiting.max((0..honest).map(|n| self.announced(n)).max().unwrap_or(0));
        }
        let after = self.sim.totals();
        self.sim.run_for(IN_TIME);
        report.add_outcomes(&self.outcomes(&sent));
        report.add_traffic(&before, &after, self.options.nodes);
        let times = self.times(&sent, honest);
        report.missed = times.missed;
        report.last_ms_max = times.ms(1.0);
        report.more.insert("answers_max", f64::from(self.sim.most_answers()));
        report.more.insert("announced_max", waiting as f64);
        report
    }

    fn pester(&mut self, node: usize, newest: Option<EnvelopeId>) {
        let neighbours: Vec<usize> = self.sim.neighbours(node).collect();
        for peer in neighbours {
            let ids = (0..MAX_IHAVE).map(|_| {
                let author = NodeId::from_bytes(self.rng.random());
                let first = self.rng.random_range(1..1 << 40);
                let id = EnvelopeId { author, run: first, first, count: 1 };
                Announced { id, hops: 1, wait: false }
            });
            let mut packets = vec![Packet::IHave(ids.collect())];
            packets.extend((0..PULLS).map(|i| match (newest, i % 2) {
                (Some(id), 0) => Packet::Graft(Some(id)),
                (Some(id), _) => Packet::IWant(vec![id]),
                (None, _) => Packet::Graft(None),
            }));
            packets.extend((0..GRAFTS).flat_map(|_| [Packet::Prune, Packet::Graft(None)]));
            for packet in packets {
                self.sim.inject(node, peer, packet);
            }
        }
    }

    /// Envelopes that a node was told of and has not got.
    fn announced(&self, node: usize) -> usize {
        self.sim.stack(node).map_or(0, |stack| stack.gossip().stats().missing)
    }

    /// How many do no harm: all but the last `share`.
    pub(super) fn honest(&self) -> usize {
        let nodes = self.options.nodes;
        nodes - (0..nodes).filter(|&node| self.options.is_struck(node)).count()
    }

    pub(super) fn times(&self, messages: &[usize], honest: usize) -> Times {
        let (mut times, mut missed) = (Vec::new(), 0);
        for &message in messages {
            for node in (0..honest).filter(|&node| node != self.sim.author(message)) {
                match self.sim.delivered_after(message, node) {
                    Some(after) if after <= IN_TIME => times.push(after),
                    _ => missed += 1,
                }
            }
        }
        times.sort_unstable();
        Times { times, missed }
    }
}

/// When honest nodes had the messages, in order, and how often one did not get one in time.
pub(super) struct Times {
    times: Vec<Duration>,
    pub(super) missed: u64,
}

impl Times {
    /// The time within which this part of the deliveries happened, in milliseconds.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index"
    )]
    fn ms(&self, part: f64) -> f64 {
        let at = (self.times.len() as f64 * part) as usize;
        let time = self.times.get(at.min(self.times.len().saturating_sub(1)));
        time.copied().unwrap_or_default().as_secs_f64() * 1000.0
    }
}
