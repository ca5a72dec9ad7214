//! Messages above 32 KiB, which are announced and pulled: as many as fit, none lost, each author's in order.
#![expect(clippy::unwrap_used, reason = "the line that panics says what failed")]

use std::path::Path;
use std::time::Duration;

use p2p_node::{Event, Events, LogMode, Message, Node, Target};
use tokio::time::timeout;

/// Longer than anything here takes on a slow machine; only a failing test waits for it.
const DEADLINE: Duration = Duration::from_secs(60);

async fn logged(dir: &Path) -> Node {
    let builder = Node::builder().host([127, 0, 0, 1]).port(0).file_port(0);
    builder.data_dir(dir).log(LogMode::Disk).start().await.unwrap()
}

async fn message(events: &mut Events) -> Message {
    let wait = async {
        loop {
            if let Event::Message(message) = events.next().await.expect("the node stopped") {
                return message;
            }
        }
    };
    timeout(DEADLINE, wait).await.expect("no message came")
}

/// Payload `n`.
fn payload(n: u32, len: usize) -> Vec<u8> {
    let mut bytes = vec![b'x'; len];
    bytes[..4].copy_from_slice(&n.to_be_bytes());
    bytes
}

async fn comes_in_order(events: &mut Events, count: u32) {
    for n in 0..count {
        let message = message(events).await;
        assert_eq!(
            message.payload[..4],
            n.to_be_bytes(),
            "{} bytes, late: {}",
            message.payload.len(),
            message.late
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_from_the_log_for_a_neighbour_never_overflows_its_queue() {
    let dirs = tempfile::tempdir().unwrap();
    let author = logged(&dirs.path().join("author")).await;
    let mut readers = Vec::new();
    for n in 0..2 {
        let reader = logged(&dirs.path().join(format!("{n}"))).await;
        reader.connect(Target::Addr(author.listen_addrs()[0])).await.unwrap();
        readers.push((reader.events(), reader));
    }
    // Of the smaller ones several are read at once, by several threads.
    for (count, len) in [(16, 1_000_000), (60, 200_000), (200, 50_000)] {
        for n in 0..count {
            author.send(payload(n, len)).await.unwrap();
        }
        for (events, _) in &mut readers {
            comes_in_order(events, count).await;
        }
    }
    let refused = author.status().await.refused;
    assert!(!refused.contains_key("announced_instead"), "{refused:?}");
}

/// More than a log holds, as fast as it is accepted: the author waits for its neighbours, and nothing is let go before they have it.
#[tokio::test(flavor = "multi_thread")]
async fn more_than_the_log_holds_reaches_who_keeps_up() {
    let dirs = tempfile::tempdir().unwrap();
    let author = logged(&dirs.path().join("author")).await;
    let reader = logged(&dirs.path().join("reader")).await;
    reader.connect(Target::Addr(author.listen_addrs()[0])).await.unwrap();
    let mut events = reader.events();
    let (count, len) = (100, 1_000_000);
    let send = async {
        for n in 0..count {
            author.send(payload(n, len)).await.unwrap();
        }
        assert!(author.handed_over().await);
    };
    tokio::join!(send, comes_in_order(&mut events, count));
    assert!(author.status().await.refused.contains_key("log_evicted"), "the log holds all of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_right_away_has_handed_everything_over() {
    let dirs = tempfile::tempdir().unwrap();
    let author = logged(&dirs.path().join("author")).await;
    let reader = logged(&dirs.path().join("reader")).await;
    reader.connect(Target::Addr(author.listen_addrs()[0])).await.unwrap();
    let mut events = reader.events();
    let count = 30;
    for n in 0..count {
        author.send(payload(n, 1_000_000)).await.unwrap();
    }
    assert!(author.handed_over().await);
    author.shutdown().await;
    comes_in_order(&mut events, count).await;
}
