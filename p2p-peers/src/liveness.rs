//! Is the other end of a link still there? Any traffic says yes; silence is asked about, then ends the link.

use std::time::{Duration, Instant};

/// When to ask and when to give up. Each link has its own [`Liveness`]; they may share one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LivenessConfig {
    /// Silence after which a ping is sent. Default 10 s (faults row 42: home routers forget idle TCP after minutes, so
    /// this also keeps their state fresh).
    pub ping_after: Duration,
    /// Silence after which the link is dead. Default 30 s: two more chances after the first ping; keep it above
    /// `ping_after`.
    pub dead_after: Duration,
    /// A timer of ours that fires this much too late means that *we* stood still (suspend, starved CPU). The other end
    /// then gets this long to answer before it can be called dead. Default 10 s (after Lifeguard, Dadgar et al. 2018:
    /// suspect yourself first).
    pub late_after: Duration,
}

impl Default for LivenessConfig {
    fn default() -> Self {
        let secs = Duration::from_secs;
        Self { ping_after: secs(10), dead_after: secs(30), late_after: secs(10) }
    }
}

/// What [`Liveness::poll`] wants done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// Send a ping that carries this number; the answer brings it back to [`Liveness::pong`].
    Ping(u64),
    /// Nothing was heard for too long: close the link and drop this value.
    Dead,
}

/// The life of one link.
///
/// The first ping is due at once, so that the round trip is known early.
///
/// ```
/// use std::time::Duration;
/// use p2p_peers::{Liveness, LivenessConfig, Probe};
/// # let start = std::time::Instant::now();
/// let mut life = Liveness::new(start, &LivenessConfig::default());
/// let Some(Probe::Ping(nonce)) = life.poll(start) else { panic!("first ping is due at once") };
/// let rtt = life.pong(start + Duration::from_millis(20), nonce);
/// assert_eq!(rtt, Some(Duration::from_millis(20)));
/// ```
#[derive(Debug, Clone)]
pub struct Liveness {
    config: LivenessConfig,
    last_heard: Instant,
    /// The ping on its way, and when it left.
    asked: Option<(u64, Instant)>,
    pings: u64,
    next_ping: Instant,
    dead_at: Instant,
    smoothed: Option<Duration>,
    latest: Option<Duration>,
}

impl Liveness {
    /// A link that has just come up.
    pub fn new(now: Instant, config: &LivenessConfig) -> Self {
        Self {
            config: *config,
            last_heard: now,
            asked: None,
            pings: 0,
            next_ping: now,
            dead_at: now + config.dead_after,
            smoothed: None,
            latest: None,
        }
    }

    /// Something, anything, came in.
    pub fn heard(&mut self, now: Instant) {
        self.last_heard = now;
        self.dead_at = now + self.config.dead_after;
        // The very first ping goes out even on a busy link.
        if self.pings > 0 {
            self.next_ping = now + self.config.ping_after;
        }
    }

    /// What is to be done at `now`; to be called at [`deadline`](Self::deadline), harmless at any other time.
    pub fn poll(&mut self, now: Instant) -> Option<Probe> {
        let late = now.saturating_duration_since(self.deadline()) > self.config.late_after;
        if late {
            self.dead_at = self.dead_at.max(now + self.config.late_after);
            self.next_ping = now;
        }
        if now >= self.dead_at {
            return Some(Probe::Dead);
        }
        if now < self.next_ping {
            return None;
        }
        self.next_ping = now + self.config.ping_after;
        self.pings += 1;
        self.asked = Some((self.pings, now));
        Some(Probe::Ping(self.pings))
    }

    /// An answer came in: counts as [`heard`](Self::heard), and if it answers the ping on its way, gives the round
    /// trip.
    pub fn pong(&mut self, now: Instant, nonce: u64) -> Option<Duration> {
        self.heard(now);
        let (_, sent) = self.asked.take_if(|(asked, _)| *asked == nonce)?;
        let rtt = now.saturating_duration_since(sent);
        self.latest = Some(rtt);
        // RFC 6298 section 2.3, alpha = 1/8.
        self.smoothed = Some(self.smoothed.map_or(rtt, |old| (old * 7 + rtt) / 8));
        Some(rtt)
    }

