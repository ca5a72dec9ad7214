//! Providers that lie, stall, drip or break off, over real sockets. Each stands between the requester and an honest provider,
//! alters what goes through, and speaks the frames with tokio-util's codec, so this also tests ours against another
//! implementation.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod util;

use std::time::Duration;

use p2p_files::protocol::Reply;
use p2p_files::{CHUNK, DownloadConfig, DownloadError, DownloadEvent, FileHash, Info, Kind, SourceFault};
use tokio::net::TcpStream;
use tokio_util::bytes::{Bytes, BytesMut};
use util::{Frames, Peer, content, end, reply, sockets, start};

/// What becomes of the honest answer number `n` (0 is the info).
type Vice = fn(n: usize, frame: BytesMut) -> Act;

enum Act {
    Send(Vec<Bytes>),
    /// Raw bytes that are no frame, then silence.
    Raw(Vec<u8>),
    Hang,
    Close,
}

fn pass(frame: BytesMut) -> Act {
    Act::Send(vec![frame.freeze()])
}

async fn hostile(honest: &Peer, vice: Vice) -> TcpStream {
    let (ours, theirs) = sockets().await;
    let mut provider = Frames::new(honest.connect_tcp().await);
    let mut requester = Frames::new(theirs);
    tokio::spawn(async move {
        let mut n = 0;
        while let Some(request) = requester.next().await {
            provider.send(request.freeze()).await;
            let Some(answer) = provider.next().await else { return };
            match vice(n, answer) {
                Act::Send(frames) => {
                    for frame in frames {
                        if !requester.send(frame).await {
                            return;
                        }
                    }
                }
                Act::Raw(bytes) => {
                    // The requester may be gone before it has read all of it.
                    let _ = tokio::io::AsyncWriteExt::write_all(&mut requester.stream, &bytes).await;
                    std::future::pending::<()>().await;
                }
                Act::Hang => std::future::pending::<()>().await,
                Act::Close => return,
            }
            n += 1;
        }
    });
    ours
}

/// Whether a fault is that the connection ended. Whoever closes with requests unread resets it, whoever has read them does not.
fn is_gone(fault: &SourceFault) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(fault, SourceFault::Io(BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof))
}

/// Runs a download from the hostile source alone, then lets an honest one end it: the fault, and how many bytes the
/// honest one had to give.
async fn fault_of(vice: Vice) -> SourceFault {
    let honest = Peer::new();
    let mut to = Peer::new();
    to.config = DownloadConfig {
        stall: Duration::from_millis(300),
        run_timeout: Duration::from_millis(900),
        start: Some(0),
        ..DownloadConfig::default()
    };
    let data = content(5 * CHUNK + 99);
    let hash = honest.add("file", &data).hash;
    let download = start(&to, hash);
    download.add_source("evil", hostile(&honest, vice).await);
    let Some(DownloadEvent::SourceFailed { label, fault }) = download.next_event().await else { panic!() };
    assert_eq!(label, "evil");
    assert!(matches!(download.next_event().await, Some(DownloadEvent::NeedSource)));
    download.add_source("honest", honest.connect());
    let finished = end(&download).await.unwrap();
    assert!(std::fs::read(finished.path).unwrap() == data, "the file is right in the end");
    to.no_part_files();
    fault
}

/// The first flipped bit of the answer number 3, which is chunk 2.
fn flip(n: usize, mut frame: BytesMut, at: fn(&BytesMut) -> usize) -> Act {
    if n == 3 {
        let at = at(&frame);
        frame[at] ^= 1;
    }
    pass(frame)
}

#[tokio::test]
async fn wrong_data_is_named_by_its_blocks() {
    let corrupt = SourceFault::Corrupt { first_block: 128, blocks: 64 };
    assert_eq!(fault_of(|n, frame| flip(n, frame, |frame| frame.len() - 1)).await, corrupt);
    assert_eq!(fault_of(|n, frame| flip(n, frame, |frame| frame.len() - CHUNK)).await, corrupt);
}

