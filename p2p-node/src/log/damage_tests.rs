//! What is left of a log whose bytes were changed or lost.

use p2p_wire::{Envelope, NewEntry};

use super::record::Record;
use super::store::LogLimits;
use super::tests::{Model, Stored, append, deliver, envelope, key, open, seqs};

#[test]
fn damage_is_skipped_or_set_aside_with_a_warning() {
    let one = envelope(&key(2), 1, 1, 100);
    let two = envelope(&key(2), 2, 1, 100);
    let (mut store, _) = open(Model::new(), LogLimits::default());
    store.commit(1, &mut [append(&one), deliver(&one), append(&two), deliver(&two)]).unwrap();
    let whole = store.into_disk();
    let len = whole.files[&1].bytes.len();
    for at in 0..len {
        let mut disk = whole.clone();
        disk.files.get_mut(&1).unwrap().bytes[at] ^= 0x10;
        let (store, found) = open(disk, LogLimits::default());
        assert!(store.size().0 <= 2);
        // At the end damage looks like an unfinished write.
        assert!(!found.warnings.is_empty() || at >= len - 50, "{at}");
    }
    for content in
        [&b""[..], b"p2p", b"p2plog2\n", b"p2plog1\nrecords of an older format", &[0xff; 1000], &[0; 16]]
    {
        let mut disk = whole.clone();
        disk.files.insert(2, Stored { synced: content.len(), bytes: content.to_vec() });
        let (mut store, found) = open(disk, LogLimits::default());
        assert!(seqs(&found.seen, &one.id()) && seqs(&found.seen, &two.id()));
        assert_eq!(found.warnings.len(), usize::from(content.len() > 10), "{content:?}");
        let three = envelope(&key(2), 3, 1, 1);
        store.commit(2, &mut [append(&three)]).unwrap();
    }
}

/// Whichever byte it is, a length too: only its record is lost, and positions go on behind the last one.
#[test]
fn damage_hides_nothing_behind_it() {
    let all: Vec<_> = (1..=8).map(|seq| envelope(&key(2), seq, 1, 100)).collect();
    let (mut store, _) = open(Model::new(), LogLimits::default());
    for one in &all {
        store.commit(1, &mut [append(one), deliver(one)]).unwrap();
    }
    let whole = store.into_disk();
    let bytes = whole.files[&1].bytes.len();
    for at in (8..bytes).chain([usize::MAX]) {
        let mut disk = whole.clone();
        let content = &mut disk.files.get_mut(&1).unwrap().bytes;
        match at {
            // A part of the disk, from the middle of a record to the middle of another one.
            usize::MAX => content[1_000..1_600].fill(0),
            at => content[at] ^= 0x40,
        }
        let (store, found) = open(disk, LogLimits::default());
        let lost = all.iter().filter(|one| !seqs(&found.seen, &one.id())).count();
        assert!(lost <= if at == usize::MAX { 4 } else { 1 }, "{lost} lost for the byte at {at}");
        let next_pos = store.index().lock().unwrap().next_pos;
        assert!(next_pos == 9 || at >= bytes - 50 && at != usize::MAX, "{next_pos} after the byte at {at}");
    }
}

/// What a message holds is its author's choice.
#[test]
fn a_record_inside_a_message_is_not_taken_for_one_of_this_node() {
    let mut genuine = envelope(&key(3), 1, 1, 10).bytes().to_vec();
    *genuine.last_mut().unwrap() ^= 1;
    let forged = Envelope::decode(genuine.into()).unwrap();
    let mut inside = Vec::new();
    let digest = [0; 16];
    let bytes = forged.bytes().clone();
    Record::Envelope { n: 2, at_ms: 1, age_ms: 0, hops: 0, digest, envelope: bytes }.encode(&mut inside);
    Record::Delivered { pos: 1 << 40, n: 2, at_ms: 1, entries: 1, shown: 1, late: false }.encode(&mut inside);
    let entry = NewEntry { topic: "t", time_ms: 0, recipient: None, payload: &inside };
    let outer = Envelope::sign(&key(2), 1, 1, &[entry]).unwrap();
    let (mut store, _) = open(Model::new(), LogLimits::default());
    store.commit(1, &mut [append(&outer), deliver(&outer)]).unwrap();
    let mut disk = store.into_disk();
    // The length of the record around it.
    disk.files.get_mut(&1).unwrap().bytes[8] ^= 0x40;
    let (store, found) = open(disk, LogLimits::default());
    assert!(!seqs(&found.seen, &forged.id()) && found.logged.is_empty());
    assert!(store.index().lock().unwrap().next_pos < 1 << 30);
}
