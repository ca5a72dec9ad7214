//! Hashing a file where it lies, on all cores.

use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::buffer::PageBuffer;
use crate::disk::read_exact_at;
use crate::geometry::{CHUNK, Geometry};
use crate::merkle::{self, Digest};
use crate::tree::TreeWriter;

/// Most threads that hash one file; each holds one chunk (1 MiB).
const THREADS_MAX: usize = 8;

/// The root of the file's tree; chunk hashes go to `tree`, which exists exactly for files of more than one chunk.
///
/// `progress` gets bytes done and bytes in all, from the calling thread. When it breaks off the hashing ends after the
/// chunks at hand, with `Interrupted`.
pub(crate) fn hash_file(
    file: &File,
    geometry: Geometry,
    tree: Option<&TreeWriter>,
    progress: impl FnMut(u64, u64) -> ControlFlow<()>,
) -> io::Result<Digest> {
    match tree {
        None => hash_small(file, geometry, progress),
        Some(tree) => {
            hash_chunks(file, geometry, tree, progress)?;
            tree.root()
        }
    }
}

fn unless_broken_off(flow: ControlFlow<()>) -> io::Result<()> {
    match flow {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(io::ErrorKind::Interrupted.into()),
    }
}

/// To the end, and nobody looks.
pub(crate) const fn unwatched(_done: u64, _total: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn hash_small(
    file: &File,
    geometry: Geometry,
    mut progress: impl FnMut(u64, u64) -> ControlFlow<()>,
) -> io::Result<Digest> {
    let len = geometry.chunk(0).map_or(0, |chunk| chunk.len());
    let mut buffer = PageBuffer::new(len);
    read_exact_at(file, buffer.room(len), 0)?;
    let root = merkle::single_chunk_root(buffer.data());
    unless_broken_off(progress(geometry.length(), geometry.length()))?;
    Ok(root)
}

fn hash_chunks(
    file: &File,
    geometry: Geometry,
    tree: &TreeWriter,
    mut progress: impl FnMut(u64, u64) -> ControlFlow<()>,
) -> io::Result<()> {
    let work = Work {
        file,
        geometry,
        tree,
        next: AtomicU64::new(0),
        done: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    };
    let failure = Mutex::new(None);
    let run = |report: &mut dyn FnMut(u64) -> ControlFlow<()>| {
        if let Err(error) = work.run(report) {
            work.stop.store(true, Ordering::Relaxed);
            failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        }
    };
    let cores = thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
    let helpers = usize::try_from(geometry.chunks()).map_or(cores, |chunks| chunks.min(cores)) - 1;
    thread::scope(|scope| {
        for _ in 0..helpers {
            scope.spawn(|| run(&mut |_| ControlFlow::Continue(())));
        }
        run(&mut |done| progress(done, geometry.length()));
    });
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => unless_broken_off(progress(geometry.length(), geometry.length())),
    }
}

struct Work<'a> {
    file: &'a File,
    geometry: Geometry,
    tree: &'a TreeWriter,
    next: AtomicU64,
    done: AtomicU64,
    stop: AtomicBool,
}

impl Work<'_> {
    /// Takes chunk after chunk until none is left.
    fn run(&self, report: &mut dyn FnMut(u64) -> ControlFlow<()>) -> io::Result<()> {
        let mut buffer = PageBuffer::new(CHUNK);
        while !self.stop.load(Ordering::Relaxed) {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(chunk) = self.geometry.chunk(index) else { break };
            let data = buffer.room(chunk.len());
            read_exact_at(self.file, data, chunk.offset())?;
            self.tree.put_chunk(index, &merkle::subtree_root(data, chunk.height()))?;
            let done = self.done.fetch_add(data.len() as u64, Ordering::Relaxed) + data.len() as u64;
            unless_broken_off(report(done))?;
        }
        Ok(())
    }
}
