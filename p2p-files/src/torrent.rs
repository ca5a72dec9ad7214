//! A file as a BitTorrent v2 torrent (BEP 52), for those who have other programs.
//!
//! The tree is the same, so nothing is hashed twice: with pieces of 1 MiB the `pieces root` is the root in our hash, and the
//! piece layer is the level of chunks.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha2::{Digest as _, Sha256};

use crate::buffer::PageBuffer;
use crate::error::AddError;
use crate::geometry::CHUNK;
use crate::hash::{HASH_LEN, Info};
use crate::merkle::TreeHasher;
use crate::names::FileName;

/// Longest file: its piece layer, 32 bytes for each MiB, is held in memory.
const LENGTH_MAX: u64 = 1 << 40;

/// The torrent of one file.
///
/// ```
/// use p2p_files::Torrent;
///
/// let dir = tempfile::tempdir()?;
/// let file = dir.path().join("abc.txt");
/// std::fs::write(&file, "abc")?;
/// let torrent = Torrent::of(&file)?;
/// assert!(torrent.as_bytes().starts_with(b"d4:infod9:file treed7:abc.txt"));
/// // The root in it is that of our own hash.
/// assert_eq!(torrent.info.root, p2p_files::Sums::of(&file)?.info.root);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Torrent {
    /// What our own hash of the file is made of.
    pub info: Info,
    /// What the file is called in it: its name, or our hash where others would refuse the name.
    pub name: String,
    /// The v2 info-hash: SHA-256 of the info dictionary. Trackers and the DHT know the first 20 bytes.
    pub info_hash: [u8; HASH_LEN],
    bytes: Vec<u8>,
}

impl Torrent {
    /// Reads a file and makes its torrent: v2 only, one file, pieces of 1 MiB, no tracker. The same file under the same name
    /// always gives the same bytes.
    ///
    /// # Errors
    ///
    /// [`TorrentError`]: it cannot be read, is no regular file, is empty (BitTorrent has no torrent of nothing), or is longer
    /// than 1 TiB.
    pub fn of(path: &Path) -> Result<Self, TorrentError> {
        let io = |source| AddError::io(path, source);
        // Looked at before it is opened: opening a pipe would wait for its other end.
        let metadata = std::fs::metadata(path).map_err(io)?;
        if metadata.is_dir() {
            return Err(TorrentError::Directory);
        }
        if !metadata.is_file() {
            return Err(AddError::NotRegular { path: path.to_path_buf() }.into());
        }
        let file = File::open(path).map_err(io)?;
        let (info, layer) = layer_of(file.take(LENGTH_MAX + 1)).map_err(io)?;
        let name =
            path.file_name().and_then(|name| name.to_str()).and_then(|name| FileName::parse(name).ok());
        let name = name.map_or_else(|| info.hash().to_string(), |name| name.as_str().to_owned());
        Self::new(name, info, &layer)
    }

    fn new(name: String, info: Info, layer: &[u8]) -> Result<Self, TorrentError> {
        match info.length {
            0 => return Err(TorrentError::Empty),
            1..=LENGTH_MAX => {}
            _ => return Err(TorrentError::TooLarge),
        }
        let mut dictionary = b"d9:file treed".to_vec();
        string(&mut dictionary, name.as_bytes());
        dictionary.extend(format!("d0:d6:lengthi{}e11:pieces root", info.length).as_bytes());
        string(&mut dictionary, &info.root);
        dictionary.extend(b"eee12:meta versioni2e4:name");
        string(&mut dictionary, name.as_bytes());
        dictionary.extend(format!("12:piece lengthi{CHUNK}ee").as_bytes());
        let info_hash = Sha256::digest(&dictionary).into();

        let mut bytes = b"d4:info".to_vec();
        bytes.append(&mut dictionary);
        bytes.extend(b"12:piece layersd");
        // A file of one piece has no layer: the root is its hash.
        if !layer.is_empty() {
            string(&mut bytes, &info.root);
            string(&mut bytes, layer);
        }
        bytes.extend(b"ee");
        Ok(Self { info, name, info_hash, bytes })
    }

    /// What a `.torrent` file holds.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The link that names it: `magnet:?xt=urn:btmh:…`, which says neither who has it nor its piece layer.
    #[must_use]
    pub fn magnet(&self) -> String {
        // 0x12: SHA-256, 0x20: 32 bytes (multihash).
        format!("magnet:?xt=urn:btmh:1220{}", data_encoding::HEXLOWER.encode(&self.info_hash))
    }
}

/// What a content's hash is made of, and its chunk hashes one after another; none for a content of one chunk.
fn layer_of(mut content: impl Read) -> io::Result<(Info, Vec<u8>)> {
    let mut tree = TreeHasher::new();
    let mut layer = Vec::new();
    let mut buffer = PageBuffer::new(CHUNK);
    loop {
        let len = match content.read(buffer.room(CHUNK)) {
            Ok(0) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        tree.push(&buffer.data()[..len], |_, node| {
            layer.extend(node);
            Ok(())
        })?;
    }
    let info = tree.finish(|_, node| {
        layer.extend(node);
        Ok(())
    })?;
    Ok((info, layer))
}

/// A bencoded string.
fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(format!("{}:", bytes.len()).as_bytes());
    out.extend(bytes);
}

/// A file has no torrent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TorrentError {
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] AddError),
    /// It is a folder.
    #[error("only a file can be exported as a torrent, not a folder")]
    Directory,
    /// It has no bytes.
    #[error("there is no torrent of an empty file")]
    Empty,
    /// It is longer than 1 TiB.
    #[error("a file of more than {LENGTH_MAX} bytes cannot be exported as a torrent")]
    TooLarge,
}
