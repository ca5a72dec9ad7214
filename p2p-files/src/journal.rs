//! The journal of a download: what is verified, so that a download goes on after a kill where it was.
//!
//! One file per download in `trees/`, `<hash>.<8 hex of its part-file's path>.part`, all integers big-endian:
//!
//! ```text
//! the tree file (see tree.rs); of chunks that are not here only what proofs of others named
//! one byte a chunk: 1 when it is verified and written, 0 when it is not
//! version u8 = 1 | kind u8 | length u64 | root [32] | boot [16] | device u64 | inode u64
//!     | exact u8 | folder u16 + bytes | name u16 + bytes                             where the file is to go
//! length of the record u32 | "p2p/part"
//! ```
//!
//! A chunk is written first, then its hash and proof, then its byte: a killed process leaves at most work undone. The
//! kernel keeps what a killed process wrote, so within one boot the bytes are believed, if the part-file is the same inode of
//! the same size and was not written to later than the journal. After another boot (a power failure may have kept the
//! journal and lost the data), or when the times differ, every recorded chunk is hashed and folded to the root again.

use std::ffi::OsString;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use crate::bitfield::Bitfield;
use crate::buffer::PageBuffer;
use crate::destination::{Destination, Place};
use crate::disk::{self, Stamp, read_exact_at, write_all_at};
use crate::geometry::{CHUNK, Geometry, Run};
use crate::hash::{HASH_LEN, Info, Kind};
use crate::index::{path_bytes, path_from_bytes};
use crate::merkle::{self, Digest};
use crate::part::PartFile;
use crate::tree::{Tree, TreeWriter, file_len};

const MAGIC: &[u8; 8] = b"p2p/part";
const VERSION: u8 = 1;
/// Longest record: two paths of at most 4 KiB (Linux' `PATH_MAX`) and what is around them.
const RECORD_MAX: usize = 10_000;
/// Nanoseconds by which the last writes of part-file and journal may be apart: in-flight runs at the moment of a kill,
/// and a process that is stopped between the two. A guess; what is beyond is hashed again, never believed.
const APART_MAX: i128 = 2_000_000_000;

/// Where a download stands, on disk; stays when dropped.
#[derive(Debug)]
pub(crate) struct Journal {
    pub(crate) tree: TreeWriter,
    file: File,
    held_at: u64,
}

/// What a journal says about its download.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JournalRecord {
    pub(crate) info: Info,
    /// Zero where the system does not tell; then nothing is believed.
    boot: [u8; 16],
    device: u64,
    inode: u64,
    exact: bool,
    dir: PathBuf,
    name: OsString,
}

impl Journal {
    /// A journal without entries for a part-file that was just made.
    pub(crate) fn create(path: &Path, info: Info, part: &PartFile) -> io::Result<Self> {
        let geometry = Geometry::new(info.length).ok_or(io::ErrorKind::FileTooLarge)?;
        let file = disk::create(path)?;
        let held_at = file_len(geometry.chunks());
        JournalRecord::of(info, part)?.write(&file, held_at + geometry.chunks())?;
        let tree = TreeWriter::over(file.try_clone()?, path.to_path_buf(), geometry);
        Ok(Self { tree, file, held_at })
    }

    /// Goes on with a part-file from an earlier try: the journal and what is held; `None` when they do not belong
    /// together. What cannot be believed is hashed again, until `stop` says so.
    pub(crate) fn resume(
        path: &Path,
        info: Info,
        part: &PartFile,
        stop: impl Fn() -> bool,
    ) -> io::Result<Option<(Self, Bitfield)>> {
        let Ok(file) = OpenOptions::new().read(true).write(true).open(path) else { return Ok(None) };
        let Some(record) = JournalRecord::read(&file)? else { return Ok(None) };
        let now = JournalRecord::of(info, part)?;
        let (journal_stamp, part_stamp) = (Stamp::of(&file.metadata()?), Stamp::of(&part.file().metadata()?));
        if part_stamp.size != info.length || (JournalRecord { boot: now.boot, ..record.clone() }) != now {
            return Ok(None);
        }
        let geometry = Geometry::new(info.length).ok_or(io::ErrorKind::FileTooLarge)?;
        let held_at = file_len(geometry.chunks());
        let tree = TreeWriter::over(file.try_clone()?, path.to_path_buf(), geometry);
        let journal = Self { tree, file, held_at };
        let mut held = journal.held(geometry)?;
        let apart = (part_stamp.mtime - journal_stamp.mtime).abs();
        if record.boot != now.boot || now.boot == [0; 16] || apart > APART_MAX {
            tracing::info!(path = %part.path().display(), "hashing again what an interrupted download left");
            held = journal.check(&held, info, geometry, part, stop)?;
            now.write(&journal.file, held_at + geometry.chunks())?;
        }
        Ok(Some((journal, held)))
    }

