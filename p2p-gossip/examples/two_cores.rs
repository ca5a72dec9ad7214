//! Two cores talk in memory: the whole loop that a transport has to run.
//!
//! `cargo run -p p2p-gossip --example two_cores`

use std::time::{Duration, Instant};

use bytes::Bytes;
use p2p_gossip::{Config, EnvelopeId, Gossip, Input, Output};
use rand::SeedableRng;
use rand::rngs::StdRng;

type Core = Gossip<&'static str, &'static str, StdRng>;

/// What a real program sends over a socket: who, to whom, what.
type Frame = (&'static str, Input<&'static str, &'static str>);

#[expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "an example prints, and the caller of a core is who reads the clock"
)]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut now = Instant::now();
    let mut alice = Core::new("alice", Config::default(), StdRng::seed_from_u64(1));
    let mut bob = Core::new("bob", Config::default(), StdRng::seed_from_u64(2));
    alice.handle(now, Input::NeighborUp("bob"));
    bob.handle(now, Input::NeighborUp("alice"));

    // A real program signs; here an envelope is its text. The third one is large: it is announced, and bob asks for it.
    for (seq, text) in ["hello".to_owned(), "hello".to_owned(), "x".repeat(100_000)].into_iter().enumerate() {
        let id = EnvelopeId { author: "alice", run: 0, first: seq as u64, count: 1 };
        let queued = alice.publish(now, id, Bytes::from(text))?;
        println!("alice: message {seq} goes to {} neighbour", queued.links);
    }

    let mut wire: Vec<Frame> = Vec::new();
    loop {
        drain("alice", &mut alice, now, &mut wire);
        drain("bob", &mut bob, now, &mut wire);
        if wire.is_empty() && bob.stats().delivered == 3 {
            break;
        }
        // Frames take 10 ms. Where none is under way time passes until a core wants it: what has gathered is announced, say.
        let due = [&alice, &bob].iter().filter_map(|core| core.poll_timeout()).min();
        let arrival = (!wire.is_empty()).then(|| now + Duration::from_millis(10));
        now = due.into_iter().chain(arrival).min().ok_or("nothing is under way")?.max(now);
        for core in [&mut alice, &mut bob] {
            if core.poll_timeout().is_some_and(|due| due <= now) {
                core.handle(now, Input::Timeout);
            }
        }
        if arrival.is_none_or(|at| at > now) {
            continue;
        }
        for (to, input) in std::mem::take(&mut wire) {
            let core = if to == "alice" { &mut alice } else { &mut bob };
            core.handle(now, input);
            drain(to, core, now, &mut wire);
        }
    }
    println!("bob: {} messages, {} of them pulled", bob.stats().delivered, bob.stats().pulls_sent);
    assert_eq!(bob.stats().delivered, 3);
    Ok(())
}

/// Does what a core asks for, until it asks for nothing more.
#[expect(clippy::print_stdout, reason = "an example prints")]
fn drain(me: &'static str, core: &mut Core, now: Instant, wire: &mut Vec<Frame>) {
    while let Some(output) = core.poll_output() {
        match output {
            Output::Send { to, message } => wire.push((to, Input::Received { from: me, message })),
            // A real program checks the signature, and that the envelope is the one that the id names.
            Output::Verify { ticket, envelope, .. } => {
                core.handle(now, Input::Verified { ticket, digest: Some(p2p_gossip::digest(&envelope)) });
            }
            Output::Deliver { id, envelope, .. } => {
                println!("{me}: message {} of {}, {} bytes", id.first, id.author, envelope.len());
            }
            Output::Append { .. } | Output::Drop { .. } | Output::Fetch { .. } => {}
            Output::HoldsOwn { from, to } => println!("{me}: somebody holds our {from} to {to}"),
            Output::OwnAhead { id } => println!("{me}: {id:?} is ours, but not from here"),
            Output::Withholds { peer } => println!("{me}: {peer} brings nothing"),
            Output::Gap { missing } => println!("{me}: nobody has {missing:?}"),
            Output::Forked { author } => println!("{me}: {author} signed two messages under one number"),
            Output::Misbehaved { peer, fault } => println!("{me}: {peer} {fault}"),
        }
    }
}
