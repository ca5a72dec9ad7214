//! Frames of `p2p-files/1`, and runs of blocks with proofs of a stranger.
#![no_main]

use libfuzzer_sys::fuzz_target;
use p2p_files::protocol::{Reply, Request};
use p2p_files::{Geometry, verify_run};

/// No file of the input's making has this root.
const ROOT: [u8; 32] = [7; 32];

fuzz_target!(|data: &[u8]| {
    if let Ok(Some(request)) = Request::decode(data) {
        let mut bytes = Vec::new();
        request.encode(&mut bytes);
        assert_eq!(Request::decode(&bytes[4..]), Ok(Some(request)));
    }
    if let Ok(Some(reply)) = Reply::decode(data) {
        let mut bytes = Vec::new();
        reply.encode(0, &mut bytes);
        assert_eq!(Reply::decode(&bytes[4..]), Ok(Some(reply)));
    }
    runs(data);
});

/// Any length, first block and count of a stranger.
fn runs(data: &[u8]) {
    let Some((head, rest)) = data.split_first_chunk::<18>() else { return };
    let number = |at: usize| u64::from_be_bytes(head[at..at + 8].try_into().expect("8 bytes"));
    let Some(geometry) = Geometry::new(number(0)) else { return };
    let Ok(run) = geometry.run(number(8), head[16]) else { return };
    let (content, proof) = rest.split_at(usize::from(head[17]).min(rest.len()));
    assert!(verify_run(run, content, proof, &ROOT).is_err(), "a proof out of thin air");
}
