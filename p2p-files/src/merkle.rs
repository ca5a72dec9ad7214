//! The tree: SHA-256 over 16 KiB blocks, binary, padded with zero leaves to a power of two (BEP 52, "pieces root").
//!
//! # What is checked, and how little is held
//!
//! The unit of checking is a run (see [`Run`]): its blocks are hashed, folded to their subtree root, and folded with
//! the proof up to the root that the file's hash contains. Each run is checked by itself, so neither side ever needs a
//! piece layer: a proof costs 32 bytes a level, 640 bytes for each MiB of a 1 TiB file (0.06 %), and a receiver holds
//! nothing but the run it is checking.
//!
//! # Where we differ from BEP 52
//!
//! The tree is the same to the bit. The requests are not: BEP 52 exchanges a piece layer and checks against that.
//! And a root is never used alone, see [`FileHash`](crate::FileHash).

use std::io;
use std::sync::LazyLock;

use sha2::{Digest as _, Sha256};

use crate::geometry::{BLOCK, CHUNK, CHUNK_HEIGHT, RUN_BLOCKS_MAX, Run};
use crate::hash::HASH_LEN;

/// A node of the tree.
pub type Digest = [u8; HASH_LEN];

/// Levels for which a padding hash exists; the tallest tree (2^48 bytes) has 34.
const ZERO_LEVELS: usize = 40;

static ZEROS: LazyLock<[Digest; ZERO_LEVELS]> = LazyLock::new(|| {
    let mut zeros = [[0; HASH_LEN]; ZERO_LEVELS];
    for level in 1..ZERO_LEVELS {
        zeros[level] = parent(&zeros[level - 1], &zeros[level - 1]);
    }
    zeros
});

/// The root of a subtree of `level` levels that is all padding: 32 zero bytes at level 0.
///
/// # Panics
///
/// When `level` is 40 or more; the tallest tree has 34 levels.
#[must_use]
pub fn zero_hash(level: u32) -> &'static Digest {
    &ZEROS[level as usize]
}

/// The leaf of one block of 1 to 16,384 bytes. The last block is hashed as it is, without padding.
#[must_use]
pub fn block_hash(block: &[u8]) -> Digest {
    Sha256::digest(block).into()
}

/// The node above two others.
#[must_use]
pub fn parent(left: &Digest, right: &Digest) -> Digest {
    let mut both = [0; 2 * HASH_LEN];
    both[..HASH_LEN].copy_from_slice(left);
    both[HASH_LEN..].copy_from_slice(right);
    Sha256::digest(both).into()
}

/// The root of the subtree with `height` levels over `data`, which is 1 byte to `2^height` blocks, at most 1 MiB.
///
/// # Panics
///
/// When `data` is empty or has more blocks than the subtree has leaves, or `height` is above 6.
#[must_use]
pub fn subtree_root(data: &[u8], height: u32) -> Digest {
    let mut nodes = [[0; HASH_LEN]; RUN_BLOCKS_MAX as usize];
    let blocks = leaves(data, &mut nodes);
    assert!(
        blocks >= 1 && height <= CHUNK_HEIGHT && blocks <= 1 << height,
        "{blocks} blocks, height {height}"
    );
    fold_levels(&mut nodes, blocks, 0, height);
    nodes[0]
}

/// Hashes the blocks of `data` into `nodes` and says how many they are.
fn leaves(data: &[u8], nodes: &mut [Digest]) -> usize {
    let blocks = data.chunks(BLOCK);
    let count = blocks.len();
    for (block, node) in blocks.zip(nodes) {
        *node = block_hash(block);
    }
    count
}

/// Folds `count` nodes of level `from` in place up to level `to` and says how many are left there.
fn fold_levels(nodes: &mut [Digest], mut count: usize, from: u32, to: u32) -> usize {
    for level in from..to {
        let above = count.div_ceil(2);
        for i in 0..above {
            let right = if 2 * i + 1 < count { nodes[2 * i + 1] } else { *zero_hash(level) };
            nodes[i] = parent(&nodes[2 * i], &right);
        }
        count = above;
    }
    count
}

