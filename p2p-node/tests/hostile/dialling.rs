//! What a node meets when it dials: somebody else, itself, nobody, or both at once (faults 11, 12).

use std::time::{Duration, Instant};

use p2p_node::{ByeReason, ConnectError, Packet, PeerState, Ticket, View};
use p2p_wire::PeerAddr;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use crate::util::{
    Hostile, SOON, Server, Stage, addr, eventually, frame, hasty, hello, key, kind, local, message, peer,
    peer_down, peer_up, record, start, target,
};

#[tokio::test(flavor = "multi_thread")]
async fn somebody_else_at_a_tickets_address_is_named_and_not_kept() {
    let mut stage = Stage::new().await;
    let (expected, found) = (key(1).id(), key(2));
    let impostor = Server::new(found.clone()).await;
    let ticket = impostor.ticket(expected, None);
    let (result, _) = tokio::join!(stage.victim.connect(ticket.clone()), impostor.accept());
    assert_eq!(result, Err(ConnectError::WrongIdentity { expected, found: found.id() }));
    assert_eq!(result.unwrap_err().code(), "wrong_identity");
    assert_eq!(peer(&stage.victim, expected).await, None, "nothing of the ticket is kept");
    assert_eq!(peer(&stage.victim, found.id()).await, None, "nor of the impostor");
    // Nothing is stuck: the same answer again, and the impostor is welcome under its own id.
    let (result, _) = tokio::join!(stage.victim.connect(ticket), impostor.accept());
    assert!(matches!(result, Err(ConnectError::WrongIdentity { .. })), "{result:?}");
    let own = impostor.ticket(found.id(), None);
    let (result, _peer) = tokio::join!(stage.victim.connect(own), welcome(&impostor));
    assert_eq!(result.unwrap().id, found.id());
    // A ticket of one's own key at somebody else's address, and of somebody else's at one's own.
    let (victim, honest) = (stage.victim.clone(), stage.honest.id());
    let addrs = stage.victim.addrs();
    let result = victim.connect(Ticket { id: key(5).id(), addrs, file: None }).await;
    assert_eq!(result, Err(ConnectError::WrongIdentity { expected: key(5).id(), found: victim.id() }));
    let addrs = stage.honest.addrs();
    let result = victim.connect(Ticket { id: key(5).id(), addrs, file: None }).await;
    assert_eq!(result, Err(ConnectError::WrongIdentity { expected: key(5).id(), found: honest }));
    assert_eq!(peer(&victim, key(5).id()).await, None);
    stage.alive_and_untouched().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_given_its_own_address_says_so_and_stays_clean() {
    let node = start().await;
    for _ in 0..20 {
        assert_eq!(node.connect(target(&node)).await, Err(ConnectError::Itself));
        assert_eq!(node.connect(node.ticket()).await, Err(ConnectError::Itself));
        assert_eq!(node.connect(node.id()).await, Err(ConnectError::Itself));
    }
    assert_eq!(node.peers().await, []);
    let status = node.status().await;
    assert_eq!((status.links, status.known_peers), (0, 0));
    // As a seed of its start: found out, and dropped.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let seeded = local().port(port.port()).connect(port).start().await.unwrap();
    let mut events = seeded.events();
    let other = start().await;
    other.connect(target(&seeded)).await.unwrap();
    peer_up(&mut events, other.id()).await;
    assert!(seeded.peers().await.iter().all(|p| p.id == other.id()));
}

#[tokio::test(flavor = "multi_thread")]
async fn both_dialling_at_once_a_hundred_times_is_one_link_each_time() {
    let (a, b) = (start().await, start().await);
    let (mut at_a, mut at_b) = (a.events(), b.events());
    for round in 0..100 {
        let (from_a, from_b) = tokio::join!(a.connect(target(&b)), b.connect(a.ticket()));
        assert!(from_a.is_ok() && from_b.is_ok(), "round {round}: {from_a:?} {from_b:?}");
        assert_eq!((a.status().await.links, b.status().await.links), (1, 1), "round {round}");
        a.send(format!("{round}")).await.unwrap();
        let heard = message(&mut at_b).await;
        assert_eq!(heard.text(), Some(&*round.to_string()));
        a.disconnect(b.id()).await.unwrap();
        peer_down(&mut at_b, a.id()).await;
        peer_down(&mut at_a, b.id()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_on_two_connections_is_one_link() {
    let mut stage = Stage::new().await;
    let mut first = Hostile::join(stage.addr(), &key(1)).await;
    let mut second = Hostile::join(stage.addr(), &key(1)).await;
    assert_eq!(first.closed().await, Some(ByeReason::Duplicate));
    second.ping(1).await;
    assert_eq!(stage.victim.status().await.links, 2);
    stage.alive_and_untouched().await;
}

/// Takes a dial and becomes a neighbour like an honest node.
async fn welcome(server: &Server) -> Hostile {
    let mut peer = server.accept().await;
    assert!(matches!(peer.next().await, Some(Packet::Hello(_))));
    peer.say(&hello(Vec::new())).await;
    peer.say(&Packet::View(View::Answer { accepted: true, records: Vec::new() })).await;
    peer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dial_that_was_given_up_keeps_the_peer_out_in_neither_direction() {
    for node_dials in [true, false] {
        let node = start().await;
        // With the higher id it is refused while the node claims it.
        let theirs = (1..).map(key).find(|key| key.id() > node.id()).unwrap();
        let server = Server::new(theirs.clone()).await;
        let silent = async {
            let mut peer = server.accept().await;
            assert!(matches!(peer.next().await, Some(Packet::Hello(_))));
            peer
        };
        // Its hello was awaited when the caller had enough.
        let _silent = tokio::select! {
            result = node.connect(server.addr) => panic!("{result:?} without a hello"),
            peer = silent => peer,
        };
        if node_dials {
            let (result, _peer) = tokio::join!(node.connect(server.addr), welcome(&server));
            assert_eq!(result.map(|connected| connected.id), Ok(theirs.id()));
        } else {
            Hostile::join(addr(&node), &theirs).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dial_may_be_given_up_at_any_moment() {
    let (a, b) = (local().discover(false).start().await.unwrap(), start().await);
    let mut at_b = b.events();
    for round in 0..60 {
        // On loopback a link is there after some milliseconds.
        timeout(Duration::from_micros(100 * round), a.connect(target(&b))).await.ok();
        let made = timeout(SOON, a.connect(target(&b))).await;
        assert!(matches!(made, Ok(Ok(_))), "round {round}: {made:?}");
        a.send(format!("{round}")).await.unwrap();
        assert_eq!(message(&mut at_b).await.text(), Some(&*round.to_string()));
        a.disconnect(b.id()).await.unwrap();
        eventually("the link is gone", async || a.status().await.links + b.status().await.links == 0).await;
    }
}

/// What a node is told that dials a server which answers so.
async fn answered(says: &[u8]) -> Result<p2p_node::Connected, ConnectError> {
    let node = hasty(|limits| limits.handshake_timeout = Duration::from_millis(500)).start().await.unwrap();
    let server = Server::new(key(1)).await;
    let began = Instant::now();
    let (result, _) = tokio::join!(node.connect(server.addr), async {
        let mut peer = server.accept().await;
        peer.next().await;
        peer.write(says).await;
        if !says.is_empty() {
            peer.stream.shutdown().await.ok();
        }
        peer
    });
    assert!(began.elapsed() < SOON, "after {:?}", began.elapsed());
    assert_eq!(node.status().await.links, 0);
    assert!(node.peers().await.iter().all(|p| p.state != PeerState::Dialing));
    result
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_answers_to_a_dial_are_told_apart() {
    let bye = |reason| p2p_wire::encode_frame(&Packet::Bye(reason)).unwrap();
    assert!(matches!(answered(b"").await, Err(ConnectError::TimedOut { .. })));
    assert!(matches!(answered(&bye(ByeReason::Full)).await, Err(ConnectError::Refused { .. })));
    assert!(matches!(answered(&bye(ByeReason::Banned)).await, Err(ConnectError::Refused { .. })));
    assert!(matches!(answered(&bye(ByeReason::Duplicate)).await, Err(ConnectError::Refused { .. })));
    let somebodys = hello(vec![record(&key(2), 1, &["127.0.0.1:4000".parse().unwrap()]).bytes().clone()]);
    let nonsense = [
        frame(kind::PING, &[0x81, 0xa1, b'n', 1]),
        frame(kind::HELLO, &[0xc1]),
        frame(200, &[]),
        vec![0xff; 100],
        vec![0; 4],
        p2p_wire::encode_frame(&somebodys).unwrap().to_vec(),
    ];
    for says in nonsense {
        let result = answered(&says).await;
        assert!(matches!(result, Err(ConnectError::Protocol { .. })), "{says:?}: {result:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_answer_is_a_typed_result_within_its_deadline() {
    const LIMIT: Duration = Duration::from_millis(400);
    let node = hasty(|limits| (limits.handshake_timeout, limits.dial_timeout) = (LIMIT, LIMIT))
        .start()
        .await
        .unwrap();
    // Nobody listens.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let began = Instant::now();
    let result = node.connect(nobody).await;
    assert!(matches!(result, Err(ConnectError::Unreachable { .. })), "{result:?}");
    // Somebody accepts and says nothing.
    let silent = Server::new(key(1)).await;
    let (result, _tcp) = tokio::join!(node.connect(silent.addr), silent.accept_tcp());
    assert!(matches!(result, Err(ConnectError::TimedOut { .. })), "{result:?}");
    // Somebody speaks another protocol.
    let (result, ()) = tokio::join!(node.connect(silent.addr), async {
        silent.accept_tcp().await.write_all(b"220 mail.invalid ESMTP\r\n").await.unwrap();
    });
    assert!(matches!(result, Err(ConnectError::Protocol { .. })), "{result:?}");
    // Many addresses in one ticket, none of which answers.
    let dead = |n: u8| PeerAddr { ip: [127, 0, 0, n].into(), port: nobody.port(), file_port: 0 };
    let ticket = Ticket { id: key(3).id(), addrs: (1..=8).map(dead).collect(), file: None };
    let result = node.connect(ticket).await;
    assert!(matches!(result, Err(ConnectError::Unreachable { .. })), "{result:?}");
    // An id that nobody has told an address of.
    assert_eq!(node.connect(key(9).id()).await, Err(ConnectError::NoAddress(key(9).id())));
    assert!(began.elapsed() < SOON, "after {:?}", began.elapsed());
    let other = start().await;
    node.connect(addr(&other)).await.unwrap();
    assert_eq!(node.status().await.links, 1);
}
