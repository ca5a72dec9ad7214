//! What this node shares: an index of files that stay where they lie, and the trees to prove them with.

use std::fs::{File, Metadata};
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::add::hash_file;
use crate::disk::{self, Stamp};
use crate::geometry::{Geometry, LENGTH_MAX};
use crate::hash::{FileHash, Info, Kind};
use crate::index::{Change, Index, IndexError, Record};
use crate::open::OpenShare;
use crate::running::Running;
use crate::tree::{Tree, TreeWriter};

/// A file that this node has, or had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// Its content hash.
    pub hash: FileHash,
    /// What the hash is made of: kind, length, root.
    pub info: Info,
    /// Where it lies, absolute; of a folder, the folder. Equal files at several paths are one share; this is one of the paths.
    pub path: PathBuf,
    /// The last part of the path, for people; what is not Unicode in it is replaced.
    pub name: String,
    /// Bytes of the file, or of all files of the folder.
    pub bytes: u64,
    /// Whether it can be had from us.
    pub state: ShareState,
}

/// Whether a [`Share`] can be had from us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ShareState {
    /// It is served to whoever asks for its hash.
    Shared,
    /// Of a folder: some of its files are here, and served.
    Partial,
    /// The file changed or vanished; it is not served until it is added again.
    Gone,
}

/// The share index of one node, in one directory.
///
/// Everything here blocks on the disk: call it from a blocking thread. It may be used from many threads at once.
///
/// ```
/// use p2p_files::Library;
///
/// let dir = tempfile::tempdir()?;
/// let library = Library::open(&dir.path().join("data"))?;
/// let file = dir.path().join("notes.txt");
/// std::fs::write(&file, "hello")?;
/// let share = library.add(&file, |_done, _total| ())?;
/// assert_eq!(library.get(&share.hash), Some(share));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Library {
    pub(crate) index: Index,
    pub(crate) trees: PathBuf,
    pub(crate) running: Running,
    warnings: Vec<LibraryWarning>,
    temporary: AtomicU64,
}

impl Library {
    /// Opens the library in `dir`, which is made if it is missing: `shares.redb` (made by the first write) and `trees/`.
    ///
    /// A damaged index is moved aside as `shares.redb.corrupt-<seconds since 1970>` and an empty one takes its place;
    /// [`Library::warnings`] says so. Shared files themselves are never touched.
    ///
    /// # Errors
    ///
    /// [`LibraryError`] when the directory cannot be used or another process has the index open.
    pub fn open(dir: &Path) -> Result<Self, LibraryError> {
        let trees = dir.join("trees");
        std::fs::create_dir_all(&trees).map_err(|source| LibraryError::io(&trees, source))?;
        let path = dir.join("shares.redb");
        let mut warnings = Vec::new();
        let index = match Index::open(path.clone()) {
            Err(IndexError::Damaged { .. }) => {
                let moved_to = move_aside(&path).map_err(|source| LibraryError::io(&path, source))?;
                tracing::warn!(to = %moved_to.display(), "the share index was damaged and is moved aside");
                warnings.push(LibraryWarning::DamagedIndex { moved_to });
                Index::open(path)?
            }
            other => other?,
        };
        Ok(Self { index, trees, running: Running::default(), warnings, temporary: AtomicU64::new(0) })
    }

    /// What was out of order when the library was opened.
    #[must_use]
    pub fn warnings(&self) -> &[LibraryWarning] {
        &self.warnings
    }