/// The siblings of a run inside its chunk, from the run's level up to the chunk's root, given the chunk's bytes.
///
/// Appends them to `proof`; nothing when the run is the chunk.
pub(crate) fn chunk_siblings(chunk: &[u8], run: Run, proof: &mut Vec<Digest>) {
    let top = CHUNK_HEIGHT.min(run.geometry().height());
    if run.height() >= top {
        return;
    }
    let mut nodes = [[0; HASH_LEN]; RUN_BLOCKS_MAX as usize];
    let blocks = leaves(chunk, &mut nodes);
    let mut count = fold_levels(&mut nodes, blocks, 0, run.height());
    let first_in_chunk = run.first() % u64::from(RUN_BLOCKS_MAX);
    let mut index = usize::try_from(first_in_chunk).expect("below 64") >> run.height();
    for level in run.height()..top {
        let sibling = index ^ 1;
        proof.push(if sibling < count { nodes[sibling] } else { *zero_hash(level) });
        count = fold_levels(&mut nodes, count, level, level + 1);
        index /= 2;
    }
}

/// Folds a subtree root at `position` of its level with its siblings, nearest first, to the root.
pub fn fold<'a>(node: Digest, mut position: u64, siblings: impl IntoIterator<Item = &'a Digest>) -> Digest {
    siblings.into_iter().fold(node, |node, sibling| {
        let up = if position.is_multiple_of(2) { parent(&node, sibling) } else { parent(sibling, &node) };
        position /= 2;
        up
    })
}

/// Checks a run against the root: its bytes and its proof, 32 bytes a hash, nearest to the run first.
///
/// Returns the root of the run's subtree, which is what a tree file records for a chunk.
///
/// # Errors
///
/// [`Mismatch`] when bytes, proof and root do not belong together, or lengths are not the run's.
pub fn verify_run(run: Run, data: &[u8], proof: &[u8], root: &Digest) -> Result<Digest, Mismatch> {
    let (siblings, rest) = proof.as_chunks::<HASH_LEN>();
    if data.len() != run.len() || siblings.len() != run.proof_len() || !rest.is_empty() {
        return Err(Mismatch);
    }
    let node = subtree_root(data, run.height());
    if fold(node, run.position(), siblings) == *root { Ok(node) } else { Err(Mismatch) }
}

/// Bytes, proof and root do not belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the data does not match the root")]
pub struct Mismatch;

/// Folds nodes of one level that arrive in order: a stack of at most one node a level.
#[derive(Debug)]
struct Folder {
    /// Level at which nodes come in.
    base: u32,
    count: u64,
    /// `pending[i]` is the left node at level `base + i` that waits for its right one, when bit `i` of `count` is set.
    pending: [Digest; ZERO_LEVELS],
}

impl Folder {
    const fn new(base: u32) -> Self {
        Self { base, count: 0, pending: [[0; HASH_LEN]; ZERO_LEVELS] }
    }

    fn push(&mut self, mut node: Digest) {
        let mut level = 0;
        while self.count >> level & 1 == 1 {
            node = parent(&self.pending[level], &node);
            level += 1;
        }
        self.pending[level] = node;
        self.count += 1;
    }

    /// The root over all nodes, padded to a power of two; `None` without nodes.
    fn root(&self) -> Option<Digest> {
        let lowest = self.count.checked_sub(1)?;
        let height = u64::BITS - lowest.leading_zeros();
        if self.count.is_power_of_two() {
            return Some(self.pending[height as usize]);
        }
        let mut right: Option<Digest> = None;
        for level in 0..height {
            let zero = zero_hash(self.base + level);
            right = match (self.count >> level & 1 == 1, right) {
                (true, node) => Some(parent(&self.pending[level as usize], &node.unwrap_or(*zero))),
                (false, Some(node)) => Some(parent(&node, zero)),
                (false, None) => None,
            };
        }
        right
    }
}

