//! Bringing the library up to date with the disk.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::disk::Stamp;
use crate::error::{AddError, LibraryError};
use crate::folder::{AddFolderError, Folder, FolderShare, Renewed};
use crate::hash::{FileHash, Kind};
use crate::index::{Change, Record};
use crate::library::{Library, Share, share};

/// Deepest nesting of folders that is looked through.
const DEPTH_MAX: usize = 64;

/// Most files and folders that one refresh looks at below the content folder.
const ENTRIES_MAX: usize = 1_000_000;

/// Changes that are written to the index together: one sync for so many small files.
const BATCH: usize = 4096;

/// Bytes hashed after which they are written in any case, so that a kill costs seconds of hashing and no more.
const BATCH_BYTES: u64 = 1 << 30;

/// Most paths a refresh names for another look; beyond, it says that it left out some.
const UNSETTLED_MAX: usize = 4096;

/// What a refresh did.
#[derive(Debug, Default)]
pub struct Refreshed {
    /// Files that are shared now and were not before, or have new contents; by path.
    pub added: Vec<Share>,
    /// Folders shared with [`Library::add_folder`] that changed, each with its new hash; the old ones are among `removed`. What
    /// changed in them is not in `added`.
    pub folders: Vec<FolderShare>,
    /// Hashes that no file here has any more, and no folder.
    pub removed: Vec<FileHash>,
    /// Files that could not be shared.
    pub failed: Vec<(PathBuf, AddError)>,
    /// Files that were being written to: look at them again later. Of [`Library::refresh_at_rest`] only; at most 4,096.
    pub unsettled: Vec<PathBuf>,
    /// There were more of these, which are not named: look at everything again later.
    pub more_unsettled: bool,
}

impl Library {
    /// Looks through the folder `content` and shares what is new or changed there; looks at everything else that is
    /// shared too, hashes again what changed and forgets what is gone. Shared folders are walked through, and shared under
    /// their new hash if they changed; one that was fetched keeps the hash under which it was.
    ///
    /// Symlinks are not followed and names that begin with a dot are left out (part-files are such). Unchanged files are not
    /// read. At most 64 levels of folders and 1,000,000 entries are looked at. A `content` that does not exist is an empty one.
    /// What was taken back with [`Library::remove`] is left alone.
    ///
    /// # Errors
    ///
    /// [`LibraryError`] when the index cannot be read or written, or `content` cannot be listed. Files that cannot be
    /// shared are no error, see [`Refreshed::failed`].
    pub fn refresh(&self, content: &Path) -> Result<Refreshed, LibraryError> {
        self.refresh_at_rest(content, None, Duration::ZERO, || false)
    }

    /// As [`Library::refresh`], for who watches the disk: files that were written to less than `rest` ago are not shared yet,
    /// and not any more as they were; they are named in [`Refreshed::unsettled`].
    ///
    /// A shared folder in which there is such a file stays as it was shared until it is at rest.
    ///
    /// With `only`, just these files are looked at, and what lies below those that are folders, and the shared folders they are
    /// in; a path that is neither shared nor in `content` is passed over. When `stop` says so it ends, with what was done so far; a file at hand is
    /// as it was.
    ///
    /// # Errors
    ///
    /// As [`Library::refresh`].
    pub fn refresh_at_rest(
        &self,
        content: &Path,
        only: Option<&[PathBuf]>,
        rest: Duration,
        stop: impl Fn() -> bool,
    ) -> Result<Refreshed, LibraryError> {
        let content = match std::fs::canonicalize(content) {
            Ok(content) => Some(content),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(LibraryError::io(content, error)),
        };
        let mut work = Work {
            library: self,
            content,
            followed: self.followed()?,
            rest,
            stop: &stop,
            result: Refreshed::default(),
            changes: Vec::new(),
            hashed: 0,
            lost: BTreeSet::new(),
        };
        match only {
            Some(paths) => paths.iter().try_for_each(|path| work.look_at_or_below(path))?,
            None => work.look_at_all()?,
        }
        work.renew_folders(only)?;
        work.end()
    }
}

struct Work<'a> {
    library: &'a Library,
    /// The real path of the content folder, if there is one.
    content: Option<PathBuf>,
    /// Folders that are shared as they lie.
    followed: Vec<Folder>,
    rest: Duration,
    stop: &'a dyn Fn() -> bool,
    result: Refreshed,
    changes: Vec<Change>,
    /// Bytes hashed since changes were written last.
    hashed: u64,
    /// Hashes that a path had and has no more.
    lost: BTreeSet<FileHash>,
}

