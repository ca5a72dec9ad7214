//! A few nodes on loopback, as a program that embeds them would run them.
#![expect(clippy::unwrap_used, reason = "the line that panics says what failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use p2p_node::{
    ConnectError, Event, Events, Message, Node, NodeBuilder, NodeId, PeerState, SecretKey, SendError, Target,
};
use tokio::time::timeout;

/// Longer than anything here takes on a slow machine; only a failing test waits for it.
const DEADLINE: Duration = Duration::from_secs(30);

fn local() -> NodeBuilder {
    Node::builder().host([127, 0, 0, 1]).port(0).file_port(0)
}

async fn start() -> Node {
    local().start().await.unwrap()
}

fn addr(node: &Node) -> Target {
    Target::Addr(node.listen_addrs()[0])
}

/// The next event that `pick` wants.
async fn until<T>(events: &mut Events, mut pick: impl FnMut(Event) -> Option<T>) -> T {
    let wait = async {
        loop {
            if let Some(found) = pick(events.next().await.expect("the node stopped")) {
                return found;
            }
        }
    };
    timeout(DEADLINE, wait).await.expect("the event never came")
}

async fn message(events: &mut Events) -> Message {
    until(events, |event| if let Event::Message(m) = event { Some(m) } else { None }).await
}

async fn peer_up(events: &mut Events, peer: NodeId) {
    until(events, |event| matches!(event, Event::PeerUp { id, .. } if id == peer).then_some(())).await;
}

async fn peer_down(events: &mut Events, peer: NodeId) {
    until(events, |event| matches!(event, Event::PeerDown { id, .. } if id == peer).then_some(())).await;
}

