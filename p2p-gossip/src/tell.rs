//! What a neighbour is told of the log: the ranges that are here of the authors in buckets that differ. One message of them
//! and its share of summaries may not hold all; then the rest follows as the share comes back.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rand::Rng;

use crate::catchup::is_over;
use crate::claims::Peer;
use crate::message::{Held, Key, Message, Sum};
use crate::state::Gossip;

/// Bytes of a line of ranges, at the most.
pub(crate) const LINE_BYTES: u32 = 68;
/// Ranges told of one author at first: as many as are kept apart of what was seen of one. The lowest, since who keeps as many
/// apart and gets one more looks for nothing below the next.
const MAX_HELD: usize = 256;
/// Between two parts of the rest: time to ask for what the last one told.
const PAUSE: Duration = Duration::from_secs(5);
/// Lines of a part, at the least where there are more, and at the most: half of what a neighbour remembers of us.
const PART: std::ops::RangeInclusive<usize> = 64..=512;

/// Ranges of one author in the rest: what is above that is left out, or authors behind it would wait for hours.
const MAX_REST: usize = 1_024;

/// Authors that are remembered to have been told of whole.
const MAX_TOLD: usize = 4_096;
/// Lines' worth that stays of the share, or while the rest is told nothing could be compared: sums of all buckets are 61.
const RESERVE: usize = 90;
/// Who lacks something asks for it half a second after it was told, and then with pauses.
const HANDING: Duration = Duration::from_millis(1_500);

/// What is still to be told.
#[derive(Debug)]
pub(crate) struct Rest<A> {
    buckets: Vec<usize>,
    /// Authors that were told whole. What comes of them meanwhile comes through the tree.
    told: BTreeSet<A>,
    /// The first range that is to be told: authors rise, and the seqs of each; and how many of that author were.
    next: Option<(A, u64, usize)>,
    at: Option<Instant>,
}

impl<A: Key> Rest<A> {
    /// Goes on with what is still to be told, of these too.
    fn join(self, new: Self) -> Self {
        let mut buckets = [self.buckets, new.buckets].concat();
        buckets.sort_unstable();
        buckets.dedup();
        let mut told = self.told;
        told.extend(new.told);
        // Those may be told again.
        while told.len() > MAX_TOLD {
            told.pop_first();
        }
        Self { buckets, told, ..self }
    }
}

impl<A> Peer<A> {
    /// When a part of the rest is to be told.
    pub(crate) fn tells_at(&self) -> Option<Instant> {
        self.rest.as_ref()?.at
    }
}

impl<P: Key, A: Key, R: Rng> Gossip<P, A, R> {
    /// Tells what is here of the buckets that differ, the newest authors first.
    pub(crate) fn send_ranges(&mut self, now: Instant, to: P, theirs: &[Sum]) {
        if !self.claims.get_mut(to).is_some_and(|of| is_over(now, of.ranges_sent)) {
            return;
        }
        let ours = self.log.bucket_sums();
        let differ = ours.iter().zip(theirs).enumerate().filter(|(_, (a, b))| a != b);
        let buckets: Vec<_> = differ.map(|(bucket, _)| bucket).collect();
        if !buckets.contains(&self.log.bucket_of(&self.me)) {
            self.note_own_held(0, u64::MAX);
        }
        let authors = self.log.authors_of(buckets.iter().copied());
        let room = self.room_for_lines(now, to).min(self.config.max_claims);
        let (mut held, mut told, mut is_cut) = (Vec::new(), BTreeSet::new(), false);
        for author in authors {
            let left = room - held.len();
            let (lines, next) = self.log.held(author, 0, MAX_HELD.min(left));
            held.extend(lines);
            if next.is_some() {
                is_cut = true;
            } else {
                told.insert(author);
            }
            if left == 0 {
                self.stats.summaries_spared += 1;
                break;
            }
        }
        let at = now.checked_add(PAUSE);
        if let Some(of) = self.claims.get_mut(to) {
            let new = is_cut.then_some(Rest { buckets, told, next: None, at });
            // Begun anew with each comparison it would never come to its end.
            of.rest = match (of.rest.take(), new) {
                (Some(old), Some(new)) => Some(old.join(new)),
                (_, new) => new,
            };
            of.ranges_sent = Some(now);
        }
        // An empty list is an answer too.
        self.tell(now, to, held);
        self.set_catch_up_timer();
    }

    /// Tells those that it is time for a part of the rest.
    pub(crate) fn tell_on(&mut self, now: Instant) {
        let due = |of: &Peer<A>| of.tells_at().is_some_and(|at| at <= now);
        let peers: Vec<P> = self.claims.peers().filter(|(_, of)| due(of)).map(|(peer, _)| peer).collect();
        for peer in peers {
            self.tell_part(now, peer);
        }
        self.set_catch_up_timer();
    }

    fn tell_part(&mut self, now: Instant, to: P) {
        let room =
            self.room_for_lines(now, to).saturating_sub(RESERVE).min(self.config.max_claims).min(*PART.end());
        let Some(mut rest) = self.claims.get_mut(to).and_then(|of| of.rest.take()) else { return };
        rest.at = now.checked_add(PAUSE);
        let mut done = false;
        if room >= self.config.max_claims.clamp(1, *PART.start()) {
            let mut authors = self.log.authors_rising(rest.buckets.iter().copied());
            authors.retain(|author| !rest.told.contains(author));
            let begun = rest.next.take();
            let mut held = Vec::new();
            for author in authors.into_iter().filter(|author| begun.is_none_or(|(next, ..)| *author >= next))
            {
                let (from, told) =
                    begun.filter(|(next, ..)| *next == author).map_or((0, 0), |(_, from, told)| (from, told));
                if held.len() >= room {
                    rest.next = Some((author, from, told));
                    break;
                }
                let max = (room - held.len()).min(MAX_REST.saturating_sub(told));
                let (lines, next) = self.log.held(author, from, max);
                let told = told + lines.len();
                held.extend(lines);
                if let Some(from) = next.filter(|_| told < MAX_REST) {
                    rest.next = Some((author, from, told));
                    break;
                }
            }
            done = rest.next.is_none();
            self.tell(now, to, held);
        }
        if let Some(of) = self.claims.get_mut(to).filter(|_| !done) {
            of.rest = Some(rest);
        }
    }

    /// How many lines its share of summaries holds.
    fn room_for_lines(&mut self, now: Instant, to: P) -> usize {
        let bytes = self.claims.get_mut(to).map_or(0, |of| of.summaries.tokens(now));
        usize::try_from(bytes / u64::from(LINE_BYTES)).unwrap_or(usize::MAX)
    }

    fn tell(&mut self, now: Instant, to: P, held: Vec<Held<A>>) {
        let bytes = LINE_BYTES.saturating_mul(u32::try_from(held.len()).unwrap_or(u32::MAX));
        let me = self.me;
        if let Some(of) = self.claims.get_mut(to) {
            of.summaries.take_many(now, bytes);
            if held.iter().any(|held| held.span.author == me) {
                of.own_told = Some(now);
            }
        }
        self.send(to, Message::Ranges { held });
    }

    /// When a neighbour was last told of messages of our own that it lacks, or handed one of an earlier run. It may be about to ask
    /// for more for 1.5 s. Who publishes knows of the present run's what has become of them.
    pub fn handed_at(&self) -> Option<Instant> {
        self.claims.peers().filter_map(|(_, of)| of.own_told).max()
    }

    /// Whether that is less than 1.5 s ago.
    pub fn is_handing(&self, now: Instant) -> bool {
        self.handed_at().is_some_and(|at| now.saturating_duration_since(at) < HANDING)
    }
}
