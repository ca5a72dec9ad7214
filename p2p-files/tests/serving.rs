//! The provider's side against requesters that misbehave, and against files that change.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod util;

use std::time::Duration;

use p2p_files::protocol::{ErrorCode, Reply, Request};
use p2p_files::{CHUNK, FileHash, Geometry, Info, RUN_BLOCKS_MAX, ServeError, ShareState, serve, verify_run};
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use util::{Frames, Peer, content, request};

async fn ask(frames: &mut Frames<DuplexStream>, what: Request) -> Option<Reply> {
    frames.send(request(&what)).await;
    frames.next().await.map(|frame| Reply::decode(&frame).unwrap().unwrap())
}

/// A connection on which a file of 3 chunks and a bit is open.
async fn opened(peer: &Peer) -> (Frames<DuplexStream>, Vec<u8>, Info) {
    let data = content(3 * CHUNK + 40_000);
    let share = match peer.library.list().pop() {
        Some(share) => share,
        None => peer.add("file", &data),
    };
    let mut frames = Frames::new(peer.connect());
    assert_eq!(ask(&mut frames, Request::Open(share.hash)).await, Some(Reply::Info(share.info)));
    (frames, data, share.info)
}

#[tokio::test]
async fn runs_of_every_size_come_with_a_proof_that_holds() {
    let peer = Peer::new();
    let (mut frames, data, info) = opened(&peer).await;
    let geometry = Geometry::new(info.length).unwrap();
    for shift in 0..=6 {
        let count = 1 << shift;
        let last = (geometry.blocks() - 1) >> shift << shift;
        for first in [0, u64::from(count), 64 + u64::from(count), last] {
            let run = geometry.run(first, count).unwrap();
            frames.send(request(&Request::Get { first, count })).await;
            let frame = frames.next().await.unwrap();
            let hashes = u8::try_from(run.proof_len()).unwrap();
            assert_eq!(Reply::decode(&frame), Ok(Some(Reply::Run { first, count, hashes })));
            let (proof, bytes) = frame[11..].split_at(run.proof_len() * 32);
            let start = usize::try_from(run.offset()).unwrap();
            assert!(bytes == &data[start..start + run.len()]);
            verify_run(run, bytes, proof, &info.root).unwrap();
        }
    }
    assert_eq!(peer.stats.counts().runs, 28);
}

#[tokio::test]
async fn every_bad_request_is_refused_and_ends_the_connection() {
    let peer = Peer::new();
    let blocks = 3 * 64 + 3;
    let mut bad: Vec<Vec<u8>> = Vec::new();
    let firsts =
        [0, 1, 63, 64, blocks - 1, blocks, 256, 1 << 32, 1 << 34, 1 << 50, 1 << 63, u64::MAX - 63, u64::MAX];
    for first in firsts {
        for count in [0, 1, 2, 3, 63, 64, 65, 127, 128, 255] {
            if Geometry::new(3 * CHUNK as u64 + 40_000).unwrap().run(first, count).is_err() {
                bad.push(request(&Request::Get { first, count }).to_vec());
            }
        }
    }
    assert!(bad.len() >= 60, "{}", bad.len());
    // A body too short or too long, nothing at all, and what only a provider sends.
    bad.extend([vec![0x02], vec![0x01; 32], vec![0x01; 34], vec![], vec![0x82], vec![0x83; 11]]);
    for frame in bad {
        let (mut frames, ..) = opened(&peer).await;
        frames.send(frame.clone()).await;
        let answer = frames.next().await.map(|frame| Reply::decode(&frame));
        assert_eq!(answer, Some(Ok(Some(Reply::Error(ErrorCode::BadRequest)))), "{frame:?}");
        assert_eq!(frames.next().await, None);
    }
}

#[tokio::test]
async fn a_run_before_any_file_is_open_is_a_bad_request() {
    let peer = Peer::new();
    let mut frames = Frames::new(peer.connect());
    let get = Request::Get { first: 0, count: 1 };
    assert_eq!(ask(&mut frames, get).await, Some(Reply::Error(ErrorCode::BadRequest)));
    let mut frames = Frames::new(peer.connect());
    assert_eq!(ask(&mut frames, Request::Open(FileHash::from_bytes([0; 32]))).await, Some(Reply::NotFound));
    // Sent ahead of the answer, for all that the provider knows.
    assert_eq!(ask(&mut frames, get).await, Some(Reply::NotFound));
}

#[tokio::test]
async fn a_length_beyond_the_limit_is_refused_before_its_body() {
    let peer = Peer::new();
    for length in [65_537u32, 1 << 24, u32::MAX] {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let served = serve(theirs, Arc::clone(&peer.library), peer.limits.clone(), Arc::clone(&peer.stats));
        let mut client = Frames::new(ours);
        client.stream.write_all(&length.to_be_bytes()).await.unwrap();
        assert!(matches!(served.await, Err(ServeError::FrameTooLong { len }) if len == length));
        assert_eq!(&client.next().await.unwrap()[..], [0x84, 3]);
    }
}

