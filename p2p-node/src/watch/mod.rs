//! Keeps what is shared up to date with the disk while the node runs: the content folder, shared folders, and shared files
//! elsewhere.
//!
//! The system tells what changes (`notify`: inotify, FSEvents, ReadDirectoryChangesW); `pending.rs` says when to look; the
//! library does the rest. What the system does not tell, because it lost count or the file system is a remote one, is found
//! by `refresh`, and in any case when the file is asked for.

mod pending;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use p2p_files::{LibraryError, Refreshed};
use tokio::sync::Notify;
use tokio::time::sleep_until;

use self::pending::{Pending, QUIET, Work};
use crate::event::Event;
use crate::shared::Shared;
use crate::start::causes;

/// Shared files outside the content folder that are watched; the others are looked at when they are asked for.
const MAX_ELSEWHERE: usize = 10_000;
/// Shared folders that are watched with all that is in them; with more, everything is looked through now and then.
const MAX_FOLDERS: usize = 1_000;
/// Where the system does not tell of changes, everything is looked through this often.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// After an index that could not be written (a full disk), it is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(10);
/// Files of which it was told that they cannot be shared, so that it is not told again.
const MAX_TOLD: usize = 1024;
/// Files that a notice names; more are counted.
const NAMED: usize = 3;

/// What the watcher of a node hears, and what it is told to watch.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    pending: Mutex<Pending>,
    /// Rung when there may be something to look at sooner than before.
    bell: Notify,
    /// Shared files outside the content folder.
    elsewhere: Mutex<BTreeSet<PathBuf>>,
    /// Shared folders.
    folders: Mutex<BTreeSet<PathBuf>>,
    /// Some of what is shared the system does not tell of.
    blind: AtomicBool,
    watcher: Mutex<Option<RecommendedWatcher>>,
}

impl Watch {
    /// Watches a file outside the content folder, if there is a watcher.
    pub(crate) fn also(&self, path: &Path) {
        let Some(folder) = path.parent() else { return };
        // Watched with its folder, and a second watch there would tell of less.
        if lock(&self.folders).iter().any(|folder| path.starts_with(folder)) {
            return;
        }
        {
            let mut elsewhere = lock(&self.elsewhere);
            if elsewhere.len() >= MAX_ELSEWHERE || !elsewhere.insert(path.to_path_buf()) {
                return;
            }
            // Not under the lock: the watcher's own thread wants it for an event.
        }
        if let Some(watcher) = &mut *lock(&self.watcher)
            && let Err(error) = watcher.watch(folder, RecursiveMode::NonRecursive)
        {
            tracing::debug!(folder = %folder.display(), %error, "not watched");
        }
    }

    /// Watches a shared folder with all that is in it, if there is a watcher; why it can't, otherwise.
    pub(crate) fn also_folder(&self, path: &Path) -> Result<(), String> {
        if lock(&self.watcher).is_none() {
            return Ok(());
        }
        {
            let mut folders = lock(&self.folders);
            if !folders.contains(path) && folders.len() >= MAX_FOLDERS {
                self.look_now_and_then();
                return Err(format!("{}: {MAX_FOLDERS} folders are watched already", path.display()));
            }
            folders.insert(path.to_path_buf());
        }
        if let Some(watcher) = &mut *lock(&self.watcher) {
            watcher.watch(path, RecursiveMode::Recursive).map_err(|error| {
                self.look_now_and_then();
                format!("{}: {error}", path.display())
            })?;
        }
        Ok(())
    }

    fn look_now_and_then(&self) {
        self.blind.store(true, Relaxed);
        self.bell.notify_one();
    }

    fn heard(&self, content: &Path, event: notify::Result<notify::Event>) {
        let now = Instant::now();
        let event = match event {
            Ok(event) if !event.need_rescan() => event,
            lost => {
                tracing::debug!(?lost, "changes were missed");
                lock(&self.pending).note_everything(now);
                self.bell.notify_one();
                return;
            }
        };
        match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => {}
            EventKind::Access(_) => return,
            _ => {}
        }
        for path in event.paths {
            if self.concerns(content, &path) && lock(&self.pending).note(now, path) {
                self.bell.notify_one();
            }
        }
    }

    fn concerns(&self, content: &Path, path: &Path) -> bool {
        is_shown_in(path, content)
            || lock(&self.elsewhere).contains(path)
            || lock(&self.folders).iter().any(|folder| is_shown_in(path, folder))
    }
}

