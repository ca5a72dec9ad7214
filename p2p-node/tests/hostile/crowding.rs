//! What others make a node say to its neighbours must not part it from them (faults row 56), nor keep it from being heard
//! (row 57).

use std::time::Duration;

use bytes::Bytes;
use p2p_node::{Answer, ByeReason, Event, FetchOptions, Packet, View};
use p2p_wire::{PeerAddr, PeerRecord, Scope};

use crate::flood::query;
use crate::util::{DEADLINE, Hostile, Stage, addr, key, local, target};

/// The victim hangs up on the honest neighbour, if it does, within this.
const SOON: Duration = Duration::from_secs(3);

/// Why the victim parted with the honest node.
async fn parted(stage: &Stage, events: &mut p2p_node::Events) -> Option<String> {
    let honest = stage.honest.id();
    let down = async {
        loop {
            match events.next().await {
                Some(Event::PeerDown { id, reason }) if id == honest => return reason,
                _ => {}
            }
        }
    };
    tokio::time::timeout(SOON, down).await.ok()
}

/// One asks, one answers with as much as a frame holds, as fast as its line: 72 answers of 64 KB, all to be passed on over
/// the link between two honest nodes.
#[tokio::test(flavor = "multi_thread")]
async fn answers_of_a_frames_size_end_their_own_link_and_no_other() {
    let stage = Stage::new().await;
    let mut events = stage.victim.events();
    let mut answerer = Hostile::join(stage.addr(), &key(2)).await;
    let mut asker = Hostile::join(addr(&stage.honest), &key(3)).await;
    for n in 0..9 {
        asker.say(&Packet::Query(query(&key(3), n, 16))).await;
    }
    let mut all = Vec::new();
    for _ in 0..9 {
        let id = loop {
            if let Some(Packet::Query(query)) = answerer.next().await {
                break query.id;
            }
        };
        let records = vec![Bytes::from(vec![7; 32_000]); 2];
        let large = Packet::Answer(Answer { id, provider: key(77).id(), records, name: None });
        (0..8).for_each(|_| all.extend_from_slice(&p2p_wire::encode_frame(&large).unwrap()));
    }
    answerer.write(&all).await;
    assert_eq!(parted(&stage, &mut events).await, None);
    assert_eq!(answerer.closed().await, Some(ByeReason::Misbehaved));
}

/// Shuffles walk on to a random neighbour each: here 800 of 9 KB within a moment.
#[tokio::test(flavor = "multi_thread")]
async fn walks_of_many_neighbours_at_once_part_nobody() {
    let stage = Stage::new().await;
    let mut events = stage.victim.events();
    let addrs: Vec<_> = (0..8_u16)
        .map(|n| PeerAddr { ip: format!("2a00:1450::{n}").parse().unwrap(), port: 4000, file_port: 0 })
        .collect();
    let of = |n: u64, scope| PeerRecord::sign(&key(500 + n), scope, 1, &addrs).unwrap().bytes().clone();
    let records: Vec<Bytes> = (0..8).flat_map(|n| [of(n, Scope::Public), of(n, Scope::Local)]).collect();
    let mut attackers = Vec::new();
    for n in 0..4 {
        attackers.push(Hostile::join(stage.addr(), &key(600 + n)).await);
    }
    for (n, attacker) in (0..).zip(&mut attackers) {
        let mut all = Vec::new();
        for id in 0..200 {
            let shuffle = View::Shuffle { id: id + 1000 * n, ttl: 4, records: records.clone() };
            all.extend_from_slice(&p2p_wire::encode_frame(&Packet::View(shuffle)).unwrap());
        }
        attacker.write(&all).await;
    }
    assert_eq!(parted(&stage, &mut events).await, None);
}

/// Asker, relay and provider in a line. Four others have asked all they may, of the asker or of the relay: what they asked goes
/// the same way, before what the asker asks.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_found_while_four_neighbours_ask_for_others() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("source.bin");
    std::fs::write(&path, vec![5; 20_000]).unwrap();
    for of_asker in [true, false] {
        let stage = Stage::with(local().discover(false)).await;
        let (asker, relay) = (&stage.honest, &stage.victim);
        let provider = local().discover(false).start().await.unwrap();
        provider.connect(target(relay)).await.unwrap();
        let share = provider.share(&path).await.unwrap();
        let asked = addr(if of_asker { asker } else { relay });
        let mut loud = Vec::new();
        for n in 0..4 {
            let mut neighbour = Hostile::join(asked, &key(30 + n)).await;
            for i in 0..40 {
                neighbour.say(&Packet::Query(query(&key(30 + n), i, 16))).await;
            }
            neighbour.ping(1).await;
            loud.push(neighbour);
        }
        // Short of the third time that it asks: what may be asked at once is not there again by then.
        let timeout = Some(Duration::from_secs(4));
        let to = Some(dir.path().join(format!("of-asker-{of_asker}")));
        let mut fetch = asker.fetch(share.hash, FetchOptions { to, timeout, ..FetchOptions::default() });
        let fetched = tokio::time::timeout(DEADLINE, fetch.finish()).await.expect("the fetch never ends");
        assert_eq!(fetched.map(|fetched| fetched.length), Ok(20_000), "of the asker: {of_asker}");
    }
}
