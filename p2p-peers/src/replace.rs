//! Replacing a file so that a crash at any moment leaves the old one or the new one.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// The steps that touch the disk, so that tests can crash between any two of them.
pub(crate) trait Disk {
    type Handle;
    /// Makes a new file, which must not exist, with these Unix permissions.
    fn create(&mut self, path: &Path, mode: Option<u32>) -> io::Result<Self::Handle>;
    fn write(&mut self, file: &mut Self::Handle, bytes: &[u8]) -> io::Result<()>;
    /// Returns once the content is on the disk.
    fn sync(&mut self, file: &mut Self::Handle) -> io::Result<()>;
    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()>;
    /// Returns once the names in the directory are on the disk.
    fn sync_dir(&mut self, dir: &Path) -> io::Result<()>;
    fn remove(&mut self, path: &Path) -> io::Result<()>;
}

struct RealDisk;

impl Disk for RealDisk {
    type Handle = File;

    fn create(&mut self, path: &Path, mode: Option<u32>) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        if let Some(mode) = mode {
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
        }
        #[cfg(not(unix))]
        let _ = mode;
        options.open(path)
    }

    fn write(&mut self, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        file.write_all(bytes)?;
        file.flush()
    }

    fn sync(&mut self, file: &mut File) -> io::Result<()> {
        file.sync_all()
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn sync_dir(&mut self, dir: &Path) -> io::Result<()> {
        // Elsewhere directories cannot be opened, and need not be synced.
        if cfg!(unix) { File::open(dir)?.sync_all() } else { Ok(()) }
    }

    fn remove(&mut self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }
}

/// Puts `bytes` at `path`, in place of what is there, such that a crash at any moment leaves either the old content or
/// the new one, whole: a temporary file in the same directory is written, synced and renamed, and the directory
/// synced. On Unix the file has the permissions `mode` (say `0o600`) from the moment it exists; with `None`, and
/// elsewhere, those the system gives.
///
/// Blocks until the disk is done. A symbolic link at `path` is replaced, not followed.
///
/// # Errors
///
/// Any error of the file system. The old content is then in place, but for an error of the last step, the sync of the
/// directory: then the new content is, and may be lost in a crash.
pub fn replace_file(path: &Path, bytes: &[u8], mode: Option<u32>) -> io::Result<()> {
    replace_on(&mut RealDisk, path, bytes, mode)
}

pub(crate) fn replace_on<D: Disk>(
    disk: &mut D,
    path: &Path,
    bytes: &[u8],
    mode: Option<u32>,
) -> io::Result<()> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let no_name = || io::Error::new(io::ErrorKind::InvalidInput, "the path names no file");
    let mut name = temp_prefix(path).ok_or_else(no_name)?;
    name.push(format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    let temp = directory(path).join(name);
    let written = write_temp(disk, &temp, bytes, mode).and_then(|()| disk.rename(&temp, path));
    if let Err(error) = written {
        // The first error is the one that counts; what is left over is swept at the next load.
        let _ = disk.remove(&temp);
        return Err(error);
    }
    disk.sync_dir(&directory(path))
}

fn write_temp<D: Disk>(disk: &mut D, temp: &Path, bytes: &[u8], mode: Option<u32>) -> io::Result<()> {
    let mut file = match disk.create(temp, mode) {
        // Left over by an earlier process that had our number.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            disk.remove(temp)?;
            disk.create(temp, mode)?
        }
        created => created?,
    };
    disk.write(&mut file, bytes)?;
    disk.sync(&mut file)
}

/// What the names of temporary files for `path` begin with.
pub(crate) fn temp_prefix(path: &Path) -> Option<OsString> {
    let mut name = OsString::from(".");
    name.push(path.file_name()?);
    name.push(".tmp-");
    Some(name)
}

/// The directory that `path` is in.
pub(crate) fn directory(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    }
}
