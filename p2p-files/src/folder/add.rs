//! Sharing a folder where it lies.

use std::fs::File;
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::entry::{Entry, EntryKind};
use super::manifest::{ManifestError, ManifestReader, ManifestWriter};
use super::path::EntryPath;
use super::record::{self, Folder};
use super::select::Selection;
use super::walk::{Found, LeftOut, LeftOutReason, Walk};
use crate::add::{hash_file, unwatched};
use crate::geometry::{CHUNK, Geometry};
use crate::hash::{FileHash, Info, Kind};
use crate::index::{Change, IndexError, Record};
use crate::library::{AddError, Library, LibraryError, Share, ShareState};

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
    /// was shared before and has changed gets a new hash, and the old one is forgotten.
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
        // Whoever cannot be looked into is not an empty folder.
        drop(std::fs::read_dir(&root).map_err(|source| AddError::io(&root, source))?);
        let dirs = self.dirs().map_err(|source| AddError::io(&root, source))?;
        if dirs.parent() == Some(&root) {
            return Err(AddFolderError::OwnData { path: root });
        }
        let new = dirs.join(self.temporary());
        let result = self.write_manifest(&root, &new, progress).and_then(|added| {
            let share = self.take_manifest(&new, &root)?;
            Ok(FolderShare { share: Share { bytes: added.bytes, ..share }, ..added })
        });
        if result.is_err() {
            let _ = std::fs::remove_file(&new);
        }
        let added = result?;
        let folder = Folder {
            hash: added.share.hash,
            path: root,
            complete: true,
            bytes: added.bytes,
            files: added.files,
            whole: added.bytes,
            selection: Selection::all(),
        };
        self.replace(&folder, &dirs)?;
        Ok(added)
    }

    fn write_manifest(
        &self,
        root: &Path,
        new: &Path,
        progress: impl FnMut(AddProgress),
    ) -> Result<FolderShare, AddFolderError> {
        let in_manifest = |source| AddFolderError::Manifest { path: root.to_path_buf(), source };
        let file = File::create(new).map_err(|source| AddError::io(new, source))?;
        let writer = ManifestWriter::new(BufWriter::new(file)).map_err(|e| in_manifest(e.into()))?;
        let adding =
            Adding { library: self, root, writer, batch: Vec::new(), done: AddProgress::default(), progress };
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
        out.and_then(|file| file.sync_all()).map_err(|e| in_manifest(e.into()))?;
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

    /// Hashes a manifest, gives it its name and shares it.
    fn take_manifest(&self, new: &Path, root: &Path) -> Result<Share, AddFolderError> {
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
        std::fs::rename(new, &name).map_err(io)?;
        let share = self.register(&name, info, tree.as_ref())?;
        Ok(Share { path: root.into(), name: name_of(root), ..share })
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

fn name_of(root: &Path) -> String {
    root.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// A folder on its way into the library.
struct Adding<'a, P> {
    library: &'a Library,
    root: &'a Path,
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
        let batch = std::mem::take(&mut self.batch);
        let hashed = self.library.hash_all(&batch);
        let mut changes = Vec::new();
        let mut replaced = Vec::new();
        let mut entries = Vec::new();
        for (found, hashed) in batch.into_iter().zip(hashed) {
            match (found, hashed) {
                (Found::EmptyFolder(path), _) => entries.push(Entry { path, kind: EntryKind::EmptyFolder }),
                (Found::File(path, there), Some(Ok(file))) => {
                    entries.push(file.entry(path));
                    if file.is_new {
                        replaced.extend(file.replaces);
                        changes.push(Change::Put(there, file.record));
                    }
                }
                (Found::File(..), Some(Err(AddError::Index(error)))) => return Err(error.into()),
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
    fn hash_all(&self, batch: &[Found]) -> Vec<Option<Result<Hashed, AddError>>> {
        let mut hashed: Vec<_> = batch.iter().map(|_| None).collect();
        let cores = thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
        let next = AtomicUsize::new(0);
        let work = || {
            let mut part = Vec::new();
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                match batch.get(at) {
                    Some(Found::File(_, path)) => {
                        part.extend(self.look_at(path, false).map(|file| (at, file)))
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
                *hashed = self.look_at(path, true);
            }
        }
        hashed
    }

    /// The record of a file; `None` for a large one that would have to be read.
    fn look_at(&self, path: &Path, large: bool) -> Option<Result<Hashed, AddError>> {
        let look = || {
            let metadata = std::fs::symlink_metadata(path).map_err(|source| AddError::io(path, source))?;
            if !metadata.is_file() {
                return Err(AddError::Changed { path: path.to_path_buf() });
            }
            let executable = is_executable(&metadata);
            let known = self.index.of_path(path)?;
            let replaces = known.as_ref().map(|known| known.hash);
            if let Some(record) = known.filter(|record| self.is_unchanged(record, &metadata)) {
                return Ok(Some(Hashed { record, executable, is_new: false, replaces: None }));
            }
            if metadata.len() > CHUNK as u64 && !large {
                return Ok(None);
            }
            let record = self.hash(path, Kind::File, unwatched)?;
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
