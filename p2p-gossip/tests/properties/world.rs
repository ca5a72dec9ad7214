//! A core at work, and what must hold after each step.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;
use p2p_gossip::{
    Config, Course, Input, LogStore, Logged, Message, Output, Read, Restored, Sum, Ticket, Undelivered,
};

use crate::actions::{Action, Outcome, PEERS};
use crate::net::{Core, Id, Out, announce, check, core, drain, forged, genuine, id, ms, start};

/// A core, and what a perfect observer knows of it.
pub(crate) struct World {
    now: Instant,
    pub(crate) core: Core,
    config: Config,
    up: BTreeSet<u32>,
    checks: Vec<(Ticket, Option<Sum>)>,
    answered: Vec<(Ticket, Option<Sum>)>,
    pub(crate) delivered: BTreeMap<(u32, u64), usize>,
    own_next: u64,
    /// Whether a neighbour that never lied about an id pushed it while up, by id.
    pub(crate) honest: BTreeSet<(u32, Id)>,
    pub(crate) lied: BTreeSet<(u32, Id)>,
    /// The log outside, which forgets nothing unless told that it did, and what was asked of it.
    outside: BTreeMap<Id, (Logged<u32>, Bytes)>,
    /// Appended by this core, and still to be delivered; delivered by it.
    to_come: BTreeSet<Id>,
    came: BTreeSet<Id>,
    reads: Vec<(Ticket, Vec<Id>)>,
}

impl World {
    pub(crate) fn new(config: Config) -> Self {
        Self {
            now: start(),
            core: core(0, config.clone()),
            config,
            up: BTreeSet::new(),
            checks: Vec::new(),
            answered: Vec::new(),
            delivered: BTreeMap::new(),
            own_next: 0,
            honest: BTreeSet::new(),
            lied: BTreeSet::new(),
            outside: BTreeMap::new(),
            to_come: BTreeSet::new(),
            came: BTreeSet::new(),
            reads: Vec::new(),
        }
    }

    pub(crate) fn act(&mut self, action: Action) {
        match action {
            Action::Up(peer) => {
                self.up.insert(peer);
                self.input(Input::NeighborUp(peer));
            }
            Action::Down(peer) => {
                self.up.remove(&peer);
                self.input(Input::NeighborDown(peer));
            }
            Action::Push { from, id, honest, len } => {
                let envelope = if honest { genuine(&id, len) } else { forged(&id, len) };
                if self.up.contains(&from) && envelope.len() <= self.config.max_envelope {
                    let list = if honest { &mut self.honest } else { &mut self.lied };
                    list.insert((from, id));
                }
                self.receive(
                    from,
                    Message::Push { id, hops: u16::MAX, course: Course::Anew, age: Duration::MAX, envelope },
                );
            }
            Action::IHave { from, ids, wait } => self.receive(from, announce(&ids, wait)),
            Action::IWant { from, ids } => self.receive(from, Message::IWant { ids }),
            Action::NoRoom { to, id } => {
                self.core.put_off(self.now, to, id, 1);
                self.observe();
            }
            Action::Owed(peer) => {
                for turn in 0.. {
                    assert!(turn < 1_000, "it ends");
                    let more = self.core.push_owed(self.now, peer);
                    self.observe();
                    if !more {
                        break;
                    }
                }
            }
            Action::Graft { from, id } => self.receive(from, Message::Graft { id }),
            Action::Prune(from) => self.receive(from, Message::Prune),
            Action::Digest { from, sums } => self.receive(from, Message::Digest { sums }),
            Action::Ranges { from, held } => self.receive(from, Message::Ranges { held }),
            Action::Pull { from, number, spans } => self.receive(from, Message::Pull { number, spans }),
            Action::Served { from, number, done, upto } => {
                self.receive(from, Message::Served { number, done, upto });
            }
            Action::Answer(at) => {
                if !self.checks.is_empty() {
                    let check = self.checks.swap_remove(at % self.checks.len());
                    self.answered.push(check);
                    self.input(Input::Verified { ticket: check.0, digest: check.1 });
                }
            }
            Action::AnswerAgain(at) => {
                if !self.answered.is_empty() {
                    let (ticket, _) = self.answered[at % self.answered.len()];
                    self.input(Input::Verified { ticket, digest: Some([0; 16]) });
                }
            }
            Action::Wait(time) => {
                self.now += ms(time);
                self.input(Input::Timeout);
                assert!(self.core.poll_timeout().is_none_or(|at| at > self.now), "no busy loop");
            }
            Action::Publish { skip, count, len } => self.publish(skip, count, len),
            Action::Read { at, outcome } => self.read(at, outcome),
            Action::Restart => self.restart(),
        }
    }

    fn read(&mut self, at: usize, outcome: Outcome) {
        if self.reads.is_empty() {
            return;
        }
        let (ticket, ids) = self.reads.swap_remove(at % self.reads.len());
        if outcome == Outcome::Lost {
            ids.iter().for_each(|id| drop(self.outside.remove(id)));
        }
        let read = |id| match self.outside.get(id) {
            _ if outcome == Outcome::Failed => Read::Failed,
            Some((_, bytes)) => Read::Found(bytes.clone()),
            None => Read::Gone,
        };
        let envelopes = ids.iter().map(read).collect();
        self.input(Input::Fetched { ticket, envelopes });
    }

