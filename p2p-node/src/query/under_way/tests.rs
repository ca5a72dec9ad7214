//! Questions: passed on once, answered the way back, none silenced and none crowded out.

use std::collections::BTreeSet;

use p2p_wire::{MAX_RECORD, SecretKey};

use super::*;
use crate::query::MAX_ANSWER_RECORDS;

fn id(n: u8) -> NodeId {
    SecretKey::from_bytes(&[n; 32]).id()
}

fn query(n: u8, ttl: u8) -> Query {
    Query::sign(&SecretKey::from_bytes(&[9; 32]), [n; 16], FileHash::from_bytes([7; 32]), ttl)
}

/// Of a provider that nobody knows.
fn answer(question: u8, provider: u8) -> Answer {
    let provider = NodeId::from_bytes([provider; 32]);
    Answer { id: [question; 16], provider, records: Vec::new(), name: None }
}

fn drain(queries: &mut Queries) -> Vec<QueryOutput> {
    std::iter::from_fn(|| queries.poll_output()).collect()
}

#[test]
fn a_question_is_passed_on_once_and_never_back() {
    let (mut queries, now) = (Queries::default(), Instant::now());
    let links = [id(1), id(2), id(3)];
    queries.on_query(now, id(1), query(5, 4), links.into_iter());
    queries.on_query(now, id(2), query(5, 4), links.into_iter());
    let sent: Vec<_> = drain(&mut queries)
        .into_iter()
        .filter_map(|o| match o {
            QueryOutput::Send { to, packet: Packet::Query(q) } => Some((to, q.ttl)),
            _ => None,
        })
        .collect();
    assert_eq!(sent, [(id(2), 3), (id(3), 3)]);
}

#[test]
fn the_last_link_passes_nothing_on() {
    let (mut queries, now) = (Queries::default(), Instant::now());
    queries.on_query(now, id(1), query(5, 1), [id(2)].into_iter());
    assert!(matches!(drain(&mut queries)[..], [QueryOutput::Lookup { .. }]));
}

#[test]
fn answers_go_back_the_way_and_are_bounded() {
    let (mut queries, now) = (Queries::default(), Instant::now());
    queries.on_query(now, id(1), query(5, 2), [id(2)].into_iter());
    drain(&mut queries);
    for n in 0..20 {
        queries.on_answer(now, id(2), &answer(5, n));
    }
    let back = drain(&mut queries);
    assert_eq!(back.len(), MAX_ANSWERS);
    assert!(back.iter().all(|o| matches!(o, QueryOutput::Send { to, .. } if *to == id(1))));
    queries.on_query(now, id(1), query(6, 2), [id(2)].into_iter());
    drain(&mut queries);
    queries.on_answer(now + WAY_BACK * 2, id(2), &answer(6, 4));
    assert!(drain(&mut queries).is_empty());
}

/// Whoever could make relays carry long answers could fill the queues between other nodes with them.
#[test]
fn an_answer_carries_no_more_than_address_records() {
    let of = |lengths: &[usize]| {
        let records = lengths.iter().map(|len| Bytes::from(vec![0; *len])).collect();
        let answer = Answer { id: [1; 16], provider: id(4), records, name: None };
        Answer::decode(&answer.encode().unwrap())
    };
    assert!(of(&[MAX_RECORD; MAX_ANSWER_RECORDS]).is_ok());
    assert!(of(&[MAX_RECORD + 1]).is_err());
    assert!(of(&[1; MAX_ANSWER_RECORDS + 1]).is_err());
}

#[test]
fn a_neighbour_that_asks_too_often_is_not_heard() {
    let (mut queries, now) = (Queries::default(), Instant::now());
    for n in 0..30 {
        queries.on_query(now, id(9), query(n, 1), std::iter::empty());
    }
    assert_eq!(drain(&mut queries).len(), 10);
    assert_eq!(queries.limited, 20);
    queries.on_query(now + Duration::from_secs(1), id(9), query(99, 1), std::iter::empty());
    assert_eq!(drain(&mut queries).len(), 1);
}

/// The `n`th question of the node that is [`id`]`(asker)`.
fn of(asker: u8, n: u64) -> Query {
    let mut id = [asker; 16];
    id[..8].copy_from_slice(&n.to_be_bytes());
    Query::sign(&SecretKey::from_bytes(&[asker; 32]), id, FileHash::from_bytes([7; 32]), 16)
}

