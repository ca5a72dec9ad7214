//! The links' own work, done in the driver's task: reading and decoding, encrypting and writing.
//!
//! A frame that comes in is decoded, checked, handed over and passed on without another task having to be woken, moved to
//! another core and waited for. Each link has a waker of its own, so only those that can go on are polled.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::stream::{FuturesUnordered, StreamExt};
use futures_util::task::AtomicWaker;

use crate::link::LinkEvent;

/// A link to be run by the driver.
pub(crate) struct LinkTask(Pin<Box<dyn Future<Output = ()> + Send>>);

impl LinkTask {
    pub(crate) fn new(run: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(Box::pin(run))
    }
}

impl fmt::Debug for LinkTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LinkTask")
    }
}

/// What links brought, from their tasks to the driver. Bounded by the inboxes of the links: a link waits before it puts
/// more here than its inbox holds.
#[derive(Debug, Default)]
pub(crate) struct Arrivals(Mutex<VecDeque<LinkEvent>>);

impl Arrivals {
    pub(crate) fn push(&self, event: LinkEvent) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back(event);
    }

    pub(super) fn pop(&self) -> Option<LinkEvent> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    fn is_empty(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
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

    /// [`LinkTasks::go_on`], and ready once something has arrived. Before the driver may sleep.
    pub(super) fn poll_arrived(&mut self, context: &Context<'_>, arrivals: &Arrivals) -> Poll<()> {
        self.gate.driver.register(context.waker());
        // First this, so that what becomes possible while the links are polled is not missed.
        self.gate.asleep.store(true, Ordering::SeqCst);
        self.go_on();
        if arrivals.is_empty() { Poll::Pending } else { Poll::Ready(()) }
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
