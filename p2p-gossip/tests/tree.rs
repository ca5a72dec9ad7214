//! Who pushes to whom: the tree is made, mended and made anew (Plumtree, SRDS 2007).

mod net;

use net::{
    Core, Net, Out, announce, answer, core_with, deliveries, drain, genuine, id, ihave, ms, push, receive,
    start,
};
use p2p_gossip::{Announced, Config, Course, Input, Message, Output};

fn sent(outputs: &[Out], to: u32) -> Vec<Message<u32>> {
    let to_it = |output: &Out| match output {
        Output::Send { to: peer, message } if *peer == to => Some(message.clone()),
        _ => None,
    };
    outputs.iter().filter_map(to_it).collect()
}

fn is_pushed(outputs: &[Out], to: u32) -> bool {
    sent(outputs, to).iter().any(|message| matches!(message, Message::Push { .. }))
}

/// Hands a genuine push in and answers its check.
fn take(core: &mut Core, now: std::time::Instant, from: u32, id: net::Id, anew: bool) -> Vec<Out> {
    take_as(core, now, from, id, if anew { Course::Anew } else { Course::Tree })
}

fn take_as(core: &mut Core, now: std::time::Instant, from: u32, id: net::Id, course: Course) -> Vec<Out> {
    let message = Message::Push { id, hops: 1, course, age: ms(0), envelope: genuine(&id, 50) };
    let outputs = receive(core, now, from, message);
    answer(core, now, outputs)
}

#[test]
fn the_first_message_prunes_every_link_that_brings_it_late() {
    let now = start();
    let mut core = core_with(0, &[1, 2, 3], Config::default(), now);
    let first = id(9, 0, 0, 1);
    let outputs = take(&mut core, now, 1, first, false);
    assert!(is_pushed(&outputs, 2) && is_pushed(&outputs, 3) && !is_pushed(&outputs, 1));
    assert_eq!(sent(&receive(&mut core, now, 2, push(first, &genuine(&first, 50))), 2), [Message::Prune]);
    // One that came during the check is late as well.
    let second = id(8, 0, 0, 1);
    let outputs = take(&mut core, now, 1, second, false);
    assert!(!is_pushed(&outputs, 2) && is_pushed(&outputs, 3), "2 is lazy now");
    assert_eq!((core.stats().eager, core.stats().prunes_sent), (2, 1));
}

#[test]
fn a_copy_that_came_during_the_check_is_pruned_after_it() {
    let now = start();
    let mut core = core_with(0, &[1, 2, 3], Config::default(), now);
    let first = id(9, 0, 0, 1);
    let check = receive(&mut core, now, 1, push(first, &genuine(&first, 50)));
    assert_eq!(receive(&mut core, now, 2, push(first, &genuine(&first, 50))), []);
    let outputs = answer(&mut core, now, check);
    assert_eq!(sent(&outputs, 2), [Message::Prune]);
    assert!(is_pushed(&outputs, 3));
}

#[test]
fn a_circle_that_another_message_shows_is_cut_later_and_once() {
    let mut now = start();
    let mut core = core_with(0, &[1, 2], Config::default(), now);
    take(&mut core, now, 1, id(9, 0, 0, 1), false);
    let mut prunes = 0;
    for seq in 1..100 {
        let next = id(9, 0, seq, 1);
        take(&mut core, now, 1, next, false);
        let outputs = receive(&mut core, now, 2, push(next, &genuine(&next, 50)));
        prunes += sent(&outputs, 2).len();
        if prunes > 0 {
            break;
        }
        now += ms(50);
    }
    assert_eq!(prunes, 1);
    assert!(now <= start() + ms(2_100), "within two seconds, while messages show it");
}

