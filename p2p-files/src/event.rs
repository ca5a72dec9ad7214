//! What a download tells: how far it is, what happened, what went wrong and whose fault it was.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::LibraryError;
use crate::folder::{ManifestError, SelectError};

/// How far a download is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Bytes that are verified and written.
    pub done: u64,
    /// Bytes in all, once a source proved it.
    pub length: Option<u64>,
    /// Sources that are at work.
    pub sources: usize,
    /// Bytes per second, over the last 3 seconds.
    pub rate: u64,
}

/// What happens during a download.
#[derive(Debug)]
#[non_exhaustive]
pub enum DownloadEvent {
    /// A source is dropped; what was asked of it goes to others.
    SourceFailed {
        /// The name it was added with.
        label: String,
        /// What it did.
        fault: SourceFault,
    },
    /// The last source failed; add one, or cancel. Not told at the start, before any source was added.
    NeedSource,
    /// There is no room on the disk: nothing more is asked for until there is. What is verified stays.
    Paused {
        /// The destination.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// There is room again, and the download goes on.
    Resumed,
    /// The end: the file is complete, checked, synced, in its place, and shared.
    Finished(Finished),
    /// The end: no file.
    Failed(DownloadError),
}

/// A finished download.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// Where the file is. When it was in the library already and the destination was a folder: where it was.
    pub path: PathBuf,
    /// Bytes of the file.
    pub length: u64,
    /// Milliseconds since the start.
    pub ms: u64,
    /// Sources that gave something of it; 0 when it was here already.
    pub sources: usize,
}

/// What a source did wrong, or suffered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SourceFault {
    /// It sent wrong data or a wrong proof.
    #[error("sent wrong data for blocks {first_block} to {}", first_block + blocks - 1)]
    Corrupt {
        /// First block of the run.
        first_block: u64,
        /// Blocks of the run.
        blocks: u64,
    },
    /// Length and root it gave do not belong to the hash.
    #[error("gave a length and root that do not belong to the hash")]
    WrongInfo,
    /// The file is longer than the limit.
    #[error("the file has {length} bytes, the limit is {max}")]
    TooLarge {
        /// Bytes of the file.
        length: u64,
        /// The limit.
        max: u64,
    },
    /// Its file is not any more what it was when it was shared.
    #[error("its file changed")]
    Changed,
    /// It does not have the file.
    #[error("does not have the file")]
    NotFound,
    /// It has too much to do.
    #[error("is busy")]
    Busy,
    /// It sent nothing, or much too slowly.
    #[error("sent nothing, or too little, for {0:?}")]
    Stalled(Duration),
    /// It broke the protocol.
    #[error("broke the protocol: {0}")]
    Protocol(&'static str),
    /// The connection failed or ended.
    #[error("the connection failed: {0}")]
    Io(io::ErrorKind),
    /// There are as many sources as the configuration allows.
    #[error("not used: there are {0} sources already")]
    TooMany(usize),
}

/// Why a download failed, or could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DownloadError {
    /// There is something at the destination already; it was left alone.
    #[error("{} exists already", path.display())]
    Exists {
        /// The destination.
        path: PathBuf,
    },
    /// Another download writes the same file to the same place.
    #[error("the same file is already being downloaded to {}", path.display())]
    InProgress {
        /// The destination.
        path: PathBuf,
    },
    /// The file is longer than the limit.
    #[error("the file has {length} bytes, the limit is {max}")]
    TooLarge {
        /// Bytes of the file.
        length: u64,
        /// The limit.
        max: u64,
    },
    /// The disk has too little room for the file; nothing was written.
    #[error("no room for {}: {needed} bytes are needed, {free} are free", path.display())]
    NoRoom {
        /// The destination.
        path: PathBuf,
        /// Bytes that the file needs, with some to spare for what is kept beside it.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// The hash names a folder, which [`FolderDownload`](crate::FolderDownload) fetches.
    #[error("the hash names a folder")]
    Directory,
    /// The hash names a file, and a folder was asked for.
    #[error("the hash names a file, not a folder")]
    NotDirectory,
    /// Whoever told of it said another length than it has.
    #[error("it has {length} bytes and not {said}, as was said")]
    WrongLength {
        /// Bytes as they were told.
        said: u64,
        /// Bytes as the hash proves them.
        length: u64,
    },
    /// What the hash names is not a manifest that this version takes.
    #[error("the folder cannot be fetched: {0}")]
    Manifest(#[source] ManifestError),
    /// The folder does not have a path that was asked for.
    #[error("there is no {path:?} in the folder")]
    NoSuchPath {
        /// The path.
        path: String,
    },
    /// With what an earlier fetch into the same place asked for, too much of the folder is named one by one.
    #[error(transparent)]
    Selection(#[from] SelectError),
    /// The disk failed while runs were written (one that is full is waited for). What is verified stays; starting again goes on from there.
    #[error("cannot write {}; what is verified stays", path.display())]
    Interrupted {
        /// The destination.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The destination cannot be used, or the end of the download failed; nothing is left of it.
    #[error("cannot write {}", path.display())]
    Io {
        /// The destination.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is in its place, but could not be entered in the index.
    #[error("{} is complete but cannot be shared", path.display())]
    Register {
        /// The finished file.
        path: PathBuf,
        /// Why.
        source: LibraryError,
    },
    /// It was cancelled; nothing is left of it.
    #[error("the download was cancelled")]
    Cancelled,
    /// It was suspended. What is verified stays; starting again goes on from there.
    #[error("the download was suspended")]
    Suspended,
}
impl DownloadError {
    /// The same, of a download whose verified part stays.
    pub(crate) fn interrupted(self) -> Self {
        match self {
            Self::Io { path, source } => Self::Interrupted { path, source },
            other => other,
        }
    }

    /// The error for a failure of the disk at the destination.
    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::AlreadyExists => Self::Exists { path },
            io::ErrorKind::WouldBlock => Self::InProgress { path },
            _ => Self::Io { path, source },
        }
    }
}
