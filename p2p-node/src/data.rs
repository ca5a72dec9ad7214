//! The data directory: its lock, the identity, the reserved sequence numbers.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use p2p_peers::replace_file;
use p2p_wire::SecretKey;
use zeroize::Zeroizing;

use crate::error::StartError;

pub(crate) const KEY_FILE: &str = "identity.key";
const LOCK_FILE: &str = "lock";
pub(crate) const SEQ_FILE: &str = "seq";
/// First line of the key file, so that a person sees what it is.
const KEY_HEADER: &str = "p2p secret key: whoever has it is this node";
/// A key file is two short lines.
const KEY_FILE_MAX: u64 = 4096;
/// Numbers reserved ahead: one write to disk for so many messages.
pub(crate) const RESERVE: u64 = 10_000;

/// A data directory, held by its lock until dropped.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    /// Removed with the node when nobody asked for a directory.
    temporary: Option<tempfile::TempDir>,
    /// Nothing may be written.
    read_only: bool,
    /// There is none in a copy that has none and cannot get one.
    _lock: Option<File>,
}

impl DataDir {
    /// Opens the directory, makes it if need be (mode 0700), and takes its lock.
    pub(crate) fn open(path: Option<&Path>) -> Result<Self, StartError> {
        let (path, temporary) = match path {
            Some(path) => (path.to_owned(), None),
            None => {
                let dir = private_temporary_dir()
                    .map_err(|source| StartError::DataDir { path: std::env::temp_dir(), source })?;
                (dir.path().to_owned(), Some(dir))
            }
        };
        make_private_dir(&path).map_err(|source| StartError::DataDir { path: path.clone(), source })?;
        let lock_path = path.join(LOCK_FILE);
        let lock = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&lock_path);
        let lock = lock.map_err(|source| StartError::DataDir { path: lock_path, source })?;
        take(&lock, &path)?;
        Ok(Self { path, temporary, read_only: false, _lock: Some(lock) })
    }

    /// Opens a directory for one who only reads, as far as it can be: one that cannot be written is as good, a copy on a
    /// read-only file system, say.
    pub(crate) fn open_to_read(path: &Path) -> Result<Self, StartError> {
        match Self::open(Some(path)) {
            Err(StartError::DataDir { source, .. })
                if matches!(source.kind(), ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied) =>
            {
                Self::open_read_only(path)
            }
            opened => opened,
        }
    }

    fn open_read_only(path: &Path) -> Result<Self, StartError> {
        let lock_path = path.join(LOCK_FILE);
        let lock = match File::open(&lock_path) {
            // A node that may write here can run all the same.
            Ok(lock) => take(&lock, path).map(|()| Some(lock))?,
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(source) => return Err(StartError::DataDir { path: lock_path, source }),
        };
        Ok(Self { path: path.to_owned(), temporary: None, read_only: true, _lock: lock })
    }

    /// Whether nothing may be written.
    pub(crate) const fn is_read_only(&self) -> bool {
        self.read_only
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the directory outlives the node. What only a next start would read is not written to one that does not:
    /// 100 nodes of one process that found each other waited for 1,900 syncs of the disk, a sixth of the time.
    pub(crate) const fn is_kept(&self) -> bool {
        self.temporary.is_none()
    }

    /// Reads the identity, or makes it at the first start; says whether it is new.
    pub(crate) fn identity(&self) -> Result<(SecretKey, bool), StartError> {
        if !self.is_kept() {
            return Ok((SecretKey::generate(&mut rand::rng()), true));
        }
        let path = self.path.join(KEY_FILE);
        match File::open(&path) {
            Ok(file) => Ok((read_key(&path, file)?, false)),
            Err(e) if e.kind() == ErrorKind::NotFound => {
                let key = SecretKey::generate(&mut rand::rng());
                write_key(&path, &key).map_err(|source| StartError::DataDir { path, source })?;
                Ok((key, true))
            }
            Err(source) => Err(StartError::DataDir { path, source }),
        }
    }

    /// Where the peer table is kept.
    pub(crate) fn state_path(&self) -> PathBuf {
        self.path.join("state.json")
    }

    /// Where the message log is kept.
    pub(crate) fn log_path(&self) -> PathBuf {
        self.path.join("log")
    }

    /// The file that keeps the reserved sequence numbers, if anything of this directory is kept.
    pub(crate) fn seq_path(&self) -> Option<PathBuf> {
        self.is_kept().then(|| self.path.join(SEQ_FILE))
    }
}

/// Takes the lock of the directory at `path`.
fn take(lock: &File, path: &Path) -> Result<(), StartError> {
    match lock.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(StartError::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => Err(StartError::DataDir { path: path.join(LOCK_FILE), source }),
    }
}

fn private_temporary_dir() -> io::Result<tempfile::TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("p2p-");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700));
    builder.tempdir()
}

fn make_private_dir(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

fn read_key(path: &Path, file: File) -> Result<SecretKey, StartError> {
    let refuse = |detail: String| StartError::Identity { path: path.to_owned(), detail };
    check_mode(&file).map_err(refuse)?;
    let mut text = Zeroizing::new(String::new());
    file.take(KEY_FILE_MAX).read_to_string(&mut text).map_err(|e| refuse(e.to_string()))?;
    let hex = text.lines().find(|line| line.len() == 64).ok_or_else(|| refuse("it holds no key".into()))?;
    let mut bytes = Zeroizing::new([0; 32]);
    for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks(2)) {
        let digits = std::str::from_utf8(pair).ok().filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
        let digits = digits.ok_or_else(|| refuse("its key is not 64 hex digits".into()))?;
        *byte = u8::from_str_radix(digits, 16).map_err(|e| refuse(e.to_string()))?;
    }
    Ok(SecretKey::from_bytes(&bytes))
}

