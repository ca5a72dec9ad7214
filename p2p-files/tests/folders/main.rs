//! Folders: shared, fetched, broken off, hostile.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod again;
mod hostile;
mod renew;
#[path = "../util/mod.rs"]
mod util;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use p2p_files::{
    Destination, DownloadError, DownloadEvent, Entry, FileHash, Finished, FolderConfig, FolderDownload,
    FolderGoal, FolderHandle, FolderShare, Kind, LeftOutReason, Selection, SourceFault,
};
use util::{Peer, content};

/// What is in a folder: paths with `/`, contents and whether they can be executed; folders end in `/`.
type Tree = BTreeMap<String, (Vec<u8>, bool)>;

fn tree(root: &Path) -> Tree {
    fn walk(root: &Path, folder: &Path, out: &mut Tree) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
            let metadata = std::fs::symlink_metadata(&path).unwrap();
            if metadata.is_dir() {
                out.insert(format!("{name}/"), (Vec::new(), false));
                walk(root, &path, out);
            } else {
                out.insert(name, (std::fs::read(&path).unwrap(), executable(&metadata)));
            }
        }
    }
    let mut out = Tree::new();
    walk(root, root, &mut out);
    out
}

#[cfg(unix)]
fn executable(metadata: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    metadata.permissions().mode() & 0o100 != 0
}

#[cfg(not(unix))]
fn executable(_metadata: &std::fs::Metadata) -> bool {
    false
}

fn write(root: &Path, path: &str, data: &[u8]) -> PathBuf {
    let path = root.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, data).unwrap();
    path
}