/// The questions passed on to one neighbour.
fn passed_on(queries: &mut Queries, there: NodeId) -> Vec<Query> {
    let outputs = drain(queries).into_iter();
    let to_it = outputs.filter_map(|output| match output {
        QueryOutput::Send { to, packet: Packet::Query(query) } if to == there => Some(query),
        _ => None,
    });
    to_it.collect()
}

#[test]
fn what_a_neighbour_passes_on_does_not_crowd_out_what_it_asks() {
    let (mut queries, now) = (Queries::default(), Instant::now());
    let (relay, there) = (id(1), id(3));
    (0..1000).for_each(|n| queries.on_query(now, relay, of(2, n), [relay, there].into_iter()));
    let others = passed_on(&mut queries, there).len();
    assert!((10..100).contains(&others), "{others} passed on");
    assert_eq!(queries.limited, 1000 - others as u64);
    queries.on_query(now, relay, of(1, 0), [relay, there].into_iter());
    assert_eq!(passed_on(&mut queries, there).len(), 1);
    // The other way round as well.
    let mut queries = Queries::default();
    (0..1000).for_each(|n| queries.on_query(now, relay, of(1, n), [relay, there].into_iter()));
    passed_on(&mut queries, there);
    queries.on_query(now, relay, of(2, 0), [relay, there].into_iter());
    assert_eq!(passed_on(&mut queries, there).len(), 1);
}

/// Four neighbours of a relay ask as often as they may and pass on as much, a fifth asks each 10 s, and so does the relay. What
/// it passes on is no more than is taken of it, with all that the fifth asks; the others have a part each.
#[test]
fn those_who_ask_much_leave_room_for_who_asks_seldom_and_for_the_relay() {
    let (mut relay, mut next, began) = (Queries::default(), Queries::default(), Instant::now());
    let (quiet, me, there) = (id(5), id(6), id(7));
    let links = || (1..=4).map(id).chain([quiet, there]);
    let mut heard = BTreeMap::<NodeId, u64>::new();
    for n in 0..1200_u64 {
        let now = began + Duration::from_millis(250 * n);
        for asker in 1..=4 {
            relay.on_query(now, id(asker), of(asker, n), links());
            relay.on_query(now, id(asker), of(10 + asker, n), links());
        }
        if n % 40 == 30 {
            relay.on_query(now, quiet, of(5, n), links());
            relay.ask(now, &of(6, n), links());
        }
        for query in passed_on(&mut relay, there) {
            *heard.entry(query.origin).or_default() += 1;
            next.on_query(now, me, query, std::iter::empty());
        }
    }
    assert_eq!((heard[&quiet], heard[&me], next.limited), (30, 30, 0), "{heard:?}");
    // One a second for 300 s, of which 30 are the fifth's, and what may come at once.
    let loud = heard.values().sum::<u64>() - 60;
    assert!((265..=335).contains(&loud), "{heard:?}");
    for (origin, count) in heard.iter().filter(|(origin, _)| ![quiet, me].contains(origin)) {
        assert!((loud / 8 - 4..=loud / 8 + 4).contains(count), "{origin:?}: {heard:?}");
    }
}

/// Whoever is fast with a question that it may not pass on, or says that it may not travel farther, keeps it from nobody.
#[test]
fn a_question_that_was_not_passed_on_for_one_neighbour_is_for_another() {
    let (mut queries, now) = (Queries::default(), Instant::now());
    let (busy, other, there) = (id(1), id(2), id(3));
    let links = || [busy, other, there].into_iter();
    (0..1000).for_each(|n| queries.on_query(now, busy, of(8, n), links()));
    passed_on(&mut queries, there);
    let genuine = of(9, 0);
    let last_link = Query { ttl: 1, ..genuine.clone() };
    for query in [genuine.clone(), last_link] {
        queries.on_query(now, busy, query, links());
    }
    assert!(passed_on(&mut queries, there).is_empty());
    queries.on_query(now, other, genuine.clone(), links());
    assert_eq!(passed_on(&mut queries, there).len(), 1);
    // Once.
    queries.on_query(now, there, genuine, links());
    assert!(drain(&mut queries).is_empty());
}

