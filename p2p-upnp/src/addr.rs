//! Is this an address that a stranger on the internet can send to?
//!
//! Source: the IANA special-purpose address registries (RFC 6890, updated by RFC 8190). What they list as not globally
//! reachable is refused, and also what is reachable but belongs to no single host (the 6to4 relay anycast prefix, 6to4
//! and Teredo): no router's external address is one of these.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Address block and its length in bits, with the document that reserves it.
const RESERVED_V4: &[(Ipv4Addr, u32)] = &[
    (Ipv4Addr::new(0, 0, 0, 0), 8),       // RFC 1122: this network
    (Ipv4Addr::new(10, 0, 0, 0), 8),      // RFC 1918: private
    (Ipv4Addr::new(100, 64, 0, 0), 10),   // RFC 6598: between a provider and its customers
    (Ipv4Addr::new(127, 0, 0, 0), 8),     // RFC 1122: loopback
    (Ipv4Addr::new(169, 254, 0, 0), 16),  // RFC 3927: link-local
    (Ipv4Addr::new(172, 16, 0, 0), 12),   // RFC 1918: private
    (Ipv4Addr::new(192, 0, 0, 0), 24),    // RFC 6890: protocol assignments
    (Ipv4Addr::new(192, 0, 2, 0), 24),    // RFC 5737: documentation
    (Ipv4Addr::new(192, 88, 99, 0), 24),  // RFC 7526: 6to4 relay anycast, withdrawn
    (Ipv4Addr::new(192, 168, 0, 0), 16),  // RFC 1918: private
    (Ipv4Addr::new(198, 18, 0, 0), 15),   // RFC 2544: benchmarks
    (Ipv4Addr::new(198, 51, 100, 0), 24), // RFC 5737: documentation
    (Ipv4Addr::new(203, 0, 113, 0), 24),  // RFC 5737: documentation
    (Ipv4Addr::new(224, 0, 0, 0), 4),     // RFC 5771: multicast
    (Ipv4Addr::new(240, 0, 0, 0), 4),     // RFC 1112: reserved, and limited broadcast
];

/// As [`RESERVED_V4`], inside 2000::/3; nothing outside it is global unicast (RFC 4291, section 2.4, and IANA).
const RESERVED_V6: &[(Ipv6Addr, u32)] = &[
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23), // RFC 2928: protocol assignments, Teredo, ORCHID, benchmarks
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32), // RFC 3849: documentation
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16), // RFC 3056: 6to4
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20), // RFC 9637: documentation
];

/// Whether `ip` is a unicast address that is routed on the internet.
///
/// An IPv4 address written as IPv6 (`::ffff:a.b.c.d`) is judged as the IPv4 address it is.
///
/// ```
/// use p2p_upnp::is_global_unicast;
///
/// assert!(is_global_unicast("9.9.9.9".parse().unwrap()));
/// assert!(!is_global_unicast("100.64.0.1".parse().unwrap()));
/// assert!(!is_global_unicast("::ffff:192.168.0.1".parse().unwrap()));
/// ```
pub fn is_global_unicast(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => !RESERVED_V4.iter().any(|&(net, len)| in_v4(ip, net, len)),
        IpAddr::V6(ip) => {
            ip.segments()[0] & 0xe000 == 0x2000 && !RESERVED_V6.iter().any(|&(net, len)| in_v6(ip, net, len))
        }
    }
}

fn in_v4(ip: Ipv4Addr, net: Ipv4Addr, len: u32) -> bool {
    (ip.to_bits() ^ net.to_bits()) >> (32 - len) == 0
}

fn in_v6(ip: Ipv6Addr, net: Ipv6Addr, len: u32) -> bool {
    (ip.to_bits() ^ net.to_bits()) >> (128 - len) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn global(text: &str) -> bool {
        is_global_unicast(text.parse().unwrap())
    }

    #[test]
    fn both_ends_of_every_reserved_block_are_refused() {
        for text in [
            "0.0.0.0",
            "0.255.255.255",
            "10.0.0.0",
            "10.255.255.255",
            "100.64.0.0",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.255",
            "169.254.0.0",
            "169.254.255.255",
            "172.16.0.0",
            "172.31.255.255",
            "192.0.0.0",
            "192.0.0.255",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.0.0",
            "192.168.255.255",
            "198.18.0.0",
            "198.19.255.255",
            "198.51.100.9",
            "203.0.113.9",
            "224.0.0.0",
            "239.255.255.255",
            "240.0.0.0",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:10.0.0.1",
            "64:ff9b::1",
            "100::1",
            "2001::1",
            "2001:1ff::1",
            "2001:db8::1",
            "2002:808:808::1",
            "3fff:fff::1",
            "4000::1",
            "fc00::1",
            "fdff::1",
            "fe80::1",
            "ff02::1",
        ] {
            assert!(!global(text), "{text}");
        }
    }

    #[test]
    fn the_neighbours_of_reserved_blocks_are_global() {
        for text in [
            "1.0.0.0",
            "9.255.255.255",
            "11.0.113.1",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.0.3.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "::ffff:9.9.9.9",
            "2001:200::1",
            "2001:db7::1",
            "2001:db9::1",
            "2003::1",
            "2a00::1",
            "3ffe::1",
        ] {
            assert!(global(text), "{text}");
        }
    }

    proptest! {
        #[test]
        fn agrees_with_what_std_knows(bits: u32) {
            let ip = Ipv4Addr::from_bits(bits);
            let special = ip.is_private() || ip.is_loopback() || ip.is_link_local() || ip.is_documentation()
                || ip.is_multicast() || ip.is_broadcast() || ip.is_unspecified();
            prop_assert!(!(special && is_global_unicast(ip.into())));
            prop_assert_eq!(is_global_unicast(ip.into()), is_global_unicast(ip.to_ipv6_mapped().into()));
        }
    }
}
