//! Every number that decides, with its reason.

use std::time::Duration;

/// Most bytes of one signed address record that the table keeps. Eight addresses, a key and a signature are below 350;
/// 4,096 peers with two records of this size still fit into a snapshot of 16 MiB.
pub const MAX_RECORD_BYTES: usize = 1024;

/// Most addresses looked at in one [`Input::Learned`](crate::Input::Learned).
pub const MAX_LEARNED_ADDRS: usize = 32;

/// Most records told to one neighbour at a time (faults row 22).
pub const MAX_EXCHANGE: usize = 64;

/// Longer times count as this much, so that no sum of a moment and one of them overflows: ten years.
pub(crate) const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Larger numbers of anything count as this many.
pub(crate) const MOST: usize = 1 << 30;

/// How the table decides. `Default` is for a node on the internet. Times of more than ten years count as ten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Dial peers that were only heard of, while there are fewer than [`target`](Self::target) links. Off: they are
    /// kept, and only wanted peers and seeds are dialled. Default on.
    pub discover: bool,
    /// Take private and loopback addresses from anyone. Default off: only over links that are private themselves, so
    /// that strangers cannot use us to scan the local network (faults row 21).
    pub allow_private: bool,
    /// Take ports below 1024 from peer exchange. Default off: those are other people's servers (faults row 21).
    pub allow_privileged_ports: bool,
    /// Links below which discovered peers are dialled. Default 16, as `max_out`: a network of up to 17 nodes becomes a
    /// full mesh. 0 where [`views`](crate::views) choose whom to dial.
    pub target: usize,
    /// Links that we dialled because of discovery. Default 16 (twice Bitcoin's 8: messages, not blocks). What the user
    /// asks for may use inbound slots too.
    pub max_out: usize,
    /// Links that others dialled. Default 64 (faults row 6).
    pub max_in: usize,
    /// Links into one /24 (IPv6: /64) that is not private or loopback. Default 8 (faults row 6).
    pub links_per_prefix: usize,
    /// Links to one address that is not loopback. Default 2 (faults row 24): one machine with many ids is one neighbour
    /// or two. What the user asks for does not count against it.
    pub links_per_ip: usize,
    /// Dials at once, but for those that [`views`](crate::views) want, which bound themselves; two of what the user asked
    /// for may always be under way. Default 8 (a guess: more than a home router minds is hundreds).
    pub dial_parallel: usize,
    /// A dial whose end is not reported is given up after this. Default 90 s: 8 addresses of 5 s and a handshake of
    /// 10 s, with room. Must be above what the dialer allows itself.
    pub dial_deadline: Duration,
    /// Peers in the table. Default 4,096 (architecture; about 2 MiB). When full, entries that never connected give
    /// way to better ones; hearsay gives way to nobody but entries that failed, and is refused and counted. Keep it
    /// above `max_in + max_out`.
    pub max_peers: usize,
    /// Addresses per peer. Default 8. When full, the one that failed most often gives way.
    pub max_addrs: usize,
    /// Entries that one peer introduced and that never connected. Default 64 (faults row 22).
    pub max_per_source: usize,
    /// Entries from peer exchange that never connected and share a /16 (IPv6: /32) that is not private or loopback.
    /// Default 32 (faults row 22).
    pub max_per_group: usize,
    /// Seeds. Default 256 (a guess). When full, the one that failed most often gives way.
    pub max_seeds: usize,
    /// Wait after the first failure; doubles with each further one. Default 1 s.
    pub backoff_base: Duration,
    /// Longest wait. Default 10 min.
    pub backoff_max: Duration,
    /// Wait after the other side said that it has no room; doubles with each further such answer, up to
    /// [`backoff_max`](Self::backoff_max). What the user asks for waits that long at once: who is full is asked again
    /// and again by all it refused. A seed waits no longer than this for a node without neighbours. Default 60 s (faults
    /// row 20).
    pub refused_base: Duration,
    /// Longest wait for a peer that was linked a moment ago. Default 15 s.
    pub eager_every: Duration,
    /// How long after a link went down `eager_every` holds. Default 10 min.
    pub eager_for: Duration,
    /// How long after its last link a peer is dialled at once when the network changes, and told to neighbours. Where
    /// there is no link, what was up this long before the last link went is dialled. Default 1 h.
    pub recent: Duration,
    /// A link that held this long proves that all is well: failures are forgotten. A shorter one counts as a failure,
    /// so a peer that closes each link at once is not dialled every second. Default 30 s (a guess: the dead time).
    pub stable_after: Duration,
    /// How long an id that misbehaved is refused and not dialled. Default 10 min (faults row 13).
    pub misbehaved_for: Duration,
    /// From the first unsaved change to [`Output::Save`](crate::Output::Save). Default 1 s (a guess: what a kill may
    /// lose against how often the disk is synced).
    pub save_after: Duration,
}

