//! Sharing a folder where it lies.

use std::fs::File;
use std::io::{self, BufWriter};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use super::entry::{Entry, EntryKind};
use super::manifest::{ManifestError, ManifestWriter};
use super::path::EntryPath;
use super::record::Folder;
use super::select::Selection;
use super::shares::name_of;
use super::walk::{Found, LeftOut, LeftOutReason, Walk};
use crate::add::{hash_file, unwatched};
use crate::disk::Stamp;
use crate::error::{AddError, LibraryError};
use crate::geometry::{CHUNK, Geometry};
use crate::hash::{FileHash, Info, Kind};
use crate::index::{Change, IndexError, Record};
use crate::library::{Library, Share, ShareState};

/// Files that are hashed side by side and written to the index together.
const BATCH: usize = 1_024;

/// Most threads that hash small files.
const THREADS_MAX: usize = 8;

/// A folder that was shared.
#[derive(Debug)]
pub struct FolderShare {
    /// Its hash, where it lies, and what it is called; [`Share::info`] is that of its manifest.
    pub share: Share,
    /// Bytes of its files.
    pub bytes: u64,
    /// Number of its files.
    pub files: u64,
    /// Number of its entries: files and empty folders.
    pub entries: u64,
    /// What in it is not shared.
    pub left_out: LeftOut,
    /// Names in it that differ from another only in case: Windows and macOS will number them.
    pub clashes: u64,
}

