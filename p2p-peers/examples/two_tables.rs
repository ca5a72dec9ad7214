//! Two peer tables in memory: Ann is linked with Bob and Carol; she tells Bob of Carol, and Bob dials Carol.
//!
//! No sockets, no real time: the "network" is a function, the clock is a variable.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use p2p_peers::{Config, Input, Output, PeerAddr, PeerTable, Record, Scope, Source, State, Target};
use rand::{SeedableRng, rngs::StdRng};

type Table = PeerTable<&'static str, StdRng>;

fn address_of(name: &str) -> PeerAddr {
    let host = name.bytes().fold(0_u8, u8::wrapping_add);
    PeerAddr { ip: [9, 9, 9, host].into(), port: 65432, file_port: 65433 }
}

/// What a node would have signed; here the bytes are just the name.
fn record_of(name: &'static str) -> Record {
    Record { scope: Scope::Public, seq: 1, bytes: Bytes::from_static(name.as_bytes()) }
}

/// Plays the network: every dial succeeds, and each side says hello with its record.
fn run(table: &mut Table, who: &str, now: Instant) {
    while let Some(output) = table.poll_output() {
        println!("{who}: {output:?}");
        let Output::Dial { target: Target::Peer(peer), addrs } = output else { continue };
        let (target, seen_at) = (Some(Target::Peer(peer)), SystemTime::UNIX_EPOCH);
        table.handle(now, Input::Connected { peer, target, addr: addrs[0], seen_at });
        hello(table, peer, now);
    }
}

fn hello(table: &mut Table, peer: &'static str, now: Instant) {
    let (addrs, record) = (vec![address_of(peer)], Some(record_of(peer)));
    table.handle(now, Input::Learned { peer, addrs, record, source: Source::Hello, private_link: false });
}

fn main() {
    #[expect(clippy::disallowed_methods, reason = "there is no other way to make an instant")]
    let mut now = Instant::now();
    let mut ann = Table::new("ann", Config::default(), StdRng::seed_from_u64(1));
    let mut bob = Table::new("bob", Config::default(), StdRng::seed_from_u64(2));

    // Bob and Carol dial Ann.
    for peer in ["bob", "carol"] {
        let (addr, seen_at) = (address_of(peer).socket_addr(), SystemTime::UNIX_EPOCH);
        ann.handle(now, Input::Connected { peer, target: None, addr, seen_at });
        hello(&mut ann, peer, now);
    }
    bob.want(now, "ann");
    hello(&mut bob, "ann", now);
    run(&mut bob, "bob", now);

    // A second later Ann tells Bob whom she knows. Not him, and not herself: that leaves Carol.
    now += Duration::from_secs(1);
    for bytes in ann.exchange("bob", false) {
        assert_eq!(bytes, "carol");
        let (addrs, record) = (vec![address_of("carol")], Some(record_of("carol")));
        let (source, private_link) = (Source::Peer("ann"), false);
        bob.handle(now, Input::Learned { peer: "carol", addrs, record, source, private_link });
    }
    run(&mut bob, "bob", now);
    let carol = bob.peer("carol").expect("Bob was told of Carol");
    assert!(matches!(carol.state, State::Connected { .. }));
    println!("bob: linked with carol at {:?}", carol.addrs[0].socket_addr());
}
