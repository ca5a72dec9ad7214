//! One key on two machines: whoever can know it says so (faults row 12).

use std::time::{Duration, Instant};

use p2p_node::{ConnectError, Event, Events, Node};
use p2p_wire::SecretKey;
use tokio::time::timeout;

use crate::util::{DEADLINE, SOON, hasty, key, local, message, peer_up, target, until};

/// Two keys, the one with the lower id first.
fn keys() -> [SecretKey; 2] {
    let mut keys = [key(1), key(2)];
    keys.sort_by_key(SecretKey::id);
    keys
}

async fn lone(key: &SecretKey) -> Node {
    local().key(key.clone()).discover(false).start().await.unwrap()
}

async fn warning(events: &mut Events) -> String {
    until(events, |event| if let Event::Warning(text) = event { Some(text) } else { None }).await
}

/// The lower id dialled, so the link of the one who was there first stands.
#[tokio::test(flavor = "multi_thread")]
async fn who_copied_a_key_is_refused_soon_and_told_why_and_so_is_the_peer() {
    let [low, high] = keys();
    // Dials cross for no longer.
    let handshake = Duration::from_millis(200);
    let hasty = |key: &SecretKey| {
        hasty(|limits| limits.handshake_timeout = handshake).discover(false).key(key.clone()).start()
    };
    let (peer, original) = (hasty(&low).await.unwrap(), lone(&high).await);
    let (mut at_peer, mut warnings) = (peer.events(), peer.events());
    peer.connect(target(&original)).await.unwrap();
    let began = Instant::now();
    let copy = lone(&high).await;
    let result = copy.connect(target(&peer)).await;
    assert!(began.elapsed() < SOON, "after {:?}", began.elapsed());
    let Err(ConnectError::Refused { reason }) = result else { panic!("{result:?}") };
    assert!(reason.contains("in use on another machine"), "{reason}");
    copy.shutdown().await;

    // While the link is heard of, a second one is asked for, over and over.
    let copy = hasty(&high).await.unwrap();
    let told = async {
        let told = warning(&mut warnings);
        tokio::pin!(told);
        loop {
            original.send("here").await.unwrap();
            message(&mut at_peer).await;
            tokio::select! {
                text = &mut told => break text,
                refused = copy.connect(target(&peer)) => assert!(refused.is_err()),
            }
        }
    };
    let told = timeout(DEADLINE, told).await.unwrap();
    assert!(told.contains("in use on two machines"), "{told}");
    assert_eq!((peer.status().await.links, copy.status().await.links), (1, 0));
}

/// The copy dials as the original did: the peer takes it for one that lost its link.
#[tokio::test(flavor = "multi_thread")]
async fn whose_link_is_taken_by_a_copy_of_its_key_warns_of_it() {
    let [low, high] = keys();
    let (peer, original) = (lone(&low).await, lone(&high).await);
    let mut warnings = original.events();
    original.connect(target(&peer)).await.unwrap();
    let copy = lone(&high).await;
    let mut at_copy = copy.events();
    copy.connect(target(&peer)).await.unwrap();
    peer_up(&mut at_copy, peer.id()).await;
    let told = warning(&mut warnings).await;
    assert!(told.contains("in use elsewhere"), "{told}");
}

/// A new process with the key of one that is gone is no copy.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_starts_again_is_not_taken_for_a_copy() {
    let [low, high] = keys();
    let peer = lone(&low).await;
    let mut at_peer = peer.events();
    for _ in 0..5 {
        let node = lone(&high).await;
        let mut events = node.events();
        node.connect(target(&peer)).await.unwrap();
        node.send("here").await.unwrap();
        let told = until(&mut at_peer, |event| match event {
            Event::Warning(text) => Some(Some(text)),
            Event::Message(_) => Some(None),
            _ => None,
        });
        assert_eq!(told.await, None);
        node.shutdown().await;
        while let Some(event) = events.next().await {
            assert!(!matches!(event, Event::Warning(_)), "{event:?}");
        }
    }
}
