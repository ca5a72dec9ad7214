//! Holds the frames between nodes against `docs/vectors/packets.json`, which a second implementation wrote
//! (`docs/vectors/make_packets.py`); a difference is a change of the format.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail like the tests")]

use std::time::{Duration, Instant};
use std::{fs, path::Path};

use bytes::{Bytes, BytesMut};
use p2p_gossip::{Config, Course, Gossip, Held, Input, Message, Output, Span, Sum};
use p2p_node::{Announced, Answer, ByeReason, FileHash, NodeId, Packet, Query, SecretKey, View};
use p2p_wire::{BadSignature, EnvelopeId, Frame, FrameCodec, FrameError, Hello, domain, encode_frame};
use rand::{SeedableRng, rngs::StdRng};
use serde_json::Value;
use tokio_util::codec::Decoder;

fn load() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/vectors/packets.json");
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().unwrap()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap()
}

fn number<T: TryFrom<u64, Error: std::fmt::Debug>>(value: &Value, key: &str) -> T {
    value[key].as_u64().unwrap().try_into().unwrap()
}

fn unhex(text: &str) -> Bytes {
    assert!(text.is_ascii() && text.len().is_multiple_of(2), "{text}");
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn hex(value: &Value, key: &str) -> Bytes {
    unhex(text(value, key))
}

fn array<const N: usize>(value: &Value, key: &str) -> [u8; N] {
    hex(value, key)[..].try_into().unwrap()
}

fn records(values: &Value) -> Vec<Bytes> {
    list(values, "records").iter().map(|record| unhex(record.as_str().unwrap())).collect()
}

fn id(value: &Value) -> EnvelopeId {
    EnvelopeId::from_bytes(&unhex(value.as_str().unwrap())[..].try_into().unwrap()).unwrap()
}

fn sum(value: &Value) -> Sum {
    unhex(value.as_str().unwrap())[..].try_into().unwrap()
}

fn span(value: &Value) -> Span<NodeId> {
    let author = NodeId::from_bytes(array(value, "author"));
    Span { author, from: number(value, "from"), to: number(value, "to") }
}

/// The whole frame, after checking that its annotated fields add up to it.
fn whole(vector: &Value) -> Bytes {
    let fields: String = list(vector, "fields").iter().map(|field| field[1].as_str().unwrap()).collect();
    assert_eq!(fields, text(vector, "bytes"), "fields of {}", vector["name"]);
    hex(vector, "bytes")
}

fn reason(word: &str) -> ByeReason {
    match word {
        "other" => ByeReason::Other,
        "leaving" => ByeReason::Leaving,
        "duplicate" => ByeReason::Duplicate,
        "full" => ByeReason::Full,
        "banned" => ByeReason::Banned,
        "disconnected" => ByeReason::Disconnected,
        "misbehaved" => ByeReason::Misbehaved,
        _ => panic!("no reason is called {word}"),
    }
}

fn query(values: &Value) -> Query {
    Query {
        ttl: number(values, "ttl"),
        origin: NodeId::from_bytes(array(values, "origin")),
        id: array(values, "id"),
        hash: FileHash::from_bytes(array(values, "hash")),
        signature: array(values, "signature"),
    }
}

/// What the vector's values describe.
fn packet(vector: &Value) -> Packet {
    let values = &vector["values"];
    match text(vector, "packet") {
        "hello" => Packet::Hello(Box::new(Hello {
            version: number(values, "version"),
            agent: text(values, "agent").to_owned(),
            name: values["node_name"].as_str().map(str::to_owned),
            observed: values["observed"].as_str().map(|addr| addr.parse().unwrap()),
            records: records(values),
        })),
        "bye" => Packet::Bye(reason(text(values, "reason"))),
        "ping" => Packet::Ping(number(values, "n")),
        "pong" => Packet::Pong(number(values, "n")),
        "join" => Packet::View(View::Join),
        "forward_join" => {
            Packet::View(View::ForwardJoin { ttl: number(values, "ttl"), records: records(values) })
        }
        "neighbor" => Packet::View(View::Neighbor { high: values["high"].as_bool().unwrap() }),
        "view_answer" => Packet::View(View::Answer {
            accepted: values["accepted"].as_bool().unwrap(),
            records: records(values),
        }),
        "shuffle" => Packet::View(View::Shuffle {
            id: number(values, "id"),
            ttl: number(values, "ttl"),
            records: records(values),
        }),
        "reply" => Packet::View(View::Reply { id: number(values, "id"), records: records(values) }),
        "push" => Packet::Push {
            id: id(&values["id"]),
            hops: number(values, "hops"),
            course: match values["course"].as_str().unwrap() {
                "tree" => Course::Tree,
                "anew" => Course::Anew,
                "doubled" => Course::Doubled,
                other => panic!("{other}"),
            },
            age: Duration::from_millis(number(values, "age_ms")),
            envelope: hex(values, "envelope"),
        },
        "ihave" => Packet::IHave(
            list(values, "ids")
                .iter()
                .map(|line| Announced {
                    id: id(&line["id"]),
                    hops: number(line, "hops"),
                    wait: line["wait"].as_bool().unwrap(),
                })
                .collect(),
        ),
        "graft" => Packet::Graft(values["id"].is_string().then(|| id(&values["id"]))),
        "prune" => Packet::Prune,
        "iwant" => Packet::IWant(list(values, "ids").iter().map(id).collect()),
        "digest" => Packet::Digest(list(values, "sums").iter().map(sum).collect()),
        "ranges" => Packet::Ranges(
            list(values, "held")
                .iter()
                .map(|held| Held { span: span(held), sum: array(held, "sum") })
                .collect(),
        ),
        "pull" => Packet::Pull {
            number: number(values, "number"),
            spans: list(values, "spans").iter().map(span).collect(),
        },
        "served" => Packet::Served {
            number: number(values, "number"),
            done: number(values, "done"),
            upto: number(values, "upto"),
        },
        "query" => Packet::Query(query(values)),
        "answer" => Packet::Answer(Answer {
            id: array(values, "id"),
            provider: NodeId::from_bytes(array(values, "provider")),
            records: records(values),
            name: values["name_hint"].as_str().map(str::to_owned),
        }),
        other => panic!("no packet is called {other}"),
    }
}

fn read(bytes: &Bytes) -> Result<Option<Frame<Packet>>, FrameError> {
    FrameCodec::<Packet>::new().decode(&mut BytesMut::from(&bytes[..]))
}

fn verify(query: &Query) -> Result<(), BadSignature> {
    let signed: [&[u8]; 3] = [query.origin.as_bytes(), &query.id, query.hash.as_bytes()];
    query.origin.verify(domain::QUERY, &signed, &query.signature)
}

#[test]
fn frames_are_written_and_read_as_published() {
    for vector in list(&load(), "vectors") {
        let (bytes, packet) = (whole(vector), packet(vector));
        assert_eq!(encode_frame(&packet).unwrap(), bytes, "{}", vector["name"]);
        let expected = Frame::Known { message: packet, len: bytes.len() };
        assert_eq!(read(&bytes).unwrap(), Some(expected), "{}", vector["name"]);
    }
}

#[test]
fn frames_of_newer_versions_are_read() {
    let file = load();
    for vector in list(&file, "read_only") {
        let bytes = whole(vector);
        let expected = Frame::Known { message: packet(vector), len: bytes.len() };
        assert_eq!(read(&bytes).unwrap(), Some(expected), "{}", vector["name"]);
    }
    for vector in list(&file, "skipped") {
        let bytes = whole(vector);
        let expected = Frame::Unknown { kind: number(vector, "kind"), len: bytes.len() };
        assert_eq!(read(&bytes).unwrap(), Some(expected), "{}", vector["name"]);
    }
}

#[test]
fn frames_that_break_a_rule_are_refused() {
    for refused in list(&load(), "refused") {
        assert!(read(&hex(refused, "bytes")).is_err(), "{}", refused["name"]);
    }
    let id = EnvelopeId { author: NodeId::from_bytes([7; 32]), run: 0, first: 0, count: 1 };
    let one_more_than_allowed = vec![Announced { id, hops: 1, wait: true }; 1001];
    let bytes = encode_frame(&Packet::IHave(one_more_than_allowed)).unwrap();
    assert!(read(&bytes).is_err(), "ihave of 1,001 ids");
    let bytes = encode_frame(&Packet::IWant(vec![id; 65])).unwrap();
    assert!(read(&bytes).is_err(), "iwant of 65 ids");
    let span = Span { author: id.author, from: 0, to: 1 };
    let bytes = encode_frame(&Packet::Pull { number: 1, spans: vec![span; 257] }).unwrap();
    assert!(read(&bytes).is_err(), "pull of 257 ranges");
    let bytes = encode_frame(&Packet::Ranges(vec![Held { span, sum: [0; 16] }; 1025])).unwrap();
    assert!(read(&bytes).is_err(), "1,025 ranges");
}

/// What a core says of a log that holds these pushes' envelopes: one sum, and those of the buckets.
fn digests(pushes: &[&Value]) -> Vec<Vec<Sum>> {
    let mut gossip = Gossip::<u8, NodeId, _>::new(
        NodeId::from_bytes([0; 32]),
        Config::default(),
        StdRng::seed_from_u64(1),
    );
    gossip.set_buckets(|author| author.as_bytes()[0]);
    let now = Instant::now();
    gossip.handle(now, Input::NeighborUp(1));
    for push in pushes {
        let (id, envelope) = (id(&push["id"]), hex(push, "envelope"));
        let id = p2p_gossip::EnvelopeId { author: id.author, run: id.run, first: id.first, count: id.count };
        let message = Message::Push { id, hops: 1, course: Course::Tree, age: Duration::ZERO, envelope };
        gossip.handle(now, Input::Received { from: 1, message });
        while let Some(output) = gossip.poll_output() {
            if let Output::Verify { ticket, envelope, .. } = output {
                gossip.handle(now, Input::Verified { ticket, digest: Some(p2p_gossip::digest(&envelope)) });
            }
        }
    }
    gossip.handle(now, Input::NeighborUp(2));
    gossip.handle(now, Input::Received { from: 2, message: Message::Digest { sums: vec![[9; 16]] } });
    let digest = |output| match output {
        Output::Send { to: 2, message: Message::Digest { sums } } => Some(sums),
        _ => None,
    };
    std::iter::from_fn(|| gossip.poll_output()).filter_map(digest).collect()
}

#[test]
fn digests_are_those_of_the_log_that_is_described() {
    let file = load();
    let values = |name: &str| &list(&file, "vectors").iter().find(|v| v["name"] == name).unwrap()["values"];
    let sums = |name: &str| list(values(name), "sums").iter().map(sum).collect::<Vec<Sum>>();
    let pushes = ["push, from its author", "push, private, far away, a day old"].map(values);
    assert_eq!(digests(&pushes), [sums("digest of all"), sums("digest of the buckets")]);
    assert_eq!(digests(&[])[0], sums("digest of an empty log"));
}

#[test]
fn questions_are_signed_as_published() {
    let file = load();
    let questions = list(&file, "vectors").iter().filter(|vector| vector["packet"] == "query");
    for vector in questions {
        let values = &vector["values"];
        let (key, query) = (SecretKey::from_bytes(&array(values, "secret_key")), query(values));
        let signed: [&[u8]; 3] = [query.origin.as_bytes(), &query.id, query.hash.as_bytes()];
        assert_eq!((key.id(), key.sign(domain::QUERY, &signed)), (query.origin, query.signature));
        assert_eq!(verify(&query), Ok(()), "{}", vector["name"]);
    }
    for vector in list(&file, "forged") {
        let Some(Frame::Known { message: Packet::Query(query), .. }) = read(&whole(vector)).unwrap() else {
            panic!("{} is no question", vector["name"]);
        };
        assert_eq!(verify(&query), Err(BadSignature), "{}", vector["name"]);
    }
}
