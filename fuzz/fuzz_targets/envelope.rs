//! Envelopes: one encoding only, and nothing verifies that was not signed.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use p2p_wire::{Envelope, NewEntry, SecretKey};

fuzz_target!(|data: &[u8]| {
    if let Ok(envelope) = Envelope::decode(Bytes::copy_from_slice(data)) {
        assert_eq!(&envelope.bytes()[..], data, "bytes are kept verbatim");
        let id = envelope.id();
        let seqs: Vec<u64> = envelope.entries().map(|e| e.seq).collect();
        assert_eq!(seqs.len(), usize::from(id.count));
        assert_eq!(seqs.first(), Some(&id.first));
        assert!(envelope.verify().is_err(), "nobody signed this");
        return sign_again(&envelope);
    }
    sign_some(data);
});

/// What decodes can be signed by another author, and is then valid.
fn sign_again(envelope: &Envelope) {
    let key = SecretKey::from_bytes(&[1; 32]);
    let entries: Vec<_> = envelope.entries().collect();
    let new: Vec<_> = entries
        .iter()
        .map(|e| NewEntry {
            topic: &e.topic,
            time_ms: e.time_ms,
            recipient: e.recipient,
            payload: &e.payload,
        })
        .collect();
    let id = envelope.id();
    let signed = Envelope::sign(&key, id.run, id.first, &new).expect("what was read can be written");
    signed.verify().expect("just signed");
    assert_eq!(signed.bytes().len(), envelope.bytes().len());
}

/// Signs entries made of the input, changes one byte, and expects a refusal.
fn sign_some(data: &[u8]) {
    let [at_high, at_low, flip, payload @ ..] = data else { return };
    let key = SecretKey::from_bytes(&[2; 32]);
    let entry = NewEntry { topic: "t", time_ms: 7, recipient: None, payload };
    let Ok(envelope) = Envelope::sign(&key, 1, 1, &[entry]) else { return };
    let decoded = Envelope::decode(envelope.bytes().clone()).expect("just made");
    decoded.verify().expect("just signed");
    let mut bytes = envelope.bytes().to_vec();
    let at = (usize::from(*at_high) << 8 | usize::from(*at_low)) % bytes.len();
    bytes[at] ^= (*flip).max(1);
    if let Ok(changed) = Envelope::decode(bytes.into()) {
        assert!(changed.verify().is_err(), "byte {at} is not covered by the signature");
    }
}
