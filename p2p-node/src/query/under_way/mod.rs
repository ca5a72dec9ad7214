//! The questions that a node has heard or asked, and the ways back to who asked.

mod rates;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use bytes::Bytes;
use p2p_files::FileHash;
use p2p_wire::NodeId;

use super::{Answer, Query, QueryId};
use crate::packet::Packet;

use rates::{Flow, Rates};

/// Questions remembered, so that none is passed on twice; the oldest falls out when more come. Those of others are 188 in the
/// time at most, of at most 1.5 KB each with all answers.
const MAX_SEEN: usize = 16_384;
/// How long a question is remembered.
const SEEN_FOR: Duration = Duration::from_secs(60);
/// How long answers find their way back.
const WAY_BACK: Duration = Duration::from_secs(30);
/// Answers passed back for one question. The first from each neighbour is passed back beyond that, so that nobody can keep
/// the others' answers away by being fast.
const MAX_ANSWERS: usize = 8;
/// Of these, what may come from one neighbour if others were asked too.
const SHARE: usize = MAX_ANSWERS / 2;

/// What [`Queries`] wants done.
#[derive(Debug)]
pub(crate) enum QueryOutput {
    Send {
        to: NodeId,
        packet: Packet,
    },
    /// Is this file shared here? Answer with [`Queries::on_holding`].
    Lookup {
        id: QueryId,
        hash: FileHash,
        from: NodeId,
    },
    /// An answer to a question of ours.
    Found {
        id: QueryId,
        /// Which neighbour told us.
        from: NodeId,
        provider: NodeId,
        records: Vec<Bytes>,
        name: Option<String>,
    },
}

#[derive(Debug)]
struct Seen {
    at: Instant,
    /// `None`: our own question.
    from: Option<NodeId>,
    /// To whom it was sent: nobody else can know an answer.
    asked: Vec<NodeId>,
    /// From whom answers came, and who has the file.
    answers: Vec<(NodeId, NodeId)>,
}

impl Seen {
    fn takes(&self, from: NodeId, provider: NodeId) -> bool {
        let share = if self.asked.len() > 1 { SHARE } else { MAX_ANSWERS };
        let of_it = self.answers.iter().filter(|(via, _)| *via == from).count();
        // Others may name the same provider: nobody checks its records on the way, and one of them may be lying.
        self.asked.contains(&from)
            && !self.answers.contains(&(from, provider))
            && (of_it == 0 || (of_it < share && self.answers.len() < MAX_ANSWERS))
    }
}

/// A question, as it is told from others: whoever hears one could sign one of its own under the same id.
type Key = (QueryId, NodeId);

/// Whatever is remembered under an id.
fn under(id: QueryId) -> RangeInclusive<Key> {
    (id, NodeId::from_bytes([u8::MIN; 32]))..=(id, NodeId::from_bytes([u8::MAX; 32]))
}

/// The questions under way. Sans-IO: time comes in with each call.
#[derive(Debug, Default)]
pub(crate) struct Queries {
    seen: BTreeMap<Key, Seen>,
    order: VecDeque<(Instant, Key)>,
    rates: Rates,
    out: VecDeque<QueryOutput>,
    /// Questions not taken from a neighbour, or taken and not passed on, because there are too many.
    pub(crate) limited: u64,
}

impl Queries {
    /// Sends a question of our own to every neighbour.
    pub(crate) fn ask(
        &mut self,
        now: Instant,
        query: &Query,
        neighbours: impl Iterator<Item = NodeId>,
    ) -> usize {
        let asked: Vec<_> = neighbours.collect();
        for &to in &asked {
            self.out.push_back(QueryOutput::Send { to, packet: Packet::Query(query.clone()) });
        }
        let count = asked.len();
        self.remember(now, (query.id, query.origin), None, asked);
        count
    }

    /// A question came; its signature has been checked.
    pub(crate) fn on_query(
        &mut self,
        now: Instant,
        from: NodeId,
        query: Query,
        neighbours: impl Iterator<Item = NodeId>,
    ) {
        self.expire(now);
        let key = (query.id, query.origin);
        if self.seen.contains_key(&key) {
            return;
        }
        let flow = Flow::of(from, &query);
        if !self.rates.take(now, flow) {
            self.limited += 1;
            return;
        }
        self.out.push_back(QueryOutput::Lookup { id: query.id, hash: query.hash, from });
        let asked: Vec<_> = neighbours.filter(|n| *n != from && *n != query.origin).collect();
        // What is not passed on is not remembered: the same question may come from another neighbour, to travel farther or
        // with a place left for it, and nobody may keep it from there by being first.
        if query.ttl == 1 || asked.is_empty() {
            return;
        }
        if !self.rates.pass(now, flow) {
            self.limited += 1;
            return;
        }
        let passed_on = Query { ttl: query.ttl - 1, ..query };
        for &to in &asked {
            self.out.push_back(QueryOutput::Send { to, packet: Packet::Query(passed_on.clone()) });
        }
        self.remember(now, key, Some(from), asked);
    }

    /// The file of a [`QueryOutput::Lookup`] is shared here: tell the neighbour that asked.
    pub(crate) fn on_holding(&mut self, to: NodeId, answer: Answer) {
        self.out.push_back(QueryOutput::Send { to, packet: Packet::Answer(answer) });
    }

    /// An answer came: to us, or to be passed back. It does not say whose question it is for, so each question under its id
    /// gets it.
    pub(crate) fn on_answer(&mut self, now: Instant, from: NodeId, answer: &Answer) {
        for seen in self.seen.range_mut(under(answer.id)).map(|(_, seen)| seen) {
            if now.saturating_duration_since(seen.at) > WAY_BACK || !seen.takes(from, answer.provider) {
                continue;
            }
            seen.answers.push((from, answer.provider));
            self.out.push_back(match seen.from {
                Some(to) => QueryOutput::Send { to, packet: Packet::Answer(answer.clone()) },
                None => QueryOutput::Found {
                    id: answer.id,
                    from,
                    provider: answer.provider,
                    records: answer.records.clone(),
                    name: answer.name.clone(),
                },
            });
        }
    }

    pub(crate) fn on_neighbour_up(&mut self, now: Instant, peer: NodeId) {
        self.rates.on_neighbour_up(now, peer);
    }

    pub(crate) fn on_neighbour_down(&mut self, peer: NodeId) {
        self.rates.on_neighbour_down(peer);
    }

    pub(crate) fn poll_output(&mut self) -> Option<QueryOutput> {
        self.out.pop_front()
    }

    fn remember(&mut self, now: Instant, key: Key, from: Option<NodeId>, asked: Vec<NodeId>) {
        if self.seen.len() >= MAX_SEEN
            && let Some((_, oldest)) = self.order.pop_front()
        {
            self.seen.remove(&oldest);
        }
        if self.seen.insert(key, Seen { at: now, from, asked, answers: Vec::new() }).is_none() {
            self.order.push_back((now, key));
        }
    }

    fn expire(&mut self, now: Instant) {
        while let Some((at, key)) = self.order.front()
            && now.saturating_duration_since(*at) > SEEN_FOR
        {
            self.seen.remove(key);
            self.order.pop_front();
        }
    }
}
