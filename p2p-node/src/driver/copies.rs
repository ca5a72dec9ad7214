//! Signs that somebody's key is in use on two machines.
//!
//! A peer answers a dial with *duplicate* where it has a link of the same id already (docs/wire.md, section 6.1). For a
//! moment that is honest: dials cross, and a process that ended without a word keeps its link until it is missed. So
//! nobody is warned by one refusal: the dialler only when it goes on for longer than any dead link lasts, the other side
//! when the link that stands is heard of between refusals.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use p2p_wire::NodeId;

use crate::event::Event;

use super::Driver;

/// A link that is dead is closed after 30 s without a word; then a dial is taken.
const LONGER_THAN_DEAD: Duration = Duration::from_secs(45);
/// Refusals in a row between which the link that stands was heard of. One can be of dials that crossed and of a process
/// that ended soon after.
const ALIVE: u32 = 2;
/// Peers that say they are linked to this node. What more say is not noted: it is one key, and one warning.
const MAX_PEERS: usize = 64;

/// What speaks for a second machine with this node's key.
#[derive(Debug, Default)]
pub(super) struct Copies {
    /// Since when these peers say that they have a link that is not one of this process.
    refused: BTreeMap<NodeId, Instant>,
    told: bool,
}

/// Refused dials of a peer to which a link stands.
#[derive(Debug, Default)]
pub(super) struct Rivals {
    last: Option<Instant>,
    alive: u32,
}

impl Copies {
    /// A peer refused a dial as a duplicate, and no link to it is here or being made. Whether that goes on for too long.
    fn refused(&mut self, now: Instant, peer: NodeId) -> bool {
        if self.refused.len() >= MAX_PEERS && !self.refused.contains_key(&peer) {
            return false;
        }
        let since = *self.refused.entry(peer).or_insert(now);
        now.saturating_duration_since(since) >= LONGER_THAN_DEAD
    }

    /// There is a link to it.
    pub(super) fn linked(&mut self, peer: NodeId) {
        self.refused.remove(&peer);
    }
}

impl Rivals {
    /// One more was refused; the link was last heard of at `heard`. Whether two machines are behind it, the first time.
    fn refused(&mut self, now: Instant, heard: Instant) -> bool {
        let alive = self.last.is_some_and(|last| heard > last);
        self.last = Some(now);
        self.alive = if alive { self.alive.saturating_add(1) } else { 0 };
        self.alive == ALIVE
    }
}

impl Driver {
    /// A dial was refused as a duplicate. Whether a link to the peer is here or being made; if not, another process has it.
    pub(super) fn is_linking(&mut self, now: Instant, peer: NodeId) -> bool {
        let linking = self.links.contains_key(&peer) || self.claims.has(peer);
        if !linking && self.copies.refused(now, peer) {
            self.warn_of_copy(&format!(
                "{} goes on refusing this node as one that is linked to it",
                peer.short()
            ));
        }
        linking
    }

    /// The peer closed its link because of a newer one.
    pub(super) fn on_replaced(&mut self, peer: NodeId) {
        // A link that this process dials is claimed, and one that it took has its place already.
        if !self.claims.has(peer) {
            self.warn_of_copy(&format!(
                "another link of it took the place of this node's at {}",
                peer.short()
            ));
        }
    }

    fn warn_of_copy(&mut self, sign: &str) {
        if std::mem::replace(&mut self.copies.told, true) {
            return;
        }
        let text = format!("this identity is in use elsewhere: {sign}. Two nodes must never share a key");
        tracing::warn!("{text}");
        self.shared.events.publish(Event::Warning(text));
    }

    /// A peer to which a link stands dialled, and was refused: it may not know that link.
    pub(super) fn on_rival(&mut self, now: Instant, peer: NodeId) {
        let Some(heard) = self.stack.links().find(|link| link.peer == peer).map(|link| link.heard_at) else {
            return;
        };
        let Some(link) = self.links.get_mut(&peer) else { return };
        if link.rivals.refused(now, heard) {
            let text = format!(
                "{} asks for a second link while its first one is alive: its key is in use on two machines",
                peer.short()
            );
            tracing::warn!("{text}");
            self.shared.events.publish(Event::Warning(text));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u64) -> NodeId {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&n.to_be_bytes());
        NodeId::from_bytes(id)
    }

    #[test]
    fn a_refusal_that_lasts_longer_than_a_dead_link_is_a_sign() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let mut copies = Copies::default();
        assert!(!copies.refused(now, id(1)));
        assert!(!copies.refused(now + 40 * second, id(1)), "a restart, and the old link is not missed yet");
        copies.linked(id(1));
        assert!(!copies.refused(now + 50 * second, id(1)));
        assert!(copies.refused(now + 95 * second, id(1)));
        for n in 2..1_000 {
            copies.refused(now, id(n));
        }
        assert_eq!(copies.refused.len(), MAX_PEERS);
    }

    #[test]
    fn a_link_that_is_heard_of_between_refusals_is_a_sign() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let mut rivals = Rivals::default();
        assert!(!rivals.refused(now, now), "dials that crossed");
        assert!(!rivals.refused(now + 60 * second, now + 50 * second), "and its process ended later");
        assert!(!rivals.refused(now + 61 * second, now + 50 * second), "it is not heard of any more");
        let mut rivals = Rivals::default();
        let told = (0..5).map(|n| rivals.refused(now + n * 2 * second, now + n * 2 * second - second));
        assert_eq!(told.collect::<Vec<_>>(), [false, false, true, false, false]);
    }
}
