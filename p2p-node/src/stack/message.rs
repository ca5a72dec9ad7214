//! What goes into the [`Stack`](super::Stack) and what comes out of it.

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use p2p_files::FileHash;
use p2p_gossip::{Logged, Span, Sum, Ticket};
use p2p_peers::{DialFailure, DownCause, HangupCause, Source, Target};
use p2p_wire::{EnvelopeId, NodeId, PeerRecord};

use crate::event::Direction;
use crate::packet::Packet;
use crate::query::{Answer, QueryId};
use crate::view::View;

/// What happened outside.
#[derive(Debug)]
pub enum Input {
    /// A handshake ended well and the link was admitted.
    LinkUp(LinkUp),
    /// A handshake ended well, the link was not admitted for want of room, and
    /// [`has_room_for_guest`](super::Stack::has_room_for_guest): the caller is told of other peers, and the link ends.
    Visit {
        /// Who is at the other end.
        peer: NodeId,
        /// Its address as seen from here.
        addr: SocketAddr,
        /// The other end's address is private or loopback: local addresses may be told.
        private: bool,
    },
    /// The link is gone.
    LinkDown {
        /// The peer.
        peer: NodeId,
        /// Why.
        cause: DownCause,
    },
    /// A frame came; signatures of questions are checked, those of envelopes are not.
    Packet {
        /// From whom.
        from: NodeId,
        /// What.
        packet: Packet,
    },
    /// A frame of the views came; every record's signature is checked.
    View {
        /// From whom.
        from: NodeId,
        /// What.
        view: View<PeerRecord>,
    },
    /// A dial ended without a link.
    DialFailed {
        /// What was dialled.
        target: Target<NodeId>,
        /// Why there is no link.
        cause: DialFailure,
    },
    /// An address to join through.
    Seed(SocketAddr),
    /// A ticket or an answer named a peer.
    Learned {
        /// The peer.
        peer: NodeId,
        /// Its addresses.
        addrs: Vec<p2p_peers::PeerAddr>,
        /// Who said so.
        source: Source<NodeId>,
    },
    /// The answer to [`Output::Verify`].
    Verified {
        /// Which check.
        ticket: Ticket,
        /// The envelope's digest, [`p2p_gossip::digest`], if the signature is the author's.
        digest: Option<Sum>,
    },
    /// The answer to [`Output::Fetch`].
    Fetched {
        /// The ticket of the question.
        ticket: Ticket,
        /// In the order of the ids.
        envelopes: Vec<p2p_gossip::Read>,
    },
    /// The answer to [`Output::Lookup`]: the file is here.
    Holding {
        /// Who asked.
        to: NodeId,
        /// What to say.
        answer: Answer,
    },
    /// This machine's addresses changed.
    NetworkChanged,
    /// The time of [`Stack::poll_timeout`](super::Stack::poll_timeout) has come. Early or twice is harmless.
    Timeout,
}

/// A new link.
#[derive(Debug)]
pub struct LinkUp {
    /// Who is at the other end.
    pub peer: NodeId,
    /// Its address as seen from here.
    pub addr: SocketAddr,
    /// Who dialled.
    pub direction: Direction,
    /// What was dialled, if this node did.
    pub target: Option<Target<NodeId>>,
    /// The other end's address is private or loopback: local addresses may be told.
    pub private: bool,
    /// The peer's own records out of its hello; signatures checked.
    pub records: Vec<PeerRecord>,
    /// Wall clock, for the peer table's file.
    pub seen_at: SystemTime,
}

/// What is to be done outside.
#[derive(Debug)]
pub enum Output {
    /// Send a frame.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        packet: Packet,
    },
    /// Make a connection and answer with [`Input::LinkUp`] or [`Input::DialFailed`].
    Dial {
        /// What to name in the answer.
        target: Target<NodeId>,
        /// Where it may be.
        addrs: Vec<SocketAddr>,
    },
    /// Close the link to a peer; [`Input::LinkDown`] follows.
    Hangup {
        /// Whom.
        peer: NodeId,
        /// Why.
        reason: Hangup,
    },
    /// Both sides agreed: the link is a neighbour's, messages go over it.
    Up(NodeId),
    /// The peer is a neighbour no more; its link ends soon.
    Down(NodeId),
    /// Check an envelope's signature; answer with [`Input::Verified`].
    Verify {
        /// Which check.
        ticket: Ticket,
        /// What the envelope must say of itself.
        id: EnvelopeId,
        /// Its bytes.
        envelope: Bytes,
    },
    /// A verified envelope, our own included, for a log on disk. Comes before its `Deliver`.
    Append {
        /// What to keep of it.
        entry: Logged<NodeId>,
        /// The signed bytes.
        envelope: Bytes,
        /// One `Deliver` of it follows.
        delivers: bool,
    },
    /// Read these out of the log on disk and answer with [`Input::Fetched`].
    Fetch {
        /// Hand it back with the answer.
        ticket: Ticket,
        /// The neighbour that will be sent what is found.
        to: NodeId,
        /// What to read.
        ids: Vec<EnvelopeId>,
        /// Bytes of these envelopes.
        bytes: usize,
    },
    /// Hand messages to the application.
    Deliver {
        /// The envelope's bytes; the signature is the author's.
        envelope: Bytes,
        /// Bit `i` set: entry `i` was not delivered before.
        entries: u64,
        /// Later messages of this author were delivered before.
        late: bool,
    },
    /// Is this file shared here? If so answer with [`Input::Holding`].
    Lookup {
        /// The question.
        id: QueryId,
        /// The file.
        hash: FileHash,
        /// Which neighbour to tell.
        from: NodeId,
    },
    /// Somebody has what was asked for.
    Found {
        /// The question.
        id: QueryId,
        /// Who.
        provider: NodeId,
        /// Its address records, signatures not checked.
        records: Vec<Bytes>,
        /// What it calls the file; a hint.
        name: Option<String>,
        /// The answer came over a link that is private or loopback.
        private: bool,
    },
    /// A neighbour says that it holds all own messages with a seq in `from..to`.
    HoldsOwn {
        /// The lowest seq.
        from: u64,
        /// The first one behind.
        to: u64,
    },
    /// A valid envelope of this node's own key that this process did not make.
    OwnAhead(EnvelopeId),
    /// No neighbour has these messages, which are missing between others.
    Gap(Span<NodeId>),
    /// This author signed two different envelopes with one number.
    Forked(NodeId),
    /// The peer broke the rules: close its link and keep away from it for a while.
    Misbehaved {
        /// Who.
        peer: NodeId,
        /// How, in words.
        fault: String,
    },
    /// The peer table changed and should be saved.
    Save,
}

/// Why a link is to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hangup {
    /// Nothing was heard for too long.
    Silent,
    /// It does not read: what must not be dropped no longer fits into its queue. Only the loop around the stack sees that.
    Unread,
    /// It did what no honest peer does.
    Misbehaved,
    /// The views have no place for it.
    NoRoom,
    /// The peer table wants it.
    Table(HangupCause),
}

/// A link as [`Stack::links`](super::Stack::links) shows it.
#[derive(Debug, Clone, Copy)]
pub struct LinkView {
    /// The other end.
    pub peer: NodeId,
    /// Its address.
    pub addr: SocketAddr,
    /// Who dialled.
    pub direction: Direction,
    /// Last measured round trip.
    pub rtt: Option<Duration>,
    /// When anything came from it last.
    pub heard_at: Instant,
}
