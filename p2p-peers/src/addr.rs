//! Which addresses are worth dialling, and which may be believed from whom.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Where a node can be reached: one IP address with the port for links and the port for files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerAddr {
    /// The IP address.
    pub ip: IpAddr,
    /// The port that takes node links.
    pub port: u16,
    /// The port that takes file transfers; 0 if not known.
    pub file_port: u16,
}

impl PeerAddr {
    /// The address to dial for a link; an IPv4 address in IPv6 clothes (`::ffff:1.2.3.4`) comes out as IPv4.
    pub fn socket_addr(&self) -> SocketAddr {
        SocketAddr::new(self.ip.to_canonical(), self.port)
    }
}

/// How far an IP address reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reach {
    /// Routed on the internet.
    Global,
    /// Routed in one site or on one link only (RFC 1918, RFC 3927, RFC 4193, RFC 4291 section 2.5.6, RFC 6598).
    Private,
    /// This very machine.
    Loopback,
    /// No node can be there: unspecified, multicast, documentation, benchmarks, translation prefixes, reserved.
    Forbidden,
}

/// How far `ip` reaches, by the IANA special-purpose registries (RFC 6890 and its updates).
///
/// An IPv4-mapped IPv6 address is judged as the IPv4 address inside.
///
/// ```
/// use p2p_peers::{Reach, reach};
/// assert_eq!(reach("9.9.9.9".parse().unwrap()), Reach::Global);
/// assert_eq!(reach("::ffff:192.168.1.7".parse().unwrap()), Reach::Private);
/// assert_eq!(reach("224.0.0.1".parse().unwrap()), Reach::Forbidden);
/// ```
pub fn reach(ip: IpAddr) -> Reach {
    match ip.to_canonical() {
        IpAddr::V4(ip) => reach_v4(ip),
        IpAddr::V6(ip) => reach_v6(ip),
    }
}

fn reach_v4(ip: Ipv4Addr) -> Reach {
    match ip.octets() {
        [127, ..] => Reach::Loopback,
        [10, ..] | [192, 168, ..] | [169, 254, ..] => Reach::Private,
        [172, b, ..] if b & 0xf0 == 16 => Reach::Private,
        [100, b, ..] if b & 0xc0 == 64 => Reach::Private,
        [0, ..] | [224..=255, ..] => Reach::Forbidden,
        [192, 0, 0 | 2, _] | [192, 88, 99, _] | [198, 51, 100, _] | [203, 0, 113, _] => Reach::Forbidden,
        [198, 18 | 19, ..] => Reach::Forbidden,
        _ => Reach::Global,
    }
}

fn reach_v6(ip: Ipv6Addr) -> Reach {
    if ip.is_loopback() {
        return Reach::Loopback;
    }
    match ip.segments() {
        // Unique local, then link local.
        [a, ..] if a & 0xfe00 == 0xfc00 || a & 0xffc0 == 0xfe80 => Reach::Private,
        // IETF protocol assignments with Teredo, documentation (twice), 6to4.
        [0x2001, b, ..] if b < 0x0200 => Reach::Forbidden,
        [0x2001, 0x0db8, ..] | [0x2002, ..] => Reach::Forbidden,
        [0x3fff, b, ..] if b < 0x1000 => Reach::Forbidden,
        // Global unicast is 2000::/3 and nothing else.
        [a, ..] if a & 0xe000 == 0x2000 => Reach::Global,
        _ => Reach::Forbidden,
    }
}

/// Private or loopback: such addresses are not counted per prefix, and are told over such links only.
pub(crate) fn is_near(ip: IpAddr) -> bool {
    matches!(reach(ip), Reach::Private | Reach::Loopback)
}

/// Whether a dial to `addr` can mean anything at all, whoever named it.
///
/// A link-local IPv6 address needs a zone, which a [`PeerAddr`] does not carry.
pub fn is_dialable(addr: SocketAddr) -> bool {
    let unusable = match addr.ip().to_canonical() {
        IpAddr::V4(ip) => ip.octets()[0] == 0 || ip.is_multicast() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unspecified() || ip.is_multicast() || ip.is_unicast_link_local(),
    };
    addr.port() != 0 && !unusable
}

/// `addr` with an IPv4 address in IPv6 clothes undressed, so that one place has one name.
pub(crate) fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

