//! Who are the neighbours: the active and the passive view of HyParView (Leitao, Pereira, Rodrigues, DSN 2007).
//!
//! A node has a few *neighbours*, the active view: links that both sides agreed on. It knows some more peers, the
//! passive view, and asks these when a neighbour is lost. Who joins is told of on random walks; shuffles keep passive
//! views random. The views say whom to dial and never where: addresses, dials and back-off are the
//! [`PeerTable`](crate::PeerTable)'s.
//!
//! Where we differ from the paper:
//! - Who dials speaks first (JOIN or NEIGHBOR) and the other side answers; both answers carry a sample of further
//!   peers, so a joiner fills its view by itself and not only by walks that end at it. DISCONNECT is a refusal that
//!   comes later.
//! - A node looks for [`seek`](Config::seek) neighbours and takes [`active`](Config::active): the difference is room
//!   for joiners. Where no more than `active` others are known, it looks for all of them.
//! - A request of high priority displaces any neighbour but the oldest, of those that dialled us and of those that we
//!   dialled; a flood of joiners cannot drive out the seven that held longest (faults rows 20 and 23).
//! - Neighbours that were lost are dialled again now and then and, once reached, asked with high priority. Two halves of a
//!   network that was cut are full each by itself: nothing else would join them again.
//! - The answer to a shuffle goes back the way the shuffle came, since its ends are not linked.

mod config;
mod event;
mod link;
mod passive;
mod refill;
mod request;
mod walk;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use rand::seq::IteratorRandom;
use rand::{Rng, RngExt};

pub use config::{Config, MAX_SAMPLE};
pub use event::{Counters, Input, Message, Output};
pub use link::Walks;
use link::{Link, Phase};
use passive::Passive;
use refill::Hunt;
use walk::{Outstanding, Route};

use crate::{Direction, Key};

/// Ids remembered that displaced somebody or were replaced; the oldest is forgotten first. A guess: more are a flood,
/// and those only displace what is not protected.
const MAX_REMEMBERED: usize = 64;

/// Lost neighbours that are dialled again. A guess: half a network's cut links are many, and one is enough.
const MAX_LOST: usize = 2;

/// The active and the passive view.
///
/// No clock and no input or output: report what happened with [`handle`](Self::handle), then do what
/// [`poll_output`](Self::poll_output) says until it says `None`.
///
/// ```
/// use p2p_peers::Direction;
/// use p2p_peers::views::{Config, Input, Message, Output, Views};
/// use rand::{SeedableRng, rngs::StdRng};
/// # let now = std::time::Instant::now();
/// let mut views = Views::new(1_u32, Config::default(), StdRng::seed_from_u64(7));
/// views.handle(now, Input::LinkUp { peer: 2, direction: Direction::Out, asked: true, urgent: true });
/// assert_eq!(views.poll_output(), Some(Output::Send { to: 2, message: Message::Join }));
/// views.handle(now, Input::Received { from: 2, message: Message::Accept { sample: vec![3] } });
/// let told: Vec<_> = std::iter::from_fn(|| views.poll_output()).collect();
/// assert!(told.contains(&Output::Up(2)) && told.contains(&Output::Dial { peer: 3, spread: true }));
/// ```
#[derive(Debug)]
pub struct Views<P, R> {
    me: P,
    config: Config,
    rng: R,
    links: BTreeMap<P, Link<P>>,
    passive: Passive<P>,
    hunt: Hunt<P>,
    /// How many neighbours may give way to news.
    makes_way: Walks,
    /// Neighbours whose links broke, newest last.
    lost: VecDeque<P>,
    /// Ids that displaced a neighbour, and ids that were replaced, each until then.
    displacers: VecDeque<(P, Instant)>,
    cold: VecDeque<(P, Instant)>,
    routes: VecDeque<Route<P>>,
    outstanding: Option<Outstanding<P>>,
    shuffles: u32,
    next_shuffle: Option<Instant>,
    next_feel: Option<Instant>,
    next_replace: Option<Instant>,
    next_reseed: Option<Instant>,
    outputs: VecDeque<Output<P>>,
    counters: Counters,
    /// When a timeout is due, as of the last input.
    due: Option<Instant>,
}

