//! The one loop around the [`Stack`]: sockets, clock and core meet only here.

mod admit;
mod begin;
mod copies;
mod deliver;
mod down;
mod dues;
mod end;
mod found;
mod handed;
mod hear;
mod late;
mod linger;
mod perform;
mod publish;
mod pulls;
mod receipts;
mod report;
mod saving;
mod tasks;

pub(crate) use receipts::MAX_AWAITED;
pub(crate) use tasks::{Arrivals, LinkTask};

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use p2p_peers::{DialFailure, Snapshot, Target};
use p2p_wire::NodeId;
use rand::rngs::StdRng;
use tokio::sync::{mpsc, oneshot};

use crate::claims::Claims;
use crate::command::{Agreed, Command, Provider, Topics};
use crate::event::{Direction, Event};
use crate::info::Connected;
use crate::keys::AuthorKeys;
use crate::link::LinkId;
use crate::log::LogQueue;
use crate::outbox::Outbox;
use crate::own::OwnAddrs;
use crate::packet::ByeReason;
use crate::query::QueryId;
use crate::shared::Shared;
use crate::stack::{Input, Stack};

use perform::PushCache;
use publish::Publisher;
use pulls::{LogRead, Pull};

/// Callers that wait for a link at once; more are refused at once.
const MAX_WAITERS: usize = 1024;
/// Questions of this node that are open at once; the oldest is forgotten when there are more.
const MAX_FINDERS: usize = 1024;

/// Turns in a row in which links had something to say, before commands are looked at first for once.
const MOST_HEARD: u32 = 8;

/// How long the driver sleeps when nothing is due.
const IDLE: Duration = Duration::from_secs(3600);

/// A link as the driver knows it.
#[derive(Debug)]
struct LinkHandle {
    id: LinkId,
    outbox: Arc<Outbox>,
    direction: Direction,
    name: Option<String>,
    agent: String,
    addr: SocketAddr,
    stage: Stage,
    /// It said goodbye with this reason.
    bye: Option<ByeReason>,
    /// What it asks for while its queue is full.
    pulls: VecDeque<Pull>,
    /// What is being read from the log on disk to be sent to it.
    reads: VecDeque<LogRead>,
    /// What it brought and was not heard yet.
    waiting: hear::Waiting,
    since: Instant,
    /// The application was told that its key is in use on two machines.
    is_copied: bool,
}

/// What the two sides have said about a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// One has asked, or will.
    Asked,
    /// It is a neighbour's.
    Agreed,
    /// It was.
    Over,
}

/// What was counted here; what the cores count they keep themselves.
#[derive(Debug, Default)]
struct Counters {
    messages_in: u64,
    messages_out: u64,
    unknown_frames: u64,
    /// Frames of the views above the rate of a link.
    walks_limited: u64,
    put_off: u64,
    unreadable_private: u64,
    control_queue_full: u64,
    /// Frames left out because the queue of their link was half full.
    spared: u64,
    unencodable: u64,
    pulls_full: u64,
    misbehaved: u64,
    finders_full: u64,
    unpublished: u64,
    receipts_unknown: u64,
    receipts_refused: u64,
    other_topics: u64,
    /// Turns in which links were not read because the disk was behind.
    log_behind: u64,
}

/// The task that owns a node's state.
pub(crate) struct Driver {
    shared: Arc<Shared>,
    stack: Stack<StdRng>,
    commands: mpsc::Receiver<Command>,
    tasks: tasks::LinkTasks,
    links: BTreeMap<NodeId, LinkHandle>,
    turns: hear::Turns,
    leavers: late::Leavers,
    /// Queues of links that got something of which their writers were not told yet.
    unrung: Vec<Arc<Outbox>>,
    /// Links that wait for answers to pulls.
    pulling: BTreeSet<NodeId>,
    /// Links that had no room for a push.
    owed: BTreeSet<NodeId>,
    next_link: u64,
    claims: Claims,
    copies: copies::Copies,
    waiters: Vec<(NodeId, oneshot::Sender<Agreed>)>,
    finders: BTreeMap<QueryId, mpsc::Sender<Provider>>,
    finder_order: VecDeque<QueryId>,
    publisher: Publisher,
    push_cache: PushCache,
    keys: AuthorKeys,
    own: OwnAddrs,
    counters: Counters,
    receipts: receipts::Receipts,
    /// Topics to deliver; `None`: all.
    topics: Option<Topics>,
    /// The log on disk, if there is one.
    log: Option<LogQueue>,
    upnp: String,
    started: Instant,
    next_pos: u64,
    saving: saving::Saving,
    linger: linger::Linger,
    handed: handed::Handed,
    /// What an earlier run knew, until it is checked.
    saved: Option<Snapshot<NodeId>>,
    /// It has said goodbye.
    ended: bool,
}

/// What [`Driver::new`] needs besides what is shared.
pub(crate) struct DriverParts {
    pub(crate) stack: Stack<StdRng>,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) own: OwnAddrs,
    pub(crate) log: Option<LogQueue>,
    /// The peers of an earlier run, as the file names them.
    pub(crate) saved: Option<Snapshot<NodeId>>,
}

