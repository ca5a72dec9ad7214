//! Links that this side has hung up. What the other side pushed before it knew is heard all the same: nobody else may have it.

use std::collections::VecDeque;
use std::time::Instant;

use p2p_wire::NodeId;

use crate::inbound::Inbound;
use crate::link::LinkId;
use crate::packet::Packet;
use crate::stack::Input;

use super::Driver;
use super::hear::{Heard, Next, SLICE, Waiting};

/// Of so many links at once; the one that was hung up first is given up then, and counted.
const MOST: usize = 32;

#[derive(Debug)]
struct Leaver {
    link: LinkId,
    peer: NodeId,
    waiting: Waiting,
}

/// Links that were hung up and have not ended; the next one to be heard first.
#[derive(Debug, Default)]
pub(super) struct Leavers {
    links: VecDeque<Leaver>,
    /// Links of which nobody will know what else they brought.
    pub(super) given_up: u64,
}

impl Leavers {
    /// A link was hung up, of which this was not heard yet.
    pub(super) fn add(&mut self, link: LinkId, peer: NodeId, waiting: Waiting) {
        if self.links.len() >= MOST && self.links.pop_front().is_some() {
            self.given_up += 1;
        }
        self.links.push_back(Leaver { link, peer, waiting });
    }

    pub(super) fn take_in(&mut self, link: LinkId, heard: Heard) {
        if let Some(leaver) = self.links.iter_mut().find(|leaver| leaver.link == link) {
            leaver.waiting.push(heard);
        }
    }

    /// Whether one of them has something to say.
    pub(super) fn wait(&self) -> bool {
        self.links.iter().any(|leaver| !leaver.waiting.is_empty())
    }

    /// The next frame of one that has one; the others are before it from then on.
    fn next(&mut self) -> Option<(NodeId, Inbound)> {
        loop {
            let at = self.links.iter().position(|leaver| !leaver.waiting.is_empty())?;
            let mut leaver = self.links.remove(at)?;
            match leaver.waiting.next() {
                Some(Next::Closed(_)) => continue,
                Some(Next::Frame(inbound)) => {
                    let peer = leaver.peer;
                    self.links.push_back(leaver);
                    return Some((peer, inbound));
                }
                None => self.links.push_back(leaver),
            }
        }
    }
}

impl Driver {
    /// Hears those links for a [`SLICE`] in all.
    pub(super) fn hear_leavers(&mut self) {
        let began = Instant::now();
        let mut now = began;
        while now.duration_since(began) < SLICE
            && let Some((from, inbound)) = self.leavers.next()
        {
            if let Inbound::Packet(packet @ Packet::Push { .. }) = inbound {
                self.stack.handle(now, Input::Packet { from, packet });
                self.perform_all();
                now = Instant::now();
            }
        }
        self.ring_links();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::Closed;

    fn leaver(leavers: &mut Leavers, n: u8) {
        leavers.add(LinkId(n.into()), NodeId::from_bytes([n; 32]), Waiting::default());
    }

    #[test]
    fn one_that_ends_makes_room_and_one_too_many_is_given_up_and_counted() {
        let mut leavers = Leavers::default();
        (0..32).for_each(|n| leaver(&mut leavers, n));
        leavers.take_in(LinkId(5), Heard::Closed(Closed::Local));
        assert!(leavers.wait() && leavers.next().is_none(), "it has nothing to say and is gone");
        leaver(&mut leavers, 32);
        assert_eq!(leavers.given_up, 0);
        leaver(&mut leavers, 33);
        assert_eq!((leavers.given_up, leavers.links.len()), (1, 32));
        leavers.take_in(LinkId(0), Heard::Closed(Closed::Local));
        assert!(!leavers.wait(), "the one that was hung up first");
    }
}
