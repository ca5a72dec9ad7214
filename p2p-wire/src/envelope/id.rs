use std::ops::Range;

use crate::{EnvelopeError, NodeId, limits::MAX_BUNDLE_ENTRIES};

/// Names an envelope: who made it and which messages are in it.
///
/// Each entry's own id is (author, seq) with the seqs `first..first + count`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EnvelopeId {
    /// Who made and signed it.
    pub author: NodeId,
    /// The first seq the author used since its process started. Numbers between two runs were never messages.
    pub run: u64,
    /// Seq of the first entry, at least `run`.
    pub first: u64,
    /// How many entries, 1 to 64.
    pub count: u8,
}

impl EnvelopeId {
    /// Bytes of [`to_bytes`](Self::to_bytes).
    pub const LEN: usize = 32 + 8 + 8 + 1;

    /// The fixed form, also bytes 1 to 49 of the envelope itself: author 32, run 8, first 8 (both big-endian),
    /// count 1.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..32].copy_from_slice(self.author.as_bytes());
        bytes[32..40].copy_from_slice(&self.run.to_be_bytes());
        bytes[40..48].copy_from_slice(&self.first.to_be_bytes());
        bytes[48] = self.count;
        bytes
    }

    /// Reads and checks the fixed form.
    ///
    /// # Errors
    ///
    /// [`EnvelopeError`] if count, run or first are not those of any envelope.
    pub fn from_bytes(bytes: &[u8; Self::LEN]) -> Result<Self, EnvelopeError> {
        let (author, rest) = bytes.split_first_chunk::<32>().expect("LEN is 49");
        let (run, rest) = rest.split_first_chunk::<8>().expect("LEN is 49");
        let (first, rest) = rest.split_first_chunk::<8>().expect("LEN is 49");
        let id = Self {
            author: NodeId::from_bytes(*author),
            run: u64::from_be_bytes(*run),
            first: u64::from_be_bytes(*first),
            count: rest[0],
        };
        id.check()?;
        Ok(id)
    }

    /// The seqs of the entries. Empty if `first + count` overflows, which no decoded id does.
    #[must_use]
    pub fn seqs(&self) -> Range<u64> {
        self.first..self.first.checked_add(self.count.into()).unwrap_or(self.first)
    }

    pub(crate) fn check(&self) -> Result<(), EnvelopeError> {
        let Self { run, first, count, .. } = *self;
        if count == 0 || usize::from(count) > MAX_BUNDLE_ENTRIES {
            return Err(EnvelopeError::Count { count });
        }
        if first < run {
            return Err(EnvelopeError::BeforeRun { run, first });
        }
        if first.checked_add(count.into()).is_none() {
            return Err(EnvelopeError::SeqOverflow { first, count });
        }
        Ok(())
    }
}
