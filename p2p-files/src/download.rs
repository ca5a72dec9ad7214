//! One file from many sources at once.
//!
//! A conductor task owns the download from start to end; each source has a task of its own (`source.rs`); the
//! [`Picker`] says who asks for what; checked chunks are written on blocking threads. The parts meet in [`Shared`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, OnceCell, Semaphore, watch};
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::geometry::{CHUNK, Geometry, Run};
use crate::hash::{FileHash, HASH_LEN, Info, Kind};
use crate::library::{Library, LibraryError};
use crate::merkle;
use crate::open::{OpenShare, ReadError};
use crate::part::{Destination, PartFile, Place};
use crate::picker::{Picker, SourceId};
use crate::protocol::GETS_MAX;
use crate::source;
use crate::tree::TreeWriter;

/// Events that wait to be read; beyond that the oldest is dropped and logged.
const EVENTS_MAX: usize = 256;

/// How often progress is told while it changes, and the rate brought up to date.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// The time over which the rate is an average.
const RATE_OVER: Duration = Duration::from_secs(3);

/// Bounds of one download.
#[derive(Debug, Clone)]
pub struct DownloadConfig {
    /// Longest file that is fetched, in bytes. Default 1 TiB, whose bookkeeping is 128 KiB of memory and 64 MiB of tree file.
    pub max_length: u64,
    /// A source that sends no byte for this long while something is asked of it is dropped. Default 10 s.
    pub stall: Duration,
    /// A source that takes longer than this for one run of 1 MiB is dropped, even if it drips. Default 120 s: 9 kB/s.
    pub run_timeout: Duration,
    /// Sources at once, each with one buffer of 1 MiB. Default 16; more are refused with [`SourceFault::TooMany`].
    pub max_sources: usize,
    /// Most requests ahead of the answers per source, at most 16; a slow source gets fewer, about a second's worth. Default 16.
    pub window: usize,
    /// Runs that are checked and written at the same time, on blocking threads, with a buffer of 1 MiB each. Default 4, a guess.
    pub checks: usize,
}

impl Default for DownloadConfig {
    fn default() -> Self {
        Self {
            max_length: 1 << 40,
            stall: Duration::from_secs(10),
            run_timeout: Duration::from_secs(120),
            max_sources: 16,
            window: GETS_MAX,
            checks: 4,
        }
    }
}

/// How far a download is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Bytes that are verified and written.
    pub done: u64,
    /// Bytes in all, once a source proved it.
    pub length: Option<u64>,
    /// Sources that are at work.
    pub sources: usize,
    /// Bytes per second, over the last 3 seconds.
    pub rate: u64,
}

/// What happens during a download.
#[derive(Debug)]
#[non_exhaustive]
pub enum DownloadEvent {
    /// A source is dropped; what was asked of it goes to others.
    SourceFailed {
        /// The name it was added with.
        label: String,
        /// What it did.
        fault: SourceFault,
    },
    /// No source is left, or none was there when the download began; add one, or cancel.
    NeedSource,
    /// The end: the file is complete, checked, synced, in its place, and shared.
    Finished(Finished),
    /// The end: no file.
    Failed(DownloadError),
}

/// A finished download.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// Where the file is. When it was in the library already and the destination was a folder: where it was.
    pub path: PathBuf,
    /// Bytes of the file.
    pub length: u64,
    /// Milliseconds since the start.
    pub ms: u64,
    /// Sources that gave something of it; 0 when it was here already.
    pub sources: usize,
}

/// What a source did wrong, or suffered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SourceFault {
    /// It sent wrong data or a wrong proof.
    #[error("sent wrong data for blocks {first_block} to {}", first_block + blocks - 1)]
    Corrupt {
        /// First block of the run.
        first_block: u64,
        /// Blocks of the run.
        blocks: u64,
    },
    /// Length and root it gave do not belong to the hash.
    #[error("gave a length and root that do not belong to the hash")]
    WrongInfo,
    /// The file is longer than the limit.
    #[error("the file has {length} bytes, the limit is {max}")]
    TooLarge {
        /// Bytes of the file.
        length: u64,
        /// The limit.
        max: u64,
    },
    /// Its file is not any more what it was when it was shared.
    #[error("its file changed")]
    Changed,
    /// It does not have the file.
    #[error("does not have the file")]
    NotFound,
    /// It has too much to do.
    #[error("is busy")]
    Busy,
    /// It sent nothing, or much too slowly.
    #[error("sent nothing, or too little, for {0:?}")]
    Stalled(Duration),
    /// It broke the protocol.
    #[error("broke the protocol: {0}")]
    Protocol(&'static str),
    /// The connection failed or ended.
    #[error("the connection failed: {0}")]
    Io(io::ErrorKind),
    /// There are as many sources as the configuration allows.
    #[error("not used: there are {0} sources already")]
    TooMany(usize),
}

