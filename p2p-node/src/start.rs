//! From a [`Config`] to a node that accepts connections. Nothing here waits for the network.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::Read;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant, SystemTime};

use p2p_files::{Library, ServeStats};
use p2p_gossip::{AuthorState, Gossip, LogStore, Logged, Ranges, Restored, Undelivered};
use p2p_peers::views::{self, Views};
use p2p_peers::{LivenessConfig, LoadError, Loaded, PeerStore, PeerTable, Snapshot};
use p2p_wire::{NodeId, SecretKey};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::budget::Budget;
use crate::command::{ChosenTopics, Command};
use crate::config::{Config, LogMode};
use crate::convert;
use crate::data::DataDir;
use crate::driver::{Driver, DriverParts};
use crate::error::StartError;
use crate::event::Event;
use crate::hub::EventHub;
use crate::listen;
use crate::log::OpenLog;
use crate::own::{self, OwnAddrs};
use crate::records::CheckedRecords;
use crate::saved;
use crate::sequence::Sequence;
use crate::shared::{Handshakes, Shared};
use crate::stack::Stack;
use crate::submit::Submissions;
use crate::throttle::Rates;
use crate::tls::Tls;
use crate::transfer::MAX_FILE_CONNECTIONS;
use crate::watch::Watch;

/// Commands that wait for the driver; senders wait beyond.
const COMMANDS: usize = 1024;
/// The largest state file that is read.
const MAX_STATE_BYTES: u64 = 16 << 20;

/// Opens everything, binds the sockets and spawns the tasks.
pub(crate) fn start(config: Config, events: EventHub) -> Result<Arc<Shared>, StartError> {
    let data = DataDir::open(config.data_dir.as_deref())?;
    let (key, new_identity) = match &config.key {
        Some(key) => (key.clone(), false),
        None => data.identity()?,
    };
    let id = key.id();
    let node_listener = listen::bind(config.host, config.port)?;
    let file_listener = listen::bind(config.host, config.file_port)?;
    let (listen, file_listen) = (local_addr(&node_listener)?, local_addr(&file_listener)?);
    let tls = Tls::new(&key).map_err(|e| StartError::Config(format!("TLS: {e}")))?;
    let library =
        Library::open(data.path()).map_err(|e| StartError::Config(format!("share index: {}", causes(&e))))?;
    for warning in library.warnings() {
        warn(&events, warning.to_string());
    }
    let content_dir = config.content_dir.clone().unwrap_or_else(|| data.path().join("content"));
    let saved = load_peers(&data, &events)?;
    let sequence = Sequence::open(data.seq_path(), new_identity);
    let mut stack = stack(id, &config, sequence.run());
    let log = open_log(&config, &data, &key, &mut stack, &events)?;
    let reader = log.as_ref().map(|log| log.reader.clone());
    let own = OwnAddrs::new(listen, file_listen.port(), own::interfaces(), sequence.run());
    let (commands, command_queue) = mpsc::channel(COMMANDS);
    let topics = ChosenTopics::default();
    topics.set(config.topics.clone());
    let shared = Arc::new(Shared {
        id,
        key,
        content_dir,
        tls,
        library: Arc::new(library),
        log: reader,
        events,
        topics,
        commands,
        arrivals: crate::driver::Arrivals::default(),
        budget: Arc::new(Budget::new(config.limits.queue_bytes_total)),
        records: CheckedRecords::default(),
        too_fast: AtomicU64::new(0),
        drained: Arc::new(Notify::new()),
        submissions: Submissions::new(sequence),
        listen: vec![listen],
        file_listen: vec![file_listen],
        own_addrs: RwLock::new(own.addrs()),
        handshakes: Handshakes::new(config.limits.handshakes),
        file_connections: Arc::new(Semaphore::new(MAX_FILE_CONNECTIONS)),
        peer_connections: Mutex::default(),
        served: Arc::new(ServeStats::default()),
        watch: Watch::default(),
        up: Rates::up(&config.limits),
        down: Rates::down(&config.limits),
        fetches: Mutex::new(BTreeMap::new()),
        refused_connections: AtomicU64::new(0),
        tasks: TaskTracker::new(),
        stop: CancellationToken::new(),
        config,
        data,
    });
    let mut queue = None;
    if let Some(log) = log {
        let commands = shared.commands.clone();
        let (started, writer) = log.start(shared.events.clone(), move |author, seq, payload| {
            // The driver reads to its end, and then nobody is owed anything.
            commands.blocking_send(Command::OweReceipt { author, seq, payload }).ok();
        });
        // Holds what it has: the lock on the data directory among it.
        let held = Arc::clone(&shared);
        shared.tasks.spawn_blocking(move || {
            writer();
            drop(held);
        });
        queue = Some(started);
    }
    let parts = DriverParts { stack, commands: command_queue, own, log: queue, saved };
    shared.tasks.spawn(Driver::new(Arc::clone(&shared), parts).run());
    for listener in [node_listener, file_listener] {
        shared.tasks.spawn(listen::accept_loop(Arc::clone(&shared), listener));
    }
    tracing::info!(id = %id.short(), %listen, files = %file_listen, "node started");
    Ok(shared)
}

