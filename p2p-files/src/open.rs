//! A shared file that is open for serving: reads runs with their proofs and notices when the file changed.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::buffer::PageBuffer;
use crate::disk::{Stamp, read_exact_at};
use crate::geometry::{Geometry, Run};
use crate::hash::{HASH_LEN, Info};
use crate::index::Record;
use crate::merkle;
use crate::running::RunningPart;
use crate::tree::Tree;

#[derive(Debug)]
pub(crate) struct OpenShare {
    pub(crate) file: File,
    pub(crate) path: PathBuf,
    pub(crate) record: Record,
    pub(crate) geometry: Geometry,
    pub(crate) tree: Option<Tree>,
}

/// What a connection has open: a whole file, or what a download has so far.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    Whole(Arc<OpenShare>),
    Part(Arc<RunningPart>),
}

impl Source {
    pub(crate) fn info(&self) -> Info {
        match self {
            Self::Whole(share) => share.record.info,
            Self::Part(part) => part.info,
        }
    }

    pub(crate) fn geometry(&self) -> Geometry {
        match self {
            Self::Whole(share) => share.geometry,
            Self::Part(part) => part.geometry,
        }
    }

    /// Fills `proof` and `data`, which have the lengths of the run's, in bytes.
    pub(crate) fn read(&self, run: Run, proof: &mut [u8], data: &mut [u8]) -> Result<(), ReadError> {
        match self {
            Self::Whole(share) => share.read(run, proof, data),
            Self::Part(part) => read_part(part, run, proof, data),
        }
    }
}

/// Why a run could not be read.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// The file, or its tree, is not what it was when it was added.
    Changed,
    /// A download has not got it yet.
    NotHeld,
    Io(io::Error),
}

impl OpenShare {
    /// Fills `proof` and `data`, which have the lengths of the run's, in bytes.
    pub(crate) fn read(&self, run: Run, proof: &mut [u8], data: &mut [u8]) -> Result<(), ReadError> {
        self.check()?;
        read_exact_at(&self.file, data, run.offset()).map_err(changed_if_short)?;
        let siblings = siblings(&self.file, self.tree.as_ref(), run)?;
        // Before and after: a change in between shows in one of the two.
        self.check()?;
        proof.copy_from_slice(siblings.as_flattened());
        Ok(())
    }

    fn check(&self) -> Result<(), ReadError> {
        let metadata = self.file.metadata().map_err(ReadError::Io)?;
        if Stamp::of(&metadata) == self.record.stamp { Ok(()) } else { Err(ReadError::Changed) }
    }
}

/// A file that is being written has no stamp to compare. What leaves is checked instead, so that nobody who meddles with
/// the hidden part-file makes us send wrong bytes.
fn read_part(part: &RunningPart, run: Run, proof: &mut [u8], data: &mut [u8]) -> Result<(), ReadError> {
    if !part.has(run.chunk()) {
        return Err(ReadError::NotHeld);
    }
    read_exact_at(&part.file, data, run.offset()).map_err(changed_if_short)?;
    let siblings = siblings(&part.file, Some(&part.tree), run)?;
    proof.copy_from_slice(siblings.as_flattened());
    merkle::verify_run(run, data, proof, &part.info.root).map(drop).map_err(|_| ReadError::Changed)
}

fn siblings(file: &File, tree: Option<&Tree>, run: Run) -> Result<Vec<[u8; HASH_LEN]>, ReadError> {
    let mut siblings = Vec::with_capacity(run.proof_len());
    if let Some(chunk) = run.geometry().chunk(run.chunk()).filter(|chunk| chunk.height() > run.height()) {
        let mut chunk_data = PageBuffer::new(chunk.len());
        read_exact_at(file, chunk_data.room(chunk.len()), chunk.offset()).map_err(changed_if_short)?;
        merkle::chunk_siblings(chunk_data.data(), run, &mut siblings);
    }
    if let Some(tree) = tree {
        tree.siblings(run, &mut siblings).map_err(ReadError::Io)?;
    }
    if siblings.len() == run.proof_len() { Ok(siblings) } else { Err(ReadError::Changed) }
}

fn changed_if_short(error: io::Error) -> ReadError {
    if error.kind() == io::ErrorKind::UnexpectedEof { ReadError::Changed } else { ReadError::Io(error) }
}
