//! [`PeerTable`]: the state machine. One entry per peer, one state per entry, one function that changes it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::Rng;
use tracing::trace;

use crate::addr::canonical;
use crate::backoff;
use crate::count::{Census, Links};
use crate::entry::{Ban, Entry, Worth};
use crate::timers::TimerQueue;
use crate::{
    Config, Counters, DialFailure, Direction, HangupCause, Input, Key, Output, PeerView, Refusal, State,
    Target,
};

/// What a timer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer<P> {
    /// A peer's backoff ends.
    Retry(P),
    /// A seed's backoff ends.
    RetrySeed(SocketAddr),
    /// A dial's end should have been reported by now.
    DialLost(Target<P>),
    /// A ban ends.
    Unban(P),
    /// Changes are to be saved.
    Save,
}

/// An address that the user named without an id.
#[derive(Debug)]
pub(crate) struct Seed<P> {
    /// Who answered there last.
    pub(crate) peer: Option<P>,
    /// Just named: dialled even if somebody there is linked already.
    pub(crate) fresh: bool,
    pub(crate) failures: u32,
    /// Dials in a row that met a link that was already there.
    pub(crate) duplicates: u32,
    /// Not dialled before.
    pub(crate) until: Option<Instant>,
    /// Dials in a row that were refused.
    pub(crate) refusals: u32,
    /// After the last of them: not dialled before, even by a node without neighbours.
    pub(crate) alone_until: Option<Instant>,
}

impl<P> Seed<P> {
    pub(crate) const fn new(peer: Option<P>) -> Self {
        let (failures, duplicates, refusals) = (0, 0, 0);
        Self { peer, fresh: false, failures, duplicates, until: None, refusals, alone_until: None }
    }
}

/// Who is known, who is linked, whom to dial and when.
///
/// The table does no input or output and reads no clock: report what happened with [`handle`](Self::handle), ask for
/// things with the other methods, and after any call that takes `&mut self` do what
/// [`poll_output`](Self::poll_output) says until it says `None`. Hand in [`Input::Timeout`] at
/// [`poll_timeout`](Self::poll_timeout). Time must not go backwards between calls.
///
/// ```
/// use p2p_peers::{Config, Input, Output, PeerAddr, PeerTable, Source, Target};
/// use rand::{SeedableRng, rngs::StdRng};
/// # let now = std::time::Instant::now();
/// let mut table = PeerTable::new(1_u32, Config::default(), StdRng::seed_from_u64(7));
/// let addr = PeerAddr { ip: [9, 9, 9, 9].into(), port: 65432, file_port: 65433 };
/// let learned =
///     Input::Learned { peer: 2, addrs: vec![addr], record: None, source: Source::User, private_link: false };
/// table.handle(now, learned);
/// let dial = Output::Dial { target: Target::Peer(2), addrs: vec![addr.socket_addr()] };
/// assert_eq!(table.poll_output(), Some(dial));
/// ```
#[derive(Debug)]
pub struct PeerTable<P, R> {
    pub(crate) me: P,
    pub(crate) config: Config,
    pub(crate) rng: R,
    /// The time of the latest call.
    pub(crate) now: Option<Instant>,
    /// Boxed: a map's nodes have room for eleven, of which a third is empty on average.
    pub(crate) entries: BTreeMap<P, Box<Entry<P>>>,
    /// All that the user wished for, and perhaps no longer does.
    pub(crate) wishes: BTreeSet<P>,
    pub(crate) seeds: BTreeMap<SocketAddr, Seed<P>>,
    /// Dials on their way, with the addresses they try.
    pub(crate) dials: BTreeMap<Target<P>, Vec<SocketAddr>>,
    pub(crate) links: Links,
    pub(crate) census: Census<P>,
    /// Our own addresses, found by dialling ourselves.
    pub(crate) ours: VecDeque<SocketAddr>,
    pub(crate) timers: TimerQueue<Timer<P>>,
    pub(crate) outputs: VecDeque<Output<P>>,
    pub(crate) stopped: bool,
    pub(crate) counters: Counters,
}

