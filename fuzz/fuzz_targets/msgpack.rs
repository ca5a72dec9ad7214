//! Control frames: MessagePack from a stranger, read as something with every kind of field.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use p2p_wire::msgpack;
use serde::{Deserialize, Serialize};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Everything {
    #[serde(default)]
    n: u64,
    #[serde(default)]
    i: i64,
    #[serde(default)]
    s: Option<String>,
    #[serde(default)]
    b: bool,
    #[serde(default)]
    list: Vec<(u16, String)>,
    #[serde(default)]
    map: BTreeMap<String, Vec<u8>>,
    #[serde(default)]
    inner: Option<Box<Everything>>,
}

fuzz_target!(|data: &[u8]| {
    if let Ok(value) = msgpack::from_slice::<Everything>(data) {
        let bytes = msgpack::to_vec(&value).expect("what was read can be written");
        let again: Everything = msgpack::from_slice(&bytes).expect("what was written can be read");
        assert_eq!(again, value);
    }
});
