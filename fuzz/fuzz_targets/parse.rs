//! What people and scripts type to name a node.
#![no_main]

use libfuzzer_sys::fuzz_target;
use p2p_node::Target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(target) = text.parse::<Target>() else { return };
    // A host of that name with a port reads as a ticket: it can be named by its address only.
    if matches!(&target, Target::Host(name, _) if name.eq_ignore_ascii_case("p2p")) {
        return;
    }
    let again = target.to_string();
    assert_eq!(again.parse::<Target>().as_ref(), Ok(&target), "{text:?} became {again:?}");
});