/// Why a download failed, or could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DownloadError {
    /// There is something at the destination already; it was left alone.
    #[error("{} exists already", path.display())]
    Exists {
        /// The destination.
        path: PathBuf,
    },
    /// Another download writes the same file to the same place.
    #[error("the same file is already being downloaded to {}", path.display())]
    InProgress {
        /// The destination.
        path: PathBuf,
    },
    /// The file is longer than the limit.
    #[error("the file has {length} bytes, the limit is {max}")]
    TooLarge {
        /// Bytes of the file.
        length: u64,
        /// The limit.
        max: u64,
    },
    /// The hash names a folder.
    #[error("the hash names a folder; folders come later")]
    Directory,
    /// The disk failed or is full; the part-file is removed.
    #[error("cannot write {}", path.display())]
    Io {
        /// The destination.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is in its place, but could not be entered in the index.
    #[error("{} is complete but cannot be shared", path.display())]
    Register {
        /// The finished file.
        path: PathBuf,
        /// Why.
        source: LibraryError,
    },
    /// It was cancelled.
    #[error("the download was cancelled")]
    Cancelled,
}

/// Starts downloads.
///
/// ```no_run
/// # async fn example(library: std::sync::Arc<p2p_files::Library>, hash: p2p_files::FileHash) -> Result<(), Box<dyn std::error::Error>> {
/// use p2p_files::{Destination, Download, DownloadConfig, DownloadEvent};
///
/// let to = Destination::Dir("content".into(), Some("notes.txt".into()));
/// let download = Download::start(library, hash, to, DownloadConfig::default())?;
/// download.add_source("alice", tokio::net::TcpStream::connect("192.0.2.1:65433").await?);
/// while let Some(event) = download.next_event().await {
///     match event {
///         DownloadEvent::Finished(finished) => println!("{}", finished.path.display()),
///         DownloadEvent::SourceFailed { label, fault } => eprintln!("{label} {fault}"),
///         DownloadEvent::NeedSource => download.cancel(),
///         other => eprintln!("{other:?}"),
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct Download;

impl Download {
    /// Starts to fetch the file with this hash. Add sources to the handle; they may be added before and after this
    /// node looked whether it has the file itself.
    ///
    /// If it is in the library and unchanged, the download is finished at once: at its existing path for a
    /// [`Destination::Dir`], with a verified copy for a [`Destination::File`].
    ///
    /// # Errors
    ///
    /// [`DownloadError::Exists`] or [`DownloadError::Io`] when the destination cannot be used.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with time enabled.
    pub fn start(
        library: Arc<Library>,
        hash: FileHash,
        destination: Destination,
        config: DownloadConfig,
    ) -> Result<DownloadHandle, DownloadError> {
        let shown = match &destination {
            Destination::Dir(path, _) | Destination::File(path) => path.clone(),
        };
        let place = Place::new(&destination, &hash).map_err(|source| DownloadError::io(&shown, source))?;
        let shared = Arc::new(Shared {
            library,
            hash,
            shown,
            place,
            reuse: matches!(destination, Destination::Dir(..)),
            checks: Arc::new(Semaphore::new(config.checks.max(1))),
            config,
            started: Instant::now(),
            gate: CancellationToken::new(),
            cancel: CancellationToken::new(),
            plan: OnceCell::new(),
            state: Mutex::new(State::default()),
            progress: watch::Sender::new(Progress::default()),
            work: Notify::new(),
            moved: Notify::new(),
            happened: Notify::new(),
            buffers: Mutex::new(Vec::new()),
        });
        tokio::spawn(conduct(Arc::clone(&shared)));
        Ok(DownloadHandle { shared })
    }
}

/// A running download. Dropping it cancels the download.
#[derive(Debug)]
pub struct DownloadHandle {
    shared: Arc<Shared>,
}