impl Work<'_> {
    fn look_at_all(&mut self) -> Result<(), LibraryError> {
        let mut stale = Vec::new();
        self.library.index.for_each(|path, record| {
            let metadata = std::fs::symlink_metadata(&path);
            let current = metadata.is_ok_and(|now| {
                if record.withheld {
                    self.is_content(&path) || self.is_followed(&path)
                } else {
                    self.library.is_unchanged(&record, &now)
                }
            });
            if !current {
                stale.push(path);
            }
            !(self.stop)()
        })?;
        stale.into_iter().try_for_each(|path| self.look_at(path))?;
        let Some(content) = self.content.clone() else { return Ok(()) };
        let listed = std::fs::read_dir(&content).map(drop);
        listed.map_err(|error| LibraryError::io(&content, error))?;
        self.look_for_new(&content)
    }

    /// Shares what is new in a folder of the content folder.
    fn look_for_new(&mut self, folder: &Path) -> Result<(), LibraryError> {
        walk(folder, &mut |path| {
            if (self.stop)() {
                return Ok(false);
            }
            if self.library.index.of_path(&path)?.is_none() {
                self.look_at(path)?;
            }
            Ok(true)
        })
    }

    fn look_at_or_below(&mut self, path: &Path) -> Result<(), LibraryError> {
        let is_dir = std::fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
        if !is_dir && (self.library.index.of_path(path)?.is_some() || self.is_new_content(path)) {
            self.look_at(path.to_path_buf())?;
        }
        for (below, _) in self.library.index.below(path)? {
            self.look_at(below)?;
        }
        if is_dir && self.is_content(path) { self.look_for_new(path) } else { Ok(()) }
    }

    fn is_content(&self, path: &Path) -> bool {
        let below = self.content.as_ref().and_then(|content| path.strip_prefix(content).ok());
        below.is_some_and(|below| !below.iter().any(|name| name.as_encoded_bytes().starts_with(b".")))
    }

    /// Whether it is in a folder that is shared as it lies.
    fn is_followed(&self, path: &Path) -> bool {
        self.followed.iter().any(|folder| path.starts_with(&folder.path))
    }

    /// Gives the folders that changed their new hash; with `only`, those that hold one of these paths or lie below one.
    fn renew_folders(&mut self, only: Option<&[PathBuf]>) -> Result<(), LibraryError> {
        // What is known of the files in them by now.
        self.flush()?;
        for folder in std::mem::take(&mut self.followed) {
            let concerns = |path: &PathBuf| path.starts_with(&folder.path) || folder.path.starts_with(path);
            let is_restless = self.result.unsettled.iter().any(|path| path.starts_with(&folder.path));
            if (self.stop)() || is_restless || !only.is_none_or(|only| only.iter().any(concerns)) {
                continue;
            }
            match self.library.renew(&folder, self.rest, self.stop) {
                Ok(Renewed::Same) | Err(AddFolderError::Add(AddError::Stopped { .. })) => {}
                // Its manifest was damaged and is made again.
                Ok(Renewed::Changed(share)) if share.share.hash == folder.hash => {}
                Ok(Renewed::Changed(share)) => {
                    self.lost.insert(folder.hash);
                    self.result.folders.push(*share);
                }
                Ok(Renewed::Gone) => {
                    self.lost.insert(folder.hash);
                }
                Err(AddFolderError::Add(AddError::Changed { path })) if !self.rest.is_zero() => {
                    self.put_off(path, None);
                }
                Err(AddFolderError::Add(AddError::Index(error))) => return Err(error.into()),
                Err(AddFolderError::Library(error)) => return Err(error),
                Err(AddFolderError::Add(error)) => self.result.failed.push((folder.path, error)),
                Err(error) => {
                    let error = AddError::io(&folder.path, std::io::Error::other(error));
                    self.result.failed.push((folder.path, error));
                }
            }
        }
        Ok(())
    }

    /// Whether it is a file of the content folder, reached without a link.
    fn is_new_content(&self, path: &Path) -> bool {
        self.is_content(path) && std::fs::canonicalize(path).is_ok_and(|real| real == path)
    }

    fn look_at(&mut self, path: PathBuf) -> Result<(), LibraryError> {
        if (self.stop)() {
            return Ok(());
        }
        let old = self.library.index.of_path(&path)?;
        let metadata = match std::fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            Err(source) => return self.give_up(path.clone(), old, AddError::io(&path, source)),
        };
        match &old {
            Some(old) if old.withheld && (self.is_content(&path) || self.is_followed(&path)) => return Ok(()),
            // Elsewhere nothing is shared unasked, so there is nothing to remember.
            Some(old) if old.withheld => return self.change(Change::Remove(path)),
            Some(old) if self.library.is_unchanged(old, &metadata) => return Ok(()),
            _ => {}
        }
        // It was a file; what a link in its place leads to was not asked for.
        if !metadata.is_file() {
            return self.give_up(path.clone(), old, AddError::NotRegular { path });
        }
        if !self.rest.is_zero() && !Stamp::of(&metadata).rests(SystemTime::now(), self.rest) {
            self.put_off(path, old.as_ref());
            return Ok(());
        }
        let until_stopped =
            |_, _| if (self.stop)() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        let kind = old.as_ref().map_or(Kind::File, |old| old.info.kind);
        match self.library.hash(&path, kind, until_stopped) {
            Err(AddError::Stopped { .. }) => Ok(()),
            Ok(record) if kind == Kind::Dir => self.manifest(path, old, record),
            Ok(record) => {
                self.lose(old.as_ref().filter(|old| old.hash != record.hash));
                self.hashed += record.info.length;
                if self.is_content(&path) || !self.is_followed(&path) {
                    self.result.added.push(share(path.clone(), &record));
                }
                self.change(Change::Put(path, record))
            }
            Err(AddError::Index(error)) => Err(error.into()),
            Err(AddError::Changed { .. }) if !self.rest.is_zero() => {
                self.put_off(path, old.as_ref());
                Ok(())
            }
            Err(error) => self.give_up(path, old, error),
        }
    }

    /// A manifest was touched. Its name is its content: it is what it was, or no manifest.
    fn manifest(&mut self, path: PathBuf, old: Option<Record>, now: Record) -> Result<(), LibraryError> {
        if old.as_ref().is_some_and(|old| old.hash == now.hash) {
            return self.change(Change::Put(path, now));
        }
        self.library.drop_tree(&now.hash);
        self.give_up(path.clone(), old, AddError::Changed { path })
    }

    /// It is being written to: it is not what it was, and not yet what it will be.
    fn put_off(&mut self, path: PathBuf, old: Option<&Record>) {
        if let Some(old) = old.filter(|old| !old.gone) {
            self.library.mark_gone(&path, old);
        }
        if self.result.unsettled.len() < UNSETTLED_MAX {
            self.result.unsettled.push(path);
        } else {
            self.result.more_unsettled = true;
        }
    }

    /// It is gone, or not the file any more that was shared.
    fn give_up(&mut self, path: PathBuf, old: Option<Record>, error: AddError) -> Result<(), LibraryError> {
        let is_gone =
            matches!(&error, AddError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound);
        if !is_gone {
            self.result.failed.push((path.clone(), error));
        }
        let Some(old) = old else { return Ok(()) };
        self.lose(Some(&old));
        self.change(Change::Remove(path))
    }

    fn lose(&mut self, old: Option<&Record>) {
        self.lost.extend(old.filter(|old| !old.withheld).map(|old| old.hash));
    }

    fn change(&mut self, change: Change) -> Result<(), LibraryError> {
        self.changes.push(change);
        if self.changes.len() >= BATCH || self.hashed >= BATCH_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), LibraryError> {
        self.library.index.apply(&self.changes)?;
        self.changes.clear();
        self.hashed = 0;
        Ok(())
    }

    fn end(mut self) -> Result<Refreshed, LibraryError> {
        self.flush()?;
        let mut result = self.result;
        for hash in self.lost {
            if self.library.index.of_hash(&hash)?.is_empty() {
                self.library.drop_tree(&hash);
                result.removed.push(hash);
            }
        }
        result.added.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(result)
    }
}

/// Calls `with` for every regular file below `root`, until it returns false. A folder that cannot be listed is skipped.
fn walk(
    root: &Path,
    with: &mut dyn FnMut(PathBuf) -> Result<bool, LibraryError>,
) -> Result<(), LibraryError> {
    let mut folders = vec![(root.to_path_buf(), 0)];
    let mut seen = 0;
    while let Some((folder, depth)) = folders.pop() {
        let skipped = |error| tracing::warn!(folder = %folder.display(), %error, "skipped");
        let Ok(entries) = std::fs::read_dir(&folder).map_err(skipped) else { continue };
        for entry in entries {
            let Ok(entry) = entry.map_err(skipped) else { break };
            seen += 1;
            if seen > ENTRIES_MAX {
                tracing::warn!(limit = ENTRIES_MAX, "the content folder has more entries than are looked at");
                return Ok(());
            }
            // The type of the entry itself: a symlink is neither.
            let Ok(kind) = entry.file_type().map_err(skipped) else { continue };
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            if kind.is_dir() && depth < DEPTH_MAX {
                folders.push((entry.path(), depth + 1));
            } else if kind.is_file() && !with(entry.path())? {
                return Ok(());
            }
        }
    }
    Ok(())
}
