//! The core: dispatches inputs to its parts and owns them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::Rng;
use tracing::{debug, trace};

use crate::asks::Asks;
use crate::behind::Behind;
use crate::bucket::Bucket;
use crate::checks::{Candidate, Checks, Closed, Copied, Hint, Sender};
use crate::claims::Claims;
use crate::config::Config;
use crate::digest::digest;
use crate::fetch::Fetches;
use crate::former::Former;
use crate::gaps::Gaps;
use crate::log::Log;
use crate::message::{
    Announced, Course, EnvelopeId, Fault, Input, Key, Message, Output, PublishError, Queued, Sum, Ticket,
};
use crate::missing::Missing;
use crate::order::{Item, Order};
use crate::pace::Pace;
use crate::recent::{Arrival, Recent};
use crate::seen::{Seen, Status, all_entries};
use crate::stats::Stats;
use crate::timers::Timers;
use crate::tree::Tree;
use crate::wait::Wait;

/// What a deadline is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer<A> {
    /// The tree should have brought this id.
    Graft(EnvelopeId<A>),
    /// What waits is to be announced.
    Announce,
    /// The pull of this id should have been answered.
    Pull(EnvelopeId<A>),
    /// Something of this author was held back long enough.
    Hole(A),
    /// The oldest envelope of the log is too old.
    LogAge,
    /// Something that was missed may be asked for, or should have come.
    CatchUp,
    /// Somebody is to be told the digest of the log.
    Digest,
    /// Somebody is to be asked for what is missing inside a run.
    Gap,
}

/// One member of a broadcast group: a state machine without clock, sockets or keys.
///
/// `P` names neighbours, `A` names authors; they may be the same type. See the crate documentation for the
/// contract and an example.
#[derive(Debug)]
pub struct Gossip<P, A, R> {
    pub(crate) me: A,
    /// Our seqs below it may have been used.
    pub(crate) own_next: u64,
    /// The run of what was published last by this process.
    pub(crate) own_run: Option<u64>,
    pub(crate) config: Config,
    pub(crate) rng: R,
    pub(crate) tree: Tree<P, A>,
    pub(crate) former: Former<P>,
    pub(crate) recent: Recent<P, A>,
    /// From an announcement to what the tree brings.
    pub(crate) wait: Wait,
    /// When a GRAFT last asked for an envelope.
    pub(crate) grafted_at: Option<Instant>,
    /// The rate of our announcements; there from the first one on.
    pub(crate) announcing: Option<Bucket>,
    /// Neighbours whose links were full, and what they are owed.
    pub(crate) behind: BTreeMap<P, Behind<A>>,
    /// Links grafted for ones that went.
    pub(crate) replacing: Option<Bucket>,
    pub(crate) pace: Pace<A>,
    pub(crate) seen: Seen<A>,
    pub(crate) checks: Checks<P, A>,
    pub(crate) missing: Missing<P, A>,
    pub(crate) order: Order<P, A>,
    pub(crate) log: Log<P, A>,
    pub(crate) fetches: Fetches<P, A>,
    pub(crate) claims: Claims<P, A>,
    pub(crate) asks: Asks<P, A>,
    pub(crate) gaps: Gaps<P, A>,
    /// Authors of whom the application was told; known authors alone.
    pub(crate) forked: BTreeSet<A>,
    pub(crate) timers: Timers<Timer<A>>,
    /// Drained by the caller after each call, so it holds what one input causes and no more.
    pub(crate) outputs: VecDeque<Output<P, A>>,
    pub(crate) stats: Stats,
}

impl<P: Key, A: Key, R: Rng> Gossip<P, A, R> {
    /// A core without neighbours that knows nobody but itself.
    ///
    /// `me` is the author of what is [published](Self::publish) here and is never heard. `rng` decides whom
    /// to serve first.
    pub fn new(me: A, config: Config, rng: R) -> Self {
        Self {
            me,
            own_next: 0,
            own_run: None,
            rng,
            tree: Tree::new(),
            former: Former::new(),
            recent: Recent::new(config.max_recent),
            wait: Wait::new(config.graft_min, config.graft_max),
            grafted_at: None,
            announcing: None,
            behind: BTreeMap::new(),
            replacing: None,
            pace: Pace::new(config.author_entries_per_sec, config.max_authors),
            seen: Seen::new(me, config.max_authors, config.max_ranges, config.max_ranges_total),
            checks: Checks::new(),
            missing: Missing::new(config.max_announced, config.max_pulls),
            order: Order::new(&config),
            log: Log::new(&config),
            fetches: Fetches::new(),
            claims: Claims::new(&config),
            asks: Asks::new(),
            gaps: Gaps::new(config.max_holes),
            forked: BTreeSet::new(),
            timers: Timers::new(),
            outputs: VecDeque::new(),
            stats: Stats::default(),
            config,
        }
    }

