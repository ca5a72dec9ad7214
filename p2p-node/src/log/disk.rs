//! The steps of the log that touch the disk, so that tests can crash between any two of them.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use p2p_gossip::Ranges;
use p2p_wire::NodeId;
use redb::{Database, ReadableDatabase, ReadableTable as _, TableDefinition};

use super::ranges;

/// A segment is 4 MiB and one group more; a larger file is none of ours.
pub(super) const MAX_SEGMENT_FILE: u64 = 16 << 20;

const AUTHORS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("authors-1");
const NEXT: TableDefinition<'_, &str, u64> = TableDefinition::new("next-1");
/// Memory for cached pages; a merge touches the authors of one segment.
const CACHE: usize = 1 << 20;

/// What is kept of segments that were dropped.
#[derive(Debug, Clone, Default)]
pub(super) struct Base {
    /// What was seen.
    pub(super) seen: BTreeMap<NodeId, Ranges>,
    /// The next position and the next envelope's number are at least these.
    pub(super) next_pos: u64,
    pub(super) next_n: u64,
}

pub(super) trait Disk {
    type File;
    /// The numbers of all segments, rising.
    fn segments(&mut self) -> io::Result<Vec<u64>>;
    fn read(&mut self, segment: u64) -> io::Result<Vec<u8>>;
    /// Makes a segment, which must not exist.
    fn create(&mut self, segment: u64) -> io::Result<Self::File>;
    fn append(&mut self, file: &mut Self::File, bytes: &[u8]) -> io::Result<()>;
    /// Returns once what was appended is on the disk.
    fn sync(&mut self, file: &mut Self::File) -> io::Result<()>;
    /// Returns once the names are on the disk.
    fn sync_dir(&mut self) -> io::Result<()>;
    fn remove(&mut self, segment: u64) -> io::Result<()>;
    /// Gives a file that is no segment another name, and says what became of it.
    fn set_aside(&mut self, segment: u64) -> io::Result<String>;
    /// What is kept of dropped segments, and a warning if it was damaged.
    fn base(&mut self) -> io::Result<(Base, Option<String>)>;
    /// Adds to it, all or nothing, and returns once that is on the disk.
    fn merge(&mut self, more: &Base) -> io::Result<()>;
}

/// A directory with the segments and `seen.redb`.
#[derive(Debug)]
pub(super) struct RealDisk {
    dir: PathBuf,
    seen: Option<Database>,
    /// What would be written at the start is not.
    read_only: bool,
}

impl RealDisk {
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        Ok(Self { dir: dir.to_owned(), seen: None, read_only: false })
    }

    pub(super) fn read_only(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), seen: None, read_only: true }
    }

    fn seen_path(&self) -> PathBuf {
        self.dir.join("seen.redb")
    }

    fn database(&mut self) -> io::Result<&Database> {
        if self.seen.is_none() {
            let path = self.seen_path();
            self.seen = Some(guard(|| Ok(Database::builder().set_cache_size(CACHE).create(path)?))?);
        }
        self.seen.as_ref().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn read_base(&mut self) -> io::Result<Base> {
        if !self.seen_path().exists() {
            return Ok(Base::default());
        }
        if self.read_only {
            let path = self.seen_path();
            return guard(|| base_of(&Database::builder().set_cache_size(CACHE).open_read_only(path)?));
        }
        let db = self.database()?;
        guard(|| base_of(db))
    }
}

fn base_of(db: &impl ReadableDatabase) -> Result<Base, redb::Error> {
    let read = db.begin_read()?;
    let mut base = Base::default();
    for entry in read.open_table(AUTHORS)?.iter()? {
        let (author, ranges) = entry?;
        let author = author.value().try_into().ok().map(NodeId::from_bytes);
        let pair = author.zip(ranges::decode(ranges.value()));
        let (author, ranges) = pair.ok_or_else(|| redb::Error::Corrupted("an author".to_owned()))?;
        base.seen.insert(author, ranges);
    }
    let next = read.open_table(NEXT)?;
    base.next_pos = next.get("pos")?.map_or(0, |n| n.value());
    base.next_n = next.get("n")?.map_or(0, |n| n.value());
    Ok(base)
}

/// Where a segment is.
pub(super) fn segment_path(dir: &Path, segment: u64) -> PathBuf {
    dir.join(format!("{segment:016x}.log"))
}

