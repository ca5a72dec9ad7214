//! File connections: served to whoever proved an id, opened to providers.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};

use p2p_files::ServeLimits;
use p2p_wire::{NodeId, PeerAddr};
use tokio::sync::oneshot;

use crate::command::Command;
use crate::dial;
use crate::error::ConnectError;
use crate::shared::Shared;
use crate::tls::{Protocol, Secured, Stream};

/// File connections at once, idle ones included; one more is closed at once.
pub(crate) const MAX_FILE_CONNECTIONS: usize = 128;

/// Serves one connection to its end.
pub(crate) async fn serve(shared: &Arc<Shared>, secured: Secured, addr: SocketAddr) {
    let peer = secured.peer;
    let Ok(_permit) = Arc::clone(&shared.file_connections).try_acquire_owned() else {
        tracing::debug!(peer = %peer.short(), %addr, "too many file connections");
        return;
    };
    if matches!(known_addrs(shared, peer).await, Err(ConnectError::Banned(_))) {
        return;
    }
    let Some(_connection) = PeerConnection::count(shared, peer) else {
        tracing::debug!(peer = %peer.short(), %addr, "too many file connections of this peer");
        return;
    };
    let limits = ServeLimits {
        uploads: shared.config.limits.uploads as u64,
        throttle: shared.up.all().and(shared.up.of_peer(peer)),
        ..ServeLimits::default()
    };
    let serving =
        p2p_files::serve(secured.stream, Arc::clone(&shared.library), limits, Arc::clone(&shared.served));
    tokio::select! {
        () = shared.stop.cancelled() => {}
        result = serving => {
            if let Err(error) = result {
                tracing::debug!(peer = %peer.short(), %addr, %error, "file connection ended");
            }
        }
    }
}

/// One of the connections that a peer may have; counted until it is dropped.
struct PeerConnection<'a> {
    shared: &'a Shared,
    peer: NodeId,
}

impl<'a> PeerConnection<'a> {
    fn count(shared: &'a Shared, peer: NodeId) -> Option<Self> {
        let mut counts = shared.peer_connections.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(peer).or_default();
        if *count >= shared.config.limits.peer_connections.max(1) {
            return None;
        }
        *count += 1;
        Some(Self { shared, peer })
    }
}

impl Drop for PeerConnection<'_> {
    fn drop(&mut self) {
        let mut counts = self.shared.peer_connections.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.peer);
            }
        }
    }
}

/// Opens a connection to a provider: its file ports first, then its node ports (either port serves
/// either protocol). [`ConnectError::NoAddress`] if nobody knows where it is, and nothing was dialled.
pub(crate) async fn open(
    shared: &Arc<Shared>,
    provider: NodeId,
    told: &[PeerAddr],
) -> Result<Stream, ConnectError> {
    let files = told.iter().filter(|a| a.file_port != 0).map(|a| SocketAddr::new(a.ip, a.file_port));
    let mut addrs: Vec<SocketAddr> = files.collect();
    addrs.extend(told.iter().map(|a| SocketAddr::new(a.ip, a.port)));
    match known_addrs(shared, provider).await {
        Ok(known) => addrs.extend(known),
        Err(ConnectError::NoAddress(_)) if !addrs.is_empty() => {}
        Err(error) => return Err(error),
    }
    let mut seen = std::collections::BTreeSet::new();
    addrs.retain(|addr| seen.insert(*addr));
    let opened = dial::open(shared, addrs, Some(provider), Protocol::Files).await;
    opened.map(|(secured, _)| secured.stream).map_err(|failed| failed.error)
}

async fn known_addrs(shared: &Shared, peer: NodeId) -> Result<Vec<SocketAddr>, ConnectError> {
    let (reply, answer) = oneshot::channel();
    let asked = shared.commands.send(Command::AddrsOf { peer, reply }).await;
    asked.map_err(|_| ConnectError::Stopped)?;
    answer.await.map_err(|_| ConnectError::Stopped)?
}