/// An answer that came after the push, or after it was given up, shows no second way to us.
#[test]
fn what_comes_twice_over_one_link_cuts_nothing() {
    let mut now = start();
    let mut core = core_with(0, &[1], Config::default(), now);
    take(&mut core, now, 1, id(9, 0, 0, 1), false);
    for seq in 1..100 {
        let next = id(9, 0, seq, 1);
        take(&mut core, now, 1, next, false);
        assert_eq!(sent(&receive(&mut core, now, 1, push(next, &genuine(&next, 50))), 1), []);
        now += ms(50);
    }
    assert_eq!((core.stats().duplicates, core.stats().eager), (99, 1));
}

/// Five pulls in a row that time out: who brings nothing meanwhile is pruned; who pushes what is new is late and stays, and so
/// does the only one there is: pruned, it would not be pushed to either.
#[test]
fn who_does_not_answer_is_pruned_unless_it_brings_what_is_new_or_is_the_only_one() {
    for (brings, others) in [(false, true), (true, true), (false, false)] {
        let (mut now, config) = (start(), Config::default());
        let (wait, promises) = (config.pull_timeout, u64::from(config.broken_promises));
        let mut core = core_with(0, &[1, 2], config, now);
        take(&mut core, now, 1, id(9, 0, 0, 1), false);
        if !others {
            receive(&mut core, now, 2, Message::Prune);
        }
        let promised: Vec<_> = (0..promises).map(|n| id(9, 0, 100 + n, 1)).collect();
        receive(&mut core, now, 1, announce(&promised, false));
        let mut prunes = 0;
        for second in 0..2 * wait.as_secs() {
            now += ms(1000);
            if brings {
                take(&mut core, now, 1, id(9, 0, 1 + second, 1), false);
            }
            core.handle(now, Input::Timeout);
            prunes += sent(&drain(&mut core), 1).iter().filter(|m| **m == Message::Prune).count();
        }
        assert_eq!(core.stats().promises_broken, 1, "brings: {brings}");
        let pruned = !brings && others;
        let eager = 1 + usize::from(others) - usize::from(pruned);
        assert_eq!((prunes, core.stats().eager), (usize::from(pruned), eager), "{brings}, {others}");
    }
}

#[test]
fn what_the_tree_does_not_bring_is_grafted_and_what_it_brings_is_not() {
    let now = start();
    let mut core = core_with(0, &[1, 2, 3], Config::default(), now);
    let (brought, missed, also) = (id(9, 0, 0, 1), id(9, 0, 1, 1), id(9, 0, 2, 1));
    assert_eq!(receive(&mut core, now, 2, announce(&[brought, missed], true)), []);
    assert_eq!(receive(&mut core, now, 3, announce(&[missed, also], true)), []);
    take(&mut core, now + ms(40), 1, brought, false);
    let due = core.poll_timeout().expect("a wait");
    assert_eq!(due, now + Config::default().graft_min);
    core.handle(due, Input::Timeout);
    let outputs = drain(&mut core);
    assert_eq!(sent(&outputs, 2), [Message::Graft { id: Some(missed) }]);
    assert_eq!(sent(&outputs, 3), [Message::IWant { ids: vec![also] }], "one new parent at a time");
    let stats = core.stats();
    assert_eq!((stats.grafts_sent, stats.pulls_sent, stats.missing), (1, 2, 2));
    let outputs = take(&mut core, due, 2, missed, false);
    assert_eq!(deliveries(&outputs), [(9, 1, false)]);
    assert_eq!(sent(&outputs, 2), [], "an answer is no reason to prune");
}

#[test]
fn the_wait_for_the_tree_follows_what_was_measured() {
    let mut now = start();
    let mut core = core_with(0, &[1, 2], Config::default(), now);
    for seq in 0..60 {
        let next = id(9, 0, seq, 1);
        receive(&mut core, now, 2, announce(&[next], true));
        now += ms(if seq < 5 { 140 } else { 140 + 10 * seq.min(50) });
        core.handle(now, Input::Timeout);
        drain(&mut core);
        take(&mut core, now, 1, next, false);
        now += ms(1_000);
    }
    let next = id(9, 0, 99, 1);
    receive(&mut core, now, 2, announce(&[next], true));
    let wait = core.poll_timeout().expect("a wait") - now;
    assert!((ms(600)..ms(3_000)).contains(&wait), "{wait:?}");
}

