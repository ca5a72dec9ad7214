//! The one-shot commands.

pub(crate) mod fetch;
mod hash;
mod message;
mod node;
mod paper;
pub(crate) mod resolve;
pub(crate) mod share;
mod torrent;

pub(crate) use fetch::{Wanted, get};
pub(crate) use hash::hash;
pub(crate) use message::{Sending, listen, log, send};
pub(crate) use node::{daemon, id, import};
pub(crate) use paper::{completions, man};
pub(crate) use share::{share, unshare};
pub(crate) use torrent::torrent;
