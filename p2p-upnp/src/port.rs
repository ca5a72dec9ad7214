//! One port and the mapping it has.

use std::time::{Duration, Instant};

/// A router that grants very short leases must not make us ask all the time.
const SHORTEST_RENEWAL: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(crate) struct Port {
    pub(crate) local: u16,
    pub(crate) held: Option<Held>,
    /// The router may hold a mapping of ours that we do not count on: its answer was lost, or contradicts its list.
    pub(crate) uncertain: bool,
}

/// A mapping that leads to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) external: u16,
    /// We made it, so we renew and remove it.
    pub(crate) made: bool,
    pub(crate) renew_at: Instant,
    pub(crate) expires: Instant,
}

impl Held {
    /// `granted` is what the router gives, `wanted` what we asked for; renewed at half of the shorter one.
    pub(crate) fn new(
        now: Instant,
        external: u16,
        made: bool,
        granted: Option<Duration>,
        wanted: Duration,
    ) -> Self {
        let lease = granted.map_or(wanted, |granted| granted.min(wanted));
        let renewal = (lease / 2).max(SHORTEST_RENEWAL.min(wanted / 2));
        Self { external, made, renew_at: now + renewal, expires: now + lease.max(renewal) }
    }
}

impl Port {
    pub(crate) fn new(local: u16) -> Self {
        Self { local, held: None, uncertain: false }
    }

    /// Forgets a mapping that has run out: the port may be another machine's by now. A permanent one may still be ours.
    pub(crate) fn expire(&mut self, now: Instant) {
        if let Some(held) = self.held.take_if(|held| held.expires <= now) {
            self.uncertain |= held.made;
        }
    }

    /// The outside port of a mapping that we made.
    pub(crate) fn made(&self) -> Option<u16> {
        self.held.filter(|held| held.made).map(|held| held.external)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewed_at_half_of_the_shorter_lease_but_not_all_the_time() {
        let now = tokio::time::Instant::now().into_std();
        let renewal = |granted: Option<u64>, wanted: u64| {
            let held = Held::new(now, 1, true, granted.map(Duration::from_secs), Duration::from_secs(wanted));
            assert!(held.expires >= held.renew_at);
            held.renew_at - now
        };
        assert_eq!(renewal(Some(3600), 3600), Duration::from_secs(1800));
        assert_eq!(renewal(Some(600), 3600), Duration::from_secs(300));
        assert_eq!(renewal(Some(604_800), 3600), Duration::from_secs(1800));
        assert_eq!(renewal(None, 3600), Duration::from_secs(1800));
        assert_eq!(renewal(Some(1), 3600), Duration::from_secs(30));
        assert_eq!(renewal(Some(2), 2), Duration::from_secs(1));
    }
}