#[test]
fn announcements_gather_and_spare_who_made_them_first() {
    let now = start();
    let mut core = core_with(0, &[1, 2, 3], Config::default(), now);
    receive(&mut core, now, 2, Message::Prune);
    receive(&mut core, now, 3, Message::Prune);
    let mut outputs = Vec::new();
    for seq in 0..3 {
        outputs.extend(take(&mut core, now, 1, id(9, 0, seq, 1), false));
    }
    assert_eq!((sent(&outputs, 2), sent(&outputs, 3)), (vec![], vec![]));
    receive(&mut core, now, 3, announce(&[id(9, 0, 0, 1), id(9, 0, 2, 1)], true));
    let due = core.poll_timeout().expect("announcements wait");
    assert!(due - now <= Config::default().ihave_delay * 7 / 4);
    core.handle(due, Input::Timeout);
    let outputs = drain(&mut core);
    let ids = |to| match sent(&outputs, to).as_slice() {
        [Message::IHave { ids }] => ids.iter().map(|line| (line.id.first, line.wait)).collect(),
        other => panic!("{other:?}"),
    };
    let (second, third): (Vec<_>, Vec<_>) = (ids(2), ids(3));
    assert_eq!((second, third), (vec![(0, true), (1, true), (2, true)], vec![(1, true)]));
}

#[test]
fn large_envelopes_are_announced_at_once_until_there_are_too_many() {
    let mut now = start();
    let config = Config { eager_limit: 100, ..Config::default() };
    let rate = config.ihaves_sent_per_sec;
    let mut core = core_with(0, &[1, 2], config, now);
    let (mut at_once, mut frames, mut ids) = (0, 0, 0);
    let ids_in = |outputs: &[Out]| match sent(outputs, 1).as_slice() {
        [] => 0,
        [Message::IHave { ids }] => ids.len(),
        other => panic!("{other:?}"),
    };
    for seq in 0..2_000 {
        let id = id(0, 0, seq, 1);
        core.publish(now, id, genuine(&id, 101)).unwrap();
        let found = ids_in(&drain(&mut core));
        at_once += usize::from(found == 1 && at_once == usize::try_from(seq).unwrap());
        (frames, ids) = (frames + usize::from(found > 0), ids + found);
        let next = now + ms(5);
        while let Some(due) = core.poll_timeout().filter(|due| *due <= next) {
            core.handle(due, Input::Timeout);
            let found = ids_in(&drain(&mut core));
            (frames, ids) = (frames + usize::from(found > 0), ids + found);
        }
        now = next;
    }
    let burst = usize::try_from(rate * 2).unwrap();
    assert!(at_once >= burst, "{at_once} at once");
    assert!(frames <= burst + 10 * usize::try_from(rate).unwrap() + 1, "{frames} frames in 10 s");
    // The last ones wait for an eighth of a second.
    assert!(ids >= 2_000 - 125 / 5 - 1, "{ids} announced");
}

