//! What of a neighbour's claims to ask it for.

use crate::claims::{Claim, MAX_SPANS};
use crate::message::{Key, Span};
use crate::ranges::Ranges;
use crate::seen::Seen;

/// Ranges a pull looks through for one that is not here, of one author.
const MAX_PIECES: usize = 64;

/// What [`Claims::next_pull`](crate::claims::Claims::next_pull) found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next<A> {
    /// Ask for this.
    Pull(u32, Vec<Span<A>>),
    /// There is something, and it is being asked of another or was announced. To be looked at after so many waits.
    Later(u32),
    /// It holds nothing that is not here.
    Nothing,
}

/// What is not to be asked for, and how much.
pub(crate) struct Wanted<'a, A> {
    pub(crate) seen: &'a Seen<A>,
    /// What of an author is on its way by other means.
    pub(crate) coming: &'a dyn Fn(A) -> Ranges,
    pub(crate) messages: u64,
    /// Authors that it may introduce.
    pub(crate) new_authors: u64,
}

impl<A: Key> Wanted<'_, A> {
    /// Adds what of a claim is to be asked for. Whether there is more that is not here.
    pub(crate) fn take(
        &mut self,
        author: A,
        claim: Claim,
        coming: &Ranges,
        spans: &mut Vec<Span<A>>,
    ) -> bool {
        let mut later = false;
        for (from, to) in self.seen.unseen(&author, claim.next, claim.to).take(MAX_PIECES) {
            let mut taken = 0;
            for (start, end) in coming.gaps(from, to) {
                if spans.len() >= MAX_SPANS || self.messages == 0 {
                    return true;
                }
                let len = (end - start).min(self.messages);
                self.messages -= len;
                taken += len;
                spans.push(Span { author, from: start, to: start + len });
            }
            later |= taken < to - from;
        }
        later
    }
}
