//! Downloads that are broken off and go on.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod util;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use p2p_files::{CHUNK, Destination, DownloadError, DownloadHandle, FileHash};
use util::{Frames, Peer, content, end, fetch, start};

const SIZE: usize = 9 * CHUNK + 100;

/// Fetches `chunks` and no more.
async fn partly(from: &Peer, to: &Peer, hash: FileHash, chunks: u64) -> DownloadHandle {
    further(from, to, hash, 0, chunks).await
}

/// Goes on where `had` chunks are held already, and fetches `chunks` more: the source passes on that many runs.
async fn further(from: &Peer, to: &Peer, hash: FileHash, had: u64, chunks: u64) -> DownloadHandle {
    let download = start(to, hash);
    let (ours, theirs) = tokio::io::duplex(4 << 20);
    let (mut requester, mut provider) = (Frames::new(theirs), Frames::new(from.connect()));
    tokio::spawn(async move {
        for _ in 0..=chunks {
            let Some(request) = requester.next().await else { return };
            provider.send(request.freeze()).await;
            requester.send(provider.next().await.unwrap().freeze()).await;
        }
        std::future::pending::<()>().await;
    });
    download.add_source("halting", ours);
    let mut progress = download.progress();
    let wanted = (had + chunks) * CHUNK as u64;
    let held = progress.wait_for(|progress| progress.done >= wanted);
    tokio::time::timeout(Duration::from_secs(10), held).await.unwrap().unwrap();
    download
}

/// Ends it for now and waits until its files are let go.
async fn suspend(download: DownloadHandle) {
    download.suspend();
    assert!(matches!(end(&download).await, Err(DownloadError::Suspended)));
}

fn part_file(to: &Peer) -> PathBuf {
    let mut parts = std::fs::read_dir(to.content_dir()).unwrap().map(|entry| entry.unwrap().path());
    parts.find(|path| path.extension().is_some_and(|end| end == "part")).unwrap()
}

/// Starts again, from a source that counts: bytes that had to be fetched.
async fn finish(to: &Peer, hash: FileHash, data: &[u8]) -> u64 {
    let from = Peer::new();
    from.add("again", data);
    let finished = fetch(to, hash, &[("from", &from)]).await.unwrap();
    assert!(std::fs::read(finished.path).unwrap() == data);
    to.no_part_files();
    from.stats.counts().bytes
}

#[tokio::test]
async fn what_was_verified_is_not_fetched_again_and_the_tree_is_whole() {
    let (from, to) = (Peer::new(), Peer::new());
    let data = content(SIZE);
    let hash = from.add("file", &data).hash;
    suspend(partly(&from, &to, hash, 3).await).await;
    let unfinished = to.library.unfinished().unwrap();
    assert_eq!((unfinished.len(), unfinished[0].hash, unfinished[0].length), (1, hash, SIZE as u64));
    let Destination::Dir(_, Some(name)) = &unfinished[0].destination else { panic!() };
    assert_eq!(name, "name.bin");

    // Once more broken off, this time by dropping the handle.
    let download = further(&from, &to, hash, 3, 2).await;
    let mut progress = download.progress();
    drop(download);
    while progress.changed().await.is_ok() {}
    assert_eq!(finish(&to, hash, &data).await, (SIZE - 5 * CHUNK) as u64);
    assert!(to.library.unfinished().unwrap().is_empty());
    // Proofs of all chunks are there, whoever brought them.
    let third = Peer::new();
    fetch(&third, hash, &[("to", &to)]).await.unwrap();
}

#[tokio::test]
async fn a_part_file_that_was_touched_is_hashed_again_and_what_is_wrong_is_fetched_again() {
    let (from, to) = (Peer::new(), Peer::new());
    let data = content(SIZE);
    let hash = from.add("file", &data).hash;
    suspend(partly(&from, &to, hash, 4).await).await;
    let file = OpenOptions::new().write(true).open(part_file(&to)).unwrap();
    file.write_all_at(b"not what came", CHUNK as u64 + 5).unwrap();
    file.set_modified(SystemTime::now() + Duration::from_secs(60)).unwrap();
    drop(file);
    assert_eq!(finish(&to, hash, &data).await, (SIZE - 3 * CHUNK) as u64);
}