#[test]
fn who_loses_a_branch_grafts_another_before_anything_is_missed() {
    let now = start();
    let lazy = |core: &mut Core| (2..=4).for_each(|peer| drop(receive(core, now, peer, Message::Prune)));
    let down = |core: &mut Core, peer| {
        core.handle(now, Input::NeighborDown(peer));
        drain(core)
    };
    let graft = |to| Output::Send { to, message: Message::Graft { id: None } };
    // Two announced what had come by the tree, one of them from nearer to the author.
    let line = |hops| Announced { id: id(9, 0, 0, 1), hops, wait: true };
    let mut core = core_with(0, &[1, 2, 3, 4], Config::default(), now);
    lazy(&mut core);
    take(&mut core, now, 1, id(9, 0, 0, 1), false);
    receive(&mut core, now, 2, Message::IHave { ids: vec![line(2)] });
    receive(&mut core, now, 4, Message::IHave { ids: vec![line(1)] });
    assert_eq!(down(&mut core, 1), [graft(4)]);
    // That one is gone as well, before it brought anything; then the one that is as near as we, then any.
    assert_eq!(down(&mut core, 4), [graft(2)]);
    assert_eq!(down(&mut core, 2), [graft(3)]);
    assert_eq!(core.stats().grafts_sent, 3);

    // Who announced before it came by the tree is nearer too; and what is waited for is asked of who announced it.
    let mut core = core_with(0, &[1, 2, 3, 4], Config::default(), now);
    lazy(&mut core);
    receive(&mut core, now, 3, announce(&[id(9, 0, 0, 1)], true));
    take(&mut core, now, 1, id(9, 0, 0, 1), false);
    let mut other = core_with(0, &[1, 2, 3, 4], Config::default(), now);
    assert_eq!(down(&mut core, 1), [graft(3)]);
    lazy(&mut other);
    take(&mut other, now, 1, id(9, 0, 0, 1), false);
    receive(&mut other, now, 2, announce(&[id(9, 0, 1, 1)], true));
    assert_eq!(down(&mut other, 1), []);
    other.handle(now, Input::Timeout);
    let asks = Output::Send { to: 2, message: Message::Graft { id: Some(id(9, 0, 1, 1)) } };
    assert_eq!(drain(&mut other), [asks]);

    // Nothing came over a link to a child, and a lazy one brings nothing.
    let mut core = core_with(0, &[1, 2, 3, 4], Config::default(), now);
    lazy(&mut core);
    core.publish(now, id(0, 0, 0, 1), genuine(&id(0, 0, 0, 1), 50)).unwrap();
    drain(&mut core);
    assert_eq!((down(&mut core, 1), down(&mut core, 2)), (vec![], vec![]));
}

#[test]
fn who_comes_and_goes_does_not_use_up_the_grafts_that_repairs_need() {
    let now = start();
    let config = Config::default();
    let half = usize::try_from(config.grafts_per_min / 2).unwrap();
    let mut core = core_with(0, &[1, 2], config, now);
    let is_graft = |output: &&Out| matches!(output, Output::Send { message: Message::Graft { .. }, .. });
    let mut grafts = 0;
    for seq in 0..100 {
        receive(&mut core, now, 2, Message::Prune);
        core.handle(now, Input::NeighborUp(5));
        take(&mut core, now, 5, id(9, 0, seq, 1), false);
        core.handle(now, Input::NeighborDown(5));
        grafts += drain(&mut core).iter().filter(is_graft).count();
    }
    assert_eq!(grafts, half);
    // Something is missing, and the only lazy neighbour may still be grafted for it.
    receive(&mut core, now, 2, announce(&[id(9, 0, 200, 1)], true));
    let due = core.poll_timeout().expect("a wait");
    core.handle(due, Input::Timeout);
    let repair = drain(&mut core);
    assert_eq!(repair.iter().filter(is_graft).count(), 1, "{repair:?}");
}

#[test]
fn where_neighbours_come_and_go_an_authors_own_message_has_two_ways() {
    let now = start();
    let publish = |core: &mut Core, now, seq| {
        core.publish(now, id(0, 0, seq, 1), genuine(&id(0, 0, seq, 1), 50)).unwrap();
        let pushes = drain(core).into_iter().filter_map(|output| match output {
            Output::Send { to, message: Message::Push { course, .. } } => Some((to, course)),
            _ => None,
        });
        let mut pushes: Vec<_> = pushes.collect();
        pushes.sort_by_key(|(to, _)| *to);
        pushes
    };
    let mut core = core_with(0, &[1, 2, 3, 4], Config::default(), now - ms(60_000));
    for peer in 2..=4 {
        receive(&mut core, now, peer, Message::Prune);
    }
    assert_eq!(publish(&mut core, now, 0), [(1, Course::Tree)], "all have been there for a minute");
    core.handle(now, Input::NeighborDown(4));
    let pushes = publish(&mut core, now, 1);
    assert!(matches!(pushes[..], [(1, Course::Doubled), (2 | 3, Course::Doubled)]), "{pushes:?}");
    let eager = core.stats().eager;
    assert_eq!((eager, core.stats().doubled), (1, 1), "the tree is as it was");
    assert_eq!(publish(&mut core, now + ms(60_000), 2), [(1, Course::Tree)], "a quiet minute");
    // Who is inside the tree has two ways at any rate.
    receive(&mut core, now, 2, Message::Graft { id: None });
    assert_eq!(publish(&mut core, now, 3).iter().map(|push| push.1).collect::<Vec<_>>(), [Course::Tree; 2]);
    // Nobody else is there.
    let mut core = core_with(0, &[1, 2], Config::default(), now);
    core.handle(now, Input::NeighborDown(2));
    assert_eq!(publish(&mut core, now, 0), [(1, Course::Tree)]);
}

