//! The views joined to the rest: whom they want dialled, what they say, who is gossip's neighbour.

use std::time::Instant;

use bytes::Bytes;
use p2p_peers::views::{Input as In, Output as Out};
use p2p_peers::{DialStart, Record, Source};
use p2p_wire::{NodeId, PeerRecord, Scope};
use rand::Rng;

use super::{Hangup, Output, Stack};
use crate::convert;
use crate::packet::Packet;
use crate::view::View;

impl<R: Rng> Stack<R> {
    pub(super) fn on_view(&mut self, now: Instant, from: NodeId, view: View<PeerRecord>) {
        if self.is_guest(from) {
            return self.answer_guest(from, &view);
        }
        let Some(link) = self.links.get_mut(&from) else { return };
        link.liveness.heard(now);
        let Some(message) = view.message() else { return };
        self.brought = view.into_records();
        self.views.handle(now, In::Received { from, message });
    }

    pub(super) fn on_views(&mut self, now: Instant, output: Out<NodeId>) {
        match output {
            Out::Send { to, message } => {
                let private = self.links.get(&to).is_some_and(|link| link.private);
                if let Some(view) = View::of(message, |peer| self.records_of(peer, private)) {
                    self.out.push_back(Output::Send { to, packet: Packet::View(view) });
                }
            }
            Out::Dial { peer, spread } => match self.table.dial(now, peer, spread) {
                DialStart::Started => {}
                DialStart::Crowded => self.views.handle(now, In::Crowded(peer)),
                DialStart::No => self.views.handle(now, In::DialFailed(peer)),
            },
            Out::Suggest { count, desperate } => {
                let peers = self.table.suggest(now, count, desperate);
                if !peers.is_empty() {
                    self.views.handle(now, In::Suggested(peers));
                }
            }
            Out::Learn { from, peers } => self.learn_of(now, from, &peers),
            Out::Up(peer) => {
                if let Some(link) = self.links.get_mut(&peer) {
                    link.near = true;
                }
                // Before what goes to it: the driver tells it of the link first.
                self.out.push_back(Output::Up(peer));
                self.gossip.handle(now, p2p_gossip::Input::NeighborUp(peer));
                self.queries.on_neighbour_up(now, peer);
            }
            Out::Down(peer) => {
                if let Some(link) = self.links.get_mut(&peer) {
                    link.near = false;
                }
                self.out.push_back(Output::Down(peer));
                self.gossip.handle(now, p2p_gossip::Input::NeighborDown(peer));
                self.queries.on_neighbour_down(peer);
            }
            Out::Hangup(peer) => self.out.push_back(Output::Hangup { peer, reason: Hangup::NoRoom }),
            Out::Feel => {
                self.table.feel(now);
            }
            Out::Reseed => self.table.reseed(now),
        }
    }

    /// What there is to tell of a peer over a link that is private or not: out of the frame that is being handled, which
    /// may be news that the table does not keep, or out of the table.
    pub(super) fn records_of(&self, peer: NodeId, private: bool) -> Vec<Bytes> {
        let own: &[PeerRecord] = if peer == self.views.me() { &self.own } else { &[] };
        let at_hand = own.iter().chain(&self.brought).filter(|record| record.id() == peer);
        let at_hand = at_hand.filter(|record| private || record.scope() == Scope::Public);
        let records: Vec<Bytes> = at_hand.map(|record| record.bytes().clone()).collect();
        if records.is_empty() { self.table.records(peer, private).cloned().collect() } else { records }
    }

    /// Takes the records of these peers out of the frame that is being handled.
    fn learn_of(&mut self, now: Instant, from: NodeId, peers: &[NodeId]) {
        let private = self.links.get(&from).is_some_and(|link| link.private);
        let records = std::mem::take(&mut self.brought);
        for record in records.iter().filter(|record| peers.contains(&record.id())) {
            let source = if record.id() == from { Source::Hello } else { Source::Peer(from) };
            self.learn(now, record, source, private);
        }
        self.brought = records;
    }

    pub(super) fn learn(&mut self, now: Instant, record: &PeerRecord, source: Source<NodeId>, private: bool) {
        let (scope, addrs) =
            (convert::table_scope(record.scope()), record.addrs().iter().map(|a| convert::table_addr(*a)));
        if self.table.has_learned(record.id(), scope, record.seq(), addrs) {
            return;
        }
        let input = p2p_peers::Input::Learned {
            peer: record.id(),
            addrs: record.addrs().iter().map(|a| convert::table_addr(*a)).collect(),
            record: Some(Record {
                scope: convert::table_scope(record.scope()),
                seq: record.seq(),
                bytes: record.bytes().clone(),
            }),
            source,
            private_link: private,
        };
        self.table.handle(now, input);
    }
}
