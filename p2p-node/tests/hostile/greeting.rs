//! The first frames: hello, and what comes instead of it.

use std::time::{Duration, Instant};

use bytes::Bytes;
use p2p_node::{ByeReason, Packet};
use p2p_wire::{MAX_FRAME_CONTROL, encode_frame};
use tokio::time::sleep;

use crate::util::{
    Hostile, SOON, Stage, envelope, eventually, frame, hasty, hello, key, kind, push, record, refused,
    refused_connections,
};

/// Says `bytes` first and returns what the node says before it closes the connection.
async fn first(stage: &Stage, bytes: &[u8]) -> Vec<Packet> {
    let mut peer = Hostile::open(stage.addr(), &key(5)).await;
    peer.write(bytes).await;
    peer.rest().await
}

/// A MessagePack string of less than 256 bytes.
fn text(s: &str) -> Vec<u8> {
    [&[0xd9, u8::try_from(s.len()).unwrap()], s.as_bytes()].concat()
}

/// A hello frame of an agent, a name and what else is in the map.
fn raw_hello(agent: &str, name: &str, more: &[u8], fields: u8) -> Vec<u8> {
    let map = [0x83 + fields, 0xa1, b'v', 1, 0xa1, b'a'];
    frame(kind::HELLO, &[&map[..], &text(agent), &[0xa1, b'n'], &text(name), more].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_does_not_say_a_proper_hello_learns_nothing() {
    let mut stage = Stage::new().await;
    let ping = encode_frame(&Packet::Ping(1)).unwrap();
    let address = "127.0.0.1:9".parse().unwrap();
    let (own, others) = (record(&key(5), 1, &[address]), record(&key(6), 1, &[address]));
    let mut forged = own.bytes().to_vec();
    forged[40] ^= 1;
    let with = |records: Vec<Bytes>| encode_frame(&hello(records)).unwrap().to_vec();
    let three = [&[0xa1, b'r', 0x93][..], &[0xc4, 1, 0].repeat(3)].concat();
    let cases = [
        ("ping first", ping.to_vec()),
        ("push first", push(envelope(&key(5), 1, b"early").bytes())),
        ("goodbye first", encode_frame(&Packet::Bye(ByeReason::Leaving)).unwrap().to_vec()),
        ("unknown kind first", frame(200, &[])),
        ("empty hello", frame(kind::HELLO, &[])),
        ("hello without fields", frame(kind::HELLO, &[0x80])),
        ("hello of 64 KiB and 1", vec![0, 1, 0, 1, kind::HELLO]),
        ("agent with an escape", raw_hello("\u{1b}[2J", "x", &[], 0)),
        ("name with a line break", raw_hello("a", "x\ny", &[], 0)),
        ("name written backwards", raw_hello("a", "\u{202e}gnp", &[], 0)),
        ("name of 33 bytes", raw_hello("a", &"x".repeat(33), &[], 0)),
        ("name that is empty", raw_hello("a", "", &[], 0)),
        ("observed at 5 bytes", raw_hello("a", "x", &[0xa1, b'o', 0xc4, 5, 1, 2, 3, 4, 5], 1)),
        ("three records", raw_hello("a", "x", &three, 1)),
        ("somebody else's record", with(vec![others.bytes().clone()])),
        ("own and somebody else's record", with(vec![own.bytes().clone(), others.bytes().clone()])),
        ("own record, forged", with(vec![forged.into()])),
        ("a record cut off", with(vec![own.bytes().slice(1..)])),
    ];
    let count = cases.len() as u64;
    for (what, bytes) in cases {
        assert_eq!(first(&stage, &bytes).await, [], "{what}");
    }
    refused_connections(&stage.victim, count).await;
    assert_eq!(stage.victim.peers().await.len(), 1, "only the honest neighbour is known");
    // Every part of it is fine when it is true; fields of later versions are passed over.
    let later = [0xa1, b'z', 0x91, 0xc0];
    let mut peer = Hostile::open(stage.addr(), &key(5)).await;
    peer.write(&raw_hello("a", "x", &later, 1)).await;
    assert!(matches!(peer.next().await, Some(Packet::Hello(_))));
    let mut peer = Hostile::open(stage.addr(), &key(7)).await;
    peer.write(&with(vec![record(&key(7), 1, &[address]).bytes().clone()])).await;
    assert!(matches!(peer.next().await, Some(Packet::Hello(_))));
    assert!(with(Vec::new()).len() < MAX_FRAME_CONTROL);
    stage.alive_and_untouched().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hello_twice_ends_the_link() {
    let mut stage = Stage::new().await;
    let mut peer = Hostile::join(stage.addr(), &key(1)).await;
    peer.say(&hello(Vec::new())).await;
    assert_eq!(peer.closed().await, Some(ByeReason::Misbehaved));
    // Both in one write as well.
    let mut peer = Hostile::open(stage.addr(), &key(2)).await;
    peer.write(&encode_frame(&hello(Vec::new())).unwrap().repeat(2)).await;
    assert_eq!(peer.closed().await, Some(ByeReason::Misbehaved));
    stage.alive_and_untouched().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_refused_reads_why_and_cannot_keep_its_connection() {
    // The honest neighbour has the only place.
    let mut stage = Stage::with(hasty(|limits| (limits.max_in, limits.handshakes) = (1, 2))).await;
    let greeting = encode_frame(&hello(Vec::new())).unwrap().to_vec();
    // Whoever finds no room is told of others, but not more than two of one address at once.
    let mut silent = Vec::new();
    for n in 2..4 {
        silent.push(Hostile::greet(stage.addr(), &key(n)).await);
    }
    // One that has said much more, and is in no hurry to read: no reset overtakes the answer.
    let mut peer = Hostile::open(stage.addr(), &key(1)).await;
    peer.write(&[greeting.clone(), encode_frame(&Packet::Ping(1)).unwrap().repeat(5000)].concat()).await;
    sleep(Duration::from_millis(300)).await;
    assert_eq!(peer.closed().await, Some(ByeReason::Full));
    // It has its socket open still. Each that is there too many costs one before it.
    let began = Instant::now();
    eventually("its connection is closed", async || !peer.say(&Packet::Ping(1)).await).await;
    assert!(began.elapsed() < SOON, "after {:?}", began.elapsed());
    let mut kept = Vec::new();
    for n in 0..50 {
        let mut peer = Hostile::open(stage.addr(), &key(1000 + n)).await;
        peer.write(&greeting).await;
        assert_eq!(peer.closed().await, Some(ByeReason::Full));
        kept.push(peer);
    }
    eventually("the oldest were dropped", async || refused(&stage.victim, "connections").await > 0).await;
    stage.alive_and_untouched().await;
}
