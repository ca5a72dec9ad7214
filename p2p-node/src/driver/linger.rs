//! Leaving waits for what only this node has: a large message is announced and asked for, and whoever is gone is not
//! asked.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use p2p_wire::EnvelopeId;
use tokio::sync::oneshot;

use super::Driver;

/// How long leaving waits for the neighbours to ask. With the time that links have to write what they hold it stays
/// within the deadline of a shutdown.
const LINGER: Duration = Duration::from_millis(1_500);
/// Own messages that nobody has asked for yet; the oldest is not waited for when there are more.
const MAX_UNASKED: usize = 64;

/// What was published and is in no link's queue, and who waits for that to change.
#[derive(Debug, Default)]
pub(super) struct Linger {
    unasked: VecDeque<EnvelopeId>,
    leaving: Vec<oneshot::Sender<()>>,
    stopping: Option<oneshot::Sender<()>>,
    until: Option<Instant>,
}

impl Linger {
    /// An own message went out, while there were links.
    pub(super) fn published(&mut self, id: EnvelopeId) {
        if self.unasked.len() >= MAX_UNASKED {
            self.unasked.pop_front();
        }
        self.unasked.push_back(id);
    }

    /// It is in the queue of a link now, which is written before the link is closed.
    pub(super) fn sent(&mut self, id: &EnvelopeId) {
        if let Some(at) = self.unasked.iter().position(|unasked| unasked == id) {
            self.unasked.remove(at);
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.until
    }
}

impl Driver {
    /// The application leaves the network.
    pub(super) fn on_leave(&mut self, now: Instant, reply: oneshot::Sender<()>) {
        self.flush_all_messages();
        self.linger.leaving.push(reply);
        self.linger.until.get_or_insert(now + LINGER);
    }

    /// The node is to stop. Nothing more is accepted.
    pub(super) fn on_shutdown(&mut self, now: Instant, reply: oneshot::Sender<()>) {
        self.flush_all_messages();
        self.shared.submissions.close();
        self.linger.stopping = Some(reply);
        self.linger.until.get_or_insert(now + LINGER);
    }

    /// Ends what waits to leave, if there is nothing left to wait for. Whether the node is to stop now.
    pub(super) fn depart(&mut self, now: Instant) -> bool {
        let Some(until) = self.linger.until else { return false };
        if now < until && !self.linger.unasked.is_empty() && self.neighbours() > 0 {
            return false;
        }
        self.linger.until = None;
        if self.linger.stopping.is_some() {
            return true;
        }
        self.linger.unasked.clear();
        self.stack.with_table(now, |table, now| table.stop(now));
        self.perform_all();
        for reply in self.linger.leaving.drain(..) {
            reply.send(()).ok();
        }
        false
    }

    /// Tells whoever asked for it that the node has stopped.
    pub(super) fn tell_stopped(&mut self) {
        for reply in self.linger.leaving.drain(..).chain(self.linger.stopping.take()) {
            reply.send(()).ok();
        }
    }
}
