//! Where the tasks of one download meet.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, OnceCell, Semaphore, watch};
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::buffer::RunBuffer;
use crate::destination::{Destination, Place};
use crate::disk;
use crate::download::DownloadConfig;
use crate::event::{DownloadError, DownloadEvent, Finished, Progress, SourceFault};
use crate::geometry::Run;
use crate::hash::{FileHash, Info};
use crate::library::Library;
use crate::merkle;
use crate::picker::{Picker, SourceId};
use crate::plan::Plan;
use crate::protocol::HAVE_CHUNKS_MAX;
use crate::report::{Events, Pace};

/// What the tasks of one download share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) library: Arc<Library>,
    pub(crate) hash: FileHash,
    pub(crate) config: DownloadConfig,
    /// The destination as it was given, for errors.
    pub(crate) shown: PathBuf,
    pub(crate) place: Place,
    /// A copy that is in the library already will do.
    pub(crate) reuse: bool,
    started: Instant,
    /// Opens when it is known that the file is not here; sources wait for it.
    pub(crate) gate: CancellationToken,
    /// The user wants no more.
    pub(crate) cancel: CancellationToken,
    /// Not for good: what is verified stays for another time.
    pub(crate) suspend: AtomicBool,
    /// Known as soon as one source proved what the hash is made of.
    pub(crate) plan: OnceCell<Arc<Plan>>,
    state: Mutex<State>,
    pub(crate) progress: watch::Sender<Progress>,
    /// Wakes sources that have nothing to do: there may be something to do again.
    pub(crate) work: Notify,
    /// Wakes the conductor.
    pub(crate) moved: Notify,
    pub(crate) events: Events,
    /// One permit for each run that is checked and written.
    pub(crate) checks: Arc<Semaphore>,
    /// Buffers that are not in use: never more than sources + checks.
    pub(crate) buffers: Mutex<Vec<RunBuffer>>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    picker: Option<Picker>,
    pub(crate) sources: BTreeMap<SourceId, Source>,
    next_source: u64,
    /// Sources that gave something.
    gave: BTreeSet<SourceId>,
    pub(crate) done: u64,
    pace: Pace,
    pub(crate) failure: Option<DownloadError>,
    /// There is no room on the disk: what it said. Nothing is asked for until the conductor has found room.
    pub(crate) full: Option<io::Error>,
    /// No source is taken, no event follows but the last.
    pub(crate) over: bool,
}

#[derive(Debug)]
pub(crate) struct Source {
    label: String,
    pub(crate) token: CancellationToken,
    failed: bool,
}

impl State {
    pub(crate) fn live(&self) -> usize {
        self.sources.values().filter(|source| !source.failed).count()
    }

    pub(crate) fn has_some(&self) -> bool {
        self.picker.as_ref().is_some_and(|picker| picker.held() > 0)
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.picker.as_ref().is_some_and(Picker::is_complete)
    }
}

impl Shared {
    /// # Errors
    ///
    /// When the destination cannot be used.
    pub(crate) fn new(
        library: Arc<Library>,
        hash: FileHash,
        destination: &Destination,
        config: DownloadConfig,
    ) -> Result<Arc<Self>, DownloadError> {
        let shown = match destination {
            Destination::Dir(path, _) | Destination::File(path) => path.clone(),
        };
        let place = Place::new(destination, &hash).map_err(|source| DownloadError::io(&shown, source))?;
        Ok(Arc::new(Self {
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
            suspend: AtomicBool::new(false),
            plan: OnceCell::new(),
            state: Mutex::new(State::default()),
            progress: watch::Sender::new(Progress::default()),
            work: Notify::new(),
            moved: Notify::new(),
            events: Events::default(),
            buffers: Mutex::new(Vec::new()),
        }))
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new source; no token when it is not to be used.
    pub(crate) fn admit(&self, label: String) -> (SourceId, Option<CancellationToken>) {
        let mut state = self.state();
        let id = SourceId(state.next_source);
        state.next_source += 1;
        if state.over {
            return (id, None);
        }
        if state.sources.len() >= self.config.max_sources {
            let fault = SourceFault::TooMany(self.config.max_sources);
            self.events.push(DownloadEvent::SourceFailed { label, fault });
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
            picker.forget(id);
        }
        if !state.over && !state.is_complete() {
            tracing::debug!(%label, %fault, hash = %self.hash.short(), "a source failed");
            self.events.push(DownloadEvent::SourceFailed { label, fault });
            if state.live() == 0 {
                self.events.push(DownloadEvent::NeedSource);
            }
        }
        drop(state);
        self.work.notify_waiters();
    }

    /// A source's task is at its end.
    pub(crate) fn leave(&self, id: SourceId) {
        let mut state = self.state();
        state.sources.remove(&id);
        if let Some(picker) = &mut state.picker {
            picker.forget(id);
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
            let plan = plan.map_err(|source| DownloadError::io(&self.shown, source));
            let (plan, held) = plan.flatten()?;
            let plan = Arc::new(plan);
            {
                let mut state = self.state();
                let chunks = (0..held.len()).filter(|chunk| held.get(*chunk));
                state.done =
                    chunks.filter_map(|chunk| plan.geometry.chunk(chunk)).map(|c| c.len() as u64).sum();
                // What was there before is no part of the rate.
                state.pace.begin_anew();
                state.picker = Some(Picker::resume(held, self.config.start.unwrap_or_else(anywhere)));
            }
            if let Some(running) = &plan.running {
                self.library.running.insert(Arc::clone(running));
            }
            self.moved.notify_one();
            Ok(plan)
        });
        match made.await {
            Ok(plan) => Some(Arc::clone(plan)),
            Err(error) => {
                self.fail(DownloadError::interrupted(error));
                None
            }
        }
    }

