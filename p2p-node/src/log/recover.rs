//! Reading the log at the start: what is in the segments, what of it was not handed over, what is damaged.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use p2p_gossip::Ranges;
use p2p_wire::{Envelope, EnvelopeId, NodeId};

use super::disk::Disk;
use super::index::{Given, Place};
use super::ranges;
use super::record::{self, MAGIC, Next, Record};
use super::store::{Entry, Segment, Store, small};

/// Bytes of records that are looked at to find the next one behind damage: as many as 16 segments hold.
const MAX_CHECKED: usize = 64 << 20;
/// How far numbers and positions may go on behind damage; more than a log holds.
const FAR: u64 = 1 << 20;

/// A verified envelope of somebody else whose entries were not all handed over when the last process ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Undelivered {
    pub(crate) id: EnvelopeId,
    pub(crate) entries: u64,
    pub(crate) envelope: Bytes,
}

/// What was found at the start.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// What was seen of each author, in this log and in what it dropped.
    pub(crate) seen: BTreeMap<NodeId, Ranges>,
    /// What the log holds, oldest first, and each one's length and age now.
    pub(crate) logged: Vec<(Entry, usize, Duration)>,
    /// By author and number.
    pub(crate) undelivered: Vec<Undelivered>,
    /// For people.
    pub(crate) warnings: Vec<String>,
    /// When the newest record was written; the log's time goes on from there.
    pub(crate) newest_ms: u64,
}

impl<D: Disk> Store<D> {
    pub(super) fn recover(&mut self) -> io::Result<Found> {
        let mut found = Found::default();
        let (base, warning) = self.disk.base()?;
        found.warnings.extend(warning);
        let mut given = base.seen.clone();
        found.seen = base.seen;
        self.next_n = base.next_n.max(1);
        self.lock().next_pos = base.next_pos.max(1);
        let mut envelopes = BTreeMap::new();
        for number in self.disk.segments()? {
            self.read_segment(number, &mut found, &mut given, &mut envelopes)?;
        }
        // What was given last may stand behind what it was given of, so this comes at the end.
        for (id, (n, envelope)) in envelopes {
            let author = given.entry(id.author).or_default();
            let entries =
                id.seqs().enumerate().filter(|(_, seq)| !author.has(*seq)).map(|(bit, _)| 1 << bit).sum();
            if entries != 0 {
                ranges::add(author, id.first, id.seqs().end);
                self.open.insert(id, n);
                // Copied: it is a part of a whole segment.
                let envelope = Bytes::copy_from_slice(&envelope);
                found.undelivered.push(Undelivered { id, entries, envelope });
            }
        }
        Ok(found)
    }

    fn read_segment(
        &mut self,
        number: u64,
        found: &mut Found,
        given: &mut BTreeMap<NodeId, Ranges>,
        envelopes: &mut BTreeMap<EnvelopeId, (u64, Bytes)>,
    ) -> io::Result<()> {
        let bytes = Bytes::from(self.disk.read(number)?);
        if bytes.len() < MAGIC.len() && MAGIC.starts_with(&bytes) {
            // Made and not begun: nothing was ever in it.
            return self.disk.remove(number);
        }
        if !bytes.starts_with(MAGIC) {
            let fate = self.disk.set_aside(number)?;
            found.warnings.push(format!(
                "a part of the message log is damaged or of another version and was {fate}; its messages may be \
                 delivered again"
            ));
            return Ok(());
        }
        let mut segment = Segment { number, len: bytes.len() as u64, newest_ms: 0 };
        let (mut at, mut damaged, mut doubtful) = (MAGIC.len(), 0, false);
        loop {
            let (record, len) = match record::next(&bytes.slice(at..)) {
                Next::End => break,
                Next::Record(record, len) if !doubtful || self.is_genuine(&record) => (record, len),
                Next::Record(_, len) => {
                    (damaged, at) = (damaged + len, at + len);
                    continue;
                }
                // The length may be damaged as well, or all of a part: there may be records anywhere behind it.
                Next::Torn | Next::Damaged(_) => {
                    let Some((next, record, len)) = self.next_record(&bytes, at + 1) else {
                        tracing::debug!(segment = number, bytes = bytes.len() - at, "an unfinished write");
                        break;
                    };
                    (damaged, at, doubtful) = (damaged + next - at, next, true);
                    (record, len)
                }
            };
            let at_ms = self.restore(record, (number, at, len), found, given, envelopes);
            segment.newest_ms = segment.newest_ms.max(at_ms);
            at += len;
        }
        if damaged > 0 {
            found.warnings.push(format!(
                "{damaged} bytes of the message log are damaged and were left out; their messages may be delivered again"
            ));
        }
        found.newest_ms = found.newest_ms.max(segment.newest_ms);
        self.segments.push_back(segment);
        Ok(())
    }

