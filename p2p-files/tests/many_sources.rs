//! Many sources at once, and nodes that give what they have while they fetch: laws about time, in virtual time. Nothing
//! here sleeps: the clock jumps to the next deadline whenever everybody waits for one.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod util;

use std::sync::Arc;
use std::time::Duration;

use p2p_files::protocol::{Reply, Request};
use p2p_files::{
    CHUNK, DownloadHandle, FileHash, Geometry, RateLimit, ServeLimits, SourceFault, Throttle, verify_run,
};
use tokio::io::DuplexStream;
use tokio::time::Instant;
use util::{Frames, Peer, content, end, request, start};

/// 10 Mbit/s.
const TEN_MBIT: u64 = 1_250_000;

fn limits(bytes_per_second: u64) -> ServeLimits {
    let throttle = Throttle::new([Arc::new(RateLimit::new(bytes_per_second))]);
    ServeLimits { throttle, stall: Duration::from_secs(3600), ..ServeLimits::default() }
}

/// A peer that has the file and sends no faster than this.
fn seed(data: &[u8], bytes_per_second: u64) -> Peer {
    let mut peer = Peer::new();
    peer.limits = limits(bytes_per_second);
    peer.add("file", data);
    peer
}

/// A peer that fetches, and begins anywhere, as users do.
fn receiver() -> Peer {
    let mut peer = Peer::new();
    peer.config.start = None;
    peer.config.stall = Duration::from_secs(10);
    peer
}

async fn fetched_in(to: &Peer, download: &DownloadHandle, data: &[u8]) -> f64 {
    let begin = Instant::now();
    let finished = end_in_time(download).await;
    assert!(std::fs::read(finished).unwrap() == data);
    to.no_part_files();
    begin.elapsed().as_secs_f64()
}

/// As [`end`], which allows 10 s, for downloads that take longer in virtual time.
async fn end_in_time(download: &DownloadHandle) -> std::path::PathBuf {
    loop {
        match download.next_event().await.unwrap() {
            p2p_files::DownloadEvent::Finished(finished) => return finished.path,
            p2p_files::DownloadEvent::Failed(error) => panic!("{error}"),
            _ => {}
        }
    }
}

async fn from_all(data: &[u8], hash: FileHash, streams: Vec<DuplexStream>) -> f64 {
    let to = receiver();
    let download = start(&to, hash);
    for (n, stream) in streams.into_iter().enumerate() {
        download.add_source(n.to_string(), stream);
    }
    fetched_in(&to, &download, data).await
}

#[tokio::test(start_paused = true)]
async fn four_sources_are_almost_four_times_one_and_a_bad_one_costs_little() {
    let data = content(48 * CHUNK + 5);
    let good: Vec<Peer> = (0..4).map(|_| seed(&data, TEN_MBIT)).collect();
    let hash = good[0].library.list()[0].hash;
    let one = from_all(&data, hash, vec![good[0].connect()]).await;
    let all = |n: usize| good[..n].iter().map(Peer::connect).collect::<Vec<_>>();
    let four = from_all(&data, hash, all(4)).await;
    assert!(one / four >= 3.5, "one {one:.2} s, four {four:.2} s");

    // Three good ones and a fourth that is slow, dead, or lies: what three take, and less than a tenth more.
    let three = from_all(&data, hash, all(3)).await;
    let slow = seed(&data, 20_000);
    let (dead, _silent) = tokio::io::duplex(64 * 1024);
    for (name, fourth) in [("slow", slow.connect()), ("dead", dead), ("lying", lying(&good[3]))] {
        let mut streams = all(3);
        streams.insert(0, fourth);
        let took = from_all(&data, hash, streams).await;
        assert!(took < 1.1 * three, "with a {name} one {took:.2} s instead of {three:.2} s");
    }
}

/// A connection to a peer in which a bit of every run is wrong.
fn lying(peer: &Peer) -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let (mut requester, mut provider) = (Frames::new(theirs), Frames::new(peer.connect()));
    tokio::spawn(async move {
        while let Some(request) = requester.next().await {
            provider.send(request.freeze()).await;
            let Some(mut answer) = provider.next().await else { return };
            if answer.len() > 1000 {
                answer[900] ^= 1;
            }
            if !requester.send(answer.freeze()).await {
                return;
            }
        }
    });
    ours
}

