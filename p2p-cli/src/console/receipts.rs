//! Receipts that a console awaits while it goes on: events tell of them, and a script's end waits for them.

use std::sync::{Mutex, MutexGuard, PoisonError};

use p2p_node::AwaitedReceipt;
use tokio::task::{JoinError, JoinSet};

/// The receipts of all messages of this console.
#[derive(Debug, Default)]
pub(crate) struct Receipts(Mutex<Awaited>);

#[derive(Debug, Default)]
struct Awaited {
    /// Whether each came; the node limits how many are open.
    open: JoinSet<bool>,
    missing: u64,
}

impl Receipts {
    /// One more.
    pub(crate) fn expect(&self, receipt: AwaitedReceipt) {
        let mut awaited = self.lock();
        while let Some(came) = awaited.open.try_join_next() {
            awaited.count(came);
        }
        awaited.open.spawn(async { receipt.wait().await.is_ok() });
    }

    /// Waits until each has come or its time is over; returns how many did not come, since the start.
    pub(crate) async fn settled(&self) -> u64 {
        let mut awaited = std::mem::take(&mut *self.lock());
        while let Some(came) = awaited.open.join_next().await {
            awaited.count(came);
        }
        awaited.missing
    }

    fn lock(&self) -> MutexGuard<'_, Awaited> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Awaited {
    fn count(&mut self, came: Result<bool, JoinError>) {
        self.missing += u64::from(!matches!(came, Ok(true)));
    }
}
