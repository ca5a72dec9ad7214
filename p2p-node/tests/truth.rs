//! What a sender learns of its messages, and what a reader asked for.
#![expect(clippy::unwrap_used, reason = "the line that panics says what failed")]

use std::collections::BTreeSet;
use std::time::Duration;

use p2p_node::{
    Config, Event, Events, Message, Node, NodeBuilder, NodeId, ReceiptError, SecretKey, SendError, Target,
    TopicsError,
};
use tokio::time::timeout;

/// Longer than anything here takes on a slow machine; only a failing test waits for it.
const DEADLINE: Duration = Duration::from_secs(30);

fn local() -> NodeBuilder {
    Node::builder().host([127, 0, 0, 1]).port(0).file_port(0).discover(false)
}

/// Nodes of which each is linked to the next only.
async fn line(builders: Vec<NodeBuilder>) -> Vec<Node> {
    let mut nodes: Vec<Node> = Vec::new();
    for builder in builders {
        let node = builder.start().await.unwrap();
        if let Some(last) = nodes.last() {
            node.connect(Target::Addr(last.listen_addrs()[0])).await.unwrap();
        }
        nodes.push(node);
    }
    nodes
}

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

async fn refused(node: &Node, what: &str) -> u64 {
    node.status().await.refused.get(what).copied().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_comes_back_over_a_relay_and_proves_what_arrived() {
    let nodes = line(vec![local(), local(), local()]).await;
    let [author, relay, recipient] = &nodes[..] else { unreachable!() };
    let (mut at_author, mut at_recipient, mut at_relay) =
        (author.events(), recipient.events(), relay.events());
    let awaited = author.send_for_receipt(recipient.id(), "only for you", DEADLINE).await.unwrap();
    let sent = awaited.sent();
    let heard = message(&mut at_recipient).await;
    assert_eq!((heard.text(), heard.private, heard.seq), (Some("only for you"), true, sent.seq));
    let receipt = awaited.wait().await.unwrap();
    assert_eq!((receipt.author, receipt.seq, receipt.by), (author.id(), sent.seq, recipient.id()));
    assert_eq!(receipt.digest, p2p_node::Receipt::digest_of(b"only for you"));
    receipt.verify().unwrap();
    let told = until(&mut at_author, |event| match event {
        Event::Receipt { seq, by } => Some((seq, by)),
        Event::Message(m) => panic!("a receipt is no message: {m:?}"),
        _ => None,
    });
    assert_eq!(told.await, (sent.seq, recipient.id()));
    // Nobody between got anything to read, and the receipt of a receipt is not asked for.
    author.send("mark").await.unwrap();
    assert_eq!(message(&mut at_relay).await.text(), Some("mark"));
    assert_eq!(message(&mut at_recipient).await.text(), Some("mark"));
    assert_eq!(recipient.status().await.messages_out, 1);
}

/// What is too much of one author is announced and fetched, never dropped.
#[tokio::test(flavor = "multi_thread")]
async fn in_an_open_network_an_author_above_its_rate_loses_nothing() {
    const MESSAGES: u32 = 400;
    let open = || local().limits(Config::open().limits);
    let nodes = line(vec![open(), open(), open()]).await;
    let mut events = nodes[2].events();
    for n in 0..MESSAGES {
        nodes[0].send(n.to_string()).await.unwrap();
    }
    for n in 0..MESSAGES {
        assert_eq!(message(&mut events).await.text(), Some(&*n.to_string()));
    }
    assert!(refused(&nodes[1], "author_too_fast").await > 0, "the relay pushed everything");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_there_or_gives_none_is_a_deadline_that_passes() {
    let nodes = line(vec![local(), local().receipts(false)]).await;
    let (author, silent) = (&nodes[0], &nodes[1]);
    let mut events = author.events();
    let absent = SecretKey::from_bytes(&[9; 32]).id();
    for to in [absent, silent.id()] {
        let awaited = author.send_for_receipt(to, "hello?", Duration::from_millis(50)).await.unwrap();
        let seq = awaited.sent().seq;
        let error = timeout(DEADLINE, awaited.wait()).await.unwrap().unwrap_err();
        assert_eq!((&error, error.code()), (&ReceiptError::TimedOut { seq, to }, "no_receipt"));
        let told: (u64, NodeId) = until(&mut events, |event| match event {
            Event::NoReceipt { seq, to } => Some((seq, to)),
            _ => None,
        })
        .await;
        assert_eq!(told, (seq, to));
    }
    assert_eq!(message(&mut silent.events()).await.text(), Some("hello?"));
}

/// More than an author gets at once: the rest waits for its rate.
#[tokio::test(flavor = "multi_thread")]
async fn many_messages_at_once_have_all_their_receipts() {
    const MESSAGES: usize = 100;
    let nodes = line(vec![local(), local()]).await;
    let mut awaited = Vec::new();
    for n in 0..MESSAGES {
        awaited.push(nodes[0].send_for_receipt(nodes[1].id(), n.to_string(), DEADLINE).await.unwrap());
    }
    for awaited in awaited {
        awaited.wait().await.unwrap();
    }
    assert_eq!(refused(&nodes[1], "receipts_refused").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_to_oneself_is_refused() {
    let node = local().start().await.unwrap();
    let sent = node.send_to(node.id(), "me").await;
    assert!(matches!(sent, Err(SendError::Itself)), "{sent:?}");
    let asked = node.send_for_receipt(node.id(), "me", DEADLINE).await.unwrap_err();
    assert_eq!(asked.code(), "itself");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_after_the_deadline_is_counted_and_nothing_else() {
    let nodes = line(vec![local(), local()]).await;
    let awaited = nodes[0].send_for_receipt(nodes[1].id(), "too late", Duration::ZERO).await.unwrap();
    assert!(matches!(awaited.wait().await, Err(ReceiptError::TimedOut { .. })));
    // What follows the receipt on its link comes after it.
    let mut events = nodes[0].events();
    assert_eq!(message(&mut nodes[1].events()).await.text(), Some("too late"));
    nodes[1].send("mark").await.unwrap();
    message(&mut events).await;
    timeout(DEADLINE, async {
        while refused(&nodes[0], "receipts_unknown").await != 1 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_chosen_at_delivery_and_relayed_all_the_same() {
    let topics = |list: &[&str]| list.iter().map(|t| (*t).to_owned()).collect::<BTreeSet<_>>();
    let nodes = line(vec![local(), local().topics(topics(&["news"])), local()]).await;
    let (mut middle, mut end) = (nodes[1].events(), nodes[2].events());
    for (topic, text) in [("weather", "1"), ("", "2"), ("news", "3")] {
        nodes[0].send_topic(topic, text).await.unwrap();
    }
    for text in ["1", "2", "3"] {
        assert_eq!(message(&mut end).await.text(), Some(text));
    }
    let heard = message(&mut middle).await;
    assert_eq!((heard.text(), heard.pos), (Some("3"), 3), "each takes its position");
    assert_eq!(refused(&nodes[1], "other_topics").await, 2);
    nodes[0].send_to(nodes[1].id(), "private").await.unwrap();
    assert_eq!(message(&mut middle).await.text(), Some("private"));
    nodes[1].subscribe(None).await.unwrap();
    nodes[0].send_topic("weather", "all again").await.unwrap();
    assert_eq!(message(&mut middle).await.text(), Some("all again"));
    let long = nodes[1].subscribe(Some(topics(&[&"x".repeat(256)]))).await;
    assert_eq!(long, Err(TopicsError::TooLong { size: 256, limit: 255 }));
    let many = (0..257).map(|n: u32| n.to_string()).collect();
    assert_eq!(nodes[1].subscribe(Some(many)).await, Err(TopicsError::TooMany { count: 257, limit: 256 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_private_message_is_as_large_as_any() {
    let nodes = line(vec![local(), local()]).await;
    let large = vec![7; 1 << 20];
    let awaited = nodes[0].send_for_receipt(nodes[1].id(), large.clone(), DEADLINE).await.unwrap();
    assert_eq!(message(&mut nodes[1].events()).await.payload, large);
    awaited.wait().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_message_sent_just_before_its_author_goes_arrives() {
    for stops in [false, true] {
        let nodes = line(vec![local(), local(), local()]).await;
        let [author, _, far] = &nodes[..] else { unreachable!() };
        let mut at_far = far.events();
        // Announced and asked for, not pushed: each hop needs the one before for a moment longer.
        let large = vec![7; 500_000];
        author.send(large.clone()).await.unwrap();
        if stops {
            author.shutdown().await;
        } else {
            author.leave().await;
        }
        assert!(message(&mut at_far).await.payload == large, "stops: {stops}");
    }
}
