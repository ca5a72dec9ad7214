//! The store over a disk that may fail, or lose its power, at every step.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use p2p_gossip::Ranges;
use p2p_wire::{Envelope, EnvelopeId, NewEntry, NodeId, SecretKey};
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};

use super::disk::{Base, Disk, RealDisk, segment_path};
use super::ranges;
use super::read::{LogReader, Since};
use super::recover::Found;
use super::store::{Entry, LogLimits, Op, Store};
use crate::event::{Content, Message};

#[derive(Debug, Clone, Default)]
pub(super) struct Stored {
    pub(super) synced: usize,
    pub(super) bytes: Vec<u8>,
}

/// A directory whose power goes after `steps` steps.
#[derive(Debug, Clone)]
pub(super) struct Model {
    pub(super) files: BTreeMap<u64, Stored>,
    /// Removed, and not yet for certain.
    removed: BTreeMap<u64, Stored>,
    base: Base,
    pub(super) steps: usize,
}

impl Model {
    pub(super) fn new() -> Self {
        Self { files: BTreeMap::new(), removed: BTreeMap::new(), base: Base::default(), steps: usize::MAX }
    }

    fn step(&mut self) -> io::Result<()> {
        self.steps = self.steps.checked_sub(1).ok_or_else(|| io::Error::other("power is gone"))?;
        Ok(())
    }

    /// What is there after the power is back: of what was not synced, any part.
    fn after_crash(mut self, rng: &mut impl Rng) -> Self {
        for (number, content) in std::mem::take(&mut self.removed) {
            if rng.random() {
                self.files.entry(number).or_insert(content);
            }
        }
        for content in self.files.values_mut() {
            let len = rng.random_range(content.synced..=content.bytes.len());
            content.bytes.truncate(len);
            // Space that was given to the file and not written yet.
            if len > content.synced && rng.random_ratio(1, 4) {
                content.bytes.extend([0; 20]);
            }
            content.synced = content.bytes.len();
        }
        self.steps = usize::MAX;
        self
    }
}

impl Disk for Model {
    type File = u64;

    fn segments(&mut self) -> io::Result<Vec<u64>> {
        Ok(self.files.keys().copied().collect())
    }

    fn read(&mut self, segment: u64) -> io::Result<Vec<u8>> {
        Ok(self.files[&segment].bytes.clone())
    }

    fn create(&mut self, segment: u64) -> io::Result<u64> {
        self.step()?;
        if self.files.contains_key(&segment) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.files.insert(segment, Stored::default());
        Ok(segment)
    }

    fn append(&mut self, file: &mut u64, bytes: &[u8]) -> io::Result<()> {
        // The power may go in the middle.
        for half in bytes.chunks(bytes.len().div_ceil(2).max(1)) {
            self.step()?;
            self.files.get_mut(file).unwrap().bytes.extend_from_slice(half);
        }
        Ok(())
    }

    fn sync(&mut self, file: &mut u64) -> io::Result<()> {
        self.step()?;
        let content = self.files.get_mut(file).unwrap();
        content.synced = content.bytes.len();
        Ok(())
    }

    fn sync_dir(&mut self) -> io::Result<()> {
        self.step()?;
        self.removed.clear();
        Ok(())
    }

    fn remove(&mut self, segment: u64) -> io::Result<()> {
        self.step()?;
        let content = self.files.remove(&segment).ok_or(io::ErrorKind::NotFound)?;
        self.removed.insert(segment, content);
        Ok(())
    }

    fn set_aside(&mut self, segment: u64) -> io::Result<String> {
        self.files.remove(&segment);
        Ok(format!("{segment}.corrupt"))
    }

    fn base(&mut self) -> io::Result<(Base, Option<String>)> {
        Ok((self.base.clone(), None))
    }

    fn merge(&mut self, more: &Base) -> io::Result<()> {
        self.step()?;
        for (author, new) in &more.seen {
            let ranges = self.base.seen.entry(*author).or_default();
            ranges::add_all(ranges, new);
        }
        (self.base.next_pos, self.base.next_n) = (more.next_pos, more.next_n);
        Ok(())
    }
}

pub(super) fn key(author: u8) -> SecretKey {
    SecretKey::from_bytes(&[author; 32])
}

pub(super) fn me() -> NodeId {
    key(1).id()
}

pub(super) fn envelope(key: &SecretKey, first: u64, count: usize, len: usize) -> Envelope {
    let payload = vec![7; len];
    let entry = NewEntry { topic: "", time_ms: 0, recipient: None, payload: &payload };
    Envelope::sign(key, 1, first, &vec![entry; count]).unwrap()
}

