//! The file: what loads, what is moved aside, what a save leaves.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod util;

use std::fs;
use std::path::{Path, PathBuf};

use p2p_peers::{DecodeError, Format, LoadError, PeerStore, Snapshot, replace_file};
use util::{Bench, addr, wall};

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn some_snapshot() -> Snapshot<u32> {
    let mut bench = Bench::new(p2p_peers::Config::default());
    bench.told(5, &[addr(5)], p2p_peers::Source::User);
    bench.dialled(5, addr(5));
    bench.table.snapshot()
}

#[test]
fn what_was_saved_is_loaded_and_nothing_is_left_over() {
    let dir = tempfile::tempdir().unwrap();
    let store = PeerStore::new(dir.path().join("state.json"));
    assert!(store.load::<u32>().unwrap().is_none(), "no file is no error");
    store.save(&Snapshot::<u32>::default()).unwrap();
    store.save(&some_snapshot()).unwrap();
    let loaded = store.load::<u32>().unwrap().unwrap();
    assert_eq!((loaded.snapshot, loaded.skipped, loaded.format), (some_snapshot(), 0, Format::Snapshot));
    assert_eq!(names(dir.path()), ["state.json"]);
}

#[test]
fn a_file_of_no_use_is_moved_aside_and_kept() {
    let half = &some_snapshot().encode().unwrap()[..40];
    let huge = vec![b' '; p2p_peers::MAX_SNAPSHOT_BYTES + 1];
    let deep = "[".repeat(1_000_000);
    let other_version = br#"{"version":2,"peers":{"shape":"unknown"}}"#.as_slice();
    let useless =
        [b"".as_slice(), half, b"\xff\xfe\x00garbage", b"{}", b"3", other_version, deep.as_bytes(), &huge];
    for bytes in useless {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        fs::write(&path, bytes).unwrap();
        let store = PeerStore::new(&path);
        let error = store.load::<u32>().unwrap_err();
        let LoadError::Corrupt { moved_to, .. } = &error else { panic!("{error:?}") };
        assert_eq!(fs::read(moved_to).unwrap(), bytes);
        assert!(names(dir.path())[0].starts_with("state.json.corrupt-"), "{:?}", names(dir.path()));
        assert!(store.load::<u32>().unwrap().is_none(), "clean from then on");
        fs::write(&path, bytes).unwrap();
        assert!(matches!(store.load::<u32>(), Err(LoadError::Corrupt { .. })));
        assert_eq!(names(dir.path()).len(), 2, "the first one is still there");
    }
}

#[test]
fn another_version_says_so() {
    let error = Snapshot::<u32>::decode(br#"{"version":9}"#).unwrap_err();
    assert!(matches!(error, DecodeError::Version { found: 9 }));
    assert_eq!(error.to_string(), "snapshot has version 9, this program reads version 1");
}

#[test]
fn a_file_that_cannot_be_read_stays() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.json");
    fs::create_dir(&path).unwrap();
    assert!(matches!(PeerStore::new(&path).load::<u32>(), Err(LoadError::Read { .. })));
    assert!(path.is_dir());
}

#[test]
fn left_over_temporary_files_are_swept_and_others_are_not() {
    let dir = tempfile::tempdir().unwrap();
    for name in [".state.json.tmp-1-0", ".state.json.tmp-77-3", ".other.json.tmp-1-0", "state.json.tmp-1"] {
        fs::write(dir.path().join(name), "half a sna").unwrap();
    }
    assert!(PeerStore::new(dir.path().join("state.json")).load::<u32>().unwrap().is_none());
    assert_eq!(names(dir.path()), [".other.json.tmp-1-0", "state.json.tmp-1"]);
}

#[test]
fn a_left_over_of_the_same_name_does_not_stop_a_save() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.json");
    for n in 0..100 {
        fs::write(dir.path().join(format!(".state.json.tmp-{}-{n}", std::process::id())), "x").unwrap();
    }
    replace_file(&path, b"new", None).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"new");
}

#[test]
fn a_save_that_fails_leaves_the_old_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("missing").join("state.json");
    assert!(PeerStore::new(&path).save(&some_snapshot()).is_err());
    assert!(replace_file(Path::new("/"), b"x", None).is_err(), "no file name");
}

#[cfg(unix)]
#[test]
fn only_the_owner_may_read_the_file() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.json");
    fs::write(&path, "old, open to all").unwrap();
    PeerStore::new(&path).save(&some_snapshot()).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

/// Every file in `tests/vectors` must load for ever; its name says how many peers, seeds and skipped things it has.
#[test]
fn old_snapshots_still_load() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    let expected = [
        ("v1-full.json", 3, 2, 0, Format::Snapshot),
        ("v1-minimal.json", 1, 0, 0, Format::Snapshot),
        ("v1-later-fields.json", 1, 1, 0, Format::Snapshot),
        ("v1-bad-entries.json", 2, 1, 9, Format::Snapshot),
        ("python-p2p.json", 0, 3, 0, Format::AddressList),
        ("list-with-ports.json", 0, 4, 3, Format::AddressList),
    ];
    assert_eq!(names(&dir).len(), expected.len(), "every vector is listed");
    for (name, peers, seeds, skipped, format) in expected {
        let loaded = Snapshot::<String>::decode(&fs::read(dir.join(name)).unwrap()).unwrap();
        let found = (loaded.snapshot.peers.len(), loaded.snapshot.seeds.len(), loaded.skipped, loaded.format);
        assert_eq!(found, (peers, seeds, skipped, format), "{name}: {:#?}", loaded.snapshot);
    }
}

/// The text of a version 1 snapshot. Changing it is a change of format.
#[test]
fn the_text_is_as_documented() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    let text = fs::read_to_string(dir.join("v1-full.json")).unwrap();
    let loaded = Snapshot::<String>::decode(text.as_bytes()).unwrap();
    assert_eq!(loaded.snapshot.peers[0].last_connected, Some(wall(1_769_860_800)));
    assert_eq!(String::from_utf8(loaded.snapshot.encode().unwrap()).unwrap(), text.replace("\r\n", "\n"));
}

#[test]
fn lists_are_cut_before_they_are_allocated() {
    let many = format!("[{}\"1.2.3.4\"]", "\"1.2.3.4\",".repeat(70_000));
    let loaded = Snapshot::<u32>::decode(many.as_bytes()).unwrap();
    assert_eq!((loaded.snapshot.seeds.len(), loaded.skipped), (65_536, 70_001 - 65_536));
    let addrs = "{\"addr\":\"1.2.3.4:5\"},".repeat(100);
    let addrs = addrs.trim_end_matches(',');
    let text = format!("{{\"version\":1,\"peers\":[{{\"id\":1,\"addrs\":[{addrs}]}}]}}");
    let loaded = Snapshot::<u32>::decode(text.as_bytes()).unwrap();
    assert_eq!((loaded.snapshot.peers[0].addrs.len(), loaded.skipped), (64, 36));
}

#[test]
fn times_outside_the_format_are_moved_into_it() {
    let mut snapshot = some_snapshot();
    let before_epoch = wall(0).checked_sub(util::secs(5));
    let far = wall(0).checked_add(util::secs(300_000_000_000));
    for (time, text) in [(before_epoch, "1970-01-01T00:00:00Z"), (far, "9999-12-31T23:59:59Z")] {
        // Not every system can say such times.
        let Some(time) = time else { continue };
        snapshot.peers[0].last_connected = Some(time);
        assert!(String::from_utf8(snapshot.encode().unwrap()).unwrap().contains(text));
    }
}
