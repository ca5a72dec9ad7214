//! The message log on disk: over restarts, kill -9, for slow readers; and large messages, which are read from it for who asks.
#![expect(clippy::unwrap_used, reason = "the line that panics says what failed")]

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use p2p_node::{
    Event, Events, Follow, LogError, LogMode, Message, Node, NodeBuilder, SecretKey, Since, Target, read_log,
    read_log_with_key,
};
use tokio::time::timeout;

/// Longer than anything here takes on a slow machine; only a failing test waits for it.
const DEADLINE: Duration = Duration::from_secs(60);

fn local() -> NodeBuilder {
    Node::builder().host([127, 0, 0, 1]).port(0).file_port(0)
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

#[tokio::test(flavor = "multi_thread")]
async fn positions_go_on_over_a_restart_and_the_log_reads_back() {
    let dir = tempfile::tempdir().unwrap();
    let sender = local().start().await.unwrap();
    let mut expected = Vec::new();
    for round in 0..3 {
        let node = logged(dir.path()).await;
        let mut events = node.events();
        node.connect(addr(&sender)).await.unwrap();
        for n in 0..5 {
            let text = format!("{round} {n}");
            match n {
                3 => sender.send_to(node.id(), text.clone()).await.unwrap(),
                _ => sender.send_topic("t", text.clone()).await.unwrap(),
            };
            let m = message(&mut events).await;
            assert_eq!((m.pos, m.text()), (expected.len() as u64 + 1, Some(text.as_str())));
            expected.push(m);
        }
        assert_eq!(node.log_since(Since::Pos(0)).await.unwrap(), expected);
        assert_eq!(
            node.log_since(Since::Pos(expected.len() as u64)).await.unwrap(),
            expected[expected.len() - 1..]
        );
        assert!(matches!(read_log(dir.path(), Since::Pos(0)), Err(LogError::InUse { .. })));
        node.shutdown().await;
    }
    let past = timeout(DEADLINE, async {
        loop {
            match read_log(dir.path(), Since::Pos(3)) {
                Err(LogError::InUse { .. }) => tokio::task::yield_now().await,
                read => break read.unwrap().collect::<Result<Vec<_>, _>>().unwrap(),
            }
        }
    });
    assert_eq!(past.await.unwrap(), expected[2..]);
    assert!(matches!(sender.log_since(Since::Pos(0)).await, Err(LogError::NoLog)));
}

/// A key that the application keeps is not in the directory.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_a_node_that_was_given_its_key_is_read_with_that_key() {
    let (dir, key) = (tempfile::tempdir().unwrap(), SecretKey::from_bytes(&[7; 32]));
    let sender = local().start().await.unwrap();
    let node = local().data_dir(dir.path()).log(LogMode::Disk).key(key.clone()).start().await.unwrap();
    let mut events = node.events();
    node.connect(addr(&sender)).await.unwrap();
    sender.send("to all").await.unwrap();
    sender.send_to(node.id(), "to you").await.unwrap();
    let expected = [message(&mut events).await, message(&mut events).await];
    node.shutdown().await;
    drop((node, events));
    for (key, expected) in [(key.clone(), &expected[..]), (SecretKey::from_bytes(&[8; 32]), &expected[..1])] {
        let read = timeout(DEADLINE, async {
            loop {
                match read_log_with_key(dir.path(), &key, Since::Pos(0)) {
                    // The last of its tasks may still hold it.
                    Err(LogError::InUse { .. }) => tokio::task::yield_now().await,
                    read => break read.unwrap().collect::<Result<Vec<_>, _>>().unwrap(),
                }
            }
        });
        assert_eq!(read.await.unwrap(), expected);
    }
    // Without it there is something to say other than that there is no log, and no key is made.
    let error = read_log(dir.path(), Since::Pos(0)).unwrap_err();
    assert!(matches!(&error, LogError::NoKey { path } if path == dir.path()), "{error}");
    assert!(!dir.path().join("identity.key").exists());
    // A folder of somebody else's.
    let other = tempfile::tempdir().unwrap();
    std::fs::create_dir(other.path().join("log")).unwrap();
    assert!(matches!(read_log_with_key(other.path(), &key, Since::Pos(0)), Err(LogError::NoLog)));
    assert_eq!(std::fs::read_dir(other.path()).unwrap().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_follows_gets_the_log_and_then_what_comes_without_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let sender = local().start().await.unwrap();
    let node = logged(dir.path()).await;
    node.connect(addr(&sender)).await.unwrap();
    let feed = tokio::spawn({
        let sender = sender.clone();
        async move {
            for n in 0..2_000u64 {
                sender.send(n.to_be_bytes().to_vec()).await.unwrap();
            }
        }
    });
    let mut first = node.events();
    message(&mut first).await;
    let mut follow = node.follow(Since::Pos(0)).unwrap();
    for pos in 1..=2_000 {
        assert_eq!(followed(&mut follow).await.pos, pos);
    }
    feed.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_follows_from_a_position_of_another_log_gets_what_comes() {
    let dir = tempfile::tempdir().unwrap();
    let (sender, node) = (local().start().await.unwrap(), logged(dir.path()).await);
    let mut follows = [Since::Pos(100), Since::Pos(u64::MAX)].map(|since| node.follow(since).unwrap());
    node.connect(addr(&sender)).await.unwrap();
    sender.send("news").await.unwrap();
    for follow in &mut follows {
        assert_eq!(followed(follow).await.pos, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_followed_in_the_log_is_of_the_chosen_topics_too() {
    let dir = tempfile::tempdir().unwrap();
    let (sender, node) = (local().start().await.unwrap(), logged(dir.path()).await);
    let mut events = node.events();
    node.connect(addr(&sender)).await.unwrap();
    for topic in ["chat", "other", "chat"] {
        sender.send_topic(topic, topic).await.unwrap();
        message(&mut events).await;
    }
    node.subscribe(Some(["chat".to_owned()].into())).await.unwrap();
    let mut follow = node.follow(Since::Pos(0)).unwrap();
    sender.send_topic("other", "other").await.unwrap();
    sender.send_topic("chat", "chat").await.unwrap();
    let mut positions = Vec::new();
    for _ in 0..3 {
        positions.push(followed(&mut follow).await.pos);
    }
    assert_eq!(positions, [1, 3, 5]);
    assert_eq!(node.log_since(Since::Pos(0)).await.unwrap().len(), 5, "the log is of all topics");
    // The application may choose others later, and reads what it left out.
    node.subscribe(None).await.unwrap();
    assert_eq!(followed(&mut node.follow(Since::Pos(4)).unwrap()).await.topic, "other");
}

/// The next message that a reader of the log gets.
async fn followed(follow: &mut Follow) -> Message {
    let next = async {
        loop {
            if let Some(Event::Message(message)) = follow.next().await.unwrap() {
                return message;
            }
        }
    };
    timeout(DEADLINE, next).await.expect("no message came")
}

/// What [`killed_at_any_moment_nothing_is_delivered_twice`] runs as a process of its own.
const CHILD: &str = "P2P_LOG_TEST_CHILD";

#[tokio::test(flavor = "multi_thread")]
async fn child() {
    let Ok(told) = std::env::var(CHILD) else { return };
    let (port, dir) = told.split_once(' ').unwrap();
    let node = logged(Path::new(dir)).await;
    let mut events = node.events();
    node.connect(Target::Addr(([127, 0, 0, 1], port.parse().unwrap()).into())).await.ok();
    let mut out = std::io::stdout().lock();
    while let Some(event) = events.next().await {
        if let Event::Message(m) = event {
            writeln!(out, "\nmessage {} {}.", m.pos, m.seq).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_nothing_is_delivered_twice() {
    const KILLS: usize = 50;
    let dir = tempfile::tempdir().unwrap();
    let sender = local().discover(false).start().await.unwrap();
    let port = sender.listen_addrs()[0].port();
    let feeding = tokio::spawn({
        let sender = sender.clone();
        async move {
            loop {
                sender.send(vec![7; 700]).await.unwrap();
                tokio::time::sleep(Duration::from_micros(300)).await;
            }
        }
    });
    let dir_path = dir.path().to_owned();
    let kills = tokio::task::spawn_blocking(move || {
        let (mut seen, mut last_pos) = (BTreeSet::new(), 0);
        for kill in 0..KILLS {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "child", "--nocapture"])
                .env(CHILD, format!("{port} {}", dir_path.display()))
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
            // Somewhere behind the first messages, at another place each time.
            let mut left = 1 + kill * 7 % 40;
            let mut killed = false;
            while let Some(Ok(line)) = lines.next() {
                let message = line.strip_prefix("message ").and_then(|m| m.strip_suffix('.'));
                // The last line may be cut off.
                let Some((pos, seq)) = message.and_then(|m| m.split_once(' ')) else {
                    continue;
                };
                let (pos, seq): (u64, u64) = (pos.parse().unwrap(), seq.parse().unwrap());
                assert!(pos > last_pos, "kill {kill}: position {pos} after {last_pos}");
                assert!(seen.insert(seq), "kill {kill}: {seq} came twice");
                last_pos = pos;
                left = left.saturating_sub(1);
                if left == 0 && !killed {
                    child.kill().unwrap();
                    killed = true;
                }
            }
            child.wait().unwrap();
            assert!(killed, "the child ended by itself");
        }
        seen
    });
    let printed = timeout(4 * DEADLINE, kills).await.expect("the children took too long").unwrap();
    feeding.abort();
    // What fell between commit and print is in the log, and nothing is there twice.
    let mut logged = BTreeSet::new();
    for message in read_log(dir.path(), Since::Pos(0)).unwrap() {
        assert!(logged.insert(message.unwrap().seq));
    }
    assert!(printed.is_subset(&logged));
    assert!(printed.len() >= KILLS);
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
        reader.connect(addr(&author)).await.unwrap();
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
    assert!(!refused.contains_key("put_off"), "{refused:?}");
}

/// More than a log holds, as fast as it is accepted: the author waits for its neighbours, and nothing is let go before they have it.
#[tokio::test(flavor = "multi_thread")]
async fn more_than_the_log_holds_reaches_who_keeps_up() {
    let dirs = tempfile::tempdir().unwrap();
    let author = logged(&dirs.path().join("author")).await;
    let reader = logged(&dirs.path().join("reader")).await;
    reader.connect(addr(&author)).await.unwrap();
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
    reader.connect(addr(&author)).await.unwrap();
    let mut events = reader.events();
    let count = 30;
    for n in 0..count {
        author.send(payload(n, 1_000_000)).await.unwrap();
    }
    assert!(author.handed_over().await);
    author.shutdown().await;
    comes_in_order(&mut events, count).await;
}

/// What was said while nobody was there, by an earlier process: whoever comes back for a moment hands it over.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_process_kept_is_handed_over_too() {
    let dir = tempfile::tempdir().unwrap();
    let first = logged(dir.path()).await;
    for n in 0..20 {
        first.send(format!("kept {n}")).await.unwrap();
    }
    first.shutdown().await;
    drop(first);
    let other = local().start().await.unwrap();
    let mut events = other.events();
    let again = logged(dir.path()).await;
    again.connect(addr(&other)).await.unwrap();
    again.compared().await;
    again.send("now").await.unwrap();
    assert!(again.handed_over().await);
    again.shutdown().await;
    let mut texts = BTreeSet::new();
    for _ in 0..21 {
        texts.insert(message(&mut events).await.text().unwrap().to_owned());
    }
    assert!(texts.contains("kept 0") && texts.contains("kept 19") && texts.contains("now"));
}