impl DownloadHandle {
    /// Takes a connection to a provider into use. `label` names it in events.
    ///
    /// The stream must speak `p2p-files/1` and nothing may have been sent on it. It is closed when the source fails or the
    /// download ends; after the end it is closed at once.
    pub fn add_source<S>(&self, label: impl Into<String>, stream: S) -> SourceId
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (id, token) = self.shared.admit(label.into());
        if let Some(token) = token {
            tokio::spawn(source::run(Arc::clone(&self.shared), id, token, stream));
        }
        id
    }

    /// Progress, told when it changes and at most 10 times a second.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.shared.progress.subscribe()
    }

    /// The next event; `None` after [`DownloadEvent::Finished`] or [`DownloadEvent::Failed`] was taken.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: no event is lost.
    pub async fn next_event(&self) -> Option<DownloadEvent> {
        loop {
            let happened = self.shared.happened.notified();
            {
                let mut state = self.shared.state();
                if let Some(event) = state.events.pop_front() {
                    if matches!(event, DownloadEvent::Finished(_) | DownloadEvent::Failed(_)) {
                        state.told = true;
                        // Another task may wait for the end as well.
                        self.shared.happened.notify_waiters();
                    }
                    return Some(event);
                }
                if state.told {
                    return None;
                }
            }
            happened.await;
        }
    }

    /// Ends the download and removes its part-file; [`DownloadEvent::Failed`] with [`DownloadError::Cancelled`] follows, unless it
    /// had ended.
    pub fn cancel(&self) {
        self.shared.cancel.cancel();
    }

    /// The file that is fetched.
    #[must_use]
    pub fn hash(&self) -> FileHash {
        self.shared.hash
    }
}

impl Drop for DownloadHandle {
    fn drop(&mut self) {
        self.cancel();
    }
}

/// What the tasks of one download share.
#[derive(Debug)]
pub(crate) struct Shared {
    library: Arc<Library>,
    pub(crate) hash: FileHash,
    pub(crate) config: DownloadConfig,
    /// The destination as it was given, for errors.
    shown: PathBuf,
    place: Place,
    /// A copy that is in the library already will do.
    reuse: bool,
    started: Instant,
    /// Opens when it is known that the file is not here; sources wait for it.
    pub(crate) gate: CancellationToken,
    /// The user wants no more.
    cancel: CancellationToken,
    /// Known as soon as one source proved what the hash is made of.
    plan: OnceCell<Arc<Plan>>,
    state: Mutex<State>,
    progress: watch::Sender<Progress>,
    /// Wakes sources that have nothing to do: there may be something to do again.
    pub(crate) work: Notify,
    /// Wakes the conductor.
    moved: Notify,
    /// Wakes whoever waits for an event.
    happened: Notify,
    /// One permit for each run that is checked and written.
    pub(crate) checks: Arc<Semaphore>,
    /// Buffers that are not in use: never more than sources + checks.
    buffers: Mutex<Vec<Vec<u8>>>,
}

/// What is fetched, and where it is written.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) info: Info,
    pub(crate) geometry: Geometry,
    part: PartFile,
    tree: Option<TreeWriter>,
}

#[derive(Debug, Default)]
struct State {
    picker: Option<Picker>,
    sources: BTreeMap<SourceId, Source>,
    next_source: u64,
    /// Sources that gave something.
    gave: BTreeSet<SourceId>,
    done: u64,
    /// Times and bytes done, for the rate.
    samples: VecDeque<(Instant, u64)>,
    events: VecDeque<DownloadEvent>,
    failure: Option<DownloadError>,
    /// No source is taken, no event follows but the last.
    over: bool,
    /// The last event was taken.
    told: bool,
}

#[derive(Debug)]
struct Source {
    label: String,
    token: CancellationToken,
    failed: bool,
}

impl State {
    fn live(&self) -> usize {
        self.sources.values().filter(|source| !source.failed).count()
    }

    fn push(&mut self, event: DownloadEvent) {
        if self.events.len() >= EVENTS_MAX {
            let dropped = self.events.pop_front();
            tracing::warn!(?dropped, "nobody reads the events of a download");
        }
        self.events.push_back(event);
    }

