//! Sending: to everybody, to one node, with a receipt.

use std::time::{Duration, Instant};

use bytes::Bytes;
use p2p_wire::{NodeId, PrivateBody, Receipt};
use tokio::sync::oneshot;

use super::Node;
use crate::command::{Command, Outgoing, Wanted};
use crate::error::SendError;
use crate::info::{AwaitedReceipt, Sent};

impl Node {
    /// Sends a message to every node.
    ///
    /// Returns once it is accepted: it has its number and goes to the links that stand, in one envelope with what
    /// else was accepted meanwhile. While links are full, or the log's disk is behind, and 256 messages or 2 MiB wait, it waits
    /// too.
    /// (`queued_links` 0: nobody is linked now.)
    ///
    /// # Errors
    /// [`SendError`]; nothing has been sent then.
    ///
    /// # Cancel safety
    /// A future that is dropped before it is ready has sent nothing; so it is with the methods below.
    pub async fn send(&self, payload: impl Into<Bytes>) -> Result<Sent, SendError> {
        self.send_topic("", payload).await
    }

    /// As [`Node::send`], with a topic of at most 255 bytes.
    ///
    /// # Errors
    /// [`SendError`]; nothing has been sent then.
    pub async fn send_topic(&self, topic: &str, payload: impl Into<Bytes>) -> Result<Sent, SendError> {
        self.send_message(Outgoing {
            topic: topic.to_owned(),
            to: None,
            payload: payload.into(),
            receipt: None,
        })
        .await
    }

    /// Sends a message that only one node can read. Others relay it and see who sends to whom, and how
    /// much.
    ///
    /// # Errors
    /// [`SendError`]; nothing has been sent then.
    pub async fn send_to(&self, to: NodeId, payload: impl Into<Bytes>) -> Result<Sent, SendError> {
        self.send_message(Outgoing {
            topic: String::new(),
            to: Some(to),
            payload: payload.into(),
            receipt: None,
        })
        .await
    }

    /// As [`Node::send_to`], and asks the recipient for a signed receipt, which can be awaited for `within`
    /// from now on. It also comes as [`Event::Receipt`](crate::Event::Receipt), or as
    /// [`Event::NoReceipt`](crate::Event::NoReceipt) once the time has passed, whether somebody waits or not: 1,024 are awaited
    /// at once, and each keeps its place until then. After a restart of this node nothing is awaited any more.
    ///
    /// # Errors
    /// [`SendError`]; nothing has been sent then.
    pub async fn send_for_receipt(
        &self,
        to: NodeId,
        payload: impl Into<Bytes>,
        within: Duration,
    ) -> Result<AwaitedReceipt, SendError> {
        let payload = payload.into();
        let (reply, receipt) = oneshot::channel();
        let now = Instant::now();
        // A wait beyond the clock's range is one of a century.
        let until = now.checked_add(within).unwrap_or(now + Duration::from_secs(100 * 365 * 86_400));
        let wanted = Wanted { to, digest: Receipt::digest_of(&payload), until, reply };
        self.check(&Outgoing {
            topic: String::new(),
            to: Some(to),
            payload: payload.clone(),
            receipt: None,
        })?;
        let ticket = self.ask(|reply| Command::AwaitReceipt { wanted, reply }).await;
        let limit = crate::driver::MAX_AWAITED;
        let ticket = ticket.ok_or(SendError::Stopped)?.ok_or(SendError::Receipts { limit })?;
        let body = PrivateBody::Message { payload, receipt: true };
        let payload = body.encode().into();
        let message = Outgoing { topic: String::new(), to: Some(to), payload, receipt: Some(ticket) };
        let sent = self.shared().submissions.send(message).await;
        if sent.is_err() {
            self.tell(Command::ForgetReceipt(ticket)).await;
        }
        let sent = sent?;
        Ok(AwaitedReceipt { sent, reply: receipt })
    }

    /// Waits until new neighbours have said what messages of this node they hold, 2 s at most after each came unless some
    /// come, and 5 s in all. A data directory that was restored from a copy may give numbers that are used already; then what is
    /// sent before is not delivered to those who know them, and goes out again under others. For whoever sends something and is gone.
    pub async fn compared(&self) {
        self.ask(|reply| Command::Compare { reply }).await;
    }

    /// Waits until all messages of this node have arrived at somebody, and says whether they have: a neighbour has said that it
    /// handled each, or that it holds it. If not, nothing has moved for 10 s (5 s without any neighbour), or two minutes have
    /// passed. One that is gone counts if it said so before: neighbours are asked half a second after a message. The last 1,024
    /// envelopes count. What is left is in the log. For whoever sends something and is gone.
    pub async fn handed_over(&self) -> bool {
        self.ask(|reply| Command::HandOver { reply }).await.unwrap_or(false)
    }

    async fn send_message(&self, mut message: Outgoing) -> Result<Sent, SendError> {
        self.check(&message)?;
        if message.to.is_some() {
            let body = PrivateBody::Message { payload: message.payload, receipt: false };
            message.payload = body.encode().into();
        }
        self.shared().submissions.send(message).await
    }

    /// Checks a message as its author wrote it.
    fn check(&self, message: &Outgoing) -> Result<(), SendError> {
        let (size, limit) = (message.payload.len(), p2p_wire::MAX_PAYLOAD);
        if size > limit {
            return Err(SendError::TooLarge { size, limit });
        }
        if message.topic.len() > p2p_wire::MAX_TOPIC {
            return Err(SendError::Topic { size: message.topic.len(), limit: p2p_wire::MAX_TOPIC });
        }
        match message.to {
            // A node does not hear itself.
            Some(to) if to == self.id() => Err(SendError::Itself),
            Some(to) if !to.is_valid() => Err(SendError::Recipient(to)),
            _ => Ok(()),
        }
    }
}
