//! How the driver begins: with what an earlier run knew.

use std::sync::Arc;
use std::time::Instant;

use p2p_peers::Snapshot;
use p2p_wire::NodeId;

use crate::event::Event;
use crate::saved;

use super::Driver;

impl Driver {
    /// Fills the table. Whoever connects meanwhile waits: a full table is checked in 0.1 to 0.3 s, a usual one in a
    /// tenth of that.
    pub(super) async fn restore(&mut self, mut snapshot: Snapshot<NodeId>) {
        let shared = Arc::clone(&self.shared);
        let check = tokio::task::spawn_blocking(move || {
            let dropped = saved::drop_unsound(&mut snapshot, &shared.records);
            (snapshot, dropped)
        });
        let (snapshot, dropped) = match check.await {
            Ok(checked) => checked,
            Err(error) => {
                tracing::error!(%error, "the saved peers could not be checked");
                return;
            }
        };
        if dropped > 0 {
            let path = self.shared.data.state_path();
            let records = match dropped {
                1 => "address record that its owner",
                _ => "address records that their owners",
            };
            let text = format!("{}: left out {dropped} {records} did not sign", path.display());
            tracing::warn!("{text}");
            self.shared.events.publish(Event::Warning(text));
        }
        self.stack.with_table(Instant::now(), |table, now| table.restore(now, snapshot));
    }
}