fn local_addr(listener: &TcpListener) -> Result<SocketAddr, StartError> {
    listener
        .local_addr()
        .map_err(|source| StartError::Listen { addr: SocketAddr::from(([0, 0, 0, 0], 0)), source })
}

fn stack(id: NodeId, config: &Config, first_seq: u64) -> Stack<StdRng> {
    let limits = &config.limits;
    let table = PeerTable::new(id, config.table(), StdRng::from_rng(&mut rand::rng()));
    let gossip_config = p2p_gossip::Config {
        log_store: if config.log == LogMode::Memory { LogStore::Copied } else { LogStore::Outside },
        author_entries_per_sec: limits.author_entries_per_sec,
        ..p2p_gossip::Config::default()
    };
    let mut gossip = Gossip::new(id, gossip_config, StdRng::from_rng(&mut rand::rng()));
    gossip.resume_at(first_seq);
    let views_config = views::Config { discover: config.discover, ..views::Config::default() };
    let views = Views::new(id, views_config, StdRng::from_rng(&mut rand::rng()));
    Stack::new(table, views, gossip, LivenessConfig::default())
}

/// The message log, if it is on disk. What was seen goes back into the core.
fn open_log(
    config: &Config,
    data: &DataDir,
    key: &SecretKey,
    stack: &mut Stack<StdRng>,
    events: &EventHub,
) -> Result<Option<OpenLog>, StartError> {
    if config.log == LogMode::Memory {
        return Ok(None);
    }
    let path = data.log_path();
    let mut log = OpenLog::open(&path, key, SystemTime::now())
        .map_err(|source| StartError::DataDir { path, source })?;
    for warning in &log.found.warnings {
        warn(events, warning.clone());
    }
    let author = |(author, seen): (NodeId, Ranges)| AuthorState {
        author,
        floor: seen.floor(),
        whole: seen.floor(),
        ranges: seen.above().to_vec(),
        delivered: None,
    };
    let logged = |(entry, len, age): (crate::log::Entry, usize, Duration)| Logged {
        id: convert::gossip_id(entry.id),
        len,
        age,
        hops: entry.hops,
        digest: entry.digest,
    };
    let authors = std::mem::take(&mut log.found.seen).into_iter().map(author).collect();
    let envelopes = std::mem::take(&mut log.found.logged).into_iter().map(logged).collect();
    let undelivered = |left: crate::log::Undelivered| Undelivered {
        id: convert::gossip_id(left.id),
        envelope: left.envelope,
        entries: left.entries,
    };
    let undelivered = std::mem::take(&mut log.found.undelivered).into_iter().map(undelivered).collect();
    stack.restore(Instant::now(), Restored { authors, envelopes, undelivered });
    events.set_logged(log.reader.end());
    Ok(Some(log))
}

/// The peer table of the last run, unchecked. A damaged one is moved aside with a warning; the node starts clean.
fn load_peers(data: &DataDir, events: &EventHub) -> Result<Option<Snapshot<NodeId>>, StartError> {
    let path = data.state_path();
    match PeerStore::new(path.clone()).load::<NodeId>() {
        Ok(None) => Ok(None),
        Ok(Some(Loaded { snapshot, skipped, .. })) => {
            if skipped > 0 {
                let entries = if skipped == 1 { "entry" } else { "entries" };
                warn(events, format!("{}: left out {skipped} {entries} that made no sense", path.display()));
            }
            Ok(Some(snapshot))
        }
        Err(error @ LoadError::Corrupt { .. }) => {
            warn(events, causes(&error));
            Ok(None)
        }
        Err(error) => Err(StartError::DataDir { path, source: std::io::Error::other(causes(&error)) }),
    }
}

/// Reads and checks a state file that the user names; it is left alone whatever it is.
pub(crate) fn read_snapshot(path: &Path, checked: &CheckedRecords) -> Result<Loaded<NodeId>, String> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|e| e.to_string())?;
    file.take(MAX_STATE_BYTES + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    let mut loaded: Loaded<NodeId> = Snapshot::decode(&bytes).map_err(|e| causes(&e))?;
    loaded.skipped += saved::drop_unsound(&mut loaded.snapshot, checked);
    Ok(loaded)
}

fn warn(events: &EventHub, text: String) {
    tracing::warn!("{text}");
    events.publish(Event::Warning(text));
}

/// An error with its causes, in one line.
pub(crate) fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
