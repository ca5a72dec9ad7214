//! The task that carries the download of a folder from start to end.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::download::{FolderGoal, Shared};
use super::lend::Link;
use super::manifest::ManifestError;
use super::plan::{self, Job, Plan, Size};
use super::small;
use crate::destination::Destination;
use crate::download::{Download, DownloadConfig, DownloadHandle};
use crate::event::{DownloadError, DownloadEvent, Finished, SourceFault};
use crate::hash::{FileHash, Kind};

/// How often progress is told while it changes, and the rate brought up to date.
pub(super) const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// How long a source may take to send what it was asked for and nobody needs any more.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);

/// Large files whose places are found ahead of the one that is fetched.
const AHEAD: usize = 4;

/// Carries the download of a folder to its end.
pub(super) async fn conduct(shared: Arc<Shared>) {
    let mut conductor =
        Conductor { shared: Arc::clone(&shared), idle: Vec::new(), givers: BTreeSet::new(), gave: 0 };
    let end = match conductor.run().await {
        Ok(finished) => DownloadEvent::Finished(finished),
        Err(error) => DownloadEvent::Failed(error),
    };
    shared.tell_progress();
    shared.end(end);
}

/// How one file ended.
enum Outcome {
    Done,
    /// None of the sources has it.
    Nowhere,
}

pub(super) struct Conductor {
    pub(super) shared: Arc<Shared>,
    /// Sources that nobody uses just now.
    pub(super) idle: Vec<Link>,
    /// Sources that gave a small file.
    pub(super) givers: BTreeSet<u64>,
    /// Most sources that gave something of one large file.
    gave: usize,
}

impl Conductor {
    async fn run(&mut self) -> Result<Finished, DownloadError> {
        let shared = Arc::clone(&self.shared);
        let FolderGoal::Files { to, selection } = &shared.goal else {
            self.manifest().await?;
            let on_thread = Arc::clone(&shared);
            let listed = self.blocking(move || {
                plan::listed(&on_thread).inspect_err(|error| {
                    // Nothing that is refused is given to others.
                    if is_for_good(error) {
                        plan::drop_manifest(&on_thread);
                    }
                })
            });
            let (path, bytes) = listed.await?;
            return Ok(self.finished(path, bytes));
        };
        let (on_thread, to, selection) = (Arc::clone(&shared), to.clone(), selection.clone());
        let plan = self.blocking(move || Plan::begin(&on_thread, &to, selection)).await?;
        if let Some((path, bytes)) = plan.here() {
            return Ok(self.finished(path, bytes));
        }
        let plan = Arc::new(plan);
        let outcome = self.files(&plan).await.map_err(of_folder);
        let (done, stays) = (outcome.is_ok(), outcome.as_ref().is_err_and(|error| !is_for_good(error)));
        let on_thread = Arc::clone(&plan);
        let end = self.blocking(move || on_thread.end(done, stays)).await;
        outcome?;
        let (path, bytes) = end?;
        Ok(self.finished(path, bytes))
    }

    async fn files(&mut self, plan: &Arc<Plan>) -> Result<(), DownloadError> {
        self.manifest().await?;
        let on_thread = Arc::clone(plan);
        let (files, bytes) = self.blocking(move || on_thread.check()).await?;
        {
            let mut state = self.shared.state();
            (state.told.files, state.told.length) = (Some(files), Some(bytes));
        }
        // As often as somebody came who may have what nobody had before.
        loop {
            let again = plan.clone();
            self.shared.state().told.done = 0;
            self.shared.state().told.files_done = 0;
            let mut nowhere = small::fetch(self, &again).await?;
            nowhere += self.large(&again).await?;
            if nowhere == 0 {
                return Ok(());
            }
            tracing::debug!(nowhere, folder = %self.shared.hash.short(), "files that no source has");
            for link in self.idle.drain(..) {
                self.shared.lose(link.label, SourceFault::NotFound);
            }
            self.wait_for_source().await?;
        }
    }

    /// Fetches the manifest, unless it is here.
    async fn manifest(&mut self) -> Result<(), DownloadError> {
        let shared = Arc::clone(&self.shared);
        loop {
            let on_thread = Arc::clone(&shared);
            let Some(path) = self.blocking(move || plan::missing_manifest(&on_thread)).await? else {
                return Ok(());
            };
            let config = DownloadConfig { kind: Kind::Dir, ..shared.config.file.clone() };
            let config = DownloadConfig { max_length: super::MANIFEST_MAX, ..config };
            match self.one(shared.hash, Destination::File(path), config).await? {
                Outcome::Done => return Ok(()),
                Outcome::Nowhere => {
                    for link in self.idle.drain(..) {
                        shared.lose(link.label, SourceFault::NotFound);
                    }
                    self.wait_for_source().await?;
                }
            }
        }
    }

