//! Every kind of frame of a node link, as it comes off the wire.
#![no_main]

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use p2p_node::Packet;
use p2p_wire::FrameBody;

fuzz_target!(|data: &[u8]| {
    let Some((&kind, body)) = data.split_first() else { return };
    if data.len() > Packet::limit(kind) {
        return;
    }
    let Ok(Some(packet)) = Packet::decode(kind, Bytes::copy_from_slice(body)) else { return };
    assert_eq!(packet.kind(), kind);
    let mut bytes = BytesMut::new();
    packet.encode(&mut bytes).expect("what was read can be written");
    let again = Packet::decode(kind, bytes.freeze()).expect("just written").expect("a known kind");
    assert_eq!(again, packet);
});
