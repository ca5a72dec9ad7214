//! Downloads under way, so that what they have verified can be served while the rest comes in.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::bitfield::Bitfield;
use crate::geometry::Geometry;
use crate::hash::{FileHash, Info};
use crate::tree::Tree;

/// The running downloads of one library. There may be several of one hash, to different places.
#[derive(Debug, Default)]
pub(crate) struct Running(Mutex<BTreeMap<FileHash, Vec<Arc<RunningPart>>>>);

/// What one download has so far. It can be read as long as somebody holds it, also when the download has ended.
#[derive(Debug)]
pub(crate) struct RunningPart {
    pub(crate) info: Info,
    pub(crate) geometry: Geometry,
    pub(crate) file: File,
    /// The nodes that came with the chunks that are held.
    pub(crate) tree: Tree,
    held: Mutex<Bitfield>,
    /// How many chunks are held.
    count: watch::Sender<u64>,
}

impl Running {
    pub(crate) fn insert(&self, part: Arc<RunningPart>) {
        self.lock().entry(part.info.hash()).or_default().push(part);
    }

    pub(crate) fn remove(&self, part: &Arc<RunningPart>) {
        let mut all = self.lock();
        let hash = part.info.hash();
        if let Some(parts) = all.get_mut(&hash) {
            parts.retain(|other| !Arc::ptr_eq(other, part));
            if parts.is_empty() {
                all.remove(&hash);
            }
        }
    }

    /// The download of this hash that has most.
    pub(crate) fn find(&self, hash: &FileHash) -> Option<Arc<RunningPart>> {
        let all = self.lock();
        all.get(hash)?.iter().max_by_key(|part| *part.count.borrow()).map(Arc::clone)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<FileHash, Vec<Arc<RunningPart>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RunningPart {
    /// `file` and `tree` read the part-file and the start of its journal.
    pub(crate) fn new(info: Info, geometry: Geometry, file: File, tree: Tree, held: Bitfield) -> Self {
        let count = watch::Sender::new(held.ones());
        Self { info, geometry, file, tree, held: Mutex::new(held), count }
    }

    /// A chunk is verified and written, and its proof recorded.
    pub(crate) fn add(&self, chunk: u64) {
        let ones = {
            let mut held = self.held();
            held.set(chunk);
            held.ones()
        };
        self.count.send_if_modified(|count| std::mem::replace(count, ones) != ones);
    }

    pub(crate) fn has(&self, chunk: u64) -> bool {
        self.held().get(chunk)
    }

    /// Of `count` chunks from `first` on, how many are held.
    pub(crate) fn count_of(&self, first: u64, count: u64) -> u64 {
        self.held().ones_in(first, count)
    }

    /// One bit for each of `count` chunks from `first` on.
    pub(crate) fn bits(&self, first: u64, count: u64) -> Vec<u8> {
        self.held().to_bytes(first, count)
    }

    /// Changes when more is held.
    pub(crate) fn news(&self) -> watch::Receiver<u64> {
        self.count.subscribe()
    }

    fn held(&self) -> MutexGuard<'_, Bitfield> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
