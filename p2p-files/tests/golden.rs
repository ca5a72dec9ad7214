//! Holds this crate against `docs/vectors/files.json`, which was written by a second implementation
//! (`docs/vectors/make_files.py`); a difference is a change of the format.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod util;

use data_encoding::HEXLOWER;
use p2p_files::protocol::{ErrorCode, Reply, Request};
use p2p_files::{FileHash, Geometry, Info, Kind, TreeHasher, verify_run};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use util::Peer;

fn vectors() -> Value {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/vectors/files.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn content(size: u64) -> Vec<u8> {
    (0..size).map(|i| u8::try_from((7 * i + 3) % 251).unwrap()).collect()
}

fn bytes(value: &Value) -> Vec<u8> {
    HEXLOWER.decode(value.as_str().unwrap().as_bytes()).unwrap()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap()
}

fn byte(value: &Value) -> u8 {
    u8::try_from(number(value)).unwrap()
}

#[test]
fn hashes_are_the_written_ones() {
    for vector in vectors()["hashes"].as_array().unwrap() {
        let mut hasher = TreeHasher::new();
        hasher.push(&content(number(&vector["size"])), |_, _| Ok(())).unwrap();
        let info = hasher.finish(|_, _| Ok(())).unwrap();
        assert_eq!(HEXLOWER.encode(&info.root), vector["root"].as_str().unwrap());
        assert_eq!(info.hash().to_string(), vector["file_hash"].as_str().unwrap());
        assert_eq!(Info { kind: Kind::Dir, ..info }.hash().to_string(), vector["dir_hash"].as_str().unwrap());
    }
}

#[test]
fn frames_are_the_written_ones() {
    for vector in vectors()["frames"].as_array().unwrap() {
        let name = vector["name"].as_str().unwrap();
        let frame = bytes(&vector["bytes"]);
        if vector["sender"] == "requester" {
            let request = if vector["hash"].is_string() {
                Request::Open(FileHash::from_bytes(bytes(&vector["hash"]).try_into().unwrap()))
            } else if vector["known"].is_u64() {
                let known = u32::try_from(number(&vector["known"])).unwrap();
                Request::Have { first: number(&vector["first"]), known }
            } else {
                Request::Get { first: number(&vector["first"]), count: byte(&vector["count"]) }
            };
            let mut ours = Vec::new();
            request.encode(&mut ours);
            assert_eq!(ours, frame, "{name}");
            assert_eq!(Request::decode(&frame[4..]), Ok(Some(request)), "{name}");
        } else if vector["file_size"].is_null() {
            let reply = if vector["root"].is_string() {
                let root = bytes(&vector["root"]).try_into().unwrap();
                let info = Info { kind: Kind::File, length: number(&vector["length"]), root };
                if vector["part"] == true { Reply::Part(info) } else { Reply::Info(info) }
            } else if vector["bits"].is_string() {
                Reply::Held { first: number(&vector["first"]), bits: bytes(&vector["bits"]) }
            } else if vector["code"].is_u64() {
                Reply::Error(ErrorCode::from_byte(byte(&vector["code"])))
            } else {
                Reply::NotFound
            };
            let mut ours = Vec::new();
            reply.encode(0, &mut ours);
            assert_eq!(ours, frame, "{name}");
            assert_eq!(Reply::decode(&frame[4..]), Ok(Some(reply)), "{name}");
        }
    }
}

#[tokio::test]
async fn runs_are_served_as_written_and_verify() {
    for vector in vectors()["frames"].as_array().unwrap().iter().filter(|vector| vector["file_size"].is_u64())
    {
        let size = number(&vector["file_size"]);
        let (first, count) = (number(&vector["first"]), byte(&vector["count"]));
        let peer = Peer::new();
        let share = peer.add("file", &content(size));
        let mut stream = peer.connect();
        let mut request = Vec::new();
        Request::Open(share.hash).encode(&mut request);
        Request::Get { first, count }.encode(&mut request);
        stream.write_all(&request).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let frame = bytes(&vector["bytes"]);
        assert!(answer[46..] == frame, "{}", vector["name"]);

        let run = Geometry::new(size).unwrap().run(first, count).unwrap();
        let (proof, data) = frame[15..].split_at(run.proof_len() * 32);
        verify_run(run, data, proof, &share.info.root).unwrap();
    }
}

#[test]
fn refused_and_skipped_frames() {
    let vectors = vectors();
    for vector in vectors["refused"].as_array().unwrap() {
        let frame = bytes(&vector["bytes"]);
        let sender = vector["sender"].as_str().unwrap();
        assert!(sender == "provider" || Request::decode(&frame[4..]).is_err(), "{vector}");
        assert!(sender == "requester" || Reply::decode(&frame[4..]).is_err(), "{vector}");
    }
    for vector in vectors["skipped"].as_array().unwrap() {
        let frame = bytes(&vector["bytes"]);
        assert_eq!((Request::decode(&frame[4..]), Reply::decode(&frame[4..])), (Ok(None), Ok(None)));
    }
}