    /// The nodes that are recorded, for making proofs.
    pub(crate) fn reader(&self, geometry: Geometry) -> io::Result<Tree> {
        Ok(Tree::over(self.file.try_clone()?, geometry))
    }

    /// Records a chunk that is verified and written: its hash and its proof, nearest first, then that it is held.
    pub(crate) fn put(&self, run: Run, node: &Digest, proof: &[Digest]) -> io::Result<()> {
        self.tree.put_path(run, node, proof)?;
        write_all_at(&self.file, &[1], self.held_at + run.chunk())
    }

    /// The bytes that say which chunks are held.
    fn held(&self, geometry: Geometry) -> io::Result<Bitfield> {
        let mut held = Bitfield::new(geometry.chunks());
        let mut buf = vec![0; 64 * 1024];
        let mut at = 0;
        while at < geometry.chunks() {
            let count = usize::try_from(geometry.chunks() - at).map_or(buf.len(), |left| left.min(buf.len()));
            read_exact_at(&self.file, &mut buf[..count], self.held_at + at)?;
            (at..).zip(&buf[..count]).filter(|(_, byte)| **byte == 1).for_each(|(chunk, _)| {
                held.set(chunk);
            });
            at += count as u64;
        }
        Ok(held)
    }

    /// Of the chunks that are said to be held those that prove themselves; the others are struck out.
    fn check(
        &self,
        said: &Bitfield,
        info: Info,
        geometry: Geometry,
        part: &PartFile,
        stop: impl Fn() -> bool,
    ) -> io::Result<Bitfield> {
        let tree = Tree::over(self.file.try_clone()?, geometry);
        let mut held = Bitfield::new(geometry.chunks());
        let (mut buffer, mut proof) = (PageBuffer::new(CHUNK), Vec::new());
        for run in (0..geometry.chunks()).filter(|chunk| said.get(*chunk)).filter_map(|c| geometry.chunk(c)) {
            if stop() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let data = buffer.room(run.len());
            read_exact_at(part.file(), data, run.offset())?;
            proof.clear();
            tree.siblings(run, &mut proof)?;
            if merkle::verify_run(run, data, proof.as_flattened(), &info.root).is_ok() {
                held.set(run.chunk());
            } else {
                write_all_at(&self.file, &[0], self.held_at + run.chunk())?;
            }
        }
        Ok(held)
    }
}

impl JournalRecord {
    fn of(info: Info, part: &PartFile) -> io::Result<Self> {
        let stamp = Stamp::of(&part.file().metadata()?);
        let (exact, dir, name) = part.place().parts();
        let boot = boot();
        Ok(Self { info, boot, device: stamp.device, inode: stamp.inode, exact, dir, name })
    }

    /// Where the file is to go.
    pub(crate) fn destination(&self) -> Destination {
        match self.name.to_str() {
            Some(name) if !self.exact => Destination::Dir(self.dir.clone(), Some(name.to_owned())),
            _ => Destination::File(self.dir.join(&self.name)),
        }
    }

    /// Where its part-file lies.
    pub(crate) fn part_path(&self) -> PathBuf {
        Place::of_parts(self.exact, self.dir.clone(), self.name.clone()).part_path(&self.info.hash())
    }

    /// Whether its part-file was taken away, and did not become the file. A folder that is not there may come back with its
    /// disk.
    pub(crate) fn is_lost(&self) -> bool {
        let place = Place::of_parts(self.exact, self.dir.clone(), self.name.clone());
        let is_here = |name: PathBuf| std::fs::symlink_metadata(name).ok().map(|there| self.is_part(&there));
        self.dir.is_dir()
            && !self.part_path().exists()
            && !place.candidates().map_while(is_here).any(|is_part| is_part)
    }

    /// Whether this is its part-file, under whatever name.
    pub(crate) fn is_part(&self, there: &Metadata) -> bool {
        let stamp = Stamp::of(there);
        stamp.inode != 0
            && (stamp.device, stamp.inode, stamp.size) == (self.device, self.inode, self.info.length)
    }

