//! What this node shares, on disk: two tables in a redb file, read where needed and never held in memory as a whole.
//!
//! `files-1` maps a path to its [`Record`], `hashes-1` holds the pairs hash and path, so that equal files at several
//! paths are one share. The file is made by the first write, so that opening an empty library costs nothing.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};

use crate::disk::{self, Stamp};
use crate::hash::{FileHash, HASH_LEN, Info, Kind};
use crate::part::link;

const FILES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("files-1");
const HASHES: TableDefinition<'_, &[u8], ()> = TableDefinition::new("hashes-1");

/// Memory for cached pages. redb's own default is 1 GiB; the index of 200,000 files is about 60 MB, of which a look-up
/// touches a few pages, so this is a guess on the small side.
const CACHE: usize = 4 << 20;

/// One shared path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) hash: FileHash,
    pub(crate) info: Info,
    pub(crate) stamp: Stamp,
    /// The file changed or vanished behind our back; it is not served until it is added again.
    pub(crate) gone: bool,
    /// The user took it back and the file stays: it is shared no more, and a refresh leaves it alone until it is added again.
    pub(crate) withheld: bool,
}

impl Record {
    const VERSION: u8 = 1;
    const LEN: usize = 3 + 8 + 2 * HASH_LEN + Stamp::LEN;

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::LEN);
        let flags = u8::from(self.gone) | u8::from(self.withheld) << 1;
        out.extend([Self::VERSION, flags, self.info.kind.to_byte()]);
        out.extend(self.info.length.to_be_bytes());
        out.extend(self.info.root);
        out.extend(self.hash.as_bytes());
        self.stamp.encode(&mut out);
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (&[version, flags, kind], rest) = bytes.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let (root, rest) = rest.split_first_chunk()?;
        let (hash, rest) = rest.split_first_chunk()?;
        let stamp = Stamp::decode(rest.try_into().ok()?);
        if version != Self::VERSION || flags > 3 {
            return None;
        }
        let info = Info { kind: Kind::from_byte(kind)?, length: u64::from_be_bytes(*length), root: *root };
        let (gone, withheld) = (flags & 1 != 0, flags & 2 != 0);
        Some(Self { hash: FileHash::from_bytes(*hash), info, stamp, gone, withheld })
    }
}

/// A change to the index.
#[derive(Debug)]
pub(crate) enum Change {
    Put(PathBuf, Record),
    Remove(PathBuf),
}

/// The index could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// Another process has it open.
    #[error("the share index {} is in use by another process", path.display())]
    InUse {
        /// The index file.
        path: PathBuf,
    },
    /// The database failed: a full disk, missing rights, or a damaged file.
    #[error("the share index {} cannot be used", path.display())]
    Database {
        /// The index file.
        path: PathBuf,
        /// What the database says.
        #[source]
        source: Box<redb::Error>,
    },
    /// The database met contents it could not have written.
    #[error("the share index {} is damaged", path.display())]
    Damaged {
        /// The index file.
        path: PathBuf,
    },
    /// A path that is not Unicode, on a system where only such paths can be recorded.
    #[error("the path {} cannot be recorded: it is not unicode", path.display())]
    Path {
        /// The path.
        path: PathBuf,
    },
}

#[derive(Debug)]
pub(crate) struct Index {
    path: PathBuf,
    db: Mutex<Option<Arc<Database>>>,
}

impl Index {
    /// Opens the index, which need not exist. A damaged one gives [`IndexError::Damaged`].
    pub(crate) fn open(path: PathBuf) -> Result<Self, IndexError> {
        let index = Self { path, db: Mutex::new(None) };
        if index.path.exists() {
            index.existing()?;
        }
        Ok(index)
    }

