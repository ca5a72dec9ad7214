//! What people and scripts type to name a node.
#![no_main]

use libfuzzer_sys::fuzz_target;
use p2p_node::Target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(target) = text.parse::<Target>() else { return };
    let again = target.to_string();
    assert_eq!(again.parse::<Target>().as_ref(), Ok(&target), "{text:?} became {again:?}");
});
