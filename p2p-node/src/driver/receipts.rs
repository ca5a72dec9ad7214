//! Receipts for private messages: those this node awaits, and those it owes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use p2p_wire::{NodeId, PrivateBody, Receipt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::command::{Outgoing, Wanted};
use crate::error::ReceiptError;
use crate::event::Event;

use super::Driver;
use super::dues::{Due, Dues};

/// Receipts awaited at once; a message that asks for one more is refused. A few per peer of a full table.
pub(crate) const MAX_AWAITED: usize = 1024;
/// Numbers that are remembered of one message.
const MAX_NUMBERS: usize = 8;
/// Receipts that wait for room among this node's own messages.
const MAX_UNSENT: usize = 256;

/// A receipt that somebody waits for.
#[derive(Debug)]
struct Awaited {
    wanted: Wanted,
    /// Every number that the message was sent under: more than one if it had to be sent again.
    numbers: Vec<u64>,
}

/// Both sides of receipts; see the module's text.
#[derive(Debug)]
pub(super) struct Receipts {
    /// By ticket, in the order in which they were asked for.
    awaited: BTreeMap<u64, Awaited>,
    next: u64,
    dues: Dues,
    unsent: Arc<Semaphore>,
}

impl Default for Receipts {
    fn default() -> Self {
        let unsent = Arc::new(Semaphore::new(MAX_UNSENT));
        Self { awaited: BTreeMap::new(), next: 0, dues: Dues::default(), unsent }
    }
}

impl Receipts {
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.awaited.values().map(|a| a.wanted.until).chain(self.dues.deadline()).min()
    }

    /// Room for a message that asks for a receipt; its ticket.
    pub(super) fn expect(&mut self, wanted: Wanted) -> Option<u64> {
        if self.awaited.len() >= MAX_AWAITED {
            return None;
        }
        let ticket = self.next;
        self.next += 1;
        self.awaited.insert(ticket, Awaited { wanted, numbers: Vec::new() });
        Some(ticket)
    }

    pub(super) fn forget(&mut self, ticket: u64) {
        self.awaited.remove(&ticket);
    }

    /// The message was sent under this number, perhaps not for the first time: any copy may be answered.
    pub(super) fn sent(&mut self, ticket: u64, seq: u64) {
        if let Some(Awaited { numbers, .. }) = self.awaited.get_mut(&ticket)
            && numbers.len() < MAX_NUMBERS
        {
            numbers.push(seq);
        }
    }

    /// `receipt`, whose digest is still to be filled in, is one that somebody waits for at `now`; `None` if nobody
    /// does, or does any longer, or it is none.
    fn take(&mut self, now: Instant, mut receipt: Receipt) -> Option<(Awaited, Receipt)> {
        let (by, seq) = (receipt.by, receipt.seq);
        // Who is past the deadline is told so, however soon after it this comes before the clock is looked at.
        let waits = |a: &Awaited| a.wanted.until > now && a.wanted.to == by && a.numbers.contains(&seq);
        let (&ticket, awaited) = self.awaited.iter().find(|(_, a)| waits(a))?;
        receipt.digest = awaited.wanted.digest;
        receipt.verify().ok()?;
        self.awaited.remove(&ticket).map(|awaited| (awaited, receipt))
    }

    fn expired(&mut self, now: Instant) -> Vec<Awaited> {
        self.awaited.extract_if(.., |_, a| a.wanted.until <= now).map(|(_, awaited)| awaited).collect()
    }
}

impl Driver {
    /// A receipt has come.
    pub(super) fn on_receipt(&mut self, by: NodeId, seq: u64, signature: [u8; 64]) {
        let receipt = Receipt { author: self.shared.id, seq, digest: Default::default(), by, signature };
        let Some((awaited, receipt)) = self.receipts.take(Instant::now(), receipt) else {
            self.counters.receipts_unknown += 1;
            return;
        };
        let told = awaited.numbers.first().copied().unwrap_or(seq);
        awaited.wanted.reply.send(Ok(receipt)).ok();
        self.shared.events.publish(Event::Receipt { seq: told, by });
    }

    /// Some deadlines may have passed.
    pub(super) fn expire_receipts(&mut self, now: Instant) {
        for awaited in self.receipts.expired(now) {
            // A message that is not even sent has a caller who still waits for that.
            let (seq, to) = (awaited.numbers.first().copied(), awaited.wanted.to);
            let error = ReceiptError::TimedOut { seq: seq.unwrap_or_default(), to };
            awaited.wanted.reply.send(Err(error)).ok();
            if let Some(seq) = seq {
                self.shared.events.publish(Event::NoReceipt { seq, to });
            }
        }
    }

