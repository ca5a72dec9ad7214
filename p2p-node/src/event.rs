//! What a node tells its application, and in which form the application asks for it.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use p2p_files::FileHash;
use p2p_wire::{Entry, Envelope, NodeId, PrivateBody, SecretKey};

use crate::command::Topics;

/// Which side dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The other side did.
    In,
    /// This node did.
    Out,
}

impl Direction {
    /// `in` or `out`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Out => "out",
        }
    }
}

/// A message of another node, verified and delivered once.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Message {
    /// Local position: counts the messages delivered here, from 1; with a log on disk over restarts too, otherwise
    /// since the node started.
    pub pos: u64,
    /// Who wrote and signed it.
    pub author: NodeId,
    /// The author's number for it; (author, seq) is the id of the message.
    pub seq: u64,
    /// Its topic; empty unless the author chose one.
    pub topic: String,
    /// It was sealed to this node alone.
    pub private: bool,
    /// It arrived after later ones of the same author had been delivered.
    pub late: bool,
    /// When the author says it was written. A label for people: nothing is decided by it.
    pub time: SystemTime,
    /// The bytes.
    pub payload: Bytes,
}

/// What an entry holds for this node.
#[derive(Debug)]
pub(crate) enum Content {
    /// A message, without a position yet; `receipt`: its author asks for one.
    Message { message: Message, receipt: bool },
    /// A receipt for a message of this node.
    Receipt { seq: u64, signature: [u8; 64] },
    /// It is for somebody else.
    Other,
    /// It was sealed to this node and cannot be opened.
    Unreadable,
}

impl Message {
    /// What this node makes of an entry.
    pub(crate) fn read(key: &SecretKey, author: NodeId, entry: Entry, late: bool) -> Content {
        let private = entry.recipient.is_some();
        let (payload, receipt) = match entry.recipient {
            None => (entry.payload, false),
            Some(recipient) if recipient == key.id() => {
                let body = p2p_wire::open(key, &author, entry.seq, &entry.payload)
                    .ok()
                    .and_then(|plain| PrivateBody::decode(plain.into()).ok());
                match body {
                    Some(PrivateBody::Message { payload, receipt }) => (payload, receipt),
                    Some(PrivateBody::Receipt { seq, signature }) => {
                        return Content::Receipt { seq, signature };
                    }
                    None => return Content::Unreadable,
                }
            }
            Some(_) => return Content::Other,
        };
        let time = UNIX_EPOCH.checked_add(Duration::from_millis(entry.time_ms)).unwrap_or(UNIX_EPOCH);
        let Entry { seq, topic, .. } = entry;
        Content::Message {
            message: Self { pos: 0, author, seq, topic, private, late, time, payload },
            receipt,
        }
    }

    /// Whether whoever chose these topics wants it; `None`: all of them.
    pub(crate) fn is_of(&self, topics: Option<&Topics>) -> bool {
        self.private || topics.is_none_or(|topics| topics.contains(&self.topic))
    }

    /// The payload as text, if it is UTF-8.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        std::str::from_utf8(&self.payload).ok()
    }
}

/// Makes what the application wants of an envelope independent of it, if that is less than half of it. A payload is a
/// part of its envelope and keeps all of it in memory, and events are bounded by their payloads. So at most twice what is
/// counted is kept, and one envelope more, of which some were read; a lone message of some size and a bundle for this node
/// are not copied, and what is small costs one allocation an envelope.
pub(crate) fn keep_alone(envelope: &Envelope, messages: &mut [(bool, Message)]) {
    // What was sealed is opened into memory of its own.
    let mut parts: Vec<&mut Bytes> = messages
        .iter_mut()
        .filter(|(wanted, message)| *wanted && !message.private)
        .map(|(_, message)| &mut message.payload)
        .collect();
    let len = parts.iter().map(|part| part.len()).sum::<usize>();
    if len >= envelope.bytes().len() / 2 {
        return;
    }
    let mut copy = BytesMut::with_capacity(len);
    parts.iter().for_each(|part| copy.extend_from_slice(part));
    for part in &mut parts {
        **part = copy.split_to(part.len()).freeze();
    }
}

/// What happened, in the order in which it happened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A message has arrived.
    Message(Message),
    /// A link to a peer stands.
    PeerUp {
        /// The peer.
        id: NodeId,
        /// Its address as seen from here.
        addr: SocketAddr,
        /// Who dialled.
        direction: Direction,
        /// The name it gives itself: untrusted, already without control characters.
        name: Option<String>,
    },
    /// A link to a peer is gone.
    PeerDown {
        /// The peer.
        id: NodeId,
        /// Why, in words.
        reason: String,
    },
    /// This subscriber was too slow: `missed` events fell out before it read them.
    Lagged {
        /// How many.
        missed: u64,
        /// How many of these were no messages: they are in no log.
        others: u64,
        /// With a log on disk, the position of the first message that was not read: [`Node::log_since`] has it, and
        /// [`Node::follow`] goes there by itself. Otherwise that of the first message that can still be read, 0 if none
        /// is known.
        ///
        /// [`Node::log_since`]: crate::Node::log_since
        /// [`Node::follow`]: crate::Node::follow
        from_pos: u64,
    },
    /// The recipient's signed receipt for a private message of this node has come.
    Receipt {
        /// The message's number, as it was told when it was sent.
        seq: u64,
        /// Who got it.
        by: NodeId,
    },
    /// No receipt came in time; the message may have arrived all the same.
    NoReceipt {
        /// The message's number.
        seq: u64,
        /// Whom it is for.
        to: NodeId,
    },
    /// Messages of an author that no neighbour has. Should they turn up later they are delivered as `late`.
    Gap {
        /// Who wrote them.
        author: NodeId,
        /// The first number that is missing.
        from: u64,
        /// The last number that is missing.
        to: u64,
    },
    /// An author signed two different messages under one number: its key runs twice, or it lies. What was
    /// delivered stays.
    Forked {
        /// Who.
        author: NodeId,
    },
    /// A provider of a file that is being fetched failed and was dropped; others are tried.
    SourceFailed {
        /// The file.
        hash: FileHash,
        /// The provider.
        id: NodeId,
        /// What it did, in words.
        fault: String,
    },
    /// Something that a person should know: the router's answer, a state file moved aside.
    Notice(String),
    /// Something that a person should act on: the identity runs elsewhere too, a file changed while shared.
    Warning(String),
}

impl Event {
    pub(crate) const fn payload_len(&self) -> usize {
        match self {
            Self::Message(message) => message.payload.len(),
            _ => 0,
        }
    }
}
