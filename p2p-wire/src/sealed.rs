//! Private bodies: sealed to one recipient's identity key.
//!
//! One key for signatures and for this is safe: Thormarker, "On using the same key pair for Ed25519 and an X25519
//! based KEM", eprint 2021/509. [`seal`] shows the layout and says what it does not protect.

use ed25519_dalek::VerifyingKey;
use hpke::{
    Deserializable, Kem, OpModeR, OpModeS, Serializable, aead::ChaCha20Poly1305, kdf::HkdfSha256,
    kem::X25519HkdfSha256, single_shot_open, single_shot_seal_with_rng,
};
use thiserror::Error;

use crate::{NodeId, SecretKey, domain, limits::MAX_PRIVATE_BODY};

/// Bytes by which a sealed body is longer than the plain one: encapsulated key 32 and tag 16.
pub const SEAL_OVERHEAD: usize = ENCAPSULATED + 16;

const ENCAPSULATED: usize = 32;

type PublicKey = <X25519HkdfSha256 as Kem>::PublicKey;
type PrivateKey = <X25519HkdfSha256 as Kem>::PrivateKey;
type EncappedKey = <X25519HkdfSha256 as Kem>::EncappedKey;

/// Seals `plain` so that only `recipient` can read it, bound to `author` and `seq`: moved into another message
/// it does not open.
///
/// Relays see who writes, to whom, when and how long it is, never what. **There is no forward secrecy**: the
/// recipient's key is static, so whoever gets hold of it later reads everything that was ever sealed to it. The seal
/// alone does not prove the author either (base mode); the signed envelope around it does.
///
/// # Layout
///
/// HPKE base mode (RFC 9180) with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and ChaCha20-Poly1305. The recipient's
/// X25519 key is its Ed25519 key taken through the birational map (RFC 7748 section 4.1).
///
/// ```text
/// info  "p2p/sealed/1"
/// aad   author 32 | seq u64 big-endian | recipient 32
///
/// offset  bytes
///      0     32  encapsulated key (ephemeral X25519 public key)
///     32      n  ciphertext, as long as the plain text
/// 32 + n     16  Poly1305 tag
/// ```
///
/// # Example
///
/// ```
/// use p2p_wire::{SecretKey, open, seal};
///
/// let (alice, bob) = (SecretKey::from_bytes(&[1; 32]), SecretKey::from_bytes(&[2; 32]));
/// let sealed = seal(&mut rand::rng(), &alice.id(), 7, &bob.id(), b"only for you")?;
/// assert_eq!(open(&bob, &alice.id(), 7, &sealed)?, b"only for you");
/// assert!(open(&bob, &alice.id(), 8, &sealed).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// [`SealError::Recipient`] if `recipient` is not a valid key, [`SealError::TooLong`] if `plain` is longer than
/// [`MAX_PRIVATE_BODY`].
pub fn seal<R: rand::CryptoRng + ?Sized>(
    rng: &mut R,
    author: &NodeId,
    seq: u64,
    recipient: &NodeId,
    plain: &[u8],
) -> Result<Vec<u8>, SealError> {
    if plain.len() > MAX_PRIVATE_BODY {
        return Err(SealError::TooLong { len: plain.len() });
    }
    let key = recipient.key().as_ref().and_then(x25519).ok_or(SealError::Recipient)?;
    let mut rng = rng;
    let (encapsulated, ciphertext) =
        single_shot_seal_with_rng::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
            &OpModeS::Base,
            &key,
            domain::SEALED,
            plain,
            &associated_data(author, seq, recipient),
            &mut rng,
        )
        .map_err(|_| SealError::Recipient)?;
    let mut sealed = Vec::with_capacity(ENCAPSULATED + ciphertext.len());
    sealed.extend_from_slice(&encapsulated.to_bytes());
    sealed.extend_from_slice(&ciphertext);
    Ok(sealed)
}

/// Opens what [`seal`] made for the id of `key`.
///
/// # Errors
///
/// [`OpenError::Length`] if `sealed` is too short or too long to be a sealed body, [`OpenError::Refused`] if it
/// was not sealed to this key for this author and seq, or was changed.
pub fn open(key: &SecretKey, author: &NodeId, seq: u64, sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
    if sealed.len() < SEAL_OVERHEAD || sealed.len() > MAX_PRIVATE_BODY + SEAL_OVERHEAD {
        return Err(OpenError::Length { len: sealed.len() });
    }
    let (encapsulated, ciphertext) = sealed.split_at(ENCAPSULATED);
    let secret = PrivateKey::from_bytes(key.x25519().as_slice()).map_err(|_| OpenError::Refused)?;
    let encapsulated = EncappedKey::from_bytes(encapsulated).map_err(|_| OpenError::Refused)?;
    single_shot_open::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
        &OpModeR::Base,
        &secret,
        &encapsulated,
        domain::SEALED,
        ciphertext,
        &associated_data(author, seq, &key.id()),
    )
    .map_err(|_| OpenError::Refused)
}

fn x25519(key: &VerifyingKey) -> Option<PublicKey> {
    PublicKey::from_bytes(key.to_montgomery().as_bytes()).ok()
}

fn associated_data(author: &NodeId, seq: u64, recipient: &NodeId) -> [u8; 72] {
    let mut data = [0; 72];
    data[..32].copy_from_slice(author.as_bytes());
    data[32..40].copy_from_slice(&seq.to_be_bytes());
    data[40..].copy_from_slice(recipient.as_bytes());
    data
}

/// Why a body could not be sealed. Nothing was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SealError {
    /// The recipient's id is not a point of the curve, not canonical, or of small order: nobody has its secret.
    #[error("the recipient's id is not a valid key")]
    Recipient,
    /// The plain text is longer than a full payload and the byte before it.
    #[error("body is {len} bytes, the limit is {MAX_PRIVATE_BODY}")]
    TooLong {
        /// Bytes of the plain text.
        len: usize,
    },
}

/// Why a sealed body did not open. Its author, or whoever changed it on the way, is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Shorter than the overhead or longer than the largest sealed body.
    #[error("sealed body is {len} bytes, it must be {SEAL_OVERHEAD} to {limit}", limit = MAX_PRIVATE_BODY + SEAL_OVERHEAD)]
    Length {
        /// Bytes of the sealed body.
        len: usize,
    },
    /// Sealed to another key, author or seq, or changed since.
    #[error("sealed body does not open with this key, author and seq")]
    Refused,
}
