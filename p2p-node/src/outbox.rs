//! What waits to be written to one link: bounded in bytes, control before gossip.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use p2p_wire::MAX_FRAME_PAYLOAD;
use tokio::sync::Notify;

/// Handed to the writer at once: enough to fill four TLS records, little enough that a control frame
/// never waits long behind gossip.
const BATCH_BYTES: usize = 64 * 1024;
/// Bytes of control frames that may wait. A link that lets this much pile up is not read by the other
/// side and is closed.
const CONTROL_BYTES: usize = 1 << 20;

/// Bytes of the length in front of a frame.
const PREFIX: usize = 4;

/// Which queue a frame belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// Handshake, liveness, announcements, questions.
    Control,
    /// Messages.
    Gossip,
}

/// The frame does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

#[derive(Debug, Default)]
struct Queue {
    frames: VecDeque<Bytes>,
    bytes: usize,
}

impl Queue {
    fn push(&mut self, frame: Bytes, limit: usize) -> Result<(), Full> {
        // One frame always fits into an empty queue, however small the limit.
        if !self.frames.is_empty() && self.bytes + frame.len() > limit {
            return Err(Full);
        }
        self.bytes += frame.len();
        self.frames.push_back(frame);
        Ok(())
    }

    fn pop(&mut self) -> Option<Bytes> {
        let frame = self.frames.pop_front()?;
        self.bytes -= frame.len();
        Some(frame)
    }
}

#[derive(Debug, Default)]
struct State {
    control: Queue,
    gossip: Queue,
    /// Somebody waits for room: ring when there is some.
    wanted: bool,
    /// When the writer took something last while the gossip queue was more than half full.
    moved: Option<Instant>,
    /// Written after everything else: the other side stops reading at a goodbye.
    last: Option<Bytes>,
    /// Nothing more is taken; the writer ends once both queues are empty.
    closed: bool,
}

/// The queue between the driver and the writer of one link.
#[derive(Debug)]
pub(crate) struct Outbox {
    state: Mutex<State>,
    filled: Notify,
    /// Rung when the gossip queue falls to half of its limit, and when there is room that was waited for.
    drained: Arc<Notify>,
    gossip_limit: usize,
}

impl Outbox {
    pub(crate) fn new(gossip_limit: usize, drained: Arc<Notify>) -> Self {
        Self { state: Mutex::default(), filled: Notify::new(), drained, gossip_limit }
    }

    /// Queues a frame. After [`Outbox::close`] frames are taken and go nowhere: the link is on its way out.
    pub(crate) fn push(&self, class: Class, frame: Bytes) -> Result<(), Full> {
        let mut state = self.lock();
        if state.closed {
            return Ok(());
        }
        match class {
            Class::Control => state.control.push(frame, CONTROL_BYTES)?,
            Class::Gossip => {
                state.gossip.push(frame, self.gossip_limit)?;
                if state.gossip.bytes > self.gossip_limit / 2 {
                    state.moved.get_or_insert_with(Instant::now);
                }
            }
        }
        drop(state);
        self.filled.notify_one();
        Ok(())
    }

    /// More than half of the gossip queue is taken, and the writer has taken something within `stuck`.
    pub(crate) fn is_full_but_moving(&self, stuck: Duration) -> bool {
        let state = self.lock();
        !state.closed && state.moved.is_some_and(|at| at.elapsed() < stuck)
    }

    /// Whether any gossip frame fits. If not, `drained` is rung once one does.
    pub(crate) fn has_room(&self) -> bool {
        let mut state = self.lock();
        state.wanted = !self.fits(&state);
        !state.wanted
    }

    fn fits(&self, state: &State) -> bool {
        state.closed
            || state.gossip.frames.is_empty()
            || state.gossip.bytes + MAX_FRAME_PAYLOAD + PREFIX <= self.gossip_limit
    }

