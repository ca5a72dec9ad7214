//! What goes wrong with the library as a whole, and with a file that is to be shared.

use std::io;
use std::path::{Path, PathBuf};

use crate::geometry::LENGTH_MAX;
use crate::index::IndexError;

/// Something that was out of order when a [`Library`](crate::Library) was opened, and was dealt with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LibraryWarning {
    /// The index was damaged; what was shared has to be added again (or found by a refresh).
    #[error("the share index was damaged and is now {}; shares start empty", moved_to.display())]
    DamagedIndex {
        /// Where the damaged file is now.
        moved_to: PathBuf,
    },
}

/// A [`Library`](crate::Library) could not be opened or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LibraryError {
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// A file or directory of the library failed.
    #[error("cannot use {}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl LibraryError {
    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_path_buf(), source }
    }
}

/// A file could not be shared; the index is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AddError {
    /// It is a directory.
    #[error("{} is a folder, which `add_folder` shares", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
    },
    /// It is a device, a pipe, a socket.
    #[error("{} is not a regular file", path.display())]
    NotRegular {
        /// Which.
        path: PathBuf,
    },
    /// It is longer than the protocol can carry.
    #[error("{} has {length} bytes, the limit is {LENGTH_MAX}", path.display())]
    TooLarge {
        /// Which.
        path: PathBuf,
        /// Its bytes.
        length: u64,
    },
    /// It changed while it was read; try again when it is at rest.
    #[error("{} changed while it was read", path.display())]
    Changed {
        /// Which.
        path: PathBuf,
    },
    /// Whoever wanted it to be read wants it no more.
    #[error("{} was not read to its end: called off", path.display())]
    Stopped {
        /// Which.
        path: PathBuf,
    },
    /// It could not be read.
    #[error("cannot use {}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
}

impl AddError {
    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_path_buf(), source }
    }
}
