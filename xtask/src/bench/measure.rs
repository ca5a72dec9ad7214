//! The measuring of a broadcast network: latency of single messages, then two bursts.
//!
//! Phases, counts and key names are those that the harness for other systems uses, so that one table can
//! hold all of them:
//!
//! 1. `lat`: one node publishes 200 messages of 100 bytes, 20 ms apart; per message, the time until the
//!    last of the others has delivered it to its application;
//! 2. `thr`: a burst of 1 KiB messages of which at most a window is not yet delivered everywhere, which is
//!    what an application with feedback would do;
//! 3. `flood`: the same as fast as the API accepts them.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::bench::stats::quantile;
use crate::process;
use crate::random::Random;

const SINGLE: usize = 200;
pub(crate) const SINGLE_BYTES: usize = 100;
const SINGLE_GAP: Duration = Duration::from_millis(20);
const BURST_BYTES: usize = 1024;
/// For the copies of the first message that come last.
const LATE_COPIES: Duration = Duration::from_millis(200);
/// Between phases, so that one does not pay for the other.
const PAUSE: Duration = Duration::from_millis(1500);
/// A message that has not arrived everywhere after this is not waited for any longer.
const LOST: Duration = Duration::from_secs(3);
/// After so many lost ones the burst ends.
const MOST_LOST: u32 = 20;

/// What a run is asked to do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) nodes: usize,
    pub(crate) burst: usize,
    pub(crate) window: usize,
}

/// Where all nodes note what they deliver.
#[derive(Debug)]
pub(crate) struct Board {
    begin: Instant,
    /// Per message: how many nodes have it, and when the last one got it (µs).
    messages: Vec<(AtomicU32, AtomicU64)>,
    total: AtomicU64,
    last_us: AtomicU64,
    lagged: AtomicU64,
    /// Processes besides this one whose CPU time counts.
    others: Mutex<Vec<u32>>,
}

impl Board {
    pub(crate) fn new(plan: Plan) -> Arc<Self> {
        let messages = (0..SINGLE + 2 * plan.burst).map(|_| (AtomicU32::new(0), AtomicU64::new(0))).collect();
        Arc::new(Self {
            begin: Instant::now(),
            messages,
            total: AtomicU64::new(0),
            last_us: AtomicU64::new(0),
            lagged: AtomicU64::new(0),
            others: Mutex::default(),
        })
    }

    /// A node other than the publisher has handed this payload to its application.
    pub(crate) fn delivered(&self, payload: &[u8]) {
        let Some(number) = payload.first_chunk::<8>() else { return };
        let Ok(number) = usize::try_from(u64::from_be_bytes(*number)) else { return };
        let Some((count, last)) = self.messages.get(number) else { return };
        let now = self.now_us();
        last.fetch_max(now, Relaxed);
        self.last_us.fetch_max(now, Relaxed);
        count.fetch_add(1, Relaxed);
        self.total.fetch_add(1, Relaxed);
    }

    pub(crate) fn lagged(&self, missed: u64) {
        self.lagged.fetch_add(missed, Relaxed);
    }

    /// From now on the CPU time of this process counts too.
    pub(crate) fn counts_cpu_of(&self, pid: u32) {
        self.others.lock().unwrap_or_else(PoisonError::into_inner).push(pid);
    }

    fn cpu_s(&self) -> f64 {
        let others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        let all = std::iter::once(std::process::id()).chain(others.iter().copied());
        all.filter_map(process::cpu_s).sum()
    }