/// Waits until `node` is linked to all of `others`, by the events since its start.
async fn linked(node: &Node, others: &[&Node]) {
    let mut events = node.events();
    for other in others {
        let connected =
            node.peers().await.iter().any(|p| p.id == other.id() && p.state == PeerState::Connected);
        if !connected {
            peer_up(&mut events, other.id()).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_joined_through_one_mesh_and_go_on_without_it() {
    let (a, b, c) = (start().await, start().await, start().await);
    let (mut b_events, mut c_events) = (b.events(), c.events());
    b.connect(addr(&a)).await.unwrap();
    c.connect(addr(&a)).await.unwrap();
    peer_up(&mut b_events, c.id()).await;
    peer_up(&mut c_events, b.id()).await;
    a.shutdown().await;
    peer_down(&mut b_events, a.id()).await;
    peer_down(&mut c_events, a.id()).await;
    assert_eq!(b.send("still here").await.unwrap().queued_links, 1);
    assert_eq!(message(&mut c_events).await.text(), Some("still here"));
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_of_any_kind_up_to_the_limit_arrive_once_and_in_order() {
    let (a, b) = (start().await, start().await);
    let mut events = b.events();
    a.connect(b.ticket()).await.unwrap();
    let large: Vec<u8> = (0..1u32 << 20).map(|i| (i % 251) as u8).collect();
    let payloads = [&b"same"[..], b"same", b"", b"\xff\x00\xfe", &large];
    for payload in payloads {
        a.send(payload.to_vec()).await.unwrap();
    }
    for payload in payloads {
        assert_eq!(message(&mut events).await.payload, payload);
    }
    let error = a.send(vec![0; (1 << 20) + 1]).await.unwrap_err();
    assert!(matches!(error, SendError::TooLarge { size: 1_048_577, limit: 1_048_576 }));
    a.send("last").await.unwrap();
    assert_eq!(message(&mut events).await.text(), Some("last"));
    let mut own = a.events();
    while let Some(event) = own.try_next() {
        assert!(!matches!(event, Event::Message(_)), "the author heard itself");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_at_full_speed_arrives_whole() {
    let nodes = [start().await, start().await, start().await];
    for node in &nodes[1..] {
        node.connect(addr(&nodes[0])).await.unwrap();
    }
    linked(&nodes[1], &[&nodes[2]]).await;
    const BURST: u64 = 5_000;
    let mut readers = Vec::new();
    for node in &nodes[1..] {
        let mut events = node.events();
        readers.push(tokio::spawn(async move {
            let (mut missing, mut last): (BTreeSet<u64>, _) = ((0..BURST).collect(), 0);
            while !missing.is_empty() {
                let m = message(&mut events).await;
                let n = u64::from_be_bytes(m.payload[..8].try_into().unwrap());
                assert!(missing.remove(&n), "{n} came twice");
                // The first one met of an author may overtake those sent just before it; they are marked.
                assert!(m.late || n >= last, "{n} after {last}");
                last = last.max(n);
            }
        }));
    }
    for n in 0..BURST {
        let mut payload = n.to_be_bytes().to_vec();
        payload.resize(1024, 7);
        nodes[0].send(payload).await.unwrap();
    }
    for reader in readers {
        reader.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_messages_beyond_what_a_queue_holds_all_arrive() {
    let (a, b) = (start().await, start().await);
    let mut events = b.events();
    a.connect(addr(&b)).await.unwrap();
    let mut expected: Vec<Vec<u8>> = (0..12).map(|n| vec![n; 1 << 20]).collect();
    for payload in &expected {
        a.send(payload.clone()).await.unwrap();
    }
    while !expected.is_empty() {
        let arrived = message(&mut events).await.payload;
        let at = expected.iter().position(|payload| *payload == arrived);
        expected.remove(at.expect("no payload comes twice"));
    }
}

async fn restart(dir: &Path) -> Node {
    local().data_dir(dir).start().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_node_is_back_without_being_told_anything() {
    let dir = tempfile::tempdir().unwrap();
    let a = start().await;
    let first = restart(dir.path()).await;
    let id = first.id();
    first.connect(addr(&a)).await.unwrap();
    let one = first.send("one").await.unwrap().seq;
    first.shutdown().await;
    drop(first);
    let mut events = a.events();
    let again = restart(dir.path()).await;
    assert_eq!(again.id(), id);
    linked(&again, &[&a]).await;
    let two = again.send("two").await.unwrap().seq;
    assert!(two > one, "{two} after {one}");
    let texts = [message(&mut events).await, message(&mut events).await].map(|m| m.text().map(str::to_owned));
    assert_eq!(texts, [Some("one".to_owned()), Some("two".to_owned())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn state_is_saved_by_itself_and_loads_elsewhere() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (a, b) = (start().await, restart(dir.path()).await);
    b.connect(addr(&a)).await.unwrap();
    let saved = async {
        while !std::fs::read_to_string(b.state_path()).is_ok_and(|text| text.contains(&a.id().to_string())) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    // Well before the first ping, which would wake a node that forgot about it.
    timeout(Duration::from_secs(8), saved).await.expect("not saved by itself in time");
    let copy = other.path().join("copy.json");
    assert_eq!(b.save_state(Some(&copy)).await.unwrap().1, 1);
    let c = start().await;
    c.load_state(Some(&copy)).await.unwrap();
    linked(&c, &[&a]).await;
    let list = other.path().join("list.json");
    std::fs::write(&list, format!("[\"127.0.0.1:{}\"]", a.listen_addrs()[0].port())).unwrap();
    let d = start().await;
    let loaded = d.load_state(Some(&list)).await.unwrap();
    assert_eq!((loaded.peers, loaded.skipped), (1, 0));
    linked(&d, &[&a]).await;
    std::fs::write(&list, "{").unwrap();
    assert!(d.load_state(Some(&list)).await.is_err());
    assert_eq!(std::fs::read_to_string(&list).unwrap(), "{", "a file the user names is left alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn connecting_twice_is_one_link_and_says_so() {
    let (a, b) = (start().await, start().await);
    assert!(!a.connect(addr(&b)).await.unwrap().already);
    assert!(a.connect(addr(&b)).await.unwrap().already);
    assert!(b.connect(a.ticket()).await.unwrap().already);
    assert_eq!((a.status().await.links, b.status().await.links), (1, 1));
    assert_eq!(a.connect(addr(&a)).await, Err(ConnectError::Itself));
    assert_eq!(a.connect(a.ticket()).await, Err(ConnectError::Itself));
}

#[tokio::test(flavor = "multi_thread")]
async fn both_dialling_at_once_is_one_link() {
    for _ in 0..30 {
        let (a, b) = (start().await, start().await);
        let (from_a, from_b) = tokio::join!(a.connect(b.ticket()), b.connect(a.ticket()));
        assert!(from_a.is_ok() && from_b.is_ok(), "{from_a:?} {from_b:?}");
        assert_eq!((a.status().await.links, b.status().await.links), (1, 1));
        let mut events = b.events();
        a.send("hello").await.unwrap();
        message(&mut events).await;
        tokio::join!(a.shutdown(), b.shutdown());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_shows_what_goes_on() {
    let (a, b) = (local().name("anna").start().await.unwrap(), start().await);
    b.connect(addr(&a)).await.unwrap();
    let shown = async {
        loop {
            let peers: BTreeMap<_, _> = b.peers().await.into_iter().map(|p| (p.id, p)).collect();
            let peer = &peers[&a.id()];
            if peer.rtt.is_some() {
                return peer.clone();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let peer = timeout(DEADLINE, shown).await.expect("no round trip was measured");
    assert_eq!((peer.name.as_deref(), peer.path), (Some("anna"), Some("direct")));
    assert_eq!(peer.addr, Some(a.listen_addrs()[0]));
    assert!(peer.last_heard.is_some() && peer.agent.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_that_runs_twice_is_noticed_and_loses_no_message() {
    let key = SecretKey::from_bytes(&[7; 32]);
    // A line, so that each end has a node of that id beside it: first - observer - relay - twin.
    let line = || local().discover(false);
    let observer = line().start().await.unwrap();
    let mut heard = observer.events();
    let first = line().key(key.clone()).start().await.unwrap();
    first.connect(addr(&observer)).await.unwrap();
    let one = first.send("one").await.unwrap().seq;
    assert_eq!(message(&mut heard).await.seq, one);
    let twin = line().key(key).start().await.unwrap();
    let relay = line().start().await.unwrap();
    relay.connect(addr(&observer)).await.unwrap();
    twin.connect(addr(&relay)).await.unwrap();
    let two = twin.send("two").await.unwrap().seq;
    assert!(two > one);
    let mut events = first.events();
    until(&mut events, |e| matches!(e, Event::Warning(text) if text.contains("identity")).then_some(()))
        .await;
    let again = until(&mut heard, |e| match e {
        Event::Message(m) if m.text() == Some("one") && m.seq > two => Some(m.seq),
        _ => None,
    });
    again.await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_just_before_leaving_arrives() {
    for _ in 0..20 {
        let (a, b) = (start().await, start().await);
        let mut events = b.events();
        a.connect(b.ticket()).await.unwrap();
        for n in 0..10 {
            a.send(vec![n; 20_000]).await.unwrap();
        }
        a.shutdown().await;
        for n in 0..10 {
            assert_eq!(message(&mut events).await.payload[0], n);
        }
    }
}
