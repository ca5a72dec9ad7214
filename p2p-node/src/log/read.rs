//! Reading the log while it is written.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use p2p_wire::{Envelope, EnvelopeId, SecretKey};

use super::disk::segment_path;
use super::index::{Given, Index, Place};
use super::record::{self, Next, Record};
use crate::command::ChosenTopics;
use crate::event::{Content, Event, Message};
use crate::hub::Events;

/// Messages, and bytes of envelopes, that are read at once.
const BATCH: usize = 256;
const BATCH_BYTES: u32 = 4 << 20;

/// From where on the log is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// The message at this position, and all behind it. Positions begin with 1; 0 is the whole log. One that no message has
    /// yet is the end of the log: whoever kept a position of a log that is there no longer gets what comes.
    Pos(u64),
    /// Messages that were delivered here at this time or later, by this node's clock.
    Time(SystemTime),
}

/// A view of the log of one node; clones are cheap.
#[derive(Debug, Clone)]
pub(crate) struct LogReader {
    dir: PathBuf,
    index: Arc<Mutex<Index>>,
    /// Opens what was sealed to this node.
    key: SecretKey,
}

impl LogReader {
    pub(super) fn new(dir: PathBuf, index: Arc<Mutex<Index>>, key: SecretKey) -> Self {
        Self { dir, index, key }
    }

    /// Where a reading begins.
    pub(crate) fn start(&self, since: Since) -> u64 {
        match since {
            Since::Pos(pos) => pos.min(self.end()),
            Since::Time(time) => {
                let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
                let index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
                index.pos_at(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
            }
        }
    }

    /// Where the next message will be.
    pub(crate) fn end(&self) -> u64 {
        self.index.lock().unwrap_or_else(PoisonError::into_inner).next_pos
    }

    /// How many positions from `pos` on come before the first message that is still there.
    pub(crate) fn missing_from(&self, pos: u64) -> u64 {
        let index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        let first = index.since(pos).next().map_or(index.next_pos, |(given, _)| given.pos);
        first.saturating_sub(pos)
    }

    /// Some messages from `pos` on, in the order of their positions; none at the end. What was dropped meanwhile is
    /// left out. Blocks.
    pub(crate) fn read(&self, pos: u64) -> io::Result<Vec<Message>> {
        let mut at = pos;
        loop {
            let batch = self.batch(at);
            let Some((last, _)) = batch.last() else { return Ok(Vec::new()) };
            at = last.end();
            let mut files = BTreeMap::new();
            let mut found = Vec::new();
            for (given, place) in batch {
                if let Some(envelope) = self.envelope(&mut files, &place)? {
                    found.extend(self.messages(&given, envelope).filter(|message| message.pos >= pos));
                }
            }
            if !found.is_empty() {
                return Ok(found);
            }
        }
    }

    /// An envelope by its id. Blocks.
    pub(crate) fn get(&self, id: &EnvelopeId) -> io::Result<Option<Bytes>> {
        let place = self.index.lock().unwrap_or_else(PoisonError::into_inner).of_id(id).copied();
        let envelope = place.map(|place| self.envelope(&mut BTreeMap::new(), &place)).transpose()?;
        Ok(envelope.flatten().map(|envelope| envelope.bytes().clone()))
    }

    fn batch(&self, pos: u64) -> Vec<(Given, Place)> {
        let index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = 0_u32;
        index
            .since(pos)
            .map(|(given, place)| (*given, *place))
            .take(BATCH)
            .take_while(|(_, place)| {
                let first = bytes == 0;
                bytes = bytes.saturating_add(place.len);
                first || bytes <= BATCH_BYTES
            })
            .collect()
    }

    /// `None` if it was dropped meanwhile or is damaged.
    fn envelope(&self, files: &mut BTreeMap<u64, File>, place: &Place) -> io::Result<Option<Envelope>> {
        let file = match files.entry(place.segment) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => {
                match File::open(segment_path(&self.dir, place.segment)) {
                    Ok(file) => entry.insert(file),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                    Err(error) => return Err(error),
                }
            }
        };
        let mut bytes = vec![0; place.len as usize];
        file.seek(SeekFrom::Start(place.offset.into()))?;
        match file.read_exact(&mut bytes) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        let Next::Record(Record::Envelope { envelope, .. }, _) = record::next(&bytes.into()) else {
            return Ok(None);
        };
        // A file of the same name made anew would hold another one.
        Ok(Envelope::decode(envelope).ok().filter(|envelope| envelope.id() == place.id))
    }

