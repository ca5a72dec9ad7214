//! What we keep of one neighbour while its link is up.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use crate::bucket::Bucket;
use crate::config::Config;
use crate::message::{EnvelopeId, Key};

/// Ids whose superfluous copies are counted per neighbour; the oldest is forgotten first.
const COUNTED_IDS: usize = 1_024;

/// One neighbour.
#[derive(Debug)]
pub(crate) struct Neighbor<A> {
    /// Whether small envelopes are pushed to it; otherwise they are announced.
    pub(crate) eager: bool,
    /// New authors that it may introduce.
    pub(crate) introductions: Bucket,
    duplicates: Duplicates<A>,
}

impl<A: Key> Neighbor<A> {
    pub(crate) fn new(now: Instant, config: &Config) -> Self {
        Self {
            eager: true,
            introductions: Bucket::new(now, config.new_authors_per_sec, config.new_authors_burst),
            duplicates: Duplicates { counts: BTreeMap::new(), order: VecDeque::new() },
        }
    }

    /// Counts a superfluous copy. Returns the number when it passes the limit, and starts over.
    pub(crate) fn on_duplicate(&mut self, id: EnvelopeId<A>, limit: u32) -> Option<u32> {
        self.duplicates.count(id, limit)
    }
}

/// Superfluous copies per id, for the latest [`COUNTED_IDS`] ids.
#[derive(Debug)]
struct Duplicates<A> {
    counts: BTreeMap<EnvelopeId<A>, u32>,
    order: VecDeque<EnvelopeId<A>>,
}

impl<A: Key> Duplicates<A> {
    fn count(&mut self, id: EnvelopeId<A>, limit: u32) -> Option<u32> {
        if let Some(count) = self.counts.get_mut(&id) {
            *count += 1;
            if *count > limit {
                return Some(std::mem::take(count));
            }
            return None;
        }
        if self.order.len() >= COUNTED_IDS
            && let Some(oldest) = self.order.pop_front()
        {
            self.counts.remove(&oldest);
        }
        self.counts.insert(id, 1);
        self.order.push_back(id);
        (limit == 0).then_some(1)
    }
}
