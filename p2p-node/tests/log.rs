//! The message log on disk: over restarts, kill -9, for slow readers.
#![expect(clippy::unwrap_used, reason = "the line that panics says what failed")]

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use p2p_node::{Event, Events, LogError, LogMode, Message, Node, NodeBuilder, Since, Target, read_log};
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
        let next = async {
            loop {
                if let Some(Event::Message(message)) = follow.next().await.unwrap() {
                    return message;
                }
            }
        };
        assert_eq!(timeout(DEADLINE, next).await.unwrap().pos, pos);
    }
    feed.await.unwrap();
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
