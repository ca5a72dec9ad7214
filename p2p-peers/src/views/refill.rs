//! Finding neighbours: whom to dial, how many at once, and when to look again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::Rng;

use super::link::Phase;
use super::{Output, Views};
use crate::views::passive::Entry;
use crate::{Direction, Key};

/// How long the news of a joiner may walk and bring neighbours before it looks for more than the first one itself: so many
/// times as long as that one took to answer. Six links and a dial of three round trips are six; a guess, as the limits are.
const NEWS_WALKS: u32 = 20;
const NEWS_WALKS_MIN: Duration = Duration::from_millis(100);
const NEWS_WALKS_MAX: Duration = Duration::from_secs(1);
/// Looking again for somebody to dial: after this, doubling.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
const LOOK_AGAIN_MAX: Duration = Duration::from_secs(15);
/// The same while there is no neighbour at all.
const LOOK_AGAIN_ALONE: Duration = Duration::from_secs(8);

/// Who has neighbours enough and dialled too few of them makes one attempt in this time: nearly all nodes are full, and
/// nothing is lost meanwhile. A guess.
const ONE_MORE_OUT: Duration = Duration::from_secs(5);

/// Dials at once of joiners that one neighbour told of, and that all of them did: whoever makes up joiners holds up no more
/// than these, for as long as a dial takes. Honest news comes a few times a second at the worst, and a dial is a few round
/// trips. With half as many joiners are taken in less evenly: 90 s after half of the neighbours began to withhold the last
/// node had a message 1.45 times as late as before, in the mean of seeds 1 to 8, instead of 1.22 (`cargo xtask sim
/// covert-flash --seed N`, 2026-11-30).
const NEWS_DIALS_EACH: usize = 4;
const NEWS_DIALS: usize = 8;

/// Dials at once out of what one neighbour told, where there are others to ask and neighbours left: it could tell of some
/// that never answer as fast as these are dialled. The table knows more. A guess: half of [`Config::parallel`].
///
/// [`Config::parallel`]: super::Config::parallel
const DIALS_PER_SOURCE: usize = 2;

/// A dial under way.
#[derive(Debug)]
pub(super) struct Dial<P> {
    until: Instant,
    /// Who told of the peer.
    pub(super) via: Option<P>,
    /// The neighbour with which a walk of the news ended here; `None`: we look for a neighbour ourselves.
    news_by: Option<P>,
    /// It is to be taken whether there is a place or not.
    pub(super) makes_way: bool,
}

/// Dials under way, and when to look again.
#[derive(Debug)]
pub(super) struct Hunt<P> {
    dials: BTreeMap<P, Dial<P>>,
    look_at: Option<Instant>,
    /// When it looked last.
    looked_at: Option<Instant>,
    pause: Duration,
    /// When this node joined: had no neighbour and got one.
    joined_at: Option<Instant>,
    /// How long news of that walks, as far as was measured.
    walks: Duration,
    /// When one more may be dialled by who has neighbours enough.
    out_at: Option<Instant>,
}

impl<P: Key> Hunt<P> {
    pub(super) const fn new() -> Self {
        Self {
            dials: BTreeMap::new(),
            look_at: None,
            looked_at: None,
            pause: LOOK_AGAIN,
            joined_at: None,
            walks: NEWS_WALKS_MAX,
            out_at: None,
        }
    }

    pub(super) fn pending(&self) -> usize {
        self.dials.len()
    }

    /// Of these, our own attempts to find a neighbour. Dials because of news are none: others decide how many there are, and
    /// to whom.
    fn own(&self) -> usize {
        self.dials.values().filter(|dial| dial.news_by.is_none()).count()
    }

    /// Whether one more joiner may be dialled that this neighbour tells of.
    pub(super) fn takes_news(&self, by: P) -> bool {
        let news = self.dials.values().filter_map(|dial| dial.news_by);
        let (each, all) = news.fold((0, 0), |(each, all), of| (each + usize::from(of == by), all + 1));
        each < NEWS_DIALS_EACH && all < NEWS_DIALS
    }

