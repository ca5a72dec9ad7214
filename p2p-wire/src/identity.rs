//! Node identities: Ed25519 keys (RFC 8032).

use std::cmp::Ordering;
use std::{fmt, str::FromStr};

use data_encoding::HEXLOWER_PERMISSIVE;
use ed25519_dalek::ed25519::signature::{MultipartSigner, MultipartVerifier};
use ed25519_dalek::{Signature, SigningKey, VerifyingKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;
use zeroize::Zeroizing;

/// A node's identity: the 32 bytes of its Ed25519 public key.
///
/// Written as 64 lower-case hex digits. With serde it is that string in human-readable formats and 32 bytes of
/// binary otherwise. Any 32 bytes can be held; whether they are a usable key shows in [`NodeId::is_valid`], and
/// [`NodeId::verify`] refuses those that are not.
///
/// ```
/// use p2p_wire::{NodeId, SecretKey};
///
/// let id = SecretKey::from_bytes(&[1; 32]).id();
/// assert_eq!(id.to_string().parse::<NodeId>()?, id);
/// assert_eq!(id.short(), "8a88e3dd74");
/// # Ok::<(), p2p_wire::ParseIdError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct NodeId([u8; 32]);

impl PartialOrd for NodeId {
    #[inline]
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for NodeId {
    /// As their bytes. The first eight nearly always decide, and comparing them as a number saves a call for each step of
    /// a search in an ordered map, of which a node does a dozen for each frame.
    #[inline]
    fn cmp(&self, other: &Self) -> Ordering {
        let head = |id: &Self| {
            let [a, b, c, d, e, f, g, h, ..] = id.0;
            u64::from_be_bytes([a, b, c, d, e, f, g, h])
        };
        head(self).cmp(&head(other)).then_with(|| self.0.cmp(&other.0))
    }
}

impl NodeId {
    /// Takes the bytes of a public key as they are.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes of the public key.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first 10 hex digits, for lists and logs. Not unique against an adversary.
    #[must_use]
    pub fn short(&self) -> String {
        HEXLOWER_PERMISSIVE.encode(&self.0[..5])
    }

    /// Whether these bytes are the one canonical encoding of a curve point that is not of small order.
    ///
    /// For a point of small order anyone can make signatures, so whoever takes an id from a handshake whose
    /// signature was checked by other code must ask this too.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.key().is_some()
    }

    /// Checks a signature over `domain` followed by the parts of `message`, by the strict rules: canonical
    /// encodings of key and signature only, neither the key nor `R` of small order, no cofactor.
    ///
    /// All nodes have to agree on what is valid, or an honest relay would be taken for a forger; so there is no
    /// second, laxer or batched check anywhere. ("Taming the many EdDSAs", Chalkias, Garillot, Nikolaenko 2020.)
    ///
    /// # Errors
    ///
    /// [`BadSignature`] if the key or the signature is not valid; it does not say which.
    pub fn verify(&self, domain: &[u8], message: &[&[u8]], signature: &[u8; 64]) -> Result<(), BadSignature> {
        self.public_key().ok_or(BadSignature)?.verify(domain, message, signature)
    }

    /// The key made ready for checks, if [`is_valid`](Self::is_valid).
    #[must_use]
    pub fn public_key(&self) -> Option<PublicKey> {
        self.key().map(PublicKey)
    }

    /// The key as a point, if [`is_valid`](Self::is_valid).
    pub(crate) fn key(&self) -> Option<VerifyingKey> {
        if !is_canonical(&self.0) {
            return None;
        }
        VerifyingKey::from_bytes(&self.0).ok().filter(|key| !key.is_weak())
    }
}

/// Whether the y coordinate (255 bits, little-endian) is below the field's prime 2^255 - 19.
///
/// Decompression reduces larger ones silently, which would give 19 points a second name each.
fn is_canonical(key: &[u8; 32]) -> bool {
    key[0] < 0xed || key[31] & 0x7f != 0x7f || key[1..31].iter().any(|byte| *byte != 0xff)
}

/// A [`NodeId`] made ready to check signatures: its point decompressed and known not to be of small order.
///
/// That is an eighth of what a check costs, so whoever hears one author often keeps this. 192 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// The id it was made of.
    #[must_use]
    pub fn id(&self) -> NodeId {
        NodeId(self.0.to_bytes())
    }

    /// As [`NodeId::verify`], by the same rules.
    ///
    /// # Errors
    ///
    /// [`BadSignature`] if the signature is not valid.
    pub fn verify(&self, domain: &[u8], message: &[&[u8]], signature: &[u8; 64]) -> Result<(), BadSignature> {
        let (r, _) = signature.split_first_chunk::<32>().ok_or(BadSignature)?;
        if is_small_order(r) {
            return Err(BadSignature);
        }
        // The check recomputes R and compares encodings, so a second encoding of R never passes, and a canonical one
        // of small order is one of those above: with them refused, this is `verify_strict` without decompressing R.
        let signature = Signature::from_bytes(signature);
        self.0.multipart_verify(&parts(domain, message), &signature).map_err(|_| BadSignature)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.id().short())
    }
}

