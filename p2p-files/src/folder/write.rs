//! The thread that writes small files: many at a time, so that the disk is asked to make them durable together.
//!
//! A file is written under a number in the hidden folder of the download. When nothing more waits, or enough has gathered,
//! all of them are synced side by side, get their names, their folders are synced, and the index takes them in one
//! transaction. Until then none of them counts.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::path::EntryPath;
use super::place::{Root, make_executable};
use super::plan::{Plan, Spot};
use crate::disk::{Stamp, read_exact_at, sync_dir, sync_file, write_all_at};
use crate::event::DownloadError;
use crate::hash::{FileHash, HASH_LEN, Info, Kind};
use crate::index::{Change, Record};
use crate::merkle;
use crate::part::link;

/// Files that are made durable together.
const BATCH: usize = 256;

/// Threads that wait for the disk side by side. Syncing is waiting: with 1 of them 200 files took 5 ms each here, with 8
/// 0.3 to 0.4 ms (ext4, 2026-11-28).
const SYNC_THREADS: usize = 16;

/// A content for the writer.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) hash: FileHash,
    pub(super) length: u64,
    /// `None`: from a file that the library has.
    pub(super) content: Option<Content>,
    pub(super) spots: Vec<Spot>,
}

/// Bytes that were checked.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) info: Info,
    pub(super) data: Vec<u8>,
    /// Room for them in memory.
    pub(super) permit: OwnedSemaphorePermit,
}

/// What became of an [`Item`].
#[derive(Debug)]
pub(super) enum Wrote {
    /// Its files are in their places, durable and shared.
    Done { hash: FileHash, length: u64, files: u64 },
    /// The library does not have it any more.
    Lost { hash: FileHash, length: u64, spots: Vec<Spot> },
    /// The disk failed; the writer has ended.
    Failed(DownloadError),
}

/// Writes until nothing more comes.
pub(super) fn run(
    plan: &Plan,
    mut items: mpsc::Receiver<Item>,
    wrote: &mpsc::Sender<Wrote>,
) -> Result<(), DownloadError> {
    let mut writer = Writer { plan, root: plan.root(), number: 0, staged: Vec::new(), ends: Vec::new() };
    while let Some(item) = items.blocking_recv()
        && !plan.is_over()
    {
        let mut item = Some(item);
        let result = loop {
            if let Some(item) = item.take()
                && let Err(error) = writer.stage(item)
            {
                break Err(error);
            }
            if writer.staged.len() >= BATCH {
                break Ok(());
            }
            match items.try_recv() {
                Ok(next) if !plan.is_over() => item = Some(next),
                _ => break Ok(()),
            }
        };
        if let Err(error) = result.and_then(|()| writer.commit()) {
            let _ = wrote.blocking_send(Wrote::Failed(plan.failed(error)));
            return Ok(());
        }
        for end in writer.ends.drain(..) {
            // There is room for all that was given; nobody listens when the folder has ended.
            let _ = wrote.blocking_send(end);
        }
    }
    Ok(())
}

struct Writer<'a> {
    plan: &'a Plan,
    root: Root,
    number: u64,
    staged: Vec<Staged>,
    /// What to say once all that is staged is durable.
    ends: Vec<Wrote>,
}

/// A file that is written and has no name yet.
struct Staged {
    file: File,
    part: PathBuf,
    path: EntryPath,
    folder: PathBuf,
    info: Info,
}

