#![doc = include_str!("../README.md")]
//!
//! # The contract
//!
//! - What the network and the clock do is an [`Input`] to [`Gossip::handle`]; what the application asks is a
//!   method.
//! - Drain [`Gossip::poll_output`] to `None` before you wait for anything. Answering an output with another call while draining is
//!   fine; what that brings comes out behind the rest.
//! - Call `handle` with [`Input::Timeout`] when the instant of [`Gossip::poll_timeout`] has come. Early or
//!   twice is harmless.
//! - `now` is the same monotonic clock in every call. An instant that lies before an earlier one does no
//!   harm.
//! - The caller frames, signs and checks: envelopes are opaque bytes here. Every [`Output::Verify`] is
//!   answered by one [`Input::Verified`], at once or later.
//!
//! The same seed and the same calls give the same outputs: there is no clock, no global randomness and no
//! hash map inside.
//!
//! # Invariants
//!
//! - An (author, seq) is delivered at most once, whatever is received, for as long as the author is known,
//!   and an author once known stays known. It counts as seen only after its envelope was verified.
//! - An unverified copy never suppresses the copy of another neighbour.
//! - Forwarding never waits for order, and delivery never waits for a neighbour.
//! - Every table has a limit in [`Config`]; whatever a limit refuses is counted in [`Stats`].
//!
//! # Where we differ from the papers
//!
//! Plumtree (Leitão, Pereira, Rodrigues, SRDS 2007) is the frame: eager push, IHAVE, GRAFT, PRUNE. Not from the
//! paper are:
//!
//! - IWANT (a name of GossipSub's): a pull that leaves the tree as it is. Large envelopes are never pushed unasked.
//! - The wait before a GRAFT is measured, not fixed (section 3.4 has two constants).
//! - PRUNE answers a second copy at once only for the message that makes the tree; any other circle is cut at a
//!   random moment, by one.
//! - Instead of comparing hops to improve the tree (section 3.8), a message floods now and then and leaves the tree
//!   of the fastest ways: arrival is our own measurement, hops are what others say.
//! - De-duplication is exact per author and number, not a cache with a time.

mod announce;
mod asks;
mod behind;
mod bucket;
mod catchup;
mod checks;
mod claims;
mod config;
mod digest;
mod eager;
mod fetch;
mod forks;
mod former;
mod gaps;
mod log;
mod message;
mod missing;
mod neighbor;
mod offers;
mod order;
mod pace;
mod pull;
mod ranges;
mod recent;
mod restore;
mod seen;
mod spread;
mod state;
mod stats;
mod sums;
mod tell;
mod timers;
mod tree;
mod wait;
mod wanted;

pub use claims::MAX_SPANS;
pub use config::{Config, LogStore};
pub use digest::digest;
pub use message::{
    Announced, Course, EnvelopeId, Fault, Held, Input, Key, Logged, Message, Output, PublishError, Queued,
    Read, Span, Sum, Ticket,
};
pub use ranges::Ranges;
pub use restore::{AuthorState, Restored, Undelivered};
pub use state::Gossip;
pub use stats::Stats;
pub use sums::BUCKETS;