impl<P: Key, R: Rng> PeerTable<P, R> {
    /// An empty table of the node `me`. `config` should [`validate`](Config::validate).
    pub fn new(me: P, config: Config, rng: R) -> Self {
        Self {
            me,
            config: config.within_reason(),
            rng,
            now: None,
            entries: BTreeMap::new(),
            wishes: BTreeSet::new(),
            seeds: BTreeMap::new(),
            dials: BTreeMap::new(),
            links: Links::default(),
            census: Census::new(),
            ours: VecDeque::new(),
            timers: TimerQueue::new(),
            outputs: VecDeque::new(),
            stopped: false,
            counters: Counters::default(),
        }
    }

    /// Takes in what happened at `now`.
    pub fn handle(&mut self, now: Instant, input: Input<P>) {
        trace!(?input, "table input");
        let fired = self.begin(now);
        match input {
            Input::Learned { peer, addrs, record, source, private_link } => {
                let changed = self.on_learned(now, peer, &addrs, record, source, private_link);
                if !changed && !fired {
                    return;
                }
            }
            Input::Seed(addr) => self.on_seed(now, addr),
            Input::Connected { peer, target, addr, seen_at } => {
                self.on_connected(now, peer, target, canonical(addr), seen_at);
            }
            Input::DialFailed { target, cause } => self.on_dial_failed(now, target, cause),
            Input::Disconnected { peer, cause } => self.on_disconnected(now, peer, cause),
            Input::NetworkChanged => self.on_network_changed(now),
            Input::Timeout => {}
        }
        self.fill(now);
    }

    /// The next thing to do, or `None` when all is done for now.
    pub fn poll_output(&mut self) -> Option<Output<P>> {
        let output = self.outputs.pop_front();
        if let Some(output) = &output {
            trace!(?output, "table output");
        }
        output
    }

