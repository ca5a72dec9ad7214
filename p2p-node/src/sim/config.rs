//! What the virtual network is like.

use std::time::Duration;

use p2p_peers::LivenessConfig;

/// The network and the nodes in it. Everything random comes from [`seed`](Self::seed).
#[derive(Debug, Clone)]
pub struct SimConfig {
    /// The same seed, configuration and calls give the same run, to the last number.
    pub seed: u64,
    /// Shortest and longest one-way latency. Each pair of nodes has one, drawn evenly between them and kept for the
    /// whole run. Default 10 to 50 ms, as in iroh-gossip's simulator.
    pub latency: (Duration, Duration),
    /// Added to each frame, drawn evenly between 0 and this. Default 0.
    pub jitter: Duration,
    /// The probability that a frame is held back by one round trip + 200 ms, and with it all that is behind it on its
    /// link: what a lost segment costs on TCP (RFC 6298: the shortest retransmission timeout in use). Default 0.
    pub loss: f64,
    /// Bytes per second that one link takes in one direction; 0 is no limit. Default 0.
    pub link_rate: u64,
    /// Bytes per second that one node sends on all its links; 0 is no limit. Default 0.
    pub node_rate: u64,
    /// Bytes that may wait to be written to one link, as [`Limits::queue_bytes`](crate::Limits::queue_bytes).
    pub queue_bytes: u64,
    /// What one signature check costs a node; its checks are made one after the other. Default 0. About 50 µs is true.
    pub check: Duration,
    /// Signatures are really checked. Off: an envelope whose signature is all zeros is a forgery, any other is not.
    pub real_checks: bool,
    /// Threads that the nodes' work is shared by; 0: one for each core. What comes out does not depend on it. Default 0.
    pub threads: usize,
    /// From the SYN to giving up on an address that does not answer. Default 5 s, as
    /// [`Limits::dial_timeout`](crate::Limits::dial_timeout).
    pub dial_timeout: Duration,
    /// The peer table of each node.
    pub peers: p2p_peers::Config,
    /// The views of each node.
    pub views: p2p_peers::views::Config,
    /// The broadcast core of each node.
    pub gossip: p2p_gossip::Config,
    /// The watch over each link.
    pub liveness: LivenessConfig,
}

impl Default for SimConfig {
    fn default() -> Self {
        let limits = crate::Limits::default();
        Self {
            seed: 1,
            latency: (Duration::from_millis(10), Duration::from_millis(50)),
            jitter: Duration::ZERO,
            loss: 0.0,
            link_rate: 0,
            node_rate: 0,
            queue_bytes: limits.queue_bytes as u64,
            check: Duration::ZERO,
            real_checks: false,
            threads: 0,
            dial_timeout: limits.dial_timeout,
            peers: p2p_peers::Config {
                target: 0,
                max_out: limits.max_out,
                max_in: limits.max_in,
                max_peers: limits.max_peers,
                ..p2p_peers::Config::default()
            },
            views: p2p_peers::views::Config::default(),
            gossip: p2p_gossip::Config {
                log_store: p2p_gossip::LogStore::Shared,
                ..p2p_gossip::Config::default()
            },
            liveness: LivenessConfig::default(),
        }
    }
}
