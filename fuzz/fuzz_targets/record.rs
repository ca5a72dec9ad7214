//! Address records of peers: canonical, bounded, signed.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use p2p_wire::{MAX_RECORD_ADDRS, PeerRecord, SecretKey};

fuzz_target!(|data: &[u8]| {
    let Ok(record) = PeerRecord::decode(Bytes::copy_from_slice(data)) else { return };
    assert_eq!(&record.bytes()[..], data, "bytes are kept verbatim");
    assert!(record.addrs().len() <= MAX_RECORD_ADDRS);
    assert!(record.verify().is_err(), "nobody signed this");
    let key = SecretKey::from_bytes(&[1; 32]);
    let own = PeerRecord::sign(&key, record.scope(), record.seq(), record.addrs())
        .expect("what was read can be written");
    own.verify().expect("just signed");
    assert_eq!(PeerRecord::decode(own.bytes().clone()).expect("just made").addrs(), record.addrs());
});
