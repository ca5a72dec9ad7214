//! The links' own work, done in the driver's task: reading and decoding, encrypting and writing.
//!
//! A frame that comes in is decoded, checked, handed over and passed on without another task having to be woken, moved to
//! another core and waited for. Each link has a waker of its own, so only those that can go on are polled.

use std::collections::VecDeque;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::future::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use futures_util::task::AtomicWaker;

use crate::link::LinkEvent;

/// A link to be run by the driver.
pub(crate) struct LinkTask(Pin<Box<dyn Future<Output = ()> + Send>>);

impl LinkTask {
    /// A panic in it ends the link and not the driver; its silence then does the rest.
    pub(crate) fn new(run: impl Future<Output = ()> + Send + 'static) -> Self {
        let guarded = AssertUnwindSafe(run).catch_unwind();
        Self(Box::pin(guarded.map(|ended| {
            if ended.is_err() {
                tracing::error!("a link panicked; this is a bug");
            }
        })))
    }
}

impl fmt::Debug for LinkTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LinkTask")
    }
}

/// What links brought, from their tasks to the driver. Bounded by the inboxes of the links: a link waits before it puts
/// more here than its inbox holds.
#[derive(Debug)]
pub(crate) struct Arrivals(Mutex<Option<VecDeque<LinkEvent>>>);

impl Default for Arrivals {
    fn default() -> Self {
        Self(Mutex::new(Some(VecDeque::new())))
    }
}

impl Arrivals {
    pub(crate) fn push(&self, event: LinkEvent) {
        if let Some(events) = &mut *self.lock() {
            events.push_back(event);
        }
    }

    pub(super) fn pop(&self) -> Option<LinkEvent> {
        self.lock().as_mut()?.pop_front()
    }

    /// The node stops: nothing is heard any more, and no link waits for that.
    pub(super) fn close(&self) {
        *self.lock() = None;
    }

    fn is_empty(&self) -> bool {
        self.lock().as_ref().is_none_or(VecDeque::is_empty)
    }

    fn lock(&self) -> MutexGuard<'_, Option<VecDeque<LinkEvent>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wakes the driver, but not while it is awake: it looks after its links again before it sleeps.
#[derive(Debug, Default)]
struct Gate {
    asleep: AtomicBool,
    driver: AtomicWaker,
}

impl Wake for Gate {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.asleep.swap(false, Ordering::SeqCst) {
            self.driver.wake();
        }
    }
}

/// The links of a node, each as far as it can go by itself.
pub(super) struct LinkTasks {
    running: FuturesUnordered<Pin<Box<dyn Future<Output = ()> + Send>>>,
    gate: Arc<Gate>,
    waker: Waker,
}

impl LinkTasks {
    pub(super) fn new() -> Self {
        let gate = Arc::new(Gate::default());
        let waker = Waker::from(Arc::clone(&gate));
        Self { running: FuturesUnordered::new(), gate, waker }
    }

    pub(super) fn add(&mut self, task: LinkTask) {
        self.running.push(task.0);
    }

    /// Lets every link that can go on do so.
    pub(super) fn go_on(&mut self) {
        let mut context = Context::from_waker(&self.waker);
        while let Poll::Ready(Some(())) = self.running.poll_next_unpin(&mut context) {}
    }

    /// [`LinkTasks::go_on`], and ready once something has arrived that may be `heard`. Before the driver may sleep.
    pub(super) fn poll_arrived(
        &mut self,
        context: &Context<'_>,
        arrivals: &Arrivals,
        heard: bool,
    ) -> Poll<()> {
        self.gate.driver.register(context.waker());
        // First this, so that what becomes possible while the links are polled is not missed.
        self.gate.asleep.store(true, Ordering::SeqCst);
        self.go_on();
        // What may not be heard yet must not keep the driver awake: it would go round until the disk is done.
        if heard && !arrivals.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// The driver does something: nothing has to wake it until it asks again.
    pub(super) fn awake(&self) {
        self.gate.asleep.store(false, Ordering::SeqCst);
    }

    /// Runs all links to their ends.
    pub(super) async fn finish(mut self) {
        while self.running.next().await.is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use tokio::sync::oneshot;

    use super::*;
    use crate::link::{Closed, LinkId};

    /// Counts how often the driver was woken.
    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// A link that ends once something is sent to it, and says so.
    fn link(arrivals: &Arc<Arrivals>) -> (LinkTask, oneshot::Sender<()>) {
        let (end, ended) = oneshot::channel();
        let arrivals = Arc::clone(arrivals);
        let task = LinkTask::new(async move {
            ended.await.ok();
            let peer = p2p_wire::NodeId::from_bytes([1; 32]);
            arrivals.push(LinkEvent::Closed { link: LinkId(1), peer, cause: Closed::Eof });
        });
        (task, end)
    }

    #[test]
    fn who_sleeps_is_woken_and_who_is_awake_looks_before_it_sleeps() {
        let (arrivals, woken) = (Arc::new(Arrivals::default()), Arc::new(Woken::default()));
        let waker = Waker::from(Arc::clone(&woken));
        let context = Context::from_waker(&waker);
        let mut tasks = LinkTasks::new();
        let (first, end_first) = link(&arrivals);
        let (second, end_second) = link(&arrivals);
        tasks.add(first);
        tasks.add(second);
        assert!(tasks.poll_arrived(&context, &arrivals, true).is_pending());
        end_first.send(()).unwrap();
        assert_eq!(woken.0.load(Ordering::SeqCst), 1, "it slept");
        assert!(tasks.poll_arrived(&context, &arrivals, false).is_pending(), "it waits for the disk");
        assert!(tasks.poll_arrived(&context, &arrivals, true).is_ready());
        assert!(arrivals.pop().is_some());
        tasks.awake();
        end_second.send(()).unwrap();
        assert_eq!(woken.0.load(Ordering::SeqCst), 1, "it was awake");
        assert!(tasks.poll_arrived(&context, &arrivals, true).is_ready(), "and looks again before it sleeps");
    }

    #[test]
    fn a_panic_ends_one_link_alone() {
        let arrivals = Arc::new(Arrivals::default());
        let (other, end) = link(&arrivals);
        let mut tasks = LinkTasks::new();
        tasks.add(LinkTask::new(async { panic!("as a bug would") }));
        tasks.add(other);
        end.send(()).unwrap();
        tasks.go_on();
        assert!(arrivals.pop().is_some() && tasks.running.is_empty());
    }
}
