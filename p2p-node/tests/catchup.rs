//! What was sent while a node was away reaches it over real links, from memory and from disk.
#![expect(clippy::unwrap_used, reason = "the line that panics says what failed")]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use p2p_node::{Event, Events, LogMode, Message, Node, NodeBuilder, NodeId, Since, Target};
use tokio::time::timeout;

/// Longer than anything here takes on a slow machine; only a failing test waits for it.
const DEADLINE: Duration = Duration::from_secs(60);

fn local() -> NodeBuilder {
    Node::builder().host([127, 0, 0, 1]).port(0).file_port(0).discover(false)
}

async fn logged(dir: &Path) -> Node {
    local().data_dir(dir).log(LogMode::Disk).start().await.unwrap()
}

fn addr(node: &Node) -> Target {
    Target::Addr(node.listen_addrs()[0])
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

/// So many messages: the texts of each author in the order in which they came. None is late.
async fn take(events: &mut Events, count: usize) -> BTreeMap<NodeId, Vec<String>> {
    let mut got: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for _ in 0..count {
        let message = message(events).await;
        assert!(!message.late, "{:?} of {} is late", message.text(), message.author.short());
        got.entry(message.author).or_default().push(message.text().unwrap().to_owned());
    }
    got
}

async fn send(node: &Node, texts: &[String]) {
    for text in texts {
        node.send(text.clone()).await.unwrap();
    }
}

fn texts(what: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{what} {n}")).collect()
}

/// Nothing but this comes next, whatever may be under way.
async fn assert_next(events: &mut Events, sender: &Node, mark: &str) {
    sender.send(mark.to_owned()).await.unwrap();
    assert_eq!(message(events).await.text(), Some(mark));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_away_gets_what_it_missed_from_whoever_has_it() {
    let (anna, ben, carl) =
        (local().start().await.unwrap(), local().start().await.unwrap(), local().start().await.unwrap());
    ben.connect(addr(&anna)).await.unwrap();
    carl.connect(addr(&anna)).await.unwrap();
    let (mut at_ben, mut at_carl) = (ben.events(), carl.events());
    assert_next(&mut at_carl, &anna, "before").await;
    assert_eq!(message(&mut at_ben).await.text(), Some("before"));
    assert_next(&mut at_ben, &carl, "carl's").await;
    anna.disconnect(carl.id()).await.unwrap();
    let (by_anna, by_ben, by_carl) = (texts("anna", 700), texts("ben", 40), texts("carl", 30));
    send(&anna, &by_anna).await;
    send(&ben, &by_ben).await;
    send(&carl, &by_carl).await;
    take(&mut at_ben, by_anna.len()).await;
    // Anna is gone; what she wrote is not.
    let id = anna.id();
    anna.shutdown().await;
    carl.connect(addr(&ben)).await.unwrap();
    let got = take(&mut at_carl, by_anna.len() + by_ben.len()).await;
    assert!(got == BTreeMap::from([(id, by_anna), (ben.id(), by_ben)]), "{got:?}");
    assert_eq!(take(&mut at_ben, by_carl.len()).await, BTreeMap::from([(carl.id(), by_carl)]));
    assert_next(&mut at_carl, &ben, "after").await;
    assert_next(&mut at_ben, &carl, "after").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_on_disk_catches_up_and_serves_after_restarts() {
    let (at_home, away) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (first, second) = (texts("first", 20), texts("second", 400));
    let id = {
        let (home, guest) = (logged(at_home.path()).await, logged(away.path()).await);
        let mut events = guest.events();
        guest.connect(addr(&home)).await.unwrap();
        send(&home, &first).await;
        assert_eq!(take(&mut events, 20).await, BTreeMap::from([(home.id(), first.clone())]));
        guest.shutdown().await;
        send(&home, &second).await;
        home.shutdown().await;
        home.id()
    };
    // Both start again: what the one has is on its disk alone, and so is what the other knows.
    let (home, guest) = (logged(at_home.path()).await, logged(away.path()).await);
    let mut events = guest.events();
    guest.connect(addr(&home)).await.unwrap();
    assert_eq!(take(&mut events, 400).await, BTreeMap::from([(id, second.clone())]));
    assert_next(&mut events, &home, "after").await;
    let mut all = Vec::new();
    loop {
        let log = guest.log_since(Since::Pos(all.len() as u64 + 1)).await.unwrap();
        if log.is_empty() {
            break;
        }
        all.extend(log.iter().map(|message| message.text().unwrap().to_owned()));
    }
    let expected: Vec<_> = first.iter().chain(&second).map(String::as_str).chain(["after"]).collect();
    assert_eq!(all, expected);
    // One that comes new, and keeps nothing on disk, gets it all.
    let new = local().start().await.unwrap();
    let mut events = new.events();
    new.connect(addr(&guest)).await.unwrap();
    let got = take(&mut events, expected.len()).await;
    assert_eq!(got[&id], expected);
}
