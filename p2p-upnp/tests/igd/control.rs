//! Asking the router that was found.

use std::net::IpAddr;
use std::time::Duration;

use p2p_upnp::{Config, MAX_DETAIL, Mapper, Status};

use crate::fake::{Behaviour, Page, Router, http, ok};
use crate::{config, mapped, outcome};

async fn ask(behaviour: Behaviour) -> (Router, Mapper, Status) {
    let router = Router::start(behaviour).await;
    let mapper = Mapper::spawn(config(&router, &[7000]));
    let status = outcome(&mapper).await;
    (router, mapper, status)
}

fn detail(status: Status) -> String {
    let Status::Failed { detail } = status else { panic!("not a failure: {status:?}") };
    assert!(detail.chars().count() <= MAX_DETAIL);
    assert!(!detail.contains(|c: char| c.is_control() || c == '\u{202e}'), "{detail:?}");
    detail
}

#[tokio::test]
async fn a_good_router_maps_all_ports_and_loses_them_at_the_end() {
    let router = Router::start(Behaviour::default()).await;
    let mapper = Mapper::spawn(config(&router, &[7000, 7001]));
    assert_eq!(outcome(&mapper).await, mapped(&[(7000, 7000), (7001, 7001)]));
    let calls = router.seen().calls;
    assert_eq!(
        calls,
        [
            "GetExternalIPAddress",
            "GetGenericPortMappingEntry",
            "AddPortMapping 7000 3600",
            "AddPortMapping 7001 3600",
            "GetGenericPortMappingEntry",
            "GetGenericPortMappingEntry",
            "GetGenericPortMappingEntry",
        ]
    );
    let held = &router.seen().held[&7000];
    assert_eq!((held.client.as_str(), held.port, held.description.as_str()), ("127.0.0.1", 7000, "p2p"));
    let mut status = mapper.status();
    mapper.close().await;
    assert_eq!(*status.borrow_and_update(), Status::Closed);
    assert!(router.seen().held.is_empty());
    assert_eq!(router.seen().count("DeletePortMapping"), 2);
}

#[tokio::test]
async fn ports_of_another_machine_are_left_alone() {
    let router = Router::start(Behaviour::default()).await;
    router.hold(7000, "192.168.1.66", 7000, "p2p");
    let mapper = Mapper::spawn(config(&router, &[7000, 7001]));
    assert_eq!(outcome(&mapper).await, mapped(&[(7000, 7002), (7001, 7001)]));
    mapper.close().await;
    assert_eq!(router.seen().held.keys().collect::<Vec<_>>(), [&7000]);
}

#[tokio::test]
async fn a_conflict_that_the_list_does_not_show_costs_at_most_five_requests() {
    for offers_any in [true, false] {
        let (router, _mapper, status) =
            ask(Behaviour { add: Page::Fault(718), offers_any, ..Behaviour::default() }).await;
        let asked = router.seen();
        if offers_any {
            assert!(matches!(status, Status::Mapped { .. }), "{status:?}");
            assert_eq!((asked.count("AddPortMapping"), asked.count("AddAnyPortMapping")), (4, 1));
        } else {
            assert!(detail(status).contains("taken"));
            assert_eq!((asked.count("AddPortMapping"), asked.count("AddAnyPortMapping")), (5, 0));
        }
    }
}

#[tokio::test]
async fn a_conflict_with_ourselves_counts_as_mapped() {
    let router = Router::start(Behaviour { strict: true, ..Behaviour::default() }).await;
    router.hold(7000, "127.0.0.1", 7000, "p2p");
    let mapper = Mapper::spawn(config(&router, &[7000]));
    assert_eq!(outcome(&mapper).await, mapped(&[(7000, 7000)]));
    assert_eq!(router.seen().count("AddPortMapping"), 1);
    mapper.close().await;
    assert!(router.seen().held.is_empty(), "left behind by an earlier run of ours");
}

#[tokio::test]
async fn a_forward_made_by_hand_is_used_and_left() {
    let router = Router::start(Behaviour::default()).await;
    router.hold(443, "127.0.0.1", 7000, "my node");
    let before = router.seen().held;
    let mapper = Mapper::spawn(config(&router, &[7000]));
    assert_eq!(outcome(&mapper).await, mapped(&[(7000, 443)]));
    mapper.close().await;
    assert_eq!(router.seen().held, before);
    assert_eq!(router.seen().count("AddPortMapping") + router.seen().count("DeletePortMapping"), 0);
}

