//! Positional file access, and what tells a changed file from an unchanged one.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Fills `buf` from `offset`. A file that ends before gives `UnexpectedEof`.
pub(crate) fn read_exact_at(file: &File, buf: &mut [u8], offset: u64) -> io::Result<()> {
    #[cfg(unix)]
    return std::os::unix::fs::FileExt::read_exact_at(file, buf, offset);
    #[cfg(windows)]
    {
        let (mut buf, mut offset) = (buf, offset);
        while !buf.is_empty() {
            match std::os::windows::fs::FileExt::seek_read(file, buf, offset) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => {
                    buf = &mut buf[n..];
                    offset += n as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Writes all of `buf` at `offset`.
pub(crate) fn write_all_at(file: &File, buf: &[u8], offset: u64) -> io::Result<()> {
    #[cfg(test)]
    if let Some(half) = faults::torn(buf) {
        write_at(file, half, offset)?;
        return Err(faults::crashed());
    }
    step("write")?;
    write_at(file, buf, offset)
}

fn write_at(file: &File, buf: &[u8], offset: u64) -> io::Result<()> {
    #[cfg(unix)]
    return std::os::unix::fs::FileExt::write_all_at(file, buf, offset);
    #[cfg(windows)]
    {
        let (mut buf, mut offset) = (buf, offset);
        while !buf.is_empty() {
            match std::os::windows::fs::FileExt::seek_write(file, buf, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    buf = &buf[n..];
                    offset += n as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Makes a file that must not exist, for reading and writing.
pub(crate) fn create_new(path: &Path) -> io::Result<File> {
    step("create")?;
    OpenOptions::new().read(true).write(true).create_new(true).open(path)
}

/// Makes a file for reading and writing; what lies there is replaced.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    step("create")?;
    OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)
}

/// Cuts a file, or makes it longer by a hole.
pub(crate) fn set_len(file: &File, len: u64) -> io::Result<()> {
    step("set length")?;
    file.set_len(len)
}

/// Removes a name.
pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
    step("remove")?;
    std::fs::remove_file(path)
}

/// Gives a file another name; what has it is replaced.
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    step("rename")?;
    std::fs::rename(from, to)
}

/// Bytes that may be written to the disk of a folder.
pub(crate) fn free_space(dir: &Path) -> io::Result<u64> {
    #[cfg(test)]
    if let Some(free) = faults::free() {
        return Ok(free);
    }
    fs4::available_space(dir)
}

/// Whether there is no room: on the disk, or within the user's quota.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Makes a file's contents and length durable.
pub(crate) fn sync_file(file: &File) -> io::Result<()> {
    step("sync file")?;
    // There is no power failure in a test, and a sync takes longer than all the rest of it.
    if cfg!(test) { Ok(()) } else { file.sync_all() }
}

/// Makes a file's contents durable.
pub(crate) fn sync_data(file: &File) -> io::Result<()> {
    step("sync data")?;
    if cfg!(test) { Ok(()) } else { file.sync_data() }
}

/// Lets the system forget what it keeps of a file in memory, where the disk has it. A hint, on Linux.
pub(crate) fn forget_pages(file: &File) {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = file;
}

/// Gives a file a second name, which must not exist.
pub(crate) fn hard_link(from: &Path, to: &Path) -> io::Result<()> {
    step("link")?;
    std::fs::hard_link(from, to)
}

/// Makes a rename or a link in `dir` durable. Does nothing where directories cannot be synced (Windows).
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    step("sync folder")?;
    #[cfg(unix)]
    File::open(dir)?.sync_all()?;
    #[cfg(not(unix))]
    let _ = dir;
    Ok(())
}

/// In unit tests every step is noted, and can be made to fail or to be the last one.
#[cfg_attr(not(test), expect(clippy::unnecessary_wraps, reason = "steps fail in tests only"))]
fn step(name: &'static str) -> io::Result<()> {
    #[cfg(test)]
    faults::step(name)?;
    let _ = name;
    Ok(())
}

#[cfg(test)]
pub(crate) mod faults;

/// What must stay equal for a file to count as unchanged: size, mtime, ctime and inode (on Windows: size, last write
/// and creation time).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) size: u64,
    /// Nanoseconds since 1970, negative before.
    pub(crate) mtime: i128,
    pub(crate) ctime: i128,
    pub(crate) inode: u64,
    pub(crate) device: u64,
}

impl Stamp {
    pub(crate) const LEN: usize = 8 + 16 + 16 + 8 + 8;

    #[cfg(unix)]
    pub(crate) fn of(metadata: &Metadata) -> Self {
        use std::os::unix::fs::MetadataExt as _;
        let nanos = |secs: i64, nanos: i64| i128::from(secs) * 1_000_000_000 + i128::from(nanos);
        Self {
            size: metadata.len(),
            mtime: nanos(metadata.mtime(), metadata.mtime_nsec()),
            ctime: nanos(metadata.ctime(), metadata.ctime_nsec()),
            inode: metadata.ino(),
            device: metadata.dev(),
        }
    }

    #[cfg(not(unix))]
    pub(crate) fn of(metadata: &Metadata) -> Self {
        let nanos = |time: io::Result<SystemTime>| time.map_or(0, nanos_since_epoch);
        Self {
            size: metadata.len(),
            mtime: nanos(metadata.modified()),
            ctime: nanos(metadata.created()),
            inode: 0,
            device: 0,
        }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.size.to_be_bytes());
        out.extend_from_slice(&self.mtime.to_be_bytes());
        out.extend_from_slice(&self.ctime.to_be_bytes());
        out.extend_from_slice(&self.inode.to_be_bytes());
        out.extend_from_slice(&self.device.to_be_bytes());
    }

    pub(crate) fn decode(bytes: &[u8; Self::LEN]) -> Self {
        let word = |at: usize| u64::from_be_bytes(std::array::from_fn(|i| bytes[at + i]));
        let long = |at: usize| i128::from_be_bytes(std::array::from_fn(|i| bytes[at + i]));
        Self { size: word(0), mtime: long(8), ctime: long(24), inode: word(40), device: word(48) }
    }

    /// Whether nothing was written to it for so long. A time in the future says nothing and counts as long ago.
    pub(crate) fn rests(&self, now: SystemTime, long: Duration) -> bool {
        let age = nanos_since_epoch(now) - self.mtime.max(self.ctime);
        age < 0 || age >= i128::try_from(long.as_nanos()).unwrap_or(i128::MAX)
    }

    /// How long to wait until a later write is sure to give another stamp: file systems take their times from a clock
    /// that ticks every few milliseconds, so a write in the tick of the last one is invisible.
    pub(crate) fn settles_in(&self, now: SystemTime) -> Duration {
        const TICK: i128 = 20_000_000;
        let age = nanos_since_epoch(now) - self.mtime.max(self.ctime);
        if (0..TICK).contains(&age) {
            Duration::from_nanos(u64::try_from(TICK - age).expect("between 0 and the tick"))
        } else {
            Duration::ZERO
        }
    }
}

fn nanos_since_epoch(time: SystemTime) -> i128 {
    let nanos = |d: Duration| i128::try_from(d.as_nanos()).unwrap_or(i128::MAX);
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => nanos(after),
        Err(before) => -nanos(before.duration()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamp_round_trips() {
        let stamp = Stamp { size: 1, mtime: -5, ctime: 1 << 70, inode: 3, device: u64::MAX };
        let mut bytes = Vec::new();
        stamp.encode(&mut bytes);
        assert_eq!(Stamp::decode(bytes.as_slice().try_into().unwrap()), stamp);
    }

    #[test]
    fn a_file_rests_when_neither_contents_nor_name_changed_lately() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        let stamp = |mtime: i128, ctime: i128| {
            let (mtime, ctime) = (mtime * 1_000_000_000, ctime * 1_000_000_000);
            Stamp { size: 0, mtime, ctime, inode: 0, device: 0 }
        };
        let rests = |mtime, ctime| stamp(mtime, ctime).rests(now, Duration::from_secs(2));
        assert!(rests(97, 98) && rests(-5, 0) && rests(101, 0));
        // Copied with the times of the original: the second one tells.
        assert!(!rests(99, 50) && !rests(50, 99));
    }

    #[test]
    fn only_a_fresh_write_has_to_settle() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        let stamp = |mtime| Stamp { size: 0, mtime, ctime: 0, inode: 0, device: 0 };
        assert_eq!(stamp(99_000_000_000).settles_in(now), Duration::ZERO);
        assert_eq!(stamp(101_000_000_000).settles_in(now), Duration::ZERO);
        assert_eq!(stamp(99_995_000_000).settles_in(now), Duration::from_millis(15));
    }
}
