//! The log under the driver of real nodes: a disk that is full, one that stands still, and envelopes that are fetched from it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::timeout;

use super::disk::RealDisk;
use super::store::{LogLimits, Op, Store};
use super::tests::{append, deliver, envelope, key};
use super::{Follow, Since};
use crate::config::LogMode;
use crate::event::{Event, Message};
use crate::hub::Events;
use crate::node::Node;
use crate::target::Target;

/// Longer than anything here takes on a slow machine; only a failing test waits for it.
const DEADLINE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing can be written.
    Full,
    /// A sync does not return.
    Still,
}

static DISKS: Mutex<BTreeMap<PathBuf, State>> = Mutex::new(BTreeMap::new());
static CHANGED: Condvar = Condvar::new();

/// Asked before each write to a segment in this folder.
pub(super) fn before_append(dir: &Path) -> io::Result<()> {
    let full = DISKS.lock().unwrap().get(dir) == Some(&State::Full);
    if full { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
}

/// Asked before each sync; returns when the disk moves.
pub(super) fn before_sync(dir: &Path) {
    let disks = DISKS.lock().unwrap();
    drop(CHANGED.wait_while(disks, |disks| disks.get(dir) == Some(&State::Still)).unwrap());
}

fn set(node: &Node, state: Option<State>) {
    let dir = node.data_dir().join("log");
    let mut disks = DISKS.lock().unwrap();
    match state {
        Some(state) => disks.insert(dir, state),
        None => disks.remove(&dir),
    };
    CHANGED.notify_all();
}

async fn start(log: Option<&Path>) -> Node {
    let node = Node::builder().host([127, 0, 0, 1]).port(0).file_port(0).discover(false);
    let node = log.map_or_else(|| node.clone(), |dir| node.clone().data_dir(dir).log(LogMode::Disk));
    node.start().await.unwrap()
}

async fn link(from: &Node, to: &Node) {
    from.connect(Target::Addr(to.listen_addrs()[0])).await.unwrap();
}

async fn event<T>(events: &mut Events, what: &str, mut wanted: impl FnMut(Event) -> Option<T>) -> T {
    let wait = async {
        loop {
            if let Some(found) = wanted(events.next().await.expect("the node stopped")) {
                return found;
            }
        }
    };
    timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("no {what}"))
}

async fn followed(follow: &mut Follow) -> Message {
    let wait = async {
        loop {
            if let Some(Event::Message(message)) = follow.next().await.unwrap() {
                return message;
            }
        }
    };
    timeout(DEADLINE, wait).await.expect("no message")
}

