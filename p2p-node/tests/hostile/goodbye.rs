//! What comes over a link that the node has hung up: of a neighbour what it pushed before it knew, of others nothing. And what a
//! node that goes takes along.

use std::collections::VecDeque;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use p2p_node::{ByeReason, Event, Node, Packet};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::util::{
    Delivered, Hostile, SOON, Stage, addr, envelope, eventually, key, message, peer_down, push, start,
    target, until,
};

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

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_is_being_closed_and_read_by_drips_gives_its_room_back() {
    let node = start().await;
    let mut peer = Hostile::join(addr(&node), &key(1)).await;
    for _ in 0..60 {
        node.send(vec![1; 30_000]).await.unwrap();
    }
    eventually("much waits", async || node.status().await.queued_bytes > 1_000_000).await;
    node.disconnect(key(1).id()).await.unwrap();
    // More often than a link has to take something, and for longer than anybody has patience.
    let drips = async {
        let mut scratch = [0; 4096];
        while peer.stream.read(&mut scratch).await.is_ok_and(|n| n > 0) {
            sleep(Duration::from_millis(100)).await;
        }
    };
    let given_back = eventually("nothing waits", async || node.status().await.queued_bytes == 0);
    tokio::select! {
        () = drips => panic!("it was read to its end"),
        given = timeout(SOON, given_back) => given.expect("it is written to as long as it reads"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_message_that_nobody_asked_for_is_told_of() {
    let node = start().await;
    let mut events = node.events();
    let mut peer = Hostile::join(addr(&node), &key(1)).await;
    node.send(vec![1; 100_000]).await.unwrap();
    node.send("small").await.unwrap();
    // It reads, and asks for nothing.
    let (rest, ()) = tokio::join!(peer.rest(), node.shutdown());
    assert!(rest.iter().any(|packet| matches!(packet, Packet::Push { .. })), "{rest:?}");
    let warning =
        until(&mut events, |event| if let Event::Warning(text) = event { Some(text) } else { None }).await;
    assert!(warning.starts_with("nobody asked for 1 of this node's messages"), "{warning}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_behind_a_goodbye_waits_for_somebody_else() {
    let node = start().await;
    let mut peer = Hostile::join(addr(&node), &key(1)).await;
    // It keeps its side open; the node has closed its own once it has heard the goodbye.
    peer.say(&Packet::Bye(ByeReason::Leaving)).await;
    peer.rest().await;
    node.send("to somebody").await.unwrap();
    let handed = tokio::spawn({
        let node = node.clone();
        async move { node.handed_over().await }
    });
    let honest = start().await;
    let mut events = honest.events();
    assert!(!handed.is_finished(), "nobody has it");
    honest.connect(target(&node)).await.unwrap();
    assert_eq!(message(&mut events).await.text(), Some("to somebody"));
    assert!(handed.await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_waits_anew_though_somebody_has_waited_in_vain() {
    let node = start().await;
    let mut peer = Hostile::join(addr(&node), &key(1)).await;
    node.send(vec![1; 100_000]).await.unwrap();
    let ids = loop {
        if let Packet::IHave(ids) = peer.next().await.expect("the node closed the connection") {
            break ids;
        }
    };
    // Longer than stopping bears that nothing is taken.
    let mut handed = pin!(node.handed_over());
    assert!(timeout(Duration::from_secs(2), &mut handed).await.is_err(), "nobody has it");
    let stopped = tokio::spawn({
        let node = node.clone();
        async move { node.shutdown().await }
    });
    eventually("nothing more is accepted", async || node.send("late").await.is_err()).await;
    peer.say(&Packet::IWant(ids.iter().map(|one| one.id).collect())).await;
    let large = |packet: &Packet| matches!(packet, Packet::Push { envelope, .. } if envelope.len() > 100_000);
    assert!(peer.rest().await.iter().any(large));
    stopped.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn neighbours_that_come_without_end_do_not_keep_a_sender() {
    let node = start().await;
    let mut peers = vec![Hostile::join(addr(&node), &key(1)).await];
    let mut compared = pin!(node.compared());
    // Each of them may say for 2 s what it holds.
    for n in 2..100 {
        if timeout(Duration::from_millis(200), &mut compared).await.is_ok() {
            return;
        }
        peers.push(Hostile::join(addr(&node), &key(n)).await);
    }
    panic!("it still waits for the next one");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_was_sent_is_not_handed_over() {
    let node = start().await;
    node.send("to nobody").await.unwrap();
    assert!(!node.handed_over().await);
    let honest = start().await;
    let mut events = honest.events();
    honest.connect(target(&node)).await.unwrap();
    assert!(node.handed_over().await);
    assert_eq!(message(&mut events).await.text(), Some("to nobody"));
}

/// A node whose only neighbour's link broke with a message that it may not have handled.
async fn broken_with_a_message() -> Node {
    let node = start().await;
    let mut events = node.events();
    let peer = Hostile::join(addr(&node), &key(1)).await;
    node.send("on its way").await.unwrap();
    drop(peer);
    peer_down(&mut events, key(1).id()).await;
    node
}

#[tokio::test(flavor = "multi_thread")]
async fn what_died_with_the_last_link_is_not_handed_over() {
    assert!(!broken_with_a_message().await.handed_over().await);
}

/// Who lost its link before this side noticed is back on another one.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_link_held_that_was_replaced_is_not_handed_over() {
    let node = start().await;
    let _lost = Hostile::join(addr(&node), &key(1)).await;
    node.send("on its way").await.unwrap();
    let _back = Hostile::join(addr(&node), &key(1)).await;
    assert!(!node.handed_over().await);
}

/// It is written still, and nobody knows who reads it.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_link_held_that_was_hung_up_is_not_handed_over() {
    let node = start().await;
    let _silent = Hostile::join(addr(&node), &key(1)).await;
    node.send("on its way").await.unwrap();
    node.disconnect(key(1).id()).await.unwrap();
    assert!(!node.handed_over().await);
}

/// Others' messages are always on their way to it, too.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_busy_neighbour_has_handled_is_handed_over() {
    const WAY: Duration = Duration::from_millis(100);
    let node = start().await;
    let mut peer = Hostile::join(addr(&node), &key(1)).await;
    let far = tokio::spawn(async move {
        let mut answers = VecDeque::new();
        loop {
            let due = answers.front().map_or_else(|| Instant::now() + WAY, |(due, _)| *due);
            tokio::select! {
                packet = peer.next() => match packet {
                    Some(Packet::Ping(number)) => answers.push_back((Instant::now() + WAY, number)),
                    Some(_) => {}
                    None => return,
                },
                () = sleep_until(due) => if let Some((_, number)) = answers.pop_front() {
                    peer.say(&Packet::Pong(number)).await;
                },
            }
        }
    });
    let mut talker = Hostile::join(addr(&node), &key(2)).await;
    let talks = tokio::spawn(async move {
        for seq in 1.. {
            talker.write(&push(envelope(&key(2), seq, b"talk").bytes())).await;
            sleep(WAY / 10).await;
        }
    });
    node.send("among others").await.unwrap();
    assert_eq!(timeout(Duration::from_secs(8), node.handed_over()).await, Ok(true));
    talks.abort();
    far.abort();
}

/// A goodbye says that no more is heard: what was on its way then may be lost as with a link that breaks.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_last_neighbour_left_unhandled_is_not_handed_over() {
    let node = start().await;
    let mut events = node.events();
    let mut peer = Hostile::join(addr(&node), &key(1)).await;
    node.send("too late for it").await.unwrap();
    peer.say(&Packet::Bye(ByeReason::Leaving)).await;
    peer_down(&mut events, key(1).id()).await;
    assert!(!node.handed_over().await);
}

/// Long before anybody asks whether it was: the neighbour is not there to be asked then.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_handled_before_a_goodbye_is_handed_over() {
    let node = start().await;
    let mut events = node.events();
    let mut peer = Hostile::join(addr(&node), &key(1)).await;
    node.send("in time").await.unwrap();
    while !matches!(peer.next().await.expect("the node closed the connection"), Packet::Push { .. }) {}
    let mark = loop {
        // Not those of liveness.
        match peer.next().await.expect("the node closed the connection") {
            Packet::Ping(number) if number >> 63 == 1 => break number,
            _ => {}
        }
    };
    peer.say(&Packet::Pong(mark)).await;
    peer.say(&Packet::Bye(ByeReason::Leaving)).await;
    peer_down(&mut events, key(1).id()).await;
    assert!(node.handed_over().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_handled_it_is_enough_though_another_one_stands_still() {
    let node = start().await;
    let _still = Hostile::join(addr(&node), &key(1)).await;
    let honest = start().await;
    let mut events = honest.events();
    honest.connect(target(&node)).await.unwrap();
    node.send("to whoever reads").await.unwrap();
    // Before the one that stands still is given up.
    let handed = timeout(Duration::from_secs(8), node.handed_over()).await;
    assert_eq!(handed, Ok(true));
    assert_eq!(message(&mut events).await.text(), Some("to whoever reads"));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_what_a_broken_link_lost_has_it() {
    let node = broken_with_a_message().await;
    let honest = start().await;
    honest.connect(target(&node)).await.unwrap();
    assert!(node.handed_over().await);
}

/// Links break on sleeping laptops and home routers, and mostly nothing is lost: then nobody asks for anything.
#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_and_holds_it_has_it() {
    let node = broken_with_a_message().await;
    let mut peer = Hostile::join(addr(&node), &key(1)).await;
    loop {
        if let Packet::Digest(sums) = peer.next().await.expect("the node closed the connection") {
            // As one that holds the same.
            peer.say(&Packet::Digest(sums)).await;
            break;
        }
    }
    assert!(node.handed_over().await);
}
