//! What the node says of itself and of others when it is asked.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::{Instant, SystemTime};

use p2p_wire::NodeId;

use crate::error::ConnectError;
use crate::info::{PeerInfo, PeerState, Status};
use crate::log::LogQueue;

use super::Driver;

impl Driver {
    pub(super) fn addrs_of(&self, peer: NodeId) -> Result<Vec<SocketAddr>, ConnectError> {
        let view = self.stack.table().peer(peer).ok_or(ConnectError::NoAddress(peer))?;
        if view.banned {
            return Err(ConnectError::Banned(peer));
        }
        let addrs: Vec<_> = view.addrs.iter().map(|a| SocketAddr::new(a.ip, a.port)).collect();
        if addrs.is_empty() { Err(ConnectError::NoAddress(peer)) } else { Ok(addrs) }
    }

    pub(super) fn peers(&self, now: Instant) -> Vec<PeerInfo> {
        let wall = SystemTime::now();
        let links: BTreeMap<NodeId, _> = self.stack.links().map(|l| (l.peer, l)).collect();
        let known = self.stack.table().peers().map(|view| {
            let link = links.get(&view.id);
            let handle = self.links.get(&view.id);
            let state = match (link, view.banned) {
                (_, true) => PeerState::Banned,
                (Some(_), _) => PeerState::Connected,
                (None, _) => match view.state {
                    p2p_peers::State::Dialing => PeerState::Dialing,
                    p2p_peers::State::Backoff { .. } => PeerState::Backoff,
                    _ => PeerState::Known,
                },
            };
            PeerInfo {
                id: view.id,
                name: handle.and_then(|h| h.name.clone()),
                addr: link
                    .map(|l| l.addr)
                    .or_else(|| view.addrs.first().map(|a| SocketAddr::new(a.ip, a.port))),
                state,
                direction: link.map(|l| l.direction),
                rtt: link.and_then(|l| l.rtt),
                last_heard: match link {
                    Some(link) => wall.checked_sub(now.saturating_duration_since(link.heard_at)),
                    None => view.last_connected,
                },
                path: link.map(|_| "direct"),
                agent: handle.map(|h| h.agent.clone()),
            }
        });
        known.collect()
    }

    pub(super) fn status(&self, now: Instant) -> Status {
        let gossip = self.stack.gossip().stats();
        let in_memory = (gossip.log_messages as u64, gossip.log_bytes as u64);
        let (log_messages, log_bytes) = self.log.as_ref().map_or(in_memory, LogQueue::size);
        Status {
            uptime: now.saturating_duration_since(self.started),
            links: self.neighbours(),
            known_peers: self.stack.table().len(),
            messages_in: self.counters.messages_in,
            messages_out: self.counters.messages_out,
            refused: self.refused(),
            log_messages,
            log_bytes,
            files_sent: self.shared.served.counts().bytes,
            queued_bytes: self.shared.budget.used() as u64,
            upnp: self.upnp.clone(),
        }
    }

    /// Everything that was refused or dropped, by kind.
    fn refused(&self) -> BTreeMap<&'static str, u64> {
        let gossip = self.stack.gossip().stats();
        let table = self.stack.table().counters();
        let views = self.stack.views().counters();
        let connections = self.shared.refused_connections.load(Ordering::Relaxed);
        let counts = [
            ("malformed", gossip.refused_malformed),
            ("too_large", gossip.refused_too_large),
            ("replayed", gossip.refused_old),
            ("new_authors", gossip.refused_new_authors + gossip.refused_authors_full),
            ("busy", gossip.refused_busy),
            ("announcements", gossip.refused_ihaves + gossip.refused_announced),
            ("pulls", gossip.pulls_refused + gossip.pulls_unknown + self.counters.pulls_full),
            ("summaries", gossip.summaries_spared + gossip.refused_claims + gossip.refused_digests),
            ("pulls_abandoned", gossip.pulls_abandoned),
            ("answers_unknown", gossip.unknown_answers),
            ("announcements_lost", gossip.announcements_lost),
            ("grafts", gossip.refused_grafts),
            ("seqs_given_up", gossip.seqs_given_up),
            ("log_evicted", gossip.log_evicted),
            ("holes_forgotten", gossip.holes_forgotten),
            ("authors_not_restored", gossip.restored_refused),
            ("duplicates", gossip.duplicates),
            ("addresses", table.refused_addrs),
            ("records", table.refused_records),
            ("peers", table.refused_full + table.refused_source + table.refused_group),
            ("connections", connections),
            ("neighbours", views.refused),
            ("neighbours_displaced", views.displaced),
            ("neighbours_replaced", views.replaced),
            ("unanswered_links", views.unanswered),
            ("walks", views.limited + self.counters.walks_limited),
            ("unexpected", views.unexpected + self.stack.strangers() + gossip.not_neighbor),
            ("links_given_up", self.leavers.given_up),
            ("unknown_frames", self.counters.unknown_frames),
            ("put_off", self.counters.put_off),
            ("unreadable_private", self.counters.unreadable_private),
            ("receipts_unknown", self.counters.receipts_unknown),
            ("receipts_refused", self.counters.receipts_refused),
            ("other_topics", self.counters.other_topics),
            ("control_queue_full", self.counters.control_queue_full),
            ("spared", self.counters.spared),
            ("unencodable", self.counters.unencodable),
            ("too_fast", self.shared.too_fast.load(Ordering::Relaxed)),
            ("author_too_fast", gossip.author_too_fast),
            ("log_behind", self.counters.log_behind),
            ("unlogged", self.log.as_ref().map_or(0, LogQueue::unlogged)),
            ("misbehaved", self.counters.misbehaved),
            ("unpublished", self.counters.unpublished),
            ("questions", self.stack.queries_limited() + self.counters.finders_full),
        ];
        let counts = counts.into_iter().filter(|(_, n)| *n > 0);
        counts.chain([("forged", gossip.forged)]).collect()
    }
}
