//! Own messages between their callers and the driver: numbered and accepted at once, sent in bundles.
//!
//! A caller that sends one message after the other does not wait for signatures and sockets, so while the driver is
//! busy messages gather, and what has gathered goes out under one signature. A message that finds the driver idle
//! is taken alone and at once.

use std::collections::VecDeque;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use p2p_wire::{MAX_BUNDLE_ENTRIES, SEAL_OVERHEAD};
use tokio::sync::Notify;

use crate::command::Outgoing;
use crate::error::SendError;
use crate::info::Sent;
use crate::sequence::Sequence;

/// Messages that wait for the driver; callers wait beyond. Four full bundles.
const MAX_MESSAGES: usize = 4 * MAX_BUNDLE_ENTRIES;
/// The same in bytes of payload; one message always fits. 2 MiB, as the queue of a link.
const MAX_BYTES: usize = 2 << 20;
/// Largest envelope of several messages. 32 KiB, half of what the format allows: up to there an envelope is pushed, above
/// it is announced and pulled ([`p2p_gossip::Config::eager_limit`]).
const BUNDLE_BYTES: usize = 32 << 10;
/// What an entry takes beyond topic and payload: time, flags, recipient and two lengths.
const ENTRY_OVERHEAD: usize = 8 + 1 + 32 + 1 + 4 + SEAL_OVERHEAD;
/// What an envelope takes beyond its entries: version, id and signature.
const ENVELOPE_OVERHEAD: usize = 1 + 49 + 64;

/// The queue of a node.
#[derive(Debug)]
pub(crate) struct Submissions {
    state: Mutex<State>,
    /// Rung when the driver has something to do.
    pub(crate) ready: Notify,
    /// Rung when a caller may try again.
    room: Notify,
}

#[derive(Debug)]
struct State {
    sequence: Sequence,
    waiting: VecDeque<Submitted>,
    bytes: usize,
    links: usize,
    /// Reservations that failed so far. It only rises, so that who waits knows of one that failed meanwhile.
    failures: u64,
    /// The last one did, and why.
    failing: bool,
    failure: String,
    /// Somebody waits for a number: a reservation that failed is tried again.
    wanted: bool,
    closed: bool,
}

#[derive(Debug)]
struct Submitted {
    /// `None` if its number turned out to be used already.
    seq: Option<u64>,
    message: Outgoing,
}

/// Messages to go into one envelope, with consecutive numbers.
#[derive(Debug)]
pub(crate) struct Bundle {
    pub(crate) run: u64,
    pub(crate) first: u64,
    pub(crate) messages: Vec<Outgoing>,
}

impl Submissions {
    pub(crate) fn new(sequence: Sequence) -> Self {
        let state = State {
            sequence,
            waiting: VecDeque::new(),
            bytes: 0,
            links: 0,
            failures: 0,
            failing: false,
            failure: String::new(),
            wanted: false,
            closed: false,
        };
        Self { state: Mutex::new(state), ready: Notify::new(), room: Notify::new() }
    }

    /// Accepts a message whose limits are checked; waits while the queue is full or no number is reserved.
    ///
    /// # Errors
    /// [`SendError::Storage`] if numbers could not be reserved meanwhile, [`SendError::Stopped`]. The message is
    /// not sent then.
    ///
    /// # Cancel safety
    /// A dropped future has sent nothing.
    pub(crate) async fn send(&self, message: Outgoing) -> Result<Sent, SendError> {
        let failures = self.lock().failures;
        loop {
            let mut room = std::pin::pin!(self.room.notified());
            room.as_mut().enable();
            {
                let mut state = self.lock();
                if state.closed {
                    return Err(SendError::Stopped);
                }
                if state.failures != failures {
                    return Err(SendError::Storage(state.failure.clone()));
                }
                if let Some(seq) = state.number_for(&message) {
                    state.bytes += message.payload.len();
                    state.waiting.push_back(Submitted { seq: Some(seq), message });
                    let links = state.links;
                    drop(state);
                    self.ready.notify_one();
                    return Ok(Sent::new(seq, links));
                }
                state.wanted = true;
            }
            self.ready.notify_one();
            room.await;
        }
    }

    /// What is to be sent next.
    pub(crate) fn take(&self) -> Option<Bundle> {
        let mut state = self.lock();
        let bundle = state.take();
        drop(state);
        if bundle.is_some() {
            self.room.notify_waiters();
        }
        bundle
    }

