//! Fetching a file: the course of one download, from looking for somebody who has it to its end.

mod providers;
mod record;
mod request;

pub use request::{Fetch, FetchOptions, FetchProgress, FetchTarget, Fetched};
pub(crate) use request::{FetchEntry, begin};

use std::collections::{BTreeMap, VecDeque};
use std::future::pending;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use p2p_files::{
    Destination, DownloadConfig, DownloadError, DownloadEvent, FileHash, Finished, FolderConfig, FolderGoal,
    Kind,
};
use p2p_wire::{NodeId, PeerAddr, Ticket, TicketKind};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::command::Provider;
use crate::error::FetchError;
use crate::event::Event;
use crate::resume;
use crate::running::{Feed, Running};
use crate::shared::Shared;

use providers::{MAX_SOURCES, MAX_WAITING, Opened};
use record::Record;
use request::End;

/// Neighbours answer within this, or everybody is asked.
const NEIGHBOURS_FIRST: Duration = Duration::from_millis(500);
/// While nobody delivers the question is asked again this often: links come up, providers too.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// A fetch that waits longer than this for somebody asks less and less often, down to this: every node hears the question.
const PATIENT: Duration = Duration::from_secs(120);
const ASK_SELDOM: Duration = Duration::from_secs(300);
/// While somebody delivers others are looked for this long after the last try, twice as long each time. A fetch that is
/// done sooner needs no others.
const MORE_AFTER: Duration = Duration::from_secs(1);
const MORE_SELDOM: Duration = Duration::from_secs(60);

struct Job<'a> {
    shared: &'a Arc<Shared>,
    hash: FileHash,
    /// `None` until somebody has said what the file is called, or it is clear that no name is needed.
    download: Option<Running>,
    /// A folder; until it is known, a file.
    is_dir: bool,
    /// It has just become known to be one.
    turned: bool,
    options: FetchOptions,
    /// The folder that an earlier try began is the destination, not one to put a folder into.
    exact: bool,
    /// What was said that it is called.
    name: Option<String>,
    /// The ticket says how many bytes it has.
    length: Option<u64>,
    providers: BTreeMap<NodeId, Record>,
    waiting: VecDeque<NodeId>,
    dials: JoinSet<Opened>,
    live: usize,
    /// Since when nobody delivers and nobody is being dialled.
    idle_since: Option<Instant>,
    timeout: Duration,
    /// There is no room on the disk: the download waits, and nobody is looked for.
    paused: bool,
    /// Whom to link to when there is nobody to ask who else has it.
    ticket_addrs: Option<(NodeId, Vec<PeerAddr>)>,
}

impl<'a> Job<'a> {
    async fn run(
        shared: &'a Arc<Shared>,
        hash: FileHash,
        ticket: Option<Box<Ticket>>,
        options: FetchOptions,
        told: watch::Sender<FetchProgress>,
        end: &End,
    ) -> Result<Fetched, FetchError> {
        let file = ticket.as_ref().and_then(|ticket| ticket.file.as_ref());
        let mut job = Self {
            shared,
            hash,
            download: None,
            is_dir: options.list
                || !options.selection.is_all()
                || file.is_some_and(|f| f.kind == TicketKind::Dir),
            exact: false,
            turned: false,
            name: None,
            length: file.map(|file| file.length),
            providers: BTreeMap::new(),
            waiting: VecDeque::new(),
            dials: JoinSet::new(),
            live: 0,
            idle_since: Some(Instant::now()),
            timeout: options.timeout.unwrap_or(shared.config.limits.find_timeout),
            options,
            paused: false,
            ticket_addrs: ticket.as_ref().map(|ticket| (ticket.id, ticket.addrs.clone())),
        };
        let (library, folder) = (
            Arc::clone(&shared.library),
            job.options.to.clone().unwrap_or_else(|| shared.content_dir.clone()),
        );
        let look = move || resume::look(&library, hash, &folder);
        let before = tokio::task::spawn_blocking(look).await.unwrap_or_default();
        let named = job.options.to.as_ref().is_some_and(|to| !is_dir(to));
        job.is_dir |= before.kind == Some(Kind::Dir);
        job.exact = before.is_root;
        // What was begun under a name goes on under it, whatever others call it now.
        if before.kind.is_some() || named || job.exact || job.options.list || before.name.is_some() {
            job.start(before.name)?;
        }
        if let Some(ticket) = ticket {
            let name = ticket.file.as_ref().map(|f| f.name.clone());
            job.offer(Provider { id: ticket.id, addrs: ticket.addrs.clone(), name })?;
        }
        job.until_done(told, end).await
    }

