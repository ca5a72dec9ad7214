//! Digests of envelopes.

use sha2::{Digest, Sha256};

use crate::message::Sum;

/// The digest of an envelope for [`Input::Verified`](crate::Input::Verified): the first half of the SHA-256 of its
/// bytes. An author who wants two envelopes of one digest has 2^64 to do.
#[must_use]
pub fn digest(envelope: &[u8]) -> Sum {
    let mut digest = Sum::default();
    digest.copy_from_slice(&Sha256::digest(envelope)[..size_of::<Sum>()]);
    digest
}
