//! [`Node`]: the handle that applications hold.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use p2p_files::{FileHash, Kind, ManifestError, ManifestReader, Refreshed, Share};
use p2p_peers::{PeerStore, Snapshot};
use p2p_upnp::Mapper;
use p2p_wire::{NodeId, PeerAddr, PrivateBody, Receipt, Ticket, TicketFile, TicketKind};
use tokio::sync::oneshot;

use crate::builder::NodeBuilder;
use crate::command::{Command, Outgoing, Wanted};
use crate::config::{Config, check_topics};
use crate::error::{
    ConnectError, LogError, NoSuchPeer, SendError, ShareError, StartError, StateError, TopicsError,
};
use crate::event::{EventHub, Events, Message};
use crate::fetch::{self, Fetch, FetchEntry, FetchOptions, FetchTarget};
use crate::folder;
use crate::info::{AwaitedReceipt, Connected, FileEntry, PeerInfo, Sent, Status};
use crate::join;
use crate::log::{Follow, Since};
use crate::resume;
use crate::shared::Shared;
use crate::start;
use crate::target::Target;
use crate::watch;

/// A running node. Clones are handles of the same node; when the last one is dropped it stops, though
/// only [`Node::shutdown`] waits for the end.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use p2p_node::{Event, Node};
///
/// let local = || Node::builder().host([127, 0, 0, 1]).port(0).file_port(0);
/// let (alice, bob) = (local().start().await?, local().start().await?);
/// let mut events = bob.events();
/// alice.connect(bob.ticket()).await?;
/// alice.send("hello").await?;
/// while let Some(event) = events.next().await {
///     if let Event::Message(message) = event {
///         assert_eq!((message.author, message.text()), (alice.id(), Some("hello")));
///         break;
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Node {
    handle: Arc<Handle>,
}

#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    mapper: Mutex<Option<Mapper>>,
    /// Everything since the start, for the first who asks.
    first_events: Mutex<Option<Events>>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

impl Node {
    /// A node with the defaults of [`Config`].
    #[must_use]
    pub fn builder() -> NodeBuilder {
        NodeBuilder::default()
    }

