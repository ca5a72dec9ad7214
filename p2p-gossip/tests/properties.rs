//! Laws under random inputs, hostile ones included.

mod net;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use net::{Core, Id, Out, announce, check, core, drain, forged, genuine, id, ms, start};
use p2p_gossip::{Config, Held, Input, Message, Output, Span, Sum, Ticket};
use proptest::prelude::*;

const PEERS: u32 = 5;

#[derive(Clone, Debug)]
enum Action {
    Up(u32),
    Down(u32),
    Push {
        from: u32,
        id: Id,
        honest: bool,
        len: usize,
    },
    IHave {
        from: u32,
        ids: Vec<Id>,
        wait: bool,
    },
    Graft {
        from: u32,
        id: Option<Id>,
    },
    IWant {
        from: u32,
        ids: Vec<Id>,
    },
    Prune(u32),
    Digest {
        from: u32,
        sums: Vec<Sum>,
    },
    Ranges {
        from: u32,
        held: Vec<Held<u32>>,
    },
    Pull {
        from: u32,
        number: u32,
        spans: Vec<Span<u32>>,
    },
    Served {
        from: u32,
        number: u32,
        done: u16,
        upto: u64,
    },
    /// The caller had no room for a push.
    NoRoom {
        to: u32,
        id: Id,
    },
    /// Answers the open check at this place of the list, by the stub.
    Answer(usize),
    /// A ticket that was answered before.
    AnswerAgain(usize),
    Wait(u64),
    /// A bundle after this many unused seqs.
    Publish {
        skip: u64,
        count: u8,
        len: usize,
    },
}

fn ids() -> impl Strategy<Value = Id> {
    // Author 0 is the core itself. Some ids cannot be.
    // Few, so that copies meet.
    let near = (0..4_u32, 0..2_u64, 0..10_u64, 0..4_u8)
        .prop_map(|(author, run, first, count)| id(author, run * 4, first, count));
    let far = (0..6_u32, any::<u64>(), any::<u64>(), any::<u8>())
        .prop_map(|(author, run, first, count)| id(author, run, first, count));
    prop_oneof![9 => near, 1 => far]
}

fn spans() -> impl Strategy<Value = Span<u32>> {
    let near = (0..4_u32, 0..12_u64, 0..12_u64).prop_map(|(author, from, to)| Span { author, from, to });
    let far = (0..6_u32, any::<u64>(), any::<u64>()).prop_map(|(author, from, to)| Span { author, from, to });
    prop_oneof![9 => near, 1 => far]
}

fn helds() -> impl Strategy<Value = Held<u32>> {
    (spans(), any::<u8>()).prop_map(|(span, sum)| Held { span, sum: [sum; 16] })
}

fn sums() -> impl Strategy<Value = Vec<Sum>> {
    let one = any::<u8>().prop_map(|sum| vec![[sum; 16]]);
    let buckets = any::<u8>().prop_map(|sum| vec![[sum; 16]; 256]);
    let odd = (0..9_usize).prop_map(|count| vec![[1; 16]; count]);
    prop_oneof![3 => one, 3 => buckets, 1 => odd]
}

fn catch_ups() -> impl Strategy<Value = Action> {
    let peer = || 1..=PEERS;
    let seq = || prop_oneof![9 => 0..12_u64, 1 => any::<u64>()];
    prop_oneof![
        2 => (peer(), sums()).prop_map(|(from, sums)| Action::Digest { from, sums }),
        3 => (peer(), proptest::collection::vec(helds(), 0..8))
            .prop_map(|(from, held)| Action::Ranges { from, held }),
        2 => (peer(), 0..5_u32, proptest::collection::vec(spans(), 0..6))
            .prop_map(|(from, number, spans)| Action::Pull { from, number, spans }),
        2 => (peer(), 0..5_u32, 0..4_u16, seq())
            .prop_map(|(from, number, done, upto)| Action::Served { from, number, done, upto }),
    ]
}

