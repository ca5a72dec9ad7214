//! What neighbours say they hold, and what of it they were asked for: each author of one neighbour at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::bucket::Bucket;
use crate::config::Config;
use crate::message::{EnvelopeId, Key, Span};
use crate::seen::Seen;
use crate::tell::Rest;
use crate::wanted::{Next, Wanted};

/// Spans in one pull.
pub const MAX_SPANS: usize = 256;
/// What comes live waits for older messages only while neighbours go on handing some over, one each so long.
const ALIVE: Duration = Duration::from_secs(3);
/// An exchange of digests that takes longer is over.
const EXCHANGE: Duration = Duration::from_secs(2);
/// A pull is over after so many times the wait for the next part of its answer, however much comes: while it lasts nobody else
/// is asked for its authors. A minute, in which a link of 4 KB/s brings all of it.
const MOST_WAITS: u32 = 12;
/// Looks of [`Next::Later`] in a row double the wait for the next one this often.
const MAX_DOUBLINGS: u32 = 4;
/// The pause after a pull that nobody answered; it doubles up to 64 times that.
const PENALTY: Duration = Duration::from_secs(10);

/// A range that a neighbour said it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    from: u64,
    pub(crate) to: u64,
    /// Below it is nothing more to ask this neighbour for.
    pub(crate) next: u64,
}

/// What a neighbour is asked for.
#[derive(Debug)]
pub(crate) struct Open<A> {
    pub(crate) number: u32,
    pub(crate) spans: Vec<Span<A>>,
    since: Instant,
    /// When something of it came last.
    moved: Instant,
}

/// One neighbour.
#[derive(Debug)]
pub(crate) struct Peer<A> {
    /// Of each author rising, not overlapping.
    claims: BTreeMap<A, Vec<Claim>>,
    /// Those with the newest envelopes first.
    newest: Vec<A>,
    count: usize,
    pub(crate) open: Option<Open<A>>,
    /// No pull before it.
    ready_at: Instant,
    /// When to look for something to ask it for.
    pub(crate) look_at: Option<Instant>,
    /// Pulls left unanswered in a row.
    failures: u32,
    /// Times in a row that all it holds was on its way otherwise.
    in_vain: u32,
    /// It claimed something, and nothing that it was asked for has come since.
    waited_for: bool,
    since: Instant,
    /// Its first digest has come.
    greeted: bool,
    /// That differs from ours, and what it holds is not known yet.
    exchange: Option<Instant>,
    /// When it was told that messages of our own are here, where its sums differ, or was handed one of an earlier run that it lacked.
    pub(crate) own_told: Option<Instant>,
    /// What it is still to be told of what is here.
    pub(crate) rest: Option<Rest<A>>,
    /// When our bucket sums and our ranges were sent last.
    pub(crate) sums_sent: Option<Instant>,
    pub(crate) ranges_sent: Option<Instant>,
    /// Bytes of summaries that may be sent to it.
    pub(crate) summaries: Bucket,
    /// Pulls of its that are answered.
    pub(crate) pulls: Bucket,
    /// Envelopes of ours that are looked at to compare a range of its.
    pub(crate) compares: Bucket,
    /// Digests of its that are looked at: each may want a sum made anew.
    pub(crate) digests: Bucket,
}

/// All neighbours.
#[derive(Debug)]
pub(crate) struct Claims<P, A> {
    peers: BTreeMap<P, Peer<A>>,
    /// Of whom the author is being asked for.
    busy: BTreeMap<A, P>,
    /// Authors of whom something claimed may not be here.
    lacking: BTreeSet<A>,
    /// When something was claimed or came last.
    moved: Option<Instant>,
    /// When the last exchange began, over or not.
    exchanged_at: Option<Instant>,
    next_number: u32,
    max: usize,
}

