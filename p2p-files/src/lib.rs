#![doc = include_str!("../README.md")]

mod add;
mod answer;
mod bitfield;
mod buffer;
mod conduct;
#[cfg(test)]
mod crash_tests;
mod destination;
mod disk;
mod download;
mod error;
mod event;
mod folder;
mod geometry;
mod hash;
mod index;
mod intake;
mod journal;
mod library;
mod merkle;
mod names;
mod open;
mod part;
mod picker;
mod plan;
pub mod protocol;
mod rate;
mod refresh;
mod report;
mod running;
mod serve;
mod shared;
mod source;
mod torrent;
mod tree;
mod unfinished;

pub use bitfield::Bitfield;
pub use destination::Destination;
pub use download::{Download, DownloadConfig, DownloadHandle};
pub use error::{AddError, LibraryError, LibraryWarning};
pub use event::{DownloadError, DownloadEvent, Finished, Progress, SourceFault};
pub use folder::{
    AddFolderError, AddProgress, DEPTH_MAX, ENTRIES_MAX, Entry, EntryFault, EntryKind, EntryPath, Folder,
    FolderConfig, FolderDownload, FolderGoal, FolderHandle, FolderProgress, FolderShare, LeftOut,
    LeftOutReason, MANIFEST_MAX, ManifestError, ManifestReader, ManifestWriter, PATH_MAX, PathError,
    SelectError, Selection, Sums,
};
pub use geometry::{BLOCK, BlockIndex, CHUNK, Geometry, LENGTH_MAX, RUN_BLOCKS_MAX, Run, RunError};
pub use hash::{FileHash, HASH_LEN, Info, Kind, ParseHashError};
pub use index::IndexError;
pub use library::{Library, Share, ShareState};
pub use merkle::{
    Digest, Mismatch, TreeHasher, block_hash, fold, parent, subtree_root, verify_run, zero_hash,
};
pub use names::{FileName, NAME_MAX, NameError};
pub use picker::{Picker, SourceId};
pub use rate::{RateLimit, Throttle};
pub use refresh::Refreshed;
pub use serve::{ServeCounts, ServeError, ServeLimits, ServeStats, serve};
pub use torrent::{Torrent, TorrentError};
pub use unfinished::Unfinished;