    /// Shares the file at `path` where it lies: hashes it on all cores, copies nothing.
    ///
    /// A symlink that is named here is followed: the person who named it meant the file. `progress` gets bytes hashed
    /// and bytes in all. A path that is already shared and has the same size, mtime, ctime and inode is not read again.
    ///
    /// # Errors
    ///
    /// [`AddError`]: not a regular file, not readable, or changed while it was read. The index is as it was before.
    pub fn add(&self, path: &Path, mut progress: impl FnMut(u64, u64)) -> Result<Share, AddError> {
        let path = std::fs::canonicalize(path).map_err(|source| AddError::io(path, source))?;
        let record = match self.unchanged(&path)? {
            Some(record) => record,
            None => {
                let record = self.hash(&path, Kind::File, |done, total| {
                    progress(done, total);
                    ControlFlow::Continue(())
                })?;
                let old = self.index.of_path(&path)?;
                self.index.apply(&[Change::Put(path.clone(), record.clone())])?;
                if let Some(old) = old {
                    self.drop_tree(&old.hash);
                }
                record
            }
        };
        Ok(share(path, &record))
    }

    /// The share with this hash, if its file is there and is what it was when it was shared, as far as its size and times
    /// tell. A file that is not is marked [`ShareState::Gone`].
    ///
    /// An index that cannot be read is logged and counts as empty.
    #[must_use]
    pub fn on_offer(&self, hash: &FileHash) -> Option<Share> {
        let found = self.index.of_hash(hash).unwrap_or_else(|error| {
            tracing::error!(%error, "looking up a share");
            Vec::new()
        });
        let mut found = found.into_iter().filter(|(_, record)| !record.gone).find_map(|(path, record)| {
            if std::fs::symlink_metadata(&path).is_ok_and(|now| Stamp::of(&now) == record.stamp) {
                return Some(share(path, &record));
            }
            self.mark_gone(&path, &record);
            None
        });
        self.name_folders(found.as_mut_slice());
        found
    }

    /// The share with this hash. Reads the index only; whether the file is still there shows when it is served.
    ///
    /// An index that cannot be read is logged and counts as empty.
    #[must_use]
    pub fn get(&self, hash: &FileHash) -> Option<Share> {
        let found = self.index.of_hash(hash).unwrap_or_else(|error| {
            tracing::error!(%error, "looking up a share");
            Vec::new()
        });
        let mut found = found.first().map(|(path, record)| share(path.clone(), record));
        self.name_folders(found.as_mut_slice());
        found
    }

    /// Whether a download of this hash is under way that gives others what it has.
    #[must_use]
    pub fn is_fetching(&self, hash: &FileHash) -> bool {
        self.running.find(hash).is_some()
    }

    /// All shares, by hash. Equal files at several paths are one entry.
    #[must_use]
    pub fn list(&self) -> Vec<Share> {
        let mut all: Vec<Share> = Vec::new();
        let result = self.index.for_each(|path, record| {
            if !record.withheld {
                all.push(share(path, &record));
            }
            true
        });
        if let Err(error) = result {
            tracing::error!(%error, "listing shares");
        }
        all.sort_by(|a, b| {
            let key = |s: &Share| (s.hash, s.state == ShareState::Gone);
            key(a).cmp(&key(b)).then_with(|| a.path.cmp(&b.path))
        });
        all.dedup_by_key(|share| share.hash);
        self.name_folders(&mut all);
        all
    }

    /// Stops sharing this hash, at all its paths; false if it was not shared. The files stay, and a refresh does not share
    /// these paths again, whatever is in them; adding them does.
    ///
    /// # Errors
    ///
    /// [`LibraryError`] when the index cannot be written.
    pub fn remove(&self, hash: &FileHash) -> Result<bool, LibraryError> {
        let found = self.index.of_hash(hash)?;
        let withhold = |(path, record): (PathBuf, Record)| match path.symlink_metadata() {
            Ok(_) => Change::Put(path, Record { withheld: true, ..record }),
            Err(_) => Change::Remove(path),
        };
        let changes: Vec<Change> = found.into_iter().map(withhold).collect();
        self.index.apply(&changes)?;
        self.drop_tree(hash);
        Ok(!changes.is_empty())
    }

