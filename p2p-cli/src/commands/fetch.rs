//! `p2p get`, and following a download for it and for the console's `req`.

use std::path::PathBuf;
use std::time::Duration;

use p2p_node::{Fetch, FetchOptions, FetchProgress};
use tokio::time::MissedTickBehavior;

use super::resolve;
use crate::config::Settings;
use crate::failure::Failure;
use crate::output::{Line, Screen};
use crate::session::{Session, Show};
use crate::signals::Stop;

/// At most so often is progress told.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// Fetches one file; returns when it stands verified on disk.
pub(crate) async fn get(
    mut settings: Settings,
    screen: Screen,
    stop: Stop,
    what: &str,
    output: Option<PathBuf>,
    timeout: Option<u64>,
) -> Result<(), Failure> {
    let target = resolve::fetch_target(what)?;
    let to = match output {
        Some(path) => path,
        None => std::env::current_dir()
            .map_err(|source| Failure::failed("disk", format!("the current directory: {source}")))?,
    };
    settings.take_free_ports();
    let session = Session::start(settings.node, screen.clone(), stop, Show::Trouble).await?;
    let options = FetchOptions { to: Some(to), timeout: timeout.map(Duration::from_secs) };
    let outcome = session.unless_stopped(async {
        let fetch = session.node.fetch(target, options);
        match follow("get", fetch, &screen).await {
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
        sources: progress.sources,
        rate: progress.rate,
    }
}
