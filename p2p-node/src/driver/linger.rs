//! Leaving waits for what only this node has: a large message is announced and asked for, and whoever is gone is not
//! asked.

use std::time::{Duration, Instant};

use p2p_wire::NodeId;
use tokio::sync::oneshot;

use crate::event::Event;

use super::{Driver, LinkHandle, Stage};

/// How long leaving waits while nothing is taken, and how long at all: with the time that links have to write what they hold it
/// stays within the deadline of a shutdown.
const LINGER: Duration = Duration::from_millis(1_500);
const LINGER_AT_MOST: Duration = Duration::from_secs(2);
/// How long [`Node::handed_over`](crate::Node::handed_over) waits while nothing moves: as long as a link is borne that handles
/// nothing, and longer than a pull may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The same while there is no neighbour: one that was lost may be back by then.
const ALONE: Duration = Duration::from_secs(5);
/// The same at all: one neighbour may be slow for ever, though others have everything.
const HANDING: Duration = Duration::from_secs(120);
/// How long [`Node::compared`](crate::Node::compared) waits at all: neighbours come and go.
const COMPARING: Duration = Duration::from_secs(5);
/// While something is waited for, this often it is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Who waits for own messages to go out.
#[derive(Debug, Default)]
pub(super) struct Linger {
    /// Until logs have been compared with new neighbours, or this time.
    comparing: Vec<(Instant, oneshot::Sender<()>)>,
    /// Until own messages have gone out, or this time.
    waiting: Vec<(Instant, oneshot::Sender<bool>)>,
    leaving: Vec<oneshot::Sender<()>>,
    stopping: Option<oneshot::Sender<()>>,
    until: Option<Instant>,
    progress: Option<Progress>,
}

/// The least that was left to be taken, in bytes and messages, what links had written, and since when.
#[derive(Debug, Clone, Copy)]
struct Progress {
    left: usize,
    written: usize,
    since: Instant,
}

impl Linger {
    pub(super) fn deadline(&self) -> Option<Instant> {
        (self.progress.is_some() || !self.comparing.is_empty()).then(|| Instant::now() + LOOK)
    }

    fn waits(&self) -> bool {
        self.until.is_some() || !self.waiting.is_empty()
    }

    /// How long nothing has moved, when so much is `left` now, links have `written` so much, and older messages were `handed` over
    /// then.
    fn idle(&mut self, now: Instant, left: usize, written: usize, handed: Option<Instant>) -> Duration {
        let progress = self.progress.get_or_insert(Progress { left, written, since: now });
        if left < progress.left || written > progress.written {
            *progress = Progress { left: left.min(progress.left), written, since: now };
        }
        now.saturating_duration_since(handed.map_or(progress.since, |at| at.max(progress.since)))
    }

    fn begin(&mut self, now: Instant) {
        self.until.get_or_insert(now + LINGER_AT_MOST);
        // What was waited for before says nothing of what has come since.
        self.progress = None;
    }

    /// Tells those who have waited long enough whether all has gone out; all of them if that will not change.
    fn answer(&mut self, now: Instant, all: bool, ends: bool) {
        for (_, reply) in self.waiting.extract_if(.., |(until, _)| ends || now >= *until) {
            reply.send(all).ok();
        }
    }
}

impl Driver {
    /// The application leaves the network.
    pub(super) fn on_leave(&mut self, now: Instant, reply: oneshot::Sender<()>) {
        self.flush_all_messages();
        self.linger.leaving.push(reply);
        self.linger.begin(now);
    }

    /// The node is to stop. Nothing more is accepted.
    pub(super) fn on_shutdown(&mut self, now: Instant, reply: oneshot::Sender<()>) {
        self.flush_all_messages();
        self.shared.submissions.close();
        self.linger.stopping = Some(reply);
        self.linger.begin(now);
    }

    /// Somebody wants to know when logs have been compared.
    pub(super) fn on_compare(&mut self, now: Instant, reply: oneshot::Sender<()>) {
        self.linger.comparing.push((now + COMPARING, reply));
    }

    /// Tells whoever waits for it that logs have been compared.
    pub(super) fn tell_compared(&mut self, now: Instant) {
        if self.linger.comparing.is_empty() {
            return;
        }
        let goes_on = self.stack.is_comparing(now);
        for (_, reply) in self.linger.comparing.extract_if(.., |(until, _)| !goes_on || now >= *until) {
            reply.send(()).ok();
        }
    }

