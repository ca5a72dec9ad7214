//! Sums of the log for neighbours to compare: of all of it, of 256 buckets of authors, and kept so that only what
//! changed is summed again.
//!
//! A sum is the first half of a SHA-256 over the sums below it, in order: envelopes make a chunk, chunks an author,
//! authors a bucket, buckets the whole. Adding digests up would need no order, but whoever signs many messages can
//! find some that add up to nothing (Wagner, "A generalized birthday problem", CRYPTO 2002), and hide others' with them.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use crate::message::{Key, Sum};

/// Buckets of authors.
pub const BUCKETS: usize = 256;
/// Seqs of one author that are summed together, by the first seq of each envelope; as a power of two. Of 1,024 a change
/// costs 16 KiB of SHA-256.
const CHUNK_BITS: u32 = 10;

/// First half of the SHA-256 of these sums in a row; zeros for none.
pub(crate) fn of_all(sums: impl IntoIterator<Item = Sum>) -> Sum {
    let (mut hash, mut any) = (Sha256::new(), false);
    for sum in sums {
        hash.update(sum);
        any = true;
    }
    let mut sum = Sum::default();
    if any {
        sum.copy_from_slice(&hash.finalize()[..size_of::<Sum>()]);
    }
    sum
}

/// What was summed up already.
#[derive(Debug)]
pub(crate) struct Sums<A> {
    bucket_of: fn(&A) -> u8,
    /// Those that are not empty.
    buckets: BTreeMap<u8, Bucket<A>>,
    whole: Option<Sum>,
}

#[derive(Debug)]
struct Bucket<A> {
    sum: Option<Sum>,
    authors: BTreeMap<A, Author>,
}

impl<A> Default for Bucket<A> {
    fn default() -> Self {
        Self { sum: None, authors: BTreeMap::new() }
    }
}

#[derive(Debug, Default)]
struct Author {
    sum: Option<Sum>,
    chunks: BTreeMap<u64, Chunk>,
}

#[derive(Debug, Default)]
struct Chunk {
    sum: Option<Sum>,
    envelopes: usize,
}

impl<A: Key> Sums<A> {
    pub(crate) fn new() -> Self {
        Self { bucket_of: |_| 0, buckets: BTreeMap::new(), whole: None }
    }

    /// Only while nothing was added.
    pub(crate) fn set_buckets(&mut self, bucket_of: fn(&A) -> u8) {
        debug_assert!(self.buckets.is_empty(), "nothing was added yet");
        self.bucket_of = bucket_of;
    }

    pub(crate) fn bucket_of(&self, author: &A) -> u8 {
        (self.bucket_of)(author)
    }

    /// An envelope with this first seq was added.
    pub(crate) fn added(&mut self, author: A, first: u64) {
        self.change(author, |of| {
            let chunk = of.chunks.entry(first >> CHUNK_BITS).or_default();
            (chunk.sum, chunk.envelopes) = (None, chunk.envelopes + 1);
        });
    }

    /// An envelope with this first seq is gone.
    pub(crate) fn removed(&mut self, author: A, first: u64) {
        self.change(author, |of| {
            let number = first >> CHUNK_BITS;
            let Some(chunk) = of.chunks.get_mut(&number) else {
                debug_assert!(false, "only what was added is removed");
                return;
            };
            (chunk.sum, chunk.envelopes) = (None, chunk.envelopes.saturating_sub(1));
            if chunk.envelopes == 0 {
                of.chunks.remove(&number);
            }
        });
    }

    fn change(&mut self, author: A, change: impl FnOnce(&mut Author)) {
        self.whole = None;
        let number = (self.bucket_of)(&author);
        let bucket = self.buckets.entry(number).or_default();
        bucket.sum = None;
        let of = bucket.authors.entry(author).or_default();
        of.sum = None;
        change(of);
        if of.chunks.is_empty() {
            bucket.authors.remove(&author);
        }
        if bucket.authors.is_empty() {
            self.buckets.remove(&number);
        }
    }

    /// The sum of everything. `digests` gives those of an author's envelopes whose first seq is in a range, in order.
    pub(crate) fn whole<I>(&mut self, digests: impl Fn(A, u64, u64) -> I) -> Sum
    where
        I: Iterator<Item = Sum>,
    {
        if let Some(sum) = self.whole {
            return sum;
        }
        let sum = of_all(self.buckets(digests));
        self.whole = Some(sum);
        sum
    }

