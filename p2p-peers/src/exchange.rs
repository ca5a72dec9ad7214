//! Peer exchange: what to tell a neighbour.

use bytes::Bytes;
use rand::Rng;
use rand::seq::SliceRandom;

use crate::config::MAX_EXCHANGE;
use crate::{Key, PeerTable, Scope};

impl<P: Key, R: Rng> PeerTable<P, R> {
    /// The signed records to tell `to`, each as its owner signed it: those of linked peers first, then of peers linked
    /// within [`Config::recent`](crate::Config::recent), at most [`MAX_EXCHANGE`], a random
    /// choice if there are more. Local ones only if the link to `to` is itself private or loopback; never its own.
    ///
    /// Hearsay is not told on: every record told was vouched for by a link of ours, so the records of peers that are
    /// gone die out.
    pub fn exchange(&mut self, to: P, private_link: bool) -> Vec<Bytes> {
        let recent = self.config.recent;
        let (mut linked, mut lately): (Vec<P>, Vec<P>) = (Vec::new(), Vec::new());
        for (&peer, entry) in &self.entries {
            if peer == to || entry.is_banned() {
                continue;
            }
            let silent_for =
                self.now.zip(entry.last_linked()).map(|(now, at)| now.saturating_duration_since(at));
            if entry.is_connected() {
                linked.push(peer);
            } else if silent_for.is_some_and(|silent_for| silent_for <= recent) {
                lately.push(peer);
            }
        }
        linked.shuffle(&mut self.rng);
        lately.shuffle(&mut self.rng);
        let scopes: &[Scope] = if private_link { &[Scope::Local, Scope::Public] } else { &[Scope::Public] };
        let told = linked.iter().chain(&lately).filter_map(|peer| self.entries.get(peer));
        let records = told.flat_map(|entry| scopes.iter().filter_map(|&scope| entry.record(scope)));
        records.take(MAX_EXCHANGE).map(|record| record.bytes.clone()).collect()
    }
}