    /// Fetches the files above 1 MiB, one after another; returns how many no source has.
    async fn large(&mut self, plan: &Arc<Plan>) -> Result<u64, DownloadError> {
        let (tell, jobs) = mpsc::channel(AHEAD);
        let on_thread = Arc::clone(plan);
        let finding = spawn_blocking(move || on_thread.find(Size::Large, &tell));
        let fetched = self.each_large(plan, jobs).await;
        // It ends when nobody listens, and has the last word only if nothing else was wrong.
        let found = finding.await;
        let nowhere = fetched?;
        self.joined(found).map(|()| nowhere)
    }

    async fn each_large(
        &mut self,
        plan: &Arc<Plan>,
        mut jobs: mpsc::Receiver<Job>,
    ) -> Result<u64, DownloadError> {
        let shared = Arc::clone(&self.shared);
        let mut nowhere = 0;
        loop {
            let job = tokio::select! {
                () = shared.cancel.cancelled() => return Err(ended(&shared)),
                job = jobs.recv() => job,
            };
            let Some(Job { hash, length, spot, .. }) = job else { return Ok(nowhere) };
            let on_thread = Arc::clone(plan);
            let executable = spot.executable;
            let to = self.blocking(move || on_thread.free(&spot)).await?;
            let config =
                DownloadConfig { executable, length: Some(length), ..self.shared.config.file.clone() };
            match self.one(hash, Destination::File(to), config).await? {
                Outcome::Done => self.shared.completed(1, length),
                Outcome::Nowhere => nowhere += 1,
            }
        }
    }

    /// Fetches one file from all sources, old and new.
    async fn one(
        &mut self,
        hash: FileHash,
        to: Destination,
        config: DownloadConfig,
    ) -> Result<Outcome, DownloadError> {
        let shared = Arc::clone(&self.shared);
        // As many as it takes: whoever fails and is replaced gives the place back first.
        let (back, returned) = mpsc::channel(config.max_sources.max(1));
        let download = Download::start(Arc::clone(&shared.library), hash, to, config)?;
        let mut lending = Lending {
            download,
            back,
            returned,
            out: BTreeMap::new(),
            home: Vec::new(),
            lacking: 0,
            dead: BTreeSet::new(),
            stopped: false,
        };
        let outcome = self.follow(&mut lending).await;
        self.shared.state().partial = 0;
        self.end_lending(lending).await;
        outcome
    }

    async fn follow(&mut self, lending: &mut Lending) -> Result<Outcome, DownloadError> {
        let shared = Arc::clone(&self.shared);
        let mut progress = lending.download.progress();
        let mut tick = interval(PROGRESS_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut nowhere = false;
        loop {
            let new = self.take_incoming();
            self.idle.extend(new);
            while let Some(link) = self.idle.pop() {
                if let Some(link) = lending.lend(link) {
                    self.idle.push(link);
                    break;
                }
            }
            tokio::select! {
                () = shared.cancel.cancelled(), if !lending.stopped => lending.stop(shared.is_suspended()),
                () = shared.came.notified() => {}
                Some(link) = lending.returned.recv() => lending.take_home(link),
                _ = tick.tick() => {
                    shared.state().partial = progress.borrow_and_update().done;
                    shared.tell_progress();
                }
                event = lending.download.next_event() => match event {
                    Some(DownloadEvent::Finished(finished)) => {
                        self.gave = self.gave.max(finished.sources);
                        return Ok(Outcome::Done);
                    }
                    Some(DownloadEvent::Failed(DownloadError::Suspended)) if nowhere => return Ok(Outcome::Nowhere),
                    Some(DownloadEvent::Failed(error)) => return Err(error),
                    Some(DownloadEvent::SourceFailed { label, fault }) => lending.failed(&label, fault, &shared),
                    // Those that are left do not have it.
                    Some(DownloadEvent::NeedSource) if lending.lacks() => {
                        nowhere = true;
                        lending.stop(true);
                    }
                    Some(DownloadEvent::NeedSource) => {}
                    Some(event @ (DownloadEvent::Paused { .. } | DownloadEvent::Resumed)) => shared.tell(event),
                    None => return Err(DownloadError::Cancelled),
                },
            }
        }
    }

    /// Takes the sources back, unless nothing follows: one that says nothing would be waited for.
    async fn end_lending(&mut self, lending: Lending) {
        let shared = Arc::clone(&self.shared);
        tokio::select! {
            () = shared.cancel.cancelled() => {}
            () = self.take_back(lending) => {}
        }
    }

    /// Waits until every source is given back and read empty; one that is not is lost.
    async fn take_back(&mut self, mut lending: Lending) {
        while !lending.out.is_empty() {
            match timeout(SETTLE_TIMEOUT, lending.returned.recv()).await {
                Ok(Some(link)) => lending.take_home(link),
                _ => break,
            }
        }
        for (id, label) in lending.out {
            if !lending.dead.contains(&id) {
                self.shared.lose(label, SourceFault::Stalled(SETTLE_TIMEOUT));
            }
        }
        let mut settling = tokio::task::JoinSet::new();
        for mut link in lending.home {
            settling.spawn(async move {
                let settled = timeout(SETTLE_TIMEOUT, link.settle()).await;
                (link, settled.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())))
            });
        }
        while let Some(settled) = settling.join_next().await {
            match settled {
                Ok((link, Ok(()))) => self.idle.push(link),
                Ok((link, Err(error))) => self.shared.lose(link.label, SourceFault::Io(error.kind())),
                Err(_) => {}
            }
        }
    }
}

