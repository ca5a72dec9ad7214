//! Everything a frame between nodes can hold. `docs/wire.md` specifies each byte.

use std::mem::size_of;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use p2p_gossip::{Course, Held, Span, Sum};
use p2p_wire::{
    DecodeError, EncodeError, Envelope, EnvelopeId, FrameBody, Hello, MAX_FRAME_CONTROL, MAX_FRAME_PAYLOAD,
    NodeId, msgpack,
};
use serde::{Deserialize, Serialize};

use crate::ihave::{self, Announced};
use crate::query::{Answer, Query};
use crate::summary;
use crate::view::{self, View};

/// IWANT: ids in one list; a longer one is refused. As many pulls may be open at one neighbour.
pub(crate) const MAX_IWANT: usize = 64;
/// Envelopes up to this size are copied out of the read buffer, whose parts are of 16 KiB at least.
const COPIED: usize = 16 * 1024;
/// Of the hops of a push, the bits that say which way it goes.
const ANEW: u16 = 1 << 15;
const DOUBLED: u16 = 1 << 14;

/// Why a side closes the link, sent as its last frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByeReason {
    /// The node stops or leaves the network.
    Leaving,
    /// A link between the two exists, or one is being made.
    Duplicate,
    /// No room for another link.
    Full,
    /// This peer is banned.
    Banned,
    /// The person asked for it.
    Disconnected,
    /// The other side broke the protocol.
    Misbehaved,
    /// A reason this version does not know.
    Other,
}

impl ByeReason {
    const fn code(self) -> u8 {
        match self {
            Self::Leaving => 1,
            Self::Duplicate => 2,
            Self::Full => 3,
            Self::Banned => 4,
            Self::Disconnected => 5,
            Self::Misbehaved => 6,
            Self::Other => 0,
        }
    }

    const fn from_code(code: u8) -> Self {
        match code {
            1 => Self::Leaving,
            2 => Self::Duplicate,
            3 => Self::Full,
            4 => Self::Banned,
            5 => Self::Disconnected,
            6 => Self::Misbehaved,
            _ => Self::Other,
        }
    }

    /// For people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Leaving => "it leaves",
            Self::Duplicate => "already linked",
            Self::Full => "it has no room for another link",
            Self::Banned => "it has banned this node",
            Self::Disconnected => "it disconnected",
            Self::Misbehaved => "it says this node broke the protocol",
            Self::Other => "no reason given",
        }
    }
}

/// One frame between two nodes, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    /// First frame both ways.
    Hello(Box<Hello>),
    /// Last frame.
    Bye(ByeReason),
    /// Asks for a [`Packet::Pong`] with the same number.
    Ping(u64),
    /// Answers a [`Packet::Ping`].
    Pong(u64),
    /// Who is whose neighbour, and news of others; records not checked.
    View(View<Bytes>),
    /// An envelope, and how many links it has travelled. Structure checked, signature not.
    Push {
        /// The envelope's own id.
        id: EnvelopeId,
        /// Links travelled from the author; at most 16,383, more count as that.
        hops: u16,
        /// Which way it goes.
        course: Course,
        /// How long ago it was published, as far as is known; in milliseconds on the wire, at most 2^32 - 1.
        age: Duration,
        /// The signed bytes, verbatim.
        envelope: Bytes,
    },
    /// The sender holds these.
    IHave(Vec<Announced>),
    /// Send me this one; without an id: push to me.
    Graft(Option<EnvelopeId>),
    /// Send me these; the tree stays as it is.
    IWant(Vec<EnvelopeId>),
    /// Stop pushing to me.
    Prune,
    /// The sum of the sender's log, or those of its 256 buckets of authors.
    Digest(Vec<Sum>),
    /// The sender's log holds these.
    Ranges(Vec<Held<NodeId>>),
    /// Send me what you hold of these.
    Pull {
        /// Repeated in the answer.
        number: u32,
        /// What is wanted.
        spans: Vec<Span<NodeId>>,
    },
    /// The pushes before were the answer to a pull, so far.
    Served {
        /// Of the pull.
        number: u32,
        /// Ranges of it that are answered whole.
        done: u16,
        /// The next one is answered below this seq.
        upto: u64,
    },
    /// Who has this file?
    Query(Query),
    /// That node has it.
    Answer(Answer),
}