impl Driver {
    pub(crate) fn new(shared: Arc<Shared>, parts: DriverParts) -> Self {
        let DriverParts { stack, commands, own, log, saved } = parts;
        let upnp = if shared.config.upnp { "searching" } else { "off" };
        Self {
            claims: Claims::new(shared.id),
            copies: copies::Copies::default(),
            topics: shared.config.topics.clone(),
            shared,
            stack,
            commands,
            tasks: tasks::LinkTasks::new(),
            links: BTreeMap::new(),
            turns: hear::Turns::default(),
            leavers: late::Leavers::default(),
            unrung: Vec::new(),
            pulling: BTreeSet::new(),
            owed: BTreeSet::new(),
            next_link: 0,
            waiters: Vec::new(),
            finders: BTreeMap::new(),
            finder_order: VecDeque::new(),
            publisher: Publisher::default(),
            push_cache: PushCache::default(),
            keys: AuthorKeys::default(),
            own,
            counters: Counters::default(),
            receipts: receipts::Receipts::default(),
            log,
            upnp: upnp.to_owned(),
            started: Instant::now(),
            next_pos: 1,
            saving: saving::Saving::default(),
            linger: linger::Linger::default(),
            handed: handed::Handed::default(),
            saved,
            ended: false,
        }
    }