    /// Starts a node: when this returns it accepts connections. Nothing here waits for the network.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running then.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        config.validate()?;
        let events = EventHub::default();
        let first_events = Mutex::new(Some(events.subscribe()));
        let shared = start::start(config, events)?;
        if shared.config.resume {
            shared.tasks.spawn(resume::go_on(Arc::clone(&shared)));
        }
        if shared.config.watch {
            shared.tasks.spawn(watch::run(Arc::clone(&shared)));
        }
        let mapper = Mutex::new(join::begin(&shared));
        Ok(Self { handle: Arc::new(Handle { shared, mapper, first_events }) })
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }

    /// Asks the driver; `None` once the node has stopped.
    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.shared().commands.send(command(reply)).await.ok()?;
        answer.await.ok()
    }

    async fn tell(&self, command: Command) {
        self.shared().commands.send(command).await.ok();
    }

    /// Who this node is.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.shared().id
    }

    /// The name it gives itself.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.shared().config.name.as_deref()
    }

    /// Where everything of it is kept.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        self.shared().data.path()
    }

    /// Where fetched files go and [`Node::refresh`] looks.
    #[must_use]
    pub fn content_dir(&self) -> &Path {
        &self.shared().content_dir
    }

    /// The file of the peer table.
    #[must_use]
    pub fn state_path(&self) -> PathBuf {
        self.shared().data.state_path()
    }

    /// The sockets that take node links.
    #[must_use]
    pub fn listen_addrs(&self) -> &[SocketAddr] {
        &self.shared().listen
    }

    /// The sockets that take file connections.
    #[must_use]
    pub fn file_addrs(&self) -> &[SocketAddr] {
        &self.shared().file_listen
    }

    /// The addresses to tell a friend, as far as they are known now.
    #[must_use]
    pub fn addrs(&self) -> Vec<PeerAddr> {
        self.shared().addrs()
    }

    /// What to give a friend: who this node is and where.
    #[must_use]
    pub fn ticket(&self) -> Ticket {
        Ticket { id: self.id(), addrs: self.addrs(), file: None }
    }

    /// What to give a friend to fetch a file: who has it, where, and what it is.
    #[must_use]
    pub fn file_ticket(&self, share: &Share) -> Ticket {
        let kind = match share.info.kind {
            Kind::Dir => TicketKind::Dir,
            _ => TicketKind::File,
        };
        // A name that does not fit is left out; it is a hint only.
        let name =
            if share.name.len() <= p2p_wire::MAX_FILE_NAME { share.name.clone() } else { String::new() };
        let file = TicketFile { kind, hash: *share.hash.as_bytes(), length: share.bytes, name };
        Ticket { file: Some(file), ..self.ticket() }
    }

    /// The node's events. The first call sees everything since the start, later ones what comes.
    #[must_use]
    pub fn events(&self) -> Events {
        let first = self.handle.first_events.lock().unwrap_or_else(PoisonError::into_inner).take();
        first.unwrap_or_else(|| self.shared().events.subscribe())
    }

    /// As [`Node::events`], with the messages complete: those of the log from `since` on, then those that come; what a
    /// slow reader missed is read from the log.
    ///
    /// # Errors
    /// [`LogError::NoLog`].
    pub fn follow(&self, since: Since) -> Result<Follow, LogError> {
        let log = self.shared().log.clone().ok_or(LogError::NoLog)?;
        // The events first: what is committed between the two is in both, and taken once.
        let events = self.events();
        Ok(Follow::new(log, events, since))
    }

    /// Messages of the log from `since` on, in the order of their positions: up to 256 of them, or 4 MiB. Go on with
    /// [`Since::Pos`] behind the last; none means the end.
    ///
    /// # Errors
    /// [`LogError`].
    pub async fn log_since(&self, since: Since) -> Result<Vec<Message>, LogError> {
        let log = self.shared().log.clone().ok_or(LogError::NoLog)?;
        let read = tokio::task::spawn_blocking(move || log.read(log.start(since)));
        Ok(read.await.map_err(std::io::Error::other)??)
    }

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

    /// Sends a message to every node.
    ///
    /// Returns once it is accepted: it has its number and goes to the links that stand, in one envelope with what
    /// else was accepted meanwhile. While links are full and 256 messages or 2 MiB wait, it waits too.
    /// (`queued_links` 0: nobody is linked now.)
    ///
    /// # Errors
    /// [`SendError`]; nothing has been sent then.
    pub async fn send(&self, payload: impl Into<Bytes>) -> Result<Sent, SendError> {
        self.send_topic("", payload).await
    }

    /// As [`Node::send`], with a topic of at most 255 bytes.
    ///
    /// # Errors
    /// [`SendError`]; nothing has been sent then.
    pub async fn send_topic(&self, topic: &str, payload: impl Into<Bytes>) -> Result<Sent, SendError> {
        self.send_message(Outgoing {
            topic: topic.to_owned(),
            to: None,
            payload: payload.into(),
            receipt: None,
        })
        .await
    }

    /// Sends a message that only one node can read. Others relay it and see who sends to whom, and how
    /// much.
    ///
    /// # Errors
    /// [`SendError`]; nothing has been sent then.
    pub async fn send_to(&self, to: NodeId, payload: impl Into<Bytes>) -> Result<Sent, SendError> {
        self.send_message(Outgoing {
            topic: String::new(),
            to: Some(to),
            payload: payload.into(),
            receipt: None,
        })
        .await
    }

    /// As [`Node::send_to`], and asks the recipient for a signed receipt, which can be awaited for `within`
    /// from now on. It also comes as [`Event::Receipt`](crate::Event::Receipt), or as
    /// [`Event::NoReceipt`](crate::Event::NoReceipt) once the time has passed. After a restart of this node
    /// nothing is awaited any more.
    ///
    /// # Errors
    /// [`SendError`]; nothing has been sent then.
    pub async fn send_for_receipt(
        &self,
        to: NodeId,
        payload: impl Into<Bytes>,
        within: Duration,
    ) -> Result<AwaitedReceipt, SendError> {
        let payload = payload.into();
        let (reply, receipt) = oneshot::channel();
        let now = Instant::now();
        // A wait beyond the clock's range is one of a century.
        let until = now.checked_add(within).unwrap_or(now + Duration::from_secs(100 * 365 * 86_400));
        let wanted = Wanted { to, digest: Receipt::digest_of(&payload), until, reply };
        check(&Outgoing { topic: String::new(), to: Some(to), payload: payload.clone(), receipt: None })?;
        let ticket = self.ask(|reply| Command::AwaitReceipt { wanted, reply }).await;
        let limit = crate::driver::MAX_AWAITED;
        let ticket = ticket.ok_or(SendError::Stopped)?.ok_or(SendError::Receipts { limit })?;
        let body = PrivateBody::Message { payload, receipt: true };
        let payload = body.encode().into();
        let message = Outgoing { topic: String::new(), to: Some(to), payload, receipt: Some(ticket) };
        let sent = self.shared().submissions.send(message).await;
        if sent.is_err() {
            self.tell(Command::ForgetReceipt(ticket)).await;
        }
        let sent = sent?;
        Ok(AwaitedReceipt { sent, reply: receipt })
    }

    /// From now on delivers messages of these topics alone, private ones aside; `None`: of all. Messages of
    /// other topics are relayed and kept for others all the same, and take their positions.
    ///
    /// # Errors
    /// [`TopicsError`]; nothing has changed then.
    pub async fn subscribe(&self, topics: Option<BTreeSet<String>>) -> Result<(), TopicsError> {
        topics.as_ref().map_or(Ok(()), check_topics)?;
        self.ask(|reply| Command::Subscribe { topics, reply }).await;
        Ok(())
    }

    async fn send_message(&self, mut message: Outgoing) -> Result<Sent, SendError> {
        check(&message)?;
        if message.to.is_some() {
            let body = PrivateBody::Message { payload: message.payload, receipt: false };
            message.payload = body.encode().into();
        }
        self.shared().submissions.send(message).await
    }

    /// Shares a file or a folder where it lies; nothing is copied. What in a folder is not shared (symlinks, names that
    /// others would refuse) is told by an [`Event::Warning`](crate::Event::Warning).
    ///
    /// # Errors
    /// [`ShareError`].
    pub async fn share(&self, path: impl Into<PathBuf>) -> Result<Share, ShareError> {
        let path = path.into();
        self.blocking(move |shared| {
            if path.is_dir() {
                return folder::share(shared, &path);
            }
            let share = shared.library.add(&path, |_, _| {})?;
            shared.watch.also(&share.path);
            Ok(share)
        })
        .await
    }

    /// What is in a folder that is shared here, or whose list was fetched ([`FetchOptions::list`]), entry by entry.
    ///
    /// # Errors
    /// [`ManifestError`] when it is not here.
    pub async fn manifest(&self, hash: FileHash) -> Result<ManifestReader<File>, ManifestError> {
        let library = Arc::clone(&self.shared().library);
        let open = tokio::task::spawn_blocking(move || library.manifest(&hash));
        open.await.map_err(std::io::Error::other)?
    }

    /// Forgets the list of a folder that was fetched to look into it; one that is shared or being fetched keeps it.
    ///
    /// # Errors
    /// [`ShareError`].
    pub async fn drop_manifest(&self, hash: FileHash) -> Result<(), ShareError> {
        self.blocking(move |shared| Ok(shared.library.drop_manifest(&hash)?)).await
    }

    /// Ends the sharing of a file or folder; it stays, and neither [`Node::refresh`] nor [`Config::watch`] shares it
    /// again: only [`Node::share`] does. Returns whether it was shared.
    ///
    /// # Errors
    /// [`ShareError`].
    pub async fn unshare(&self, hash: FileHash) -> Result<bool, ShareError> {
        self.blocking(move |shared| {
            let is_dir = shared.library.get(&hash).is_some_and(|share| share.info.kind == Kind::Dir);
            let removed =
                if is_dir { shared.library.remove_folder(&hash) } else { shared.library.remove(&hash) };
            Ok(removed?)
        })
        .await
    }

    /// Looks through the content folder: shares what is new, forgets what is gone.
    ///
    /// # Errors
    /// [`ShareError`]; single files that can't be shared are in the result.
    pub async fn refresh(&self) -> Result<Refreshed, ShareError> {
        self.blocking(|shared| Ok(shared.library.refresh(&shared.content_dir)?)).await
    }

    /// What is shared and what is being fetched.
    pub async fn files(&self) -> Vec<FileEntry> {
        let listed = self.blocking(|shared| Ok(folder::list(shared))).await;
        let mut files = listed.unwrap_or_default();
        let fetches = self.shared().fetches.lock().unwrap_or_else(PoisonError::into_inner);
        files.extend(fetches.values().map(FetchEntry::file_entry));
        files
    }

    /// Begins to fetch a file or a folder; it goes on by itself until it ends or the [`Fetch`] is dropped.
    #[must_use]
    pub fn fetch(&self, what: impl Into<FetchTarget>, options: FetchOptions) -> Fetch {
        fetch::begin(self.shared(), what.into(), options)
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, ShareError> + Send + 'static,
    ) -> Result<T, ShareError> {
        let shared = Arc::clone(self.shared());
        tokio::task::spawn_blocking(move || work(&shared)).await.unwrap_or(Err(ShareError::Stopped))
    }

    /// Every peer that is known, by id.
    pub async fn peers(&self) -> Vec<PeerInfo> {
        self.ask(|reply| Command::Peers { reply }).await.unwrap_or_default()
    }

    /// Counters.
    pub async fn status(&self) -> Status {
        self.ask(|reply| Command::Status { reply }).await.unwrap_or_default()
    }

    /// Writes the peer table, to `state.json` unless told otherwise. Returns where, and how many peers.
    /// (The node does so by itself when something changes, and at the end.)
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

    /// Takes over the peers of a file: ours, or python-p2p's list of addresses. Returns which, and how
    /// many peers and addresses came of it.
    ///
    /// # Errors
    /// [`StateError`]; the file is left alone.
    pub async fn load_state(&self, path: Option<&Path>) -> Result<(PathBuf, usize), StateError> {
        let path = path.map_or_else(|| self.state_path(), Path::to_owned);
        let load = {
            let path = path.clone();
            move || start::read_snapshot(&path).map_err(|detail| StateError::Load { path, detail })
        };
        let snapshot: Snapshot<NodeId> =
            tokio::task::spawn_blocking(load).await.unwrap_or(Err(StateError::Stopped))?;
        let seeds = snapshot.seeds.len();
        let restore = |reply| Command::Restore { snapshot: Box::new(snapshot), reply };
        let peers = self.ask(restore).await.ok_or(StateError::Stopped)?;
        self.tell(Command::Join).await;
        Ok((path, peers + seeds))
    }

    /// Stops the node: says goodbye, saves, unmaps, waits for what is under way; at most 5 s. Harmless
    /// if called again. The data directory is free for another node once the last handle is dropped.
    pub async fn shutdown(&self) {
        let shared = self.shared();
        let mapper = self.handle.mapper.lock().unwrap_or_else(PoisonError::into_inner).take();
        let unmap = async {
            if let Some(mapper) = mapper {
                mapper.close().await;
            }
        };
        let goodbye = async {
            self.ask(|reply| Command::Shutdown { reply }).await;
            shared.stop.cancel();
            shared.tasks.close();
            shared.tasks.wait().await;
        };
        let limit = shared.config.limits.shutdown_timeout;
        if tokio::time::timeout(limit, async { tokio::join!(unmap, goodbye) }).await.is_err() {
            tracing::warn!("something took too long at the end and was dropped");
        }
        shared.stop.cancel();
        shared.events.close();
    }
}

/// Checks the limits of a message as its author wrote it.
fn check(message: &Outgoing) -> Result<(), SendError> {
    let (size, limit) = (message.payload.len(), p2p_wire::MAX_PAYLOAD);
    if size > limit {
        return Err(SendError::TooLarge { size, limit });
    }
    if message.topic.len() > p2p_wire::MAX_TOPIC {
        return Err(SendError::Topic { size: message.topic.len(), limit: p2p_wire::MAX_TOPIC });
    }
    message.to.filter(|to| !to.is_valid()).map_or(Ok(()), |to| Err(SendError::Recipient(to)))
}
