//! Envelopes that were announced to us and are not here yet: who has them, and whom we asked.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::message::{EnvelopeId, Key, Span, ids_of};
use crate::offers::Offers;

/// The wanted ids. Each is asked of one announcer at a time; the others wait for their turn.
#[derive(Debug)]
pub(crate) struct Missing<P, A> {
    wants: BTreeMap<EnvelopeId<A>, Want<P>>,
    /// The same facts by neighbour; who has nothing to offer is not in it.
    offers: BTreeMap<P, Offers<A>>,
    next_order: u64,
    max_announced: usize,
    max_pulls: usize,
}

/// One wanted envelope. It has been asked for or has others to ask, or it is forgotten.
#[derive(Debug)]
struct Want<P> {
    /// First announced, first pulled.
    order: u64,
    /// When it was announced first.
    since: Instant,
    /// It is to be asked for; before that the tree may still bring it.
    due: bool,
    asked: Option<P>,
    /// Announcers not asked yet, in the order they came.
    others: Vec<P>,
}

/// What became of an announcement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Noted<A> {
    Yes,
    /// Its author has less than its share of a full list: the neighbour's announcement of this one was forgotten for it.
    InsteadOf(EnvelopeId<A>),
    /// The neighbour has announced too many.
    No,
}

impl<P: Key, A: Key> Missing<P, A> {
    pub(crate) fn new(max_announced: usize, max_pulls: usize) -> Self {
        Self { wants: BTreeMap::new(), offers: BTreeMap::new(), next_order: 0, max_announced, max_pulls }
    }

    /// Notes that `from` has the envelope.
    pub(crate) fn announce(&mut self, now: Instant, id: EnvelopeId<A>, from: P) -> Noted<A> {
        if let Some(want) = self.wants.get(&id)
            && (want.asked == Some(from) || want.others.contains(&from))
        {
            return Noted::Yes;
        }
        let mut noted = Noted::Yes;
        let offers = self.offers.get(&from);
        if offers.map_or(0, Offers::len) >= self.max_announced {
            let Some(other) = offers.and_then(|offers| offers.gives_way(id.author)) else { return Noted::No };
            self.withdraw(other, from);
            noted = Noted::InsteadOf(other);
        }
        let want = self.wants.entry(id).or_insert_with(|| {
            self.next_order += 1;
            // Most have one announcer, and a vector that grows from nothing has room for four.
            let others = Vec::with_capacity(1);
            Want { order: self.next_order, since: now, due: false, asked: None, others }
        });
        want.others.push(from);
        self.offers.entry(from).or_insert_with(Offers::new).insert(want.order, id);
        noted
    }

    /// Forgets that `from`, which was not asked, has the envelope.
    fn withdraw(&mut self, id: EnvelopeId<A>, from: P) {
        let Some(order) = self.wants.get(&id).map(|want| want.order) else { return };
        self.forget_offer(from, |offers| offers.remove(order, id));
        self.change(id, |want| want.others.retain(|peer| *peer != from));
    }

    /// From now on the id is to be asked for.
    pub(crate) fn set_due(&mut self, id: &EnvelopeId<A>) {
        if let Some(want) = self.wants.get_mut(id) {
            want.due = true;
        }
    }

    pub(crate) fn is_due(&self, id: &EnvelopeId<A>) -> bool {
        self.wants.get(id).is_some_and(|want| want.due)
    }

    /// The ids that the tree may still bring.
    pub(crate) fn waiting(&self) -> Vec<EnvelopeId<A>> {
        self.wants.iter().filter(|(_, want)| !want.due).map(|(id, _)| *id).collect()
    }

    /// The ids of an author with a seq in this range.
    pub(crate) fn within(&self, span: Span<A>) -> Vec<EnvelopeId<A>> {
        self.of(span.author).filter(|id| span.meets(&id.seqs())).copied().collect()
    }

    /// The ids of an author.
    pub(crate) fn of(&self, author: A) -> impl Iterator<Item = &EnvelopeId<A>> {
        self.wants.range(ids_of(author)).map(|(id, _)| id)
    }

    /// The lowest seq of an author that is to be asked for. Runs rise with the seqs, so it is of the first id.
    pub(crate) fn lowest(&self, author: A) -> Option<u64> {
        self.wants.range(ids_of(author)).find(|(_, want)| want.due).map(|(id, _)| id.first)
    }

    /// When the id was announced first.
    pub(crate) fn since(&self, id: &EnvelopeId<A>) -> Option<Instant> {
        Some(self.wants.get(id)?.since)
    }

    /// Picks whom to ask for an id that is due and asked of nobody: the first announcer that is ready and has a free
    /// pull.
    pub(crate) fn ask(&mut self, id: EnvelopeId<A>, mut ready: impl FnMut(P) -> bool) -> Option<P> {
        let want = self.wants.get_mut(&id)?;
        if want.asked.is_some() || !want.due {
            return None;
        }
        let (offers, max_pulls) = (&self.offers, self.max_pulls);
        let free = |peer: &P| offers.get(peer).is_some_and(|o| o.asked() < max_pulls);
        let turn = want.others.iter().position(|p| free(p) && ready(*p))?;
        let peer = want.others.remove(turn);
        want.asked = Some(peer);
        if let Some(offers) = self.offers.get_mut(&peer) {
            offers.ask(want.order, id);
        }
        Some(peer)
    }