    /// Whether the download ends only for now.
    pub(crate) fn is_suspended(&self) -> bool {
        self.suspend.load(Ordering::Relaxed)
    }

    /// The chunk a source with `waiting` unanswered requests is to be asked for next.
    pub(crate) fn take(&self, id: SourceId, waiting: usize) -> Option<u64> {
        let mut state = self.state();
        let live = state.live() as u64;
        let usable = state.full.is_none() && state.sources.get(&id).is_some_and(|source| !source.failed);
        let picker = state.picker.as_mut().filter(|_| usable)?;
        // Near the end nobody takes more than a fair part of what is left, and only who is idle doubles.
        let fair = if live > 1 { (picker.missing() / live).max(1) } else { u64::MAX };
        let ends = picker.missing() == 0;
        if waiting as u64 >= fair || ends && waiting > 0 { None } else { picker.take(id) }
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.state().is_complete()
    }

    /// A source said which chunks from `first` on it has, one bit each: how many of them.
    pub(crate) fn has_part(&self, id: SourceId, first: u64, bits: &[u8]) -> u64 {
        let mut state = self.state();
        let usable = state.sources.get(&id).is_some_and(|source| !source.failed);
        let Some(picker) = state.picker.as_mut().filter(|_| usable) else { return 0 };
        picker.has_part(id, first, bits);
        picker.known_of(id, first, HAVE_CHUNKS_MAX)
    }

    /// A buffer that is not in use, or a new one.
    pub(crate) fn buffer(&self) -> RunBuffer {
        let free = self.buffers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        free.unwrap_or_else(RunBuffer::new)
    }

    pub(crate) fn put_back(&self, buffer: RunBuffer) {
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        buffers.push(buffer);
        debug_assert!(
            buffers.len() <= self.config.max_sources + self.config.checks.max(1),
            "buffers are bounded"
        );
    }

    /// Checks a run that a source sent and writes it. Blocks.
    pub(crate) fn check(&self, plan: &Plan, id: SourceId, run: Run, received: &RunBuffer) {
        {
            let mut state = self.state();
            if state.picker.as_ref().is_none_or(|picker| picker.has(run.chunk())) {
                return;
            }
            if state.full.is_some() {
                // It has to come again.
                if let Some(picker) = &mut state.picker {
                    picker.release(id);
                }
                return;
            }
        }
        let (proof, data) = (received.proof(), received.data());
        match merkle::verify_run(run, data, proof, &plan.info.root) {
            Ok(node) => match plan.write(run, data, &node, proof) {
                Ok(()) => {
                    if let Some(running) = &plan.running {
                        running.add(run.chunk());
                    }
                    self.completed(id, run);
                    if let Err(source) = plan.part.sync_some() {
                        self.fail(DownloadError::io(&self.shown, source));
                    }
                }
                Err(source) if disk::is_full(&source) => self.pause(id, source),
                Err(source) => self.fail(DownloadError::io(&self.shown, source).interrupted()),
            },
            Err(merkle::Mismatch) => {
                self.lose(id, SourceFault::Corrupt { first_block: run.first(), blocks: run.blocks() });
            }
        }
    }

    /// There was no room for a run of this source: it is missing again, and nothing is asked for until there is room.
    fn pause(&self, id: SourceId, source: io::Error) {
        let mut state = self.state();
        if let Some(picker) = &mut state.picker {
            picker.release(id);
        }
        state.full.get_or_insert(source);
        drop(state);
        self.moved.notify_one();
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

    pub(crate) fn tell_progress(&self) {
        let now = Instant::now();
        let mut state = self.state();
        let done = state.done;
        let rate = state.pace.at(now, done);
        let length = self.plan.get().map(|plan| plan.info.length);
        let progress = Progress { done, length, sources: state.live(), rate };
        drop(state);
        self.progress.send_if_modified(|old| {
            let modified = *old != progress;
            *old = progress;
            modified
        });
    }

    pub(crate) fn finished(&self, path: PathBuf, length: u64) -> Finished {
        let sources = self.state().gave.len();
        let ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        Finished { path, length, ms, sources }
    }
}

/// A number that differs from download to download; nobody's safety depends on it.
fn anywhere() -> u64 {
    RandomState::new().hash_one(())
}
