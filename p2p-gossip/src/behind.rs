//! What neighbours are owed whose links were full.
//!
//! If what comes behind a push that had no room were pushed as soon as there is some, it would be there first. So from then on
//! nothing of that author is pushed to that neighbour as it comes: all from there on follows out of the log, in order, as the
//! link takes it. When no more is left it is pushed to again.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::Instant;

use rand::Rng;
use tracing::debug;

use crate::message::{Announced, EnvelopeId, Key, Message, Read, Span, Ticket};
use crate::recent::Arrival;
use crate::state::Gossip;

/// Authors of whom one neighbour is owed something; of others what had no room is announced, and what comes behind it pushed.
const MAX_AUTHORS: usize = 1_024;
/// Envelopes looked at in one go.
const MAX_LOOKED_AT: usize = 256;

/// What one neighbour is owed.
#[derive(Debug)]
pub(crate) struct Behind<A> {
    /// Of each of these authors all from this seq on is still to be pushed.
    authors: BTreeMap<A, u64>,
    /// Whose turn it was last.
    served: Option<A>,
    /// Of what is being read for it from the log outside.
    reading: Option<Ticket>,
}

impl<A: Key> Behind<A> {
    const fn new() -> Self {
        Self { authors: BTreeMap::new(), served: None, reading: None }
    }

    /// Whether this one follows others that are to be pushed first.
    pub(crate) fn covers(&self, id: &EnvelopeId<A>) -> bool {
        self.authors.get(&id.author).is_some_and(|next| *next <= id.first)
    }

    /// Whose turn it is.
    fn next_author(&mut self) -> Option<A> {
        let after = |served| self.authors.range((Bound::Excluded(served), Bound::Unbounded)).next();
        let next = self.served.and_then(after).or_else(|| self.authors.first_key_value());
        self.served = next.map(|(author, _)| *author);
        self.served
    }
}

impl<P: Key, A: Key, R: Rng> Gossip<P, A, R> {
    /// The caller had no room for a push that [`Output::Send`](crate::Output::Send) asked for. It follows by
    /// [`push_owed`](Self::push_owed), and so does what comes behind it of its author; or it is announced.
    pub fn put_off(&mut self, now: Instant, to: P, id: EnvelopeId<A>, hops: u16) {
        let Some(neighbor) = self.tree.get(to) else { return };
        self.stats.put_off += 1;
        // With a limit for authors that would not hold: what is above it is in the log as well.
        let is_pushed_to = neighbor.eager && self.config.author_entries_per_sec.is_none();
        if !(is_pushed_to && self.owe(now, to, &id)) {
            self.announce_alone(now, to, id, hops);
        }
    }

    /// Whether this one is owed from now on, with all behind it.
    fn owe(&mut self, now: Instant, to: P, id: &EnvelopeId<A>) -> bool {
        // It asked for it, and has what is behind it.
        if self.log.travelled(now, id).is_none() || self.was_answered(to, id) {
            return false;
        }
        let known = self.behind.get(&to);
        let next = known.and_then(|behind| behind.authors.get(&id.author).copied());
        let is_full = known.is_some_and(|behind| behind.authors.len() >= MAX_AUTHORS);
        let is_owed = match next {
            Some(next) if next <= id.first => return true,
            // Those in the queue give up their place newest first; another one was pushed long after those behind it.
            Some(next) => !self.is_between(to, Span { author: id.author, from: id.seqs().end, to: next }),
            None => !is_full,
        };
        if is_owed {
            self.behind.entry(to).or_insert_with(Behind::new).authors.insert(id.author, id.first);
        }
        is_owed
    }

    /// Whether there is anything that a neighbour is owed within these seqs.
    fn is_between(&mut self, to: P, span: Span<A>) -> bool {
        let mut from = span.from;
        for _ in 0..MAX_LOOKED_AT {
            let next = self.log.within(Span { from, ..span }).find(|(id, ..)| id.first >= from);
            let Some((id, len, _)) = next else { return false };
            if self.is_wanted(to, &id, len) {
                return true;
            }
            from = id.seqs().end;
        }
        true
    }

