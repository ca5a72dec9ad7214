//! Envelopes that their author did not make, or made long ago (faults 13, 14, 17).

use p2p_node::{ByeReason, Event, Packet};
use p2p_wire::{Envelope, NewEntry};

use crate::util::{Delivered, Hostile, Stage, envelope, frame, key, kind, local, peer_down, push, refused};

/// A genuine envelope with the byte at `at` (from the end if negative) changed.
fn forged(genuine: &Envelope, at: isize) -> Vec<u8> {
    let mut bytes = genuine.bytes().to_vec();
    let at = bytes.len().wrapping_add_signed(at) % bytes.len();
    bytes[at] ^= 1;
    bytes
}

/// Where the last byte of the payload is, from the end.
const PAYLOAD: isize = -65;

fn both(payloads: &[&'static str]) -> Delivered {
    let payloads: Vec<_> = payloads.iter().map(|p| p.as_bytes().into()).collect();
    Delivered { victim: payloads.clone(), honest: payloads }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forger_is_out_and_kept_out_and_nobody_else_is() {
    let mut stage = Stage::new().await;
    let mut events = stage.victim.events();
    let (author, forger) = (key(1), key(2));
    let genuine = envelope(&author, 1, b"genuine");
    let mut peer = Hostile::join(stage.addr(), &forger).await;
    peer.write(&push(&forged(&genuine, PAYLOAD))).await;
    assert_eq!(peer.closed().await, Some(ByeReason::Misbehaved));
    peer_down(&mut events, forger.id()).await;
    assert_eq!((refused(&stage.victim, "forged").await, refused(&stage.victim, "misbehaved").await), (1, 1));
    stage.victim_event(|event| matches!(event, Event::Warning(_)).then_some(())).await;
    // The same key again, from another port: refused. Another key from the same address: welcome.
    let mut again = Hostile::open(stage.addr(), &forger).await;
    again.say(&crate::util::hello(Vec::new())).await;
    assert_eq!(again.rest().await, [Packet::Bye(ByeReason::Banned)]);
    // The forged copy was first, and does not suppress the genuine one.
    let mut other = Hostile::join(stage.addr(), &author).await;
    other.write(&push(genuine.bytes())).await;
    other.ping(1).await;
    assert_eq!(stage.alive().await, both(&["genuine"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_byte_of_an_envelope_can_be_changed() {
    let mut stage = Stage::new().await;
    let author = key(1);
    let genuine = envelope(&author, 5, b"every byte counts");
    for at in 0..genuine.bytes().len() {
        let mut peer = Hostile::join(stage.addr(), &key(100 + at as u64)).await;
        peer.write(&push(&forged(&genuine, at.cast_signed()))).await;
        assert_eq!(peer.closed().await, Some(ByeReason::Misbehaved), "byte {at}");
    }
    assert!(refused(&stage.victim, "forged").await > 0);
    stage.alive_and_untouched().await;
    let mut peer = Hostile::join(stage.addr(), &author).await;
    peer.write(&push(genuine.bytes())).await;
    peer.ping(1).await;
    assert_eq!(stage.alive().await, both(&["every byte counts"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_neighbours_next_message_cannot_be_taken_from_it() {
    let mut stage = Stage::new().await;
    let mut peer = Hostile::join(stage.addr(), &key(1)).await;
    let sent = stage.honest.send("first").await.unwrap();
    // Wait for it here too: its run is in it.
    let first = loop {
        match peer.next().await.expect("the node closed the connection") {
            Packet::Push { id, .. } if id.author == stage.honest.id() => break id,
            _ => {}
        }
    };
    assert_eq!(first.first, sent.seq);
    // The next number of the honest author, signed by the forger.
    let made = envelope(&key(1), first.first + 1, b"not mine");
    let mut bytes = made.bytes().to_vec();
    bytes[1..33].copy_from_slice(stage.honest.id().as_bytes());
    bytes[33..41].copy_from_slice(&first.run.to_be_bytes());
    peer.write(&push(&bytes)).await;
    assert_eq!(peer.closed().await, Some(ByeReason::Misbehaved));
    stage.honest.send("second").await.unwrap();
    let delivered = stage.alive().await;
    assert_eq!(delivered.victim, ["first", "second"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_and_the_genuine_copy_in_one_write() {
    let mut stage = Stage::new().await;
    let author = key(1);
    // Forged in front: the link is closed before the genuine one, which comes by another.
    let genuine = envelope(&author, 1, b"one");
    let mut peer = Hostile::join(stage.addr(), &key(2)).await;
    peer.write(&[push(&forged(&genuine, PAYLOAD)), push(genuine.bytes())].concat()).await;
    assert_eq!(peer.closed().await, Some(ByeReason::Misbehaved));
    let mut honest = Hostile::join(stage.addr(), &author).await;
    honest.write(&push(genuine.bytes())).await;
    honest.ping(1).await;
    // Genuine in front: a copy of what is verified is dropped without a look at its signature.
    let genuine = envelope(&author, 2, b"two");
    let mut peer = Hostile::join(stage.addr(), &key(3)).await;
    peer.write(&[push(genuine.bytes()), push(&forged(&genuine, PAYLOAD))].concat()).await;
    peer.ping(1).await;
    assert_eq!(stage.alive().await, both(&["one", "two"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorded_session_replayed_is_delivered_once() {
    const COUNT: u64 = 200;
    let mut stage = Stage::new().await;
    let author = key(1);
    let recorded: Vec<u8> =
        (1..=COUNT).flat_map(|seq| push(envelope(&author, seq, &seq.to_be_bytes()).bytes())).collect();
    let expected: Vec<_> = (1..=COUNT).map(|seq| seq.to_be_bytes().to_vec()).collect();
    let mut total = Delivered { victim: Vec::new(), honest: Vec::new() };
    // Ten times: twice by each of five keys, each of which comes back once.
    for replay in 0..10 {
        let mut peer = Hostile::join(stage.addr(), &key(10 + replay % 5)).await;
        peer.write(&recorded).await;
        peer.ping(1).await;
        let delivered = stage.alive().await;
        total.victim.extend(delivered.victim);
        total.honest.extend(delivered.honest);
    }
    assert_eq!(total.victim, expected);
    assert_eq!(total.honest, expected);
    assert_eq!(refused(&stage.victim, "forged").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_envelope_over_and_over_ends_the_link() {
    let mut stage = Stage::new().await;
    let one = push(envelope(&key(1), 1, b"again").bytes());
    let mut peer = Hostile::join(stage.addr(), &key(2)).await;
    peer.write(&one.repeat(20_000)).await;
    assert_eq!(peer.closed().await, Some(ByeReason::Misbehaved));
    assert_eq!(stage.alive().await, both(&["again"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn private_bodies_that_cannot_be_opened_are_counted_and_not_shown() {
    let mut stage = Stage::new().await;
    let (author, victim) = (key(1), stage.victim.id());
    let entry = |payload| NewEntry { topic: "", time_ms: 0, recipient: Some(victim), payload };
    let other_seq = p2p_wire::seal(&mut rand::rng(), &author.id(), 9, &victim, b"for seq 9").unwrap();
    let other_author = p2p_wire::seal(&mut rand::rng(), &key(2).id(), 3, &victim, b"of another").unwrap();
    let bodies: [&[u8]; 4] = [&[], &[7; 48], &other_seq, &other_author];
    let mut peer = Hostile::join(stage.addr(), &author).await;
    for (seq, body) in (0..).zip(bodies) {
        let sent = Envelope::sign(&author, 0, seq, &[entry(body)]).unwrap();
        peer.write(&push(sent.bytes())).await;
    }
    peer.ping(1).await;
    stage.alive_and_untouched().await;
    assert_eq!(refused(&stage.victim, "unreadable_private").await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_that_runs_elsewhere_is_noticed_and_outnumbered() {
    let identity = key(42);
    let mut stage = Stage::with(local().key(identity.clone())).await;
    let seq = stage.victim.send("before").await.unwrap().seq;
    let elsewhere = Envelope::sign(
        &identity,
        seq + 500,
        seq + 500,
        &[NewEntry { topic: "", time_ms: 0, recipient: None, payload: b"elsewhere" }],
    );
    let mut peer = Hostile::join(stage.addr(), &key(1)).await;
    peer.write(&push(elsewhere.unwrap().bytes())).await;
    peer.ping(1).await;
    let warning = stage.victim_event(|event| match event {
        Event::Warning(text) => Some(text),
        _ => None,
    });
    assert!(warning.await.contains("in use elsewhere"));
    assert!(stage.victim.send("after").await.unwrap().seq > seq + 500);
    let delivered = stage.alive().await;
    assert!(delivered.victim.is_empty(), "a node does not hear itself: {:?}", delivered.victim);
    for sent in ["before", "elsewhere", "after"] {
        assert!(delivered.honest.iter().any(|p| p == sent), "{sent} is missing in {:?}", delivered.honest);
    }
    // A body that is none, with the node's own id, is no reason for alarm.
    peer.write(&frame(kind::GRAFT, &[])).await;
    peer.ping(2).await;
}
