//! Dropping the oldest segments. What was seen in them is kept, and what was not handed over yet is carried on.

use std::collections::BTreeMap;
use std::io;

use bytes::Bytes;
use p2p_wire::EnvelopeId;

use super::disk::{Base, Disk};
use super::index::Place;
use super::ranges;
use super::record::{self, Next, Record};
use super::store::{Entry, Store};

/// Segments kept, however small; a process that is killed over and over makes many small ones. A guess.
const MAX_SEGMENTS: usize = 1024;
/// What is carried on from one segment, in bytes. Half of a full one, so that each one that is dropped gives room back
/// whatever waits: the core holds up to 64 MiB, as much as the log.
const CARRY: usize = 2 << 20;

impl<D: Disk> Store<D> {
    /// Drops the oldest segments while there is more than the limits allow. What was seen is kept.
    ///
    /// # Errors
    /// Those of the disk; the segment stays until the next time.
    pub(super) fn trim(&mut self, now_ms: u64) -> io::Result<()> {
        while self.is_over(now_ms) {
            let Some(oldest) = self.segments.front().map(|oldest| oldest.number) else { break };
            let left = self.carry(now_ms, oldest)?;
            let mut base = Base { seen: BTreeMap::new(), next_pos: 0, next_n: self.next_n };
            {
                let index = self.lock();
                base.next_pos = index.next_pos;
                // What waits counts as seen by its record alone, or the next start would not hand it over.
                let done = index.of_oldest(oldest).filter(|(_, place)| !self.open.contains_key(&place.id));
                for (_, Place { id, .. }) in done {
                    ranges::add(base.seen.entry(id.author).or_default(), id.first, id.seqs().end);
                }
            }
            self.disk.merge(&base)?;
            self.disk.remove(oldest)?;
            self.segments.pop_front();
            self.lock().forget(oldest);
            for id in left {
                self.open.remove(&id);
            }
        }
        Ok(())
    }

    /// Writes again what is in the oldest segment and was not handed over, as much as may be. Returns what goes with the
    /// segment: for the log it never came, until it is handed over and written with that.
    fn carry(&mut self, now_ms: u64, oldest: u64) -> io::Result<Vec<EnvelopeId>> {
        let mut waiting: Vec<(u64, Place)> = {
            let index = self.lock();
            let waits = |(n, place): &(u64, &Place)| self.open.get(&place.id) == Some(n);
            index.of_oldest(oldest).filter(waits).map(|(n, place)| (n, *place)).collect()
        };
        if waiting.is_empty() {
            return Ok(Vec::new());
        }
        // As many as possible: what a flood makes wait is large.
        waiting.sort_by_key(|(_, place)| place.len);
        let segment = Bytes::from(self.disk.read(oldest)?);
        let (mut batch, mut carried, mut left) = (self.batch(), Vec::new(), Vec::new());
        for (_, place) in waiting {
            let from = segment.len().min(place.offset as usize);
            let fits = batch.bytes.len() + place.len as usize <= CARRY;
            let (Next::Record(Record::Envelope { at_ms, age_ms, hops, digest, envelope, .. }, _), true) =
                (record::next(&segment.slice(from..)), fits)
            else {
                left.push(place.id);
                continue;
            };
            let waited = u32::try_from(now_ms.saturating_sub(at_ms)).unwrap_or(u32::MAX);
            let entry = Entry { id: place.id, age_ms: age_ms.saturating_add(waited), hops, digest };
            carried.push((place.id, self.append(now_ms, entry, &envelope, &mut batch)));
        }
        self.put(now_ms, &batch)?;
        self.open.extend(carried);
        Ok(left)
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
}

#[cfg(test)]
mod tests {
    use std::sync::PoisonError;

    use p2p_wire::Envelope;

    use super::*;
    use crate::log::Op;
    use crate::log::recover::Found;
    use crate::log::store::LogLimits;
    use crate::log::tests::{Model, append, deliver, envelope, key, open, positions, seqs};

    const SMALL: LogLimits = LogLimits { age_ms: 1_000_000, bytes: 8 << 20, envelopes: 100_000 };

    /// The second entry alone; the first was seen in another envelope.
    fn deliver_second(envelope: &Envelope) -> Op {
        let mut op = deliver(envelope);
        if let Op::Deliver { entries, shown, messages, .. } = &mut op {
            (*entries, *shown) = (0b10, 0b10);
            messages.remove(0);
        }
        op
    }

    /// So much of somebody else that what was there before is dropped.
    fn flood(store: &mut Store<Model>, author: u8) {
        for seq in 1..=16 {
            let one = envelope(&key(author), seq, 1, 1 << 20);
            store.commit(2, &mut [append(&one), deliver(&one)]).unwrap();
            store.trim(2).unwrap();
        }
    }

    fn is_left(found: &Found, envelope: &Envelope) -> bool {
        found.undelivered.iter().any(|left| left.id == envelope.id() && left.envelope == envelope.bytes())
    }

