//! Whole transfers between a library that serves and one that fetches.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod util;

use p2p_files::{CHUNK, Destination, DownloadError, DownloadEvent, FileHash, ShareState};
use util::{Peer, content, end, fetch, start};

#[tokio::test]
async fn every_size_arrives_whole_and_is_shared_from_then_on() {
    let (from, to) = (Peer::new(), Peer::new());
    for size in
        [0, 1, 16_383, 16_384, 16_385, 3 * 16_384, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 5 * CHUNK + 77]
    {
        let data = content(size);
        let share = from.add("file", &data);
        let finished = fetch(&to, share.hash, &[("only", &from)]).await.unwrap();
        assert_eq!(finished.length, size as u64);
        assert_eq!(finished.sources, usize::from(size > 0), "size {size}");
        assert_eq!(std::fs::read(&finished.path).unwrap(), data, "size {size}");
        let had = to.library.get(&share.hash).unwrap();
        assert_eq!((had.info, had.state, &had.path), (share.info, ShareState::Shared, &finished.path));
        // The tree that was made while downloading proves it to a third.
        let third = Peer::new();
        let again = fetch(&third, share.hash, &[("second", &to)]).await.unwrap();
        assert_eq!(std::fs::read(again.path).unwrap(), data, "size {size}, second hand");
    }
    to.no_part_files();
}

#[tokio::test]
async fn two_sources_share_the_work_over_tcp() {
    let (a, b, to) = (Peer::new(), Peer::new(), Peer::new());
    let data = content(24 * CHUNK + 5);
    let hash = a.add("big", &data).hash;
    assert_eq!(b.add("big", &data).hash, hash);
    let download = start(&to, hash);
    let progress = download.progress();
    download.add_source("a", a.connect_tcp().await);
    download.add_source("b", b.connect_tcp().await);
    let finished = end(&download).await.unwrap();
    assert_eq!(std::fs::read(&finished.path).unwrap(), data);
    assert_eq!(finished.sources, 2);
    let last = *progress.borrow();
    assert_eq!((last.done, last.length), (data.len() as u64, Some(data.len() as u64)));
    assert!(download.next_event().await.is_none());
}

#[tokio::test]
async fn what_is_here_already_is_not_fetched() {
    let here = Peer::new();
    let data = content(2 * CHUNK);
    let share = here.add("mine", &data);
    let finished = end(&start(&here, share.hash)).await.unwrap();
    assert_eq!((finished.path, finished.sources), (share.path, 0));

    let to = Destination::File(here.dir.path().join("copy"));
    let download = here.download(share.hash, to.clone()).unwrap();
    let finished = end(&download).await.unwrap();
    assert_eq!(std::fs::read(finished.path).unwrap(), data);
    assert!(matches!(here.download(share.hash, to), Err(DownloadError::Exists { .. })));
}

#[tokio::test]
async fn nobody_has_it_and_then_somebody_does() {
    let (empty, full, to) = (Peer::new(), Peer::new(), Peer::new());
    let data = content(100_000);
    let hash = full.add("late", &data).hash;
    let download = start(&to, hash);
    assert!(matches!(download.next_event().await, Some(DownloadEvent::NeedSource)));
    download.add_source("empty", empty.connect());
    let Some(DownloadEvent::SourceFailed { label, fault }) = download.next_event().await else { panic!() };
    assert_eq!((label.as_str(), fault), ("empty", p2p_files::SourceFault::NotFound));
    assert!(matches!(download.next_event().await, Some(DownloadEvent::NeedSource)));
    download.add_source("full", full.connect());
    assert!(end(&download).await.is_ok());
}

#[tokio::test]
async fn cancelling_leaves_nothing_behind() {
    let to = Peer::new();
    let download = start(&to, FileHash::from_bytes([1; 32]));
    download.cancel();
    assert!(matches!(end(&download).await, Err(DownloadError::Cancelled)));
    assert!(download.next_event().await.is_none());
    to.no_part_files();
}
