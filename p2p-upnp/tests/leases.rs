//! The state machine alone, against a router in memory and a clock that the tests turn.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use p2p_upnp::{
    Answer, Config, Entry, GatewayError, Granted, Input, Leases, Listing, MAX_REQUESTS, Mapping, Output,
    Request, SearchError, Site, Status, Wanted,
};
use proptest::prelude::*;

const US: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 1, 10));
const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 1, 11));
const OUTSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(11, 0, 113, 1));
const MINUTE: Duration = Duration::from_secs(60);

/// A router that does as it is told, or not at all.
struct Home {
    present: bool,
    answers: bool,
    lists: bool,
    gateway: SocketAddr,
    local: IpAddr,
    held: BTreeMap<u16, Entry>,
    /// Longest lease it grants.
    grants: Duration,
}

impl Home {
    fn new() -> Self {
        let gateway = (Ipv4Addr::new(192, 168, 1, 1), 5000).into();
        let grants = Duration::from_secs(604_800);
        Self { present: true, answers: true, lists: true, gateway, local: US, held: BTreeMap::new(), grants }
    }

    fn give(&mut self, external_port: u16, client: IpAddr, local_port: u16) {
        let entry = Entry {
            external_port,
            client: Some(client),
            local_port,
            enabled: true,
            description: "p2p".to_owned(),
            lease: Some(Duration::from_secs(3600)),
        };
        self.held.insert(external_port, entry);
    }

    fn serve(&mut self, request: Request) -> Answer {
        let lost = || GatewayError::TimedOut { after: Duration::from_secs(3) };
        match request {
            Request::Search if self.present => {
                Answer::Search(Ok(Site { gateway: self.gateway, local: self.local }))
            }
            Request::Search => Answer::Search(Err(SearchError::NotFound { detail: "silence".to_owned() })),
            Request::ExternalIp => Answer::ExternalIp(self.answers.then_some(OUTSIDE).ok_or_else(lost)),
            Request::List => Answer::List(Ok(Listing {
                entries: self.held.values().filter(|_| self.lists).cloned().collect(),
                complete: self.lists,
            })),
            Request::Map(wanted) => Answer::Map(self.map(wanted)),
            Request::Unmap { external_port, .. } => {
                self.held.remove(&external_port);
                Answer::Unmap(Ok(()))
            }
        }
    }

    fn map(&mut self, wanted: Wanted) -> Result<Granted, GatewayError> {
        let external_port = wanted.external_port.unwrap_or(50_000 + wanted.local_port % 1000);
        if self.held.get(&external_port).is_some_and(|entry| entry.client != Some(self.local)) {
            return Err(GatewayError::PortInUse);
        }
        let lease = wanted.lease.map(|lease| lease.min(self.grants));
        self.give(external_port, self.local, wanted.local_port);
        self.held.get_mut(&external_port).unwrap().lease = lease;
        Ok(Granted { external_port, lease: wanted.lease })
    }
}

struct Sim {
    leases: Leases,
    home: Home,
    now: Instant,
    requests: Vec<Request>,
    status: Status,
    /// How often the status was told, repetitions included.
    told: usize,
    finished: bool,
    /// Answer nothing.
    mute: bool,
}

impl Sim {
    fn start(home: Home, ports: &[u16]) -> Self {
        Self::with(home, Config { ports: ports.to_vec(), ..Config::default() })
    }

    fn with(home: Home, config: Config) -> Self {
        let now = tokio::time::Instant::now().into_std();
        let leases = Leases::new(now, config);
        let status = Status::Searching;
        let mut sim =
            Self { leases, home, now, requests: vec![], status, told: 0, finished: false, mute: false };
        sim.drain();
        sim
    }

    fn drain(&mut self) {
        while let Some(output) = self.leases.poll_output() {
            match output {
                Output::Ask(ticket, request) => {
                    self.requests.push(request);
                    if !self.mute {
                        let answer = self.home.serve(request);
                        self.leases.handle(self.now, Input::Answered(ticket, answer));
                    }
                }
                Output::Status(status) => {
                    self.status = status;
                    self.told += 1;
                }
                Output::Finished => self.finished = true,
            }
        }
    }