impl<P: Key, A: Key> Claims<P, A> {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            peers: BTreeMap::new(),
            busy: BTreeMap::new(),
            lacking: BTreeSet::new(),
            moved: None,
            exchanged_at: None,
            next_number: 0,
            max: config.max_claims,
        }
    }

    pub(crate) fn up(&mut self, now: Instant, peer: P, config: &Config) {
        let per_sec = config.range_pulls_per_sec;
        let fresh = || Peer {
            claims: BTreeMap::new(),
            newest: Vec::new(),
            count: 0,
            open: None,
            ready_at: now,
            look_at: None,
            failures: 0,
            in_vain: 0,
            waited_for: false,
            since: now,
            greeted: false,
            exchange: None,
            own_told: None,
            rest: None,
            sums_sent: None,
            ranges_sent: None,
            summaries: Bucket::new(now, config.summary_bytes_per_sec, config.summary_bytes),
            pulls: Bucket::new(now, per_sec, per_sec.saturating_mul(10)),
            compares: Bucket::new(now, 20_000, 200_000),
            digests: Bucket::new(now, 1, 20),
        };
        self.peers.entry(peer).or_insert_with(fresh);
    }

    /// Forgets a neighbour. Returns what it was being asked for.
    pub(crate) fn down(&mut self, peer: P) -> Vec<Span<A>> {
        let open = self.peers.remove(&peer).and_then(|gone| gone.open);
        let spans = open.map(|open| open.spans).unwrap_or_default();
        self.free(&spans);
        spans
    }

    pub(crate) fn get_mut(&mut self, peer: P) -> Option<&mut Peer<A>> {
        self.peers.get_mut(&peer)
    }

    /// What a neighbour holds is about to be known.
    pub(crate) fn begin_exchange(&mut self, now: Instant, peer: P) {
        if let Some(of) = self.peers.get_mut(&peer) {
            of.exchange = Some(now);
            self.exchanged_at = Some(now);
        }
    }

    pub(crate) fn peers(&self) -> impl Iterator<Item = (P, &Peer<A>)> {
        self.peers.iter().map(|(&peer, of)| (peer, of))
    }

    /// Forgets what a neighbour said of that is here by now, if it is about to say more than is remembered of it.
    pub(crate) fn make_room(&mut self, peer: P, lines: usize, seen: &Seen<A>) {
        let Some(of) = self.peers.get_mut(&peer).filter(|of| of.count + lines > self.max) else { return };
        of.claims.retain(|author, claims| {
            claims.retain(|claim| seen.unseen(author, claim.next, claim.to).next().is_some());
            !claims.is_empty()
        });
        of.count = of.claims.values().map(Vec::len).sum();
        of.newest.retain(|author| of.claims.contains_key(author));
    }

    /// Notes that a neighbour holds this, of which not all is here. False if it has claimed too much.
    pub(crate) fn claim(&mut self, now: Instant, peer: P, span: Span<A>) -> bool {
        let Some(of) = self.peers.get_mut(&peer) else { return false };
        let claims = of.claims.entry(span.author).or_default();
        let before = claims.len();
        let from = claims.partition_point(|claim| claim.to < span.from);
        let to = claims.partition_point(|claim| claim.from <= span.to);
        if from >= to && of.count >= self.max {
            if claims.is_empty() {
                of.claims.remove(&span.author);
            }
            return false;
        }
        let Span { author, from: start, to: end } = span;
        let mut merged = Claim { from: start, to: end, next: start };
        let known = claims.get(from..to).unwrap_or_default();
        for claim in known {
            merged = Claim {
                from: merged.from.min(claim.from),
                to: merged.to.max(claim.to),
                next: merged.next.min(claim.next),
            };
        }
        // Said again it is no news, and nobody waits longer for it. Nor for what is said by one that was waited for and has
        // handed over nothing since: claiming a little more every second would hold up each message of the author.
        let is_news = !matches!(known, [one] if (one.from, one.to) == (merged.from, merged.to));
        if is_news && !std::mem::replace(&mut of.waited_for, true) {
            self.moved = Some(now);
        }
        if before == 0 {
            of.newest.push(author);
        }
        claims.splice(from..to.max(from), [merged]);
        of.count = of.count + claims.len() - before;
        self.lacking.insert(author);
        true
    }

    /// Since when a neighbour is one.
    pub(crate) fn up_since(&self, peer: P) -> Option<Instant> {
        self.peers.get(&peer).map(|of| of.since)
    }

    /// Who said to hold this envelope.
    pub(crate) fn claimants(&self, id: &EnvelopeId<A>) -> impl Iterator<Item = P> + '_ {
        let (author, seqs) = (id.author, id.seqs());
        let covers = move |claim: &Claim| claim.from <= seqs.start && seqs.end <= claim.to;
        let claims = move |of: &Peer<A>| of.claims.get(&author).is_some_and(|c| c.iter().any(&covers));
        self.peers.iter().filter(move |(_, of)| claims(of)).map(|(&peer, _)| peer)
    }

    /// What to ask a neighbour for now; it has to be [ready](Self::is_ready). The pull counts as sent.
    pub(crate) fn next_pull(&mut self, now: Instant, peer: P, mut wanted: Wanted<'_, A>) -> Next<A> {
        let Some(of) = self.peers.get_mut(&peer) else { return Next::Nothing };
        let (mut spans, mut later) = (Vec::new(), false);
        for author in &of.newest {
            if !self.lacking.contains(author) {
                continue;
            }
            if spans.len() >= MAX_SPANS || wanted.messages == 0 {
                later = true;
                break;
            }
            let Some(claims) = of.claims.get(author) else { continue };
            if self.busy.contains_key(author) {
                later |= claims.iter().any(|claim| claim.next < claim.to);
                continue;
            }
            let before = spans.len();
            let is_new = !wanted.seen.knows(author);
            if is_new && (wanted.new_authors == 0 || wanted.seen.is_full()) {
                continue;
            }
            let coming = (wanted.coming)(*author);
            for claim in claims {
                later |= wanted.take(*author, *claim, &coming, &mut spans);
            }
            wanted.new_authors -= u64::from(is_new && spans.len() > before);
        }
        if spans.is_empty() {
            of.in_vain = if later { of.in_vain.saturating_add(1) } else { 0 };
            return if later { Next::Later(1 << of.in_vain.min(MAX_DOUBLINGS)) } else { Next::Nothing };
        }
        of.in_vain = 0;
        self.busy.extend(spans.iter().map(|span| (span.author, peer)));
        self.next_number = self.next_number.wrapping_add(1);
        let number = self.next_number;
        of.open = Some(Open { number, spans: spans.clone(), since: now, moved: now });
        Next::Pull(number, spans)
    }

    pub(crate) fn is_ready(&self, now: Instant, peer: P) -> bool {
        self.peers.get(&peer).is_some_and(|of| of.open.is_none() && of.ready_at <= now)
    }

    /// Whether this envelope is being asked for as a part of a range.
    pub(crate) fn is_asked(&self, id: &EnvelopeId<A>) -> bool {
        self.busy.get(&id.author).is_some_and(|&peer| self.is_asked_of(peer, id))
    }

    /// The same of one neighbour.
    pub(crate) fn is_asked_of(&self, peer: P, id: &EnvelopeId<A>) -> bool {
        let open = self.peers.get(&peer).and_then(|of| of.open.as_ref());
        let meets = |span: &Span<A>| span.author == id.author && span.meets(&id.seqs());
        open.is_some_and(|open| open.spans.iter().any(meets))
    }

    /// Something of what a neighbour was asked for came.
    pub(crate) fn came(&mut self, now: Instant, peer: P) {
        if let Some(of) = self.peers.get_mut(&peer)
            && let Some(open) = &mut of.open
        {
            open.moved = now;
            of.waited_for = false;
        }
    }

    /// What came was verified and new.
    pub(crate) fn progress(&mut self, now: Instant) {
        self.moved = Some(now);
    }

    /// A pull was answered so far: what of it did not come is not there. Returns what was asked for, or `None` if this
    /// answers no open pull.
    pub(crate) fn served(
        &mut self,
        now: Instant,
        peer: P,
        (number, done, upto): (u32, u16, u64),
        pause: Duration,
    ) -> Option<Vec<Span<A>>> {
        let of = self.peers.get_mut(&peer)?;
        let open = of.open.take_if(|open| open.number == number)?;
        let first = open.spans.first().map_or(0, |span| span.from);
        if done == 0 && upto <= first {
            // It has no room to read for us, or does not want to: that says nothing of what it holds.
            of.fail(now);
            self.free(&open.spans);
            return Some(open.spans);
        }
        let done = usize::from(done);
        for (at, span) in open.spans.iter().enumerate().take(done.saturating_add(1)) {
            let end = if at < done { span.to } else { upto.min(span.to) };
            for claim in of.claims.get_mut(&span.author).into_iter().flatten() {
                if claim.from < end && span.from < claim.to {
                    claim.next = claim.next.max(end.min(claim.to));
                }
            }
        }
        let took = now.saturating_duration_since(open.since);
        of.failures = 0;
        of.rest(now, (took * 3).max(pause));
        self.free(&open.spans);
        Some(open.spans)
    }

    /// Something may be free that was in the way of those that would have been looked at later.
    pub(crate) fn wake(&mut self, now: Instant) {
        for of in self.peers.values_mut().filter(|of| of.ready_at <= now && of.look_at.is_some()) {
            of.look_at = Some(now);
        }
    }

    /// Ends the pulls that were not answered in time, and returns what they asked for.
    pub(crate) fn expire(&mut self, now: Instant, timeout: Duration) -> Vec<Vec<Span<A>>> {
        let mut ended = Vec::new();
        for of in self.peers.values_mut() {
            let is_over = |open: &mut Open<A>| open.ends_at(timeout).is_none_or(|at| at <= now);
            if let Some(open) = of.open.take_if(is_over) {
                of.fail(now);
                ended.push(open.spans);
            }
        }
        ended.iter().for_each(|spans| self.free(spans));
        ended
    }

    /// When the open pull of a neighbour is over, if nothing more comes.
    pub(crate) fn expires_at(&self, timeout: Duration) -> Option<Instant> {
        self.peers.values().filter_map(|of| of.open.as_ref()?.ends_at(timeout)).min()
    }

    /// Whether the first digest of a neighbour is on its way.
    pub(crate) fn are_greeting(&self, now: Instant) -> bool {
        self.peers.values().any(|of| !of.greeted && now.saturating_duration_since(of.since) < EXCHANGE)
    }

    /// The lowest seq of this author that a neighbour holds and is likely to hand over; 0 if that is about to be
    /// known.
    pub(crate) fn coming(&mut self, now: Instant, author: A, seen: &Seen<A>) -> Option<u64> {
        let within =
            |at: Option<Instant>, time| at.is_some_and(|at| now.saturating_duration_since(at) < time);
        // Asked for each envelope: mostly nothing has to be looked through.
        if within(self.exchanged_at, EXCHANGE) && self.peers.values().any(|of| within(of.exchange, EXCHANGE))
        {
            return Some(0);
        }
        if !within(self.moved, ALIVE) || !self.lacking.contains(&author) {
            return None;
        }
        // A claim of which all is here is not looked through again, and those of one neighbour rise.
        let first = |claim: &mut Claim| {
            let first = seen.unseen(&author, claim.next, claim.to).next().map(|(from, _)| from);
            if first.is_none() {
                claim.next = claim.to;
            }
            first
        };
        let claims = self.peers.values_mut().filter_map(|of| of.claims.get_mut(&author));
        let lowest = claims.filter_map(|claims| claims.iter_mut().find_map(first)).min();
        if lowest.is_none() {
            self.lacking.remove(&author);
        }
        lowest
    }

    fn free(&mut self, spans: &[Span<A>]) {
        for span in spans {
            self.busy.remove(&span.author);
        }
    }
}

