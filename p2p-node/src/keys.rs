//! Keys of authors made ready for checks, so that an author who is heard often is not decompressed each time.

use std::collections::BTreeMap;

use p2p_wire::{BadSignature, Envelope, NodeId, PublicKey};

/// Keys of one generation; there are two, so at most 1,024 keys of 192 bytes are kept.
const GENERATION: usize = 512;

/// The keys used lately. When a generation is full the one before it is forgotten.
#[derive(Debug, Default)]
pub(crate) struct AuthorKeys {
    young: BTreeMap<NodeId, PublicKey>,
    old: BTreeMap<NodeId, PublicKey>,
}

impl AuthorKeys {
    /// Checks who signed an envelope. Its digest.
    ///
    /// # Errors
    /// [`BadSignature`] as [`Envelope::verify`].
    pub(crate) fn verify(&mut self, envelope: &Envelope) -> Result<[u8; 32], BadSignature> {
        let author = envelope.id().author;
        if let Some(key) = self.young.get(&author) {
            return envelope.verify_with(key);
        }
        let key = self.old.get(&author).copied().or_else(|| author.public_key()).ok_or(BadSignature)?;
        let digest = envelope.verify_with(&key)?;
        // Only now: what nobody signed must not push out what is used.
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(author, key);
        Ok(digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2p_wire::{NewEntry, SecretKey};

    fn envelope(author: u16) -> Envelope {
        let mut seed = [0; 32];
        seed[..2].copy_from_slice(&author.to_be_bytes());
        let entry = NewEntry { topic: "", time_ms: 0, recipient: None, payload: b"x" };
        Envelope::sign(&SecretKey::from_bytes(&seed), 1, 1, &[entry]).unwrap()
    }

    fn forged(genuine: &Envelope) -> Envelope {
        let mut bytes = genuine.bytes().to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        Envelope::decode(bytes.into()).unwrap()
    }

    #[test]
    fn it_stays_bounded_keeps_who_is_heard_and_never_takes_a_forgery() {
        let mut keys = AuthorKeys::default();
        let often = envelope(9999);
        for author in 0..1_100 {
            let genuine = envelope(author);
            assert!(keys.verify(&forged(&genuine)).is_err(), "a first one");
            assert!(keys.verify(&genuine).is_ok());
            assert!(keys.verify(&forged(&genuine)).is_err(), "one of a known author");
            assert!(keys.verify(&often).is_ok());
            assert!(keys.young.len() + keys.old.len() <= 2 * GENERATION);
        }
        let author = often.id().author;
        assert!(keys.young.contains_key(&author) || keys.old.contains_key(&author));
    }
}
