//! Holds this crate against `docs/vectors/*.json`. Those files were written by a second implementation
//! (`docs/vectors/make.py`); a difference is a change of the format.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail like the tests")]

use std::{convert::Infallible, fs, path::Path};

use bytes::{Bytes, BytesMut};
use data_encoding::HEXLOWER;
use p2p_wire::{
    DecodeError, EncodeError, Envelope, Frame, FrameBody, FrameCodec, FrameError, Hello, NewEntry, NodeId,
    PeerAddr, PeerRecord, PrivateBody, Receipt, Scope, SecretKey, Ticket, TicketFile, TicketKind,
    encode_frame, open, seal,
};
use rand::{TryCryptoRng, TryRng};
use serde_json::Value;
use tokio_util::codec::Decoder;

fn load(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/vectors").join(name);
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

fn hex(value: &Value, key: &str) -> Bytes {
    HEXLOWER.decode(text(value, key).as_bytes()).unwrap().into()
}

fn array<const N: usize>(value: &Value, key: &str) -> [u8; N] {
    hex(value, key)[..].try_into().unwrap()
}

fn secret(value: &Value, key: &str) -> SecretKey {
    SecretKey::from_bytes(&array(value, key))
}

/// The whole bytes of a vector, after checking that its annotated fields add up to them.
fn whole(vector: &Value) -> Bytes {
    let fields: String = list(vector, "fields").iter().map(|field| field[1].as_str().unwrap()).collect();
    assert_eq!(fields, text(vector, "bytes"), "fields of {}", vector["name"]);
    hex(vector, "bytes")
}

fn addrs(vector: &Value) -> Vec<PeerAddr> {
    let addr = |value| PeerAddr {
        ip: text(value, "ip").parse().unwrap(),
        port: number(value, "port"),
        file_port: number(value, "file_port"),
    };
    list(vector, "addrs").iter().map(addr).collect()
}

#[test]
fn envelopes_are_made_and_read_as_published() {
    let file = load("envelopes.json");
    for vector in list(&file, "vectors") {
        let payloads: Vec<Bytes> =
            list(vector, "entries").iter().map(|entry| hex(entry, "payload")).collect();
        let entries: Vec<NewEntry<'_>> = list(vector, "entries")
            .iter()
            .zip(&payloads)
            .map(|(entry, payload)| NewEntry {
                topic: text(entry, "topic"),
                time_ms: number(entry, "time_ms"),
                recipient: entry["recipient"].as_str().map(|hex| hex.parse().unwrap()),
                payload,
            })
            .collect();
        let key = secret(vector, "secret_key");
        let made = Envelope::sign(&key, number(vector, "run"), number(vector, "first"), &entries).unwrap();
        assert_eq!(made.bytes(), &whole(vector), "{}", vector["name"]);

        let read = Envelope::decode(whole(vector)).unwrap();
        read.verify().unwrap();
        assert_eq!(read.digest(), array(vector, "digest"));
        assert_eq!(read.id(), made.id());
        for (index, (read, entry)) in read.entries().zip(&entries).enumerate() {
            assert_eq!(read.seq, made.id().first + index as u64);
            assert_eq!((&read.topic[..], read.time_ms), (entry.topic, entry.time_ms));
            assert_eq!((read.recipient, &read.payload[..]), (entry.recipient, entry.payload));
        }
    }
    for refused in list(&file, "refused") {
        let accepted =
            Envelope::decode(hex(refused, "bytes")).is_ok_and(|envelope| envelope.verify().is_ok());
        assert!(!accepted, "{}", refused["name"]);
    }
}

#[test]
fn records_are_made_and_read_as_published() {
    let file = load("records.json");
    for vector in list(&file, "vectors") {
        let scope = if text(vector, "scope") == "local" { Scope::Local } else { Scope::Public };
        let made =
            PeerRecord::sign(&secret(vector, "secret_key"), scope, number(vector, "seq"), &addrs(vector));
        let read = PeerRecord::decode(whole(vector)).unwrap();
        read.verify().unwrap();
        assert_eq!(made.unwrap(), read, "{}", vector["name"]);
    }
    for refused in list(&file, "refused") {
        let accepted = PeerRecord::decode(hex(refused, "bytes")).is_ok_and(|record| record.verify().is_ok());
        assert!(!accepted, "{}", refused["name"]);
    }
}

/// Gives its bytes once: the ephemeral key of a vector.
struct Fixed(Bytes);

impl TryRng for Fixed {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        unreachable!("sealing asks for bytes")
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        unreachable!("sealing asks for bytes")
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        out.copy_from_slice(&self.0.split_to(out.len()));
        Ok(())
    }
}

impl TryCryptoRng for Fixed {}

#[test]
fn sealed_bodies_are_made_and_opened_as_published() {
    for vector in list(&load("sealed.json"), "vectors") {
        let author = NodeId::from_bytes(array(vector, "author"));
        let recipient = secret(vector, "recipient_secret_key");
        assert_eq!(recipient.id().as_bytes(), &array(vector, "recipient"));
        let (seq, plain) = (number(vector, "seq"), hex(vector, "plain"));

        let mut rng = Fixed(hex(vector, "ephemeral_ikm"));
        let made = seal(&mut rng, &author, seq, &recipient.id(), &plain).unwrap();
        assert_eq!(made, whole(vector), "{}", vector["name"]);
        assert_eq!(open(&recipient, &author, seq, &whole(vector)).unwrap(), plain);
    }
}

