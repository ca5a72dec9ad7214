//! Signs that somebody's key is in use on two machines.
//!
//! A peer answers a dial with *duplicate* where it has a link of the same id already (docs/wire.md, section 6.1). For a
//! moment that is honest: dials cross, and a process that ended without a word keeps its link until it is missed. So
//! nobody is warned by one refusal: the dialler only when it goes on for longer than any dead link lasts, the other side
//! when the link that stands is too old for dials that cross, and is heard of afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use p2p_wire::NodeId;

use crate::event::Event;
use crate::link::LinkId;

use super::Driver;

/// A link that is dead is closed after 30 s without a word; then a dial is taken.
const LONGER_THAN_DEAD: Duration = Duration::from_secs(45);
/// A link that stands is listened to for this long after a dial was refused because of it: it is pinged after 10 s of
/// silence.
const LISTEN: Duration = Duration::from_secs(15);
const RECHECK: Duration = Duration::from_secs(1);
/// What was on its way when a process ended has come by then.
const IN_FLIGHT: Duration = Duration::from_millis(500);
/// Peers that say they are linked to this node. What more say is not noted: it is one key, and one warning.
const MAX_PEERS: usize = 64;

/// What speaks for a second machine with this node's key.
#[derive(Debug, Default)]
pub(super) struct Copies {
    /// Since when these peers say that they have a link that is not one of this process.
    refused: BTreeMap<NodeId, Instant>,
    /// Peers of which was told; what more of them say is not: it is one key.
    told: BTreeSet<NodeId>,
    /// Links that are listened to since a dial of the same id was refused. One a link.
    checks: BTreeMap<NodeId, Check>,
}

#[derive(Debug)]
struct Check {
    link: LinkId,
    refused: Instant,
    at: Instant,
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

    /// A dial was refused because of this link.
    fn listen(&mut self, now: Instant, peer: NodeId, link: LinkId) {
        self.checks.entry(peer).or_insert(Check { link, refused: now, at: now + RECHECK });
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.checks.values().map(|check| check.at).min()
    }

    /// Those whose links were heard of since. `heard`: the link of a peer, and when that was last heard of.
    fn alive(&mut self, now: Instant, heard: impl Fn(NodeId) -> Option<(LinkId, Instant)>) -> Vec<NodeId> {
        let mut alive = Vec::new();
        self.checks.retain(|&peer, check| {
            if check.at > now {
                return true;
            }
            let Some((_, last)) = heard(peer).filter(|(link, _)| *link == check.link) else { return false };
            if last > check.refused + IN_FLIGHT {
                alive.push(peer);
                return false;
            }
            check.at = now + RECHECK;
            now < check.refused + LISTEN
        });
        alive
    }
}

impl Driver {
    /// A dial was refused as a duplicate. Whether a link to the peer is here or being made; if not, another process has it.
    pub(super) fn is_linking(&mut self, now: Instant, peer: NodeId) -> bool {
        let linking = self.links.contains_key(&peer) || self.claims.has(peer);
        if !linking && self.copies.refused(now, peer) {
            let sign = format!("{} goes on refusing this node as one that is linked to it", peer.short());
            self.warn_of_copy(peer, &sign);
        }
        linking
    }

    /// The peer closed its link because of a newer one.
    pub(super) fn on_replaced(&mut self, peer: NodeId) {
        // A link that this process dials is claimed, and one that it took has its place already.
        if !self.claims.has(peer) {
            let sign = format!("{} says that another link of it took the place of this node's", peer.short());
            self.warn_of_copy(peer, &sign);
        }
    }

    /// Once for what one peer says, which need not be true, so that it does not silence the others.
    fn warn_of_copy(&mut self, peer: NodeId, sign: &str) {
        if self.copies.told.len() >= MAX_PEERS || !self.copies.told.insert(peer) {
            return;
        }
        let text = format!("this identity is in use elsewhere: {sign}. Two nodes must never share a key");
        tracing::warn!("{text}");
        self.shared.events.publish(Event::Warning(text));
    }

    /// A peer to which a link stands dialled, and was refused: it may not know that link.
    pub(super) fn on_rival(&mut self, now: Instant, peer: NodeId) {
        let Some(link) = self.links.get(&peer) else { return };
        // A hello of dials that cross is said before the link stands, and is here within its deadline.
        let crossing = self.shared.config.limits.handshake_timeout * 2;
        if !link.is_copied && now.saturating_duration_since(link.since) >= crossing {
            self.copies.listen(now, peer, link.id);
        }
    }

    /// Links that are listened to may have been heard of.
    pub(super) fn warn_of_rivals(&mut self, now: Instant) {
        let (links, stack) = (&self.links, &self.stack);
        let alive = self.copies.alive(now, |peer| {
            let heard = stack.links().find(|link| link.peer == peer)?.heard_at;
            Some((links.get(&peer)?.id, heard))
        });
        for peer in alive {
            if let Some(link) = self.links.get_mut(&peer) {
                link.is_copied = true;
            }
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
    use super::super::test_id as id;
    use super::*;

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
    fn a_link_that_is_heard_of_after_a_refusal_is_a_sign() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let (mut copies, link) = (Copies::default(), LinkId(1));
        copies.listen(now, id(1), link);
        copies.listen(now + second / 2, id(1), link);
        assert_eq!(copies.deadline(), Some(now + RECHECK));
        let heard = |link, at| move |_| Some((LinkId(link), at));
        assert_eq!(copies.alive(now + second, heard(1, now + second / 4)), [], "what was on its way");
        assert_eq!(copies.deadline(), Some(now + 2 * second));
        assert_eq!(copies.alive(now + 10 * second, heard(1, now + 9 * second)), [id(1)]);
        assert_eq!(copies.deadline(), None);
        // A dead one is not heard of, and a new one is another.
        copies.listen(now, id(1), link);
        assert_eq!(copies.alive(now + 15 * second, heard(1, now)), []);
        assert_eq!(copies.deadline(), None);
        copies.listen(now, id(1), link);
        assert_eq!(copies.alive(now + 2 * second, heard(2, now + 2 * second)), []);
        assert_eq!(copies.deadline(), None);
    }
}
