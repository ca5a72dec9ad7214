//! What files may take of the line: limits for all of it, and for each peer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use p2p_files::{RateLimit, Throttle};
use p2p_wire::NodeId;

use crate::config::Limits;

/// The limits of one direction.
#[derive(Debug)]
pub(crate) struct Rates {
    all: Option<Arc<RateLimit>>,
    each: Option<u64>,
    /// Shared by the connections of one peer; gone with the last of them.
    peers: Mutex<BTreeMap<NodeId, Weak<RateLimit>>>,
}

impl Rates {
    pub(crate) fn up(limits: &Limits) -> Self {
        Self::new(limits.up, limits.up_peer)
    }

    pub(crate) fn down(limits: &Limits) -> Self {
        Self::new(limits.down, limits.down_peer)
    }

    fn new(all: Option<u64>, each: Option<u64>) -> Self {
        Self { all: all.map(|rate| Arc::new(RateLimit::new(rate))), each, peers: Mutex::default() }
    }

    /// The limit on all peers together.
    pub(crate) fn all(&self) -> Throttle {
        Throttle::new(self.all.clone())
    }

    /// The limit on this peer alone.
    pub(crate) fn of_peer(&self, peer: NodeId) -> Option<Arc<RateLimit>> {
        let rate = self.each?;
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(limit) = peers.get(&peer).and_then(Weak::upgrade) {
            return Some(limit);
        }
        peers.retain(|_, limit| limit.strong_count() > 0);
        let limit = Arc::new(RateLimit::new(rate));
        peers.insert(peer, Arc::downgrade(&limit));
        Some(limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_connections_of_a_peer_share_one_limit() {
        let (one, other) = (NodeId::from_bytes([1; 32]), NodeId::from_bytes([2; 32]));
        let mut limits = Limits::default();
        assert!(Rates::up(&limits).of_peer(one).is_none());
        limits.up_peer = Some(5);
        let rates = Rates::up(&limits);
        let (a, b, c) = (rates.of_peer(one), rates.of_peer(one), rates.of_peer(other));
        let (a, b, c) = (a.unwrap(), b.unwrap(), c.unwrap());
        assert!(Arc::ptr_eq(&a, &b) && !Arc::ptr_eq(&a, &c));
        drop((a, b));
        let again = rates.of_peer(NodeId::from_bytes([3; 32]));
        assert_eq!(rates.peers.lock().unwrap().len(), 2, "those that went are forgotten");
        drop((c, again));
    }
}