    /// The author of a message that is being delivered asks for a receipt. It waits for its turn.
    pub(super) fn give_receipt(&mut self, author: NodeId, seq: u64, payload: &[u8]) {
        let now = Instant::now();
        if !self.receipts.dues.has_room(now, author) {
            self.counters.receipts_refused += 1;
            return;
        }
        let signature = Receipt::sign(&self.shared.key, author, seq, payload).signature;
        self.receipts.dues.add(now, Due { author, seq, signature });
        self.give_due_receipts(now);
    }

    /// Gives what may be given by now.
    pub(super) fn give_due_receipts(&mut self, now: Instant) {
        loop {
            let Ok(room) = Arc::clone(&self.receipts.unsent).try_acquire_owned() else {
                return self.receipts.dues.wait(now);
            };
            let Some(due) = self.receipts.dues.next(now) else { return };
            self.send_receipt(due, room);
        }
    }

    /// It is sent as this node's own messages are, and waits for room with them.
    fn send_receipt(&self, Due { author, seq, signature }: Due, room: OwnedSemaphorePermit) {
        let body = PrivateBody::Receipt { seq, signature };
        let payload = body.encode().into();
        let message = Outgoing { topic: String::new(), to: Some(author), payload, receipt: None };
        let shared = Arc::clone(&self.shared);
        self.shared.tasks.spawn(async move {
            let sent = tokio::select! {
                () = shared.stop.cancelled() => return,
                sent = shared.submissions.send(message) => sent,
            };
            if let Err(error) = sent {
                tracing::warn!(%error, author = %author.short(), seq, "a receipt could not be sent");
            }
            drop(room);
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use p2p_wire::SecretKey;
    use tokio::sync::oneshot;

    use super::*;

    const STEP: Duration = Duration::from_millis(50);

    fn key(n: u8) -> SecretKey {
        SecretKey::from_bytes(&[n; 32])
    }

    fn wanted(to: &SecretKey, text: &[u8], until: Instant) -> Wanted {
        Wanted { to: to.id(), digest: Receipt::digest_of(text), until, reply: oneshot::channel().0 }
    }

    #[test]
    fn a_receipt_is_taken_once_and_only_from_who_was_written_to() {
        let (me, to, now) = (key(1), key(2), Instant::now());
        let mut receipts = Receipts::default();
        let ticket = receipts.expect(wanted(&to, b"text", now + STEP)).unwrap();
        receipts.sent(ticket, 7);
        let sign = |key: &SecretKey, seq, text: &[u8]| Receipt::sign(key, me.id(), seq, text);
        let mut take = |receipt| receipts.take(now, receipt).is_some();
        assert!(!take(sign(&key(3), 7, b"text")), "of somebody else");
        assert!(!take(Receipt { by: to.id(), ..sign(&key(3), 7, b"text") }), "forged");
        assert!(!take(sign(&to, 7, b"other")), "for another text");
        assert!(!take(sign(&to, 8, b"text")), "for another message");
        assert!(take(sign(&to, 7, b"text")));
        assert!(!take(sign(&to, 7, b"text")), "twice");
    }

    #[test]
    fn at_the_deadline_nobody_waits_any_longer() {
        let (me, to, now) = (key(1), key(2), Instant::now());
        let mut receipts = Receipts::default();
        let ticket = receipts.expect(wanted(&to, b"text", now + STEP)).unwrap();
        receipts.sent(ticket, 7);
        let receipt = Receipt::sign(&to, me.id(), 7, b"text");
        assert!(receipts.take(now + STEP, receipt).is_none(), "not looked at the clock yet");
        assert_eq!(receipts.expired(now + STEP).len(), 1, "who waits is told by the deadline");
        assert!(receipts.take(now, receipt).is_none());
    }

    #[test]
    fn any_copy_of_a_message_sent_again_may_be_answered() {
        let (me, to, now) = (key(1), key(2), Instant::now());
        for seq in [1, 100] {
            let mut receipts = Receipts::default();
            let ticket = receipts.expect(wanted(&to, b"", now + STEP)).unwrap();
            receipts.sent(ticket, 1);
            receipts.sent(ticket, 100);
            let (awaited, receipt) = receipts.take(now, Receipt::sign(&to, me.id(), seq, b"")).unwrap();
            assert_eq!((awaited.numbers, receipt.seq), (vec![1, 100], seq));
        }
    }

    #[test]
    fn deadlines_pass_and_the_table_is_bounded() {
        let now = Instant::now();
        let mut receipts = Receipts::default();
        for n in 0..u32::try_from(MAX_AWAITED).unwrap() {
            assert!(receipts.expect(wanted(&key(2), b"", now + STEP * (n + 1))).is_some());
        }
        assert_eq!(receipts.expect(wanted(&key(2), b"", now)), None);
        assert_eq!(receipts.deadline(), Some(now + STEP));
        assert!(receipts.expired(now).is_empty());
        assert_eq!(receipts.expired(now + STEP * 2).len(), 2);
        assert!(receipts.expect(wanted(&key(2), b"", now)).is_some());
    }
}
