//! Neighbours that are none any more, of which something may still be on its way.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::bucket::Bucket;
use crate::message::Key;

/// How long pushes of one that was given up are still taken: it sent them before it knew. 2 s, for which p2p-node reads on
/// where it has hung up.
const LATE: Duration = Duration::from_secs(2);
/// Of so many, the last that went.
const HEARD: usize = 32;
/// Of so many what is left is remembered; the one that went first is forgotten first.
const MOST: usize = 256;
/// For so long: what it may introduce has come back by then, or a good part of it.
const REMEMBERED: Duration = Duration::from_secs(200);

/// One that was a neighbour.
#[derive(Debug)]
struct Gone<P> {
    peer: P,
    at: Instant,
    /// What is left of the new authors that it might introduce.
    introductions: Bucket,
}

/// The neighbours of the last moments.
#[derive(Debug)]
pub(crate) struct Former<P>(VecDeque<Gone<P>>);

impl<P: Key> Former<P> {
    pub(crate) const fn new() -> Self {
        Self(VecDeque::new())
    }

    pub(crate) fn gone(&mut self, now: Instant, peer: P, introductions: Bucket) {
        self.0.retain(|gone| gone.peer != peer && now.saturating_duration_since(gone.at) < REMEMBERED);
        if self.0.len() >= MOST {
            self.0.pop_front();
        }
        self.0.push_back(Gone { peer, at: now, introductions });
    }

    /// It is a neighbour again: what it may introduce, if it went a moment ago. A link that ends and comes back is no new one.
    pub(crate) fn back(&mut self, peer: P) -> Option<Bucket> {
        let at = self.0.iter().position(|gone| gone.peer == peer)?;
        self.0.remove(at).map(|gone| gone.introductions)
    }

    /// Whether its pushes are taken, though nothing else of it.
    pub(crate) fn is_heard(&self, now: Instant, peer: P) -> bool {
        self.0.iter().rev().take(HEARD).any(|gone| gone.peer == peer && gone.is_late(now))
    }

    /// New authors that it may introduce.
    pub(crate) fn introductions(&mut self, peer: P) -> Option<&mut Bucket> {
        self.0.iter_mut().find(|gone| gone.peer == peer).map(|gone| &mut gone.introductions)
    }
}

impl<P> Gone<P> {
    fn is_late(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) < LATE
    }
}