fn message(event: Event) -> Option<String> {
    match event {
        Event::Message(message) => Some(message.text().unwrap_or_default().to_owned()),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_messages_come_and_go_and_what_is_not_kept_is_told_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let (sender, node) = (start(None).await, start(Some(dir.path())).await);
    let mut events = node.events();
    link(&node, &sender).await;
    sender.send("kept").await.unwrap();
    assert_eq!(event(&mut events, "message", message).await, "kept");
    set(&node, Some(State::Full));
    let mut got = Vec::new();
    let mut told = false;
    for text in ["lost", "lost too"] {
        sender.send(text).await.unwrap();
        let came = event(&mut events, "message", |event| {
            told |= matches!(&event, Event::Warning(text) if text.contains("log could not be written"));
            message(event)
        });
        got.push(came.await);
    }
    assert_eq!(got, ["lost", "lost too"]);
    assert!(told, "a warning comes before what it is about");
    assert!(node.status().await.refused["unlogged"] >= 2);
    set(&node, None);
    sender.send("kept again").await.unwrap();
    // The writer says that it writes again, the driver hands the message over: in either order.
    let (mut came, mut noticed) = (false, false);
    let both = |event: Event| {
        noticed |= matches!(&event, Event::Notice(text) if text.contains("written again"));
        came |= message(event).is_some_and(|text| text == "kept again");
        (came && noticed).then_some(())
    };
    event(&mut events, "message and notice", both).await;
    let kept = node.log_since(Since::Pos(0)).await.unwrap();
    let kept: Vec<_> = kept.iter().map(|m| (m.pos, m.text().unwrap())).collect();
    assert_eq!(kept, [(1, "kept"), (4, "kept again")]);
    node.shutdown().await;
}

/// Returns once the driver waits for the disk.
async fn held_up(node: &Node) {
    while node.status().await.refused.get("log_behind").is_none_or(|n| *n == 0) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_disk_stands_still_links_are_not_read_and_then_everything_comes_once() {
    const MESSAGES: u64 = 1_000;
    let dir = tempfile::tempdir().unwrap();
    let (sender, node) = (start(None).await, start(Some(dir.path())).await);
    let mut follow = node.follow(Since::Pos(0)).unwrap();
    link(&node, &sender).await;
    set(&node, Some(State::Still));
    let feed = tokio::spawn(async move {
        for n in 0..MESSAGES {
            // Below what is announced and not pushed; 28 MiB in all, which no queue on the way holds.
            let mut payload = vec![0; 28 << 10];
            payload[..8].copy_from_slice(&n.to_be_bytes());
            sender.send(payload).await.unwrap();
        }
        sender
    });
    timeout(DEADLINE, held_up(&node)).await.expect("the log never held anything up");
    set(&node, None);
    let mut seen = BTreeSet::new();
    for pos in 1..=MESSAGES {
        let message = followed(&mut follow).await;
        assert_eq!(message.pos, pos);
        assert!(seen.insert(message.payload.slice(..8)), "message {} came twice", message.seq);
    }
    drop(feed.await.unwrap());
    assert!(!node.status().await.refused.contains_key("unlogged"), "nothing was dropped");
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_neighbour_pulls_is_fetched_from_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let (author, relay, reader) = (start(None).await, start(Some(dir.path())).await, start(None).await);
    let mut events = reader.events();
    link(&relay, &author).await;
    link(&reader, &relay).await;
    for n in 0..8_u8 {
        // Large ones are announced, and pulled; all that the relay has of them is in its log.
        author.send(vec![b'a' + n; 200_000]).await.unwrap();
        let text = event(&mut events, "message", message).await;
        assert!(text.len() == 200_000 && text.bytes().all(|byte| byte == b'a' + n));
    }
    assert_eq!(relay.log_since(Since::Pos(0)).await.unwrap().len(), 8);
    relay.shutdown().await;
}

/// A log that a process left whose end came at once.
fn leave(dir: &Path, group: &mut [Op]) {
    std::fs::create_dir_all(dir.join("log")).unwrap();
    let disk = RealDisk::open(&dir.join("log")).unwrap();
    // The key of nobody here.
    let (mut store, _) = Store::open(disk, key(9).id(), LogLimits::default()).unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    store.commit(u64::try_from(now.as_millis()).unwrap(), group).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waited_for_a_hole_waits_again_after_a_restart_and_comes_once() {
    let (at_home, away) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let sent: Vec<_> = (1..=5).map(|seq| envelope(&key(2), seq, 1, 10)).collect();
    let all: Vec<Op> = sent.iter().flat_map(|envelope| [append(envelope), deliver(envelope)]).collect();
    leave(at_home.path(), &mut { all });
    // The first was handed over, the second only written, the last two wait for the third.
    let mut left =
        [append(&sent[0]), deliver(&sent[0]), append(&sent[1]), append(&sent[3]), append(&sent[4])];
    leave(away.path(), &mut left);
    let home = start(Some(at_home.path())).await;
    let guest = start(Some(away.path())).await;
    let mut follow = guest.follow(Since::Pos(0)).unwrap();
    link(&guest, &home).await;
    for seq in 1..=5 {
        let message = followed(&mut follow).await;
        assert_eq!((message.seq, message.pos, message.late), (seq, seq, false));
    }
    guest.shutdown().await;
    drop(guest);
    let guest = start(Some(away.path())).await;
    link(&guest, &home).await;
    let mut events = guest.events();
    home.send("after").await.unwrap();
    assert_eq!(event(&mut events, "message", message).await, "after", "nothing came twice");
    home.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn own_messages_wait_for_a_disk_that_stands_still_and_go_on_when_it_moves() {
    const MESSAGES: usize = 1_000;
    const LEN: usize = 28 << 10;
    let dir = tempfile::tempdir().unwrap();
    let node = start(Some(dir.path())).await;
    set(&node, Some(State::Still));
    let accepted = AtomicUsize::new(0);
    let send = async {
        for _ in 0..MESSAGES {
            node.send(vec![0; LEN]).await.unwrap();
            accepted.fetch_add(1, Ordering::Relaxed);
        }
    };
    let watch = async {
        // Nobody is linked, so it is the disk alone that holds them up.
        held_up(&node).await;
        // Before the driver answers it takes what it may, and before the answer is looked at `send` goes as far as it can: when
        // nothing was accepted between some answers, nothing will be.
        let (mut before, mut same) = (0, 0);
        while same < 10 {
            node.status().await;
            let now = accepted.load(Ordering::Relaxed);
            same = if now == before { same + 1 } else { 0 };
            before = now;
        }
        set(&node, None);
        before * LEN
    };
    let ((), waited) =
        timeout(DEADLINE, async { tokio::join!(send, watch) }).await.expect("it never went on");
    // 8 MiB wait for the disk, a group of 1 MiB is with it, and 2 MiB wait for those.
    assert!(waited < 16 << 20, "{} MiB in memory", waited >> 20);
    let kept = || async { node.status().await.log_messages };
    let all = async {
        while kept().await < MESSAGES as u64 {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, all).await.expect("some are not in the log");
    node.shutdown().await;
}
