//! Two nodes may dial each other at the same moment; exactly one link must come of it, the same on both
//! sides.
//!
//! A dialler *claims* the peer after TLS has proved its id and before it says hello; it does so only if
//! no link to the peer exists. Where both claim, the link that the lower id dialled wins: the lower one
//! refuses the other's hello, the higher one takes the lower one's. A link that exists gives way to a new
//! one only if the dialler of the new one must have lost it (it dialled the old one too, or has the lower
//! id).

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use p2p_wire::NodeId;

use crate::event::Direction;

/// Dials of this node that have said hello and wait for the answer: one of each peer, so no more than there are dials.
#[derive(Debug)]
pub(crate) struct Claims {
    me: NodeId,
    claimed: Claimed,
}

type Claimed = Arc<Mutex<BTreeSet<NodeId>>>;

/// A peer is claimed until this is dropped: a dial may be given up at any moment, and its claim must not outlast it.
#[derive(Debug)]
pub(crate) struct Claim {
    peer: NodeId,
    claimed: Claimed,
}

impl Drop for Claim {
    fn drop(&mut self) {
        lock(&self.claimed).remove(&self.peer);
    }
}

fn lock(claimed: &Claimed) -> MutexGuard<'_, BTreeSet<NodeId>> {
    claimed.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What to do with a new link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// There is none yet.
    Take,
    /// It takes the place of the one that stands.
    Replace,
    /// The one that stands, or is being made, stays.
    Refuse,
}

impl Claims {
    pub(crate) fn new(me: NodeId) -> Self {
        Self { me, claimed: Claimed::default() }
    }

    /// Claims a peer to which no link exists. `None`: another dial has claimed it.
    pub(crate) fn claim(&self, peer: NodeId) -> Option<Claim> {
        let is_free = lock(&self.claimed).insert(peer);
        is_free.then(|| Claim { peer, claimed: Arc::clone(&self.claimed) })
    }

    /// Whether a dial to this peer has said hello, or is about to.
    pub(crate) fn has(&self, peer: NodeId) -> bool {
        lock(&self.claimed).contains(&peer)
    }

    /// A link to `peer` is offered by `dialler` while `existing` (by whom it was dialled) stands.
    pub(crate) fn judge(&self, peer: NodeId, dialler: Direction, existing: Option<Direction>) -> Verdict {
        let lower_dialled = match dialler {
            Direction::In => peer < self.me,
            Direction::Out => self.me < peer,
        };
        match existing {
            None if dialler == Direction::In && !lower_dialled && self.has(peer) => Verdict::Refuse,
            None => Verdict::Take,
            Some(old) if old == dialler || lower_dialled => Verdict::Replace,
            Some(_) => Verdict::Refuse,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2p_wire::SecretKey;

    /// A node of the model below: its link, and what it has said and not heard the answer to.
    struct Side {
        claims: Claims,
        link: Option<(Direction, u8)>,
    }

    impl Side {
        fn offer(&mut self, peer: NodeId, dialler: Direction, link: u8) -> bool {
            let verdict = self.claims.judge(peer, dialler, self.link.map(|(d, _)| d));
            if verdict != Verdict::Refuse {
                self.link = Some((dialler, link));
            }
            verdict != Verdict::Refuse
        }
    }

    /// Both dial at once; every order in which the six steps can happen ends with one and the same link.
    #[test]
    fn crossing_dials_end_in_one_link_on_both_sides() {
        let (a, b) = (SecretKey::from_bytes(&[1; 32]).id(), SecretKey::from_bytes(&[2; 32]).id());
        let mut orders = vec![Vec::new()];
        for _ in 0..6 {
            orders = orders
                .into_iter()
                .flat_map(|order: Vec<usize>| {
                    (0..2).filter_map(move |who| {
                        let mine = order.iter().filter(|w| **w == who).count();
                        (mine < 3).then(|| order.iter().copied().chain([who]).collect())
                    })
                })
                .collect();
        }
        for order in orders {
            let mut sides = [a, b].map(|me| Side { claims: Claims::new(me), link: None });
            let ids = [a, b];
            let mut claim: [Option<Claim>; 2] = [None, None];
            let mut answer = [None, None];
            let mut step = [0, 0];
            for who in order {
                let other = 1 - who;
                let link = u8::try_from(who).unwrap();
                match step[who] {
                    0 if sides[who].link.is_none() => claim[who] = sides[who].claims.claim(ids[other]),
                    1 if claim[who].is_some() => {
                        answer[who] = Some(sides[other].offer(ids[who], Direction::In, link));
                    }
                    2 => {
                        if let Some(_claim) = claim[who].take()
                            && answer[who] == Some(true)
                        {
                            assert!(sides[who].offer(ids[other], Direction::Out, link));
                        }
                    }
                    _ => {}
                }
                step[who] += 1;
            }
            let links = sides.each_ref().map(|s| s.link.map(|(_, link)| link));
            assert!(links[0].is_some() && links[0] == links[1], "links {links:?}");
        }
    }

    #[test]
    fn a_peer_is_claimed_once_and_free_again_when_the_dial_is_given_up() {
        let (me, peer) = (SecretKey::from_bytes(&[1; 32]).id(), SecretKey::from_bytes(&[2; 32]).id());
        let claims = Claims::new(me);
        let claim = claims.claim(peer);
        assert!(claim.is_some() && claims.claim(peer).is_none() && claims.has(peer));
        drop(claim);
        assert!(!claims.has(peer) && claims.claim(peer).is_some());
    }

    #[test]
    fn a_peer_that_lost_its_link_gets_a_new_one() {
        let (low, high) = {
            let ids = [1, 2].map(|n| SecretKey::from_bytes(&[n; 32]).id());
            (ids[0].min(ids[1]), ids[0].max(ids[1]))
        };
        let claims = Claims::new(low);
        assert_eq!(claims.judge(high, Direction::In, Some(Direction::In)), Verdict::Replace);
        assert_eq!(claims.judge(high, Direction::In, Some(Direction::Out)), Verdict::Refuse);
        let claims = Claims::new(high);
        assert_eq!(claims.judge(low, Direction::In, Some(Direction::Out)), Verdict::Replace);
    }
}
