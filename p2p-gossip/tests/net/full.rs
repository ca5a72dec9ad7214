//! A core between A and B whose link to B had no room.

use std::ops::Range;
use std::time::Instant;

use p2p_gossip::{Config, Input, Message, Output};

use super::{Core, Id, Out, answer, core_with, drain, genuine, id, push, receive};

pub(crate) const A: u32 = 10;
pub(crate) const B: u32 = 20;
pub(crate) const AUTHOR: u32 = 5;

pub(crate) fn of(author: u32, first: u64) -> Id {
    id(author, 0, first, 1)
}

/// A neighbour pushes these of an author; what the core does then, checks done.
pub(crate) fn from(core: &mut Core, now: Instant, peer: u32, author: u32, seqs: Range<u64>) -> Vec<Out> {
    let one = |seq| {
        let outs = receive(core, now, peer, push(of(author, seq), &genuine(&of(author, seq), 50)));
        answer(core, now, outs)
    };
    seqs.flat_map(one).collect()
}

pub(crate) fn brings(core: &mut Core, now: Instant, author: u32, seqs: Range<u64>) -> Vec<Out> {
    from(core, now, A, author, seqs)
}

/// The seqs that B is pushed.
pub(crate) fn pushed(outs: &[Out]) -> Vec<u64> {
    let pushed = |out: &Out| match out {
        Output::Send { to: B, message: Message::Push { id, .. } } => Some(id.first),
        _ => None,
    };
    outs.iter().filter_map(pushed).collect()
}

/// The seqs that B is told of.
pub(crate) fn told(outs: &[Out]) -> Vec<u64> {
    let told = |out: &Out| match out {
        Output::Send { to: B, message: Message::IHave { ids } } => {
            ids.iter().map(|line| line.id.first).collect()
        }
        _ => Vec::new(),
    };
    outs.iter().flat_map(told).collect()
}

/// As whoever drives it does while the link has room.
pub(crate) fn push_owed(core: &mut Core, now: Instant) -> Vec<Out> {
    while core.push_owed(now, B) {}
    drain(core)
}

/// Lets all deadlines come until `until`.
pub(crate) fn wait(core: &mut Core, until: Instant) -> Vec<Out> {
    let mut outs = Vec::new();
    for _ in 0..100_000 {
        let Some(at) = core.poll_timeout().filter(|at| *at <= until) else { return outs };
        core.handle(at, Input::Timeout);
        let more = drain(core);
        outs.extend(answer(core, at, more));
    }
    panic!("a busy loop");
}

pub(crate) fn all(seqs: Range<u64>) -> Vec<u64> {
    seqs.collect()
}

/// Its link to B had no room for seq 3 of the author, and it has received up to seq 99.
pub(crate) fn full(config: Config, now: Instant) -> Core {
    let mut core = core_with(1, &[A, B], config, now);
    assert_eq!(pushed(&brings(&mut core, now, AUTHOR, 0..4)), all(0..4));
    core.put_off(now, B, of(AUTHOR, 3), 2);
    assert!(core.is_owed(B));
    assert_eq!(pushed(&brings(&mut core, now, AUTHOR, 4..100)), []);
    core
}
