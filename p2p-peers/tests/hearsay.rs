//! What strangers can and cannot put into the table.

mod util;

use std::net::IpAddr;

use bytes::Bytes;
use p2p_peers::{Config, DialFailure, Input, PeerAddr, Record, Scope, Source, Target};
use util::{Bench, addr, at, record};

/// Faults row 21: one of each.
const UNROUTABLE: [&str; 34] = [
    "0.1.2.3",
    "10.1.2.3",
    "100.64.1.1",
    "127.0.0.1",
    "169.254.1.1",
    "172.16.0.1",
    "172.31.255.254",
    "192.0.0.1",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.19.255.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.1.1.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::ffff:10.0.0.1",
    "::ffff:127.0.0.1",
    "64:ff9b::1",
    "fc00::1",
    "fd12::1",
    "fe80::1",
    "ff02::1",
    "2001:db8::1",
    "2001::1",
    "2002::1",
    "100::1",
    "3fff::1",
    "::1.2.3.4",
];

fn list() -> Vec<PeerAddr> {
    UNROUTABLE
        .iter()
        .map(|ip| PeerAddr { ip: ip.parse().expect("an address"), port: 65432, file_port: 0 })
        .collect()
}

#[test]
fn unroutable_addresses_are_neither_kept_nor_dialled() {
    for source in [Source::Peer(1), Source::Hello] {
        let mut bench = Bench::new(Config::default());
        for (peer, addr) in (2..).zip(list()) {
            bench.told(peer, &[addr], source);
        }
        assert_eq!((bench.table.len(), bench.drain()), (0, vec![]), "{source:?}");
        assert_eq!(bench.table.counters().refused_addrs, 34);
    }
}

#[test]
fn near_addresses_are_taken_over_near_links_only() {
    let near: Vec<IpAddr> = ["10.1.2.3", "127.0.0.1", "192.168.1.1", "fd12::1", "::1", "169.254.1.1"]
        .map(|ip| ip.parse().unwrap())
        .to_vec();
    for (private_link, allow_private) in [(true, false), (false, true)] {
        let mut bench = Bench::new(Config { allow_private, max_addrs: 64, ..Config::default() });
        let (addrs, source) = (list()[..32].to_vec(), Source::Peer(1));
        bench.handle(Input::Learned { peer: 5, addrs, record: None, source, private_link });
        let kept: Vec<IpAddr> = bench.addrs(5).iter().map(|addr| addr.ip).collect();
        assert!(near.iter().all(|ip| kept.contains(ip)), "{kept:?}");
        for never in
            ["0.1.2.3", "192.0.2.1", "198.18.0.1", "224.0.0.1", "2001:db8::1", "fe80::1", "64:ff9b::1"]
        {
            assert!(!kept.contains(&never.parse().unwrap()), "{never}");
        }
    }
}

#[test]
fn privileged_ports_are_refused_from_others_and_taken_from_the_peer_itself() {
    let mut bench = Bench::new(Config::default());
    bench.told(5, &[at("9.9.9.9:1023"), at("9.9.9.9:0")], Source::Peer(1));
    assert_eq!(bench.table.len(), 0);
    bench.told(5, &[at("9.9.9.9:1024")], Source::Peer(1));
    bench.told(6, &[at("9.9.9.8:443")], Source::Hello);
    bench.told(7, &[at("9.9.9.7:443")], Source::User);
    assert_eq!(bench.table.len(), 3);
    let mut bench = Bench::new(Config { allow_privileged_ports: true, ..Config::default() });
    bench.told(5, &[at("9.9.9.9:443")], Source::Peer(1));
    assert_eq!(bench.table.len(), 1);
}

/// Faults row 22.
#[test]
fn ten_thousand_fakes_by_one_peer_fill_64_places() {
    let mut bench = Bench::new(Config::default());
    for n in 0..50 {
        bench.told(u32::from(n) + 1, &[addr(n)], Source::User);
    }
    for n in 0..10_000_u32 {
        let ip = (0x3000_0000 + n * 0x1_0001).to_be_bytes().into();
        bench.told(1000 + n, &[PeerAddr { ip, port: 65432, file_port: 0 }], Source::Peer(1));
    }
    assert_eq!(bench.table.len(), 50 + 64);
    assert!((1..=50).all(|peer| bench.table.peer(peer).is_some()), "honest entries stay");
    assert_eq!(bench.table.counters().refused_source, 10_000 - 64);
}

