//! Scenarios in which nodes die: many at once, and all the time.

use std::collections::VecDeque;
use std::time::Duration;

use rand::RngExt;

use super::report::ratio;
use super::scenario::{IN_TIME, Run};
use super::{Kill, Outcome, Report};

impl Run {
    /// Messages in the first 10 s after the death count as `first`; those from 10 s (from 30 s, if more than half
    /// died) must all arrive. Machines: later by the time after which a silent link is dead, and so much later may the
    /// first ones arrive.
    pub(super) fn mass_death(&mut self) -> Report {
        self.send(self.options.warm_up);
        let how = if self.options.machines { Kill::Machine } else { Kill::Process };
        for node in 1..self.sim.len() {
            if self.rng.random::<f64>() < self.options.share {
                self.sim.kill(node, how);
            }
        }
        let silent =
            if self.options.machines { self.options.sim.liveness.dead_after } else { Duration::ZERO };
        let begin = self.sim.elapsed();
        let wait = Duration::from_secs(if self.options.share > 0.5 { 30 } else { 10 }) + silent;
        let first = self.send(self.options.fits(Duration::from_secs(10)));
        let spent = self.sim.elapsed() - begin;
        self.sim.run_for(wait.saturating_sub(spent));
        let mut report = self.report();
        let before = self.sim.totals();
        let sent = self.send(self.options.messages);
        let after = self.sim.totals();
        self.sim.run_for(IN_TIME);
        let firsts = self.outcomes_within(&first, IN_TIME + silent);
        report.add_outcomes(&self.outcomes(&sent));
        report.add_traffic(&before, &after, report.overlay.nodes);
        report.more.insert("share", self.options.share);
        report.more.insert("first_missed_share", missed_share(&firsts));
        if self.options.machines {
            let soon = self.outcomes(&first);
            report.more.insert("first_missed_share_10s", missed_share(&soon));
        }
        report
    }

    /// Each node but the first lives for a random time around `lasts` and starts again a second later.
    pub(super) fn churn(&mut self) -> Report {
        self.send(self.options.warm_up);
        let mut report = self.report();
        let before = self.sim.totals();
        let step = Duration::from_millis(100);
        let dies = step.as_secs_f64() / self.options.lasts.as_secs_f64();
        let (mut down, mut open, mut outcomes) = (Vec::new(), VecDeque::new(), Vec::new());
        let (mut sent, mut next_at, mut deaths) = (0, self.sim.elapsed(), 0_u64);
        while sent < self.options.messages || !open.is_empty() {
            let now = self.sim.elapsed();
            if sent < self.options.messages && now >= next_at {
                let sender = self.sender();
                open.push_back((now + IN_TIME, self.sim.publish(sender, self.options.size)));
                (sent, next_at) = (sent + 1, next_at + self.options.interval);
            }
            for node in 1..self.sim.len() {
                if self.sim.runs(node) && self.rng.random::<f64>() < dies {
                    self.sim.kill(node, Kill::Process);
                    deaths += 1;
                    down.push((now + Duration::from_secs(1), node));
                }
            }
            while let Some(&(at, node)) = down.first()
                && at <= now
            {
                down.remove(0);
                self.sim.start(node, Some(0));
            }
            self.sim.run_for(step);
            while let Some(&(at, message)) = open.front()
                && at <= self.sim.elapsed()
            {
                open.pop_front();
                outcomes.push(self.sim.outcome(message, IN_TIME));
            }
        }
        report.add_outcomes(&outcomes);
        report.add_traffic(&before, &self.sim.totals(), self.options.nodes);
        report.more.insert("missed_share", missed_share(&outcomes));
        report.more.insert("deaths", ratio(deaths, 1));
        report
    }
}

fn missed_share(outcomes: &[Outcome]) -> f64 {
    let (missed, expected) =
        outcomes.iter().fold((0, 0), |(m, e), o| (m + o.missed as u64, e + o.expected as u64));
    ratio(missed, expected)
}
