//! Writing the log on disk: segments that only grow, dropped whole.
//!
//! A group of records is written and synced at once; what was not synced before a crash may be there, in part or not
//! at all. Each start begins a new segment, so that nothing is ever written behind what may be torn.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use p2p_wire::{Envelope, EnvelopeId, NodeId};
use tokio::sync::oneshot;

use super::disk::Disk;
use super::index::{Given, Index, Place};
use super::record::{ENVELOPE_PREFIX, HEADER, MAGIC, Record};
use super::recover::Found;
use crate::event::Message;

/// A segment that is as large gets a successor. 4 MiB: a 16th of the log goes at once.
pub(super) const SEGMENT: u64 = 4 << 20;
/// What an op costs besides an envelope, and what its records take at most.
pub(super) const OP_OVERHEAD: usize = 256;

/// What the log may hold; the oldest segments go when it is more. The current segment always stays.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogLimits {
    pub(crate) age_ms: u64,
    pub(crate) bytes: u64,
    pub(crate) envelopes: usize,
}

impl Default for LogLimits {
    /// 24 h, 64 MiB, 100,000 envelopes, as `p2p_gossip::Config`.
    fn default() -> Self {
        Self { age_ms: 24 * 60 * 60 * 1000, bytes: 64 << 20, envelopes: 100_000 }
    }
}

/// What is kept of an envelope besides its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) id: EnvelopeId,
    /// How old it was when it came. [`Entry::TOO_OLD`]: nobody is to have it from here.
    pub(crate) age_ms: u32,
    pub(crate) hops: u16,
    pub(crate) digest: [u8; 16],
}

impl Entry {
    pub(crate) const TOO_OLD: u32 = u32::MAX;
}

/// What is to be written.
#[derive(Debug)]
pub(crate) enum Op {
    /// A verified envelope. `delivers`: one `Deliver` of it follows.
    Append { entry: Entry, envelope: Bytes, delivers: bool },
    /// All entries of an envelope that are to be delivered: those of `shown` as `messages`, which get their positions here.
    Deliver {
        envelope: Envelope,
        entries: u64,
        shown: u64,
        late: bool,
        /// And whether the application wants them; if not, they are in the log alone.
        messages: Vec<(bool, Message)>,
        /// Owed for these of them once they are written: number and payload.
        receipts: Vec<(u64, Bytes)>,
    },
    /// Tells when everything before it was written, or could not be.
    Barrier(oneshot::Sender<()>),
}

impl Op {
    /// What it costs in memory, about; on the disk it takes no more.
    pub(crate) fn cost(&self) -> usize {
        const FIXED: usize = OP_OVERHEAD;
        FIXED
            + match self {
                Self::Append { envelope, .. } => envelope.len(),
                // The envelope counts here too: it may be here alone, and is written if it was not appended. Payloads are
                // parts of it, but for those that were sealed.
                Self::Deliver { envelope, messages, .. } => {
                    let payloads = messages.iter().filter(|(_, message)| message.private);
                    let opened: usize = payloads.map(|(_, message)| message.payload.len()).sum();
                    envelope.bytes().len() + opened + messages.len() * FIXED
                }
                Self::Barrier(_) => 0,
            }
    }
}

/// What is written at once.
#[derive(Debug)]
pub(super) struct Batch {
    /// Where it begins in its segment.
    base: usize,
    pub(super) bytes: Vec<u8>,
    places: Vec<(u64, Place)>,
}

#[derive(Debug)]
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) len: u64,
    pub(super) newest_ms: u64,
}

/// The one writer. Readers share the index.
#[derive(Debug)]
pub(super) struct Store<D: Disk> {
    pub(super) disk: D,
    pub(super) limits: LogLimits,
    index: Arc<Mutex<Index>>,
    pub(super) segments: VecDeque<Segment>,
    /// The last segment, once something was written.
    pub(super) current: Option<D::File>,
    pub(super) next_n: u64,
    /// Envelopes that are in the log and are still to be handed over, with their numbers.
    pub(super) open: BTreeMap<EnvelopeId, u64>,
    pub(super) me: NodeId,
}

impl<D: Disk> Store<D> {
    /// Reads what is there. What is damaged is set aside or skipped, with a warning; only a disk that cannot be read
    /// is an error.
    pub(super) fn open(disk: D, me: NodeId, limits: LogLimits) -> io::Result<(Self, Found)> {
        let mut this = Self {
            disk,
            limits,
            index: Arc::default(),
            segments: VecDeque::new(),
            current: None,
            next_n: 1,
            open: BTreeMap::new(),
            me,
        };
        let found = this.recover()?;
        Ok((this, found))
    }

