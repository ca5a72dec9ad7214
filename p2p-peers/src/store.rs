//! [`PeerStore`]: the snapshot in its file. The only part of this crate that touches the disk.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::{debug, warn};

use crate::replace::{directory, replace_file, temp_prefix};
use crate::snapshot::MAX_SNAPSHOT_BYTES;
use crate::{DecodeError, Loaded, Snapshot};

/// Permissions of the file on Unix: whom one talks to is nobody else's business.
const MODE: u32 = 0o600;

/// Names tried when a corrupt file is moved aside.
const ASIDE_TRIES: u32 = 100;

/// A snapshot file.
///
/// All calls block on the disk. Only one process may use a file at a time; the caller holds a lock for that.
#[derive(Debug, Clone)]
pub struct PeerStore {
    path: PathBuf,
}

/// Why a snapshot could not be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The file is there and cannot be read. It stays where it is.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file is no snapshot. It was moved aside, so that the next save does not destroy it: warn and start clean.
    #[error("{} is not usable and was moved to {}", path.display(), moved_to.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where it is now.
        moved_to: PathBuf,
        /// What is wrong with it.
        source: DecodeError,
    },
    /// The file is no snapshot and could not be moved aside. A save would destroy it.
    #[error("{} is not usable ({decode}) and cannot be moved aside", path.display())]
    Stuck {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        decode: DecodeError,
        /// Why it could not be moved.
        source: io::Error,
    },
}

/// Why a snapshot could not be saved. What was saved before is still there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SaveError {
    /// The disk refused.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The ids cannot be written as JSON.
    #[error("the peers cannot be written as json")]
    Encode(#[from] serde_json::Error),
}

impl PeerStore {
    /// A store in the file `path`, which need not exist.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the file; `None` if there is none. Sweeps what an interrupted save left over.
    ///
    /// # Errors
    ///
    /// [`LoadError`]; a file that is no snapshot has been moved aside, to the same name with `.corrupt-` and the Unix
    /// time in seconds added.
    pub fn load<P: DeserializeOwned>(&self) -> Result<Option<Loaded<P>>, LoadError> {
        self.sweep();
        let bytes = match read_bounded(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(LoadError::Read { path: self.path.clone(), source }),
        };
        match Snapshot::decode(&bytes) {
            Ok(loaded) => Ok(Some(loaded)),
            Err(decode) => Err(self.set_aside(decode)),
        }
    }

    /// Replaces the file, atomically ([`replace_file`]); on Unix only its owner may read it.
    ///
    /// # Errors
    ///
    /// [`SaveError`]; the old file is then still there.
    pub fn save<P: Serialize>(&self, snapshot: &Snapshot<P>) -> Result<(), SaveError> {
        let bytes = snapshot.encode()?;
        let failed = |source| SaveError::Write { path: self.path.clone(), source };
        replace_file(&self.path, &bytes, Some(MODE)).map_err(failed)?;
        debug!(path = %self.path.display(), peers = snapshot.peers.len(), len = bytes.len(), "saved");
        Ok(())
    }

    fn set_aside(&self, decode: DecodeError) -> LoadError {
        match move_aside(&self.path, unix_time()) {
            Ok(moved_to) => LoadError::Corrupt { path: self.path.clone(), moved_to, source: decode },
            Err(source) => LoadError::Stuck { path: self.path.clone(), decode, source },
        }
    }

    /// Removes temporary files of saves that did not finish. Failing to is harmless.
    fn sweep(&self) {
        let Some(prefix) = temp_prefix(&self.path) else { return };
        let Ok(dir) = std::fs::read_dir(directory(&self.path)) else { return };
        for file in dir.flatten() {
            let left_over = file.file_name().as_encoded_bytes().starts_with(prefix.as_encoded_bytes());
            if left_over && let Err(error) = std::fs::remove_file(file.path()) {
                warn!(path = %file.path().display(), %error, "cannot remove a left-over file");
            }
        }
    }
}

/// Reads one byte more than allowed at most: enough to see that a file is too large.
fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_SNAPSHOT_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn move_aside(path: &Path, unix_time: u64) -> io::Result<PathBuf> {
    for attempt in 0..ASIDE_TRIES {
        let mut name = path.file_name().unwrap_or_default().to_os_string();
        name.push(format!(".corrupt-{unix_time}"));
        if attempt > 0 {
            name.push(format!("-{attempt}"));
        }
        let aside = directory(path).join(name);
        if !aside.try_exists()? {
            std::fs::rename(path, &aside)?;
            return Ok(aside);
        }
    }
    Err(io::Error::new(io::ErrorKind::AlreadyExists, "too many corrupt files lie there already"))
}

#[expect(clippy::disallowed_methods, reason = "only a label in a file name")]
fn unix_time() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}
