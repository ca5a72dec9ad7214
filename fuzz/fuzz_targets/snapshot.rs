//! `state.json`: ours, python-p2p's, and anything else.
#![no_main]

use libfuzzer_sys::fuzz_target;
use p2p_peers::Snapshot;

fuzz_target!(|data: &[u8]| {
    let Ok(loaded) = Snapshot::<u64>::decode(data) else { return };
    let bytes = loaded.snapshot.encode().expect("what was read can be written");
    let again = Snapshot::<u64>::decode(&bytes).expect("just written");
    assert_eq!(again.skipped, 0, "what was good stays good");
    assert_eq!(again.snapshot, loaded.snapshot);
});
