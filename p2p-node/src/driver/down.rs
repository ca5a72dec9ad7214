//! How links end, from either side.

use std::sync::Arc;
use std::time::Instant;

use p2p_peers::{DownCause, HangupCause};
use p2p_wire::{NodeId, encode_frame};

use crate::event::Event;
use crate::link::Closed;
use crate::outbox::Outbox;
use crate::packet::{ByeReason, Packet};
use crate::stack::{Hangup, Input};

use super::{Driver, Stage};

impl Driver {
    /// The link has ended, by itself or by the other side.
    pub(super) fn link_is_down(&mut self, peer: NodeId, cause: &Closed) {
        let Some(link) = self.links.remove(&peer) else { return };
        self.settle_ended(peer, &link.outbox);
        link.outbox.close();
        let (cause, reason) = match link.bye {
            Some(reason) => (down_cause(reason), reason.as_str().to_owned()),
            None => (failure_cause(cause), cause.to_string()),
        };
        self.after_down(peer, link.stage, cause, reason);
        if link.bye == Some(ByeReason::Duplicate) {
            self.on_replaced(peer);
        }
    }

    /// Closes a link from this side: what is queued is still written, then a goodbye. What a neighbour pushed before it knew is
    /// still heard.
    pub(super) fn close_link(&mut self, peer: NodeId, bye: ByeReason, cause: DownCause, reason: &str) {
        let Some(link) = self.links.remove(&peer) else { return };
        self.settle_ended(peer, &link.outbox);
        match encode_frame(&Packet::Bye(bye)) {
            Ok(frame) => link.outbox.close_with(frame),
            Err(_) => link.outbox.close(),
        }
        if link.stage != Stage::Asked && !matches!(bye, ByeReason::Misbehaved | ByeReason::Banned) {
            self.leavers.add(link.id, peer, link.waiting);
        }
        self.after_down(peer, link.stage, cause, reason.to_owned());
    }

    /// The other side says goodbye: what it has not handled by now, it may never handle.
    pub(super) fn on_bye(&mut self, now: Instant, peer: NodeId, reason: ByeReason) {
        if let Some(link) = self.links.get_mut(&peer) {
            link.bye = Some(reason);
            let outbox = Arc::clone(&link.outbox);
            self.settle_ended(peer, &outbox);
            outbox.close();
        }
        if matches!(reason, ByeReason::Disconnected | ByeReason::Banned) {
            // It was asked to go: coming back by itself would undo that. It may come back, or be asked for.
            self.stack.with_table(now, |table, now| table.disconnect(now, peer));
        }
    }

    /// What a link holds when it ends may never be handled, whoever ended it: where this side did and writes it still, the other
    /// one may be long gone.
    fn settle_ended(&mut self, peer: NodeId, outbox: &Outbox) {
        self.handed.handled(peer, &outbox.handled());
        self.handed.gone(peer);
    }

    fn after_down(&mut self, peer: NodeId, stage: Stage, cause: DownCause, reason: String) {
        self.turns.remove(peer);
        self.pulling.remove(&peer);
        self.count_neighbours();
        tracing::debug!(peer = %peer.short(), %reason, "link down");
        self.stack.handle(Instant::now(), Input::LinkDown { peer, cause });
        match stage {
            Stage::Agreed | Stage::Over => self.shared.events.publish(Event::PeerDown { id: peer, reason }),
            Stage::Asked if cause == DownCause::Replaced => {}
            Stage::Asked => self.tell_waiters(peer, &Err(reason)),
        }
    }

    pub(super) fn hang_up(&mut self, peer: NodeId, reason: Hangup) {
        let unanswered = self.links.get(&peer).is_some_and(|link| link.stage == Stage::Asked);
        let (bye, cause, text) = match reason {
            Hangup::Silent => (ByeReason::Other, DownCause::Silent, "nothing was heard of it for 30 s"),
            Hangup::Unread => (ByeReason::Other, DownCause::Silent, "it does not read what it is sent"),
            Hangup::Misbehaved => (ByeReason::Misbehaved, DownCause::Misbehaved, "it broke the protocol"),
            Hangup::NoRoom if unanswered => {
                (ByeReason::Full, DownCause::HungUp, "it does not say whether it takes the link")
            }
            Hangup::NoRoom => (ByeReason::Full, DownCause::HungUp, "no room for it"),
            Hangup::Table(HangupCause::Banned) => (ByeReason::Banned, DownCause::HungUp, "banned"),
            Hangup::Table(HangupCause::Stopped) => (ByeReason::Leaving, DownCause::HungUp, "this node left"),
            Hangup::Table(HangupCause::Full) => (ByeReason::Full, DownCause::HungUp, "no room for it"),
            Hangup::Table(_) => (ByeReason::Disconnected, DownCause::HungUp, "disconnected"),
        };
        // Where the other side asked for it, its reason is the reason.
        let text = self.links.get(&peer).and_then(|link| link.bye).map_or(text, ByeReason::as_str);
        self.close_link(peer, bye, cause, text);
    }
}

const fn down_cause(reason: ByeReason) -> DownCause {
    match reason {
        ByeReason::Misbehaved => DownCause::Protocol,
        ByeReason::Full => DownCause::NoRoom,
        ByeReason::Duplicate => DownCause::Replaced,
        _ => DownCause::Closed,
    }
}

const fn failure_cause(cause: &Closed) -> DownCause {
    match cause {
        Closed::Eof => DownCause::Closed,
        Closed::Io(_) | Closed::Local => DownCause::Failed,
        Closed::Protocol(_) => DownCause::Protocol,
        Closed::Stalled(_) => DownCause::Silent,
    }
}
