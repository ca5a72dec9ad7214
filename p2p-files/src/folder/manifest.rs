//! The manifest of a folder: what is in it, as bytes that have one form only.
//!
//! # Layout
//!
//! ```text
//! version   u8 = 1
//! entries   until the end, sorted by path (see EntryPath), no two equal:
//!     kind      u8: 0 a file, 1 an executable file, 2 an empty folder
//!     shared    number: bytes at the start of the path that are those of the entry before, as many as are equal
//!     rest      number: bytes of the path that follow, and these bytes
//!               only of files:
//!     length    number: bytes of the file
//!     hash      [32]: its file hash; of an empty file, that of the empty file
//! ```
//!
//! A *number* is little-endian base 128 (LEB128), as short as it can be, at most 2^48. A folder is listed only if nothing
//! in it is; the others follow from the paths. The same folder has the same manifest, whoever writes it.
//!
//! Both sides go through it entry by entry; neither holds more than one.

use std::io::{self, BufReader, ErrorKind, Read, Write};

use super::entry::{Course, Entry, EntryFault, EntryKind};
use super::path::{EntryPath, PATH_MAX, PathError};
use crate::geometry::LENGTH_MAX;
use crate::hash::{FileHash, HASH_LEN};

/// Most bytes of a manifest: 64 MiB.
pub const MANIFEST_MAX: u64 = 64 << 20;

/// Most entries of a manifest.
pub const ENTRIES_MAX: u64 = 1_000_000;

const VERSION: u8 = 1;
const FILE: u8 = 0;
const EXECUTABLE: u8 = 1;
const FOLDER: u8 = 2;

/// Longest number: 2^48 takes 7 bytes.
const NUMBER_MAX: usize = 7;

/// Writes a manifest, entry by entry, in their order.
///
/// ```
/// use p2p_files::{Entry, EntryKind, EntryPath, ManifestReader, ManifestWriter};
///
/// let entry = Entry { path: EntryPath::parse("to do")?, kind: EntryKind::EmptyFolder };
/// let mut writer = ManifestWriter::new(Vec::new())?;
/// writer.push(&entry)?;
/// let bytes = writer.finish()?;
/// let read: Result<Vec<Entry>, _> = ManifestReader::new(bytes.as_slice())?.collect();
/// assert_eq!(read?, [entry]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct ManifestWriter<W> {
    out: W,
    course: Course,
    bytes: u64,
    buf: Vec<u8>,
}

impl<W: Write> ManifestWriter<W> {
    /// Begins a manifest.
    ///
    /// # Errors
    ///
    /// What `out` says.
    pub fn new(mut out: W) -> io::Result<Self> {
        out.write_all(&[VERSION])?;
        Ok(Self { out, course: Course::default(), bytes: 1, buf: Vec::new() })
    }

    /// Writes the next entry.
    ///
    /// # Errors
    ///
    /// [`ManifestError`] when the entry may not come next, the manifest becomes too large, or `out` fails; it cannot be
    /// finished then.
    pub fn push(&mut self, entry: &Entry) -> Result<(), ManifestError> {
        let path = entry.path.as_str().as_bytes();
        let shared = self.course.shared_with(path);
        let number = self.course.entries;
        self.course.next(entry).map_err(|fault| ManifestError::Entry { number, fault })?;
        if self.course.entries > ENTRIES_MAX {
            return Err(ManifestError::TooMany);
        }
        self.buf.clear();
        self.buf.push(match entry.kind {
            EntryKind::File { executable: false, .. } => FILE,
            EntryKind::File { executable: true, .. } => EXECUTABLE,
            EntryKind::EmptyFolder => FOLDER,
        });
        put_number(&mut self.buf, shared as u64);
        put_number(&mut self.buf, (path.len() - shared) as u64);
        self.buf.extend_from_slice(&path[shared..]);
        if let EntryKind::File { length, hash, .. } = &entry.kind {
            if *length > LENGTH_MAX {
                return Err(ManifestError::Entry { number, fault: EntryFault::Number });
            }
            put_number(&mut self.buf, *length);
            self.buf.extend_from_slice(hash.as_bytes());
        }
        self.bytes += self.buf.len() as u64;
        if self.bytes > MANIFEST_MAX {
            return Err(ManifestError::TooLarge);
        }
        self.out.write_all(&self.buf)?;
        Ok(())
    }