    /// What was not delivered by then is told by the log outside.
    fn restart(&mut self) {
        let authors = self.core.author_states().collect();
        let envelopes = self.outside.values().map(|(entry, _)| *entry).collect();
        let undelivered = self.undelivered();
        self.core = core(0, self.config.clone());
        self.up.clear();
        self.checks.clear();
        self.answered.clear();
        self.reads.clear();
        self.to_come.clear();
        self.came.clear();
        self.core.restore(self.now, Restored { authors, envelopes, undelivered });
        self.observe();
    }

    fn undelivered(&self) -> Vec<Undelivered<u32>> {
        let mut taken: BTreeSet<_> = self.delivered.keys().copied().collect();
        let mut undelivered = Vec::new();
        for (&id, (_, envelope)) in &self.outside {
            let fresh = |(bit, seq)| if taken.insert((id.author, seq)) { 1_u64 << bit } else { 0 };
            let entries = id.seqs().enumerate().map(fresh).sum();
            undelivered.push(Undelivered { id, envelope: envelope.clone(), entries });
        }
        undelivered
    }

    fn receive(&mut self, from: u32, message: Message<u32>) {
        self.input(Input::Received { from, message });
    }

    fn publish(&mut self, skip: u64, count: u8, len: usize) {
        let id = id(0, 0, self.own_next.saturating_add(skip), count);
        let envelope = genuine(&id, len);
        let fits = envelope.len() <= self.config.max_envelope && id.is_valid();
        let published = self.core.publish(self.now, id, envelope);
        assert_eq!(published.is_ok(), fits, "{published:?}");
        if let Ok(queued) = published {
            self.own_next = id.seqs().end;
            assert_eq!(queued.links, self.up.len());
        }
        self.observe();
    }

    fn input(&mut self, input: Input<u32, u32>) {
        self.core.handle(self.now, input);
        self.observe();
    }

    fn observe(&mut self) {
        for output in drain(&mut self.core) {
            self.note(output);
        }
        let (stats, config) = (self.core.stats(), &self.config);
        assert!(stats.log_bytes <= config.log_bytes && stats.log_messages <= config.log_messages);
        assert!(stats.authors <= config.max_authors.max(1));
        assert!(stats.missing <= config.max_announced.saturating_mul(PEERS as usize));
        assert!(stats.held <= config.hold_messages.saturating_mul(4 * config.max_authors.clamp(1, 1 << 20)));
        let checks = config
            .max_open_checks
            .saturating_mul(2)
            .saturating_add(usize::try_from(config.range_messages).unwrap_or(usize::MAX));
        assert!(stats.open_checks <= checks.saturating_mul(PEERS as usize));
        assert_eq!(stats.open_checks, self.checks.len());
        assert_eq!(stats.neighbors, self.up.len());
    }

    fn note(&mut self, output: Out) {
        match output {
            Output::Send { to, message } => {
                assert!(self.up.contains(&to), "only to neighbours");
                if let Message::Push { id, envelope, .. } = message {
                    assert!(check(&id, &envelope).is_some(), "only what was verified");
                }
            }
            Output::Verify { ticket, id, envelope, .. } => {
                self.checks.push((ticket, check(&id, &envelope)));
            }
            Output::Append { entry, envelope, delivers } => {
                assert_eq!(check(&entry.id, &envelope), Some(entry.digest));
                assert!(!delivers || self.to_come.insert(entry.id) && !self.came.contains(&entry.id));
                self.outside.insert(entry.id, (entry, envelope));
            }
            Output::Drop { .. } => {}
            Output::Fetch { ticket, ids, .. } => {
                assert!(self.config.log_store == LogStore::Outside && ids.len() <= 256);
                self.reads.push((ticket, ids));
            }
            Output::Deliver { id, envelope, entries, .. } => {
                assert!(check(&id, &envelope).is_some() && id.author != 0 && entries != 0);
                self.to_come.remove(&id);
                assert!(self.came.insert(id), "an envelope is handed over at once");
                for (bit, seq) in id.seqs().enumerate() {
                    if entries >> bit & 1 == 1 {
                        *self.delivered.entry((id.author, seq)).or_default() += 1;
                    }
                }
                assert_eq!(entries.checked_shr(u32::from(id.count)).unwrap_or(0), 0);
            }
            Output::OwnAhead { id } => {
                assert_eq!(id.author, 0);
                self.own_next = self.own_next.max(id.seqs().end);
            }
            Output::Gap { missing } => assert!(missing.from < missing.to),
            Output::Forked { .. }
            | Output::HoldsOwn { .. }
            | Output::Withholds { .. }
            | Output::Misbehaved { .. } => {}
        }
    }

    /// Answers all checks and lets all times pass.
    pub(crate) fn settle(&mut self) {
        for _ in 0..4 {
            while !self.checks.is_empty() {
                self.act(Action::Answer(0));
            }
            // Each announcer in turn may leave us waiting.
            for _ in 0..20 {
                self.act(Action::Wait(3_000));
            }
        }
    }

    pub(crate) fn assert_at_most_once(&self) {
        assert!(self.to_come.is_empty(), "said to be delivered, and never was");
        for (message, times) in &self.delivered {
            assert_eq!(*times, 1, "{message:?}");
        }
    }
}
