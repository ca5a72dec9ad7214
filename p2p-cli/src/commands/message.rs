//! `p2p send` and `p2p listen`.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::time::Duration;

use p2p_node::{Event, LogError, Node, NodeId, SendError, Since, read_log};
use tokio::time::Instant;

use super::resolve;
use crate::config::Settings;
use crate::failure::{self, Exit, Failure};
use crate::joining::Joining;
use crate::output::{Line, Screen, dropped};
use crate::session::{Session, Show, UNTIL_TAKEN, is_of};
use crate::signals::Stop;

/// Read from standard input at most: more than any message, so that the node says what its limit is.
const MAX_INPUT: u64 = 2 * 1024 * 1024;
/// How long `send` waits for its neighbours to tell of the recipient. They do so in the first moments of a link.
const KNOWN_TIMEOUT: Duration = Duration::from_secs(5);
/// So often it looks whether they have: what is known of others changes without an event.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// How a message is sent.
#[derive(Debug)]
pub(crate) struct Sending {
    pub(crate) to: Option<String>,
    pub(crate) topic: Option<String>,
    /// Seconds to wait for the receipt.
    pub(crate) wait: Option<u64>,
}

/// Sends one message and leaves once it is on its way, or its receipt is here.
pub(crate) async fn send(
    mut settings: Settings,
    screen: Screen,
    stop: Stop,
    text: String,
    how: Sending,
) -> Result<(), Failure> {
    let Sending { to, topic, wait } = how;
    if let Some(typed) = &to {
        resolve::check_id(typed)?;
    }
    let payload = if text == "-" { read_input(stop.clone()).await? } else { text.into_bytes() };
    if payload.is_empty() {
        return Err(Failure::usage("empty_message", "the message is empty; there is nothing to send"));
    }
    settings.for_one_purpose();
    let named = settings.node.connect.clone();
    let session = Session::start(settings.node, screen.clone(), stop, Show::Trouble).await?;
    let outcome = session.unless_stopped(async {
        session.waiting("for a link", Joining::through(&session, named).anybody()).await?;
        // A directory restored from a copy learns here which numbers are used.
        session.waiting("for what a neighbour holds of this node", session.node.compared()).await;
        let to = match to {
            Some(typed) => {
                let known = recipient(&session.node, &typed);
                Some(session.waiting("until a neighbour tells of the recipient", known).await?)
            }
            None => None,
        };
        if let (Some(to), Some(wait)) = (to, wait) {
            let within = Duration::from_secs(wait);
            let receipt = session.node.send_for_receipt(to, payload, within).await.map_err(not_sent)?;
            let sent = receipt.sent();
            let (seq, queued_links, to) = (sent.seq, sent.queued_links, Some(to.to_string()));
            screen.show(&Line::Sent { command: "send", seq, queued_links, to }).await;
            let by = session.waiting("for the receipt", receipt.wait()).await?.by.to_string();
            return Ok(Line::Receipt { seq, by });
        }
        let sent = match (to, topic) {
            (Some(to), _) => session.node.send_to(to, payload).await,
            (None, Some(topic)) => session.node.send_topic(&topic, payload).await,
            (None, None) => session.node.send(payload).await,
        };
        let sent = sent.map_err(not_sent)?;
        if !session.waiting(UNTIL_TAKEN, session.node.handed_over()).await {
            return Err(Failure::not_taken());
        }
        let to = to.map(|id| id.to_string());
        Ok(Line::Sent { command: "send", seq: sent.seq, queued_links: sent.queued_links, to })
    });
    let outcome = outcome.await;
    // The goodbye to each peer follows the message on its link: then it has left this node.
    let line = session.end_with(outcome).await?;
    screen.show(&line).await;
    Ok(())
}

