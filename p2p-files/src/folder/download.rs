//! Fetching a folder from many sources at once: the way in.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::conduct::conduct;
use super::lend::{Link, Stream};
use super::select::Selection;
use crate::RateLimit;
use crate::destination::Destination;
use crate::download::DownloadConfig;
use crate::event::{DownloadEvent, SourceFault};
use crate::hash::FileHash;
use crate::library::Library;
use crate::report::{Events, Pace};

/// What to fetch of a folder.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum FolderGoal {
    /// Its manifest alone, to see what is in it: [`Library::manifest`] reads it then.
    List,
    /// Its files.
    Files {
        /// Where the folder goes. [`Destination::Dir`] makes a new folder there, under the name that is given (numbered where
        /// it is taken) or the hash; [`Destination::File`] is the folder itself, and nothing may be there yet.
        to: Destination,
        /// Which of its files.
        selection: Selection,
    },
}

/// Bounds of one folder's download.
#[derive(Debug, Clone, Default)]
pub struct FolderConfig {
    /// Those of each file in it. [`DownloadConfig::max_length`] is for the whole folder too.
    pub file: DownloadConfig,
    /// Bytes of all its files, as who told of it says; another sum ends the download before a file is fetched.
    pub bytes: Option<u64>,
}

/// How far the download of a folder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FolderProgress {
    /// Bytes of files that are verified and written; those that were here already count too.
    pub done: u64,
    /// Bytes of all files that are wanted, once the manifest is here.
    pub length: Option<u64>,
    /// Files that are complete.
    pub files_done: u64,
    /// Files that are wanted, once the manifest is here.
    pub files: Option<u64>,
    /// Sources that are at work.
    pub sources: usize,
    /// Bytes per second, over the last 3 seconds.
    pub rate: u64,
}

/// Starts downloads of folders.
///
/// First comes the manifest, then the files up to 1 MiB, many on the way at once, then the larger ones one after another,
/// each from all sources. A file that is here already, in this folder or anywhere in the library, is not fetched, and
/// equal files are fetched once. Nothing is ever overwritten: a file whose name is taken gets a number.
///
/// Finished files stay where they are whatever becomes of the rest; the same download, started again, goes on.
#[derive(Debug)]
#[non_exhaustive]
pub struct FolderDownload;

impl FolderDownload {
    /// Starts to fetch the folder with this hash. Add sources to the handle.
    ///
    /// Its end is [`DownloadEvent::Finished`] with the path of the folder (for [`FolderGoal::List`]: of the manifest) and the
    /// bytes of its files, or [`DownloadEvent::Failed`]. [`DownloadEvent::NeedSource`] also comes when nobody has what is
    /// missing still.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with time enabled.
    #[must_use]
    pub fn start(
        library: Arc<Library>,
        hash: FileHash,
        goal: FolderGoal,
        config: FolderConfig,
    ) -> FolderHandle {
        let shared = Arc::new(Shared::new(library, hash, goal, config));
        tokio::spawn(conduct(Arc::clone(&shared)));
        FolderHandle { shared }
    }
}

/// A running download of a folder. Dropping it suspends it.
#[derive(Debug)]
pub struct FolderHandle {
    shared: Arc<Shared>,
}

impl FolderHandle {
    /// Takes a connection to a provider into use, for all files of the folder. `label` names it in events.
    pub fn add_source<S>(&self, label: impl Into<String>, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        self.add_limited_source(label, stream, None);
    }

    /// The same, and what the source sends is held to a rate besides [`DownloadConfig::throttle`].
    pub fn add_limited_source<S>(&self, label: impl Into<String>, stream: S, limit: Option<Arc<RateLimit>>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        self.shared.admit(label.into(), limit, Box::new(stream));
    }

    /// Progress, told when it changes and at most 10 times a second.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<FolderProgress> {
        self.shared.progress.subscribe()
    }

    /// The next event; `None` after the end was taken.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: no event is lost.
    pub async fn next_event(&self) -> Option<DownloadEvent> {
        self.shared.events.next().await
    }

    /// Ends the download for now; started again it goes on from there.
    pub fn suspend(&self) {
        if !self.shared.cancel.is_cancelled() {
            self.shared.suspend.store(true, Ordering::Relaxed);
        }
        self.shared.cancel.cancel();
    }

    /// Ends the download for good. Files that are complete stay; what is half there goes.
    pub fn cancel(&self) {
        self.shared.cancel.cancel();
    }

    /// The folder that is fetched.
    #[must_use]
    pub fn hash(&self) -> FileHash {
        self.shared.hash
    }
}

