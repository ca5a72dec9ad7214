//! Writing a file past the page cache (`O_DIRECT` on Linux).
//!
//! The kernel takes whole pages, at page boundaries of the file, from page boundaries in memory. What is not that, and
//! everything where the file system cannot, is written the usual way. Both ways may be mixed in one file.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::buffer::PAGE;
use crate::disk::{Stamp, write_all_at};

/// A second way into a file that is open already.
#[derive(Debug)]
pub(crate) struct DirectFile {
    file: File,
    /// The kernel refused once; it would again.
    refused: AtomicBool,
}

impl DirectFile {
    /// `None` where the file system cannot, or when something else lies at the path by now.
    pub(crate) fn open(path: &Path, same: &File) -> Option<Self> {
        let file = open(path)?;
        let (ours, theirs) = (Stamp::of(&file.metadata().ok()?), Stamp::of(&same.metadata().ok()?));
        let is_same = (ours.device, ours.inode) == (theirs.device, theirs.inode);
        is_same.then_some(Self { file, refused: AtomicBool::new(false) })
    }

    /// Writes all of `data`; false when it has to be written the usual way, also if a part of it is written.
    pub(crate) fn write_at(&self, data: &[u8], offset: u64) -> io::Result<bool> {
        let whole_pages = data.len().is_multiple_of(PAGE)
            && offset.is_multiple_of(PAGE as u64)
            && data.as_ptr().align_offset(PAGE) == 0;
        if !whole_pages || self.refused.load(Ordering::Relaxed) {
            return Ok(false);
        }
        match write_all_at(&self.file, data, offset) {
            Ok(()) => Ok(true),
            // Also what is left of a write that the kernel cut off between pages.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                self.refused.store(true, Ordering::Relaxed);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn open(path: &Path) -> Option<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    std::fs::OpenOptions::new().write(true).custom_flags(libc::O_DIRECT | libc::O_NOFOLLOW).open(path).ok()
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn open(_path: &Path) -> Option<File> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::read_exact_at;

    #[test]
    fn pages_and_what_is_no_page_end_in_the_same_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let plain = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        plain.set_len(5 * PAGE as u64).unwrap();
        // Not every file system can: then nothing is claimed.
        let Some(direct) = DirectFile::open(&path, &plain) else { return };
        let memory: Vec<u8> = (0..4 * PAGE).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let at = memory.as_ptr().align_offset(PAGE);
        let page = &memory[at..at + PAGE];
        assert!(!direct.write_at(&page[1..], PAGE as u64).unwrap(), "no whole page");
        assert!(!direct.write_at(page, 7).unwrap(), "no page boundary in the file");
        assert!(!direct.write_at(&memory[at + 1..at + 1 + PAGE], 0).unwrap(), "none in memory");
        if direct.write_at(page, 3 * PAGE as u64).unwrap() {
            write_all_at(&plain, b"next to it", 4 * PAGE as u64).unwrap();
            let mut back = vec![1; 5 * PAGE];
            read_exact_at(&plain, &mut back, 0).unwrap();
            assert!(back[..3 * PAGE].iter().all(|byte| *byte == 0));
            assert!(back[3 * PAGE..4 * PAGE] == *page);
            assert!(back[4 * PAGE..].starts_with(b"next to it"));
        }
        std::fs::write(dir.path().join("other"), "").unwrap();
        assert!(DirectFile::open(&dir.path().join("other"), &plain).is_none(), "another file");
    }
}