    fn is_complete(&self) -> bool {
        self.picker.as_ref().is_some_and(Picker::is_complete)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new source; no token when it is not to be used.
    fn admit(&self, label: String) -> (SourceId, Option<CancellationToken>) {
        let mut state = self.state();
        let id = SourceId(state.next_source);
        state.next_source += 1;
        if state.over {
            return (id, None);
        }
        if state.sources.len() >= self.config.max_sources {
            let fault = SourceFault::TooMany(self.config.max_sources);
            state.push(DownloadEvent::SourceFailed { label, fault });
            self.happened.notify_waiters();
            return (id, None);
        }
        let token = CancellationToken::new();
        state.sources.insert(id, Source { label, token: token.clone(), failed: false });
        (id, Some(token))
    }

    /// A source failed: says so, and gives its chunks to others. Only the first fault of a source counts.
    pub(crate) fn lose(&self, id: SourceId, fault: SourceFault) {
        let mut state = self.state();
        let Some(source) = state.sources.get_mut(&id).filter(|source| !source.failed) else { return };
        source.failed = true;
        source.token.cancel();
        let label = source.label.clone();
        if let Some(picker) = &mut state.picker {
            picker.release(id);
        }
        if !state.over && !state.is_complete() {
            tracing::debug!(%label, %fault, hash = %self.hash.short(), "a source failed");
            state.push(DownloadEvent::SourceFailed { label, fault });
            if state.live() == 0 {
                state.push(DownloadEvent::NeedSource);
            }
        }
        drop(state);
        self.work.notify_waiters();
        self.happened.notify_waiters();
    }

    /// A source's task is at its end.
    pub(crate) fn leave(&self, id: SourceId) {
        let mut state = self.state();
        state.sources.remove(&id);
        if let Some(picker) = &mut state.picker {
            picker.release(id);
        }
        drop(state);
        self.work.notify_waiters();
        self.moved.notify_one();
    }

    /// The download cannot go on; the first reason counts.
    pub(crate) fn fail(&self, error: DownloadError) {
        self.state().failure.get_or_insert(error);
        self.moved.notify_one();
    }

    /// The plan, made by the first source that proved its [`Info`]; `None` when the download fails for it.
    pub(crate) async fn plan(self: &Arc<Self>, info: Info) -> Option<Arc<Plan>> {
        let made = self.plan.get_or_try_init(async || {
            let shared = Arc::clone(self);
            let plan = spawn_blocking(move || shared.make_plan(info)).await.map_err(io::Error::other);
            let plan = Arc::new(plan.flatten().map_err(|source| DownloadError::io(&self.shown, source))?);
            self.state().picker = Some(Picker::new(plan.geometry.chunks()));
            self.moved.notify_one();
            Ok(plan)
        });
        match made.await {
            Ok(plan) => Some(Arc::clone(plan)),
            Err(error) => {
                self.fail(error);
                None
            }
        }
    }

    fn make_plan(&self, info: Info) -> io::Result<Plan> {
        let geometry = Geometry::new(info.length).ok_or(io::ErrorKind::FileTooLarge)?;
        let part = PartFile::create(self.place.clone(), &self.hash)?;
        Ok(Plan { info, geometry, part, tree: self.library.new_tree(geometry)? })
    }

    /// The chunk a source with `waiting` unanswered requests is to be asked for next.
    pub(crate) fn take(&self, id: SourceId, waiting: usize) -> Option<u64> {
        let mut state = self.state();
        let live = state.live() as u64;
        let usable = state.sources.get(&id).is_some_and(|source| !source.failed);
        let picker = state.picker.as_mut().filter(|_| usable)?;
        // Near the end nobody takes more than a fair part of what is left, and only who is idle doubles.
        let fair = if live > 1 { (picker.missing() / live).max(1) } else { u64::MAX };
        let ends = picker.missing() == 0;
        if waiting as u64 >= fair || ends && waiting > 0 { None } else { picker.take(id, |_| true) }
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.state().is_complete()
    }

    /// A buffer that is not in use, or a new one.
    pub(crate) fn buffer(&self) -> Vec<u8> {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    pub(crate) fn put_back(&self, buffer: Vec<u8>) {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
    }

    /// Checks a run that a source sent (proof, then data) and writes it. Blocks.
    pub(crate) fn check(&self, plan: &Plan, id: SourceId, run: Run, received: &[u8]) {
        if self.state().picker.as_ref().is_none_or(|picker| picker.has(run.chunk())) {
            return;
        }
        let (proof, data) = received.split_at(run.proof_len() * HASH_LEN);
        match merkle::verify_run(run, data, proof, &plan.info.root) {
            Ok(node) => match plan.write(run, data, &node) {
                Ok(()) => self.completed(id, run),
                Err(source) => self.fail(DownloadError::io(&self.shown, source)),
            },
            Err(merkle::Mismatch) => {
                self.lose(id, SourceFault::Corrupt { first_block: run.first(), blocks: run.blocks() });
            }
        }
    }

    fn completed(&self, id: SourceId, run: Run) {
        let mut state = self.state();
        if state.picker.as_mut().is_some_and(|picker| picker.complete(run.chunk())) {
            state.done += run.len() as u64;
            state.gave.insert(id);
        }
        if state.is_complete() {
            self.moved.notify_one();
        }
    }

    fn tell_progress(&self) {
        let now = Instant::now();
        let mut state = self.state();
        let done = state.done;
        state.samples.push_back((now, done));
        while state.samples.len() > 2 && state.samples.front().is_some_and(|(at, _)| now - *at > RATE_OVER) {
            state.samples.pop_front();
        }
        let (since, before) = state.samples.front().copied().unwrap_or((now, done));
        let ms = u64::try_from((now - since).as_millis()).unwrap_or(u64::MAX);
        let rate = (done - before).saturating_mul(1000).checked_div(ms).unwrap_or(0);
        let length = self.plan.get().map(|plan| plan.info.length);
        let progress = Progress { done, length, sources: state.live(), rate };
        drop(state);
        self.progress.send_if_modified(|old| {
            let modified = *old != progress;
            *old = progress;
            modified
        });
    }

    fn finished(&self, path: PathBuf, length: u64) -> Finished {
        let sources = self.state().gave.len();
        let ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        Finished { path, length, ms, sources }
    }
}

impl Plan {
    fn write(&self, run: Run, data: &[u8], node: &merkle::Digest) -> io::Result<()> {
        self.part.write_at(data, run.offset())?;
        self.tree.as_ref().map_or(Ok(()), |tree| tree.put_chunk(run.chunk(), node))
    }

    fn discard(&self) {
        self.part.discard();
        if let Some(tree) = &self.tree {
            tree.discard();
        }
    }
}

impl DownloadError {
    fn io(path: &std::path::Path, source: io::Error) -> Self {
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::AlreadyExists => Self::Exists { path },
            io::ErrorKind::WouldBlock => Self::InProgress { path },
            _ => Self::Io { path, source },
        }
    }
}

/// Carries one download to its end.
async fn conduct(shared: Arc<Shared>) {
    let outcome = run(&shared).await;
    stop_sources(&shared).await;
    if let (Err(_), Some(plan)) = (&outcome, shared.plan.get().cloned()) {
        let _ = spawn_blocking(move || plan.discard()).await;
    }
    shared.buffers.lock().unwrap_or_else(PoisonError::into_inner).clear();
    shared.tell_progress();
    shared.state().push(outcome.map_or_else(DownloadEvent::Failed, DownloadEvent::Finished));
    shared.happened.notify_waiters();
}

async fn run(shared: &Arc<Shared>) -> Result<Finished, DownloadError> {
    if let Some((path, length)) = blocking(shared, local).await? {
        return Ok(shared.finished(path, length));
    }
    fetch(shared).await?;
    stop_sources(shared).await;
    let (path, length) = blocking(shared, finish).await?;
    Ok(shared.finished(path, length))
}

async fn blocking<T: Send + 'static>(
    shared: &Arc<Shared>,
    work: fn(&Shared) -> Result<T, DownloadError>,
) -> Result<T, DownloadError> {
    let on_thread = Arc::clone(shared);
    let result = spawn_blocking(move || work(&on_thread)).await;
    result.unwrap_or_else(|panic| Err(DownloadError::io(&shared.shown, io::Error::other(panic))))
}

