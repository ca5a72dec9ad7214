//! What the handle and the tasks of a node ask of its driver.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use bytes::Bytes;
use p2p_files::FileHash;
use p2p_gossip::Ticket;
use p2p_peers::{DialFailure, Snapshot, Target};
use p2p_wire::{Hello, NodeId, PeerAddr, PeerRecord, Receipt};
use tokio::sync::{mpsc, oneshot};

use crate::claims;
use crate::driver::LinkTask;
use crate::error::{ConnectError, ReceiptError};
use crate::event::{Direction, Message};
use crate::info::{Connected, PeerInfo, Status};
use crate::link::LinkId;
use crate::outbox::Outbox;
use crate::packet::ByeReason;
use crate::query::QueryId;

/// A link that both sides agreed on, or why there is none, in words.
pub(crate) type Agreed = Result<Connected, String>;

/// Whether a dial may say hello.
#[derive(Debug)]
pub(crate) enum Claim {
    /// Say this; the peer is claimed until the dial is over.
    Go {
        claim: claims::Claim,
        hello: Box<Hello>,
    },
    /// A link stands already.
    Linked,
    /// Another dial to the same peer is under way.
    Pending,
    Banned,
}

/// A link whose handshake went well, before it is taken.
#[derive(Debug)]
pub(crate) struct Offer {
    pub(crate) peer: NodeId,
    pub(crate) addr: SocketAddr,
    pub(crate) direction: Direction,
    pub(crate) target: Option<Target<NodeId>>,
    /// The application asked for this link: it is kept, whatever was wished before.
    pub(crate) asked: bool,
    /// Who waits until both sides agree on the link.
    pub(crate) agreed: Option<oneshot::Sender<Agreed>>,
    pub(crate) hello: Box<Hello>,
    pub(crate) records: Vec<PeerRecord>,
}

/// A link that was taken.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(crate) link: LinkId,
    pub(crate) outbox: Arc<Outbox>,
}

/// Somebody who says that a peer has what was asked for.
#[derive(Debug, Clone)]
pub(crate) struct Provider {
    pub(crate) id: NodeId,
    pub(crate) addrs: Vec<PeerAddr>,
    /// What it calls the file.
    pub(crate) name: Option<String>,
}

#[derive(Debug)]
pub(crate) enum Command {
    // From dial and listen tasks.
    Claim {
        peer: NodeId,
        addr: SocketAddr,
        reply: oneshot::Sender<Claim>,
    },
    Admit {
        offer: Box<Offer>,
        reply: oneshot::Sender<Result<Admitted, ByeReason>>,
    },
    /// Run the link that was admitted.
    Run(LinkTask),
    DialFailed {
        target: Target<NodeId>,
        cause: DialFailure,
    },
    /// The peer behind what was dialled is linked by another dial, of this side or the other.
    AlreadyLinked {
        target: Target<NodeId>,
        peer: NodeId,
    },
    /// The file of a question is shared here.
    Holding {
        id: QueryId,
        to: NodeId,
        name: Option<String>,
    },
    /// A message whose author asks for a receipt is in the log.
    OweReceipt {
        author: NodeId,
        seq: u64,
        payload: Bytes,
    },
    /// What the core wanted out of the log.
    Fetched {
        /// Who asked for it.
        to: NodeId,
        ticket: Ticket,
        envelopes: Vec<p2p_gossip::Read>,
    },
    Reserved(std::io::Result<u64>),
    Saved(Result<usize, String>),
    /// This machine's addresses.
    Interfaces(Vec<std::net::IpAddr>),
    /// Ports that the router maps: local port and external address.
    Mapped(Vec<(u16, SocketAddr)>, String),

    // From the handle.
    /// Answer once both sides have agreed on a link to the peer, or not.
    AwaitLink {
        peer: NodeId,
        reply: oneshot::Sender<Agreed>,
    },
    /// A dial was refused as a duplicate: is a link to the peer here, or being made?
    IsLinking {
        peer: NodeId,
        reply: oneshot::Sender<bool>,
    },
    LinkOf {
        peer: NodeId,
        reply: oneshot::Sender<Option<Connected>>,
    },
    Want {
        peer: NodeId,
        addrs: Vec<PeerAddr>,
    },
    /// The user named these addresses of a peer.
    Learn {
        peer: NodeId,
        addrs: Vec<PeerAddr>,
    },
    Seed(SocketAddr),
    AddrsOf {
        peer: NodeId,
        reply: oneshot::Sender<Result<Vec<SocketAddr>, ConnectError>>,
    },
    /// Take part (again).
    Join,
    /// When new neighbours have said what they hold.
    Compare {
        reply: oneshot::Sender<()>,
    },
    /// When own messages have arrived somewhere; whether all have.
    HandOver {
        reply: oneshot::Sender<bool>,
    },
    Leave {
        reply: oneshot::Sender<()>,
    },
    Disconnect {
        peer: NodeId,
        reply: oneshot::Sender<bool>,
    },
    Ban {
        peer: NodeId,
        ban: bool,
        reply: oneshot::Sender<bool>,
    },
    /// Answers with the ticket for [`Outgoing::receipt`], `None` if too many are awaited.
    AwaitReceipt {
        wanted: Wanted,
        reply: oneshot::Sender<Option<u64>>,
    },
    /// The message was not sent after all.
    ForgetReceipt(u64),
    /// Deliver messages of these topics only; `None`: of all.
    Subscribe {
        topics: Option<Topics>,
        reply: oneshot::Sender<()>,
    },
    Ask {
        hash: FileHash,
        everybody: bool,
        found: mpsc::Sender<Provider>,
        reply: oneshot::Sender<usize>,
    },
    Peers {
        reply: oneshot::Sender<Vec<PeerInfo>>,
    },
    Status {
        reply: oneshot::Sender<Status>,
    },
    Snapshot {
        reply: oneshot::Sender<Snapshot<NodeId>>,
    },
    Restore {
        snapshot: Box<Snapshot<NodeId>>,
        reply: oneshot::Sender<usize>,
    },
    Shutdown {
        reply: oneshot::Sender<()>,
    },
}

/// Topics that the application wants.
pub(crate) type Topics = std::collections::BTreeSet<String>;

/// The topics of a node for whoever reads its log.
#[derive(Debug, Clone, Default)]
pub(crate) struct ChosenTopics(Arc<RwLock<Option<Topics>>>);

impl ChosenTopics {
    pub(crate) fn set(&self, topics: Option<Topics>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = topics;
    }

    pub(crate) fn want(&self, message: &Message) -> bool {
        message.is_of(self.0.read().unwrap_or_else(PoisonError::into_inner).as_ref())
    }
}

/// The receipt for a message that is about to be sent.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) to: NodeId,
    /// [`Receipt::digest_of`] the payload.
    pub(crate) digest: [u8; 32],
    pub(crate) until: Instant,
    pub(crate) reply: oneshot::Sender<Result<Receipt, ReceiptError>>,
}

/// A message before it is sealed and signed.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing {
    pub(crate) topic: String,
    pub(crate) to: Option<NodeId>,
    /// The bytes; if it is for somebody, the plain text of a private body.
    pub(crate) payload: Bytes,
    /// The ticket of the receipt that is awaited for it.
    pub(crate) receipt: Option<u64>,
}
