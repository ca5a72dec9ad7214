//! Who delivers: those who were offered or found, their turns to be dialled, and what they did wrong.

use std::sync::Arc;

use p2p_files::SourceFault;
use p2p_wire::NodeId;
use tokio::sync::{mpsc, oneshot};

use super::Job;
use super::record::Record;
use crate::command::{Command, Provider};
use crate::error::{ConnectError, FetchError};
use crate::event::Event;
use crate::tls::Stream;
use crate::transfer;

/// Connections to providers at once.
pub(super) const MAX_SOURCES: usize = 8;
/// Providers that wait for their turn; more answers are not needed.
pub(super) const MAX_WAITING: usize = 64;

pub(super) type Opened = (NodeId, Result<Stream, ConnectError>);

impl Job<'_> {
    pub(super) fn on_source_failed(&mut self, label: &str, fault: &SourceFault) {
        self.live = self.live.saturating_sub(1);
        let Ok(id) = label.parse::<NodeId>() else { return };
        let lied = matches!(
            fault,
            SourceFault::Corrupt { .. }
                | SourceFault::WrongInfo
                | SourceFault::TooLarge { .. }
                | SourceFault::Protocol(_)
        );
        let again = matches!(fault, SourceFault::Io(_) | SourceFault::Busy | SourceFault::Stalled(_));
        // Who has too much to do just now is tried whenever it is heard of again.
        if matches!(fault, SourceFault::Busy) {
            self.providers.entry(id).and_modify(Record::give_back);
        }
        self.providers.entry(id).or_default().on_failure(fault.to_string(), lied, again);
        tracing::warn!(provider = %id.short(), %fault, "provider dropped");
        self.shared.events.publish(Event::SourceFailed { hash: self.hash, id, fault: fault.to_string() });
    }

    pub(super) fn on_opened(&mut self, id: NodeId, opened: Result<Stream, ConnectError>) {
        match opened {
            Ok(stream) => {
                let Some(download) = &self.download else { return };
                self.live += 1;
                download.add_limited_source(id.to_string(), stream, self.shared.down.of_peer(id));
            }
            Err(error) => {
                let record = self.providers.entry(id).or_default();
                if !matches!(error, ConnectError::NoAddress(_)) {
                    record.on_failure(error.to_string(), false, true);
                } else if record.on_no_address(error.to_string()) {
                    self.waiting.push_back(id);
                }
            }
        }
    }

    /// Somebody has it, or says so.
    pub(super) fn offer(&mut self, provider: Provider) -> Result<(), FetchError> {
        self.start(provider.name)?;
        let known = self.providers.contains_key(&provider.id);
        if provider.id == self.shared.id
            || self.waiting.len() >= MAX_WAITING
            || (!known && self.providers.len() >= 4 * MAX_WAITING)
        {
            return Ok(());
        }
        if self.providers.entry(provider.id).or_default().on_offer(provider.addrs) {
            self.waiting.push_back(provider.id);
        }
        Ok(())
    }

    pub(super) fn dial_waiting(&mut self) {
        while self.live + self.dials.len() < MAX_SOURCES
            && let Some(id) = self.waiting.pop_front()
        {
            let shared = Arc::clone(self.shared);
            let addrs = self.providers.get(&id).map_or_else(Vec::new, |record| record.addrs().to_vec());
            let open = async move { (id, transfer::open(&shared, id, &addrs).await) };
            self.dials.spawn(self.shared.tasks.track_future(open));
        }
    }

    /// Asks who has it. If there is nobody to ask, the ticket's node is linked to: it knows others that fetch the same, and
    /// may be too busy itself.
    pub(super) async fn ask(&mut self, everybody: bool, found: mpsc::Sender<Provider>) {
        let (reply, asked) = oneshot::channel();
        let command = Command::Ask { hash: self.hash, everybody, found, reply };
        if self.shared.commands.send(command).await.is_err() {
            return;
        }
        let asked = asked.await.unwrap_or(0);
        tracing::debug!(hash = %self.hash.short(), asked, everybody, "asked who has it");
        if asked == 0
            && everybody
            && let Some((peer, addrs)) = self.ticket_addrs.take()
            && self.providers.get(&peer).is_none_or(|record| !record.has_lied())
        {
            self.shared.commands.send(Command::Want { peer, addrs }).await.ok();
        }
    }

    /// Nobody delivered: say who was tried, or that nobody has it.
    pub(super) fn nobody(&self) -> FetchError {
        let faults =
            self.providers.iter().filter_map(|(id, r)| Some(format!("{} {}", id.short(), r.fault()?)));
        let detail = faults.collect::<Vec<_>>().join("; ");
        if detail.is_empty() {
            return FetchError::NotFound { hash: self.hash, waited_s: self.timeout.as_secs() };
        }
        FetchError::Providers { detail, lied: self.providers.values().any(Record::has_lied) }
    }
}
