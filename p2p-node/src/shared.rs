//! What every task of a node can reach.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use p2p_files::{Library, ServeStats};
use p2p_wire::{NodeId, PeerAddr, SecretKey};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::budget::Budget;
use crate::command::{ChosenTopics, Command};
use crate::config::Config;
use crate::data::DataDir;
use crate::driver::Arrivals;
use crate::fetch::FetchEntry;
use crate::hub::EventHub;
use crate::log::LogReader;
use crate::records::CheckedRecords;
use crate::submit::Submissions;
use crate::throttle::Rates;
use crate::tls::Tls;
use crate::watch::Watch;

/// One per node; tasks hold it in an [`Arc`].
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) id: NodeId,
    pub(crate) key: SecretKey,
    pub(crate) config: Config,
    pub(crate) data: DataDir,
    pub(crate) content_dir: PathBuf,
    pub(crate) tls: Tls,
    pub(crate) library: Arc<Library>,
    /// The log on disk, if there is one.
    pub(crate) log: Option<LogReader>,
    pub(crate) events: EventHub,
    /// As the driver has them.
    pub(crate) topics: ChosenTopics,
    /// To the driver.
    pub(crate) commands: mpsc::Sender<Command>,
    /// What links brought.
    pub(crate) arrivals: Arrivals,
    /// What the queues of all links take together.
    pub(crate) budget: Arc<Budget>,
    pub(crate) records: CheckedRecords,
    /// Times that a link was not read because it brings more than its rate.
    pub(crate) too_fast: AtomicU64,
    /// Rung when an outbox that was busy has room again.
    pub(crate) drained: Arc<Notify>,
    /// Own messages on their way to the driver.
    pub(crate) submissions: Submissions,
    pub(crate) listen: Vec<SocketAddr>,
    pub(crate) file_listen: Vec<SocketAddr>,
    /// What to tell a friend; kept by the driver.
    pub(crate) own_addrs: RwLock<Vec<PeerAddr>>,
    pub(crate) handshakes: Handshakes,
    /// File connections at once; further ones are closed.
    pub(crate) file_connections: Arc<Semaphore>,
    /// Of these, how many each peer has.
    pub(crate) peer_connections: Mutex<BTreeMap<NodeId, usize>>,
    pub(crate) served: Arc<ServeStats>,
    /// What happens to shared files on disk.
    pub(crate) watch: Watch,
    /// What files may take of the line.
    pub(crate) up: Rates,
    pub(crate) down: Rates,
    /// Fetches under way, by their number.
    pub(crate) fetches: Mutex<BTreeMap<u64, FetchEntry>>,
    /// Connections closed before they became links or transfers.
    pub(crate) refused_connections: AtomicU64,
    /// Every task, so that shutdown can wait for them.
    pub(crate) tasks: TaskTracker,
    /// Ends the listeners and transfers.
    pub(crate) stop: CancellationToken,
}

impl Drop for Shared {
    /// The last handle and the last task are gone: whoever still reads events learns that no more come.
    fn drop(&mut self) {
        self.events.close();
    }
}

impl Shared {
    /// The addresses to tell others.
    pub(crate) fn addrs(&self) -> Vec<PeerAddr> {
        self.own_addrs.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Handshakes under way, and those that were refused and have not read why. When there are too many the oldest is dropped: an
/// honest one takes milliseconds, so those that wait longest are the ones that never say anything, or never go.
#[derive(Debug)]
pub(crate) struct Handshakes {
    running: Mutex<VecDeque<(u64, Option<AbortHandle>)>>,
    limit: usize,
    next: AtomicU64,
}

impl Handshakes {
    pub(crate) fn new(limit: usize) -> Self {
        Self { running: Mutex::default(), limit: limit.max(1), next: AtomicU64::new(0) }
    }

    /// Notes a handshake that is about to begin; returns its number and whether an older one had to go.
    pub(crate) fn begin(&self) -> (u64, bool) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut running = self.lock();
        running.push_back((number, None));
        let over = running.len() > self.limit;
        if over && let Some((_, Some(oldest))) = running.pop_front() {
            oldest.abort();
        }
        (number, over)
    }

    /// The task of a handshake, unless it is over already.
    pub(crate) fn attach(&self, number: u64, task: AbortHandle) {
        if let Some(entry) = self.lock().iter_mut().find(|(n, _)| *n == number) {
            entry.1 = Some(task);
        }
    }

    /// From here on the task must not be aborted any more.
    pub(crate) fn end(&self, number: u64) {
        self.lock().retain(|(n, _)| *n != number);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(u64, Option<AbortHandle>)>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
