//! Frames that lie, are broken, come in pieces or do not end (faults 1, 2, 3, 5).

use std::time::{Duration, Instant};

use p2p_gossip::Course;
use p2p_node::{Announced, ByeReason, Event, Packet, View};
use p2p_wire::{MAX_FRAME_CONTROL, MAX_FRAME_PAYLOAD, MAX_PAYLOAD, NewEntry};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::{MissedTickBehavior, interval};

use crate::util::{
    DEADLINE, Hostile, SOON, Stage, envelope, frame, hasty, hello, key, kind, peer_down, push, record,
    refused,
};

/// The node says why, closes, and stays alive.
async fn is_closed_for(stage: &mut Stage, n: u64, what: &str, bytes: &[u8]) {
    let mut peer = Hostile::join(stage.addr(), &key(n)).await;
    let began = Instant::now();
    peer.write(bytes).await;
    assert_eq!(peer.closed().await, Some(ByeReason::Misbehaved), "{what}");
    assert!(began.elapsed() < SOON, "{what}: closed after {:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_length_that_lies_closes_the_link_before_the_body_comes() {
    let mut stage = Stage::new().await;
    let control = u32::try_from(MAX_FRAME_CONTROL).unwrap() + 1;
    let payload = u32::try_from(MAX_FRAME_PAYLOAD).unwrap() + 1;
    // A length alone is enough where no kind allows it; else the kind has to be there.
    let lies: [(u32, &[u8]); 7] = [
        (0, &[]),
        (u32::MAX, &[]),
        (u32::MAX, &[kind::PUSH]),
        (payload, &[kind::PUSH]),
        (payload, &[]),
        (control, &[kind::PING]),
        (control, &[200]),
    ];
    for (n, (len, rest)) in lies.into_iter().enumerate() {
        let bytes = [&len.to_be_bytes()[..], rest].concat();
        is_closed_for(&mut stage, n as u64, &format!("length {len} with {rest:?}"), &bytes).await;
    }
    stage.alive_and_untouched().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_of_exactly_the_limit_are_taken() {
    let mut stage = Stage::new().await;
    let author = key(1);
    let mut peer = Hostile::join(stage.addr(), &author).await;
    peer.write(&frame(200, &vec![0; MAX_FRAME_CONTROL - 1])).await;
    let topic = "t".repeat(p2p_wire::MAX_TOPIC);
    let payload = vec![7; MAX_PAYLOAD];
    let entry = NewEntry { topic: &topic, time_ms: 0, recipient: None, payload: &payload };
    let largest = p2p_wire::Envelope::sign(&author, 1, 1, &[entry]).unwrap();
    peer.write(&push(largest.bytes())).await;
    peer.ping(1).await;
    assert_eq!(refused(&stage.victim, "unknown_frames").await, 1);
    // The victim announces it, and the honest node pulls it: that may take longer than the marks of `alive`.
    let whole = |event: Event| matches!(event, Event::Message(m) if m.payload == payload).then_some(());
    stage.victim_event(whole).await;
    stage.honest_event(whole).await;
    stage.alive_and_untouched().await;
}

/// A MessagePack map of one field: `{name: value}`.
fn map(name: &[u8], value: &[u8]) -> Vec<u8> {
    let fixstr = 0xa0 | u8::try_from(name.len()).unwrap();
    [&[0x81, fixstr], name, value].concat()
}

/// Bodies that no honest node sends, of every kind.
fn malformed() -> Vec<(&'static str, Vec<u8>)> {
    let genuine = envelope(&key(99), 1, b"whole").bytes().to_vec();
    // Flags, author, first, first - run, count if it is not 1, hops.
    let line = |flags: u8, back: &[u8], first: u64, count: &[u8]| {
        [&[flags][..], key(9).id().as_bytes(), &first.to_be_bytes(), back, count, &[0]].concat()
    };
    let ihave =
        |flags, back: &[u8], first, count: &[u8]| frame(kind::IHAVE, &line(flags, back, first, count));
    let id = |count: u8, run: u64, first: u64| {
        [key(9).id().as_bytes(), &run.to_be_bytes()[..], &first.to_be_bytes(), &[count]].concat()
    };
    let shuffle = |list: &[u8]| {
        let fields = [&[0x83, 0xa1, b'i', 1, 0xa1, b't', 1, 0xa1, b'r'][..], list].concat();
        frame(kind::SHUFFLE, &fields)
    };
    let huge_array = [0xdd, 0xff, 0xff, 0xff, 0xff];
    let huge_bin = [0xc6, 0xff, 0xff, 0xff, 0xff];
    let records = |count: u16| {
        let list = [&[0xdc][..], &count.to_be_bytes(), &[0xc4, 1, 0].repeat(count.into())].concat();
        shuffle(&list)
    };
    let twice = [&[0x82][..], &map(b"n", &[1])[1..], &map(b"n", &[2])[1..]].concat();
    let answer = |records: u8| {
        let mut body = vec![0x83, 0xa1, b'q', 0xdc, 0, 16];
        body.extend([1; 16]);
        body.extend([&[0xa1, b'p', 0xc4, 32][..], key(9).id().as_bytes()].concat());
        body.extend([&[0xa1, b'r', 0x90 | records][..], &[0xc4, 1, 0].repeat(records.into())].concat());
        frame(kind::ANSWER, &body)
    };
    vec![
        ("second hello, none at all", frame(kind::HELLO, &[])),
        ("bye that is empty", frame(kind::BYE, &[])),
        ("bye of the wrong type", frame(kind::BYE, &map(b"r", &[0xa1, b'x']))),
        ("bye beyond a byte", frame(kind::BYE, &map(b"r", &[0xcd, 1, 0]))),
        ("ping that is empty", frame(kind::PING, &[])),
        ("ping cut off", frame(kind::PING, &map(b"n", &[0xcf, 1, 2]))),
        ("ping that is a list", frame(kind::PING, &[0x91, 1])),
        ("ping below zero", frame(kind::PING, &map(b"n", &[0xff]))),
        ("ping without its field", frame(kind::PING, &[0x80])),
        ("ping with a field twice", frame(kind::PING, &twice)),
        ("ping with bytes behind", frame(kind::PING, &[map(b"n", &[1]), vec![0]].concat())),
        ("ping nested 10,000 deep", frame(kind::PING, &map(b"x", &[0x91; 10_000]))),
        ("ping of a reserved byte", frame(kind::PING, &[0xc1])),
        ("ping with a map of 2^32", frame(kind::PING, &[0xdf, 0xff, 0xff, 0xff, 0xff])),
        ("ping with a key of 10,000", {
            let name = [&[0x81, 0xda, 0x27, 0x10][..], &[b'n'; 10_000], &[1]].concat();
            frame(kind::PING, &name)
        }),
        ("pong of text", frame(kind::PONG, &map(b"n", &[0xa1, b'1']))),
        ("shuffle with 2^32 records", shuffle(&huge_array)),
        ("shuffle with a record of 2^32 bytes", shuffle(&[&[0x91][..], &huge_bin].concat())),
        ("shuffle with 33 records", records(33)),
        ("shuffle with a broken record", records(1)),
        ("shuffle that does not say how far", frame(kind::SHUFFLE, &map(b"i", &[1]))),
        ("join that is empty", frame(6, &[])),
        ("news of nobody said", frame(7, &map(b"t", &[1]))),
        ("neighbor that does not say how much", frame(8, &[0x80])),
        ("answer that says neither yes nor no", frame(9, &map(b"r", &[0x90]))),
        ("reply to nothing", frame(11, &map(b"r", &[0x90]))),
        ("push without a header", frame(kind::PUSH, &[0; 5])),
        ("push of nothing", frame(kind::PUSH, &[0; 6])),
        ("push cut off", push(&genuine[..genuine.len() - 1])),
        ("push with bytes behind", push(&[&genuine[..], &[0]].concat())),
        ("push of an older version", push(&[&[1], &genuine[1..]].concat())),
        ("push of a newer version", push(&[&[3], &genuine[1..]].concat())),
        ("ihave cut off", frame(kind::IHAVE, &[1; 50])),
        ("ihave of an empty bundle", ihave(4, &[0], 1, &[0])),
        ("ihave of too large a bundle", ihave(4, &[0], 1, &[65])),
        ("ihave from before its run", ihave(0, &[2], 1, &[])),
        ("ihave beyond the last number", ihave(4, &[0], u64::MAX, &[2])),
        ("ihave with an endless number", ihave(0, &[0xff; 11], 1, &[])),
        ("ihave with a number in another form", ihave(0, &[0x81, 0], 1, &[])),
        ("ihave with unknown flags", ihave(8, &[0], 1, &[])),
        ("ihave without an author", frame(kind::IHAVE, &[&[2][..], &[0; 10]].concat())),
        ("ihave of 1001", frame(kind::IHAVE, &line(0, &[0], 1, &[]).repeat(1001))),
        ("iwant cut off", frame(kind::IWANT, &[1; 48])),
        ("iwant of what cannot be", frame(kind::IWANT, &id(0, 1, 1))),
        ("iwant of 65", frame(kind::IWANT, &id(1, 1, 1).repeat(65))),
        ("graft cut off", frame(kind::GRAFT, &[1; 48])),
        ("graft with bytes behind", frame(kind::GRAFT, &[&id(1, 1, 1)[..], &[0]].concat())),
        ("graft of what cannot be", frame(kind::GRAFT, &id(0, 1, 1))),
        ("prune with a body", frame(kind::PRUNE, &[0])),
        ("query cut off", frame(kind::QUERY, &[1; 144])),
        ("query that travels 0 links", frame(kind::QUERY, &[0; 145])),
        ("query that travels 17 links", frame(kind::QUERY, &[&[17][..], &[0; 144]].concat())),
        ("answer that is empty", frame(kind::ANSWER, &[])),
        ("answer of 3 records", answer(3)),
        ("answer with 2^32 records", frame(kind::ANSWER, &map(b"r", &huge_array))),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_bodies_of_every_kind_close_the_link() {
    let mut stage = Stage::new().await;
    for (n, (what, bytes)) in malformed().into_iter().enumerate() {
        is_closed_for(&mut stage, n as u64, what, &bytes).await;
    }
    stage.alive_and_untouched().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_kinds_are_skipped_and_counted() {
    let mut stage = Stage::new().await;
    let mut peer = Hostile::join(stage.addr(), &key(1)).await;
    for kind in [0, 5, 99, 255] {
        peer.write(&frame(kind, b"from a later version")).await;
    }
    peer.ping(7).await;
    assert_eq!(refused(&stage.victim, "unknown_frames").await, 4);
    stage.alive_and_untouched().await;
}

/// Hello, a request, pings, a message, its announcement, a shuffle, a goodbye.
fn session(author: u64) -> Vec<u8> {
    let (author, sent) = (key(author), envelope(&key(author), 1, b"in pieces"));
    let someone = record(&key(77), 1, &["127.0.0.1:9".parse().unwrap()]);
    let packets = [
        hello(Vec::new()),
        Packet::View(View::Join),
        Packet::Ping(1),
        Packet::Push {
            id: sent.id(),
            hops: 1,
            course: Course::Tree,
            age: Duration::ZERO,
            envelope: sent.bytes().clone(),
        },
        Packet::IHave(vec![Announced { id: sent.id(), hops: 1, wait: true }]),
        Packet::IWant(vec![sent.id()]),
        Packet::View(View::Shuffle { id: 1, ttl: 1, records: vec![someone.bytes().clone()] }),
        Packet::Graft(Some(sent.id())),
        Packet::Prune,
        Packet::Ping(2),
        Packet::Bye(ByeReason::Leaving),
    ];
    assert_eq!(sent.id().author, author.id());
    packets.iter().flat_map(|p| p2p_wire::encode_frame(p).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_in_pieces_or_all_at_once_are_the_same_session() {
    let mut stage = Stage::with(crate::util::local().discover(false)).await;
    for author in [1, 2] {
        let bytes = session(author);
        let size = if author == 1 { 1 } else { bytes.len() };
        let mut peer = Hostile::open(stage.addr(), &key(author)).await;
        for piece in bytes.chunks(size) {
            assert!(peer.write(piece).await, "closed in the middle");
        }
        let answers = peer.rest().await;
        let pongs: Vec<_> = answers.iter().filter(|p| matches!(p, Packet::Pong(_))).collect();
        assert_eq!(pongs, [&Packet::Pong(1), &Packet::Pong(2)]);
        assert!(matches!(answers.first(), Some(Packet::Hello(_))), "{answers:?}");
        let delivered = stage.alive().await;
        assert_eq!(delivered.victim, ["in pieces"]);
        assert_eq!(delivered.honest, ["in pieces"]);
    }
    assert_eq!(refused(&stage.victim, "unknown_frames").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_that_drips_is_cut_off_at_its_deadline() {
    const LIMIT: Duration = Duration::from_millis(400);
    let mut stage = Stage::with(hasty(|limits| limits.frame_timeout = LIMIT)).await;
    let mut events = stage.victim.events();
    let (mut reader, mut writer) = {
        let peer = Hostile::join(stage.addr(), &key(1)).await;
        tokio::io::split(peer.stream)
    };
    let began = Instant::now();
    let drip = async {
        let mut tick = interval(LIMIT / 20);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let bytes = frame(200, &[0; 60_000]);
        for byte in bytes {
            tick.tick().await;
            if tokio::io::AsyncWriteExt::write_all(&mut writer, &[byte]).await.is_err() {
                break;
            }
        }
    };
    let mut rest = Vec::new();
    let read = tokio::io::AsyncReadExt::read_to_end(&mut reader, &mut rest);
    let ended = async {
        tokio::select! {
            _ = read => {}
            () = drip => {}
        }
    };
    tokio::time::timeout(DEADLINE, ended).await.expect("the drip went on and on");
    assert!((LIMIT..SOON).contains(&began.elapsed()), "cut off after {:?}", began.elapsed());
    let reason = peer_down(&mut events, key(1).id()).await;
    assert!(reason.contains("not complete"), "{reason}");
    stage.alive_and_untouched().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mutations_of_a_recorded_session_leave_the_node_alive() {
    const ROUNDS: u64 = 120;
    let mut stage = Stage::with(crate::util::local().discover(false)).await;
    let mut rng = StdRng::seed_from_u64(20_240_501);
    for round in 0..ROUNDS {
        let mut bytes = session(1000 + round);
        for _ in 0..rng.random_range(1..4) {
            let at = rng.random_range(0..bytes.len());
            match rng.random_range(0..4) {
                0 => bytes[at] ^= 1 << rng.random_range(0..8),
                1 => bytes[at] = rng.random(),
                2 => drop(bytes.remove(at)),
                _ => bytes.insert(at, rng.random()),
            }
        }
        let mut peer = Hostile::open(stage.addr(), &key(1000 + round)).await;
        peer.write(&bytes).await;
        tokio::io::AsyncWriteExt::shutdown(&mut peer.stream).await.ok();
        peer.rest().await;
    }
    let delivered = stage.alive().await;
    // A mutation behind the message leaves it whole.
    assert!(delivered.victim.iter().all(|payload| payload == "in pieces"));
    assert_eq!(delivered.victim, delivered.honest);
}
