//! What goes in and out: ids, messages between neighbours, inputs, outputs and the errors of both sides.

use std::fmt::{self, Debug};
use std::hash::Hash;
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;

/// A small key of a neighbour or an author; anything cheap to copy and totally ordered is one.
pub trait Key: Copy + Ord + Hash + Debug {}

impl<T: Copy + Ord + Hash + Debug> Key for T {}

/// Most entries one envelope can hold; the bits of [`Output::Deliver`]'s `entries`.
pub(crate) const MAX_ENTRIES: u8 = 64;

/// Names one envelope: a bundle of 1 to 64 messages of one author with consecutive numbers.
///
/// The id of a single message is (`author`, seq); its seq is `first + i` for entry `i`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EnvelopeId<A> {
    /// Who signed it.
    pub author: A,
    /// The first seq that the author used since its process started; at most `first`. Holes are looked for
    /// inside a run only.
    pub run: u64,
    /// Seq of the first entry.
    pub first: u64,
    /// Number of entries, 1 to 64.
    pub count: u8,
}

impl<A> EnvelopeId<A> {
    /// Whether some envelope can have this id: 1 to 64 entries, `run <= first`, and no seq overflows.
    pub const fn is_valid(&self) -> bool {
        self.count >= 1
            && self.count <= MAX_ENTRIES
            && self.run <= self.first
            && self.first.checked_add(self.count as u64).is_some()
    }

    /// The seqs of its entries. Saturates at `u64::MAX` for an id that is not valid.
    pub const fn seqs(&self) -> Range<u64> {
        self.first..self.first.saturating_add(self.count as u64)
    }
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
        /// It makes the tree anew: whoever agrees passes it to all its neighbours. An unsigned hint; see
        /// [`Config::renew_after`](crate::Config::renew_after).
        renew: bool,
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

/// All ids of one author, for a range of an ordered map.
pub(crate) fn ids_of<A: Copy>(author: A) -> std::ops::RangeInclusive<EnvelopeId<A>> {
    let first = EnvelopeId { author, run: 0, first: 0, count: 0 };
    first..=EnvelopeId { author, run: u64::MAX, first: u64::MAX, count: u8::MAX }
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

/// Some seqs of one author.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span<A> {
    /// Whose.
    pub author: A,
    /// The first.
    pub from: u64,
    /// One above the last; more than `from`.
    pub to: u64,
}

impl<A> Span<A> {
    /// Whether it holds any seq.
    pub(crate) const fn is_valid(&self) -> bool {
        self.from < self.to
    }

    /// Whether it has a seq in common with this range.
    pub(crate) const fn meets(&self, seqs: &Range<u64>) -> bool {
        self.from < seqs.end && seqs.start < self.to
    }
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

/// Joins an [`Output::Verify`] to its [`Input::Verified`], and an [`Output::Fetch`] to its [`Input::Fetched`]. Never reused within one [`Gossip`](crate::Gossip).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub(crate) u64);

/// What the network, the signature check, the log on disk or the clock did.
#[derive(Clone, Debug)]
pub enum Input<P, A> {
    /// A neighbour sent a message. From anyone who is not up it is ignored and counted.
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
        /// Whether the signature holds and the envelope's own author, run, first and count are those of the
        /// id.
        ok: bool,
    },
    /// The answer to [`Output::Fetch`]. An unknown ticket is ignored and counted.
    Fetched {
        /// The ticket of the question.
        ticket: Ticket,
        /// The envelopes in the order of the ids; `None` for one that cannot be read any more.
        envelopes: Vec<Option<Bytes>>,
    },
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
    },
    /// The log lets this envelope go, for its age or for room; a log outside can too.
    Drop {
        /// Its id.
        id: EnvelopeId<A>,
    },
    /// Read these out of the log outside and answer with [`Input::Fetched`]. Comes only without
    /// [`Config::log_in_memory`](crate::Config::log_in_memory); at most 256 ids per neighbour.
    Fetch {
        /// Hand it back with the answer.
        ticket: Ticket,
        /// What to read.
        ids: Vec<EnvelopeId<A>>,
    },
    /// Hand messages to the application, exactly once each.
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
        /// Who sent the copy that was verified; may be down by now.
        from: P,
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
    /// [`Config::gap_after`](crate::Config::gap_after). Should they turn up they are delivered, late. Comes once.
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
            Self::Push { id, hops, renew, age, envelope } => f
                .debug_struct("Push")
                .field("id", id)
                .field("hops", hops)
                .field("renew", renew)
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
            Self::Append { entry, envelope } => {
                f.debug_struct("Append").field("entry", entry).field("envelope", &Len(envelope)).finish()
            }
            Self::Drop { id } => f.debug_struct("Drop").field("id", id).finish(),
            Self::Fetch { ticket, ids } => {
                f.debug_struct("Fetch").field("ticket", ticket).field("ids", ids).finish()
            }
            Self::Deliver { id, envelope, entries, late, from } => f
                .debug_struct("Deliver")
                .field("id", id)
                .field("envelope", &Len(envelope))
                .field("entries", &format_args!("{entries:#b}"))
                .field("late", late)
                .field("from", from)
                .finish(),
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

    #[test]
    fn ids_that_cannot_be_are_told_apart() {
        let id = |run, first, count| EnvelopeId { author: 1_u32, run, first, count };
        for (id, valid, why) in [
            (id(0, 0, 1), true, "the very first message"),
            (id(5, 5, 64), true, "a full bundle"),
            (id(0, 0, 0), false, "no entries"),
            (id(0, 0, 65), false, "more entries than a bundle holds"),
            (id(6, 5, 1), false, "older than its run"),
            (id(0, u64::MAX - 1, 1), true, "the last seq"),
            (id(0, u64::MAX, 1), false, "its end overflows"),
            (id(0, u64::MAX - 62, 64), false, "its end overflows"),
        ] {
            assert_eq!(id.is_valid(), valid, "{why}");
            assert!(id.seqs().end >= id.first);
        }
    }

    #[test]
    fn debug_prints_no_payload() {
        let id = EnvelopeId { author: 1_u32, run: 0, first: 0, count: 1 };
        let envelope = Bytes::from_static(b"secret");
        let text = format!(
            "{:?}",
            Output::Send {
                to: 2_u32,
                message: Message::Push { id, hops: 1, renew: false, age: Duration::ZERO, envelope }
            }
        );
        assert!(text.contains("6 bytes") && !text.contains("secret"));
    }
}
