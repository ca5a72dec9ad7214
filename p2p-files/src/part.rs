//! The part-file: where a download is written, and how it becomes the file, without ever overwriting anything.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, TryLockError};

use crate::destination::Place;
use crate::disk::{self, Stamp, hard_link, sync_data, sync_dir, sync_file, write_all_at};
use crate::hash::FileHash;

/// A hidden, locked file beside the destination; removed when dropped, unless a journal says what is in it.
///
/// Writes go through here and nowhere else. Nothing is allocated ahead: what has not arrived is a hole.
#[derive(Debug)]
pub(crate) struct PartFile {
    file: File,
    path: PathBuf,
    place: Place,
    /// It has its name, or was given up: there is nothing left to remove.
    done: AtomicBool,
    /// A journal says what is in it: it outlives an interrupted download.
    stays: AtomicBool,
    /// Writes exclude each other in the kernel, where those that wait spin.
    one_writes: Mutex<()>,
    /// Bytes written since the last sync began.
    unsynced: AtomicU64,
    one_syncs: Mutex<()>,
    /// A sync failed: what could not be written may be forgotten, and another sync would not tell.
    lost: AtomicBool,
}

/// So many bytes are synced together while others are received: the disk is at work all the time, and not only at the end.
/// Of 16, 32, 64 and 128 MiB none was faster than the others by more than runs differ.
const SYNC_EVERY: u64 = if cfg!(test) { 1 << 20 } else { 32 << 20 };
/// So far writing is ahead of the disk at most; then it waits.
const AHEAD_MAX: u64 = 8 * SYNC_EVERY;

