//! Catch-up: neighbours compare what their logs hold, and who lacks something asks for it.
//!
//! On a new link, and now and then with a random neighbour, each side tells the sum of its log. If they differ, both
//! tell the sums of 256 buckets of authors, then what they hold of the authors in those that differ. What one of them
//! lacks it pulls, some of each author at a time from one neighbour at a time, lowest seqs first so that it can be
//! handed over in order, and passes it on by IHAVE: others are catching up too, and a push would be the second copy.
//! Summaries are hints about what to ask for. They change nothing else.

use std::time::{Duration, Instant};

use rand::{Rng, RngExt};
use tracing::debug;

use crate::claims::Peer;
use crate::message::{EnvelopeId, Fault, Held, Key, Message, Output, Span, Sum};
use crate::ranges::Ranges;
use crate::state::{Gossip, Timer};
use crate::sums::BUCKETS;
use crate::wanted::{Next, Wanted};

/// Bytes of the head of a frame.
const HEAD_BYTES: u32 = 16;
/// A summary is not sent again before this, so that two that answer each other come to an end.
const EXCHANGE_AGAIN: Duration = Duration::from_secs(5);
/// Before something is looked at again that was in the way.
const RETRY: Duration = Duration::from_millis(250);

/// Comparing.
impl<P: Key, A: Key, R: Rng> Gossip<P, A, R> {
    /// Says into which of 256 buckets an author belongs. Neighbours have to agree; call it before anything else. Without
    /// it all are in one, and two nodes that differ tell each other all they hold.
    pub fn set_buckets(&mut self, bucket_of: fn(&A) -> u8) {
        self.log.set_buckets(bucket_of);
    }

    pub(crate) fn on_neighbor_up(&mut self, now: Instant, peer: P) {
        if self.tree.contains(peer) {
            return;
        }
        self.tree.up(now, peer, &self.config);
        if let (Some(left), Some(neighbor)) = (self.former.back(peer), self.tree.get_mut(peer)) {
            neighbor.introductions = left;
        }
        self.claims.up(now, peer, &self.config);
        self.send_digest(now, peer);
        if self.timers.get(Timer::Digest).is_none() {
            self.timers.set(Timer::Digest, now.checked_add(self.config.digest_every));
        }
    }

    /// Whether a new neighbour may still say that it holds messages of ours which we do not know, or hands them over: for 2 s
    /// after it came, and as long as some come. Until then our numbers may be those of an old copy.
    pub fn is_comparing(&mut self, now: Instant) -> bool {
        self.claims.are_greeting(now) || self.claims.coming(now, self.me, &self.seen).is_some()
    }

    /// The time has come to compare with somebody, whether a link is new or not.
    pub(crate) fn on_digest_timer(&mut self, now: Instant) {
        if self.tree.len() == 0 {
            return;
        }
        let at = self.rng.random_range(0..self.tree.len());
        let peer = self.tree.iter().nth(at).map(|(peer, _)| peer);
        if let Some(peer) = peer {
            self.send_digest(now, peer);
        }
        // A wait of nothing would be one without end.
        let wait = self.config.digest_every.max(Duration::from_millis(1));
        self.timers.set(Timer::Digest, now.checked_add(wait));
    }

    pub(crate) fn send_digest(&mut self, now: Instant, peer: P) {
        let sums = vec![self.log.sum()];
        if self.spends(now, peer, HEAD_BYTES * 2) {
            self.send(peer, Message::Digest { sums });
        }
    }

    /// Whether a summary of so many bytes may be sent to a neighbour.
    pub(crate) fn spends(&mut self, now: Instant, peer: P, bytes: u32) -> bool {
        let spends = self.claims.get_mut(peer).is_some_and(|of| of.summaries.take_many(now, bytes));
        self.stats.summaries_spared += u64::from(!spends);
        spends
    }

