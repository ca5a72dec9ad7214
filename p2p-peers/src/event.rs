//! What goes into the table and what comes out of it.

use std::fmt::Debug;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::time::{Instant, SystemTime};

use bytes::Bytes;

use crate::PeerAddr;

/// A peer's id as the table sees it: small, comparable, opaque. In p2p it is the public key; tests use `u32`.
pub trait Key: Copy + Ord + Hash + Debug {}

impl<T: Copy + Ord + Hash + Debug> Key for T {}

/// Who may be told an address record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Anyone: addresses that are good on the internet.
    Public,
    /// Only peers over links that are themselves private or loopback: addresses of the local network.
    Local,
}

/// An address record as its owner signed it. The table keeps and tells the bytes verbatim and never looks inside: the
/// caller checks the signature and decodes the addresses before it hands the record in.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    /// Who may be told.
    pub scope: Scope,
    /// Counts up with each record of one owner and scope; the highest wins.
    pub seq: u64,
    /// The signed bytes, at most [`MAX_RECORD_BYTES`](crate::MAX_RECORD_BYTES).
    pub bytes: Bytes,
}

impl Debug for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { scope, seq, bytes } = self;
        write!(f, "Record({scope:?}, seq {seq}, {} bytes)", bytes.len())
    }
}

/// Who said that a peer can be reached at an address. It decides what is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source<P> {
    /// The user, by an address or a ticket: believed, if an address can be dialled at all.
    User,
    /// The peer itself, over its own link.
    Hello,
    /// Another peer, by peer exchange: global addresses and unprivileged ports only, unless configured otherwise.
    Peer(P),
    /// Our own file, from an earlier run.
    Store,
}

/// Whom a dial is meant to reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target<P> {
    /// A peer whose id is known; whoever else answers is the wrong one.
    Peer(P),
    /// An address whose owner's id is not known yet.
    Seed(SocketAddr),
}

/// Which side opened a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// The peer dialled us.
    In,
    /// We dialled the peer.
    Out,
}

/// What the network, the disk and the clock report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input<P> {
    /// Somebody said where a peer is.
    Learned {
        /// Whose addresses these are.
        peer: P,
        /// The addresses; those of the record if there is one. Beyond [`MAX_LEARNED_ADDRS`](crate::MAX_LEARNED_ADDRS)
        /// they are cut off.
        addrs: Vec<PeerAddr>,
        /// The signed record they come from, its signature checked. An older one than ours is ignored, addresses and
        /// all; a newer one replaces the addresses of the older one of its scope.
        record: Option<Record>,
        /// Who said so.
        source: Source<P>,
        /// Whether the link it came over is itself private or loopback (`true` for [`Source::User`] and
        /// [`Source::Store`] does no harm: it is not looked at).
        private_link: bool,
    },
    /// The user named an address without an id: `connect HOST`, an imported list. It is dialled at least once, by
    /// [`Target::Seed`], whoever else is already linked, and from then on kept linked like a wanted peer. Addresses
    /// that no dial can reach ([`is_dialable`](crate::is_dialable)) are ignored.
    Seed(SocketAddr),
    /// A link is up: both ids proved, [`admit`](crate::PeerTable::admit) asked.
    Connected {
        /// Who is there.
        peer: P,
        /// The dial that this link ends; `None` if the peer dialled us.
        target: Option<Target<P>>,
        /// The remote end of the connection.
        addr: SocketAddr,
        /// Wall time, to be shown and saved; decides nothing.
        seen_at: SystemTime,
    },
    /// A dial ended without a link.
    DialFailed {
        /// As in the [`Output::Dial`] that began it.
        target: Target<P>,
        /// Why.
        cause: DialFailure,
    },
    /// A link is down.
    Disconnected {
        /// Whose.
        peer: P,
        /// Why.
        cause: DownCause,
    },
    /// This machine's own addresses changed: peers linked lately are dialled at once.
    NetworkChanged,
    /// [`poll_timeout`](crate::PeerTable::poll_timeout) has come; early or twice is harmless.
    Timeout,
}

/// Why a dial did not become a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum DialFailure {
    /// Nothing listens there, or there is no way there.
    Unreachable,
    /// No answer in time.
    TimedOut,
    /// Somebody else's key answered: that address is bad for that id.
    WrongIdentity,
    /// We answered ourselves: the address is our own and is dropped for good.
    Itself,
    /// A link to the peer exists or is coming. Not a failure.
    Duplicate,
    /// The other side does not want us now: full, or we are banned there.
    Refused,
    /// The other side does not speak our protocol, or badly.
    Protocol,
}

