//! Starts on a damaged or taken directory, taken ports, and who is let in or kept out (faults 36, 37, 45).

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use p2p_node::{ConnectError, Event, FetchOptions, Node, PeerState, SendError, StartError};
use tokio::time::timeout;

use crate::util::{
    DEADLINE, Server, hasty, key, local, message, peer, peer_down, peer_up, start, target, until,
};

async fn in_dir(dir: &Path) -> Result<Node, StartError> {
    local().data_dir(dir).start().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_peer_table_is_moved_aside_with_a_warning() {
    let damages: [&[u8]; 6] =
        [b"", b"{\"version\": 1, \"pe", &[0xff; 1000], b"{\"version\": 999}", b"null", &[b'['; 100_000]];
    for damage in damages {
        let what = String::from_utf8_lossy(&damage[..damage.len().min(20)]).into_owned();
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("state.json"), damage).unwrap();
        let began = Instant::now();
        let node = in_dir(dir.path()).await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(3), "{what}: started after {:?}", began.elapsed());
        let mut events = node.events();
        let warning = until(&mut events, |e| if let Event::Warning(text) = e { Some(text) } else { None });
        assert!(warning.await.contains("moved to"), "{what}");
        let aside = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
        let aside: Vec<_> = aside.filter(|p| p.to_string_lossy().contains("state.json.corrupt-")).collect();
        assert_eq!(aside.len(), 1, "{what}: {aside:?}");
        assert_eq!(fs::read(&aside[0]).unwrap(), damage);
        // It works, and what it saves is good again.
        let other = start().await;
        node.connect(target(&other)).await.unwrap();
        node.shutdown().await;
        drop(node);
        let again = in_dir(dir.path()).await.unwrap();
        assert!(peer(&again, other.id()).await.is_some(), "{what}");
    }
}

