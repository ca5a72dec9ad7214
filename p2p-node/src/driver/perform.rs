//! Carries out what the [`Stack`](crate::Stack) wants. Nothing here waits.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use p2p_files::FileHash;
use p2p_gossip::{Course, Span, Ticket};
use p2p_peers::{DialFailure, PeerStore, Target};
use p2p_wire::{Envelope, EnvelopeId, MAX_FILE_NAME, NodeId, encode_frame};
use tokio::sync::{mpsc, oneshot};

use crate::backlog::Item;
use crate::command::{Command, Provider};
use crate::convert;
use crate::event::Event;
use crate::packet::Packet;
use crate::query::{Answer, Query, QueryId, TTL};
use crate::stack::{Hangup, Input, Output};

use super::{Driver, MAX_FINDERS, found};

/// The last push as a frame: the same one goes to every neighbour.
#[derive(Debug, Default)]
pub(super) struct PushCache {
    last: Option<(EnvelopeId, Hint, Bytes, Bytes)>,
}

type Hint = (u16, Course, Duration);

impl PushCache {
    fn frame(&mut self, packet: &Packet) -> Option<Bytes> {
        let Packet::Push { id, hops, course, age, envelope } = packet else {
            return encode(packet);
        };
        match &self.last {
            Some((i, hint, e, frame))
                if i == id && *hint == (*hops, *course, *age) && e.as_ptr() == envelope.as_ptr() =>
            {
                Some(frame.clone())
            }
            _ => {
                let frame = encode(packet)?;
                self.last = Some((*id, (*hops, *course, *age), envelope.clone(), frame.clone()));
                Some(frame)
            }
        }
    }
}

fn encode(packet: &Packet) -> Option<Bytes> {
    encode_frame(packet).inspect_err(|e| tracing::error!(error = %e, "a frame could not be encoded")).ok()
}

impl Driver {
    /// Carries out everything that is waiting.
    pub(super) fn perform_all(&mut self) {
        while let Some(output) = self.stack.poll_output() {
            self.perform(output);
        }
    }

    fn perform(&mut self, output: Output) {
        match output {
            Output::Send { to, packet } => self.send(to, &packet),
            Output::Dial { target: target @ Target::Peer(peer), .. } if self.links.contains_key(&peer) => {
                let cause = DialFailure::Duplicate;
                self.stack.handle(Instant::now(), Input::DialFailed { target, cause });
            }
            Output::Dial { target, addrs } => self.dial(target, addrs),
            Output::Hangup { peer, reason } => self.hang_up(peer, reason),
            Output::Up(peer) => self.on_up(peer),
            Output::Down(peer) => self.on_down(peer),
            Output::Verify { ticket, id, envelope } => self.verify(ticket, id, envelope),
            Output::Append { entry, envelope, delivers } => self.log_envelope(&entry, envelope, delivers),
            Output::Fetch { ticket, to, ids, bytes } => self.begin_read(ticket, to, ids, bytes),
            Output::Deliver { envelope, entries, late } => self.deliver(envelope, entries, late),
            Output::Lookup { id, hash, from } => self.look_up(id, hash, from),
            Output::Found { id, provider, records, name, private } => {
                let addrs = found::believed(self.stack.table(), provider, records, private);
                self.found(id, Provider { id: provider, addrs, name });
            }
            Output::OwnAhead(id) => self.on_own_ahead(id),
            Output::HoldsOwn { from, to } => self.handed.held(from, to),
            Output::Gap(Span { author, from, to }) => {
                self.shared.events.publish(Event::Gap { author, from, to: to.saturating_sub(1) });
            }
            Output::Forked(author) => self.shared.events.publish(Event::Forked { author }),
            Output::Misbehaved { peer, fault } => {
                self.counters.misbehaved += 1;
                let text =
                    format!("{} broke the protocol: {fault}; it is kept out for 10 minutes", peer.short());
                tracing::warn!(peer = %peer.short(), %fault, "misbehaved");
                self.shared.events.publish(Event::Warning(text));
                self.hang_up(peer, Hangup::Misbehaved);
            }
            Output::Save => self.saving.change(),
        }
    }

    fn send(&mut self, to: NodeId, packet: &Packet) {
        let Some(link) = self.links.get(&to) else { return };
        let Some(frame) = self.push_cache.frame(packet) else {
            self.counters.unencodable += 1;
            return;
        };
        if !link.outbox.is_unrung() {
            self.unrung.push(Arc::clone(&link.outbox));
        }
        if let Packet::Push { id, hops, .. } = packet {
            // Too much for this link just now: what has no room follows when there is some.
            let me = self.shared.id;
            let followed = self.handed.waits_for(id) && !link.outbox.is_closed();
            let item = Item { id: *id, hops: *hops, frame, followed };
            let displaced = link.outbox.push_message(item);
            if followed && displaced.iter().all(|item| item.id != *id) {
                self.handed.sent(Instant::now(), to, *id);
            }
            for Item { id: other, hops, .. } in displaced {
                if other.author == me && other != *id {
                    self.handed.displaced(to, &other);
                }
                self.counters.put_off += 1;
                self.owed.insert(to);
                self.stack.put_off(Instant::now(), to, other, hops);
            }
            return;
        }
        if packet.can_be_spared() {
            self.counters.spared += u64::from(link.outbox.push_spare(frame).is_err());
            return;
        }
        let queued = if matches!(packet, Packet::Served { .. }) {
            // It says that the answer before it is complete.
            link.outbox.push_behind(frame)
        } else {
            link.outbox.push_control(frame)
        };
        if queued.is_err() {
            self.counters.control_queue_full += 1;
            self.hang_up(to, Hangup::Unread);
        }
    }