    /// The next record that can be read and fits what was read before: where it begins, and its length.
    fn next_record(&self, bytes: &Bytes, from: usize) -> Option<(usize, Record, usize)> {
        let mut budget = MAX_CHECKED;
        (from..bytes.len()).find_map(|at| {
            let len = bytes.get(at..).and_then(record::plausible).filter(|len| *len <= budget)?;
            budget -= len;
            match record::next(&bytes.slice(at..)) {
                Next::Record(record, len) if self.is_genuine(&record) => Some((at, record, len)),
                _ => None,
            }
        })
    }

    /// Whether a record behind damage was written by this node, and is no part of a message that looks like one: the author of a
    /// message chooses its bytes, and may hope that the record around them is damaged.
    fn is_genuine(&self, record: &Record) -> bool {
        let index = self.lock();
        let (last, next_pos) = (index.last_n().unwrap_or(0), index.next_pos);
        drop(index);
        match record {
            Record::Envelope { n, digest, envelope, .. } => {
                let signed = || Envelope::decode(envelope.clone()).ok()?.verify().ok();
                (last..=last.saturating_add(FAR)).contains(n)
                    && signed().is_some_and(|full| full.starts_with(digest) || *digest == [0; 16])
            }
            Record::Delivered { n, pos, .. } => {
                *n <= last.saturating_add(FAR) && (next_pos..=next_pos.saturating_add(FAR)).contains(pos)
            }
        }
    }

    /// Takes a record that was read, and returns when it was written.
    fn restore(
        &mut self,
        record: Record,
        (segment, offset, len): (u64, usize, usize),
        found: &mut Found,
        given: &mut BTreeMap<NodeId, Ranges>,
        envelopes: &mut BTreeMap<EnvelopeId, (u64, Bytes)>,
    ) -> u64 {
        match record {
            Record::Envelope { n, at_ms, age_ms, hops, digest, envelope } => {
                // A number that does not rise, or bytes that are no envelope, were not written here.
                let rises = self.lock().last_n().is_none_or(|last| n > last) && n < u64::MAX;
                let Some(id) = record::id_of(&envelope).filter(|_| rises) else { return at_ms };
                self.next_n = self.next_n.max(n + 1);
                ranges::add(found.seen.entry(id.author).or_default(), id.first, id.seqs().end);
                if age_ms != Entry::TOO_OLD {
                    // When it was published, for now.
                    let born = Duration::from_millis(at_ms.saturating_sub(age_ms.into()));
                    found.logged.push((Entry { id, age_ms, hops, digest }, envelope.len(), born));
                }
                let (offset, len) = (small(offset), small(len));
                self.lock().add(n, Place { id, segment, offset, len });
                if id.author != self.me {
                    envelopes.insert(id, (n, envelope));
                }
                at_ms
            }
            Record::Delivered { pos, n, at_ms, entries, shown, late } => {
                let delivered = Given { pos, n, at_ms, shown, late };
                let mut index = self.lock();
                index.next_pos = index.next_pos.max(delivered.end());
                if let Some(id) = index.place(n).map(|place| place.id) {
                    index.give(delivered);
                    drop(index);
                    let author = given.entry(id.author).or_default();
                    for (_, seq) in id.seqs().enumerate().filter(|(bit, _)| entries >> bit & 1 == 1) {
                        ranges::add(author, seq, seq + 1);
                    }
                    if id.seqs().all(|seq| author.has(seq)) {
                        envelopes.remove(&id);
                    }
                }
                at_ms
            }
        }
    }
}