#[tokio::test]
async fn only_permanent_mappings_are_made_permanent_and_removed() {
    let (router, mapper, status) = ask(Behaviour { only_permanent: true, ..Behaviour::default() }).await;
    assert_eq!(status, mapped(&[(7000, 7000)]));
    assert_eq!(router.seen().held[&7000].lease, 0);
    assert_eq!(router.seen().count("AddPortMapping"), 2);
    mapper.close().await;
    assert!(router.seen().held.is_empty());
}

#[tokio::test]
async fn a_forbidden_port_leads_to_the_routers_choice() {
    let (router, _mapper, status) = ask(Behaviour { add: Page::Fault(606), ..Behaviour::default() }).await;
    assert!(matches!(status, Status::Mapped { .. }), "{status:?}");
    assert_eq!((router.seen().count("AddPortMapping"), router.seen().count("AddAnyPortMapping")), (1, 1));
}

#[tokio::test]
async fn refusals_name_their_code() {
    for code in [402, 501, 606] {
        let (router, mapper, status) =
            ask(Behaviour { add: Page::Fault(code), offers_any: false, ..Behaviour::default() }).await;
        let detail = detail(status);
        assert!(detail.contains(&code.to_string()), "{detail}");
        assert!(router.seen().count("AddPortMapping") <= 2);
        mapper.close().await;
        assert_eq!(router.seen().count("DeletePortMapping"), 0);
    }
}

#[tokio::test]
async fn an_address_that_the_internet_cannot_reach_is_reported() {
    for text in ["192.168.77.1", "100.64.3.4", "0.0.0.0", "2001:db8::1", "2a00::1"] {
        let (router, mapper, status) =
            ask(Behaviour { external_ip: text.to_owned(), ..Behaviour::default() }).await;
        let reported: IpAddr = text.parse().unwrap();
        assert_eq!(status, Status::DoubleNat { reported });
        assert_eq!(router.seen().held.len(), 1);
        mapper.close().await;
        assert!(router.seen().held.is_empty());
    }
}

#[tokio::test]
async fn without_an_outside_address_nothing_is_mapped() {
    for text in ["not-an-ip\u{202e}", "", "11.0.113.1.5"] {
        let (router, _mapper, status) =
            ask(Behaviour { external_ip: text.to_owned(), ..Behaviour::default() }).await;
        assert!(detail(status).contains("outside address"));
        assert_eq!(router.seen().count("Add"), 0);
    }
}

#[tokio::test]
async fn agreeing_without_mapping_is_noticed() {
    let (router, mapper, status) = ask(Behaviour { forgetful: true, ..Behaviour::default() }).await;
    assert!(detail(status).contains("lists no such mapping"));
    mapper.close().await;
    assert_eq!(router.seen().count("DeletePortMapping"), 0);
}

#[tokio::test]
async fn answers_that_are_none_fail_at_once() {
    for soap in [
        Page::Raw(http("500 Internal Server Error", "")),
        Page::Raw(ok("<garbage\u{1b}[2J")),
        Page::Raw(ok(&"\u{1b}".repeat(100_000))),
        Page::Raw(b"\x00\x01\x02".to_vec()),
        Page::Raw(Vec::new()),
        Page::Endless,
    ] {
        let (router, mapper, status) = ask(Behaviour { soap, ..Behaviour::default() }).await;
        detail(status);
        mapper.close().await;
        assert_eq!(router.seen().count("Add"), 0);
    }
}

#[tokio::test]
async fn calls_that_stall_or_drip_end_in_time() {
    for soap in [Page::Stall, Page::Drip] {
        let router = Router::start(Behaviour { soap, ..Behaviour::default() }).await;
        let short = Config { call_timeout: Duration::from_millis(200), ..config(&router, &[7000]) };
        let mapper = Mapper::spawn(short);
        assert!(detail(outcome(&mapper).await).contains("200 ms"));
        assert_eq!(router.seen().calls, ["GetExternalIPAddress"]);
        mapper.close().await;
    }
}

#[tokio::test]
async fn a_mapping_whose_answer_was_lost_is_not_taken_for_made() {
    let router = Router::start(Behaviour { add: Page::Stall, ..Behaviour::default() }).await;
    router.hold(7001, "192.168.1.66", 7000, "p2p");
    let short = Config { call_timeout: Duration::from_millis(500), ..config(&router, &[7000]) };
    let mapper = Mapper::spawn(short);
    assert!(detail(outcome(&mapper).await).contains("500 ms"));
    // The router did what it did not confirm.
    router.hold(7000, "127.0.0.1", 7000, "p2p");
    mapper.close().await;
    assert_eq!(router.seen().held.keys().collect::<Vec<_>>(), [&7001]);
}
