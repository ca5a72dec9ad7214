//! Peer lists that lie (faults 21, 22). Links on loopback are private links, so private addresses may be
//! told over them; what nobody can be reached at may not.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use bytes::Bytes;
use p2p_node::{ByeReason, Direction, Event, Node, Packet, View};
use p2p_wire::PeerRecord;

use crate::util::{Hostile, Server, Stage, addr, key, local, peer_up, record, refused, until};

/// Addresses that are dropped whoever tells them.
const FORBIDDEN: [&str; 20] = [
    "0.1.2.3:4000",
    "192.0.0.9:4000",
    "192.0.2.1:4000",
    "192.88.99.1:4000",
    "198.18.0.1:4000",
    "198.51.100.1:4000",
    "203.0.113.1:4000",
    "224.0.0.1:4000",
    "239.1.2.3:4000",
    "240.0.0.1:4000",
    "255.255.255.255:4000",
    "[::]:4000",
    "[64:ff9b::1]:4000",
    "[100::1]:4000",
    "[fe80::1]:4000",
    "[ff02::1]:4000",
    "[2001:db8::1]:4000",
    "[2002:7f00:1::]:4000",
    // Other people's servers.
    "127.0.0.1:22",
    "127.0.0.1:443",
];

/// A shuffle that ends at the node: what is in it is the node's to keep.
fn shuffle(records: Vec<Bytes>) -> Packet {
    Packet::View(View::Shuffle { id: 1, ttl: 1, records })
}

/// Tells all of these; a shuffle has eight peers. Whether the link stands.
async fn tell(peer: &mut Hostile, records: &[PeerRecord]) -> bool {
    for some in records.chunks(8) {
        if !peer.say(&shuffle(some.iter().map(|record| record.bytes().clone()).collect())).await {
            return false;
        }
    }
    true
}

