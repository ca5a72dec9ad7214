//! Finding the router.

use std::net::SocketAddr;
use std::time::Duration;

use p2p_upnp::{Mapper, Status};
use tokio::net::TcpListener;

use crate::fake::{Behaviour, Page, Router, Ssdp, http, ok};
use crate::{config, impatient, mapped, outcome};

/// Three tries of three datagrams each, then no router; and the end does not wait for anything.
async fn nothing_found(behaviour: Behaviour) -> Router {
    let router = Router::start(behaviour).await;
    let mapper = Mapper::spawn(impatient(&router));
    assert_eq!(outcome(&mapper).await, Status::NoRouter);
    router.until(|seen| seen.searches == 9).await;
    assert_eq!(router.seen().calls, Vec::<String>::new());
    mapper.close().await;
    router
}

#[tokio::test]
async fn a_silent_network_has_no_router() {
    nothing_found(Behaviour { ssdp: Ssdp::Silent, ..Behaviour::default() }).await;
}

#[tokio::test]
async fn garbage_is_no_router() {
    nothing_found(Behaviour { ssdp: Ssdp::Garbage, ..Behaviour::default() }).await;
}

#[tokio::test]
async fn an_answer_after_the_search_is_not_taken() {
    let late = Ssdp::Late(Duration::from_secs(2));
    nothing_found(Behaviour { ssdp: late, ..Behaviour::default() }).await;
}

#[tokio::test]
async fn an_answer_within_the_search_is_taken() {
    let late = Ssdp::Late(Duration::from_millis(300));
    let router = Router::start(Behaviour { ssdp: late, ..Behaviour::default() }).await;
    let mapper = Mapper::spawn(config(&router, &[7000]));
    assert_eq!(outcome(&mapper).await, mapped(&[(7000, 7000)]));
    assert_eq!(router.seen().searches, 3);
}

/// A web server on another address of this machine, which must never be asked anything.
async fn bystander() -> (TcpListener, SocketAddr) {
    let listener = match TcpListener::bind("127.0.0.2:0").await {
        Ok(listener) => listener,
        // Only Linux has all of 127.0.0.0/8 by itself; elsewhere the connection would fail, which is as good.
        Err(_) => TcpListener::bind("127.0.0.1:0").await.unwrap(),
    };
    let port = listener.local_addr().unwrap().port();
    (listener, ([127, 0, 0, 2], port).into())
}

fn assert_untouched(listener: TcpListener) {
    // Not blocking: a connection would be waiting by now, since the whole search is over.
    let accepted = listener.into_std().unwrap().accept();
    let nobody = accepted.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
    assert!(nobody, "the bystander was contacted: {accepted:?}");
}

#[tokio::test]
async fn a_description_at_another_host_is_not_fetched() {
    let (listener, addr) = bystander().await;
    for url in [
        format!("http://{addr}/rootDesc.xml"),
        format!("https://{addr}/"),
        format!("http://user:pw@{addr}/"),
        "file:///etc/passwd".to_owned(),
    ] {
        nothing_found(Behaviour { ssdp: Ssdp::Location(url), ..Behaviour::default() }).await;
    }
    assert_untouched(listener);
}

#[tokio::test]
async fn control_at_another_host_is_not_used() {
    let (listener, addr) = bystander().await;
    let url_base = format!("<URLBase>http://{addr}/</URLBase>");
    nothing_found(Behaviour { url_base, ..Behaviour::default() }).await;
    assert_untouched(listener);
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let (listener, addr) = bystander().await;
    let moved = format!("HTTP/1.1 302 Found\r\nLocation: http://{addr}/\r\nContent-Length: 0\r\n\r\n");
    let description = Page::Raw(moved.into_bytes());
    nothing_found(Behaviour { description, ..Behaviour::default() }).await;
    assert_untouched(listener);
}

#[tokio::test]
async fn a_description_that_cannot_be_read_is_no_router() {
    let deep = format!("{}{}", "<a>".repeat(200), "</a>".repeat(200));
    for description in [
        Page::Raw(ok("<root><device>")),
        Page::Raw(ok("\u{0}\u{1}not xml at all")),
        Page::Raw(ok(&deep)),
        Page::Raw(http("404 Not Found", "")),
        Page::Raw(http("500 Internal Server Error", "oops")),
        Page::Endless,
        Page::Drip,
        Page::Stall,
    ] {
        let router = nothing_found(Behaviour { description, ..Behaviour::default() }).await;
        assert!((1..=9).contains(&router.seen().fetches));
    }
}

#[tokio::test]
async fn a_description_that_stalls_once_costs_one_try() {
    let router = Router::start(Behaviour { description: Page::StallOnce, ..Behaviour::default() }).await;
    let patient = config(&router, &[7000]);
    let mapper = Mapper::spawn(p2p_upnp::Config { search_timeout: Duration::from_secs(1), ..patient });
    assert_eq!(outcome(&mapper).await, mapped(&[(7000, 7000)]));
    assert_eq!(router.seen().searches, 6);
}
