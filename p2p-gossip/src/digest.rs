//! Digests of envelopes.

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::message::Sum;

/// First half of the SHA-256 of an envelope's bytes. An author who wants two envelopes of one digest has 2^64 to do.
pub(crate) fn of(envelope: &Bytes) -> Sum {
    let mut digest = Sum::default();
    digest.copy_from_slice(&Sha256::digest(envelope)[..size_of::<Sum>()]);
    digest
}
