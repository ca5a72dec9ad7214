//! What outlives a restart: which messages were seen and how far each author was delivered, and what the log holds.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use bytes::Bytes;
use rand::Rng;

use crate::message::{EnvelopeId, Key, Logged, Output};
use crate::order::Item;
use crate::seen::all_entries;
use crate::state::Gossip;

/// What is known of one author. Small: two numbers, two more, and the ranges, mostly none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorState<A> {
    /// Who.
    pub author: A,
    /// Seqs below it are not looked at again.
    pub floor: u64,
    /// Seqs below it were all seen; at most `floor`.
    pub whole: u64,
    /// Seqs seen above the floor, each from the first up to, not including, the second; rising, not touching.
    pub ranges: Vec<(u64, u64)>,
    /// The run of the latest delivery, and one above the highest seq delivered; `None` before the first delivery, and
    /// for ourselves.
    pub delivered: Option<(u64, u64)>,
}

/// What an earlier process knew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored<A> {
    /// All authors. One that is not in order or does not make sense is taken as far as it does.
    pub authors: Vec<AuthorState<A>>,
    /// The log outside, oldest first, with the ages of now. Their messages count as seen and, but for those of
    /// `undelivered`, as delivered, in `authors` or not, so `authors` may be somewhat older than the log.
    pub envelopes: Vec<Logged<A>>,
    /// What was verified and not handed over, mostly because something before it was missing; no seq twice.
    pub undelivered: Vec<Undelivered<A>>,
}

/// A verified envelope that waited when its process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undelivered<A> {
    /// Its id.
    pub id: EnvelopeId<A>,
    /// The signed bytes.
    pub envelope: Bytes,
    /// Bit `i` is set if entry `i` (seq `id.first + i`) was not delivered.
    pub entries: u64,
}

impl<P: Key, A: Key, R: Rng> Gossip<P, A, R> {
    /// Takes up what an earlier process knew: nothing that it saw is delivered again, and the log goes on serving.
    ///
    /// Call it once, before the first input, with [`LogStore::Outside`](crate::LogStore::Outside) if there are
    /// envelopes. Drain [`poll_output`](Self::poll_output) afterwards: what is beyond the limits or too old by now
    /// is [dropped](Output::Drop), and what was not delivered is, unless it waits for something before it: for
    /// [`Config::hold_time`](crate::Config::hold_time) again, or for as long as that is coming. Authors beyond [`Config::max_authors`](crate::Config::max_authors) are refused and
    /// counted.
    pub fn restore(&mut self, now: Instant, restored: Restored<A>) {
        for state in restored.authors {
            if !self.seen.restore(&state) {
                self.stats.restored_refused += 1;
            } else if let Some((run, next)) = state.delivered
                && state.author != self.me
            {
                self.order.restore(state.author, run, next);
            }
        }
        let waited: BTreeSet<_> = restored.undelivered.iter().map(|undelivered| undelivered.id).collect();
        for entry in restored.envelopes {
            let known = self.seen.knows(&entry.id.author) || !self.seen.is_full();
            if !entry.id.is_valid() || !known || entry.age >= self.config.log_age {
                self.stats.log_expired += u64::from(entry.age >= self.config.log_age);
                self.outputs.push_back(Output::Drop { id: entry.id });
                continue;
            }
            self.mark_seen(&entry.id);
            if entry.id.author == self.me {
                self.own_next = self.own_next.max(entry.id.seqs().end);
            } else if !waited.contains(&entry.id) {
                self.order.restore(entry.id.author, entry.id.run, entry.id.seqs().end);
            }
            // The log outside may hold both sides of a fork.
            let rivals = self.log.rivals(&entry.id, entry.digest);
            let has_namesake = rivals.iter().any(|(id, _)| *id == entry.id);
            if rivals.is_empty() || self.outdoes(&entry.id, entry.digest, rivals) {
                self.log.insert(now, entry, None);
            } else if !has_namesake {
                self.outputs.push_back(Output::Drop { id: entry.id });
            }
        }
        self.resume(now, restored.undelivered);
        self.shrink_log();
        self.expire_log(now);
    }

    /// Handed over at once, what had waited would go before what it waited for.
    fn resume(&mut self, now: Instant, undelivered: Vec<Undelivered<A>>) {
        let mut by_author: BTreeMap<A, Vec<_>> = BTreeMap::new();
        for Undelivered { id, envelope, entries } in undelivered {
            let entries = entries & if id.is_valid() { all_entries(&id) } else { 0 };
            if entries == 0 || id.author == self.me {
                continue;
            }
            if self.seen.knows(&id.author) || !self.seen.is_full() {
                self.mark_seen(&id);
            }
            by_author.entry(id.author).or_default().push(Item { id, envelope, entries, from: None });
        }
        for (author, items) in by_author {
            let ready = self.order.resume(now, author, items);
            self.deliver(now, author, ready);
        }
    }

    /// What is known of an author, to be kept for [`restore`](Self::restore); `None` if it is not known. It changes with
    /// each [`Output::Append`] and each [`Output::Deliver`] of the author.
    pub fn author_state(&self, author: &A) -> Option<AuthorState<A>> {
        let mut state = self.seen.state(author)?;
        state.delivered = self.order.delivered(author);
        Some(state)
    }

    /// [`author_state`](Self::author_state) of all, in order.
    pub fn author_states(&self) -> impl Iterator<Item = AuthorState<A>> + '_ {
        self.seen.keys().filter_map(|author| self.author_state(author))
    }
}