    /// The sums of all buckets.
    pub(crate) fn buckets<I>(&mut self, digests: impl Fn(A, u64, u64) -> I) -> Vec<Sum>
    where
        I: Iterator<Item = Sum>,
    {
        let sum_chunk = |author, (&number, chunk): (&u64, &mut Chunk)| {
            let first = number << CHUNK_BITS;
            let last = first | ((1 << CHUNK_BITS) - 1);
            *chunk.sum.get_or_insert_with(|| of_all(digests(author, first, last)))
        };
        let sum_author = |(&author, of): (&A, &mut Author)| {
            let Author { sum, chunks } = of;
            *sum.get_or_insert_with(|| of_all(chunks.iter_mut().map(|chunk| sum_chunk(author, chunk))))
        };
        let sum_bucket = |bucket: &mut Bucket<A>| {
            let Bucket { sum, authors } = bucket;
            *sum.get_or_insert_with(|| of_all(authors.iter_mut().map(sum_author)))
        };
        let mut sums = vec![Sum::default(); BUCKETS];
        for (&number, bucket) in &mut self.buckets {
            sums[usize::from(number)] = sum_bucket(bucket);
        }
        sums
    }

    /// The authors of a bucket, in order.
    pub(crate) fn authors(&self, bucket: usize) -> impl Iterator<Item = A> + '_ {
        let bucket = u8::try_from(bucket).ok().and_then(|number| self.buckets.get(&number));
        bucket.into_iter().flat_map(|bucket| bucket.authors.keys().copied())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Author and first seq to digest.
    type Model = BTreeMap<(u32, u64), Sum>;

    fn digests(model: &Model) -> impl Fn(u32, u64, u64) -> std::vec::IntoIter<Sum> + '_ {
        |author, first, last| {
            let sums = model.range((author, first)..=(author, last)).map(|(_, sum)| *sum);
            sums.collect::<Vec<_>>().into_iter()
        }
    }

    fn sums(model: &Model) -> Sums<u32> {
        let mut sums = Sums::new();
        sums.set_buckets(|author: &u32| author.to_be_bytes()[3]);
        model.keys().for_each(|&(author, first)| sums.added(author, first));
        sums
    }

    proptest! {
        /// However a set came about, its sums are those of the set.
        #[test]
        fn they_depend_on_what_is_there_alone(
            steps in proptest::collection::vec((0_u32..4, 0_u64..5_000, any::<bool>()), 0..80),
        ) {
            let (mut model, mut kept) = (Model::new(), sums(&Model::new()));
            for (author, first, ask) in steps {
                let digest = [u8::try_from(author).unwrap() + 1; 16];
                if model.remove(&(author, first)).is_some() {
                    kept.removed(author, first);
                } else {
                    model.insert((author, first), digest);
                    kept.added(author, first);
                }
                if ask {
                    kept.whole(digests(&model));
                }
            }
            let mut fresh = sums(&model);
            prop_assert_eq!(kept.buckets(digests(&model)), fresh.buckets(digests(&model)));
            prop_assert_eq!(kept.whole(digests(&model)), fresh.whole(digests(&model)));
            for author in 0..4 {
                let there = model.keys().any(|(a, _)| *a == author);
                prop_assert_eq!(kept.authors(author as usize).any(|a| a == author), there);
                prop_assert_eq!(fresh.buckets(digests(&model))[author as usize] != Sum::default(), there);
            }
        }
    }

    #[test]
    fn one_envelope_more_shows_in_its_bucket_and_the_whole_alone() {
        let mut model = Model::from([((1, 0), [1; 16]), ((2, 5_000), [2; 16])]);
        let mut before = sums(&model);
        let (whole, buckets) = (before.whole(digests(&model)), before.buckets(digests(&model)));
        model.insert((2, u64::MAX), [3; 16]);
        let mut after = sums(&model);
        assert_ne!(after.whole(digests(&model)), whole);
        let changed: Vec<_> = after.buckets(digests(&model)).into_iter().zip(buckets).collect();
        let changed = changed.iter().enumerate().filter(|(_, (a, b))| a != b).map(|(bucket, _)| bucket);
        assert_eq!(changed.collect::<Vec<_>>(), [2]);
    }
}