    /// Opens a share for serving: the file is there and unchanged. What turns out to be gone is marked so.
    pub(crate) fn open_share(&self, hash: &FileHash) -> Result<Option<OpenShare>, IndexError> {
        for (path, record) in self.index.of_hash(hash)? {
            if record.gone {
                break;
            }
            let geometry = Geometry::new(record.info.length);
            let (Ok(file), Some(geometry)) = (open_unchanged(&path, &record), geometry) else {
                self.mark_gone(&path, &record);
                continue;
            };
            let tree = (geometry.chunks() > 1).then(|| Tree::open(&self.tree_path(hash), geometry));
            match tree.transpose() {
                Ok(tree) => return Ok(Some(OpenShare { file, path, record, geometry, tree })),
                Err(_) => self.mark_gone(&path, &record),
            }
        }
        Ok(None)
    }

    /// Notes that a file changed or vanished.
    pub(crate) fn mark_gone(&self, path: &Path, record: &Record) {
        tracing::info!(path = %path.display(), hash = %record.hash.short(), "a shared file changed or vanished");
        let gone = Record { gone: true, ..record.clone() };
        // A record that was renewed meanwhile stays.
        if matches!(self.index.of_path(path), Ok(Some(now)) if now == *record)
            && let Err(error) = self.index.apply(&[Change::Put(path.to_path_buf(), gone)])
        {
            tracing::error!(%error, "marking a share as gone");
        }
    }

    /// Takes in a file that was verified while it was written.
    pub(crate) fn register(
        &self,
        path: &Path,
        info: Info,
        tree: Option<&TreeWriter>,
    ) -> Result<Share, LibraryError> {
        let io = |source| LibraryError::io(path, source);
        let path = std::fs::canonicalize(path).map_err(io)?;
        let hash = info.hash();
        let stamp = Stamp::of(&std::fs::metadata(&path).map_err(io)?);
        if let Some(tree) = tree {
            let name = self.tree_path(&hash);
            tree.commit(&name).map_err(|source| LibraryError::io(&name, source))?;
        }
        let record = Record { hash, info, stamp, gone: stamp.size != info.length, withheld: false };
        self.index.apply(&[Change::Put(path.clone(), record.clone())])?;
        Ok(share(path, &record))
    }