pub(super) fn append(envelope: &Envelope) -> Op {
    let entry = Entry { id: envelope.id(), age_ms: 0, hops: 1, digest: p2p_gossip::digest(envelope.bytes()) };
    Op::Append { entry, envelope: envelope.bytes().clone(), delivers: envelope.id().author != me() }
}

pub(super) fn deliver(envelope: &Envelope) -> Op {
    let entries = u64::MAX >> (64 - u32::from(envelope.id().count));
    let author = envelope.id().author;
    let read = |entry| match Message::read(&key(1), author, entry, false) {
        Content::Message { message, .. } => (true, message),
        other => panic!("{other:?}"),
    };
    let messages = envelope.entries().map(read).collect();
    Op::Deliver {
        envelope: envelope.clone(),
        entries,
        shown: entries,
        late: false,
        messages,
        receipts: Vec::new(),
    }
}

pub(super) fn seqs(found: &BTreeMap<NodeId, Ranges>, id: &EnvelopeId) -> bool {
    found.get(&id.author).is_some_and(|seen| id.seqs().all(|seq| seen.has(seq)))
}

fn seqs_of(op: &Op) -> Vec<u64> {
    match op {
        Op::Deliver { messages, .. } => messages.iter().map(|(_, message)| message.seq).collect(),
        Op::Append { .. } | Op::Barrier(_) => Vec::new(),
    }
}

pub(super) fn positions(group: &[Op]) -> Vec<u64> {
    let of = |op: &Op| match op {
        Op::Deliver { messages, .. } => messages.iter().map(|(_, m)| m.pos).collect(),
        Op::Append { .. } | Op::Barrier(_) => Vec::new(),
    };
    group.iter().flat_map(of).collect()
}

pub(super) fn open(disk: Model, limits: LogLimits) -> (Store<Model>, Found) {
    Store::open(disk, me(), limits).unwrap()
}

#[test]
fn whenever_the_power_goes_nothing_comes_twice_and_nothing_committed_is_lost() {
    let limits = LogLimits { bytes: 3_000, ..LogLimits::default() };
    for seed in 0..150 {
        let mut rng = StdRng::seed_from_u64(seed);
        let (mut disk, mut next_seq) = (Model::new(), 1);
        let (mut delivered, mut last_pos) = (BTreeSet::new(), 0);
        // What was to be handed over, written or not.
        let mut tried = BTreeSet::new();
        let mut committed: Vec<Envelope> = Vec::new();
        for _ in 0..6 {
            let (mut store, found) = open(disk.clone(), limits);
            for envelope in &committed {
                assert!(seqs(&found.seen, &envelope.id()), "seed {seed}: {:?} was forgotten", envelope.id());
            }
            let mut group = Vec::new();
            for left in &found.undelivered {
                assert!(seqs(&found.seen, &left.id));
                // Or it waits on, longer than its segment is kept.
                if rng.random() {
                    let envelope = Envelope::decode(left.envelope.clone()).unwrap();
                    group.push(deliver(&envelope));
                }
            }
            store.power(rng.random_range(0..60));
            for _ in 0..20 {
                let count = rng.random_range(1..4);
                let new = envelope(&key(2), next_seq, count, rng.random_range(0..200));
                next_seq += count as u64;
                group.push(append(&new));
                if rng.random_ratio(3, 4) {
                    group.push(deliver(&new));
                }
                tried.extend(group.iter().flat_map(seqs_of));
                let result = store.commit(1, &mut group);
                let group = std::mem::take(&mut group);
                if result.is_err() {
                    // The process is dead: nobody was given anything.
                    break;
                }
                for pos in positions(&group) {
                    assert!(pos > last_pos, "seed {seed}");
                    last_pos = pos;
                }
                for op in group {
                    match op {
                        Op::Append { .. } => committed.push(new.clone()),
                        Op::Barrier(_) => {}
                        Op::Deliver { messages, .. } => {
                            for (_, message) in messages {
                                assert!(delivered.insert(message.seq), "seed {seed}: {} twice", message.seq);
                            }
                        }
                    }
                }
                if store.trim(1).is_err() {
                    break;
                }
            }
            disk = store.into_disk().after_crash(&mut rng);
        }
        // In the end everything that was committed is handed over, some of it perhaps by the log alone.
        let (_, found) = open(disk, limits);
        let left: BTreeSet<u64> = found.undelivered.iter().flat_map(|left| left.id.seqs()).collect();
        assert!(left.is_disjoint(&delivered), "seed {seed}");
        let mut lost = committed.iter().flat_map(|one| one.id().seqs());
        assert!(lost.all(|seq| left.contains(&seq) || tried.contains(&seq)), "seed {seed}");
    }
}