/// Kinds of frames. Gaps are left for what comes; an unknown kind is skipped and counted.
pub(crate) mod kind {
    pub(crate) const HELLO: u8 = 1;
    pub(crate) const BYE: u8 = 2;
    pub(crate) const PING: u8 = 3;
    pub(crate) const PONG: u8 = 4;
    pub(crate) const PUSH: u8 = 16;
    pub(crate) const IHAVE: u8 = 17;
    pub(crate) const GRAFT: u8 = 18;
    pub(crate) const PRUNE: u8 = 19;
    pub(crate) const DIGEST: u8 = 20;
    pub(crate) const RANGES: u8 = 21;
    pub(crate) const PULL: u8 = 22;
    pub(crate) const SERVED: u8 = 23;
    pub(crate) const IWANT: u8 = 26;
    pub(crate) const QUERY: u8 = 32;
    pub(crate) const ANSWER: u8 = 33;
}

#[derive(Serialize, Deserialize)]
struct Nonce {
    n: u64,
}

#[derive(Serialize, Deserialize)]
struct Bye {
    r: u8,
}

impl Packet {
    /// Whether it may be left out when there is no room: what is passed on for others or asked again, so that nobody waits for
    /// it in vain for long.
    pub(crate) const fn can_be_spared(&self) -> bool {
        match self {
            Self::Query(_) | Self::Answer(_) => true,
            Self::View(view) => view.can_be_spared(),
            _ => false,
        }
    }

    /// Bytes of memory behind it, for those kinds that can be larger decoded than they are as frames.
    pub(crate) fn heap(&self) -> usize {
        match self {
            Self::Push { envelope, .. } => envelope.len(),
            Self::IHave(lines) => lines.capacity() * size_of::<Announced>(),
            Self::IWant(ids) => ids.capacity() * size_of::<EnvelopeId>(),
            Self::Ranges(held) => held.capacity() * size_of::<Held<NodeId>>(),
            Self::Pull { spans, .. } => spans.capacity() * size_of::<Span<NodeId>>(),
            _ => 0,
        }
    }
}

impl FrameBody for Packet {
    fn limit(kind: u8) -> usize {
        if kind == kind::PUSH { MAX_FRAME_PAYLOAD } else { MAX_FRAME_CONTROL }
    }

    fn kind(&self) -> u8 {
        match self {
            Self::Hello(_) => kind::HELLO,
            Self::Bye(_) => kind::BYE,
            Self::Ping(_) => kind::PING,
            Self::Pong(_) => kind::PONG,
            Self::View(view) => view.kind(),
            Self::Push { .. } => kind::PUSH,
            Self::IHave(_) => kind::IHAVE,
            Self::Graft(_) => kind::GRAFT,
            Self::Prune => kind::PRUNE,
            Self::IWant(_) => kind::IWANT,
            Self::Digest(_) => kind::DIGEST,
            Self::Ranges(_) => kind::RANGES,
            Self::Pull { .. } => kind::PULL,
            Self::Served { .. } => kind::SERVED,
            Self::Query(_) => kind::QUERY,
            Self::Answer(_) => kind::ANSWER,
        }
    }

    fn encode(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        match self {
            Self::Hello(hello) => out.put_slice(&msgpack::to_vec(hello)?),
            Self::Bye(reason) => out.put_slice(&msgpack::to_vec(&Bye { r: reason.code() })?),
            Self::Ping(n) | Self::Pong(n) => out.put_slice(&msgpack::to_vec(&Nonce { n: *n })?),
            Self::View(view) => view.encode(out)?,
            Self::Push { hops, course, age, envelope, .. } => {
                let course = match course {
                    Course::Tree => 0,
                    Course::Anew => ANEW,
                    Course::Doubled => DOUBLED,
                };
                out.put_u16((*hops).min(DOUBLED - 1) | course);
                out.put_u32(u32::try_from(age.as_millis()).unwrap_or(u32::MAX));
                out.put_slice(envelope);
            }
            Self::IHave(announced) => ihave::encode(announced, out),
            Self::IWant(ids) => ids.iter().for_each(|id| out.put_slice(&id.to_bytes())),
            Self::Graft(Some(id)) => out.put_slice(&id.to_bytes()),
            Self::Graft(None) | Self::Prune => {}
            Self::Digest(sums) => summary::encode_sums(sums, out),
            Self::Ranges(held) => summary::encode_held(held, out),
            Self::Pull { number, spans } => summary::encode_pull(*number, spans, out),
            Self::Served { number, done, upto } => {
                out.put_u32(*number);
                out.put_u16(*done);
                out.put_u64(*upto);
            }
            Self::Query(query) => query.encode(out),
            Self::Answer(answer) => out.put_slice(&answer.encode()?),
        }
        Ok(())
    }