/// A folder with one of everything.
fn original(peer: &Peer) -> PathBuf {
    let root = peer.dir.path().join("original");
    write(&root, "empty file", b"");
    write(&root, "notes.txt", b"hello");
    write(&root, "sub/again.txt", b"hello");
    write(&root, "sub/deep/er/block", &content(16_384));
    write(&root, "sub/chunk", &content(1 << 20));
    write(&root, "large", &content((3 << 20) + 5));
    write(&root, "sub/large again", &content((3 << 20) + 5));
    let tool = write(&root, "bin/tool", b"#!/bin/sh\n");
    let large_tool = write(&root, "bin/large tool", &content((1 << 20) + 1));
    #[cfg(unix)]
    for tool in [tool, large_tool] {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(tool, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    #[cfg(not(unix))]
    drop((tool, large_tool));
    std::fs::create_dir_all(root.join("nothing/in here")).unwrap();
    root
}

fn add(peer: &Peer, root: &Path) -> FolderShare {
    peer.library.add_folder(root, |_| ()).unwrap()
}

fn start_with(to: &Peer, hash: FileHash, selection: Selection) -> FolderHandle {
    let goal = FolderGoal::Files { to: Destination::Dir(to.content_dir(), Some("name".into())), selection };
    let config = FolderConfig { file: to.config.clone(), bytes: None };
    FolderDownload::start(Arc::clone(&to.library), hash, goal, config)
}

fn start(to: &Peer, hash: FileHash) -> FolderHandle {
    start_with(to, hash, Selection::all())
}

/// The end, and what sources did wrong before.
async fn end_of(download: &FolderHandle) -> (Result<Finished, DownloadError>, Vec<(String, SourceFault)>) {
    let mut faults = Vec::new();
    let end = async {
        loop {
            match download.next_event().await.expect("an end comes before the end of events") {
                DownloadEvent::Finished(finished) => return Ok(finished),
                DownloadEvent::Failed(error) => return Err(error),
                DownloadEvent::SourceFailed { label, fault } => faults.push((label, fault)),
                DownloadEvent::NeedSource => download.suspend(),
                _ => {}
            }
        }
    };
    let end = tokio::time::timeout(Duration::from_secs(30), end).await.expect("within 30 s");
    (end, faults)
}

async fn fetch(to: &Peer, hash: FileHash, from: &[(&str, &Peer)]) -> Result<Finished, DownloadError> {
    let download = start(to, hash);
    for (label, peer) in from {
        download.add_source(*label, peer.connect());
    }
    end_of(&download).await.0
}

fn entries(peer: &Peer, hash: &FileHash) -> Vec<Entry> {
    peer.library.manifest(hash).unwrap().map(Result::unwrap).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_comes_as_it_is_and_equal_files_once() {
    let (from, to) = (Peer::new(), Peer::new());
    let root = original(&from);
    let added = add(&from, &root);
    assert_eq!((added.files, added.entries, added.left_out.count, added.clashes), (9, 10, 0, 0));
    assert_eq!(added.share.info.kind, Kind::Dir);
    assert_eq!(added.share.hash, added.share.info.hash());
    let expected: u64 = tree(&root).values().map(|(data, _)| data.len() as u64).sum();
    assert_eq!(added.bytes, expected);

    let finished = fetch(&to, added.share.hash, &[("a", &from)]).await.unwrap();
    assert_eq!((finished.length, finished.sources), (expected, 1));
    assert_eq!(finished.path, to.content_dir().canonicalize().unwrap().join("name"));
    assert_eq!(tree(&finished.path), tree(&root));
    // The second of two equal files is not fetched.
    let twice = 5 + (3 << 20) + 5;
    assert_eq!(from.stats.counts().bytes, added.share.info.length + expected - twice);
    to.no_part_files();

    // It is shared from there, and from two at once.
    let third = Peer::new();
    let finished = fetch(&third, added.share.hash, &[("a", &from), ("b", &to)]).await.unwrap();
    assert_eq!(tree(&finished.path), tree(&root));
    assert!(third.library.folders().unwrap()[0].complete);

    // What is here is not made again.
    let again = fetch(&third, added.share.hash, &[]).await.unwrap();
    assert_eq!((again.path, again.sources), (finished.path, 0));
}

/// Returns once the folder is there.
async fn appears(folder: &Path) {
    let made = async {
        while !folder.is_dir() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), made).await.unwrap();
}

#[tokio::test]
async fn the_same_folder_has_the_same_hash_and_a_changed_one_another() {
    let (one, two) = (Peer::new(), Peer::new());
    let (first, second) = (add(&one, &original(&one)), add(&two, &original(&two)));
    assert_eq!(first.share.hash, second.share.hash);
    // Looked at again, it is the same, and nothing is read.
    assert_eq!(add(&one, &original(&one)).share.hash, first.share.hash);
    write(&one.dir.path().join("original"), "sub/new", b"new");
    let changed = add(&one, &one.dir.path().join("original"));
    assert_ne!(changed.share.hash, first.share.hash);
    assert!(one.library.get(&first.share.hash).is_none());
    let folders = one.library.folders().unwrap();
    assert_eq!((folders.len(), folders[0].hash), (1, changed.share.hash));
    assert!(one.library.remove_folder(&changed.share.hash).unwrap());
    assert!(!one.library.remove_folder(&changed.share.hash).unwrap());
    assert_eq!(one.library.list(), []);
    assert!(one.dir.path().join("original/sub/new").exists());
}

#[tokio::test]
async fn a_manifest_that_was_touched_is_one_still_and_a_damaged_one_is_made_again_or_not_shared() {
    let (from, to) = (Peer::new(), Peer::new());
    let root = original(&from);
    let share = add(&from, &root).share;
    let manifest = from.dir.path().join("data/dirs").join(share.hash.to_string());
    let before = std::time::SystemTime::now() - Duration::from_secs(1000);
    std::fs::File::options().write(true).open(&manifest).unwrap().set_modified(before).unwrap();
    let content = from.content_dir();
    // Whoever asks first finds it changed.
    assert_eq!(from.library.on_offer(&share.hash), None);
    let found = from.library.refresh(&content).unwrap();
    assert!(found.added.is_empty() && found.removed.is_empty() && found.failed.is_empty(), "{found:?}");
    assert_eq!(from.library.on_offer(&share.hash), Some(share.clone()));
    let finished = fetch(&to, share.hash, &[("a", &from)]).await.unwrap();
    assert_eq!(tree(&finished.path), tree(&root));

    // That of a folder that lies here can be made again, that of one that was fetched cannot.
    let fetched = to.dir.path().join("data/dirs").join(share.hash.to_string());
    for (peer, manifest, removed) in [(&from, manifest, vec![]), (&to, fetched, vec![share.hash])] {
        std::fs::write(&manifest, b"no manifest").unwrap();
        let found = peer.library.refresh(&peer.content_dir()).unwrap();
        assert_eq!((found.added.len(), found.failed.len()), (0, 1), "{found:?}");
        assert!(found.removed == removed && found.folders.is_empty(), "{found:?}");
    }
    assert_eq!(from.library.on_offer(&share.hash), Some(share.clone()));
    assert_eq!(to.library.get(&share.hash), None);
    assert!(to.library.list().iter().all(|share| share.info.kind == Kind::File && share.bytes != 11));
}

#[test]
fn a_folder_that_is_taken_back_leaves_no_trees_behind() {
    let peer = Peer::new();
    let root = peer.dir.path().join("original");
    write(&root, "kept", &content(2 << 20));
    let large = write(&root, "changed", &content(3 << 20));
    let hash = add(&peer, &root).share.hash;
    let trees = || std::fs::read_dir(peer.dir.path().join("data/trees")).unwrap().count();
    std::fs::write(&large, content(4 << 20)).unwrap();
    peer.library.add(&large, |_, _| ()).unwrap();
    assert_eq!(trees(), 2);
    std::fs::write(&large, content(5 << 20)).unwrap();
    let now = add(&peer, &root).share.hash;
    assert_eq!(trees(), 2);
    // Changed again, and shared by itself.
    std::fs::write(&large, content(6 << 20)).unwrap();
    peer.library.add(&large, |_, _| ()).unwrap();
    assert!(!peer.library.remove_folder(&hash).unwrap());
    assert!(peer.library.remove_folder(&now).unwrap());
    assert_eq!((trees(), peer.library.list()), (0, Vec::new()));
}

#[cfg(unix)]
#[tokio::test]
async fn what_is_left_out_is_told() {
    use std::os::unix::ffi::OsStrExt as _;
    let peer = Peer::new();
    let root = peer.dir.path().join("original");
    write(&root, "good", b"1");
    write(&root, ".hidden", b"2");
    write(&root, "nul.txt", b"3");
    write(&root, "a:b/inside", b"4");
    write(&root, "e\u{301}", b"5");
    write(&root, "\u{e9}", b"6");
    write(&root, "Case", b"7");
    write(&root, "case", b"8");
    std::fs::write(root.join(std::ffi::OsStr::from_bytes(b"\xff")), "9").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", root.join("link")).unwrap();
    std::os::unix::fs::symlink("/etc", root.join("folder link")).unwrap();
    let added = add(&peer, &root);
    let mut names: Vec<_> = entries(&peer, &added.share.hash).iter().map(|e| e.path.to_string()).collect();
    names.sort();
    assert_eq!(names, ["Case", "case", "good", "\u{e9}"]);
    assert_eq!((added.left_out.count, added.clashes), (7, 1 + 1));
    let reason = |name: &str| {
        let path = root.canonicalize().unwrap().join(name);
        added.left_out.named.iter().find(|(p, _)| *p == path).map(|(_, reason)| reason).unwrap()
    };
    assert!(matches!(reason("link"), LeftOutReason::Symlink));
    assert!(matches!(reason("folder link"), LeftOutReason::Symlink));
    assert!(matches!(reason("nul.txt"), LeftOutReason::Name(_)));
    assert!(matches!(reason("e\u{301}"), LeftOutReason::SameName));

    let own = peer.dir.path().join("data");
    assert!(peer.library.add_folder(&own, |_| ()).is_err());
    let around = add(&peer, peer.dir.path());
    assert!(around.left_out.named.iter().any(|(_, reason)| matches!(reason, LeftOutReason::OwnData)));
    assert!(entries(&peer, &around.share.hash).iter().all(|entry| !entry.path.as_str().starts_with("data")));
}

#[tokio::test]
async fn nothing_is_overwritten() {
    let (from, to) = (Peer::new(), Peer::new());
    let hash = add(&from, &original(&from)).share.hash;
    // A folder of that name is there.
    write(&to.content_dir(), "name/mine", b"mine");
    let finished = fetch(&to, hash, &[("a", &from)]).await.unwrap();
    assert!(finished.path.ends_with("name (1)"));
    assert_eq!(std::fs::read(to.content_dir().join("name/mine")).unwrap(), b"mine");
    assert_eq!(tree(&finished.path), tree(&from.dir.path().join("original")));

    // Files that appear in it while it is on its way.
    let to = Peer::new();
    let download = start(&to, hash);
    let name = to.content_dir().join("name");
    appears(&name).await;
    write(&name, "notes.txt", b"mine!");
    write(&name, "large", b"mine");
    download.add_source("a", from.connect());
    let finished = end_of(&download).await.0.unwrap();
    for (path, data) in [("notes.txt", &b"mine!"[..]), ("large", b"mine"), ("notes (1).txt", b"hello")] {
        assert_eq!(std::fs::read(finished.path.join(path)).unwrap(), data, "{path}");
    }
    assert_eq!(std::fs::read(finished.path.join("large (1)")).unwrap(), content((3 << 20) + 5));

    // Exactly there, and not if something is there.
    let exact = |path: PathBuf| {
        let goal = FolderGoal::Files { to: Destination::File(path), selection: Selection::all() };
        FolderDownload::start(Arc::clone(&to.library), hash, goal, FolderConfig::default())
    };
    let taken = exact(name.clone());
    assert!(matches!(end_of(&taken).await.0, Err(DownloadError::Exists { .. })));
    let free = exact(to.dir.path().join("exactly"));
    assert!(end_of(&free).await.0.unwrap().path.ends_with("exactly"));
    assert_eq!(tree(&to.dir.path().join("exactly")), tree(&from.dir.path().join("original")));
}

#[tokio::test]
async fn another_sum_than_was_said_and_another_kind_are_refused() {
    let (from, to) = (Peer::new(), Peer::new());
    let added = add(&from, &original(&from));
    let fetch = |hash, bytes| {
        let goal =
            FolderGoal::Files { to: Destination::Dir(to.content_dir(), None), selection: Selection::all() };
        let config = FolderConfig { bytes, ..FolderConfig::default() };
        let download = FolderDownload::start(Arc::clone(&to.library), hash, goal, config);
        download.add_source("a", from.connect());
        download
    };
    let said = added.bytes + 1;
    let end = end_of(&fetch(added.share.hash, Some(said))).await.0;
    assert!(
        matches!(end, Err(DownloadError::WrongLength { said: s, length }) if (s, length) == (said, added.bytes))
    );
    let file = from.add("file", b"x");
    assert!(matches!(end_of(&fetch(file.hash, None)).await.0, Err(DownloadError::NotDirectory)));
    let as_file = to.download(added.share.hash, Destination::Dir(to.content_dir(), None)).unwrap();
    as_file.add_source("a", from.connect());
    assert!(matches!(util::end(&as_file).await, Err(DownloadError::Directory)));
    assert_eq!(tree(&to.content_dir()), Tree::new());
    assert!(end_of(&fetch(added.share.hash, Some(added.bytes))).await.0.is_ok());
}

#[cfg(unix)]
#[tokio::test]
async fn a_link_in_the_way_is_not_followed() {
    let (from, to) = (Peer::new(), Peer::new());
    let hash = add(&from, &original(&from)).share.hash;
    let outside = to.dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    let download = start(&to, hash);
    let name = to.content_dir().join("name");
    appears(&name).await;
    std::os::unix::fs::symlink(&outside, name.join("sub")).unwrap();
    download.add_source("a", from.connect());
    let (end, _) = end_of(&download).await;
    assert!(matches!(end, Err(DownloadError::Interrupted { .. })), "{end:?}");
    assert_eq!(tree(&outside), Tree::new());
}

#[tokio::test]
async fn an_index_that_cannot_be_read_is_no_empty_one() {
    let (from, to) = (Peer::new(), Peer::new());
    let hash = add(&from, &original(&from)).share.hash;
    // A folder where the index is to be.
    std::fs::create_dir(to.dir.path().join("data/shares.redb")).unwrap();
    let (end, _) = end_of(&start(&to, hash)).await;
    assert!(matches!(end, Err(DownloadError::Interrupted { .. })), "{end:?}");
}

#[tokio::test]
async fn a_file_that_is_in_the_way_leaves_no_tree_behind() {
    let (from, to) = (Peer::new(), Peer::new());
    let root = from.dir.path().join("original");
    write(&root, "large", &content((1 << 20) + 1));
    let hash = add(&from, &root).share.hash;
    // As long as the file, and another.
    let begun = start(&to, hash);
    let name = to.content_dir().join("name");
    appears(&name).await;
    write(&name, "large", &vec![1; (1 << 20) + 1]);
    begun.add_source("a", from.connect());
    let finished = end_of(&begun).await.0.unwrap();
    assert_eq!(tree(&finished.path).len(), 2);
    assert_eq!(std::fs::read_dir(to.dir.path().join("data/trees")).unwrap().count(), 1);
}