    /// The records of one hash, by path; those that are not gone first, and none that is withheld.
    pub(crate) fn of_hash(&self, hash: &FileHash) -> Result<Vec<(PathBuf, Record)>, IndexError> {
        let Some(db) = self.existing()? else { return Ok(Vec::new()) };
        let mut found = self.guard(|| {
            let read = db.begin_read()?;
            let (files, hashes) = (read.open_table(FILES)?, read.open_table(HASHES)?);
            let mut found = Vec::new();
            for entry in hashes.range(hash.as_bytes().as_slice()..)? {
                let (key, _) = entry?;
                let Some(path) = key.value().strip_prefix(hash.as_bytes()) else { break };
                let record = files.get(path)?.and_then(|value| Record::decode(value.value()));
                found.extend(path_from_bytes(path).zip(record.filter(|record| !record.withheld)));
            }
            Ok(found)
        })?;
        found.sort_by_key(|(_, record)| record.gone);
        Ok(found)
    }

    /// Whether some file with this hash is served, as far as the index knows. Looks at one of them, however many there are.
    pub(crate) fn has(&self, hash: &FileHash) -> Result<bool, IndexError> {
        let Some(db) = self.existing()? else { return Ok(false) };
        self.guard(|| {
            let read = db.begin_read()?;
            let (files, hashes) = (read.open_table(FILES)?, read.open_table(HASHES)?);
            for entry in hashes.range(hash.as_bytes().as_slice()..)? {
                let (key, _) = entry?;
                let Some(path) = key.value().strip_prefix(hash.as_bytes()) else { break };
                let record = files.get(path)?.and_then(|value| Record::decode(value.value()));
                if record.is_some_and(|record| !record.gone && !record.withheld) {
                    return Ok(true);
                }
            }
            Ok(false)
        })
    }

    /// The record of one path.
    pub(crate) fn of_path(&self, path: &Path) -> Result<Option<Record>, IndexError> {
        let (Some(db), Some(key)) = (self.existing()?, path_bytes(path)) else { return Ok(None) };
        self.guard(|| {
            let files = db.begin_read()?.open_table(FILES)?;
            Ok(files.get(key)?.and_then(|value| Record::decode(value.value())))
        })
    }

    /// Calls `with` for every record, in the order of the paths, until it returns false.
    pub(crate) fn for_each(&self, mut with: impl FnMut(PathBuf, Record) -> bool) -> Result<(), IndexError> {
        let Some(db) = self.existing()? else { return Ok(()) };
        self.guard(|| {
            let files = db.begin_read()?.open_table(FILES)?;
            for entry in files.iter()? {
                let (key, value) = entry?;
                if let Some((path, record)) = path_from_bytes(key.value()).zip(Record::decode(value.value()))
                    && !with(path, record)
                {
                    break;
                }
            }
            Ok(())
        })
    }

    /// The records of all paths below the folder `dir`.
    pub(crate) fn below(&self, dir: &Path) -> Result<Vec<(PathBuf, Record)>, IndexError> {
        let (Some(db), Some(key)) = (self.existing()?, path_bytes(dir)) else { return Ok(Vec::new()) };
        let separator = u8::try_from(std::path::MAIN_SEPARATOR).expect("it is `/` or `\\`");
        let (from, to) = ([key, &[separator]].concat(), [key, &[separator + 1]].concat());
        self.guard(|| {
            let files = db.begin_read()?.open_table(FILES)?;
            let mut found = Vec::new();
            for entry in files.range(from.as_slice()..to.as_slice())? {
                let (key, value) = entry?;
                found.extend(path_from_bytes(key.value()).zip(Record::decode(value.value())));
            }
            Ok(found)
        })
    }