/// Folds the chunk hashes of a content of more than one chunk, in order, to its root.
#[derive(Debug)]
pub(crate) struct ChunkFolder(Folder);

impl ChunkFolder {
    pub(crate) const fn new() -> Self {
        Self(Folder::new(CHUNK_HEIGHT))
    }

    pub(crate) fn push(&mut self, chunk: Digest) {
        self.0.push(chunk);
    }

    /// The root; 32 zero bytes without chunks.
    pub(crate) fn root(&self) -> Digest {
        self.0.root().unwrap_or_default()
    }
}

/// Hashes a content that comes as a stream, in constant memory.
///
/// Each finished chunk's hash (the root of its 64 blocks) goes to the sink given to [`TreeHasher::push`]. For a content
/// of one chunk or less no hash of that kind exists and the sink is not called.
///
/// ```
/// use p2p_files::TreeHasher;
///
/// let mut hasher = TreeHasher::new();
/// hasher.push(b"hello", |_, _| Ok(()))?;
/// let info = hasher.finish(|_, _| Ok(()))?;
/// assert_eq!(info.length, 5);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct TreeHasher {
    /// Bytes of the chunk that is not full yet.
    chunk: Vec<u8>,
    folder: ChunkFolder,
    chunks: u64,
    length: u64,
}

impl Default for TreeHasher {
    fn default() -> Self {
        Self::new()
    }
}

impl TreeHasher {
    /// A hasher that has seen nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self { chunk: Vec::new(), folder: ChunkFolder::new(), chunks: 0, length: 0 }
    }

    /// Takes the next bytes. `sink` gets number and hash of each chunk that is finished by them.
    ///
    /// # Errors
    ///
    /// What the sink returned; the hasher must not be used after that.
    pub fn push(
        &mut self,
        mut bytes: &[u8],
        mut sink: impl FnMut(u64, &Digest) -> io::Result<()>,
    ) -> io::Result<()> {
        self.length += bytes.len() as u64;
        while !bytes.is_empty() {
            // A full chunk waits for one more byte: only then is it known that the tree is taller than it.
            if self.chunk.len() == CHUNK {
                self.end_chunk(&mut sink)?;
            }
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK - self.chunk.len()));
            self.chunk.extend_from_slice(now);
            bytes = later;
        }
        Ok(())
    }

    /// The end of the content: what it is. `sink` gets the last chunk's hash.
    ///
    /// # Errors
    ///
    /// What the sink returned.
    pub fn finish(mut self, mut sink: impl FnMut(u64, &Digest) -> io::Result<()>) -> io::Result<crate::Info> {
        let root = if self.chunks == 0 {
            single_chunk_root(&self.chunk)
        } else {
            self.end_chunk(&mut sink)?;
            self.folder.root()
        };
        Ok(crate::Info { kind: crate::Kind::File, length: self.length, root })
    }

    fn end_chunk(&mut self, sink: &mut impl FnMut(u64, &Digest) -> io::Result<()>) -> io::Result<()> {
        let node = subtree_root(&self.chunk, CHUNK_HEIGHT);
        sink(self.chunks, &node)?;
        self.folder.push(node);
        self.chunks += 1;
        self.chunk.clear();
        Ok(())
    }
}

