//! Downloads that an earlier process, or this one, did not bring to their end.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::destination::Destination;
use crate::disk;
use crate::hash::FileHash;
use crate::journal::JournalRecord;
use crate::library::Library;

/// Most unfinished downloads that are listed; a folder that holds more of them is somebody's mistake.
const UNFINISHED_MAX: usize = 1_000;

/// A download that can go on: the same [`Download::start`](crate::Download::start) does.
#[derive(Debug, Clone)]
pub struct Unfinished {
    /// Its hash.
    pub hash: FileHash,
    /// Bytes of the file.
    pub length: u64,
    /// Where it is to go.
    pub destination: Destination,
}

impl Library {
    /// The downloads that were interrupted, those that are running again included; at most 1,000. The journal of one
    /// whose part-file is gone is removed, and that of one that is complete and in the index.
    ///
    /// # Errors
    ///
    /// When the folder of the journals cannot be read.
    pub fn unfinished(&self) -> io::Result<Vec<Unfinished>> {
        let mut found = Vec::new();
        let mut folders: Vec<_> = self.dirs_if_any().into_iter().collect();
        folders.extend(self.folders()?.into_iter().filter(|f| !f.complete).map(|f| f.path));
        for entry in std::fs::read_dir(&self.trees)? {
            let path = entry?.path();
            if path.extension().is_none_or(|end| end != "part") || found.len() >= UNFINISHED_MAX {
                continue;
            }
            let record = File::open(&path).and_then(|file| JournalRecord::read(&file));
            // One that is not whole may be in the making.
            let Ok(Some(record)) = record else { continue };
            if record.is_lost() || self.has_entered(&record) {
                let _ = disk::remove_file(&path);
                continue;
            }
            let destination = record.destination();
            // What is part of a folder goes on with the folder.
            let (Destination::Dir(place, _) | Destination::File(place)) = &destination;
            if folders.iter().any(|folder| place.starts_with(folder)) {
                continue;
            }
            found.push(Unfinished { hash: record.info.hash(), length: record.info.length, destination });
        }
        found.sort_by_key(|unfinished| unfinished.hash);
        Ok(found)
    }

    /// Whether the file that a journal belongs to is in the index, and as it was when it came there.
    fn has_entered(&self, journal: &JournalRecord) -> bool {
        let found = self.index.of_hash(&journal.info.hash()).unwrap_or_default();
        found.iter().filter(|(_, record)| !record.gone).any(|(path, record)| {
            std::fs::symlink_metadata(path)
                .is_ok_and(|there| journal.is_part(&there) && self.is_unchanged(record, &there))
        })
    }

    /// Where the journal of a download with this part-file lies.
    pub(crate) fn journal_path(&self, hash: &FileHash, part: &Path) -> PathBuf {
        let place = Sha256::digest(part.as_os_str().as_encoded_bytes());
        let place = data_encoding::HEXLOWER.encode(&place[..4]);
        self.trees.join(format!("{hash}.{place}.part"))
    }
}
