//! Strict MessagePack for control bodies: one map with short string keys, so that fields can be added.
//!
//! Before serde sees a byte, one pass without recursion refuses what a decoder should not have to cope with:
//! deep nesting, counts that the remaining bytes cannot hold, extension types, duplicate map keys (at any depth,
//! of unknown fields too), keys that are not strings, text that is not UTF-8, and anything after the map.
//! Fields a receiver does not know are ignored. Integers and lengths need not be in their shortest form: these
//! bodies are never signed or compared.

use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

use crate::limits::{MAX_DEPTH, MAX_KEY, MAX_MAP_ENTRIES};

/// Encodes `value`, which must be a struct with named fields or a map with string keys, as one map.
///
/// ```
/// #[derive(serde::Serialize, serde::Deserialize, Debug, PartialEq)]
/// struct Ping { n: u64 }
///
/// let body = p2p_wire::msgpack::to_vec(&Ping { n: 7 })?;
/// assert_eq!(body, [0x81, 0xa1, b'n', 7]);
/// assert_eq!(p2p_wire::msgpack::from_slice::<Ping>(&body)?, Ping { n: 7 });
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// [`EncodeError::Serialize`] if `value` cannot be written, [`EncodeError::NotAccepted`] if [`from_slice`] would
/// refuse the result: a mistake in the type or a value beyond the limits.
pub fn to_vec<T: Serialize>(value: &T) -> Result<Vec<u8>, EncodeError> {
    let bytes = rmp_serde::to_vec_named(value).map_err(|error| EncodeError::Serialize(error.to_string()))?;
    scan(&bytes).map_err(EncodeError::NotAccepted)?;
    Ok(bytes)
}

/// Decodes exactly one map.
///
/// # Errors
///
/// [`DecodeError`] says what is wrong; the sender of the bytes is at fault. [`DecodeError::Fields`] if the map is
/// sound and does not fit `T`.
pub fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    scan(bytes)?;
    rmp_serde::from_slice(bytes).map_err(|error| DecodeError::Fields(brief(&error.to_string())))
}

/// serde quotes what it found: strings of a stranger, of any length and content. They end up in logs.
fn brief(text: &str) -> String {
    const LONGEST: usize = 120;
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST).collect()
}

/// Why a message could not be encoded. The caller is at fault; nothing was written.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The value's own `Serialize` failed.
    #[error("cannot be written as MessagePack: {0}")]
    Serialize(String),
    /// Every receiver would refuse the result.
    #[error("would be refused by the receiver")]
    NotAccepted(#[source] DecodeError),
    /// The frame would be longer than its kind may be.
    #[error("frame of kind {kind} is {len} bytes, the limit is {limit}")]
    TooLong {
        /// The frame's kind.
        kind: u8,
        /// Bytes of kind and body.
        len: usize,
        /// The largest allowed.
        limit: usize,
    },
}

/// Why a body was refused. Whoever sent it is at fault.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The body ends inside a value.
    #[error("body ends inside a value at byte {at}")]
    Truncated {
        /// Where the value that is cut off begins.
        at: usize,
    },
    /// Bytes follow the value.
    #[error("{count} bytes follow the value")]
    TrailingBytes {
        /// How many.
        count: usize,
    },
    /// The body is not a map.
    #[error("body is not a map")]
    NotAMap,
    /// Nested deeper than allowed.
    #[error("nested deeper than {MAX_DEPTH}")]
    TooDeep,
    /// An array or map claims more elements than the remaining bytes could hold.
    #[error("{count} elements claimed with {remaining} bytes left")]
    Count {
        /// Elements claimed; a map's entry counts twice.
        count: u64,
        /// Bytes left.
        remaining: usize,
    },
    /// A map has too many entries.
    #[error("map of {count} entries, the limit is {MAX_MAP_ENTRIES}")]
    MapTooLong {
        /// Entries claimed.
        count: u64,
    },
    /// A map's key is not a string or is too long.
    #[error("map key at byte {at} is not a string of at most {MAX_KEY} bytes")]
    Key {
        /// Where the key begins.
        at: usize,
    },
    /// A map has the same key twice.
    #[error("map key at byte {at} is there twice")]
    DuplicateKey {
        /// Where the second one begins.
        at: usize,
    },
    /// A string is not UTF-8.
    #[error("string at byte {at} is not UTF-8")]
    NotUtf8 {
        /// Where the string begins.
        at: usize,
    },
    /// An extension type, or the byte 0xc1 that MessagePack never uses.
    #[error("type byte {marker:#04x} is not allowed")]
    Type {
        /// The type byte.
        marker: u8,
    },
    /// The map is sound and does not fit the message: a field is missing or has the wrong type or value. At most
    /// 120 characters of serde's words, control characters blanked.
    #[error("{0}")]
    Fields(String),
    /// The body of a kind with a layout of its own is not valid.
    #[error("{0}")]
    Layout(&'static str),
}

/// What one value's type byte announces.
enum Head {
    /// A scalar whose value takes this many more bytes.
    Skip(usize),
    Str(usize),
    Array(u64),
    Map(u64),
}

/// An array or map that is being walked through.
struct Open {
    /// Values still to come; a map's key and value count one each.
    left: u64,
    /// For a map, where its keys begin in [`Scan::keys`].
    keys: Option<usize>,
}