    fn write(&self, file: &File, at: u64) -> io::Result<()> {
        let unrecordable = || io::Error::from(io::ErrorKind::Unsupported);
        let dir = path_bytes(&self.dir).ok_or_else(unrecordable)?;
        let name = path_bytes(Path::new(&self.name)).ok_or_else(unrecordable)?;
        let mut out = vec![VERSION, self.info.kind.to_byte()];
        out.extend(self.info.length.to_be_bytes());
        out.extend(self.info.root);
        out.extend(self.boot);
        out.extend(self.device.to_be_bytes());
        out.extend(self.inode.to_be_bytes());
        out.push(u8::from(self.exact));
        for bytes in [dir, name] {
            out.extend(u16::try_from(bytes.len()).map_err(|_| unrecordable())?.to_be_bytes());
            out.extend(bytes);
        }
        let len = u32::try_from(out.len()).ok().filter(|_| out.len() <= RECORD_MAX);
        out.extend(len.ok_or_else(unrecordable)?.to_be_bytes());
        out.extend(MAGIC);
        write_all_at(file, &out, at)
    }

    /// `None` for a file that is no whole journal.
    pub(crate) fn read(file: &File) -> io::Result<Option<Self>> {
        let size = file.metadata()?.len();
        let mut end = [0; 12];
        let Some(end_at) = size.checked_sub(end.len() as u64) else { return Ok(None) };
        read_exact_at(file, &mut end, end_at)?;
        let [a, b, c, d, magic @ ..] = end;
        let len = u32::from_be_bytes([a, b, c, d]);
        let (Ok(take), Some(at)) = (usize::try_from(len), end_at.checked_sub(u64::from(len))) else {
            return Ok(None);
        };
        if magic != *MAGIC || take > RECORD_MAX {
            return Ok(None);
        }
        let mut bytes = vec![0; take];
        read_exact_at(file, &mut bytes, at)?;
        let record = Self::decode(&bytes);
        // The record lies where the length in it says that it lies.
        Ok(record.filter(|record| {
            let chunks = Geometry::new(record.info.length).map(Geometry::chunks);
            chunks.is_some_and(|chunks| file_len(chunks) + chunks == at)
        }))
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (&[version, kind], rest) = bytes.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let (root, rest) = rest.split_first_chunk::<HASH_LEN>()?;
        let (boot, rest) = rest.split_first_chunk()?;
        let (device, rest) = rest.split_first_chunk()?;
        let (inode, rest) = rest.split_first_chunk()?;
        let (&[exact], rest) = rest.split_first_chunk()?;
        let (dir, rest) = text(rest)?;
        let (name, rest) = text(rest)?;
        if version != VERSION || !rest.is_empty() {
            return None;
        }
        let info = Info { kind: Kind::from_byte(kind)?, length: u64::from_be_bytes(*length), root: *root };
        Some(Self {
            info,
            boot: *boot,
            device: u64::from_be_bytes(*device),
            inode: u64::from_be_bytes(*inode),
            exact: exact != 0,
            dir: path_from_bytes(dir)?,
            name: path_from_bytes(name)?.into_os_string(),
        })
    }
}

fn text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))
}

/// Which run of the machine this is; zero where that is not told.
fn boot() -> [u8; 16] {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    data_encoding::HEXLOWER_PERMISSIVE
        .decode(digits.as_bytes())
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .map(|boot: [u8; 16]| {
            #[cfg(test)]
            let boot = boot.map(|byte| byte ^ disk::faults::boots());
            boot
        })
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record() -> JournalRecord {
        let info = Info { kind: Kind::File, length: 3 << 20, root: [7; 32] };
        let (dir, name) = ("/a/b".into(), "c d.txt".into());
        JournalRecord { info, boot: [1; 16], device: 2, inode: 3, exact: false, dir, name }
    }

    #[test]
    fn a_record_is_found_from_the_end_and_only_where_it_belongs() {
        let file = tempfile::tempfile().unwrap();
        let chunks = 3;
        record().write(&file, file_len(chunks) + chunks).unwrap();
        assert_eq!(JournalRecord::read(&file).unwrap(), Some(record()));
        file.set_len(file.metadata().unwrap().len() - 1).unwrap();
        assert_eq!(JournalRecord::read(&file).unwrap(), None);
        record().write(&file, file_len(chunks)).unwrap();
        assert_eq!(JournalRecord::read(&file).unwrap(), None);
        file.set_len(0).unwrap();
        assert_eq!(JournalRecord::read(&file).unwrap(), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), len in 0..300u32, end: bool) {
            use std::io::Write as _;
            let _ = JournalRecord::decode(&bytes);
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&bytes).unwrap();
            if end {
                file.write_all(&len.to_be_bytes()).unwrap();
                file.write_all(MAGIC).unwrap();
            }
            prop_assert_eq!(JournalRecord::read(&file).unwrap(), None);
        }
    }
}