/// Looks whether the file is here already: its path and length.
fn local(shared: &Shared) -> Result<Option<(PathBuf, u64)>, DownloadError> {
    let opened = shared.library.open_share(&shared.hash).unwrap_or_else(|error| {
        tracing::warn!(%error, "looking for the file in the library");
        None
    });
    let Some(share) = opened else { return Ok(None) };
    let length = share.record.info.length;
    if shared.reuse {
        return Ok(Some((share.path, length)));
    }
    Ok(copy(shared, &share)?.map(|path| (path, length)))
}

/// A verified copy of a shared file; `None` when it turns out to have changed.
fn copy(shared: &Shared, share: &OpenShare) -> Result<Option<PathBuf>, DownloadError> {
    let io = |source| DownloadError::io(&shared.shown, source);
    let part = PartFile::create(shared.place.clone(), &shared.hash).map_err(io)?;
    let info = share.record.info;
    let mut buf = vec![0; CHUNK];
    for run in (0..share.geometry.chunks()).map_while(|index| share.geometry.chunk(index)) {
        if shared.cancel.is_cancelled() {
            return Err(DownloadError::Cancelled);
        }
        let data = &mut buf[..run.len()];
        let mut proof = vec![0; run.proof_len() * HASH_LEN];
        match share.read(run, &mut proof, data) {
            Ok(()) if merkle::verify_run(run, data, &proof, &info.root).is_ok() => {
                part.write_at(data, run.offset()).map_err(io)?;
            }
            Ok(()) | Err(ReadError::Changed) => {
                shared.library.mark_gone(&share.path, &share.record);
                return Ok(None);
            }
            Err(ReadError::Io(error)) => {
                tracing::warn!(%error, "copying a shared file");
                return Ok(None);
            }
        }
    }
    let path = part.finish().map_err(io)?;
    register(shared, path, info, None).map(Some)
}

