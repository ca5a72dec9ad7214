//! What waits to be written to one link: bounded in bytes, control before messages.

mod follow;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use p2p_wire::{EnvelopeId, MAX_FRAME_PAYLOAD, encode_frame};
use tokio::sync::Notify;
use tokio::time::{sleep_until, timeout_at};

use crate::backlog::{Backlog, Item};
use crate::budget::Budget;
use crate::packet::Packet;
use crate::window::Window;

use follow::Follow;

/// Handed to the writer at once: enough to fill four TLS records, little enough that a control frame
/// never waits long behind gossip.
const BATCH_BYTES: usize = 64 * 1024;
/// Bytes of control frames that may wait. A link that lets this much pile up is not read by the other
/// side and is closed.
const CONTROL_BYTES: usize = 512 << 10;
/// Of these, what frames may take that can be spared. They come of what others say, as fast as others say it, so a queue that
/// is full of them says nothing about who reads it: the other half is for what must not be lost.
const SPARED_BYTES: usize = CONTROL_BYTES / 2;

/// Bytes of the length in front of a frame.
const PREFIX: usize = 4;

/// The frame does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

/// What [`Outbox::next_batch`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    Frames,
    /// Closed and empty.
    End,
    /// Messages wait, and the other side has handled none of those before them for too long.
    Stalled,
}

/// Frames in the order they came.
#[derive(Debug, Default)]
struct Queue {
    frames: VecDeque<Bytes>,
    bytes: usize,
}