fn actions() -> impl Strategy<Value = Action> {
    let peer = || 1..=PEERS;
    let len = || prop_oneof![Just(0_usize), Just(300), Just(900)];
    prop_oneof![
        2 => peer().prop_map(Action::Up),
        1 => peer().prop_map(Action::Down),
        12 => (peer(), ids(), any::<bool>(), len())
            .prop_map(|(from, id, honest, len)| Action::Push { from, id, honest, len }),
        3 => (peer(), proptest::collection::vec(ids(), 0..6), any::<bool>())
            .prop_map(|(from, ids, wait)| Action::IHave { from, ids, wait }),
        1 => (peer(), proptest::collection::vec(ids(), 0..6))
            .prop_map(|(from, ids)| Action::IWant { from, ids }),
        1 => (peer(), ids()).prop_map(|(to, id)| Action::NoRoom { to, id }),
        2 => (peer(), proptest::option::of(ids())).prop_map(|(from, id)| Action::Graft { from, id }),
        1 => peer().prop_map(Action::Prune),
        6 => catch_ups(),
        8 => any::<usize>().prop_map(Action::Answer),
        1 => any::<usize>().prop_map(Action::AnswerAgain),
        3 => (0_u64..2_000).prop_map(Action::Wait),
        1 => (0_u64..3, 1_u8..4, len())
            .prop_map(|(skip, count, len)| Action::Publish { skip, count, len }),
    ]
}

/// Small limits, so that each is met.
fn tight() -> Config {
    Config {
        max_envelope: 800,
        eager_limit: 200,
        max_open_checks: 3,
        max_open_bytes: 700,
        max_duplicates: 2,
        max_authors: 4,
        new_authors_burst: 2,
        max_ranges: 3,
        max_ranges_total: 6,
        max_ids: 4,
        max_announced: 5,
        max_pulls: 2,
        author_entries_per_sec: Some(20),
        log_age: ms(5_000),
        log_bytes: 1_000,
        log_messages: 6,
        hold_messages: 3,
        hold_bytes: 700,
        hold_bytes_total: 900,
        range_bytes: 500,
        range_messages: 5,
        max_claims: 5,
        ..Config::default()
    }
}

/// Any limit may be nothing, little or the default.
fn any_config() -> impl Strategy<Value = Config> {
    let number = || prop_oneof![Just(0_usize), Just(1), Just(3), Just(usize::MAX / 4)];
    let time = || prop_oneof![Just(ms(0)), Just(ms(100)), Just(Duration::MAX)];
    let numbers = proptest::collection::vec(number(), 33);
    (numbers, time(), time(), time()).prop_map(|(numbers, pull_timeout, log_age, hold_time)| {
        let mut numbers = numbers.into_iter();
        let mut next = || numbers.next().unwrap_or(1);
        let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Config {
            max_envelope: next(),
            eager_limit: next(),
            max_open_checks: next(),
            max_open_bytes: next(),
            max_duplicates: small(next()),
            max_authors: next(),
            new_authors_per_sec: small(next()),
            new_authors_burst: small(next()),
            max_ranges: next(),
            max_ranges_total: next(),
            max_ids: next(),
            max_announced: next(),
            max_pulls: next(),
            author_entries_per_sec: Some(small(next())),
            ihave_delay: pull_timeout,
            ihaves_sent_per_sec: small(next()),
            ihaves_per_sec: small(next()),
            graft_min: log_age,
            graft_max: hold_time,
            grafts_per_min: small(next()),
            renew_after: small(next()),
            max_recent: next(),
            broken_promises: small(next()),
            withheld_messages: small(next()),
            withheld_time: pull_timeout,
            pull_timeout,
            max_answers: small(next()),
            log_age,
            log_in_memory: true,
            log_copies: true,
            log_bytes: next(),
            log_messages: next(),
            hold_time,
            hold_messages: next(),
            hold_bytes: next(),
            hold_bytes_total: usize::MAX,
            catch_up_delay: hold_time,
            range_bytes: next(),
            range_messages: next() as u64,
            range_pulls_per_sec: small(next()),
            range_timeout: pull_timeout,
            max_claims: next(),
            summary_bytes: small(next()),
            summary_bytes_per_sec: small(next()),
            digest_every: log_age,
            history_age: hold_time,
            catch_up_hold: log_age,
            gap_after: pull_timeout,
            max_holes: next(),
        }
    })
}