/// How far the sharing of a folder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AddProgress {
    /// Files looked at.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A folder could not be shared; what was shared before is still shared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AddFolderError {
    /// It could not be read, or the index failed.
    #[error(transparent)]
    Add(#[from] AddError),
    /// It is the data directory, which holds the secret key of a node.
    #[error("{} is the data directory and is not shared", path.display())]
    OwnData {
        /// The folder.
        path: PathBuf,
    },
    /// Its manifest could not be written, or is beyond the limits.
    #[error("cannot share {} as a folder: {source}", path.display())]
    Manifest {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: ManifestError,
    },
    /// The manifest could not be entered.
    #[error(transparent)]
    Library(#[from] LibraryError),
}

impl From<IndexError> for AddFolderError {
    fn from(error: IndexError) -> Self {
        Self::Add(error.into())
    }
}

impl Library {
    /// Shares the folder at `path` where it lies: every file in it by itself, and the whole by its manifest.
    ///
    /// Symlinks are not followed (one that is named here is), names that receivers would refuse are left out, and
    /// [`FolderShare::left_out`] tells both. Files that are shared already and did not change are not read again. A folder that
    /// was shared before and has changed gets a new hash, and the old one is forgotten; [`Library::refresh`] does that too.
    ///
    /// # Errors
    ///
    /// [`AddFolderError`]: not a folder, too large, or the disk fails. Files that were hashed until then are shared.
    pub fn add_folder(
        &self,
        path: &Path,
        progress: impl FnMut(AddProgress),
    ) -> Result<FolderShare, AddFolderError> {
        let root = std::fs::canonicalize(path).map_err(|source| AddError::io(path, source))?;
        let care = Care { rest: Duration::ZERO, stop: &|| false, before: None };
        let shared = self.share_folder(&root, &care, progress)?;
        Ok(shared.expect("only what was shared before can be the same"))
    }

    /// Shares the folder with this real path, unless it is what it was before: then it is `None`.
    pub(super) fn share_folder(
        &self,
        root: &Path,
        care: &Care<'_>,
        progress: impl FnMut(AddProgress),
    ) -> Result<Option<FolderShare>, AddFolderError> {
        // Whoever cannot be looked into is not an empty folder.
        drop(std::fs::read_dir(root).map_err(|source| AddError::io(root, source))?);
        let dirs = self.dirs().map_err(|source| AddError::io(root, source))?;
        if dirs.parent() == Some(root) {
            return Err(AddFolderError::OwnData { path: root.to_path_buf() });
        }
        let new = dirs.join(self.temporary());
        let result = self.write_manifest(root, &new, care, progress).and_then(|added| {
            let share = self.take_manifest(&new, root, care)?;
            Ok(share.map(|share| FolderShare { share: Share { bytes: added.bytes, ..share }, ..added }))
        });
        if !matches!(result, Ok(Some(_))) {
            let _ = std::fs::remove_file(&new);
        }
        let Some(added) = result? else { return Ok(None) };
        let folder = Folder {
            hash: added.share.hash,
            path: root.to_path_buf(),
            complete: true,
            follows: true,
            bytes: added.bytes,
            files: added.files,
            whole: added.bytes,
            selection: Selection::all(),
        };
        self.replace(&folder, &dirs)?;
        Ok(Some(added))
    }

    fn write_manifest(
        &self,
        root: &Path,
        new: &Path,
        care: &Care<'_>,
        progress: impl FnMut(AddProgress),
    ) -> Result<FolderShare, AddFolderError> {
        let in_manifest = |source| AddFolderError::Manifest { path: root.to_path_buf(), source };
        let file = File::create(new).map_err(|source| AddError::io(new, source))?;
        let writer = ManifestWriter::new(BufWriter::new(file)).map_err(|e| in_manifest(e.into()))?;
        let (batch, done) = (Vec::new(), AddProgress::default());
        let adding = Adding { library: self, root, care, writer, batch, done, progress };
        let adding = std::cell::RefCell::new(adding);
        let own = self.dirs().map_err(|source| AddError::io(root, source))?;
        let own = own.parent().unwrap_or(&own).canonicalize().unwrap_or_default();
        let mut walk = Walk {
            own: &own,
            left_out: LeftOut::default(),
            clashes: 0,
            visit: |found, left_out: &mut LeftOut| adding.borrow_mut().take(found, left_out),
        };
        walk.folder(root, None, 0)?;
        let (mut left_out, clashes) = (walk.left_out, walk.clashes);
        let mut adding = adding.into_inner();
        adding.flush(&mut left_out)?;
        let (entries, bytes, files) = (adding.writer.entries(), adding.writer.total(), adding.done.files);
        let out = adding.writer.finish().and_then(|out| out.into_inner().map_err(io::Error::from));
        out.map_err(|e| in_manifest(e.into()))?;
        let info = Info { kind: Kind::Dir, length: 0, root: [0; 32] };
        let share = Share {
            hash: info.hash(),
            info,
            path: root.into(),
            name: String::new(),
            bytes,
            state: ShareState::Shared,
        };
        Ok(FolderShare { share, bytes, files, entries, left_out, clashes })
    }

    /// Hashes a manifest, gives it its name and shares it; `None` if it is the one there was before.
    fn take_manifest(
        &self,
        new: &Path,
        root: &Path,
        care: &Care<'_>,
    ) -> Result<Option<Share>, AddFolderError> {
        let io = |source| AddError::io(new, source);
        let file = File::open(new).map_err(io)?;
        let length = file.metadata().map_err(io)?.len();
        let too_large = || AddError::TooLarge { path: new.to_path_buf(), length };
        let geometry = Geometry::new(length).ok_or_else(too_large)?;
        let tree = self.new_tree(geometry).map_err(io)?;
        let info = Info {
            kind: Kind::Dir,
            length,
            root: hash_file(&file, geometry, tree.as_ref(), unwatched).map_err(io)?,
        };
        let name = new.with_file_name(info.hash().to_string());
        if let Some(before) = care.before {
            let is_same = before == info.hash();
            if is_same && matches!(self.unchanged(&name), Ok(Some(served)) if served.hash == before) {
                return Ok(None);
            }
            // Taken back meanwhile.
            let folders = self.folders().map_err(io)?;
            if !folders.iter().any(|folder| folder.hash == before && folder.path == root) {
                return Ok(None);
            }
        }
        file.sync_all().map_err(io)?;
        std::fs::rename(new, &name).map_err(io)?;
        let share = self.register(&name, info, tree.as_ref())?;
        Ok(Some(Share { path: root.into(), name: name_of(root), ..share }))
    }

    /// Records a folder; what else lay at its path is not there any more.
    pub(super) fn replace(&self, folder: &Folder, dirs: &Path) -> Result<(), AddFolderError> {
        folder.save(dirs).map_err(|source| AddError::io(&folder.path, source))?;
        for old in self.folders().map_err(|source| AddError::io(dirs, source))? {
            if old.path == folder.path && old.hash != folder.hash {
                old.forget(dirs);
                self.drop_manifest(&old.hash)?;
            }
        }
        Ok(())
    }
}

/// How a folder is walked through.
pub(super) struct Care<'a> {
    /// A file that was written to less than this ago ends it, with [`AddError::Changed`]. Zero: it is shared as it is.
    pub(super) rest: Duration,
    /// Ends it, with [`AddError::Stopped`].
    pub(super) stop: &'a dyn Fn() -> bool,
    /// What it was when it was shared before, and nobody asked for it now: what was taken back stays so.
    pub(super) before: Option<FileHash>,
}

