//! The folders that a library has: listed, taken back, their manifests read.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::entry::EntryKind;
use super::manifest::{ManifestError, ManifestReader};
use super::record::{self, Folder};
use crate::error::LibraryError;
use crate::hash::{FileHash, Kind};
use crate::index::{Change, Record};
use crate::library::{Library, Share, ShareState};

/// Changes that are written to the index together.
const BATCH: usize = 1_024;

impl Library {
    /// The folders that are shared or being fetched, by hash and path.
    ///
    /// # Errors
    ///
    /// When the folder of their records cannot be read.
    pub fn folders(&self) -> io::Result<Vec<Folder>> {
        self.dirs_if_any().map_or(Ok(Vec::new()), |dirs| record::folders(&dirs))
    }

    /// What the index knows of a folder is where its manifest lies; others are to see the folder.
    pub(crate) fn name_folders(&self, shares: &mut [Share]) {
        if !shares.iter().any(|share| share.info.kind == Kind::Dir) {
            return;
        }
        let folders = self.folders().unwrap_or_else(|error| {
            tracing::error!(%error, "listing folders");
            Vec::new()
        });
        for share in shares.iter_mut().filter(|share| share.info.kind == Kind::Dir) {
            let here = folders.iter().filter(|folder| folder.hash == share.hash);
            if let Some(folder) = here.max_by_key(|folder| (folder.is_whole(), folder.complete)) {
                share.name = name_of(&folder.path);
                share.bytes = folder.whole;
                share.path.clone_from(&folder.path);
                if share.state == ShareState::Shared && !folder.is_whole() {
                    share.state = ShareState::Partial;
                }
            }
        }
    }

    /// Stops sharing this folder, wherever it lies, with the files in it; false if it was not shared. The files stay.
    ///
    /// # Errors
    ///
    /// [`LibraryError`] when the index cannot be read or written.
    pub fn remove_folder(&self, hash: &FileHash) -> Result<bool, LibraryError> {
        let dirs = self.dirs().map_err(|source| LibraryError::io(&self.trees, source))?;
        let folders = self.folders().map_err(|source| LibraryError::io(&dirs, source))?;
        let mut removed = false;
        for folder in folders.iter().filter(|folder| folder.hash == *hash) {
            if let Ok(reader) = self.manifest(hash) {
                self.forget_files(folder, reader)?;
            }
            folder.forget(&dirs);
            removed = true;
        }
        self.drop_manifest(hash)?;
        Ok(removed)
    }

    fn forget_files(&self, folder: &Folder, reader: ManifestReader<File>) -> Result<(), LibraryError> {
        let mut changes = Vec::new();
        let mut hashes = Vec::new();
        let apply = |changes: &mut Vec<Change>, hashes: &mut Vec<FileHash>| {
            self.index.apply(changes)?;
            hashes.iter().for_each(|hash| self.drop_tree(hash));
            changes.clear();
            hashes.clear();
            Ok::<_, LibraryError>(())
        };
        // A damaged manifest ends early: what is left is shared as single files.
        for entry in reader.map_while(Result::ok) {
            let path = entry.path.below(&folder.path);
            if matches!(entry.kind, EntryKind::File { .. })
                && let Some(record) = self.index.of_path(&path)?
            {
                // The file may have changed since, and been shared again as it is now.
                hashes.push(record.hash);
                // As for a single file: what is taken back is not shared again by a refresh.
                changes.push(match path.symlink_metadata() {
                    Ok(_) => Change::Put(path, Record { withheld: true, ..record }),
                    Err(_) => Change::Remove(path),
                });
            }
            if changes.len() >= BATCH {
                apply(&mut changes, &mut hashes)?;
            }
        }
        apply(&mut changes, &mut hashes)
    }

    /// Opens the manifest of a folder that is shared or was fetched.
    ///
    /// # Errors
    ///
    /// [`ManifestError`] when it is not here.
    pub fn manifest(&self, hash: &FileHash) -> Result<ManifestReader<File>, ManifestError> {
        ManifestReader::new(File::open(self.dirs()?.join(hash.to_string()))?)
    }

    /// Removes a manifest that was fetched to see what is in it, unless there is a folder that has it.
    ///
    /// # Errors
    ///
    /// [`LibraryError`] when the index cannot be read or written.
    pub fn drop_manifest(&self, hash: &FileHash) -> Result<(), LibraryError> {
        let dirs = self.dirs().map_err(|source| LibraryError::io(&self.trees, source))?;
        let folders = self.folders().map_err(|source| LibraryError::io(&dirs, source))?;
        if folders.iter().any(|folder| folder.hash == *hash) {
            return Ok(());
        }
        let manifest = dirs.join(hash.to_string());
        self.index.apply(&[Change::Remove(manifest.clone())])?;
        self.drop_tree(hash);
        let _ = std::fs::remove_file(manifest);
        Ok(())
    }

    /// Where manifests and the records of folders are; made when it is first needed.
    pub(crate) fn dirs(&self) -> io::Result<PathBuf> {
        let dirs = self.trees.with_file_name("dirs");
        std::fs::create_dir_all(&dirs)?;
        std::fs::canonicalize(dirs)
    }

    /// The same; `None` as long as there has been no folder.
    pub(crate) fn dirs_if_any(&self) -> Option<PathBuf> {
        std::fs::canonicalize(self.trees.with_file_name("dirs")).ok()
    }
}

pub(super) fn name_of(root: &Path) -> String {
    root.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