    /// Says that our seqs below `next` may have been used, by an earlier run or elsewhere. Never lowers it.
    ///
    /// Call it before the first input after a restart; without it, our own earlier messages that come back
    /// are taken for someone else's use of our identity ([`Output::OwnAhead`]).
    pub fn resume_at(&mut self, next: u64) {
        self.own_next = self.own_next.max(next);
    }

    /// Takes what the network, the check or the clock did. Drain [`poll_output`](Self::poll_output)
    /// afterwards.
    pub fn handle(&mut self, now: Instant, input: Input<P, A>) {
        trace!(?input);
        match input {
            Input::Received { from, message } => self.on_received(now, from, message),
            Input::NeighborUp(peer) => self.on_neighbor_up(now, peer),
            Input::NeighborDown(peer) => self.on_neighbor_down(now, peer),
            Input::Timeout => self.on_timeout(now),
            Input::Verified { ticket, digest } => self.on_verified(now, ticket, digest),
            Input::Fetched { ticket, envelopes } => self.on_fetched(now, ticket, envelopes),
        }
    }

    /// Sends an envelope of our own to everybody. Drain [`poll_output`](Self::poll_output) afterwards.
    ///
    /// It is not checked: the caller signed it. Seqs have to rise; gaps are harmless between runs and cost
    /// others up to [`Config::hold_time`] inside one.
    ///
    /// # Errors
    ///
    /// [`PublishError`] says what is wrong with the envelope or its id; nothing was changed or sent then.
    pub fn publish(
        &mut self,
        now: Instant,
        id: EnvelopeId<A>,
        envelope: Bytes,
    ) -> Result<Queued, PublishError> {
        if id.author != self.me {
            return Err(PublishError::NotOurs);
        }
        if !id.is_valid() {
            return Err(PublishError::BadId);
        }
        if envelope.len() > self.config.max_envelope {
            return Err(PublishError::TooLarge { len: envelope.len(), limit: self.config.max_envelope });
        }
        if id.first < self.own_next {
            return Err(PublishError::UsedSeq { first: id.first, next: self.own_next });
        }
        (self.own_next, self.own_run) = (id.seqs().end, Some(id.run));
        self.mark_seen(&id);
        self.stats.published += 1;
        self.keep(now, id, (0, Duration::ZERO), &envelope, digest(&envelope), false);
        let anew = self.tree.wants_renewal(self.me, &self.config);
        let course = if anew { Course::Anew } else { Course::Tree };
        let links = self.forward(now, id, Arrival::new(None, 0, course, Duration::ZERO), &envelope);
        Ok(Queued { links })
    }

    /// The next thing to do, or `None` when all is done for now.
    pub fn poll_output(&mut self) -> Option<Output<P, A>> {
        let output = self.outputs.pop_front()?;
        trace!(?output);
        Some(output)
    }

    /// When [`Input::Timeout`] is due, if nothing else happens before.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Whether this neighbour has room for more checks. The caller should not read its link while this is
    /// false; what it hands over all the same is kept up to twice the limits of [`Config`], and beyond that
    /// counts as an announcement.
    pub fn ready_for(&self, peer: P) -> bool {
        self.has_room(peer, 1)
    }

    fn on_received(&mut self, now: Instant, from: P, message: Message<A>) {
        let late = matches!(message, Message::Push { .. }) && self.former.is_heard(now, from);
        if !self.tree.contains(from) && !late {
            self.stats.not_neighbor += 1;
            return;
        }
        match message {
            Message::Push { id, hops, course, age, envelope } => {
                self.on_push(now, from, id, Hint::new(now, hops, course, age), envelope)
            }
            Message::IHave { ids } => self.on_ihave(now, from, &ids),
            Message::Graft { id } => self.on_graft(now, from, id),
            Message::IWant { ids } => self.on_iwant(now, from, &ids),
            Message::Prune => self.on_prune(from),
            Message::Digest { sums } => self.on_digest(now, from, &sums),
            Message::Ranges { held } => self.on_ranges(now, from, &held),
            Message::Pull { number, spans } => self.on_pull(now, from, number, &spans),
            Message::Served { number, done, upto } => self.on_served(now, from, (number, done, upto)),
        }
    }

