//! What we keep of one neighbour while its link is up.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::bucket::Bucket;
use crate::config::Config;
use crate::message::{EnvelopeId, Key};
use crate::recent::Slot;

/// Ids whose superfluous copies are counted per neighbour; the oldest is forgotten first.
const COUNTED_IDS: usize = 1_024;
/// What one neighbour may announce at once, in seconds of its rate: a link that stalled brings it all together.
const IHAVE_BURST_SECS: u32 = 10;
/// Of the announcements that could be spared because the neighbour made them first, each so many is made all the
/// same: who never announces anything looks like one that keeps messages to itself.
const EVIDENCE_EVERY: u32 = 16;
/// A PRUNE is not repeated before this: what its receiver pushed before it came is still on its way.
const PRUNE_AGAIN: Duration = Duration::from_secs(1);
/// Authors remembered of whom a neighbour pushed something new; the one of whom it pushed nothing for longest is forgotten first.
const MAX_PUSHED: usize = 64;
/// How long the announcements of one that broke its promises count for nothing (faults row 18).
const SHUN: Duration = Duration::from_secs(60);

/// How near to the author of a message a neighbour is, by the hops that it announces (a hint) or by its having been first;
/// the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Standing {
    /// Nearer than we are.
    Ahead,
    /// As near: perhaps it has its messages from the same neighbour.
    Beside,
    /// Farther, perhaps through us; or nothing is known.
    Below,
}

/// One neighbour.
#[derive(Debug)]
pub(crate) struct Neighbor<A> {
    /// Whether small envelopes are pushed to it; otherwise they are announced.
    pub(crate) eager: bool,
    /// Where it stood in the tree when it last announced something genuine.
    pub(crate) standing: Standing,
    /// Part of the tree came through it since the link became eager, or is to: it pushed something new, or we grafted it.
    pub(crate) is_above: bool,
    /// Its bit in [`Recent`](crate::recent::Recent); `None` if there are more neighbours than bits.
    pub(crate) slot: Option<Slot>,
    /// New authors that it may introduce.
    pub(crate) introductions: Bucket,
    /// GRAFTs that may change the tree.
    pub(crate) grafts: Bucket,
    /// GRAFTs of ours, kept below what it allows us.
    own_grafts: Bucket,
    /// Announcements taken.
    pub(crate) ihaves: Bucket,
    /// When a circle through this link is to be cut here, if it is still there.
    cut_at: Option<Instant>,
    pruned_at: Option<Instant>,
    /// Pulls that it left unanswered, since the last answer.
    broken_promises: u32,
    shunned_until: Option<Instant>,
    /// When a push of it that nobody asked for brought something new.
    brought_at: Option<Instant>,
    /// The same of the authors of whom it did last, and the seq behind it.
    pushed: Vec<(A, Instant, u64)>,
    /// Messages since it last sent or announced one, and since when.
    withheld: (u32, Instant),
    spared: u32,
    duplicates: Duplicates<A>,
}

impl<A: Key> Neighbor<A> {
    pub(crate) fn new(now: Instant, slot: Option<Slot>, config: &Config) -> Self {
        let per_min = config.grafts_per_min;
        let ihave_burst = config.ihaves_per_sec.saturating_mul(IHAVE_BURST_SECS);
        Self {
            eager: true,
            standing: Standing::Below,
            is_above: false,
            slot,
            introductions: Bucket::new(now, config.new_authors_per_sec, config.new_authors_burst),
            grafts: Bucket::per_minute(now, per_min, per_min),
            own_grafts: Bucket::per_minute(now, per_min - per_min / 5, per_min - per_min / 5),
            ihaves: Bucket::new(now, config.ihaves_per_sec, ihave_burst),
            cut_at: None,
            pruned_at: None,
            broken_promises: 0,
            shunned_until: None,
            brought_at: None,
            pushed: Vec::new(),
            withheld: (0, now),
            spared: 0,
            duplicates: Duplicates(VecDeque::new()),
        }
    }

    /// A superfluous push shows a circle. Whether it is time to cut it; the first one sets the time to `after` from
    /// now. A time that passed `within` ago without another one belonged to a circle that somebody else cut.
    pub(crate) fn cuts(&mut self, now: Instant, after: Duration, within: Duration) -> bool {
        let stale = |at: Instant| now.saturating_duration_since(at) > within;
        match self.cut_at {
            Some(at) if !stale(at) => {
                let due = at <= now;
                if due {
                    self.cut_at = None;
                }
                due
            }
            _ => {
                self.cut_at = now.checked_add(after);
                false
            }
        }
    }

