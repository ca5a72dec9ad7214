//! The task that carries a download from start to end.

use std::fs::{File, Metadata};
use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::task::spawn_blocking;

use crate::buffer::PageBuffer;
use crate::disk;
use crate::event::{DownloadError, DownloadEvent, Finished};
use crate::folder::make_executable;
use crate::geometry::{CHUNK, Geometry};
use crate::hash::{HASH_LEN, Info};
use crate::journal::JournalRecord;
use crate::merkle;
use crate::open::{OpenShare, ReadError};
use crate::part::PartFile;
use crate::plan::Plan;
use crate::shared::Shared;
use crate::tree::{TreeWriter, file_len};

/// How often progress is told while it changes, and the rate brought up to date.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// While the disk is full, it is looked this often whether there is room.
const LOOK_FOR_ROOM_EVERY: Duration = Duration::from_secs(1);

/// Carries one download to its end.
pub(crate) async fn conduct(shared: Arc<Shared>) {
    let outcome = run(&shared).await;
    stop_sources(&shared).await;
    if let Some(running) = shared.plan.get().and_then(|plan| plan.running.as_ref()) {
        // A finished file is in the index by now.
        shared.library.running.remove(running);
    }
    if let (Err(error), Some(plan)) = (&outcome, shared.plan.get().cloned()) {
        // The error itself goes to the user.
        let (stays, has_some) = (stays(error), shared.state().has_some());
        let _ = spawn_blocking(move || let_go(&plan, stays && has_some)).await;
    }
    shared.buffers.lock().unwrap_or_else(PoisonError::into_inner).clear();
    shared.tell_progress();
    shared.events.push(outcome.map_or_else(DownloadEvent::Failed, DownloadEvent::Finished));
}

/// Whether what is verified stays for another time.
pub(crate) const fn stays(error: &DownloadError) -> bool {
    // One that only could not be entered in the index is known by its journal.
    matches!(
        error,
        DownloadError::Suspended | DownloadError::Interrupted { .. } | DownloadError::Register { .. }
    )
}

/// Leaves the part-file and its journal to another download, or removes them; always when a sync failed.
pub(crate) fn let_go(plan: &Plan, stays: bool) {
    if stays && !plan.part.is_lost() { plan.leave() } else { plan.discard() }
}

async fn run(shared: &Arc<Shared>) -> Result<Finished, DownloadError> {
    if let Some((path, length)) = blocking(shared, local).await? {
        return Ok(shared.finished(path, length));
    }
    fetch(shared).await?;
    stop_sources(shared).await;
    blocking(shared, sync).await?;
    loop {
        match blocking(shared, finish).await {
            Err(DownloadError::Io { source, .. }) if disk::is_full(&source) => {
                wait_for_room(shared, source).await?
            }
            // Where the folder is gone there is nothing left.
            Err(DownloadError::Io { path, source }) if source.kind() == io::ErrorKind::NotFound => {
                return Err(DownloadError::Io { path, source });
            }
            Err(error) => return Err(error.interrupted()),
            Ok((path, length)) => return Ok(shared.finished(path, length)),
        }
    }
}

