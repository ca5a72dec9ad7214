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
    /// What some reader has not read yet, and how many have not: as many or more with each later one.
    events: VecDeque<(usize, Event)>,
    bytes: usize,
    /// Events before `base`, and all so far, that were no messages.
    others_gone: u64,
    others: u64,
    closed: bool,
    /// Messages that fell out can be read from the log.
    logged: bool,
    /// Position behind the last message.
    next_pos: u64,
    readers: usize,
    /// Readers that wait for the next event.
    waiting: Vec<Waker>,
}

impl Ring {
    fn push(&mut self, event: Event) {
        match &event {
            Event::Message(message) => self.next_pos = message.pos + 1,
            _ => self.others += 1,
        }
        if self.readers == 0 {
            self.base += 1;
            self.others_gone = self.others;
            return;
        }
        self.bytes += event.payload_len();
        self.events.push_back((self.readers, event));
        while self.events.len() > MAX_EVENTS || (self.bytes > MAX_EVENT_BYTES && self.events.len() > 1) {
            self.pop();
        }
    }

    fn pop(&mut self) -> Option<Event> {
        let (_, event) = self.events.pop_front()?;
        self.bytes -= event.payload_len();
        self.base += 1;
        self.others_gone += u64::from(!is_message(&event));
        Some(event)
    }

    /// The event of this number, which a reader that has not had it takes; the last one to read it has read all before it.
    fn take(&mut self, number: u64) -> Option<Event> {
        let at = usize::try_from(number - self.base).ok()?;
        let (unread, event) = self.events.get_mut(at)?;
        *unread -= 1;
        if *unread == 0 { self.pop() } else { Some(event.clone()) }
    }

    /// One reader more that has not read what comes from this number on.
    fn enter(&mut self, number: u64) {
        self.readers += 1;
        self.unread_from(number).for_each(|unread| *unread += 1);
    }

    /// A reader goes. Returns what only it had not read.
    fn leave(&mut self, number: u64) -> Vec<Event> {
        self.readers -= 1;
        self.unread_from(number).for_each(|unread| *unread -= 1);
        let read = self.events.iter().take_while(|(unread, _)| *unread == 0).count();
        (0..read).filter_map(|_| self.pop()).collect()
    }

    fn unread_from(&mut self, number: u64) -> impl Iterator<Item = &mut usize> {
        let at = usize::try_from(number.saturating_sub(self.base)).unwrap_or(usize::MAX);
        self.events.iter_mut().skip(at).map(|(unread, _)| unread)
    }
}