#[tokio::test(start_paused = true)]
async fn three_that_stall_do_not_hold_up_the_one_that_delivers() {
    let data = content(24 * CHUNK);
    let good = seed(&data, 10_000_000);
    let hash = good.library.list()[0].hash;
    let alone = from_all(&data, hash, vec![good.connect()]).await;
    // They answer the first request and take the others, and nothing comes any more.
    let mut streams = vec![good.connect()];
    for _ in 0..3 {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let (mut requester, mut provider) = (Frames::new(theirs), Frames::new(good.connect()));
        streams.push(ours);
        tokio::spawn(async move {
            let open = requester.next().await.unwrap();
            provider.send(open.freeze()).await;
            let info = provider.next().await.unwrap();
            requester.send(info.freeze()).await;
            while requester.next().await.is_some() {}
        });
    }
    let took = from_all(&data, hash, streams).await;
    assert!(took <= 1.5 * alone, "{took:.2} s instead of {alone:.2} s");
}

#[tokio::test(start_paused = true)]
async fn a_limit_on_what_is_received_is_kept() {
    let data = content(8 * CHUNK);
    let from = seed(&data, 1 << 40);
    let hash = from.library.list()[0].hash;
    let mut to = receiver();
    to.config.throttle = Throttle::new([Arc::new(RateLimit::new(1 << 20))]);
    let download = start(&to, hash);
    download.add_source("a", from.connect());
    download.add_source("b", from.connect());
    let took = fetched_in(&to, &download, &data).await;
    assert!((7.6..=8.4).contains(&took), "8 MiB at 1 MiB/s took {took:.2} s");

    let to = receiver();
    let download = start(&to, hash);
    let limit = Arc::new(RateLimit::new(1 << 20));
    download.add_limited_source("limited", from.connect(), Some(limit));
    let took = fetched_in(&to, &download, &data).await;
    assert!((7.6..=8.4).contains(&took), "{took:.2} s");
}