    /// What has to be written to disk now, if anything: the caller does it on a blocking thread and reports to
    /// [`Submissions::on_reserved`].
    pub(crate) fn reservation(&self) -> Option<impl FnOnce() -> io::Result<u64> + Send + use<>> {
        let mut state = self.lock();
        if state.failing && !state.wanted {
            return None;
        }
        state.sequence.reservation()
    }

    /// Returns whether it failed and the one before did not.
    pub(crate) fn on_reserved(&self, result: &io::Result<u64>) -> bool {
        let mut state = self.lock();
        state.sequence.on_reserved(result);
        let fails_now = result.is_err() && !state.failing;
        state.failing = result.is_err();
        if let Err(error) = result {
            state.failures += 1;
            state.failure = error.to_string();
            state.wanted = false;
        }
        drop(state);
        self.room.notify_waiters();
        fails_now
    }

    /// Somebody used numbers of this key up to `end` (exclusive): what waits, and before it what was `sent` under
    /// such numbers, gets new ones. Returns whether that was news.
    pub(crate) fn jump(&self, end: u64, sent: impl DoubleEndedIterator<Item = Outgoing>) -> bool {
        let mut state = self.lock();
        if !state.sequence.jump(end) {
            return false;
        }
        state.waiting.iter_mut().for_each(|submitted| submitted.seq = None);
        for message in sent.rev() {
            state.put_back(message);
        }
        true
    }

    /// An envelope could not be sent under its numbers.
    pub(crate) fn put_back(&self, messages: Vec<Outgoing>) {
        let mut state = self.lock();
        for message in messages.into_iter().rev() {
            state.put_back(message);
        }
    }

    /// What has to be written to disk once no more is accepted, if anything.
    pub(crate) fn give_back(&self) -> Option<impl FnOnce() -> io::Result<()> + Send + use<>> {
        self.lock().sequence.give_back()
    }

    pub(crate) fn set_links(&self, links: usize) {
        self.lock().links = links;
    }

    /// How many wait for the driver.
    pub(crate) fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    pub(crate) fn is_waiting(&self) -> bool {
        !self.lock().waiting.is_empty()
    }

    /// Whether [`Submissions::take`] would give something.
    pub(crate) fn is_ready(&self) -> bool {
        let state = self.lock();
        state.waiting.front().is_some_and(|next| next.seq.is_some() || state.sequence.has_next())
    }

    /// Whoever waits or comes is told that the node has stopped.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.room.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// A number, if there is room and nobody before still needs one.
    fn number_for(&mut self, message: &Outgoing) -> Option<u64> {
        let full = self.waiting.len() >= MAX_MESSAGES
            || (!self.waiting.is_empty() && self.bytes + message.payload.len() > MAX_BYTES);
        if full || self.waiting.back().is_some_and(|last| last.seq.is_none()) {
            return None;
        }
        self.sequence.take()
    }

    fn put_back(&mut self, message: Outgoing) {
        self.bytes += message.payload.len();
        self.waiting.push_front(Submitted { seq: None, message });
    }

