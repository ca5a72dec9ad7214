//! Laws of every decoder: what was encoded is read back, any split of a stream reads the same, no input panics,
//! and no byte of what was signed can be changed.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail like the tests")]

use bytes::{Bytes, BytesMut};
use p2p_wire::{
    DecodeError, EncodeError, Envelope, EnvelopeId, Frame, FrameBody, FrameCodec, Hello, NewEntry, NodeId,
    PeerAddr, PeerRecord, Scope, SecretKey, Ticket, TicketFile, TicketKind, encode_frame, msgpack, open,
    seal,
};
use proptest::{collection::vec, option, prelude::*};
use serde::{Deserialize, Serialize};
use tokio_util::codec::Decoder;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Note {
    n: u64,
    s: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    i: Option<NodeId>,
    b: Bytes,
    l: Vec<i32>,
}

#[derive(Debug, Clone, PartialEq)]
enum Message {
    Note(Note),
    Raw(Bytes),
    Foreign(Bytes),
}

impl FrameBody for Message {
    fn limit(kind: u8) -> usize {
        if kind == 2 { p2p_wire::MAX_FRAME_PAYLOAD } else { p2p_wire::MAX_FRAME_CONTROL }
    }

    fn kind(&self) -> u8 {
        match self {
            Self::Note(_) => 1,
            Self::Raw(_) => 2,
            Self::Foreign(_) => 77,
        }
    }

    fn encode(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        match self {
            Self::Note(note) => out.extend_from_slice(&msgpack::to_vec(note)?),
            Self::Raw(body) | Self::Foreign(body) => out.extend_from_slice(body),
        }
        Ok(())
    }

    fn decode(kind: u8, body: Bytes) -> Result<Option<Self>, DecodeError> {
        match kind {
            1 => Ok(Some(Self::Note(msgpack::from_slice(&body)?))),
            2 => Ok(Some(Self::Raw(body))),
            _ => Ok(None),
        }
    }
}

fn blob(longest: usize) -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..=longest).prop_map(Bytes::from)
}

fn id() -> impl Strategy<Value = NodeId> {
    any::<[u8; 32]>().prop_map(NodeId::from_bytes)
}

fn note() -> impl Strategy<Value = Note> {
    (any::<u64>(), ".{0,40}", option::of(id()), blob(300), vec(any::<i32>(), 0..20))
        .prop_map(|(n, s, i, b, l)| Note { n, s, i, b, l })
}

fn message() -> impl Strategy<Value = Message> {
    prop_oneof![
        note().prop_map(Message::Note),
        blob(3000).prop_map(Message::Raw),
        blob(30).prop_map(Message::Foreign)
    ]
}

fn addr() -> impl Strategy<Value = PeerAddr> {
    (any::<std::net::IpAddr>(), 1..=u16::MAX, any::<u16>()).prop_map(|(ip, port, file_port)| PeerAddr {
        ip: ip.to_canonical(),
        port,
        file_port,
    })
}

fn addrs() -> impl Strategy<Value = Vec<PeerAddr>> {
    proptest::collection::btree_set(addr(), 0..=8).prop_map(|set| set.into_iter().collect())
}

#[derive(Debug, Clone)]
struct Draft {
    topic: String,
    time_ms: u64,
    recipient: Option<NodeId>,
    payload: Bytes,
}

fn draft() -> impl Strategy<Value = Draft> {
    (".{0,20}", any::<u64>(), option::of(id()), blob(200))
        .prop_map(|(topic, time_ms, recipient, payload)| Draft { topic, time_ms, recipient, payload })
}

fn sign(seed: [u8; 32], run: u64, first: u64, drafts: &[Draft]) -> Envelope {
    let entries: Vec<NewEntry<'_>> = drafts
        .iter()
        .map(|d| NewEntry {
            topic: &d.topic,
            time_ms: d.time_ms,
            recipient: d.recipient,
            payload: &d.payload,
        })
        .collect();
    Envelope::sign(&SecretKey::from_bytes(&seed), run, first, &entries).unwrap()
}

