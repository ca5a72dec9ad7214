//! The limits and times of one core, each with its reason.

use std::time::Duration;

/// Limits and times. A limit of 0 refuses everything it limits; no value makes the core panic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Largest envelope, in bytes. Larger ones are refused by [`publish`](crate::Gossip::publish) and are a
    /// fault of the neighbour that pushes them. 1 MiB of payload plus 32 KiB, so that a push fits a frame of
    /// 1 MiB + 64 KiB.
    pub max_envelope: usize,
    /// Envelopes larger than this, in bytes, are announced and pulled, never pushed unasked. A push of a
    /// large envelope to a neighbour that has it costs more than the round trip that an announcement costs.
    /// 32 KiB: a guess, to be measured.
    pub eager_limit: usize,

    /// Checks that one neighbour may have open before [`ready_for`](crate::Gossip::ready_for) says no;
    /// waiting copies count too. Up to twice as many are taken, for what was read already; then a push counts
    /// as an announcement only. 64: at 50 µs a check, 3 ms of work of one core.
    pub max_open_checks: usize,
    /// The same in bytes of envelopes. 2 MiB, half of what one peer may cost in all.
    pub max_open_bytes: usize,
    /// Superfluous copies of one envelope from one neighbour before each further one is a fault. 10:
    /// reconnects and crossing pulls make a few, honestly.
    pub max_duplicates: u32,

    /// Authors remembered; exactly-once holds for these. When full, envelopes of new authors are refused and
    /// counted: to forget a known one would let its old messages be delivered again. 65,536.
    pub max_authors: usize,
    /// New authors that one neighbour may introduce, per second. What is above is refused and counted.
    pub new_authors_per_sec: u32,
    /// New authors that one neighbour may introduce at once. 1,000: a node that joins meets everyone through
    /// a few links.
    pub new_authors_burst: u32,
    /// Ranges of seen seqs kept for one author. When full, the floor rises over the lowest range: seqs in the
    /// hole under it that come later are refused and counted, none is delivered twice. 4,096, as many as one neighbour may announce:
    /// what a full link announces instead of pushing is a hole until it is asked for, and a burst of 100,000 messages left 296 open.
    pub max_ranges: usize,
    /// Ranges kept for all authors together; above, the author that adds one gives up its lowest hole. One
    /// range per author is always kept. 1,048,576, of 16
    /// bytes each.
    pub max_ranges_total: usize,

    /// Ids in one announcement; more is a fault and the whole announcement is dropped. 1,000.
    pub max_ids: usize,
    /// Ids that one neighbour announced and nobody sent yet. When full, the newest of the author that has most in it
    /// gives way to those that have less; the rest is refused. Both are counted. 4,096: a guess, far above what a burst
    /// of large envelopes announces.
    pub max_announced: usize,
    /// Pulls open at one neighbour at once; further ones wait, and authors have their turns. 64.
    pub max_pulls: usize,
    /// How long a pulled envelope may take before another announcer is asked. 3 s, as gossipsub's promises.
    pub pull_timeout: Duration,
    /// Times that one envelope is sent to one neighbour because it asked; further requests are ignored and
    /// counted. 3, as gossipsub's retransmissions.
    pub max_answers: u32,
    /// How long after the last of them they are forgotten. A link that ends and comes back changes nothing. 10 min, as long
    /// as one that broke the protocol is kept out.
    pub answers_age: Duration,

    /// Entries of one author that are pushed on per second, with as many at once; envelopes above are announced only, as
    /// large ones are, and counted. `None`: no limit, the default.
    pub author_entries_per_sec: Option<u32>,

    /// How long announcements wait for company, on average; each time a random part between a quarter and seven
    /// quarters of it. A lazy link then costs a small frame now and then and, mostly, one announcement per envelope
    /// instead of one each way: who is told meanwhile need not tell. It delays repair by as much. 300 ms: with 10
    /// links of 10 to 50 ms, 1.2 announcements per lazy link; with 200 ms and half to one and a half, 1.5.
    pub ihave_delay: Duration,
    /// Announcements (frames) sent to one neighbour per second, and twice as many at once; what is above waits.
    /// 8, below the next one.
    pub ihaves_sent_per_sec: u32,
    /// Announcements (frames) taken from one neighbour per second, and ten times as many at once; those above are
    /// dropped and counted. 10, as gossipsub.
    pub ihaves_per_sec: u32,
    /// Shortest wait from the first announcement of an envelope to the GRAFT, if the tree does not bring it. The wait
    /// follows what was measured (mean and four deviations, as TCP's retransmission timer, RFC 6298). 150 ms: in our
    /// trial 40 to 80 ms cost a half more copies with random senders, 150 ms almost nothing.
    pub graft_min: Duration,
    /// Longest such wait. 3 s.
    pub graft_max: Duration,
    /// GRAFTs of one neighbour per minute that change the tree; further ones only get their envelope. We send fewer
    /// than that, and half as many to replace links that went, to all neighbours together. 10 (faults row 20).
    pub grafts_per_min: u32,
    /// Messages after which one may flood to make the tree anew, if the tree serves another author than the one that
    /// sends nearly all, or half of the links are new. 300: with 10 links it costs 3 % more copies at the most.
    pub renew_after: u32,
    /// Envelopes of late whose arrival is remembered, and whose announcement may still wait. 2,048: a second of a busy network.
    pub max_recent: usize,
    /// Pulls that a neighbour may leave unanswered in a row before its announcements count for nothing for a minute.
    /// 5 (faults row 18).
    pub broken_promises: u32,
    /// Messages of which a lazy neighbour sent and announced none before it is reported. 40: every sixteenth
    /// announcement that could be spared is made all the same, so an honest neighbour shows two or three. (Faults row 25
    /// names 20.)
    pub withheld_messages: u32,
    /// The time in which that happens at the least. 60 s (faults row 25).
    pub withheld_time: Duration,

    /// How long an envelope stays in the log, by its age: the time since it was published, as far as is known. 24 h.
    pub log_age: Duration,
    /// Where the envelopes of the log are. Copied.
    pub log_store: LogStore,
    /// Bytes of envelopes in the log. When full, the author that holds most bytes loses its oldest. 64 MiB.
    pub log_bytes: usize,
    /// Envelopes in the log, with the same rule. 100,000.
    pub log_messages: usize,

    /// A neighbour is asked for what was missed this long after it said what it holds. 500 ms: what was just sent comes
    /// through the tree meanwhile, and is not asked for.
    pub catch_up_delay: Duration,
    /// Bytes of envelopes that answer one pull of what was missed, at the least one envelope. The next one is made after
    /// a pause of three times what it took, so three quarters of the link stay free. 256 KiB.
    pub range_bytes: usize,
    /// Seqs that one such pull asks for. What is asked of one neighbour is not asked of another. 512.
    pub range_messages: u64,
    /// Such pulls taken from one neighbour per second, and ten times as many at once; those above are ignored and
    /// counted. We send four fifths of it. 10.
    pub range_pulls_per_sec: u32,
    /// How long a neighbour may send nothing of what it was asked for before another is asked. 5 s.
    pub range_timeout: Duration,
    /// Ranges remembered that one neighbour says it holds, and lines of one such message; what is above is refused and
    /// counted. 1,024: about what 64 KiB hold.
    pub max_claims: usize,
    /// Bytes of digests and ranges sent to one neighbour at once, about. 64 KiB.
    pub summary_bytes: u32,
    /// How fast that refills, in bytes per second. 1,024: full again after a minute.
    pub summary_bytes_per_sec: u32,
    /// How often one neighbour, a random one, is told the digest of the log, so that what got lost without a link going
    /// is noticed too. 60 s.
    pub digest_every: Duration,
    /// What was asked for and is older than this goes on by IHAVE alone: others are catching up too, and would get it
    /// twice. 5 s.
    pub history_age: Duration,
    /// How long what comes live is held back while older messages of its author are being handed over. 30 s.
    pub catch_up_hold: Duration,
    /// How long every neighbour has to lack what is missing inside a run before the application is told. 60 s.
    pub gap_after: Duration,
    /// Such holes remembered; the oldest is forgotten first, and counted. 1,024.
    pub max_holes: usize,

    /// How long a hole holds an author's later messages back. 1 s: in a flood the hole fills within a few
    /// round trips or not at all.
    pub hold_time: Duration,
    /// Envelopes held back for one author; one more gives the lowest hole up. 256, and four times as many while older
    /// ones are being handed over.
    pub hold_messages: usize,
    /// The same in bytes. 8 MiB: with that of one largest message, two that changed places were a hole given up.
    pub hold_bytes: usize,
    /// Bytes held back for all authors together; what comes when it is full is not held back. 64 MiB.
    pub hold_bytes_total: usize,
}

