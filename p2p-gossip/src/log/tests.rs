//! The log against its bounds, and against one that has no list of what came last.
#![expect(clippy::disallowed_methods, reason = "any instant will do as the first")]

use proptest::collection::vec;
use proptest::prelude::*;

use crate::message::{Held, Span};
use crate::sums;

use super::*;

fn id(author: u32, first: u64) -> EnvelopeId<u32> {
    EnvelopeId { author, run: 0, first, count: 1 }
}

fn log(max_bytes: usize, max_messages: usize) -> Log<u32, u32> {
    let log_age = Duration::from_secs(60);
    Log::new(&Config { log_age, log_bytes: max_bytes, log_messages: max_messages, ..Config::default() })
}

/// Adds zeros, and returns how many had to go for it.
fn insert(log: &mut Log<u32, u32>, now: Instant, id: EnvelopeId<u32>, len: usize, age: u64) -> usize {
    let entry = Logged { id, len, age: Duration::from_secs(age), hops: 4, digest: [0; 16] };
    log.insert(now, entry, Some(&Bytes::from(vec![0; len])));
    std::iter::from_fn(|| log.evict()).count()
}

fn expired(log: &mut Log<u32, u32>, now: Instant) -> usize {
    std::iter::from_fn(|| log.expire(now)).count()
}

#[test]
fn the_author_with_most_bytes_loses_its_oldest() {
    let now = Instant::now();
    let mut log = log(100, 10);
    for (id, len) in [(id(1, 0), 40), (id(2, 0), 30), (id(1, 1), 20)] {
        assert_eq!(insert(&mut log, now, id, len, 0), 0);
    }
    assert_eq!(insert(&mut log, now, id(3, 0), 20, 0), 1);
    assert_eq!(log.answer(now, &id(1, 0), 9, 3), Answer::Unknown);
    assert_ne!(log.answer(now, &id(1, 1), 9, 3), Answer::Unknown);
    assert_eq!((log.len(), log.bytes()), (3, 70));
}

#[test]
fn what_was_published_first_goes_first_whenever_it_came() {
    let now = Instant::now();
    let mut log = log(100, 10);
    insert(&mut log, now, id(1, 5), 40, 0);
    insert(&mut log, now, id(1, 4), 40, 30);
    assert_eq!(log.travelled(now + Duration::from_secs(2), &id(1, 4)), Some((4, Duration::from_secs(32))));
    assert_eq!(log.expires_at(), Some(now + Duration::from_secs(30)));
    insert(&mut log, now, id(1, 3), 40, 50);
    assert_eq!(log.answer(now, &id(1, 3), 9, 3), Answer::Unknown);
    assert_ne!(log.answer(now, &id(1, 4), 9, 3), Answer::Unknown);
}

#[test]
fn count_and_bytes_stay_bounded_even_by_one_that_fits_nowhere() {
    let now = Instant::now();
    let mut log = log(100, 3);
    for seq in 0..5 {
        insert(&mut log, now, id(1, seq), 10, 0);
    }
    assert_eq!((log.len(), log.bytes()), (3, 30));
    assert_eq!(insert(&mut log, now, id(2, 0), 101, 0), 1);
    assert_eq!((log.len(), log.bytes()), (3, 30));
}

#[test]
fn what_is_too_old_goes() {
    let now = Instant::now();
    let mut log = log(100, 10);
    insert(&mut log, now, id(1, 0), 10, 0);
    insert(&mut log, now + Duration::from_secs(30), id(1, 1), 10, 0);
    assert_eq!(log.expires_at(), Some(now + Duration::from_secs(60)));
    assert_eq!(expired(&mut log, now + Duration::from_secs(59)), 0);
    assert_eq!(expired(&mut log, now + Duration::from_secs(60)), 1);
    assert_eq!(log.expires_at(), Some(now + Duration::from_secs(90)));
    assert_eq!(expired(&mut log, now + Duration::from_secs(600)), 1);
    assert_eq!((log.len(), log.bytes(), log.expires_at()), (0, 0, None));
    assert!(log.authors.is_empty() && log.by_bytes.is_empty());
}

#[test]
fn one_peer_gets_one_envelope_three_times() {
    let now = Instant::now();
    let mut log = log(100, 10);
    insert(&mut log, now, id(1, 0), 10, 0);
    let zeros = Answer::Envelope(Bytes::from(vec![0; 10]));
    for _ in 0..3 {
        assert_eq!(log.answer(now, &id(1, 0), 7, 3), zeros);
    }
    assert_eq!(log.answer(now, &id(1, 0), 7, 3), Answer::Refused);
    assert_eq!(log.answer(now, &id(1, 0), 8, 3), zeros);
}

fn whole(log: &mut Log<u32, u32>) -> (Sum, Vec<Sum>) {
    (log.sum(), log.bucket_sums())
}

