//! Shared folders that changed on disk: walked again, and shared under their new hash.

use std::io;
use std::time::Duration;

use super::add::{AddFolderError, Care, FolderShare};
use super::record::Folder;
use crate::error::{AddError, LibraryError};
use crate::library::Library;

/// What became of a shared folder.
#[derive(Debug)]
pub(crate) enum Renewed {
    /// It is what it was.
    Same,
    /// It has another hash; the one it had is not shared any more.
    Changed(Box<FolderShare>),
    /// There is no such folder any more, and it is not shared any more.
    Gone,
}

impl Library {
    /// The folders that are shared as they lie on disk, which [`Library::add_folder`] made so. A fetched folder is not one of
    /// them: it is what was fetched, whatever becomes of it here.
    pub(crate) fn followed(&self) -> Result<Vec<Folder>, LibraryError> {
        let folders = self.folders().map_err(|source| LibraryError::io(&self.trees, source))?;
        Ok(folders.into_iter().filter(|folder| folder.follows).collect())
    }

    /// Where the folders lie that a refresh looks through besides the content folder, to be watched.
    ///
    /// # Errors
    ///
    /// [`LibraryError`] when their records cannot be listed.
    pub fn followed_folders(&self) -> Result<Vec<std::path::PathBuf>, LibraryError> {
        Ok(self.followed()?.into_iter().map(|folder| folder.path).collect())
    }

    /// Looks whether a shared folder is what it was. Nothing changes while a file in it was written to less than `rest` ago,
    /// or is being written to: [`AddError::Changed`].
    pub(crate) fn renew(
        &self,
        folder: &Folder,
        rest: Duration,
        stop: &dyn Fn() -> bool,
    ) -> Result<Renewed, AddFolderError> {
        let there = match std::fs::symlink_metadata(&folder.path) {
            // A link in its place leads to what was not said to share.
            Ok(there) => there.is_dir(),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                false
            }
            Err(error) => return Err(AddError::io(&folder.path, error).into()),
        };
        if !there {
            folder.forget(&self.dirs().map_err(|source| AddError::io(&folder.path, source))?);
            self.drop_manifest(&folder.hash)?;
            return Ok(Renewed::Gone);
        }
        let care = Care { rest, stop, before: Some(folder.hash) };
        let shared = self.share_folder(&folder.path, &care, |_| ())?;
        Ok(shared.map_or(Renewed::Same, |share| Renewed::Changed(Box::new(share))))
    }
}