/// Addresses that are likely one operator's: /16 for IPv4, /32 for IPv6; `None` for private and loopback ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Group(u32, bool);

pub(crate) fn group(ip: IpAddr) -> Option<Group> {
    if is_near(ip) {
        return None;
    }
    Some(match ip.to_canonical() {
        IpAddr::V4(ip) => Group(ip.to_bits() >> 16, true),
        IpAddr::V6(ip) => Group((u32::from(ip.segments()[0]) << 16) | u32::from(ip.segments()[1]), false),
    })
}

/// Addresses that are likely one customer's: /24 for IPv4, /64 for IPv6; `None` for private and loopback ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Prefix {
    V4([u8; 3]),
    V6([u16; 4]),
}

pub(crate) fn prefix(ip: IpAddr) -> Option<Prefix> {
    if is_near(ip) {
        return None;
    }
    Some(match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            Prefix::V4([a, b, c])
        }
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            Prefix::V6([a, b, c, d])
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Both ends of every special range and its outer neighbours.
    #[test]
    fn reach_follows_the_registries() {
        let table = [
            ("0.0.0.0", Reach::Forbidden, "RFC 1122 this network"),
            ("0.255.255.255", Reach::Forbidden, "RFC 1122"),
            ("1.0.0.0", Reach::Global, "after 0/8"),
            ("9.255.255.255", Reach::Global, "before 10/8"),
            ("10.0.0.0", Reach::Private, "RFC 1918"),
            ("10.255.255.255", Reach::Private, "RFC 1918"),
            ("11.0.0.0", Reach::Global, "after 10/8"),
            ("100.63.255.255", Reach::Global, "before 100.64/10"),
            ("100.64.0.0", Reach::Private, "RFC 6598 carrier NAT"),
            ("100.127.255.255", Reach::Private, "RFC 6598"),
            ("100.128.0.0", Reach::Global, "after 100.64/10"),
            ("126.255.255.255", Reach::Global, "before 127/8"),
            ("127.0.0.1", Reach::Loopback, "RFC 1122"),
            ("127.255.255.255", Reach::Loopback, "RFC 1122"),
            ("169.253.255.255", Reach::Global, "before 169.254/16"),
            ("169.254.0.1", Reach::Private, "RFC 3927 link local"),
            ("169.255.0.0", Reach::Global, "after 169.254/16"),
            ("172.15.255.255", Reach::Global, "before 172.16/12"),
            ("172.16.0.0", Reach::Private, "RFC 1918"),
            ("172.31.255.255", Reach::Private, "RFC 1918"),
            ("172.32.0.0", Reach::Global, "after 172.16/12"),
            ("192.0.0.1", Reach::Forbidden, "RFC 6890 IETF assignments"),
            ("192.0.1.1", Reach::Global, "between"),
            ("192.0.2.1", Reach::Forbidden, "RFC 5737 TEST-NET-1"),
            ("192.0.3.1", Reach::Global, "after TEST-NET-1"),
            ("192.88.99.1", Reach::Forbidden, "RFC 7526 6to4 relays"),
            ("192.167.255.255", Reach::Global, "before 192.168/16"),
            ("192.168.0.1", Reach::Private, "RFC 1918"),
            ("192.169.0.0", Reach::Global, "after 192.168/16"),
            ("198.17.255.255", Reach::Global, "before 198.18/15"),
            ("198.18.0.0", Reach::Forbidden, "RFC 2544 benchmarks"),
            ("198.19.255.255", Reach::Forbidden, "RFC 2544"),
            ("198.20.0.0", Reach::Global, "after 198.18/15"),
            ("198.51.100.7", Reach::Forbidden, "RFC 5737 TEST-NET-2"),
            ("203.0.113.7", Reach::Forbidden, "RFC 5737 TEST-NET-3"),
            ("203.0.114.0", Reach::Global, "after TEST-NET-3"),
            ("223.255.255.255", Reach::Global, "before multicast"),
            ("224.0.0.1", Reach::Forbidden, "RFC 5771 multicast"),
            ("239.255.255.255", Reach::Forbidden, "RFC 5771"),
            ("240.0.0.1", Reach::Forbidden, "RFC 1112 reserved"),
            ("255.255.255.255", Reach::Forbidden, "broadcast"),
            ("::", Reach::Forbidden, "unspecified"),
            ("::1", Reach::Loopback, "RFC 4291"),
            ("::2", Reach::Forbidden, "RFC 4291 IPv4-compatible"),
            ("::ffff:9.9.9.9", Reach::Global, "mapped global"),
            ("::ffff:127.0.0.1", Reach::Loopback, "mapped loopback"),
            ("::ffff:10.1.1.1", Reach::Private, "mapped private"),
            ("::ffff:224.0.0.1", Reach::Forbidden, "mapped multicast"),
            ("64:ff9b::808:808", Reach::Forbidden, "RFC 6052 NAT64"),
            ("64:ff9b:1::1", Reach::Forbidden, "RFC 8215 local NAT64"),
            ("100::1", Reach::Forbidden, "RFC 6666 discard"),
            ("1fff:ffff::1", Reach::Forbidden, "before 2000::/3"),
            ("2001::1", Reach::Forbidden, "RFC 4380 Teredo"),
            ("2001:10::1", Reach::Forbidden, "RFC 4843 ORCHID"),
            ("2001:1ff:ffff::1", Reach::Forbidden, "RFC 2928"),
            ("2001:200::1", Reach::Global, "after 2001::/23"),
            ("2001:db7:ffff::1", Reach::Global, "before documentation"),
            ("2001:db8::1", Reach::Forbidden, "RFC 3849 documentation"),
            ("2001:db9::1", Reach::Global, "after documentation"),
            ("2002:a00:1::1", Reach::Forbidden, "RFC 3056 6to4"),
            ("2003::1", Reach::Global, "after 6to4"),
            ("2a00:1450::1", Reach::Global, "global unicast"),
            ("3fff:0::1", Reach::Forbidden, "RFC 9637 documentation"),
            ("3fff:1000::1", Reach::Global, "after documentation"),
            ("4000::1", Reach::Forbidden, "after 2000::/3"),
            ("5f00::1", Reach::Forbidden, "RFC 9602 segment ids"),
            ("fc00::1", Reach::Private, "RFC 4193"),
            ("fdff:ffff::1", Reach::Private, "RFC 4193"),
            ("fe80::1", Reach::Private, "RFC 4291 link local"),
            ("febf::1", Reach::Private, "RFC 4291 link local"),
            ("fec0::1", Reach::Forbidden, "RFC 3879 site local"),
            ("ff02::1", Reach::Forbidden, "RFC 4291 multicast"),
        ];
        for (text, expected, reason) in table {
            assert_eq!(reach(ip(text)), expected, "{text}: {reason}");
        }
    }

    #[test]
    fn dialable_means_a_host_and_a_port() {
        let table = [
            ("1.2.3.4:1", true),
            ("127.0.0.1:65432", true),
            ("192.0.2.1:65432", true),
            ("1.2.3.4:0", false),
            ("0.0.0.0:65432", false),
            ("0.1.2.3:65432", false),
            ("224.0.0.1:65432", false),
            ("255.255.255.255:65432", false),
            ("[::1]:65432", true),
            ("[::]:65432", false),
            ("[ff02::1]:65432", false),
            ("[fe80::1]:65432", false),
            ("[::ffff:0.0.0.0]:65432", false),
        ];
        for (text, expected) in table {
            assert_eq!(is_dialable(text.parse().unwrap()), expected, "{text}");
        }
    }

    #[test]
    fn near_addresses_are_in_no_group_and_no_prefix() {
        for text in ["127.0.0.1", "10.0.0.1", "::1", "fd00::1", "::ffff:192.168.0.1"] {
            assert_eq!(group(ip(text)), None, "{text}");
            assert_eq!(prefix(ip(text)), None, "{text}");
        }
        assert_eq!(group(ip("9.9.1.1")), group(ip("::ffff:9.9.255.1")));
        assert_ne!(group(ip("9.9.1.1")), group(ip("9.8.1.1")));
        assert_eq!(prefix(ip("9.9.1.1")), prefix(ip("9.9.1.200")));
        assert_ne!(prefix(ip("9.9.1.1")), prefix(ip("9.9.2.1")));
        assert_eq!(group(ip("2a00:1::1")), group(ip("2a00:1:9::1")));
        assert_eq!(prefix(ip("2a00:1:2:3::1")), prefix(ip("2a00:1:2:3:9::1")));
        assert_ne!(prefix(ip("2a00:1:2:3::1")), prefix(ip("2a00:1:2:4::1")));
    }
}
