//! Bringing the library up to date with the disk.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::hash::FileHash;
use crate::index::{Change, Record};
use crate::library::{AddError, Library, LibraryError, Share, share};

/// Deepest nesting of folders that is looked through.
const DEPTH_MAX: usize = 64;

/// Most files and folders that one refresh looks at below the content folder.
const ENTRIES_MAX: usize = 1_000_000;

/// Changes that are written to the index together.
const BATCH: usize = 256;

/// What a refresh did.
#[derive(Debug, Default)]
pub struct Refreshed {
    /// Files that are shared now and were not before, or have new contents.
    pub added: Vec<Share>,
    /// Hashes that no file here has any more.
    pub removed: Vec<FileHash>,
    /// Files that could not be shared.
    pub failed: Vec<(PathBuf, AddError)>,
}

impl Library {
    /// Looks through the folder `content` and shares what is new or changed there; looks at everything else that is
    /// shared too, hashes again what changed and forgets what is gone.
    ///
    /// Symlinks are not followed and names that begin with a dot are left out (part-files are such). Unchanged files are not
    /// read. At most 64 levels of folders and 1,000,000 entries are looked at. A `content` that does not exist is an empty one.
    ///
    /// # Errors
    ///
    /// [`LibraryError`] when the index cannot be read or written, or `content` cannot be listed. Files that cannot be
    /// shared are no error, see [`Refreshed::failed`].
    pub fn refresh(&self, content: &Path) -> Result<Refreshed, LibraryError> {
        let mut paths = BTreeSet::new();
        match std::fs::canonicalize(content) {
            Ok(content) => find_files(&content, &mut paths).map_err(|e| LibraryError::io(&content, e))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(LibraryError::io(content, error)),
        }
        let mut before = BTreeSet::new();
        self.index.for_each(|path, record| {
            before.insert(record.hash);
            paths.insert(path);
            true
        })?;
        let mut work = Work { library: self, result: Refreshed::default(), changes: Vec::new() };
        for path in paths {
            work.look_at(path)?;
        }
        let mut result = work.end()?;
        for hash in before {
            if self.index.of_hash(&hash)?.is_empty() {
                self.drop_tree(&hash);
                result.removed.push(hash);
            }
        }
        Ok(result)
    }
}

struct Work<'a> {
    library: &'a Library,
    result: Refreshed,
    changes: Vec<Change>,
}

impl Work<'_> {
    fn look_at(&mut self, path: PathBuf) -> Result<(), LibraryError> {
        match self.library.unchanged(&path).and_then(|known| match known {
            Some(_) => Ok(None),
            None => self.library.hash(&path, |_, _| ()).map(Some),
        }) {
            Ok(None) => {}
            Ok(Some(record)) => self.add(path, record),
            Err(AddError::Index(error)) => return Err(error.into()),
            Err(error) => {
                // Gone, or not the file any more that was shared.
                self.changes.push(Change::Remove(path.clone()));
                let is_gone = matches!(&error, AddError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound);
                if !is_gone {
                    self.result.failed.push((path, error));
                }
            }
        }
        if self.changes.len() >= BATCH { self.flush() } else { Ok(()) }
    }

    fn add(&mut self, path: PathBuf, record: Record) {
        self.result.added.push(share(path.clone(), &record));
        self.changes.push(Change::Put(path, record));
    }

    fn flush(&mut self) -> Result<(), LibraryError> {
        self.library.index.apply(&self.changes)?;
        self.changes.clear();
        Ok(())
    }

    fn end(mut self) -> Result<Refreshed, LibraryError> {
        self.flush()?;
        Ok(self.result)
    }
}

/// Regular files below `root`. A folder that cannot be listed is skipped, unless it is the root.
fn find_files(root: &Path, files: &mut BTreeSet<PathBuf>) -> std::io::Result<()> {
    let mut folders = vec![(root.to_path_buf(), 0)];
    let mut seen = 0;
    while let Some((folder, depth)) = folders.pop() {
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if depth == 0 => return Err(error),
            Err(error) => {
                tracing::warn!(folder = %folder.display(), %error, "skipped");
                continue;
            }
        };
        for entry in entries {
            let entry = entry?;
            seen += 1;
            if seen > ENTRIES_MAX {
                tracing::warn!(limit = ENTRIES_MAX, "the content folder has more entries than are looked at");
                return Ok(());
            }
            // The type of the entry itself: a symlink is neither.
            let kind = entry.file_type()?;
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            if kind.is_dir() && depth < DEPTH_MAX {
                folders.push((entry.path(), depth + 1));
            } else if kind.is_file() {
                files.insert(entry.path());
            }
        }
    }
    Ok(())
}
