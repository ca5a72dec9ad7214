//! The folders that are shared here, or on their way, each with a small file beside its manifest.
//!
//! `dirs/` in the data directory holds the manifests, `<hash>`, and for each folder that has such a manifest
//! `<hash>.<8 hex of its path>.dir`, all integers big-endian:
//!
//! ```text
//! version u8 = 2 | state u8: 0 on its way, 1 complete, 2 complete and as it lies on disk | bytes u64 | files u64 | whole u64
//!     | path u16 + bytes | count u16 of wanted paths | each: u16 + bytes                      none for everything
//!     | "p2p/dir"
//! ```
//!
//! Which files are here is not in it: the index knows them.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::path::EntryPath;
use super::select::Selection;
use crate::disk;
use crate::hash::FileHash;
use crate::index::{path_bytes, path_from_bytes};

const MAGIC: &[u8; 8] = b"p2p/dir\n";
const VERSION: u8 = 2;
/// Longest record: a path and 1,000 wanted ones of 4 KiB each.
const RECORD_MAX: u64 = 5 << 20;
/// Most folders that are listed.
const FOLDERS_MAX: usize = 10_000;

/// A folder that is shared from here, or being fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder {
    /// The hash of its manifest.
    pub hash: FileHash,
    /// Where it lies, absolute.
    pub path: PathBuf,
    /// Whether all that was wanted of it is here.
    pub complete: bool,
    /// Whether it is shared as it lies on disk: a refresh gives it a new hash when it changed. Not so for one that was fetched.
    pub follows: bool,
    /// Bytes of its files, of those that were wanted.
    pub bytes: u64,
    /// Number of its files, of those that were wanted.
    pub files: u64,
    /// Bytes of all its files, wanted or not; 0 until the manifest is here.
    pub whole: u64,
    /// What of it was wanted.
    pub selection: Selection,
}

impl Folder {
    /// Whether everything that is in it is here.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.complete && self.selection.is_all()
    }

    /// Where its record lies.
    pub(super) fn file(&self, dirs: &Path) -> PathBuf {
        let place = Sha256::digest(self.path.as_os_str().as_encoded_bytes());
        dirs.join(format!("{}.{}.dir", self.hash, data_encoding::HEXLOWER.encode(&place[..4])))
    }

    pub(super) fn save(&self, dirs: &Path) -> io::Result<()> {
        let bytes = self.encode().ok_or(io::ErrorKind::Unsupported)?;
        let name = self.file(dirs);
        let new = name.with_extension("dir.new");
        let write = || {
            let file = disk::create(&new)?;
            disk::write_all_at(&file, &bytes, 0)?;
            disk::sync_file(&file)?;
            disk::rename(&new, &name)
        };
        write().inspect_err(|_| {
            let _ = disk::remove_file(&new);
        })?;
        disk::sync_dir(dirs)
    }

    pub(super) fn forget(&self, dirs: &Path) {
        let _ = disk::remove_file(&self.file(dirs));
    }

    fn encode(&self) -> Option<Vec<u8>> {
        let mut out = vec![VERSION, u8::from(self.complete) + u8::from(self.complete && self.follows)];
        out.extend(self.bytes.to_be_bytes());
        out.extend(self.files.to_be_bytes());
        out.extend(self.whole.to_be_bytes());
        put(&mut out, path_bytes(&self.path)?)?;
        out.extend(u16::try_from(self.selection.paths().len()).ok()?.to_be_bytes());
        for path in self.selection.paths() {
            put(&mut out, path.as_str().as_bytes())?;
        }
        out.extend(MAGIC);
        Some(out)
    }

    /// `None` for bytes that are no whole record.
    fn decode(hash: FileHash, bytes: &[u8]) -> Option<Self> {
        let (&[version, state], rest) = bytes.split_first_chunk()?;
        let (total, rest) = rest.split_first_chunk()?;
        let (files, rest) = rest.split_first_chunk()?;
        let (whole, rest) = rest.split_first_chunk()?;
        let (path, rest) = take(rest)?;
        let (count, mut rest) = rest.split_first_chunk()?;
        let mut wanted = Vec::new();
        for _ in 0..u16::from_be_bytes(*count) {
            let (path, after) = take(rest)?;
            wanted.push(EntryPath::parse(str::from_utf8(path).ok()?).ok()?);
            rest = after;
        }
        if version != VERSION || state > 2 || rest != MAGIC {
            return None;
        }
        Some(Self {
            hash,
            path: path_from_bytes(path)?,
            complete: state >= 1,
            follows: state == 2,
            bytes: u64::from_be_bytes(*total),
            files: u64::from_be_bytes(*files),
            whole: u64::from_be_bytes(*whole),
            selection: Selection::of(wanted.iter().map(EntryPath::as_str)).ok()?,
        })
    }
}