    pub(super) fn is_pending(&self, peer: P) -> bool {
        self.dials.contains_key(&peer)
    }

    pub(super) fn end(&mut self, peer: P) -> Option<Dial<P>> {
        self.dials.remove(&peer)
    }

    /// Something changed: look at once.
    pub(super) fn restart(&mut self, now: Instant) {
        (self.pause, self.look_at, self.looked_at) = (LOOK_AGAIN, Some(now), None);
    }

    /// The news of us walks now, and walks where who was asked first answered after `answered_after` are as fast as that.
    /// Who was asked itself has measured nothing now, but may have when it joined.
    pub(super) fn joined(&mut self, now: Instant, answered_after: Option<Duration>) {
        if let Some(time) = answered_after {
            self.walks = time.saturating_mul(NEWS_WALKS).clamp(NEWS_WALKS_MIN, NEWS_WALKS_MAX);
        }
        self.joined_at = Some(now);
    }

    /// Until when the news that this node joined may still walk and bring neighbours.
    pub(super) fn news_until(&self) -> Option<Instant> {
        self.joined_at.map(|at| at + self.walks)
    }

    /// Until when it is new, and settles for few.
    pub(super) fn new_until(&self) -> Option<Instant> {
        self.joined_at.map(|at| at + NEWS_WALKS_MAX)
    }

    pub(super) fn expire(&mut self, now: Instant) {
        self.dials.retain(|_, dial| dial.until > now);
        self.out_at.take_if(|at| *at <= now);
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.dials.values().map(|dial| dial.until).chain(self.look_at).chain(self.out_at).min()
    }
}

impl<P: Key, R: Rng> Views<P, R> {
    pub(super) fn on_dial_failed(&mut self, peer: P) {
        self.hunt.end(peer);
        self.passive.remove(peer);
    }

    pub(super) fn on_crowded(&mut self, peer: P) {
        if self.hunt.is_pending(peer) {
            let via = self.hunt.end(peer).and_then(|dial| dial.via);
            self.passive.put_back(Entry { peer, via, crowded: true }, self.config.passive);
        }
    }

    pub(super) fn on_suggested(&mut self, now: Instant, peers: Vec<P>) {
        for peer in peers {
            if peer == self.me || self.links.contains_key(&peer) || self.hunt.is_pending(peer) {
                continue;
            }
            if self.dials_wanted(now) > 0 && self.cold.iter().all(|(cold, _)| *cold != peer) {
                self.dial(now, peer);
            } else {
                self.keep_in_mind(peer, None, &[]);
            }
        }
    }

    /// One more neighbour of our own choice has a place.
    pub(super) fn has_free_place(&self) -> bool {
        self.config.discover
            && self.taken() + self.hunt.pending() < self.config.active.min(self.config.seek + 1)
    }

    /// Another neighbour of our own choice is of use, whatever else is under way.
    pub(super) fn wants_more(&self) -> bool {
        self.config.discover && (self.taken() < self.config.active || self.outbound() < self.config.outbound)
    }

    fn outbound(&self) -> usize {
        let ours = self.links.values().filter(|link| link.direction == Direction::Out);
        ours.filter(|link| matches!(link.phase, Phase::Active(_) | Phase::Asked(_))).count()
    }

    /// Neighbours missing.
    fn short(&self, now: Instant) -> usize {
        // News of a joiner walks to random nodes that take it. Whom it would dial meanwhile is full and refuses, or has
        // joined a moment ago, and a network whose links go to those of the same age is a wide one.
        let goal = if self.is_small_world() {
            self.config.active
        } else if self.hunt.news_until().is_some_and(|end| now < end) {
            1
        } else if self.hunt.new_until().is_some_and(|end| now < end) {
            self.config.outbound
        } else {
            self.config.seek
        };
        goal.min(self.config.active).saturating_sub(self.active().count())
    }

