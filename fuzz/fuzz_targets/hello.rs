//! The first frame of a stranger.
#![no_main]

use libfuzzer_sys::fuzz_target;
use p2p_wire::{Hello, MAX_AGENT, MAX_NAME};

fuzz_target!(|data: &[u8]| {
    let Ok(hello) = Hello::decode(data) else { return };
    assert!(hello.agent.len() <= MAX_AGENT);
    for label in hello.name.iter().chain([&hello.agent]) {
        assert!(!label.chars().any(char::is_control), "{label:?} would reach a terminal");
    }
    assert!(hello.name.as_ref().is_none_or(|n| n.len() <= MAX_NAME));
    let bytes = hello.encode().expect("what was read can be written");
    assert_eq!(Hello::decode(&bytes).expect("just made"), hello);
});
