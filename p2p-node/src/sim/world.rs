//! What all nodes may look at while time passes; it changes between runs only, so any number of threads may read it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use p2p_wire::{EnvelopeId, NodeId, PeerRecord};

use super::SimConfig;
use super::link::mix;
use super::node::{Conduct, Kill};
use super::queue::{Time, index};

/// A node as others find it.
#[derive(Debug)]
pub(super) struct Face {
    pub(super) id: NodeId,
    pub(super) addr: SocketAddr,
    pub(super) record: PeerRecord,
    pub(super) runs: bool,
    /// How it ended, if it does not run.
    pub(super) down: Kill,
    pub(super) conduct: Conduct,
    /// Nodes of different groups do not reach each other.
    pub(super) group: u8,
    pub(super) up_since: Time,
    pub(super) down_at: Time,
}

/// One published message.
#[derive(Debug)]
pub(super) struct Published {
    pub(super) id: EnvelopeId,
    pub(super) author: u32,
    pub(super) sent_at: Time,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) config: SimConfig,
    /// What the cores see as the clock's zero.
    epoch: Instant,
    pub(super) faces: Vec<Face>,
    /// Looked up, never walked through: their order does not show.
    by_id: HashMap<NodeId, u32>,
    by_addr: HashMap<SocketAddr, u32>,
    /// Whether there is more than one group.
    pub(super) parted: bool,
    pub(super) messages: Vec<Published>,
    /// Author and seq, mixed, to the message. Two that mix to the same 64 bits: not in this universe's lifetime.
    numbers: HashMap<u64, u32>,
}

impl World {
    pub(super) fn new(config: SimConfig) -> Self {
        Self {
            config,
            epoch: Instant::now(),
            faces: Vec::new(),
            by_id: HashMap::new(),
            by_addr: HashMap::new(),
            parted: false,
            messages: Vec::new(),
            numbers: HashMap::new(),
        }
    }

    pub(super) fn add(&mut self, face: Face) {
        let number = index(self.faces.len());
        self.by_id.insert(face.id, number);
        self.by_addr.insert(face.addr, number);
        self.faces.push(face);
    }

    pub(super) fn publish(&mut self, message: Published) -> usize {
        let number = self.messages.len();
        self.numbers.insert(key(&message.id), index(number));
        self.messages.push(message);
        number
    }

    pub(super) fn face(&self, node: u32) -> &Face {
        &self.faces[node as usize]
    }

    pub(super) fn by_id(&self, id: &NodeId) -> Option<u32> {
        self.by_id.get(id).copied()
    }

    pub(super) fn by_addr(&self, addr: &SocketAddr) -> Option<u32> {
        self.by_addr.get(addr).copied()
    }

    /// The number of a message, from its author and seq.
    pub(super) fn message(&self, id: &EnvelopeId) -> Option<u32> {
        self.numbers.get(&key(id)).copied()
    }

    /// Whether a cut lies between the two.
    pub(super) fn cut(&self, a: u32, b: u32) -> bool {
        self.parted && self.face(a).group != self.face(b).group
    }

    pub(super) fn instant(&self, time: Time) -> Instant {
        self.epoch + Duration::from_nanos(time)
    }

    /// An instant as time since the beginning.
    pub(super) fn time(&self, at: Instant) -> Time {
        super::link::nanos(at.saturating_duration_since(self.epoch))
    }

    /// The time on everybody's wall.
    pub(super) fn wall(time: Time) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000) + Duration::from_nanos(time)
    }
}

fn key(id: &EnvelopeId) -> u64 {
    let (head, _) = id.author.as_bytes().split_first_chunk::<8>().expect("an id has 32 bytes");
    u64::from_be_bytes(*head) ^ mix(id.first)
}