    pub(super) fn index(&self) -> Arc<Mutex<Index>> {
        Arc::clone(&self.index)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a group, gives its messages their positions, and returns once it is on the disk. `now_ms` is the log's
    /// time, which never goes back.
    ///
    /// # Errors
    /// Those of the disk. The messages have positions and can be handed over; they are not in the log then.
    pub(super) fn commit(&mut self, now_ms: u64, group: &mut [Op]) -> io::Result<()> {
        let mut batch = self.batch();
        let mut gives = Vec::new();
        let mut next_pos = self.lock().next_pos;
        for op in group {
            match op {
                Op::Append { entry, envelope, delivers } => {
                    let n = self.append(now_ms, *entry, envelope, &mut batch);
                    if *delivers {
                        self.open.insert(entry.id, n);
                    }
                }
                Op::Deliver { envelope, entries, shown, late, messages, .. } => {
                    let id = envelope.id();
                    let n = self.open.remove(&id).unwrap_or_else(|| {
                        // Not appended, mostly because it is too old to be passed on, or let go while it waited. Kept so
                        // that it is not delivered again.
                        let entry = Entry { id, age_ms: Entry::TOO_OLD, hops: 0, digest: [0; 16] };
                        self.append(now_ms, entry, envelope.bytes(), &mut batch)
                    });
                    let pos = next_pos;
                    for (_, message) in messages {
                        message.pos = next_pos;
                        next_pos += 1;
                    }
                    let (entries, shown, late) = (*entries, *shown, *late);
                    Record::Delivered { pos, n, at_ms: now_ms, entries, shown, late }
                        .encode(&mut batch.bytes);
                    gives.push(Given { pos, n, at_ms: now_ms, shown, late });
                }
                Op::Barrier(_) => {}
            }
        }
        let written = self.put(now_ms, &batch);
        if written.is_err() {
            // What is not in the log is written when it is handed over.
            for (n, place) in &batch.places {
                if self.open.get(&place.id) == Some(n) {
                    self.open.remove(&place.id);
                }
            }
        }
        let mut index = self.lock();
        index.next_pos = next_pos;
        if written.is_ok() {
            gives.into_iter().for_each(|given| index.give(given));
        }
        drop(index);
        written
    }

    /// An empty one, for the place where the next is written.
    pub(super) fn batch(&self) -> Batch {
        let base = match (&self.current, self.segments.back()) {
            (Some(_), Some(last)) if last.len < SEGMENT => usize::try_from(last.len).unwrap_or(usize::MAX),
            _ => MAGIC.len(),
        };
        Batch { base, bytes: Vec::new(), places: Vec::new() }
    }

    /// Adds an envelope to a batch, and returns its number.
    pub(super) fn append(&mut self, at_ms: u64, entry: Entry, envelope: &Bytes, batch: &mut Batch) -> u64 {
        let (n, Entry { id, age_ms, hops, digest }) = (self.next_n, entry);
        self.next_n += 1;
        let offset = small(batch.base + batch.bytes.len());
        Record::Envelope { n, at_ms, age_ms, hops, digest, envelope: envelope.clone() }
            .encode(&mut batch.bytes);
        // Its segment is known when it is written.
        let len = small(HEADER + ENVELOPE_PREFIX + envelope.len());
        batch.places.push((n, Place { id, segment: 0, offset, len }));
        n
    }

    /// Writes a batch and returns once it is on the disk and in the index.
    pub(super) fn put(&mut self, now_ms: u64, batch: &Batch) -> io::Result<()> {
        if batch.bytes.is_empty() {
            return Ok(());
        }
        self.write(&batch.bytes)?;
        let Some(last) = self.segments.back_mut() else { return Ok(()) };
        last.newest_ms = now_ms;
        let segment = last.number;
        let mut index = self.lock();
        batch.places.iter().for_each(|&(n, place)| index.add(n, Place { segment, ..place }));
        drop(index);
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let full = self.segments.back().is_none_or(|last| last.len >= SEGMENT);
        let mut file = match self.current.take() {
            Some(file) if !full => file,
            _ => self.begin()?,
        };
        // After an error the file is not used any more: what is in it is uncertain, and a later sync would not tell.
        self.disk.append(&mut file, bytes)?;
        self.disk.sync(&mut file)?;
        self.current = Some(file);
        if let Some(last) = self.segments.back_mut() {
            last.len += bytes.len() as u64;
        }
        Ok(())
    }

    fn begin(&mut self) -> io::Result<D::File> {
        let number = self.segments.back().map_or(1, |last| last.number + 1);
        let mut file = match self.disk.create(number) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // Begun before, and failed before anything was in it.
                self.disk.remove(number)?;
                self.disk.create(number)?
            }
            created => created?,
        };
        self.disk.append(&mut file, MAGIC)?;
        self.disk.sync_dir()?;
        self.segments.push_back(Segment { number, len: MAGIC.len() as u64, newest_ms: 0 });
        Ok(file)
    }

    /// Envelopes and bytes.
    pub(super) fn size(&self) -> (usize, u64) {
        (self.lock().len(), self.segments.iter().map(|segment| segment.len).sum())
    }

    pub(super) fn messages(&self) -> u64 {
        self.lock().messages()
    }
}

#[cfg(test)]
impl Store<super::tests::Model> {
    pub(super) fn power(&mut self, steps: usize) {
        self.disk.steps = steps;
    }

    pub(super) fn into_disk(self) -> super::tests::Model {
        self.disk
    }
}

/// Segments are a few MiB.
pub(super) fn small(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