const fn is_message(event: &Event) -> bool {
    matches!(event, Event::Message(_))
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
        let mut ring = lock(&self.ring);
        let at = ring.base + ring.events.len() as u64;
        let (next_pos, others) = (ring.next_pos, ring.others);
        ring.enter(at);
        drop(ring);
        Events { ring: Arc::clone(&self.ring), at, next_pos, others }
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

/// The events of a node from [`Node::events`](crate::Node::events); a [`Stream`].
///
/// The node never waits for a reader. One that is too slow finds [`Event::Lagged`] in place of what it
/// missed (at most 65,536 events or 32 MiB of payload are kept, and nothing that all have read).
#[derive(Debug)]
pub struct Events {
    ring: Arc<Mutex<Ring>>,
    /// Number of the next event to read.
    at: u64,
    /// Position of the next message to read, as far as it is known.
    next_pos: u64,
    /// Events before `at` that were no messages.
    others: u64,
}

impl Events {
    /// The next event; `None` once the node has stopped and everything was read.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<Event> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// The next event if one is there already.
    pub fn try_next(&mut self) -> Option<Event> {
        let ring = Arc::clone(&self.ring);
        self.take(&mut lock(&ring))
    }

    fn take(&mut self, ring: &mut Ring) -> Option<Event> {
        if self.at < ring.base {
            let missed = ring.base - self.at;
            let others = ring.others_gone - self.others;
            (self.at, self.others) = (ring.base, ring.others_gone);
            if ring.logged {
                // Subscribed before the log was there, or nothing came yet: its beginning is the safe answer.
                return Some(Event::Lagged { missed, others, from_pos: self.next_pos.max(1) });
            }
            let pos = |(_, event): &(usize, Event)| match event {
                Event::Message(message) => Some(message.pos),
                _ => None,
            };
            let first = ring.events.iter().find_map(pos);
            return Some(Event::Lagged { missed, others, from_pos: first.unwrap_or(0) });
        }
        let event = ring.take(self.at)?;
        self.at += 1;
        match &event {
            Event::Message(message) => self.next_pos = message.pos + 1,
            _ => self.others += 1,
        }
        Some(event)
    }
}

impl Clone for Events {
    fn clone(&self) -> Self {
        lock(&self.ring).enter(self.at);
        Self { ring: Arc::clone(&self.ring), ..*self }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let read = lock(&self.ring).leave(self.at);
        // They may be many, and nobody should wait for that.
        drop(read);
    }
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        let shared = Arc::clone(&self.ring);
        let mut ring = lock(&shared);
        if let Some(event) = self.take(&mut ring) {
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
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::UNIX_EPOCH;

    use bytes::Bytes;
    use p2p_wire::{Envelope, NewEntry, NodeId, SecretKey};
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::event::{Content, Message, keep_alone};

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
        assert_eq!(events.next().await, Some(Event::Lagged { missed: 7, others: 7, from_pos: 0 }));
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
        hub.publish(notice(1));
        for pos in 101..=101 + MAX_EVENTS as u64 {
            hub.publish(message(pos));
        }
        assert_eq!(events.try_next(), Some(Event::Lagged { missed: 2, others: 1, from_pos: 101 }));
        assert_eq!(events.try_next(), Some(message(102)));
        // What was read, and what came while nobody did, was not missed.
        hub.publish(notice(2));
        let mut late = events.clone();
        while late.try_next().is_some() {}
        assert_eq!((late.others, hub.subscribe().others), (2, 2));
    }

    #[test]
    fn nothing_is_kept_that_all_readers_have_read() {
        let hub = EventHub::default();
        let held = || {
            let ring = lock(&hub.ring);
            (ring.base, ring.events.len())
        };
        hub.publish(notice(0));
        assert_eq!(held(), (1, 0), "nobody reads");
        let (mut first, mut second) = (hub.subscribe(), hub.subscribe());
        hub.publish_all((1..=3).map(notice));
        assert_eq!((first.try_next(), first.try_next()), (Some(notice(1)), Some(notice(2))));
        assert_eq!(held(), (1, 3));
        assert_eq!(second.try_next(), Some(notice(1)));
        assert_eq!(held(), (2, 2));
        let mut third = second.clone();
        drop(second);
        assert_eq!(held(), (2, 2));
        assert_eq!((third.try_next(), third.try_next()), (Some(notice(2)), Some(notice(3))));
        assert_eq!(held(), (3, 1));
        drop(first);
        assert_eq!(held(), (4, 0));
        drop(third);
        hub.publish(notice(4));
        assert_eq!(held(), (5, 0));
    }

    proptest! {
        /// Against one list of all events, and readers that are places in it.
        #[test]
        fn readers_that_come_and_go_read_what_a_list_of_all_events_says(
            steps in vec((0u8..5, any::<proptest::sample::Index>()), 0..200)
        ) {
            let hub = EventHub::default();
            let (mut all, mut readers): (u64, Vec<(Events, u64)>) = (0, Vec::new());
            for (step, which) in steps {
                match step {
                    0 => readers.push((hub.subscribe(), all)),
                    1 => {
                        hub.publish(notice(all));
                        all += 1;
                    }
                    _ if readers.is_empty() => {}
                    2 => drop(readers.swap_remove(which.index(readers.len()))),
                    3 => readers.push(readers[which.index(readers.len())].clone()),
                    _ => {
                        let at = which.index(readers.len());
                        let (reader, next) = &mut readers[at];
                        let expected = (*next < all).then(|| notice(*next));
                        *next = all.min(*next + 1);
                        prop_assert_eq!(reader.try_next(), expected);
                    }
                }
                let unread = readers.iter().map(|(_, next)| *next).min().unwrap_or(all);
                let ring = lock(&hub.ring);
                prop_assert_eq!((ring.base, ring.base + ring.events.len() as u64), (unread, all));
            }
        }
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

    /// Counts what is alive of it.
    struct Owner(Bytes);

    static ALIVE: AtomicUsize = AtomicUsize::new(0);

    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    impl Drop for Owner {
        fn drop(&mut self) {
            ALIVE.fetch_sub(self.0.len(), Ordering::Relaxed);
        }
    }

    #[test]
    fn what_events_keep_in_memory_is_what_is_counted() {
        let key = |n| SecretKey::from_bytes(&[n; 32]);
        let (author, me, somebody) = (key(2), key(1), key(3).id());
        let large = vec![0; 60 << 10];
        let entry = |topic, recipient, payload| NewEntry { topic, time_ms: 0, recipient, payload };
        // One byte beside what is for somebody else; beside a topic that nobody wants; all of it wanted.
        let bundles = [
            vec![entry("", None, &b"x"[..]), entry("", Some(somebody), &large)],
            vec![entry("other", None, &large), entry("", None, b"x"), entry("", None, b"")],
            vec![entry("", None, &large[..30_000]), entry("", None, &large[..30_000])],
        ];
        for (entries, kept, copied) in
            [(&bundles[0], 1, true), (&bundles[1], 1, true), (&bundles[2], 60_000, false)]
        {
            let hub = EventHub::default();
            let _reader = hub.subscribe();
            for n in 0..1_000 {
                let envelope = Envelope::sign(&author, 1, 1 + 3 * n, entries).unwrap();
                ALIVE.fetch_add(envelope.bytes().len(), Ordering::Relaxed);
                let bytes = Bytes::from_owner(Owner(envelope.bytes().clone()));
                let envelope = Envelope::decode(bytes).unwrap();
                let read = |entry| match Message::read(&me, author.id(), entry, false) {
                    Content::Message { message, .. } => Some((message.topic.is_empty(), message)),
                    _ => None,
                };
                let mut messages: Vec<_> = envelope.entries().filter_map(read).collect();
                let before: Vec<_> = messages.iter().map(|(_, message)| message.payload.clone()).collect();
                keep_alone(&envelope, &mut messages);
                assert!(messages.iter().map(|(_, message)| &message.payload).eq(&before));
                let wanted = messages.into_iter().filter(|(wanted, _)| *wanted);
                hub.publish_all(wanted.map(|(_, message)| Event::Message(message)));
            }
            let (alive, counted) = (ALIVE.load(Ordering::Relaxed), lock(&hub.ring).bytes);
            let events = (MAX_EVENT_BYTES / 30_000 * 30_000).min(1_000 * kept);
            assert_eq!(counted, events);
            assert!(alive <= 2 * counted && (alive == 0) == copied, "{alive} bytes alive, {counted} counted");
        }
    }
}