#[test]
fn what_is_held_are_ranges_without_holes_and_their_sums() {
    let now = Instant::now();
    let mut log = log(1_000, 100);
    let entry = |first, count, digest| Logged {
        id: EnvelopeId { author: 7, run: 0, first, count },
        len: 1,
        age: Duration::ZERO,
        hops: 0,
        digest: [digest; 16],
    };
    for (first, count, digest) in [(3, 1, 1), (4, 3, 2), (7, 1, 3), (20, 2, 4), (30, 1, 5)] {
        log.insert(now, entry(first, count, digest), None);
    }
    let held = |from, to, digests: &[u8]| Held {
        span: Span { author: 7, from, to },
        sum: sums::of_all(digests.iter().map(|d| [*d; 16])),
    };
    let all = [held(3, 8, &[1, 2, 3]), held(20, 22, &[4]), held(30, 31, &[5])];
    assert_eq!(log.held(7, 0, 9), (all.to_vec(), None));
    assert_eq!(log.held(7, 0, 2), (all[..2].to_vec(), Some(30)));
    assert_eq!(log.held(7, 20, 2), (all[1..].to_vec(), None));
    assert_eq!((log.held(8, 0, 9), log.held(7, 0, 0)), ((vec![], None), (vec![], Some(3))));
    let mut within =
        |from, to| log.within(Span { author: 7, from, to }).map(|(id, ..)| id.first).collect::<Vec<_>>();
    assert_eq!(within(6, 21), [4, 7, 20], "one begins before, one ends behind");
    assert_eq!(within(8, 20), []);
    let rivals = log.rivals(&EnvelopeId { author: 7, run: 0, first: 6, count: 2 }, [1; 16]);
    assert_eq!(rivals.iter().map(|(id, _)| id.first).collect::<Vec<_>>(), [4, 7]);
}

#[test]
fn sums_follow_what_comes_and_goes_and_of_two_with_one_id_the_lower_stays() {
    let now = Instant::now();
    let mut log = log(1_000, 100);
    let empty = whole(&mut log);
    let entry = |digest| Logged { id: id(1, 0), len: 1, age: Duration::ZERO, hops: 0, digest: [digest; 16] };
    log.insert(now, entry(5), None);
    let five = whole(&mut log);
    assert_ne!(five, empty);
    log.insert(now, entry(6), None);
    assert_eq!(whole(&mut log), five);
    log.insert(now, entry(4), None);
    assert_ne!(whole(&mut log), five);
    assert_eq!((log.len(), log.bytes(), log.held(1, 0, 9).0[0].sum), (1, 1, sums::of_all([[4; 16]])));
    expired(&mut log, now + Duration::from_secs(60));
    assert_eq!(whole(&mut log), empty);
}

/// What a log is asked, with seqs and times small enough to meet.
#[derive(Clone, Debug)]
enum Step {
    Insert { author: u32, first: u64, len: usize, age: u64, digest: u8 },
    Evict,
    Expire,
    Answer(u32, u64),
    Remove(u32, u64),
    Sum,
    Held(u32),
    Rivals(u32, u64),
}

fn step() -> impl Strategy<Value = Step> {
    let name = || (0_u32..3, 0_u64..6);
    let insert = (name(), 1_usize..40, 0_u64..70, any::<u8>());
    prop_oneof![
        8 => insert.prop_map(|((author, first), len, age, digest)| Step::Insert { author, first, len, age, digest }),
        2 => Just(Step::Evict),
        1 => Just(Step::Expire),
        1 => name().prop_map(|(author, first)| Step::Answer(author, first)),
        1 => name().prop_map(|(author, first)| Step::Remove(author, first)),
        1 => Just(Step::Sum),
        1 => (0_u32..3).prop_map(Step::Held),
        1 => name().prop_map(|(author, first)| Step::Rivals(author, first)),
    ]
}

/// What the log says to it, in words.
fn take(log: &mut Log<u32, u32>, now: Instant, step: &Step) -> String {
    match *step {
        Step::Insert { author, first, len, age, digest } => {
            let age = Duration::from_secs(age);
            let logged = Logged { id: id(author, first), len, age, hops: 4, digest: [digest; 16] };
            log.insert(now, logged, Some(&Bytes::from(vec![digest; len])));
            String::new()
        }
        Step::Evict => format!("{:?}", std::iter::from_fn(|| log.evict()).collect::<Vec<_>>()),
        Step::Expire => format!("{:?}", std::iter::from_fn(|| log.expire(now)).collect::<Vec<_>>()),
        Step::Answer(author, first) => {
            format!(
                "{:?} {:?}",
                log.travelled(now, &id(author, first)),
                log.answer(now, &id(author, first), 7, 3)
            )
        }
        Step::Remove(author, first) => {
            log.remove(id(author, first));
            String::new()
        }
        Step::Sum => format!("{:?} {} {}", whole(log).0, log.len(), log.bytes()),
        Step::Held(author) => format!("{:?} {:?}", log.held(author, 0, 3), log.authors_of([0])),
        Step::Rivals(author, first) => format!("{:?}", log.rivals(&id(author, first), [9; 16])),
    }
}

proptest! {
    /// Whoever asks finds what came, and in the same order, as if each envelope had gone into the indexes at once.
    #[test]
    fn what_came_last_is_found_as_everything_else(steps in vec((step(), 0_u64..20), 0..120)) {
        let mut now = Instant::now();
        let (mut lazy, mut eager) = (log(300, 12), log(300, 12));
        for (step, pause) in steps {
            now += Duration::from_secs(pause);
            // Nobody adds an envelope that is there, or takes out one that is not.
            let possible = match step {
                Step::Insert { author, first, .. } => eager.travelled(now, &id(author, first)).is_none(),
                Step::Remove(author, first) => eager.travelled(now, &id(author, first)).is_some(),
                _ => true,
            };
            if !possible {
                continue;
            }
            let said = take(&mut lazy, now, &step);
            prop_assert_eq!(said, take(&mut eager, now, &step), "{:?}", step);
            eager.index_fresh();
            let gauges = |log: &Log<u32, u32>| (log.len(), log.bytes(), log.expires_at());
            prop_assert_eq!(gauges(&lazy), gauges(&eager));
            prop_assert!(lazy.fresh.len() < MAX_FRESH);
        }
    }
}