#[test]
fn an_error_of_the_disk_costs_what_was_written_then_and_no_more() {
    let (mut store, _) = open(Model::new(), LogLimits::default());
    let (first, second, third) =
        (envelope(&key(2), 1, 1, 9), envelope(&key(2), 2, 1, 9), envelope(&key(2), 3, 1, 9));
    let mut pos = Vec::new();
    for (one, works) in [(&first, true), (&second, false), (&third, true)] {
        // One half of what is written fits.
        store.power(if works { 100 } else { 1 });
        let mut group = [append(one), deliver(one)];
        assert_eq!(store.commit(1, &mut group).is_ok(), works);
        pos.extend(positions(&group));
    }
    assert_eq!(pos, [1, 2, 3], "what is not kept is handed over all the same");
    assert_eq!(store.size().0, 2);
    // One that waited meanwhile is written with its delivery.
    let fourth = envelope(&key(2), 4, 1, 9);
    store.power(1);
    assert!(store.commit(1, &mut [append(&fourth)]).is_err());
    store.power(100);
    store.commit(1, &mut [deliver(&fourth)]).unwrap();
    let (store, found) = open(store.into_disk(), LogLimits::default());
    assert!([&first, &third, &fourth].iter().all(|one| seqs(&found.seen, &one.id())));
    assert_eq!(found.undelivered, []);
    assert_eq!(store.index().lock().unwrap().next_pos, 5);
}

#[test]
fn it_stays_within_its_limits_and_remembers_what_it_dropped() {
    let limits = LogLimits { envelopes: 50, ..LogLimits::default() };
    let (mut store, _) = open(Model::new(), limits);
    let author = key(2);
    // 600 KiB each, so that a segment holds seven.
    let all: Vec<_> = (0..100).map(|n| envelope(&author, 1 + 2 * n, 1, 600 << 10)).collect();
    for one in &all {
        store.commit(1, &mut [append(one), deliver(one)]).unwrap();
        store.trim(1).unwrap();
        assert!(store.size().0 <= 57 && store.size().1 <= (64 << 20) + (5 << 20));
    }
    assert!(store.size().0 >= 43);
    store.trim(1 + limits.age_ms + 1).unwrap();
    assert!(store.size().0 <= 7, "only the segment that is written stays");
    let (mut store, found) = open(store.into_disk(), limits);
    assert!(all.iter().all(|one| seqs(&found.seen, &one.id())));
    assert!(!found.seen[&author.id()].has(2));
    store.trim(1 + 2 * limits.age_ms).unwrap();
    assert_eq!(store.size().0, 0);
    let (mut store, found) = open(store.into_disk(), limits);
    assert!(all.iter().all(|one| seqs(&found.seen, &one.id())));
    let next = envelope(&author, 500, 1, 1);
    let mut group = [append(&next), deliver(&next)];
    store.commit(1, &mut group).unwrap();
    assert_eq!(positions(&group), [101], "positions go on");
}

#[test]
fn on_a_real_disk_everything_reads_back_by_position_time_and_id() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Store::open(RealDisk::open(dir.path()).unwrap(), me(), LogLimits::default()).unwrap();
    let author = key(2);
    let all: Vec<_> = (0..600).map(|n| envelope(&author, 1 + 3 * n, 2, 100)).collect();
    let (mut store, _) = open();
    for (at, chunk) in (1..).zip(all.chunks(100)) {
        let mut group: Vec<_> = chunk.iter().flat_map(|one| [append(one), deliver(one)]).collect();
        store.commit(at * 1_000, &mut group).unwrap();
    }
    let own = envelope(&key(1), 1, 1, 5);
    store.commit(7_000, &mut [append(&own)]).unwrap();
    drop(store);
    let (store, found) = open();
    assert_eq!((found.warnings.len(), found.undelivered.len(), found.newest_ms), (0, 0, 7_000));
    let reader = LogReader::new(dir.path().to_owned(), store.index(), key(1));
    let mut next = 0;
    let mut read = Vec::new();
    loop {
        let batch = reader.read(next).unwrap();
        let Some(last) = batch.last() else { break };
        next = last.pos + 1;
        read.extend(batch);
    }
    let pairs: Vec<_> = read.iter().map(|m| (m.pos, m.seq)).collect();
    let expected: Vec<_> = (1..).zip(all.iter().flat_map(|one| one.id().seqs())).collect();
    assert_eq!(pairs, expected);
    assert_eq!(reader.read(1_000).unwrap()[0].pos, 1_000);
    let time = UNIX_EPOCH + std::time::Duration::from_millis(2_500);
    assert_eq!(reader.start(Since::Time(time)), 401);
    assert_eq!(reader.get(&all[77].id()).unwrap(), Some(all[77].bytes().clone()));
    assert_eq!(reader.get(&own.id()).unwrap(), Some(own.bytes().clone()));
    assert_eq!(reader.get(&envelope(&author, 3, 1, 1).id()).unwrap(), None::<Bytes>);
}

