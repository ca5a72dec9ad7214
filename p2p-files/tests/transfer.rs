//! Whole transfers between a library that serves and one that fetches.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod util;

use p2p_files::{CHUNK, Destination, DownloadError, DownloadEvent, FileHash, ShareState};
use tokio::io::DuplexStream;
use tokio::sync::oneshot;
use util::{Frames, Peer, content, end, fetch, start};

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

#[tokio::test]
async fn a_copy_here_that_changed_is_not_taken_for_the_file() {
    let (from, to) = (Peer::new(), Peer::new());
    let data = content(2 * CHUNK);
    let hash = from.add("file", &data).hash;
    let mine = to.add("mine", &data).path;
    std::fs::write(&mine, "something else").unwrap();
    let finished = fetch(&to, hash, &[("from", &from)]).await.unwrap();
    assert_eq!(finished.sources, 1);
    assert!(std::fs::read(&finished.path).unwrap() == data);
    assert_eq!(to.library.get(&hash).unwrap().path, finished.path);
    assert_eq!(std::fs::read(mine).unwrap(), b"something else");
}

/// A connection that passes on the info and one run, then says so and passes on nothing until it is told to go on.
fn halting(peer: &Peer) -> (DuplexStream, oneshot::Sender<()>, oneshot::Receiver<()>) {
    let (ours, theirs) = tokio::io::duplex(4 << 20);
    let (go, wait) = oneshot::channel();
    let (halted, has_halted) = oneshot::channel();
    let (mut requester, mut provider) = (Frames::new(theirs), Frames::new(peer.connect()));
    tokio::spawn(async move {
        let mut pause = Some((halted, wait));
        let mut n = 0;
        while let Some(request) = requester.next().await {
            provider.send(request.freeze()).await;
            let answer = provider.next().await.unwrap();
            if n == 2
                && let Some((halted, wait)) = pause.take()
            {
                halted.send(()).unwrap();
                let _ = wait.await;
            }
            n += 1;
            requester.send(answer.freeze()).await;
        }
    });
    (ours, go, has_halted)
}

#[tokio::test]
async fn the_same_download_twice_at_once_is_refused_the_second_time() {
    let (from, to) = (Peer::new(), Peer::new());
    let data = content(3 * CHUNK);
    let hash = from.add("file", &data).hash;
    let first = start(&to, hash);
    let (stream, go, halted) = halting(&from);
    first.add_source("slow", stream);
    halted.await.unwrap();
    let second = fetch(&to, hash, &[("quick", &from)]).await;
    assert!(matches!(second, Err(DownloadError::InProgress { .. })), "{second:?}");
    go.send(()).unwrap();
    let finished = end(&first).await.unwrap();
    assert!(std::fs::read(finished.path).unwrap() == data);
}

#[tokio::test]
async fn a_destination_that_vanishes_is_a_clear_error_and_a_new_try_works() {
    let (from, to) = (Peer::new(), Peer::new());
    let data = content(3 * CHUNK);
    let hash = from.add("file", &data).hash;
    let download = start(&to, hash);
    let (stream, go, halted) = halting(&from);
    download.add_source("from", stream);
    halted.await.unwrap();
    std::fs::remove_dir_all(to.content_dir()).unwrap();
    go.send(()).unwrap();
    let failed = end(&download).await;
    assert!(matches!(failed, Err(DownloadError::Io { .. })), "{failed:?}");
    to.no_part_files();
    assert_eq!(to.library.get(&hash), None);
    let finished = fetch(&to, hash, &[("from", &from)]).await.unwrap();
    assert!(std::fs::read(finished.path).unwrap() == data);
}

#[tokio::test]
async fn a_file_that_takes_the_exact_name_meanwhile_is_left_alone() {
    let (from, to) = (Peer::new(), Peer::new());
    let hash = from.add("file", &content(3 * CHUNK)).hash;
    let path = to.dir.path().join("exact");
    let download = to.download(hash, Destination::File(path.clone())).unwrap();
    let (stream, go, halted) = halting(&from);
    download.add_source("from", stream);
    halted.await.unwrap();
    std::fs::write(&path, "mine").unwrap();
    go.send(()).unwrap();
    assert!(matches!(end(&download).await, Err(DownloadError::Exists { .. })));
    assert_eq!(std::fs::read(path).unwrap(), b"mine");
    assert_eq!(std::fs::read_dir(to.dir.path()).unwrap().count(), 2, "the data folder and that file");
}

#[tokio::test]
async fn a_dropped_handle_ends_the_download_and_a_cancel_leaves_nothing_of_it() {
    let (from, to) = (Peer::new(), Peer::new());
    let hash = from.add("file", &content(3 * CHUNK)).hash;
    let download = start(&to, hash);
    let mut progress = download.progress();
    let (stream, _go, halted) = halting(&from);
    download.add_source("from", stream);
    halted.await.unwrap();
    drop(download);
    // The channel closes when the last task of the download is gone.
    while progress.changed().await.is_ok() {}
    let download = start(&to, hash);
    let (stream, _go, halted) = halting(&from);
    download.add_source("from", stream);
    halted.await.unwrap();
    download.cancel();
    assert!(matches!(end(&download).await, Err(DownloadError::Cancelled)));
    to.no_part_files();
}
