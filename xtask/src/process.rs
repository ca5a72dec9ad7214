//! What a process costs, as Linux tells it in `/proc`. Elsewhere every answer is `None`.

use std::fs;

/// Ticks of `/proc/PID/stat` per second: USER_HZ, 100 on all of Linux's current architectures.
const TICKS: f64 = 100.0;

/// User and system CPU seconds so far; also of a process that has ended and was not yet waited for.
pub(crate) fn cpu_s(pid: u32) -> Option<f64> {
    let fields = stat_fields(pid)?;
    let ticks = |at: usize| fields.get(at)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)?) / TICKS)
}

/// The process has ended (it may not have been waited for yet).
pub(crate) fn has_ended(pid: u32) -> bool {
    stat_fields(pid).is_none_or(|f| f.first().is_none_or(|state| state == "Z" || state == "X"))
}

/// Resident memory now, KiB.
pub(crate) fn rss_kib(pid: u32) -> Option<u64> {
    status_kib(pid, "VmRSS:")
}

/// The largest resident memory so far, KiB.
pub(crate) fn peak_rss_kib(pid: u32) -> Option<u64> {
    status_kib(pid, "VmHWM:")
}

/// The fields of `/proc/PID/stat` after the program's name, which may itself hold spaces.
fn stat_fields(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(") ")?;
    Some(rest.split_whitespace().map(String::from).collect())
}

fn status_kib(pid: u32, key: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix(key))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}