/// The check described at the top. Its memory is bounded by depth and map size, not by what the bytes claim.
fn scan(bytes: &[u8]) -> Result<(), DecodeError> {
    let mut scan = Scan { bytes, at: 0, open: Vec::with_capacity(MAX_DEPTH), keys: Vec::new() };
    let first = scan.value()?;
    if !matches!(first, Head::Map(_)) {
        return Err(DecodeError::NotAMap);
    }
    while !scan.open.is_empty() {
        scan.value()?;
    }
    match scan.remaining() {
        0 => Ok(()),
        count => Err(DecodeError::TrailingBytes { count }),
    }
}

struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
    open: Vec<Open>,
    /// The keys seen of all open maps; those of the innermost one are the tail, sorted.
    keys: Vec<&'a [u8]>,
}

impl<'a> Scan<'a> {
    /// Passes one value: a scalar wholly, of an array or map only its head.
    fn value(&mut self) -> Result<Head, DecodeError> {
        let start = self.at;
        let key = self.open.last_mut().and_then(|open| {
            let keys = open.keys.filter(|_| open.left % 2 == 0);
            open.left -= 1;
            keys
        });
        let head = self.head()?;
        match (key, &head) {
            (Some(first), Head::Str(len)) => self.key(start, *len, first)?,
            (Some(_), _) => return Err(DecodeError::Key { at: start }),
            (None, Head::Skip(len)) => self.take(start, *len).map(|_| ())?,
            (None, Head::Str(len)) => self.text(start, *len).map(|_| ())?,
            (None, Head::Array(count)) => self.enter(*count, None)?,
            (None, Head::Map(count)) if *count > MAX_MAP_ENTRIES as u64 => {
                return Err(DecodeError::MapTooLong { count: *count });
            }
            (None, Head::Map(count)) => self.enter(count * 2, Some(self.keys.len()))?,
        }
        while let Some(done) = self.open.pop_if(|open| open.left == 0) {
            if let Some(first) = done.keys {
                self.keys.truncate(first);
            }
        }
        Ok(head)
    }

    fn enter(&mut self, count: u64, keys: Option<usize>) -> Result<(), DecodeError> {
        let remaining = self.remaining();
        if count > remaining as u64 {
            return Err(DecodeError::Count { count, remaining });
        }
        if self.open.len() == MAX_DEPTH {
            return Err(DecodeError::TooDeep);
        }
        self.open.push(Open { left: count, keys });
        Ok(())
    }

    fn key(&mut self, start: usize, len: usize, first: usize) -> Result<(), DecodeError> {
        if len > MAX_KEY {
            return Err(DecodeError::Key { at: start });
        }
        let key = self.text(start, len)?;
        match self.keys[first..].binary_search(&key) {
            Ok(_) => Err(DecodeError::DuplicateKey { at: start }),
            Err(place) => {
                self.keys.insert(first + place, key);
                Ok(())
            }
        }
    }

    fn text(&mut self, start: usize, len: usize) -> Result<&'a [u8], DecodeError> {
        let text = self.take(start, len)?;
        if std::str::from_utf8(text).is_err() {
            return Err(DecodeError::NotUtf8 { at: start });
        }
        Ok(text)
    }

    /// The type byte and, where it has one, the count or length behind it (the format's "Formats" table).
    fn head(&mut self) -> Result<Head, DecodeError> {
        let start = self.at;
        let marker = self.take(start, 1)?[0];
        Ok(match marker {
            0x00..=0x7f | 0xe0..=0xff | 0xc0 | 0xc2 | 0xc3 => Head::Skip(0),
            0x80..=0x8f => Head::Map(u64::from(marker & 0x0f)),
            0x90..=0x9f => Head::Array(u64::from(marker & 0x0f)),
            0xa0..=0xbf => Head::Str(usize::from(marker & 0x1f)),
            0xc4..=0xc6 => Head::Skip(self.length(start, 1 << (marker - 0xc4))?),
            0xcc | 0xd0 => Head::Skip(1),
            0xcd | 0xd1 => Head::Skip(2),
            0xca | 0xce | 0xd2 => Head::Skip(4),
            0xcb | 0xcf | 0xd3 => Head::Skip(8),
            0xd9..=0xdb => Head::Str(self.length(start, 1 << (marker - 0xd9))?),
            0xdc | 0xdd => Head::Array(self.number(start, 2 << (marker - 0xdc))?),
            0xde | 0xdf => Head::Map(self.number(start, 2 << (marker - 0xde))?),
            0xc1 | 0xc7..=0xc9 | 0xd4..=0xd8 => return Err(DecodeError::Type { marker }),
        })
    }

    fn length(&mut self, start: usize, width: usize) -> Result<usize, DecodeError> {
        usize::try_from(self.number(start, width)?).map_err(|_| DecodeError::Truncated { at: start })
    }

    fn number(&mut self, start: usize, width: usize) -> Result<u64, DecodeError> {
        let digits = self.take(start, width)?;
        Ok(digits.iter().fold(0, |number, digit| number << 8 | u64::from(*digit)))
    }

    fn take(&mut self, start: usize, len: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, _) =
            self.bytes[self.at..].split_at_checked(len).ok_or(DecodeError::Truncated { at: start })?;
        self.at += len;
        Ok(taken)
    }

    fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }
}