#[test]
fn the_copies_of_a_doubled_message_leave_the_tree_alone() {
    let now = start();
    let mut core = core_with(0, &[1, 2, 3, 4], Config::default(), now);
    receive(&mut core, now, 1, Message::Prune);
    // Its author is at the edge of the tree; this one passes it on and goes on announcing to it.
    let outputs = take_as(&mut core, now, 1, id(9, 0, 0, 1), Course::Doubled);
    let pushed: Vec<_> = (1..=4).filter(|peer| is_pushed(&outputs, *peer)).collect();
    assert_eq!((pushed, core.stats().eager), (vec![2, 3, 4], 3));
    for output in outputs {
        if let Output::Send { message: Message::Push { course, .. }, .. } = output {
            assert_eq!(course, Course::Doubled);
        }
    }
    // The other copy comes from inside, and again and again; also during a check.
    for seq in 0..50 {
        let (now, doubled) = (now + ms(100) * seq, id(9, 0, u64::from(seq) + 1, 1));
        let copy = Message::Push {
            id: doubled,
            hops: 3,
            course: Course::Doubled,
            age: ms(0),
            envelope: genuine(&doubled, 50),
        };
        let check = receive(&mut core, now, 1, copy.clone());
        receive(&mut core, now, 2, copy.clone());
        assert_eq!(sent(&answer(&mut core, now, check), 2), []);
        assert_eq!(receive(&mut core, now, 3, copy), []);
    }
    assert_eq!((core.stats().eager, core.stats().prunes_sent), (3, 0));
}

#[test]
fn the_tree_is_made_anew_only_after_enough_messages() {
    let now = start();
    let config = Config { renew_after: 100, ..Config::default() };
    let mut core = core_with(0, &[1, 2, 3], config, now);
    receive(&mut core, now, 3, Message::Prune);
    for seq in 0..100 {
        let outputs = take(&mut core, now, 1, id(9, 0, seq, 1), true);
        let pushed = is_pushed(&outputs, 3);
        assert_eq!(pushed, seq >= 74, "message {seq}");
        if pushed {
            break;
        }
    }
    assert_eq!((core.stats().renewals, core.stats().eager), (1, 3));
    // Its late copies prune again; a flood of such messages costs nothing more.
    let outputs = receive(&mut core, now, 3, push(id(9, 0, 74, 1), &genuine(&id(9, 0, 74, 1), 50)));
    assert_eq!(sent(&outputs, 3), [Message::Prune]);
    for seq in 75..140 {
        assert!(!is_pushed(&take(&mut core, now, 1, id(9, 0, seq, 1), true), 3));
    }
}

#[test]
fn an_author_that_sends_nearly_all_makes_the_tree_its_own() {
    let now = start();
    let config = Config { renew_after: 50, ..Config::default() };
    let mut core = core_with(0, &[1, 2, 3, 4, 5], config, now);
    for seq in 0..60 {
        take(&mut core, now, 1, id(9, 0, seq, 1), false);
    }
    receive(&mut core, now, 2, Message::Prune);
    let mut renewed = Vec::new();
    for seq in 0..80 {
        let mine = id(0, 0, seq, 1);
        core.publish(now, mine, genuine(&mine, 50)).unwrap();
        if is_pushed(&drain(&mut core), 2) {
            renewed.push(seq);
            receive(&mut core, now, 2, Message::Prune);
        }
    }
    assert_eq!(renewed.len(), 1, "{renewed:?}");
    assert!(renewed[0] >= 16, "not before it is the majority");
}