#[tokio::test]
async fn a_wrong_proof_is_named_by_its_blocks() {
    let corrupt = SourceFault::Corrupt { first_block: 128, blocks: 64 };
    assert_eq!(fault_of(|n, frame| flip(n, frame, |_| 11)).await, corrupt);
    assert_eq!(fault_of(|n, frame| flip(n, frame, |_| 11 + 32 * 2)).await, corrupt);
}

#[tokio::test]
async fn a_lie_about_length_or_root_is_refused_before_anything_is_believed() {
    assert_eq!(fault_of(|n, frame| flip(3 + n, frame, |_| 3)).await, SourceFault::WrongInfo);
    fn lie(length: u64) -> Act {
        Act::Send(vec![reply(&Reply::Info(Info { kind: Kind::File, length, root: [1; 32] }))])
    }
    assert_eq!(fault_of(|_, _| lie(1 << 60)).await, SourceFault::WrongInfo);
    assert_eq!(fault_of(|_, _| lie(u64::MAX)).await, SourceFault::WrongInfo);
    // One byte less, everything else true.
    let less = |n, mut frame: BytesMut| {
        if n == 0 {
            frame[9] -= 1;
        }
        pass(frame)
    };
    assert_eq!(fault_of(less).await, SourceFault::WrongInfo);
}

#[tokio::test]
async fn frames_that_were_not_asked_for_end_the_source() {
    let twice = |n, frame: BytesMut| {
        let frame = frame.freeze();
        Act::Send(if n == 1 { vec![frame.clone(), frame] } else { vec![frame] })
    };
    assert_eq!(fault_of(twice).await, SourceFault::Protocol("a run that was not asked for"));
    let info_again = |n, frame: BytesMut| match n {
        1 => Act::Send(vec![Bytes::from([[0x81; 1].as_slice(), &[0; 41]].concat())]),
        _ => pass(frame),
    };
    assert_eq!(fault_of(info_again).await, SourceFault::Protocol("another answer than a run"));
    let cut = |n, mut frame: BytesMut| {
        if n == 1 {
            frame.truncate(frame.len() - 1);
        }
        pass(frame)
    };
    assert_eq!(fault_of(cut).await, SourceFault::Protocol("a run of the wrong length"));
    let no_run =
        |n, frame| if n == 1 { Act::Send(vec![Bytes::from_static(&[0x83, 1])]) } else { pass(frame) };
    assert_eq!(fault_of(no_run).await, SourceFault::Protocol("a run of the wrong length"));
    let malformed = |_, _| Act::Send(vec![Bytes::from_static(&[0x81, 1])]);
    assert_eq!(fault_of(malformed).await, SourceFault::Protocol("a malformed frame"));
    let huge = |_, _| Act::Raw(vec![0xff; 5]);
    assert_eq!(fault_of(huge).await, SourceFault::Protocol("a frame beyond the limits"));
    let empty = |_, _| Act::Raw(vec![0, 0, 0, 0, 0x81]);
    assert_eq!(fault_of(empty).await, SourceFault::Protocol("a frame beyond the limits"));
    let large_info = |_, _| Act::Raw(vec![0, 2, 0, 0, 0x81]);
    assert_eq!(fault_of(large_info).await, SourceFault::Protocol("a frame beyond the limits"));
}

#[tokio::test]
async fn unknown_frames_are_skipped_up_to_a_limit() {
    let some = |n, frame: BytesMut| {
        let unknown = Bytes::from_static(&[0x99, 1, 2, 3]);
        // Then fail in a way that shows that the transfer went on.
        if n == 4 { Act::Close } else { Act::Send(vec![unknown.clone(), unknown, frame.freeze()]) }
    };
    assert!(is_gone(&fault_of(some).await));
    let flood = |_, _| Act::Send(vec![Bytes::from(vec![0x99; 60_000]); 20]);
    assert_eq!(fault_of(flood).await, SourceFault::Protocol("too many frames of unknown kinds"));
}