impl Drop for FolderHandle {
    fn drop(&mut self) {
        self.suspend();
    }
}

/// What handle, conductor and lanes share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) library: Arc<Library>,
    pub(super) hash: FileHash,
    pub(super) goal: FolderGoal,
    pub(super) config: FolderConfig,
    /// The destination as it was given, for errors.
    shown: PathBuf,
    pub(super) started: Instant,
    pub(super) cancel: CancellationToken,
    pub(super) suspend: AtomicBool,
    state: Mutex<State>,
    progress: watch::Sender<FolderProgress>,
    /// A source came.
    pub(super) came: Notify,
    events: Events,
    next_link: AtomicU64,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// Sources that nobody has taken into use yet.
    pub(super) incoming: VecDeque<Link>,
    /// Sources in all.
    pub(super) live: usize,
    pub(super) told: FolderProgress,
    /// Bytes of a large file that is on its way.
    pub(super) partial: u64,
    pace: Pace,
    over: bool,
}

impl Shared {
    pub(super) fn new(library: Arc<Library>, hash: FileHash, goal: FolderGoal, config: FolderConfig) -> Self {
        let shown = match &goal {
            FolderGoal::List => PathBuf::from(hash.to_string()),
            FolderGoal::Files { to: Destination::Dir(path, _) | Destination::File(path), .. } => path.clone(),
        };
        Self {
            library,
            hash,
            goal,
            config,
            shown,
            started: Instant::now(),
            cancel: CancellationToken::new(),
            suspend: AtomicBool::new(false),
            state: Mutex::new(State::default()),
            progress: watch::Sender::new(FolderProgress::default()),
            came: Notify::new(),
            events: Events::default(),
            next_link: AtomicU64::new(0),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The destination, for errors.
    pub(super) fn shown(&self) -> &Path {
        &self.shown
    }

    fn admit(&self, label: String, limit: Option<Arc<RateLimit>>, stream: Box<dyn Stream>) {
        let id = self.next_link.fetch_add(1, Ordering::Relaxed);
        let mut state = self.state();
        if state.over {
            return;
        }
        let max = self.config.file.max_sources;
        if state.live >= max {
            self.events.push(DownloadEvent::SourceFailed { label, fault: SourceFault::TooMany(max) });
            return;
        }
        state.live += 1;
        state.incoming.push_back(Link::new(id, label, limit, stream));
        drop(state);
        self.came.notify_one();
    }

    /// A source is not used any more.
    pub(super) fn lose(&self, label: String, fault: SourceFault) {
        tracing::debug!(%label, %fault, folder = %self.hash.short(), "a source failed");
        let mut state = self.state();
        state.live = state.live.saturating_sub(1);
        self.events.push(DownloadEvent::SourceFailed { label, fault });
        if state.live == 0 {
            self.events.push(DownloadEvent::NeedSource);
        }
    }

    pub(super) fn tell(&self, event: DownloadEvent) {
        self.events.push(event);
    }

    pub(super) fn end(&self, event: DownloadEvent) {
        let mut state = self.state();
        state.over = true;
        state.incoming.clear();
        state.live = 0;
        self.events.push(event);
    }

    /// Files that are complete now, and were not.
    pub(super) fn completed(&self, files: u64, bytes: u64) {
        let mut state = self.state();
        state.told.files_done += files;
        state.told.done += bytes;
    }

    /// What was here before is no part of the rate.
    pub(super) fn was_here(&self, files: u64, bytes: u64) {
        self.completed(files, bytes);
        self.state().pace.leave_out(bytes);
    }

    /// Says how far it is. Called every 100 ms.
    pub(super) fn tell_progress(&self) {
        let now = Instant::now();
        let mut state = self.state();
        let done = state.told.done + state.partial;
        let rate = state.pace.at(now, done);
        let progress = FolderProgress { done, sources: state.live, rate, ..state.told };
        drop(state);
        self.progress.send_if_modified(|old| std::mem::replace(old, progress) != progress);
    }

    /// For what takes long: goes on until the user wants no more.
    pub(super) fn until_cancelled(&self) -> impl Fn(u64, u64) -> ControlFlow<()> {
        |_, _| if self.cancel.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    pub(super) fn is_suspended(&self) -> bool {
        self.suspend.load(Ordering::Relaxed)
    }
}
