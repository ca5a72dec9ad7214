//! File names of strangers: one part of a path, on every system, or refused.
#![no_main]

use std::path::{Component, Path};

use libfuzzer_sys::fuzz_target;
use p2p_files::{FileHash, FileName, NAME_MAX};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(hash) = text.parse::<FileHash>() {
        assert_eq!(hash.to_string(), text.to_ascii_lowercase());
    }
    let Ok(name) = FileName::parse(text) else { return };
    check(name.as_str());
    for number in [0, 1, u32::MAX] {
        check(&name.numbered(number));
    }
    assert_eq!(FileName::parse(name.as_str()).as_ref(), Ok(&name), "a good name stays as it is");
});

fn check(name: &str) {
    assert!(!name.is_empty() && name.len() <= NAME_MAX, "{name:?}");
    assert!(!name.contains(['/', '\\', ':', '\0']) && !name.chars().any(char::is_control), "{name:?}");
    let mut parts = Path::new(name).components();
    assert!(matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)), "{name:?}");
}