#[tokio::test]
async fn after_another_boot_nothing_is_believed_that_does_not_prove_itself() {
    let (from, to) = (Peer::new(), Peer::new());
    let data = content(SIZE);
    let hash = from.add("file", &data).hash;
    suspend(partly(&from, &to, hash, 4).await).await;
    let trees = to.dir.path().join("data/trees");
    let journal = std::fs::read_dir(trees).unwrap().map(|entry| entry.unwrap().path());
    let journal = journal.into_iter().find(|path| path.extension().is_some_and(|end| end == "part")).unwrap();
    let bytes = std::fs::read(&journal).unwrap();
    // The record lies behind the tree (10 + 5 + 3 + 2 nodes) and the 10 bytes of the chunks.
    let boot_at = 20 * 32 + 10 + 1 + 1 + 8 + 32;
    let written = OpenOptions::new().write(true).open(&journal).unwrap();
    written.write_all_at(&[!bytes[boot_at]], boot_at as u64).unwrap();
    // As after a power failure: the journal says more than the disk has, and a part of the journal is lost too.
    written.write_all_at(&[1; 6], 20 * 32).unwrap();
    written.write_all_at(&[0; 32], 2 * 32).unwrap();
    drop(written);
    // Chunk 2 has lost its own node, which is no matter, and chunk 3 its sibling.
    assert_eq!(finish(&to, hash, &data).await, (SIZE - 3 * CHUNK) as u64);
}

#[tokio::test]
async fn another_file_under_the_part_files_name_is_not_taken_for_it() {
    let (from, to) = (Peer::new(), Peer::new());
    let data = content(SIZE);
    let hash = from.add("file", &data).hash;
    suspend(partly(&from, &to, hash, 2).await).await;
    let part = part_file(&to);
    let copy = std::fs::read(&part).unwrap();
    let kept = part.with_extension("kept");
    std::fs::hard_link(&part, &kept).unwrap();
    std::fs::remove_file(&part).unwrap();
    std::fs::write(&part, &copy).unwrap();
    assert_eq!(finish(&to, hash, &data).await, SIZE as u64);
    assert!(std::fs::read(kept).unwrap() == copy, "what was ours once is not written to");
}

#[tokio::test]
async fn a_part_file_of_another_size_is_not_believed() {
    let (from, to) = (Peer::new(), Peer::new());
    let data = content(SIZE);
    let hash = from.add("file", &data).hash;
    for size in [SIZE as u64 - 1, SIZE as u64 + 1, 0] {
        suspend(partly(&from, &to, hash, 2).await).await;
        let part = OpenOptions::new().write(true).open(part_file(&to)).unwrap();
        part.set_len(size).unwrap();
        drop(part);
        assert_eq!(finish(&to, hash, &data).await, SIZE as u64);
        assert!(to.library.remove(&hash).unwrap());
        std::fs::remove_dir_all(to.content_dir()).unwrap();
    }
}

#[tokio::test]
async fn a_kill_between_the_name_and_the_end_gives_one_file() {
    let (from, to) = (Peer::new(), Peer::new());
    let data = content(SIZE);
    let hash = from.add("file", &data).hash;
    suspend(partly(&from, &to, hash, 9).await).await;
    std::fs::hard_link(part_file(&to), to.content_dir().join("name.bin")).unwrap();
    assert_eq!(finish(&to, hash, &data).await, 100);
    assert_eq!(std::fs::read_dir(to.content_dir()).unwrap().count(), 1);
}

#[tokio::test]
async fn the_journal_of_a_part_file_that_is_gone_goes_too_and_a_damaged_one_is_started_over() {
    let (from, to) = (Peer::new(), Peer::new());
    let data = content(SIZE);
    let hash = from.add("file", &data).hash;
    suspend(partly(&from, &to, hash, 2).await).await;
    let trees = to.dir.path().join("data/trees");
    for entry in std::fs::read_dir(&trees).unwrap() {
        let file = File::options().write(true).open(entry.unwrap().path()).unwrap();
        file.set_len(file.metadata().unwrap().len() - 1).unwrap();
    }
    assert!(to.library.unfinished().unwrap().is_empty());
    assert_eq!(finish(&to, hash, &data).await, SIZE as u64);

    let to = Peer::new();
    suspend(partly(&from, &to, hash, 2).await).await;
    std::fs::remove_file(part_file(&to)).unwrap();
    assert!(to.library.unfinished().unwrap().is_empty());
    to.no_part_files();
}
