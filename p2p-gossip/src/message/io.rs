//! What goes in and out of the core: inputs, outputs, and the errors of both sides.

use std::fmt::{self, Debug};
use std::time::Duration;

use bytes::Bytes;

use super::{EnvelopeId, Len, Message, Span, Sum};

/// Joins an [`Output::Verify`] to its [`Input::Verified`], and an [`Output::Fetch`] to its [`Input::Fetched`]. Never reused within one [`Gossip`](crate::Gossip).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub(crate) u64);

/// What the network, the signature check, the log on disk or the clock did.
#[derive(Clone, Debug)]
pub enum Input<P, A> {
    /// A neighbour sent a message. From anyone who is not up it is ignored and counted, but for a push of one that was up less
    /// than 2 s ago, which sent it before it knew.
    Received {
        /// The neighbour.
        from: P,
        /// What it sent.
        message: Message<A>,
    },
    /// A link to this neighbour is ready. Twice is harmless.
    NeighborUp(P),
    /// The link is gone. Twice is harmless.
    NeighborDown(P),
    /// The instant of [`Gossip::poll_timeout`](crate::Gossip::poll_timeout) may have come.
    Timeout,
    /// The answer to [`Output::Verify`]. An unknown ticket is ignored and counted.
    Verified {
        /// The ticket of the question.
        ticket: Ticket,
        /// The envelope's [`digest`](crate::digest()), if the signature holds and the envelope's own author, run, first and
        /// count are those of the id. Whoever checks may have hashed the envelope anyway, so it is not done here again.
        digest: Option<Sum>,
    },
    /// The answer to [`Output::Fetch`]. An unknown ticket is ignored and counted.
    Fetched {
        /// The ticket of the question.
        ticket: Ticket,
        /// In the order of the ids.
        envelopes: Vec<Read>,
    },
}

/// What came of reading one envelope out of the log outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// The envelope.
    Found(Bytes),
    /// It is not there any more: the core forgets that it was. A log outside has limits of its own.
    Gone,
    /// It could not be read now.
    Failed,
}

/// An envelope of the log, without its bytes: what the core keeps of it when the log is on disk, and what
/// [`Gossip::restore`](crate::Gossip::restore) needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Logged<A> {
    /// Its id.
    pub id: EnvelopeId<A>,
    /// Its length in bytes.
    pub len: usize,
    /// How long ago it was published, as far as is known, at the moment of the call or output that carries this.
    pub age: Duration,
    /// Links it had travelled when it came here; 0 for our own.
    pub hops: u16,
    /// First 16 bytes of the SHA-256 of its bytes.
    pub digest: Sum,
}

/// What the caller has to do.
#[derive(Clone, PartialEq, Eq)]
pub enum Output<P, A> {
    /// Send a message to a neighbour.
    Send {
        /// The neighbour.
        to: P,
        /// The message; clones share the bytes.
        message: Message<A>,
    },
    /// Check the signature, and that the envelope's own author, run, first and count equal `id`; answer with
    /// [`Input::Verified`]. Until then nothing of it counts as seen.
    Verify {
        /// Hand it back with the answer.
        ticket: Ticket,
        /// The id that the sender claims.
        id: EnvelopeId<A>,
        /// The bytes to check.
        envelope: Bytes,
        /// Who sent this copy.
        from: P,
    },
    /// A verified envelope, our own included, to be kept in a log outside, if there is one. Comes before its
    /// `Deliver`. From now on [`Output::Fetch`] may ask for it, written or not. One that is older than
    /// [`Config::log_age`](crate::Config::log_age) when it comes is delivered and not appended.
    Append {
        /// What to keep of it; its age goes on from here.
        entry: Logged<A>,
        /// The signed bytes.
        envelope: Bytes,
        /// One `Deliver` of it follows, now or later. None does for our own, and for one that only takes the place of
        /// others in the log, under which its messages were seen.
        delivers: bool,
    },
    /// The log lets this envelope go, for its age or for room; a log outside can too.
    Drop {
        /// Its id.
        id: EnvelopeId<A>,
    },
    /// Read these out of the log outside and answer with [`Input::Fetched`]. Comes only with
    /// [`LogStore::Outside`](crate::LogStore::Outside); at most 256 ids per neighbour.
    Fetch {
        /// Hand it back with the answer.
        ticket: Ticket,
        /// The neighbour that will be sent what is found.
        to: P,
        /// What to read.
        ids: Vec<EnvelopeId<A>>,
        /// Bytes of these envelopes: how much will be sent is known before it was read.
        bytes: usize,
    },
    /// Hand messages to the application, exactly once each. All that is to be delivered of one envelope comes at once.
    Deliver {
        /// Its id.
        id: EnvelopeId<A>,
        /// The signed bytes, verified.
        envelope: Bytes,
        /// Bit `i` is set if entry `i` (seq `id.first + i`) was not delivered before: only those are to be
        /// delivered.
        entries: u64,
        /// A message of this author with a higher seq was delivered before.
        late: bool,
        /// Who sent the copy that was verified; may be down by now. `None`: it came to an earlier process.
        from: Option<P>,
    },
    /// A neighbour says that it holds all messages of our own with a seq in `from..to` that are in our log. A hint, as all that
    /// neighbours say of what they hold.
    HoldsOwn {
        /// The lowest seq.
        from: u64,
        /// The first one behind.
        to: u64,
    },
    /// A valid envelope of our own author, with a number that we have not used yet, came from outside: the
    /// identity runs elsewhere too, or was restored from a copy. Publish above `id.seqs().end` from now on.
    /// Comes once per envelope.
    OwnAhead {
        /// The envelope's id.
        id: EnvelopeId<A>,
    },
    /// For [`Config::withheld_time`](crate::Config::withheld_time) and as many messages as
    /// [`Config::withheld_messages`](crate::Config::withheld_messages) this lazy neighbour neither sent nor announced
    /// one: it is cut off or keeps them to itself, and another would serve better. Comes once per such time.
    Withholds {
        /// The neighbour.
        peer: P,
    },
    /// Messages that are missing between others of one run, and that no neighbour has had for
    /// [`Config::gap_after`](crate::Config::gap_after). Should they turn up they are delivered, late, unless there was no room for one
    /// hole more ([`Config::max_ranges`](crate::Config::max_ranges)). Comes once.
    Gap {
        /// What is missing.
        missing: Span<A>,
    },
    /// This author signed two envelopes with a seq in common: two programs run with its key, or it lies. What was
    /// delivered stays; the log keeps the envelope with the lower digest. Comes once for an author.
    Forked {
        /// Who.
        author: A,
    },
    /// A neighbour broke the rules. What follows is the caller's policy; the core keeps working with it until
    /// it is down.
    Misbehaved {
        /// The neighbour; may be down by now.
        peer: P,
        /// What it did.
        fault: Fault,
    },
}

