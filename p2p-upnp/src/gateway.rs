//! What the mapper needs of a router, whatever protocol it speaks.
//!
//! UPnP IGD is [`Igd`](crate::Igd). PCP (RFC 6887) and NAT-PMP (RFC 6886) fit too: they have no list, so `list` answers
//! an empty one that is not complete; a router that picks another port or a shorter lease says so in [`Granted`].

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// A router that can forward ports to us. One call runs at a time.
///
/// Every call must end by itself, in the time its implementation was configured with, and must send nothing after it was
/// dropped. Texts of the router in answers and errors are at most [`MAX_DETAIL`](crate::MAX_DETAIL) characters, escaped.
pub trait Gateway: Send + 'static {
    /// Looks for a router once; a later call may find another one.
    fn search(&mut self) -> impl Future<Output = Result<Site, SearchError>> + Send;

    /// The address the router has outside, unjudged.
    fn external_ip(&mut self) -> impl Future<Output = Result<IpAddr, GatewayError>> + Send;

    /// The TCP mappings the router holds.
    fn list(&mut self) -> impl Future<Output = Result<Listing, GatewayError>> + Send;

    /// Makes or renews a mapping: one request that may create something at the router.
    fn map(&mut self, wanted: Wanted) -> impl Future<Output = Result<Granted, GatewayError>> + Send;

    /// Removes a mapping; one that is not there is no error.
    fn unmap(
        &mut self,
        local_port: u16,
        external_port: u16,
    ) -> impl Future<Output = Result<(), GatewayError>> + Send;
}

/// Where we are: the router, and our address on its inner side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Site {
    /// Address the router takes requests at.
    pub gateway: SocketAddr,
    /// Our address as the router sees it.
    pub local: IpAddr,
}

/// One TCP mapping as the router lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Port outside.
    pub external_port: u16,
    /// The machine it leads to; none if the router gave something that is not an address.
    pub client: Option<IpAddr>,
    /// Port on that machine.
    pub local_port: u16,
    /// The router's own flag; a mapping that is switched off forwards nothing.
    pub enabled: bool,
    /// Who made it, as they named themselves.
    pub description: String,
    /// What is left of its lease; none for one without end.
    pub lease: Option<Duration>,
}

/// What a router lists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// The mappings read, in the router's order.
    pub entries: Vec<Entry>,
    /// Whether that is all of them: only then does absence mean anything.
    pub complete: bool,
}

impl Listing {
    /// The entry for an outside port.
    pub fn at(&self, external_port: u16) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.external_port == external_port)
    }
}

/// A mapping to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// The TCP port we listen on.
    pub local_port: u16,
    /// The port outside, or any that is free.
    pub external_port: Option<u16>,
    /// How long it shall live; none for no end.
    pub lease: Option<Duration>,
}

/// A mapping the router says it made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Granted {
    /// The port outside; never 0.
    pub external_port: u16,
    /// How long it lives, none for no end; may be less than was asked for.
    pub lease: Option<Duration>,
}

/// Why no router was found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SearchError {
    /// Nobody who maps ports answered in time, or there is no network to search.
    #[error("no router found: {detail}")]
    NotFound {
        /// What was seen instead.
        detail: String,
    },
    /// A router was found, and the way to it leads from no address that it could forward to.
    #[error("no usable local address towards the router at {gateway}")]
    NoLocalAddress {
        /// The router.
        gateway: SocketAddr,
    },
}

/// Why a router did not do what was asked. Nothing of ours changes by any of them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GatewayError {
    /// No whole answer in time; the request may still have had its effect.
    #[error("no answer within {} ms", .after.as_millis())]
    TimedOut {
        /// The time allowed.
        after: Duration,
    },
    /// No connection, or an answer that is not one; the request may have had its effect.
    #[error("the router did not answer properly: {detail}")]
    Broken {
        /// What came instead.
        detail: String,
    },
    /// The outside port leads to another machine (718).
    #[error("the port is taken")]
    PortInUse,
    /// Only mappings without end are supported (725).
    #[error("the router makes only permanent mappings")]
    OnlyPermanent,
    /// The outside port must be the inside port (724).
    #[error("the router maps only equal port numbers")]
    OnlySamePort,
    /// The router refuses this request; another port may be allowed (606 and all other codes).
    #[error("the router refuses: error {code} {detail}")]
    Refused {
        /// UPnP error code; 0 if the protocol has none.
        code: u16,
        /// The router's own words.
        detail: String,
    },
}

impl GatewayError {
    /// The router may be gone or moved: look for it again.
    pub(crate) fn is_lost(&self) -> bool {
        matches!(self, Self::TimedOut { .. } | Self::Broken { .. })
    }
}