/// A core, and what a perfect observer knows of it.
struct World {
    now: Instant,
    core: Core,
    config: Config,
    up: BTreeSet<u32>,
    checks: Vec<(Ticket, bool)>,
    answered: Vec<(Ticket, bool)>,
    delivered: BTreeMap<(u32, u64), usize>,
    own_next: u64,
    /// Whether a neighbour that never lied about an id pushed it while up, by id.
    honest: BTreeSet<(u32, Id)>,
    lied: BTreeSet<(u32, Id)>,
}

impl World {
    fn new(config: Config) -> Self {
        Self {
            now: start(),
            core: core(0, config.clone()),
            config,
            up: BTreeSet::new(),
            checks: Vec::new(),
            answered: Vec::new(),
            delivered: BTreeMap::new(),
            own_next: 0,
            honest: BTreeSet::new(),
            lied: BTreeSet::new(),
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Up(peer) => {
                self.up.insert(peer);
                self.input(Input::NeighborUp(peer));
            }
            Action::Down(peer) => {
                self.up.remove(&peer);
                self.input(Input::NeighborDown(peer));
            }
            Action::Push { from, id, honest, len } => {
                let envelope = if honest { genuine(&id, len) } else { forged(&id, len) };
                if self.up.contains(&from) && envelope.len() <= self.config.max_envelope {
                    let list = if honest { &mut self.honest } else { &mut self.lied };
                    list.insert((from, id));
                }
                self.receive(
                    from,
                    Message::Push { id, hops: u16::MAX, renew: true, age: Duration::MAX, envelope },
                );
            }
            Action::IHave { from, ids, wait } => self.receive(from, announce(&ids, wait)),
            Action::IWant { from, ids } => self.receive(from, Message::IWant { ids }),
            Action::NoRoom { to, id } => {
                self.core.announce_instead(self.now, to, id, 1);
                self.observe();
            }
            Action::Graft { from, id } => self.receive(from, Message::Graft { id }),
            Action::Prune(from) => self.receive(from, Message::Prune),
            Action::Digest { from, sums } => self.receive(from, Message::Digest { sums }),
            Action::Ranges { from, held } => self.receive(from, Message::Ranges { held }),
            Action::Pull { from, number, spans } => self.receive(from, Message::Pull { number, spans }),
            Action::Served { from, number, done, upto } => {
                self.receive(from, Message::Served { number, done, upto });
            }
            Action::Answer(at) => {
                if !self.checks.is_empty() {
                    let check = self.checks.swap_remove(at % self.checks.len());
                    self.answered.push(check);
                    self.input(Input::Verified { ticket: check.0, ok: check.1 });
                }
            }
            Action::AnswerAgain(at) => {
                if !self.answered.is_empty() {
                    let (ticket, _) = self.answered[at % self.answered.len()];
                    self.input(Input::Verified { ticket, ok: true });
                }
            }
            Action::Wait(time) => {
                self.now += ms(time);
                self.input(Input::Timeout);
                assert!(self.core.poll_timeout().is_none_or(|at| at > self.now), "no busy loop");
            }
            Action::Publish { skip, count, len } => self.publish(skip, count, len),
        }
    }

    fn receive(&mut self, from: u32, message: Message<u32>) {
        self.input(Input::Received { from, message });
    }

    fn publish(&mut self, skip: u64, count: u8, len: usize) {
        let id = id(0, 0, self.own_next.saturating_add(skip), count);
        let envelope = genuine(&id, len);
        let fits = envelope.len() <= self.config.max_envelope && id.is_valid();
        let published = self.core.publish(self.now, id, envelope);
        assert_eq!(published.is_ok(), fits, "{published:?}");
        if let Ok(queued) = published {
            self.own_next = id.seqs().end;
            assert_eq!(queued.links, self.up.len());
        }
        self.observe();
    }

    fn input(&mut self, input: Input<u32, u32>) {
        self.core.handle(self.now, input);
        self.observe();
    }