    pub(crate) fn on_digest(&mut self, now: Instant, from: P, sums: &[Sum]) {
        if !self.claims.get_mut(from).is_some_and(|of| of.digests.take(now)) {
            self.stats.refused_digests += 1;
            return;
        }
        // Only what a new link may bring is waited for: later on the sums of any two differ by what is on its way.
        let greets = self.claims.get_mut(from).is_some_and(Peer::greets);
        match sums {
            [theirs] if *theirs == self.log.sum() => self.note_own_held(0, u64::MAX),
            [_] => {
                // One that is not answered makes nobody wait for what follows.
                if self.send_bucket_sums(now, from) && greets {
                    self.claims.begin_exchange(now, from);
                }
            }
            theirs if theirs.len() == BUCKETS => {
                self.send_bucket_sums(now, from);
                self.send_ranges(now, from, theirs);
            }
            _ => self.refuse_malformed(from),
        }
    }

    /// Whether it was time to.
    fn send_bucket_sums(&mut self, now: Instant, to: P) -> bool {
        let bytes = HEAD_BYTES + u32::try_from(BUCKETS * size_of::<Sum>()).unwrap_or(u32::MAX);
        if !self.claims.get_mut(to).is_some_and(|of| is_over(now, of.sums_sent))
            || !self.spends(now, to, bytes)
        {
            return false;
        }
        if let Some(peer) = self.claims.get_mut(to) {
            peer.sums_sent = Some(now);
        }
        let sums = self.log.bucket_sums();
        self.send(to, Message::Digest { sums });
        true
    }

    pub(crate) fn on_ranges(&mut self, now: Instant, from: P, held: &[Held<A>]) {
        if held.len() > self.config.max_claims {
            let (count, limit) = (held.len(), self.config.max_claims);
            return self.blame(from, Fault::TooManyIds { count, limit });
        }
        if !held.iter().all(|held| held.span.is_valid()) {
            return self.refuse_malformed(from);
        }
        let was_awaited = self.claims.get_mut(from).is_some_and(Peer::end_exchange);
        if let Some(neighbor) = self.tree.get_mut(from) {
            neighbor.on_evidence(now);
        }
        self.claims.make_room(from, held.len(), &self.seen);
        let mut lacks = false;
        for theirs in held {
            let span = &theirs.span;
            if span.author == self.me {
                self.note_own_held(span.from, span.to);
            }
            if self.seen.unseen(&span.author, span.from, span.to).next().is_none() {
                self.compare(now, from, theirs);
                continue;
            }
            lacks = true;
            if !self.claims.claim(now, from, *span) {
                self.stats.refused_claims += 1;
            }
        }
        if lacks {
            self.look_soon(now, from, self.config.catch_up_delay);
        }
        if was_awaited {
            for author in self.order.not_begun() {
                self.on_hole_timer(now, author);
            }
        }
    }

    /// Somebody says that it holds what is here of our own.
    pub(crate) fn note_own_held(&mut self, from: u64, to: u64) {
        if self.log.within(Span { author: self.me, from, to }).next().is_some() {
            self.outputs.push_back(Output::HoldsOwn { from, to });
        }
    }

    fn look_soon(&mut self, now: Instant, peer: P, delay: Duration) {
        if let Some(of) = self.claims.get_mut(peer) {
            of.look(now.checked_add(delay).unwrap_or(now));
        }
        self.set_catch_up_timer();
    }
}

pub(crate) fn is_over(now: Instant, sent: Option<Instant>) -> bool {
    sent.is_none_or(|at| now.saturating_duration_since(at) >= EXCHANGE_AGAIN)
}

/// Pulling.
impl<P: Key, A: Key, R: Rng> Gossip<P, A, R> {
    pub(crate) fn on_catch_up_timer(&mut self, now: Instant) {
        for spans in self.claims.expire(now, self.config.range_timeout) {
            debug!(spans = spans.len(), "what was missed was not handed over in time");
            self.stats.ranges_timed_out += 1;
            self.pull_announced(now, &spans);
            self.claims.wake(now);
        }
        self.pull_ranges(now);
        self.tell_on(now);
    }