/// Waits until there is room on the disk, and says so before and after.
pub(crate) async fn wait_for_room(shared: &Arc<Shared>, source: io::Error) -> Result<(), DownloadError> {
    let path = shared.shown.clone();
    tracing::warn!(path = %path.display(), %source, "no room; the download waits");
    shared.events.push(DownloadEvent::Paused { path, source });
    let mut tick = tokio::time::interval(LOOK_FOR_ROOM_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    tick.reset();
    loop {
        tokio::select! {
            () = shared.cancel.cancelled() => return Err(ended(shared)),
            _ = tick.tick() => shared.tell_progress(),
        }
        if blocking(shared, |shared| Ok(shared.has_room())).await? {
            shared.events.push(DownloadEvent::Resumed);
            return Ok(());
        }
    }
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
pub(crate) fn local(shared: &Shared) -> Result<Option<(PathBuf, u64)>, DownloadError> {
    let opened = shared.library.open_share(&shared.hash).unwrap_or_else(|error| {
        tracing::warn!(%error, "looking for the file in the library");
        None
    });
    let Some(share) = opened else { return Ok(finished_before(shared)) };
    let length = share.record.info.length;
    if let Some(said) = shared.config.length.filter(|said| *said != length) {
        return Err(DownloadError::WrongLength { said, length });
    }
    if shared.reuse {
        return Ok(Some((share.path, length)));
    }
    Ok(copy(shared, &share)?.map(|path| (path, length)))
}

/// A file that an earlier try gave its name, and was killed before it was in the index.
fn finished_before(shared: &Shared) -> Option<(PathBuf, u64)> {
    let (library, hash) = (&shared.library, &shared.hash);
    let part = shared.place.part_path(hash);
    let journal = library.journal_path(hash, &part);
    let record = File::open(&journal).ok().and_then(|file| JournalRecord::read(&file).ok()?);
    let tree = std::fs::metadata(library.tree_path(hash)).ok();
    let is_it = |there: &Metadata| {
        let fits =
            |tree: &Metadata| Geometry::new(there.len()).is_some_and(|g| tree.len() == file_len(g.chunks()));
        there.is_file()
            && (record.as_ref().is_some_and(|r| r.is_part(there)) || tree.as_ref().is_some_and(fits))
    };
    if record.is_none() && tree.is_none() {
        return None;
    }
    for candidate in shared.place.candidates() {
        let there = std::fs::symlink_metadata(&candidate).ok()?;
        if !is_it(&there) {
            continue;
        }
        let until_cancelled = |_, _| match shared.cancel.is_cancelled() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        };
        let kind = shared.config.kind;
        if let Ok(Some(share)) = library.adopt(&candidate, kind, hash, Some(&part), until_cancelled) {
            let _ = disk::remove_file(&journal);
            let _ = disk::remove_file(&TreeWriter::copy_path(&journal));
            return Some((share.path, share.info.length));
        }
    }
    None
}

/// A verified copy of a shared file; `None` when it turns out to have changed.
fn copy(shared: &Shared, share: &OpenShare) -> Result<Option<PathBuf>, DownloadError> {
    let io = |source| DownloadError::io(&shared.shown, source);
    let info = share.record.info;
    shared.check_room(info.length)?;
    let part = PartFile::create(shared.place.clone(), &shared.hash).map_err(io)?;
    let mut buffer = PageBuffer::new(CHUNK);
    for run in (0..share.geometry.chunks()).map_while(|index| share.geometry.chunk(index)) {
        if shared.cancel.is_cancelled() {
            return Err(ended(shared));
        }
        let data = buffer.room(run.len());
        let mut proof = vec![0; run.proof_len() * HASH_LEN];
        match share.read(run, &mut proof, data) {
            Ok(()) if merkle::verify_run(run, data, &proof, &info.root).is_ok() => {
                part.write_at(data, run.offset()).and_then(|()| part.sync_some()).map_err(io)?;
            }
            Ok(()) | Err(ReadError::Changed | ReadError::NotHeld) => {
                shared.library.mark_gone(&share.path, &share.record);
                return Ok(None);
            }
            Err(ReadError::Io(error)) => {
                tracing::warn!(%error, "copying a shared file");
                return Ok(None);
            }
        }
    }
    if shared.config.executable {
        make_executable(part.file()).map_err(io)?;
    }
    part.sync().map_err(io)?;
    let path = part.finish().map_err(io)?;
    register(shared, path, info, None).map(Some)
}

/// Opens the gate for sources and waits until all chunks are written, or the reason why not.
async fn fetch(shared: &Arc<Shared>) -> Result<(), DownloadError> {
    shared.gate.cancel();
    let mut tick = tokio::time::interval(PROGRESS_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shared.cancel.cancelled() => return Err(ended(shared)),
            () = shared.moved.notified() => {}
            _ = tick.tick() => shared.tell_progress(),
        }
        let full = shared.state().full.as_ref().map(|source| io::Error::from(source.kind()));
        if let Some(source) = full {
            wait_for_room(shared, source).await?;
            shared.state().full = None;
            shared.work.notify_waiters();
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

/// What the user said.
fn ended(shared: &Shared) -> DownloadError {
    if shared.is_suspended() { DownloadError::Suspended } else { DownloadError::Cancelled }
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

/// Makes what was written durable, once.
pub(crate) fn sync(shared: &Shared) -> Result<(), DownloadError> {
    let plan = shared.plan.get().expect("a download without a plan is not complete");
    let io = |source| DownloadError::io(&shared.shown, source);
    // Every chunk was checked against the root; this checks that the chunks were recorded as they were checked.
    if let Some(journal) = &plan.journal
        && journal.tree.root().map_err(io)? != plan.info.root
    {
        return Err(io(io::Error::new(
            io::ErrorKind::InvalidData,
            "the tree file does not fold to the root",
        )));
    }
    if shared.config.executable {
        make_executable(plan.part.file()).map_err(io)?;
    }
    plan.part.sync().map_err(io)
}

/// Gives the file its name and takes it into the library: its path and length. May be tried again.
pub(crate) fn finish(shared: &Shared) -> Result<(PathBuf, u64), DownloadError> {
    let plan = shared.plan.get().expect("a download without a plan is not complete");
    let path = plan.part.finish().map_err(|source| DownloadError::io(&shared.shown, source))?;
    let tree = plan.journal.as_ref().map(|journal| &journal.tree);
    let path = register(shared, path, plan.info, tree)?;
    // Not before: until the file is in the index, the journal is what knows that it is here.
    if let Some(journal) = tree {
        journal.discard();
    }
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
