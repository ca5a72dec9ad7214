//! Five nodes in a line that know their neighbours only: what goes from end to end goes through three
//! others.

use std::time::Duration;

use p2p_node::{Event, FetchOptions, Node};
use p2p_wire::MAX_PAYLOAD;

use crate::util::{local, message, target};

async fn line(n: usize) -> Vec<Node> {
    let mut nodes: Vec<Node> = Vec::new();
    for _ in 0..n {
        let node = local().discover(false).start().await.unwrap();
        if let Some(last) = nodes.last() {
            node.connect(target(last)).await.unwrap();
        }
        nodes.push(node);
    }
    nodes
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_cross_a_line_once_and_private_ones_open_at_their_target_only() {
    let nodes = line(5).await;
    let (first, last) = (&nodes[0], &nodes[4]);
    let mut events: Vec<_> = nodes.iter().map(Node::events).collect();
    let large = vec![3; MAX_PAYLOAD];
    first.send("to all").await.unwrap();
    first.send_to(last.id(), "to one").await.unwrap();
    first.send_topic("topic", large.clone()).await.unwrap();
    first.send_to(last.id(), large.clone()).await.unwrap();
    first.send("the end").await.unwrap();
    for (n, events) in events.iter_mut().enumerate().skip(1) {
        let mut heard = Vec::new();
        // The large ones are pulled hop by hop: a later one may be delivered before.
        while heard.len() < if n == 4 { 5 } else { 3 } {
            heard.push(message(events).await);
        }
        let private = heard.iter().filter(|m| m.private).count();
        assert_eq!(private, if n == 4 { 2 } else { 0 }, "node {n}");
        assert!(heard.iter().all(|m| m.author == first.id()));
        let count = |payload: &[u8]| heard.iter().filter(|m| m.payload == payload).count();
        assert_eq!((count(b"to all"), count(b"the end")), (1, 1), "node {n}");
        assert_eq!((count(b"to one"), count(&large)), if n == 4 { (1, 2) } else { (0, 1) }, "node {n}");
    }
    // Back again; whatever came twice would come before.
    last.send("back").await.unwrap();
    for (n, events) in events.iter_mut().enumerate().take(4) {
        let next = message(events).await;
        assert_eq!((next.text(), next.author), (Some("back"), last.id()), "node {n}");
        while let Some(event) = events.try_next() {
            assert!(!matches!(event, Event::Message(_)), "node {n} heard more");
        }
    }
    for node in &nodes {
        assert_eq!(node.status().await.refused["forged"], 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_found_over_several_links_and_fetched_directly() {
    let nodes = line(5).await;
    let (asker, holder) = (&nodes[0], &nodes[4]);
    let dir = tempfile::tempdir().unwrap();
    let data: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let path = dir.path().join("far.bin");
    std::fs::write(&path, &data).unwrap();
    let share = holder.share(&path).await.unwrap();
    let to = dir.path().join("got.bin");
    let options = FetchOptions {
        to: Some(to.clone()),
        timeout: Some(Duration::from_secs(10)),
        ..FetchOptions::default()
    };
    let fetched = asker.fetch(share.hash, options).finish().await.unwrap();
    assert_eq!((fetched.length, fetched.sources), (data.len() as u64, 1));
    assert!(std::fs::read(to).unwrap() == data);
    // Nobody on the way has it: the connection was direct. And no link came of it.
    for node in &nodes[1..4] {
        assert!(node.files().await.is_empty());
    }
    assert_eq!(asker.status().await.links, 1);
    assert_eq!(holder.status().await.links, 1);
}