#[test]
fn private_bodies_and_receipts_are_made_and_read_as_published() {
    for vector in list(&load("receipts.json"), "vectors") {
        let author = NodeId::from_bytes(array(vector, "author"));
        let (seq, payload) = (number(vector, "seq"), hex(vector, "payload"));
        for (name, receipt) in [("asked", true), ("not_asked", false)] {
            let body = PrivateBody::Message { payload: payload.clone(), receipt };
            assert_eq!(body.encode(), hex(vector, name), "{}", vector["name"]);
            assert_eq!(PrivateBody::decode(hex(vector, name)), Ok(body));
        }
        let receipt = Receipt::sign(&secret(vector, "recipient_secret_key"), author, seq, &payload);
        assert_eq!(receipt.digest, array(vector, "digest"));
        let body = PrivateBody::Receipt { seq, signature: receipt.signature };
        assert_eq!(body.encode(), whole(vector), "{}", vector["name"]);
        assert_eq!(PrivateBody::decode(whole(vector)), Ok(body));
    }
}

#[test]
fn hellos_are_made_and_read_as_published() {
    let file = load("hello.json");
    for vector in list(&file, "vectors") {
        let records = list(vector, "records").iter();
        let hello = Hello {
            version: number(vector, "version"),
            agent: text(vector, "agent").to_owned(),
            name: vector["node_name"].as_str().map(str::to_owned),
            observed: vector["observed"].as_str().map(|addr| addr.parse().unwrap()),
            records: records
                .map(|hex| HEXLOWER.decode(hex.as_str().unwrap().as_bytes()).unwrap().into())
                .collect(),
        };
        assert_eq!(Hello::decode(&whole(vector)).unwrap(), hello, "{}", vector["name"]);
        if vector["exact"] == true {
            assert_eq!(hello.encode().unwrap(), whole(vector), "{}", vector["name"]);
        }
    }
    for refused in list(&file, "refused") {
        assert!(Hello::decode(&hex(refused, "bytes")).is_err(), "{}", refused["name"]);
    }
}

/// A frame of any kind whose body is not looked at.
#[derive(Debug, PartialEq)]
struct Raw(u8, Bytes);

impl FrameBody for Raw {
    fn limit(_kind: u8) -> usize {
        p2p_wire::MAX_FRAME_CONTROL
    }

    fn kind(&self) -> u8 {
        self.0
    }

    fn encode(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        out.extend_from_slice(&self.1);
        Ok(())
    }

    fn decode(kind: u8, body: Bytes) -> Result<Option<Self>, DecodeError> {
        Ok(Some(Self(kind, body)))
    }
}

#[test]
fn frames_are_made_and_read_as_published() {
    let file = load("frames.json");
    for vector in list(&file, "vectors") {
        let frame = Raw(number(vector, "kind"), hex(vector, "body"));
        let bytes = whole(vector);
        assert_eq!(encode_frame(&frame).unwrap(), bytes, "{}", vector["name"]);
        let mut stream = BytesMut::from(&bytes[..]);
        let read = FrameCodec::<Raw>::new().decode(&mut stream).unwrap().unwrap();
        assert_eq!(read, Frame::Known { message: frame, len: bytes.len() });
        assert!(stream.is_empty());
    }
    for refused in list(&file, "refused") {
        assert_eq!(number::<usize>(refused, "limit"), Raw::limit(0));
        let read = FrameCodec::<Raw>::new().decode(&mut BytesMut::from(&hex(refused, "bytes")[..]));
        assert!(
            matches!(read, Err(FrameError::Empty | FrameError::TooLong { .. })),
            "{} {read:?}",
            refused["name"]
        );
    }
}

#[test]
fn tickets_are_made_and_read_as_published() {
    let file = load("tickets.json");
    for vector in list(&file, "vectors") {
        let file = &vector["file"];
        let ticket = Ticket {
            id: NodeId::from_bytes(array(vector, "id")),
            addrs: addrs(vector),
            file: file.is_object().then(|| TicketFile {
                kind: if text(file, "kind") == "dir" { TicketKind::Dir } else { TicketKind::File },
                hash: array(file, "hash"),
                length: number(file, "length"),
                name: text(file, "name").to_owned(),
            }),
        };
        whole(vector);
        assert_eq!(ticket.to_string(), text(vector, "text"), "{}", vector["name"]);
        assert_eq!(text(vector, "text").parse::<Ticket>().unwrap(), ticket);
        assert_eq!(text(vector, "text").to_uppercase().parse::<Ticket>().unwrap(), ticket);
    }
    for refused in list(&file, "refused") {
        let error = text(refused, "text").parse::<Ticket>().unwrap_err().to_string();
        assert!(error.contains(text(refused, "text_contains")), "{}: {error}", refused["name"]);
    }
}
