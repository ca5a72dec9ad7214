//! The tree file: the nodes of one file's tree from the chunk level up, on disk, read where needed.
//!
//! Layout: level after level, the chunk hashes first, then their parents, up to but without the root; each level holds
//! the nodes that cover content (the rest is padding, whose hashes are known), 32 bytes each, nothing else. A file of
//! at most one chunk has no tree file. 64 bytes a MiB of content.
//!
//! A download keeps its tree at the start of its journal (`journal.rs`): each verified chunk brings its own node and the
//! siblings of its proof.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::disk::{self, read_exact_at, sync_file, write_all_at};
use crate::geometry::{CHUNK_HEIGHT, Geometry, Run};
use crate::hash::HASH_LEN;
use crate::merkle::{self, ChunkFolder, Digest};

/// Nodes that are read or written at once while parents are made: 32 KiB.
const BATCH: usize = 1024;

/// A finished tree file, for making proofs.
#[derive(Debug)]
pub(crate) struct Tree {
    file: File,
    chunks: u64,
}

impl Tree {
    pub(crate) fn open(path: &Path, geometry: Geometry) -> io::Result<Self> {
        let tree = Self { file: File::open(path)?, chunks: geometry.chunks() };
        let (len, expected) = (tree.file.metadata()?.len(), file_len(geometry.chunks()));
        if len != expected {
            let text = format!("tree file has {len} bytes instead of {expected}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(tree)
    }

    /// A tree at the start of a file, of which only the proofs of some chunks need be there.
    pub(crate) const fn over(file: File, geometry: Geometry) -> Self {
        Self { file, chunks: geometry.chunks() }
    }

    /// Appends the siblings of a run's chunk up to the root.
    pub(crate) fn siblings(&self, run: Run, proof: &mut Vec<Digest>) -> io::Result<()> {
        let mut level_start = 0;
        let mut nodes = self.chunks;
        let mut index = run.chunk();
        let mut level = CHUNK_HEIGHT;
        while nodes > 1 {
            let sibling = index ^ 1;
            let mut node = *merkle::zero_hash(level);
            if sibling < nodes {
                read_exact_at(&self.file, &mut node, (level_start + sibling) * HASH_LEN as u64)?;
            }
            proof.push(node);
            level_start += nodes;
            nodes = nodes.div_ceil(2);
            index /= 2;
            level += 1;
        }
        Ok(())
    }
}

/// Bytes of the tree file for that many chunks.
pub(crate) fn file_len(chunks: u64) -> u64 {
    let (mut nodes, mut total) = (chunks, 0);
    while nodes > 1 {
        total += nodes;
        nodes = nodes.div_ceil(2);
    }
    total * HASH_LEN as u64
}

/// A tree file in the making, under a temporary name; removed when dropped before [`TreeWriter::commit`].
#[derive(Debug)]
pub(crate) struct TreeWriter {
    file: File,
    path: PathBuf,
    geometry: Geometry,
    /// It has its name, or was given up: there is nothing left to remove.
    done: AtomicBool,
    /// It is a journal, which outlives an interrupted download.
    stays: bool,
}

impl TreeWriter {
    /// `path` is a temporary name in the folder of the trees that nobody else uses; what lies there is replaced.
    pub(crate) fn create(path: PathBuf, geometry: Geometry) -> io::Result<Self> {
        let file = disk::create(&path)?;
        Ok(Self { file, path, geometry, done: AtomicBool::new(false), stays: false })
    }

    /// The tree at the start of a journal; it stays when dropped.
    pub(crate) const fn over(file: File, path: PathBuf, geometry: Geometry) -> Self {
        Self { file, path, geometry, done: AtomicBool::new(false), stays: true }
    }

    /// Records the hash of a verified chunk and those of its proof, nearest first; any order, any thread.
    pub(crate) fn put_path(&self, run: Run, node: &Digest, proof: &[Digest]) -> io::Result<()> {
        self.put_chunk(run.chunk(), node)?;
        let (mut start, mut nodes, mut index) = (0, self.geometry.chunks(), run.chunk());
        for sibling in proof {
            // Beyond the content lies padding, which is not kept.
            if index ^ 1 < nodes {
                write_all_at(&self.file, sibling, (start + (index ^ 1)) * HASH_LEN as u64)?;
            }
            start += nodes;
            nodes = nodes.div_ceil(2);
            index /= 2;
        }
        Ok(())
    }

    /// Records the hash of one chunk; any order, any thread.
    pub(crate) fn put_chunk(&self, index: u64, node: &Digest) -> io::Result<()> {
        write_all_at(&self.file, node, index * HASH_LEN as u64)
    }

    /// Once every chunk is recorded: the root they fold to.
    pub(crate) fn root(&self) -> io::Result<Digest> {
        let mut folder = ChunkFolder::new();
        self.each_batch(0, self.geometry.chunks(), |nodes| {
            nodes.iter().for_each(|node| folder.push(*node));
            Ok(())
        })?;
        Ok(folder.root())
    }

    /// Writes the parents, syncs and gives the file its name. Once it has it, nothing more. A journal stays as it is, and
    /// a copy of its tree takes the name.
    pub(crate) fn commit(&self, name: &Path) -> io::Result<()> {
        if self.done.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut start = 0;
        let mut nodes = self.geometry.chunks();
        let mut level = CHUNK_HEIGHT;
        while nodes > 2 {
            let mut at = (start + nodes) * HASH_LEN as u64;
            self.each_batch(start, nodes, |batch| {
                let above: Vec<Digest> = batch
                    .chunks(2)
                    .map(|pair| {
                        merkle::parent(&pair[0], pair.get(1).unwrap_or_else(|| merkle::zero_hash(level)))
                    })
                    .collect();
                write_all_at(&self.file, above.as_flattened(), at)?;
                at += (above.len() * HASH_LEN) as u64;
                Ok(())
            })?;
            start += nodes;
            nodes = nodes.div_ceil(2);
            level += 1;
        }
        if self.stays {
            return self.copy_to(name);
        }
        sync_file(&self.file)?;
        disk::rename(&self.path, name)?;
        self.done.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// The tree at the start of a journal as a file of its own.
    fn copy_to(&self, name: &Path) -> io::Result<()> {
        let path = Self::copy_path(&self.path);
        let copy = disk::create(&path)?;
        let mut at = 0;
        self.each_batch(0, file_len(self.geometry.chunks()) / HASH_LEN as u64, |nodes| {
            write_all_at(&copy, nodes.as_flattened(), at)?;
            at += (nodes.len() * HASH_LEN) as u64;
            Ok(())
        })?;
        sync_file(&copy)?;
        disk::rename(&path, name)
    }

    /// Where a copy of a journal's tree is made.
    pub(crate) fn copy_path(journal: &Path) -> PathBuf {
        journal.with_extension("tmp")
    }

    /// Removes the temporary file now; nothing may be recorded after that.
    pub(crate) fn discard(&self) {
        if !self.done.swap(true, Ordering::Relaxed) {
            let _ = disk::remove_file(&self.path);
        }
    }

    fn each_batch(
        &self,
        start: u64,
        nodes: u64,
        mut with: impl FnMut(&[Digest]) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut buf = vec![[0; HASH_LEN]; BATCH];
        let mut done = 0;
        while done < nodes {
            let count = usize::try_from(nodes - done).map_or(BATCH, |left| left.min(BATCH));
            let batch = &mut buf[..count];
            read_exact_at(&self.file, batch.as_flattened_mut(), (start + done) * HASH_LEN as u64)?;
            with(batch)?;
            done += count as u64;
        }
        Ok(())
    }
}

impl Drop for TreeWriter {
    fn drop(&mut self) {
        if !self.stays {
            self.discard();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::CHUNK;

    #[test]
    fn proofs_from_the_file_fold_to_the_root() {
        let dir = tempfile::tempdir().unwrap();
        for chunks in [2, 3, 5, 8, 1025, 2500] {
            let geometry = Geometry::new((chunks - 1) * CHUNK as u64 + 1).unwrap();
            let writer = TreeWriter::create(dir.path().join("tmp"), geometry).unwrap();
            let leaf = |i: u64| merkle::block_hash(&i.to_be_bytes());
            for index in 0..chunks {
                writer.put_chunk(index, &leaf(index)).unwrap();
            }
            let root = writer.root().unwrap();
            let name = dir.path().join("tree");
            writer.commit(&name).unwrap();
            let tree = Tree::open(&name, geometry).unwrap();
            for index in [0, 1, chunks / 2, chunks - 1] {
                let mut proof = Vec::new();
                tree.siblings(geometry.chunk(index).unwrap(), &mut proof).unwrap();
                assert_eq!(merkle::fold(leaf(index), index, &proof), root, "chunk {index} of {chunks}");
            }
            assert!(Tree::open(&name, Geometry::new((chunks + 1) * CHUNK as u64).unwrap()).is_err());
        }
        assert!(!dir.path().join("tmp").exists());
    }

    #[test]
    fn an_abandoned_writer_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        drop(TreeWriter::create(dir.path().join("tmp"), Geometry::new(5 << 20).unwrap()).unwrap());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