impl Queue {
    fn push(&mut self, frame: Bytes, limit: usize) -> Result<(), Full> {
        if self.bytes + frame.len() > limit {
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

#[derive(Debug)]
struct State {
    /// Handshake, liveness, announcements, questions.
    control: Queue,
    messages: Backlog,
    /// Of the messages that were taken.
    window: Window,
    /// Which of those that are followed are among them.
    followed: Follow,
    /// Somebody waits for room: ring when there is some.
    wanted: bool,
    /// Some of this node's own messages had no room and are still to be queued.
    owed: bool,
    /// When the writer took something last while the queue of messages was more than half full, or some had no room.
    moved: Option<Instant>,
    /// Written after everything else: the other side stops reading at a goodbye.
    last: Option<Bytes>,
    /// Since then nothing more is taken; the writer ends once both queues are empty.
    closed: Option<Instant>,
}

/// The queue between the driver and the writer of one link.
#[derive(Debug)]
pub(crate) struct Outbox {
    state: Mutex<State>,
    /// Something was queued of which the writer was not told yet.
    unrung: AtomicBool,
    /// Bytes that the writer has written, of large frames.
    written: AtomicUsize,
    filled: Notify,
    /// Rung when the queue is closed.
    closing: Notify,
    /// Rung when the queue of messages falls to half of its limit, and when there is room that was waited for.
    drained: Arc<Notify>,
    budget: Arc<Budget>,
    limit: usize,
}

impl Outbox {
    /// `limit`: bytes of messages; what is queued is charged to `budget` as well.
    pub(crate) fn new(limit: usize, budget: Arc<Budget>, drained: Arc<Notify>) -> Self {
        let state = State {
            control: Queue::default(),
            messages: Backlog::default(),
            window: Window::new(),
            followed: Follow::default(),
            wanted: false,
            owed: false,
            moved: None,
            last: None,
            closed: None,
        };
        let (state, unrung, written) = (Mutex::new(state), AtomicBool::new(false), AtomicUsize::new(0));
        let (filled, closing) = (Notify::new(), Notify::new());
        Self { state, unrung, written, filled, closing, drained, budget, limit }
    }

    /// Queues a frame that must not be lost; the writer is told by [`Outbox::ring`]. After [`Outbox::close`] frames are
    /// taken and go nowhere: the link is on its way out.
    pub(crate) fn push_control(&self, frame: Bytes) -> Result<(), Full> {
        self.push_within(CONTROL_BYTES, frame)
    }

    /// Queues a frame that can be spared, as [`Outbox::push_control`] does: while less than half of the queue is taken.
    pub(crate) fn push_spare(&self, frame: Bytes) -> Result<(), Full> {
        self.push_within(SPARED_BYTES, frame)
    }

    fn push_within(&self, limit: usize, frame: Bytes) -> Result<(), Full> {
        let mut state = self.lock();
        if state.closed.is_some() {
            return Ok(());
        }
        let len = frame.len();
        state.control.push(frame, limit)?;
        self.budget.take(len);
        drop(state);
        self.unrung.store(true, Ordering::Release);
        Ok(())
    }

    /// Queues a message. Returns those that are not queued, or no longer: this one, or newer ones of an author that
    /// takes more of the queue.
    pub(crate) fn push_message(&self, item: Item) -> Vec<Item> {
        let (mut displaced, len) = (Vec::new(), item.frame.len());
        let mut state = self.lock();
        if state.closed.is_some() {
            return displaced;
        }
        if !self.budget.try_take(len) {
            displaced.push(item);
            return displaced;
        }
        state.messages.push(item, self.limit, &mut displaced);
        if self.is_crowded(&state) {
            state.moved.get_or_insert_with(Instant::now);
        }
        drop(state);
        let given: usize = displaced.iter().map(|item| item.frame.len()).sum();
        if given > 0 {
            self.budget.give(given);
        }
        self.unrung.store(true, Ordering::Release);
        displaced
    }

    /// Queues a frame that goes out behind all messages that wait now.
    pub(crate) fn push_behind(&self, frame: Bytes) -> Result<(), Full> {
        let mut state = self.lock();
        if state.closed.is_some() {
            return Ok(());
        }
        let len = frame.len();
        state.messages.push_behind(frame).map_err(|_| Full)?;
        self.budget.take(len);
        drop(state);
        self.unrung.store(true, Ordering::Release);
        Ok(())
    }

    /// Whether something was queued of which the writer was not told yet.
    pub(crate) fn is_unrung(&self) -> bool {
        self.unrung.load(Ordering::Relaxed)
    }

    /// Tells the writer of what was queued since the last time: once for all of it, so that frames that come together
    /// leave together.
    pub(crate) fn ring(&self) {
        if self.unrung.load(Ordering::Relaxed) && self.unrung.swap(false, Ordering::AcqRel) {
            self.filled.notify_one();
        }
    }

    /// Bytes of messages that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.lock().messages.bytes()
    }

    /// Bytes of messages that wait, or that the other side has not said to have handled. 0 once the queue is closed.
    pub(crate) fn unhandled(&self) -> usize {
        let state = self.lock();
        if state.closed.is_some() {
            return 0;
        }
        let under_way = usize::try_from(state.window.under_way()).unwrap_or(usize::MAX);
        state.messages.bytes().saturating_add(under_way)
    }

    /// Asks the other side what it has handled. While messages wait that is asked in any case.
    pub(crate) fn ask(&self) {
        let mut state = self.lock();
        if state.closed.is_none()
            && state.messages.bytes() == 0
            && let Some(mark) = state.window.mark(Instant::now())
            && let Ok(frame) = encode_frame(&Packet::Ping(mark))
        {
            let len = frame.len();
            if state.control.push(frame, CONTROL_BYTES).is_ok() {
                self.budget.take(len);
                self.filled.notify_one();
            }
        }
    }

    /// Followed messages that the other side has handled since the last question.
    pub(crate) fn handled(&self) -> Vec<EnvelopeId> {
        let mut state = self.lock();
        let upto = state.window.handled();
        state.followed.handled(upto)
    }

    /// The writer has written so much of a large frame.
    pub(crate) fn wrote(&self, bytes: usize) {
        self.written.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes of large frames that the writer has written so far.
    pub(crate) fn written(&self) -> usize {
        self.written.load(Ordering::Relaxed)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed.is_some()
    }

    /// Some of this node's own messages had no room and are still to be queued, or not any more.
    pub(crate) fn set_owed(&self, owed: bool) {
        let mut state = self.lock();
        state.owed = owed;
        if !self.is_crowded(&state) {
            state.moved = None;
        } else {
            state.moved.get_or_insert_with(Instant::now);
        }
    }

    fn is_crowded(&self, state: &State) -> bool {
        state.owed || state.messages.bytes() > self.limit / 2
    }

    /// More than half of the queue of messages is taken, or some of this node's own had no room, and the writer has taken something within `stuck`.
    pub(crate) fn is_full_but_moving(&self, stuck: Duration) -> bool {
        let state = self.lock();
        state.closed.is_none() && state.moved.is_some_and(|at| at.elapsed() < stuck)
    }

    /// Whether any message fits beside `coming` bytes that will be queued soon. If not for what is in this queue, `drained` is
    /// rung once one fits; who waits for the rest asks again when something happens, at the latest when the links that take it
    /// all are closed.
    pub(crate) fn has_room(&self, coming: usize) -> bool {
        let mut state = self.lock();
        state.wanted = !self.fits(&state, 0);
        let more = coming + MAX_FRAME_PAYLOAD + PREFIX;
        state.closed.is_some() || (self.fits(&state, coming) && self.budget.has(more))
    }

    fn fits(&self, state: &State, coming: usize) -> bool {
        let taken = state.messages.bytes() + coming;
        state.closed.is_some() || taken == 0 || taken + MAX_FRAME_PAYLOAD + PREFIX <= self.limit
    }

    /// Takes no more frames; what is queued is still written, as far as the link has time for it.
    pub(crate) fn close(&self) {
        self.lock().closed.get_or_insert_with(Instant::now);
        self.filled.notify_one();
        self.closing.notify_waiters();
    }

    /// [`Outbox::close`], with a goodbye behind what is queued.
    pub(crate) fn close_with(&self, goodbye: Bytes) {
        let mut state = self.lock();
        if state.closed.is_none() {
            state.last = Some(goodbye);
        }
        drop(state);
        self.close();
    }

    /// Waits until the queue has been closed for so long.
    pub(crate) async fn closed_for(&self, time: Duration) {
        loop {
            let mut closing = pin!(self.closing.notified());
            // First this, so that it is not missed if it is closed while we look.
            closing.as_mut().enable();
            let closed = self.lock().closed;
            if let Some(at) = closed {
                return sleep_until((at + time).into()).await;
            }
            closing.await;
        }
    }

    /// Gives up what is queued, and its room.
    pub(crate) fn discard(&self) {
        let mut state = self.lock();
        let control = std::mem::take(&mut state.control);
        let messages = std::mem::take(&mut state.messages);
        drop(state);
        self.budget.give(control.bytes + messages.bytes() + messages.behind_bytes());
    }

    /// A ping of this number was answered: what went before it has been handled.
    pub(crate) fn answered(&self, number: u64) {
        if self.lock().window.answered(Instant::now(), number) {
            self.filled.notify_one();
        }
    }

    /// Waits for frames and moves up to [`BATCH_BYTES`] of them into `batch`: of messages no more than the other side keeps
    /// up with, for `stall` at most if it handles none.
    ///
    /// # Cancel safety
    /// Frames are moved only in the poll that returns.
    pub(crate) async fn next_batch(&self, batch: &mut Vec<Bytes>, stall: Duration) -> Next {
        loop {
            let until = {
                let mut state = self.lock();
                if self.take(&mut state, batch) {
                    return Next::Frames;
                }
                if state.messages.has_frames() {
                    let Some(until) = state.window.wait(Instant::now(), stall) else { return Next::Stalled };
                    Some(until)
                } else {
                    state.window.rest();
                    if let Some(last) = state.last.take() {
                        batch.push(last);
                        return Next::Frames;
                    }
                    if state.closed.is_some() {
                        return Next::End;
                    }
                    None
                }
            };
            match until {
                Some(until) => drop(timeout_at(until.into(), self.filled.notified()).await),
                None => self.filled.notified().await,
            }
        }
    }

    /// Moves what may go now. Whether there was anything.
    fn take(&self, state: &mut State, batch: &mut Vec<Bytes>) -> bool {
        let (mut taken, mut messages) = (0, 0);
        // Nobody hears the answers of a link that is closed.
        let room = if state.closed.is_some() { usize::MAX } else { state.window.room() };
        while taken < BATCH_BYTES {
            let frame = match state.control.pop() {
                Some(frame) => frame,
                None if messages < room => {
                    let Some((id, frame)) = state.messages.pop() else { break };
                    messages += frame.len();
                    if let Some(id) = id {
                        let upto = state.window.taken() + messages as u64;
                        state.followed.took(upto, id);
                    }
                    frame
                }
                None => break,
            };
            taken += frame.len();
            batch.push(frame);
        }
        if state.wanted && self.fits(state, 0) {
            state.wanted = false;
            self.drained.notify_one();
        }
        if taken == 0 {
            return false;
        }
        self.budget.give(taken);
        if state.moved.is_some() && messages > 0 {
            state.moved = self.is_crowded(state).then(Instant::now);
            if state.moved.is_none() {
                self.drained.notify_one();
            }
        }
        if messages > 0 {
            let several = state.messages.several_taken();
            let mark = state.window.took(Instant::now(), messages, several).map(Packet::Ping);
            batch.extend(mark.and_then(|mark| encode_frame(&mark).ok()));
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.discard();
    }
}
