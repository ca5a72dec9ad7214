//! What two nodes say to each other about their views, as frames: kinds 6 to 11. Wherever the views tell ids, these carry
//! what is needed to dial them: address records, each as its owner signed it.

use bytes::{BufMut, Bytes, BytesMut};
use p2p_peers::views::{MAX_SAMPLE, Message};
use p2p_wire::{DecodeError, EncodeError, NodeId, PeerRecord, msgpack};
use serde::{Deserialize, Serialize};

/// Records in one frame; a longer list is refused. Two a peer: a public and a local one.
pub(crate) const MAX_RECORDS: usize = 2 * MAX_SAMPLE;

/// A frame of the views. `R` is `Bytes` on the wire and [`PeerRecord`] once signatures are checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum View<R> {
    /// I am new here: take me and tell others of me. First frame of the dialler after hello.
    Join,
    /// Somebody is new.
    ForwardJoin {
        /// Links that this may still walk.
        ttl: u8,
        /// The joiner's records.
        records: Vec<R>,
    },
    /// Take me. First frame of the dialler after hello.
    Neighbor {
        /// Not to be refused if it can be helped.
        high: bool,
    },
    /// The acceptor's answer; at any later time, from both sides: we are neighbours no more.
    Answer {
        /// We are neighbours.
        accepted: bool,
        /// Some others.
        records: Vec<R>,
    },
    /// A sample of the sender's views, to be exchanged.
    Shuffle {
        /// Random; the reply repeats it.
        id: u64,
        /// Links that this may still walk.
        ttl: u8,
        /// First those of whoever began it.
        records: Vec<R>,
    },
    /// What is given for a shuffle.
    Reply {
        /// Of the shuffle.
        id: u64,
        /// The sample.
        records: Vec<R>,
    },
}

pub(crate) const JOIN: u8 = 6;
pub(crate) const FORWARD_JOIN: u8 = 7;
pub(crate) const NEIGHBOR: u8 = 8;
pub(crate) const ANSWER: u8 = 9;
pub(crate) const SHUFFLE: u8 = 10;
pub(crate) const REPLY: u8 = 11;

/// The fields of all kinds; a kind that lacks one of its own is refused.
#[derive(Default, Serialize, Deserialize)]
struct Fields {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    i: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    t: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    h: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    y: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    r: Option<Vec<Bytes>>,
}

impl<R> View<R> {
    pub(crate) const fn kind(&self) -> u8 {
        match self {
            Self::Join => JOIN,
            Self::ForwardJoin { .. } => FORWARD_JOIN,
            Self::Neighbor { .. } => NEIGHBOR,
            Self::Answer { .. } => ANSWER,
            Self::Shuffle { .. } => SHUFFLE,
            Self::Reply { .. } => REPLY,
        }
    }

    /// News of others, told again in other frames. The rest says who is whose neighbour.
    pub(crate) const fn can_be_spared(&self) -> bool {
        match self {
            Self::ForwardJoin { .. } | Self::Shuffle { .. } | Self::Reply { .. } => true,
            Self::Join | Self::Neighbor { .. } | Self::Answer { .. } => false,
        }
    }

    /// The records in it.
    pub fn records(&self) -> &[R] {
        match self {
            Self::Join | Self::Neighbor { .. } => &[],
            Self::ForwardJoin { records, .. }
            | Self::Answer { records, .. }
            | Self::Shuffle { records, .. }
            | Self::Reply { records, .. } => records,
        }
    }

    /// The records in it, for keeps.
    pub(crate) fn into_records(self) -> Vec<R> {
        match self {
            Self::Join | Self::Neighbor { .. } => Vec::new(),
            Self::ForwardJoin { records, .. }
            | Self::Answer { records, .. }
            | Self::Shuffle { records, .. }
            | Self::Reply { records, .. } => records,
        }
    }

    /// The same with other records.
    pub(crate) fn with<S>(self, records: Vec<S>) -> View<S> {
        match self {
            Self::Join => View::Join,
            Self::ForwardJoin { ttl, .. } => View::ForwardJoin { ttl, records },
            Self::Neighbor { high } => View::Neighbor { high },
            Self::Answer { accepted, .. } => View::Answer { accepted, records },
            Self::Shuffle { id, ttl, .. } => View::Shuffle { id, ttl, records },
            Self::Reply { id, .. } => View::Reply { id, records },
        }
    }
}