/// A folder on its way into the library.
struct Adding<'a, P> {
    library: &'a Library,
    root: &'a Path,
    care: &'a Care<'a>,
    writer: ManifestWriter<BufWriter<File>>,
    batch: Vec<Found>,
    done: AddProgress,
    progress: P,
}

impl<P: FnMut(AddProgress)> Adding<'_, P> {
    fn take(&mut self, found: Found, left_out: &mut LeftOut) -> Result<(), AddFolderError> {
        self.batch.push(found);
        if self.batch.len() >= BATCH { self.flush(left_out) } else { Ok(()) }
    }

    /// Hashes what has gathered, shares it and writes it down, in order.
    fn flush(&mut self, left_out: &mut LeftOut) -> Result<(), AddFolderError> {
        if (self.care.stop)() {
            return Err(AddError::Stopped { path: self.root.to_path_buf() }.into());
        }
        let batch = std::mem::take(&mut self.batch);
        let hashed = self.library.hash_all(&batch, self.care);
        let mut changes = Vec::new();
        let mut replaced = Vec::new();
        let mut entries = Vec::new();
        for (found, hashed) in batch.into_iter().zip(hashed) {
            match (found, hashed) {
                (Found::EmptyFolder(path), _) => entries.push(Entry { path, kind: EntryKind::EmptyFolder }),
                (Found::File(_, there), Some(Ok(file))) if file.record.withheld => {
                    left_out.add(there, LeftOutReason::TakenBack);
                }
                (Found::File(path, there), Some(Ok(file))) => {
                    entries.push(file.entry(path));
                    if file.is_new {
                        replaced.extend(file.replaces);
                        changes.push(Change::Put(there, file.record));
                    }
                }
                (Found::File(..), Some(Err(AddError::Index(error)))) => return Err(error.into()),
                (Found::File(..), Some(Err(error @ AddError::Stopped { .. }))) => return Err(error.into()),
                (Found::File(..), Some(Err(error @ AddError::Changed { .. })))
                    if !self.care.rest.is_zero() =>
                {
                    return Err(error.into());
                }
                (Found::File(_, there), Some(Err(error))) => {
                    left_out.add(there, LeftOutReason::of(&error));
                }
                (Found::File(_, there), None) => {
                    left_out.add(there, LeftOutReason::Unreadable("not looked at".to_owned()));
                }
            }
        }
        self.library.index.apply(&changes)?;
        replaced.iter().for_each(|hash| self.library.drop_tree(hash));
        for entry in entries {
            self.done.bytes += entry.length();
            self.done.files += u64::from(entry.kind != EntryKind::EmptyFolder);
            let path = self.root.to_path_buf();
            self.writer.push(&entry).map_err(|source| AddFolderError::Manifest { path, source })?;
        }
        (self.progress)(self.done);
        Ok(())
    }
}