/// Where the envelopes of the log are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStore {
    /// In the core, copied: an envelope may be a slice of a read buffer, which would stay alive with it for a day.
    Copied,
    /// In the core, as they came: where each envelope is an allocation of its own, shared by many cores.
    Shared,
    /// In a log outside: the core keeps an index of it, and asks for envelopes by
    /// [`Output::Fetch`](crate::Output::Fetch).
    Outside,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_envelope: 1024 * 1024 + 32 * 1024,
            eager_limit: 32 * 1024,
            max_open_checks: 64,
            max_open_bytes: 2 * 1024 * 1024,
            max_duplicates: 10,
            max_authors: 65_536,
            new_authors_per_sec: 5,
            new_authors_burst: 1_000,
            max_ranges: 4_096,
            max_ranges_total: 1024 * 1024,
            max_ids: 1_000,
            max_announced: 4_096,
            max_pulls: 64,
            pull_timeout: Duration::from_secs(3),
            max_answers: 3,
            answers_age: Duration::from_secs(10 * 60),
            author_entries_per_sec: None,
            ihave_delay: Duration::from_millis(300),
            ihaves_sent_per_sec: 8,
            ihaves_per_sec: 10,
            graft_min: Duration::from_millis(150),
            graft_max: Duration::from_secs(3),
            grafts_per_min: 10,
            renew_after: 300,
            max_recent: 2_048,
            broken_promises: 5,
            withheld_messages: 40,
            withheld_time: Duration::from_secs(60),
            log_age: Duration::from_secs(24 * 60 * 60),
            log_store: LogStore::Copied,
            log_bytes: 64 * 1024 * 1024,
            log_messages: 100_000,
            catch_up_delay: Duration::from_millis(500),
            range_bytes: 256 * 1024,
            range_messages: 512,
            range_pulls_per_sec: 10,
            range_timeout: Duration::from_secs(5),
            max_claims: 1_024,
            summary_bytes: 64 * 1024,
            summary_bytes_per_sec: 1_024,
            digest_every: Duration::from_secs(60),
            history_age: Duration::from_secs(5),
            catch_up_hold: Duration::from_secs(30),
            gap_after: Duration::from_secs(60),
            max_holes: 1_024,
            hold_time: Duration::from_secs(1),
            hold_messages: 256,
            hold_bytes: 8 * 1024 * 1024,
            hold_bytes_total: 64 * 1024 * 1024,
        }
    }
}
