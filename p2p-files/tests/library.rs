//! The share index: adding, changing, refreshing, and what becomes of a damaged one.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;
use std::time::Duration;

use p2p_files::{AddError, Library, LibraryError, LibraryWarning, ShareState};

fn library(dir: &Path) -> Library {
    Library::open(&dir.join("data")).unwrap()
}

#[test]
fn an_unchanged_file_is_not_read_again_and_a_changed_one_is() {
    let dir = tempfile::tempdir().unwrap();
    let (library, file) = (library(dir.path()), dir.path().join("file"));
    std::fs::write(&file, vec![1; 3 << 20]).unwrap();
    let mut told = Vec::new();
    let share = library.add(&file, |done, total| told.push((done, total))).unwrap();
    assert_eq!(told.last(), Some(&(3 << 20, 3 << 20)));
    assert!(told.is_sorted());
    assert_eq!(library.add(&file, |_, _| panic!("read again")).unwrap(), share);
    std::fs::write(&file, vec![2; 3 << 20]).unwrap();
    let changed = library.add(&file, |_, _| ()).unwrap();
    assert_ne!(changed.hash, share.hash);
    assert_eq!(library.get(&share.hash), None);
    assert_eq!(library.list(), [changed]);
}

#[test]
fn the_index_lasts_and_forgets_on_demand() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    std::fs::write(&a, vec![5; 2 << 20]).unwrap();
    std::fs::write(&b, vec![5; 2 << 20]).unwrap();
    let share = library(dir.path()).add(&a, |_, _| ()).unwrap();
    let library = library(dir.path());
    assert_eq!(library.warnings(), []);
    assert_eq!(library.get(&share.hash), Some(share.clone()));
    assert_eq!(library.add(&b, |_, _| ()).unwrap().hash, share.hash);
    assert_eq!(library.list().len(), 1, "equal files are one share");
    assert!(library.remove(&share.hash).unwrap());
    assert!(!library.remove(&share.hash).unwrap());
    assert_eq!(library.list(), []);
    assert_eq!(std::fs::read_dir(dir.path().join("data/trees")).unwrap().count(), 0);
    assert!(a.exists() && b.exists());
}

#[test]
fn what_is_not_a_regular_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let library = library(dir.path());
    let add = |path: &Path| library.add(path, |_, _| ());
    assert!(matches!(add(dir.path()), Err(AddError::Directory { .. })));
    assert!(matches!(add(&dir.path().join("none")), Err(AddError::Io { .. })));
    #[cfg(unix)]
    {
        let socket = dir.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert!(matches!(add(&socket), Err(AddError::NotRegular { .. })));
        assert!(matches!(add(Path::new("/dev/null")), Err(AddError::NotRegular { .. })));
        // A link that is named is followed.
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        std::fs::write(&file, "text").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert_eq!(add(&link).unwrap().path, std::fs::canonicalize(file).unwrap());
    }
}

#[test]
fn refresh_finds_what_is_new_changed_and_gone() {
    let dir = tempfile::tempdir().unwrap();
    let library = library(dir.path());
    let content = dir.path().join("content");
    assert!(library.refresh(&content).unwrap().added.is_empty(), "no folder is an empty folder");
    std::fs::create_dir_all(content.join("sub/deep")).unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write("content/one", "one");
    write("content/sub/deep/two", "two");
    write("content/.hidden", "hidden");
    write("content/.x.0123456789.part", "half");
    write("elsewhere", "elsewhere");
    write("edited", "before");
    #[cfg(unix)]
    std::os::unix::fs::symlink(dir.path().join("elsewhere"), content.join("link")).unwrap();
    let elsewhere = library.add(&dir.path().join("elsewhere"), |_, _| ()).unwrap();
    let edited = library.add(&dir.path().join("edited"), |_, _| ()).unwrap();

    let first = library.refresh(&content).unwrap();
    let mut names: Vec<_> = first.added.iter().map(|share| share.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["one", "two"]);
    assert!(first.removed.is_empty() && first.failed.is_empty());
    let again = library.refresh(&content).unwrap();
    assert!(again.added.is_empty() && again.removed.is_empty());

    write("content/one", "one, changed");
    write("edited", "after");
    std::fs::remove_file(dir.path().join("elsewhere")).unwrap();
    std::fs::rename(content.join("sub"), content.join("moved")).unwrap();
    let last = library.refresh(&content).unwrap();
    let mut names: Vec<_> = last.added.iter().map(|share| share.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["edited", "one", "two"]);
    let one = first.added.iter().find(|share| share.name == "one").unwrap();
    let mut gone = [elsewhere.hash, edited.hash, one.hash];
    gone.sort_unstable();
    assert_eq!(last.removed, gone, "a moved file is still here");
    assert_eq!(library.list().len(), 3);
    assert!(library.list().iter().all(|share| share.state == ShareState::Shared));
}