    /// Applies all changes in one transaction, durable when this returns.
    pub(crate) fn apply(&self, changes: &[Change]) -> Result<(), IndexError> {
        if changes.is_empty() {
            return Ok(());
        }
        let mut keyed = BTreeMap::new();
        for change in changes {
            let (path, record) = match change {
                Change::Put(path, record) => (path, Some(record)),
                Change::Remove(path) => (path, None),
            };
            let key = path_bytes(path).ok_or_else(|| IndexError::Path { path: path.clone() })?;
            keyed.insert(key, record);
        }
        let db = self.create()?;
        let applied = self.guard(|| {
            let mut write = db.begin_write()?;
            // Recovery after a kill is then instant, whatever the size of the index.
            write.set_quick_repair(true);
            {
                let (mut files, mut hashes) = (write.open_table(FILES)?, write.open_table(HASHES)?);
                for (key, record) in keyed {
                    let old = match record {
                        Some(record) => files.insert(key, record.encode().as_slice())?,
                        None => files.remove(key)?,
                    };
                    if let Some(old) = old.and_then(|value| Record::decode(value.value())) {
                        hashes.remove(hash_key(&old.hash, key).as_slice())?;
                    }
                    if let Some(record) = record {
                        hashes.insert(hash_key(&record.hash, key).as_slice(), ())?;
                    }
                }
            }
            write.commit()?;
            Ok(())
        });
        if applied.is_err() {
            // A database that met a full disk takes nothing more until it is opened again.
            *self.db.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        applied
    }

    /// The database, if there is one.
    fn existing(&self) -> Result<Option<Arc<Database>>, IndexError> {
        let mut slot = self.db.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.is_none() && self.path.exists() {
            *slot = Some(Arc::new(self.guard(|| open(&self.path, false))?));
        }
        Ok(slot.clone())
    }

    /// The database with both tables, made if it does not exist.
    fn create(&self) -> Result<Arc<Database>, IndexError> {
        let mut slot = self.db.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(db) = &*slot {
            return Ok(Arc::clone(db));
        }
        let db = self.guard(|| {
            if !self.path.exists() {
                make(&self.path)?;
            }
            open(&self.path, false)
        })?;
        Ok(Arc::clone(slot.insert(Arc::new(db))))
    }

    /// Runs a database operation; redb may panic on a damaged file, which becomes an error like any other.
    fn guard<T>(&self, run: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, IndexError> {
        let path = || self.path.clone();
        match catch_unwind(AssertUnwindSafe(run)) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(redb::Error::DatabaseAlreadyOpen)) => Err(IndexError::InUse { path: path() }),
            Ok(Err(error)) if is_damage(&error) => Err(IndexError::Damaged { path: path() }),
            Ok(Err(error)) => Err(IndexError::Database { path: path(), source: Box::new(error) }),
            Err(_panic) => Err(IndexError::Damaged { path: path() }),
        }
    }
}

/// Makes the database with both tables, beside its place and then there: a kill never leaves one half made.
fn make(path: &Path) -> Result<(), redb::Error> {
    let new = path.with_extension("redb.new");
    match disk::remove_file(&new) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let db = open(&new, true)?;
    let write = db.begin_write()?;
    write.open_table(FILES)?;
    write.open_table(HASHES)?;
    write.commit()?;
    drop(db);
    match link(&new, path) {
        // Somebody else was first.
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error.into()),
        _ => {}
    }
    let _ = disk::remove_file(&new);
    Ok(())
}

/// Opens the database, or makes it.
fn open(path: &Path, new: bool) -> Result<Database, redb::Error> {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE);
    #[cfg(test)]
    if disk::faults::counts() {
        use disk::faults::{Backend, step};
        step("index: open")?;
        let file =
            std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        return Ok(builder.create_with_backend(Backend(redb::backends::FileBackend::new(file)?))?);
    }
    Ok(if new { builder.create(path)? } else { builder.open(path)? })
}

fn is_damage(error: &redb::Error) -> bool {
    use std::io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
    match error {
        redb::Error::Corrupted(_)
        | redb::Error::UpgradeRequired(_)
        | redb::Error::RepairAborted
        | redb::Error::TableDoesNotExist(_)
        | redb::Error::TableTypeMismatch { .. } => true,
        redb::Error::Io(error) => matches!(error.kind(), InvalidData | InvalidInput | UnexpectedEof),
        _ => false,
    }
}

fn hash_key(hash: &FileHash, path: &[u8]) -> Vec<u8> {
    [hash.as_bytes().as_slice(), path].concat()
}

#[cfg(unix)]
#[expect(clippy::unnecessary_wraps, reason = "other systems have paths that cannot be recorded")]
pub(crate) fn path_bytes(path: &Path) -> Option<&[u8]> {
    use std::os::unix::ffi::OsStrExt as _;
    Some(path.as_os_str().as_bytes())
}