    fn input(&mut self, input: Input) {
        self.leases.handle(self.now, input);
        self.drain();
    }

    /// Turns the clock to the next deadline and says how far that was.
    fn next(&mut self) -> Duration {
        let deadline = self.leases.poll_timeout().expect("something to wait for");
        let wait = deadline - self.now;
        self.now = deadline;
        self.requests.clear();
        self.input(Input::Timeout);
        wait
    }

    fn maps(&self) -> usize {
        self.requests.iter().filter(|request| matches!(request, Request::Map(_))).count()
    }

    fn removed(&self) -> Vec<u16> {
        let ports = self.requests.iter().filter_map(|request| match request {
            Request::Unmap { external_port, .. } => Some(*external_port),
            _ => None,
        });
        ports.collect()
    }
}

fn mapped(ports: &[(u16, u16)]) -> Status {
    let mapping = |&(local_port, port)| Mapping { local_port, external: (OUTSIDE, port).into() };
    Status::Mapped { mappings: ports.iter().map(mapping).collect() }
}

#[test]
fn renews_at_half_the_lease_for_as_long_as_it_lasts() {
    let mut sim = Sim::start(Home::new(), &[7000, 7001]);
    for _ in 0..5 {
        assert_eq!(sim.status, mapped(&[(7000, 7000), (7001, 7001)]));
        assert_eq!(sim.next(), 30 * MINUTE);
        assert_eq!(sim.maps(), 2);
        assert!(!sim.requests.contains(&Request::Search));
    }
}

#[test]
fn a_shorter_lease_in_the_list_is_renewed_sooner() {
    let mut sim = Sim::start(Home { grants: 10 * MINUTE, ..Home::new() }, &[7000]);
    assert_eq!(sim.next(), 5 * MINUTE);
}

#[test]
fn without_a_router_waits_longer_each_time_and_then_for_a_network_change() {
    let mut sim = Sim::start(Home { present: false, ..Home::new() }, &[7000]);
    assert_eq!((sim.requests.len(), &sim.status), (3, &Status::NoRouter));
    let waits: Vec<u64> = (0..9).map(|_| sim.next().as_secs()).collect();
    assert_eq!(waits, [30, 60, 120, 240, 480, 960, 1920, 3600, 3600]);
    while sim.leases.poll_timeout().is_some() {
        sim.next();
    }
    assert_eq!(sim.told, 24);
    sim.home.present = true;
    sim.input(Input::NetworkChanged);
    assert_eq!(sim.status, mapped(&[(7000, 7000)]));
}

#[test]
fn a_mapping_counts_until_its_lease_is_over_although_renewal_fails() {
    let mut sim = Sim::start(Home::new(), &[7000]);
    let end = sim.now + 60 * MINUTE;
    sim.home.answers = false;
    loop {
        sim.next();
        if sim.now >= end {
            break;
        }
        assert_eq!(sim.status, mapped(&[(7000, 7000)]));
    }
    assert_eq!(sim.now, end);
    assert!(
        matches!(&sim.status, Status::Failed { detail } if detail.contains("3000 ms")),
        "{:?}",
        sim.status
    );
    sim.home.answers = true;
    sim.next();
    assert_eq!(sim.status, mapped(&[(7000, 7000)]));
}

#[test]
fn a_restarted_router_is_mapped_again_even_at_another_port_of_its_own() {
    let mut sim = Sim::start(Home::new(), &[7000]);
    sim.home.held.clear();
    sim.home.gateway.set_port(5001);
    sim.next();
    assert_eq!((sim.home.held.len(), sim.maps()), (1, 1));
}

#[test]
fn a_port_that_another_machine_took_meanwhile_is_given_up() {
    let mut sim = Sim::start(Home::new(), &[7000]);
    sim.home.held.clear();
    sim.home.give(7000, OTHER, 7000);
    sim.next();
    assert_eq!(sim.status, mapped(&[(7000, 7001)]));
    sim.requests.clear();
    sim.input(Input::Close);
    assert_eq!(sim.removed(), [7001]);
}