/// What a neighbour did wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// It sent an envelope whose check failed. An honest neighbour cannot: it checks before it forwards.
    #[error("sent a forged envelope")]
    Forged,
    /// It named an id that no envelope can have.
    #[error("sent an id that cannot be")]
    Malformed,
    /// It pushed an envelope above [`Config::max_envelope`](crate::Config::max_envelope).
    #[error("sent an envelope of {len} bytes, the limit is {limit}")]
    TooLarge {
        /// Bytes of the envelope.
        len: usize,
        /// The limit, in bytes.
        limit: usize,
    },
    /// It announced more ids at once than [`Config::max_ids`](crate::Config::max_ids).
    #[error("announced {count} ids at once, the limit is {limit}")]
    TooManyIds {
        /// Ids in the message.
        count: usize,
        /// The limit.
        limit: usize,
    },
    /// It sent one envelope again and again, more than
    /// [`Config::max_duplicates`](crate::Config::max_duplicates) times.
    #[error("sent one envelope {count} times over, the limit is {limit}")]
    Duplicates {
        /// Superfluous copies of one id since the last such fault.
        count: u32,
        /// The limit.
        limit: u32,
    },
}

/// Where a published envelope went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queued {
    /// Neighbours that it was pushed or announced to; 0 if nobody is linked (it is in the log then).
    pub links: usize,
}

/// Why an envelope was not published. Nothing changed and nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The id names another author; the caller's mistake.
    #[error("the envelope is of another author")]
    NotOurs,
    /// The id is one that no envelope can have; the caller's mistake.
    #[error("the envelope has an id that cannot be")]
    BadId,
    /// The envelope is too large; send a file instead.
    #[error("the envelope is {len} bytes, the limit is {limit}")]
    TooLarge {
        /// Bytes of the envelope.
        len: usize,
        /// The limit, in bytes.
        limit: usize,
    },
    /// The number may have been used already: seqs only rise.
    #[error("seq {first} may have been used, the next free one is {next}")]
    UsedSeq {
        /// First seq of the envelope.
        first: u64,
        /// The lowest seq that may be published.
        next: u64,
    },
}

impl<P: Debug, A: Debug> Debug for Output<P, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Send { to, message } => {
                f.debug_struct("Send").field("to", to).field("message", message).finish()
            }
            Self::Verify { ticket, id, envelope, from } => f
                .debug_struct("Verify")
                .field("ticket", ticket)
                .field("id", id)
                .field("envelope", &Len(envelope))
                .field("from", from)
                .finish(),
            Self::Append { entry, envelope, delivers } => f
                .debug_struct("Append")
                .field("entry", entry)
                .field("envelope", &Len(envelope))
                .field("delivers", delivers)
                .finish(),
            Self::Drop { id } => f.debug_struct("Drop").field("id", id).finish(),
            Self::Fetch { ticket, to, ids, bytes } => f
                .debug_struct("Fetch")
                .field("ticket", ticket)
                .field("to", to)
                .field("ids", ids)
                .field("bytes", bytes)
                .finish(),
            Self::Deliver { id, envelope, entries, late, from } => f
                .debug_struct("Deliver")
                .field("id", id)
                .field("envelope", &Len(envelope))
                .field("entries", &format_args!("{entries:#b}"))
                .field("late", late)
                .field("from", from)
                .finish(),
            Self::HoldsOwn { from, to } => {
                f.debug_struct("HoldsOwn").field("from", from).field("to", to).finish()
            }
            Self::OwnAhead { id } => f.debug_struct("OwnAhead").field("id", id).finish(),
            Self::Withholds { peer } => f.debug_struct("Withholds").field("peer", peer).finish(),
            Self::Gap { missing } => f.debug_struct("Gap").field("missing", missing).finish(),
            Self::Forked { author } => f.debug_struct("Forked").field("author", author).finish(),
            Self::Misbehaved { peer, fault } => {
                f.debug_struct("Misbehaved").field("peer", peer).field("fault", fault).finish()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Course;

    #[test]
    fn debug_prints_no_payload() {
        let id = EnvelopeId { author: 1_u32, run: 0, first: 0, count: 1 };
        let envelope = Bytes::from_static(b"secret");
        let text = format!(
            "{:?}",
            Output::Send {
                to: 2_u32,
                message: Message::Push { id, hops: 1, course: Course::Tree, age: Duration::ZERO, envelope }
            }
        );
        assert!(text.contains("6 bytes") && !text.contains("secret"));
    }
}
