//! Single questions to one neighbour about what no range of its brought: what is missing inside a run, and envelopes
//! that differ from ours. Each is a pull, answered as any other.

use std::collections::{BTreeMap, VecDeque};

use crate::message::{EnvelopeId, Key, Span};

/// Open questions to one neighbour; the oldest is forgotten first. Its answer then counts as one to nothing.
const MAX_OPEN: usize = 16;
/// Numbers of questions count from here, those of ranges from 1.
const FIRST_NUMBER: u32 = 1 << 31;

/// The open questions.
#[derive(Debug)]
pub(crate) struct Asks<P, A> {
    open: BTreeMap<P, VecDeque<Ask<A>>>,
    next: u32,
}

/// One question.
#[derive(Debug)]
pub(crate) struct Ask<A> {
    number: u32,
    pub(crate) spans: Vec<Span<A>>,
    /// What was seen may come once more, with other bytes.
    forked: bool,
}

impl<P: Key, A: Key> Asks<P, A> {
    pub(crate) fn new() -> Self {
        Self { open: BTreeMap::new(), next: FIRST_NUMBER }
    }

    /// Notes a question and returns its number.
    pub(crate) fn open(&mut self, peer: P, spans: Vec<Span<A>>, forked: bool) -> u32 {
        let number = self.next;
        self.next = self.next.wrapping_add(1).max(FIRST_NUMBER);
        let open = self.open.entry(peer).or_default();
        if open.len() >= MAX_OPEN {
            open.pop_front();
        }
        open.push_back(Ask { number, spans, forked });
        number
    }

    /// Ends a question.
    pub(crate) fn close(&mut self, peer: P, number: u32) -> Option<Ask<A>> {
        let open = self.open.get_mut(&peer)?;
        let at = open.iter().position(|ask| ask.number == number)?;
        open.remove(at)
    }

    pub(crate) fn down(&mut self, peer: P) {
        self.open.remove(&peer);
    }

    /// Whether a neighbour was asked for this.
    pub(crate) fn expects(&self, peer: P, id: &EnvelopeId<A>) -> bool {
        self.find(peer, id).is_some()
    }

    /// Whether a neighbour was asked for another envelope with one of these seqs.
    pub(crate) fn expects_rival(&self, peer: P, id: &EnvelopeId<A>) -> bool {
        self.find(peer, id).is_some_and(|ask| ask.forked)
    }

    /// Whether a neighbour is being asked for exactly this.
    pub(crate) fn is_open(&self, peer: P, span: &Span<A>) -> bool {
        self.open.get(&peer).is_some_and(|open| open.iter().any(|ask| ask.forked && ask.spans.contains(span)))
    }

    fn find(&self, peer: P, id: &EnvelopeId<A>) -> Option<&Ask<A>> {
        let meets = |span: &Span<A>| span.author == id.author && span.meets(&id.seqs());
        self.open.get(&peer)?.iter().rev().find(|ask| ask.spans.iter().any(meets))
    }
}