#[test]
fn the_end_leaves_a_port_that_another_machine_took_meanwhile() {
    let mut sim = Sim::start(Home::new(), &[7000, 7001]);
    sim.home.give(7000, OTHER, 7000);
    sim.requests.clear();
    sim.input(Input::Close);
    assert_eq!((sim.removed(), sim.finished, &sim.status), (vec![7001], true, &Status::Closed));
}

#[test]
fn an_unreadable_list_is_no_reason_to_leave_mappings_behind() {
    let mut sim = Sim::start(Home { lists: false, ..Home::new() }, &[7000]);
    assert_eq!(sim.status, mapped(&[(7000, 7000)]));
    sim.input(Input::Close);
    assert!(sim.home.held.is_empty());
}

#[test]
fn a_new_address_moves_the_mapping() {
    let mut sim = Sim::start(Home::new(), &[7000]);
    sim.home.local = IpAddr::V4(Ipv4Addr::new(192, 168, 1, 12));
    sim.requests.clear();
    sim.input(Input::NetworkChanged);
    assert_eq!(sim.removed(), [7000]);
    assert_eq!(sim.status, mapped(&[(7000, 7000)]));
    assert_eq!(sim.home.held[&7000].client, Some(sim.home.local));
}

#[test]
fn nothing_is_removed_from_another_router() {
    let mut sim = Sim::start(Home::new(), &[7000]);
    sim.home = Home { gateway: (Ipv4Addr::new(10, 0, 0, 1), 80).into(), ..Home::new() };
    sim.requests.clear();
    sim.input(Input::NetworkChanged);
    assert_eq!(sim.removed(), [] as [u16; 0]);
    assert_eq!(sim.status, mapped(&[(7000, 7000)]));
}

#[test]
fn a_round_ends_in_time_and_its_late_answer_is_ignored() {
    let mut sim = Sim::start(Home::new(), &[7000]);
    sim.mute = true;
    sim.next();
    let late = sim.leases.open_request().unwrap();
    assert_eq!(sim.next(), Duration::from_secs(30));
    assert_eq!(sim.leases.open_request(), None);
    let told = sim.told;
    sim.input(Input::Answered(late, Answer::ExternalIp(Ok(OUTSIDE))));
    assert_eq!(sim.told, told);
}

#[test]
fn closing_ends_in_time_although_nothing_answers() {
    let mut sim = Sim::start(Home::new(), &[7000, 7001, 7002]);
    sim.mute = true;
    let start = sim.now;
    sim.requests.clear();
    sim.input(Input::Close);
    let mut asked = sim.requests.len();
    while !sim.finished {
        sim.next();
        asked += sim.requests.len();
    }
    assert_eq!(asked, 4, "the list, and each mapping once");
    assert!(sim.now - start <= Duration::from_secs(2));
}

#[test]
fn a_timeout_before_its_time_is_harmless() {
    let mut sim = Sim::start(Home::new(), &[7000]);
    sim.requests.clear();
    sim.input(Input::Timeout);
    assert!(sim.requests.is_empty());
}

#[test]
fn without_ports_nothing_is_asked() {
    let mut sim = Sim::start(Home::new(), &[0]);
    sim.input(Input::NetworkChanged);
    sim.input(Input::Close);
    assert!(sim.requests.is_empty() && sim.finished);
}

#[derive(Debug, Clone)]
enum Step {
    /// Any answer at all, of the kind that is waited for.
    Answer(u8, u16),
    Timeout,
    Later(u16),
    NetworkChanged,
    Close,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (any::<u8>(), any::<u16>()).prop_map(|(kind, port)| Step::Answer(kind, port)),
        2 => Just(Step::Timeout),
        1 => any::<u16>().prop_map(Step::Later),
        1 => Just(Step::NetworkChanged),
        1 => Just(Step::Close),
    ]
}

