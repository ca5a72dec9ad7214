//! What happens on disk while a node runs, and before it starts.
#![expect(clippy::unwrap_used, reason = "the line that panics says what failed")]

use std::fs;
use std::path::Path;
use std::time::Duration;

use p2p_node::{Event, Events, FileHash, FileState, Node};
use tokio::time::timeout;

/// Longer than anything here takes on a slow machine; only a failing test waits for it.
const DEADLINE: Duration = Duration::from_secs(60);

async fn watching(data: &Path) -> (Node, Events) {
    let node = Node::builder().host([127, 0, 0, 1]).port(0).file_port(0).data_dir(data).watch(true);
    let node = node.start().await.unwrap();
    let events = node.events();
    (node, events)
}

/// Waits for a notice that begins so, and returns the rest.
async fn notice(events: &mut Events, begins: &str) -> String {
    let wait = async {
        loop {
            match events.next().await.expect("the node stopped") {
                Event::Notice(text) if text.starts_with(begins) => return text[begins.len()..].to_owned(),
                Event::Warning(text) => panic!("{text}"),
                _ => {}
            }
        }
    };
    timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("no notice `{begins}`"))
}

async fn shared(node: &Node) -> Vec<String> {
    let files = node.files().await.into_iter().filter(|file| file.state == FileState::Shared);
    let mut names: Vec<_> =
        files.map(|file| file.path.file_name().unwrap().to_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_put_into_the_content_folder_is_shared_and_what_goes_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let content = dir.path().join("data/content");
    fs::create_dir_all(content.join("before")).unwrap();
    fs::write(content.join("before/old.txt"), "was here before the node was").unwrap();
    let (node, mut events) = watching(&dir.path().join("data")).await;
    notice(&mut events, "old.txt is shared as ").await;

    // A whole folder comes at once, and a file is written to it afterwards.
    fs::create_dir(dir.path().join("folder")).unwrap();
    fs::write(dir.path().join("folder/first.txt"), "first").unwrap();
    fs::rename(dir.path().join("folder"), content.join("folder")).unwrap();
    fs::write(content.join(".hidden"), "not for others").unwrap();
    let hash: FileHash = notice(&mut events, "first.txt is shared as ").await.parse().unwrap();
    fs::write(content.join("folder/second.txt"), "second").unwrap();
    notice(&mut events, "second.txt is shared as ").await;
    assert_eq!(shared(&node).await, ["first.txt", "old.txt", "second.txt"]);

    // What is taken back stays so; that it was looked at again shows by another file that was.
    assert!(node.unshare(hash).await.unwrap());
    fs::write(content.join("folder/first.txt"), "first, changed").unwrap();
    fs::write(content.join("folder/third.txt"), "third").unwrap();
    notice(&mut events, "third.txt is shared as ").await;
    assert_eq!(shared(&node).await, ["old.txt", "second.txt", "third.txt"]);

    fs::remove_dir_all(&content).unwrap();
    let mut gone = 0;
    while gone < 3 {
        let text = notice(&mut events, "").await;
        let count = text.split(' ').next().unwrap();
        gone += count.parse::<usize>().unwrap_or_else(|_| panic!("{text}"));
    }
    assert_eq!(shared(&node).await, [""; 0]);
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_file_elsewhere_is_shared_anew_when_it_changes() {
    let dir = tempfile::tempdir().unwrap();
    let (data, file) = (dir.path().join("data"), dir.path().join("notes.txt"));
    fs::write(&file, "one").unwrap();
    let (node, mut events) = watching(&data).await;
    let one = node.share(&file).await.unwrap();
    // As editors do it: another file takes the name.
    fs::write(dir.path().join("notes.txt.new"), "two").unwrap();
    fs::rename(dir.path().join("notes.txt.new"), &file).unwrap();
    let two = notice(&mut events, "notes.txt is shared as ").await;
    assert!(!two.starts_with(&one.hash.to_string()), "{two}");
    assert_eq!(shared(&node).await, ["notes.txt"]);
    node.shutdown().await;
    drop(node);

    // While no node runs.
    fs::write(&file, "three").unwrap();
    let (node, mut events) = loop {
        // The directory is free once the last task has let go of it.
        let start = Node::builder().host([127, 0, 0, 1]).port(0).file_port(0).data_dir(&data).watch(true);
        if let Ok(node) = start.start().await {
            let events = node.events();
            break (node, events);
        }
        tokio::task::yield_now().await;
    };
    notice(&mut events, "notes.txt is shared as ").await;
    // And it is watched again.
    fs::write(&file, "four").unwrap();
    notice(&mut events, "notes.txt is shared as ").await;
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_folder_that_changes_is_shared_as_what_it_is_now() {
    let dir = tempfile::tempdir().unwrap();
    let album = dir.path().join("album");
    fs::create_dir_all(album.join("sub")).unwrap();
    fs::write(album.join("sub/first.txt"), "first").unwrap();
    let data = dir.path().join("data");
    let (node, mut events) = watching(&data).await;
    let before = node.share(&album).await.unwrap();
    // In a folder that was not there when the watching began.
    fs::create_dir(album.join("new")).unwrap();
    fs::write(album.join("new/second.txt"), "second").unwrap();
    let now: FileHash = notice(&mut events, "album changed and is shared as ").await.parse().unwrap();
    assert_ne!(now, before.hash);
    let folder = node.files().await;
    assert_eq!((folder.len(), folder[0].hash, folder[0].length), (1, now, Some(11)));
    node.shutdown().await;
    drop((node, events));

    // What changed while no node ran, and then while one did that knows the folder from before.
    fs::remove_dir_all(album.join("new")).unwrap();
    let (node, mut events) = watching(&data).await;
    let back: FileHash = notice(&mut events, "album changed and is shared as ").await.parse().unwrap();
    assert_eq!(back, before.hash);
    fs::write(album.join("sub/third.txt"), "third").unwrap();
    notice(&mut events, "album changed and is shared as ").await;
    fs::remove_dir_all(&album).unwrap();
    notice(&mut events, "").await;
    let gone = async {
        while !node.files().await.is_empty() {
            events.next().await.unwrap();
        }
    };
    timeout(DEADLINE, gone).await.unwrap();
    node.shutdown().await;
}
