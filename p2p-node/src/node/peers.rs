//! Peers: making and ending links, keeping somebody out, and the table of who is known.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use p2p_peers::{Loaded, PeerStore};
use p2p_wire::NodeId;

use super::Node;
use crate::command::Command;
use crate::error::{ConnectError, NoSuchPeer, StateError};
use crate::info::{Connected, LoadedState, PeerInfo};
use crate::join;
use crate::start;
use crate::target::Target;

impl Node {
    /// Makes a link to another node and keeps it: if it is lost the peer is dialled again.
    ///
    /// # Errors
    /// [`ConnectError`], within 20 s.
    ///
    /// # Cancel safety
    /// Dropping the future gives up the attempt, or leaves a link that stands.
    pub async fn connect(&self, target: impl Into<Target>) -> Result<Connected, ConnectError> {
        join::connect(self.shared(), target.into()).await
    }

    /// Ends the link to a peer; it is not dialled again until it is asked for.
    ///
    /// # Errors
    /// [`NoSuchPeer`] if there is neither a link nor the wish for one.
    pub async fn disconnect(&self, id: NodeId) -> Result<(), NoSuchPeer> {
        self.ask(|reply| Command::Disconnect { peer: id, reply })
            .await
            .filter(|ended| *ended)
            .map(drop)
            .ok_or(NoSuchPeer)
    }

    /// Keeps a peer out until [`Node::unban`], over restarts too.
    ///
    /// # Errors
    /// [`NoSuchPeer`] for this node itself.
    pub async fn ban(&self, id: NodeId) -> Result<(), NoSuchPeer> {
        if id == self.id() {
            return Err(NoSuchPeer);
        }
        self.ask(|reply| Command::Ban { peer: id, ban: true, reply })
            .await
            .filter(|done| *done)
            .map(drop)
            .ok_or(NoSuchPeer)
    }

    /// Lets a banned peer in again.
    ///
    /// # Errors
    /// [`NoSuchPeer`] if it was not banned.
    pub async fn unban(&self, id: NodeId) -> Result<(), NoSuchPeer> {
        self.ask(|reply| Command::Ban { peer: id, ban: false, reply })
            .await
            .filter(|done| *done)
            .map(drop)
            .ok_or(NoSuchPeer)
    }

    /// Leaves the network: every link is closed and none is taken or dialled until [`Node::connect`].
    pub async fn leave(&self) {
        self.ask(|reply| Command::Leave { reply }).await;
    }

    /// Every peer that is known, by id.
    pub async fn peers(&self) -> Vec<PeerInfo> {
        self.ask(|reply| Command::Peers { reply }).await.unwrap_or_default()
    }

    /// Writes the peer table, to `state.json` unless told otherwise. Returns where, and how many peers.
    /// (The node does so by itself when something changes, and at the end, if it has a data directory that is kept.)
    ///
    /// # Errors
    /// [`StateError`]; an older file still stands then.
    pub async fn save_state(&self, path: Option<&Path>) -> Result<(PathBuf, usize), StateError> {
        let snapshot = self.ask(|reply| Command::Snapshot { reply }).await.ok_or(StateError::Stopped)?;
        let path = path.map_or_else(|| self.state_path(), Path::to_owned);
        let save = move || {
            let peers = snapshot.peers.len();
            let saved = PeerStore::new(path.clone()).save(&snapshot);
            saved.map_err(|e| StateError::Save { path: path.clone(), detail: start::causes(&e) })?;
            Ok((path, peers))
        };
        tokio::task::spawn_blocking(save).await.unwrap_or(Err(StateError::Stopped))
    }

    /// Takes over the peers of a file: ours, or python-p2p's list of addresses. What of it makes no sense is left out and
    /// counted, and so are address records that their owners did not sign.
    ///
    /// # Errors
    /// [`StateError`]; the file is left alone.
    pub async fn load_state(&self, path: Option<&Path>) -> Result<LoadedState, StateError> {
        let path = path.map_or_else(|| self.state_path(), Path::to_owned);
        let load = {
            let (path, shared) = (path.clone(), Arc::clone(self.shared()));
            move || {
                start::read_snapshot(&path, &shared.records)
                    .map_err(|detail| StateError::Load { path, detail })
            }
        };
        let Loaded { snapshot, skipped, .. }: Loaded<NodeId> =
            tokio::task::spawn_blocking(load).await.unwrap_or(Err(StateError::Stopped))?;
        let seeds = snapshot.seeds.len();
        let restore = |reply| Command::Restore { snapshot: Box::new(snapshot), reply };
        let peers = self.ask(restore).await.ok_or(StateError::Stopped)?;
        self.tell(Command::Join).await;
        Ok(LoadedState { path, peers: peers + seeds, skipped })
    }
}