#[test]
fn one_operator_fills_32_places_whoever_tells_of_it() {
    let mut bench = Bench::new(Config { discover: false, ..Config::default() });
    for n in 0..100_u8 {
        let ip = [9, 9, n, 1].into();
        bench.told(
            1000 + u32::from(n),
            &[PeerAddr { ip, port: 65432, file_port: 0 }],
            Source::Peer(u32::from(n)),
        );
    }
    assert_eq!(bench.table.len(), 32);
    assert_eq!(bench.table.counters().refused_group, 68);
    for n in 0..100_u8 {
        let ip = [10, 9, n, 1].into();
        let (addrs, source) = (vec![PeerAddr { ip, port: 65432, file_port: 0 }], Source::Peer(u32::from(n)));
        bench.handle(Input::Learned {
            peer: 2000 + u32::from(n),
            addrs,
            record: None,
            source,
            private_link: true,
        });
    }
    assert_eq!(bench.table.len(), 132, "private addresses are not counted");
}

#[test]
fn a_proven_peer_gives_its_place_to_the_next_from_that_source() {
    let mut bench = Bench::new(Config { max_per_source: 1, ..Config::default() });
    bench.told(5, &[addr(5)], Source::Peer(1));
    bench.told(6, &[addr(6)], Source::Peer(1));
    assert_eq!(bench.table.len(), 1);
    bench.dialled(5, addr(5));
    bench.told(6, &[addr(6)], Source::Peer(1));
    assert_eq!(bench.table.len(), 2);
}

#[test]
fn a_full_table_gives_up_the_worst_and_refuses_hearsay() {
    let config = Config { max_peers: 10, max_in: 4, max_out: 4, discover: false, ..Config::default() };
    let mut bench = Bench::new(config);
    bench.told(1, &[addr(1)], Source::User);
    bench.dialled(1, addr(1));
    for n in 2..=10_u16 {
        bench.told(u32::from(n), &[addr(n)], Source::Peer(1));
    }
    bench.told(11, &[addr(11)], Source::Peer(1));
    assert_eq!((bench.table.len(), bench.table.counters().refused_full), (10, 1));
    bench.inbound(12, addr(12));
    assert!(bench.is_connected(12) && bench.is_connected(1), "a link drives out hearsay");
    for peer in 20..40 {
        bench.table.want(bench.now, peer);
        assert!(bench.table.peer(peer).is_some_and(|view| view.wanted), "so does a wish");
    }
    assert_eq!(bench.table.len(), 10);
    assert!(bench.is_connected(12) && bench.is_connected(1), "links stay");
}

#[test]
fn dead_hearsay_is_forgotten_after_three_dials() {
    let mut bench = Bench::new(Config::default());
    bench.told(5, &[addr(5), addr(6)], Source::Peer(1));
    for _ in 0..3 {
        assert_eq!(bench.wait(util::secs(10)).len(), 1);
        bench.failed(Target::Peer(5), DialFailure::TimedOut);
    }
    assert_eq!(bench.table.len(), 0);
}

#[test]
fn endless_and_stray_records_are_refused() {
    let mut bench = Bench::new(Config::default());
    let bytes = Bytes::from(vec![0; p2p_peers::MAX_RECORD_BYTES + 1]);
    let record_of = |bytes| Some(Record { scope: Scope::Public, seq: 1, bytes });
    bench.told_record(5, &[addr(5)], record_of(bytes), Source::Hello);
    let (addrs, near) = (vec![addr(6)], record(Scope::Local, 1, "near"));
    bench.handle(Input::Learned { peer: 6, addrs, record: near, source: Source::Hello, private_link: false });
    assert_eq!((bench.table.len(), bench.table.counters().refused_records), (0, 2));
}

#[test]
fn a_peer_has_eight_addresses() {
    let mut bench = Bench::new(Config::default());
    let addrs: Vec<PeerAddr> = (0..100).map(addr).collect();
    bench.told(5, &addrs, Source::Hello);
    assert_eq!(bench.addrs(5).len(), 8);
    bench.told(5, &addrs[50..], Source::Hello);
    assert_eq!(bench.addrs(5).len(), 8);
}