/// A router that says what comes to its mind.
fn whim(request: Request, kind: u8, port: u16) -> Answer {
    let lost = || GatewayError::TimedOut { after: MINUTE };
    let local = IpAddr::V4(Ipv4Addr::new(192, 168, 1, kind % 3));
    match request {
        Request::Search if kind.is_multiple_of(5) => {
            Answer::Search(Err(SearchError::NotFound { detail: String::new() }))
        }
        Request::Search => {
            Answer::Search(Ok(Site { gateway: (Ipv4Addr::new(192, 168, 1, kind % 2), 80).into(), local }))
        }
        Request::ExternalIp if kind.is_multiple_of(5) => Answer::ExternalIp(Err(lost())),
        Request::ExternalIp => Answer::ExternalIp(Ok(Ipv4Addr::from_bits(u32::from(port) << 16).into())),
        Request::List => {
            let mut home = Home::new();
            (0..port % 8).for_each(|i| home.give(7000 + i, local, 7000 + i / 2));
            let entries = home.held.into_values().collect();
            Answer::List(Ok(Listing { entries, complete: kind.is_multiple_of(2) }))
        }
        Request::Map(wanted) => Answer::Map(match kind % 8 {
            0 => Err(GatewayError::PortInUse),
            1 => Err(GatewayError::OnlyPermanent),
            2 => Err(GatewayError::OnlySamePort),
            3 => Err(GatewayError::Refused { code: 600 + u16::from(kind % 8), detail: "x".repeat(200) }),
            4 => Err(GatewayError::Refused { code: 606, detail: String::new() }),
            5 => Err(lost()),
            _ => Ok(Granted {
                external_port: wanted.external_port.unwrap_or(port),
                lease: wanted.lease.map(|_| Duration::from_secs(port.into())),
            }),
        }),
        Request::Unmap { .. } => Answer::Unmap(Ok(())),
    }
}

proptest! {
    /// Whatever the router says and whenever: no panic, always something to wait for, few requests in a round, and only
    /// ports that were asked for or listed as ours are ever removed.
    #[test]
    fn no_router_confuses_it(steps in proptest::collection::vec(step(), 1..120)) {
        let mut now = tokio::time::Instant::now().into_std();
        let config = Config { ports: vec![7000, 7001, 65535], give_up_after: u32::MAX, ..Config::default() };
        let mut leases = Leases::new(now, config);
        let (mut open, mut maps, mut finished) = (None, 0, false);
        let (mut locals, mut ours) = (BTreeSet::new(), BTreeSet::new());
        for step in steps {
            while let Some(output) = leases.poll_output() {
                prop_assert!(!finished, "{:?} after the end", output);
                match output {
                    Output::Ask(ticket, request) => {
                        if matches!(request, Request::ExternalIp) {
                            maps = 0;
                        }
                        maps += u32::from(matches!(request, Request::Map(_)));
                        prop_assert!(maps <= 3 * MAX_REQUESTS);
                        match request {
                            Request::Map(wanted) => ours.extend(wanted.external_port),
                            Request::Unmap { external_port, .. } => prop_assert!(ours.contains(&external_port)),
                            _ => {}
                        }
                        open = Some((ticket, request));
                    }
                    Output::Status(Status::Failed { detail }) => prop_assert!(detail.chars().count() <= 200),
                    Output::Status(_) => {}
                    Output::Finished => finished = true,
                }
            }
            prop_assert!(finished || leases.poll_timeout().is_some());
            match (step, open) {
                (Step::Answer(kind, port), Some((ticket, request))) => {
                    let answer = whim(request, kind, port);
                    match &answer {
                        Answer::Search(Ok(site)) => {
 locals.insert(site.local);
},
                        Answer::Map(Ok(granted)) => {
 ours.insert(granted.external_port);
},
                        Answer::List(Ok(listing)) => ours.extend(
                            listing.entries.iter().filter(|entry| entry.client.is_some_and(|ip| locals.contains(&ip)))
                                .map(|entry| entry.external_port),
                        ),
                        _ => {}
                    }
                    leases.handle(now, Input::Answered(ticket, answer));
                }
                (Step::Timeout, _) => {
                    now = leases.poll_timeout().unwrap_or(now).max(now);
                    leases.handle(now, Input::Timeout);
                }
                (Step::Later(seconds), _) => {
                    now += Duration::from_secs(seconds.into());
                    leases.handle(now, Input::Timeout);
                }
                (Step::NetworkChanged, _) => leases.handle(now, Input::NetworkChanged),
                (Step::Close, _) => leases.handle(now, Input::Close),
                (Step::Answer(..), None) => {}
            }
        }
    }
}
