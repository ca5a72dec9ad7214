//! Attacks and faults over real sockets: what a hostile peer, a broken disk or a bad moment may do to a
//! node, and that it goes on serving an honest peer all the same.
//!
//! The hostile side is not a node: it speaks TLS and frames by hand (`util`).

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod copies;
mod crowding;
mod dialling;
#[cfg(target_os = "linux")]
mod endurance;
mod files;
mod flood;
mod forgery;
mod frames;
mod goodbye;
mod greeting;
mod joiners;
mod lifecycle;
mod line;
mod lists;
mod rates;
mod replay;
mod tls;
mod util;
