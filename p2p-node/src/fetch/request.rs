//! What the application sees of a fetch: what it asks for, the handle it gets, how far it is.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use p2p_files::{FileHash, Kind, Selection};
use p2p_wire::{Ticket, TicketKind};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Job;
use crate::error::FetchError;
use crate::info::{FileEntry, FileState};
use crate::shared::Shared;

/// What to fetch: a hash, or a ticket that also says who has it.
#[derive(Debug, Clone)]
pub enum FetchTarget {
    /// The network is asked who has it.
    Hash(FileHash),
    /// The ticket's node is asked first.
    Ticket(Box<Ticket>),
}

impl From<FileHash> for FetchTarget {
    fn from(hash: FileHash) -> Self {
        Self::Hash(hash)
    }
}

impl From<Ticket> for FetchTarget {
    fn from(ticket: Ticket) -> Self {
        Self::Ticket(Box::new(ticket))
    }
}

/// How to fetch.
#[derive(Debug, Clone, Default)]
pub struct FetchOptions {
    /// The file to make, or an existing folder to put it into; `None` is the content folder.
    pub to: Option<PathBuf>,
    /// What of a folder to fetch; with anything but all of it, the hash must be a folder's.
    pub selection: Selection,
    /// Only the list of what is in a folder; [`Node::manifest`](crate::Node::manifest) reads it then.
    pub list: bool,
    /// How long to look for somebody who has it; `None` is [`Limits::find_timeout`](crate::Limits::find_timeout).
    pub timeout: Option<Duration>,
}

/// How far a fetch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct FetchProgress {
    /// Bytes verified and written.
    pub done: u64,
    /// Bytes in all, once a provider has proved it.
    pub length: Option<u64>,
    /// Of a folder: files that are complete.
    pub files_done: u64,
    /// Of a folder: files in all, once its list is here.
    pub files: Option<u64>,
    /// Providers at work.
    pub sources: usize,
    /// Bytes per second.
    pub rate: u64,
}

/// A fetched file: verified, synced, in its place, and shared from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fetched {
    /// Its hash.
    pub hash: FileHash,
    /// Where it lies.
    pub path: PathBuf,
    /// Its bytes.
    pub length: u64,
    /// How long it took.
    pub took: Duration,
    /// Providers that delivered.
    pub sources: usize,
}

/// A fetch under way. Dropping it ends it for now: what was verified stays, and the same fetch goes on from there.
#[derive(Debug)]
pub struct Fetch {
    hash: FileHash,
    progress: watch::Receiver<FetchProgress>,
    task: Option<JoinHandle<Result<Fetched, FetchError>>>,
    end: End,
}

/// How a fetch is told to end.
#[derive(Debug, Clone)]
pub(super) struct End {
    pub(super) now: CancellationToken,
    /// For good: nothing is to be left.
    pub(super) discard: Arc<AtomicBool>,
}

impl Fetch {
    /// What is fetched.
    #[must_use]
    pub const fn hash(&self) -> FileHash {
        self.hash
    }

    /// Progress; changes at most 10 times a second.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<FetchProgress> {
        self.progress.clone()
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// [`FetchError`]; what was verified of a file above 1 MiB stays, and the same fetch, begun again, goes on from
    /// there; so does the node's next start, see [`Config::resume`](crate::Config::resume). After the first call has returned,
    /// [`FetchError::Cancelled`].
    ///
    /// # Cancel safety
    /// The fetch goes on when this future is dropped; call it again.
    pub async fn finish(&mut self) -> Result<Fetched, FetchError> {
        let Some(task) = self.task.as_mut() else { return Err(FetchError::Cancelled) };
        let result = task.await;
        self.task = None;
        result.unwrap_or(Err(FetchError::Stopped))
    }

    /// Ends it; what had been fetched is removed.
    pub fn cancel(&self) {
        self.end.discard.store(true, Ordering::Relaxed);
        self.end.now.cancel();
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        self.end.now.cancel();
    }
}

/// A fetch as the list of files shows it.
#[derive(Debug)]
pub(crate) struct FetchEntry {
    pub(crate) hash: FileHash,
    pub(crate) path: PathBuf,
    pub(crate) kind: Kind,
    pub(crate) progress: watch::Receiver<FetchProgress>,
}

impl FetchEntry {
    pub(crate) fn file_entry(&self) -> FileEntry {
        let FetchProgress { done: have, length, sources, rate, .. } = *self.progress.borrow();
        let (hash, kind, path, state) = (self.hash, self.kind, self.path.clone(), FileState::Fetching);
        FileEntry { hash, kind, length, path, state, have, sources, rate }
    }
}

/// Begins a fetch.
pub(crate) fn begin(shared: &Arc<Shared>, target: FetchTarget, options: FetchOptions) -> Fetch {
    static NUMBERS: AtomicU64 = AtomicU64::new(0);
    let (hash, ticket) = match target {
        FetchTarget::Hash(hash) => (hash, None),
        FetchTarget::Ticket(ticket) => {
            (FileHash::from_bytes(ticket.file.as_ref().map_or([0; 32], |f| f.hash)), Some(ticket))
        }
    };
    let (told, progress) = watch::channel(FetchProgress::default());
    let end = End { now: shared.stop.child_token(), discard: Arc::default() };
    let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
    let path = options.to.clone().unwrap_or_else(|| shared.content_dir.clone());
    let kind = ticket.as_ref().and_then(|t| t.file.as_ref()).map_or(Kind::File, |f| kind_of(f.kind));
    register(shared, number, Some(FetchEntry { hash, path, kind, progress: progress.clone() }));
    let task = {
        let (shared, end) = (Arc::clone(shared), end.clone());
        async move {
            let result = Job::run(&shared, hash, ticket, options, told, &end).await;
            register(&shared, number, None);
            result
        }
    };
    Fetch { hash, progress, task: Some(shared.tasks.spawn(task)), end }
}

fn register(shared: &Shared, number: u64, entry: Option<FetchEntry>) {
    let mut fetches = shared.fetches.lock().unwrap_or_else(PoisonError::into_inner);
    match entry {
        Some(entry) => fetches.insert(number, entry),
        None => fetches.remove(&number),
    };
}

const fn kind_of(kind: TicketKind) -> Kind {
    match kind {
        TicketKind::File => Kind::File,
        TicketKind::Dir => Kind::Dir,
    }
}