    /// Entries so far.
    #[must_use]
    pub const fn entries(&self) -> u64 {
        self.course.entries
    }

    /// Bytes of all files so far.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.course.total
    }

    /// The end: flushes and gives back what was written to.
    ///
    /// # Errors
    ///
    /// What `out` says.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.flush()?;
        Ok(self.out)
    }
}

/// Reads a manifest, entry by entry. After an error nothing more comes.
///
/// What comes is checked as far as it came; only a reader that got to its end without an error has seen a manifest.
#[derive(Debug)]
pub struct ManifestReader<R> {
    input: BufReader<io::Take<R>>,
    course: Course,
    bytes: u64,
    path: Vec<u8>,
    over: bool,
}

impl<R: Read> ManifestReader<R> {
    /// Begins to read.
    ///
    /// # Errors
    ///
    /// [`ManifestError`] when it is not a manifest of a version that is known.
    pub fn new(input: R) -> Result<Self, ManifestError> {
        let mut input = BufReader::with_capacity(64 * 1024, input.take(MANIFEST_MAX + 1));
        let mut version = [0];
        input.read_exact(&mut version).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => ManifestError::Version { version: 0 },
            _ => ManifestError::Io(error),
        })?;
        match version {
            [VERSION] => {
                Ok(Self { input, course: Course::default(), bytes: 1, path: Vec::new(), over: false })
            }
            [version] => Err(ManifestError::Version { version }),
        }
    }

    /// Bytes of all files so far.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.course.total
    }

    fn entry(&mut self) -> Result<Option<Entry>, ManifestError> {
        let mut kind = [0];
        match self.input.read_exact(&mut kind) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        }
        self.bytes += 1;
        if self.course.entries >= ENTRIES_MAX {
            return Err(ManifestError::TooMany);
        }
        let number = self.course.entries;
        let entry = self.rest(kind[0]).map_err(|failed| match failed {
            Failed::Io(error) if error.kind() == ErrorKind::UnexpectedEof => {
                ManifestError::Entry { number, fault: EntryFault::Cut }
            }
            Failed::Io(error) => ManifestError::Io(error),
            Failed::Fault(fault) => ManifestError::Entry { number, fault },
        })?;
        // Cut off at the limit, it looks like an end.
        if self.bytes > MANIFEST_MAX { Err(ManifestError::TooLarge) } else { Ok(Some(entry)) }
    }

    fn rest(&mut self, kind: u8) -> Result<Entry, Failed> {
        if kind > FOLDER {
            return Err(EntryFault::Kind { kind }.into());
        }
        let (shared, rest) = (self.size()?, self.size()?);
        if shared > self.path.len() || shared + rest > PATH_MAX {
            return Err(EntryFault::Path(PathError::Length { len: shared.saturating_add(rest) }).into());
        }
        self.path.truncate(shared);
        self.path.resize(shared + rest, 0);
        self.input.read_exact(&mut self.path[shared..])?;
        self.bytes += rest as u64;
        if self.course.shared_with(&self.path) != shared {
            return Err(EntryFault::Shared.into());
        }
        let text = str::from_utf8(&self.path).map_err(|_| EntryFault::Utf8)?;
        let path = EntryPath::parse(text).map_err(EntryFault::Path)?;
        let kind = if kind == FOLDER {
            EntryKind::EmptyFolder
        } else {
            let length = self.number()?;
            let mut hash = [0; HASH_LEN];
            self.input.read_exact(&mut hash)?;
            self.bytes += HASH_LEN as u64;
            EntryKind::File { length, hash: FileHash::from_bytes(hash), executable: kind == EXECUTABLE }
        };
        let entry = Entry { path, kind };
        self.course.next(&entry)?;
        Ok(entry)
    }

    /// A number of bytes of a path.
    fn size(&mut self) -> Result<usize, Failed> {
        let number = self.number()?;
        usize::try_from(number)
            .ok()
            .filter(|size| *size <= PATH_MAX)
            .ok_or_else(|| EntryFault::Path(PathError::Length { len: PATH_MAX + 1 }).into())
    }

    fn number(&mut self) -> Result<u64, Failed> {
        let mut value = 0;
        for at in 0..NUMBER_MAX {
            let mut byte = [0];
            self.input.read_exact(&mut byte)?;
            self.bytes += 1;
            let [byte] = byte;
            value |= u64::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                // As short as it can be, and within the limit.
                let long = at > 0 && byte == 0;
                return if long || value > LENGTH_MAX { Err(EntryFault::Number.into()) } else { Ok(value) };
            }
        }
        Err(EntryFault::Number.into())
    }
}

