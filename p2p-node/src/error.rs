//! What can go wrong, one type an operation. Every error has a stable word ([`ConnectError::code`] and
//! its like) for programs, and a text that says what to do for people.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use p2p_files::FileHash;
use p2p_wire::NodeId;

/// The node did not start; nothing of it is left running.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The data directory can't be made or used.
    #[error("data directory {path}: {source}")]
    DataDir {
        /// The directory, or the file in it that failed.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process uses the data directory, or this one: a node keeps it until its last handle is dropped.
    #[error("another node runs on {path}; stop it, or use another data directory (--data)")]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The key file is there and can't be used. It is never replaced: it is who this node is.
    #[error("identity file {path}: {detail}; restore it from a copy, or move it away to become a new node")]
    Identity {
        /// The key file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// A port is taken or not allowed.
    #[error(
        "cannot listen on {addr}: {source}; choose other ports (--port, --file-port; 0 takes a free one)"
    )]
    Listen {
        /// Where it should have listened.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// An option makes no sense.
    #[error("{0}")]
    Config(String),
}

/// Why the message log can't be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The node keeps its messages in memory, or there is none that ever ran in this data directory: see
    /// [`Config::log`](crate::Config::log).
    #[error("there is no message log: messages are kept in memory, or no node has run here")]
    NoLog,
    /// There is one, and no key to read it with: its node was given one ([`Config::key`](crate::Config::key)). Nothing was changed.
    #[error(
        "the message log in {path} has no identity.key beside it: read it with the key that its node was given"
    )]
    NoKey {
        /// The data directory.
        path: PathBuf,
    },
    /// Another process uses the data directory.
    #[error("a node runs on {path} and writes its log; ask there, or when it has stopped")]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The disk failed.
    #[error("the message log cannot be read: {0}")]
    Io(#[from] io::Error),
}

/// Why there is no link.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The address is this node's own.
    #[error("that is this node itself")]
    Itself,
    /// Somebody else answered at that address.
    #[error("identity mismatch: {} expected, {} answered", .expected.short(), .found.short())]
    WrongIdentity {
        /// Whom the ticket or the peer table named.
        expected: NodeId,
        /// Who proved to be there.
        found: NodeId,
    },
    /// No address answered.
    #[error("{detail}")]
    Unreachable {
        /// Each address tried with what the system said.
        detail: String,
    },
    /// No answer within the deadline.
    #[error("{detail}")]
    TimedOut {
        /// Each address tried.
        detail: String,
    },
    /// The other side is there and does not want the link (it is full, or has banned this node).
    #[error("refused: {reason}")]
    Refused {
        /// Its reason.
        reason: String,
    },
    /// This node has banned that peer.
    #[error("{} is banned here; `unban` it first", .0.short())]
    Banned(NodeId),
    /// Something answered that does not speak this protocol.
    #[error("{addr} does not speak p2p: {detail}")]
    Protocol {
        /// Who answered.
        addr: SocketAddr,
        /// What was wrong.
        detail: String,
    },
    /// The host name has no address.
    #[error("{host}: {detail}")]
    UnknownHost {
        /// The name.
        host: String,
        /// What the resolver said.
        detail: String,
    },
    /// The peer is known by no address.
    #[error("no address is known for {}; use an address or a ticket", .0.short())]
    NoAddress(NodeId),
    /// This node is stopping.
    #[error("the node has stopped")]
    Stopped,
}

impl ConnectError {
    /// A stable word for programs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Itself => "self",
            Self::WrongIdentity { .. } => "wrong_identity",
            Self::Unreachable { .. } => "unreachable",
            Self::TimedOut { .. } => "timeout",
            Self::Refused { .. } => "refused",
            Self::Banned(_) => "banned",
            Self::Protocol { .. } => "protocol",
            Self::UnknownHost { .. } => "unknown_host",
            Self::NoAddress(_) => "no_address",
            Self::Stopped => "stopped",
        }
    }
}

/// Why a message was not sent. Nothing of it has left the node.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// Larger than a message may be.
    #[error("message is {size} bytes, the limit is {limit}; share it as a file instead")]
    TooLarge {
        /// Its payload, bytes.
        size: usize,
        /// The largest payload, bytes.
        limit: usize,
    },
    /// The topic is longer than 255 bytes.
    #[error("topic is {size} bytes, the limit is {limit}")]
    Topic {
        /// Its length, bytes.
        size: usize,
        /// The longest topic, bytes.
        limit: usize,
    },
    /// The recipient's id is no usable key.
    #[error("{} is not a usable key to seal a message to", .0.short())]
    Recipient(NodeId),
    /// The recipient is this node; nobody hears itself.
    #[error("the recipient is this node itself")]
    Itself,
    /// Too many receipts are awaited already.
    #[error("{limit} receipts are awaited already; each makes room when it comes, or when its time is over")]
    Receipts {
        /// How many may be.
        limit: usize,
    },
    /// The sequence numbers could not be reserved on disk.
    #[error("sequence numbers could not be reserved: {0}")]
    Storage(String),
    /// This node is stopping.
    #[error("the node has stopped")]
    Stopped,
}