    fn now_us(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn everywhere(&self, number: usize, others: usize) -> bool {
        self.messages[number].0.load(Relaxed) as usize >= others
    }

    /// Waits until `want` deliveries have been made, none has been for `quiet`, or `limit` has passed.
    async fn settle(&self, want: u64, quiet: Duration, limit: Duration) {
        let begin = Instant::now();
        let (mut seen, mut since) = (self.total.load(Relaxed), begin);
        while seen < want && since.elapsed() < quiet && begin.elapsed() < limit {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let now = self.total.load(Relaxed);
            if now != seen {
                (seen, since) = (now, Instant::now());
            }
        }
    }
}

/// Message `number`: its number, then bytes that do not compress.
fn payload(number: usize, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    bytes[..8].copy_from_slice(&(number as u64).to_be_bytes());
    Random::new(number as u64).fill(&mut bytes[8..]);
    bytes
}

/// Runs the three phases on a network that stands. `copies` tells how many copies of payloads all nodes
/// have received so far, if that is known.
pub(crate) async fn drive<P, C>(plan: Plan, board: &Board, mut publish: P, mut copies: C) -> Value
where
    P: AsyncFnMut(Vec<u8>),
    C: AsyncFnMut() -> Option<u64>,
{
    let mut out = json!({});
    latency(plan, board, &mut publish, &mut copies, &mut out).await;
    for (tag, first, window) in [("thr", SINGLE, plan.window), ("flood", SINGLE + plan.burst, usize::MAX)] {
        tokio::time::sleep(PAUSE).await;
        burst(Burst { plan, tag, first, window }, board, &mut publish, &mut copies, &mut out).await;
    }
    out["lagged"] = json!(board.lagged.load(Relaxed));
    out
}

/// The first phase. What the first message floods is counted by itself: it makes the tree that the others take.
pub(crate) async fn latency<P, C>(plan: Plan, board: &Board, publish: &mut P, copies: &mut C, out: &mut Value)
where
    P: AsyncFnMut(Vec<u8>),
    C: AsyncFnMut() -> Option<u64>,
{
    let others = plan.nodes - 1;
    let wanted = (SINGLE * others) as f64;
    let (mut copies_before, cpu_before) = (copies().await, board.cpu_s());
    let mut sent = Vec::with_capacity(SINGLE);
    let mut next = tokio::time::Instant::now();
    for number in 0..SINGLE {
        tokio::time::sleep_until(next).await;
        sent.push(board.now_us());
        publish(payload(number, SINGLE_BYTES)).await;
        next += SINGLE_GAP;
        if number == 0 {
            board.settle(others as u64, Duration::from_secs(3), Duration::from_secs(20)).await;
            tokio::time::sleep(LATE_COPIES).await;
            let copies = copies().await;
            if let (Some(before), Some(after)) = (copies_before, copies) {
                out["lat_first_copies"] = json!((after - before) as f64 / others as f64);
            }
            (copies_before, next) = (copies, tokio::time::Instant::now() + SINGLE_GAP);
        }
    }
    board.settle((SINGLE * others) as u64, Duration::from_secs(3), Duration::from_secs(20)).await;
    let got = board.total.load(Relaxed);
    let took_ms =
        |number: usize| board.messages[number].1.load(Relaxed).saturating_sub(sent[number]) as f64 / 1e3;
    let mut ms: Vec<f64> = (0..SINGLE).filter(|n| board.everywhere(*n, others)).map(took_ms).collect();
    ms.sort_unstable_by(f64::total_cmp);
    for (key, q) in [("lat_p50_ms", 0.5), ("lat_p99_ms", 0.99), ("lat_max_ms", 1.0)] {
        out[key] = json!(quantile(&ms, q));
    }
    out["lat_ratio"] = json!(got as f64 / wanted);
    out["lat_complete"] = json!(ms.len());
    out["lat_cpu_s"] = json!(board.cpu_s() - cpu_before);
    if let (Some(before), Some(after)) = (copies_before, copies().await) {
        out["lat_copies"] = json!((after - before) as f64 / ((SINGLE - 1) * others) as f64);
    }
}

struct Burst {
    plan: Plan,
    tag: &'static str,
    /// Number of its first message.
    first: usize,
    window: usize,
}

async fn burst<P, C>(burst: Burst, board: &Board, publish: &mut P, copies: &mut C, out: &mut Value)
where
    P: AsyncFnMut(Vec<u8>),
    C: AsyncFnMut() -> Option<u64>,
{
    let Burst { plan, tag, first, window } = burst;
    let others = plan.nodes - 1;
    let wanted = (plan.burst * others) as u64;
    let delivered_before = board.total.load(Relaxed);
    let (copies_before, cpu_before) = (copies().await, board.cpu_s());
    let begin = board.now_us();
    // Everything below `low` is everywhere, or given up.
    let (mut low, mut gave_up) = (first, 0u32);
    for number in first..first + plan.burst {
        let mut since = Instant::now();
        while number - low >= window && gave_up <= MOST_LOST {
            if board.everywhere(low, others) {
                low += 1;
                since = Instant::now();
            } else if since.elapsed() > LOST {
                low += 1;
                gave_up += 1;
                since = Instant::now();
            } else {
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
        }
        publish(payload(number, BURST_BYTES)).await;
    }
    let accepted = board.now_us() - begin;
    board.settle(delivered_before + wanted, Duration::from_secs(4), Duration::from_secs(60)).await;
    let got = board.total.load(Relaxed) - delivered_before;
    let wall = board.last_us.load(Relaxed).saturating_sub(begin).max(1) as f64 / 1e6;
    let mut put = |key: &str, value: Value| out[format!("{tag}_{key}")] = value;
    put("ratio", json!(got as f64 / wanted as f64));
    put("wall_s", json!(wall));
    put("accept_s", json!(accepted as f64 / 1e6));
    put("msgs_s", json!(plan.burst as f64 / wall));
    put("deliveries_s", json!(got as f64 / wall));
    put("cpu_us_per_delivery", json!((board.cpu_s() - cpu_before) * 1e6 / got.max(1) as f64));
    put("gave_up", json!(gave_up));
    if let (Some(before), Some(after)) = (copies_before, copies().await) {
        put("copies", json!((after - before) as f64 / wanted as f64));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_network_that_delivers_at_once_loses_nothing() {
        let plan = Plan { nodes: 4, burst: 50, window: 8 };
        let board = Board::new(plan);
        let publish = async |bytes: Vec<u8>| (1..plan.nodes).for_each(|_| board.delivered(&bytes));
        let mut received = 0;
        let copies = async || {
            received += 1;
            Some(received)
        };
        let out = drive(plan, &board, publish, copies).await;
        for key in ["lat_ratio", "thr_ratio", "flood_ratio"] {
            assert_eq!(out[key], 1.0, "{key}: {out}");
        }
        assert_eq!(out["lat_complete"], SINGLE);
        assert_eq!(out["thr_gave_up"], 0);
        assert!(out["thr_copies"].is_number());
        // Each question to `copies` is answered by one more.
        assert_eq!(out["lat_first_copies"], 1.0 / 3.0);
        assert_eq!(out["lat_copies"], 1.0 / ((SINGLE - 1) * 3) as f64);
    }

    #[test]
    fn bytes_that_are_no_message_are_not_counted() {
        let board = Board::new(Plan { nodes: 2, burst: 1, window: 1 });
        board.delivered(b"short");
        board.delivered(&u64::MAX.to_be_bytes());
        assert_eq!(board.total.load(Relaxed), 0);
    }
}