    #[test]
    fn what_was_handed_over_is_not_waited_for_though_only_a_part_of_it_was_new() {
        let (mut store, _) = open(Model::new(), LogLimits { bytes: 1 << 20, ..SMALL });
        for first in 1..=1_000 {
            let two = envelope(&key(2), first, 2, 10);
            let given = if first == 1 { deliver(&two) } else { deliver_second(&two) };
            store.commit(first, &mut [append(&two), given]).unwrap();
            store.trim(first).unwrap();
        }
        // The winner of a fork, all of which was handed over under others.
        let mut winner = append(&envelope(&key(2), 5, 1, 11));
        if let Op::Append { delivers, .. } = &mut winner {
            *delivers = false;
        }
        store.commit(1_001, &mut [winner]).unwrap();
        assert_eq!(store.open.len(), 0);
        let (_, found) = open(store.into_disk(), SMALL);
        assert_eq!(found.undelivered, []);
    }

    #[test]
    fn what_waits_is_not_lost_with_its_segment() {
        let (mut store, _) = open(Model::new(), SMALL);
        let (waits, twin) = (envelope(&key(2), 5, 1, 10), envelope(&key(2), 7, 2, 10));
        store.commit(1, &mut [append(&waits), append(&twin)]).unwrap();
        for author in 3..=6 {
            flood(&mut store, author);
        }
        assert!(store.size().1 <= SMALL.bytes && store.open.len() == 2);
        let place = store.lock().of_id(&waits.id()).copied();
        assert!(place.is_some_and(|place| place.segment > 1), "it can be asked for");
        let mut given = [deliver(&twin)];
        store.commit(3, &mut given).unwrap();
        assert_eq!(positions(&given), [65, 66]);
        let (mut store, found) = open(store.into_disk(), SMALL);
        assert!(is_left(&found, &waits) && !is_left(&found, &twin));
        assert!(seqs(&found.seen, &waits.id()) && seqs(&found.seen, &twin.id()));
        let born: Vec<_> = found.logged.iter().filter(|(entry, ..)| entry.id == waits.id()).collect();
        assert!(born.iter().all(|(.., born)| born.as_millis() == 1), "it grows no younger: {born:?}");
        // Not before it is handed over, and then for good.
        flood(&mut store, 7);
        store.commit(4, &mut [deliver(&waits)]).unwrap();
        flood(&mut store, 8);
        let (_, found) = open(store.into_disk(), SMALL);
        assert!(!is_left(&found, &waits) && seqs(&found.seen, &waits.id()));
    }

    #[test]
    fn however_much_waits_the_log_keeps_its_limits() {
        let (mut store, _) = open(Model::new(), SMALL);
        let small = envelope(&key(2), 2, 1, 10);
        store.commit(1, &mut [append(&small)]).unwrap();
        let large: Vec<_> = (1..=40).map(|n| envelope(&key(3), 2 * n, 1, 1 << 20)).collect();
        for one in &large {
            store.commit(1, &mut [append(one)]).unwrap();
            store.trim(1).unwrap();
            assert!(store.size().1 <= SMALL.bytes && store.open.len() <= store.size().0);
        }
        assert!(store.open.contains_key(&small.id()), "what is small is carried on first");
        assert!(store.open.len() < 10);
        // What went with its segment was never seen, for whoever starts now; or it is handed over, and is remembered.
        let (_, found) = open(store.disk.clone(), SMALL);
        let gone = large.iter().filter(|one| !is_left(&found, one)).count();
        assert!(gone > 30 && large.iter().all(|one| is_left(&found, one) == seqs(&found.seen, &one.id())));
        for one in &large {
            store.commit(2, &mut [deliver(one)]).unwrap();
            store.trim(2).unwrap();
        }
        let (_, found) = open(store.into_disk(), SMALL);
        assert!(large.iter().all(|one| seqs(&found.seen, &one.id()) && !is_left(&found, one)));
    }

    #[test]
    fn a_disk_that_fails_while_a_segment_is_dropped_loses_nothing_that_waits() {
        let waits = envelope(&key(2), 5, 1, 10);
        for steps in 0..12 {
            let (mut store, _) = open(Model::new(), SMALL);
            store.commit(1, &mut [append(&waits)]).unwrap();
            // Everything is too old by now but for what is written next.
            let (mut store, _) = open(store.into_disk(), SMALL);
            let now = 2 * SMALL.age_ms;
            store.power(steps);
            let failed = store.trim(now).is_err();
            let index = store.index();
            let known = index.lock().unwrap_or_else(PoisonError::into_inner).of_id(&waits.id()).is_some();
            assert!(known && store.open.contains_key(&waits.id()), "{steps} steps");
            store.power(usize::MAX);
            let (_, found) = open(store.disk.clone(), SMALL);
            assert!(is_left(&found, &waits), "{steps} steps");
            store.trim(now).unwrap();
            store.commit(now, &mut [deliver(&waits)]).unwrap();
            let (store, found) = open(store.into_disk(), SMALL);
            assert!(!is_left(&found, &waits) && seqs(&found.seen, &waits.id()), "{steps} steps");
            assert!(failed || store.segments.len() == 1);
        }
    }
}
