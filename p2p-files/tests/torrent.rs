//! Torrents against those that libtorrent 2.1.1 makes of the same files (`create_torrent`, v2 only, pieces of 1 MiB).

mod util;

use p2p_files::{Torrent, TorrentError};
use sha2::{Digest as _, Sha256};
use util::content;

/// Length of the file, info-hash, and SHA-256 of the bencoded piece layers.
const LIBTORRENT: [(usize, &str, &str); 7] = [
    (
        1,
        "80d26e542bf80312915bf558f288d62e65858fb32444166745a9571e5d48ac60",
        "959a45d44e6fcf58361ed004681556fe50129f2109e817dec098c00c9e5d2578",
    ),
    (
        16_384,
        "1bea1174f4b0e8790c4392349b7afbb8759cde1ee1e8928366b31a1079233ea7",
        "959a45d44e6fcf58361ed004681556fe50129f2109e817dec098c00c9e5d2578",
    ),
    (
        16_385,
        "536801c5712822e9ae0b7b773e2bad7ccc75857a82ccd71e357961fb2cc2d148",
        "959a45d44e6fcf58361ed004681556fe50129f2109e817dec098c00c9e5d2578",
    ),
    (
        1 << 20,
        "a90de106813540ad172bf4c4d669704eb1db0563c6b36cb7f883ee3e8f6425ff",
        "959a45d44e6fcf58361ed004681556fe50129f2109e817dec098c00c9e5d2578",
    ),
    (
        (1 << 20) + 1,
        "4ae085311423355c485d14a7acf07d5301b251ffed466cbe559fa851c2a1726b",
        "160b7db9accbcbfe825e790187df13fc68a9777c67e9f8044d08b02cdc04ffd9",
    ),
    (
        3 << 20,
        "97764fa48cfec7697e5a0e7b0edefa44a5cd0972d600c8ba10be6c18eddd48c2",
        "19c0a1bc7b560648c0fe613fee178eca8100f9afdec9a5db267a4542c36cd778",
    ),
    (
        (5 << 20) + 12_345,
        "c14d587890fc6ec0efacd7c1981200631d506d15b4f8554c4f9080a015cd0111",
        "94177895a35ab2e4b6faaf1b93a3334146888b980b6567bf4ae80d195c894d0b",
    ),
];

#[test]
fn torrents_are_those_of_libtorrent() {
    let dir = tempfile::tempdir().unwrap();
    for (length, info_hash, layers) in LIBTORRENT {
        let file = dir.path().join("data.bin");
        std::fs::write(&file, content(length)).unwrap();
        let torrent = Torrent::of(&file).unwrap();
        let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
        assert_eq!(hex(&torrent.info_hash), info_hash, "{length}");
        assert_eq!(torrent.magnet(), format!("magnet:?xt=urn:btmh:1220{info_hash}"));
        let bytes = torrent.as_bytes();
        let key = b"12:piece layers";
        let at = bytes.windows(key.len()).rposition(|window| window == key).unwrap();
        let info = &bytes[b"d4:info".len()..at];
        assert_eq!(hex(&Sha256::digest(info)), info_hash, "{length}");
        assert_eq!(hex(&Sha256::digest(&bytes[at + key.len()..bytes.len() - 1])), layers, "{length}");
    }
}

#[test]
fn what_has_no_torrent_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().join("empty");
    std::fs::write(&empty, "").unwrap();
    assert!(matches!(Torrent::of(&empty), Err(TorrentError::Empty)));
    assert!(matches!(Torrent::of(dir.path()), Err(TorrentError::Directory)));
    assert!(matches!(Torrent::of(&dir.path().join("none")), Err(TorrentError::Read(_))));
    // A name that others would refuse is not told.
    let hidden = dir.path().join(".hidden");
    std::fs::write(&hidden, "x").unwrap();
    let torrent = Torrent::of(&hidden).unwrap();
    assert_eq!(torrent.name, torrent.info.hash().to_string());
}