    fn take(&mut self) -> Option<Bundle> {
        let (mut messages, mut first, mut size) = (Vec::new(), 0, ENVELOPE_OVERHEAD);
        while messages.len() < MAX_BUNDLE_ENTRIES
            && let Some(next) = self.waiting.front()
        {
            size += ENTRY_OVERHEAD + next.message.topic.len() + next.message.payload.len();
            if !messages.is_empty() && size > BUNDLE_BYTES {
                break;
            }
            let seq = match next.seq {
                Some(seq) => seq,
                None => match self.sequence.take() {
                    Some(seq) => seq,
                    None => {
                        self.wanted = true;
                        break;
                    }
                },
            };
            if messages.is_empty() {
                first = seq;
            }
            if let Some(Submitted { message, .. }) = self.waiting.pop_front() {
                self.bytes -= message.payload.len();
                messages.push(message);
            }
        }
        (!messages.is_empty()).then(|| Bundle { run: self.sequence.run(), first, messages })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;

    fn message(len: usize) -> Outgoing {
        Outgoing { topic: String::new(), to: None, payload: Bytes::from(vec![7; len]), receipt: None }
    }

    /// With its numbers reserved; the directory has to outlive it.
    fn submissions() -> (tempfile::TempDir, Submissions) {
        let dir = tempfile::tempdir().unwrap();
        let submissions = Submissions::new(Sequence::open(Some(dir.path().join("seq")), true));
        let write = submissions.reservation().unwrap();
        submissions.on_reserved(&write());
        (dir, submissions)
    }

    fn sizes(submissions: &Submissions) -> Vec<(u64, usize)> {
        std::iter::from_fn(|| submissions.take())
            .map(|bundle| (bundle.first, bundle.messages.len()))
            .collect()
    }

    #[tokio::test]
    async fn what_gathers_goes_out_in_full_bundles() {
        let (_dir, submissions) = submissions();
        submissions.set_links(3);
        for seq in 1..=100 {
            assert_eq!(submissions.send(message(10)).await.unwrap(), Sent::new(seq, 3));
        }
        assert_eq!(sizes(&submissions), [(1, 64), (65, 36)]);
        submissions.send(message(10)).await.unwrap();
        assert_eq!(sizes(&submissions), [(101, 1)]);
    }

    #[tokio::test]
    async fn several_are_at_most_32_kib_and_a_large_one_goes_alone() {
        let (_dir, submissions) = submissions();
        for len in [10_000, 10_000, 10_000, 10_000, 1 << 20, 5] {
            submissions.send(message(len)).await.unwrap();
        }
        assert_eq!(sizes(&submissions), [(1, 3), (4, 1), (5, 1), (6, 1)]);
    }

    #[tokio::test]
    async fn a_full_queue_makes_callers_wait_and_loses_nothing() {
        let (_dir, submissions) = submissions();
        for _ in 0..MAX_MESSAGES {
            submissions.send(message(1)).await.unwrap();
        }
        let one_more = submissions.send(message(1));
        tokio::pin!(one_more);
        let waits = tokio::time::timeout(Duration::from_millis(1), &mut one_more).await;
        assert!(waits.is_err());
        assert_eq!(submissions.take().unwrap().messages.len(), 64);
        assert_eq!(one_more.await.unwrap().seq, MAX_MESSAGES as u64 + 1);
    }

    #[tokio::test]
    async fn numbers_that_somebody_used_are_given_anew() {
        let (_dir, submissions) = submissions();
        for _ in 0..3 {
            submissions.send(message(1)).await.unwrap();
        }
        assert!(!submissions.jump(2, std::iter::empty()));
        assert!(submissions.jump(500, [message(99)].into_iter()));
        assert!(submissions.take().is_none(), "the new ones are not reserved yet");
        let write = submissions.reservation().unwrap();
        submissions.on_reserved(&write());
        let bundle = submissions.take().unwrap();
        assert_eq!((bundle.run, bundle.first, bundle.messages.len()), (500, 500, 4));
        assert_eq!(bundle.messages[0].payload.len(), 99, "what was sent comes first");
    }

    #[tokio::test]
    async fn who_waits_for_a_number_is_told_that_there_is_none_and_the_next_one_tries_again() {
        let dir = tempfile::tempdir().unwrap();
        let submissions = Submissions::new(Sequence::open(Some(dir.path().join("no/such/folder")), true));
        let fail = async {
            submissions.ready.notified().await;
            let write = submissions.reservation().unwrap();
            submissions.on_reserved(&write());
        };
        let (sent, ()) = tokio::join!(submissions.send(message(1)), fail);
        assert!(matches!(sent, Err(SendError::Storage(_))), "{sent:?}");
        assert!(submissions.reservation().is_none(), "not again by itself");
        let close = async {
            submissions.ready.notified().await;
            assert!(submissions.reservation().is_some());
            submissions.close();
        };
        let (sent, ()) = tokio::join!(submissions.send(message(1)), close);
        assert!(matches!(sent, Err(SendError::Stopped)), "{sent:?}");
    }

    #[tokio::test]
    async fn who_sends_once_the_disk_works_again_is_not_told_of_what_failed_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("folder");
        let submissions = Submissions::new(Sequence::open(Some(path.join("seq")), true));
        let reserve = async || {
            submissions.ready.notified().await;
            let write = submissions.reservation().unwrap();
            submissions.on_reserved(&write());
        };
        let (sent, ()) = tokio::join!(submissions.send(message(1)), reserve());
        assert!(matches!(sent, Err(SendError::Storage(_))), "{sent:?}");
        std::fs::create_dir(&path).unwrap();
        let (sent, ()) = tokio::join!(submissions.send(message(1)), reserve());
        assert_eq!(sent.unwrap(), Sent::new(1, 0));
    }
}