    /// Runs until [`Command::Shutdown`].
    pub(crate) async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        self.reserve_numbers();
        self.publish_own_addrs();
        if let Some(saved) = self.saved.take() {
            self.restore(saved).await;
        }
        // These wait for as long as the node runs: what is made anew in each turn costs each message its locks.
        let mut stopped = pin!(shared.stop.cancelled());
        let mut submitted = pin!(shared.submissions.ready.notified());
        // Armed anew only when something is due earlier: most deadlines move back before they come.
        let mut alarm = pin!(tokio::time::sleep(IDLE));
        let mut heard_in_a_row = 0;
        loop {
            self.do_what_waits();
            let now = Instant::now();
            self.tell_compared(now);
            if self.depart(now) {
                break;
            }
            let due = self.due();
            if due < alarm.deadline().into_std() || alarm.is_elapsed() {
                alarm.as_mut().reset(due.into());
            }
            let room = self.log_has_room();
            self.counters.log_behind += u64::from(!room);
            let links_first = heard_in_a_row < MOST_HEARD;
            let waits = !self.turns.is_empty() || self.leavers.wait();
            let busy = !links_first || (room && waits) || self.may_publish();
            let heard = tokio::select! {
                biased;
                // Mostly it is a link that has something to say: then nothing else has to be asked.
                () = poll_fn(|context| self.tasks.poll_arrived(context, &shared.arrivals, room)), if links_first => true,
                () = &mut stopped => break,
                Some(command) = self.commands.recv() => {
                    // What was accepted before a command goes before it.
                    self.flush_messages(Duration::MAX);
                    self.on_command(command);
                    false
                }
                () = &mut submitted => {
                    submitted.set(shared.submissions.ready.notified());
                    false
                }
                () = shared.drained.notified(), if self.waits_for_room() => false,
                () = deliver::log_room(self.log.as_ref()), if !room => false,
                // Others on this thread, the links' writers among them, have their turn.
                () = tokio::task::yield_now(), if busy => false,
                () = &mut alarm => false,
            };
            heard_in_a_row = if heard { heard_in_a_row + 1 } else { 0 };
            self.tasks.awake();
            if self.log_has_room() {
                self.hear_links();
            }
            // What is due since this turn is seen in the next one.
            let now = Instant::now();
            if due <= now {
                self.on_clock(now);
            }
        }
        self.say_goodbye().await;
    }

    fn do_what_waits(&mut self) {
        self.perform_all();
        self.answer_pulls();
        self.push_owed();
        self.flush_messages(hear::TURN);
        if self.shared.data.is_kept() && self.saving.begin(Instant::now) {
            self.save_in_background();
        }
        self.ring_links();
    }

    fn due(&self) -> Instant {
        let due = [
            self.stack.poll_timeout(),
            self.publisher.retry_at(),
            self.receipts.deadline(),
            self.linger.deadline(),
            self.handed.ask_at(),
            self.copies.deadline(),
            self.saving.deadline(),
        ];
        due.into_iter().flatten().min().unwrap_or_else(|| Instant::now() + IDLE)
    }

    /// The writers of links learn of what was queued for them.
    fn ring_links(&mut self) {
        if !self.unrung.is_empty() {
            self.unrung.drain(..).for_each(|outbox| outbox.ring());
            self.tasks.go_on();
        }
    }

    fn on_clock(&mut self, now: Instant) {
        self.expire_receipts(now);
        self.give_due_receipts(now);
        self.warn_of_rivals(now);
        if self.handed.ask_at().is_some_and(|due| due <= now) {
            self.settle_handled(now);
        }
        if self.stack.poll_timeout().is_some_and(|due| due <= now) {
            self.stack.handle(now, Input::Timeout);
        }
    }

    fn on_command(&mut self, command: Command) {
        let now = Instant::now();
        match command {
            Command::Claim { peer, addr, reply } => self.on_claim(peer, addr, reply),
            Command::Run(link) => self.tasks.add(link),
            Command::Admit { offer, reply } => self.on_admit(now, *offer, reply),
            Command::DialFailed { target, cause } => {
                self.stack.handle(now, Input::DialFailed { target, cause })
            }
            Command::AlreadyLinked { target, peer } => {
                if let Target::Seed(seed) = target {
                    self.stack.with_table(now, |table, _| table.identify(seed, peer));
                }
                self.stack.handle(now, Input::DialFailed { target, cause: DialFailure::Duplicate });
            }
            Command::Holding { id, to, name } => self.on_holding(now, id, to, name),
            Command::OweReceipt { author, seq, payload } => self.give_receipt(author, seq, &payload),
            Command::Fetched { to, ticket, envelopes } => self.on_fetched(now, to, ticket, envelopes),
            Command::Reserved(result) => self.on_reserved(&result),
            Command::Saved(result) => self.on_saved(result),
            Command::Interfaces(ips) => self.on_interfaces(now, ips),
            Command::Mapped(mapped, text) => self.on_mapped(mapped, text),
            Command::AwaitLink { peer, reply } => self.on_await_link(peer, reply),
            Command::IsLinking { peer, reply } => {
                reply.send(self.is_linking(now, peer)).ok();
            }
            Command::LinkOf { peer, reply } => {
                let link = self.stack.links().find(|l| l.peer == peer);
                reply.send(link.map(|l| Connected::new(peer, l.addr, true))).ok();
            }
            Command::Want { peer, addrs } => self.on_want(now, peer, addrs),
            Command::Learn { peer, addrs } => self.on_learn(now, peer, addrs),
            Command::Seed(addr) => self.stack.handle(now, Input::Seed(addr)),
            Command::AddrsOf { peer, reply } => {
                reply.send(self.addrs_of(peer)).ok();
            }
            Command::Join => self.stack.with_table(now, |table, now| table.resume(now)),
            Command::Compare { reply } => self.on_compare(now, reply),
            Command::HandOver { reply } => self.on_hand_over(now, reply),
            Command::Leave { reply } => self.on_leave(now, reply),
            Command::Disconnect { peer, reply } => {
                let ended = self.stack.with_table(now, |table, now| table.disconnect(now, peer));
                self.perform_all();
                reply.send(ended).ok();
            }
            Command::Ban { peer, ban, reply } => {
                reply.send(self.on_ban(now, peer, ban)).ok();
            }
            Command::AwaitReceipt { wanted, reply } => {
                let ticket = self.receipts.expect(wanted);
                if let Err(Some(ticket)) = reply.send(ticket) {
                    self.receipts.forget(ticket);
                }
            }
            Command::ForgetReceipt(ticket) => self.receipts.forget(ticket),
            Command::Subscribe { topics, reply } => {
                self.shared.topics.set(topics.clone());
                self.topics = topics;
                reply.send(()).ok();
            }
            Command::Ask { hash, everybody, found, reply } => self.on_ask(now, hash, everybody, found, reply),
            Command::Peers { reply } => {
                reply.send(self.peers(now)).ok();
            }
            Command::Status { reply } => {
                reply.send(self.status(now)).ok();
            }
            Command::Snapshot { reply } => {
                reply.send(self.stack.snapshot()).ok();
            }
            Command::Restore { snapshot, reply } => {
                let restored = self.stack.with_table(now, |table, now| table.restore(now, *snapshot));
                reply.send(restored).ok();
            }
            Command::Shutdown { reply } => self.on_shutdown(now, reply),
        }
    }

    fn on_ban(&mut self, now: Instant, peer: NodeId, ban: bool) -> bool {
        if !ban {
            return self.stack.with_table(now, |table, _| table.unban(peer));
        }
        self.stack.with_table(now, |table, now| table.ban(now, peer, None));
        self.perform_all();
        true
    }

    fn on_await_link(&mut self, peer: NodeId, reply: oneshot::Sender<Agreed>) {
        if let Some(link) = self.stack.links().find(|l| l.peer == peer) {
            reply.send(Ok(Connected::new(peer, link.addr, true))).ok();
            return;
        }
        self.wait_for(peer, reply);
    }

    fn on_interfaces(&mut self, now: Instant, ips: Vec<IpAddr>) {
        if self.own.set_interfaces(ips) {
            self.publish_own_addrs();
            self.stack.handle(now, Input::NetworkChanged);
        }
    }

    fn on_mapped(&mut self, mapped: Vec<(u16, SocketAddr)>, text: String) {
        self.upnp.clone_from(&text);
        self.shared.events.publish(Event::Notice(format!("router: {text}")));
        if self.own.set_mapped(mapped) {
            self.publish_own_addrs();
        }
    }
}

/// An id for tests.
#[cfg(test)]
fn test_id(n: u64) -> NodeId {
    let mut id = [0; 32];
    id[..8].copy_from_slice(&n.to_be_bytes());
    NodeId::from_bytes(id)
}
