//! Counters: nothing is dropped or refused without one.

/// Counters since the core was made, and a few gauges at the end. Numbers of envelopes unless said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Published here.
    pub published: u64,
    /// Verified and new, so logged and forwarded; our own not counted.
    pub verified: u64,
    /// Messages (entries) delivered.
    pub delivered: u64,
    /// Messages (entries) delivered after a later one of the same author; part of `delivered`.
    pub delivered_late: u64,
    /// Holes given up: their time was over or too much was held back.
    pub holes_given_up: u64,

    /// Pushes sent, answers to pulls included.
    pub pushes_sent: u64,
    /// Ids announced to neighbours.
    pub ihaves_sent: u64,
    /// Pushes that the caller could not queue: they follow later, or were announced.
    pub put_off: u64,
    /// Envelopes that were forgotten before they were announced, because more came than can be announced.
    pub announcements_lost: u64,
    /// Not pushed on but announced, because their author sends more than its rate.
    pub author_too_fast: u64,
    /// GRAFTs sent that change the tree.
    pub grafts_sent: u64,
    /// PRUNEs sent.
    pub prunes_sent: u64,
    /// Messages that made the tree anew.
    pub renewals: u64,
    /// Envelopes of our own that went to a second neighbour, since neighbours come and go.
    pub doubled: u64,
    /// Pushes of the tree that brought nothing new.
    pub redundant: u64,
    /// GRAFTs that changed nothing, because the neighbour sends too many.
    pub refused_grafts: u64,
    /// Announcements dropped whole, because the neighbour sends too many or too long ones.
    pub refused_ihaves: u64,

    /// Copies dropped because all their seqs were verified before, or the same neighbour had sent one
    /// already.
    pub duplicates: u64,
    /// Copies dropped unchecked, because a copy with other bytes proved to be the genuine one.
    pub copies_unchecked: u64,
    /// Copies whose check failed.
    pub forged: u64,
    /// Ids that cannot be.
    pub refused_malformed: u64,
    /// Pushes above the size limit.
    pub refused_too_large: u64,
    /// Copies at or under an author's floor, of which some seq was perhaps never seen.
    pub refused_old: u64,
    /// Seqs that a rising floor gave up unseen. Not all of them need to exist.
    pub seqs_given_up: u64,
    /// Pushes and announced ids refused because the neighbour introduces new authors too fast.
    pub refused_new_authors: u64,
    /// Pushes and announced ids of new authors refused because the table of authors is full.
    pub refused_authors_full: u64,
    /// Pushes taken as announcements only, because the neighbour had too many checks open.
    pub refused_busy: u64,
    /// Announced ids refused, or forgotten for those of another author, because the neighbour had too many announced.
    pub refused_announced: u64,
    /// Messages of someone who is not a neighbour.
    pub not_neighbor: u64,
    /// Authors that were not restored because the table was full.
    pub restored_refused: u64,
    /// Answers with a ticket that is not open.
    pub unknown_tickets: u64,
    /// Valid envelopes of our own author that came back from outside and were unknown here, not delivered.
    pub own_returned: u64,
    /// Of those, the ones ahead of our own numbers.
    pub own_ahead: u64,

    /// Pulls sent.
    pub pulls_sent: u64,
    /// Pulls that were not answered in time.
    pub pulls_timed_out: u64,
    /// Announced envelopes forgotten, because nobody who announced them is left to ask.
    pub pulls_abandoned: u64,
    /// Pulls of neighbours answered.
    pub pulls_answered: u64,
    /// Pulls of neighbours ignored because they had the envelope often enough.
    pub pulls_refused: u64,
    /// Pulls of neighbours for envelopes that are not in the log.
    pub pulls_unknown: u64,

    /// Envelopes that were missed and handed over by a neighbour that was asked for a range of them.
    pub caught_up: u64,
    /// Ranges of missed seqs that neighbours were asked for.
    pub ranges_pulled: u64,
    /// Pulls of ranges that were not answered in time.
    pub ranges_timed_out: u64,
    /// Answers to pulls of ranges that are not open.
    pub unknown_answers: u64,
    /// Ranges that a neighbour said it holds and that were not remembered, because it said so of too many.
    pub refused_claims: u64,
    /// Digests of a neighbour above one a second, 20 at once.
    pub refused_digests: u64,
    /// Digests and lists of ranges that were not sent, or cut off, because the neighbour has got its share.
    pub summaries_spared: u64,

    /// Holes inside a run that nobody had and the application was told of.
    pub gaps: u64,
    /// Holes forgotten because there were too many.
    pub holes_forgotten: u64,
    /// Authors who signed two envelopes with one seq.
    pub forked: u64,

    /// Envelopes dropped from the log because they grew old.
    pub log_expired: u64,
    /// Envelopes not logged, because they were too old when they came.
    pub log_too_old: u64,
    /// Envelopes dropped from the log because it was full.
    pub log_evicted: u64,

    /// Gauge: envelopes in the log.
    pub log_messages: usize,
    /// Gauge: bytes of envelopes in the log.
    pub log_bytes: usize,
    /// Gauge: authors known, ourselves included.
    pub authors: usize,
    /// Gauge: envelopes being checked.
    pub open_checks: usize,
    /// Gauge: envelopes announced and not yet here.
    pub missing: usize,
    /// Gauge: envelopes held back by a hole before them.
    pub held: usize,
    /// Neighbours that left so many pulls unanswered that their announcements counted for nothing for a minute.
    pub promises_broken: u64,
    /// Gauge: neighbours.
    pub neighbors: usize,
    /// Gauge: neighbours that small envelopes are pushed to.
    pub eager: usize,
}