#[cfg(unix)]
#[expect(clippy::unnecessary_wraps, reason = "other systems have paths that cannot be recorded")]
pub(crate) fn path_from_bytes(bytes: &[u8]) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStrExt as _;
    Some(PathBuf::from(std::ffi::OsStr::from_bytes(bytes)))
}

#[cfg(not(unix))]
pub(crate) fn path_bytes(path: &Path) -> Option<&[u8]> {
    path.to_str().map(str::as_bytes)
}

#[cfg(not(unix))]
pub(crate) fn path_from_bytes(bytes: &[u8]) -> Option<PathBuf> {
    std::str::from_utf8(bytes).ok().map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(byte: u8) -> Record {
        let info = Info { kind: Kind::File, length: u64::from(byte), root: [byte; 32] };
        let stamp = Stamp { size: 9, mtime: 1, ctime: 2, inode: 3, device: 4 };
        Record { hash: info.hash(), info, stamp, gone: false, withheld: false }
    }

    #[test]
    fn what_lies_below_a_folder_is_found_and_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(dir.path().join("i")).unwrap();
        let paths = ["/a", "/a!/x", "/a/b", "/a/b/c", "/a0", "/ab/c"].map(PathBuf::from);
        let puts: Vec<_> = paths.iter().map(|path| Change::Put(path.clone(), record(1))).collect();
        index.apply(&puts).unwrap();
        let below = |dir: &str| -> Vec<PathBuf> {
            index.below(Path::new(dir)).unwrap().into_iter().map(|(path, _)| path).collect()
        };
        assert_eq!(below("/a"), [paths[2].clone(), paths[3].clone()]);
        assert_eq!(below("/a/b"), [paths[3].clone()]);
        assert!(below("/c").is_empty());
    }

    #[test]
    fn what_is_withheld_is_kept_and_not_found_by_its_hash() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(dir.path().join("i")).unwrap();
        let withheld = Record { withheld: true, ..record(1) };
        index.apply(&[Change::Put("/a".into(), withheld.clone())]).unwrap();
        assert_eq!(index.of_hash(&withheld.hash).unwrap(), []);
        assert_eq!(index.of_path(Path::new("/a")).unwrap(), Some(withheld));
    }

    #[test]
    fn equal_files_are_one_hash_with_two_paths() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(dir.path().join("i")).unwrap();
        assert!(!dir.path().join("i").exists());
        let (a, b) = (PathBuf::from("/a"), PathBuf::from("/b"));
        let gone = Record { gone: true, ..record(1) };
        index.apply(&[Change::Put(a.clone(), gone.clone()), Change::Put(b.clone(), record(1))]).unwrap();
        index.apply(&[Change::Put("/c".into(), record(2))]).unwrap();
        let found = index.of_hash(&record(1).hash).unwrap();
        assert_eq!(found, [(b.clone(), record(1)), (a.clone(), gone)]);

        index.apply(&[Change::Put(b.clone(), record(2)), Change::Remove(a.clone())]).unwrap();
        assert_eq!(index.of_hash(&record(1).hash).unwrap(), []);
        assert_eq!(index.of_hash(&record(2).hash).unwrap().len(), 2);
        assert_eq!(index.of_path(&a).unwrap(), None);
        drop(index);
        let index = Index::open(dir.path().join("i")).unwrap();
        assert_eq!(index.of_path(&b).unwrap(), Some(record(2)));
        assert!(matches!(Index::open(dir.path().join("i")), Err(IndexError::InUse { .. })));
    }

    proptest! {
        #[test]
        fn no_record_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some(record) = Record::decode(&bytes) {
                prop_assert_eq!(Record::decode(&record.encode()), Some(record));
            }
        }
    }

    #[test]
    fn record_round_trips() {
        assert_eq!(Record::decode(&record(7).encode()), Some(record(7)));
        assert_eq!(record(7).encode().len(), Record::LEN);
    }
}
