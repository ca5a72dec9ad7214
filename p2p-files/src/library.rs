//! What this node shares: an index of files that stay where they lie, and the trees to prove them with.

use std::fs::{File, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::disk::{self, Stamp};
use crate::error::{LibraryError, LibraryWarning};
use crate::geometry::Geometry;
use crate::hash::{FileHash, Info};
use crate::index::{Change, Index, IndexError, Record};
use crate::open::OpenShare;
use crate::running::Running;
use crate::tree::Tree;

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
    pub(crate) temporary: AtomicU64,
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

    /// Removes the tree of a hash that no path has any more.
    pub(crate) fn drop_tree(&self, hash: &FileHash) {
        if matches!(self.index.of_hash(hash), Ok(found) if found.is_empty()) {
            let _ = disk::remove_file(&self.tree_path(hash));
        }
    }

    pub(crate) fn has_tree(&self, record: &Record) -> bool {
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