    /// What `peer` may be asked for next, if it has a free pull: authors have their turns.
    pub(crate) fn next_of(
        &self,
        peer: P,
        mut wanted: impl FnMut(&EnvelopeId<A>) -> bool,
    ) -> Option<EnvelopeId<A>> {
        let offers = self.offers.get(&peer)?;
        if offers.asked() >= self.max_pulls {
            return None;
        }
        let unasked = |id: &EnvelopeId<A>| self.wants.get(id).is_some_and(|w| w.due && w.asked.is_none());
        offers.next(|id| unasked(id) && wanted(id))
    }

    /// Ends the pull of `id` at `from`, answered or not; the others keep their turn. Returns whether there
    /// was one.
    pub(crate) fn end_pull(&mut self, id: &EnvelopeId<A>, from: P) -> bool {
        let Some(want) = self.wants.get_mut(id) else {
            return false;
        };
        if want.asked != Some(from) {
            return false;
        }
        want.asked = None;
        if want.others.is_empty() {
            self.wants.remove(id);
        }
        self.forget_offer(from, |offers| offers.end(id));
        true
    }

    /// Whom the id is asked of.
    pub(crate) fn asked(&self, id: &EnvelopeId<A>) -> Option<P> {
        self.wants.get(id)?.asked
    }

    /// Forgets an id, and returns who announced it and was not asked in vain.
    pub(crate) fn remove(&mut self, id: &EnvelopeId<A>) -> Vec<P> {
        let Some(want) = self.wants.remove(id) else {
            return Vec::new();
        };
        for &peer in &want.others {
            self.forget_offer(peer, |offers| offers.remove(want.order, *id));
        }
        let mut announcers = want.others;
        if let Some(peer) = want.asked {
            self.forget_offer(peer, |offers| offers.end(id));
            announcers.push(peer);
        }
        announcers
    }

    /// Forgets a neighbour. Returns the ids it was asked for.
    pub(crate) fn down(&mut self, peer: P) -> Vec<EnvelopeId<A>> {
        let Some(offers) = self.offers.remove(&peer) else {
            return Vec::new();
        };
        let (asked, waiting) = offers.into_parts();
        for id in waiting {
            self.change(id, |want| want.others.retain(|p| *p != peer));
        }
        for &id in &asked {
            self.change(id, |want| want.asked = None);
        }
        asked.into_iter().collect()
    }

    pub(crate) fn contains(&self, id: &EnvelopeId<A>) -> bool {
        self.wants.contains_key(id)
    }

    pub(crate) fn len(&self) -> usize {
        self.wants.len()
    }

    fn change(&mut self, id: EnvelopeId<A>, change: impl FnOnce(&mut Want<P>)) {
        let Some(want) = self.wants.get_mut(&id) else {
            debug_assert!(false, "an offer is for a wanted id");
            return;
        };
        change(want);
        if want.asked.is_none() && want.others.is_empty() {
            self.wants.remove(&id);
        }
    }

    fn forget_offer(&mut self, peer: P, forget: impl FnOnce(&mut Offers<A>)) {
        let Some(offers) = self.offers.get_mut(&peer) else {
            debug_assert!(false, "an announcer has offers");
            return;
        };
        forget(offers);
        if offers.len() == 0 {
            self.offers.remove(&peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Announced, and to be asked for.
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the first")]
    fn announce(missing: &mut Missing<u32, u32>, id: EnvelopeId<u32>, from: u32) -> bool {
        let noted = missing.announce(Instant::now(), id, from);
        missing.set_due(&id);
        noted != Noted::No
    }

    fn id(first: u64) -> EnvelopeId<u32> {
        EnvelopeId { author: 1, run: 0, first, count: 1 }
    }

    #[test]
    fn announcers_are_asked_in_turn_and_then_it_is_forgotten() {
        let mut missing = Missing::new(10, 10);
        assert!(announce(&mut missing, id(0), 1) && announce(&mut missing, id(0), 2));
        assert_eq!(missing.ask(id(0), |_| true), Some(1));
        assert_eq!(missing.ask(id(0), |_| true), None);
        assert!(missing.end_pull(&id(0), 1));
        assert_eq!(missing.ask(id(0), |_| true), Some(2));
        assert!(!missing.end_pull(&id(0), 1));
        assert!(missing.end_pull(&id(0), 2));
        assert!(missing.wants.is_empty() && missing.offers.is_empty());
    }

    #[test]
    fn one_neighbour_has_few_pulls_and_a_bounded_list() {
        let mut missing = Missing::new(3, 2);
        for seq in 0..3 {
            assert!(announce(&mut missing, id(seq), 1));
        }
        assert!(!announce(&mut missing, id(3), 1));
        assert!(announce(&mut missing, id(2), 1), "said before");
        assert!(!announce(&mut Missing::new(0, 2), id(0), 1), "a list of none");
        assert_eq!(missing.ask(id(0), |_| true), Some(1));
        assert_eq!(missing.ask(id(1), |_| true), Some(1));
        assert_eq!(missing.ask(id(2), |_| true), None);
        assert_eq!(missing.next_of(1, |_| true), None);
        missing.remove(&id(0));
        assert_eq!(missing.next_of(1, |_| true), Some(id(2)));
    }

    #[test]
    fn a_neighbour_that_goes_leaves_nothing_behind() {
        let mut missing = Missing::new(10, 10);
        announce(&mut missing, id(0), 1);
        announce(&mut missing, id(0), 2);
        announce(&mut missing, id(1), 1);
        missing.ask(id(0), |_| true);
        assert_eq!(missing.down(1), [id(0)]);
        assert!(!missing.contains(&id(1)));
        assert_eq!(missing.ask(id(0), |_| true), Some(2));
        assert_eq!(missing.down(2), [id(0)]);
        assert!(missing.wants.is_empty() && missing.offers.is_empty());
    }
}
