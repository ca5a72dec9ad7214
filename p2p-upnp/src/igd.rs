//! UPnP Internet Gateway Devices through `igd-next`. Every network call of the crate is in this file, each with a
//! deadline.
//!
//! `igd-next` gives no other host's `LOCATION` or control address a request, follows no redirect, and cuts answers at
//! 1 MiB and XML at 64 levels. What it leaves to us: the deadlines (a stalled description blocks its whole search, control
//! calls wait 10 s), the length of the texts in its errors, and up to 20 requests inside `add_any_port`.

use std::future::Future;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use igd_next::aio::Gateway as Device;
use igd_next::aio::tokio::{Tokio, search_gateway};
use igd_next::{
    AddAnyPortError, AddPortError, GatewayIpVersion, GetExternalIpError, GetGenericPortMappingEntryError,
    PortMappingEntry, PortMappingProtocol, RemovePortError, RequestError, SearchOptions,
};
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::debug;

use crate::config::Config;
use crate::gateway::{Entry, Gateway, GatewayError, Granted, Listing, SearchError, Site, Wanted};
use crate::text::clip;

/// Most entries read of a router's list, one request each; a longer list counts as not complete.
pub const MAX_ENTRIES: u32 = 128;

/// Unreadable entries that are skipped before the list counts as not readable: one odd entry of another device must not
/// hide ours, a router that answers only nonsense must not be asked 128 times.
const MAX_ODD_ENTRIES: u32 = 4;

const TCP: PortMappingProtocol = PortMappingProtocol::TCP;

/// A UPnP router on the LAN.
#[derive(Debug)]
pub struct Igd {
    config: Config,
    found: Option<(Device<Tokio>, Site)>,
}

impl Igd {
    /// Uses the time-outs, the description and the addresses of `config`. Sends nothing yet.
    pub fn new(config: Config) -> Self {
        Self { config, found: None }
    }

    fn options(&self) -> SearchOptions {
        let mut options = SearchOptions::default();
        options.bind_addr = self.config.bind;
        options.broadcast_address = self.config.search_address;
        options.timeout = Some(self.config.search_timeout);
        options.single_search_timeout = Some(self.config.search_timeout);
        options.gateway_ip_version = GatewayIpVersion::V4;
        options.allowed_gateway_ips.clone_from(&self.config.trusted_gateways);
        options
    }

    fn found(&self) -> Result<(&Device<Tokio>, Site), GatewayError> {
        let (device, site) = self.found.as_ref().ok_or_else(|| broken("no router was found yet"))?;
        Ok((device, *site))
    }

    /// Our address on the way to `gateway`, as the routing table has it. Connecting a UDP socket sends nothing.
    async fn local_address(&self, gateway: SocketAddr) -> Option<IpAddr> {
        let any: IpAddr = match gateway {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0)).await.ok()?;
        socket.connect(gateway).await.ok()?;
        let local = socket.local_addr().ok()?.ip();
        let usable = !local.is_unspecified() && !local.is_multicast();
        let loopback_is_meant = self.config.trusted_gateways.contains(&gateway.ip());
        (usable && (!local.is_loopback() || loopback_is_meant)).then_some(local)
    }

    async fn within<T>(&self, call: impl Future<Output = T>) -> Result<T, GatewayError> {
        let after = self.config.call_timeout;
        timeout(after, call).await.map_err(|_| GatewayError::TimedOut { after })
    }
}

impl Gateway for Igd {
    async fn search(&mut self) -> Result<Site, SearchError> {
        let limit = self.config.search_timeout;
        let device = match timeout(limit, search_gateway(self.options())).await {
            Ok(Ok(device)) => device,
            Ok(Err(error)) => return Err(SearchError::NotFound { detail: clip(error) }),
            Err(_) => {
                return Err(SearchError::NotFound {
                    detail: format!("none within {} ms", limit.as_millis()),
                });
            }
        };
        let gateway = device.addr;
        let local = self.local_address(gateway).await.ok_or(SearchError::NoLocalAddress { gateway })?;
        let site = Site { gateway, local };
        self.found = Some((device, site));
        Ok(site)
    }

    async fn external_ip(&mut self) -> Result<IpAddr, GatewayError> {
        let (device, _) = self.found()?;
        self.within(device.get_external_ip()).await?.map_err(|error| match error {
            GetExternalIpError::ActionNotAuthorized => refused(606, "not authorized"),
            GetExternalIpError::RequestError(error) => from_request(error),
        })
    }

    /// Reads entry after entry, all of them within one `call_timeout`; what was read by then is returned as not complete.
    async fn list(&mut self) -> Result<Listing, GatewayError> {
        let (device, _) = self.found()?;
        let deadline = Instant::now() + self.config.call_timeout;
        let mut listing = Listing::default();
        let mut odd = 0;
        for index in 0..MAX_ENTRIES {
            let Ok(answer) = timeout_at(deadline, device.get_generic_port_mapping_entry(index)).await else {
                debug!(read = listing.entries.len(), "the router's list took too long");
                return Ok(listing);
            };
            match answer {
                Ok(entry) if entry.protocol == TCP => listing.entries.push(from_entry(entry)),
                Ok(_) => {}
                Err(error) if is_end(&error) => {
                    listing.complete = true;
                    return Ok(listing);
                }
                Err(GetGenericPortMappingEntryError::RequestError(RequestError::InvalidResponse(_)))
                    if odd < MAX_ODD_ENTRIES =>
                {
                    odd += 1;
                }
                Err(error) => {
                    debug!(index, error = clip(error), "the router's list cannot be read");
                    return Ok(listing);
                }
            }
        }
        Ok(listing)
    }

