//! The leaf crates do not know each other; here one's words become the other's.

use p2p_gossip::{Announced as Line, EnvelopeId as Gid, Message, Sum};
use p2p_wire::{EnvelopeId, NodeId};

use crate::ihave::Announced;
use crate::packet::Packet;

pub(crate) const fn gossip_id(id: EnvelopeId) -> Gid<NodeId> {
    Gid { author: id.author, run: id.run, first: id.first, count: id.count }
}

pub(crate) const fn wire_id(id: Gid<NodeId>) -> EnvelopeId {
    EnvelopeId { author: id.author, run: id.run, first: id.first, count: id.count }
}

pub(crate) const fn line(line: Announced) -> Line<NodeId> {
    Line { id: gossip_id(line.id), hops: line.hops, wait: line.wait }
}

/// What the gossip core keeps of an envelope's digest: [`p2p_gossip::digest`] of it.
pub(crate) fn sum(digest: [u8; 32]) -> Sum {
    let mut sum = Sum::default();
    sum.copy_from_slice(&digest[..size_of::<Sum>()]);
    sum
}

/// Of 256, the one in which catch-up compares this author.
pub(crate) const fn bucket(author: &NodeId) -> u8 {
    author.as_bytes()[0]
}

pub(crate) const fn table_addr(addr: p2p_wire::PeerAddr) -> p2p_peers::PeerAddr {
    p2p_peers::PeerAddr { ip: addr.ip, port: addr.port, file_port: addr.file_port }
}

pub(crate) const fn table_scope(scope: p2p_wire::Scope) -> p2p_peers::Scope {
    match scope {
        p2p_wire::Scope::Public => p2p_peers::Scope::Public,
        p2p_wire::Scope::Local => p2p_peers::Scope::Local,
    }
}

/// What the gossip core says, as a frame.
pub(crate) fn packet(message: Message<NodeId>) -> Packet {
    match message {
        Message::Push { id, hops, course, age, envelope } => {
            Packet::Push { id: wire_id(id), hops, course, age, envelope }
        }
        Message::IHave { ids } => {
            let line = |Line { id, hops, wait }| Announced { id: wire_id(id), hops, wait };
            Packet::IHave(ids.into_iter().map(line).collect())
        }
        Message::IWant { ids } => Packet::IWant(ids.into_iter().map(wire_id).collect()),
        Message::Graft { id } => Packet::Graft(id.map(wire_id)),
        Message::Prune => Packet::Prune,
        Message::Digest { sums } => Packet::Digest(sums),
        Message::Ranges { held } => Packet::Ranges(held),
        Message::Pull { number, spans } => Packet::Pull { number, spans },
        Message::Served { number, done, upto } => Packet::Served { number, done, upto },
    }
}

#[cfg(test)]
mod tests {
    use p2p_wire::{Envelope, NewEntry, SecretKey};

    #[test]
    fn a_check_gives_the_digest_that_the_core_makes_itself() {
        let entry = NewEntry { topic: "t", time_ms: 1, recipient: None, payload: b"of what is published" };
        let envelope = Envelope::sign(&SecretKey::from_bytes(&[1; 32]), 1, 1, &[entry]).unwrap();
        assert_eq!(envelope.verify(), Ok(envelope.digest()));
        assert_eq!(super::sum(envelope.digest()), p2p_gossip::digest(envelope.bytes()));
    }
}
