//! Who has this file? Small signed questions that spread along the links, and answers that go back the
//! way the question came.
//!
//! A question has a random id of its own. Each node passes a question on once, remembers for a while which neighbour it came
//! from, and passes some answers back to it. The asker first asks its neighbours alone (time to live 1), then everybody
//! (time to live [`TTL`]). Every node that is asked learns the hash.

mod under_way;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use p2p_files::FileHash;
use p2p_wire::{
    BadSignature, DecodeError, EncodeError, MAX_FILE_NAME, MAX_RECORD, NodeId, SecretKey, domain, msgpack,
};
use serde::{Deserialize, Serialize};

pub(crate) use under_way::{Queries, QueryOutput};

/// Links a question travels at most.
pub(crate) const TTL: u8 = 16;
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