/// All folders with a record in `dirs`, by hash and path; one that cannot be read is left alone and logged.
pub(super) fn folders(dirs: &Path) -> io::Result<Vec<Folder>> {
    let mut found = Vec::new();
    let entries = match std::fs::read_dir(dirs) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        other => other?,
    };
    for entry in entries {
        let path = entry?.path();
        let hash = path.file_name().and_then(|name| name.to_str()).and_then(|name| {
            let (hash, place) = name.strip_suffix(".dir")?.split_once('.')?;
            (place.len() == 8).then(|| hash.parse().ok())?
        });
        let Some(hash) = hash else { continue };
        if found.len() >= FOLDERS_MAX {
            tracing::warn!(limit = FOLDERS_MAX, "more folders than are listed");
            break;
        }
        match read(&path).map(|bytes| Folder::decode(hash, &bytes)) {
            Ok(Some(folder)) => found.push(folder),
            other => tracing::warn!(path = %path.display(), ?other, "not the record of a folder"),
        }
    }
    found.sort_by(|a, b| (a.hash, &a.path).cmp(&(b.hash, &b.path)));
    Ok(found)
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(RECORD_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) -> Option<()> {
    out.extend(u16::try_from(bytes.len()).ok()?.to_be_bytes());
    out.extend(bytes);
    Some(())
}

fn take(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::disk::faults::{self, Fault};

    fn folder() -> Folder {
        let selection = Selection::of(["a/b", "c"]).unwrap();
        let hash = FileHash::from_bytes([1; 32]);
        Folder {
            hash,
            path: "/x/y".into(),
            complete: true,
            follows: true,
            bytes: 7,
            files: 2,
            whole: 9,
            selection,
        }
    }

    #[test]
    fn folders_are_found_again_and_damage_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let other = Folder {
            path: "/x/z".into(),
            complete: false,
            follows: false,
            selection: Selection::all(),
            ..folder()
        };
        for folder in [folder(), other.clone()] {
            folder.save(dir.path()).unwrap();
        }
        assert_eq!(folders(dir.path()).unwrap(), [folder(), other.clone()]);
        std::fs::write(other.file(dir.path()), "x").unwrap();
        std::fs::write(dir.path().join("stray"), "x").unwrap();
        assert_eq!(folders(dir.path()).unwrap(), [folder()]);
        folder().forget(dir.path());
        assert_eq!(folders(dir.path()).unwrap(), []);
        assert_eq!(folders(&dir.path().join("none")).unwrap(), []);
    }

    #[test]
    fn whatever_step_fails_the_record_is_the_old_one_or_the_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let old = Folder { complete: false, follows: false, ..folder() };
        faults::set(None);
        old.save(dir.path()).unwrap();
        let steps = faults::steps();
        assert_eq!(steps, ["create", "write", "sync file", "rename", "sync folder"]);
        for step in 0..steps.len() {
            for fault in [Fault::Fails(step), Fault::Crashes(step)] {
                faults::set(None);
                old.save(dir.path()).unwrap();
                faults::set(Some(fault));
                folder().save(dir.path()).unwrap_err();
                faults::set(None);
                let found = folders(dir.path()).unwrap();
                assert!(found == [old.clone()] || found == [folder()], "{fault:?}: {found:?}");
                let files = std::fs::read_dir(dir.path()).unwrap().count();
                assert!(files == 1 || matches!(fault, Fault::Crashes(_)), "{fault:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0..60usize) {
            let hash = FileHash::from_bytes([1; 32]);
            let _ = Folder::decode(hash, &bytes);
            let whole = folder().encode().unwrap();
            let part = &whole[..whole.len().saturating_sub(cut)];
            prop_assert_eq!(Folder::decode(hash, part).is_some(), cut == 0);
        }
    }
}