/// Feeds a stream in pieces and collects what comes out.
fn read_in_pieces(stream: &[u8], cuts: &[usize]) -> Vec<Frame<Message>> {
    let mut codec = FrameCodec::<Message>::new();
    let (mut buffer, mut frames, mut rest) = (BytesMut::new(), Vec::new(), stream);
    for cut in cuts.iter().copied().chain([usize::MAX]) {
        let (piece, later) = rest.split_at(cut.min(rest.len()));
        rest = later;
        buffer.extend_from_slice(piece);
        while let Some(frame) = codec.decode(&mut buffer).unwrap() {
            frames.push(frame);
        }
    }
    assert!(codec.decode_eof(&mut buffer).unwrap().is_none() && buffer.is_empty());
    frames
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Heads that are often equal, so that the tails decide as well.
    #[test]
    fn ids_are_ordered_as_their_bytes(
        a in any::<[bool; 32]>(), b in any::<[bool; 32]>(), tails in any::<bool>(),
    ) {
        let bytes = |bits: [bool; 32]| {
            let mut bytes = bits.map(|bit| if bit { 0xff } else { 1 });
            if tails {
                bytes[..8].fill(7);
            }
            bytes
        };
        let (a, b) = (bytes(a), bytes(b));
        prop_assert_eq!(NodeId::from_bytes(a).cmp(&NodeId::from_bytes(b)), a.cmp(&b));
    }

    #[test]
    fn any_split_of_a_stream_reads_the_same(
        messages in vec(message(), 0..6), cuts in vec(1_usize..700, 0..40), drip in any::<bool>(),
    ) {
        let frames: Vec<Bytes> = messages.iter().map(|message| encode_frame(message).unwrap()).collect();
        let expected: Vec<Frame<Message>> = messages.into_iter().zip(&frames).map(|(message, frame)| {
            let len = frame.len();
            match message {
                Message::Foreign(_) => Frame::Unknown { kind: 77, len },
                message => Frame::Known { message, len },
            }
        }).collect();
        let stream = frames.concat();
        let cuts = if drip { vec![1; stream.len()] } else { cuts };
        prop_assert_eq!(read_in_pieces(&stream, &cuts), expected);
    }

    #[test]
    fn no_stream_panics_and_a_refused_one_stays_small(stream in blob(400)) {
        let mut codec = FrameCodec::<Message>::new();
        let mut buffer = BytesMut::from(&stream[..]);
        while let Ok(Some(_)) = codec.decode(&mut buffer) {}
        prop_assert!(buffer.capacity() <= stream.len() + p2p_wire::READ_STEP);
    }

    #[test]
    fn msgpack_reads_back_what_it_wrote(note in note()) {
        prop_assert_eq!(msgpack::from_slice::<Note>(&msgpack::to_vec(&note).unwrap()).unwrap(), note);
    }

    #[test]
    fn msgpack_of_any_bytes_does_not_panic(bytes in blob(300), at in any::<prop::sample::Index>(), note in note()) {
        let _ = msgpack::from_slice::<Note>(&bytes);
        let _ = Hello::decode(&bytes);
        let mut sound = msgpack::to_vec(&note).unwrap();
        let at = at.index(sound.len());
        sound[at] = bytes.first().copied().unwrap_or(0xdd);
        let _ = msgpack::from_slice::<Note>(&sound);
        prop_assert!(msgpack::from_slice::<Note>(&sound[..at]).is_err(), "a part is never a whole");
    }

    #[test]
    fn envelopes_read_back(
        seed in any::<[u8; 32]>(), run in 0..1_000_000_u64, later in 0..1_000_000_u64, drafts in vec(draft(), 1..=64),
    ) {
        let made = sign(seed, run, run + later, &drafts);
        let read = Envelope::decode(made.bytes().clone()).unwrap();
        prop_assert_eq!(&read, &made);
        prop_assert_eq!(EnvelopeId::from_bytes(&read.id().to_bytes()), Ok(read.id()));
        read.verify().unwrap();
        prop_assert_eq!(read.entries().count(), drafts.len());
        for ((entry, draft), seq) in read.entries().zip(&drafts).zip(read.id().seqs()) {
            prop_assert_eq!(entry.seq, seq);
            prop_assert_eq!((&entry.topic, entry.time_ms), (&draft.topic, draft.time_ms));
            prop_assert_eq!((entry.recipient, &entry.payload), (draft.recipient, &draft.payload));
        }
    }

    #[test]
    fn whatever_decodes_has_this_one_encoding(
        bytes in blob(400), at in any::<prop::sample::Index>(), value in any::<u8>(), draft in draft(),
    ) {
        let _ = Envelope::decode(bytes);
        let mut changed = BytesMut::from(&sign([1; 32], 1, 1, &[draft]).bytes()[..]);
        let at = at.index(changed.len());
        changed[at] = value;
        // What still decodes and is signed anew from the values read must be the same bytes.
        if let Ok(envelope) = Envelope::decode(changed.freeze()) {
            let drafts: Vec<Draft> = envelope.entries().map(|entry| Draft {
                topic: entry.topic, time_ms: entry.time_ms, recipient: entry.recipient, payload: entry.payload,
            }).collect();
            let again = sign([1; 32], envelope.id().run, envelope.id().first, &drafts);
            let body = 33..envelope.bytes().len() - 64;
            prop_assert_eq!(&again.bytes()[body.clone()], &envelope.bytes()[body]);
        }
    }

    #[test]
    fn records_read_back_and_no_bytes_panic(
        seed in any::<[u8; 32]>(), seq in any::<u64>(), local in any::<bool>(), addrs in addrs(), bytes in blob(200),
    ) {
        let scope = if local { Scope::Local } else { Scope::Public };
        let made = PeerRecord::sign(&SecretKey::from_bytes(&seed), scope, seq, &addrs).unwrap();
        let read = PeerRecord::decode(made.bytes().clone()).unwrap();
        read.verify().unwrap();
        prop_assert_eq!((read.scope(), read.seq(), read.addrs()), (scope, seq, &addrs[..]));
        let _ = PeerRecord::decode(bytes);
    }

    #[test]
    fn hellos_read_back(
        version in any::<u16>(), agent in "[a-zé/]{1,32}", name in option::of("[a-zé]{1,16}"),
        observed in option::of(any::<std::net::SocketAddr>()), records in vec(blob(200), 0..=2),
    ) {
        let observed = observed.map(|addr| std::net::SocketAddr::new(addr.ip().to_canonical(), addr.port()));
        let hello = Hello { version, agent, name, observed, records };
        prop_assert_eq!(Hello::decode(&hello.encode().unwrap()).unwrap(), hello.clone());
        prop_assert_eq!(msgpack::from_slice::<Hello>(&msgpack::to_vec(&hello).unwrap()).unwrap(), hello);
    }

    #[test]
    fn tickets_read_back_and_no_text_panics(
        id in id(), addrs in addrs(), hash in any::<[u8; 32]>(), length in any::<u64>(), name in ".{0,60}",
        what in 0..3, text in ".{0,80}", base32 in "[Pp]2p:[A-Za-z2-7]{0,120}",
    ) {
        let kind = if what == 1 { TicketKind::File } else { TicketKind::Dir };
        let file = (what > 0).then_some(TicketFile { kind, hash, length, name });
        let ticket = Ticket { id, addrs, file };
        prop_assert_eq!(ticket.to_string().parse::<Ticket>().unwrap(), ticket);
        let _ = text.parse::<Ticket>();
        let _ = base32.parse::<Ticket>();
    }

    #[test]
    fn one_wrong_character_in_a_ticket_is_noticed(
        id in id(), addrs in addrs(), at in any::<prop::sample::Index>(), other in "[a-z2-7]",
    ) {
        let text = Ticket { id, addrs, file: None }.to_string();
        let at = 4 + at.index(text.len() - 4);
        prop_assume!(text[at..=at] != other);
        let wrong = format!("{}{other}{}", &text[..at], &text[at + 1..]);
        prop_assert_eq!(wrong.parse::<Ticket>(), Err(p2p_wire::ParseTicketError::Mistyped));
    }

    #[test]
    fn sealed_bodies_open_for_their_reader_only(
        seeds in any::<[[u8; 32]; 3]>(), seq in any::<u64>(), plain in blob(500), noise in blob(200),
    ) {
        let [author, reader, other] = seeds.map(|seed| SecretKey::from_bytes(&seed));
        prop_assume!(reader.id() != other.id());
        let sealed = seal(&mut rand::rng(), &author.id(), seq, &reader.id(), &plain).unwrap();
        prop_assert_eq!(sealed.len(), plain.len() + p2p_wire::SEAL_OVERHEAD);
        prop_assert_eq!(open(&reader, &author.id(), seq, &sealed).unwrap(), plain);
        prop_assert!(open(&other, &author.id(), seq, &sealed).is_err());
        prop_assert!(open(&reader, &other.id(), seq, &sealed).is_err());
        prop_assert!(open(&reader, &author.id(), seq.wrapping_add(1), &sealed).is_err());
        prop_assert!(open(&reader, &author.id(), seq, &noise).is_err());
    }

    #[test]
    fn ids_read_back(id in id(), text in ".{0,70}") {
        prop_assert_eq!(id.to_string().parse::<NodeId>(), Ok(id));
        prop_assert_eq!(id.to_string().to_uppercase().parse::<NodeId>(), Ok(id));
        prop_assert_eq!(serde_json::from_str::<NodeId>(&serde_json::to_string(&id).unwrap()).unwrap(), id);
        let _ = text.parse::<NodeId>();
        let _ = id.is_valid();
    }
}