#[test]
fn a_damaged_index_is_moved_aside_and_an_empty_one_takes_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "text").unwrap();
    library(dir.path()).add(&file, |_, _| ()).unwrap();
    let index = dir.path().join("data/shares.redb");
    let good = std::fs::read(&index).unwrap();
    let noise: Vec<u8> =
        (0..100_000u32).map(|i| u8::try_from(i.wrapping_mul(2_654_435_761) >> 24).unwrap()).collect();
    let mut other_version = good.clone();
    other_version[9..200].fill(0xee);
    let damaged = [
        Vec::new(),
        b"{}".to_vec(),
        noise,
        good[..good.len() / 2].to_vec(),
        good[..100].to_vec(),
        vec![0; good.len()],
        other_version,
    ];
    for (n, bytes) in damaged.into_iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        std::fs::create_dir(&data).unwrap();
        std::fs::write(data.join("shares.redb"), &bytes).unwrap();
        let library = Library::open(&data).unwrap();
        let [LibraryWarning::DamagedIndex { moved_to }] = library.warnings() else { panic!("variant {n}") };
        assert!(moved_to.to_string_lossy().contains("shares.redb.corrupt-"));
        assert!(moved_to.exists());
        assert_eq!(library.list(), []);
        library.add(&file, |_, _| ()).unwrap();
        assert_eq!(library.list().len(), 1, "variant {n} works again");
    }
}

#[test]
fn a_second_process_is_told_that_the_index_is_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let first = library(dir.path());
    let file = dir.path().join("file");
    std::fs::write(&file, "text").unwrap();
    first.add(&file, |_, _| ()).unwrap();
    assert!(matches!(Library::open(&dir.path().join("data")), Err(LibraryError::Index(_))));
    drop(first);
    assert_eq!(library(dir.path()).list().len(), 1);
}

/// So long that nothing that a test writes rests.
const LONG: Duration = Duration::from_secs(3600);

#[test]
fn a_file_that_is_being_written_to_is_waited_for_and_not_served_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let library = library(dir.path());
    let content = dir.path().join("content");
    std::fs::create_dir(&content).unwrap();
    let content = std::fs::canonicalize(content).unwrap();
    let old = content.join("old");
    std::fs::write(&old, "old").unwrap();
    let shared = library.add(&old, |_, _| ()).unwrap();
    assert_eq!(library.on_offer(&shared.hash), Some(shared.clone()));
    std::fs::write(&old, "older").unwrap();
    std::fs::write(content.join("new"), "new").unwrap();
    let waits = library.refresh_at_rest(&content, None, LONG, || false).unwrap();
    assert_eq!(waits.unsettled, [old.clone(), content.join("new")]);
    assert!(waits.added.is_empty() && waits.removed.is_empty() && waits.failed.is_empty());
    assert_eq!(library.get(&shared.hash).unwrap().state, ShareState::Gone);
    let one =
        library.refresh_at_rest(&content, Some(&waits.unsettled[..1]), Duration::ZERO, || false).unwrap();
    assert_eq!((one.added.len(), one.removed), (1, vec![shared.hash]));
    assert_eq!(library.list().len(), 1, "the other was not asked for");
}

#[test]
fn a_file_that_changed_is_not_offered_though_nobody_looked() {
    let dir = tempfile::tempdir().unwrap();
    let library = library(dir.path());
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    std::fs::write(&a, "same").unwrap();
    std::fs::write(&b, "same").unwrap();
    let share = library.add(&a, |_, _| ()).unwrap();
    library.add(&b, |_, _| ()).unwrap();
    std::fs::remove_file(&a).unwrap();
    assert!(library.on_offer(&share.hash).unwrap().path.ends_with("b"), "an equal file is there");
    std::fs::write(&b, "Same").unwrap();
    assert_eq!(library.on_offer(&share.hash), None);
    assert_eq!(library.get(&share.hash).unwrap().state, ShareState::Gone);
}

