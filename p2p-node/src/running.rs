//! The download of a file or of a folder, as one thing.

use std::sync::Arc;

use p2p_files::{
    Download, DownloadConfig, DownloadError, DownloadEvent, DownloadHandle, FolderConfig, FolderDownload,
    FolderGoal, FolderHandle, FolderProgress, Progress, RateLimit,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use crate::fetch::FetchProgress;

/// A download under way.
#[derive(Debug)]
pub(crate) enum Running {
    File(DownloadHandle),
    Folder(FolderHandle),
}

impl Running {
    /// Starts a file's.
    pub(crate) fn file(
        library: Arc<p2p_files::Library>,
        hash: p2p_files::FileHash,
        to: p2p_files::Destination,
        config: DownloadConfig,
    ) -> Result<Self, DownloadError> {
        Download::start(library, hash, to, config).map(Self::File)
    }

    /// Starts a folder's.
    pub(crate) fn folder(
        library: Arc<p2p_files::Library>,
        hash: p2p_files::FileHash,
        goal: FolderGoal,
        config: FolderConfig,
    ) -> Self {
        Self::Folder(FolderDownload::start(library, hash, goal, config))
    }

    pub(crate) fn add_limited_source<S>(&self, label: String, stream: S, limit: Option<Arc<RateLimit>>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        match self {
            Self::File(download) => {
                download.add_limited_source(label, stream, limit);
            }
            Self::Folder(download) => download.add_limited_source(label, stream, limit),
        }
    }

    pub(crate) async fn next_event(&self) -> Option<DownloadEvent> {
        match self {
            Self::File(download) => download.next_event().await,
            Self::Folder(download) => download.next_event().await,
        }
    }

    pub(crate) fn suspend(&self) {
        match self {
            Self::File(download) => download.suspend(),
            Self::Folder(download) => download.suspend(),
        }
    }

    pub(crate) fn cancel(&self) {
        match self {
            Self::File(download) => download.cancel(),
            Self::Folder(download) => download.cancel(),
        }
    }

    pub(crate) fn progress(&self) -> Feed {
        match self {
            Self::File(download) => Feed::File(download.progress()),
            Self::Folder(download) => Feed::Folder(download.progress()),
        }
    }
}

/// Where progress comes from.
#[derive(Debug)]
pub(crate) enum Feed {
    File(watch::Receiver<Progress>),
    Folder(watch::Receiver<FolderProgress>),
}

impl Feed {
    /// The next progress; `None` once there is no more.
    pub(crate) async fn next(&mut self) -> Option<FetchProgress> {
        match self {
            Self::File(feed) => {
                feed.changed().await.ok()?;
                let Progress { done, length, sources, rate } = *feed.borrow_and_update();
                Some(FetchProgress { done, length, sources, rate, ..FetchProgress::default() })
            }
            Self::Folder(feed) => {
                feed.changed().await.ok()?;
                let FolderProgress { done, length, files_done, files, sources, rate } =
                    *feed.borrow_and_update();
                Some(FetchProgress { done, length, files_done, files, sources, rate })
            }
        }
    }
}
