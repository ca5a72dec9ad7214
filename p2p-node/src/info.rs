//! What a node says about itself when asked.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use p2p_files::{FileHash, Kind};
use p2p_wire::{NodeId, Receipt};
use tokio::sync::oneshot;

use crate::error::ReceiptError;
use crate::event::Direction;

/// A link stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Connected {
    /// Who is there.
    pub id: NodeId,
    /// Its address.
    pub addr: SocketAddr,
    /// Another dial made the link: it had been there before, or the other side dialled at the same moment.
    pub already: bool,
}

impl Connected {
    pub(crate) const fn new(id: NodeId, addr: SocketAddr, already: bool) -> Self {
        Self { id, addr, already }
    }
}

/// A message was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sent {
    /// Its number; (own id, seq) is its id.
    pub seq: u64,
    /// Links it is queued on. 0 means that nobody is linked now: whoever links later gets it, for as long as this node runs, or
    /// with a log on disk runs again.
    pub queued_links: usize,
}

impl Sent {
    pub(crate) const fn new(seq: u64, queued_links: usize) -> Self {
        Self { seq, queued_links }
    }
}

/// The recipient's receipt for a private message, still to come.
#[derive(Debug)]
#[must_use = "without it nobody learns whether the message arrived"]
pub struct AwaitedReceipt {
    pub(crate) sent: Sent,
    pub(crate) reply: oneshot::Receiver<Result<Receipt, ReceiptError>>,
}

impl AwaitedReceipt {
    /// The message that it is for.
    #[must_use]
    pub const fn sent(&self) -> Sent {
        self.sent
    }

    /// Waits for it, at most until the deadline the message was sent with.
    ///
    /// # Errors
    /// [`ReceiptError`]; the message may have arrived all the same.
    pub async fn wait(self) -> Result<Receipt, ReceiptError> {
        self.reply.await.unwrap_or(Err(ReceiptError::Stopped))
    }
}

/// What came of a peer list that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadedState {
    /// The file.
    pub path: PathBuf,
    /// Peers and addresses that were taken over.
    pub peers: usize,
    /// Entries, and parts of entries, that made no sense and were left out.
    pub skipped: usize,
}

/// What is going on with a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerState {
    /// A link stands.
    Connected,
    /// It is being dialled.
    Dialing,
    /// It did not answer and will be dialled again later.
    Backoff,
    /// An address is known, nothing more.
    Known,
    /// It is kept out.
    Banned,
}

impl PeerState {
    /// One lower-case word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Dialing => "dialing",
            Self::Backoff => "backoff",
            Self::Known => "known",
            Self::Banned => "banned",
        }
    }
}

/// A peer as the table has it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerInfo {
    /// Its id.
    pub id: NodeId,
    /// The name it gives itself; untrusted.
    pub name: Option<String>,
    /// Address of its link, else the one it is known by.
    pub addr: Option<SocketAddr>,
    /// What is going on.
    pub state: PeerState,
    /// Who dialled, while linked.
    pub direction: Option<Direction>,
    /// Last measured round trip, while linked.
    pub rtt: Option<Duration>,
    /// When anything came from it last; while not linked, when it was linked last.
    pub last_heard: Option<SystemTime>,
    /// How it is reached, while linked.
    pub path: Option<&'static str>,
    /// What it calls its program; untrusted.
    pub agent: Option<String>,
}

/// A node's counters.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Status {
    /// Since the node started.
    pub uptime: Duration,
    /// Links that stand.
    pub links: usize,
    /// Entries of the peer table.
    pub known_peers: usize,
    /// Messages to be delivered to the application; with a log on disk some of them may still be on their way there.
    pub messages_in: u64,
    /// Messages sent by the application.
    pub messages_out: u64,
    /// Everything that was refused or dropped, by kind; kinds that never happened are left out, `forged`
    /// never is.
    pub refused: BTreeMap<&'static str, u64>,
    /// Messages in the log, own ones and those for others included; where it is in memory, envelopes, which hold up to 64 messages
    /// of one author each.
    pub log_messages: u64,
    /// Their bytes.
    pub log_bytes: u64,
    /// Bytes in the queues of all links, both directions.
    pub queued_bytes: u64,
    /// Bytes of file content sent to others since the start, those included that were lost on the way.
    pub files_sent: u64,
    /// The router: `off`, `searching`, `no router`, `mapped …`.
    pub upnp: String,
}

/// What is going on with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileState {
    /// Served to others.
    Shared,
    /// Being fetched.
    Fetching,
    /// A part of it is here, and nobody fetches the rest just now. The files of a folder that are here are served.
    Partial,
    /// It changed or went away since it was shared, and is not served any more.
    Gone,
}

impl FileState {
    /// One lower-case word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Fetching => "fetching",
            Self::Partial => "partial",
            Self::Gone => "gone",
        }
    }
}

/// A file as [`Node::files`](crate::Node::files) lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileEntry {
    /// Its hash.
    pub hash: FileHash,
    /// A file or a folder.
    pub kind: Kind,
    /// Bytes, of a folder those of all its files; not known before the first provider has answered.
    pub length: Option<u64>,
    /// Where it lies, or will.
    pub path: PathBuf,
    /// What is going on.
    pub state: FileState,
    /// Bytes that are here and verified; of a folder whose fetch was interrupted 0, which are so is seen when it goes on.
    pub have: u64,
    /// Providers at work, of one that is being fetched.
    pub sources: usize,
    /// Bytes that come in per second.
    pub rate: u64,
}