impl PartFile {
    /// # Errors
    ///
    /// `WouldBlock` when another download writes the same file to the same place.
    pub(crate) fn create(place: Place, hash: &FileHash) -> io::Result<Self> {
        let path = place.part_path(hash);
        let create = || disk::create_new(&path);
        let file = match create() {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                remove_if_stale(&path)?;
                create()?
            }
            other => other?,
        };
        file.try_lock()?;
        Ok(Self::with(file, path, place, false))
    }

    /// What an earlier try left at this place, locked; `None` if there is nothing that could be used.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when another download is at work on it.
    pub(crate) fn left(place: Place, hash: &FileHash) -> io::Result<Option<Self>> {
        let path = place.part_path(hash);
        let is_file = |path: &Path| std::fs::symlink_metadata(path).ok().filter(Metadata::is_file);
        if is_file(&path).is_none() {
            return Ok(None);
        }
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        file.try_lock()?;
        // Whoever had the lock before may have given the file its name: then it is not ours to write to.
        let (opened, lies) = (Stamp::of(&file.metadata()?), is_file(&path).map(|m| Stamp::of(&m)));
        if lies.is_none_or(|lies| (lies.device, lies.inode) != (opened.device, opened.inode)) {
            return Ok(None);
        }
        Ok(Some(Self::with(file, path, place, true)))
    }

    const fn with(file: File, path: PathBuf, place: Place, stays: bool) -> Self {
        let (done, stays) = (AtomicBool::new(false), AtomicBool::new(stays));
        Self {
            file,
            path,
            place,
            done,
            stays,
            one_writes: Mutex::new(()),
            unsynced: AtomicU64::new(0),
            one_syncs: Mutex::new(()),
            lost: AtomicBool::new(false),
        }
    }

    /// Makes it as long as the file will be, as one hole, and lets it outlive an interrupted download.
    pub(crate) fn stay(&self, length: u64) -> io::Result<()> {
        disk::set_len(&self.file, length)?;
        self.stays.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Lets another download go on with it; nothing may be written after that.
    pub(crate) fn leave(&self) {
        if self.stays.load(Ordering::Relaxed) && !self.done.swap(true, Ordering::Relaxed) {
            let _ = self.file.unlock();
        }
    }

    pub(crate) const fn file(&self) -> &File {
        &self.file
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) const fn place(&self) -> &Place {
        &self.place
    }

    pub(crate) fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let _one = self.one_writes.lock().unwrap_or_else(PoisonError::into_inner);
        write_all_at(&self.file, data, offset)?;
        self.unsynced.fetch_add(data.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Makes durable what was written so far, if that is much and nobody else is at it; waits for whoever is, when writing
    /// is far ahead of the disk.
    ///
    /// # Errors
    ///
    /// As [`PartFile::sync`].
    pub(crate) fn sync_some(&self) -> io::Result<()> {
        if self.unsynced.load(Ordering::Relaxed) < SYNC_EVERY {
            return Ok(());
        }
        let _one = match self.one_syncs.try_lock() {
            Ok(one) => one,
            Err(TryLockError::WouldBlock) if self.unsynced.load(Ordering::Relaxed) < AHEAD_MAX => {
                return Ok(());
            }
            Err(TryLockError::Poisoned(one)) => one.into_inner(),
            Err(TryLockError::WouldBlock) => self.one_syncs.lock().unwrap_or_else(PoisonError::into_inner),
        };
        if self.unsynced.load(Ordering::Relaxed) < SYNC_EVERY {
            return Ok(());
        }
        self.unsynced.store(0, Ordering::Relaxed);
        self.or_lost(sync_data(&self.file))?;
        // A large download leaves in memory what others have there; and to write to the same pages again costs less than
        // to be given new ones.
        disk::forget_pages(&self.file);
        Ok(())
    }

    /// Makes the contents durable. When that fails the part-file is worth nothing: what could not be written may be
    /// forgotten, and a second sync would not tell.
    pub(crate) fn sync(&self) -> io::Result<()> {
        if self.is_lost() {
            return Err(io::Error::other("an earlier sync failed"));
        }
        self.or_lost(sync_file(&self.file))
    }

    /// Whether a sync failed.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    fn or_lost(&self, synced: io::Result<()>) -> io::Result<()> {
        synced.inspect_err(|_| self.lost.store(true, Ordering::Relaxed))
    }

    /// Gives the contents, which are durable, their name; `AlreadyExists` when it is taken. May be tried again.
    pub(crate) fn finish(&self) -> io::Result<PathBuf> {
        let path = self.place.candidates().find_map(|candidate| match link(&self.path, &candidate) {
            // A kill between link and removal: the name is there already, and it is this file.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.is_at(&candidate).then_some(Ok(candidate))
            }
            other => Some(other.map(|()| candidate)),
        });
        let path = path.ok_or(io::ErrorKind::AlreadyExists)??;
        // The other name of the same contents goes before the stamp of the finished file is taken.
        if let Err(error) = disk::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        self.done.store(true, Ordering::Relaxed);
        sync_dir(&self.place.dir)?;
        Ok(path)
    }

    /// Whether this name is a second one of the part-file.
    fn is_at(&self, name: &Path) -> bool {
        let there = std::fs::symlink_metadata(name).map(|m| Stamp::of(&m));
        let here = self.file.metadata().map(|m| Stamp::of(&m));
        matches!((there, here), (Ok(there), Ok(here)) if there.inode != 0 && there == here)
    }

    /// Removes it now; nothing may be written after that.
    pub(crate) fn discard(&self) {
        if !self.done.swap(true, Ordering::Relaxed) {
            let _ = disk::remove_file(&self.path);
        }
    }
}

impl Drop for PartFile {
    fn drop(&mut self) {
        if !self.stays.load(Ordering::Relaxed) {
            self.discard();
        }
    }
}

/// Removes what an interrupted download left. A symlink or anything else that we did not make is left alone.
fn remove_if_stale(path: &Path) -> io::Result<()> {
    if !std::fs::symlink_metadata(path)?.is_file() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    // Only its lock is of interest: a running download holds it.
    File::open(path)?.try_lock()?;
    disk::remove_file(path)
}