/// A damaged database makes redb panic in places.
fn guard<T>(work: impl FnOnce() -> Result<T, redb::Error>) -> io::Result<T> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => done.map_err(|error| match error {
            redb::Error::Io(error) => error,
            error => io::Error::other(error),
        }),
        Err(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "the database is damaged")),
    }
}

/// A name beside `path` that says what became of it.
fn corrupt_name(path: &Path) -> PathBuf {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".corrupt-{seconds}"));
    name.into()
}

impl Disk for RealDisk {
    type File = File;

    fn segments(&mut self) -> io::Result<Vec<u64>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let name = entry?.file_name();
            let hex = name.to_str().and_then(|name| name.strip_suffix(".log")).filter(|hex| hex.len() == 16);
            found.extend(hex.and_then(|hex| u64::from_str_radix(hex, 16).ok()));
        }
        found.sort_unstable();
        Ok(found)
    }

    fn read(&mut self, segment: u64) -> io::Result<Vec<u8>> {
        let file = File::open(segment_path(&self.dir, segment))?;
        let mut bytes = Vec::new();
        if file.metadata()?.len() <= MAX_SEGMENT_FILE {
            file.take(MAX_SEGMENT_FILE).read_to_end(&mut bytes)?;
        } else {
            // No segment; the first bytes of one would make it look like one.
            bytes.push(0);
        }
        Ok(bytes)
    }

    fn create(&mut self, segment: u64) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.append(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options.open(segment_path(&self.dir, segment))
    }

    fn append(&mut self, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        #[cfg(test)]
        super::driver_tests::before_append(&self.dir)?;
        file.write_all(bytes)
    }

    fn sync(&mut self, file: &mut File) -> io::Result<()> {
        #[cfg(test)]
        super::driver_tests::before_sync(&self.dir);
        file.sync_data()
    }

    fn sync_dir(&mut self) -> io::Result<()> {
        // Elsewhere directories cannot be opened, and need not be synced.
        if cfg!(unix) { File::open(&self.dir)?.sync_all() } else { Ok(()) }
    }

    fn remove(&mut self, segment: u64) -> io::Result<()> {
        if self.read_only {
            return Ok(());
        }
        fs::remove_file(segment_path(&self.dir, segment))
    }

    fn set_aside(&mut self, segment: u64) -> io::Result<String> {
        let path = segment_path(&self.dir, segment);
        if self.read_only {
            return Ok(format!("left out: {}", path.display()));
        }
        let aside = corrupt_name(&path);
        fs::rename(&path, &aside)?;
        Ok(format!("moved to {}", aside.display()))
    }

    fn base(&mut self) -> io::Result<(Base, Option<String>)> {
        let error = match self.read_base() {
            Ok(base) => return Ok((base, None)),
            // Whoever only reads what the segments hold can do without; one of a node that was killed needs a repair.
            Err(_) if self.read_only => return Ok((Base::default(), None)),
            Err(error) => error,
        };
        self.seen = None;
        let path = self.seen_path();
        let aside = corrupt_name(&path);
        fs::rename(&path, &aside)?;
        let warning = format!(
            "{}: {error}; it was moved to {}. Messages older than the log may be delivered again",
            path.display(),
            aside.display()
        );
        Ok((Base::default(), Some(warning)))
    }

    fn merge(&mut self, more: &Base) -> io::Result<()> {
        let db = self.database()?;
        let merged = guard(|| {
            let write = db.begin_write()?;
            {
                let mut authors = write.open_table(AUTHORS)?;
                for (author, new) in &more.seen {
                    let key = author.as_bytes().as_slice();
                    let old = authors.get(key)?.and_then(|old| ranges::decode(old.value()));
                    let mut seen = old.unwrap_or_default();
                    ranges::add_all(&mut seen, new);
                    authors.insert(key, ranges::encode(&seen).as_slice())?;
                }
                let mut next = write.open_table(NEXT)?;
                next.insert("pos", more.next_pos)?;
                next.insert("n", more.next_n)?;
            }
            Ok(write.commit()?)
        });
        if merged.is_err() {
            // A database that met a full disk takes nothing more until it is opened again.
            self.seen = None;
        }
        merged
    }
}
