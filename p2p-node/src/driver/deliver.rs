//! Messages on their way to the application, through the log if there is one on disk.

use std::sync::Arc;

use bytes::Bytes;
use p2p_gossip::{Logged, Read, Ticket};
use p2p_wire::{Envelope, EnvelopeId, NodeId};
use tokio::sync::oneshot;

use crate::command::Command;
use crate::convert;
use crate::event::{Content, Event, Message, keep_alone};
use crate::log::{Entry, LogQueue, Op};

use super::Driver;

impl Driver {
    /// A verified envelope goes into the log; nobody waits for it but its delivery.
    pub(super) fn log_envelope(&self, entry: &Logged<NodeId>, envelope: Bytes, delivers: bool) {
        let Some(log) = &self.log else { return };
        let age_ms = u32::try_from(entry.age.as_millis()).unwrap_or(Entry::TOO_OLD);
        let (id, hops, digest) = (convert::wire_id(entry.id), entry.hops, entry.digest);
        log.push(Op::Append { entry: Entry { id, age_ms, hops, digest }, envelope, delivers });
    }

    /// The core wants to pass on what is in the log. What waits to be written is written first.
    pub(super) fn read_log(&self, ticket: Ticket, to: NodeId, ids: Vec<EnvelopeId>) {
        let (Some(log), Some(reader)) = (&self.log, self.shared.log.clone()) else { return };
        let (passed, barrier) = oneshot::channel();
        log.push(Op::Barrier(passed));
        let shared = Arc::clone(&self.shared);
        self.shared.tasks.spawn(async move {
            barrier.await.ok();
            let count = ids.len();
            let read = |found| match found {
                Ok(Some(envelope)) => Read::Found(envelope),
                Ok(None) => Read::Gone,
                // Out of descriptors, say: that is over in a moment.
                Err(_) => Read::Failed,
            };
            let read = move || ids.iter().map(|id| read(reader.get(id))).collect();
            let envelopes =
                tokio::task::spawn_blocking(read).await.unwrap_or_else(|_| vec![Read::Failed; count]);
            shared.commands.send(Command::Fetched { to, ticket, envelopes }).await.ok();
        });
    }

    pub(super) fn deliver(&mut self, envelope: Bytes, entries: u64, late: bool) {
        let Ok(envelope) = Envelope::decode(envelope) else { return };
        let author = envelope.id().author;
        let (mut messages, mut receipts, mut shown) = (Vec::new(), Vec::new(), 0);
        for (bit, entry) in envelope.entries().enumerate().filter(|(bit, _)| entries >> bit & 1 == 1) {
            match Message::read(&self.shared.key, author, entry, late) {
                Content::Message { message, receipt } => {
                    shown |= 1 << bit;
                    if receipt && self.shared.config.receipts {
                        receipts.push((message.seq, message.payload.clone()));
                    }
                    messages.push((self.wants(&message), message));
                }
                Content::Receipt { seq, signature } => self.on_receipt(author, seq, signature),
                // For somebody else; relayed, not read.
                Content::Other => {}
                Content::Unreadable => self.counters.unreadable_private += 1,
            }
        }
        keep_alone(&envelope, &mut messages);
        self.counters.messages_in += messages.len() as u64;
        if let Some(log) = &self.log {
            return log.push(Op::Deliver { envelope, entries, shown, late, messages, receipts });
        }
        for (seq, payload) in receipts {
            self.give_receipt(author, seq, &payload);
        }
        let first = self.next_pos;
        self.next_pos += messages.len() as u64;
        let wanted = (first..).zip(messages).filter(|(_, (wanted, _))| *wanted);
        let events = wanted.map(|(pos, (_, message))| Event::Message(Message { pos, ..message }));
        self.shared.events.publish_all(events);
    }

    /// Whether the application wants this message: of a topic that it subscribed to, or private.
    fn wants(&mut self, message: &Message) -> bool {
        let wanted = message.is_of(self.topics.as_ref());
        self.counters.other_topics += u64::from(!wanted);
        wanted
    }

    /// Whether more may be taken from links, and from the application: not while the disk is behind.
    pub(super) fn log_has_room(&self) -> bool {
        self.log.as_ref().is_none_or(LogQueue::has_room)
    }
}

/// Returns once the log has room again; never without one.
pub(super) async fn log_room(log: Option<&LogQueue>) {
    match log {
        Some(log) => log.room().await,
        None => std::future::pending().await,
    }
}
