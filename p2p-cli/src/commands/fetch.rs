//! `p2p get`, and following a download for it and for the console's `req` and `list`.

use std::path::PathBuf;
use std::time::Duration;

use p2p_node::{
    Entry, EntryKind, Fetch, FetchOptions, FetchProgress, FileHash, ManifestError, Node, Selection,
};
use tokio::time::MissedTickBehavior;

use super::resolve;
use crate::config::Settings;
use crate::failure::Failure;
use crate::output::{Line, Screen};
use crate::session::{Session, Show};
use crate::signals::Stop;

/// At most so often is progress told.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// What is asked for.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// Hash or ticket.
    pub(crate) what: String,
    /// Paths in a folder; none for all of it.
    pub(crate) only: Vec<String>,
    /// Only what is in the folder.
    pub(crate) list: bool,
}

/// Fetches one file or folder; returns when it stands verified on disk.
pub(crate) async fn get(
    mut settings: Settings,
    screen: Screen,
    stop: Stop,
    wanted: &Wanted,
    output: Option<PathBuf>,
    timeout: Option<u64>,
) -> Result<(), Failure> {
    let target = resolve::fetch_target(&wanted.what)?;
    let selection = selection(&wanted.only)?;
    let to = match output {
        Some(path) => path,
        None => std::env::current_dir()
            .map_err(|source| Failure::failed("disk", format!("the current directory: {source}")))?,
    };
    settings.for_one_purpose();
    let session = Session::start(settings.node, screen.clone(), stop, Show::Trouble).await?;
    let timeout = timeout.map(Duration::from_secs);
    let options = FetchOptions { to: Some(to), selection, list: wanted.list, timeout };
    let outcome = session.unless_stopped(async {
        let fetch = session.node.fetch(target, options);
        let followed = if wanted.list {
            list("get", &session.node, fetch, &screen).await
        } else {
            follow("get", fetch, &screen).await
        };
        match followed {
            Ok(line) => {
                screen.show(&line).await;
                Ok(())
            }
            Err((failure, line)) => {
                // People read it on standard error.
                if screen.is_json() {
                    screen.show(&line).await;
                }
                Err(failure.told())
            }
        }
    });
    let outcome = outcome.await;
    session.end_with(outcome).await
}

/// The paths in a folder that are wanted.
pub(crate) fn selection(only: &[String]) -> Result<Selection, Failure> {
    Selection::of(only).map_err(|error| Failure::usage("bad_path", error.to_string()))
}

/// Fetches the list of what is in a folder and says it, entry by entry; ends in `folder` or `file_failed`.
pub(crate) async fn list(
    command: &'static str,
    node: &Node,
    fetch: Fetch,
    screen: &Screen,
) -> Result<Line, (Failure, Line)> {
    let hash = fetch.hash();
    follow(command, fetch, screen).await?;
    let outcome = say_entries(command, node, hash, screen).await;
    // Nobody else needs it, unless the folder is here.
    if let Err(error) = node.drop_manifest(hash).await {
        tracing::warn!(%error, "forgetting the list of a folder");
    }
    outcome.map_err(|error| {
        let failure = Failure::failed("bad_folder", error.to_string());
        let (error, detail) = (failure.word, failure.detail.clone());
        (failure, Line::FileFailed { command, hash: hash.to_string(), error, detail })
    })
}

/// Entries that are read at once, on a blocking thread.
const ENTRIES_AT_ONCE: usize = 256;

async fn say_entries(
    command: &'static str,
    node: &Node,
    hash: FileHash,
    screen: &Screen,
) -> Result<Line, ManifestError> {
    let mut reader = node.manifest(hash).await?;
    let mut files = 0;
    loop {
        let read = tokio::task::spawn_blocking(move || {
            let entries: Result<Vec<Entry>, ManifestError> = reader.by_ref().take(ENTRIES_AT_ONCE).collect();
            entries.map(|entries| (reader, entries))
        });
        let (back, entries) = read.await.map_err(std::io::Error::other)??;
        reader = back;
        if entries.is_empty() {
            let (hash, length) = (hash.to_string(), reader.total());
            return Ok(Line::Folder { command, hash, files, length });
        }
        for entry in &entries {
            files += u64::from(entry.kind != EntryKind::EmptyFolder);
            screen.show(&Line::folder_entry(entry)).await;
        }
    }
}

/// Tells progress until the file is there (`file_done`) or is not (the failure, and `file_failed`).
pub(crate) async fn follow(
    command: &'static str,
    mut fetch: Fetch,
    screen: &Screen,
) -> Result<Line, (Failure, Line)> {
    let hash = fetch.hash().to_string();
    let mut progress = fetch.progress();
    let mut ticks = tokio::time::interval(PROGRESS_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let finished = {
        let finish = fetch.finish();
        tokio::pin!(finish);
        loop {
            tokio::select! {
                finished = &mut finish => break finished,
                _ = ticks.tick() => if progress.has_changed().unwrap_or(false) {
                    let now = *progress.borrow_and_update();
                    screen.show(&line(&hash, &now)).await;
                },
            }
        }
    };
    match finished {
        Ok(fetched) => Ok(Line::FileDone {
            command,
            hash,
            path: fetched.path.display().to_string(),
            length: fetched.length,
            ms: u64::try_from(fetched.took.as_millis()).unwrap_or(u64::MAX),
            sources: fetched.sources,
        }),
        Err(error) => {
            let failure = Failure::from(error);
            let line =
                Line::FileFailed { command, hash, error: failure.word, detail: failure.detail.clone() };
            Err((failure, line))
        }
    }
}

fn line(hash: &str, progress: &FetchProgress) -> Line {
    Line::FileProgress {
        hash: hash.to_owned(),
        done: progress.done,
        length: progress.length,
        files_done: progress.files.map(|_| progress.files_done),
        files: progress.files,
        sources: progress.sources,
        rate: progress.rate,
    }
}
