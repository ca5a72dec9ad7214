//! When to map, renew, try again and give up.

mod closing;
mod round;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Instant;

use crate::config::{Config, MAX_PORTS};
use crate::gateway::{GatewayError, Granted, Listing, SearchError, Site, Wanted};
use crate::plan::Want;
use crate::port::Port;
use crate::status::Status;
use crate::text::clip;

/// Names one request, so that an answer that comes after it was given up is known as such.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket(u64);

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// The time of [`Leases::poll_timeout`] has come; early or twice is harmless.
    Timeout,
    /// Addresses or routes of this machine changed.
    NetworkChanged,
    /// Remove what we made and finish.
    Close,
    /// A request ended; ignored if it is not the open one.
    Answered(Ticket, Answer),
}

/// How a request ended; the variant is that of the [`Request`]. (Another one is a mistake of the caller: a panic in debug
/// builds, else the round runs into its deadline.)
#[derive(Debug)]
pub enum Answer {
    /// See [`Gateway::search`](crate::Gateway::search).
    Search(Result<Site, SearchError>),
    /// See [`Gateway::external_ip`](crate::Gateway::external_ip).
    ExternalIp(Result<IpAddr, GatewayError>),
    /// See [`Gateway::list`](crate::Gateway::list).
    List(Result<Listing, GatewayError>),
    /// See [`Gateway::map`](crate::Gateway::map).
    Map(Result<Granted, GatewayError>),
    /// See [`Gateway::unmap`](crate::Gateway::unmap).
    Unmap(Result<(), GatewayError>),
}

/// A call to the [`Gateway`](crate::Gateway).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Look for a router.
    Search,
    /// Ask for its outside address.
    ExternalIp,
    /// Read its list.
    List,
    /// Make or renew a mapping.
    Map(Wanted),
    /// Remove a mapping.
    Unmap {
        /// Our port.
        local_port: u16,
        /// The port outside.
        external_port: u16,
    },
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    /// Make this call and hand its answer in. A call that is still open is dropped first: its answer is not waited for.
    Ask(Ticket, Request),
    /// How things stand now; may repeat the last one.
    Status(Status),
    /// Nothing more will come.
    Finished,
}

/// What the open request is for.
#[derive(Debug)]
enum Phase {
    /// Waiting for the next round.
    Idle,
    Search {
        tries: u32,
    },
    /// Removing mappings that lead to an address we no longer have.
    Forget,
    External,
    Look,
    Map(Attempt),
    Check,
    /// Reading the list before removing.
    CloseLook,
    CloseUnmap,
    Closed,
}

/// One port being mapped.
#[derive(Debug)]
struct Attempt {
    index: usize,
    /// Asked for now; none for any.
    current: Option<u16>,
    left: VecDeque<Option<u16>>,
    requests: u32,
}

/// Says when to map, renew, try again and give up. No clock, no sockets: time comes in, one request at a time goes out.
///
/// A *round* looks for a router if none is known, asks for the outside address, reads the list, maps or renews each port
/// and reads the list again. The first round starts at once, the next at half the lease, after a back-off if anything
/// failed, or at once when the network changes. A whole round has one deadline (`open_timeout`). A mapping whose renewal
/// fails counts until its lease is over.
///
/// After each call that takes `&mut self`, drain [`poll_output`](Self::poll_output) to `None`.
#[derive(Debug)]
pub struct Leases {
    config: Config,
    ports: Vec<Port>,
    phase: Phase,
    open: Option<(Ticket, Request)>,
    next_ticket: u64,
    /// End of the wait, of the round, or of one step of closing.
    deadline: Option<Instant>,
    /// End of closing.
    close_by: Option<Instant>,
    site: Option<Site>,
    /// Look for the router before the next round: it did not answer, or the network changed.
    lost: bool,
    external_ip: Option<IpAddr>,
    /// The router makes no other mappings than permanent ones.
    permanent: bool,
    listing: Listing,
    /// To remove, as (local, external): at most one per port, plus what is found in the list at the end.
    removals: VecDeque<(u16, u16)>,
    /// What went wrong in this round, first thing first.
    failure: Option<Status>,
    failures: u32,
    outputs: VecDeque<Output>,
}