    async fn map(&mut self, wanted: Wanted) -> Result<Granted, GatewayError> {
        let (device, site) = self.found()?;
        let target = SocketAddr::new(site.local, wanted.local_port);
        let seconds = seconds(wanted.lease);
        let text = self.config.description;
        let external_port = match wanted.external_port {
            Some(port) => {
                self.within(device.add_port(TCP, port, target, seconds, text)).await?.map_err(from_add)?;
                port
            }
            None if device.control_schema.contains_key("AddAnyPortMapping") => {
                self.within(device.add_any_port(TCP, target, seconds, text)).await?.map_err(from_add_any)?
            }
            // Without that action igd-next would try 20 random ports in one call; one is enough here.
            None => {
                let port = random_port();
                self.within(device.add_port(TCP, port, target, seconds, text)).await?.map_err(from_add)?;
                port
            }
        };
        if external_port == 0 {
            return Err(broken("it granted port 0"));
        }
        Ok(Granted { external_port, lease: wanted.lease })
    }

    async fn unmap(&mut self, _local_port: u16, external_port: u16) -> Result<(), GatewayError> {
        let (device, _) = self.found()?;
        match self.within(device.remove_port(TCP, external_port)).await? {
            Ok(()) | Err(RemovePortError::NoSuchPortMapping) => Ok(()),
            Err(RemovePortError::ActionNotAuthorized) => Err(refused(606, "not authorized")),
            Err(RemovePortError::RequestError(error)) => Err(from_request(error)),
        }
    }
}

/// Whole seconds, at least 1 (0 means no end), at most what fits.
fn seconds(lease: Option<Duration>) -> u32 {
    lease.map_or(0, |lease| u32::try_from(lease.as_secs()).unwrap_or(u32::MAX).max(1))
}

/// A port of the dynamic range, 49152 to 65535 (RFC 6335, section 6). Need not be hard to guess.
fn random_port() -> u16 {
    let random = RandomState::new().build_hasher().finish().to_le_bytes();
    u16::from_le_bytes([random[0], random[1]]) | 0xc000
}

/// Routers end their list with 713, some with 714.
fn is_end(error: &GetGenericPortMappingEntryError) -> bool {
    matches!(
        error,
        GetGenericPortMappingEntryError::SpecifiedArrayIndexInvalid
            | GetGenericPortMappingEntryError::RequestError(RequestError::ErrorCode(714, _))
    )
}

fn from_entry(entry: PortMappingEntry) -> Entry {
    Entry {
        external_port: entry.external_port,
        client: entry.internal_client.trim().parse().ok(),
        local_port: entry.internal_port,
        enabled: entry.enabled,
        description: clip(entry.port_mapping_description),
        lease: (entry.lease_duration > 0).then(|| Duration::from_secs(entry.lease_duration.into())),
    }
}

fn from_add(error: AddPortError) -> GatewayError {
    match error {
        AddPortError::PortInUse => GatewayError::PortInUse,
        AddPortError::OnlyPermanentLeasesSupported => GatewayError::OnlyPermanent,
        AddPortError::SamePortValuesRequired => GatewayError::OnlySamePort,
        AddPortError::ActionNotAuthorized => refused(606, "not authorized"),
        AddPortError::DescriptionTooLong => refused(605, "description too long"),
        AddPortError::RequestError(error) => from_request(error),
        other => refused(0, other),
    }
}

fn from_add_any(error: AddAnyPortError) -> GatewayError {
    match error {
        AddAnyPortError::OnlyPermanentLeasesSupported => GatewayError::OnlyPermanent,
        AddAnyPortError::ExternalPortInUse => GatewayError::PortInUse,
        AddAnyPortError::ActionNotAuthorized => refused(606, "not authorized"),
        AddAnyPortError::DescriptionTooLong => refused(605, "description too long"),
        AddAnyPortError::NoPortsAvailable => refused(728, "no free port"),
        AddAnyPortError::RequestError(error) => from_request(error),
        other @ AddAnyPortError::InternalPortZeroInvalid => refused(0, other),
    }
}

fn from_request(error: RequestError) -> GatewayError {
    match error {
        RequestError::ErrorCode(718, _) => GatewayError::PortInUse,
        RequestError::ErrorCode(724, _) => GatewayError::OnlySamePort,
        RequestError::ErrorCode(725, _) => GatewayError::OnlyPermanent,
        RequestError::ErrorCode(code, text) => refused(code, text),
        RequestError::UnsupportedAction(action) => refused(401, format_args!("{action} is not offered")),
        other => broken(other),
    }
}

fn refused(code: u16, detail: impl std::fmt::Display) -> GatewayError {
    GatewayError::Refused { code, detail: clip(detail) }
}

fn broken(detail: impl std::fmt::Display) -> GatewayError {
    GatewayError::Broken { detail: clip(detail) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_never_becomes_a_permanent_one() {
        assert_eq!(seconds(None), 0);
        assert_eq!(seconds(Some(Duration::from_millis(10))), 1);
        assert_eq!(seconds(Some(Duration::from_secs(3600))), 3600);
        assert_eq!(seconds(Some(Duration::MAX)), u32::MAX);
    }

    #[test]
    fn random_ports_are_dynamic_ports() {
        assert!((0..100).all(|_| random_port() >= 49152));
    }

    #[test]
    fn a_whole_reply_in_an_error_is_cut() {
        let error = from_request(RequestError::InvalidResponse("\x1b".repeat(1 << 20)));
        assert!(error.to_string().len() < 300, "{error}");
        let error = from_request(RequestError::ErrorCode(501, "\x1b".repeat(1 << 20)));
        assert!(error.to_string().len() < 300, "{error}");
    }

    #[tokio::test]
    async fn asking_before_a_search_is_an_error() {
        let mut igd = Igd::new(Config::default());
        assert!(igd.external_ip().await.is_err());
    }
}
