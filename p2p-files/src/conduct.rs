//! The task that carries a download from start to end.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::task::spawn_blocking;

use crate::event::{DownloadError, DownloadEvent, Finished};
use crate::geometry::CHUNK;
use crate::hash::{HASH_LEN, Info};
use crate::merkle;
use crate::open::{OpenShare, ReadError};
use crate::part::PartFile;
use crate::shared::Shared;
use crate::tree::TreeWriter;

/// How often progress is told while it changes, and the rate brought up to date.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// Carries one download to its end.
pub(crate) async fn conduct(shared: Arc<Shared>) {
    let outcome = run(&shared).await;
    stop_sources(&shared).await;
    if let (Err(error), Some(plan)) = (&outcome, shared.plan.get().cloned()) {
        let stays = matches!(error, DownloadError::Suspended | DownloadError::Interrupted { .. })
            && shared.state().has_some();
        let _ = spawn_blocking(move || if stays { plan.leave() } else { plan.discard() }).await;
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
            return Err(ended(shared));
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
    shared.gate.cancel();
    let mut tick = tokio::time::interval(PROGRESS_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shared.cancel.cancelled() => return Err(ended(shared)),
            () = shared.moved.notified() => {}
            _ = tick.tick() => shared.tell_progress(),
        }
        let mut state = shared.state();
        if let Some(error) = state.failure.take() {
            return Err(error.interrupted());
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

/// Syncs the file, gives it its name and takes it into the library: its path and length.
fn finish(shared: &Shared) -> Result<(PathBuf, u64), DownloadError> {
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
    let path = plan.part.finish().map_err(io)?;
    let path = register(shared, path, plan.info, plan.journal.as_ref().map(|journal| &journal.tree))?;
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