    /// Whether it is to be pushed in its turn: large ones were announced, and others the neighbour has, or asked for.
    fn is_wanted(&mut self, to: P, id: &EnvelopeId<A>, len: usize) -> bool {
        let slot = self.tree.get(to).and_then(|neighbor| neighbor.slot);
        let is_there =
            |arrival: &mut Arrival<P>| arrival.from == Some(to) || arrival.announced.contains(slot);
        len <= self.config.eager_limit
            && !self.was_answered(to, id)
            && !self.recent.get_mut(id).is_some_and(is_there)
    }

    /// Whether it was sent it because it asked, over this link.
    fn was_answered(&mut self, to: P, id: &EnvelopeId<A>) -> bool {
        self.claims.up_since(to).is_some_and(|since| self.log.has_answered(id, to, since))
    }

    /// Whether a neighbour is owed something. Then [`push_owed`](Self::push_owed) is to be called whenever its link has room.
    pub fn is_owed(&self, to: P) -> bool {
        self.behind.contains_key(&to)
    }

    /// Whether a neighbour is owed messages of our own.
    pub fn is_owed_ours(&self, to: P) -> bool {
        self.behind.get(&to).is_some_and(|behind| behind.authors.contains_key(&self.me))
    }

    /// Pushes some of what a neighbour is owed, about [`Config::range_bytes`](crate::Config::range_bytes) of it. Whether there is
    /// more that can be pushed at once.
    pub fn push_owed(&mut self, now: Instant, to: P) -> bool {
        if self.behind.get(&to).is_none_or(|behind| behind.reading.is_some()) {
            return false;
        }
        let Some(mut behind) = self.behind.remove(&to) else { return false };
        if self.tree.get(to).is_none_or(|neighbor| !neighbor.eager) {
            // One of us prefers others by now. What it lacks all the same it asks for when it has compared.
            self.send_digest(now, to);
            return false;
        }
        self.expire_log(now);
        let (mut read, mut bytes) = (Vec::new(), 0);
        for _ in 0..MAX_LOOKED_AT {
            if bytes > 0 && bytes >= self.config.range_bytes {
                break;
            }
            let Some(author) = behind.next_author() else { break };
            let from = behind.authors.get(&author).copied().unwrap_or(u64::MAX);
            let rest = Span { author, from, to: u64::MAX };
            let next = self.log.within(rest).find(|(id, ..)| id.first >= from);
            let Some((id, len, _)) = next else {
                if !read.is_empty() {
                    // What comes now would be there before what is being read.
                    break;
                }
                behind.authors.remove(&author);
                continue;
            };
            behind.authors.insert(author, id.seqs().end);
            if !self.is_wanted(to, &id, len) {
                continue;
            }
            bytes += len;
            match self.log.envelope(&id) {
                Some(envelope) => {
                    self.push_logged(now, to, id, envelope);
                }
                None => read.push(id),
            }
        }
        debug!(peer = ?to, bytes, authors = behind.authors.len(), "pushed what its link had no room for");
        behind.reading = if read.is_empty() { None } else { Some(self.fetch_owed(to, read, bytes)) };
        let more = behind.reading.is_none() && !behind.authors.is_empty();
        if !behind.authors.is_empty() {
            self.behind.insert(to, behind);
        }
        more
    }

    /// What a neighbour is owed has been read. Nothing comes of it if the link is another one by now.
    pub(crate) fn on_owed_read(
        &mut self,
        now: Instant,
        to: P,
        ticket: Ticket,
        read: Vec<(EnvelopeId<A>, Read)>,
    ) {
        let Some(behind) = self.behind.get_mut(&to).filter(|behind| behind.reading == Some(ticket)) else {
            return;
        };
        behind.reading = None;
        if self.tree.get(to).is_none_or(|neighbor| !neighbor.eager) {
            return;
        }
        let mut failed = Vec::new();
        for (id, read) in read {
            match read {
                Read::Found(envelope) => {
                    self.push_logged(now, to, id, envelope);
                }
                Read::Gone => self.forget_logged(now, id),
                Read::Failed => failed.push(id),
            }
        }
        // It may ask for those: they may be read another time.
        let line = |id: EnvelopeId<A>| Announced { id, hops: u16::MAX, wait: false };
        let ids: Vec<_> = failed.into_iter().map(line).collect();
        if !ids.is_empty() {
            self.stats.ihaves_sent += ids.len() as u64;
            self.send(to, Message::IHave { ids });
        }
    }
}