/// Opens the gate for sources and waits until all chunks are written, or the reason why not.
async fn fetch(shared: &Arc<Shared>) -> Result<(), DownloadError> {
    {
        let mut state = shared.state();
        if state.live() == 0 {
            state.push(DownloadEvent::NeedSource);
            shared.happened.notify_waiters();
        }
    }
    shared.gate.cancel();
    let mut tick = tokio::time::interval(PROGRESS_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shared.cancel.cancelled() => return Err(DownloadError::Cancelled),
            () = shared.moved.notified() => {}
            _ = tick.tick() => shared.tell_progress(),
        }
        let mut state = shared.state();
        if let Some(error) = state.failure.take() {
            return Err(error);
        }
        if state.is_complete() {
            return Ok(());
        }
    }
}

/// Ends all sources and waits for them, and for what is still being checked.
async fn stop_sources(shared: &Shared) {
    {
        let mut state = shared.state();
        state.over = true;
        state.sources.values().for_each(|source| source.token.cancel());
    }
    while !shared.state().sources.is_empty() {
        shared.moved.notified().await;
    }
    let all = u32::try_from(shared.config.checks.max(1)).unwrap_or(u32::MAX);
    let _ = shared.checks.acquire_many(all).await;
}

/// Syncs the file, gives it its name and takes it into the library: its path and length.
fn finish(shared: &Shared) -> Result<(PathBuf, u64), DownloadError> {
    let plan = shared.plan.get().expect("a download without a plan is not complete");
    let io = |source| DownloadError::io(&shared.shown, source);
    // Every chunk was checked against the root; this checks that the chunks were recorded as they were checked.
    if let Some(tree) = &plan.tree
        && tree.root().map_err(io)? != plan.info.root
    {
        return Err(io(io::Error::new(
            io::ErrorKind::InvalidData,
            "the tree file does not fold to the root",
        )));
    }
    let path = plan.part.finish().map_err(io)?;
    let path = register(shared, path, plan.info, plan.tree.as_ref())?;
    Ok((path, plan.info.length))
}

fn register(
    shared: &Shared,
    path: PathBuf,
    info: Info,
    tree: Option<&TreeWriter>,
) -> Result<PathBuf, DownloadError> {
    match shared.library.register(&path, info, tree) {
        Ok(_share) => Ok(path),
        Err(source) => Err(DownloadError::Register { path, source }),
    }
}

/// What a source says its hash is made of, checked as far as it can be without its data.
pub(crate) fn check_info(shared: &Shared, info: &Info) -> Result<(), SourceFault> {
    if info.hash() != shared.hash {
        return Err(SourceFault::WrongInfo);
    }
    // From here on it is the truth about the hash, whoever says it.
    if info.kind != Kind::File {
        shared.fail(DownloadError::Directory);
    }
    let (length, max) = (info.length, shared.config.max_length.min(crate::LENGTH_MAX));
    if length > max {
        shared.fail(DownloadError::TooLarge { length, max });
        return Err(SourceFault::TooLarge { length, max });
    }
    Ok(())
}
