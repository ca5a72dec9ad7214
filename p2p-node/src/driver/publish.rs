//! Messages of this node on their way out: numbered, sealed, signed, and held back while links are full.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use p2p_wire::{Envelope, EnvelopeId, NewEntry};
use tokio::sync::oneshot;

use crate::command::{Command, Outgoing};
use crate::error::SendError;
use crate::event::Event;
use crate::info::Sent;
use crate::sequence::Sequence;

use super::Driver;

/// Messages that wait for a number or for room. Callers wait beyond: the command queue is not read then.
const MAX_WAITING: usize = 256;
/// While links are full the publisher looks again this often, so that one that has stopped reading is
/// not waited for.
const RETRY: Duration = Duration::from_millis(100);
/// A full link that has taken nothing for this long is not waited for; it gets announcements.
const STUCK: Duration = Duration::from_secs(1);

/// What was sent since the start is kept, up to this much, to be sent again should its numbers turn out
/// to be used already. The oldest falls out.
const KEPT_MESSAGES: usize = 256;
const KEPT_BYTES: usize = 4 << 20;

/// A message, and whom to tell; nobody if it is sent again.
type Waiting = (Outgoing, Option<oneshot::Sender<Result<Sent, SendError>>>);

/// The queue of own messages.
#[derive(Debug)]
pub(crate) struct Publisher {
    sequence: Sequence,
    waiting: VecDeque<Waiting>,
    sent: VecDeque<Outgoing>,
    sent_bytes: usize,
    /// Some link is full.
    blocked: bool,
}

impl Publisher {
    pub(crate) const fn new(sequence: Sequence) -> Self {
        Self { sequence, waiting: VecDeque::new(), sent: VecDeque::new(), sent_bytes: 0, blocked: false }
    }

    pub(super) fn enqueue(&mut self, message: Outgoing, reply: oneshot::Sender<Result<Sent, SendError>>) {
        self.waiting.push_back((message, Some(reply)));
    }

    pub(super) fn has_room(&self) -> bool {
        self.waiting.len() < MAX_WAITING
    }

    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub(super) fn retry_at(&self) -> Option<Instant> {
        (self.blocked && self.is_waiting()).then(|| Instant::now() + RETRY)
    }

    pub(super) fn refuse_all(&mut self) {
        self.refuse(&|| SendError::Stopped);
    }

    fn refuse(&mut self, error: &dyn Fn() -> SendError) {
        for (_, reply) in self.waiting.drain(..) {
            tell(reply, Err(error()));
        }
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

    /// What was sent since the start goes out again, before what waits.
    fn send_again(&mut self) {
        self.sent_bytes = 0;
        for message in self.sent.drain(..).rev() {
            self.waiting.push_front((message, None));
        }
    }
}

fn tell(reply: Option<oneshot::Sender<Result<Sent, SendError>>>, result: Result<Sent, SendError>) {
    if let Some(reply) = reply {
        reply.send(result).ok();
    }
}

impl Driver {
    /// Sends what waits, as far as numbers and room go.
    pub(super) fn flush_messages(&mut self) {
        while !self.publisher.waiting.is_empty() {
            self.publisher.blocked = self.links.values().any(|l| l.outbox.is_full_but_moving(STUCK));
            if self.publisher.blocked {
                return;
            }
            let Some(seq) = self.publisher.sequence.take() else { break };
            if let Some((message, reply)) = self.publisher.waiting.pop_front() {
                let sent = self.publish(seq, &message);
                self.perform_all();
                if sent.is_ok() {
                    self.publisher.keep(message);
                }
                tell(reply, sent);
            }
        }
        self.reserve_numbers();
    }

    fn publish(&mut self, seq: u64, message: &Outgoing) -> Result<Sent, SendError> {
        let shared = Arc::clone(&self.shared);
        let sealed = match message.to {
            None => None,
            Some(to) => {
                let sealed = p2p_wire::seal(&mut rand::rng(), &shared.id, seq, &to, &message.payload);
                Some(sealed.map_err(|_| SendError::Recipient(to))?)
            }
        };
        let entry = NewEntry {
            topic: &message.topic,
            time_ms: Self::now_ms(),
            recipient: message.to,
            payload: sealed.as_deref().unwrap_or(&message.payload),
        };
        let limit = p2p_wire::MAX_PAYLOAD;
        let too_large = |_| SendError::TooLarge { size: message.payload.len(), limit };
        let envelope =
            Envelope::sign(&shared.key, self.publisher.sequence.run(), seq, &[entry]).map_err(too_large)?;
        let links =
            self.stack.publish(Instant::now(), &envelope).map_err(|e| SendError::Storage(e.to_string()))?;
        self.counters.messages_out += 1;
        Ok(Sent::new(seq, links))
    }

    /// Reserves numbers ahead, on a blocking thread.
    pub(super) fn reserve_numbers(&mut self) {
        let Some(write) = self.publisher.sequence.reservation() else { return };
        let shared = Arc::clone(&self.shared);
        self.shared.tasks.spawn(async move {
            let result =
                tokio::task::spawn_blocking(write).await.unwrap_or_else(|e| Err(io::Error::other(e)));
            shared.commands.send(Command::Reserved(result)).await.ok();
        });
    }

    pub(super) fn on_reserved(&mut self, result: &io::Result<u64>) {
        self.publisher.sequence.on_reserved(result);
        if let Err(error) = result {
            tracing::error!(%error, "sequence numbers could not be reserved");
            // Those that wait for a number are told; the next message tries again.
            let text = error.to_string();
            self.publisher.refuse(&|| SendError::Storage(text.clone()));
        }
    }

    /// Somebody else signs with this node's key, or did before this node was restored from a copy.
    pub(super) fn on_own_ahead(&mut self, id: EnvelopeId) {
        if !self.publisher.sequence.jump(id.first.saturating_add(u64::from(id.count))) {
            return;
        }
        let text = "this identity is in use elsewhere, or was restored from an old copy: messages go on under new numbers. \
                    Two nodes must never share a key";
        tracing::warn!(first = id.first, "{text}");
        self.shared.events.publish(Event::Warning(text.to_owned()));
        self.publisher.send_again();
        self.reserve_numbers();
    }
}