/// Every receiver is connected to the seed and to every other.
#[tokio::test(start_paused = true)]
async fn a_seed_of_limited_speed_gives_a_crowd_little_more_than_one_copy() {
    const RECEIVERS: usize = 5;
    let data = content(64 * CHUNK);
    let seed = seed(&data, 10_000_000);
    let hash = seed.library.list()[0].hash;
    let alone = from_all(&data, hash, vec![seed.connect()]).await;
    let before = seed.stats.counts().bytes;

    let crowd: Vec<Peer> = (0..RECEIVERS).map(|_| receiver()).collect();
    let downloads: Vec<_> = crowd.iter().map(|peer| start(peer, hash)).collect();
    let begin = Instant::now();
    for download in &downloads {
        download.add_source("seed", seed.connect());
    }
    // Once they know what they fetch, they give it to each other.
    for peer in &crowd {
        while !peer.library.is_fetching(&hash) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    for (me, download) in downloads.iter().enumerate() {
        for (other, peer) in crowd.iter().enumerate().filter(|(other, _)| *other != me) {
            download.add_source(format!("receiver {other}"), peer.connect());
        }
    }
    for (peer, download) in crowd.iter().zip(&downloads) {
        let path = end_in_time(download).await;
        assert!(std::fs::read(path).unwrap() == data);
        peer.no_part_files();
    }
    let (took, gave) = (begin.elapsed().as_secs_f64(), seed.stats.counts().bytes - before);
    assert!(took <= 3.0 * alone, "{took:.2} s, one alone {alone:.2} s");
    assert!(gave < 2 * data.len() as u64, "the seed gave {gave} of {} bytes", data.len());
}

async fn ask(frames: &mut Frames<DuplexStream>, what: Request) -> Reply {
    frames.send(request(&what)).await;
    Reply::decode(&frames.next().await.unwrap()).unwrap().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_download_gives_what_it_has_and_says_what_that_is() {
    // Whole chunks: a short last one would come in the same moment as the one before it.
    let data = content(21 * CHUNK);
    let from = seed(&data, 1 << 20);
    let share = from.library.list()[0].clone();
    let to = receiver();
    let download = start(&to, share.hash);
    download.add_source("from", from.connect());
    while !to.library.is_fetching(&share.hash) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut third = Frames::new(to.connect());
    assert_eq!(ask(&mut third, Request::Open(share.hash)).await, Reply::Part(share.info));
    // The answer waits for the first chunk.
    let Reply::Held { first: 0, bits } = ask(&mut third, Request::Have { first: 0, known: 0 }).await else {
        panic!()
    };
    let had: Vec<u64> =
        (0..21).filter(|n| bits[usize::try_from(n / 8).unwrap()] >> (7 - n % 8) & 1 == 1).collect();
    assert_eq!((bits.len(), had.len()), (3, 1), "{bits:?}");
    let geometry = Geometry::new(share.info.length).unwrap();
    let run = geometry.run(64 * had[0] + 2, 2).unwrap();
    third.send(request(&Request::Get { first: run.first(), count: 2 })).await;
    let frame = third.next().await.unwrap();
    let (proof, bytes) = frame[11..].split_at(run.proof_len() * 32);
    verify_run(run, bytes, proof, &share.info.root).unwrap();

    // No news: another request brings the answer at once, in order.
    let before = Instant::now();
    third.send(request(&Request::Have { first: 0, known: 21 })).await;
    third.send(request(&Request::Get { first: run.first(), count: 2 })).await;
    assert!(matches!(Reply::decode(&third.next().await.unwrap()), Ok(Some(Reply::Held { .. }))));
    assert!(matches!(Reply::decode(&third.next().await.unwrap()), Ok(Some(Reply::Run { .. }))));
    assert!(before.elapsed() < Duration::from_secs(1));

    // What is not held is refused, and what does not exist ends the connection.
    let lacks = (0..21).find(|n| !had.contains(n)).unwrap();
    let answer = ask(&mut third, Request::Get { first: 64 * lacks, count: 64 }).await;
    assert!(matches!(answer, Reply::Error(p2p_files::protocol::ErrorCode::Busy)), "{answer:?}");
    let path = end_in_time(&download).await;
    assert!(std::fs::read(path).unwrap() == data);
    // The open part is whole by now.
    let Reply::Held { bits, .. } = ask(&mut third, Request::Have { first: 8, known: 0 }).await else {
        panic!()
    };
    assert_eq!(bits, [0xff, 0xf8]);
    let answer = ask(&mut third, Request::Have { first: 24, known: 0 }).await;
    assert!(matches!(answer, Reply::Error(p2p_files::protocol::ErrorCode::BadRequest)), "{answer:?}");
    assert!(!to.library.is_fetching(&share.hash));
}

#[tokio::test(start_paused = true)]
async fn a_source_that_lies_about_what_it_has_is_named() {
    let data = content(5 * CHUNK);
    let honest = seed(&data, 1 << 40);
    let share = honest.library.list()[0].clone();
    // A bit too few, bits of another place, something else.
    let lies = [
        Reply::Held { first: 0, bits: vec![] },
        Reply::Held { first: 8, bits: vec![0xff] },
        Reply::Held { first: 0, bits: vec![0xff; 32 * 1024] },
        Reply::NotFound,
    ];
    for lie in lies {
        let to = receiver();
        let download = start(&to, share.hash);
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let mut evil = Frames::new(theirs);
        download.add_source("evil", ours);
        assert!(evil.next().await.is_some(), "the open");
        evil.send(util::reply(&Reply::Part(share.info))).await;
        assert!(evil.next().await.is_some(), "the have");
        evil.send(util::reply(&lie)).await;
        let Some(p2p_files::DownloadEvent::SourceFailed { label, fault }) = download.next_event().await
        else {
            panic!()
        };
        assert!(label == "evil" && matches!(fault, SourceFault::Protocol(_)), "{fault}");
        download.add_source("honest", honest.connect());
        assert!(end(&download).await.is_ok());
    }
}
