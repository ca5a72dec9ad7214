//! Reading the log of a node that does not run.

use std::io;
use std::path::Path;
use std::time::SystemTime;

use p2p_wire::SecretKey;

use crate::data::{DataDir, KEY_FILE, SEQ_FILE};
use crate::error::{LogError, StartError};
use crate::event::{Event, Message};
use crate::log::{LogReader, OpenLog, Since};

/// The messages of a log, from [`read_log`] or [`read_log_with_key`]; it keeps other processes out of the data directory meanwhile.
#[derive(Debug)]
pub struct PastMessages {
    reader: LogReader,
    next: u64,
    batch: std::vec::IntoIter<Message>,
    warnings: Vec<String>,
    lagged: Option<Event>,
    _data: DataDir,
}

/// Reads the log of the node in `data_dir`, which must not run. Blocks, as the iterator does. Where nothing can be written,
/// as in a copy on a read-only file system, nothing is.
///
/// # Errors
/// [`LogError::InUse`] if it runs, [`LogError::NoLog`] if there is none, [`LogError::NoKey`] if its node was given a key; then
/// nothing is made there.
pub fn read_log(data_dir: &Path, since: Since) -> Result<PastMessages, LogError> {
    check(data_dir)?;
    if !data_dir.join(KEY_FILE).is_file() {
        return Err(LogError::NoKey { path: data_dir.to_owned() });
    }
    let data = DataDir::open_to_read(data_dir).map_err(refused)?;
    let (key, _) = data.identity().map_err(refused)?;
    read(data, &key, since)
}

/// [`read_log`] of a node that was given its key ([`Config::key`](crate::Config::key)). With another one the private messages to
/// it are left out: they can't be opened.
///
/// # Errors
/// Those of [`read_log`].
pub fn read_log_with_key(data_dir: &Path, key: &SecretKey, since: Since) -> Result<PastMessages, LogError> {
    check(data_dir)?;
    read(DataDir::open_to_read(data_dir).map_err(refused)?, key, since)
}

/// Whether it is a node's. Other programs have folders called `log` too; opened as the data of a node, such a one would become
/// that of a new node.
fn check(data_dir: &Path) -> Result<(), LogError> {
    let is_node = [KEY_FILE, SEQ_FILE].iter().any(|name| data_dir.join(name).is_file());
    if is_node && data_dir.join("log").is_dir() { Ok(()) } else { Err(LogError::NoLog) }
}

fn read(data: DataDir, key: &SecretKey, since: Since) -> Result<PastMessages, LogError> {
    let open = if data.is_read_only() { OpenLog::open_read_only } else { OpenLog::open };
    let mut log = open(&data.log_path(), key, SystemTime::now())?;
    let (reader, warnings) = (log.reader.clone(), std::mem::take(&mut log.found.warnings));
    let next = reader.start(since);
    let missed = if matches!(since, Since::Pos(1..)) { reader.missing_from(next) } else { 0 };
    let from_pos = next + missed;
    Ok(PastMessages {
        next: from_pos,
        reader,
        batch: Vec::new().into_iter(),
        warnings,
        lagged: (missed > 0).then_some(Event::Lagged { missed, others: 0, from_pos }),
        _data: data,
    })
}

impl PastMessages {
    /// What was found damaged, in words for people. A damaged part is moved aside as it is found, where it can be, so that the next start
    /// of the node does not tell of it again.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The [`Event::Lagged`] with which [`Node::follow`](crate::Node::follow) would begin: what was dropped between the
    /// position that was asked for and the first message. `None` from 0 on, which is whatever there is.
    #[must_use]
    pub const fn lagged(&self) -> Option<&Event> {
        self.lagged.as_ref()
    }
}

fn refused(error: StartError) -> LogError {
    match error {
        StartError::InUse { path } => LogError::InUse { path },
        error => LogError::Io(io::Error::other(error)),
    }
}

impl Iterator for PastMessages {
    type Item = io::Result<Message>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.batch.as_slice().is_empty() {
            match self.reader.read(self.next) {
                Ok(read) => self.batch = read.into_iter(),
                Err(error) => return Some(Err(error)),
            }
        }
        let message = self.batch.next()?;
        self.next = message.pos + 1;
        Some(Ok(message))
    }
}