    /// Shares the file at `path` if it has this hash; `part` is a name of it that goes then, if there is one still.
    /// `kind` and `progress` are as in [`Library::hash`].
    pub(crate) fn adopt(
        &self,
        path: &Path,
        kind: Kind,
        hash: &FileHash,
        part: Option<&Path>,
        progress: impl FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<Option<Share>, AddError> {
        let path = std::fs::canonicalize(path).map_err(|source| AddError::io(path, source))?;
        let mut record = self.hash(&path, kind, progress)?;
        if record.hash != *hash {
            self.drop_tree(&record.hash);
            return Ok(None);
        }
        let stamp = |path: &Path| std::fs::symlink_metadata(path).map(|there| Stamp::of(&there));
        if let Some(part) = part
            && stamp(part).is_ok_and(|part| part == record.stamp)
            && disk::remove_file(part).is_ok()
        {
            // To lose a name changes nothing but the ctime.
            let now = stamp(&path).map_err(|source| AddError::io(&path, source))?;
            record.stamp.ctime = now.ctime;
        }
        self.index.apply(&[Change::Put(path.clone(), record.clone())])?;
        Ok(Some(share(path, &record)))
    }

    /// A tree file in the making; `None` for a content of at most one chunk.
    pub(crate) fn new_tree(&self, geometry: Geometry) -> io::Result<Option<TreeWriter>> {
        if geometry.chunks() <= 1 {
            return Ok(None);
        }
        TreeWriter::create(self.trees.join(self.temporary()), geometry).map(Some)
    }

    /// A name that nothing else of this library has now. What a killed process left under it is replaced.
    pub(crate) fn temporary(&self) -> String {
        format!("new-{}.tmp", self.temporary.fetch_add(1, Ordering::Relaxed))
    }

    /// The record of a path whose file is as it was when it was hashed.
    pub(crate) fn unchanged(&self, path: &Path) -> Result<Option<Record>, AddError> {
        let metadata = std::fs::metadata(path).map_err(|source| AddError::io(path, source))?;
        Ok(self.index.of_path(path)?.filter(|record| self.is_unchanged(record, &metadata)))
    }

    /// Whether a path is shared, and as it was when it was hashed.
    pub(crate) fn is_unchanged(&self, record: &Record, now: &Metadata) -> bool {
        !record.gone && !record.withheld && record.stamp == Stamp::of(now) && self.has_tree(record)
    }

    /// Reads and hashes a file as what its hash is to name; the tree is in place, the index not written yet. `progress`
    /// gets bytes hashed and bytes in all, and may break off: [`AddError::Stopped`].
    pub(crate) fn hash(
        &self,
        path: &Path,
        kind: Kind,
        progress: impl FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<Record, AddError> {
        let io = |source| AddError::io(path, source);
        // Looked at before it is opened: opening a pipe would wait for its other end.
        let metadata = std::fs::metadata(path).map_err(io)?;
        if metadata.is_dir() {
            return Err(AddError::Directory { path: path.to_path_buf() });
        }
        if !metadata.is_file() {
            return Err(AddError::NotRegular { path: path.to_path_buf() });
        }
        std::thread::sleep(Stamp::of(&metadata).settles_in(SystemTime::now()));
        let file = File::open(path).map_err(io)?;
        let stamp = Stamp::of(&file.metadata().map_err(io)?);
        let too_large = || AddError::TooLarge { path: path.to_path_buf(), length: stamp.size };
        let geometry = Geometry::new(stamp.size).ok_or_else(too_large)?;
        let tree = self.new_tree(geometry).map_err(|source| AddError::io(&self.trees, source))?;
        let changed = || AddError::Changed { path: path.to_path_buf() };
        let root = match hash_file(&file, geometry, tree.as_ref(), progress) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(changed()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                return Err(AddError::Stopped { path: path.to_path_buf() });
            }
            other => other.map_err(io)?,
        };
        if Stamp::of(&file.metadata().map_err(io)?) != stamp {
            return Err(changed());
        }
        let info = Info { kind, length: stamp.size, root };
        let hash = info.hash();
        if let Some(tree) = tree {
            let name = self.tree_path(&hash);
            tree.commit(&name).map_err(|source| AddError::io(&name, source))?;
        }
        Ok(Record { hash, info, stamp, gone: false, withheld: false })
    }

    /// Removes the tree of a hash that no path has any more.
    pub(crate) fn drop_tree(&self, hash: &FileHash) {
        if matches!(self.index.of_hash(hash), Ok(found) if found.is_empty()) {
            let _ = disk::remove_file(&self.tree_path(hash));
        }
    }

    fn has_tree(&self, record: &Record) -> bool {
        Geometry::new(record.info.length).is_some_and(|g| g.chunks() <= 1)
            || self.tree_path(&record.hash).exists()
    }

    pub(crate) fn tree_path(&self, hash: &FileHash) -> PathBuf {
        self.trees.join(hash.to_string())
    }
}

/// Opens a file that is as it was when it was hashed. Looks before it opens: opening a pipe would wait for its other end.
fn open_unchanged(path: &Path, record: &Record) -> io::Result<File> {
    let same = |metadata: Metadata| Stamp::of(&metadata) == record.stamp;
    if std::fs::symlink_metadata(path).is_ok_and(same) {
        let file = File::open(path)?;
        if file.metadata().is_ok_and(same) {
            return Ok(file);
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

pub(crate) fn share(path: PathBuf, record: &Record) -> Share {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let state = if record.gone { ShareState::Gone } else { ShareState::Shared };
    let (hash, info) = (record.hash, record.info);
    Share { hash, info, path, name, bytes: info.length, state }
}

fn move_aside(path: &Path) -> io::Result<PathBuf> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".corrupt-{seconds}"));
    let to = PathBuf::from(name);
    std::fs::rename(path, &to)?;
    Ok(to)
}

/// Something that was out of order when a [`Library`] was opened, and was dealt with.
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

/// A [`Library`] could not be opened or changed.
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