#[tokio::test]
async fn a_flood_of_the_smallest_unknown_frames_is_no_danger() {
    // More than a MiB of frames whose body is one byte, instead of a run, and of empty ones, instead of the info.
    let before_a_run =
        |n: usize, frame| if n == 1 { Act::Raw([0, 0, 0, 2, 0x99, 7].repeat(220_000)) } else { pass(frame) };
    let before_the_info = |_, _| Act::Raw([0, 0, 0, 1, 0x99].repeat(220_000));
    for vice in [before_a_run as Vice, before_the_info] {
        let (honest, to) = (Peer::new(), Peer::new());
        let data = content(2 * CHUNK);
        let hash = honest.add("file", &data).hash;
        let download = start(&to, hash);
        download.add_source("flood", hostile(&honest, vice).await);
        let Some(DownloadEvent::SourceFailed { fault, .. }) = download.next_event().await else { panic!() };
        assert_eq!(fault, SourceFault::Protocol("too many frames of unknown kinds"));
        download.add_source("honest", honest.connect());
        assert!(std::fs::read(end(&download).await.unwrap().path).unwrap() == data);
    }
}

#[tokio::test]
async fn an_answer_that_hides_behind_unknown_frames_is_late() {
    async fn fault_of_drip(instead_of: usize) -> SourceFault {
        let honest = Peer::new();
        let mut to = Peer::new();
        to.config.run_timeout = Duration::from_millis(400);
        let hash = honest.add("file", &content(CHUNK)).hash;
        let (ours, theirs) = sockets().await;
        let (mut requester, mut provider) = (Frames::new(theirs), Frames::new(honest.connect_tcp().await));
        tokio::spawn(async move {
            for _ in 0..instead_of {
                provider.send(requester.next().await.unwrap().freeze()).await;
                requester.send(provider.next().await.unwrap().freeze()).await;
            }
            let mut every = tokio::time::interval(Duration::from_millis(20));
            while requester.send(Bytes::from_static(&[0x99])).await {
                every.tick().await;
            }
        });
        let download = start(&to, hash);
        download.add_source("drip", ours);
        let Some(DownloadEvent::SourceFailed { fault, .. }) = download.next_event().await else { panic!() };
        fault
    }
    let late = SourceFault::Stalled(Duration::from_millis(400));
    assert_eq!(fault_of_drip(0).await, late);
    assert_eq!(fault_of_drip(1).await, late);
}

#[tokio::test]
async fn breaking_off_and_saying_no() {
    assert!(is_gone(&fault_of(|_, _| Act::Close).await));
    assert!(is_gone(&fault_of(|n, frame| if n == 2 { Act::Close } else { pass(frame) }).await));
    fn error(code: u8) -> Act {
        Act::Send(vec![Bytes::from(vec![0x84, code])])
    }
    assert_eq!(fault_of(|n, frame| if n == 2 { error(1) } else { pass(frame) }).await, SourceFault::Changed);
    assert_eq!(fault_of(|_, _| error(2)).await, SourceFault::Busy);
    assert_eq!(fault_of(|_, _| error(77)).await, SourceFault::Busy);
    let calls_bad = SourceFault::Protocol("it calls our request bad");
    assert_eq!(fault_of(|n, frame| if n == 1 { error(3) } else { pass(frame) }).await, calls_bad);
    assert_eq!(fault_of(|_, _| Act::Send(vec![Bytes::from_static(&[0x82])])).await, SourceFault::NotFound);
}

#[tokio::test]
async fn stalling_and_dripping_end_within_their_deadlines() {
    let stalled = SourceFault::Stalled(Duration::from_millis(300));
    assert_eq!(fault_of(|_, _| Act::Hang).await, stalled);
    assert_eq!(fault_of(|n, frame| if n == 3 { Act::Hang } else { pass(frame) }).await, stalled);
    let half = |n, frame: BytesMut| if n == 2 { Act::Raw(frame[..40].to_vec()) } else { pass(frame) };
    // 40 bytes of a frame are taken for a length and a kind.
    assert!(matches!(fault_of(half).await, SourceFault::Protocol(_) | SourceFault::Stalled(_)));
}

