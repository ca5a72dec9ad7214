//! One file from many sources at once: the way in.
//!
//! A conductor task owns the download from start to end (`conduct.rs`); each source has a task of its own
//! (`source.rs`); the [`Picker`](crate::Picker) says who asks for what; checked runs are written on blocking threads.
//! The parts meet in [`Shared`].

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use crate::conduct::conduct;
use crate::destination::Destination;
use crate::event::{DownloadError, DownloadEvent, Progress};
use crate::hash::{FileHash, Kind};
use crate::library::Library;
use crate::picker::SourceId;
use crate::protocol::GETS_MAX;
use crate::rate::{RateLimit, Throttle};
use crate::shared::Shared;
use crate::source;

/// Bounds of one download.
#[derive(Debug, Clone)]
pub struct DownloadConfig {
    /// What the hash must name. Default a file; the manifest of a folder is for [`FolderDownload`](crate::FolderDownload).
    pub kind: Kind,
    /// Bytes of the file, as who told of it says; another length ends the download before anything is fetched.
    pub length: Option<u64>,
    /// Whoever may read the file is to be able to execute it. Default false.
    pub executable: bool,
    /// Longest file that is fetched, in bytes. Default 1 TiB, whose bookkeeping is 128 KiB of memory and 64 MiB of tree file.
    pub max_length: u64,
    /// A source that sends no byte for this long while something is asked of it is dropped. Default 10 s.
    pub stall: Duration,
    /// A source that takes longer than this for one run of 1 MiB is dropped, even if it drips. Default 120 s: 9 kB/s.
    pub run_timeout: Duration,
    /// Sources at once, each with one buffer of 1 MiB. Default 16; more are refused with [`SourceFault::TooMany`](crate::SourceFault::TooMany).
    pub max_sources: usize,
    /// Most requests ahead of the answers per source, at most 16; a slow source gets fewer, about a second's worth. Default 16.
    pub window: usize,
    /// Runs that are checked and written at the same time, on blocking threads, with a buffer of 1 MiB each. Default 4, a guess.
    pub checks: usize,
    /// The chunk (1 MiB) that is asked for first; they go on from there, round the end. Default `None`, anywhere: many that
    /// fetch the same file from one source then have different parts, which they can give each other.
    pub start: Option<u64>,
    /// Rates that what is received is held to, by not reading. Default none.
    pub throttle: Throttle,
}

impl Default for DownloadConfig {
    fn default() -> Self {
        Self {
            kind: Kind::File,
            length: None,
            executable: false,
            max_length: 1 << 40,
            stall: Duration::from_secs(10),
            run_timeout: Duration::from_secs(120),
            max_sources: 16,
            window: GETS_MAX,
            checks: 4,
            start: None,
            throttle: Throttle::default(),
        }
    }
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
    /// [`Destination::Dir`], with a verified copy for a [`Destination::File`]. What an interrupted download of the same
    /// hash to the same place verified is not fetched again.
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
        let shared = Shared::new(library, hash, &destination, config)?;
        tokio::spawn(conduct(Arc::clone(&shared)));
        Ok(DownloadHandle { shared })
    }
}

/// A running download. Dropping it suspends the download.
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
        self.add_limited_source(label, stream, None)
    }

    /// The same, of a source with a limit of its own beside those of the download.
    pub fn add_limited_source<S>(
        &self,
        label: impl Into<String>,
        stream: S,
        limit: Option<Arc<RateLimit>>,
    ) -> SourceId
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (id, token) = self.shared.admit(label.into());
        if let Some(token) = token {
            let throttle = self.shared.config.throttle.and(limit);
            tokio::spawn(source::run(Arc::clone(&self.shared), id, token, throttle, stream));
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
        self.shared.events.next().await
    }

    /// Ends the download for now. What is verified stays (of a file above 1 MiB): the same download, started again, goes
    /// on from there. [`DownloadEvent::Failed`] with [`DownloadError::Suspended`] follows, unless it had ended.
    pub fn suspend(&self) {
        if !self.shared.cancel.is_cancelled() {
            self.shared.suspend.store(true, std::sync::atomic::Ordering::Relaxed);
        }
        self.shared.cancel.cancel();
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
        self.suspend();
    }
}