    fn on_push(&mut self, now: Instant, from: P, id: EnvelopeId<A>, hint: Hint, envelope: Bytes) {
        if !id.is_valid() {
            return self.refuse_malformed(from);
        }
        if envelope.len() > self.config.max_envelope {
            self.stats.refused_too_large += 1;
            let (len, limit) = (envelope.len(), self.config.max_envelope);
            return self.blame(from, Fault::TooLarge { len, limit });
        }
        let caught_up = self.is_caught_up(now, from, &id);
        // What one who is a neighbour no more sent says nothing of the tree, and may be a part of what we missed.
        let late = !self.tree.contains(from);
        let asked = self.end_pull(now, &id, from) || caught_up || self.asks.expects(from, &id) || late;
        if let Some(neighbor) = self.tree.get_mut(from) {
            neighbor.on_evidence(now);
        }
        match self.seen.status(&id) {
            Status::New(_) => {}
            _ if self.is_rival(from, &id, &envelope) => {}
            Status::Old => {
                self.stats.refused_old += 1;
                self.forget_missing(now, &id);
                return;
            }
            Status::Seen => {
                self.on_duplicate(now, from, id, asked);
                self.forget_missing(now, &id);
                return;
            }
        }
        if !self.admits_author(now, from, &id) {
            // Another announcer may be allowed to introduce it.
            return self.pull(now, id);
        }
        if !self.takes(from, caught_up) {
            self.stats.refused_busy += 1;
            // Who is a neighbour no more cannot be asked for it.
            if !late {
                self.announce(now, from, id, false);
            }
            return;
        }
        if !asked && let Some(since) = self.missing.since(&id) {
            self.wait.measured(now.saturating_duration_since(since));
        }
        let sender = Sender { peer: from, asked, caught_up };
        match self.checks.copy(&id, sender, hint, &envelope) {
            Some(Copied::Kept) => {}
            Some(Copied::Repeated) => self.on_duplicate(now, from, id, asked),
            None => {
                self.check(id, VecDeque::from([Candidate { envelope, hint, senders: vec![sender] }]));
            }
        }
    }

    fn on_verified(&mut self, now: Instant, ticket: Ticket, digest: Option<Sum>) {
        let Some(closed) = self.checks.close(ticket) else {
            self.stats.unknown_tickets += 1;
            return;
        };
        let candidates = std::iter::once(&closed.candidate).chain(&closed.others);
        let busy: Vec<P> = candidates.flat_map(|c| &c.senders).map(|sender| sender.peer).collect();
        match digest {
            Some(digest) => self.on_genuine(now, closed, digest),
            None => self.on_forged(now, closed),
        }
        // They may have room again.
        for peer in busy {
            self.pull_from(now, peer);
        }
    }

    fn on_genuine(&mut self, now: Instant, closed: Closed<P, A>, digest: Sum) {
        let Closed { id, candidate, others } = closed;
        let copies: usize = others.iter().map(|other| other.senders.len()).sum();
        self.stats.copies_unchecked += copies as u64;
        self.stats.duplicates += (candidate.senders.len() - 1) as u64;
        let announcers = self.forget_missing(now, &id);
        // A bundle that overlaps this one may have been verified meanwhile.
        let Some(&first) = candidate.senders.first() else { return };
        let (from, hint, age) = (first.peer, candidate.hint, candidate.hint.age(now));
        let Status::New(entries) = self.seen.status(&id) else {
            self.stats.duplicates += 1;
            return self.keep_rival(now, id, (hint.hops, age), &candidate.envelope, digest);
        };
        if !self.seen.knows(&id.author) {
            if self.seen.is_full() {
                self.stats.refused_authors_full += 1;
                return;
            }
            if let Some(introductions) = self.introductions(from) {
                introductions.spend(now);
            }
        }
        // Some of its seqs were seen in another envelope, or lie under the floor.
        let keeps = entries == all_entries(&id) || self.settle_fork(&id, digest).unwrap_or(true);
        self.mark_seen(&id);
        self.stats.verified += 1;
        if keeps {
            self.keep(now, id, (hint.hops, age), &candidate.envelope, digest, id.author != self.me);
        }
        if !first.asked {
            self.on_first(now, from, &id, hint.course);
        }
        let senders = || candidate.senders.iter().chain(others.iter().flat_map(|other| &other.senders));
        let mut arrival = Arrival::new(Some(from), hint.hops, hint.course, age);
        arrival.history = first.caught_up || (first.asked && age > self.config.history_age);
        let is_news = !arrival.history;
        if is_news {
            self.tree.are_ahead(&announcers);
        }
        arrival.have = self.slots(senders().map(|sender| sender.peer).chain(announcers));
        if !is_news {
            arrival.have.add(self.slots(self.claims.claimants(&id)));
        }
        self.forward(now, id, arrival, &candidate.envelope);
        for sender in senders().skip(1).filter(|sender| !sender.asked) {
            self.on_redundant(now, sender.peer, &id, hint.course);
        }
        if first.caught_up {
            self.stats.caught_up += 1;
            self.claims.progress(now);
        }
        if id.author == self.me {
            return self.on_own(id);
        }
        let item = Item { id, envelope: candidate.envelope, entries, from: Some(from) };
        self.admit(now, item);
    }