impl<P: Key, R: Rng> Views<P, R> {
    /// Empty views of the node `me`.
    pub fn new(me: P, config: Config, rng: R) -> Self {
        Self {
            me,
            config: config.within_reason(),
            rng,
            links: BTreeMap::new(),
            passive: Passive::new(),
            hunt: Hunt::new(),
            makes_way: Walks::default(),
            lost: VecDeque::new(),
            displacers: VecDeque::new(),
            cold: VecDeque::new(),
            routes: VecDeque::new(),
            outstanding: None,
            shuffles: 0,
            next_shuffle: None,
            next_feel: None,
            next_replace: None,
            next_reseed: None,
            outputs: VecDeque::new(),
            counters: Counters::default(),
            due: None,
        }
    }

    /// Takes in what happened at `now`.
    pub fn handle(&mut self, now: Instant, input: Input<P>) {
        match input {
            Input::LinkUp { peer, direction, asked, urgent } => {
                self.on_link_up(now, peer, direction, (asked, urgent))
            }
            Input::LinkDown(peer) => self.on_link_down(now, peer),
            Input::DialFailed(peer) => self.on_dial_failed(peer),
            Input::Crowded(peer) => self.on_crowded(peer),
            Input::Received { from, message } => self.on_message(now, from, message),
            Input::Suggested(peers) => self.on_suggested(now, peers),
            Input::Nudge => {
                self.hunt.restart(now);
                self.try_lost();
            }
            Input::Withholds(peer) => self.on_withholds(now, peer),
            Input::Timeout => {}
        }
        self.on_clock(now);
        self.refill(now);
        self.due = self.next_due(now);
    }

    fn on_message(&mut self, now: Instant, from: P, message: Message<P>) {
        if !self.links.contains_key(&from) {
            return;
        }
        match message {
            Message::Join => self.on_request(now, from, true, true),
            Message::Neighbor { high } => self.on_request(now, from, high, false),
            Message::Accept { sample } => self.on_accept(now, from, sample),
            Message::Refuse { sample } => self.on_refuse(now, from, sample),
            Message::ForwardJoin { joiner, ttl } => self.on_forward_join(now, from, joiner, ttl),
            Message::Shuffle { id, ttl, peers } => self.on_shuffle(now, from, (id, ttl, peers)),
            Message::ShuffleReply { id, peers } => self.on_shuffle_reply(now, from, id, peers),
        }
    }

    /// The next thing to do, or `None` when all is done for now.
    pub fn poll_output(&mut self) -> Option<Output<P>> {
        self.outputs.pop_front()
    }

