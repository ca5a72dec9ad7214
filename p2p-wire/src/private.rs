//! What stands inside a private body: a message, or the receipt for one.

use std::fmt;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::{BadSignature, NodeId, SecretKey, domain};

const MESSAGE: u8 = 0;
const MESSAGE_RECEIPT: u8 = 1;
const RECEIPT: u8 = 2;

/// The plain text of a body from [`seal`](crate::seal). Relays cannot tell one kind from another by anything but
/// its length.
///
/// # Layout
///
/// ```text
/// 0 | payload                        a message
/// 1 | payload                        a message whose author asks for a receipt
/// 2 | seq u64 | signature [64]       the receipt for that seq of the recipient's
/// ```
///
/// # Example
///
/// ```
/// use p2p_wire::{PrivateBody, Receipt, SecretKey};
///
/// let (alice, bob) = (SecretKey::from_bytes(&[1; 32]), SecretKey::from_bytes(&[2; 32]));
/// let receipt = Receipt::sign(&bob, alice.id(), 7, b"only for you");
/// let body = PrivateBody::Receipt { seq: receipt.seq, signature: receipt.signature };
/// assert_eq!(PrivateBody::decode(body.encode().into())?, body);
/// assert!(receipt.verify().is_ok());
/// # Ok::<(), p2p_wire::PrivateBodyError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub enum PrivateBody {
    /// What one person says to another.
    Message {
        /// The bytes, at most [`MAX_PAYLOAD`](crate::MAX_PAYLOAD).
        payload: Bytes,
        /// The author asks for a receipt.
        receipt: bool,
    },
    /// A message arrived; the rest of the [`Receipt`] is known to who awaits it.
    Receipt {
        /// Which one of the messages of the node that this body is sealed to.
        seq: u64,
        /// [`Receipt::signature`].
        signature: [u8; 64],
    },
}

impl PrivateBody {
    /// The bytes to seal.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Message { payload, receipt } => {
                let kind = if *receipt { MESSAGE_RECEIPT } else { MESSAGE };
                [&[kind], &payload[..]].concat()
            }
            Self::Receipt { seq, signature } => [&[RECEIPT], &seq.to_be_bytes()[..], &signature[..]].concat(),
        }
    }

    /// Reads what was sealed. No signature is checked.
    ///
    /// # Errors
    ///
    /// [`PrivateBodyError`]; the author is at fault, or of a newer version.
    pub fn decode(mut plain: Bytes) -> Result<Self, PrivateBodyError> {
        let Some(&kind) = plain.first() else { return Err(PrivateBodyError::Length { len: 0 }) };
        let len = plain.len();
        let rest = plain.split_off(1);
        match kind {
            MESSAGE | MESSAGE_RECEIPT => {
                Ok(Self::Message { payload: rest, receipt: kind == MESSAGE_RECEIPT })
            }
            RECEIPT => {
                let wrong = PrivateBodyError::Length { len };
                let (seq, signature) = rest.split_first_chunk::<8>().ok_or(wrong)?;
                let signature = signature.try_into().map_err(|_| wrong)?;
                Ok(Self::Receipt { seq: u64::from_be_bytes(*seq), signature })
            }
            kind => Err(PrivateBodyError::Kind { kind }),
        }
    }
}

/// The recipient's signed word that a message reached its application.
///
/// It names author, number and content, so it is worth nothing for another message, and whoever holds the message
/// can check it later, without the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Who wrote the message.
    pub author: NodeId,
    /// The author's number for it.
    pub seq: u64,
    /// SHA-256 of the payload as its author wrote it.
    pub digest: [u8; 32],
    /// Who got it.
    pub by: NodeId,
    /// By `by`, over `"p2p/receipt/1" || author [32] || seq u64 || digest [32]`.
    pub signature: [u8; 64],
}

impl Receipt {
    /// Signs for a message that has arrived.
    #[must_use]
    pub fn sign(key: &SecretKey, author: NodeId, seq: u64, payload: &[u8]) -> Self {
        let digest = Self::digest_of(payload);
        let signature = key.sign(domain::RECEIPT, &[author.as_bytes(), &seq.to_be_bytes()[..], &digest[..]]);
        Self { author, seq, digest, by: key.id(), signature }
    }

    /// What a receipt says of a payload.
    #[must_use]
    pub fn digest_of(payload: &[u8]) -> [u8; 32] {
        Sha256::digest(payload).into()
    }

    /// Checks the recipient's signature.
    ///
    /// # Errors
    ///
    /// [`BadSignature`] if `by` did not sign exactly this.
    pub fn verify(&self) -> Result<(), BadSignature> {
        let signed: [&[u8]; 3] = [self.author.as_bytes(), &self.seq.to_be_bytes(), &self.digest];
        self.by.verify(domain::RECEIPT, &signed, &self.signature)
    }
}

/// Why the plain text of a private body is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PrivateBodyError {
    /// Nothing at all, or a receipt of another length.
    #[error("a private body of {len} bytes cannot be")]
    Length {
        /// Bytes of the plain text.
        len: usize,
    },
    /// A kind that this version does not know.
    #[error("kind {kind} of private bodies is not known")]
    Kind {
        /// The first byte.
        kind: u8,
    },
}

impl fmt::Debug for PrivateBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Message { payload, receipt } => {
                f.debug_struct("Message").field("len", &payload.len()).field("receipt", receipt).finish()
            }
            Self::Receipt { seq, .. } => f.debug_struct("Receipt").field("seq", seq).finish_non_exhaustive(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> SecretKey {
        SecretKey::from_bytes(&[n; 32])
    }

    #[test]
    fn a_receipt_is_good_for_one_message_of_one_author_by_one_recipient() {
        let receipt = Receipt::sign(&key(2), key(1).id(), 7, b"text");
        assert!(receipt.verify().is_ok());
        assert!(Receipt { seq: 8, ..receipt }.verify().is_err());
        assert!(Receipt { author: key(3).id(), ..receipt }.verify().is_err());
        assert!(Receipt { by: key(3).id(), ..receipt }.verify().is_err());
        assert!(Receipt { digest: Receipt::digest_of(b"other"), ..receipt }.verify().is_err());
    }

    #[test]
    fn bodies_read_back_and_others_are_refused() {
        let bodies = [
            PrivateBody::Message { payload: Bytes::new(), receipt: false },
            PrivateBody::Message { payload: Bytes::from_static(b"\x02x"), receipt: true },
            PrivateBody::Receipt { seq: u64::MAX, signature: [7; 64] },
        ];
        for body in bodies {
            assert_eq!(PrivateBody::decode(body.encode().into()), Ok(body));
        }
        assert_eq!(PrivateBody::decode(Bytes::new()), Err(PrivateBodyError::Length { len: 0 }));
        assert_eq!(PrivateBody::decode(vec![2; 72].into()), Err(PrivateBodyError::Length { len: 72 }));
        assert_eq!(PrivateBody::decode(vec![2; 74].into()), Err(PrivateBodyError::Length { len: 74 }));
        assert_eq!(PrivateBody::decode(vec![3; 9].into()), Err(PrivateBodyError::Kind { kind: 3 }));
    }
}