    /// Takes no more frames; what is queued is still written.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_one();
    }

    /// [`Outbox::close`], with a goodbye behind what is queued.
    pub(crate) fn close_with(&self, goodbye: Bytes) {
        let mut state = self.lock();
        if !state.closed {
            state.last = Some(goodbye);
        }
        drop(state);
        self.close();
    }

    /// Waits for frames and moves up to [`BATCH_BYTES`] of them into `batch`. `false`: closed and empty.
    ///
    /// # Cancel safety
    /// Frames are moved only in the poll that returns.
    pub(crate) async fn next_batch(&self, batch: &mut Vec<Bytes>) -> bool {
        loop {
            {
                let mut state = self.lock();
                let mut taken = 0;
                while taken < BATCH_BYTES
                    && let Some(frame) = state.control.pop().or_else(|| state.gossip.pop())
                {
                    taken += frame.len();
                    batch.push(frame);
                }
                if state.wanted && self.fits(&state) {
                    state.wanted = false;
                    self.drained.notify_one();
                }
                if taken > 0 {
                    if state.moved.is_some() {
                        state.moved = (state.gossip.bytes > self.gossip_limit / 2).then(Instant::now);
                        if state.moved.is_none() {
                            self.drained.notify_one();
                        }
                    }
                    return true;
                }
                if let Some(last) = state.last.take() {
                    batch.push(last);
                    return true;
                }
                if state.closed {
                    return false;
                }
            }
            self.filled.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(byte: u8, len: usize) -> Bytes {
        Bytes::from(vec![byte; len])
    }

    #[tokio::test]
    async fn control_goes_before_gossip() {
        let outbox = Outbox::new(1000, Arc::default());
        outbox.push(Class::Gossip, frame(1, 10)).unwrap();
        outbox.push(Class::Control, frame(2, 10)).unwrap();
        let mut batch = Vec::new();
        assert!(outbox.next_batch(&mut batch).await);
        assert_eq!(batch.iter().map(|f| f[0]).collect::<Vec<_>>(), [2, 1]);
    }

    #[test]
    fn gossip_that_does_not_fit_is_refused_and_control_is_not() {
        let outbox = Outbox::new(1000, Arc::default());
        outbox.push(Class::Gossip, frame(1, 5000)).unwrap();
        assert_eq!(outbox.push(Class::Gossip, frame(1, 1)), Err(Full));
        assert_eq!(outbox.push(Class::Control, frame(1, 1)), Ok(()));
    }

    #[tokio::test]
    async fn a_goodbye_goes_last() {
        let outbox = Outbox::new(1000, Arc::default());
        outbox.push(Class::Gossip, frame(1, 10)).unwrap();
        outbox.push(Class::Control, frame(2, 10)).unwrap();
        outbox.close_with(frame(3, 10));
        let (mut batch, mut order) = (Vec::new(), Vec::new());
        while outbox.next_batch(&mut batch).await {
            order.extend(batch.drain(..).map(|f| f[0]));
        }
        assert_eq!(order, [2, 1, 3]);
    }

    #[tokio::test]
    async fn who_waits_for_room_is_told() {
        let drained = Arc::new(Notify::new());
        let outbox = Outbox::new(MAX_FRAME_PAYLOAD + 1000, Arc::clone(&drained));
        assert!(outbox.has_room());
        outbox.push(Class::Gossip, frame(1, 1001)).unwrap();
        assert!(!outbox.has_room());
        outbox.next_batch(&mut Vec::new()).await;
        drained.notified().await;
        assert!(outbox.has_room());
    }

    #[tokio::test]
    async fn what_is_queued_at_close_is_still_written() {
        let outbox = Outbox::new(1000, Arc::default());
        outbox.push(Class::Gossip, frame(1, 10)).unwrap();
        outbox.close();
        let mut batch = Vec::new();
        assert!(outbox.next_batch(&mut batch).await);
        assert!(!outbox.next_batch(&mut batch).await);
        assert_eq!(batch.len(), 1);
    }
}
