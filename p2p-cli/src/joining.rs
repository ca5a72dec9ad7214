//! The links that a command needs before it can do its work: to those that `--connect` names, or to anybody. Where none
//! comes, why.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use p2p_node::{ConnectError, Node, PeerInfo, PeerState, Target};
use tokio::net::lookup_host;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::failure::{Exit, Failure};
use crate::session::Session;

/// How long somebody is looked for.
const LINK_TIMEOUT: Duration = Duration::from_secs(15);
/// One who turns a dial down may be starting, or have room in a moment: it is dialled again so often,
const AGAIN: Duration = Duration::from_millis(500);
/// and for so long.
const PATIENCE: Duration = Duration::from_secs(2);

/// Dials that go on.
pub(crate) struct Joining<'a> {
    session: &'a Session,
    named: Vec<Target>,
    dials: JoinSet<()>,
    /// Of each that is named, why there is no link to it.
    why: Causes,
    deadline: Instant,
}

type Causes = Arc<Mutex<Vec<String>>>;

impl<'a> Joining<'a> {
    /// Dials all that are `named`. The node does so too, but tells nobody what came of it.
    pub(crate) fn through(session: &'a Session, named: Vec<Target>) -> Self {
        let why = named.iter().map(|target| format!("{target}: no answer yet")).collect();
        let why = Arc::new(Mutex::new(why));
        let deadline = Instant::now() + LINK_TIMEOUT;
        let mut dials = JoinSet::new();
        for (at, target) in named.iter().enumerate() {
            dials.spawn(dial(session.node.clone(), target.clone(), deadline, Arc::clone(&why), at));
        }
        Self { session, named, dials, why, deadline }
    }

    /// Returns once there is a link, to whomever.
    pub(crate) async fn anybody(mut self) -> Result<(), Failure> {
        self.first_link().await
    }

    /// Returns once each that is named has a link or gives none; an error if then there is none at all.
    pub(crate) async fn all_named(mut self) -> Result<(), Failure> {
        // What the deadline means is for the first link to say.
        let _ = timeout_at(self.deadline, self.settled()).await;
        self.first_link().await
    }

    async fn first_link(&mut self) -> Result<(), Failure> {
        let (node, mut changes) = (&self.session.node, self.session.link_changes());
        let first = async { while links(node).await == 0 && changes.changed().await.is_ok() {} };
        let deadline = self.deadline;
        let linked = tokio::select! {
            () = first => Ok(()),
            () = self.given_up() => Err(false),
            () = sleep_until(deadline) => Err(true),
        };
        // The others that are named are dialled on: a command that goes on for longer has their links too.
        self.dials.detach_all();
        linked.map_err(|late| self.failure(late))
    }

    /// Returns once all that are named have failed for good, if there is nobody else to dial. Who names nobody waits for
    /// others to dial.
    async fn given_up(&mut self) {
        self.settled().await;
        let node = &self.session.node;
        let mut others = node.peers().await;
        others.retain(|peer| peer.state != PeerState::Banned && !self.names(peer));
        if !others.is_empty() {
            let named = self.addrs_of_hosts().await;
            others.retain(|peer| peer.addr.is_none_or(|addr| !named.contains(&addr)));
        }
        if self.named.is_empty() || links(node).await > 0 || !others.is_empty() {
            std::future::pending().await
        }
    }

    /// Where the hosts that are named were dialled; the resolver has been asked a moment ago.
    async fn addrs_of_hosts(&self) -> Vec<SocketAddr> {
        let mut addrs = Vec::new();
        for target in &self.named {
            if let Target::Host(host, port) = target {
                addrs.extend(lookup_host((host.as_str(), *port)).await.into_iter().flatten());
            }
        }
        addrs
    }

    async fn settled(&mut self) {
        while self.dials.join_next().await.is_some() {}
    }

    fn names(&self, peer: &PeerInfo) -> bool {
        self.named.iter().any(|target| match target {
            Target::Addr(addr) => peer.addr == Some(*addr),
            Target::Ticket(ticket) => ticket.id == peer.id,
            Target::Peer(id) => *id == peer.id,
            // Whoever is where it leads to; that is looked up only if it matters.
            Target::Host(..) => false,
        })
    }

    fn failure(&self, late: bool) -> Failure {
        let within = if late { format!(" within {} s", LINK_TIMEOUT.as_secs()) } else { String::new() };
        let why = lock(&self.why).join("; ");
        let why = if why.is_empty() { "; name one with --connect".to_owned() } else { format!(": {why}") };
        let exit = if late { Exit::Deadline } else { Exit::Failed };
        Failure::new(exit, "no_link", format!("no peer was reached{within}{why}"))
    }
}

/// Dials until there is a link or no hope for one.
async fn dial(node: Node, target: Target, deadline: Instant, why: Causes, at: usize) {
    let patience = Instant::now() + PATIENCE;
    loop {
        let Err(error) = node.connect(target.clone()).await else {
            lock(&why)[at] = format!("{target}: the link was lost");
            return;
        };
        lock(&why)[at] = error.to_string();
        let until = match error {
            // Somebody may be there, behind a slow line.
            ConnectError::TimedOut { .. } => deadline,
            ConnectError::Unreachable { .. } | ConnectError::Refused { .. } => patience,
            _ => return,
        };
        if Instant::now() + AGAIN > until {
            return;
        }
        sleep(AGAIN).await;
    }
}

async fn links(node: &Node) -> usize {
    node.status().await.links
}

fn lock(why: &Causes) -> MutexGuard<'_, Vec<String>> {
    why.lock().unwrap_or_else(PoisonError::into_inner)
}
