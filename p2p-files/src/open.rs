//! A shared file that is open for serving: reads runs with their proofs and notices when the file changed.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use crate::disk::{Stamp, read_exact_at};
use crate::geometry::{Geometry, Run};
use crate::hash::HASH_LEN;
use crate::index::Record;
use crate::merkle;
use crate::tree::Tree;

#[derive(Debug)]
pub(crate) struct OpenShare {
    pub(crate) file: File,
    pub(crate) path: PathBuf,
    pub(crate) record: Record,
    pub(crate) geometry: Geometry,
    pub(crate) tree: Option<Tree>,
}

/// Why a run could not be read.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// The file, or its tree, is not what it was when it was added.
    Changed,
    Io(io::Error),
}

impl OpenShare {
    /// Fills `proof` and `data`, which have the lengths of the run's, in bytes.
    pub(crate) fn read(&self, run: Run, proof: &mut [u8], data: &mut [u8]) -> Result<(), ReadError> {
        self.check()?;
        read_exact_at(&self.file, data, run.offset()).map_err(changed_if_short)?;
        let siblings = self.siblings(run)?;
        // Before and after: a change in between shows in one of the two.
        self.check()?;
        proof.copy_from_slice(siblings.as_flattened());
        Ok(())
    }

    fn siblings(&self, run: Run) -> Result<Vec<[u8; HASH_LEN]>, ReadError> {
        let mut siblings = Vec::with_capacity(run.proof_len());
        if let Some(chunk) = self.geometry.chunk(run.chunk()).filter(|chunk| chunk.height() > run.height()) {
            let mut data = vec![0; chunk.len()];
            read_exact_at(&self.file, &mut data, chunk.offset()).map_err(changed_if_short)?;
            merkle::chunk_siblings(&data, run, &mut siblings);
        }
        if let Some(tree) = &self.tree {
            tree.siblings(run, &mut siblings).map_err(ReadError::Io)?;
        }
        if siblings.len() == run.proof_len() { Ok(siblings) } else { Err(ReadError::Changed) }
    }

    fn check(&self) -> Result<(), ReadError> {
        let metadata = self.file.metadata().map_err(ReadError::Io)?;
        if Stamp::of(&metadata) == self.record.stamp { Ok(()) } else { Err(ReadError::Changed) }
    }
}

fn changed_if_short(error: io::Error) -> ReadError {
    if error.kind() == io::ErrorKind::UnexpectedEof { ReadError::Changed } else { ReadError::Io(error) }
}