    fn decode(kind: u8, mut body: Bytes) -> Result<Option<Self>, DecodeError> {
        Ok(Some(match kind {
            kind::HELLO => {
                Self::Hello(Box::new(Hello::decode(&body).map_err(|_| DecodeError::Layout("not a hello"))?))
            }
            kind::BYE => Self::Bye(ByeReason::from_code(msgpack::from_slice::<Bye>(&body)?.r)),
            kind::PING => Self::Ping(msgpack::from_slice::<Nonce>(&body)?.n),
            kind::PONG => Self::Pong(msgpack::from_slice::<Nonce>(&body)?.n),
            view::JOIN..=view::REPLY => Self::View(View::decode(kind, &body)?),
            kind::PUSH => {
                if body.len() < size_of::<u16>() + size_of::<u32>() {
                    return Err(DecodeError::Layout("push is shorter than its header"));
                }
                let hops = body.get_u16();
                let course = match hops {
                    _ if hops & ANEW != 0 => Course::Anew,
                    _ if hops & DOUBLED != 0 => Course::Doubled,
                    _ => Course::Tree,
                };
                let hops = hops & !(ANEW | DOUBLED);
                let age = Duration::from_millis(u64::from(body.get_u32()));
                let envelope = Envelope::decode(body).map_err(|_| DecodeError::Layout("not an envelope"))?;
                // Kept for hours, so a small one must not keep the whole read buffer with it.
                let bytes = match envelope.bytes() {
                    bytes if bytes.len() <= COPIED => Bytes::copy_from_slice(bytes),
                    bytes => bytes.clone(),
                };
                Self::Push { id: envelope.id(), hops, course, age, envelope: bytes }
            }
            kind::IHAVE => Self::IHave(ihave::decode(body)?),
            kind::IWANT => {
                at_most(body.len(), MAX_IWANT * EnvelopeId::LEN, "more than 64 wanted ids")?;
                let mut ids = Vec::with_capacity(body.len() / EnvelopeId::LEN);
                while body.has_remaining() {
                    ids.push(take_id(&mut body)?);
                }
                Self::IWant(ids)
            }
            kind::GRAFT => {
                let id = if body.is_empty() { None } else { Some(take_id(&mut body)?) };
                no_more(&body)?;
                Self::Graft(id)
            }
            kind::PRUNE => {
                no_more(&body)?;
                Self::Prune
            }
            kind::DIGEST => Self::Digest(summary::decode_sums(&body)?),
            kind::RANGES => Self::Ranges(summary::decode_held(body)?),
            kind::PULL => {
                let (number, spans) = summary::decode_pull(body)?;
                Self::Pull { number, spans }
            }
            kind::SERVED => {
                let (number, done, upto) = summary::decode_served(body)?;
                Self::Served { number, done, upto }
            }
            kind::QUERY => Self::Query(Query::decode(body)?),
            kind::ANSWER => Self::Answer(Answer::decode(&body)?),
            _ => return Ok(None),
        }))
    }
}

fn take_id(body: &mut Bytes) -> Result<EnvelopeId, DecodeError> {
    if body.remaining() < EnvelopeId::LEN {
        return Err(DecodeError::Layout("an id is cut off"));
    }
    let mut id = [0; EnvelopeId::LEN];
    body.copy_to_slice(&mut id);
    EnvelopeId::from_bytes(&id).map_err(|_| DecodeError::Layout("an id that cannot be"))
}

fn no_more(body: &Bytes) -> Result<(), DecodeError> {
    if body.is_empty() { Ok(()) } else { Err(DecodeError::Layout("bytes behind the end")) }
}

const fn at_most(count: usize, limit: usize, fault: &'static str) -> Result<(), DecodeError> {
    if count <= limit { Ok(()) } else { Err(DecodeError::Layout(fault)) }
}