    /// When [`Input::Timeout`] is due, if nothing happens before.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.deadline()
    }

    /// The user wants to be linked to `peer`: it is dialled even without discovery, as soon as an address is known,
    /// and again whenever the link is lost, until [`disconnect`](Self::disconnect) or [`ban`](Self::ban). Kept over a
    /// restart. A ban stays.
    pub fn want(&mut self, now: Instant, peer: P) {
        self.begin(now);
        if peer != self.me && self.ensure(peer, None, Worth::Asked) {
            self.edit(peer, |entry| {
                (entry.wanted, entry.fresh) = (true, true);
                (entry.held, entry.introduced_by) = (false, None);
            });
            self.wishes.insert(peer);
            self.hurry(peer);
            self.changed(now);
        }
        self.fill(now);
    }

    /// The user does not want this link: hangs up, ends the wish for it, and does not dial the peer again by itself.
    /// The peer may dial us. Says whether there was a link, a dial or a wish to end.
    pub fn disconnect(&mut self, now: Instant, peer: P) -> bool {
        self.begin(now);
        let asked = self.is_asked(peer);
        self.seeds.retain(|_, seed| seed.peer != Some(peer));
        let Some(entry) = self.entries.get_mut(&peer) else { return false };
        let ended = asked || entry.is_busy();
        (entry.wanted, entry.fresh, entry.held) = (false, false, true);
        self.hang_up(peer, HangupCause::Disconnect);
        self.changed(now);
        self.fill(now);
        ended
    }

    /// Refuses `peer` until then, or for good (and over a restart) with `None`; a link is hung up.
    pub fn ban(&mut self, now: Instant, peer: P, until: Option<Instant>) {
        self.begin(now);
        self.seeds.retain(|_, seed| seed.peer != Some(peer));
        if peer != self.me && self.ensure(peer, None, Worth::Asked) {
            self.edit(peer, |entry| (entry.wanted, entry.introduced_by) = (false, None));
            self.set_ban(peer, until.map_or(Ban::Forever, Ban::Until));
            self.hang_up(peer, HangupCause::Banned);
            self.changed(now);
        }
        self.fill(now);
    }

    /// Lifts a ban, the user's or one for misbehaving; says whether there was one.
    pub fn unban(&mut self, peer: P) -> bool {
        let banned = self.entry(peer).is_some_and(Entry::is_banned);
        if banned {
            self.set_ban(peer, Ban::No);
            if let Some(now) = self.now {
                self.changed(now);
                self.fill(now);
            }
        }
        banned
    }

    /// Leaves the network: hangs up every link, refuses new ones and dials nothing until [`resume`](Self::resume).
    pub fn stop(&mut self, now: Instant) {
        self.begin(now);
        self.stopped = true;
        let linked: Vec<P> = self.connected().collect();
        for peer in linked {
            self.hang_up(peer, HangupCause::Stopped);
        }
    }

    /// Enters the network again.
    pub fn resume(&mut self, now: Instant) {
        self.begin(now);
        self.stopped = false;
        self.fill(now);
    }

    /// The node found out who answers at a seed although no new link came of it (the peer was linked already): the
    /// seed then counts as served while that peer is linked.
    pub fn identify(&mut self, seed: SocketAddr, peer: P) {
        if let Some(seed) = self.seeds.get_mut(&canonical(seed)) {
            seed.peer = Some(peer);
        }
    }

    /// May a link with `peer` be, whose other end is at `ip`? To be asked once the id is proved, before
    /// [`Input::Connected`]. A peer that is linked already is let in; which of two links stays is the caller's rule.
    ///
    /// # Errors
    ///
    /// Why not. What the user asked for is only bound by the number of all links.
    pub fn admit(&self, peer: P, direction: Direction, ip: IpAddr) -> Result<(), Refusal> {
        if peer == self.me {
            return Err(Refusal::Itself);
        }
        let entry = self.entry(peer);
        if entry.is_some_and(Entry::is_banned) {
            return Err(Refusal::Banned);
        }
        if self.stopped {
            return Err(Refusal::Stopped);
        }
        if entry.is_some_and(Entry::is_connected) {
            return Ok(());
        }
        let limit = self.config.max_links();
        if self.links.total() >= limit {
            return Err(Refusal::Full { limit });
        }
        if self.is_asked(peer) || (direction == Direction::Out && self.dialled_as_seed(ip)) {
            return Ok(());
        }
        let limit = match direction {
            Direction::In => self.config.max_in,
            Direction::Out => self.config.max_out,
        };
        if self.links.count(direction) >= limit {
            return Err(Refusal::Full { limit });
        }
        let limit = self.config.links_per_prefix;
        if self.links.in_prefix(ip) >= limit {
            return Err(Refusal::PrefixFull { limit });
        }
        let limit = self.config.links_per_ip;
        if self.links.at_ip(ip) >= limit {
            return Err(Refusal::AddressFull { limit });
        }
        Ok(())
    }

    /// Every known peer, in the order of the ids.
    pub fn peers(&self) -> impl Iterator<Item = PeerView<P>> {
        self.entries.iter().map(|(&id, entry)| view(id, entry))
    }

    /// One peer.
    pub fn peer(&self, id: P) -> Option<PeerView<P>> {
        self.entries.get(&id).map(|entry| view(id, entry))
    }

    /// The linked peers, in the order of the ids.
    pub fn connected(&self) -> impl Iterator<Item = P> {
        self.entries.iter().filter(|(_, entry)| entry.is_connected()).map(|(&id, _)| id)
    }

    /// Number of links.
    pub fn links(&self) -> usize {
        self.links.total()
    }

    /// Number of known peers.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no peer is known.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What was refused or given up so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }
}

fn view<P: Key>(id: P, entry: &Entry<P>) -> PeerView<P> {
    PeerView {
        id,
        state: entry.state(),
        addrs: entry.dial_order(),
        last_connected: entry.last_connected(),
        wanted: entry.wanted,
        banned: entry.is_banned(),
        failures: entry.failures,
    }
}

/// Moves.
impl<P: Key, R: Rng> PeerTable<P, R> {
    pub(crate) fn entry(&self, peer: P) -> Option<&Entry<P>> {
        self.entries.get(&peer).map(Box::as_ref)
    }

