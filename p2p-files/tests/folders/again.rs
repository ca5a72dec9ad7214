//! Fetches that are begun again: broken off, refused by the disk, with another selection.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use p2p_files::{
    DownloadError, Entry, FileHash, Finished, FolderConfig, FolderDownload, FolderGoal, Selection, ShareState,
};

use crate::util::{Peer, content};
use crate::{add, appears, end_of, entries, fetch, hostile, original, start, start_with, tree, write};

#[tokio::test]
async fn a_part_of_a_folder_can_be_had_and_the_rest_later() {
    let (from, to) = (Peer::new(), Peer::new());
    let root = original(&from);
    let hash = add(&from, &root).share.hash;
    // First it is looked into.
    let config = FolderConfig { file: to.config.clone(), bytes: None };
    let list = FolderDownload::start(Arc::clone(&to.library), hash, FolderGoal::List, config);
    list.add_source("a", from.connect());
    end_of(&list).await.0.unwrap();
    assert_eq!(entries(&to, &hash), entries(&from, &hash));

    let part = start_with(&to, hash, Selection::of(["sub/deep", "bin/tool", "nothing"]).unwrap());
    part.add_source("a", from.connect());
    let finished = end_of(&part).await.0.unwrap();
    assert_eq!(finished.length, 16_384 + 10);
    let names: Vec<_> = tree(&finished.path).into_keys().collect();
    let expected = [
        "bin/",
        "bin/tool",
        "nothing/",
        "nothing/in here/",
        "sub/",
        "sub/deep/",
        "sub/deep/er/",
        "sub/deep/er/block",
    ];
    assert_eq!(names, expected);

    let none = start_with(&to, hash, Selection::of(["sub", "no such"]).unwrap());
    assert!(matches!(end_of(&none).await.0, Err(DownloadError::NoSuchPath { path }) if path == "no such"));

    // It is shared as a part of what it is.
    let (share, folders) = (to.library.on_offer(&hash).unwrap(), to.library.folders().unwrap());
    let whole = entries(&from, &hash).iter().map(Entry::length).sum::<u64>();
    assert_eq!((share.state, share.bytes), (ShareState::Partial, whole));
    assert_eq!((folders[0].bytes, folders[0].whole), (finished.length, whole));
    assert!(folders[0].complete && !folders[0].is_whole());

    // Who has a part gives what it has, and another the rest.
    let third = Peer::new();
    let finished = fetch(&third, hash, &[("part", &to), ("whole", &from)]).await.unwrap();
    assert_eq!(tree(&finished.path), tree(&root));
    // From the part alone it is not complete, and goes on from somebody else.
    let fourth = Peer::new();
    assert!(matches!(fetch(&fourth, hash, &[("part", &to)]).await, Err(DownloadError::Suspended)));
    assert!(!fourth.library.folders().unwrap()[0].complete);
    let before = from.stats.counts().bytes;
    let finished = fetch(&fourth, hash, &[("whole", &from)]).await.unwrap();
    assert_eq!(tree(&finished.path), tree(&root));
    assert!(from.stats.counts().bytes - before < finished.length - 16_384);
    fourth.no_part_files();
}

#[tokio::test]
async fn what_the_disk_refuses_once_is_not_forgotten() {
    let (from, to) = (Peer::new(), Peer::new());
    let root = from.dir.path().join("original");
    write(&root, "small", b"small");
    write(&root, "large", &content((1 << 20) + 1));
    let hash = add(&from, &root).share.hash;
    let download = start(&to, hash);
    let name = to.content_dir().join("name");
    appears(&name).await;
    // As many names as are tried.
    let taken = |number: usize| match number {
        0 => name.join("large"),
        number => name.join(format!("large ({number})")),
    };
    (0..1_000).for_each(|number| std::fs::write(taken(number), "mine").unwrap());
    download.add_source("a", from.connect());
    let (end, _) = end_of(&download).await;
    assert!(matches!(end, Err(DownloadError::Exists { .. })), "{end:?}");
    let folders = to.library.folders().unwrap();
    assert_eq!((folders.len(), folders[0].complete), (1, false));

    (0..1_000).for_each(|number| std::fs::remove_file(taken(number)).unwrap());
    let before = from.stats.counts().bytes;
    let finished = fetch(&to, hash, &[("a", &from)]).await.unwrap();
    assert_eq!((tree(&finished.path), finished.path.ends_with("name")), (tree(&root), true));
    assert_eq!(from.stats.counts().bytes - before, (1 << 20) + 1, "the rest, and not the manifest");
}