impl View<Bytes> {
    pub(crate) fn encode(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        let none = Fields::default();
        let r = || Some(self.records().to_vec());
        let fields = match *self {
            Self::Join => none,
            Self::ForwardJoin { ttl, .. } => Fields { t: Some(ttl), r: r(), ..none },
            Self::Neighbor { high } => Fields { h: Some(high), ..none },
            Self::Answer { accepted, .. } => Fields { y: Some(accepted), r: r(), ..none },
            Self::Shuffle { id, ttl, .. } => Fields { i: Some(id), t: Some(ttl), r: r(), ..none },
            Self::Reply { id, .. } => Fields { i: Some(id), r: r(), ..none },
        };
        out.put_slice(&msgpack::to_vec(&fields)?);
        Ok(())
    }

    /// `kind` is one of the six.
    pub(crate) fn decode(kind: u8, body: &[u8]) -> Result<Self, DecodeError> {
        const LACKS: DecodeError = DecodeError::Layout("a field is missing");
        let Fields { i, t, h, y, r } = msgpack::from_slice(body)?;
        let records = r.ok_or(LACKS);
        if records.as_ref().is_ok_and(|records| records.len() > MAX_RECORDS) {
            return Err(DecodeError::Layout("more than 32 address records"));
        }
        Ok(match kind {
            JOIN => Self::Join,
            FORWARD_JOIN => Self::ForwardJoin { ttl: t.ok_or(LACKS)?, records: records? },
            NEIGHBOR => Self::Neighbor { high: h.ok_or(LACKS)? },
            ANSWER => Self::Answer { accepted: y.ok_or(LACKS)?, records: records? },
            SHUFFLE => Self::Shuffle { id: i.ok_or(LACKS)?, ttl: t.ok_or(LACKS)?, records: records? },
            _ => Self::Reply { id: i.ok_or(LACKS)?, records: records? },
        })
    }

    /// What the views mean by `message`; `records` finds those of a peer. Peers without records cannot be told, and news
    /// of one that has none is no news.
    pub(crate) fn of(message: Message<NodeId>, records: impl Fn(NodeId) -> Vec<Bytes>) -> Option<Self> {
        let all = |peers: Vec<NodeId>| {
            let each = peers.into_iter().take(MAX_SAMPLE).flat_map(|peer| records(peer).into_iter().take(2));
            each.collect::<Vec<_>>()
        };
        Some(match message {
            Message::Join => Self::Join,
            Message::Neighbor { high } => Self::Neighbor { high },
            Message::ForwardJoin { joiner, ttl } => {
                let records = all(vec![joiner]);
                if records.is_empty() {
                    return None;
                }
                Self::ForwardJoin { ttl, records }
            }
            Message::Accept { sample } => Self::Answer { accepted: true, records: all(sample) },
            Message::Refuse { sample } => Self::Answer { accepted: false, records: all(sample) },
            Message::Shuffle { id, ttl, peers } => Self::Shuffle { id, ttl, records: all(peers) },
            Message::ShuffleReply { id, peers } => Self::Reply { id, records: all(peers) },
        })
    }
}

impl View<PeerRecord> {
    /// Whom it tells of, each once, in its order.
    fn peers(&self) -> Vec<NodeId> {
        let mut peers = Vec::new();
        for record in self.records() {
            if !peers.contains(&record.id()) {
                peers.push(record.id());
            }
        }
        peers
    }

    /// For the views; `None` if it says nothing.
    pub(crate) fn message(&self) -> Option<Message<NodeId>> {
        let peers = self.peers();
        Some(match *self {
            Self::Join => Message::Join,
            Self::Neighbor { high } => Message::Neighbor { high },
            Self::ForwardJoin { ttl, .. } => Message::ForwardJoin { joiner: *peers.first()?, ttl },
            Self::Answer { accepted: true, .. } => Message::Accept { sample: peers },
            Self::Answer { accepted: false, .. } => Message::Refuse { sample: peers },
            Self::Shuffle { id, ttl, .. } => Message::Shuffle { id, ttl, peers },
            Self::Reply { id, .. } => Message::ShuffleReply { id, peers },
        })
    }
}
