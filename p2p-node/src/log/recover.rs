//! Reading the log at the start: what is in the segments, what of it was not handed over, what is damaged.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use p2p_gossip::Ranges;
use p2p_wire::{EnvelopeId, NodeId};

use super::disk::Disk;
use super::index::{Given, Place};
use super::ranges;
use super::record::{self, MAGIC, Next, Record};
use super::store::{Entry, Segment, Store, small};

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
                self.open.insert(id, (n, entries));
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
            let aside = self.disk.set_aside(number)?;
            found.warnings.push(format!(
                "a part of the message log is damaged or of another version and was moved to {aside}; its messages may be \
                 delivered again"
            ));
            return Ok(());
        }
        let mut segment = Segment { number, len: bytes.len() as u64, newest_ms: 0 };
        let (mut at, mut damaged) = (MAGIC.len(), 0_u64);
        loop {
            let (record, len) = match record::next(&bytes.slice(at..)) {
                Next::End => break,
                Next::Torn => {
                    tracing::debug!(segment = number, bytes = bytes.len() - at, "an unfinished write");
                    break;
                }
                Next::Damaged(len) => {
                    (damaged, at) = (damaged + 1, at + len);
                    continue;
                }
                Next::Record(record, len) => (record, len),
            };
            let at_ms = self.restore(record, (number, at, len), found, given, envelopes);
            segment.newest_ms = segment.newest_ms.max(at_ms);
            at += len;
        }
        if damaged > 0 {
            found.warnings.push(format!(
                "{damaged} records of the message log are damaged and were left out; these messages may be delivered again"
            ));
        }
        found.newest_ms = found.newest_ms.max(segment.newest_ms);
        self.segments.push_back(segment);
        Ok(())
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