/// Whether this encodes one of the eight points of small order, which are five y coordinates with either sign of x.
fn is_small_order(point: &[u8; 32]) -> bool {
    const fn small(byte: u8) -> [u8; 32] {
        let mut y = [0; 32];
        y[0] = byte;
        y
    }
    const MINUS_ONE: [u8; 32] = {
        let mut y = [0xff; 32];
        (y[0], y[31]) = (0xec, 0x7f);
        y
    };
    // Both y of order 8; the second is the negative of the first.
    const EIGHTH: [u8; 32] = [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a,
        0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
    ];
    const MINUS_EIGHTH: [u8; 32] = [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5,
        0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
    ];
    let mut y = *point;
    y[31] &= 0x7f;
    [small(0), small(1), MINUS_ONE, EIGHTH, MINUS_EIGHTH].contains(&y)
}

fn parts<'a>(domain: &'a [u8], message: &[&'a [u8]]) -> Vec<&'a [u8]> {
    std::iter::once(domain).chain(message.iter().copied()).collect()
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&HEXLOWER_PERMISSIVE.encode(&self.0))
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId({})", self.short())
    }
}

impl FromStr for NodeId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        if text.len() != 64 {
            return Err(ParseIdError::Length { len: text.len() });
        }
        let mut bytes = [0; 32];
        match HEXLOWER_PERMISSIVE.decode_mut(text.as_bytes(), &mut bytes) {
            Ok(32) => Ok(Self(bytes)),
            _ => Err(ParseIdError::NotHex),
        }
    }
}

impl Serialize for NodeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            serializer.serialize_bytes(&self.0)
        }
    }
}

impl<'de> Deserialize<'de> for NodeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            deserializer.deserialize_str(HexVisitor)
        } else {
            deserializer.deserialize_bytes(BytesVisitor)
        }
    }
}

struct HexVisitor;

impl de::Visitor<'_> for HexVisitor {
    type Value = NodeId;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("64 hex digits")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<NodeId, E> {
        text.parse().map_err(E::custom)
    }
}

struct BytesVisitor;

impl de::Visitor<'_> for BytesVisitor {
    type Value = NodeId;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("32 bytes")
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<NodeId, E> {
        let bytes = bytes.try_into().map_err(|_| E::invalid_length(bytes.len(), &self))?;
        Ok(NodeId(bytes))
    }
}

/// A node's secret key. Wiped from memory when dropped; its `Debug` shows the public id only.
#[derive(Clone)]
pub struct SecretKey(SigningKey);

impl SecretKey {
    /// Takes the 32 bytes of an RFC 8032 secret key (the seed).
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(bytes))
    }

    /// Makes a new key from 32 bytes of `rng`.
    pub fn generate<R: rand::CryptoRng + ?Sized>(rng: &mut R) -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        rng.fill_bytes(seed.as_mut_slice());
        Self::from_bytes(&seed)
    }

    /// The 32 bytes to keep in a file. The copy is wiped when dropped.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// The public half.
    #[must_use]
    pub fn id(&self) -> NodeId {
        NodeId(self.0.verifying_key().to_bytes())
    }

    /// Signs `domain` followed by the parts of `message`; deterministic (RFC 8032 section 5.1.6).
    ///
    /// Use a tag of [`domain`](crate::domain) or one of your own that is no prefix of another.
    #[must_use]
    pub fn sign(&self, domain: &[u8], message: &[&[u8]]) -> [u8; 64] {
        self.0.multipart_sign(&parts(domain, message)).to_bytes()
    }

    /// The X25519 secret that belongs to the same key: the lower half of SHA-512 of the seed, not yet clamped.
    pub(crate) fn x25519(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_scalar_bytes())
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey(of {})", self.id().short())
    }
}

/// The signature does not belong to this key and these bytes, or one of them is not a valid encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("signature is not valid")]
pub struct BadSignature;

/// Why a text is not a node id. The caller's input is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ParseIdError {
    /// Not 64 digits long.
    #[error("a node id has 64 hex digits, this has {len} bytes")]
    Length {
        /// Bytes of the text.
        len: usize,
    },
    /// Something else than hex digits in it.
    #[error("a node id consists of hex digits only")]
    NotHex,
}
