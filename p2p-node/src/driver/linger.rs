//! Leaving waits for what only this node has: a large message is announced and asked for, and whoever is gone is not
//! asked.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use p2p_wire::EnvelopeId;
use tokio::sync::oneshot;

use crate::event::Event;

use super::{Driver, Stage};

/// How long leaving waits while nothing is taken, and how long at all: with the time that links have to write what they hold it
/// stays within the deadline of a shutdown.
const LINGER: Duration = Duration::from_millis(1_500);
const LINGER_AT_MOST: Duration = Duration::from_secs(2);
/// How long [`Node::handed_over`](crate::Node::handed_over) waits while nothing is taken: longer than a pull may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// While something is waited for, this often it is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// Own messages that nobody has asked for yet; the oldest is not waited for when there are more.
const MAX_UNASKED: usize = 1_024;

/// What was published and is in no link's queue, and who waits for that to change.
#[derive(Debug, Default)]
pub(super) struct Linger {
    unasked: VecDeque<EnvelopeId>,
    /// Until logs have been compared with new neighbours.
    pub(super) comparing: Vec<oneshot::Sender<()>>,
    waiting: Vec<oneshot::Sender<usize>>,
    leaving: Vec<oneshot::Sender<()>>,
    stopping: Option<oneshot::Sender<()>>,
    until: Option<Instant>,
    progress: Option<Progress>,
}

/// The least that was left to be taken, in bytes and messages, and since when.
#[derive(Debug, Clone, Copy)]
struct Progress {
    left: usize,
    since: Instant,
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
        (self.progress.is_some() || !self.comparing.is_empty()).then(|| Instant::now() + LOOK)
    }

    fn waits(&self) -> bool {
        self.until.is_some() || !self.waiting.is_empty()
    }

    /// How long nothing has been taken, when so much is `left` now.
    fn idle(&mut self, now: Instant, left: usize) -> Duration {
        let progress = self.progress.get_or_insert(Progress { left, since: now });
        if left < progress.left {
            *progress = Progress { left, since: now };
        }
        now.saturating_duration_since(progress.since)
    }
}

impl Driver {
    /// The application leaves the network.
    pub(super) fn on_leave(&mut self, now: Instant, reply: oneshot::Sender<()>) {
        self.flush_all_messages();
        self.linger.leaving.push(reply);
        self.linger.until.get_or_insert(now + LINGER_AT_MOST);
    }

    /// The node is to stop. Nothing more is accepted.
    pub(super) fn on_shutdown(&mut self, now: Instant, reply: oneshot::Sender<()>) {
        self.flush_all_messages();
        self.shared.submissions.close();
        self.linger.stopping = Some(reply);
        self.linger.until.get_or_insert(now + LINGER_AT_MOST);
    }

    /// Tells whoever waits for it that logs have been compared.
    pub(super) fn tell_compared(&mut self, now: Instant) {
        if !self.linger.comparing.is_empty() && !self.stack.is_comparing(now) {
            for reply in self.linger.comparing.drain(..) {
                reply.send(()).ok();
            }
        }
    }

    /// Somebody wants to know when all own messages have gone out, and how many have not.
    pub(super) fn on_hand_over(&mut self, reply: oneshot::Sender<usize>) {
        self.linger.waiting.push(reply);
    }

    /// Ends what waits for own messages to go out, if there is nothing left to wait for. Whether the node is to stop now.
    pub(super) fn depart(&mut self, now: Instant) -> bool {
        if !self.linger.waits() {
            return false;
        }
        let left = if self.neighbours() > 0 { self.left_to_take(now) } else { 0 };
        let idle = self.linger.idle(now, left);
        if left == 0 || idle >= PATIENCE {
            let untaken = self.linger.unasked.len();
            for reply in self.linger.waiting.drain(..) {
                reply.send(untaken).ok();
            }
        }
        let gone = self.linger.until.is_some_and(|until| left == 0 || idle >= LINGER || now >= until);
        if gone {
            self.warn_of_untaken();
            self.linger.until = None;
        }
        if !self.linger.waits() {
            self.linger.progress = None;
        }
        if !gone || self.linger.stopping.is_some() {
            return gone;
        }
        self.stack.with_table(now, |table, now| table.stop(now));
        self.perform_all();
        for reply in self.linger.leaving.drain(..) {
            reply.send(()).ok();
        }
        false
    }

    /// What neighbours may still ask for, or have not read, of own messages; 0 if nothing. What waits for a link is not told
    /// from what others sent through here.
    fn left_to_take(&self, now: Instant) -> usize {
        let links = self.links.values().filter(|link| link.stage == Stage::Agreed);
        let bytes: usize = links.map(|link| link.owed.bytes(now) + link.outbox.waiting()).sum();
        bytes + self.linger.unasked.len() + self.shared.submissions.waiting()
    }

    /// The node leaves although some of its messages are nowhere else.
    fn warn_of_untaken(&mut self) {
        let untaken = self.linger.unasked.len();
        if untaken > 0 && self.neighbours() > 0 {
            let later = if self.log.is_some() { "; they go out when it is started again" } else { "" };
            let text = format!("nobody asked for {untaken} of this node's messages before it left{later}");
            tracing::warn!(untaken, "own messages were not taken");
            self.shared.events.publish(Event::Warning(text));
        }
        self.linger.unasked.clear();
    }

    /// Tells whoever asked for it that the node has stopped.
    pub(super) fn tell_stopped(&mut self) {
        for reply in self.linger.leaving.drain(..).chain(self.linger.stopping.take()) {
            reply.send(()).ok();
        }
    }
}