#[test]
fn no_byte_of_an_envelope_can_be_changed() {
    let key = SecretKey::from_bytes(&[1; 32]);
    let draft =
        |recipient| Draft { topic: "t".into(), time_ms: 1, recipient, payload: Bytes::from_static(b"abc") };
    let envelope = sign([1; 32], 1, 2, &[draft(None), draft(Some(key.id()))]);
    for at in 0..envelope.bytes().len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut changed = BytesMut::from(&envelope.bytes()[..]);
            changed[at] ^= flip;
            let accepted = Envelope::decode(changed.freeze()).is_ok_and(|envelope| envelope.verify().is_ok());
            assert!(!accepted, "byte {at} flipped by {flip:#x}");
        }
    }
}

#[test]
fn no_byte_of_a_record_can_be_changed() {
    let addr = PeerAddr { ip: [192, 0, 2, 1].into(), port: 1, file_port: 2 };
    let record = PeerRecord::sign(&SecretKey::from_bytes(&[1; 32]), Scope::Public, 1, &[addr]).unwrap();
    for at in 0..record.bytes().len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut changed = BytesMut::from(&record.bytes()[..]);
            changed[at] ^= flip;
            let accepted = PeerRecord::decode(changed.freeze()).is_ok_and(|record| record.verify().is_ok());
            assert!(!accepted, "byte {at} flipped by {flip:#x}");
        }
    }
}

#[test]
fn no_byte_of_a_sealed_body_can_be_changed() {
    let (author, reader) = (SecretKey::from_bytes(&[1; 32]), SecretKey::from_bytes(&[2; 32]));
    let sealed = seal(&mut rand::rng(), &author.id(), 1, &reader.id(), b"plain").unwrap();
    for at in 0..sealed.len() {
        // The top bit of an X25519 key is ignored by the exchange (RFC 7748), and bound by the key schedule.
        for flip in [0x01, 0x80] {
            let mut changed = sealed.clone();
            changed[at] ^= flip;
            assert!(open(&reader, &author.id(), 1, &changed).is_err(), "byte {at} flipped by {flip:#x}");
        }
    }
}
