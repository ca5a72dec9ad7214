//! Links: reliable and in order, with latency, rates and loss.

use std::time::Duration;

use p2p_wire::NodeId;

use super::SimConfig;
use super::queue::{LinkId, Time};

/// What a lost segment waits for beyond a round trip: the shortest retransmission timeout of Linux.
const RETRANSMIT: Time = 200_000_000;

/// Any number in, an even looking one out (the finaliser of SplitMix64). Decides what is fixed for a run.
pub(super) const fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// `Duration` in nanoseconds, at most 584 years.
pub(super) fn nanos(d: Duration) -> Time {
    Time::try_from(d.as_nanos()).unwrap_or(Time::MAX)
}

/// The one-way latency between two nodes.
pub(super) fn latency(config: &SimConfig, a: u32, b: u32) -> Time {
    let (low, high) = (nanos(config.latency.0), nanos(config.latency.1));
    let pair = (u64::from(a.min(b)) << 32) | u64::from(a.max(b));
    low + mix(config.seed ^ mix(pair)) % (high.saturating_sub(low) + 1)
}

/// One direction of a link.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pipe {
    /// When the last byte that was queued leaves.
    departs: Time,
    /// When the last frame arrives; nothing overtakes it.
    arrives: Time,
}

/// One end of a link, as the node there has it.
#[derive(Debug)]
pub(super) struct Half {
    pub(super) link: LinkId,
    /// Who is at the other end.
    pub(super) peer: u32,
    pub(super) id: NodeId,
    /// This end dialled.
    pub(super) dialled: bool,
    pub(super) latency: Time,
    pub(super) made_at: Time,
    /// Into which this end writes.
    pipe: Pipe,
    /// It had no room for a push, and is looked at again.
    pub(super) owes: bool,
    /// Bytes of digests and ranges that it wrote.
    pub(super) summaries: u64,
}

impl Half {
    pub(super) fn new(
        link: LinkId,
        (peer, id): (u32, NodeId),
        dialled: bool,
        latency: Time,
        now: Time,
    ) -> Self {
        let pipe = Pipe { departs: now, arrives: now };
        Self { link, peer, id, dialled, latency, made_at: now, pipe, owes: false, summaries: 0 }
    }

    /// Bytes that wait to be written, at the rate that `config` and the node allow.
    pub(super) fn waiting(&self, config: &SimConfig, node_rate: u64, now: Time) -> u64 {
        let rate = match (config.link_rate, node_rate) {
            (0, 0) => return 0,
            (0, rate) | (rate, 0) => rate,
            (link, node) => link.min(node),
        };
        let left = self.pipe.departs.saturating_sub(now);
        u64::try_from(u128::from(left) * u128::from(rate) / 1_000_000_000).unwrap_or(u64::MAX)
    }

    /// When a frame of `len` bytes written now arrives. `node`: the rate of the node, and when it has sent all that it has
    /// queued on other links. `luck`: a random number.
    pub(super) fn send(
        &mut self,
        config: &SimConfig,
        now: Time,
        len: u64,
        (node_rate, node_free): (u64, &mut Time),
        luck: u64,
    ) -> Time {
        let pipe = &mut self.pipe;
        let takes = |rate: u64| (len * 1_000_000_000).checked_div(rate).unwrap_or(0);
        let mut departs = pipe.departs.max(now) + takes(config.link_rate);
        if node_rate > 0 {
            departs = departs.max(*node_free) + takes(node_rate);
            *node_free = departs;
        }
        pipe.departs = departs;
        let mut arrives = departs + self.latency;
        if config.jitter > Duration::ZERO {
            arrives += mix(luck) % (nanos(config.jitter) + 1);
        }
        if config.loss > 0.0 && chance(mix(luck ^ 1)) < config.loss {
            arrives += 2 * self.latency + RETRANSMIT;
        }
        pipe.arrives = pipe.arrives.max(arrives);
        pipe.arrives
    }

    /// When the other end sees that this one closes the connection now.
    pub(super) fn close(&self, now: Time) -> Time {
        self.pipe.arrives.max(now.max(self.pipe.departs) + self.latency)
    }
}

/// A number from 0 up to 1 out of 53 random bits.
#[expect(clippy::cast_precision_loss, reason = "53 bits are what a double holds exactly")]
pub(super) fn chance(random: u64) -> f64 {
    (random >> 11) as f64 / (1_u64 << 53) as f64
}
