//! Messages of this node on their way out: sealed, signed, and held back while links are full, or have much to ask for, or
//! the disk is behind.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use p2p_gossip::PublishError;
use p2p_wire::{Envelope, NewEntry};

use crate::command::{Command, Outgoing};
use crate::event::Event;
use crate::submit::Bundle;

use super::Driver;

/// While links are full the publisher looks again this often, so that one that has stopped reading is
/// not waited for. The log says itself when it has room.
const RETRY: Duration = Duration::from_millis(100);
/// A full link that has taken nothing for this long is not waited for; it gets what had no room once it has.
const STUCK: Duration = Duration::from_secs(1);

/// Of each message of a copy the same could be said.
const WARN_AGAIN: Duration = Duration::from_secs(60);

/// What was sent since the start is kept, up to this much, to be sent again should its numbers turn out
/// to be used already. The oldest falls out.
const KEPT_MESSAGES: usize = 256;
const KEPT_BYTES: usize = 4 << 20;

/// What was sent, and whether more may be.
#[derive(Debug, Default)]
pub(super) struct Publisher {
    sent: VecDeque<Outgoing>,
    sent_bytes: usize,
    /// Some link is full, or the log.
    blocked: bool,
    /// When the application was told that the key is in use elsewhere.
    warned: Option<Instant>,
}

impl Publisher {
    pub(super) const fn is_blocked(&self) -> bool {
        self.blocked
    }

    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.blocked.then(|| Instant::now() + RETRY)
    }

    fn keep(&mut self, message: Outgoing) {
        self.sent_bytes += message.payload.len();
        self.sent.push_back(message);
        while (self.sent.len() > KEPT_MESSAGES || self.sent_bytes > KEPT_BYTES)
            && let Some(oldest) = self.sent.pop_front()
        {
            self.sent_bytes -= oldest.payload.len();
        }
    }
}

impl Driver {
    /// Sends what waits, as far as numbers and room go, for `limit`: whoever sends as fast as it can must not keep the
    /// node from hearing others.
    pub(super) fn flush_messages(&mut self, limit: Duration) {
        let began = Instant::now();
        self.publisher.blocked = false;
        while self.shared.submissions.is_waiting() && began.elapsed() < limit {
            self.publisher.blocked = self.is_held_back();
            if self.publisher.blocked || !self.publish_next() {
                break;
            }
            self.ring_links();
        }
        self.reserve_numbers();
    }

    /// Whether some neighbour has enough to read, or all have enough to ask for, or the disk enough to write.
    fn is_held_back(&self) -> bool {
        !self.log_has_room()
            || (self.handed.is_full(Instant::now()) && self.neighbours() > 0)
            || self.links.values().any(|link| link.outbox.is_full_but_moving(STUCK))
    }

    /// Whether something waits that may be sent at once.
    pub(super) fn may_publish(&self) -> bool {
        !self.publisher.blocked && self.shared.submissions.is_ready()
    }

    /// Sends what waits, room or not: what was accepted goes before a goodbye. What does not fit into a queue is
    /// put off.
    pub(super) fn flush_all_messages(&mut self) {
        while self.publish_next() {}
    }

    /// Sends one bundle. Whether there was one.
    fn publish_next(&mut self) -> bool {
        let Some(bundle) = self.shared.submissions.take() else { return false };
        match self.publish(&bundle) {
            Ok(()) => {
                self.counters.messages_out += bundle.messages.len() as u64;
                for (seq, message) in (bundle.first..).zip(bundle.messages) {
                    if let Some(ticket) = message.receipt {
                        self.receipts.sent(ticket, seq);
                    }
                    self.publisher.keep(message);
                }
            }
            Err(PublishError::UsedSeq { next, .. }) => {
                self.shared.submissions.put_back(bundle.messages);
                self.shared.submissions.jump(next, std::iter::empty());
            }
            Err(error) => {
                self.counters.unpublished += bundle.messages.len() as u64;
                tracing::error!(%error, first = bundle.first, "own messages could not be sent");
            }
        }
        self.perform_all();
        true
    }

    fn publish(&mut self, bundle: &Bundle) -> Result<(), PublishError> {
        let shared = Arc::clone(&self.shared);
        let (author, time_ms) = (shared.id, Self::now_ms());
        let payloads: Vec<_> = (bundle.first..)
            .zip(&bundle.messages)
            .map(|(seq, message)| match message.to {
                None => message.payload.clone(),
                Some(to) => p2p_wire::seal(&mut rand::rng(), &author, seq, &to, &message.payload)
                    .expect("recipient and size were checked when it was accepted")
                    .into(),
            })
            .collect();
        let entry = |(message, payload)| {
            let Outgoing { topic, to, .. }: &Outgoing = message;
            NewEntry { topic, time_ms, recipient: *to, payload }
        };
        let entries: Vec<_> =
            bundle.messages.iter().zip(payloads.iter().map(AsRef::as_ref)).map(entry).collect();
        let envelope = Envelope::sign(&shared.key, bundle.run, bundle.first, &entries)
            .expect("topics, sizes and number were checked when they were accepted");
        let now = Instant::now();
        self.stack.publish(now, &envelope)?;
        // It goes out behind this.
        self.handed.published(now, envelope.id(), envelope.bytes().len());
        Ok(())
    }

    /// Reserves numbers ahead, on a blocking thread.
    pub(super) fn reserve_numbers(&mut self) {
        let Some(write) = self.shared.submissions.reservation() else { return };
        let shared = Arc::clone(&self.shared);
        self.shared.tasks.spawn(async move {
            let result =
                tokio::task::spawn_blocking(write).await.unwrap_or_else(|e| Err(io::Error::other(e)));
            shared.commands.send(Command::Reserved(result)).await.ok();
        });
    }

    pub(super) fn on_reserved(&self, result: &io::Result<u64>) {
        let fails_now = self.shared.submissions.on_reserved(result);
        // Whoever sends is told of each failure.
        if let (true, Err(error)) = (fails_now, result) {
            tracing::error!(%error, "sequence numbers could not be reserved");
        }
    }

    /// Somebody else signs with this node's key, or did before this node was restored from a copy.
    pub(super) fn on_own_ahead(&mut self, id: p2p_wire::EnvelopeId) {
        // What was sent since the start goes out again, before what waits.
        let end = id.first.saturating_add(u64::from(id.count));
        if !self.shared.submissions.jump(end, self.publisher.sent.iter().cloned()) {
            return;
        }
        (self.publisher.sent_bytes, self.publisher.sent) = (0, VecDeque::new());
        let text = "this identity is in use elsewhere, or was restored from an old copy: messages go on under new numbers. \
                    Two nodes must never share a key";
        tracing::warn!(first = id.first, "{text}");
        let now = Instant::now();
        if self.publisher.warned.is_none_or(|at| now.saturating_duration_since(at) >= WARN_AGAIN) {
            self.publisher.warned = Some(now);
            self.shared.events.publish(Event::Warning(text.to_owned()));
        }
        self.reserve_numbers();
    }
}