/// Why a link went down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum DownCause {
    /// The other side closed it, with or without a goodbye.
    Closed,
    /// The other side has no room for it, or no longer: it is not dialled again for
    /// [`Config::refused_base`](crate::Config::refused_base) and longer.
    NoRoom,
    /// Another link to the same peer takes its place.
    Replaced,
    /// Nothing was heard for too long ([`Probe::Dead`](crate::Probe::Dead)), or nothing could be sent for too long.
    Silent,
    /// The connection broke.
    Failed,
    /// What came in could not be understood.
    Protocol,
    /// The peer did what no honest peer does (a forged message): its id is refused for
    /// [`Config::misbehaved_for`](crate::Config::misbehaved_for).
    Misbehaved,
    /// We closed it, by an [`Output::Hangup`] or otherwise.
    HungUp,
}

/// What the table wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output<P> {
    /// Dial. It must end in [`Input::Connected`] with this target or in [`Input::DialFailed`]; one that ends in
    /// neither is given up after [`Config::dial_deadline`](crate::Config::dial_deadline).
    Dial {
        /// Whom.
        target: Target<P>,
        /// Where, best first, 1 to [`Config::max_addrs`](crate::Config::max_addrs); to be tried in turn or raced.
        addrs: Vec<SocketAddr>,
    },
    /// Close the link to this peer; [`Input::Disconnected`] follows.
    Hangup {
        /// Whose link.
        peer: P,
        /// Why.
        cause: HangupCause,
    },
    /// Something worth keeping changed: save [`snapshot`](crate::PeerTable::snapshot). Comes at most once per
    /// [`Config::save_after`](crate::Config::save_after).
    Save,
}

/// Why the table wants a link closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum HangupCause {
    /// The user asked for it.
    Disconnect,
    /// The peer is banned, or misbehaved a while ago.
    Banned,
    /// It is ourselves.
    Itself,
    /// More links than configured.
    Full,
    /// The node has left the network.
    Stopped,
}

/// Why a link may not be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The other end has our own id.
    #[error("the other end is this node itself")]
    Itself,
    /// The peer is banned, by the user or for a while by its own doing.
    #[error("the peer is banned")]
    Banned,
    /// Too many links in that direction.
    #[error("there are {limit} links already, the limit is {limit}")]
    Full {
        /// The limit that is reached.
        limit: usize,
    },
    /// Too many links into one /24 (IPv6: /64).
    #[error("there are {limit} links into the network of that address already, the limit is {limit}")]
    PrefixFull {
        /// The limit that is reached.
        limit: usize,
    },
    /// Too many links to one address that is not loopback.
    #[error("there are {limit} links to that address already, the limit is {limit}")]
    AddressFull {
        /// The limit that is reached.
        limit: usize,
    },
    /// The node has left the network ([`stop`](crate::PeerTable::stop)).
    #[error("the node has left the network")]
    Stopped,
}

/// Where a peer stands. Each peer is in exactly one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Not linked; dialled as soon as there is a reason, room and an address.
    Known,
    /// A dial is on its way.
    Dialing,
    /// Linked.
    Connected {
        /// Who dialled.
        direction: Direction,
        /// The remote end of the connection.
        addr: SocketAddr,
        /// When the link came up.
        since: Instant,
    },
    /// A dial failed or a link went down; not dialled before `until`.
    Backoff {
        /// Earliest next dial.
        until: Instant,
    },
}

/// One peer as the table sees it, for lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerView<P> {
    /// Its id.
    pub id: P,
    /// Where it stands.
    pub state: State,
    /// Its known addresses, in the order in which they would be dialled.
    pub addrs: Vec<PeerAddr>,
    /// Wall time of the last link's beginning.
    pub last_connected: Option<SystemTime>,
    /// The user asked for it ([`want`](crate::PeerTable::want)).
    pub wanted: bool,
    /// It is refused, by the user or for a while by its own doing.
    pub banned: bool,
    /// Failed dials since the last lasting link.
    pub failures: u32,
}

impl<P> PeerView<P> {
    /// The IP address of its link, if it is linked.
    pub fn link_ip(&self) -> Option<IpAddr> {
        match self.state {
            State::Connected { addr, .. } => Some(addr.ip()),
            _ => None,
        }
    }
}
