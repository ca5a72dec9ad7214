//! What comes over a link that the node has hung up: of a neighbour what it pushed before it knew, of others nothing.

use bytes::Bytes;
use p2p_node::ByeReason;
use tokio::io::AsyncWriteExt;

use crate::util::{Delivered, Hostile, Stage, envelope, key, message, push};

/// A neighbour that the victim has said goodbye to, and that has not closed its side.
async fn hung_up(stage: &Stage, bye: ByeReason) -> Hostile {
    let author = key(1);
    let mut peer = Hostile::join(stage.addr(), &author).await;
    match bye {
        ByeReason::Banned => stage.victim.ban(author.id()).await.unwrap(),
        _ => stage.victim.disconnect(author.id()).await.unwrap(),
    }
    assert_eq!(peer.closed().await, Some(bye));
    peer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_crosses_the_goodbye_is_delivered_and_passed_on() {
    let mut stage = Stage::new().await;
    let (mut at_victim, mut at_honest) = (stage.victim.events(), stage.honest.events());
    let mut peer = hung_up(&stage, ByeReason::Disconnected).await;
    // What its author sent just before it read the goodbye; nobody else has it.
    assert!(peer.write(&push(envelope(&key(1), 1, b"crossed").bytes())).await);
    for events in [&mut at_victim, &mut at_honest] {
        assert_eq!(message(events).await.text(), Some("crossed"));
    }
    let once = vec![Bytes::from_static(b"crossed")];
    assert_eq!(stage.alive().await, Delivered { victim: once.clone(), honest: once });
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_was_banned_has_nothing_more_to_say() {
    let stage = Stage::new().await;
    let mut at_victim = stage.victim.events();
    let mut peer = hung_up(&stage, ByeReason::Banned).await;
    assert!(peer.write(&push(envelope(&key(1), 1, b"banned").bytes())).await);
    peer.stream.shutdown().await.unwrap();
    // The end of the connection: what came before it has been read.
    assert_eq!(peer.rest().await, []);
    stage.honest.send("honest").await.unwrap();
    assert_eq!(message(&mut at_victim).await.text(), Some("honest"));
}