    fn dial(&self, target: Target<NodeId>, addrs: Vec<SocketAddr>) {
        let shared = Arc::clone(&self.shared);
        let expected = match target {
            Target::Peer(peer) => Some(peer),
            Target::Seed(_) => None,
        };
        self.shared.tasks.spawn(async move {
            let dial = crate::dial::establish(&shared, addrs, expected, target, false);
            let result = tokio::select! {
                () = shared.stop.cancelled() => return,
                result = dial => result,
            };
            let command = match result {
                Ok(connected) if connected.already => Command::AlreadyLinked { target, peer: connected.id },
                Ok(_) => return,
                Err(failed) => {
                    tracing::debug!(?target, error = %failed.error, "dial failed");
                    Command::DialFailed { target, cause: failed.cause }
                }
            };
            shared.commands.send(command).await.ok();
        });
    }

    fn verify(&mut self, ticket: Ticket, id: EnvelopeId, envelope: Bytes) {
        let genuine = Envelope::decode(envelope).ok().filter(|e| e.id() == id);
        let digest = genuine.and_then(|e| self.keys.verify(&e).ok()).map(convert::sum);
        self.stack.handle(Instant::now(), Input::Verified { ticket, digest });
    }

    /// Somebody asks for a file. The index is on disk, so a blocking thread looks.
    fn look_up(&self, id: QueryId, hash: FileHash, from: NodeId) {
        let shared = Arc::clone(&self.shared);
        self.shared.tasks.spawn(async move {
            let library = Arc::clone(&shared.library);
            let look = move || {
                let whole = library.on_offer(&hash);
                let name = whole.map(|share| Some(share.name).filter(|n| n.len() <= MAX_FILE_NAME));
                // Who is fetching it gives what it has so far; its name is hearsay.
                name.or_else(|| library.is_fetching(&hash).then_some(None))
            };
            if let Ok(Some(name)) = tokio::task::spawn_blocking(look).await {
                shared.commands.send(Command::Holding { id, to: from, name }).await.ok();
            }
        });
    }

    pub(super) fn on_holding(&mut self, now: Instant, id: QueryId, to: NodeId, name: Option<String>) {
        let Some(link) = self.stack.links().find(|l| l.peer == to) else { return };
        let records = self.own.records(&self.shared.key, crate::own::is_private(link.addr.ip()));
        let records = records.iter().map(|r| r.bytes().clone()).collect();
        let answer = Answer { id, provider: self.shared.id, records, name };
        self.stack.handle(now, Input::Holding { to, answer });
    }

    fn found(&self, id: QueryId, provider: Provider) {
        let Some(finder) = self.finders.get(&id) else { return };
        // The finder has room for as many answers as can come; a slow one loses surplus providers only.
        finder.try_send(provider).ok();
    }

    pub(super) fn on_ask(
        &mut self,
        now: Instant,
        hash: FileHash,
        everybody: bool,
        found: mpsc::Sender<Provider>,
        reply: oneshot::Sender<usize>,
    ) {
        let id: QueryId = rand::random();
        self.finders.retain(|_, finder| !finder.is_closed());
        self.finder_order.retain(|id| self.finders.contains_key(id));
        if self.finders.len() >= MAX_FINDERS
            && let Some(oldest) = self.finder_order.pop_front()
        {
            self.finders.remove(&oldest);
            self.counters.finders_full += 1;
        }
        self.finders.insert(id, found);
        self.finder_order.push_back(id);
        let query = Query::sign(&self.shared.key, id, hash, if everybody { TTL } else { 1 });
        reply.send(self.stack.ask(now, &query)).ok();
    }

    pub(super) fn save_in_background(&mut self) {
        let shared = Arc::clone(&self.shared);
        let snapshot = self.stack.snapshot();
        self.shared.tasks.spawn(async move {
            let path = shared.data.state_path();
            let write = tokio::task::spawn_blocking(move || {
                let peers = snapshot.peers.len();
                PeerStore::new(path).save(&snapshot).map(|()| peers).map_err(|e| crate::start::causes(&e))
            });
            let result = write.await.unwrap_or_else(|e| Err(e.to_string()));
            shared.commands.send(Command::Saved(result)).await.ok();
        });
    }

    pub(super) fn on_saved(&mut self, result: Result<usize, String>) {
        let news = self.saving.end(Instant::now(), result.is_ok());
        match result {
            Ok(peers) => tracing::debug!(peers, "peer table saved"),
            Err(error) if !news => tracing::error!(%error, "the peer table could still not be saved"),
            Err(error) => {
                tracing::error!(%error, "the peer table could not be saved");
                let text = format!("the peer table could not be saved: {error}");
                self.shared.events.publish(Event::Warning(text));
            }
        }
    }

    pub(super) fn now_ms() -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}