/// One letter of the first signature in a peer table is another one.
fn damage_a_record(path: &Path) {
    const SIGNATURE: usize = 20;
    let mut text = fs::read(path).unwrap();
    let begin = text.windows(9).position(|part| part == b"\"bytes\":\"").unwrap() + 9;
    let end = begin + text[begin..].iter().position(|byte| *byte == b'"').unwrap();
    let letter = &mut text[end - SIGNATURE];
    *letter = if *letter == b'A' { b'B' } else { b'A' };
    fs::write(path, text).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_address_record_in_the_peer_table_costs_that_record_only() {
    let dir = tempfile::tempdir().unwrap();
    let other = start().await;
    let node = in_dir(dir.path()).await.unwrap();
    node.connect(target(&other)).await.unwrap();
    node.shutdown().await;
    drop(node);
    let path = dir.path().join("state.json");
    damage_a_record(&path);
    let copy = dir.path().join("copy.json");
    fs::copy(&path, &copy).unwrap();
    let node = in_dir(dir.path()).await.unwrap();
    let mut events = node.events();
    let warning = until(&mut events, |e| if let Event::Warning(text) = e { Some(text) } else { None }).await;
    assert!(warning.contains("left out 1 address record "), "{warning}");
    // It dials whom it knows, by the address beside the record.
    peer_up(&mut events, other.id()).await;
    let is_linked_to_newcomers = async |node: &Node| {
        for _ in 0..2 {
            let newcomer = start().await;
            newcomer.connect(target(node)).await.unwrap();
            let mut heard = newcomer.events();
            node.send("welcome").await.unwrap();
            assert_eq!(message(&mut heard).await.text(), Some("welcome"));
            newcomer.shutdown().await;
        }
    };
    is_linked_to_newcomers(&node).await;
    // The same of a file that the user names.
    let loads = start().await;
    let loaded = loads.load_state(Some(&copy)).await.unwrap();
    assert_eq!((loaded.peers, loaded.skipped), (1, 1));
    is_linked_to_newcomers(&loads).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_table_that_could_not_be_written_is_written_once_it_can_be() {
    let dir = tempfile::tempdir().unwrap();
    let (node, other) = (in_dir(dir.path()).await.unwrap(), start().await);
    let path = dir.path().join("state.json");
    // Nothing takes the place of a folder.
    fs::create_dir_all(path.join("in-the-way")).unwrap();
    let mut events = node.events();
    node.connect(target(&other)).await.unwrap();
    let warning = until(&mut events, |e| if let Event::Warning(text) = e { Some(text) } else { None }).await;
    assert!(warning.contains("could not be saved"), "{warning}");
    fs::remove_dir_all(&path).unwrap();
    // Nothing changes any more.
    let saved = async {
        while !fs::read_to_string(&path).is_ok_and(|text| text.contains(&other.id().to_string())) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(DEADLINE, saved).await.expect("it waits for another change");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_key_file_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let node = in_dir(dir.path()).await.unwrap();
    let id = node.id();
    node.shutdown().await;
    drop(node);
    let path = dir.path().join("identity.key");
    let whole = fs::read(&path).unwrap();
    for damage in [&b""[..], &whole[..whole.len() - 2], &[0; 100], b"none of this is a key\n"] {
        fs::write(&path, damage).unwrap();
        let error = in_dir(dir.path()).await.unwrap_err();
        assert!(matches!(&error, StartError::Identity { path: p, .. } if *p == path), "{error}");
        assert_eq!(fs::read(&path).unwrap(), damage);
    }
    fs::write(&path, &whole).unwrap();
    assert_eq!(in_dir(dir.path()).await.unwrap().id(), id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_node_on_one_directory_is_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let first = in_dir(dir.path()).await.unwrap();
    let began = Instant::now();
    let error = in_dir(dir.path()).await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(1), "after {:?}", began.elapsed());
    assert!(matches!(&error, StartError::InUse { path } if path == dir.path()), "{error}");
    let other = start().await;
    first.connect(target(&other)).await.unwrap();
    first.shutdown().await;
    drop(first);
    in_dir(dir.path()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_named_and_nothing_is_left_running() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken_addr = taken.local_addr().unwrap();
    let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (node_port, file_port) = (free(), free());
    let at = |port: u16, files: u16| local().data_dir(dir.path()).port(port).file_port(files).start();
    for (port, files) in [(taken_addr.port(), file_port), (node_port, taken_addr.port())] {
        let error = at(port, files).await.unwrap_err();
        assert!(matches!(error, StartError::Listen { addr, .. } if addr == taken_addr), "{error}");
    }
    // Neither the directory nor the other port is held.
    let node = at(node_port, file_port).await.unwrap();
    assert_eq!(node.listen_addrs()[0].port(), node_port);
    assert!(matches!(local().port(7).file_port(7).start().await, Err(StartError::Config(_))));
    // An address that this machine does not have.
    let elsewhere = Node::builder().host([192, 0, 2, 1]).port(0).file_port(0).start().await;
    assert!(matches!(elsewhere, Err(StartError::Listen { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disconnected_peer_stays_away_until_it_is_asked_for() {
    let (a, b) = (start().await, start().await);
    let mut at_b = b.events();
    a.connect(target(&b)).await.unwrap();
    peer_up(&mut at_b, a.id()).await;
    a.disconnect(b.id()).await.unwrap();
    assert_eq!(peer_down(&mut at_b, a.id()).await, "it disconnected");
    for (node, other) in [(&a, &b), (&b, &a)] {
        assert_eq!(node.status().await.links, 0);
        let state = peer(node, other.id()).await.unwrap().state;
        assert!(matches!(state, PeerState::Known | PeerState::Backoff), "{state:?}");
    }
    assert!(a.disconnect(b.id()).await.is_err(), "there is nothing left to end");
    assert!(a.disconnect(key(1).id()).await.is_err());
    b.connect(a.id()).await.unwrap();
    a.send("back").await.unwrap();
    assert_eq!(message(&mut at_b).await.text(), Some("back"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_banned_peer_gets_neither_link_nor_file_until_it_is_unbanned() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (in_dir(&dir.path().join("a")).await.unwrap(), start().await);
    let file = dir.path().join("file.bin");
    fs::write(&file, [9; 5000]).unwrap();
    let ticket = a.file_ticket(&a.share(&file).await.unwrap());
    let mut at_b = b.events();
    b.connect(target(&a)).await.unwrap();
    a.ban(b.id()).await.unwrap();
    assert_eq!(peer_down(&mut at_b, a.id()).await, "it has banned this node");
    let refused = b.connect(target(&a)).await.unwrap_err();
    assert!(matches!(&refused, ConnectError::Refused { reason } if reason.contains("banned")), "{refused}");
    assert_eq!(a.connect(target(&b)).await, Err(ConnectError::Banned(b.id())));
    assert_eq!(a.connect(b.ticket()).await.unwrap_err().code(), "banned");
    assert_eq!(peer(&a, b.id()).await.unwrap().state, PeerState::Banned);
    let options = || FetchOptions {
        to: Some(dir.path().join("got.bin")),
        timeout: Some(Duration::from_millis(300)),
        ..FetchOptions::default()
    };
    let error = b.fetch(ticket.clone(), options()).finish().await.unwrap_err();
    assert_eq!(error.code(), "providers_failed", "{error}");
    assert!(!dir.path().join("got.bin").exists());
    // Over a restart too.
    a.shutdown().await;
    drop(a);
    let a = in_dir(&dir.path().join("a")).await.unwrap();
    assert_eq!(b.connect(target(&a)).await.unwrap_err().code(), "refused");
    assert!(a.ban(a.id()).await.is_err(), "nobody bans itself");
    a.unban(b.id()).await.unwrap();
    assert!(a.unban(b.id()).await.is_err(), "it is not banned any more");
    b.connect(target(&a)).await.unwrap();
    let ticket = a.file_ticket(&a.share(&file).await.unwrap());
    b.fetch(ticket, options()).finish().await.unwrap();
    assert_eq!(fs::read(dir.path().join("got.bin")).unwrap(), [9; 5000]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_left_takes_no_link_until_it_joins_again() {
    let (a, b) = (start().await, start().await);
    let (mut at_a, mut at_b) = (a.events(), b.events());
    a.connect(target(&b)).await.unwrap();
    a.leave().await;
    assert_eq!(peer_down(&mut at_b, a.id()).await, "it leaves");
    peer_down(&mut at_a, b.id()).await;
    let refused = b.connect(target(&a)).await.unwrap_err();
    assert!(matches!(&refused, ConnectError::Refused { reason } if reason.contains("leaves")), "{refused}");
    assert_eq!((a.status().await.links, b.status().await.links), (0, 0));
    assert_eq!(a.send("to nobody").await.unwrap().queued_links, 0);
    // Of itself nothing comes back; asked for, everything does.
    a.connect(target(&b)).await.unwrap();
    b.send("welcome back").await.unwrap();
    assert_eq!(message(&mut at_a).await.text(), Some("welcome back"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dial_under_way_ends_with_the_node() {
    let (node, silent) = (start().await, Server::new(key(1)).await);
    let ticket = silent.ticket(key(1).id(), None);
    let dialling = tokio::spawn({
        let node = node.clone();
        async move { node.connect(ticket).await }
    });
    // It has a connection, on which nothing ever comes.
    let _connection = silent.accept_tcp().await;
    node.shutdown().await;
    assert!(matches!(dialling.await.unwrap(), Err(ConnectError::Stopped)));
}

#[tokio::test(flavor = "multi_thread")]
async fn events_end_with_the_last_handle() {
    let node = start().await;
    let (first, mut later) = (node.events(), node.events());
    let other = node.clone();
    drop((node, first));
    other.send("still there").await.unwrap();
    drop(other);
    let ends = async { while later.next().await.is_some() {} };
    timeout(DEADLINE, ends).await.expect("the events go on");
}

#[test]
fn a_node_whose_runtime_is_gone_says_so() {
    let runtime =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let its_own = runtime();
    let node = its_own.block_on(start());
    let mut events = node.events();
    drop(its_own);
    runtime().block_on(async {
        assert!(matches!(node.send("too late").await, Err(SendError::Stopped)));
        let ends = async { while events.next().await.is_some() {} };
        timeout(DEADLINE, ends).await.expect("the events go on");
        timeout(DEADLINE, node.shutdown()).await.expect("there is nothing to wait for");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_that_mean_no_limit_hinder_nothing() {
    let endless = || {
        hasty(|limits| {
            (limits.handshake_timeout, limits.dial_timeout) = (Duration::MAX, Duration::MAX);
            (limits.frame_timeout, limits.stalled_link) = (Duration::MAX, Duration::MAX);
            (limits.find_timeout, limits.inbox_bytes) = (Duration::MAX, usize::MAX);
            (limits.queue_bytes, limits.queue_bytes_total) = (usize::MAX, usize::MAX);
            (limits.max_in, limits.max_peers, limits.handshakes) = (usize::MAX / 2, usize::MAX, usize::MAX);
            (limits.link_bytes_per_sec, limits.link_frames_per_sec) = (u32::MAX, u32::MAX);
            (limits.uploads, limits.peer_connections) = (usize::MAX, usize::MAX);
        })
    };
    let (one, other) = (endless().start().await.unwrap(), endless().start().await.unwrap());
    let mut events = one.events();
    other.connect(target(&one)).await.unwrap();
    other.send(vec![1; 1 << 20]).await.unwrap();
    other.send("small").await.unwrap();
    let (first, second) = (message(&mut events).await, message(&mut events).await);
    assert_eq!(first.payload.len() + second.payload.len(), (1 << 20) + 5);
    one.shutdown().await;
    other.shutdown().await;
}
