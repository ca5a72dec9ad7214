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

use super::disk::{Base, Disk};
use super::index::{Given, Index, Place};
use super::ranges;
use super::record::{ENVELOPE_PREFIX, HEADER, MAGIC, Record};
use super::recover::Found;
use crate::event::Message;

/// A segment that is as large gets a successor. 4 MiB: a 16th of the log goes at once.
pub(super) const SEGMENT: u64 = 4 << 20;
/// What an op costs besides an envelope, and what its records take at most.
pub(super) const OP_OVERHEAD: usize = 256;
/// Segments kept, however small; a process that is killed over and over makes many small ones. A guess.
const MAX_SEGMENTS: usize = 1024;

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
    /// A verified envelope.
    Append { entry: Entry, envelope: Bytes },
    /// Entries of an envelope go to the application: those of `shown` as `messages`, which get their positions here.
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
    limits: LogLimits,
    index: Arc<Mutex<Index>>,
    pub(super) segments: VecDeque<Segment>,
    /// The last segment, once something was written.
    current: Option<D::File>,
    pub(super) next_n: u64,
    /// Envelopes of others that still have entries to hand over, with these.
    pub(super) open: BTreeMap<EnvelopeId, (u64, u64)>,
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
        let mut bytes = Vec::new();
        let (mut places, mut gives) = (Vec::new(), Vec::new());
        let mut next_pos = self.lock().next_pos;
        let base = match (&self.current, self.segments.back()) {
            (Some(_), Some(last)) if last.len < SEGMENT => usize::try_from(last.len).unwrap_or(usize::MAX),
            _ => MAGIC.len(),
        };
        for op in group {
            match op {
                Op::Append { entry, envelope } => {
                    let offset = small(base + bytes.len());
                    let place = self.append(now_ms, *entry, envelope, offset, &mut bytes);
                    places.push(place);
                }
                Op::Deliver { envelope, entries, shown, late, messages, .. } => {
                    let id = envelope.id();
                    if !self.open.contains_key(&id) {
                        // Too old to be passed on, and so not appended; kept so that it is not delivered again.
                        let entry = Entry { id, age_ms: Entry::TOO_OLD, hops: 0, digest: [0; 16] };
                        let offset = small(base + bytes.len());
                        places.push(self.append(now_ms, entry, envelope.bytes(), offset, &mut bytes));
                    }
                    let pos = next_pos;
                    for (_, message) in messages {
                        message.pos = next_pos;
                        next_pos += 1;
                    }
                    let Some((n, left)) = self.open.get_mut(&id) else { continue };
                    *left &= !*entries;
                    let (n, entries, shown, late) = (*n, *entries, *shown, *late);
                    if *left == 0 {
                        self.open.remove(&id);
                    }
                    Record::Delivered { pos, n, at_ms: now_ms, entries, shown, late }.encode(&mut bytes);
                    gives.push(Given { pos, n, at_ms: now_ms, shown, late });
                }
                Op::Barrier(_) => {}
            }
        }
        let written = self.write(&bytes);
        let segment = self.segments.back().map_or(0, |last| last.number);
        let mut index = self.lock();
        index.next_pos = next_pos;
        if written.is_ok() {
            for (n, id, offset, len) in places {
                index.add(n, Place { id, segment, offset, len });
            }
            gives.into_iter().for_each(|given| index.give(given));
            drop(index);
            if let Some(last) = self.segments.back_mut() {
                last.newest_ms = now_ms;
            }
        }
        written
    }

    fn append(
        &mut self,
        at_ms: u64,
        entry: Entry,
        envelope: &Bytes,
        offset: u32,
        bytes: &mut Vec<u8>,
    ) -> (u64, EnvelopeId, u32, u32) {
        let (n, Entry { id, age_ms, hops, digest }) = (self.next_n, entry);
        self.next_n += 1;
        Record::Envelope { n, at_ms, age_ms, hops, digest, envelope: envelope.clone() }.encode(bytes);
        if id.author != self.me {
            self.open.insert(id, (n, u64::MAX >> (64 - u32::from(id.count.clamp(1, 64)))));
        }
        (n, id, offset, small(HEADER + ENVELOPE_PREFIX + envelope.len()))
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

    /// Drops the oldest segments while there is more than the limits allow. What was seen is kept.
    ///
    /// # Errors
    /// Those of the disk; the segment stays until the next time.
    pub(super) fn trim(&mut self, now_ms: u64) -> io::Result<()> {
        while self.is_over(now_ms) {
            let Some(oldest) = self.segments.front().map(|oldest| oldest.number) else { break };
            let mut base = Base { seen: BTreeMap::new(), next_pos: 0, next_n: self.next_n };
            {
                let index = self.lock();
                base.next_pos = index.next_pos;
                for id in index.ids_of(oldest) {
                    ranges::add(base.seen.entry(id.author).or_default(), id.first, id.seqs().end);
                }
            }
            self.disk.merge(&base)?;
            self.disk.remove(oldest)?;
            self.segments.pop_front();
            self.lock().forget(oldest);
        }
        Ok(())
    }

    fn is_over(&self, now_ms: u64) -> bool {
        let Some(oldest) = self.segments.front() else { return false };
        // The last one is being written, unless this process has written nothing yet.
        if self.segments.len() == 1 && self.current.is_some() {
            return false;
        }
        let bytes: u64 = self.segments.iter().map(|segment| segment.len).sum();
        bytes > self.limits.bytes
            || self.lock().len() > self.limits.envelopes
            || self.segments.len() > MAX_SEGMENTS
            || now_ms.saturating_sub(oldest.newest_ms) > self.limits.age_ms
    }

    /// Envelopes and bytes.
    pub(super) fn size(&self) -> (usize, u64) {
        (self.lock().len(), self.segments.iter().map(|segment| segment.len).sum())
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
