//! Address records whose signatures were checked.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use p2p_wire::{BadSignature, PeerRecord, RecordError};
use sha2::{Digest, Sha256};

/// Records remembered, twice: those since the last time this many had come, and as many before them. A guess: what the
/// samples of a few hundred answers hold, in 150 KiB.
const LIMIT: usize = 1024;

/// A record is told again and again, in every answer and shuffle, and checked once: 43 % of the CPU time in which 100
/// nodes of one process found each other went into checking what had just been checked (perf, 2026-11-28).
#[derive(Debug, Default)]
pub(crate) struct CheckedRecords(Mutex<Generations>);

/// SHA-256 of whole records. Who makes up identities drives out others' records, which costs a check of each.
#[derive(Debug, Default)]
struct Generations {
    young: HashSet<[u8; 32]>,
    old: HashSet<[u8; 32]>,
}

/// What is wrong with a record.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unsound {
    #[error(transparent)]
    Malformed(#[from] RecordError),
    #[error("an address record with a forged signature")]
    Forged(#[from] BadSignature),
}

impl CheckedRecords {
    /// Decodes a record and checks who signed it, if that was not done before.
    pub(crate) fn decode(&self, bytes: Bytes) -> Result<PeerRecord, Unsound> {
        let record = PeerRecord::decode(bytes)?;
        let digest = Sha256::digest(record.bytes()).into();
        if !self.knows(&digest) {
            record.verify()?;
            self.remember(digest);
        }
        Ok(record)
    }

    fn knows(&self, digest: &[u8; 32]) -> bool {
        let generations = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        generations.young.contains(digest) || generations.old.contains(digest)
    }

    fn remember(&self, digest: [u8; 32]) {
        let mut generations = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if generations.young.len() >= LIMIT {
            generations.old = std::mem::take(&mut generations.young);
        }
        generations.young.insert(digest);
    }
}

#[cfg(test)]
mod tests {
    use p2p_wire::{PeerAddr, Scope, SecretKey};

    use super::*;

    fn record(key: &SecretKey, seq: u64) -> Bytes {
        let addr = PeerAddr { ip: "192.0.2.1".parse().unwrap(), port: 4000, file_port: 0 };
        PeerRecord::sign(key, Scope::Public, seq, &[addr]).unwrap().bytes().clone()
    }

    /// With one bit of the signature changed.
    fn forged(record: &Bytes) -> Bytes {
        let mut bytes = record.to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        bytes.into()
    }

    #[test]
    fn what_was_checked_is_remembered_and_a_forgery_of_it_is_not_taken_for_it() {
        let checked = CheckedRecords::default();
        let genuine = record(&SecretKey::from_bytes(&[1; 32]), 1);
        assert!(matches!(checked.decode(forged(&genuine)), Err(Unsound::Forged(_))));
        assert!(!checked.knows(&Sha256::digest(forged(&genuine)).into()), "a forgery is not remembered");
        for _ in 0..2 {
            assert_eq!(*checked.decode(genuine.clone()).unwrap().bytes(), genuine);
            assert!(checked.knows(&Sha256::digest(&genuine).into()));
            assert!(matches!(checked.decode(forged(&genuine)), Err(Unsound::Forged(_))));
        }
        assert!(matches!(checked.decode(genuine.slice(1..)), Err(Unsound::Malformed(_))));
    }

    #[test]
    fn many_more_are_forgotten_the_oldest_first() {
        let checked = CheckedRecords::default();
        let digest = |n: usize| Sha256::digest(n.to_be_bytes()).into();
        for n in 0..3 * LIMIT {
            checked.remember(digest(n));
            let generations = checked.0.lock().unwrap();
            assert!(generations.young.len() <= LIMIT && generations.old.len() <= LIMIT);
        }
        assert!((2 * LIMIT..3 * LIMIT).all(|n| checked.knows(&digest(n))));
        assert!((0..LIMIT).all(|n| !checked.knows(&digest(n))));
    }
}