/// The root of a content of at most one chunk; 32 zero bytes for none.
pub(crate) fn single_chunk_root(data: &[u8]) -> Digest {
    let Some(last) = data.len().checked_sub(1) else { return [0; HASH_LEN] };
    let blocks = last / BLOCK + 1;
    subtree_root(data, blocks.next_power_of_two().trailing_zeros())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Geometry;

    /// The definition, without any of the cleverness above.
    fn naive_root(data: &[u8]) -> Digest {
        if data.is_empty() {
            return [0; 32];
        }
        let mut level: Vec<Digest> = data.chunks(BLOCK).map(block_hash).collect();
        level.resize(level.len().next_power_of_two(), [0; 32]);
        while level.len() > 1 {
            level = level.chunks(2).map(|pair| parent(&pair[0], &pair[1])).collect();
        }
        level[0]
    }

    fn content(len: usize) -> Vec<u8> {
        (0..len).map(|i| u8::try_from((7 * i + 3) % 251).unwrap()).collect()
    }

    fn hashed(data: &[u8], step: usize) -> Digest {
        let mut hasher = TreeHasher::new();
        for part in data.chunks(step) {
            hasher.push(part, |_, _| Ok(())).unwrap();
        }
        hasher.finish(|_, _| Ok(())).unwrap().root
    }

    #[test]
    fn streaming_equals_the_definition() {
        for len in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5]
        {
            let data = content(len);
            assert_eq!(hashed(&data, 100_000), naive_root(&data), "length {len}");
        }
    }

    #[test]
    fn folding_chunks_pads_as_the_tree_does() {
        for chunks in 2..20usize {
            let leaves: Vec<Digest> = (0..chunks).map(|i| block_hash(&[u8::try_from(i).unwrap()])).collect();
            let mut folder = ChunkFolder::new();
            leaves.iter().for_each(|leaf| folder.push(*leaf));
            let mut level = leaves;
            level.resize(chunks.next_power_of_two(), *zero_hash(CHUNK_HEIGHT));
            while level.len() > 1 {
                level = level.chunks(2).map(|pair| parent(&pair[0], &pair[1])).collect();
            }
            assert_eq!(folder.root(), level[0], "{chunks} chunks");
        }
    }

    #[test]
    fn every_aligned_run_of_a_small_file_verifies_by_its_proof() {
        for blocks in 1..=9usize {
            let data = content(blocks * BLOCK - 7);
            let root = naive_root(&data);
            let geometry = Geometry::new(data.len() as u64).unwrap();
            for shift in 0..=6 {
                let count = 1u8 << shift;
                for first in (0..geometry.blocks()).step_by(usize::from(count)) {
                    let run = geometry.run(first, count).unwrap();
                    let mut proof = Vec::new();
                    chunk_siblings(&data, run, &mut proof);
                    let start = usize::try_from(run.offset()).unwrap();
                    let bytes = &data[start..start + run.len()];
                    verify_run(run, bytes, proof.as_flattened(), &root).unwrap();
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn one_flipped_bit_is_refused(len in 1..6 * BLOCK, first: u64, shift in 0..3u32, bit: usize) {
            let data = content(len);
            let root = naive_root(&data);
            let geometry = Geometry::new(len as u64).unwrap();
            let first = (first % geometry.blocks()) >> shift << shift;
            let run = geometry.run(first, 1 << shift).unwrap();
            let mut proof = Vec::new();
            chunk_siblings(&data, run, &mut proof);
            let mut proof = proof.as_flattened().to_vec();
            let start = usize::try_from(run.offset()).unwrap();
            let mut bytes = data[start..start + run.len()].to_vec();
            prop_assert!(verify_run(run, &bytes, &proof, &root).is_ok());
            let bit = bit % ((bytes.len() + proof.len()) * 8);
            match bytes.get_mut(bit / 8) {
                Some(byte) => *byte ^= 1 << (bit % 8),
                None => proof[bit / 8 - bytes.len()] ^= 1 << (bit % 8),
            }
            prop_assert_eq!(verify_run(run, &bytes, &proof, &root), Err(Mismatch));
        }

        #[test]
        fn any_split_hashes_the_same(len in 0..3 * CHUNK, step in 1..2 * CHUNK) {
            let data = content(len);
            prop_assert_eq!(hashed(&data, step.max(4_000)), naive_root(&data));
        }

        #[test]
        fn no_lengths_panic(data in prop::collection::vec(any::<u8>(), 0..100), proof in prop::collection::vec(any::<u8>(), 0..100)) {
            let run = Geometry::new(40_000).unwrap().run(2, 2).unwrap();
            prop_assert_eq!(verify_run(run, &data, &proof, &[0; 32]), Err(Mismatch));
        }
    }
}