/// Tells all of it, as one neighbour after another where somebody else takes its place. How many it took.
async fn tell_all(victim: SocketAddr, mut lists: &[Vec<PeerRecord>]) -> usize {
    for tellers in 1..=32 {
        let mut peer = Hostile::join(victim, &key(tellers as u64)).await;
        while let [list, rest @ ..] = lists
            && tell(&mut peer, list).await
            && peer.answers(1).await
        {
            lists = rest;
        }
        if lists.is_empty() {
            return tellers;
        }
    }
    panic!("{} lists left", lists.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_that_lead_nowhere_are_not_kept() {
    let mut stage = Stage::new().await;
    let mut peer = Hostile::join(stage.addr(), &key(1)).await;
    let before = refused(&stage.victim, "addresses").await;
    let records: Vec<_> =
        (100..).zip(FORBIDDEN).map(|(n, a)| record(&key(n), 1, &[a.parse().unwrap()])).collect();
    assert!(tell(&mut peer, &records).await);
    peer.ping(1).await;
    let kept: Vec<_> = stage
        .victim
        .peers()
        .await
        .into_iter()
        .filter(|p| p.id != key(1).id() && p.id != stage.honest.id())
        .collect();
    assert!(kept.is_empty(), "{kept:?}");
    assert_eq!(refused(&stage.victim, "addresses").await - before, FORBIDDEN.len() as u64);
    stage.alive_and_untouched().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_fakes_stay_within_their_bounds_and_nobody_is_dialled() {
    const LISTS: u64 = 160;
    let mut stage = Stage::with(local().discover(false)).await;
    let trap = Server::new(key(3)).await;
    let mut peer = Hostile::join(stage.addr(), &key(1)).await;
    for n in 0..LISTS {
        let records: Vec<_> = (0..64).map(|i| record(&key(1000 + n * 64 + i), 1, &[trap.addr])).collect();
        assert!(tell(&mut peer, &records).await);
    }
    peer.ping(1).await;
    let known = stage.victim.status().await.known_peers;
    assert!((2..=66).contains(&known), "{known} peers known");
    // More liars: each has its own share, no more.
    for liar in 1..4 {
        let mut peer = Hostile::join(stage.addr(), &key(10 + liar)).await;
        for n in 0..3 {
            let at = 1_000_000 * liar + n * 64;
            let records: Vec<_> = (0..64).map(|i| record(&key(at + i), 1, &[trap.addr])).collect();
            assert!(tell(&mut peer, &records).await);
        }
        peer.ping(1).await;
    }
    let known = stage.victim.status().await.known_peers;
    assert!(known <= 66 + 3 * 65, "{known} peers known");
    stage.alive_and_untouched().await;
    let honest = stage.victim.peers().await.into_iter().find(|p| p.id == stage.honest.id());
    assert!(honest.is_some(), "the honest neighbour is still known");
    assert_eq!(trap.waiting(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_discovering_node_finds_out_fakes_and_stays_bounded() {
    let mut stage = Stage::new().await;
    // A port where nobody listens: each dial is refused at once.
    let nobody = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let mut peer = Hostile::join(stage.addr(), &key(1)).await;
    let records: Vec<_> = (0..64).map(|i| record(&key(1000 + i), 1, &[nobody])).collect();
    assert!(tell(&mut peer, &records).await);
    peer.ping(1).await;
    assert!(stage.victim.status().await.known_peers <= 66);
    // Somebody real is linked all the same, and what was heard of costs the node nothing more.
    let mut events = stage.victim.events();
    let real = local().start().await.unwrap();
    real.connect(stage.addr()).await.unwrap();
    peer_up(&mut events, real.id()).await;
    stage.alive_and_untouched().await;
    assert!(stage.victim.status().await.known_peers <= 67);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_with_one_forged_record_are_refused_whole() {
    let mut stage = Stage::with(local().discover(false)).await;
    let somewhere = ["127.0.0.1:4000".parse().unwrap()];
    let good = record(&key(50), 1, &somewhere);
    let other = record(&key(51), 1, &somewhere);
    let forge = |at: usize| {
        let mut bytes = other.bytes().to_vec();
        bytes[at] ^= 1;
        bytes
    };
    // Somebody else's id over one's own signature; another port; a higher number.
    let mut stolen = other.bytes().to_vec();
    stolen[1..33].copy_from_slice(stage.honest.id().as_bytes());
    let cases = [stolen, forge(41), forge(49), forge(other.bytes().len() - 1)];
    for (n, forged) in cases.into_iter().enumerate() {
        let mut peer = Hostile::join(stage.addr(), &key(n as u64)).await;
        peer.say(&shuffle(vec![good.bytes().clone(), forged.into()])).await;
        assert_eq!(peer.closed().await, Some(ByeReason::Misbehaved), "case {n}");
    }
    let known: Vec<_> = stage.victim.peers().await.into_iter().map(|p| p.id).collect();
    assert!(!known.contains(&key(50).id()) && !known.contains(&key(51).id()), "{known:?}");
    stage.alive_and_untouched().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_records_and_the_nodes_own_change_nothing() {
    let identity = key(42);
    let mut stage = Stage::with(local().discover(false).key(identity.clone())).await;
    let (new, old) = ("127.0.0.1:4001".parse().unwrap(), "127.0.0.1:4000".parse().unwrap());
    let owner = key(60);
    let known = async |stage: &Stage| {
        let peers = stage.victim.peers().await;
        peers.iter().find(|p| p.id == owner.id()).and_then(|p| p.addr)
    };
    let mut first = Hostile::join(stage.addr(), &key(1)).await;
    assert!(tell(&mut first, &[record(&owner, 5, &[new])]).await);
    first.ping(1).await;
    assert_eq!(known(&stage).await, Some(new));
    // Another teller: an older record of the owner, and one of the victim itself.
    let mut second = Hostile::join(stage.addr(), &key(2)).await;
    assert!(tell(&mut second, &[record(&owner, 4, &[old]), record(&identity, u64::MAX, &[old])]).await);
    second.ping(1).await;
    assert_eq!(known(&stage).await, Some(new));
    assert!(stage.victim.peers().await.iter().all(|p| p.id != identity.id()));
    assert!(stage.victim.addrs().iter().all(|a| a.port == stage.addr().port()));
    // Nothing at all is a list too.
    second.say(&shuffle(Vec::new())).await;
    second.ping(2).await;
    stage.alive_and_untouched().await;
}

/// Faults row 22, on sockets: the fakes take a connection and never say anything.
#[tokio::test(flavor = "multi_thread")]
async fn fifty_honest_entries_outlive_ten_thousand_fakes_and_are_found_again_after_a_restart() {
    const HONEST: usize = 50;
    const LISTS: usize = 160;
    let dir = tempfile::tempdir().unwrap();
    let start = async || local().data_dir(dir.path()).start().await.unwrap();
    let victim = start().await;
    let mut honest = Vec::new();
    for n in 100..100 + HONEST as u64 {
        // It dials the victim alone, which listens elsewhere after its restart.
        let node = local().discover(false).key(key(n)).start().await.unwrap();
        node.connect(addr(&victim)).await.unwrap();
        honest.push(node);
    }
    let traps: Vec<_> = (0..64).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let traps: Vec<_> = traps.iter().map(|trap| trap.local_addr().unwrap()).zip(&traps).collect();
    let mut fakes = (1_000..).zip(traps.iter().cycle()).map(|(n, (trap, _))| record(&key(n), 1, &[*trap]));
    let lists: Vec<Vec<_>> = (0..LISTS).map(|_| fakes.by_ref().take(64).collect()).collect();
    let tellers = tell_all(addr(&victim), &lists).await;
    let knows_honest = async |victim: &Node| {
        let known: BTreeSet<_> = victim.peers().await.into_iter().map(|peer| peer.id).collect();
        let all = honest.iter().all(|node| known.contains(&node.id()));
        let most = HONEST + tellers * (1 + 64);
        assert!(all && known.len() <= most, "{} peers known, {tellers} told", known.len());
    };
    knows_honest(&victim).await;
    victim.shutdown().await;
    drop(victim);

    let victim = start().await;
    let mut events = victim.events();
    knows_honest(&victim).await;
    let found = until(&mut events, |event| match event {
        Event::PeerUp { id, direction: Direction::Out, .. } => Some(id),
        _ => None,
    });
    // Within what `until` waits for, which is less than the 30 s of the row.
    let found = found.await;
    assert!(honest.iter().any(|node| node.id() == found));
}
