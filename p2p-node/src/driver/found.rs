//! Which addresses in an answer are dialled: those that would be learned if a neighbour told of them.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use p2p_peers::PeerTable;
use p2p_wire::{NodeId, PeerAddr, PeerRecord};
use rand::Rng;

use crate::convert;

/// Addresses dialled of one provider: as many as one record holds. A provider has seldom more than four, and each is
/// dialled because a stranger wants it.
const MAX_ADDRS: usize = p2p_wire::MAX_RECORD_ADDRS;

/// The addresses of `provider` in records that came over a link that is `private` or not. Relays pass on what they are
/// given, so nothing in there is more than hearsay, though its owner signed it.
pub(super) fn believed<R: Rng>(
    table: &PeerTable<NodeId, R>,
    provider: NodeId,
    records: Vec<Bytes>,
    private: bool,
) -> Vec<PeerAddr> {
    let genuine = |record: &PeerRecord| record.id() == provider && record.verify().is_ok();
    let mut addrs = Vec::new();
    for record in records.into_iter().filter_map(|bytes| PeerRecord::decode(bytes).ok()).filter(genuine) {
        let scope = convert::table_scope(record.scope());
        let believes = |ip: IpAddr, port| table.believes_others(scope, SocketAddr::new(ip, port), private);
        for addr in record.addrs().iter().filter(|addr| believes(addr.ip, addr.port)) {
            let file_port = if believes(addr.ip, addr.file_port) { addr.file_port } else { 0 };
            let addr = PeerAddr { file_port, ..*addr };
            if addrs.len() < MAX_ADDRS && !addrs.contains(&addr) {
                addrs.push(addr);
            }
        }
    }
    addrs
}

#[cfg(test)]
mod tests {
    use p2p_peers::Config;
    use p2p_wire::{Scope, SecretKey};
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    fn table(config: Config) -> PeerTable<NodeId, StdRng> {
        PeerTable::new(crate::driver::test_id(1), config, StdRng::seed_from_u64(1))
    }

    fn addr(text: &str, file_port: u16) -> PeerAddr {
        let addr: SocketAddr = text.parse().unwrap();
        PeerAddr { ip: addr.ip(), port: addr.port(), file_port }
    }

    fn record(scope: Scope, addrs: &[PeerAddr]) -> Bytes {
        PeerRecord::sign(&SecretKey::from_bytes(&[1; 32]), scope, 1, addrs).unwrap().bytes().clone()
    }

    fn provider() -> NodeId {
        SecretKey::from_bytes(&[1; 32]).id()
    }

    /// Faults row 21 holds for answers as for lists: strangers do not make a node dial its own machine, its LAN, what is
    /// reserved, or other people's servers.
    #[test]
    fn addresses_in_answers_are_believed_as_those_that_neighbours_tell() {
        let open = addr("9.9.9.9:4000", 4001);
        let told = [
            open,
            addr("127.0.0.1:4000", 4001),
            addr("192.168.1.7:4000", 4001),
            addr("0.0.0.0:4000", 4001),
            addr("203.0.113.7:4000", 4001),
            addr("9.9.9.10:22", 4001),
            addr("9.9.9.11:4000", 22),
            addr("10.0.0.1:4000", 0),
        ];
        let no_file_port = addr("9.9.9.11:4000", 0);
        let of = |config: Config, scope, private| {
            believed(&table(config), provider(), vec![record(scope, &told)], private)
        };
        assert_eq!(of(Config::default(), Scope::Public, false), [open, no_file_port]);
        assert_eq!(of(Config::default(), Scope::Local, false), [], "a local record over the internet");
        let near = [open, told[1], told[2], no_file_port, told[7]];
        assert_eq!(of(Config::default(), Scope::Local, true), near);
        let config = Config { allow_private: true, ..Config::default() };
        assert_eq!(of(config, Scope::Local, false), near);
    }

    #[test]
    fn of_one_provider_eight_addresses_are_dialled() {
        let eight = |from: u8| {
            let addrs: Vec<_> = (from..from + 8).map(|n| addr(&format!("9.9.9.{n}:4000"), 0)).collect();
            record(Scope::Public, &addrs)
        };
        let addrs = believed(&table(Config::default()), provider(), vec![eight(1), eight(5)], false);
        assert_eq!(addrs.len(), MAX_ADDRS);
        assert_eq!(believed(&table(Config::default()), crate::driver::test_id(2), vec![eight(1)], false), []);
    }
}