/// Prints messages until it is told to end, or nobody reads them any more.
pub(crate) async fn listen(
    mut settings: Settings,
    screen: Screen,
    stop: Stop,
    topics: Vec<String>,
    since: Option<Since>,
) -> Result<(), Failure> {
    let mut asked = stop.clone();
    settings.for_one_purpose();
    let topics: BTreeSet<String> = topics.into_iter().collect();
    if !topics.is_empty() {
        settings.node.topics = Some(topics.clone());
    }
    let show = Show::Messages { topics, since };
    let session = Session::start(settings.node, screen.clone(), stop, show).await?;
    tokio::select! {
        () = asked.wait() => {}
        () = screen.wait_closed() => {}
    }
    session.end().await
}

/// Prints what the log holds.
pub(crate) async fn log(
    settings: Settings,
    screen: Screen,
    stop: Stop,
    topics: Vec<String>,
    since: Option<Since>,
) -> Result<(), Failure> {
    let topics: BTreeSet<String> = topics.into_iter().collect();
    let mut stop = stop;
    let dir = settings.node.data_dir.unwrap_or_default();
    let no_log =
        format!("there is no message log in {}; choose the directory of a node with --data", dir.display());
    let print = async {
        let mut messages = match blocking(move || read_log(&dir, since.unwrap_or(Since::Pos(0)))).await? {
            Ok(messages) => messages,
            Err(LogError::NoLog) => return Err(Failure::usage("no_log", no_log)),
            Err(error) => return Err(error.into()),
        };
        for text in messages.warnings() {
            failure::warn(text);
            if screen.is_json() {
                screen.show(&Line::Warning { text: text.clone() }).await;
            }
        }
        if let Some(Line::Lagged { missed, from_pos, .. }) = messages.lagged().cloned().and_then(Line::logged)
        {
            failure::warn(&dropped(missed, from_pos));
            if screen.is_json() {
                screen.show(&Line::Lagged { missed, others: 0, from_pos, gone: true }).await;
            }
        }
        loop {
            let (next, rest) = blocking(move || (messages.next(), messages)).await?;
            messages = rest;
            let Some(message) = next else { return Ok(()) };
            let message = message.map_err(LogError::from)?;
            if is_of(&message, &topics)
                && let Some(line) = Line::event(Event::Message(message))
            {
                screen.show(&line).await;
            }
        }
    };
    tokio::select! {
        done = print => done,
        () = stop.wait() => Err(Failure::interrupted()),
        () = screen.wait_closed() => Ok(()),
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Failure::failed("log", e.to_string()))
}

/// All of standard input, unless the user ends the program before: reading a terminal or a pipe can't be interrupted, so
/// it has a thread of its own, which ends with the process.
async fn read_input(mut stop: Stop) -> Result<Vec<u8>, Failure> {
    tokio::select! {
        payload = blocking(standard_input) => payload?,
        () = stop.wait() => Err(Failure::interrupted()),
    }
}

fn standard_input() -> Result<Vec<u8>, Failure> {
    let mut payload = Vec::new();
    std::io::stdin()
        .lock()
        .take(MAX_INPUT)
        .read_to_end(&mut payload)
        .map_err(|source| Failure::failed("input", format!("standard input: {source}")))?;
    Ok(payload)
}

/// The one whose id, or the start of it, was typed: among those known once there is a link.
async fn recipient(node: &Node, typed: &str) -> Result<NodeId, Failure> {
    let until = Instant::now() + KNOWN_TIMEOUT;
    loop {
        match resolve::peer(typed, &node.peers().await) {
            Err(failure) if failure.exit == Exit::NotFound && Instant::now() < until => {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            known => return known,
        }
    }
}

fn not_sent(error: SendError) -> Failure {
    match error {
        // The node's words are for those who sit at a console, and the size is what was read of it.
        SendError::TooLarge { limit, .. } => {
            let detail = format!("a message has at most {limit} bytes; send it as a file, with `p2p share`");
            Failure::usage("too_large", detail)
        }
        error => error.into(),
    }
}
