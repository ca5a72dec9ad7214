//! [`Node`]: the handle that applications hold. Here is its life from start to end, who and where it is, and what comes
//! out of it.

mod files;
mod peers;
mod send;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use p2p_upnp::Mapper;
use p2p_wire::{NodeId, PeerAddr, Ticket};
use tokio::sync::oneshot;

use crate::builder::NodeBuilder;
use crate::command::Command;
use crate::config::{Config, check_topics};
use crate::error::{LogError, StartError, TopicsError};
use crate::event::Message;
use crate::hub::{EventHub, Events};
use crate::info::Status;
use crate::join;
use crate::log::{Follow, Since};
use crate::resume;
use crate::shared::Shared;
use crate::start;
use crate::watch;

/// A running node. Clones are handles of the same node; when the last one is dropped it stops, though
/// only [`Node::shutdown`] waits for the end. So it does if its runtime ends; what is asked of a node that has stopped fails
/// with `Stopped`, or says that there is nothing.
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
    ///
    /// # Panics
    /// Outside a tokio runtime, or in one without I/O and time (`enable_all`).
    pub async fn start(mut config: Config) -> Result<Self, StartError> {
        config.validate()?;
        config.limits = config.limits.within_reason();
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

    pub(crate) fn shared(&self) -> &Arc<Shared> {
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

    /// The node's events. The first call sees everything since the start, later ones what comes.
    ///
    /// Until that first call events are kept for it, as for any reader that is behind (65,536 or 32 MiB of payload at most):
    /// who wants none drops what it returns.
    #[must_use]
    pub fn events(&self) -> Events {
        let first = self.handle.first_events.lock().unwrap_or_else(PoisonError::into_inner).take();
        first.unwrap_or_else(|| self.shared().events.subscribe())
    }

    /// As [`Node::events`], with the messages complete: those of the log from `since` on, then those that come; what a
    /// slow reader missed is read from the log. Of the log too it gives those of the topics alone that the node delivers when it
    /// reads them.
    ///
    /// # Errors
    /// [`LogError::NoLog`].
    pub fn follow(&self, since: Since) -> Result<Follow, LogError> {
        let log = self.shared().log.clone().ok_or(LogError::NoLog)?;
        // The events first: what is committed between the two is in both, and taken once.
        let events = self.events();
        Ok(Follow::new(log, events, since, self.shared().topics.clone()))
    }

    /// Messages of the log from `since` on, in the order of their positions: up to 256 of them, or 4 MiB. Go on with
    /// [`Since::Pos`] behind the last; none means the end. They are of all topics, whichever the node delivers; own messages
    /// are not among them.
    ///
    /// # Errors
    /// [`LogError`].
    pub async fn log_since(&self, since: Since) -> Result<Vec<Message>, LogError> {
        let log = self.shared().log.clone().ok_or(LogError::NoLog)?;
        let read = tokio::task::spawn_blocking(move || log.read(log.start(since)));
        Ok(read.await.map_err(std::io::Error::other)??)
    }

    /// From now on delivers messages of these topics alone, private ones aside; `None`: of all. Messages of
    /// other topics are relayed and kept for others all the same, and take their positions.
    ///
    /// # Errors
    /// [`TopicsError`]; nothing has changed then.
    pub async fn subscribe(&self, topics: Option<BTreeSet<String>>) -> Result<(), TopicsError> {
        topics.as_ref().map_or(Ok(()), check_topics)?;
        self.ask(|reply| Command::Subscribe { topics, reply }).await.ok_or(TopicsError::Stopped)
    }

    /// Counters.
    pub async fn status(&self) -> Status {
        self.ask(|reply| Command::Status { reply }).await.unwrap_or_default()
    }

    /// Stops the node: says goodbye, saves, unmaps, waits for what is under way, at most for
    /// [`Limits::shutdown_timeout`](crate::Limits::shutdown_timeout). Harmless if called again. Whoever reads events gets what is
    /// left, then `None`. The data directory is free for another node once the last handle is dropped.
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
