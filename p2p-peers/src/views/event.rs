//! What goes into the views and what comes out of them.

use crate::Direction;

/// What two nodes say to each other about their views. Wherever ids are told, the caller adds what is needed to dial
/// them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message<P> {
    /// JOIN: I am new here; take me and tell others of me. First on a link, from the side that dialled.
    Join,
    /// FORWARD_JOIN: somebody is new.
    ForwardJoin {
        /// Who.
        joiner: P,
        /// Links that this may still walk.
        ttl: u8,
    },
    /// NEIGHBOR: take me. First on a link, from the side that dialled.
    Neighbor {
        /// It has no other neighbour, or its user asked for this one: not to be refused if it can be helped.
        high: bool,
    },
    /// The answer: we are neighbours now.
    Accept {
        /// Some others.
        sample: Vec<P>,
    },
    /// The answer: no room; at any later time: we are neighbours no more (DISCONNECT). The link ends.
    Refuse {
        /// Some others.
        sample: Vec<P>,
    },
    /// SHUFFLE: a sample of the sender's views, to be exchanged for one of whoever gets it last.
    Shuffle {
        /// Random; the answer repeats it.
        id: u64,
        /// Links that this may still walk.
        ttl: u8,
        /// First who asks, then the sample.
        peers: Vec<P>,
    },
    /// The answer, along the way back.
    ShuffleReply {
        /// Of the shuffle.
        id: u64,
        /// The sample.
        peers: Vec<P>,
    },
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input<P> {
    /// A link is up. A second one to the same peer takes the place of the first.
    LinkUp {
        /// To whom.
        peer: P,
        /// Who dialled.
        direction: Direction,
        /// The user asked for this peer: it is a neighbour besides those that are looked for.
        asked: bool,
        /// Not to be refused if it can be helped: the user asked for it just now. Later it is asked again as any other,
        /// or a node that all others once named would lose a neighbour for each that comes back.
        urgent: bool,
    },
    /// A link is down.
    LinkDown(P),
    /// A dial asked for came to nothing, or was never begun.
    DialFailed(P),
    /// As [`DialFailed`](Self::DialFailed), because too many links lead to where that peer is: it is tried again only
    /// if there is nobody else.
    Crowded(P),
    /// A neighbour, or one that wants to be, said something.
    Received {
        /// Who.
        from: P,
        /// What.
        message: Message<P>,
    },
    /// The answer to [`Output::Suggest`], best first.
    Suggested(Vec<P>),
    /// There may be somebody new to dial: looking begins at once.
    Nudge,
    /// The broadcast says that this neighbour brings nothing: another takes its place, if there is one.
    Withholds(P),
    /// The time of [`poll_timeout`](super::Views::poll_timeout) has come; early or twice is harmless.
    Timeout,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output<P> {
    /// Say this.
    Send {
        /// To whom.
        to: P,
        /// What.
        message: Message<P>,
    },
    /// Make a link; [`Input::LinkUp`], [`Input::DialFailed`] or [`Input::Crowded`] follows.
    Dial {
        /// To whom.
        peer: P,
        /// Only if it is somewhere else than the links that stand.
        spread: bool,
    },
    /// Name up to `count` peers that could be dialled now; [`Input::Suggested`] follows, at once or never.
    Suggest {
        /// How many.
        count: usize,
        /// There is no neighbour at all: name also those that had no room a while ago.
        desperate: bool,
    },
    /// Keep what came with the message that is being handled and is needed to dial these.
    Learn {
        /// Who brought it.
        from: P,
        /// Whom.
        peers: Vec<P>,
    },
    /// This peer is a neighbour now, on both sides.
    Up(P),
    /// And now it is not.
    Down(P),
    /// End the link, after what was sent; [`Input::LinkDown`] follows.
    Hangup(P),
    /// Dial somebody who was only heard of, to see whether it is there.
    Feel,
    /// All neighbours are known from one source: dial the addresses again that the user once named.
    Reseed,
}

/// What was refused or given up, since the views were made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Requests to be a neighbour that were refused.
    pub refused: u64,
    /// Neighbours that gave way to a request.
    pub displaced: u64,
    /// Requests of ours that were refused.
    pub refused_there: u64,
    /// Neighbours replaced because they brought nothing.
    pub replaced: u64,
    /// Links that ended because nobody said in time whether they are a neighbour's.
    pub unanswered: u64,
    /// Messages that had no place in what came before.
    pub unexpected: u64,
    /// News of joiners and shuffles above the rate of a link, and joiners not dialled because too many are that the same
    /// neighbour told of.
    pub limited: u64,
}