/// Gives the part-file a second name, which must not exist. Where there are no links, an empty file takes the name
/// first, and the part-file then takes its place.
pub(crate) fn link(part: &Path, name: &Path) -> io::Result<()> {
    match hard_link(part, name) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(error),
        Err(error) if disk::is_full(&error) => Err(error),
        Err(_unsupported) => {
            disk::create_new(name)?;
            disk::rename(part, name).inspect_err(|_| {
                let _ = disk::remove_file(name);
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::Destination;

    const HASH: FileHash = FileHash::from_bytes([7; 32]);

    fn write(destination: &Destination, text: &str) -> io::Result<PathBuf> {
        let part = PartFile::create(Place::new(destination, &HASH)?, &HASH)?;
        part.write_at(text.as_bytes(), 0)?;
        part.sync()?;
        part.finish()
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(dir).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_taken_name_gets_a_number_and_nothing_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let destination = Destination::Dir(dir.path().join("new"), Some("a.txt".into()));
        for text in ["one", "two", "three"] {
            assert_eq!(std::fs::read_to_string(write(&destination, text).unwrap()).unwrap(), text);
        }
        assert_eq!(names(&dir.path().join("new")), ["a (1).txt", "a (2).txt", "a.txt"]);
        assert_eq!(std::fs::read_to_string(dir.path().join("new/a.txt")).unwrap(), "one");
    }

    #[test]
    fn an_exact_destination_must_be_free() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let destination = Destination::File(path.clone());
        assert_eq!(write(&destination, "one").unwrap(), std::fs::canonicalize(&path).unwrap());
        assert_eq!(write(&destination, "two").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        // Also when it is taken only while the download runs.
        let late = Destination::File(dir.path().join("y"));
        let part = PartFile::create(Place::new(&late, &HASH).unwrap(), &HASH).unwrap();
        std::fs::write(dir.path().join("y"), "mine").unwrap();
        assert_eq!(part.finish().unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        drop(part);
        assert_eq!(std::fs::read_to_string(dir.path().join("y")).unwrap(), "mine");
        assert_eq!(names(dir.path()), ["x", "y"]);
    }

    #[test]
    fn one_part_file_has_one_writer_and_a_stale_one_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let destination = Destination::Dir(dir.path().into(), Some("a".into()));
        let place = Place::new(&destination, &HASH).unwrap();
        let first = PartFile::create(place.clone(), &HASH).unwrap();
        assert_eq!(PartFile::create(place.clone(), &HASH).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(first);
        assert!(names(dir.path()).is_empty());
        std::fs::write(place.part_path(&HASH), "left behind by a kill").unwrap();
        assert_eq!(std::fs::read(write(&destination, "new").unwrap()).unwrap(), b"new");
    }

    #[test]
    fn one_syncs_while_others_write_and_those_far_ahead_wait() {
        let dir = tempfile::tempdir().unwrap();
        let destination = Destination::Dir(dir.path().into(), None);
        let part = PartFile::create(Place::new(&destination, &HASH).unwrap(), &HASH).unwrap();
        let every = usize::try_from(SYNC_EVERY).unwrap();
        let mut at = 0;
        let mut write = |len: usize| {
            part.write_at(&vec![1; len], at).unwrap();
            at += len as u64;
        };
        let ahead = || part.unsynced.load(Ordering::Relaxed);
        write(every - 1);
        part.sync_some().unwrap();
        assert_eq!(ahead(), SYNC_EVERY - 1, "too little");
        write(1);
        let other = part.one_syncs.lock().unwrap();
        part.sync_some().unwrap();
        assert_eq!(ahead(), SYNC_EVERY, "somebody else is at it");
        write(7 * every);
        std::thread::scope(|threads| {
            let waits = threads.spawn(|| part.sync_some().unwrap());
            assert!(!waits.is_finished());
            drop(other);
        });
        assert_eq!(ahead(), 0);
    }

    #[cfg(unix)]
    #[test]
    fn links_in_the_folder_are_never_followed() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        std::fs::write(&outside, "untouched").unwrap();
        let content = dir.path().join("content");
        std::fs::create_dir(&content).unwrap();
        symlink(&outside, content.join("a")).unwrap();
        symlink(dir.path().join("dangling"), content.join("b")).unwrap();
        let to = |name: &str| Destination::Dir(content.clone(), Some(name.into()));
        assert!(write(&to("a"), "new").unwrap().ends_with("a (1)"));
        assert!(write(&to("b"), "new").unwrap().ends_with("b (1)"));
        let exact = Destination::File(content.join("b"));
        assert_eq!(write(&exact, "new").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        // Not even as the part-file.
        let place = Place::new(&to("c"), &HASH).unwrap();
        symlink(&outside, place.part_path(&HASH)).unwrap();
        assert_eq!(write(&to("c"), "new").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read_to_string(&outside).unwrap(), "untouched");
        assert!(!dir.path().join("dangling").exists());
    }

    #[test]
    fn long_names_and_refused_hints_have_part_names_within_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let long = "é".repeat(120);
        let path = write(&Destination::Dir(dir.path().into(), Some(long.clone())), "x").unwrap();
        assert!(path.ends_with(long));
        let path = write(&Destination::Dir(dir.path().into(), Some("../../evil".into())), "x").unwrap();
        assert_eq!(path, std::fs::canonicalize(dir.path()).unwrap().join(HASH.to_string()));
    }
}