#[tokio::test]
async fn one_byte_at_a_time_is_the_same_session() {
    let peer = Peer::new();
    let data = content(100);
    let share = peer.add("file", &data);
    let mut bytes = Vec::new();
    // With a frame of a kind that is not known in between.
    bytes.extend([0, 0, 0, 2, 0x55, 1]);
    Request::Open(share.hash).encode(&mut bytes);
    Request::Get { first: 0, count: RUN_BLOCKS_MAX }.encode(&mut bytes);
    let mut answers = Vec::new();
    for step in [1, bytes.len()] {
        let mut stream = peer.connect();
        for part in bytes.chunks(step) {
            stream.write_all(part).await.unwrap();
        }
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        answers.push(answer);
    }
    assert_eq!(answers[0], answers[1]);
    assert!(answers[0].ends_with(&data));
    assert_eq!(peer.stats.counts().skipped_frames, 2);
}

#[tokio::test]
async fn several_files_one_after_another_on_one_connection() {
    let peer = Peer::new();
    let (a, b) = (peer.add("a", b"first"), peer.add("b", b"second"));
    let mut frames = Frames::new(peer.connect());
    let get = Request::Get { first: 0, count: 1 };
    // All asked at once, answered in order.
    for what in [Request::Open(a.hash), get, Request::Open(b.hash), get, get] {
        frames.send(request(&what)).await;
    }
    let mut answers = Vec::new();
    for _ in 0..5 {
        answers.push(frames.next().await.unwrap());
    }
    assert_eq!(Reply::decode(&answers[2]), Ok(Some(Reply::Info(b.info))));
    assert!(
        answers[1].ends_with(b"first") && answers[3].ends_with(b"second") && answers[4].ends_with(b"second")
    );
    assert_eq!(ask(&mut frames, Request::Open(FileHash::from_bytes([0; 32]))).await, Some(Reply::NotFound));
}

#[tokio::test]
async fn a_file_that_changes_while_it_is_served_gives_no_wrong_byte() {
    for change in [0, 1, 2] {
        let peer = Peer::new();
        let (mut frames, data, info) = opened(&peer).await;
        let path = peer.dir.path().join("file");
        match change {
            0 => std::fs::write(&path, [&data[..data.len() - 1], b"!"].concat()).unwrap(),
            1 => std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(10).unwrap(),
            _ => std::fs::remove_file(&path).unwrap(),
        }
        let get = Request::Get { first: 0, count: 64 };
        assert_eq!(ask(&mut frames, get).await, Some(Reply::Error(ErrorCode::Changed)), "change {change}");
        assert_eq!(peer.library.get(&info.hash()).unwrap().state, ShareState::Gone);
        // The bad news is asked for again, and a new connection finds nothing.
        assert_eq!(ask(&mut frames, get).await, Some(Reply::Error(ErrorCode::Changed)));
        let mut other = Frames::new(peer.connect());
        assert_eq!(ask(&mut other, Request::Open(info.hash())).await, Some(Reply::NotFound));
        // Adding it again mends it.
        std::fs::write(&path, &data).unwrap();
        assert_eq!(peer.library.add(&path, |_, _| ()).unwrap().hash, info.hash());
        assert_eq!(ask(&mut other, Request::Open(info.hash())).await, Some(Reply::Info(info)));
    }
}

#[tokio::test]
async fn uploads_are_limited_and_places_come_free() {
    let mut peer = Peer::new();
    peer.limits.uploads = 1;
    let (first, _, info) = opened(&peer).await;
    let mut second = Frames::new(peer.connect());
    assert_eq!(ask(&mut second, Request::Open(info.hash())).await, Some(Reply::Error(ErrorCode::Busy)));
    drop(first);
    while peer.stats.counts().uploads > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(ask(&mut second, Request::Open(info.hash())).await, Some(Reply::Info(info)));
}

#[tokio::test]
async fn who_asks_nothing_or_takes_nothing_is_left() {
    let peer = Peer::new();
    let mut limits = peer.limits.clone();
    limits.idle = Duration::from_millis(50);
    limits.stall = Duration::from_millis(50);
    let (_silent, theirs) = tokio::io::duplex(100);
    let served = serve(theirs, Arc::clone(&peer.library), limits.clone(), Arc::clone(&peer.stats)).await;
    assert!(matches!(served, Err(ServeError::Idle(_))));

    let share = peer.add("file", &content(CHUNK));
    let (mut deaf, theirs) = tokio::io::duplex(1000);
    let served = tokio::spawn(serve(theirs, Arc::clone(&peer.library), limits, Arc::clone(&peer.stats)));
    let mut bytes = Vec::new();
    Request::Open(share.hash).encode(&mut bytes);
    (0..40).for_each(|_| Request::Get { first: 0, count: 64 }.encode(&mut bytes));
    deaf.write_all(&bytes).await.unwrap();
    assert!(matches!(served.await.unwrap(), Err(ServeError::Stalled(_))));
    assert_eq!(peer.stats.counts().connections, 0);
}
