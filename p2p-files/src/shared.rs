//! Where the tasks of one download meet.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OnceCell, Semaphore, watch};
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::bitfield::Bitfield;
use crate::buffer::RunBuffer;
use crate::disk;
use crate::download::DownloadConfig;
use crate::event::{DownloadError, DownloadEvent, Finished, Progress, SourceFault};
use crate::geometry::{CHUNK, Geometry, Run};
use crate::hash::{FileHash, Info};
use crate::journal::Journal;
use crate::library::Library;
use crate::merkle;
use crate::part::{Destination, PartFile, Place};
use crate::picker::{Picker, SourceId};
use crate::protocol::HAVE_CHUNKS_MAX;
use crate::running::RunningPart;

/// Events that wait to be read; beyond that the oldest is dropped and logged.
const EVENTS_MAX: usize = 256;

/// Room that is left beside a file, or the twentieth part of it if that is less: for its tree, the index, other files.
const SPARE: u64 = 64 << 20;

/// The time over which the rate is an average.
const RATE_OVER: Duration = Duration::from_secs(3);

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
    /// Wakes whoever waits for an event.
    pub(crate) happened: Notify,
    /// One permit for each run that is checked and written.
    pub(crate) checks: Arc<Semaphore>,
    /// Buffers that are not in use: never more than sources + checks.
    pub(crate) buffers: Mutex<Vec<RunBuffer>>,
}

/// What is fetched, and where it is written.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) info: Info,
    pub(crate) geometry: Geometry,
    pub(crate) part: PartFile,
    /// For a content of more than one chunk.
    pub(crate) journal: Option<Journal>,
    /// What others may have of it meanwhile; for a content of more than one chunk.
    pub(crate) running: Option<Arc<RunningPart>>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    picker: Option<Picker>,
    pub(crate) sources: BTreeMap<SourceId, Source>,
    next_source: u64,
    /// Sources that gave something.
    gave: BTreeSet<SourceId>,
    done: u64,
    /// Times and bytes done, for the rate.
    samples: VecDeque<(Instant, u64)>,
    events: VecDeque<DownloadEvent>,
    pub(crate) failure: Option<DownloadError>,
    /// There is no room on the disk: what it said. Nothing is asked for until the conductor has found room.
    pub(crate) full: Option<io::Error>,
    /// No source is taken, no event follows but the last.
    pub(crate) over: bool,
    /// The last event was taken.
    told: bool,
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

    pub(crate) fn push(&mut self, event: DownloadEvent) {
        if self.events.len() >= EVENTS_MAX {
            let dropped = self.events.pop_front();
            tracing::warn!(?dropped, "nobody reads the events of a download");
        }
        self.events.push_back(event);
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
            happened: Notify::new(),
            buffers: Mutex::new(Vec::new()),
        }))
    }

    /// See [`DownloadHandle::next_event`](crate::DownloadHandle::next_event).
    pub(crate) async fn next_event(&self) -> Option<DownloadEvent> {
        loop {
            let happened = self.happened.notified();
            {
                let mut state = self.state();
                if let Some(event) = state.events.pop_front() {
                    if matches!(event, DownloadEvent::Finished(_) | DownloadEvent::Failed(_)) {
                        state.told = true;
                        // Another task may wait for the end as well.
                        self.happened.notify_waiters();
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
            picker.forget(id);
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
                state.samples.clear();
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
                self.fail(error);
                None
            }
        }
    }

    /// What an earlier try left, or a new part-file; and which chunks are in it.
    pub(crate) fn make_plan(&self, info: Info) -> Result<(Plan, Bitfield), DownloadError> {
        let io = |source| DownloadError::io(&self.shown, source);
        if let Some(left) = self.plan_of_left(info).map_err(io)? {
            return Ok(left);
        }
        self.check_room(info.length)?;
        self.new_plan(info).map_err(io)
    }

    /// Whether there is room for a file that was not begun yet.
    pub(crate) fn check_room(&self, length: u64) -> Result<(), DownloadError> {
        let needed = length.saturating_add(SPARE.min(length / 20));
        match disk::free_space(&self.place.dir) {
            Ok(free) if free < needed => {
                Err(DownloadError::NoRoom { path: self.shown.clone(), needed, free })
            }
            Ok(_) => Ok(()),
            Err(error) => {
                tracing::debug!(%error, "how much room there is cannot be said");
                Ok(())
            }
        }
    }

    /// Whether there is room to go on after the disk was full.
    pub(crate) fn has_room(&self) -> bool {
        let missing = self.plan.get().map_or(0, |plan| plan.info.length).saturating_sub(self.state().done);
        let free = |dir: &Path| disk::free_space(dir).unwrap_or(u64::MAX);
        free(&self.place.dir) >= missing.clamp(CHUNK as u64, SPARE)
            && free(&self.library.trees) >= CHUNK as u64
    }

    fn plan_of_left(&self, info: Info) -> io::Result<Option<(Plan, Bitfield)>> {
        let geometry = Geometry::new(info.length).ok_or(io::ErrorKind::FileTooLarge)?;
        let path = self.library.journal_path(&self.hash, &self.place.part_path(&self.hash));
        let Some(mut part) = PartFile::left(self.place.clone(), &self.hash)? else { return Ok(None) };
        let resumed = Journal::resume(&path, info, &part, || self.cancel.is_cancelled())?;
        let Some((journal, held)) = resumed else { return Ok(None) };
        part.past_the_cache(info.length);
        plan_with(info, geometry, part, Some(journal), held).map(Some)
    }

    fn new_plan(&self, info: Info) -> io::Result<(Plan, Bitfield)> {
        let geometry = Geometry::new(info.length).ok_or(io::ErrorKind::FileTooLarge)?;
        let path = self.library.journal_path(&self.hash, &self.place.part_path(&self.hash));
        let mut part = PartFile::create(self.place.clone(), &self.hash)?;
        let mut journal = None;
        if geometry.chunks() > 1 {
            part.stay(info.length)?;
            part.past_the_cache(info.length);
            journal = Some(Journal::create(&path, info, &part).inspect_err(|_| part.discard())?);
        }
        plan_with(info, geometry, part, journal, Bitfield::new(geometry.chunks()))
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
                }
                Err(source) if disk::is_full(&source) => self.pause(id, source),
                Err(source) => self.fail(DownloadError::io(&self.shown, source)),
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

/// The plan of a download that holds these chunks.
fn plan_with(
    info: Info,
    geometry: Geometry,
    part: PartFile,
    journal: Option<Journal>,
    held: Bitfield,
) -> io::Result<(Plan, Bitfield)> {
    let mut running = None;
    if let Some(journal) = &journal {
        // Opened anew: the lock of the part-file is not to last as long as somebody reads it.
        let (file, tree) = (File::open(part.path())?, journal.reader(geometry)?);
        running = Some(Arc::new(RunningPart::new(info, geometry, file, tree, held.clone())));
    }
    Ok((Plan { info, geometry, part, journal, running }, held))
}

impl Plan {
    pub(crate) fn write(&self, run: Run, data: &[u8], node: &merkle::Digest, proof: &[u8]) -> io::Result<()> {
        self.part.write_at(data, run.offset())?;
        let (proof, _) = proof.as_chunks();
        self.journal.as_ref().map_or(Ok(()), |journal| journal.put(run, node, proof))
    }

    /// Lets another download go on here.
    pub(crate) fn leave(&self) {
        self.part.leave();
    }

    pub(crate) fn discard(&self) {
        self.part.discard();
        if let Some(journal) = &self.journal {
            journal.tree.discard();
        }
    }
}