#[test]
fn only_what_is_named_is_looked_at_and_what_is_neither_shared_nor_content_is_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let library = library(dir.path());
    let root = std::fs::canonicalize(dir.path()).unwrap();
    let content = root.join("content");
    std::fs::create_dir_all(content.join("sub/.dot")).unwrap();
    for name in ["content/a", "content/sub/b", "content/sub/c", "content/sub/.dot/d", "content/.e", "outside"]
    {
        std::fs::write(root.join(name), name).unwrap();
    }
    #[cfg(unix)]
    std::os::unix::fs::symlink(root.join("outside"), content.join("link")).unwrap();
    let look = |names: &[&str]| {
        let paths: Vec<_> = names.iter().map(|name| root.join(name)).collect();
        let found = library.refresh_at_rest(&content, Some(&paths), Duration::ZERO, || false).unwrap();
        assert!(found.failed.is_empty() || names.contains(&"content/link"), "{:?}", found.failed);
        found
    };
    let not_ours = [
        "outside",
        "content/.e",
        "content/sub/.dot/d",
        "content/sub/.dot",
        "content/none",
        "content/../outside",
    ];
    assert_eq!(look(&not_ours).added, []);
    #[cfg(unix)]
    assert_eq!(look(&["content/link"]).added, []);
    assert_eq!(look(&["content/sub"]).added.len(), 2);
    assert_eq!(look(&["content/sub", "content/a"]).added.len(), 1);
    std::fs::rename(content.join("sub"), root.join("moved away")).unwrap();
    assert_eq!(look(&["content/sub"]).removed.len(), 2);
    // A link takes the place of a shared file: what it leads to was not asked for.
    #[cfg(unix)]
    {
        std::fs::remove_file(content.join("a")).unwrap();
        std::os::unix::fs::symlink(root.join("outside"), content.join("a")).unwrap();
        let paths = [content.join("a")];
        let found = library.refresh_at_rest(&content, Some(&paths), Duration::ZERO, || false).unwrap();
        assert_eq!((found.added.len(), found.removed.len(), found.failed.len()), (0, 1, 1));
    }
    assert!(
        library.refresh_at_rest(&content, None, Duration::ZERO, || true).unwrap().added.is_empty(),
        "stopped"
    );
}

#[test]
fn a_refresh_that_is_stopped_does_not_read_a_file_to_its_end() {
    const CHUNKS: u64 = 16;
    let dir = tempfile::tempdir().unwrap();
    let library = library(dir.path());
    let content = dir.path().join("content");
    std::fs::create_dir(&content).unwrap();
    let file = std::fs::File::create(content.join("large")).unwrap();
    file.set_len(CHUNKS << 20).unwrap();
    let asked = std::cell::Cell::new(0);
    // Twice before the file is opened, then after each chunk of one of the threads.
    let stop = || asked.replace(asked.get() + 1) >= 2;
    let found = library.refresh_at_rest(&content, None, Duration::ZERO, stop).unwrap();
    assert_eq!((found.added.len(), found.failed.len(), asked.get()), (0, 0, 3));
    assert_eq!(library.list(), []);
    assert_eq!(std::fs::read_dir(dir.path().join("data/trees")).unwrap().count(), 0);
    assert_eq!(library.refresh(&content).unwrap().added.len(), 1);
}

#[test]
fn what_was_taken_back_is_shared_again_only_by_adding_it() {
    let dir = tempfile::tempdir().unwrap();
    let library = library(dir.path());
    let content = dir.path().join("content");
    std::fs::create_dir(&content).unwrap();
    let (inside, outside) = (content.join("inside"), dir.path().join("outside"));
    std::fs::write(&inside, vec![1; 2 << 20]).unwrap();
    std::fs::write(&outside, "outside").unwrap();
    let outside = library.add(&outside, |_, _| ()).unwrap();
    let added = library.refresh(&content).unwrap().added;
    for share in added.iter().chain([&outside]) {
        assert!(library.remove(&share.hash).unwrap());
        assert!(!library.remove(&share.hash).unwrap());
        assert_eq!((library.get(&share.hash), library.on_offer(&share.hash)), (None, None));
    }
    for text in ["as it was", "changed"] {
        let found = library.refresh(&content).unwrap();
        assert!(found.added.is_empty() && found.removed.is_empty() && found.failed.is_empty(), "{text}");
        assert_eq!(library.list(), []);
        std::fs::write(&inside, text).unwrap();
    }
    library.add(&inside, |_, _| ()).unwrap();
    assert_eq!(library.list().len(), 1);
}
