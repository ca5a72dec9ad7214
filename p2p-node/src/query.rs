//! Who has this file? Small signed questions that spread along the links, and answers that go back the
//! way the question came.
//!
//! A question has a random id of its own. Each node passes a question on once, remembers for
//! [`WAY_BACK`] which neighbour it came from, and passes at most [`MAX_ANSWERS`] answers back to it. The
//! asker first asks its neighbours alone (time to live 1), then everybody (time to live [`TTL`]). Every
//! node that is asked learns the hash.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use p2p_files::FileHash;
use p2p_wire::{
    BadSignature, DecodeError, EncodeError, MAX_FILE_NAME, MAX_RECORD, NodeId, SecretKey, domain, msgpack,
};
use serde::{Deserialize, Serialize};

use crate::packet::Packet;

/// Links a question travels at most.
pub(crate) const TTL: u8 = 16;
/// Questions remembered, so that none is handled twice; the oldest falls out when more come.
const MAX_SEEN: usize = 16_384;
/// How long a question is remembered.
const SEEN_FOR: Duration = Duration::from_secs(60);
/// How long answers find their way back.
const WAY_BACK: Duration = Duration::from_secs(30);
/// Answers passed back for one question.
const MAX_ANSWERS: u8 = 8;
/// Questions taken from one neighbour: one a second, ten at once.
const QUESTION_EVERY: Duration = Duration::from_secs(1);
const QUESTION_BURST: u32 = 10;
/// Address records in one answer: one public, one local.
const MAX_ANSWER_RECORDS: usize = 2;
/// Bytes of a question on the wire.
const QUERY_LEN: usize = 1 + 32 + 16 + 32 + 64;

/// The random id of a question.
pub(crate) type QueryId = [u8; 16];

/// A question on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// Links it may still travel, this one included; not signed, each relay lowers it.
    pub ttl: u8,
    /// Who asks.
    pub origin: NodeId,
    /// Random.
    pub id: [u8; 16],
    /// What is looked for.
    pub hash: FileHash,
    /// The origin's signature over id and hash.
    pub signature: [u8; 64],
}

impl Query {
    pub(crate) fn sign(key: &SecretKey, id: QueryId, hash: FileHash, ttl: u8) -> Self {
        let signature = key.sign(domain::QUERY, &[key.id().as_bytes(), &id, hash.as_bytes()]);
        Self { ttl, origin: key.id(), id, hash, signature }
    }

    pub(crate) fn verify(&self) -> Result<(), BadSignature> {
        let signed: [&[u8]; 3] = [self.origin.as_bytes(), &self.id, self.hash.as_bytes()];
        self.origin.verify(domain::QUERY, &signed, &self.signature)
    }

    pub(crate) fn encode(&self, out: &mut BytesMut) {
        out.put_u8(self.ttl);
        out.put_slice(self.origin.as_bytes());
        out.put_slice(&self.id);
        out.put_slice(self.hash.as_bytes());
        out.put_slice(&self.signature);
    }

    pub(crate) fn decode(mut body: Bytes) -> Result<Self, DecodeError> {
        if body.len() != QUERY_LEN {
            return Err(DecodeError::Layout("a question is 145 bytes long"));
        }
        let ttl = body.get_u8();
        if ttl == 0 || ttl > TTL {
            return Err(DecodeError::Layout("a question travels 1 to 16 links"));
        }
        let (mut origin, mut id, mut hash, mut signature) = ([0; 32], [0; 16], [0; 32], [0; 64]);
        body.copy_to_slice(&mut origin);
        body.copy_to_slice(&mut id);
        body.copy_to_slice(&mut hash);
        body.copy_to_slice(&mut signature);
        Ok(Self { ttl, origin: NodeId::from_bytes(origin), id, hash: FileHash::from_bytes(hash), signature })
    }
}

/// An answer on its way back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Which question.
    pub id: [u8; 16],
    /// Who has the file.
    pub provider: NodeId,
    /// The provider's signed address records, verbatim.
    pub records: Vec<Bytes>,
    /// What the provider calls the file; a hint that nobody signs.
    pub name: Option<String>,
}

/// An answer on the wire.
#[derive(Serialize, Deserialize)]
struct AnswerFields {
    q: Bytes,
    p: NodeId,
    r: Vec<Bytes>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    n: Option<String>,
}

