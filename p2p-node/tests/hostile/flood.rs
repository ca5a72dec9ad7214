//! Too much of what is allowed: announcements, requests, questions, answers (faults 18, 19, 20), and links
//! that are not read (fault 9).

use std::time::{Duration, Instant};

use p2p_node::{Announced, ByeReason, Event, FileHash, Packet, Query};
use p2p_wire::{EnvelopeId, SecretKey, domain};

use crate::util::{
    Delivered, Hostile, Server, Stage, envelope, frame, hasty, key, kind, local, peer_down, push, record,
    refused,
};

fn id(author: &SecretKey, first: u64) -> EnvelopeId {
    EnvelopeId { author: author.id(), run: 1, first, count: 1 }
}

/// An announcement of an envelope that nobody pushes.
fn ihave(ids: impl IntoIterator<Item = EnvelopeId>) -> Packet {
    Packet::IHave(ids.into_iter().map(|id| Announced { id, hops: 1, wait: false }).collect())
}

fn pulls(packets: &[Packet]) -> usize {
    let wanted = |p: &Packet| match p {
        Packet::IWant(ids) => ids.len(),
        packet => usize::from(matches!(packet, Packet::Graft(Some(_)))),
    };
    packets.iter().map(wanted).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn announcements_of_nothing_are_asked_for_sparingly() {
    const LISTS: u64 = 30;
    let mut stage = Stage::new().await;
    let author = key(1);
    let mut peer = Hostile::join(stage.addr(), &key(2)).await;
    let mut answers = Vec::new();
    for list in 0..LISTS {
        peer.say(&ihave((0..1000).map(|n| id(&author, 1 + list * 1000 + n)))).await;
        answers.extend(peer.ping(list).await);
    }
    assert!((1..=64).contains(&pulls(&answers)), "{} pulls open", pulls(&answers));
    // At most 4,096 are remembered.
    let refused = refused(&stage.victim, "announcements").await;
    assert!(refused >= LISTS * 1000 - 4096, "{refused} refused");
    // What an honest neighbour announces (large ones are announced only) is asked for at once. Its mark
    // comes first, so that its messages have an order.
    stage.alive_and_untouched().await;
    let large = vec![5; 200_000];
    let began = Instant::now();
    stage.honest.send(large.clone()).await.unwrap();
    let delivered = stage.alive().await;
    assert!(delivered.victim == [large], "{} delivered", delivered.victim.len());
    assert!(began.elapsed() < Duration::from_secs(4), "after {:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_announcer_that_never_delivers_costs_one_wait() {
    let mut stage = Stage::new().await;
    let mut peer = Hostile::join(stage.addr(), &key(2)).await;
    let author = key(1);
    // Both have it, the hostile one says so first and keeps it.
    let large = envelope(&author, 1, &[6; 50_000]);
    peer.say(&ihave([large.id()])).await;
    assert_eq!(pulls(&peer.ping(1).await), 1);
    let began = Instant::now();
    let mut honest = Hostile::join(stage.addr(), &author).await;
    honest.say(&ihave([large.id()])).await;
    loop {
        if let Packet::IWant(wanted) = honest.next().await.expect("the node closed the connection") {
            assert_eq!(wanted, [large.id()]);
            break;
        }
    }
    assert!(began.elapsed() < Duration::from_secs(6), "asked after {:?}", began.elapsed());
    honest.write(&push(large.bytes())).await;
    honest.ping(2).await;
    // Both nodes have it; it is large, so the honest one is told and asks.
    let wanted = |event| matches!(event, Event::Message(m) if m.payload == vec![6; 50_000]).then_some(());
    stage.victim_event(wanted).await;
    stage.honest_event(wanted).await;
    stage.alive_and_untouched().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_message_is_sent_three_times_to_who_asks_however_often() {
    const ASKED: usize = 2000;
    let mut stage = Stage::new().await;
    let author = key(1);
    let mut source = Hostile::join(stage.addr(), &author).await;
    let wanted = envelope(&author, 1, &[9; 30_000]);
    source.write(&push(wanted.bytes())).await;
    source.ping(1).await;
    let mut peer = Hostile::join(stage.addr(), &key(2)).await;
    peer.write(&frame(kind::GRAFT, &wanted.id().to_bytes()).repeat(ASKED)).await;
    peer.write(&frame(kind::GRAFT, &[]).repeat(ASKED)).await;
    peer.write(&frame(kind::GRAFT, &id(&author, 77).to_bytes()).repeat(ASKED)).await;
    let mut answers = peer.ping(1).await;
    assert_eq!(refused(&stage.victim, "pulls").await, 2 * ASKED as u64 - 3);
    // The answers may come behind the pong; the goodbye comes behind all.
    stage.victim.disconnect(key(2).id()).await.unwrap();
    answers.extend(peer.rest().await);
    assert_eq!(answers.iter().filter(|p| matches!(p, Packet::Push { .. })).count(), 3);
    let large = vec![9; 30_000];
    assert_eq!(
        stage.alive().await,
        Delivered { victim: vec![large.clone().into()], honest: vec![large.into()] }
    );
}

pub(crate) fn query(key: &SecretKey, n: u64, ttl: u8) -> Query {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&n.to_be_bytes());
    let hash = FileHash::from_bytes([3; 32]);
    let signature = key.sign(domain::QUERY, &[key.id().as_bytes(), &id, hash.as_bytes()]);
    Query { ttl, origin: key.id(), id, hash, signature }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_questions_is_passed_on_at_its_rate() {
    let mut stage = Stage::new().await;
    let mut witness = Hostile::join(stage.addr(), &key(3)).await;
    let mut peer = Hostile::join(stage.addr(), &key(2)).await;
    for n in 0..500 {
        peer.say(&Packet::Query(query(&key(2), n, 16))).await;
    }
    peer.ping(1).await;
    let passed = witness.ping(1).await.iter().filter(|p| matches!(p, Packet::Query(_))).count();
    // Ten at once and one a second; the loop above takes a fraction of one.
    assert!((10..20).contains(&passed), "{passed} questions passed on");
    assert_eq!(refused(&stage.victim, "questions").await, 500 - passed as u64);
    // The same question again and again is one question.
    for _ in 0..100 {
        peer.say(&Packet::Query(query(&key(2), 0, 16))).await;
    }
    peer.ping(2).await;
    assert!(!witness.ping(2).await.iter().any(|p| matches!(p, Packet::Query(_))));
    stage.alive_and_untouched().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_with_a_forged_signature_ends_the_link_and_goes_nowhere() {
    let mut stage = Stage::new().await;
    let mut witness = Hostile::join(stage.addr(), &key(3)).await;
    let genuine = query(&key(9), 1, 16);
    let mut other_hash = genuine.clone();
    other_hash.hash = FileHash::from_bytes([4; 32]);
    let mut other_id = genuine.clone();
    other_id.id[0] ^= 1;
    let mut other_origin = genuine.clone();
    other_origin.origin = key(8).id();
    let mut no_key = genuine.clone();
    no_key.origin = p2p_node::NodeId::from_bytes([1; 32]);
    for (n, forged) in [other_hash, other_id, other_origin, no_key].into_iter().enumerate() {
        let mut peer = Hostile::join(stage.addr(), &key(20 + n as u64)).await;
        peer.say(&Packet::Query(forged)).await;
        assert_eq!(peer.closed().await, Some(ByeReason::Misbehaved), "case {n}");
    }
    assert!(!witness.ping(1).await.iter().any(|p| matches!(p, Packet::Query(_))));
    // Who passes a genuine one on is not its origin, and nothing is wrong with that.
    let mut peer = Hostile::join(stage.addr(), &key(2)).await;
    peer.say(&Packet::Query(genuine)).await;
    peer.ping(1).await;
    let passed = witness.ping(2).await;
    assert!(
        passed
            .iter()
            .any(|p| matches!(p, Packet::Query(q) if q.id == query(&key(9), 1, 1).id && q.ttl == 15))
    );
    stage.alive_and_untouched().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_asked_for_lead_nowhere() {
    let mut stage = Stage::new().await;
    let trap = Server::new(key(4)).await;
    let told = record(&key(4), 1, &[trap.addr]);
    let mut peer = Hostile::join(stage.addr(), &key(2)).await;
    for n in 0..200 {
        let records = vec![told.bytes().clone()];
        let answer = p2p_node::Answer { id: [n; 16], provider: key(4).id(), records, name: None };
        peer.say(&Packet::Answer(answer)).await;
    }
    peer.ping(1).await;
    stage.alive_and_untouched().await;
    assert_eq!(stage.victim.status().await.known_peers, 2);
    assert_eq!(trap.waiting(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_is_never_read_holds_nobody_up_and_is_closed() {
    let mut stage = Stage::with(hasty(|limits| {
        limits.stalled_link = Duration::from_secs(1);
        limits.queue_bytes = 256 * 1024;
    }))
    .await;
    let mut events = stage.victim.events();
    let deaf = Hostile::join(stage.addr(), &key(2)).await;
    let sent: Vec<Vec<u8>> = (0..1000u32).map(|n| [&n.to_be_bytes()[..], &[1; 20_000]].concat()).collect();
    for payload in &sent {
        stage.victim.send(payload.clone()).await.unwrap();
    }
    let delivered = stage.alive().await;
    assert!(delivered.honest == sent, "{} of {} arrived", delivered.honest.len(), sent.len());
    peer_down(&mut events, key(2).id()).await;
    drop(deaf);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_is_never_read_does_not_delay_the_end() {
    let victim = local().start().await.unwrap();
    let deaf = Hostile::join(victim.listen_addrs()[0], &key(2)).await;
    for _ in 0..100 {
        victim.send(vec![1; 30_000]).await.unwrap();
    }
    let began = Instant::now();
    victim.shutdown().await;
    assert!(began.elapsed() < Duration::from_secs(5), "stopped after {:?}", began.elapsed());
    drop(deaf);
}
