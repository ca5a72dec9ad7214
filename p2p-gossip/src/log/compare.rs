//! What neighbours compare of the log, and ask for: sums and ranges.

use std::collections::BTreeMap;

use crate::message::{EnvelopeId, Held, Key, MAX_ENTRIES, Span, Sum};
use crate::sums;

use super::{Entry, Log, Place};

impl<P: Key, A: Key> Log<P, A> {
    /// Into which of 256 buckets an author belongs. Only while the log is empty.
    pub(crate) fn set_buckets(&mut self, bucket_of: fn(&A) -> u8) {
        self.sums.set_buckets(bucket_of);
    }

    pub(crate) fn bucket_of(&self, author: &A) -> usize {
        self.sums.bucket_of(author).into()
    }

    /// The sum of all envelopes.
    pub(crate) fn sum(&mut self) -> Sum {
        self.index_fresh();
        let Self { entries, sums, .. } = self;
        sums.whole(digests(entries))
    }

    /// The sums of the buckets.
    pub(crate) fn bucket_sums(&mut self) -> Vec<Sum> {
        self.index_fresh();
        let Self { entries, sums, .. } = self;
        sums.buckets(digests(entries))
    }

    /// The authors of these buckets, those with the newest envelopes first.
    pub(crate) fn authors_of(&mut self, buckets: impl IntoIterator<Item = usize>) -> Vec<A> {
        self.index_fresh();
        let authors = buckets.into_iter().flat_map(|bucket| self.sums.authors(bucket));
        let newest = |author: A| Some((self.authors.get(&author)?.due.last().copied()?, author));
        let mut authors: Vec<_> = authors.filter_map(newest).collect();
        authors.sort_unstable_by(|a, b| b.cmp(a));
        authors.into_iter().map(|(_, author)| author).collect()
    }

    /// The same, rising.
    pub(crate) fn authors_rising(&mut self, buckets: impl IntoIterator<Item = usize>) -> Vec<A> {
        self.index_fresh();
        let mut authors: Vec<_> = buckets.into_iter().flat_map(|bucket| self.sums.authors(bucket)).collect();
        authors.sort_unstable();
        authors
    }

    /// What is here of an author from this seq on, which begins a range: at most `max` ranges, the lowest if there are more; and
    /// where the next one begins.
    pub(crate) fn held(&mut self, author: A, from: u64, max: usize) -> (Vec<Held<A>>, Option<u64>) {
        self.index_fresh();
        let (mut runs, mut next) = (Vec::<(Span<A>, Vec<Sum>)>::new(), None);
        for (&(_, first, count, _), entry) in self.entries.range(places(author, from, u64::MAX)) {
            let end = first.saturating_add(u64::from(count));
            let full = runs.len() >= max;
            match runs.last_mut() {
                Some((span, sums)) if first <= span.to => {
                    span.to = span.to.max(end);
                    sums.push(entry.digest);
                }
                _ if full => {
                    next = Some(first);
                    break;
                }
                _ => runs.push((Span { author, from: first, to: end }, vec![entry.digest])),
            }
        }
        (runs.into_iter().map(summed).collect(), next)
    }

    /// The envelopes with a seq in this range, rising.
    pub(crate) fn within(&mut self, span: Span<A>) -> impl Iterator<Item = (EnvelopeId<A>, usize, Sum)> + '_ {
        self.index_fresh();
        // One that begins before may reach into it.
        let first = span.from.saturating_sub(u64::from(MAX_ENTRIES) - 1);
        let entries = self.entries.range(places(span.author, first, span.to.saturating_sub(1)));
        let id = |&(author, first, count, run): &Place<A>| EnvelopeId { author, run, first, count };
        let found = entries.map(move |(place, entry)| (id(place), entry.len, entry.digest));
        found.filter(move |(id, _, _)| span.meets(&id.seqs()))
    }

    /// Other envelopes that have a seq of this one.
    pub(crate) fn rivals(&mut self, id: &EnvelopeId<A>, digest: Sum) -> Vec<(EnvelopeId<A>, Sum)> {
        let seqs = id.seqs();
        let span = Span { author: id.author, from: seqs.start, to: seqs.end };
        let others = self.within(span).filter(|(there, _, sum)| there != id || *sum != digest);
        others.map(|(there, _, sum)| (there, sum)).collect()
    }
}

fn summed<A>((span, digests): (Span<A>, Vec<Sum>)) -> Held<A> {
    Held { span, sum: sums::of_all(digests) }
}

/// Those of one author with a first seq from `first` to `last`.
fn places<A: Copy>(author: A, first: u64, last: u64) -> std::ops::RangeInclusive<Place<A>> {
    (author, first, 0, 0)..=(author, last, u8::MAX, u64::MAX)
}

fn digests<'a, P, A: Key>(
    entries: &'a BTreeMap<Place<A>, Box<Entry<P>>>,
) -> impl Fn(A, u64, u64) -> Digests<'a, P, A> {
    |author, first, last| Digests(entries.range(places(author, first, last)))
}

/// Of some entries in a row.
struct Digests<'a, P, A>(std::collections::btree_map::Range<'a, Place<A>, Box<Entry<P>>>);

impl<P, A> Iterator for Digests<'_, P, A> {
    type Item = Sum;

    fn next(&mut self) -> Option<Sum> {
        self.0.next().map(|(_, entry)| entry.digest)
    }
}
