//! Roots, leaves, layers and proofs against published BitTorrent v2 vectors (four implementations agree on them).

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use p2p_files::{
    BLOCK, Digest, FileHash, Geometry, Info, Kind, TreeHasher, block_hash, fold, verify_run, zero_hash,
};
use serde_json::Value;
use std::io;

fn vectors() -> Value {
    serde_json::from_str(include_str!("vectors/bep52_vectors.json")).unwrap()
}

fn content(size: u64) -> Vec<u8> {
    (0..size).map(|i| u8::try_from((7 * i + 3) % 251).unwrap()).collect()
}

fn info(data: &[u8]) -> Info {
    let mut hasher = TreeHasher::new();
    let sink = |_: u64, _: &Digest| -> io::Result<()> { Ok(()) };
    hasher.push(data, sink).unwrap();
    hasher.finish(sink).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

fn digest(value: &Value) -> Digest {
    data_encoding::HEXLOWER.decode(value.as_str().unwrap().as_bytes()).unwrap().try_into().unwrap()
}

#[test]
fn every_size_has_the_published_root_leaves_and_height() {
    for file in vectors()["files"].as_array().unwrap() {
        let size = file["size"].as_u64().unwrap();
        let data = content(size);
        let ours = info(&data);
        assert_eq!(ours.length, size);
        // Libtorrent leaves the root of an empty file out; ours is zero.
        let root = file["pieces_root"].as_str().map_or_else(|| hex(&[0; 32]), str::to_owned);
        assert_eq!(hex(&ours.root), root, "size {size}");
        let geometry = Geometry::new(size).unwrap();
        assert_eq!(geometry.blocks(), file["blocks"].as_u64().unwrap());
        assert_eq!(u64::from(geometry.height()), file["tree_height"].as_u64().unwrap());
        for (leaf, block) in file["leaves"].as_array().into_iter().flatten().zip(data.chunks(BLOCK)) {
            assert_eq!(digest(leaf), block_hash(block));
        }
    }
}

#[test]
fn published_proofs_hold_and_fail_when_a_bit_flips() {
    for proof in vectors()["proofs"].as_array().unwrap() {
        let data = content(proof["size"].as_u64().unwrap());
        let block = proof["block"].as_u64().unwrap();
        let run = Geometry::new(data.len() as u64).unwrap().run(block, 1).unwrap();
        let start = usize::try_from(run.offset()).unwrap();
        let bytes = &data[start..start + run.len()];
        assert_eq!(block_hash(bytes), digest(&proof["leaf"]));
        let siblings: Vec<Digest> =
            proof["siblings_leaf_to_root"].as_array().unwrap().iter().map(digest).collect();
        let root = digest(&proof["pieces_root"]);
        assert_eq!(fold(block_hash(bytes), block, &siblings), root);
        assert!(verify_run(run, bytes, siblings.as_flattened(), &root).is_ok());
        for byte in 0..siblings.len() * 32 {
            let mut wrong = siblings.as_flattened().to_vec();
            wrong[byte] ^= 1 << (byte % 8);
            assert!(verify_run(run, bytes, &wrong, &root).is_err());
        }
    }
}

#[test]
fn padding_hashes_are_the_published_ones() {
    for (level, hash) in vectors()["zero_pad_hash_by_level"].as_array().unwrap().iter().enumerate() {
        assert_eq!(*zero_hash(u32::try_from(level).unwrap()), digest(hash), "level {level}");
    }
}

#[test]
fn the_published_torrent_has_our_root() {
    for torrent in vectors()["published"].as_array().unwrap() {
        let zeros = vec![0; usize::try_from(torrent["size"].as_u64().unwrap()).unwrap()];
        assert_eq!(info(&zeros).root, digest(&torrent["pieces_root"]), "{}", torrent["source"]);
    }
}

#[test]
fn files_with_the_same_root_and_other_lengths_have_other_hashes() {
    let both = &vectors()["length_must_be_bound"];
    let a = info(&content(16_385));
    let b =
        info(&data_encoding::HEXLOWER.decode(both["file_b"]["hex"].as_str().unwrap().as_bytes()).unwrap());
    assert_eq!((hex(&a.root), a.root), (both["pieces_root"].as_str().unwrap().into(), b.root));
    assert_eq!((a.length, b.length), (16_385, 64));
    assert_ne!(a.hash(), b.hash());
    let lie = Info { kind: Kind::File, length: 64, root: a.root };
    assert_ne!(lie.hash(), a.hash());
    assert_eq!(lie.hash(), b.hash());
    let _: FileHash = b.hash();
}