    /// Begins the download itself. Looks at the disk, shortly: the folder is made and its free names are
    /// looked at.
    fn start(&mut self, name: Option<String>) -> Result<(), FetchError> {
        if self.download.is_none() {
            self.name = self.name.take().or(name).filter(|n| !n.is_empty());
            let to = match self.options.to.clone() {
                Some(path) if self.exact => Destination::File(path),
                to => destination(self.shared, to, self.name.clone()),
            };
            let library = Arc::clone(&self.shared.library);
            let config = DownloadConfig { throttle: self.shared.down.all(), ..DownloadConfig::default() };
            self.download = Some(if self.is_dir {
                let goal = match self.options.list {
                    true => FolderGoal::List,
                    false => FolderGoal::Files { to, selection: self.options.selection.clone() },
                };
                Running::folder(library, self.hash, goal, FolderConfig { file: config, bytes: self.length })
            } else {
                let config = DownloadConfig { length: self.length, ..config };
                Running::file(library, self.hash, to, config).map_err(failed)?
            });
        }
        Ok(())
    }

    /// The hash turned out to be a folder's: everybody is asked for that.
    fn become_folder(&mut self) -> Result<(), FetchError> {
        self.is_dir = true;
        self.download = None;
        let offered = std::mem::take(&mut self.providers);
        self.waiting.clear();
        self.dials = JoinSet::new();
        self.live = 0;
        self.start(None)?;
        for (id, record) in offered {
            self.offer(Provider { id, addrs: record.into_addrs(), name: None })?;
        }
        Ok(())
    }

    /// Ends the download with this error once its files are let go, unless it is complete just now.
    async fn give_up(&self, error: FetchError, discard: bool) -> Result<Fetched, FetchError> {
        if let Some(download) = &self.download {
            if discard {
                download.cancel();
            } else {
                download.suspend();
            }
            while let Some(event) = download.next_event().await {
                if let DownloadEvent::Finished(finished) = event {
                    return Ok(self.fetched(finished));
                }
            }
        }
        Err(error)
    }

    async fn until_done(
        &mut self,
        told: watch::Sender<FetchProgress>,
        end: &End,
    ) -> Result<Fetched, FetchError> {
        let (found, mut answers) = mpsc::channel(MAX_WAITING);
        let mut progress = None;
        let mut ask_at = Instant::now();
        let mut everybody = false;
        let mut again = ASK_AGAIN;
        let (mut more_at, mut more_after) = (Instant::now() + MORE_AFTER, MORE_AFTER);
        loop {
            self.dial_waiting();
            if self.turned {
                self.turned = false;
                progress = None;
            }
            if let (None, Some(download)) = (&progress, &self.download) {
                progress = Some(download.progress());
            }
            let idle = self.live == 0 && self.dials.is_empty() && !self.paused;
            if !idle {
                self.idle_since = None;
            }
            let give_up = idle.then(|| *self.idle_since.get_or_insert_with(Instant::now) + self.timeout);
            tokio::select! {
                // The end of the download goes before giving up on it.
                biased;
                () = end.now.cancelled() => {
                    let stopped = self.shared.stop.is_cancelled();
                    let error = if stopped { FetchError::Stopped } else { FetchError::Cancelled };
                    return self.give_up(error, end.discard.load(Ordering::Relaxed)).await;
                }
                event = next_event(self.download.as_ref()) => {
                    if let Some(result) = self.on_event(event) {
                        return result;
                    }
                }
                Some(Ok((id, opened))) = self.dials.join_next(), if !self.dials.is_empty() => self.on_opened(id, opened),
                Some(provider) = answers.recv() => self.offer(provider)?,
                Some(p) = next_progress(progress.as_mut()) => {
                    told.send_replace(p);
                }
                () = sleep_until(more_at), if !self.paused && self.live > 0 && self.live < MAX_SOURCES => {
                    self.ask(true, found.clone()).await;
                    more_at = Instant::now() + more_after;
                    more_after = (more_after * 2).min(MORE_SELDOM);
                }
                () = sleep_until(ask_at), if self.live == 0 && !self.paused => {
                    self.ask(everybody, found.clone()).await;
                    ask_at = Instant::now() + if everybody { again } else { NEIGHBOURS_FIRST };
                    if everybody && self.timeout > PATIENT {
                        again = (again * 2).min(ASK_SELDOM);
                    }
                    everybody = true;
                }
                () = sleep_until(give_up.unwrap_or(ask_at)), if give_up.is_some() => {
                    return self.give_up(self.nobody(), false).await;
                }
            }
        }
    }

