//! How files come into the library: hashed where they lie, or verified while they were written.

use std::fs::{File, Metadata};
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use crate::add::hash_file;
use crate::disk::{self, Stamp};
use crate::error::{AddError, LibraryError};
use crate::geometry::Geometry;
use crate::hash::{FileHash, Info, Kind};
use crate::index::{Change, Record};
use crate::library::{Library, Share, share};
use crate::tree::TreeWriter;

impl Library {
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
}