impl Answer {
    pub(crate) fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        msgpack::to_vec(&AnswerFields {
            q: Bytes::copy_from_slice(&self.id),
            p: self.provider,
            r: self.records.clone(),
            n: self.name.clone(),
        })
    }

    pub(crate) fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let AnswerFields { q, p, r, n } = msgpack::from_slice(body)?;
        if r.len() > MAX_ANSWER_RECORDS {
            return Err(DecodeError::Layout("more than 2 records in an answer"));
        }
        // Relays pass records on unread, and one that is longer is none.
        if r.iter().any(|record| record.len() > MAX_RECORD) {
            return Err(DecodeError::Layout("a record of more than 275 bytes in an answer"));
        }
        if n.as_ref().is_some_and(|n| n.len() > MAX_FILE_NAME) {
            return Err(DecodeError::Layout("a file name of more than 255 bytes in an answer"));
        }
        let id = <[u8; 16]>::try_from(&q[..])
            .map_err(|_| DecodeError::Layout("a question's id is 16 bytes long"))?;
        Ok(Self { id, provider: p, records: r, name: n })
    }
}

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
    answers: u8,
}

/// Tokens of one neighbour.
#[derive(Debug)]
struct Bucket {
    tokens: u32,
    refilled: Instant,
}

/// The questions under way. Sans-IO: time comes in with each call.
#[derive(Debug, Default)]
pub(crate) struct Queries {
    seen: BTreeMap<QueryId, Seen>,
    order: VecDeque<(Instant, QueryId)>,
    buckets: BTreeMap<NodeId, Bucket>,
    out: VecDeque<QueryOutput>,
    /// Questions not taken because their neighbour asks too often.
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
        self.remember(now, query.id, None);
        let mut asked = 0;
        for to in neighbours {
            self.out.push_back(QueryOutput::Send { to, packet: Packet::Query(query.clone()) });
            asked += 1;
        }
        asked
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
        if self.seen.contains_key(&query.id) {
            return;
        }
        if !self.take_token(now, from) {
            self.limited += 1;
            return;
        }
        self.remember(now, query.id, Some(from));
        self.out.push_back(QueryOutput::Lookup { id: query.id, hash: query.hash, from });
        if query.ttl > 1 {
            let passed_on = Query { ttl: query.ttl - 1, ..query };
            for to in neighbours.filter(|n| *n != from && *n != passed_on.origin) {
                self.out.push_back(QueryOutput::Send { to, packet: Packet::Query(passed_on.clone()) });
            }
        }
    }

    /// The file of a [`QueryOutput::Lookup`] is shared here: tell the neighbour that asked.
    pub(crate) fn on_holding(&mut self, to: NodeId, answer: Answer) {
        self.out.push_back(QueryOutput::Send { to, packet: Packet::Answer(answer) });
    }

    /// An answer came: to us, or to be passed back.
    pub(crate) fn on_answer(&mut self, now: Instant, from: NodeId, answer: Answer) {
        let Some(seen) = self.seen.get_mut(&answer.id) else { return };
        if now.saturating_duration_since(seen.at) > WAY_BACK || seen.answers >= MAX_ANSWERS {
            return;
        }
        seen.answers += 1;
        self.out.push_back(match seen.from {
            Some(to) => QueryOutput::Send { to, packet: Packet::Answer(answer) },
            None => QueryOutput::Found {
                id: answer.id,
                from,
                provider: answer.provider,
                records: answer.records,
                name: answer.name,
            },
        });
    }

    pub(crate) fn on_neighbour_down(&mut self, peer: NodeId) {
        self.buckets.remove(&peer);
    }

    pub(crate) fn poll_output(&mut self) -> Option<QueryOutput> {
        self.out.pop_front()
    }

    fn remember(&mut self, now: Instant, id: QueryId, from: Option<NodeId>) {
        if self.seen.len() >= MAX_SEEN
            && let Some((_, oldest)) = self.order.pop_front()
        {
            self.seen.remove(&oldest);
        }
        if self.seen.insert(id, Seen { at: now, from, answers: 0 }).is_none() {
            self.order.push_back((now, id));
        }
    }

    fn expire(&mut self, now: Instant) {
        while let Some((at, id)) = self.order.front()
            && now.saturating_duration_since(*at) > SEEN_FOR
        {
            self.seen.remove(id);
            self.order.pop_front();
        }
    }

    fn take_token(&mut self, now: Instant, from: NodeId) -> bool {
        let bucket = self.buckets.entry(from).or_insert(Bucket { tokens: QUESTION_BURST, refilled: now });
        while bucket.tokens < QUESTION_BURST
            && now.saturating_duration_since(bucket.refilled) >= QUESTION_EVERY
        {
            bucket.tokens += 1;
            bucket.refilled += QUESTION_EVERY;
        }
        if bucket.tokens == QUESTION_BURST {
            bucket.refilled = now;
        }
        let allowed = bucket.tokens > 0;
        bucket.tokens -= u32::from(allowed);
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> NodeId {
        SecretKey::from_bytes(&[n; 32]).id()
    }

    fn query(n: u8, ttl: u8) -> Query {
        Query::sign(&SecretKey::from_bytes(&[9; 32]), [n; 16], FileHash::from_bytes([7; 32]), ttl)
    }

    fn drain(queries: &mut Queries) -> Vec<QueryOutput> {
        std::iter::from_fn(|| queries.poll_output()).collect()
    }

    #[test]
    fn a_question_is_passed_on_once_and_never_back() {
        let (mut queries, now) = (Queries::default(), Instant::now());
        let links = [id(1), id(2), id(3)];
        queries.on_query(now, id(1), query(5, 4), links.into_iter());
        queries.on_query(now, id(2), query(5, 4), links.into_iter());
        let sent: Vec<_> = drain(&mut queries)
            .into_iter()
            .filter_map(|o| match o {
                QueryOutput::Send { to, packet: Packet::Query(q) } => Some((to, q.ttl)),
                _ => None,
            })
            .collect();
        assert_eq!(sent, [(id(2), 3), (id(3), 3)]);
    }

    #[test]
    fn the_last_link_passes_nothing_on() {
        let (mut queries, now) = (Queries::default(), Instant::now());
        queries.on_query(now, id(1), query(5, 1), [id(2)].into_iter());
        assert!(matches!(drain(&mut queries)[..], [QueryOutput::Lookup { .. }]));
    }

    #[test]
    fn answers_go_back_the_way_and_are_bounded() {
        let (mut queries, now) = (Queries::default(), Instant::now());
        queries.on_query(now, id(1), query(5, 2), std::iter::empty());
        drain(&mut queries);
        let answer = Answer { id: [5; 16], provider: id(4), records: Vec::new(), name: None };
        for _ in 0..20 {
            queries.on_answer(now, id(2), answer.clone());
        }
        let back = drain(&mut queries);
        assert_eq!(back.len(), usize::from(MAX_ANSWERS));
        assert!(back.iter().all(|o| matches!(o, QueryOutput::Send { to, .. } if *to == id(1))));
        queries.on_answer(now + WAY_BACK * 2, id(2), answer);
        assert!(drain(&mut queries).is_empty());
    }

    /// Whoever could make relays carry long answers could fill the queues between other nodes with them.
    #[test]
    fn an_answer_carries_no_more_than_address_records() {
        let of = |lengths: &[usize]| {
            let records = lengths.iter().map(|len| Bytes::from(vec![0; *len])).collect();
            let answer = Answer { id: [1; 16], provider: id(4), records, name: None };
            Answer::decode(&answer.encode().unwrap())
        };
        assert!(of(&[MAX_RECORD; MAX_ANSWER_RECORDS]).is_ok());
        assert!(of(&[MAX_RECORD + 1]).is_err());
        assert!(of(&[1; MAX_ANSWER_RECORDS + 1]).is_err());
    }

    #[test]
    fn a_neighbour_that_asks_too_often_is_not_heard() {
        let (mut queries, now) = (Queries::default(), Instant::now());
        for n in 0..30 {
            queries.on_query(now, id(1), query(n, 1), std::iter::empty());
        }
        assert_eq!(drain(&mut queries).len(), 10);
        assert_eq!(queries.limited, 20);
        queries.on_query(now + QUESTION_EVERY, id(1), query(99, 1), std::iter::empty());
        assert_eq!(drain(&mut queries).len(), 1);
    }

    #[test]
    fn the_seen_table_keeps_its_bound() {
        let (mut queries, now) = (Queries::default(), Instant::now());
        for n in 0..MAX_SEEN as u128 + 100 {
            queries.remember(now, n.to_be_bytes(), None);
        }
        assert_eq!((queries.seen.len(), queries.order.len()), (MAX_SEEN, MAX_SEEN));
    }

    #[test]
    fn a_changed_question_is_noticed() {
        let mut changed = query(5, 4);
        assert_eq!(changed.verify(), Ok(()));
        changed.hash = FileHash::from_bytes([8; 32]);
        assert!(changed.verify().is_err());
    }
}
