//! Folders: what is in one (the manifest), sharing one, and fetching one.

mod add;
mod conduct;
mod download;
mod entry;
mod lane;
mod lend;
mod manifest;
mod path;
mod place;
mod plan;
mod record;
mod renew;
mod select;
mod shares;
mod small;
mod sums;
mod walk;
mod write;

pub use add::{AddFolderError, AddProgress, FolderShare};
pub use download::{FolderConfig, FolderDownload, FolderGoal, FolderHandle, FolderProgress};
pub use entry::{Entry, EntryFault, EntryKind};
pub use manifest::{ENTRIES_MAX, MANIFEST_MAX, ManifestError, ManifestReader, ManifestWriter};
pub use path::{DEPTH_MAX, EntryPath, PATH_MAX, PathError};
pub(crate) use place::make_executable;
pub use record::Folder;
pub(crate) use renew::Renewed;
pub use select::{SelectError, Selection};
pub use sums::Sums;
pub use walk::{LeftOut, LeftOutReason};
