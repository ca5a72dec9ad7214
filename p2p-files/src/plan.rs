//! What a download of one file writes, and where: what an earlier try left, or begun anew.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::bitfield::Bitfield;
use crate::disk;
use crate::event::DownloadError;
use crate::geometry::{CHUNK, Geometry, Run};
use crate::hash::Info;
use crate::journal::Journal;
use crate::merkle;
use crate::part::PartFile;
use crate::running::RunningPart;
use crate::shared::Shared;

/// Room that is left beside a file, or the twentieth part of it if that is less: for its tree, the index, other files.
const SPARE: u64 = 64 << 20;

/// What is fetched, and where it is written.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) info: Info,
    pub(crate) geometry: Geometry,
    pub(crate) part: PartFile,
    /// For a content of more than one chunk.
    pub(crate) journal: Option<Journal>,
    /// What others may have of it meanwhile; for a content of more than one chunk.
    pub(crate) running: Option<Arc<RunningPart>>,
}

impl Plan {
    pub(crate) fn write(&self, run: Run, data: &[u8], node: &merkle::Digest, proof: &[u8]) -> io::Result<()> {
        self.part.write_at(data, run.offset())?;
        let (proof, _) = proof.as_chunks();
        self.journal.as_ref().map_or(Ok(()), |journal| journal.put(run, node, proof))
    }

    /// Lets another download go on here.
    pub(crate) fn leave(&self) {
        self.part.leave();
    }

    pub(crate) fn discard(&self) {
        self.part.discard();
        if let Some(journal) = &self.journal {
            journal.tree.discard();
        }
    }
}

impl Shared {
    /// What an earlier try left, or a new part-file; and which chunks are in it.
    pub(crate) fn make_plan(&self, info: Info) -> Result<(Plan, Bitfield), DownloadError> {
        let io = |source| DownloadError::io(&self.shown, source);
        if let Some(left) = self.plan_of_left(info).map_err(io)? {
            return Ok(left);
        }
        self.check_room(info.length)?;
        self.new_plan(info).map_err(io)
    }

    /// Whether there is room for a file that was not begun yet.
    pub(crate) fn check_room(&self, length: u64) -> Result<(), DownloadError> {
        let needed = length.saturating_add(SPARE.min(length / 20));
        match disk::free_space(&self.place.dir) {
            Ok(free) if free < needed => {
                Err(DownloadError::NoRoom { path: self.shown.clone(), needed, free })
            }
            Ok(_) => Ok(()),
            Err(error) => {
                tracing::debug!(%error, "how much room there is cannot be said");
                Ok(())
            }
        }
    }

    /// Whether there is room to go on after the disk was full.
    pub(crate) fn has_room(&self) -> bool {
        let missing = self.plan.get().map_or(0, |plan| plan.info.length).saturating_sub(self.state().done);
        let free = |dir: &Path| disk::free_space(dir).unwrap_or(u64::MAX);
        free(&self.place.dir) >= missing.clamp(CHUNK as u64, SPARE)
            && free(&self.library.trees) >= CHUNK as u64
    }

    fn plan_of_left(&self, info: Info) -> io::Result<Option<(Plan, Bitfield)>> {
        let geometry = Geometry::new(info.length).ok_or(io::ErrorKind::FileTooLarge)?;
        let path = self.library.journal_path(&self.hash, &self.place.part_path(&self.hash));
        let Some(part) = PartFile::left(self.place.clone(), &self.hash)? else { return Ok(None) };
        let resumed = Journal::resume(&path, info, &part, || self.cancel.is_cancelled())?;
        let Some((journal, held)) = resumed else { return Ok(None) };
        plan_with(info, geometry, part, Some(journal), held).map(Some)
    }

    fn new_plan(&self, info: Info) -> io::Result<(Plan, Bitfield)> {
        let geometry = Geometry::new(info.length).ok_or(io::ErrorKind::FileTooLarge)?;
        let path = self.library.journal_path(&self.hash, &self.place.part_path(&self.hash));
        let part = PartFile::create(self.place.clone(), &self.hash)?;
        let mut journal = None;
        if geometry.chunks() > 1 {
            part.stay(info.length)?;
            journal = Some(Journal::create(&path, info, &part).inspect_err(|_| part.discard())?);
        }
        plan_with(info, geometry, part, journal, Bitfield::new(geometry.chunks()))
    }
}

/// The plan of a download that holds these chunks.
fn plan_with(
    info: Info,
    geometry: Geometry,
    part: PartFile,
    journal: Option<Journal>,
    held: Bitfield,
) -> io::Result<(Plan, Bitfield)> {
    let mut running = None;
    if let Some(journal) = &journal {
        // Opened anew: the lock of the part-file is not to last as long as somebody reads it.
        let (file, tree) = (File::open(part.path())?, journal.reader(geometry)?);
        running = Some(Arc::new(RunningPart::new(info, geometry, file, tree, held.clone())));
    }
    Ok((Plan { info, geometry, part, journal, running }, held))
}