impl Default for Config {
    fn default() -> Self {
        let (secs, mins) = (Duration::from_secs, Duration::from_mins);
        Self {
            discover: true,
            allow_private: false,
            allow_privileged_ports: false,
            target: 16,
            max_out: 16,
            max_in: 64,
            links_per_prefix: 8,
            links_per_ip: 2,
            dial_parallel: 8,
            dial_deadline: secs(90),
            max_peers: 4096,
            max_addrs: 8,
            max_per_source: 64,
            max_per_group: 32,
            max_seeds: 256,
            backoff_base: secs(1),
            backoff_max: mins(10),
            refused_base: secs(60),
            eager_every: secs(15),
            eager_for: mins(10),
            recent: mins(60),
            stable_after: secs(30),
            misbehaved_for: mins(10),
            save_after: secs(1),
        }
    }
}

/// A [`Config`] that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A limit is 0 that must let at least one through.
    #[error("{field} is 0, at least 1 is needed")]
    Zero {
        /// The field.
        field: &'static str,
    },
    /// The table could not hold its own links.
    #[error("max_peers is {max_peers}, but there may be {links} links")]
    TableBelowLinks {
        /// As configured.
        max_peers: usize,
        /// `max_in + max_out`.
        links: usize,
    },
}

impl Config {
    /// Nothing is dialled that the user did not ask for (`--no-discover`).
    pub fn no_discover() -> Self {
        Self { discover: false, ..Self::default() }
    }

    /// Checks the numbers against each other.
    ///
    /// # Errors
    ///
    /// The first field that cannot work.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let positive = [
            ("dial_parallel", self.dial_parallel),
            ("max_addrs", self.max_addrs),
            ("max_seeds", self.max_seeds),
            ("links_per_prefix", self.links_per_prefix),
            ("links_per_ip", self.links_per_ip),
        ];
        if let Some((field, _)) = positive.into_iter().find(|&(_, value)| value == 0) {
            return Err(ConfigError::Zero { field });
        }
        if self.backoff_base.is_zero() {
            return Err(ConfigError::Zero { field: "backoff_base" });
        }
        let links = self.max_links();
        if self.max_peers <= links {
            return Err(ConfigError::TableBelowLinks { max_peers: self.max_peers, links });
        }
        Ok(())
    }

    /// Links of all kinds.
    pub(crate) fn max_links(&self) -> usize {
        self.max_in.saturating_add(self.max_out)
    }

    /// The same where no sum overflows.
    pub(crate) fn within_reason(mut self) -> Self {
        for time in [
            &mut self.dial_deadline,
            &mut self.backoff_base,
            &mut self.backoff_max,
            &mut self.refused_base,
            &mut self.eager_every,
            &mut self.eager_for,
            &mut self.recent,
            &mut self.stable_after,
            &mut self.misbehaved_for,
            &mut self.save_after,
        ] {
            *time = LONGEST.min(*time);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_valid_and_nonsense_is_not() {
        assert_eq!(Config::default().validate(), Ok(()));
        assert_eq!(Config::no_discover().validate(), Ok(()));
        let config = Config { dial_parallel: 0, ..Config::default() };
        assert_eq!(config.validate(), Err(ConfigError::Zero { field: "dial_parallel" }));
        let config = Config { max_peers: 80, ..Config::default() };
        assert_eq!(config.validate().unwrap_err().to_string(), "max_peers is 80, but there may be 80 links");
    }
}