impl SendError {
    /// A stable word for programs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "too_large",
            Self::Topic { .. } => "topic_too_long",
            Self::Recipient(_) => "bad_recipient",
            Self::Itself => "itself",
            Self::Receipts { .. } => "receipts_full",
            Self::Storage(_) => "storage",
            Self::Stopped => "stopped",
        }
    }
}

/// Why no receipt came. The message was sent, and may have arrived or arrive still.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiptError {
    /// The deadline passed. The recipient is away, gives no receipts, or its receipt is under way.
    #[error("no receipt of {} for message {seq} in time; it may arrive still", .to.short())]
    TimedOut {
        /// The message's number.
        seq: u64,
        /// Whom it is for.
        to: NodeId,
    },
    /// This node is stopping.
    #[error("the node has stopped")]
    Stopped,
}

impl ReceiptError {
    /// A stable word for programs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TimedOut { .. } => "no_receipt",
            Self::Stopped => "stopped",
        }
    }
}

/// Why the topics stay as they were.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TopicsError {
    /// One is longer than any topic.
    #[error("topic is {size} bytes, the limit is {limit}")]
    TooLong {
        /// Its length, bytes.
        size: usize,
        /// The longest topic, bytes.
        limit: usize,
    },
    /// More than a node keeps.
    #[error("{count} topics, the limit is {limit}")]
    TooMany {
        /// How many.
        count: usize,
        /// The most.
        limit: usize,
    },
    /// This node is stopping.
    #[error("the node has stopped")]
    Stopped,
}

/// Why a file is not shared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShareError {
    /// The file can't be read or is of a kind that can't be shared.
    #[error(transparent)]
    Add(#[from] p2p_files::AddError),
    /// The folder can't be read or is of a kind that can't be shared.
    #[error(transparent)]
    Folder(#[from] p2p_files::AddFolderError),
    /// The index could not be read or written.
    #[error(transparent)]
    Library(#[from] p2p_files::LibraryError),
    /// This node is stopping.
    #[error("the node has stopped")]
    Stopped,
}

/// Why a file did not arrive. What had been fetched is removed; the same request can be made again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// Nobody who could be reached has it.
    #[error("nobody who can be reached has {} (waited {waited_s} s)", .hash.short())]
    NotFound {
        /// What was asked for.
        hash: FileHash,
        /// How long the network was asked, seconds.
        waited_s: u64,
    },
    /// Every provider failed; each is named with what it did.
    #[error("no provider delivered: {detail}")]
    Providers {
        /// `id: what it did`, joined.
        detail: String,
        /// At least one sent something else than what was asked for.
        lied: bool,
    },
    /// The destination is taken; nothing is ever overwritten.
    #[error("{path} exists; choose another name")]
    Exists {
        /// The destination.
        path: PathBuf,
    },
    /// The disk has too little room for the file; nothing was written.
    #[error("no room for {}: {needed} bytes are needed, {free} are free", .path.display())]
    NoRoom {
        /// The destination.
        path: PathBuf,
        /// Bytes that are needed.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// The ticket says another length than the file or folder has: it is a mistake or a trick.
    #[error("it has {length} bytes, and the ticket says {said}")]
    WrongLength {
        /// Bytes by the ticket.
        said: u64,
        /// Bytes as the hash proves them.
        length: u64,
    },
    /// What was asked for is not in the folder, or the hash names no folder.
    #[error("{detail}")]
    NoSuchPath {
        /// What is not there.
        detail: String,
    },
    /// The folder breaks the rules for folders: hostile names, or a newer format.
    #[error("{detail}")]
    BadFolder {
        /// What is wrong with it.
        detail: String,
    },
    /// The file could not be written.
    #[error("{detail}")]
    Disk {
        /// Path and cause.
        detail: String,
    },
    /// Somebody cancelled it.
    #[error("cancelled")]
    Cancelled,
    /// This node is stopping.
    #[error("the node has stopped")]
    Stopped,
}

impl FetchError {
    /// A stable word for programs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "not_found",
            Self::Providers { lied: true, .. } => "bad_content",
            Self::Providers { lied: false, .. } => "providers_failed",
            Self::Exists { .. } => "exists",
            Self::NoRoom { .. } => "no_room",
            Self::WrongLength { .. } => "wrong_length",
            Self::NoSuchPath { .. } => "no_such_path",
            Self::BadFolder { .. } => "bad_folder",
            Self::Disk { .. } => "disk",
            Self::Cancelled => "cancelled",
            Self::Stopped => "stopped",
        }
    }
}

/// The peer table could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The file can't be read, or is no peer table.
    #[error("{path}: {detail}")]
    Load {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// The file can't be written; the old one still stands.
    #[error("{path}: {detail}")]
    Save {
        /// The file.
        path: PathBuf,
        /// What the system said.
        detail: String,
    },
    /// This node is stopping.
    #[error("the node has stopped")]
    Stopped,
}

/// No such peer is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no such peer")]
pub struct NoSuchPeer;
