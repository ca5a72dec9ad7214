//! What the mapper tells its owner.

use std::net::{IpAddr, SocketAddr};

/// Longest text from a router that we keep or log, in characters.
pub const MAX_DETAIL: usize = 200;

/// A port of ours that the router says it forwards to us.
///
/// The router's word alone: advertise it once somebody outside has reached it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mapping {
    /// The TCP port we listen on.
    pub local_port: u16,
    /// Where the router takes connections for it; the address is global unicast.
    pub external: SocketAddr,
}

/// How the mappings stand.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Status {
    /// The first search, or the first one after a network change, is not over.
    Searching,
    /// No router answered, or none that maps ports. Tried again after a back-off.
    NoRouter,
    /// At least one port is mapped; one that is not listed is tried again after a back-off.
    Mapped {
        /// The mapped ports, in the order they were configured.
        mappings: Vec<Mapping>,
    },
    /// Ports are mapped, but the address the router reports is not one that the internet can reach: a second NAT lies
    /// behind it, or it does not know its address.
    DoubleNat {
        /// The address as the router reports it.
        reported: IpAddr,
    },
    /// There is a router and no port is mapped. Tried again after a back-off.
    Failed {
        /// Why, for people: at most [`MAX_DETAIL`] characters, control characters escaped.
        detail: String,
    },
    /// The mapper has ended; mappings it made are removed as far as the router answered in time.
    Closed,
}