#[test]
fn a_link_made_anew_has_no_places_anew() {
    let (mut queries, now, mut passed) = (Queries::default(), Instant::now(), 0);
    for link in 0..20 {
        (0..100).for_each(|n| queries.on_query(now, id(1), of(8, 100 * link + n), [id(2)].into_iter()));
        passed += passed_on(&mut queries, id(2)).len();
        queries.on_neighbour_down(id(1));
    }
    assert_eq!(passed, 15);
}

#[test]
fn the_seen_table_keeps_its_bound() {
    let (mut queries, now) = (Queries::default(), Instant::now());
    let origin = id(9);
    for n in 0..MAX_SEEN as u128 + 100 {
        queries.remember(now, (n.to_be_bytes(), origin), None, Vec::new());
    }
    assert_eq!((queries.seen.len(), queries.order.len()), (MAX_SEEN, MAX_SEEN));
}

#[test]
fn a_changed_question_is_noticed() {
    let mut changed = query(5, 4);
    assert_eq!(changed.verify(), Ok(()));
    changed.hash = FileHash::from_bytes([8; 32]);
    assert!(changed.verify().is_err());
}

/// Whoever is told of a question can be faster with one of its own under the same id than the question itself is.
#[test]
fn a_question_under_anothers_id_does_not_silence_the_genuine_one() {
    let (mut queries, now) = (Queries::default(), Instant::now());
    let genuine = query(5, 16);
    let forger = SecretKey::from_bytes(&[66; 32]);
    let rival = Query::sign(&forger, genuine.id, FileHash::from_bytes([1; 32]), 16);
    queries.on_query(now, id(2), rival, [id(3)].into_iter());
    drain(&mut queries);
    queries.on_query(now, id(1), genuine.clone(), [id(3)].into_iter());
    let out = drain(&mut queries);
    assert!(
        matches!(
            &out[..],
            [
                QueryOutput::Lookup { hash, .. },
                QueryOutput::Send { packet: Packet::Query(passed_on), .. }
            ] if *hash == genuine.hash && passed_on.hash == genuine.hash
        ),
        "{out:?}"
    );
    // The answer does not say to which of the two it is.
    queries.on_answer(now, id(3), &answer(5, 4));
    let to: BTreeSet<_> = drain(&mut queries)
        .into_iter()
        .filter_map(|output| match output {
            QueryOutput::Send { to, packet: Packet::Answer(_) } => Some(to),
            _ => None,
        })
        .collect();
    assert_eq!(to, BTreeSet::from([id(1), id(2)]));
}

/// Who is fast and names many may not keep the answer of who has the file away, here or from others.
#[test]
fn no_neighbour_uses_up_the_answers_to_a_question() {
    let (now, links) = (Instant::now(), [id(1), id(2), id(3)]);
    let (mut own, mut passed_on) = (Queries::default(), Queries::default());
    own.ask(now, &query(5, 16), links.into_iter());
    passed_on.on_query(now, id(7), query(5, 16), links.into_iter());
    for mut queries in [own, passed_on] {
        drain(&mut queries);
        let mut taken = |from, count| {
            (0..count).for_each(|n| queries.on_answer(now, from, &answer(5, n)));
            drain(&mut queries).len()
        };
        assert_eq!(taken(id(1), 50), SHARE);
        // Two who lie together leave everybody else one.
        assert_eq!(taken(id(2), 50), MAX_ANSWERS - SHARE);
        assert_eq!(taken(id(3), 2), 1);
    }
}

#[test]
fn answers_are_taken_from_who_was_asked_and_once_each() {
    let (mut queries, now) = (Queries::default(), Instant::now());
    queries.on_query(now, id(1), query(5, 16), [id(1), id(2), id(3), id(9)].into_iter());
    drain(&mut queries);
    // Not from who asked, the origin, or somebody who came later.
    for stranger in [id(1), id(9), id(4)] {
        queries.on_answer(now, stranger, &answer(5, 4));
    }
    assert!(drain(&mut queries).is_empty());
    queries.on_answer(now, id(2), &answer(5, 4));
    queries.on_answer(now, id(2), &answer(5, 4));
    assert_eq!(drain(&mut queries).len(), 1);
    // Of the same provider another neighbour may tell the truth.
    queries.on_answer(now, id(3), &answer(5, 4));
    assert_eq!(drain(&mut queries).len(), 1);
}
