//! Receipts for private messages: those this node awaits, and those it owes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use p2p_wire::{NodeId, PrivateBody, Receipt};
use tokio::sync::Semaphore;

use crate::command::{Outgoing, Wanted};
use crate::error::ReceiptError;
use crate::event::Event;

use super::Driver;

/// Receipts awaited at once; a message that asks for one more is refused. A few per peer of a full table.
pub(crate) const MAX_AWAITED: usize = 1024;
/// Numbers that are remembered of one message.
const MAX_NUMBERS: usize = 8;
/// Receipts given to one author: this many at once, then one each `REFILL`. A receipt is about as large as the
/// message that asks for it, so this bounds what one author makes this node say, not how far it spreads.
const BURST: u32 = 64;
const REFILL: Duration = Duration::from_millis(50);
/// Authors whose receipts are counted at once. Whoever has been quiet for as long as a burst takes to come back
/// is forgotten first; if nobody has, the newcomer gets none.
const MAX_AUTHORS: usize = 1024;

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
    given: BTreeMap<NodeId, Bucket>,
    unsent: Arc<Semaphore>,
}

#[derive(Debug)]
struct Bucket {
    left: u32,
    filled: Instant,
}

impl Default for Receipts {
    fn default() -> Self {
        let unsent = Arc::new(Semaphore::new(MAX_UNSENT));
        Self { awaited: BTreeMap::new(), next: 0, given: BTreeMap::new(), unsent }
    }
}

impl Receipts {
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.awaited.values().map(|a| a.wanted.until).min()
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

    /// Whether `author` may have another receipt.
    fn may_give(&mut self, now: Instant, author: NodeId) -> bool {
        if self.given.len() >= MAX_AUTHORS && !self.given.contains_key(&author) {
            self.given.retain(|_, bucket| bucket.level(now) < BURST);
            if self.given.len() >= MAX_AUTHORS {
                return false;
            }
        }
        let bucket = self.given.entry(author).or_insert(Bucket { left: BURST, filled: now });
        let level = bucket.level(now);
        if level > bucket.left || level == BURST {
            (bucket.left, bucket.filled) = (level, now);
        }
        if bucket.left == 0 {
            return false;
        }
        bucket.left -= 1;
        true
    }
}

impl Bucket {
    fn level(&self, now: Instant) -> u32 {
        let refills = now.saturating_duration_since(self.filled).as_millis() / REFILL.as_millis();
        self.left.saturating_add(u32::try_from(refills).unwrap_or(u32::MAX)).min(BURST)
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

    /// The author of a message that is being delivered asks for a receipt. It is sent as this node's own messages
    /// are, and waits for room with them.
    pub(super) fn give_receipt(&mut self, author: NodeId, seq: u64, payload: &[u8]) {
        let room = Arc::clone(&self.receipts.unsent).try_acquire_owned();
        let (Ok(room), true) = (room, self.receipts.may_give(Instant::now(), author)) else {
            self.counters.receipts_refused += 1;
            return;
        };
        let receipt = Receipt::sign(&self.shared.key, author, seq, payload);
        let body = PrivateBody::Receipt { seq, signature: receipt.signature };
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
    use p2p_wire::SecretKey;
    use tokio::sync::oneshot;

    use super::*;

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
        let ticket = receipts.expect(wanted(&to, b"text", now + REFILL)).unwrap();
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
        let ticket = receipts.expect(wanted(&to, b"text", now + REFILL)).unwrap();
        receipts.sent(ticket, 7);
        let receipt = Receipt::sign(&to, me.id(), 7, b"text");
        assert!(receipts.take(now + REFILL, receipt).is_none(), "not looked at the clock yet");
        assert_eq!(receipts.expired(now + REFILL).len(), 1, "who waits is told by the deadline");
        assert!(receipts.take(now, receipt).is_none());
    }

    #[test]
    fn any_copy_of_a_message_sent_again_may_be_answered() {
        let (me, to, now) = (key(1), key(2), Instant::now());
        for seq in [1, 100] {
            let mut receipts = Receipts::default();
            let ticket = receipts.expect(wanted(&to, b"", now + REFILL)).unwrap();
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
            assert!(receipts.expect(wanted(&key(2), b"", now + REFILL * (n + 1))).is_some());
        }
        assert_eq!(receipts.expect(wanted(&key(2), b"", now)), None);
        assert_eq!(receipts.deadline(), Some(now + REFILL));
        assert!(receipts.expired(now).is_empty());
        assert_eq!(receipts.expired(now + REFILL * 2).len(), 2);
        assert!(receipts.expect(wanted(&key(2), b"", now)).is_some());
    }

    #[test]
    fn an_author_gets_a_burst_and_then_as_many_as_time_allows() {
        let now = Instant::now();
        let mut receipts = Receipts::default();
        let given = |receipts: &mut Receipts, at, author| {
            (0..BURST * 2).filter(|_| receipts.may_give(at, author)).count()
        };
        assert_eq!(given(&mut receipts, now, key(1).id()), BURST as usize);
        assert_eq!(given(&mut receipts, now + REFILL * 3, key(1).id()), 3);
        assert_eq!(given(&mut receipts, now + REFILL * 3, key(2).id()), BURST as usize);
        for n in 0..2 * MAX_AUTHORS as u64 {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&n.to_be_bytes());
            receipts.may_give(now, NodeId::from_bytes(id));
        }
        assert_eq!(receipts.given.len(), MAX_AUTHORS);
        assert!(!receipts.may_give(now, key(9).id()));
        assert!(receipts.may_give(now + REFILL * 2 * BURST, key(9).id()));
    }
}
