//! Tickets, as people paste them; and ids.
#![no_main]

use libfuzzer_sys::fuzz_target;
use p2p_wire::{NodeId, Ticket};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(id) = text.parse::<NodeId>() {
        assert_eq!(id.to_string(), text.to_ascii_lowercase());
    }
    if let Ok(ticket) = text.parse::<Ticket>() {
        let again = ticket.to_string();
        assert_eq!(again.parse::<Ticket>().expect("just written"), ticket);
    }
});
