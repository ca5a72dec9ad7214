//! What to map and how patient to be.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

/// Most ports one mapper keeps. A node needs two; a router's table is shared by the whole household.
pub const MAX_PORTS: usize = 16;

/// Longest lease a router may grant, one week (UPnP WANIPConnection:2, section 2.3.10).
pub const LONGEST_LEASE: Duration = Duration::from_secs(604_800);

/// Settings of a [`Mapper`](crate::Mapper).
///
/// ```
/// use p2p_upnp::Config;
///
/// let config = Config { ports: vec![65432, 65433], ..Config::default() };
/// assert_eq!(config.validate(), Ok(()));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// TCP ports we listen on; each is asked for under the same number outside. 1 to [`MAX_PORTS`], none 0 or twice.
    /// Default: none.
    pub ports: Vec<u16>,
    /// How long a mapping lives without renewal, in whole seconds; it is renewed at half. Longer: less traffic; shorter:
    /// a mapping whose owner died is gone sooner, and a restarted router is noticed sooner. 1 s to [`LONGEST_LEASE`].
    /// Default 1 h (RFC 6886, section 3.3, recommends 2 h for NAT-PMP; half of it is a guess).
    pub lease: Duration,
    /// How long one search waits for a router. UPnP lets devices wait up to 3 s before they answer (UPnP Device
    /// Architecture 1.1, section 1.3.2, `MX`), so less than 3 s misses some. Default 4 s.
    pub search_timeout: Duration,
    /// Searches in a row before "no router". More than one because the datagrams are sent once each, and because one
    /// device whose description stalls blocks a whole search. 1 to 10; default 3.
    pub search_tries: u32,
    /// How long one request to the router may take. Measured: 10 to 50 ms. Default 3 s.
    pub call_timeout: Duration,
    /// How long searching and mapping all ports may take together. Default 30 s.
    pub open_timeout: Duration,
    /// How long removing the mappings at the end may take together. Default 2 s.
    pub close_timeout: Duration,
    /// First wait after a failure; it doubles with each further one. Default 30 s, a guess.
    pub retry_min: Duration,
    /// Longest wait after a failure. Default 1 h, a guess: three datagrams an hour disturb nobody.
    pub retry_max: Duration,
    /// Failures in a row after which nothing more is sent until the network changes. Default 24, about a day.
    pub give_up_after: u32,
    /// The name the router shows beside the mapping. Also how we know our own after a crash, so never put a host or
    /// user name here. 1 to 32 printable ASCII characters; default `p2p`.
    pub description: &'static str,
    /// Address the search is sent from: that of one LAN interface, or `0.0.0.0` for the default route's. Default
    /// `0.0.0.0:0`.
    pub bind: SocketAddr,
    /// Where the search is sent. Default 239.255.255.250:1900 (UPnP Device Architecture 1.1, section 1). Tests set
    /// this and [`trusted_gateways`](Self::trusted_gateways) to a fake router on loopback.
    pub search_address: SocketAddr,
    /// Addresses that may serve descriptions and control requests although they are loopback or not the machine that
    /// answered the search. Default: none.
    pub trusted_gateways: Vec<IpAddr>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            ports: Vec::new(),
            lease: Duration::from_secs(3600),
            search_timeout: Duration::from_secs(4),
            search_tries: 3,
            call_timeout: Duration::from_secs(3),
            open_timeout: Duration::from_secs(30),
            close_timeout: Duration::from_secs(2),
            retry_min: Duration::from_secs(30),
            retry_max: Duration::from_secs(3600),
            give_up_after: 24,
            description: "p2p",
            bind: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
            search_address: SocketAddr::new(IpAddr::V4(Ipv4Addr::new(239, 255, 255, 250)), 1900),
            trusted_gateways: Vec::new(),
        }
    }
}