    /// When [`Input::Timeout`] is due, if nothing happens before.
    pub const fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }

    fn next_due(&self, now: Instant) -> Option<Instant> {
        let links = self.links.values().filter_map(Link::deadline);
        let timers = [self.next_shuffle, self.next_feel, self.hunt.deadline()].into_iter().flatten();
        let news = [self.hunt.news_until(), self.hunt.new_until()].into_iter().flatten();
        links.chain(timers).chain(news.filter(|end| *end > now && self.config.discover)).min()
    }

    /// Whose views these are.
    pub const fn me(&self) -> P {
        self.me
    }

    /// The user asked for this peer, or no longer does; takes effect on a link that stands.
    pub fn set_asked(&mut self, peer: P, asked: bool) {
        if let Some(link) = self.links.get_mut(&peer) {
            link.asked = asked;
        }
    }

    /// The neighbours, in the order of the ids.
    pub fn active(&self) -> impl Iterator<Item = P> + '_ {
        self.links.iter().filter(|(_, link)| link.is_active()).map(|(&peer, _)| peer)
    }

    /// Whether this peer is a neighbour.
    pub fn is_active(&self, peer: P) -> bool {
        self.links.get(&peer).is_some_and(Link::is_active)
    }

    /// The passive view, in no order that means anything.
    pub fn passive(&self) -> impl Iterator<Item = P> + '_ {
        self.passive.peers()
    }

    /// The two neighbours to dial first after a restart: those we dialled that held longest (faults row 23).
    pub fn anchors(&self) -> Vec<P> {
        let mut held = self.chosen(Direction::Out);
        held.sort_unstable();
        held.into_iter().take(2).map(|(_, peer)| peer).collect()
    }

    /// What was refused or given up so far.
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The configuration.
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// Neighbours that the user did not ask for, by who dialled, with the time since when.
    fn chosen(&self, direction: Direction) -> Vec<(Instant, P)> {
        let chosen = self.links.iter().filter(|(_, link)| !link.asked && link.direction == direction);
        chosen
            .filter_map(|(&peer, link)| match link.phase {
                Phase::Active(since) => Some((since, peer)),
                _ => None,
            })
            .collect()
    }

    /// Links that are a neighbour's or that we asked to be. Of the user's own only so many count that they leave half of
    /// the places: nobody who names a dozen peers is left to these alone.
    fn taken(&self) -> usize {
        let (mut own, mut asked) = (0, 0);
        for link in self.links.values().filter(|l| matches!(l.phase, Phase::Active(_) | Phase::Asked(_))) {
            *if link.asked { &mut asked } else { &mut own } += 1;
        }
        own + asked.min(self.config.active / 2)
    }

    /// Everybody known could be a neighbour.
    fn is_small_world(&self) -> bool {
        self.links.len() + self.hunt.pending() + self.passive.len() <= self.config.active
    }

    fn on_link_up(&mut self, now: Instant, peer: P, direction: Direction, (asked, urgent): (bool, bool)) {
        if peer == self.me {
            return;
        }
        let before = self.links.remove(&peer);
        if before.is_some_and(|link| link.is_active()) {
            self.outputs.push_back(Output::Down(peer));
        }
        let dial = self.hunt.end(peer);
        let makes_way = dial.as_ref().is_some_and(|dial| dial.makes_way);
        let via = dial.and_then(|dial| dial.via);
        let via = via.or_else(|| self.passive.remove(peer).and_then(|entry| entry.via));
        let until = now + self.config.answer_wait;
        let mut phase = Phase::Waiting(until);
        if direction == Direction::In {
            self.forget_lost(peer);
        } else {
            phase = Phase::Asked(until);
            let lost = self.forget_lost(peer);
            if asked || lost || makes_way || self.wants_more() {
                self.ask(peer, urgent || lost);
            } else {
                // Reached, but no longer needed.
                self.keep_in_mind(peer, None, &[]);
                self.outputs.push_back(Output::Hangup(peer));
                phase = Phase::Leaving(until);
            }
        }
        self.links.insert(peer, Link { direction, asked, via, phase, walks: Walks::default() });
    }

    fn on_link_down(&mut self, now: Instant, peer: P) {
        let Some(link) = self.links.remove(&peer) else { return };
        if link.is_active() {
            self.outputs.push_back(Output::Down(peer));
            self.hunt.restart(now);
            if self.lost.len() >= MAX_LOST {
                self.lost.pop_front();
            }
            self.lost.push_back(peer);
        }
    }

    fn forget_lost(&mut self, peer: P) -> bool {
        let before = self.lost.len();
        self.lost.retain(|lost| *lost != peer);
        self.lost.len() < before
    }

    /// Dials lost neighbours; the table says when it is time again.
    fn try_lost(&mut self) {
        if self.config.discover {
            let dial = |&peer| Output::Dial { peer, spread: false };
            self.outputs.extend(self.lost.iter().filter(|peer| !self.hunt.is_pending(**peer)).map(dial));
        }
    }

    fn on_withholds(&mut self, now: Instant, peer: P) {
        let free = self.links.get(&peer).is_some_and(|link| link.is_active() && !link.asked);
        let early = self.next_replace.is_some_and(|at| now < at);
        if !free || early || self.passive.len() == 0 {
            return;
        }
        self.next_replace = Some(now + self.config.replace_every);
        self.counters.replaced += 1;
        remember(&mut self.cold, peer, now + self.config.cold);
        self.dismiss(now, peer);
        self.passive.remove(peer);
    }

    /// Ends an agreement: DISCONNECT.
    fn dismiss(&mut self, now: Instant, peer: P) {
        self.dismiss_for(now, peer, None);
    }

    /// Ends an agreement because of `newcomer`, and tells of it first: it has room.
    fn dismiss_for(&mut self, now: Instant, peer: P, newcomer: Option<P>) {
        let mut sample = self.sample(peer);
        if let Some(newcomer) = newcomer {
            sample.retain(|other| *other != newcomer);
            sample.insert(0, newcomer);
            sample.truncate(MAX_SAMPLE);
        }
        let Some(link) = self.links.get_mut(&peer) else { return };
        let was_active = link.is_active();
        link.phase = Phase::Leaving(now + self.config.answer_wait);
        if was_active {
            self.outputs.push_back(Output::Down(peer));
        }
        self.outputs.push_back(Output::Send { to: peer, message: Message::Refuse { sample } });
        self.outputs.push_back(Output::Hangup(peer));
        // Whoever is full turns away joiners all the time: a passive view of the last of them would be no random one.
        if self.passive.len() < self.config.passive {
            self.keep_in_mind(peer, None, &[]);
        }
    }

    /// Puts a peer into the passive view, if it may be there.
    fn keep_in_mind(&mut self, peer: P, via: Option<P>, given: &[P]) {
        let is_near = self.links.get(&peer).is_some_and(|link| !matches!(link.phase, Phase::Leaving(_)));
        let is_cold = self.cold.iter().any(|(cold, _)| *cold == peer);
        if peer == self.me || is_near || is_cold || self.hunt.is_pending(peer) {
            return;
        }
        let bounds = (self.config.passive, self.config.passive_per_source);
        self.passive.add(peer, via, bounds, given, &mut self.rng);
    }

    /// Peers to tell `to` of: neighbours and others, mixed.
    fn sample(&mut self, to: P) -> Vec<P> {
        let near = self.links.iter().filter(|(_, link)| link.is_active()).map(|(&peer, _)| peer);
        let all = near.chain(self.passive.peers()).filter(|peer| *peer != to);
        all.sample(&mut self.rng, self.config.sample.min(MAX_SAMPLE))
    }

    /// Takes in what a neighbour told, within its share.
    fn take_in(&mut self, from: P, mut peers: Vec<P>, given: &[P]) {
        peers.truncate(MAX_SAMPLE);
        peers.retain(|peer| *peer != self.me);
        if peers.is_empty() {
            return;
        }
        self.outputs.push_back(Output::Learn { from, peers: peers.clone() });
        if self.config.discover {
            for peer in peers {
                self.keep_in_mind(peer, Some(from), given);
            }
        }
    }

    fn on_clock(&mut self, now: Instant) {
        for list in [&mut self.cold, &mut self.displacers] {
            while list.front().is_some_and(|(_, until)| *until <= now) {
                list.pop_front();
            }
        }
        let due = |link: &Link<P>| link.deadline().is_some_and(|at| at <= now);
        let overdue: Vec<P> =
            self.links.iter().filter(|(_, link)| due(link)).map(|(&peer, _)| peer).collect();
        for peer in overdue {
            self.counters.unanswered += 1;
            if let Some(link) = self.links.get_mut(&peer) {
                link.phase = Phase::Leaving(now + self.config.answer_wait);
            }
            self.outputs.push_back(Output::Hangup(peer));
        }
        self.hunt.expire(now);
        if !self.config.discover {
            return;
        }
        if self.next_shuffle.is_none_or(|at| at <= now) {
            let first = self.next_shuffle.is_none();
            let wait = Duration::from_secs(1 << self.shuffles.min(6)).min(self.config.shuffle_every);
            self.next_shuffle = Some(now + wait.mul_f64(self.rng.random_range(0.5..=1.0)));
            self.shuffles = self.shuffles.saturating_add(1);
            if !first {
                self.shuffle(now);
                self.try_lost();
                self.look_at_sources(now);
            }
        }
        if self.next_feel.is_none_or(|at| at <= now) {
            if self.next_feel.is_some() {
                self.outputs.push_back(Output::Feel);
            }
            self.next_feel = Some(now + self.config.feel_every.mul_f64(self.rng.random_range(0.5..=1.0)));
        }
    }

    /// Neighbours that all come from one source may be that source's choice: ask elsewhere (faults row 23).
    fn look_at_sources(&mut self, now: Instant) {
        if self.next_reseed.is_some_and(|at| now < at) {
            return;
        }
        let mut sources = self
            .links
            .values()
            .filter(|link| link.is_active() && link.direction == Direction::Out && !link.asked)
            .map(|link| link.via);
        let Some(Some(first)) = sources.next() else { return };
        let mut count = 1;
        if sources.all(|via| {
            count += 1;
            via == Some(first)
        }) && count > 1
        {
            self.next_reseed = Some(now + self.config.reseed_every);
            self.outputs.push_back(Output::Reseed);
        }
    }
}

fn remember<P: Copy + Ord>(list: &mut VecDeque<(P, Instant)>, peer: P, until: Instant) {
    if list.len() >= MAX_REMEMBERED {
        list.pop_front();
    }
    list.push_back((peer, until));
}
