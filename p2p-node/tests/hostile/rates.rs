//! Rates and queues (faults 8, 9, 16, 17): what a link may bring and take, and who waits for whom.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use p2p_node::{Packet, SecretKey};

use crate::util::{Hostile, Stage, envelope, eventually, frame, hasty, key, kind, message, push, refused};

#[tokio::test(flavor = "multi_thread")]
async fn a_link_is_read_at_its_rate_and_others_do_not_wait() {
    const FRAMES: u64 = 1_000;
    let mut stage = Stage::with(hasty(|limits| limits.link_frames_per_sec = 400)).await;
    let mut peer = Hostile::join(stage.addr(), &key(2)).await;
    let flood: Vec<u8> = (1..=FRAMES).flat_map(|n| push(envelope(&key(1), n, b"x").bytes())).collect();
    let began = Instant::now();
    assert!(peer.write(&flood).await);
    let flooding = tokio::spawn(async move {
        peer.ping(1).await;
        (began.elapsed(), peer)
    });
    let mut delivered = stage.alive().await;
    let (took, _peer) = flooding.await.unwrap();
    // A quarter of a second's worth comes at once, and what one read brings is taken whole: 64 KiB, about 360 of these.
    assert!(took >= Duration::from_millis(1_300), "{FRAMES} frames were taken within {took:?}");
    assert!(refused(&stage.victim, "too_fast").await > 0);
    delivered.victim.extend(stage.alive().await.victim);
    assert_eq!(delivered.victim.len() as u64, FRAMES, "slowed down, not dropped");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_one_message_ends_its_link_and_costs_nobody_else() {
    let mut stage = Stage::new().await;
    let mut peer = Hostile::join(stage.addr(), &key(2)).await;
    let same = push(envelope(&key(1), 1, b"again").bytes());
    while peer.write(&same.repeat(100)).await {}
    eventually("the copies are counted", async || refused(&stage.victim, "duplicates").await >= 10).await;
    let delivered = stage.alive().await;
    assert_eq!((delivered.victim.len(), delivered.honest.len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn all_links_together_keep_to_their_budget() {
    const TOTAL: usize = 3 << 20;
    // What must not be refused may go beyond it.
    const CONTROL: u64 = 512 << 10;
    let stage = Stage::with(hasty(|limits| {
        limits.queue_bytes_total = TOTAL;
        limits.stalled_link = Duration::from_secs(2);
    }))
    .await;
    let mut deaf = Vec::new();
    for n in 10..18 {
        deaf.push(Hostile::join(stage.addr(), &key(n)).await);
    }
    let mut events = stage.honest.events();
    let sent: BTreeSet<Vec<u8>> =
        (0..600u32).map(|n| [&n.to_be_bytes()[..], &[1; 20_000]].concat()).collect();
    let mut most = 0;
    for payload in &sent {
        stage.victim.send(payload.clone()).await.unwrap();
        most = most.max(stage.victim.status().await.queued_bytes);
    }
    let total = TOTAL as u64;
    assert!((total / 2..total + CONTROL).contains(&most), "{most} bytes queued");
    let mut arrived = BTreeSet::new();
    while arrived.len() < sent.len() {
        arrived.insert(message(&mut events).await.payload.to_vec());
    }
    assert!(arrived == sent, "who reads gets everything");
    eventually("links that are not read are closed", async || stage.victim.status().await.links == 1).await;
    eventually("nothing is queued", async || stage.victim.status().await.queued_bytes == 0).await;
    assert!(refused(&stage.victim, "put_off").await > 0);
    drop(deaf);
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_link_authors_are_served_in_turn() {
    let stage = Stage::with(hasty(|limits| limits.queue_bytes = 256 << 10)).await;
    let (flooder, quiet) = (key(1), key(3));
    let mut reader = Hostile::join(stage.addr(), &key(9)).await;
    let mut flood = Hostile::join(stage.addr(), &flooder).await;
    let mut other = Hostile::join(stage.addr(), &quiet).await;
    // Far more than sockets and queue hold.
    for n in 1..=600 {
        assert!(flood.write(&push(envelope(&flooder, n, &[1; 25_000]).bytes())).await);
    }
    flood.ping(1).await;
    assert!(refused(&stage.victim, "put_off").await > 0, "the link is not full");
    other.write(&push(envelope(&quiet, 1, &[2; 20_000]).bytes())).await;
    other.ping(1).await;
    let of = |packet: &Packet, author: &SecretKey| {
        assert!(!matches!(packet, Packet::IHave(ids) if ids.iter().any(|a| a.id.author == quiet.id())));
        matches!(packet, Packet::Push { id, .. } if id.author == author.id())
    };
    while !of(&reader.handled().await.unwrap(), &quiet) {}
    // It has overtaken what waited before it.
    while !of(&reader.handled().await.unwrap(), &flooder) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn what_had_no_room_on_a_link_follows_in_order() {
    const MESSAGES: u64 = 600;
    let stage = Stage::with(hasty(|limits| limits.queue_bytes = 256 << 10)).await;
    let mut reader = Hostile::join(stage.addr(), &key(9)).await;
    let mut flood = Hostile::join(stage.addr(), &key(1)).await;
    for n in 1..=MESSAGES {
        assert!(flood.write(&push(envelope(&key(1), n, &[1; 25_000]).bytes())).await);
    }
    flood.ping(1).await;
    assert!(refused(&stage.victim, "put_off").await > 0, "the link is not full");
    let mut came = Vec::new();
    while (came.len() as u64) < MESSAGES {
        if let Packet::Push { id, .. } = reader.handled().await.unwrap() {
            came.push(id.first);
        }
    }
    assert_eq!(came, (1..=MESSAGES).collect::<Vec<_>>());
}

/// It stood still, which nobody waits for, and moves again.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_sends_waits_for_a_link_that_was_full() {
    const LEN: usize = 1_000;
    let stage = Stage::with(hasty(|limits| limits.queue_bytes = 1280 << 10)).await;
    let mut reader = Hostile::join(stage.addr(), &key(9)).await;
    let sent = AtomicUsize::new(0);
    let flood = async {
        while stage.victim.send(vec![1; LEN]).await.is_ok() {
            sent.fetch_add(LEN, Ordering::Relaxed);
        }
    };
    let read = async {
        eventually("the link is full", async || refused(&stage.victim, "put_off").await > 0).await;
        let (before, mut got) = (sent.load(Ordering::Relaxed), 0);
        while got < 2_000_000 {
            if let Packet::Push { envelope, .. } = reader.handled().await.unwrap() {
                got += envelope.len();
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        sent.load(Ordering::Relaxed) - before
    };
    let ahead = tokio::select! {
        () = flood => panic!("it was refused"),
        ahead = read => ahead,
    };
    assert!(ahead < 8_000_000, "{ahead} bytes were sent while the neighbour read 2 MB");
}

/// A stranger's flood is owed to one that reads 250 KB a second.
#[tokio::test(flavor = "multi_thread")]
async fn own_messages_do_not_wait_for_who_is_owed_those_of_others() {
    let stage = Stage::with(hasty(|limits| limits.queue_bytes = 256 << 10)).await;
    let mut events = stage.honest.events();
    let mut reader = Hostile::join(stage.addr(), &key(9)).await;
    let mut flood = Hostile::join(stage.addr(), &key(1)).await;
    for n in 1..=600 {
        assert!(flood.write(&push(envelope(&key(1), n, &[1; 25_000]).bytes())).await);
    }
    flood.ping(1).await;
    assert!(refused(&stage.victim, "put_off").await > 0, "the link is not full");
    for _ in 0..600 {
        message(&mut events).await;
    }
    let mut read = 0;
    let slow = async {
        loop {
            if let Packet::Push { .. } = reader.handled().await.unwrap() {
                read += 1;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    };
    let own = async {
        stage.victim.send(b"mine".to_vec()).await.unwrap();
        while message(&mut events).await.payload.as_ref() != b"mine" {}
    };
    tokio::select! {
        () = slow => {}
        () = own => {}
    }
    assert!(read < 300, "it came when the slow one had {read} of 600");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_and_handles_nothing_gets_little_and_is_closed() {
    let mut stage = Stage::with(hasty(|limits| limits.stalled_link = Duration::from_secs(1))).await;
    let mut deaf = Hostile::join(stage.addr(), &key(9)).await;
    let mut busy = Hostile::join(stage.addr(), &key(2)).await;
    for n in 1..=100 {
        assert!(busy.write(&push(envelope(&key(1), n, &[1; 2_000]).bytes())).await);
    }
    let came = deaf.rest().await;
    let pushed = came.iter().filter(|packet| matches!(packet, Packet::Push { .. })).count();
    // The first window, 16 KiB, and the frame that crosses its edge.
    assert!((4..=9).contains(&pushed), "{pushed} messages to one that handled none");
    assert!(
        came.iter().any(|packet| matches!(packet, Packet::Ping(number) if *number > 1 << 63)),
        "it was asked"
    );
    assert_eq!(stage.alive().await.honest.len(), 100, "others get all");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_much_of_one_author_is_announced_and_given_to_who_asks() {
    const MESSAGES: u64 = 100;
    let stage = Stage::with(hasty(|limits| limits.author_entries_per_sec = Some(10))).await;
    let (busy, other) = (key(1), key(3));
    let mut witness = Hostile::join(stage.addr(), &key(9)).await;
    let mut peer = Hostile::join(stage.addr(), &key(2)).await;
    let began = Instant::now();
    for n in 1..=MESSAGES {
        peer.write(&push(envelope(&busy, n, b"much").bytes())).await;
    }
    peer.ping(1).await;
    let most = 20 + 10 * began.elapsed().as_secs();
    peer.write(&push(envelope(&other, 1, b"little").bytes())).await;
    let (mut pushed, mut announced) = (BTreeSet::new(), BTreeSet::new());
    while (pushed.len() + announced.len()) as u64 <= MESSAGES {
        match witness.next().await.unwrap() {
            Packet::Push { id, .. } => drop(pushed.insert((id.author, id.first))),
            Packet::IHave(ids) => announced.extend(ids.iter().map(|a| a.id)),
            _ => {}
        }
    }
    assert!(pushed.contains(&(other.id(), 1)), "another author does not pay for it");
    let of_busy = pushed.len() as u64 - 1;
    assert!((10..=most).contains(&of_busy), "{of_busy} pushed");
    assert_eq!(refused(&stage.victim, "author_too_fast").await, MESSAGES - of_busy);
    let wanted = *announced.last().unwrap();
    witness.write(&frame(kind::IWANT, &wanted.to_bytes())).await;
    while !matches!(witness.next().await, Some(Packet::Push { id, .. }) if id == wanted) {}
}