    /// Somebody wants to know when all own messages have gone out.
    pub(super) fn on_hand_over(&mut self, now: Instant, reply: oneshot::Sender<bool>) {
        self.linger.waiting.push((now + HANDING, reply));
    }

    /// Ends what waits for own messages to go out, if there is nothing left to wait for. Whether the node is to stop now.
    pub(super) fn depart(&mut self, now: Instant) -> bool {
        if !self.linger.waits() {
            return false;
        }
        let arrives = !self.linger.waiting.is_empty();
        if arrives {
            self.settle_handled(now);
        }
        let on_its_way = self.on_its_way(arrives);
        let left = self.left_to_take(now, arrives, on_its_way);
        let written = self.links.values().map(|link| link.outbox.written()).sum();
        let idle = self.linger.idle(now, left + on_its_way, written, self.stack.handed_at());
        let patience = if self.neighbours() == 0 { ALONE } else { PATIENCE };
        self.linger.answer(now, left == 0, left == 0 || idle >= patience);
        let gone = self.linger.until.is_some_and(|until| left == 0 || idle >= LINGER || now >= until);
        if gone {
            self.linger.answer(now, left == 0, true);
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

    /// Takes note of what neighbours have handled, and asks those that were sent something.
    pub(super) fn settle_handled(&mut self, now: Instant) {
        let peers: Vec<NodeId> = self.handed.peers().collect();
        for peer in peers {
            if let Some(link) = self.links.get(&peer) {
                link.outbox.ask();
                self.handed.handled(peer, &link.outbox.handled());
            }
        }
        self.handed.asked(now);
    }

    /// Own messages that are nowhere else; 0 if there are none. Who leaves closes the links, which write what they hold; who is to
    /// stay until all has arrived waits until a neighbour has handled it.
    fn left_to_take(&self, now: Instant, arrives: bool, on_its_way: usize) -> usize {
        // Older ones, of an earlier process too, that a neighbour may be about to ask for.
        let older = usize::from(self.stack.is_handing(now));
        let left = self.shared.submissions.waiting() + older;
        if arrives {
            left + self.handed.len()
        } else if self.neighbours() == 0 {
            // Nobody is there to take anything: what is left stays.
            0
        } else {
            left + self.handed.unsent() + on_its_way
        }
    }

    /// Bytes that wait for links, and where it matters those under way, of others' messages too.
    fn on_its_way(&self, arrives: bool) -> usize {
        let is_open = |link: &&LinkHandle| link.stage == Stage::Agreed && link.bye.is_none();
        let of = |link: &LinkHandle| if arrives { link.outbox.unhandled() } else { link.outbox.waiting() };
        self.links.values().filter(is_open).map(of).sum()
    }

    /// The node leaves although some of its messages are nowhere else.
    fn warn_of_untaken(&self) {
        let untaken = self.handed.unsent();
        if untaken > 0 && self.neighbours() > 0 {
            let later = if self.log.is_some() { "; they go out when it is started again" } else { "" };
            let text = format!("nobody asked for {untaken} of this node's messages before it left{later}");
            tracing::warn!(untaken, "own messages were not taken");
            self.shared.events.publish(Event::Warning(text));
        }
    }

    /// Tells whoever asked for it that the node has stopped.
    pub(super) fn tell_stopped(&mut self) {
        for reply in self.linger.leaving.drain(..).chain(self.linger.stopping.take()) {
            reply.send(()).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A slow neighbour takes what an earlier process left: bytes on their way come and go, and are never fewer than once.
    #[test]
    fn what_is_handed_over_moves_although_no_less_is_left() {
        let (begin, mut linger) = (Instant::now(), Linger::default());
        let secs = Duration::from_secs;
        assert_eq!(linger.idle(begin, 1, 0, None), secs(0));
        assert_eq!(linger.idle(begin + secs(9), 500, 0, None), secs(9));
        assert_eq!(linger.idle(begin + secs(12), 500, 0, Some(begin + secs(11))), secs(1));
        assert_eq!(linger.idle(begin + secs(20), 500, 0, Some(begin + secs(11))), secs(9));
        // What was handed over before it began says nothing.
        assert_eq!(linger.idle(begin + secs(21), 0, 0, Some(begin + secs(11))), secs(0));
        assert_eq!(linger.idle(begin + secs(22), 0, 1, None), secs(0));
    }
}
