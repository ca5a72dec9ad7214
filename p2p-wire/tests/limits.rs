//! Each limit from both sides: what is exactly at it passes, one more is refused.

use bytes::{BufMut, Bytes, BytesMut};
use p2p_wire::*;
use serde::{Deserialize, Serialize};
use tokio_util::codec::{Decoder, Encoder};

fn key() -> SecretKey {
    SecretKey::from_bytes(&[1; 32])
}

fn entry<'a>(topic: &'a str, recipient: Option<NodeId>, payload: &'a [u8]) -> NewEntry<'a> {
    NewEntry { topic, time_ms: 0, recipient, payload }
}

fn signed(run: u64, first: u64, entries: &[NewEntry<'_>]) -> Result<usize, EnvelopeError> {
    let envelope = Envelope::sign(&key(), run, first, entries)?;
    assert_eq!(Envelope::decode(envelope.bytes().clone()).as_ref(), Ok(&envelope), "both sides agree");
    Ok(envelope.bytes().len())
}

#[test]
fn envelopes() {
    let (big, id) = (vec![7; MAX_SEALED_PAYLOAD + 1], key().id());
    let long = "t".repeat(MAX_TOPIC + 1);
    let topic = &long[..MAX_TOPIC];

    // A payload of 1 MiB, sealed or not, with the longest topic.
    assert_eq!(
        signed(1, 1, &[entry("", None, &big[..MAX_PAYLOAD])]),
        Ok(Envelope::OVERHEAD + 14 + MAX_PAYLOAD)
    );
    assert_eq!(signed(1, 1, &[entry(topic, Some(id), &big[..MAX_SEALED_PAYLOAD])]), Ok(MAX_ENVELOPE));
    assert!(matches!(
        signed(1, 1, &[entry("", None, &big[..=MAX_PAYLOAD])]),
        Err(EnvelopeError::PayloadTooLong { len: 1_048_577, limit: 1_048_576 })
    ));
    assert!(matches!(signed(1, 1, &[entry("", Some(id), &big)]), Err(EnvelopeError::PayloadTooLong { .. })));
    assert_eq!(signed(1, 1, &[entry(&long, None, b"")]), Err(EnvelopeError::TopicTooLong { len: 256 }));

    // Entries.
    let one = entry("", None, b"");
    assert!(signed(1, 1, &[one; MAX_BUNDLE_ENTRIES]).is_ok());
    assert_eq!(signed(1, 1, &[one; MAX_BUNDLE_ENTRIES + 1]), Err(EnvelopeError::Count { count: 65 }));
    assert_eq!(signed(1, 1, &vec![one; 300]), Err(EnvelopeError::Count { count: 255 }));
    assert_eq!(signed(1, 1, &[]), Err(EnvelopeError::Count { count: 0 }));

    // A bundle of several, to the byte.
    let rest = MAX_BUNDLE_BYTES - Envelope::OVERHEAD - 2 * one.wire_len();
    assert_eq!(signed(1, 1, &[one, entry("", None, &big[..rest])]), Ok(MAX_BUNDLE_BYTES));
    assert_eq!(
        signed(1, 1, &[one, entry("", None, &big[..=rest])]),
        Err(EnvelopeError::TooLong { len: MAX_BUNDLE_BYTES + 1, limit: MAX_BUNDLE_BYTES })
    );

    // Numbers.
    assert!(signed(u64::MAX - 1, u64::MAX - 1, &[one]).is_ok());
    assert!(matches!(signed(1, u64::MAX, &[one]), Err(EnvelopeError::SeqOverflow { .. })));
    assert!(matches!(signed(1, u64::MAX - 1, &[one; 2]), Err(EnvelopeError::SeqOverflow { .. })));
    assert_eq!(signed(2, 1, &[one]), Err(EnvelopeError::BeforeRun { run: 2, first: 1 }));

    // Whatever comes first on the wire, more than any envelope is refused before it is looked at.
    let endless = Bytes::from(vec![1; MAX_ENVELOPE + 1]);
    assert!(matches!(Envelope::decode(endless), Err(EnvelopeError::TooLong { .. })));
}

#[test]
fn a_receiver_holds_bundles_to_64_kib_too() {
    // What sign() refuses to make, made by hand: two entries, one byte too long.
    let mut body = BytesMut::new();
    body.put_u8(2);
    body.put_slice(&EnvelopeId { author: key().id(), run: 1, first: 1, count: 2 }.to_bytes());
    for len in [0, MAX_BUNDLE_BYTES + 1 - Envelope::OVERHEAD - 28] {
        body.put_u64(0);
        body.put_u16(0); // flags, topic length
        body.put_u32(u32::try_from(len).unwrap());
        body.put_bytes(0, len);
    }
    body.put_bytes(0, 64);
    assert_eq!(body.len(), MAX_BUNDLE_BYTES + 1);
    assert!(matches!(Envelope::decode(body.freeze()), Err(EnvelopeError::TooLong { .. })));
}

#[test]
fn envelopes_fit_into_their_frames() {
    const { assert!(MAX_ENVELOPE + EnvelopeId::LEN + 64 <= MAX_FRAME_PAYLOAD) };
}

#[test]
fn records_and_tickets() {
    let addr = |port| PeerAddr { ip: "2001:db8::1".parse().unwrap(), port, file_port: 1 };
    let nine: Vec<PeerAddr> = (1..=9).map(addr).collect();
    let sign = |addrs: &[PeerAddr]| PeerRecord::sign(&key(), Scope::Public, 1, addrs);
    assert_eq!(sign(&nine[..8]).unwrap().bytes().len(), MAX_RECORD);
    assert_eq!(sign(&nine), Err(RecordError::TooManyAddrs { count: 9 }));
    assert!(matches!(sign(&[addr(0)]), Err(RecordError::PortZero { .. })));
    assert!(matches!(sign(&[addr(1), addr(2), addr(1)]), Err(RecordError::Repeated { .. })));
    let mapped = PeerAddr { ip: "::ffff:192.0.2.1".parse().unwrap(), ..addr(1) };
    assert!(matches!(sign(&[mapped]), Err(RecordError::Mapped { .. })));

    // A ticket is written from any values and reads back within the limits.
    let file = TicketFile { kind: TicketKind::File, hash: [3; 32], length: 1, name: "é".repeat(200) };
    let mut addrs = nine.clone();
    addrs.insert(0, addr(0));
    let text = Ticket { id: key().id(), addrs, file: Some(file) }.to_string();
    let read: Ticket = text.parse().unwrap();
    assert_eq!(read.addrs, nine[..8]);
    assert_eq!(read.file.as_ref().unwrap().name, "é".repeat(127));
    assert_eq!(
        text.len(),
        4 + ((MAX_TICKET - 1) * 8).div_ceil(5),
        "one byte short: é does not fit twice into 255"
    );
    let endless = format!("p2p:{}", "a".repeat(2000));
    assert!(matches!(endless.parse::<Ticket>(), Err(ParseTicketError::TooLong { .. })));
}

#[test]
fn hellos() {
    let hello = Hello {
        version: 1,
        agent: "a".repeat(MAX_AGENT),
        name: Some("n".repeat(MAX_NAME)),
        observed: Some("[2001:db8::1]:1".parse().unwrap()),
        records: vec![vec![0; MAX_RECORD].into(); MAX_HELLO_RECORDS],
    };
    assert!(hello.encode().unwrap().len() < MAX_FRAME_CONTROL / 16);
    let refused = [
        Hello { agent: "a".repeat(MAX_AGENT + 1), ..hello.clone() },
        Hello { agent: String::new(), ..hello.clone() },
        Hello { name: Some("n".repeat(MAX_NAME + 1)), ..hello.clone() },
        Hello { records: vec![Bytes::new(); MAX_HELLO_RECORDS + 1], ..hello.clone() },
        Hello { records: vec![vec![0; MAX_RECORD + 1].into()], ..hello },
    ];
    for hello in refused {
        assert!(hello.encode().is_err(), "{hello:?}");
    }
    for name in
        ["", " a", "a ", "a\u{7f}", "a\u{9b}b", "\u{202e}a", "a\u{2066}b", "a\nb", "\u{feff}a", "a\u{2028}"]
    {
        assert!(check_name(name).is_err(), "{name:?}");
    }
    for name in ["a", "Küche", "台所", "a b", "👩‍🍳", "שלום"] {
        assert_eq!(check_name(name), Ok(()), "{name:?}");
    }
}

#[derive(Debug, Serialize, Deserialize, PartialEq)]
struct Empty {}

fn read(bytes: &[u8]) -> Result<Empty, DecodeError> {
    msgpack::from_slice(bytes)
}

#[test]
fn msgpack_bodies() {
    let field = |value: &[u8]| [&[0x81, 0xa1, b'x'], value].concat();
    let map_of = |count: u8| {
        let mut map = vec![0xde, 0, count];
        for n in 0..count {
            map.extend([0xa2, b'a' + n / 16, b'a' + n % 16, 0xc0]);
        }
        map
    };
    let key_of = |len: u8| [&[0x81, 0xd9, len][..], &vec![b'k'; len.into()], &[0xc0]].concat();
    // 15 arrays inside the map: 16 deep.
    assert!(read(&field(&[vec![0x91; 15], vec![0xc0]].concat())).is_ok());
    assert_eq!(read(&field(&[vec![0x91; 16], vec![0xc0]].concat())), Err(DecodeError::TooDeep));
    assert_eq!(read(&field(&[vec![0x91; 100_000], vec![0xc0]].concat())), Err(DecodeError::TooDeep));
    assert!(read(&map_of(64)).is_ok());
    assert_eq!(read(&map_of(65)), Err(DecodeError::MapTooLong { count: 65 }));
    assert!(read(&key_of(32)).is_ok());
    assert_eq!(read(&key_of(33)), Err(DecodeError::Key { at: 1 }));

    let cases: &[(&[u8], DecodeError)] = &[
        (&[], DecodeError::Truncated { at: 0 }),
        (&[0xc0], DecodeError::NotAMap),
        (&[0x90], DecodeError::NotAMap),
        (&[0x80, 0x80], DecodeError::TrailingBytes { count: 1 }),
        (&[0x82, 0xa1, b'x', 1], DecodeError::Count { count: 4, remaining: 3 }),
        (&[0x81, 0xa1, b'x'], DecodeError::Truncated { at: 3 }),
        (&[0x81, 0xa2, b'x'], DecodeError::Truncated { at: 1 }),
        (&[0x81, 0x01, 0x01], DecodeError::Key { at: 1 }),
        (&[0x82, 0xa1, b'x', 1, 0xa1, b'x', 2], DecodeError::DuplicateKey { at: 4 }),
        (&[0x82, 0xa1, b'x', 1, 0xd9, 1, b'x', 2], DecodeError::DuplicateKey { at: 4 }),
        (&[0x81, 0xa1, 0xff, 1], DecodeError::NotUtf8 { at: 1 }),
        (&[0x81, 0xa1, b'x', 0xc1], DecodeError::Type { marker: 0xc1 }),
        (&[0x81, 0xa1, b'x', 0xc7, 0, 0], DecodeError::Type { marker: 0xc7 }),
        (
            &[0x81, 0xa1, b'x', 0xdd, 255, 255, 255, 255],
            DecodeError::Count { count: 4_294_967_295, remaining: 0 },
        ),
        (&[0x81, 0xa1, b'x', 0xc6, 255, 255, 255, 255], DecodeError::Truncated { at: 3 }),
        (&[0x81, 0xa1, b'x', 0xdb, 255, 255, 255, 255], DecodeError::Truncated { at: 3 }),
    ];
    for (bytes, error) in cases {
        assert_eq!(read(bytes).as_ref(), Err(error), "{bytes:x?}");
    }
    // The same key in two maps, one inside the other or side by side, is no duplicate.
    assert!(read(&[0x82, 0xa1, b'x', 0x81, 0xa1, b'x', 1, 0xa1, b'y', 0x81, 0xa1, b'x', 1]).is_ok());
    // After an inner map closes, the outer one still knows its keys.
    let again = [0x82, 0xa1, b'x', 0x81, 0xa1, b'z', 1, 0xa1, b'x', 1];
    assert_eq!(read(&again), Err(DecodeError::DuplicateKey { at: 7 }));
    assert!(matches!(msgpack::to_vec(&7), Err(EncodeError::NotAccepted(DecodeError::NotAMap))));
}

#[test]
fn what_serde_quotes_of_a_stranger_is_cut() {
    #[derive(Debug, Serialize, Deserialize)]
    struct Number {
        n: u8,
    }
    #[derive(Serialize)]
    struct Text {
        n: String,
    }
    let body = msgpack::to_vec(&Text { n: "\u{1b}[2J".repeat(10_000) }).unwrap();
    let Err(DecodeError::Fields(text)) = msgpack::from_slice::<Number>(&body) else {
        panic!("a string is no u8")
    };
    assert!(text.len() <= 120 && !text.contains('\u{1b}'), "{text}");
}

/// Kind 1 carries payloads, kind 2 is control.
#[derive(Debug, PartialEq)]
struct Body(u8, Bytes);

impl FrameBody for Body {
    fn limit(kind: u8) -> usize {
        if kind == 1 { MAX_FRAME_PAYLOAD } else { MAX_FRAME_CONTROL }
    }

    fn kind(&self) -> u8 {
        self.0
    }

    fn encode(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        out.extend_from_slice(&self.1);
        Ok(())
    }

    fn decode(kind: u8, body: Bytes) -> Result<Option<Self>, DecodeError> {
        Ok((kind < 3).then_some(Self(kind, body)))
    }
}

#[test]
fn frames_at_their_limit_pass_and_one_more_is_refused() {
    for (kind, limit) in [(1, MAX_FRAME_PAYLOAD), (2, MAX_FRAME_CONTROL)] {
        let body = Body(kind, vec![0; limit - 1].into());
        let mut stream = BytesMut::from(&encode_frame(&body).unwrap()[..]);
        let len = stream.len();
        let frame = FrameCodec::<Body>::new().decode(&mut stream).unwrap();
        assert_eq!(frame, Some(Frame::Known { message: body, len }));

        let mut out = BytesMut::from(&b"before"[..]);
        let refused = FrameCodec::new().encode(Body(kind, vec![0; limit].into()), &mut out);
        assert!(matches!(refused, Err(FrameError::Encode(EncodeError::TooLong { .. }))));
        assert_eq!(&out[..], b"before", "nothing of it is written");
    }
}

#[test]
fn a_length_that_lies_costs_nothing() {
    let cases: &[(u32, Option<u8>, bool)] = &[
        (0, None, true),                      // not even a kind
        (u32::MAX, None, true),               // refused without knowing the kind
        (1_048_576 + 65_536 + 1, None, true), // one above the largest limit
        (1_048_576 + 65_536, None, false),    // may be of kind 1: wait
        (1_048_576 + 65_536, Some(1), false), // is
        (65_537, Some(2), true),              // one above the limit of control frames
        (65_537, Some(99), true),             // unknown kinds are control frames
        (65_536, Some(99), false),
    ];
    for (len, kind, refused) in cases {
        let mut stream = BytesMut::from(&len.to_be_bytes()[..]);
        stream.extend(kind);
        let result = FrameCodec::<Body>::new().decode(&mut stream);
        assert_eq!(result.is_err(), *refused, "{len} {kind:?}: {result:?}");
        assert!(stream.capacity() <= READ_STEP + 64, "{len} {kind:?}: {} bytes", stream.capacity());
    }
}

#[test]
fn a_large_frame_is_paid_for_as_it_arrives() {
    let mut codec = FrameCodec::<Body>::new();
    let wire = encode_frame(&Body(1, vec![9; 1 << 20].into())).unwrap();
    let mut stream = BytesMut::new();
    for piece in wire.chunks(1000) {
        stream.extend_from_slice(piece);
        let have = stream.len();
        if codec.decode(&mut stream).unwrap().is_some() {
            assert_eq!(have, wire.len());
            return;
        }
        assert!(stream.capacity() <= 2 * (have + READ_STEP), "{} for {have}", stream.capacity());
    }
    panic!("the frame never came out");
}

#[test]
fn a_stream_that_ends_inside_a_frame_is_an_error() {
    let wire = encode_frame(&Body(2, Bytes::from_static(b"abc"))).unwrap();
    for have in 1..wire.len() {
        let ended = FrameCodec::<Body>::new().decode_eof(&mut BytesMut::from(&wire[..have]));
        assert!(matches!(ended, Err(FrameError::Truncated { have: h }) if h == have), "{ended:?}");
    }
}

#[test]
fn bodies_and_payloads_are_not_copied() {
    let envelope = Envelope::sign(&key(), 1, 1, &[entry("", None, &[7; 1000])]).unwrap();
    let payload = envelope.entries().next().unwrap().payload;
    assert!(envelope.bytes().as_ptr_range().contains(&payload.as_ptr()));

    let mut stream = BytesMut::from(&encode_frame(&Body(2, vec![7; 1000].into())).unwrap()[..]);
    let buffer = stream.as_ptr_range();
    let frame = FrameCodec::<Body>::new().decode(&mut stream).unwrap();
    let Some(Frame::Known { message: Body(_, body), .. }) = frame else { panic!("one frame is there") };
    assert!(buffer.contains(&body.as_ptr()));
}

#[test]
fn sealed_bodies() {
    let (id, big) = (key().id(), vec![0; MAX_PRIVATE_BODY + 1]);
    let sealed = seal(&mut rand::rng(), &id, 1, &id, &big[..MAX_PRIVATE_BODY]).unwrap();
    assert_eq!(sealed.len(), MAX_SEALED_PAYLOAD);
    assert_eq!(open(&key(), &id, 1, &sealed).unwrap().len(), MAX_PRIVATE_BODY);
    assert_eq!(
        seal(&mut rand::rng(), &id, 1, &id, &big),
        Err(SealError::TooLong { len: MAX_PRIVATE_BODY + 1 })
    );
    for len in [0, 32, SEAL_OVERHEAD - 1, MAX_SEALED_PAYLOAD + 1] {
        assert_eq!(open(&key(), &id, 1, &vec![0; len]), Err(OpenError::Length { len }));
    }
    // An encapsulated key of small order, where the exchange gives zero whatever the secret.
    assert_eq!(open(&key(), &id, 1, &[0; 64]), Err(OpenError::Refused));
}