impl Conductor {
    /// Sources that came since it was asked last.
    pub(super) fn take_incoming(&self) -> Vec<Link> {
        self.shared.state().incoming.drain(..).collect()
    }

    /// Waits until there is a source.
    async fn wait_for_source(&mut self) -> Result<(), DownloadError> {
        let shared = Arc::clone(&self.shared);
        let mut tick = interval(PROGRESS_EVERY);
        loop {
            let new = self.take_incoming();
            self.idle.extend(new);
            if !self.idle.is_empty() {
                return Ok(());
            }
            tokio::select! {
                () = shared.cancel.cancelled() => return Err(ended(&shared)),
                () = shared.came.notified() => {}
                _ = tick.tick() => shared.tell_progress(),
            }
        }
    }

    /// Does something on a blocking thread.
    async fn blocking<T: Send + 'static>(
        &mut self,
        work: impl FnOnce() -> Result<T, DownloadError> + Send + 'static,
    ) -> Result<T, DownloadError> {
        let result = spawn_blocking(work).await;
        self.joined(result)
    }

    /// What a blocking thread had to say.
    pub(super) fn joined<T>(
        &self,
        result: Result<Result<T, DownloadError>, JoinError>,
    ) -> Result<T, DownloadError> {
        result.unwrap_or_else(|panic| Err(DownloadError::io(self.shared.shown(), io::Error::other(panic))))
    }

    fn finished(&self, path: PathBuf, length: u64) -> Finished {
        let ms = u64::try_from(self.shared.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        Finished { path, length, ms, sources: self.gave.max(self.givers.len()) }
    }
}

/// What the user said.
pub(super) fn ended(shared: &Shared) -> DownloadError {
    if shared.is_suspended() { DownloadError::Suspended } else { DownloadError::Cancelled }
}

/// Whether the folder is not to be had, or not wanted. Anything else may be otherwise another time, and what is here of
/// it stays for that.
const fn is_for_good(error: &DownloadError) -> bool {
    match error {
        DownloadError::Manifest(error) => !matches!(error, ManifestError::Io(_)),
        DownloadError::Cancelled
        | DownloadError::Directory
        | DownloadError::NotDirectory
        | DownloadError::NoSuchPath { .. }
        | DownloadError::Selection(_)
        | DownloadError::TooLarge { .. }
        | DownloadError::WrongLength { .. } => true,
        _ => false,
    }
}

/// What the disk did to one file, of the folder that it is in: it goes on from what is here.
fn of_folder(error: DownloadError) -> DownloadError {
    match error {
        DownloadError::Register { path, source } => {
            DownloadError::Interrupted { path, source: io::Error::other(source) }
        }
        other => other.interrupted(),
    }
}

/// One file's download, and the sources that are lent to it.
struct Lending {
    download: DownloadHandle,
    back: mpsc::Sender<Link>,
    returned: mpsc::Receiver<Link>,
    /// What the sources that are lent are called.
    out: BTreeMap<u64, String>,
    /// Those that came back and can be used for other files.
    home: Vec<Link>,
    /// How many said that they do not have this file; they may have others.
    lacking: usize,
    /// Those that are not used again.
    dead: BTreeSet<u64>,
    stopped: bool,
}

impl Lending {
    /// Lends a source to the download; gives it back while as many are out as there may be.
    fn lend(&mut self, link: Link) -> Option<Link> {
        // With a place kept for its return none is ever lost on the way back.
        let Ok(place) = self.back.clone().try_reserve_owned() else { return Some(link) };
        self.out.insert(link.id, link.label.clone());
        let (id, limit) = (link.id.to_string(), link.limit.clone());
        self.download.add_limited_source(id, link.lend(place), limit);
        None
    }

    fn take_home(&mut self, link: Link) {
        self.out.remove(&link.id);
        if !self.dead.contains(&link.id) {
            self.home.push(link);
        }
    }

    fn failed(&mut self, id: &str, fault: SourceFault, shared: &Shared) {
        let Ok(id) = id.parse() else { return };
        if matches!(fault, SourceFault::NotFound | SourceFault::Changed) {
            self.lacking += 1;
            return;
        }
        // It may have come back before its fault was told.
        let home = self.home.iter().position(|link| link.id == id).map(|at| self.home.swap_remove(at).label);
        if let Some(label) = home.or_else(|| self.out.get(&id).cloned()) {
            self.dead.insert(id);
            shared.lose(label, fault);
        }
    }

    /// Whether some of the sources are left that do not have the file.
    const fn lacks(&self) -> bool {
        self.lacking > 0
    }

    fn stop(&mut self, for_now: bool) {
        self.stopped = true;
        if for_now {
            self.download.suspend();
        } else {
            self.download.cancel();
        }
    }
}
