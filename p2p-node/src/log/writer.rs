//! The thread that writes the log, and the queue before it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use p2p_wire::{MAX_ENVELOPE, NodeId};
use tokio::sync::Notify;

use super::disk::{Disk, MAX_SEGMENT_FILE};
use super::read::LogTime;
use super::store::{OP_OVERHEAD, Op, SEGMENT, Store};
use crate::event::Event;
use crate::hub::EventHub;

/// What may wait for the disk, in bytes of [`Op::cost`]. The driver takes no more from links beyond, nor from the application, so that
/// both are slowed down and nothing is dropped. 8 MiB: four links' inboxes; a turn of the driver may add a batch more.
const MAX_WAITING: usize = 8 << 20;
/// What is written and synced at once, in bytes of cost: most envelopes count twice, as they are written and as they are
/// handed over. There is no waiting for company: while one group is being synced the next one gathers, so a lone message
/// costs one sync and a busy log one for about 1 MiB.
const GROUP: usize = 2 << 20;
/// A group ends with the op that reaches its size, and a segment with the group that reaches its own.
const MAX_SEGMENT: u64 = SEGMENT + (GROUP + MAX_ENVELOPE + OP_OVERHEAD) as u64;
const _: () = assert!(MAX_SEGMENT <= MAX_SEGMENT_FILE, "it would be taken for damaged at the next start");
/// How often a log that gets nothing looks for what is too old.
const IDLE: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
struct Waiting {
    ops: VecDeque<Op>,
    bytes: usize,
    closed: bool,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    ready: Condvar,
    room: Notify,
    messages: AtomicU64,
    bytes: AtomicU64,
    unlogged: AtomicU64,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next group, empty if there was nothing for a while; `None` at the end.
    fn take(&self) -> Option<Vec<Op>> {
        let mut waiting = self.lock();
        if waiting.ops.is_empty() && !waiting.closed {
            let idle = |waiting: &mut Waiting| waiting.ops.is_empty() && !waiting.closed;
            let waited = self.ready.wait_timeout_while(waiting, IDLE, idle);
            waiting = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        if waiting.ops.is_empty() && waiting.closed {
            return None;
        }
        let (mut group, mut bytes) = (Vec::new(), 0);
        while bytes < GROUP
            && let Some(op) = waiting.ops.pop_front()
        {
            bytes += op.cost();
            group.push(op);
        }
        let was_full = waiting.bytes >= MAX_WAITING;
        waiting.bytes -= bytes;
        if was_full && waiting.bytes < MAX_WAITING {
            self.room.notify_one();
        }
        Some(group)
    }
}

/// The driver's end of the log. Dropping it ends the writer once everything is written.
#[derive(Debug, Default)]
pub(crate) struct LogQueue {
    queue: Arc<Queue>,
}

impl LogQueue {
    /// Has something written; a `Deliver` hands its messages over once they are on the disk.
    pub(crate) fn push(&self, op: Op) {
        let mut waiting = self.queue.lock();
        waiting.bytes += op.cost();
        waiting.ops.push_back(op);
        drop(waiting);
        self.queue.ready.notify_one();
    }

    /// Whether the driver may take more from links and the application.
    pub(crate) fn has_room(&self) -> bool {
        self.queue.lock().bytes < MAX_WAITING
    }

    /// Returns once there is room again.
    pub(crate) async fn room(&self) {
        self.queue.room.notified().await;
    }

    /// Messages and bytes in the log.
    pub(crate) fn size(&self) -> (u64, u64) {
        (self.queue.messages.load(Ordering::Relaxed), self.queue.bytes.load(Ordering::Relaxed))
    }

    /// Records that could not be written, because the disk is full or failed.
    pub(crate) fn unlogged(&self) -> u64 {
        self.queue.unlogged.load(Ordering::Relaxed)
    }