/// A file that was looked at.
struct Hashed {
    record: Record,
    executable: bool,
    /// The index does not have it yet.
    is_new: bool,
    /// What its path had before.
    replaces: Option<FileHash>,
}

impl Hashed {
    const fn entry(&self, path: EntryPath) -> Entry {
        let Record { hash, info, .. } = self.record;
        Entry { path, kind: EntryKind::File { length: info.length, hash, executable: self.executable } }
    }
}

impl Library {
    /// The records of all files of a batch, hashed where that is needed: small files side by side, then each large one on
    /// all cores. `None` for what is no file.
    fn hash_all(&self, batch: &[Found], care: &Care<'_>) -> Vec<Option<Result<Hashed, AddError>>> {
        let mut hashed: Vec<_> = batch.iter().map(|_| None).collect();
        let cores = thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
        let next = AtomicUsize::new(0);
        let (rest, again) = (care.rest, care.before.is_some());
        let work = || {
            let mut part = Vec::new();
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                match batch.get(at) {
                    Some(Found::File(_, path)) => {
                        part.extend(self.look_at(path, rest, again, None).map(|file| (at, file)))
                    }
                    Some(Found::EmptyFolder(_)) => {}
                    None => return part,
                }
            }
        };
        let parts: Vec<_> = thread::scope(|scope| {
            let helpers: Vec<_> = (1..cores.min(batch.len())).map(|_| scope.spawn(work)).collect();
            let own = work();
            // A thread that panicked has nothing to say; what it had taken is looked at below.
            helpers.into_iter().filter_map(|helper| helper.join().ok()).chain([own]).collect()
        });
        for (at, file) in parts.into_iter().flatten() {
            hashed[at] = Some(file);
        }
        for (found, hashed) in batch.iter().zip(&mut hashed) {
            if let (Found::File(_, path), None) = (found, &hashed) {
                *hashed = self.look_at(path, rest, again, Some(care.stop));
            }
        }
        hashed
    }

    /// The record of a file; `None` for a large one that would have to be read, unless it is known when to `stop` that.
    fn look_at(
        &self,
        path: &Path,
        rest: Duration,
        again: bool,
        stop: Option<&dyn Fn() -> bool>,
    ) -> Option<Result<Hashed, AddError>> {
        let look = || {
            let metadata = std::fs::symlink_metadata(path).map_err(|source| AddError::io(path, source))?;
            if !metadata.is_file() {
                return Err(AddError::Changed { path: path.to_path_buf() });
            }
            let executable = is_executable(&metadata);
            let known = self.index.of_path(path)?;
            let replaces = known.as_ref().map(|known| known.hash);
            let stays = |record: &Record| (again && record.withheld) || self.is_unchanged(record, &metadata);
            if let Some(record) = known.filter(stays) {
                return Ok(Some(Hashed { record, executable, is_new: false, replaces: None }));
            }
            if !rest.is_zero() && !Stamp::of(&metadata).rests(SystemTime::now(), rest) {
                return Err(AddError::Changed { path: path.to_path_buf() });
            }
            let record = match stop {
                None if metadata.len() > CHUNK as u64 => return Ok(None),
                None => self.hash(path, Kind::File, unwatched)?,
                Some(stop) => {
                    let unless_stopped =
                        |_, _| if stop() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
                    self.hash(path, Kind::File, unless_stopped)?
                }
            };
            Ok(Some(Hashed { record, executable, is_new: true, replaces }))
        };
        look().transpose()
    }
}

#[cfg(unix)]
pub(super) fn is_executable(metadata: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    metadata.permissions().mode() & 0o100 != 0
}

/// Elsewhere the name says it.
#[cfg(not(unix))]
pub(super) fn is_executable(_metadata: &std::fs::Metadata) -> bool {
    false
}