    fn observe(&mut self) {
        for output in drain(&mut self.core) {
            self.note(output);
        }
        let (stats, config) = (self.core.stats(), &self.config);
        assert!(stats.log_bytes <= config.log_bytes && stats.log_messages <= config.log_messages);
        assert!(stats.authors <= config.max_authors.max(1));
        assert!(stats.missing <= config.max_announced.saturating_mul(PEERS as usize));
        assert!(stats.held <= config.hold_messages.saturating_mul(4 * config.max_authors.clamp(1, 1 << 20)));
        let checks = config
            .max_open_checks
            .saturating_mul(2)
            .saturating_add(usize::try_from(config.range_messages).unwrap_or(usize::MAX));
        assert!(stats.open_checks <= checks.saturating_mul(PEERS as usize));
        assert_eq!(stats.open_checks, self.checks.len());
        assert_eq!(stats.neighbors, self.up.len());
    }

    fn note(&mut self, output: Out) {
        match output {
            Output::Send { to, message } => {
                assert!(self.up.contains(&to), "only to neighbours");
                if let Message::Push { id, envelope, .. } = message {
                    assert!(check(&id, &envelope), "only what was verified");
                }
            }
            Output::Verify { ticket, id, envelope, .. } => {
                self.checks.push((ticket, check(&id, &envelope)));
            }
            Output::Append { entry, envelope } => assert!(check(&entry.id, &envelope)),
            Output::Drop { .. } | Output::Fetch { .. } => {}
            Output::Deliver { id, envelope, entries, .. } => {
                assert!(check(&id, &envelope) && id.author != 0 && entries != 0);
                for (bit, seq) in id.seqs().enumerate() {
                    if entries >> bit & 1 == 1 {
                        *self.delivered.entry((id.author, seq)).or_default() += 1;
                    }
                }
                assert_eq!(entries.checked_shr(u32::from(id.count)).unwrap_or(0), 0);
            }
            Output::OwnAhead { id } => {
                assert_eq!(id.author, 0);
                self.own_next = self.own_next.max(id.seqs().end);
            }
            Output::Gap { missing } => assert!(missing.from < missing.to),
            Output::Forked { .. } | Output::Withholds { .. } | Output::Misbehaved { .. } => {}
        }
    }

    /// Answers all checks and lets all times pass.
    fn settle(&mut self) {
        for _ in 0..4 {
            while !self.checks.is_empty() {
                self.act(Action::Answer(0));
            }
            // Each announcer in turn may leave us waiting.
            for _ in 0..20 {
                self.act(Action::Wait(3_000));
            }
        }
    }

    fn assert_at_most_once(&self) {
        for (message, times) in &self.delivered {
            assert_eq!(*times, 1, "{message:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_input_panics_limits_hold_and_nothing_comes_twice(
        actions in proptest::collection::vec(actions(), 0..250),
    ) {
        let mut world = World::new(tight());
        for action in actions {
            world.act(action);
        }
        world.settle();
        world.assert_at_most_once();
        let stats = world.core.stats();
        prop_assert_eq!((stats.held, stats.open_checks), (0, 0));
    }

    #[test]
    fn no_config_makes_it_panic_or_deliver_twice(
        config in any_config(),
        actions in proptest::collection::vec(actions(), 0..150),
    ) {
        let mut world = World::new(config);
        for action in actions {
            world.act(action);
        }
        world.assert_at_most_once();
    }

    /// With room for all, whatever an honest neighbour pushed is delivered, whatever others pushed before or
    /// after.
    #[test]
    fn nothing_that_an_honest_neighbour_sent_is_lost(
        actions in proptest::collection::vec(actions(), 0..150),
    ) {
        let mut world = World::new(Config::default());
        for action in actions {
            world.act(action);
        }
        world.settle();
        world.assert_at_most_once();
        prop_assert_eq!(world.core.stats().missing, 0);
        for (peer, id) in world.honest.difference(&world.lied) {
            if id.author == 0 || !id.is_valid() {
                continue;
            }
            for seq in id.seqs() {
                prop_assert!(
                    world.delivered.contains_key(&(id.author, seq)),
                    "seq {} of {:?}, sent by {}", seq, id, peer,
                );
            }
        }
    }
}