#[test]
fn one_neighbours_grafts_change_the_tree_ten_times_a_minute() {
    let now = start();
    let mut core = core_with(0, &[1], Config::default(), now);
    for _ in 0..1_000 {
        receive(&mut core, now, 1, Message::Graft { id: None });
        receive(&mut core, now, 1, Message::Prune);
    }
    assert_eq!(core.stats().refused_grafts, 990);
}

#[test]
fn who_breaks_its_promises_is_asked_last() {
    let mut now = start();
    let mut core = core_with(0, &[1, 2], Config::default(), now);
    for seq in 0..5 {
        receive(&mut core, now, 1, ihave(&[id(9, 0, seq, 1)]));
        now += ms(3_000);
        core.handle(now, Input::Timeout);
        drain(&mut core);
    }
    assert_eq!(core.stats().promises_broken, 1);
    let next = id(9, 0, 50, 1);
    receive(&mut core, now, 1, announce(&[next], true));
    receive(&mut core, now, 2, announce(&[next], true));
    core.handle(now + ms(3_000), Input::Timeout);
    assert_eq!(net::pulls(&drain(&mut core)), [(2, next)]);
}

#[test]
fn a_lazy_neighbour_that_brings_nothing_is_reported() {
    let mut now = start();
    let mut core = core_with(0, &[1, 2, 3], Config::default(), now);
    receive(&mut core, now, 2, Message::Prune);
    receive(&mut core, now, 3, Message::Prune);
    let mut reported = Vec::new();
    for seq in 0..100 {
        let next = id(9, 0, seq, 1);
        let mut outputs = take(&mut core, now, 1, next, false);
        if seq % 16 == 0 {
            outputs.extend(receive(&mut core, now, 3, announce(&[next], true)));
        }
        reported.extend(outputs.into_iter().filter_map(|output| match output {
            Output::Withholds { peer } => Some((peer, seq)),
            _ => None,
        }));
        now += ms(1_000);
    }
    assert_eq!(reported, [(2, 60)]);
}

/// A random overlay with ordered links settles to one copy per node and message, whoever sends, and heals.
#[test]
fn a_random_overlay_becomes_a_tree_and_stays_one() {
    const NODES: u32 = 60;
    for seed in 0..3 {
        let mut net = Net::new(seed, NODES, &Config::default());
        net.ordered = true;
        for node in 0..NODES {
            net.link(node, (node + 1) % NODES);
            for _ in 0..2 {
                let other = net.random(NODES);
                net.link(node, other);
            }
        }
        net.publish(0, 1, 100);
        // Until then neighbours may come and go.
        net.run_for(ms(60_000));
        let copies =
            |net: &Net| (0..NODES).map(|n| net.stats(n).duplicates + net.stats(n).delivered).sum::<u64>();
        let before = copies(&net);
        for _ in 0..20 {
            let author = net.random(NODES);
            net.publish(author, 1, 100);
            net.run_for(ms(1_000));
        }
        assert_eq!(copies(&net) - before, 20 * u64::from(NODES - 1), "seed {seed}");
        // A fifth of all links break; the next messages come all the same.
        for node in 0..NODES / 5 {
            net.cut(node, (node + 1) % NODES);
        }
        let before: Vec<u64> = (0..NODES).map(|n| net.stats(n).delivered).collect();
        for _ in 0..10 {
            net.publish(1, 1, 100);
            net.run_for(ms(3_000));
        }
        for node in (0..NODES).filter(|node| *node != 1) {
            assert_eq!(net.stats(node).delivered - before[node as usize], 10, "node {node}, seed {seed}");
        }
    }
}
