//! Old messages again (fault 14), times that cannot be (fault 15), and lies about what was missed.

use std::time::Duration;

use p2p_gossip::{Held, Span};
use p2p_node::{Event, LogMode, Node, Packet};
use p2p_wire::{Envelope, NewEntry, NodeId};
use tokio::time::timeout;

use crate::util::{DEADLINE, Hostile, Stage, addr, envelope, key, local, push, refused, until};

/// Hands these over and waits until they were handled.
async fn say_all(peer: &mut Hostile, envelopes: &[Envelope]) {
    for envelopes in envelopes.chunks(50) {
        let bytes: Vec<u8> = envelopes.iter().flat_map(|envelope| push(envelope.bytes())).collect();
        peer.write(&bytes).await;
        peer.ping(1).await;
    }
}

/// The seqs of an author's messages in the node's log, which are those that were delivered.
async fn logged(node: &Node, author: NodeId) -> Vec<u64> {
    let (mut seqs, mut next) = (Vec::new(), 0);
    loop {
        let log = node.log_since(p2p_node::Since::Pos(next)).await.unwrap();
        let Some(last) = log.last() else { return seqs };
        next = last.pos + 1;
        seqs.extend(log.iter().filter(|message| message.author == author).map(|message| message.seq));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_messages_replayed_ten_times_over_restarts_come_once() {
    const COUNT: u64 = 1_000;
    /// Above the 64 MiB of the log.
    const LARGE: u64 = 72;
    let dir = tempfile::tempdir().unwrap();
    let start =
        async || local().discover(false).data_dir(dir.path()).log(LogMode::Disk).start().await.unwrap();
    let (author, other) = (key(1), key(2));
    let recorded: Vec<_> = (0..COUNT).map(|n| envelope(&author, 1 + n, &n.to_be_bytes())).collect();
    for round in 0..3 {
        let node = start().await;
        let mut events = node.events();
        let mut peer = Hostile::join(addr(&node), &key(3)).await;
        for _ in 0..10 {
            say_all(&mut peer, &recorded).await;
        }
        // What comes behind all of it.
        let mark = envelope(&other, 1 + round * 1_000, b"mark");
        peer.write(&push(mark.bytes())).await;
        until(&mut events, |event| {
            matches!(event, Event::Message(m) if m.payload == b"mark"[..]).then_some(())
        })
        .await;
        // In the last round the log has dropped them, and whatever was delivered would be in it again.
        let expected: Vec<u64> = if round < 2 { (1..=COUNT).collect() } else { Vec::new() };
        let logged = logged(&node, author.id()).await;
        assert!(logged == expected, "round {round}: {} of {}", logged.len(), expected.len());
        if round == 1 {
            for n in 0..LARGE {
                let large = envelope(&other, 2 + round * 1_000 + n, &vec![0; 1 << 20]);
                peer.write(&push(large.bytes())).await;
                peer.ping(2 + n).await;
            }
            let last = 1 + round * 1_000 + LARGE;
            until(&mut events, |event| matches!(event, Event::Message(m) if m.seq == last).then_some(()))
                .await;
        }
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn times_ten_years_off_change_nothing_live_or_caught_up() {
    const TEN_YEARS_MS: u64 = 10 * 365 * 24 * 3_600 * 1_000;
    let mut stage = Stage::new().await;
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    let now = u64::try_from(now.as_millis()).unwrap();
    let author = key(1);
    let times = [now, now - TEN_YEARS_MS, now + TEN_YEARS_MS, 0, u64::MAX, now];
    let envelopes: Vec<_> = (1..)
        .zip(times)
        .map(|(seq, time_ms)| {
            let entry = NewEntry { topic: "t", time_ms, recipient: None, payload: b"x" };
            Envelope::sign(&author, 1, seq, &[entry]).unwrap()
        })
        .collect();
    let mut peer = Hostile::join(stage.addr(), &author).await;
    say_all(&mut peer, &envelopes).await;
    assert_eq!(stage.alive().await.honest.len(), times.len());
    let late = local().discover(false).start().await.unwrap();
    let mut events = late.events();
    late.connect(stage.addr()).await.unwrap();
    for seq in (1..).take(times.len()) {
        let of_author = |event| match event {
            Event::Message(m) if m.author == author.id() => Some((m.seq, m.late)),
            _ => None,
        };
        assert_eq!(until(&mut events, of_author).await, (seq, false));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_claims_what_does_not_exist_silences_nobody() {
    let mut stage = Stage::new().await;
    let author = key(1);
    let mut liar = Hostile::join(stage.addr(), &key(2)).await;
    let span = Span { author: author.id(), from: 0, to: 1 << 63 };
    liar.say(&Packet::Digest(vec![[7; 16]])).await;
    liar.say(&Packet::Ranges(vec![Held { span, sum: [7; 16] }])).await;
    // It is asked, and answers that it has nothing after all; then that it has all of it.
    let pull = async {
        loop {
            if let Packet::Pull { number, spans } = liar.next().await.expect("the link stays") {
                return (number, spans);
            }
        }
    };
    let (number, spans) = timeout(DEADLINE, pull).await.unwrap();
    assert_eq!(spans, [Span { to: 512, ..span }]);
    liar.say(&Packet::Served { number, done: 1, upto: 0 }).await;
    liar.say(&Packet::Served { number: number + 1, done: u16::MAX, upto: u64::MAX }).await;
    liar.say(&Packet::Served { number: number + 1, done: 0, upto: 0 }).await;
    liar.ping(1).await;
    let mut honest = Hostile::join(stage.addr(), &author).await;
    let envelopes: Vec<_> = (3..9).map(|seq| envelope(&author, seq, &[1])).collect();
    say_all(&mut honest, &envelopes).await;
    let delivered = stage.alive().await;
    assert_eq!((delivered.victim.len(), delivered.honest.len()), (6, 6));
}

#[tokio::test(flavor = "multi_thread")]
async fn digests_ranges_and_pulls_without_end_are_answered_sparingly() {
    const TIMES: usize = 500;
    let mut stage = Stage::new().await;
    let author = key(1);
    let mut source = Hostile::join(stage.addr(), &author).await;
    let envelopes: Vec<_> = (1..=300).map(|seq| envelope(&author, seq, &[1; 500])).collect();
    say_all(&mut source, &envelopes).await;
    let mut peer = Hostile::join(stage.addr(), &key(2)).await;
    let span = Span { author: author.id(), from: 0, to: 1_000 };
    let mut answers = Vec::new();
    for n in 0..TIMES {
        peer.say(&Packet::Digest(vec![[1; 16]])).await;
        peer.say(&Packet::Digest(vec![[2; 16]; 256])).await;
        peer.say(&Packet::Ranges(vec![Held { span: Span { from: 1, to: 301, ..span }, sum: [3; 16] }; 9]))
            .await;
        peer.say(&Packet::Pull { number: 1, spans: vec![span; 200] }).await;
        answers.extend(peer.ping(n as u64).await);
    }
    let bytes = |packets: &[Packet], of: fn(&Packet) -> bool| {
        packets.iter().filter(|p| of(p)).map(|p| p2p_wire::encode_frame(p).unwrap().len()).sum::<usize>()
    };
    let summaries = bytes(&answers, |p| matches!(p, Packet::Digest(_) | Packet::Ranges(_)));
    // The loop takes some seconds on a slow machine; each brings 1 KiB more.
    assert!((1..128 * 1024).contains(&summaries), "{summaries} bytes of summaries");
    let pushes = answers.iter().filter(|p| matches!(p, Packet::Push { .. })).count();
    assert!(pushes <= 3 * 300, "{pushes} pushes of 300 envelopes");
    assert!(refused(&stage.victim, "pulls").await > 0);
    assert!(refused(&stage.victim, "summaries").await > 0);
    stage.alive().await;
    let still = timeout(Duration::from_secs(20), peer.ping(9_999)).await;
    assert!(still.is_ok(), "nothing of this is worth the link");
}
