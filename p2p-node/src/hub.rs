//! The way of events to the application: a ring that never makes the node wait, and its readers.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use futures_core::Stream;

use crate::event::Event;

/// Events kept for subscribers that have not read them yet: count and payload bytes. What falls out is
/// told to whoever missed it as [`Event::Lagged`].
pub(crate) const MAX_EVENTS: usize = 65_536;
pub(crate) const MAX_EVENT_BYTES: usize = 32 * 1024 * 1024;

#[derive(Debug, Default)]
struct Ring {
    /// Number of the first event held.
    base: u64,
    events: VecDeque<Event>,
    bytes: usize,
    closed: bool,
    /// Messages that fell out can be read from the log.
    logged: bool,
    /// Position behind the last message.
    next_pos: u64,
    /// Readers that wait for the next event.
    waiting: Vec<Waker>,
}

impl Ring {
    fn push(&mut self, event: Event) {
        self.bytes += event.payload_len();
        if let Event::Message(message) = &event {
            self.next_pos = message.pos + 1;
        }
        self.events.push_back(event);
        while self.events.len() > MAX_EVENTS || (self.bytes > MAX_EVENT_BYTES && self.events.len() > 1) {
            let oldest = self.events.pop_front().map_or(0, |e| e.payload_len());
            self.bytes -= oldest;
            self.base += 1;
        }
    }
}

/// One writer, any number of readers; a bounded ring that never makes the writer wait.
#[derive(Debug, Clone, Default)]
pub(crate) struct EventHub {
    ring: Arc<Mutex<Ring>>,
}

impl EventHub {
    pub(crate) fn publish(&self, event: Event) {
        self.publish_all([event]);
    }

    /// Several at once: readers are woken once, and see them together.
    pub(crate) fn publish_all(&self, events: impl IntoIterator<Item = Event>) {
        let mut events = events.into_iter().peekable();
        if events.peek().is_none() {
            return;
        }
        let mut ring = lock(&self.ring);
        events.for_each(|event| ring.push(event));
        wake(ring);
    }

    /// There is a log, whose next position is this.
    pub(crate) fn set_logged(&self, next_pos: u64) {
        let mut ring = lock(&self.ring);
        (ring.logged, ring.next_pos) = (true, next_pos);
    }

    /// No further event comes; readers drain what is there and end.
    pub(crate) fn close(&self) {
        let mut ring = lock(&self.ring);
        ring.closed = true;
        wake(ring);
    }

    pub(crate) fn subscribe(&self) -> Events {
        let ring = lock(&self.ring);
        let at = ring.base + ring.events.len() as u64;
        let next_pos = ring.next_pos;
        drop(ring);
        Events { ring: Arc::clone(&self.ring), at, next_pos }
    }
}

fn lock(ring: &Mutex<Ring>) -> MutexGuard<'_, Ring> {
    ring.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Wakes outside the lock, so that a woken reader does not wait for it.
fn wake(mut ring: MutexGuard<'_, Ring>) {
    let waiting = std::mem::take(&mut ring.waiting);
    drop(ring);
    waiting.into_iter().for_each(Waker::wake);
}

/// The events of a node, from the moment of [`Node::events`](crate::Node::events) on; a
/// [`Stream`].
///
/// The node never waits for a reader. One that is too slow finds [`Event::Lagged`] in place of what it
/// missed (at most 65,536 events or 32 MiB of payload are kept).
#[derive(Debug, Clone)]
pub struct Events {
    ring: Arc<Mutex<Ring>>,
    /// Number of the next event to read.
    at: u64,
    /// Position of the next message to read, as far as it is known.
    next_pos: u64,
}

impl Events {
    /// The next event; `None` once the node has shut down and everything was read.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<Event> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// The next event if one is there already.
    pub fn try_next(&mut self) -> Option<Event> {
        let ring = Arc::clone(&self.ring);
        self.take(&lock(&ring))
    }

    fn take(&mut self, ring: &Ring) -> Option<Event> {
        if self.at < ring.base {
            let missed = ring.base - self.at;
            self.at = ring.base;
            if ring.logged {
                // Subscribed before the log was there, or nothing came yet: its beginning is the safe answer.
                return Some(Event::Lagged { missed, from_pos: self.next_pos.max(1) });
            }
            let first =
                ring.events.iter().find_map(|e| if let Event::Message(m) = e { Some(m.pos) } else { None });
            return Some(Event::Lagged { missed, from_pos: first.unwrap_or(0) });
        }
        let event = ring.events.get(usize::try_from(self.at - ring.base).ok()?)?.clone();
        self.at += 1;
        if let Event::Message(message) = &event {
            self.next_pos = message.pos + 1;
        }
        Some(event)
    }
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        let shared = Arc::clone(&self.ring);
        let mut ring = lock(&shared);
        if let Some(event) = self.take(&ring) {
            return Poll::Ready(Some(event));
        }
        if ring.closed {
            return Poll::Ready(None);
        }
        if !ring.waiting.iter().any(|w| w.will_wake(cx.waker())) {
            ring.waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use bytes::Bytes;
    use p2p_wire::NodeId;

    use super::*;
    use crate::event::Message;

    fn notice(n: u64) -> Event {
        Event::Notice(n.to_string())
    }

    #[tokio::test]
    async fn a_reader_sees_each_event_once_in_order() {
        let hub = EventHub::default();
        hub.publish(notice(0));
        let mut events = hub.subscribe();
        for n in 1..100 {
            hub.publish(notice(n));
        }
        hub.close();
        for n in 1..100 {
            assert_eq!(events.next().await, Some(notice(n)));
        }
        assert_eq!(events.next().await, None);
    }

    #[tokio::test]
    async fn a_slow_reader_is_told_how_much_it_missed() {
        let hub = EventHub::default();
        let mut events = hub.subscribe();
        for n in 0..MAX_EVENTS as u64 + 7 {
            hub.publish(notice(n));
        }
        assert_eq!(events.next().await, Some(Event::Lagged { missed: 7, from_pos: 0 }));
        assert_eq!(events.next().await, Some(notice(7)));
    }

    #[test]
    fn with_a_log_a_slow_reader_is_told_where_it_was() {
        let message = |pos| {
            Event::Message(Message {
                pos,
                author: NodeId::from_bytes([1; 32]),
                seq: pos,
                topic: String::new(),
                private: false,
                late: false,
                time: UNIX_EPOCH,
                payload: Bytes::new(),
            })
        };
        let hub = EventHub::default();
        hub.set_logged(100);
        let mut events = hub.subscribe();
        hub.publish(message(100));
        assert_eq!(events.try_next(), Some(message(100)));
        for pos in 101..=101 + MAX_EVENTS as u64 {
            hub.publish(message(pos));
        }
        assert_eq!(events.try_next(), Some(Event::Lagged { missed: 1, from_pos: 101 }));
        assert_eq!(events.try_next(), Some(message(102)));
    }

    #[tokio::test]
    async fn a_waiting_reader_wakes() {
        let hub = EventHub::default();
        let mut events = hub.subscribe();
        let reader = tokio::spawn(async move { events.next().await });
        tokio::task::yield_now().await;
        hub.publish(notice(1));
        assert_eq!(reader.await.unwrap(), Some(notice(1)));
    }
}