    /// The answer to a pull is complete, so far.
    pub(crate) fn on_served(&mut self, now: Instant, from: P, answer: (u32, u16, u64)) {
        if self.on_asked(now, from, answer.0, answer.1) {
            return;
        }
        let rate = (self.config.range_pulls_per_sec - self.config.range_pulls_per_sec / 5).max(1);
        let Some(spans) = self.claims.served(now, from, answer, Duration::from_secs(1) / rate) else {
            self.stats.unknown_answers += 1;
            return;
        };
        self.pull_announced(now, &spans);
        self.claims.wake(now);
        self.pull_ranges(now);
    }

    /// A neighbour is gone: what it was asked for is asked of others.
    pub(crate) fn drop_claims(&mut self, now: Instant, peer: P) {
        self.asks.down(peer);
        self.gaps.down(peer);
        let spans = self.claims.down(peer);
        if self.tree.len() == 0 {
            self.timers.set(Timer::Digest, None);
        }
        self.pull_announced(now, &spans);
        self.claims.wake(now);
        self.pull_ranges(now);
    }

    /// What was announced while it was asked for as a part of a range is asked for alone, if it did not come.
    fn pull_announced(&mut self, now: Instant, spans: &[Span<A>]) {
        for span in spans {
            for id in self.missing.within(*span) {
                self.pull(now, id);
            }
        }
    }

    /// Asks all neighbours that have something and are not asked already.
    fn pull_ranges(&mut self, now: Instant) {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let mut peers: Vec<P> =
            self.claims.peers().filter(|(_, of)| due(of.look_at)).map(|(p, _)| p).collect();
        if peers.len() > 1 {
            // So that not the same one is asked first each time.
            let start = self.rng.random_range(0..peers.len());
            peers.rotate_left(start);
        }
        for peer in peers {
            let again = if self.claims.is_ready(now, peer) { self.pull_ranges_of(now, peer) } else { None };
            if let Some(of) = self.claims.get_mut(peer) {
                of.look_at = again.and_then(|wait| now.checked_add(wait));
            }
        }
        self.set_catch_up_timer();
    }

    /// Returns after which time to try again.
    fn pull_ranges_of(&mut self, now: Instant, peer: P) -> Option<Duration> {
        if self.recent.queued() > self.config.max_recent / 2 || !self.has_room(peer, 1) {
            // What came has to go on first.
            return Some(RETRY);
        }
        let new_authors = self.tree.get_mut(peer).map_or(0, |neighbor| neighbor.introductions.tokens(now));
        let (missing, checks) = (&self.missing, &self.checks);
        let coming = |author| {
            let mut seqs: Vec<_> = missing.of(author).chain(checks.of(author)).map(|id| id.seqs()).collect();
            // Runs are whatever who announces says, so the seqs need not rise, and each that does not moves those behind it.
            seqs.sort_unstable_by_key(|seqs| seqs.start);
            let mut coming = Ranges::default();
            seqs.into_iter().for_each(|seqs| coming.insert(seqs.start, seqs.end));
            coming
        };
        let wanted = Wanted {
            seen: &self.seen,
            coming: &coming,
            messages: self.config.range_messages.max(1),
            new_authors,
        };
        match self.claims.next_pull(now, peer, wanted) {
            Next::Pull(number, spans) => {
                self.stats.ranges_pulled += spans.len() as u64;
                self.send(peer, Message::Pull { number, spans });
                None
            }
            Next::Later(waits) => Some(RETRY * waits),
            Next::Nothing => None,
        }
    }

    pub(crate) fn set_catch_up_timer(&mut self) {
        let looks =
            self.claims.peers().filter_map(|(_, of)| of.look_at.into_iter().chain(of.tells_at()).min()).min();
        let expires = self.claims.expires_at(self.config.range_timeout);
        self.timers.set(Timer::CatchUp, looks.into_iter().chain(expires).min());
    }

    /// A push came that is a part of what a neighbour was asked for. Whether it is.
    pub(crate) fn is_caught_up(&mut self, now: Instant, from: P, id: &EnvelopeId<A>) -> bool {
        let is_asked = self.claims.is_asked_of(from, id);
        if is_asked {
            self.claims.came(now, from);
        }
        is_asked
    }
}