impl Writer<'_> {
    fn stage(&mut self, item: Item) -> io::Result<()> {
        let Item { hash, length, content, spots } = item;
        let (info, data, _permit) = match content {
            Some(Content { info, data, permit }) => (info, data, Some(permit)),
            None => match self.local(&hash, length) {
                Some((info, data)) => (info, data, None),
                None => {
                    self.ends.push(Wrote::Lost { hash, length, spots });
                    return Ok(());
                }
            },
        };
        let files = spots.len() as u64;
        for spot in spots {
            self.write(spot, info, &data)?;
        }
        self.ends.push(Wrote::Done { hash, length, files });
        Ok(())
    }

    fn write(&mut self, spot: Spot, info: Info, data: &[u8]) -> io::Result<()> {
        // Each of them is an open file, and one content may have any number of places.
        if self.staged.len() >= BATCH {
            self.commit()?;
        }
        let folder = self.root.folder_of(&spot.path)?;
        self.number += 1;
        let part = self.plan.parts().join(self.number.to_string());
        let file = OpenOptions::new().write(true).create_new(true).open(&part)?;
        write_all_at(&file, data, 0)?;
        if spot.executable {
            make_executable(&file)?;
        }
        self.staged.push(Staged { file, part, path: spot.path, folder, info });
        Ok(())
    }

    /// A content from the library, checked.
    fn local(&self, hash: &FileHash, length: u64) -> Option<(Info, Vec<u8>)> {
        let empty = Info { kind: Kind::File, length: 0, root: [0; HASH_LEN] };
        if length == 0 {
            return (empty.hash() == *hash).then(|| (empty, Vec::new()));
        }
        let share = self.plan.library().open_share(hash).ok().flatten()?;
        let info = share.record.info;
        let mut data = vec![0; usize::try_from(length).ok()?];
        (info.length == length && read_exact_at(&share.file, &mut data, 0).is_ok()).then_some(())?;
        if merkle::single_chunk_root(&data) == info.root {
            return Some((info, data));
        }
        self.plan.library().mark_gone(&share.path, &share.record);
        None
    }

    /// Makes all that is staged durable, gives it its names and enters it in the index.
    fn commit(&mut self) -> io::Result<()> {
        let staged = std::mem::take(&mut self.staged);
        side_by_side(&staged, |staged| sync_file(&staged.file))?;
        let mut changes = Vec::new();
        let mut folders = BTreeSet::new();
        for Staged { file, part, path, folder, info } in staged {
            let name = self.name(&part, &path)?;
            // The other name goes before the stamp is taken. Where there are no links, it has gone already.
            if let Err(error) = std::fs::remove_file(&part)
                && error.kind() != io::ErrorKind::NotFound
            {
                return Err(error);
            }
            let stamp = Stamp::of(&file.metadata()?);
            let gone = stamp.size != info.length;
            changes.push(Change::Put(name, Record { hash: info.hash(), info, stamp, gone, withheld: false }));
            folders.insert(folder);
        }
        let folders: Vec<PathBuf> = folders.into_iter().collect();
        side_by_side(&folders, |folder| sync_dir(folder))?;
        self.plan.library().index.apply(&changes).map_err(io::Error::other)
    }

    /// Gives a file the first of its names that is free.
    fn name(&self, part: &Path, path: &EntryPath) -> io::Result<PathBuf> {
        for candidate in self.root.candidates(path) {
            match link(part, &candidate) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                other => return other.map(|()| candidate),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }
}

/// Does something that waits for the disk for all, on several threads; the first error counts.
fn side_by_side<T: Sync>(all: &[T], work: impl Fn(&T) -> io::Result<()> + Sync) -> io::Result<()> {
    let next = AtomicUsize::new(0);
    let take = || {
        while let Some(one) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
            work(one)?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let helpers: Vec<_> = (1..SYNC_THREADS.min(all.len())).map(|_| scope.spawn(take)).collect();
        let own = take();
        helpers.into_iter().fold(own, |result, helper| {
            let helped = helper.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked")));
            result.and(helped)
        })
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::destination::Destination;
    use crate::folder::download::{FolderConfig, FolderGoal, Shared};
    use crate::folder::select::Selection;
    use crate::library::Library;

    #[test]
    fn a_content_with_many_places_is_written_a_batch_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let library = Arc::new(Library::open(&dir.path().join("data")).unwrap());
        let (to, selection) = (Destination::File(dir.path().join("out")), Selection::all());
        let goal = FolderGoal::Files { to: to.clone(), selection: selection.clone() };
        let hash = FileHash::from_bytes([1; HASH_LEN]);
        let shared = Arc::new(Shared::new(library, hash, goal, FolderConfig::default()));
        let plan = Plan::begin(&shared, &to, selection).unwrap();
        let mut writer =
            Writer { plan: &plan, root: plan.root(), number: 0, staged: Vec::new(), ends: Vec::new() };
        let info = Info { kind: Kind::File, length: 1, root: merkle::single_chunk_root(b"x") };
        for number in 0..3 * BATCH + 1 {
            let path = EntryPath::parse(&format!("{}/{number}", number % 7)).unwrap();
            writer.write(Spot { path, executable: false }, info, b"x").unwrap();
            assert!(writer.staged.len() <= BATCH, "{} files are open", writer.staged.len());
        }
        writer.commit().unwrap();
        assert_eq!(plan.library().index.of_hash(&info.hash()).unwrap().len(), 3 * BATCH + 1);
        assert!(plan.library().index.has(&info.hash()).unwrap());
        assert!(!plan.library().index.has(&hash).unwrap());
    }
}
