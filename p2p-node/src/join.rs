//! Getting into the network: what the user asked to connect to, and what the surroundings say.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use p2p_peers::Target as TableTarget;
use p2p_upnp::{Mapper, Status};
use p2p_wire::NodeId;
use tokio::net::lookup_host;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use crate::command::Command;
use crate::dial::{self, stopped};
use crate::error::ConnectError;
use crate::info::Connected;
use crate::own;
use crate::shared::Shared;
use crate::target::Target;

/// A name must be resolved within this.
const RESOLVE: Duration = Duration::from_secs(5);
/// A host name given at the start that does not resolve is tried again after this, doubling.
const RESOLVE_AGAIN: Duration = Duration::from_secs(2);
const RESOLVE_AGAIN_MAX: Duration = Duration::from_secs(300);
/// This machine's addresses are looked at this often.
const LOOK_AROUND: Duration = Duration::from_secs(15);

/// Starts what goes on beside the driver: joining, watching the interfaces, the router.
pub(crate) fn begin(shared: &Arc<Shared>) -> Option<Mapper> {
    for target in shared.config.connect.clone() {
        spawn(shared, join_through(Arc::clone(shared), target));
    }
    spawn(shared, watch_interfaces(Arc::clone(shared)));
    let reachable = !shared.listen.iter().all(|a| a.ip().is_loopback());
    (shared.config.upnp && reachable).then(|| {
        let ports = shared.listen.iter().chain(&shared.file_listen).map(SocketAddr::port).collect();
        let mapper = Mapper::spawn(p2p_upnp::Config { ports, ..p2p_upnp::Config::default() });
        spawn(shared, watch_router(Arc::clone(shared), mapper.status()));
        mapper
    })
}

fn spawn(shared: &Arc<Shared>, task: impl Future<Output = ()> + Send + 'static) {
    let stop = shared.stop.clone();
    shared.tasks.spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = task => {}
        }
    });
}

/// Makes sure that a target of the start is dialled until it is there.
async fn join_through(shared: Arc<Shared>, target: Target) {
    match target {
        Target::Addr(addr) => tell(&shared, Command::Seed(addr)).await,
        Target::Ticket(ticket) => {
            tell(&shared, Command::Want { peer: ticket.id, addrs: ticket.addrs.clone() }).await;
        }
        Target::Peer(peer) => tell(&shared, Command::Want { peer, addrs: Vec::new() }).await,
        Target::Host(host, port) => {
            let mut pause = RESOLVE_AGAIN;
            loop {
                match resolve(&host, port).await {
                    Ok(addrs) => {
                        for addr in addrs {
                            tell(&shared, Command::Seed(addr)).await;
                        }
                        return;
                    }
                    Err(error) => tracing::warn!(%error, "host name not resolved"),
                }
                sleep(pause).await;
                pause = (pause * 2).min(RESOLVE_AGAIN_MAX);
            }
        }
    }
}

async fn watch_interfaces(shared: Arc<Shared>) {
    loop {
        sleep(LOOK_AROUND).await;
        if let Ok(ips) = tokio::task::spawn_blocking(own::interfaces).await {
            tell(&shared, Command::Interfaces(ips)).await;
        }
    }
}

async fn watch_router(shared: Arc<Shared>, mut status: tokio::sync::watch::Receiver<Status>) {
    while status.changed().await.is_ok() {
        let now = status.borrow_and_update().clone();
        let (mapped, text) = match now {
            Status::Mapped { mappings } => {
                let text = mappings.iter().map(|m| m.external.to_string()).collect::<Vec<_>>().join(", ");
                (mappings.iter().map(|m| (m.local_port, m.external)).collect(), format!("mapped {text}"))
            }
            Status::Searching => continue,
            Status::NoRouter => (Vec::new(), "no router that maps ports".to_owned()),
            Status::DoubleNat { reported } => (
                Vec::new(),
                format!("mapped, but {reported} is not reachable from the internet (double NAT)"),
            ),
            Status::Failed { detail } => (Vec::new(), format!("no port mapped: {detail}")),
            _ => return,
        };
        tell(&shared, Command::Mapped(mapped, text)).await;
    }
}

/// Connects because the application asks for it.
pub(crate) async fn connect(shared: &Arc<Shared>, target: Target) -> Result<Connected, ConnectError> {
    tell(shared, Command::Join).await;
    let (expected, addrs, learned) = match target {
        Target::Addr(addr) => (None, vec![addr], Vec::new()),
        Target::Host(host, port) => (None, resolve(&host, port).await?, Vec::new()),
        Target::Ticket(ticket) => {
            if ticket.id == shared.id {
                return Err(ConnectError::Itself);
            }
            let addrs = ticket.addrs.iter().map(|a| SocketAddr::new(a.ip, a.port)).collect();
            (Some(ticket.id), addrs, ticket.addrs)
        }
        Target::Peer(peer) if peer == shared.id => return Err(ConnectError::Itself),
        Target::Peer(peer) => (Some(peer), known(shared, peer).await?, Vec::new()),
    };
    let table_target = match (expected, addrs.first()) {
        (Some(peer), _) => TableTarget::Peer(peer),
        (None, Some(addr)) => TableTarget::Seed(*addr),
        (None, None) => return Err(ConnectError::Unreachable { detail: "no address to try".into() }),
    };
    if let Some(peer) = expected
        && let Some(connected) = linked(shared, peer).await
    {
        tell(shared, Command::Want { peer, addrs: learned }).await;
        return Ok(connected);
    }
    let made = dial::establish(shared, addrs, expected, table_target, true).await;
    let connected = made.map_err(|failed| failed.error)?;
    let (peer, addrs) = (connected.id, learned);
    // A link that was made for it is wanted since it was admitted. Said once more now, it would undo a ban by the other
    // side that came meanwhile.
    let command =
        if connected.already { Command::Want { peer, addrs } } else { Command::Learn { peer, addrs } };
    tell(shared, command).await;
    Ok(connected)
}

/// The link that stands already.
async fn linked(shared: &Shared, peer: NodeId) -> Option<Connected> {
    let (reply, mut answer) = oneshot::channel();
    shared.commands.send(Command::LinkOf { peer, reply }).await.ok()?;
    (&mut answer).await.ok().flatten()
}

async fn known(shared: &Shared, peer: NodeId) -> Result<Vec<SocketAddr>, ConnectError> {
    let (reply, answer) = oneshot::channel();
    shared.commands.send(Command::AddrsOf { peer, reply }).await.map_err(|_| ConnectError::Stopped)?;
    answer.await.map_err(|_| stopped().error)?
}

async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, ConnectError> {
    let unknown = |detail: String| ConnectError::UnknownHost { host: host.to_owned(), detail };
    match timeout(RESOLVE, lookup_host((host, port))).await {
        Ok(Ok(addrs)) => {
            let addrs: Vec<_> = addrs.collect();
            if addrs.is_empty() { Err(unknown("it has no address".into())) } else { Ok(addrs) }
        }
        Ok(Err(e)) => Err(unknown(e.to_string())),
        Err(_) => Err(unknown(format!("no answer from the resolver within {} s", RESOLVE.as_secs()))),
    }
}

async fn tell(shared: &Shared, command: Command) {
    shared.commands.send(command).await.ok();
}