impl Leases {
    /// Starts the first round. Ports that are 0, given twice or beyond [`MAX_PORTS`] are left out; without any port
    /// nothing is ever asked.
    pub fn new(now: Instant, config: Config) -> Self {
        let mut ports: Vec<Port> = Vec::new();
        for &local in config.ports.iter().filter(|&&port| port != 0) {
            if ports.len() < MAX_PORTS && ports.iter().all(|port| port.local != local) {
                ports.push(Port::new(local));
            }
        }
        let mut leases = Self {
            config,
            ports,
            phase: Phase::Idle,
            open: None,
            next_ticket: 0,
            deadline: None,
            close_by: None,
            site: None,
            lost: true,
            external_ip: None,
            permanent: false,
            listing: Listing::default(),
            removals: VecDeque::new(),
            failure: None,
            failures: 0,
            outputs: VecDeque::new(),
        };
        if leases.ports.is_empty() {
            leases.status(Status::Failed { detail: "no port to map".to_owned() });
        } else {
            leases.begin_round(now);
        }
        leases
    }

    /// Takes what happened.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Timeout => self.on_timeout(now),
            Input::NetworkChanged => self.on_network_changed(now),
            Input::Close => self.on_close(now),
            Input::Answered(ticket, answer) => self.on_answer(now, ticket, answer),
        }
    }

    /// The next thing to do, oldest first.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`handle`](Self::handle) with [`Input::Timeout`]; none while nothing will happen by itself.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadline
    }

    /// The request whose answer is waited for; any other call may be dropped.
    pub fn open_request(&self) -> Option<Ticket> {
        self.open.map(|(ticket, _)| ticket)
    }

    fn on_timeout(&mut self, now: Instant) {
        if self.deadline.is_none_or(|deadline| now < deadline) {
            return;
        }
        match self.phase {
            Phase::Idle => self.begin_round(now),
            Phase::CloseLook | Phase::CloseUnmap => self.close_step(now),
            Phase::Closed => {}
            _ => {
                self.abandon();
                self.lost = true;
                let limit = self.config.open_timeout.as_millis();
                self.fail(format_args!("mapping took longer than {limit} ms"));
                self.settle(now);
            }
        }
    }

    fn on_network_changed(&mut self, now: Instant) {
        if self.is_closing() || self.ports.is_empty() {
            return;
        }
        self.abandon();
        self.lost = true;
        self.failures = 0;
        self.status(Status::Searching);
        self.begin_round(now);
    }

    fn on_answer(&mut self, now: Instant, ticket: Ticket, answer: Answer) {
        if self.open_request() != Some(ticket) {
            return;
        }
        self.open = None;
        match (std::mem::replace(&mut self.phase, Phase::Idle), answer) {
            (Phase::Search { tries }, Answer::Search(result)) => self.on_search(now, tries, result),
            (Phase::Forget, Answer::Unmap(_)) => self.forget_next(),
            (Phase::External, Answer::ExternalIp(result)) => self.on_external_ip(now, result),
            (Phase::Look, Answer::List(result)) => {
                self.listing = result.unwrap_or_default();
                self.map_port(now, 0);
            }
            (Phase::Map(attempt), Answer::Map(result)) => self.on_map(now, attempt, result),
            (Phase::Check, Answer::List(result)) => self.on_check(now, &result.unwrap_or_default()),
            (Phase::CloseLook, Answer::List(result)) => {
                self.listing = result.unwrap_or_default();
                self.phase = Phase::CloseLook;
                self.close_step(now);
            }
            (Phase::CloseUnmap, Answer::Unmap(_)) => {
                self.phase = Phase::CloseUnmap;
                self.close_step(now);
            }
            (phase, answer) => {
                debug_assert!(false, "{answer:?} answers nothing in {phase:?}");
                self.phase = phase;
            }
        }
    }

    fn ask(&mut self, request: Request) {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.open = Some((ticket, request));
        self.outputs.push_back(Output::Ask(ticket, request));
    }

    /// Stops waiting for the open request. The router may have done what it asked for.
    fn abandon(&mut self) {
        if let (Some((_, Request::Map(_))), Phase::Map(attempt)) = (self.open.take(), &self.phase) {
            self.ports[attempt.index].uncertain = true;
        }
    }

    fn want<'a>(&'a self, index: usize, others: &'a [u16]) -> Option<Want<'a>> {
        let port = &self.ports[index];
        let (local, description) = (self.site?.local, self.config.description);
        Some(Want { local, local_port: port.local, held: port.made(), others, description })
    }

    fn fail(&mut self, detail: impl std::fmt::Display) {
        self.failure.get_or_insert_with(|| Status::Failed { detail: clip(detail) });
    }

    fn status(&mut self, status: Status) {
        self.outputs.push_back(Output::Status(status));
    }

    fn is_closing(&self) -> bool {
        matches!(self.phase, Phase::CloseLook | Phase::CloseUnmap | Phase::Closed)
    }
}
