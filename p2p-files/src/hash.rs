//! The name of a file: what a hash is made of, how it is written, what a provider says about it.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER_PERMISSIVE;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

/// Bytes of a SHA-256 digest, and so of every hash here.
pub const HASH_LEN: usize = 32;

/// The content hash of a file: `SHA-256(tag || length as u64 big-endian || root)`.
///
/// The tag says what it is (see [`Kind::tag`]), the root is the BEP 52 `pieces root`. The length is inside because a
/// root alone is not safe: a 64-byte file that holds the two leaf hashes of a 16,385-byte file has the same root.
///
/// Written as 64 lower-case hex characters; upper case is read too.
///
/// ```
/// use p2p_files::{FileHash, Info, Kind};
///
/// let empty = Info { kind: Kind::File, length: 0, root: [0; 32] }.hash();
/// let text = empty.to_string();
/// assert_eq!(text.len(), 64);
/// assert_eq!(text.parse::<FileHash>()?, empty);
/// # Ok::<(), p2p_files::ParseHashError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileHash([u8; HASH_LEN]);

impl FileHash {
    /// The hash with these 32 bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; HASH_LEN]) -> Self {
        Self(bytes)
    }

    /// Its 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; HASH_LEN] {
        &self.0
    }

    /// The first 10 hex characters, for lists and logs.
    #[must_use]
    pub fn short(&self) -> String {
        HEXLOWER_PERMISSIVE.encode(&self.0[..5])
    }
}

impl fmt::Display for FileHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER_PERMISSIVE.encode(&self.0))
    }
}

impl fmt::Debug for FileHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileHash({})", self.short())
    }
}

impl FromStr for FileHash {
    type Err = ParseHashError;

    fn from_str(text: &str) -> Result<Self, ParseHashError> {
        if text.len() != 2 * HASH_LEN {
            return Err(ParseHashError::Length { len: text.len() });
        }
        let mut bytes = [0; HASH_LEN];
        HEXLOWER_PERMISSIVE
            .decode_mut(text.as_bytes(), &mut bytes)
            .map_err(|partial| ParseHashError::Digit { at: partial.error.position })?;
        Ok(Self(bytes))
    }
}

impl Serialize for FileHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for FileHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Why a text is not a [`FileHash`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseHashError {
    /// The text has another length than 64 bytes.
    #[error("a file hash has 64 hex characters, this has {len}")]
    Length {
        /// Bytes of the text.
        len: usize,
    },
    /// A character is not a hex digit.
    #[error("character {at} of the file hash is not a hex digit")]
    Digit {
        /// Byte position in the text.
        at: usize,
    },
}

/// What a hash names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// The bytes of one file; tag `p2p/file/1`.
    File,
    /// The manifest of a directory; tag `p2p/dir/1`.
    Dir,
}

impl Kind {
    /// The domain tag that goes into the hash.
    #[must_use]
    pub const fn tag(self) -> &'static [u8] {
        match self {
            Self::File => b"p2p/file/1",
            Self::Dir => b"p2p/dir/1",
        }
    }

    /// The byte that stands for it on the wire.
    #[must_use]
    pub const fn to_byte(self) -> u8 {
        match self {
            Self::File => 0,
            Self::Dir => 1,
        }
    }

    /// The kind a wire byte stands for.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::File),
            1 => Some(Self::Dir),
            _ => None,
        }
    }
}

/// Everything a hash is made of: a provider's first answer.
///
/// Whoever receives one recomputes [`Info::hash`] before believing the length or the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Info {
    /// File or directory manifest.
    pub kind: Kind,
    /// Bytes of the content.
    pub length: u64,
    /// BEP 52 `pieces root`; 32 zero bytes for length 0.
    pub root: [u8; HASH_LEN],
}

impl Info {
    /// The hash that names this content.
    #[must_use]
    pub fn hash(&self) -> FileHash {
        let mut sha = Sha256::new();
        sha.update(self.kind.tag());
        sha.update(self.length.to_be_bytes());
        sha.update(self.root);
        FileHash(sha.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_bytes_round_trip() {
        let hash = FileHash::from_bytes(std::array::from_fn(|i| u8::try_from(i * 7).unwrap()));
        assert_eq!(hash.to_string().parse(), Ok(hash));
        assert_eq!(hash.to_string().to_uppercase().parse(), Ok(hash));
        assert_eq!(hash.short(), hash.to_string()[..10]);
        let json = serde_json::to_string(&hash).unwrap();
        assert_eq!(json, format!("\"{hash}\""));
        assert_eq!(serde_json::from_str::<FileHash>(&json).unwrap(), hash);
    }

    #[test]
    fn bad_text_says_what_is_wrong() {
        assert_eq!("ab".parse::<FileHash>(), Err(ParseHashError::Length { len: 2 }));
        let text = format!("{}g{}", "a".repeat(20), "a".repeat(43));
        assert_eq!(text.parse::<FileHash>(), Err(ParseHashError::Digit { at: 20 }));
        assert!("é".repeat(32).parse::<FileHash>().is_err());
    }

    #[test]
    fn kind_and_length_change_the_hash() {
        let info = Info { kind: Kind::File, length: 5, root: [1; 32] };
        assert_ne!(info.hash(), Info { kind: Kind::Dir, ..info }.hash());
        assert_ne!(info.hash(), Info { length: 6, ..info }.hash());
    }
}
