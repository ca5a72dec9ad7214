//! Forks: two envelopes of one author that share a seq. They show when a neighbour and we both hold a range whole and
//! its sums differ. The range is halved, each side telling the other the sums of the halves, down to one envelope;
//! that one is asked for although its seqs were seen. Only the author's signature under both proves a fork.
//!
//! Of two such envelopes the log keeps the one with the lower digest, so that all logs become equal.

use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::Rng;
use tracing::debug;

use crate::digest::digest;
use crate::message::{EnvelopeId, Held, Key, Message, Output, Span, Sum};
use crate::state::Gossip;
use crate::sums;
use crate::tell::LINE_BYTES;

impl<P: Key, A: Key, R: Rng> Gossip<P, A, R> {
    /// Compares what a neighbour holds whole with what is here.
    pub(crate) fn compare(&mut self, now: Instant, from: P, theirs: &Held<A>) {
        let Some((ours, envelopes)) = self.held_whole(now, from, theirs.span) else { return };
        if ours.sum == theirs.sum {
            return;
        }
        let Span { author, from: start, to: end } = theirs.span;
        if envelopes <= 1 || end - start <= 1 {
            self.ask_for_rival(now, from, ours);
            return;
        }
        if !self.spends(now, from, 2 * LINE_BYTES) {
            return;
        }
        let middle = start + (end - start) / 2;
        let halves = [(start, middle), (middle, end)].map(|(from, to)| Span { author, from, to });
        let held = halves.iter().map(|span| Held { span: *span, sum: self.sum_of(*span) }).collect();
        self.send(from, Message::Ranges { held });
    }

    /// The sum of a range, and the number of envelopes in it, if all of it is here. Costs the neighbour what it costs us.
    fn held_whole(&mut self, now: Instant, peer: P, span: Span<A>) -> Option<(Held<A>, usize)> {
        let tokens = self.claims.get_mut(peer)?.compares.tokens(now);
        let most = usize::try_from(tokens).unwrap_or(usize::MAX);
        let (mut whole_to, mut digests, mut looked_at) = (span.from, Vec::new(), 0_usize);
        let mut whole = true;
        for (id, _, digest) in self.log.within(span) {
            if looked_at >= most || id.first > whole_to {
                whole = false;
                break;
            }
            looked_at += 1;
            whole_to = whole_to.max(id.seqs().end);
            if id.first >= span.from {
                digests.push(digest);
            }
        }
        // Also if it came to nothing: a frame can name a thousand ranges of one long author.
        let spent = u32::try_from(looked_at.max(1)).unwrap_or(u32::MAX);
        let paid = self.claims.get_mut(peer)?.compares.take_many(now, spent);
        let envelopes = digests.len();
        (paid && whole && whole_to >= span.to).then(|| (Held { span, sum: sums::of_all(digests) }, envelopes))
    }

    fn sum_of(&mut self, span: Span<A>) -> Sum {
        let begins = self.log.within(span).filter(|(id, _, _)| id.first >= span.from);
        sums::of_all(begins.map(|(_, _, digest)| digest))
    }

    /// Both sides ask each other, so that both see the proof.
    fn ask_for_rival(&mut self, now: Instant, from: P, ours: Held<A>) {
        if self.asks.is_open(from, &ours.span) || !self.spends(now, from, 2 * LINE_BYTES) {
            return;
        }
        let number = self.asks.open(from, vec![ours.span], true);
        // In this order: its question has to be here before its envelope takes the place of ours.
        self.send(from, Message::Ranges { held: vec![ours] });
        self.send(from, Message::Pull { number, spans: vec![ours.span] });
    }

    /// Whether this envelope was asked for because it may prove a fork, and may.
    pub(crate) fn is_rival(&mut self, from: P, id: &EnvelopeId<A>, envelope: &Bytes) -> bool {
        self.asks.expects_rival(from, id) && !self.log.rivals(id, digest(envelope)).is_empty()
    }

    /// A verified envelope has seqs that were seen before. Whether the log should keep it; `None` if no other has them.
    pub(crate) fn settle_fork(&mut self, id: &EnvelopeId<A>, digest: Sum) -> Option<bool> {
        let rivals = self.log.rivals(id, digest);
        if rivals.is_empty() {
            return None;
        }
        if self.forked.insert(id.author) {
            debug!(?id, "two envelopes with one seq");
            self.stats.forked += 1;
            self.outputs.push_back(Output::Forked { author: id.author });
        }
        Some(self.outdoes(id, digest, rivals))
    }

    /// Whether an envelope with this digest takes the place of its rivals in the log, which then go.
    pub(crate) fn outdoes(
        &mut self,
        id: &EnvelopeId<A>,
        digest: Sum,
        rivals: Vec<(EnvelopeId<A>, Sum)>,
    ) -> bool {
        let wins = rivals.iter().all(|(_, sum)| digest < *sum);
        if wins {
            for (rival, _) in rivals {
                self.log.remove(rival);
                // One with the same id is replaced outside, not dropped.
                if rival != *id {
                    self.outputs.push_back(Output::Drop { id: rival });
                }
            }
        }
        wins
    }

    /// Keeps the winner of a fork whose seqs were all delivered before.
    pub(crate) fn keep_rival(
        &mut self,
        now: Instant,
        id: EnvelopeId<A>,
        (hops, age): (u16, Duration),
        envelope: &Bytes,
        digest: Sum,
    ) {
        if self.settle_fork(&id, digest) == Some(true) {
            self.keep(now, id, (hops, age), envelope, digest, false);
        }
    }
}
