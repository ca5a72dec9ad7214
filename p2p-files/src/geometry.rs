//! The only place that does block arithmetic: which bytes a block, a run or a chunk covers, and where it sits in the
//! tree. Holding a [`Run`] is the proof that it lies inside its file.

/// Bytes of a block, the leaf of the tree (BEP 52).
pub const BLOCK: usize = 16_384;

/// Most blocks in one run: 64 blocks are 1 MiB, which keeps an answer within one frame of 1 MiB + 1 KiB.
pub const RUN_BLOCKS_MAX: u8 = 64;

/// Bytes of a chunk: a run of the largest size, the unit that is asked for, held and recorded ("piece").
pub const CHUNK: usize = BLOCK * RUN_BLOCKS_MAX as usize;

/// Tree levels inside a chunk.
pub(crate) const CHUNK_HEIGHT: u32 = RUN_BLOCKS_MAX.trailing_zeros();

/// Longest content the protocol can carry: 2^48 bytes (256 TiB). With it a full run's proof has at most 28 hashes, so
/// that header, proof and 1 MiB of data stay within the largest frame.
pub const LENGTH_MAX: u64 = 1 << 48;

/// A content's length and all that follows from it.
///
/// ```
/// use p2p_files::Geometry;
///
/// let geometry = Geometry::new(16_385).expect("far below the limit");
/// assert_eq!((geometry.blocks(), geometry.height(), geometry.chunks()), (2, 1, 1));
/// let run = geometry.run(1, 1).expect("block 1 exists");
/// assert_eq!((run.offset(), run.len(), run.proof_len()), (16_384, 1, 1));
/// assert!(geometry.run(2, 1).is_err());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    length: u64,
}

impl Geometry {
    /// The geometry of `length` bytes; `None` above [`LENGTH_MAX`].
    #[must_use]
    pub const fn new(length: u64) -> Option<Self> {
        if length <= LENGTH_MAX { Some(Self { length }) } else { None }
    }

    /// Bytes of the content.
    #[must_use]
    pub const fn length(self) -> u64 {
        self.length
    }

    /// Number of 16 KiB blocks; the last one may be shorter.
    #[must_use]
    pub const fn blocks(self) -> u64 {
        self.length.div_ceil(BLOCK as u64)
    }

    /// Number of 1 MiB chunks; the last one may be shorter.
    #[must_use]
    pub const fn chunks(self) -> u64 {
        self.length.div_ceil(CHUNK as u64)
    }

    /// Levels between a leaf and the root; 0 for one block or none.
    #[must_use]
    pub const fn height(self) -> u32 {
        let blocks = self.blocks();
        if blocks <= 1 { 0 } else { u64::BITS - (blocks - 1).leading_zeros() }
    }

    /// The block with this number, if the content has it.
    #[must_use]
    pub const fn block(self, index: u64) -> Option<BlockIndex> {
        if index < self.blocks() { Some(BlockIndex(index)) } else { None }
    }

    /// The run that a request names by its first block and count.
    ///
    /// The count is 1, 2, 4 .. 64 and the first block a multiple of it, so that a run is a subtree; what reaches
    /// beyond the end of the content is cut off.
    ///
    /// # Errors
    ///
    /// [`RunError`] when the count or the first block is not one of these.
    pub const fn run(self, first: u64, count: u8) -> Result<Run, RunError> {
        if !count.is_power_of_two() || count > RUN_BLOCKS_MAX {
            return Err(RunError::Count { count });
        }
        if !first.is_multiple_of(count as u64) {
            return Err(RunError::Unaligned { first, count });
        }
        if first >= self.blocks() {
            return Err(RunError::Beyond { first, blocks: self.blocks() });
        }
        Ok(Run { geometry: self, first, count })
    }

    /// The chunk with this number as a run, if the content has it.
    #[must_use]
    pub const fn chunk(self, index: u64) -> Option<Run> {
        if index < self.chunks() {
            Some(Run { geometry: self, first: index << CHUNK_HEIGHT, count: RUN_BLOCKS_MAX })
        } else {
            None
        }
    }
}

/// Number of a block that exists; only [`Geometry::block`] makes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockIndex(u64);

impl BlockIndex {
    /// The number, counted from 0.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// An aligned run of blocks that lies inside its content; only [`Geometry`] makes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    geometry: Geometry,
    first: u64,
    count: u8,
}

impl Run {
    /// Number of its first block.
    #[must_use]
    pub const fn first(self) -> u64 {
        self.first
    }

    /// Blocks it was asked for with: 1, 2, 4 .. 64.
    #[must_use]
    pub const fn count(self) -> u8 {
        self.count
    }

    /// Blocks it really has, once cut at the end of the content; at least 1.
    #[must_use]
    pub const fn blocks(self) -> u64 {
        let left = self.geometry.blocks() - self.first;
        if left < self.count as u64 { left } else { self.count as u64 }
    }

    /// Byte position of its first block in the content.
    #[must_use]
    pub const fn offset(self) -> u64 {
        self.first * BLOCK as u64
    }