    /// When [`poll`](Self::poll) has something to say next, unless something is heard before.
    pub fn deadline(&self) -> Instant {
        self.next_ping.min(self.dead_at)
    }

    /// The smoothed round trip, once one was measured.
    pub fn rtt(&self) -> Option<Duration> {
        self.smoothed
    }

    /// The round trip measured last.
    pub fn last_rtt(&self) -> Option<Duration> {
        self.latest
    }

    /// When something last came in (at first: when the link came up).
    pub fn last_heard(&self) -> Instant {
        self.last_heard
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life() -> (Instant, Liveness) {
        let start = crate::testing::start();
        (start, Liveness::new(start, &LivenessConfig::default()))
    }

    fn secs(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    /// Polls at each deadline, as a driver does, and returns when what was said, up to `end`.
    fn run(life: &mut Liveness, end: Instant) -> Vec<(Instant, Probe)> {
        let mut said = Vec::new();
        while life.deadline() <= end {
            let at = life.deadline();
            let probe = life.poll(at).expect("a deadline means something is due");
            said.push((at, probe));
            if probe == Probe::Dead {
                break;
            }
        }
        said
    }

    #[test]
    fn silence_is_asked_about_every_ten_seconds_and_ends_the_link_at_thirty() {
        let (start, mut life) = life();
        let said = run(&mut life, start + secs(60));
        let expected = [(0, Probe::Ping(1)), (10, Probe::Ping(2)), (20, Probe::Ping(3)), (30, Probe::Dead)];
        assert_eq!(said, expected.map(|(s, probe)| (start + secs(s), probe)));
    }

    #[test]
    fn any_traffic_counts_as_life() {
        let (start, mut life) = life();
        assert_eq!(life.poll(start), Some(Probe::Ping(1)));
        for s in 1..200 {
            life.heard(start + secs(s));
            assert_eq!(life.poll(start + secs(s)), None);
        }
        assert_eq!(life.deadline(), start + secs(209));
        assert_eq!(life.last_heard(), start + secs(199));
    }

    #[test]
    fn first_ping_goes_out_even_if_traffic_comes_first() {
        let (start, mut life) = life();
        life.heard(start);
        assert_eq!(life.poll(start), Some(Probe::Ping(1)));
    }

    #[test]
    fn only_the_open_ping_is_measured() {
        let (start, mut life) = life();
        assert_eq!(life.pong(start, 0), None);
        life.poll(start);
        assert_eq!(life.pong(start + secs(1), 7), None, "not a number we sent");
        assert_eq!(life.pong(start + secs(2), 1), Some(secs(2)));
        assert_eq!(life.pong(start + secs(3), 1), None, "answered twice");
        assert_eq!((life.rtt(), life.last_rtt()), (Some(secs(2)), Some(secs(2))));
    }

    #[test]
    fn round_trip_is_smoothed() {
        let (start, mut life) = life();
        life.poll(start);
        life.pong(start + Duration::from_millis(80), 1);
        let next = life.deadline();
        life.poll(next);
        life.pong(next + Duration::from_millis(160), 2);
        assert_eq!(life.rtt(), Some(Duration::from_millis(90)));
        assert_eq!(life.last_rtt(), Some(Duration::from_millis(160)));
    }

    #[test]
    fn after_a_suspend_the_peer_is_asked_before_it_is_called_dead() {
        let (start, mut life) = life();
        life.poll(start);
        let awake = start + secs(120);
        assert!(matches!(life.poll(awake), Some(Probe::Ping(_))));
        assert_eq!(life.poll(awake + secs(9)), None);
        life.heard(awake + secs(9));
        assert_eq!(life.poll(awake + secs(10)), None);
    }

    #[test]
    fn after_a_suspend_a_peer_that_stays_silent_is_dead_ten_seconds_later() {
        let (start, mut life) = life();
        life.poll(start);
        let awake = start + secs(120);
        life.poll(awake);
        assert_eq!(life.poll(awake + secs(10)), Some(Probe::Dead));
    }

    #[test]
    fn a_timer_a_little_late_is_no_suspend() {
        let (start, mut life) = life();
        run(&mut life, start + secs(29));
        assert_eq!(life.poll(start + secs(39)), Some(Probe::Dead));
    }
}