    fn messages(&self, given: &Given, envelope: Envelope) -> impl Iterator<Item = Message> {
        let (shown, late, author) = (given.shown, given.late, envelope.id().author);
        let entries: Vec<_> = envelope.entries().enumerate().collect();
        let shown = entries.into_iter().filter(move |(bit, _)| shown >> bit & 1 == 1);
        let positions = given.pos..;
        shown.zip(positions).filter_map(move |((_, entry), pos)| {
            match Message::read(&self.key, author, entry, late) {
                Content::Message { message, .. } => Some(Message { pos, ..message }),
                _ => None,
            }
        })
    }
}

/// The events of a node with its messages complete: first those of the log, then those that come; what a slow reader
/// missed is read from the log again. Other events come as they do from [`Events`].
#[derive(Debug)]
pub struct Follow {
    log: LogReader,
    events: Events,
    topics: ChosenTopics,
    /// Of the next message.
    next: u64,
    batch: std::vec::IntoIter<Message>,
    /// The log may hold more than was read.
    behind: bool,
    /// What is missing is told of: not where everything there is was asked for.
    begun: bool,
    /// Positions that were dropped before it began, and not told of yet.
    missing: u64,
}

impl Follow {
    pub(crate) fn new(log: LogReader, events: Events, since: Since, topics: ChosenTopics) -> Self {
        let next = log.start(since);
        let batch = Vec::new().into_iter();
        let begun = matches!(since, Since::Pos(1..));
        let missing = if begun { log.missing_from(next) } else { 0 };
        Self { log, events, topics, next, batch, behind: true, begun, missing }
    }

    /// The next event; `None` once the node has stopped and everything was read. [`Event::Lagged`] comes only for messages
    /// that the log has dropped, meanwhile or from the position on that was asked for (unless that was 0), and for what is no message and fell out unread.
    ///
    /// # Errors
    /// Those of the disk; it can be called again.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> io::Result<Option<Event>> {
        if self.missing > 0 {
            let missed = std::mem::take(&mut self.missing);
            self.next += missed;
            return Ok(Some(Event::Lagged { missed, others: 0, from_pos: self.next }));
        }
        loop {
            if let Some(message) = self.next_logged().await? {
                let missed = message.pos.saturating_sub(self.next);
                if missed > 0 && self.begun {
                    self.next = message.pos;
                    return Ok(Some(Event::Lagged { missed, others: 0, from_pos: message.pos }));
                }
                (self.next, self.begun) = (message.pos + 1, true);
                self.batch.next();
                if self.topics.want(&message) {
                    return Ok(Some(Event::Message(message)));
                }
                continue;
            }
            match self.events.next().await {
                Some(Event::Message(message)) if message.pos < self.next => {}
                Some(Event::Message(message)) => {
                    (self.next, self.begun) = (message.pos + 1, true);
                    return Ok(Some(Event::Message(message)));
                }
                Some(Event::Lagged { others, .. }) => {
                    self.behind = true;
                    if others > 0 {
                        return Ok(Some(Event::Lagged { missed: others, others, from_pos: self.next }));
                    }
                }
                other => return Ok(other),
            }
        }
    }

    /// What comes from now on without the log, as [`Node::events`](crate::Node::events) has it.
    #[must_use]
    pub fn clone_events(&self) -> Events {
        self.events.clone()
    }

    /// The next message of the log; it stays in the batch until it is taken.
    async fn next_logged(&mut self) -> io::Result<Option<Message>> {
        while self.behind && self.batch.as_slice().is_empty() {
            let (log, next) = (self.log.clone(), self.next);
            let read =
                tokio::task::spawn_blocking(move || log.read(next)).await.map_err(io::Error::other)??;
            self.behind = !read.is_empty();
            self.batch = read.into_iter();
        }
        Ok(self.batch.as_slice().first().cloned())
    }
}

/// The time of a log: milliseconds since 1970 as the clock had them at the start, or when the last record was
/// written if that is later; from then on without the clock, so that it never goes back.
#[derive(Debug, Clone, Copy)]
pub(super) struct LogTime {
    base_ms: u64,
    started: std::time::Instant,
}

impl LogTime {
    pub(super) fn new(newest_ms: u64, clock: SystemTime) -> Self {
        let clock = clock.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let clock = u64::try_from(clock.as_millis()).unwrap_or(u64::MAX);
        Self { base_ms: clock.max(newest_ms), started: std::time::Instant::now() }
    }

    pub(super) fn now_ms(&self) -> u64 {
        let elapsed = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.base_ms.saturating_add(elapsed)
    }
}