    /// Bytes it covers; at least 1, at most 1 MiB.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a run is never empty")]
    pub const fn len(self) -> usize {
        let left = self.geometry.length - self.offset();
        let full = self.count as u64 * BLOCK as u64;
        #[expect(clippy::cast_possible_truncation, reason = "at most CHUNK, 1 MiB")]
        if left < full { left as usize } else { full as usize }
    }

    /// Levels of the subtree it is: log2 of the count, or the height of the whole tree if that is less.
    #[must_use]
    pub const fn height(self) -> u32 {
        let full = self.count.trailing_zeros();
        let tree = self.geometry.height();
        if tree < full { tree } else { full }
    }

    /// Hashes from its subtree root (exclusive) up to the root: one sibling a level.
    #[must_use]
    pub const fn proof_len(self) -> usize {
        (self.geometry.height() - self.height()) as usize
    }

    /// Position of its subtree root among the nodes of its level.
    #[must_use]
    pub const fn position(self) -> u64 {
        self.first >> self.height()
    }

    /// Number of the 1 MiB chunk it lies in.
    #[must_use]
    pub const fn chunk(self) -> u64 {
        self.first >> CHUNK_HEIGHT
    }

    /// The content it belongs to.
    #[must_use]
    pub const fn geometry(self) -> Geometry {
        self.geometry
    }
}

/// Why a request does not name a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The count is not 1, 2, 4 .. 64.
    #[error("a run of {count} blocks, only powers of two up to {RUN_BLOCKS_MAX} exist")]
    Count {
        /// The count asked for.
        count: u8,
    },
    /// The first block is not a multiple of the count.
    #[error("block {first} is not a multiple of the run's {count} blocks")]
    Unaligned {
        /// First block asked for.
        first: u64,
        /// Blocks asked for.
        count: u8,
    },
    /// The first block lies beyond the end.
    #[error("block {first} of a content with {blocks} blocks")]
    Beyond {
        /// First block asked for.
        first: u64,
        /// Blocks the content has.
        blocks: u64,
    },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_at_the_borders() {
        let rows: [(u64, u64, u64, u32); 11] = [
            // length, blocks, chunks, height
            (0, 0, 0, 0),
            (1, 1, 1, 0),
            (16_384, 1, 1, 0),
            (16_385, 2, 1, 1),
            (32_769, 3, 1, 2),
            (65_536, 4, 1, 2),
            (65_537, 5, 1, 3),
            (1 << 20, 64, 1, 6),
            ((1 << 20) + 1, 65, 2, 7),
            (1 << 40, 1 << 26, 1 << 20, 26),
            (LENGTH_MAX, 1 << 34, 1 << 28, 34),
        ];
        for (length, blocks, chunks, height) in rows {
            let geometry = Geometry::new(length).unwrap();
            assert_eq!(
                (geometry.blocks(), geometry.chunks(), geometry.height()),
                (blocks, chunks, height),
                "length {length}"
            );
        }
        assert_eq!(Geometry::new(LENGTH_MAX + 1), None);
        assert_eq!(Geometry::new(u64::MAX), None);
    }

    proptest! {
        #[test]
        fn a_run_lies_inside_its_content(length in 1..=LENGTH_MAX, first: u64, shift in 0..8u32) {
            let geometry = Geometry::new(length).unwrap();
            let count = u8::try_from(1u32 << shift.min(7)).unwrap();
            let first = (first % (geometry.blocks() + 130)) >> shift << shift;
            match geometry.run(first, count) {
                Ok(run) => {
                    prop_assert!(count <= RUN_BLOCKS_MAX);
                    prop_assert!(run.offset() + run.len() as u64 <= length);
                    prop_assert!(run.len() >= 1 && run.len() <= CHUNK);
                    prop_assert_eq!((run.len() as u64).div_ceil(BLOCK as u64), run.blocks());
                    prop_assert_eq!(run.height() as usize + run.proof_len(), geometry.height() as usize);
                    prop_assert!(run.blocks() <= 1 << run.height());
                    prop_assert_eq!(run.position() << run.height(), run.first());
                    prop_assert!(run.chunk() < geometry.chunks());
                }
                Err(_) => prop_assert!(count > RUN_BLOCKS_MAX || first >= geometry.blocks()),
            }
        }

        #[test]
        fn chunks_tile_the_content(length in 0..(200u64 << 20)) {
            let geometry = Geometry::new(length).unwrap();
            let mut at = 0;
            for index in 0..geometry.chunks() {
                let chunk = geometry.chunk(index).unwrap();
                prop_assert_eq!(chunk.offset(), at);
                at += chunk.len() as u64;
            }
            prop_assert_eq!(at, length);
            prop_assert_eq!(geometry.chunk(geometry.chunks()), None);
        }

        #[test]
        fn any_request_is_answered_without_panic(length: u64, first: u64, count: u8) {
            if let Some(geometry) = Geometry::new(length) {
                let _ = geometry.run(first, count);
                prop_assert_eq!(geometry.block(first).is_some(), first < geometry.blocks());
            }
        }
    }
}
