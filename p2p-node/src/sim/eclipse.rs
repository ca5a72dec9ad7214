//! The scenario eclipse (faults.md, row 23): many hostile nodes want to be all that one node sees.
//!
//! They come to a network that stands. They tell of nobody but themselves, pass no message on, and want the victim for a
//! neighbour: beyond their view, so that none refuses it, and dialling it again and again while they have no link to it.
//! They have seen it on the network before: its table and its anchors are filled while they are there, and each restart
//! begins with that table.

use std::time::Duration;

use bytes::Bytes;
use p2p_peers::Source;
use p2p_peers::views::MAX_SAMPLE;
use rand::RngExt;

use super::queue::index;
use super::scenario::{IN_TIME, Run};
use super::turn::Turn;
use super::{Conduct, Kill, Report, Sim};
use crate::convert;
use crate::packet::Packet;
use crate::stack::Input;
use crate::view::View;

/// A hostile node without a link to the victim dials it as often as this.
const PRESS_EVERY: Duration = Duration::from_secs(2);
/// Between the end of the victim's program and its next start.
const DOWN: Duration = Duration::from_secs(1);
/// What the table and the anchors are made in, before the first restart.
const BEFORE: Duration = Duration::from_secs(120);

impl Turn<'_> {
    /// What really goes out if a node's stack wants this sent; `None` if nothing does.
    pub(super) fn as_it_behaves(&mut self, packet: Packet) -> Option<Packet> {
        let conduct = self.world.face(self.node.number).conduct;
        match (conduct, packet) {
            (Conduct::Withholding | Conduct::Eclipsing, Packet::Push { .. } | Packet::IHave(_)) => None,
            (Conduct::Eclipsing, Packet::View(view)) if !view.records().is_empty() => {
                let count = if matches!(view, View::ForwardJoin { .. }) { 1 } else { MAX_SAMPLE };
                let records = (0..count).map(|_| self.some_record()).collect();
                Some(Packet::View(view.with(records)))
            }
            (_, packet) => Some(packet),
        }
    }

    /// Of one of them, who come last.
    fn some_record(&mut self) -> Bytes {
        let faces = &self.world.faces;
        let first = faces.partition_point(|face| face.conduct != Conduct::Eclipsing);
        let nth = self.node.random() % (faces.len() - first).max(1) as u64;
        faces[(first..faces.len()).nth(usize::try_from(nth).unwrap_or(0)).unwrap_or(0)].record.bytes().clone()
    }
}

impl Sim {
    /// Has a node dial another as long as they have no link.
    fn press(&mut self, node: usize, victim: usize) {
        if self.node(node).link_to(index(victim)).is_some() {
            return;
        }
        let there = &self.world.faces[victim];
        let (peer, addrs) =
            (there.id, there.record.addrs().iter().map(|a| convert::table_addr(*a)).collect());
        self.with(node, |turn| {
            turn.with_stack(|stack, now| {
                stack.handle(now, Input::Learned { peer, addrs, source: Source::User });
                stack.with_table(now, |table, now| table.want(now, peer));
            });
        });
    }
}

impl Run {
    /// The victim, the last of the honest, is started again and again. After each start it has the time `lasts` to dial an
    /// honest neighbour, and to receive an honest message.
    pub(super) fn eclipse(&mut self) -> Report {
        let honest = self.honest();
        let victim = honest.saturating_sub(1);
        let mut sent = self.besiege(victim, BEFORE);
        let mut report = self.report();
        let before = self.sim.totals();
        let (mut linked, mut heard, mut ours, mut all) = (0, 0, 0, 0);
        for _ in 0..self.options.messages {
            let table = self.sim.saved_table(victim);
            self.sim.kill(victim, Kill::Process);
            self.sim.run_for(DOWN);
            self.sim.start_with(victim, table);
            let mine = self.besiege(victim, self.options.lasts);
            let dialled = self.sim.dialled(victim).filter(|&peer| peer < honest).count();
            linked += usize::from(dialled > 0);
            ours += self.sim.neighbours(victim).filter(|&peer| peer < honest).count();
            all += self.sim.neighbours(victim).count();
            heard += usize::from(mine.iter().any(|&m| self.sim.delivered_after(m, victim).is_some()));
            sent.extend(mine);
        }
        let after = self.sim.totals();
        self.sim.run_for(IN_TIME);
        report.add_outcomes(&self.outcomes(&sent));
        report.add_traffic(&before, &after, self.options.nodes);
        // The victim is down now and then, and the others are not.
        report.missed = self.times(&sent, victim).missed;
        let restarts = self.options.messages.max(1) as f64;
        report.more.insert("restarts", restarts);
        report.more.insert("honest_dialled", linked as f64);
        report.more.insert("heard", heard as f64);
        report.more.insert("honest_neighbours", ours as f64 / restarts);
        report.more.insert("neighbours", all as f64 / restarts);
        report
    }

    /// Lets time pass under attack. Returns the messages that honest nodes other than the victim send meanwhile.
    fn besiege(&mut self, victim: usize, time: Duration) -> Vec<usize> {
        let (mut sent, begin) = (Vec::new(), self.sim.elapsed());
        let (mut next_at, mut press_at) = (begin, begin);
        while self.sim.elapsed() - begin < time {
            let now = self.sim.elapsed();
            if now >= next_at {
                let sender = self.rng.random_range(0..victim.max(1));
                sent.push(self.sim.publish(sender, self.options.size));
                next_at = now + self.options.interval;
            }
            if now >= press_at {
                (victim + 1..self.sim.len()).for_each(|node| self.sim.press(node, victim));
                press_at = now + PRESS_EVERY;
            }
            self.sim.run_for(next_at.min(press_at) - now);
        }
        sent
    }
}
