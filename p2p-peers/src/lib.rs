#![doc = include_str!("../README.md")]

mod addr;
mod backoff;
mod choose;
mod config;
mod count;
mod dial;
mod entry;
mod event;
mod exchange;
mod inputs;
mod learn;
mod liveness;
mod replace;
mod restore;
mod snapshot;
mod store;
mod table;
#[cfg(test)]
mod testing;
mod timers;
pub mod views;

pub use addr::{PeerAddr, Reach, is_dialable, reach};
pub use choose::DialStart;
pub use config::{Config, ConfigError, MAX_EXCHANGE, MAX_LEARNED_ADDRS, MAX_RECORD_BYTES};
pub use count::Counters;
pub use event::{
    DialFailure, Direction, DownCause, HangupCause, Input, Key, Output, PeerView, Record, Refusal, Scope,
    Source, State, Target,
};
pub use liveness::{Liveness, LivenessConfig, Probe};
pub use replace::replace_file;
pub use snapshot::{
    DEFAULT_PORT, DecodeError, Format, Loaded, MAX_SNAPSHOT_BYTES, SNAPSHOT_VERSION, SavedAddr, SavedPeer,
    Snapshot,
};
pub use store::{LoadError, PeerStore, SaveError};
pub use table::PeerTable;