    /// The writer's work: it blocks, and ends when this is dropped. Messages go to `events`, and the
    /// receipts that are owed for them to `owe`.
    pub(super) fn writer<D: Disk, F: Fn(NodeId, u64, Bytes)>(
        &self,
        mut store: Store<D>,
        time: LogTime,
        events: EventHub,
        owe: F,
    ) -> impl FnOnce() + use<D, F> {
        let queue = Arc::clone(&self.queue);
        let show = |queue: &Queue, store: &Store<D>| {
            queue.messages.store(store.messages(), Ordering::Relaxed);
            queue.bytes.store(store.size().1, Ordering::Relaxed);
        };
        show(&queue, &store);
        move || {
            let mut trouble = Trouble::default();
            while let Some(mut group) = queue.take() {
                let now_ms = time.now_ms();
                let result = if group.is_empty() { Ok(()) } else { store.commit(now_ms, &mut group) };
                if let Err(error) = &result {
                    queue.unlogged.fetch_add(group.len() as u64, Ordering::Relaxed);
                    trouble.tell(&events, error);
                }
                // With or without the log: a full disk must not silence the node.
                for op in group {
                    match op {
                        Op::Deliver { envelope, messages, receipts, .. } => {
                            for (seq, payload) in receipts {
                                owe(envelope.id().author, seq, payload);
                            }
                            let wanted = messages.into_iter().filter(|(wanted, _)| *wanted);
                            events.publish_all(wanted.map(|(_, message)| Event::Message(message)));
                        }
                        Op::Barrier(passed) => drop(passed.send(())),
                        Op::Append { .. } => {}
                    }
                }
                match store.trim(now_ms) {
                    Ok(()) if result.is_ok() => trouble.is_over(&events),
                    Ok(()) => {}
                    Err(error) => trouble.tell(&events, &error),
                }
                show(&queue, &store);
            }
        }
    }
}

impl Drop for LogQueue {
    fn drop(&mut self) {
        self.queue.lock().closed = true;
        self.queue.ready.notify_one();
    }
}

/// A disk that fails is told of once, and once more when it works again.
#[derive(Debug, Default)]
struct Trouble {
    told: bool,
}

impl Trouble {
    fn tell(&mut self, events: &EventHub, error: &std::io::Error) {
        if self.told {
            return;
        }
        self.told = true;
        tracing::error!(%error, "the message log could not be written");
        events.publish(Event::Warning(format!(
            "the message log could not be written: {error}. Messages still come and go, but are not kept; \
             after a restart they may be delivered again"
        )));
    }

    fn is_over(&mut self, events: &EventHub) {
        if self.told {
            self.told = false;
            tracing::info!("the message log is written again");
            events.publish(Event::Notice("the message log is written again".to_owned()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::log::disk::{RealDisk, segment_path};
    use crate::log::store::LogLimits;
    use crate::log::tests::{self, Model, append, deliver, envelope, key, me, seqs};

    #[test]
    fn what_is_too_old_to_be_appended_counts_in_the_queue_and_every_segment_can_be_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Store::open(RealDisk::open(dir.path()).unwrap(), me(), LogLimits::default()).unwrap();
        let queue = LogQueue::default();
        let kept = envelope(&key(3), 1, 1, 10);
        queue.push(append(&kept));
        queue.push(deliver(&kept));
        // Said to be more than a day old by whoever pushed them.
        let old: Vec<_> = (1..=24).map(|seq| envelope(&key(2), seq, 1, 1 << 20)).collect();
        old.iter().for_each(|envelope| queue.push(deliver(envelope)));
        assert!(!queue.has_room(), "24 MiB wait");
        let time = LogTime::new(0, UNIX_EPOCH);
        let write = queue.writer(open().0, time, EventHub::default(), |_, _, _| {});
        drop(queue);
        write();
        for segment in RealDisk::open(dir.path()).unwrap().segments().unwrap() {
            let len = std::fs::metadata(segment_path(dir.path(), segment)).unwrap().len();
            assert!(len < 8 << 20, "segment {segment} has {len} bytes");
        }
        let (_, found) = open();
        assert_eq!(found.warnings, [""; 0]);
        assert!(old.iter().chain([&kept]).all(|one| seqs(&found.seen, &one.id())));
    }

    #[test]
    fn what_an_op_takes_on_the_disk_is_no_more_than_it_costs() {
        for (count, len) in [(1, 0), (1, 100_000), (64, 0), (64, 900)] {
            let (mut store, _) = tests::open(Model::new(), LogLimits::default());
            store.commit(1, &mut [append(&envelope(&key(3), 1, 1, 1))]).unwrap();
            let (one, two) = (envelope(&key(2), 1, count, len), envelope(&key(2), 100, count, len));
            for op in [append(&one), deliver(&one), deliver(&two)] {
                let (before, cost) = (store.size().1, op.cost() as u64);
                store.commit(1, &mut [op]).unwrap();
                assert!(store.size().1 - before <= cost);
            }
        }
    }
}