    /// Whether a PRUNE is due, which is then said to be sent.
    pub(crate) fn prunes(&mut self, now: Instant) -> bool {
        let again = |at: Instant| now.saturating_duration_since(at) >= PRUNE_AGAIN;
        let due = self.pruned_at.is_none_or(again);
        if due {
            self.pruned_at = Some(now);
        }
        due
    }

    /// What it pushes may have been on its way when our PRUNE came.
    pub(crate) fn was_pruned_lately(&self, now: Instant) -> bool {
        self.pruned_at.is_some_and(|at| now.saturating_duration_since(at) < PRUNE_AGAIN)
    }

    /// It sent or announced an envelope.
    pub(crate) fn on_evidence(&mut self, now: Instant) {
        self.withheld = (0, now);
    }

    /// A message went round that it did not bring. Whether it has brought nothing for too long.
    pub(crate) fn on_other(&mut self, now: Instant, config: &Config) -> bool {
        let (messages, since) = &mut self.withheld;
        *messages = messages.saturating_add(1);
        let withholds = *messages >= config.withheld_messages
            && now.saturating_duration_since(*since) >= config.withheld_time;
        if withholds {
            self.withheld = (0, now);
        }
        withholds
    }

    /// An announcement that it does not need. Whether to make it all the same.
    pub(crate) fn shows_evidence(&mut self) -> bool {
        self.spared += 1;
        self.spared.is_multiple_of(EVIDENCE_EVERY)
    }

    /// It answered a pull.
    pub(crate) fn on_promise_kept(&mut self) {
        self.broken_promises = 0;
        self.shunned_until = None;
    }

    /// It did not. Whether that was once too often.
    pub(crate) fn on_promise_broken(&mut self, now: Instant, limit: u32) -> bool {
        self.broken_promises += 1;
        let shunned = self.broken_promises >= limit;
        if shunned {
            self.broken_promises = 0;
            self.shunned_until = now.checked_add(SHUN);
        }
        shunned
    }

    pub(crate) const fn make_lazy(&mut self) {
        (self.eager, self.is_above) = (false, false);
    }

    /// It wants to be pushed to: by a GRAFT of its own, or since the tree is made anew.
    pub(crate) const fn make_eager(&mut self) {
        (self.eager, self.is_above) = (true, false);
    }

    /// Makes the link eager by a GRAFT of ours, if it takes one more.
    pub(crate) fn graft(&mut self, now: Instant) -> bool {
        let takes = self.own_grafts.take(now);
        if takes {
            (self.eager, self.is_above) = (true, true);
        }
        takes
    }

    /// It pushed something new.
    pub(crate) fn brings(&mut self, now: Instant, id: &EnvelopeId<A>) {
        self.brought_at = Some(now);
        self.pushed.retain(|(author, ..)| *author != id.author);
        if self.pushed.len() >= MAX_PUSHED {
            self.pushed.remove(0);
        }
        self.pushed.push((id.author, now, id.seqs().end));
        self.is_above = true;
    }

    /// Whether it pushed something new less than this long ago.
    pub(crate) fn brought_within(&self, now: Instant, time: Duration) -> bool {
        self.brought_at.is_some_and(|at| now.saturating_duration_since(at) < time)
    }

    /// Up to which seq it has pushed this author's messages, if it did less than this long ago: what is behind them in its queue is
    /// on its way.
    pub(crate) fn pushes(&self, now: Instant, author: A, time: Duration) -> Option<u64> {
        let of = self.pushed.iter().find(|(of, ..)| self.eager && *of == author);
        of.filter(|(_, at, _)| now.saturating_duration_since(*at) < time).map(|(.., upto)| *upto)
    }

    pub(crate) fn is_shunned(&self, now: Instant) -> bool {
        self.shunned_until.is_some_and(|until| now < until)
    }

    /// Counts a superfluous copy. Returns the number when it passes the limit, and starts over.
    pub(crate) fn on_duplicate(&mut self, id: EnvelopeId<A>, limit: u32) -> Option<u32> {
        self.duplicates.count(id, limit)
    }
}

/// Superfluous copies per id, for the latest [`COUNTED_IDS`] ids, the oldest first. No map: most neighbours of a tree
/// have sent a few, and who sends many repeats the latest.
#[derive(Debug)]
struct Duplicates<A>(VecDeque<(EnvelopeId<A>, u32)>);

impl<A: Key> Duplicates<A> {
    fn count(&mut self, id: EnvelopeId<A>, limit: u32) -> Option<u32> {
        if let Some((_, count)) = self.0.iter_mut().rev().find(|(counted, _)| *counted == id) {
            *count += 1;
            return (*count > limit).then(|| std::mem::take(count));
        }
        if self.0.len() >= COUNTED_IDS {
            self.0.pop_front();
        }
        self.0.push_back((id, 1));
        (limit == 0).then_some(1)
    }
}