/// Whether a path lies in a folder, or is it, and no name on the way is hidden.
fn is_shown_in(path: &Path, folder: &Path) -> bool {
    let below = path.strip_prefix(folder);
    below.is_ok_and(|below| !below.iter().any(|name| name.as_encoded_bytes().starts_with(b".")))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Watches until the node stops.
pub(crate) async fn run(shared: Arc<Shared>) {
    let told = {
        let shared = Arc::clone(&shared);
        tokio::task::spawn_blocking(move || begin(&shared)).await
    };
    match told {
        Ok(Ok(())) => {}
        Ok(Err(why)) => {
            shared.watch.blind.store(true, Relaxed);
            tell_blind(&shared, &why);
        }
        Err(_) => return,
    }
    let mut keeper = Keeper { shared: &shared, told: BTreeSet::new(), failing: false };
    // What changed while the node did not run.
    lock(&shared.watch.pending).look_now(Instant::now());
    loop {
        let deadline = lock(&shared.watch.pending).deadline();
        let blind = shared.watch.blind.load(Relaxed);
        let due = deadline.or_else(|| blind.then(|| Instant::now() + LOOK_EVERY));
        tokio::select! {
            () = shared.stop.cancelled() => break,
            () = shared.watch.bell.notified() => continue,
            () = sleep_until(due.unwrap_or_else(Instant::now).into()), if due.is_some() => {}
        }
        let work = lock(&shared.watch.pending).take(Instant::now());
        match work {
            Work::Nothing if deadline.is_none() => keeper.look_at(None).await,
            Work::Nothing => {}
            Work::Everything => keeper.look_at(None).await,
            Work::Paths(paths) => keeper.look_at(Some(paths)).await,
        }
    }
    // Its thread holds what the events go to.
    let watcher = lock(&shared.watch.watcher).take();
    drop(tokio::task::spawn_blocking(move || drop(watcher)).await);
}

/// Tells that changes of something are found late.
pub(crate) fn tell_blind(shared: &Shared, why: &str) {
    let every = LOOK_EVERY.as_secs();
    let text =
        format!("changes on disk are not told: {why}; what is shared is looked through every {every} s");
    tracing::warn!("{text}");
    shared.events.publish(Event::Warning(text));
}

/// Begins to watch; what could not be watched.
fn begin(shared: &Arc<Shared>) -> Result<(), String> {
    let content = &shared.content_dir;
    let at_content = |what: &dyn std::fmt::Display| format!("{}: {what}", content.display());
    std::fs::create_dir_all(content).map_err(|error| at_content(&error))?;
    let real = std::fs::canonicalize(content).map_err(|error| at_content(&error))?;
    let (watch, root) = (Arc::downgrade(shared), real.clone());
    let config = notify::Config::default().with_follow_symlinks(false);
    let heard = move |event| {
        if let Some(shared) = watch.upgrade() {
            shared.watch.heard(&root, event);
        }
    };
    let mut watcher = RecommendedWatcher::new(heard, config).map_err(|error| error.to_string())?;
    let mut result = watcher.watch(&real, RecursiveMode::Recursive).map_err(|error| at_content(&error));
    *lock(&shared.watch.watcher) = Some(watcher);
    // One that is in the content folder is watched with that.
    let folders = shared.library.followed_folders().map_err(|error| error.to_string())?;
    for folder in folders.into_iter().filter(|folder| !folder.starts_with(&real)) {
        // One that is gone is found so when everything is looked through.
        if folder.exists() {
            let watched = shared.watch.also_folder(&folder);
            result = result.and(watched);
        }
    }
    for share in shared.library.list() {
        if !share.path.starts_with(&real) {
            shared.watch.also(&share.path);
        }
    }
    result
}

struct Keeper<'a> {
    shared: &'a Arc<Shared>,
    /// Files of which it was told that they cannot be shared.
    told: BTreeSet<PathBuf>,
    failing: bool,
}

impl Keeper<'_> {
    async fn look_at(&mut self, only: Option<Vec<PathBuf>>) {
        let shared = Arc::clone(self.shared);
        let look = move || {
            let stop = || shared.stop.is_cancelled();
            shared.library.refresh_at_rest(&shared.content_dir, only.as_deref(), QUIET, stop)
        };
        match tokio::task::spawn_blocking(look).await {
            Ok(Ok(found)) => self.tell(found),
            Ok(Err(error)) => self.try_again(&error).await,
            Err(error) => tracing::error!(%error, "looking at what changed on disk"),
        }
    }

    fn tell(&mut self, found: Refreshed) {
        if std::mem::take(&mut self.failing) {
            self.shared.events.publish(Event::Notice("what is shared is kept up to date again".to_owned()));
        }
        let now = Instant::now();
        {
            let mut pending = lock(&self.shared.watch.pending);
            for path in found.unsettled {
                pending.note(now, path);
            }
            if found.more_unsettled {
                pending.note_everything(now);
            }
        }
        for (path, error) in found.failed {
            tracing::warn!(path = %path.display(), %error, "not shared");
            if self.told.len() < MAX_TOLD && self.told.insert(path) {
                self.shared.events.publish(Event::Warning(format!("not shared: {}", causes(&error))));
            }
        }
        for folder in &found.folders {
            let (name, hash) = (&folder.share.name, folder.share.hash);
            let left_out = &folder.left_out;
            let but = if left_out.count > 0 { format!(" ({left_out})") } else { String::new() };
            let text = format!("{name} changed and is shared as {hash}{but}");
            self.shared.events.publish(Event::Notice(text));
        }
        // What a folder was before counts as told.
        let (added, removed) = (found.added.len(), found.removed.len().saturating_sub(found.folders.len()));
        if added == 0 && removed == 0 {
            return;
        }
        let mut text = Vec::new();
        if added > NAMED {
            text.push(format!("{added} more files are shared"));
        } else {
            text.extend(
                found.added.iter().map(|share| format!("{} is shared as {}", share.name, share.hash)),
            );
        }
        if removed > 0 {
            let files = if removed == 1 { "1 file is" } else { &format!("{removed} files are") };
            text.push(format!("{files} gone or changed, and not shared any more"));
        }
        self.shared.events.publish(Event::Notice(text.join("; ")));
    }

    /// A full disk, most likely.
    async fn try_again(&mut self, error: &LibraryError) {
        if !std::mem::replace(&mut self.failing, true) {
            let text = format!("what is shared cannot be kept up to date: {}", causes(error));
            tracing::warn!("{text}");
            self.shared.events.publish(Event::Warning(text));
        }
        tokio::select! {
            () = self.shared.stop.cancelled() => {}
            () = tokio::time::sleep(TRY_AGAIN) => lock(&self.shared.watch.pending).look_now(Instant::now()),
        }
    }
}
