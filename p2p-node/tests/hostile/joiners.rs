//! Who wants in, and wants it again and again.

use std::time::{Duration, Instant};

use p2p_node::{ByeReason, Packet, View};
use p2p_wire::PeerRecord;

use crate::util::{Hostile, SOON, Stage, eventually, hasty, key, local, peer_up, refused, start, target};

/// Neighbours at most, besides those the user asked for.
const ACTIVE: usize = 10;
/// Of those that dialled, the oldest that nobody displaces.
const PROTECTED: u64 = 4;

/// Faults row 20. The honest neighbour came first and is one of the oldest; three more are.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_joiners_displaces_none_of_the_oldest() {
    const JOINERS: u64 = 300;
    // It looks for nobody itself, so that who is there is who came.
    let mut stage = Stage::with(local().discover(false)).await;
    let mut oldest = Vec::new();
    for n in 1..PROTECTED {
        oldest.push(Hostile::join(stage.addr(), &key(n)).await);
    }
    let mut crowd = Vec::new();
    for n in 0..JOINERS {
        let joiner = Hostile::join(stage.addr(), &key(100 + n)).await;
        let links = stage.victim.status().await.links;
        assert!(links <= ACTIVE, "{links} neighbours after {n} joiners");
        crowd.push(joiner);
    }
    for peer in &mut oldest {
        peer.ping(1).await;
    }
    stage.alive_and_untouched().await;
    // An id that displaced somebody, and was displaced, does not do so again at once.
    let linked = stage.victim.peers().await;
    let gone = (JOINERS - 50..JOINERS)
        .map(|n| key(100 + n))
        .find(|k| linked.iter().all(|p| p.id != k.id() || p.direction.is_none()));
    let mut again = Hostile::greet(stage.addr(), &gone.expect("six places are free for fifty")).await;
    assert!(!again.ask(&View::Join).await, "the same id displaces somebody every time");
    assert!(refused(&stage.victim, "neighbours").await > 0, "and is counted");
}

/// What a neighbour has no business to say changes nothing and is counted, however often it says it.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_requests_over_one_link_change_nothing() {
    const REQUESTS: usize = 10_000;
    let mut stage = Stage::new().await;
    let mut peer = Hostile::join(stage.addr(), &key(1)).await;
    let before = stage.victim.status().await.links;
    let requests = [
        Packet::View(View::Join),
        Packet::View(View::Neighbor { high: true }),
        Packet::View(View::Answer { accepted: true, records: Vec::new() }),
        Packet::View(View::Reply { id: 7, records: Vec::new() }),
        Packet::Graft(None),
        Packet::Prune,
    ];
    for n in 0..REQUESTS {
        assert!(peer.say(&requests[n % requests.len()]).await, "it is slowed down, not cut off");
    }
    peer.ping(1).await;
    assert_eq!(stage.victim.status().await.links, before);
    eventually("they are counted", async || refused(&stage.victim, "walks").await > 0).await;
    stage.alive_and_untouched().await;
}

/// A connection that never says what it wants takes no place.
#[tokio::test(flavor = "multi_thread")]
async fn greeted_and_silent_links_are_nobodys_neighbours() {
    let mut stage = Stage::new().await;
    let mut silent = Vec::new();
    for n in 0..30 {
        silent.push(Hostile::greet(stage.addr(), &key(10 + n)).await);
    }
    let links = stage.victim.status().await.links;
    assert_eq!(links, 1, "the honest one");
    let mut joiner = Hostile::join(stage.addr(), &key(1)).await;
    joiner.ping(1).await;
    stage.alive_and_untouched().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_finds_no_room_is_told_of_others_and_goes() {
    // The honest neighbour has the only place.
    let mut stage = Stage::with(hasty(|limits| limits.max_in = 1)).await;
    for (n, request) in [(1, View::Join), (2, View::Neighbor { high: true }), (3, View::Join)] {
        let mut guest = Hostile::greet(stage.addr(), &key(n)).await;
        assert!(guest.say(&Packet::View(request)).await);
        let told = guest.rest().await;
        let [Packet::View(View::Answer { accepted: false, records }), Packet::Bye(ByeReason::Full)] =
            &told[..]
        else {
            panic!("{told:?}");
        };
        let of = records.iter().map(|record| PeerRecord::decode(record.clone()).unwrap().id());
        assert!(of.collect::<Vec<_>>().contains(&stage.honest.id()));
    }
    assert_eq!(stage.victim.status().await.links, 1);
    stage.alive_and_untouched().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_whose_only_address_has_no_room_joins_through_another() {
    let stage = Stage::with(hasty(|limits| limits.max_in = 1)).await;
    let newcomer = start().await;
    let mut events = newcomer.events();
    let refusal = newcomer.connect(target(&stage.victim)).await.unwrap_err();
    assert_eq!(refusal.code(), "refused", "{refusal}");
    peer_up(&mut events, stage.honest.id()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn guests_are_few_and_those_that_do_not_ask_for_anything_go() {
    /// Of one address; here all are.
    const GUESTS: u64 = 2;
    const PATIENCE: Duration = Duration::from_secs(10);
    let mut stage = Stage::with(hasty(|limits| limits.max_in = 1)).await;
    let began = Instant::now();
    let mut silent = Vec::new();
    for n in 0..GUESTS {
        let mut guest = Hostile::greet(stage.addr(), &key(10 + n)).await;
        // What a guest says besides is nobody's business.
        assert!(guest.say(&Packet::Graft(None)).await && guest.say(&Packet::Ping(1)).await);
        silent.push(guest);
    }
    for n in 0..20 {
        let refusal = Hostile::try_greet(stage.addr(), &key(100 + n)).await;
        assert!(matches!(refusal.err(), Some(Some(Packet::Bye(ByeReason::Full)))));
    }
    for guest in &mut silent {
        assert_eq!(guest.rest().await, [Packet::Bye(ByeReason::Full)]);
    }
    let waited = began.elapsed();
    assert!(waited > PATIENCE / 2 && waited < PATIENCE + SOON, "{waited:?}");
    assert!(Hostile::greet(stage.addr(), &key(1)).await.say(&Packet::View(View::Join)).await);
    assert!(refused(&stage.victim, "unexpected").await >= GUESTS);
    stage.alive_and_untouched().await;
}