#[test]
fn what_was_dropped_is_remembered_on_a_real_disk_and_a_damaged_memory_is_told_of() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Store::open(RealDisk::open(dir.path()).unwrap(), me(), LogLimits::default()).unwrap();
    let one = envelope(&key(2), 5, 1, 100);
    let (mut store, _) = open();
    store.commit(1, &mut [append(&one), deliver(&one)]).unwrap();
    drop(store);
    let (mut store, _) = open();
    store.trim(u64::MAX / 2).unwrap();
    assert_eq!(store.size(), (0, 0));
    drop(store);
    let (store, found) = open();
    assert!(seqs(&found.seen, &one.id()));
    let reader = LogReader::new(dir.path().to_owned(), store.index(), key(1));
    assert_eq!((reader.end(), reader.missing_from(1), reader.missing_from(2)), (2, 1, 0));
    drop(store);
    std::fs::write(dir.path().join("seen.redb"), [7; 5_000]).unwrap();
    let (_, found) = open();
    assert_eq!(found.warnings.len(), 1);
    assert!(found.seen.is_empty());
}

#[test]
fn reading_alone_leaves_everything_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Store::open(RealDisk::open(dir.path()).unwrap(), me(), LogLimits::default()).unwrap();
    let (one, two) = (envelope(&key(2), 1, 1, 100), envelope(&key(2), 2, 1, 100));
    let (mut store, _) = open();
    store.commit(1, &mut [append(&one), deliver(&one)]).unwrap();
    drop(store);
    let (mut store, _) = open();
    store.trim(u64::MAX / 2).unwrap();
    store.commit(2, &mut [append(&two), deliver(&two)]).unwrap();
    drop(store);
    // One that was begun, and one that is damaged: a node removes the one and moves the other.
    std::fs::write(segment_path(dir.path(), 77), "p2p").unwrap();
    std::fs::write(segment_path(dir.path(), 78), [7; 100]).unwrap();
    let content = || {
        let files = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
        files.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect::<BTreeMap<_, _>>()
    };
    let read = |remembers| {
        let before = content();
        let disk = RealDisk::read_only(dir.path());
        let (store, found) = Store::open(disk, me(), LogLimits::default()).unwrap();
        assert!(found.warnings.len() == 1 && found.warnings[0].contains("left out"), "{:?}", found.warnings);
        assert_eq!(seqs(&found.seen, &one.id()), remembers);
        let reader = LogReader::new(dir.path().to_owned(), store.index(), key(1));
        assert_eq!(reader.read(0).unwrap()[0].pos, 2);
        drop(store);
        assert_eq!(content(), before);
    };
    read(true);
    // What was dropped matters to a node alone.
    std::fs::write(dir.path().join("seen.redb"), [7; 5_000]).unwrap();
    read(false);
}

#[test]
fn what_is_delivered_and_too_old_to_be_passed_on_is_remembered_and_not_served() {
    let (mut store, _) = open(Model::new(), LogLimits::default());
    let (old, new) = (envelope(&key(2), 1, 2, 9), envelope(&key(2), 7, 1, 9));
    let mut group = [deliver(&old), append(&new), deliver(&new)];
    store.commit(1, &mut group).unwrap();
    assert_eq!(positions(&group), [1, 2, 3]);
    let (_, found) = open(store.into_disk(), LogLimits::default());
    assert!(seqs(&found.seen, &old.id()) && found.undelivered.is_empty());
    assert_eq!(found.logged.len(), 1);
    let (entry, len, _) = found.logged[0];
    assert_eq!(
        (entry, len),
        (
            Entry { id: new.id(), age_ms: 0, hops: 1, digest: p2p_gossip::digest(new.bytes()) },
            new.bytes().len()
        )
    );
}