    fn on_event(&mut self, event: Option<DownloadEvent>) -> Option<Result<Fetched, FetchError>> {
        match event {
            Some(DownloadEvent::Finished(finished)) => Some(Ok(self.fetched(finished))),
            Some(DownloadEvent::Failed(DownloadError::Register { path, source })) => {
                // The file itself is whole and in its place.
                let text = format!("{} is complete but not shared: {source}", path.display());
                self.shared.events.publish(Event::Warning(text));
                let length = std::fs::metadata(&path).map_or(0, |m| m.len());
                let took = Duration::ZERO;
                Some(Ok(Fetched { hash: self.hash, path, length, took, sources: self.live }))
            }
            Some(DownloadEvent::Failed(DownloadError::Directory)) if !self.is_dir => {
                self.turned = true;
                self.become_folder().err().map(Err)
            }
            Some(DownloadEvent::Failed(error)) => Some(Err(failed(error))),
            Some(DownloadEvent::SourceFailed { label, fault }) => {
                self.on_source_failed(&label, &fault);
                None
            }
            Some(DownloadEvent::Paused { path, source }) => {
                self.paused = true;
                self.idle_since = None;
                let (path, short) = (path.display(), self.hash.short());
                let text =
                    format!("no room at {path} ({source}): {short} waits, and goes on when there is some");
                self.shared.events.publish(Event::Warning(text));
                None
            }
            Some(DownloadEvent::Resumed) => {
                self.paused = false;
                // Whoever hung up meanwhile is not to blame.
                self.providers.values_mut().for_each(Record::forgive);
                let text = format!("there is room again: {} goes on", self.hash.short());
                self.shared.events.publish(Event::Notice(text));
                None
            }
            Some(_) => None,
            None => Some(Err(FetchError::Cancelled)),
        }
    }

    fn fetched(&self, finished: Finished) -> Fetched {
        Fetched {
            hash: self.hash,
            path: finished.path,
            length: finished.length,
            took: Duration::from_millis(finished.ms),
            sources: finished.sources,
        }
    }
}

async fn next_event(download: Option<&Running>) -> Option<DownloadEvent> {
    match download {
        Some(download) => download.next_event().await,
        None => pending().await,
    }
}

async fn next_progress(progress: Option<&mut Feed>) -> Option<FetchProgress> {
    match progress {
        Some(progress) => progress.next().await,
        None => pending().await,
    }
}

fn destination(shared: &Shared, to: Option<PathBuf>, hint: Option<String>) -> Destination {
    match to {
        None => Destination::Dir(shared.content_dir.clone(), hint),
        Some(path) if is_dir(&path) => Destination::Dir(path, hint),
        Some(path) => Destination::File(path),
    }
}

fn is_dir(path: &Path) -> bool {
    path.is_dir() || path.as_os_str().as_encoded_bytes().ends_with(b"/")
}

fn failed(error: DownloadError) -> FetchError {
    match error {
        DownloadError::Exists { path } => FetchError::Exists { path },
        DownloadError::NoRoom { path, needed, free } => FetchError::NoRoom { path, needed, free },
        DownloadError::WrongLength { said, length } => FetchError::WrongLength { said, length },
        DownloadError::NoSuchPath { .. } | DownloadError::Selection(_) | DownloadError::NotDirectory => {
            FetchError::NoSuchPath { detail: error.to_string() }
        }
        DownloadError::Manifest(_) => FetchError::BadFolder { detail: error.to_string() },
        DownloadError::Cancelled | DownloadError::Suspended => FetchError::Cancelled,
        DownloadError::Io { path, source } | DownloadError::Interrupted { path, source } => {
            FetchError::Disk { detail: format!("{}: {source}", path.display()) }
        }
        other => FetchError::Disk { detail: other.to_string() },
    }
}
