//! Renewal, restart and the end.

use std::time::Duration;

use p2p_upnp::{Config, Mapper, Status};
use tokio::time::Instant;

use crate::fake::{Behaviour, Page, Router};
use crate::{config, mapped, outcome};

#[tokio::test]
async fn a_mapping_is_renewed_at_half_its_lease_and_comes_back_after_a_reboot() {
    let router = Router::start(Behaviour::default()).await;
    let mapper = Mapper::spawn(Config { lease: Duration::from_secs(2), ..config(&router, &[7000]) });
    assert_eq!(outcome(&mapper).await, mapped(&[(7000, 7000)]));
    let start = Instant::now();
    router.reboot();
    router.until(|seen| seen.count("AddPortMapping") == 2).await;
    let waited = start.elapsed();
    // Not before; how late it may be is the machine's affair, and exact in the tests of `Leases`.
    assert!(waited > Duration::from_millis(700), "{waited:?}");
    assert_eq!(router.seen().searches, 3, "no second search");
    assert_eq!(*mapper.status().borrow(), mapped(&[(7000, 7000)]));
    mapper.close().await;
    assert!(router.seen().held.is_empty());
}

#[tokio::test]
async fn a_network_change_searches_at_once() {
    let router = Router::start(Behaviour::default()).await;
    let mapper = Mapper::spawn(config(&router, &[7000]));
    assert_eq!(outcome(&mapper).await, mapped(&[(7000, 7000)]));
    mapper.network_changed();
    router.until(|seen| seen.searches == 6 && seen.count("AddPortMapping") == 2).await;
    mapper.close().await;
    assert!(router.seen().held.is_empty());
}

#[tokio::test]
async fn the_end_does_not_wait_for_a_search() {
    let router = Router::start(Behaviour { description: Page::Stall, ..Behaviour::default() }).await;
    let mapper = Mapper::spawn(config(&router, &[7000]));
    router.until(|seen| seen.fetches == 1).await;
    let start = Instant::now();
    mapper.close().await;
    assert!(start.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn the_end_is_bounded_when_the_router_stops_answering() {
    let router =
        Router::start(Behaviour { add: Page::Stall, soap: Page::Good, ..Behaviour::default() }).await;
    let mapper =
        Mapper::spawn(Config { close_timeout: Duration::from_millis(300), ..config(&router, &[7000]) });
    router.until(|seen| seen.count("AddPortMapping") == 1).await;
    let mut status = mapper.status();
    let start = Instant::now();
    mapper.close().await;
    assert!(start.elapsed() < Duration::from_secs(2), "less than one call may take");
    assert_eq!(*status.borrow_and_update(), Status::Closed);
}

#[tokio::test]
async fn dropping_the_mapper_removes_the_mappings_too() {
    let router = Router::start(Behaviour::default()).await;
    let mapper = Mapper::spawn(config(&router, &[7000]));
    assert_eq!(outcome(&mapper).await, mapped(&[(7000, 7000)]));
    drop(mapper);
    router.until(|seen| seen.held.is_empty()).await;
}
