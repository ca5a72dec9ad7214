//! Callers for whom there is no room, because so many others are linked or because two of their address are: they are told
//! of other peers, and go. Without it the third node behind one public address would know nobody but those that refuse it.
//!
//! A guest is no link to the table, the views and the gossip core.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use p2p_peers::views::{MAX_SAMPLE, Message};
use p2p_wire::NodeId;
use rand::Rng;

use super::{Hangup, Output, Stack};
use crate::packet::Packet;
use crate::view::View;

/// Guests at once. A guess: one asks in the frame behind its hello and is gone after a round trip, so that these are a
/// hundred in a second; whoever is one too many gets bye *full* at once, and comes again.
const MAX_GUESTS: usize = 8;
/// Of one address, so that nobody alone takes all the places by saying nothing.
const MAX_GUESTS_PER_IP: usize = 2;

#[derive(Debug)]
struct Guest {
    ip: IpAddr,
    private: bool,
    until: Instant,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Guests {
    here: BTreeMap<NodeId, Guest>,
    /// Peers told of so far: the next guest is told of the next ones.
    told: usize,
}

impl Guests {
    pub(super) fn contains(&self, peer: &NodeId) -> bool {
        self.here.contains_key(peer)
    }

    pub(super) fn remove(&mut self, peer: &NodeId) -> bool {
        self.here.remove(peer).is_some()
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.here.values().map(|guest| guest.until).min()
    }

    /// Some of these, in turn.
    fn next_of(&mut self, peers: &[NodeId], count: usize) -> Vec<NodeId> {
        let count = count.min(peers.len());
        let first = self.told.checked_rem(peers.len()).unwrap_or(0);
        self.told = self.told.wrapping_add(count);
        peers.iter().cycle().skip(first).take(count).copied().collect()
    }
}

impl<R: Rng> Stack<R> {
    /// Whether a caller at this address that the table does not admit may be a guest ([`Input::Visit`](super::Input::Visit)).
    pub fn has_room_for_guest(&self, ip: IpAddr) -> bool {
        let here = &self.guests.here;
        let of_ip = here.values().filter(|guest| guest.ip == ip.to_canonical()).count();
        here.len() < MAX_GUESTS && of_ip < MAX_GUESTS_PER_IP
    }

    /// Whether this peer is here as a guest.
    pub fn is_guest(&self, peer: NodeId) -> bool {
        self.guests.contains(&peer)
    }

    pub(super) fn on_visit(&mut self, now: Instant, peer: NodeId, addr: SocketAddr, private: bool) {
        let until = now + self.views.config().answer_wait;
        self.guests.here.insert(peer, Guest { ip: addr.ip().to_canonical(), private, until });
    }

    /// Whatever a guest asks, the answer is no, and whom else to ask.
    pub(super) fn answer_guest(&mut self, from: NodeId, view: &View<p2p_wire::PeerRecord>) {
        if !matches!(view, View::Join | View::Neighbor { .. }) {
            self.strangers += 1;
            return;
        }
        let Some(guest) = self.guests.here.remove(&from) else { return };
        let known: Vec<NodeId> =
            self.views.active().chain(self.views.passive()).filter(|peer| *peer != from).collect();
        let count = self.views.config().sample.min(MAX_SAMPLE);
        let sample = self.guests.next_of(&known, count);
        if let Some(view) = View::of(Message::Refuse { sample }, |peer| self.records_of(peer, guest.private))
        {
            self.out.push_back(Output::Send { to: from, packet: Packet::View(view) });
        }
        self.out.push_back(Output::Hangup { peer: from, reason: Hangup::NoRoom });
    }

    /// Guests that have not asked for anything.
    pub(super) fn dismiss_guests(&mut self, now: Instant) {
        for (peer, _) in self.guests.here.extract_if(.., |_, guest| guest.until <= now) {
            self.out.push_back(Output::Hangup { peer, reason: Hangup::NoRoom });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_guest_is_told_of_the_next_ones_and_of_none_twice() {
        let all: Vec<NodeId> = (0..25).map(|n| NodeId::from_bytes([n; 32])).collect();
        let mut guests = Guests::default();
        assert_eq!(guests.next_of(&all, 10), all[..10]);
        assert_eq!(guests.next_of(&all, 10), all[10..20]);
        assert_eq!(guests.next_of(&all, 10), [&all[20..], &all[..5]].concat());
        assert_eq!(guests.next_of(&all[..3], 10).len(), 3);
        assert!(guests.next_of(&[], 10).is_empty());
    }
}