impl<R: Read> Iterator for ManifestReader<R> {
    type Item = Result<Entry, ManifestError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let next = self.entry().transpose();
        self.over = !matches!(next, Some(Ok(_)));
        next
    }
}

fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

enum Failed {
    Io(io::Error),
    Fault(EntryFault),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<EntryFault> for Failed {
    fn from(fault: EntryFault) -> Self {
        Self::Fault(fault)
    }
}

/// Why something is not a manifest, or cannot be written as one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// It could not be read or written.
    #[error("the manifest cannot be used")]
    Io(#[from] io::Error),
    /// Not a manifest, or one of a newer program.
    #[error("manifest of version {version}, this program knows version {VERSION} only")]
    Version {
        /// The version byte; 0 for no bytes at all.
        version: u8,
    },
    /// More than 64 MiB.
    #[error("a manifest has at most {MANIFEST_MAX} bytes")]
    TooLarge,
    /// More than 1,000,000 entries.
    #[error("a folder has at most {ENTRIES_MAX} entries")]
    TooMany,
    /// An entry that must not be there.
    #[error("entry {number} of the manifest: {fault}")]
    Entry {
        /// Which, counted from 0.
        number: u64,
        /// What is wrong with it.
        fault: EntryFault,
    },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::entry::EMPTY;
    use super::*;

    fn file(path: &str, length: u64) -> Entry {
        let hash = if length == 0 { *EMPTY } else { FileHash::from_bytes([7; 32]) };
        let kind = EntryKind::File { length, hash, executable: length % 2 == 1 };
        Entry { path: EntryPath::parse(path).unwrap(), kind }
    }

    fn folder(path: &str) -> Entry {
        Entry { path: EntryPath::parse(path).unwrap(), kind: EntryKind::EmptyFolder }
    }

    fn write(entries: &[Entry]) -> Result<Vec<u8>, ManifestError> {
        let mut writer = ManifestWriter::new(Vec::new())?;
        entries.iter().try_for_each(|entry| writer.push(entry))?;
        Ok(writer.finish()?)
    }

    fn read(bytes: &[u8]) -> Result<Vec<Entry>, ManifestError> {
        ManifestReader::new(bytes)?.collect()
    }

    fn fault(result: Result<impl std::fmt::Debug, ManifestError>) -> EntryFault {
        match result {
            Err(ManifestError::Entry { fault, .. }) => fault,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_writer_keeps_the_order() {
        assert_eq!(fault(write(&[file("b", 1), file("a", 1)])), EntryFault::Order);
        assert_eq!(fault(write(&[file("a", 1), folder("a")])), EntryFault::Order);
        assert_eq!(fault(write(&[file("a", 1), file("a/b", 1)])), EntryFault::Below);
        assert_eq!(fault(write(&[folder("a"), folder("a/b")])), EntryFault::Below);
        assert!(write(&[file("a", 1), file("a b", 1)]).is_ok());
    }

    #[test]
    fn other_forms_of_the_same_folder_are_refused() {
        let good = write(&[file("aa", 1), file("ab", 1)]).unwrap();
        assert_eq!(read(&good).unwrap().len(), 2);
        let hash = [7; 32];
        let entry = |head: &[u8]| [head, &[1], &hash].concat();
        let with = |entries: &[Vec<u8>]| [&[1][..], &entries.concat()].concat();
        assert_eq!(with(&[entry(b"\x01\0\x02aa"), entry(b"\x01\x01\x01b")]), good);
        for (bytes, expected) in [
            (with(&[entry(b"\x01\0\x02aa"), entry(b"\x01\0\x02ab")]), EntryFault::Shared),
            (with(&[entry(b"\x01\0\x82\0aa")]), EntryFault::Number),
            (with(&[entry(b"\x03\0\x02aa")]), EntryFault::Kind { kind: 3 }),
            (with(&[entry(b"\x01\0\x02a\xff")]), EntryFault::Utf8),
            (with(&[entry(b"\x01\0\x02ab"), entry(b"\x01\x01\x01a")]), EntryFault::Order),
            (with(&[entry(b"\x01\0\x01a"), entry(b"\x01\x01\x02/b")]), EntryFault::Below),
            (good[..good.len() - 1].to_vec(), EntryFault::Cut),
            ([&[1, 0, 0, 1, b'a', 0][..], &hash].concat(), EntryFault::Empty),
            ([&[1, 0, 0, 1, b'a', 1][..], EMPTY.as_bytes()].concat(), EntryFault::Empty),
        ] {
            assert_eq!(fault(read(&bytes)), expected, "{bytes:?}");
        }
        assert!(matches!(read(&[]), Err(ManifestError::Version { version: 0 })));
        assert!(matches!(read(&[2]), Err(ManifestError::Version { version: 2 })));
    }

    #[test]
    fn too_much_is_refused_whole() {
        let mut writer = ManifestWriter::new(io::sink()).unwrap();
        writer.course.entries = ENTRIES_MAX - 1;
        writer.push(&folder("a")).unwrap();
        assert!(matches!(writer.push(&folder("b")), Err(ManifestError::TooMany)));
        let mut writer = ManifestWriter::new(io::sink()).unwrap();
        writer.bytes = MANIFEST_MAX - 4;
        writer.push(&folder("a")).unwrap();
        assert!(matches!(writer.push(&folder("b")), Err(ManifestError::TooLarge)));

        let bytes = write(&[folder("a"), folder("b")]).unwrap();
        let mut reader = ManifestReader::new(bytes.as_slice()).unwrap();
        reader.course.entries = ENTRIES_MAX - 1;
        assert!(reader.next().unwrap().is_ok());
        assert!(matches!(reader.next(), Some(Err(ManifestError::TooMany))));
        assert!(reader.next().is_none());
        let mut reader = ManifestReader::new(bytes.as_slice()).unwrap();
        reader.bytes = MANIFEST_MAX - 4;
        assert!(reader.next().unwrap().is_ok());
        assert!(matches!(reader.next(), Some(Err(ManifestError::TooLarge))));
    }

    prop_compose! {
        fn entries()(paths in prop::collection::btree_set("[a-c]{1,2}(/[a-c]{1,2}){0,3}", 0..30),
                     lengths in prop::collection::vec(prop_oneof![Just(None), (0..300u64).prop_map(Some), Just(Some(LENGTH_MAX))], 30))
            -> Vec<Entry> {
            let mut paths: Vec<_> = paths.iter().map(|path| EntryPath::parse(path).unwrap()).collect();
            paths.sort();
            let parents: Vec<_> = paths.iter().enumerate()
                .map(|(at, path)| paths.get(at + 1).is_some_and(|next| next.is_within(path))).collect();
            paths.into_iter().zip(parents).zip(lengths).filter(|((_, parent), _)| !parent)
                .map(|((path, _), length)| length.map_or_else(|| folder(path.as_str()), |l| file(path.as_str(), l)))
                .collect()
        }
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(entries in entries()) {
            let bytes = write(&entries).unwrap();
            prop_assert_eq!(read(&bytes).unwrap(), entries);
        }

        #[test]
        fn one_folder_has_one_form(entries in entries(), at in any::<prop::sample::Index>(), byte: u8) {
            let mut bytes = write(&entries).unwrap();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Ok(entries) = read(&bytes) {
                prop_assert_eq!(write(&entries).unwrap(), bytes);
            }
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&bytes);
        }
    }
}