impl<A> Open<A> {
    /// When it is over, if nothing more comes.
    fn ends_at(&self, timeout: Duration) -> Option<Instant> {
        let at_most = self.since.checked_add(timeout.saturating_mul(MOST_WAITS))?;
        self.moved.checked_add(timeout).map(|at| at.min(at_most))
    }
}

impl<A: Key> Peer<A> {
    /// Whether this is its first digest.
    pub(crate) fn greets(&mut self) -> bool {
        !std::mem::replace(&mut self.greeted, true)
    }

    /// It has said what it holds. Whether that was waited for.
    pub(crate) fn end_exchange(&mut self) -> bool {
        self.exchange.take().is_some()
    }

    /// A pull of it came to nothing.
    fn fail(&mut self, now: Instant) {
        self.rest(now, PENALTY * (1 << self.failures.min(6)));
        self.failures += 1;
    }

    /// Nothing is asked of it for a while.
    fn rest(&mut self, now: Instant, pause: Duration) {
        self.ready_at = now.checked_add(pause).unwrap_or(now);
        self.look_at = Some(self.ready_at);
    }

    /// Something may be there to ask it for, not before `at`.
    pub(crate) fn look(&mut self, at: Instant) {
        let at = at.max(self.ready_at);
        self.look_at = Some(self.look_at.map_or(at, |before| before.min(at)));
    }
}
