//! What neighbours say to each other.

mod id;
mod io;

pub use id::{EnvelopeId, Key, Span};
pub(crate) use id::{MAX_ENTRIES, ids_of};
pub use io::{Fault, Input, Logged, Output, PublishError, Queued, Read, Ticket};

use std::fmt::{self, Debug};
use std::time::Duration;

use bytes::Bytes;

/// Which way a pushed envelope goes from its author.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Course {
    /// In the tree as it is.
    Tree,
    /// It makes the tree anew: whoever agrees passes it to all its neighbours
    /// ([`Config::renew_after`](crate::Config::renew_after)).
    Anew,
    /// In the tree, from two neighbours of its author, of which one is in the tree by chance only: where neighbours come and
    /// go one alone may go with it. The two copies meet somewhere, which shows no circle.
    Doubled,
}

/// One message between two neighbours. The caller frames it; cloning shares the envelope's bytes.
#[derive(Clone, PartialEq, Eq)]
pub enum Message<A> {
    /// An envelope, whole.
    Push {
        /// Which envelope it claims to be; [`Output::Verify`] asks the caller to compare.
        id: EnvelopeId<A>,
        /// Links travelled from the author, this one included; an unsigned hint.
        hops: u16,
        /// Which way it goes; an unsigned hint.
        course: Course,
        /// How long ago its author published it, as far as is known: the times for which each node on the way held
        /// it, by its own monotonic clock, added up. An unsigned hint; the log ages by it.
        age: Duration,
        /// The signed bytes, verbatim.
        envelope: Bytes,
    },
    /// I hold these envelopes; ask if you want them.
    IHave {
        /// At most [`Config::max_ids`](crate::Config::max_ids).
        ids: Vec<Announced<A>>,
    },
    /// Push to me from now on and, if an id is given, send me that envelope.
    Graft {
        /// The envelope wanted.
        id: Option<EnvelopeId<A>>,
    },
    /// Send me these envelopes; the tree stays as it is.
    IWant {
        /// At most [`Config::max_pulls`](crate::Config::max_pulls).
        ids: Vec<EnvelopeId<A>>,
    },
    /// Stop pushing to me; announce instead.
    Prune,
    /// What my log holds, for a neighbour that compares it with its own.
    Digest {
        /// One sum of everything, or 256 of the [buckets](crate::Gossip::set_buckets) of authors.
        sums: Vec<Sum>,
    },
    /// These I hold. A hint about what to ask for, and nothing more.
    Ranges {
        /// At most [`Config::max_claims`](crate::Config::max_claims); authors with the newest envelopes first, each
        /// one's seqs rising.
        held: Vec<Held<A>>,
    },
    /// Send me what you hold of these, in their order and each one's seqs rising.
    Pull {
        /// To be repeated in the answer.
        number: u32,
        /// At most 256.
        spans: Vec<Span<A>>,
    },
    /// The pushes before this were the answer to a [`Message::Pull`], or a part of it.
    Served {
        /// Of the pull.
        number: u32,
        /// So many of its spans are answered whole: what did not come of them is not here.
        done: u16,
        /// The next one is answered below this seq.
        upto: u64,
    },
}

/// What neighbours compare instead of envelopes: the first 16 bytes of a SHA-256.
pub type Sum = [u8; 16];

/// Envelopes of one author in a row that a neighbour holds, without a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held<A> {
    /// Where.
    pub span: Span<A>,
    /// The sum of the digests of the envelopes whose first seq lies in it, in the order of their seqs.
    pub sum: Sum,
}

/// One line of an announcement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announced<A> {
    /// The envelope.
    pub id: EnvelopeId<A>,
    /// The hops that its push would carry.
    pub hops: u16,
    /// It comes through the tree as well: ask only if it does not. Otherwise nobody will push it.
    pub wait: bool,
}

/// Prints the length of bytes instead of the bytes.
struct Len<'a>(&'a Bytes);

impl Debug for Len<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl<A: Debug> Debug for Message<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Push { id, hops, course, age, envelope } => f
                .debug_struct("Push")
                .field("id", id)
                .field("hops", hops)
                .field("course", course)
                .field("age", age)
                .field("envelope", &Len(envelope))
                .finish(),
            Self::IHave { ids } => f.debug_struct("IHave").field("ids", ids).finish(),
            Self::Graft { id } => f.debug_struct("Graft").field("id", id).finish(),
            Self::IWant { ids } => f.debug_struct("IWant").field("ids", ids).finish(),
            Self::Prune => f.write_str("Prune"),
            Self::Digest { sums } => write!(f, "Digest({} sums)", sums.len()),
            Self::Ranges { held } => f.debug_struct("Ranges").field("held", held).finish(),
            Self::Pull { number, spans } => {
                f.debug_struct("Pull").field("number", number).field("spans", spans).finish()
            }
            Self::Served { number, done, upto } => f
                .debug_struct("Served")
                .field("number", number)
                .field("done", done)
                .field("upto", upto)
                .finish(),
        }
    }
}
