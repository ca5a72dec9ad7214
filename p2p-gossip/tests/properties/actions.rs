//! What may happen to a core, and limits of all sizes.

use std::time::Duration;

use p2p_gossip::{Config, Held, LogStore, Span, Sum};
use proptest::prelude::*;

use crate::net::{Id, id, ms};

pub(crate) const PEERS: u32 = 5;

/// Of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Whole,
    Lost,
    Failed,
}

#[derive(Clone, Debug)]
pub(crate) enum Action {
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
    /// There is room again, or said to be.
    Owed(u32),
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
    /// The log outside answers what was asked of it at this place of the list.
    Read {
        at: usize,
        outcome: Outcome,
    },
    /// Another process goes on with what was kept.
    Restart,
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

pub(crate) fn actions() -> impl Strategy<Value = Action> {
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
        1 => peer().prop_map(Action::Owed),
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

/// The same with a log outside.
pub(crate) fn actions_outside() -> impl Strategy<Value = Action> {
    let outcomes = prop::sample::select(vec![Outcome::Whole, Outcome::Whole, Outcome::Lost, Outcome::Failed]);
    prop_oneof![
        20 => actions(),
        4 => (any::<usize>(), outcomes).prop_map(|(at, outcome)| Action::Read { at, outcome }),
        1 => Just(Action::Restart),
    ]
}

/// Small limits, so that each is met.
pub(crate) fn tight() -> Config {
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
pub(crate) fn any_config() -> impl Strategy<Value = Config> {
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
            answers_age: pull_timeout,
            log_age,
            log_store: LogStore::Copied,
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
