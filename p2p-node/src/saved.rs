//! What a file says of other peers is checked before it is told on: it may be damaged, or somebody else's work.

use p2p_peers::{Record, Snapshot};
use p2p_wire::NodeId;

use crate::convert;
use crate::records::CheckedRecords;

/// Takes out the address records that are not what their owners signed, or not what the file says of them, and counts
/// them. Whoever is told one of these ends the link: a single bad one, told in every sample, would leave this node without
/// any newcomer. The peers stay, with the addresses that the file names.
///
/// A check takes 20 to 40 µs, and a full table has 4,096 records and more: not to be done on the way to anything.
pub(crate) fn drop_unsound(snapshot: &mut Snapshot<NodeId>, checked: &CheckedRecords) -> usize {
    let mut dropped = 0;
    for peer in &mut snapshot.peers {
        let (id, before) = (peer.id, peer.records.len());
        peer.records.retain(|record| is_sound(id, record, checked));
        dropped += before - peer.records.len();
    }
    dropped
}

fn is_sound(id: NodeId, labelled: &Record, checked: &CheckedRecords) -> bool {
    checked.decode(labelled.bytes.clone()).is_ok_and(|record| {
        // By these the table tells what is newer, and over which links it may go.
        let label = (record.id(), convert::table_scope(record.scope()), record.seq());
        label == (id, labelled.scope, labelled.seq)
    })
}

#[cfg(test)]
mod tests {
    use p2p_peers::{SavedPeer, Scope};
    use p2p_wire::{PeerAddr, PeerRecord, SecretKey};

    use super::*;

    fn record(key: u8, seq: u64) -> Record {
        let addr = PeerAddr { ip: "192.0.2.1".parse().unwrap(), port: 4000, file_port: 0 };
        let key = SecretKey::from_bytes(&[key; 32]);
        let bytes = PeerRecord::sign(&key, p2p_wire::Scope::Public, seq, &[addr]).unwrap().bytes().clone();
        Record { scope: Scope::Public, seq, bytes }
    }

    fn with(records: Vec<Record>) -> Snapshot<NodeId> {
        let id = SecretKey::from_bytes(&[1; 32]).id();
        let peer = SavedPeer {
            id,
            addrs: Vec::new(),
            last_connected: None,
            wanted: true,
            anchor: false,
            visitor: false,
            banned: false,
            records,
        };
        Snapshot { peers: vec![peer], seeds: Vec::new() }
    }

    /// That one alone is dropped, and its peer is not.
    fn is_dropped(bad: Record) -> bool {
        let good = record(1, 7);
        let mut snapshot = with(vec![bad, good.clone()]);
        let dropped = drop_unsound(&mut snapshot, &CheckedRecords::default());
        assert_eq!(snapshot.peers.len(), 1);
        assert_eq!(snapshot.peers[0].records.last(), Some(&good));
        (dropped, snapshot.peers[0].records.len()) == (1, 1)
    }

    #[test]
    fn a_record_out_of_a_file_is_kept_only_as_its_owner_signed_it() {
        let good = record(1, 7);
        assert!(!is_dropped(good.clone()));
        for at in 0..good.bytes.len() {
            let mut bytes = good.bytes.to_vec();
            bytes[at] ^= 1;
            assert!(is_dropped(Record { bytes: bytes.into(), ..good.clone() }), "byte {at}");
        }
        assert!(is_dropped(Record { bytes: good.bytes.slice(1..), ..good.clone() }));
        assert!(is_dropped(Record { seq: 8, ..good.clone() }), "newer records would be taken for older ones");
        assert!(is_dropped(Record { scope: Scope::Local, ..good }));
        assert!(is_dropped(record(2, 7)), "somebody else's");
    }
}
