//! The mapper against a fake UPnP router on loopback. Nothing is sent anywhere else.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod control;
mod discovery;
mod fake;
mod lifetime;

use std::net::Ipv4Addr;
use std::time::Duration;

use fake::Router;
use p2p_upnp::{Config, Mapper, Mapping, Status};

/// For routers that answer: patient, so that a busy machine fails no test.
fn config(router: &Router, ports: &[u16]) -> Config {
    Config {
        ports: ports.to_vec(),
        search_timeout: Duration::from_secs(4),
        call_timeout: Duration::from_secs(3),
        bind: (Ipv4Addr::LOCALHOST, 0).into(),
        search_address: router.search_address,
        trusted_gateways: vec![Ipv4Addr::LOCALHOST.into()],
        ..Config::default()
    }
}

/// For routers that do not.
fn impatient(router: &Router) -> Config {
    Config {
        search_timeout: Duration::from_millis(100),
        call_timeout: Duration::from_millis(300),
        ..config(router, &[7000])
    }
}

/// The first status after the search.
async fn outcome(mapper: &Mapper) -> Status {
    let mut status = mapper.status();
    let settled = status.wait_for(|status| *status != Status::Searching);
    tokio::time::timeout(Duration::from_secs(10), settled).await.expect("an outcome in time").unwrap().clone()
}

fn mapped(ports: &[(u16, u16)]) -> Status {
    let mapping =
        |&(local_port, port)| Mapping { local_port, external: (Ipv4Addr::new(11, 0, 113, 1), port).into() };
    Status::Mapped { mappings: ports.iter().map(mapping).collect() }
}