/// Others on this machine must not be able to read the key.
fn check_mode(file: &File) -> Result<(), String> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = file.metadata().map_err(|e| e.to_string())?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(format!("its mode is {:o}, others can read it: chmod 600", mode & 0o777));
        }
    }
    let _ = file;
    Ok(())
}

fn write_key(path: &Path, key: &SecretKey) -> io::Result<()> {
    let mut text = Zeroizing::new(String::with_capacity(KEY_HEADER.len() + 66));
    text.push_str(KEY_HEADER);
    text.push('\n');
    for byte in key.to_bytes().iter() {
        use std::fmt::Write;
        write!(text, "{byte:02x}").map_err(io::Error::other)?;
    }
    text.push('\n');
    replace_file(path, text.as_bytes(), Some(0o600))
}

/// Reads up to where numbers may have been used: the next process starts there. Where the file is missing
/// or damaged though the key has been in use, the clock takes its place: microseconds since 1970 rise
/// faster than anybody sends.
pub(crate) fn read_reserved(path: &Path, now_us: u64) -> u64 {
    let mut text = String::new();
    let read = File::open(path).and_then(|f| f.take(64).read_to_string(&mut text));
    match read.ok().and_then(|_| text.trim().parse().ok()) {
        // Nobody gets beyond by sending; behind the last number of all nothing could ever be sent.
        Some(reserved) if reserved <= u64::MAX / 2 => reserved,
        _ => now_us,
    }
}

/// Reserves numbers below `until`; after a crash the next process starts at `until`.
pub(crate) fn write_reserved(path: &Path, until: u64) -> io::Result<()> {
    replace_file(path, format!("{until}\n").as_bytes(), None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identity_is_made_once_and_kept_private() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(Some(dir.path())).unwrap();
        let (key, new) = data.identity().unwrap();
        assert!(new);
        let (again, new) = data.identity().unwrap();
        assert!(!new && again.id() == key.id());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = fs::metadata(dir.path().join(KEY_FILE)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn nothing_is_written_to_a_directory_that_goes_with_the_node() {
        let data = DataDir::open(None).unwrap();
        let (key, new) = data.identity().unwrap();
        assert!(new && key.id() != data.identity().unwrap().0.id());
        assert_eq!(data.seq_path(), None);
        let names = fs::read_dir(data.path()).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(names.collect::<Vec<_>>(), [LOCK_FILE]);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(fs::metadata(data.path()).unwrap().permissions().mode() & 0o777, 0o700);
        }
    }

    #[test]
    fn a_damaged_key_file_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(Some(dir.path())).unwrap();
        data.identity().unwrap();
        let path = dir.path().join(KEY_FILE);
        let whole = fs::read(&path).unwrap();
        let long = vec![b'x'; 100_000];
        let not_hex = "z".repeat(64).into_bytes();
        for bad in [&b""[..], &whole[..whole.len() / 2], &[0xff; 200], &long, &not_hex] {
            fs::write(&path, bad).unwrap();
            assert!(matches!(data.identity(), Err(StartError::Identity { .. })));
            assert_eq!(fs::read(&path).unwrap(), bad);
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_key_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(Some(dir.path())).unwrap();
        data.identity().unwrap();
        fs::set_permissions(dir.path().join(KEY_FILE), fs::Permissions::from_mode(0o644)).unwrap();
        assert!(
            matches!(data.identity(), Err(StartError::Identity { detail, .. }) if detail.contains("chmod 600"))
        );
    }

    #[test]
    fn a_second_holder_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataDir::open(Some(dir.path())).unwrap();
        assert!(matches!(DataDir::open(Some(dir.path())), Err(StartError::InUse { .. })));
        drop(first);
        assert!(DataDir::open(Some(dir.path())).is_ok());
    }

    #[test]
    fn one_that_cannot_be_written_is_read_unless_a_node_runs_there() {
        let dir = tempfile::tempdir().unwrap();
        let unlocked = DataDir::open_read_only(dir.path()).unwrap();
        assert!(unlocked.is_read_only() && fs::read_dir(dir.path()).unwrap().next().is_none());
        let node = DataDir::open(Some(dir.path())).unwrap();
        assert!(matches!(DataDir::open_read_only(dir.path()), Err(StartError::InUse { .. })));
        drop(node);
        let reader = DataDir::open_read_only(dir.path()).unwrap();
        assert!(matches!(DataDir::open(Some(dir.path())), Err(StartError::InUse { .. })));
        drop(reader);
        assert!(!DataDir::open_to_read(dir.path()).unwrap().is_read_only());
    }

    #[test]
    fn reserved_numbers_survive_and_damage_falls_back_to_the_clock() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(SEQ_FILE);
        assert_eq!(read_reserved(&path, 77), 77);
        write_reserved(&path, 12_345).unwrap();
        assert_eq!(read_reserved(&path, 77), 12_345);
        for damaged in [&b"\xff\xfe"[..], b"18446744073709551615\n"] {
            fs::write(&path, damaged).unwrap();
            assert_eq!(read_reserved(&path, 77), 77);
        }
    }
}