#[tokio::test]
async fn a_source_that_drips_is_dropped_though_it_never_stalls() {
    let honest = Peer::new();
    let mut to = Peer::new();
    to.config.run_timeout = Duration::from_millis(400);
    let data = content(CHUNK + 1);
    let hash = honest.add("file", &data).hash;
    let (ours, theirs) = sockets().await;
    let mut provider = honest.connect_tcp().await;
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (mut from, mut to) = tokio::io::split(theirs);
        let (mut read, mut write) = tokio::io::split(&mut provider);
        let requests = tokio::io::copy(&mut from, &mut write);
        let drip = async {
            let mut info = [0; 46];
            read.read_exact(&mut info).await?;
            to.write_all(&info).await?;
            let mut every = tokio::time::interval(Duration::from_millis(20));
            loop {
                every.tick().await;
                to.write_u8(read.read_u8().await?).await?;
            }
            #[expect(unreachable_code, reason = "names the type of the error")]
            Ok::<(), std::io::Error>(())
        };
        let _ = tokio::join!(requests, drip);
    });
    let download = start(&to, hash);
    download.add_source("drip", ours);
    let Some(DownloadEvent::SourceFailed { fault, .. }) = download.next_event().await else { panic!() };
    assert_eq!(fault, SourceFault::Stalled(Duration::from_millis(400)));
    download.add_source("honest", honest.connect());
    assert!(end(&download).await.is_ok());
}

