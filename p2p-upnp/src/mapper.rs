//! The task that joins [`Leases`] to a [`Gateway`].

use std::future::pending;
use std::pin::pin;
use std::sync::Arc;

use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use crate::config::Config;
use crate::gateway::Gateway;
use crate::igd::Igd;
use crate::lease::{Answer, Input, Leases, Output, Request, Ticket};
use crate::status::Status;

/// Keeps the ports of a [`Config`] mapped until it is closed.
///
/// Dropping it also ends the task, which then removes the mappings by itself if the runtime lives long enough.
#[derive(Debug)]
pub struct Mapper {
    status: watch::Receiver<Status>,
    network: Arc<Notify>,
    close: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Mapper {
    /// Starts looking for a UPnP router. Returns at once; nothing waits for the router.
    ///
    /// A config that [`Config::validate`] refuses is taken as far as it goes: see [`Leases::new`].
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with time and IO enabled.
    pub fn spawn(config: Config) -> Self {
        let gateway = Igd::new(config.clone());
        Self::spawn_with(config, gateway)
    }

    /// As [`spawn`](Self::spawn), with another kind of router.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with time enabled.
    pub fn spawn_with<G: Gateway>(config: Config, gateway: G) -> Self {
        let (publish, status) = watch::channel(Status::Searching);
        let (close, closed) = oneshot::channel();
        let network = Arc::new(Notify::new());
        let signals = Signals { closed: Some(closed), network: Arc::clone(&network) };
        let task = tokio::spawn(run(config, gateway, publish, signals));
        Self { status, network, close, task }
    }

    /// How things stand now and from now on. The last value is [`Status::Closed`]; values in between may be skipped.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Looks for the router again at once: our address, or the network we are in, is another. Several calls in a row
    /// count as one.
    pub fn network_changed(&self) {
        self.network.notify_one();
    }

    /// Removes the mappings we made and ends, within `close_timeout` whatever the router does.
    ///
    /// # Cancel safety
    ///
    /// When dropped early, the removal goes on by itself.
    pub async fn close(self) {
        // The receiver is gone only if the task has ended, which is what is wanted.
        let _ = self.close.send(());
        if let Err(error) = self.task.await {
            warn!(%error, "the port mapping task failed");
        }
    }
}

/// What its owner tells the task.
struct Signals {
    /// None once it was heard.
    closed: Option<oneshot::Receiver<()>>,
    network: Arc<Notify>,
}

impl Signals {
    /// Cancel safe: a signal that was not returned is returned by the next call.
    async fn next(&mut self, deadline: Option<std::time::Instant>) -> Input {
        let closed = async {
            match &mut self.closed {
                // An error means that the mapper was dropped.
                Some(closed) => drop(closed.await),
                None => pending().await,
            }
        };
        let timeout = async {
            match deadline {
                Some(deadline) => sleep_until(Instant::from_std(deadline)).await,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            () = closed => {
                self.closed = None;
                Input::Close
            }
            () = self.network.notified() => Input::NetworkChanged,
            () = timeout => Input::Timeout,
        }
    }
}

async fn run<G: Gateway>(
    config: Config,
    mut gateway: G,
    publish: watch::Sender<Status>,
    mut signals: Signals,
) {
    let mut leases = Leases::new(now(), config);
    loop {
        let mut open = None;
        while let Some(output) = leases.poll_output() {
            match output {
                Output::Ask(ticket, request) => open = Some((ticket, request)),
                Output::Status(status) => announce(&publish, status),
                Output::Finished => return,
            }
        }
        match open {
            Some((ticket, request)) => {
                let answer = perform(&mut gateway, ticket, request);
                wait_for(&mut leases, &mut signals, ticket, answer).await;
            }
            None => {
                let input = signals.next(leases.poll_timeout()).await;
                leases.handle(now(), input);
            }
        }
    }
}

/// Returns when the request was answered or given up.
async fn wait_for(
    leases: &mut Leases,
    signals: &mut Signals,
    ticket: Ticket,
    answer: impl Future<Output = Input>,
) {
    let mut answer = pin!(answer);
    while leases.open_request() == Some(ticket) {
        let input = tokio::select! {
            biased;
            input = signals.next(leases.poll_timeout()) => input,
            input = &mut answer => input,
        };
        leases.handle(now(), input);
    }
}

async fn perform<G: Gateway>(gateway: &mut G, ticket: Ticket, request: Request) -> Input {
    let answer = match request {
        Request::Search => Answer::Search(gateway.search().await),
        Request::ExternalIp => Answer::ExternalIp(gateway.external_ip().await),
        Request::List => Answer::List(gateway.list().await),
        Request::Map(wanted) => Answer::Map(gateway.map(wanted).await),
        Request::Unmap { local_port, external_port } => {
            Answer::Unmap(gateway.unmap(local_port, external_port).await)
        }
    };
    debug!(?request, ?answer, "asked the router");
    Input::Answered(ticket, answer)
}

/// Tells the owner, and logs one line when the kind of status changed.
fn announce(publish: &watch::Sender<Status>, status: Status) {
    publish.send_if_modified(|last| {
        if *last == status {
            return false;
        }
        if std::mem::discriminant(last) != std::mem::discriminant(&status) {
            match &status {
                Status::Searching => debug!("looking for a router"),
                Status::NoRouter => info!("no router that maps ports was found"),
                Status::Mapped { mappings } => info!(?mappings, "the router forwards our ports"),
                Status::DoubleNat { reported } => {
                    warn!(%reported, "the router reports an address that the internet cannot reach");
                }
                Status::Failed { detail } => warn!(%detail, "the router does not forward our ports"),
                Status::Closed => debug!("port mapping ended"),
            }
        } else {
            debug!(?status, "port mapping");
        }
        *last = status;
        true
    });
}

/// Tokio's clock, so that tests may stop it.
fn now() -> std::time::Instant {
    Instant::now().into_std()
}