/// Why a [`Config`] cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// No ports, or more than the router's table should hold for one program.
    #[error("{count} ports to map, 1 to {MAX_PORTS} are allowed")]
    PortCount {
        /// How many were given.
        count: usize,
    },
    /// A port is 0 or given twice.
    #[error("port {port} cannot be mapped: it is 0 or given twice")]
    Port {
        /// The port.
        port: u16,
    },
    /// The lease is shorter than a second or longer than [`LONGEST_LEASE`].
    #[error("a lease of {} ms is outside 1000 to {} ms", .lease.as_millis(), LONGEST_LEASE.as_millis())]
    Lease {
        /// The lease given.
        lease: Duration,
    },
    /// A time that must pass is zero, or the shortest wait is longer than the longest.
    #[error("{field} is zero or above its limit")]
    Wait {
        /// The field of [`Config`].
        field: &'static str,
    },
    /// The description is empty, longer than 32 characters or not printable ASCII.
    #[error("the description has {len} bytes, 1 to 32 printable ASCII characters are allowed")]
    Description {
        /// Its length in bytes.
        len: usize,
    },
}

impl Config {
    /// Checks every field against its range.
    ///
    /// # Errors
    ///
    /// The first field that is out of range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.ports.is_empty() || self.ports.len() > MAX_PORTS {
            return Err(ConfigError::PortCount { count: self.ports.len() });
        }
        for (i, &port) in self.ports.iter().enumerate() {
            if port == 0 || self.ports[..i].contains(&port) {
                return Err(ConfigError::Port { port });
            }
        }
        if self.lease < Duration::from_secs(1) || self.lease > LONGEST_LEASE {
            return Err(ConfigError::Lease { lease: self.lease });
        }
        for (field, wait) in [
            ("search_timeout", self.search_timeout),
            ("call_timeout", self.call_timeout),
            ("open_timeout", self.open_timeout),
            ("close_timeout", self.close_timeout),
            ("retry_min", self.retry_min),
        ] {
            if wait.is_zero() {
                return Err(ConfigError::Wait { field });
            }
        }
        if self.retry_min > self.retry_max {
            return Err(ConfigError::Wait { field: "retry_min" });
        }
        if !(1..=10).contains(&self.search_tries) {
            return Err(ConfigError::Wait { field: "search_tries" });
        }
        let len = self.description.len();
        if !(1..=32).contains(&len) || !self.description.bytes().all(|b| (b' '..=b'~').contains(&b)) {
            return Err(ConfigError::Description { len });
        }
        Ok(())
    }

    /// Wait after `failures` failures in a row.
    pub(crate) fn backoff(&self, failures: u32) -> Duration {
        let doubled = 1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
        self.retry_min.saturating_mul(doubled).min(self.retry_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_range_is_checked() {
        let good = Config { ports: vec![1, 65535], ..Config::default() };
        assert_eq!(good.validate(), Ok(()));
        let bad = [
            Config::default(),
            Config { ports: (1..=17).collect(), ..good.clone() },
            Config { ports: vec![0], ..good.clone() },
            Config { ports: vec![7, 8, 7], ..good.clone() },
            Config { lease: Duration::from_millis(999), ..good.clone() },
            Config { lease: LONGEST_LEASE + Duration::from_secs(1), ..good.clone() },
            Config { call_timeout: Duration::ZERO, ..good.clone() },
            Config { retry_min: Duration::from_secs(7200), ..good.clone() },
            Config { search_tries: 0, ..good.clone() },
            Config { description: "", ..good.clone() },
            Config { description: "a\nb", ..good.clone() },
        ];
        for config in bad {
            assert!(config.validate().is_err(), "{config:?}");
        }
    }

    #[test]
    fn the_wait_doubles_up_to_its_limit() {
        let config = Config::default();
        let waits: Vec<u64> = [1, 2, 3, 7, 8, 9, 40, u32::MAX].map(|n| config.backoff(n).as_secs()).into();
        assert_eq!(waits, [30, 60, 120, 1920, 3600, 3600, 3600, 3600]);
    }
}