#[tokio::test]
async fn one_liar_among_honest_sources_is_blamed_and_nobody_else() {
    let (honest, other, to) = (Peer::new(), Peer::new(), Peer::new());
    let data = content(40 * CHUNK);
    let hash = honest.add("file", &data).hash;
    other.add("file", &data);
    let download = start(&to, hash);
    download.add_source("a", honest.connect());
    download.add_source(
        "liar",
        hostile(&other, |n, mut frame| {
            let last = frame.len() - 1;
            frame[last] ^= u8::from(n > 0);
            pass(frame)
        })
        .await,
    );
    download.add_source("b", other.connect());
    let mut blamed = Vec::new();
    let finished = loop {
        match download.next_event().await.unwrap() {
            DownloadEvent::SourceFailed { label, fault } => {
                assert!(matches!(fault, SourceFault::Corrupt { .. }), "{fault}");
                blamed.push(label);
            }
            DownloadEvent::Finished(finished) => break finished,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(blamed, ["liar"]);
    assert_eq!(finished.sources, 2);
    assert!(std::fs::read(finished.path).unwrap() == data);
}

#[tokio::test]
async fn stalling_sources_hold_up_nobody() {
    let (honest, mut to) = (Peer::new(), Peer::new());
    // Far longer than the test may take: the good source has to finish without their timeouts.
    to.config.stall = Duration::from_secs(60);
    let data = content(24 * CHUNK);
    let hash = honest.add("file", &data).hash;
    let download = start(&to, hash);
    for n in 0..3 {
        download.add_source(
            format!("stalls {n}"),
            hostile(&honest, |n, f| if n == 0 { pass(f) } else { Act::Hang }).await,
        );
    }
    download.add_source("good", honest.connect());
    let finished = end(&download).await.unwrap();
    assert!(std::fs::read(finished.path).unwrap() == data);
}

#[tokio::test]
async fn a_file_beyond_the_limit_is_refused_by_its_proven_length() {
    let (honest, mut to) = (Peer::new(), Peer::new());
    to.config.max_length = 1000;
    let hash = honest.add("file", &content(1001)).hash;
    let download = start(&to, hash);
    download.add_source("honest", honest.connect());
    assert!(matches!(end(&download).await, Err(DownloadError::TooLarge { length: 1001, max: 1000 })));
    assert!(download.next_event().await.is_none());
    // A hash that names a folder is refused too.
    let info = Info { kind: Kind::Dir, length: 10, root: [1; 32] };
    let download = start(&to, info.hash());
    let (ours, theirs) = tokio::io::duplex(1024);
    tokio::spawn(async move {
        let mut requester = Frames::new(theirs);
        requester.next().await.unwrap();
        requester.send(reply(&Reply::Info(info))).await;
        requester.next().await
    });
    download.add_source("folder", ours);
    assert!(matches!(end(&download).await, Err(DownloadError::Directory)));
    to.no_part_files();
}

#[tokio::test]
async fn a_provider_that_closes_after_each_block_delivers_the_file_bit_by_bit() {
    let (honest, to) = (Peer::new(), Peer::new());
    let data = content(5 * CHUNK + 99);
    let hash = honest.add("file", &data).hash;
    let download = start(&to, hash);
    let once = |n, frame| if n < 2 { pass(frame) } else { Act::Close };
    let mut times = 1;
    download.add_source("closes", hostile(&honest, once).await);
    let finished = loop {
        match download.next_event().await.unwrap() {
            DownloadEvent::SourceFailed { label, fault } => {
                assert!(label == "closes" && is_gone(&fault), "{label}: {fault}");
            }
            DownloadEvent::NeedSource => {
                times += 1;
                download.add_source("closes", hostile(&honest, once).await);
            }
            DownloadEvent::Finished(finished) => break finished,
            other => panic!("{other:?}"),
        }
    };
    assert!(std::fs::read(finished.path).unwrap() == data);
    // A reset may take away what was on its way.
    assert!((6..=12).contains(&times), "{times} connections for 6 runs");
}

#[tokio::test]
async fn a_file_that_changes_during_the_transfer_is_named_and_comes_from_another() {
    let (changes, other, to) = (Peer::new(), Peer::new(), Peer::new());
    let data = content(40 * CHUNK);
    let hash = changes.add("file", &data).hash;
    other.add("file", &data);
    let download = start(&to, hash);
    let (ours, theirs) = sockets().await;
    let (mut requester, mut provider) = (Frames::new(theirs), Frames::new(changes.connect_tcp().await));
    let (path, last) = (changes.dir.path().join("file"), data[data.len() - 1]);
    tokio::spawn(async move {
        use std::io::{Seek as _, Write as _};
        for n in 0.. {
            let Some(request) = requester.next().await else { return };
            if n == 4 {
                let mut file = std::fs::File::options().write(true).open(&path).unwrap();
                file.seek(std::io::SeekFrom::End(-1)).unwrap();
                file.write_all(&[!last]).unwrap();
            }
            provider.send(request.freeze()).await;
            let Some(answer) = provider.next().await else { return };
            requester.send(answer.freeze()).await;
        }
    });
    download.add_source("changes", ours);
    let Some(DownloadEvent::SourceFailed { label, fault }) = download.next_event().await else { panic!() };
    assert_eq!((label.as_str(), fault), ("changes", SourceFault::Changed));
    assert_eq!(changes.library.on_offer(&hash), None, "it is not announced any more");
    download.add_source("other", other.connect_tcp().await);
    let finished = end(&download).await.unwrap();
    assert!(std::fs::read(finished.path).unwrap() == data);
    to.no_part_files();
}

#[tokio::test]
async fn more_sources_than_allowed_are_refused_and_named() {
    let mut to = Peer::new();
    to.config.max_sources = 1;
    let download = start(&to, FileHash::from_bytes([9; 32]));
    let (_held, one) = tokio::io::duplex(100);
    download.add_source("one", one);
    download.add_source("two", tokio::io::duplex(100).0);
    let Some(DownloadEvent::SourceFailed { label, fault }) = download.next_event().await else { panic!() };
    assert_eq!((label.as_str(), fault), ("two", SourceFault::TooMany(1)));
}