#[tokio::test]
async fn one_folder_has_one_download_and_goes_on_after_a_break() {
    let (from, to) = (Peer::new(), Peer::new());
    let hash = add(&from, &original(&from)).share.hash;
    let first = start(&to, hash);
    // The record of the folder is written when its place is locked.
    let begun = async {
        while to.library.folders().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), begun).await.unwrap();
    let second = start(&to, hash);
    assert!(matches!(end_of(&second).await.0, Err(DownloadError::InProgress { .. })));
    first.add_source("a", from.connect());
    end_of(&first).await.0.unwrap();

    // Half of the files went away, one is another: they are made again, beside what is there.
    let folder = &to.library.folders().unwrap()[0];
    assert!(folder.complete);
    std::fs::remove_file(folder.path.join("sub/chunk")).unwrap();
    let again = fetch(&to, hash, &[("a", &from)]).await.unwrap();
    assert!(again.path.ends_with("name (1)"), "a folder that is not whole any more is not taken for one");
    assert_eq!(tree(&again.path), tree(&from.dir.path().join("original")));
}

/// A fetch from somebody who has nothing but the manifest.
async fn begin(to: &Peer, from: &Peer, hash: FileHash, only: &[&str]) {
    let download = start_with(to, hash, Selection::of(only).unwrap());
    download.add_source("a", hostile::provider(hostile::manifest_alone(from, &hash)));
    let (end, _) = end_of(&download).await;
    assert!(matches!(end, Err(DownloadError::Suspended)), "{end:?}");
}

async fn fetch_part(to: &Peer, from: &Peer, hash: FileHash, only: &[&str]) -> Finished {
    let download = start_with(to, hash, Selection::of(only).unwrap());
    download.add_source("a", from.connect());
    end_of(&download).await.0.unwrap()
}

fn files(root: &Path) -> Vec<String> {
    tree(root).into_keys().filter(|path| !path.ends_with('/')).collect()
}

#[tokio::test]
async fn another_selection_adds_to_an_unfinished_one() {
    let (from, to) = (Peer::new(), Peer::new());
    let hash = add(&from, &original(&from)).share.hash;
    begin(&to, &from, hash, &["sub/deep", "large"]).await;
    let before = to.library.folders().unwrap();
    assert_eq!((before.len(), before[0].complete), (1, false));

    // What cannot be had changes nothing about what was asked for before.
    let none = start_with(&to, hash, Selection::of(["no such"]).unwrap());
    assert!(matches!(end_of(&none).await.0, Err(DownloadError::NoSuchPath { path }) if path == "no such"));
    assert_eq!(to.library.folders().unwrap(), before);

    begin(&to, &from, hash, &["bin"]).await;
    let wanted = &to.library.folders().unwrap()[0].selection;
    assert_eq!(*wanted, Selection::of(["bin", "large", "sub/deep"]).unwrap());
    let finished = fetch_part(&to, &from, hash, &["notes.txt"]).await;
    let expected = ["bin/large tool", "bin/tool", "large", "notes.txt", "sub/deep/er/block"];
    assert_eq!(files(&finished.path), expected);
    let folders = to.library.folders().unwrap();
    assert_eq!((folders.len(), folders[0].complete, folders[0].files), (1, true, 5));
    to.no_part_files();
}

#[tokio::test]
async fn a_part_grows_where_it_is() {
    let (from, to) = (Peer::new(), Peer::new());
    let root = original(&from);
    let hash = add(&from, &root).share.hash;
    let first = fetch_part(&to, &from, hash, &["sub/chunk", "large"]).await;
    let before = from.stats.counts().bytes;
    // A part of it is here already.
    assert_eq!(fetch_part(&to, &from, hash, &["large"]).await.length, (3 << 20) + 5);
    assert_eq!(from.stats.counts().bytes, before, "nothing is asked for");

    // Given up, it is the part that it was.
    let given_up = start_with(&to, hash, Selection::of(["bin"]).unwrap());
    given_up.cancel();
    assert!(matches!(end_of(&given_up).await.0, Err(DownloadError::Cancelled)));
    let folders = to.library.folders().unwrap();
    assert_eq!((folders.len(), folders[0].complete, folders[0].files), (1, true, 2));

    let second = fetch_part(&to, &from, hash, &["bin/tool"]).await;
    assert_eq!(second.path, first.path);
    assert_eq!(from.stats.counts().bytes - before, 10, "only what was not here");
    assert_eq!(files(&second.path), ["bin/tool", "large", "sub/chunk"]);
    let whole = fetch(&to, hash, &[("a", &from)]).await.unwrap();
    assert_eq!((&whole.path, tree(&whole.path)), (&first.path, tree(&root)));
    assert!(to.library.folders().unwrap()[0].is_whole());
    to.no_part_files();
}
