//! The message log on disk: what came is written and synced, then handed to the application.
//!
//! `docs/store.md` has the format and the reasons. `record` is the bytes, `store` the segments, `trim` drops the oldest,
//! `recover` reads them at the start, `disk` every step that touches the disk, `index` where things are, `ranges` what was seen of an author,
//! `writer` the thread that commits groups, `read` what the application sees of it.

#[cfg(test)]
mod damage_tests;
mod disk;
#[cfg(test)]
mod driver_tests;
mod index;
mod ranges;
mod read;
mod record;
mod recover;
mod store;
#[cfg(test)]
mod tests;
mod trim;
mod writer;

use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use p2p_wire::{NodeId, SecretKey};

use crate::hub::EventHub;
use disk::RealDisk;
use read::LogTime;
use store::{LogLimits, Store};

pub(crate) use read::LogReader;
pub use read::{Follow, Since};
pub(crate) use recover::{Found, Undelivered};
pub(crate) use store::{Entry, Op};
pub(crate) use writer::LogQueue;

/// A log that was opened and is not written to yet.
#[derive(Debug)]
pub(crate) struct OpenLog {
    store: Store<RealDisk>,
    time: LogTime,
    pub(crate) reader: LogReader,
    pub(crate) found: Found,
}

impl OpenLog {
    /// Opens the log in `dir`, or makes it. `clock` is what the wall clock shows.
    ///
    /// # Errors
    /// Those of the disk. Damage is none: it is in the warnings.
    pub(crate) fn open(dir: &Path, key: &SecretKey, clock: SystemTime) -> io::Result<Self> {
        Self::on(RealDisk::open(dir)?, dir, key, clock)
    }

    /// As [`OpenLog::open`], and writes nothing: for reading.
    ///
    /// # Errors
    /// Those of the disk.
    pub(crate) fn open_read_only(dir: &Path, key: &SecretKey, clock: SystemTime) -> io::Result<Self> {
        Self::on(RealDisk::read_only(dir), dir, key, clock)
    }

    fn on(disk: RealDisk, dir: &Path, key: &SecretKey, clock: SystemTime) -> io::Result<Self> {
        let (store, mut found) = Store::open(disk, key.id(), LogLimits::default())?;
        let reader = LogReader::new(dir.to_owned(), store.index(), key.clone());
        let time = LogTime::new(found.newest_ms, clock);
        let now = Duration::from_millis(time.now_ms());
        for (_, _, age) in &mut found.logged {
            *age = now.saturating_sub(*age);
        }
        Ok(Self { store, time, reader, found })
    }

    /// The queue, and the work of its writer, which blocks. Receipts that are owed for what was written go to `owe`.
    pub(crate) fn start<F: Fn(NodeId, u64, Bytes)>(
        self,
        events: EventHub,
        owe: F,
    ) -> (LogQueue, impl FnOnce() + use<F>) {
        let queue = LogQueue::default();
        let writer = queue.writer(self.store, self.time, events, owe);
        (queue, writer)
    }
}