    /// How many more dials to begin now: two for each single neighbour that is missing, so that one that is gone costs
    /// no time, and never more than there are places.
    fn dials_wanted(&self, now: Instant) -> usize {
        let config = &self.config;
        let short = self.short(now);
        let in_time = self.hunt.out_at.is_some() || self.hunt.news_until().is_some_and(|end| now < end);
        let enough_out = self.is_small_world() || (short == 0 && in_time);
        let short_out = if enough_out { 0 } else { config.outbound.saturating_sub(self.outbound()) };
        let missing = short.max(short_out);
        if missing == 0 {
            return 0;
        }
        let asked = self.links.values().filter(|link| matches!(link.phase, Phase::Asked(_))).count();
        let own = self.hunt.own();
        let under_way = own + asked;
        let alone = self.active().next().is_none();
        let parallel = if alone { config.parallel_alone } else { config.parallel };
        let at_once = missing.clamp(2, parallel.max(2)).saturating_sub(under_way);
        let places = config.active.saturating_sub(self.taken() + own);
        at_once.min(places.max(short_out.saturating_sub(own)))
    }

    /// Somebody of the passive view to dial.
    fn draw(&mut self) -> Option<Entry<P>> {
        let any = self.is_small_world() || self.active().next().is_none();
        let mut busy = BTreeMap::new();
        for via in self.hunt.dials.values().filter_map(|dial| dial.via) {
            *busy.entry(via).or_insert(0) += 1;
        }
        let told_of = |via: P| busy.get(&via).copied().unwrap_or(0);
        let among = |entry: &Entry<P>| any || entry.via.is_none_or(|via| told_of(via) < DIALS_PER_SOURCE);
        self.passive.draw(among, &mut self.rng)
    }

    pub(super) fn refill(&mut self, now: Instant) {
        if !self.config.discover {
            self.hunt.look_at = None;
            return;
        }
        let mut wanted = self.dials_wanted(now);
        while wanted > 0 {
            let Some(entry) = self.draw() else { break };
            self.begin(now, entry.peer, entry.via, !entry.crowded);
            wanted = self.dials_wanted(now);
        }
        if wanted == 0 {
            self.hunt.look_at = None;
        } else if self.hunt.look_at.is_none_or(|at| at <= now) {
            let desperate = self.active().next().is_none();
            self.hunt.look_at = Some(now + self.hunt.pause);
            if self.hunt.looked_at.replace(now) == Some(now) {
                // Whoever was named a moment ago cannot be dialled now, and would be named again.
                return;
            }
            self.outputs.push_back(Output::Suggest { count: wanted.max(self.config.parallel), desperate });
            let longest = if desperate { LOOK_AGAIN_ALONE } else { LOOK_AGAIN_MAX };
            self.hunt.pause = (self.hunt.pause * 2).min(longest);
        }
    }

    /// Dials somebody to have one neighbour more.
    pub(super) fn dial(&mut self, now: Instant, peer: P) {
        let via = self.passive.remove(peer).and_then(|entry| entry.via);
        self.begin(now, peer, via, true);
    }

    /// Dials somebody new that `by` told of; with `makes_way` to be taken even if one of the neighbours has to go for it.
    pub(super) fn dial_news(&mut self, now: Instant, peer: P, by: P, makes_way: bool) {
        let via = self.passive.remove(peer).and_then(|entry| entry.via);
        let until = now + self.config.dial_wait;
        self.hunt.dials.insert(peer, Dial { until, via, news_by: Some(by), makes_way });
        self.outputs.push_back(Output::Dial { peer, spread: true });
    }

    fn begin(&mut self, now: Instant, peer: P, via: Option<P>, spread: bool) {
        if self.short(now) == 0 {
            self.hunt.out_at = Some(now + ONE_MORE_OUT);
        }
        let until = now + self.config.dial_wait;
        self.hunt.dials.insert(peer, Dial { until, via, news_by: None, makes_way: false });
        self.outputs.push_back(Output::Dial { peer, spread });
    }
}
