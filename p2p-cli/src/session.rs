//! A running node with its events on the screen, from start to goodbye.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal as _;
use std::time::Duration;

use p2p_node::{Config, Event, Events, Follow, Message, Node, Since};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::failure::{self, Failure};
use crate::output::{Line, Screen};
use crate::signals::Stop;

/// Shutdown as a whole; the node itself promises to be quicker.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(4_500);
/// From being told to leave to the end of the process: what a reader that does not read can cost at most.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(4_800);
/// A wait that is longer is told of: what takes less would only flicker.
const MOMENT: Duration = Duration::from_secs(1);
/// What whoever has said something and wants to leave waits for.
pub(crate) const UNTIL_TAKEN: &str = "until a neighbour has taken what was sent";
/// Names remembered for messages; beyond, ids alone are shown.
const MAX_NAMES: usize = 4096;

/// Which events a command shows.
#[derive(Debug, Clone)]
pub(crate) enum Show {
    /// All of them, after a greeting for whoever sits at a console.
    Console,
    /// All of them.
    Everything,
    /// What concerns the command's own work: warnings and failed sources.
    Trouble,
    /// What comes in and what is missing of it, and trouble.
    Messages {
        /// Of these topics alone, private ones aside, unless there are none.
        topics: BTreeSet<String>,
        /// First those of the log from here on.
        since: Option<Since>,
    },
}

impl Show {
    fn wants(&self, event: &Event) -> bool {
        matches!(
            (self, event),
            (Self::Console | Self::Everything, _)
                | (_, Event::Warning(_) | Event::Notice(_) | Event::SourceFailed { .. })
                | (Self::Messages { .. }, Event::Lagged { .. } | Event::Gap { .. } | Event::Forked { .. })
        ) || matches!((self, event), (Self::Messages { topics, .. }, Event::Message(message)) if is_of(message, topics))
    }
}

/// Whether one who asked for these topics wants a message.
pub(crate) fn is_of(message: &Message, topics: &BTreeSet<String>) -> bool {
    message.private || topics.is_empty() || topics.contains(&message.topic)
}

/// A node at work.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) node: Node,
    pub(crate) screen: Screen,
    pub(crate) stop: Stop,
    pump: JoinHandle<()>,
    links: watch::Receiver<u64>,
}

impl Session {
    /// Starts the node. `ready` goes to the screen first (not for a command with only its own work), then
    /// the events from the first on.
    pub(crate) async fn start(
        config: Config,
        screen: Screen,
        stop: Stop,
        show: Show,
    ) -> Result<Self, Failure> {
        let node = Node::start(config).await?;
        let events = match show {
            Show::Messages { since: Some(since), .. } => Source::Log(Box::new(node.follow(since)?)),
            _ => Source::Live(node.events()),
        };
        if !matches!(show, Show::Trouble) {
            screen.show(&Line::ready(&node, matches!(show, Show::Console))).await;
        }
        let (changed, links) = watch::channel(0);
        let pump = tokio::spawn(pump(events, screen.clone(), show, changed));
        Ok(Self { node, screen, stop, pump, links })
    }

    /// A counter that rises whenever a link came or went.
    pub(crate) fn link_changes(&self) -> watch::Receiver<u64> {
        self.links.clone()
    }

    /// Does `work` unless the user ends the program before.
    ///
    /// # Errors
    /// [`Failure::interrupted`] then; what `work` says otherwise.
    pub(crate) async fn unless_stopped<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let mut stop = self.stop.clone();
        tokio::select! {
            done = work => done,
            () = stop.wait() => Err(Failure::interrupted()),
        }
    }

    /// Does `work`. Who sits at a terminal is told what that waits for (`for a link`) if it takes longer than a moment.
    pub(crate) async fn waiting<T>(&self, what_for: &str, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = tokio::time::sleep(MOMENT) => {}
        }
        if !self.screen.is_json() && std::io::stderr().is_terminal() {
            failure::warn(&format!("waiting {what_for}…"));
        }
        work.await
    }

    /// Leaves in good order: goodbye to peers, state saved, ports unmapped, last events written.
    pub(crate) async fn end(self) -> Result<(), Failure> {
        let deadline = Instant::now() + LEAVE_TIMEOUT;
        self.screen.leave_by(deadline);
        let ended = tokio::time::timeout(SHUTDOWN_TIMEOUT, self.node.shutdown()).await;
        let _ = tokio::time::timeout_at(deadline, self.pump).await;
        ended.map_err(|_| {
            let limit = SHUTDOWN_TIMEOUT.as_millis();
            Failure::failed(
                "shutdown",
                format!("the node did not end within {limit} ms; the last state may not be saved"),
            )
        })
    }

    /// [`Session::end`], whatever the work before it came to.
    pub(crate) async fn end_with<T>(self, outcome: Result<T, Failure>) -> Result<T, Failure> {
        let ended = self.end().await;
        let value = outcome?;
        ended.map(|()| value)
    }
}

/// Where the events come from.
enum Source {
    Live(Events),
    /// The log first.
    Log(Box<Follow>),
}

impl Source {
    async fn next(&mut self) -> Option<Event> {
        match self {
            Self::Live(events) => events.next().await,
            Self::Log(follow) => match follow.next().await {
                Ok(event) => event,
                Err(error) => {
                    // Not over and over: from here on what comes is shown.
                    let text = format!("the message log cannot be read: {error}");
                    let live = follow.clone_events();
                    *self = Self::Live(live);
                    Some(Event::Warning(text))
                }
            },
        }
    }
}

async fn pump(mut events: Source, screen: Screen, show: Show, changed: watch::Sender<u64>) {
    let mut names = BTreeMap::new();
    loop {
        let line_of = if matches!(events, Source::Log(_)) { Line::logged } else { Line::event };
        let Some(event) = events.next().await else { return };
        if matches!(event, Event::PeerUp { .. } | Event::PeerDown { .. }) {
            changed.send_modify(|count| *count += 1);
        }
        if let Event::PeerUp { id, name: Some(name), .. } = &event
            && names.len() < MAX_NAMES
        {
            names.insert(*id, name.clone());
        }
        if !show.wants(&event) {
            continue;
        }
        let known = match &event {
            Event::Message(message) => names.get(&message.author).cloned(),
            _ => None,
        };
        let Some(mut line) = line_of(event) else { continue };
        if let Line::Message { name, .. } = &mut line {
            *name = known;
        }
        screen.show(&line).await;
    }
}
