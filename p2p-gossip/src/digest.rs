//! Digests of envelopes and of sets of them.

use bytes::Bytes;
use sha2::{Digest, Sha256};

/// First half of the SHA-256 of an envelope's bytes. An author who wants two envelopes of one digest has 2^64 to do.
pub(crate) fn of(envelope: &Bytes) -> [u8; 16] {
    let mut digest = [0; 16];
    digest.copy_from_slice(&Sha256::digest(envelope)[..16]);
    digest
}
