//! One entry of a manifest, and the rules for which may follow which.

use std::sync::LazyLock;

use super::path::{EntryPath, PathError};
use crate::hash::{FileHash, HASH_LEN, Info, Kind};

/// One thing in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where.
    pub path: EntryPath,
    /// What.
    pub kind: EntryKind,
}

/// What an [`Entry`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A file.
    File {
        /// Its bytes.
        length: u64,
        /// Its content.
        hash: FileHash,
        /// Its owner may execute it.
        executable: bool,
    },
    /// A folder with nothing in it.
    EmptyFolder,
}

impl Entry {
    /// Bytes of the file; 0 for an empty folder.
    #[must_use]
    pub const fn length(&self) -> u64 {
        match self.kind {
            EntryKind::File { length, .. } => length,
            EntryKind::EmptyFolder => 0,
        }
    }
}

/// The hash of the empty file.
pub(super) static EMPTY: LazyLock<FileHash> =
    LazyLock::new(|| Info { kind: Kind::File, length: 0, root: [0; HASH_LEN] }.hash());

/// What is known between two entries; the rules that hold for both directions.
#[derive(Debug, Default)]
pub(super) struct Course {
    path: Option<EntryPath>,
    pub(super) entries: u64,
    pub(super) total: u64,
}

impl Course {
    /// Takes the next entry, if it may come next.
    pub(super) fn next(&mut self, entry: &Entry) -> Result<(), EntryFault> {
        if let Some(before) = &self.path {
            if entry.path <= *before {
                return Err(EntryFault::Order);
            }
            // In this order, what lies below an entry follows it at once.
            if entry.path.is_within(before) {
                return Err(EntryFault::Below);
            }
        }
        if let EntryKind::File { length, hash, .. } = entry.kind {
            if (length == 0) != (hash == *EMPTY) {
                return Err(EntryFault::Empty);
            }
            self.total = self.total.checked_add(length).ok_or(EntryFault::Number)?;
        }
        self.path = Some(entry.path.clone());
        self.entries += 1;
        Ok(())
    }

    pub(super) fn shared_with(&self, path: &[u8]) -> usize {
        let before = self.path.as_ref().map_or(&[][..], |path| path.as_str().as_bytes());
        before.iter().zip(path).take_while(|(a, b)| a == b).count()
    }
}

/// What is wrong with an entry of a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryFault {
    /// The manifest ends within it.
    #[error("cut off")]
    Cut,
    /// A kind that is not known.
    #[error("kind {kind} is not known")]
    Kind {
        /// The byte.
        kind: u8,
    },
    /// A number above its limit, or not written in the shortest way.
    #[error("a number that cannot be")]
    Number,
    /// The start of the path that is that of the entry before was written again.
    #[error("a path that is not written in the shortest way")]
    Shared,
    /// The path is not UTF-8.
    #[error("a path that is not utf-8")]
    Utf8,
    /// The path is refused.
    #[error(transparent)]
    Path(PathError),
    /// It does not come after the entry before, or comes twice.
    #[error("out of order")]
    Order,
    /// It lies below a file, or below a folder that is said to be empty.
    #[error("below an entry that has nothing below it")]
    Below,
    /// The empty file's hash with another length than 0, or the other way round.
    #[error("length and hash do not belong together")]
    Empty,
}