    /// Notes the time and fires what is due; says whether anything was.
    pub(crate) fn begin(&mut self, now: Instant) -> bool {
        self.now = Some(now);
        let mut fired = false;
        while let Some(timer) = self.timers.pop(now) {
            fired = true;
            match timer {
                Timer::Retry(peer) => self.shift(peer, State::Known),
                Timer::RetrySeed(addr) => {
                    if let Some(seed) = self.seeds.get_mut(&addr) {
                        seed.until = None;
                    }
                }
                Timer::DialLost(target) => {
                    self.counters.lost_dials += 1;
                    self.on_dial_failed(now, target, DialFailure::TimedOut);
                }
                Timer::Unban(peer) => self.set_ban(peer, Ban::No),
                Timer::Save => self.outputs.push_back(Output::Save),
            }
        }
        fired
    }

    /// Makes every change of a peer's state, and keeps the counts and timers that follow from it.
    pub(crate) fn shift(&mut self, peer: P, to: State) {
        let Some(entry) = self.entries.get_mut(&peer) else { return };
        if let State::Connected { direction, addr, .. } = entry.state() {
            self.links.remove(direction, addr.ip());
        }
        self.timers.cancel(Timer::Retry(peer));
        match to {
            State::Connected { direction, addr, .. } => self.links.add(direction, addr.ip()),
            State::Backoff { until } => self.timers.set(Timer::Retry(peer), until),
            State::Known | State::Dialing => {}
        }
        trace!(?peer, from = ?entry.state(), ?to, "peer moves");
        entry.set_state(to);
    }

    /// Waits before the next dial, the longer the more often it failed; for a peer that was linked a moment ago never
    /// for long, if it may be `eager`.
    pub(crate) fn back_off(&mut self, now: Instant, peer: P, eager: bool) {
        let Some(entry) = self.entry(peer) else { return };
        let eager = eager && entry.eager_until().is_some_and(|until| now < until);
        let Config { backoff_base, backoff_max, eager_every, .. } = self.config;
        let max = if eager { eager_every.min(backoff_max) } else { backoff_max };
        let wait = backoff::delay(entry.failures, backoff_base, max, &mut self.rng);
        self.shift(peer, State::Backoff { until: now + wait.max(Duration::from_millis(1)) });
    }

    /// The other side has no room: asking again soon would only be one more of many who ask.
    pub(crate) fn back_off_refused(&mut self, now: Instant, peer: P) {
        // A link that ends with this is none.
        self.shift(peer, State::Known);
        let base = self.refused_base(self.is_asked(peer));
        let Some(entry) = self.entries.get_mut(&peer) else { return };
        entry.refusals = entry.refusals.saturating_add(1);
        let wait = backoff::delay(entry.refusals, base, self.config.backoff_max, &mut self.rng);
        self.shift(peer, State::Backoff { until: now + wait.max(Duration::from_millis(1)) });
    }

    /// The wait after a first refusal: long if it was `asked` for, since all that were named the same full node ask it.
    /// Without discovery nobody else is looked for, and nothing says that there is no neighbour.
    pub(crate) fn refused_base(&self, asked: bool) -> Duration {
        let Config { discover, refused_base, backoff_max, .. } = self.config;
        let alone = !discover && self.links.total() == 0;
        if asked && !alone { backoff_max } else { refused_base }
    }

    /// Ends a backoff now.
    pub(crate) fn hurry(&mut self, peer: P) {
        if self.entry(peer).is_some_and(|entry| entry.is_backing_off()) {
            self.shift(peer, State::Known);
        }
    }

    pub(crate) fn hang_up(&mut self, peer: P, cause: HangupCause) {
        if self.entry(peer).is_some_and(Entry::is_connected) {
            self.outputs.push_back(Output::Hangup { peer, cause });
        }
    }

    pub(crate) fn set_ban(&mut self, peer: P, ban: Ban) {
        let Some(entry) = self.entries.get_mut(&peer) else { return };
        entry.rare_mut().ban = ban;
        match ban {
            Ban::Until(at) => self.timers.set(Timer::Unban(peer), at),
            Ban::No | Ban::Forever => self.timers.cancel(Timer::Unban(peer)),
        }
        self.drop_if_useless(peer);
    }

    /// Something worth saving changed.
    pub(crate) fn changed(&mut self, now: Instant) {
        self.timers.set_if_idle(Timer::Save, now + self.config.save_after);
    }
}