    fn on_forged(&mut self, now: Instant, closed: Closed<P, A>) {
        for sender in &closed.candidate.senders {
            self.stats.forged += 1;
            self.blame(sender.peer, Fault::Forged);
        }
        if closed.others.is_empty() {
            self.pull(now, closed.id);
        } else {
            self.check(closed.id, closed.others);
        }
    }

    /// A valid envelope of our own author that we do not know: of an earlier run, or of our identity
    /// elsewhere.
    fn on_own(&mut self, id: EnvelopeId<A>) {
        self.stats.own_returned += 1;
        if id.seqs().end > self.own_next {
            debug!(?id, next = self.own_next, "our identity is ahead of us");
            self.own_next = id.seqs().end;
            self.stats.own_ahead += 1;
            self.outputs.push_back(Output::OwnAhead { id });
        }
    }

    fn on_ihave(&mut self, now: Instant, from: P, ids: &[Announced<A>]) {
        if ids.len() > self.config.max_ids {
            self.stats.refused_ihaves += 1;
            let (count, limit) = (ids.len(), self.config.max_ids);
            return self.blame(from, Fault::TooManyIds { count, limit });
        }
        if !self.tree.get_mut(from).is_some_and(|neighbor| neighbor.ihaves.take(now)) {
            self.stats.refused_ihaves += 1;
            return;
        }
        for Announced { id, hops, wait } in ids {
            if !id.is_valid() {
                return self.refuse_malformed(from);
            }
            match self.seen.status(id) {
                Status::New(_) if self.admits_author(now, from, id) => self.announce(now, from, *id, *wait),
                Status::New(_) => {}
                Status::Seen => self.on_offer(now, from, id, *hops),
                Status::Old => self.stats.refused_old += 1,
            }
        }
    }

    fn on_timeout(&mut self, now: Instant) {
        while let Some(timer) = self.timers.expire(now) {
            match timer {
                Timer::Graft(id) => self.on_graft_timer(now, id),
                Timer::Announce => self.on_announce_timer(now),
                Timer::Pull(id) => self.on_pull_timeout(now, id),
                Timer::Hole(author) => self.on_hole_timer(now, author),
                Timer::CatchUp => self.on_catch_up_timer(now),
                Timer::Gap => self.on_gap_timer(now),
                Timer::Digest => self.on_digest_timer(now),
                Timer::LogAge => self.expire_log(now),
            }
        }
        self.log.index_fresh();
        self.recent.index();
    }

    fn on_duplicate(&mut self, now: Instant, from: P, id: EnvelopeId<A>, asked: bool) {
        self.stats.duplicates += 1;
        let slot = self.tree.get(from).and_then(|neighbor| neighbor.slot);
        let (second, course) = match self.recent.get_mut(&id) {
            Some(arrival) => {
                arrival.have.insert(slot);
                // What came twice over one link shows no second way: an answer came after the push, or was given up.
                (arrival.from != Some(from), arrival.course)
            }
            None => (self.tree.is_root(&id), Course::Tree),
        };
        if !asked && second {
            self.on_redundant(now, from, &id, course);
        }
        let limit = self.config.max_duplicates;
        let count = self.tree.get_mut(from).and_then(|neighbor| neighbor.on_duplicate(id, limit));
        if let Some(count) = count {
            self.blame(from, Fault::Duplicates { count, limit });
        }
    }
}
