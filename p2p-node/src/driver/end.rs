//! How the driver ends: with a goodbye, or before its time.

use p2p_peers::DownCause;
use p2p_wire::NodeId;

use crate::packet::ByeReason;

use super::{Driver, tasks};

impl Drop for Driver {
    fn drop(&mut self) {
        self.shared.submissions.close();
        if !self.ended {
            // It failed, or its runtime was dropped: nobody sends through it or hears of it any more.
            self.shared.events.close();
            self.shared.stop.cancel();
        }
    }
}

impl Driver {
    /// Links are told goodbye and given a moment to write what they still hold.
    pub(super) async fn say_goodbye(&mut self) {
        self.flush_all_messages();
        self.shared.submissions.close();
        let linked: Vec<NodeId> = self.links.keys().copied().collect();
        for peer in linked {
            self.close_link(peer, ByeReason::Leaving, DownCause::HungUp, "this node stops");
        }
        self.shared.arrivals.close();
        let links = std::mem::replace(&mut self.tasks, tasks::LinkTasks::new());
        self.shared.tasks.spawn(links.finish());
        if self.shared.data.is_kept() {
            self.save_at_the_end().await;
        }
        self.give_numbers_back().await;
        self.tell_stopped();
        self.ended = true;
    }

    async fn give_numbers_back(&mut self) {
        let Some(write) = self.shared.submissions.give_back() else { return };
        if let Ok(Err(error)) = tokio::task::spawn_blocking(write).await {
            tracing::warn!(%error, "numbers that were not used stay unused");
        }
    }

    async fn save_at_the_end(&mut self) {
        let snapshot = self.stack.snapshot();
        let path = self.shared.data.state_path();
        let saved = tokio::task::spawn_blocking(move || p2p_peers::PeerStore::new(path).save(&snapshot));
        match saved.await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => tracing::error!(error = %e, "the peer table could not be saved"),
            Err(e) => tracing::error!(error = %e, "the peer table could not be saved"),
        }
    }
}
