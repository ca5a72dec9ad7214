#![doc = include_str!("../README.md")]

mod backlog;
mod budget;
mod builder;
mod claims;
mod command;
mod config;
mod convert;
mod data;
mod dial;
mod driver;
mod error;
mod event;
mod fetch;
mod folder;
mod hub;
mod ihave;
mod inbound;
mod info;
mod join;
mod keys;
mod link;
mod listen;
mod log;
mod node;
mod offer;
mod outbox;
mod own;
mod packet;
mod past;
mod query;
mod rate;
mod records;
mod resume;
mod running;
mod saved;
mod sequence;
mod shared;
pub mod sim;
mod stack;
mod start;
mod submit;
mod summary;
mod target;
mod throttle;
mod tls;
mod transfer;
mod view;
mod watch;
mod window;

pub use builder::NodeBuilder;
pub use config::{Config, DEFAULT_FILE_PORT, DEFAULT_PORT, Limits, LogMode};
pub use error::{
    ConnectError, FetchError, LogError, NoSuchPeer, ReceiptError, SendError, ShareError, StartError,
    StateError, TopicsError,
};
pub use event::{Direction, Event, Message};
pub use fetch::{Fetch, FetchOptions, FetchProgress, FetchTarget, Fetched};
pub use hub::Events;
pub use ihave::Announced;
pub use info::{
    AwaitedReceipt, Connected, FileEntry, FileState, LoadedState, PeerInfo, PeerState, Sent, Status,
};
pub use log::{Follow, Since};
pub use node::Node;
pub use packet::{ByeReason, Packet};
pub use past::{PastMessages, read_log, read_log_with_key};
pub use query::{Answer, Query};
pub use stack::{Hangup, Input, LinkUp, LinkView, Output, Stack};
pub use target::{ParseTargetError, Target};
pub use view::View;

/// The crates whose types are in the signatures here.
pub use {bytes, p2p_files, p2p_gossip, p2p_peers, p2p_wire};

pub use p2p_files::{
    AddError, Entry, EntryKind, FileHash, Info, Kind, ManifestError, ManifestReader, ParseHashError,
    Refreshed, SelectError, Selection, Share, ShareState, Sums, Torrent, TorrentError,
};
pub use p2p_wire::{NodeId, ParseTicketError, PeerAddr, Receipt, SecretKey, Ticket, TicketFile, TicketKind};
