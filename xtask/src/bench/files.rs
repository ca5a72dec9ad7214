//! One file from `p2p share` to `p2p get`, over loopback, as a user runs them.
//!
//! Measured from outside: wall time from the start of the receiver to the line that says the verified file
//! stands on disk, CPU time of both sides within that time, peak memory of both, and what an fsync of the
//! file still takes after that (nothing, if it was done as promised).

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::args::Args;
use crate::bench::stats::Spread;
use crate::bench::{Scratch, limits, make_source, program};
use crate::digest::digest;
use crate::process;
use crate::program::{Event, Program, kill_on_signal};

/// Hashing the source and fetching it, at worst.
const LIMIT: Duration = Duration::from_secs(600);
const LINK: Duration = Duration::from_secs(20);
const EXIT: Duration = Duration::from_secs(10);
/// Between two looks at the memory of a process; the peak itself is kept by the kernel.
const LOOK: Duration = Duration::from_millis(10);
/// The TLS stream that is measured as a limit.
const TLS_BYTES: u64 = 2 << 30;

pub(crate) fn run(mut args: Args) -> Result<()> {
    let size = args.size("--size", 1 << 30)?;
    let counts = args.value("--sources")?.unwrap_or_else(|| "1".into());
    let counts = counts.split(',').map(str::parse).collect::<Result<Vec<usize>, _>>();
    let counts = counts.context("--sources: numbers such as 1,4")?;
    let up = args.value("--up")?;
    let runs: usize = args.parsed("--runs", 5)?;
    let as_json = args.flag("--json");
    args.finish()?;
    ensure!(counts.iter().all(|n| *n >= 1) && runs >= 1, "--sources and --runs begin at 1");
    let scratch = Scratch::new("files")?;
    let (program, folder) = (program()?, scratch.0.clone());
    kill_on_signal()?;
    let source = make_source(&folder, size)?;
    let expected = digest(&source)?;
    let mut benches = Vec::new();
    for sources in counts {
        let (program, folder, up) = (program.clone(), folder.clone(), up.clone());
        benches.push((Bench { program, folder, size, sources, up }, Vec::new(), Limits::default()));
    }
    // In turns, so that a slow minute of the machine falls on all of them.
    for run in 0..runs {
        for (bench, transfers, measured) in &mut benches {
            one_run(bench, run, &source, &expected, transfers, measured)?;
        }
    }
    for (bench, transfers, measured) in &benches {
        let out = summary(bench, transfers, measured);
        if as_json {
            println!("{out}");
        } else {
            print_table(&out);
        }
    }
    Ok(())
}

fn one_run(
    bench: &Bench,
    run: usize,
    source: &Path,
    expected: &[u8; 32],
    transfers: &mut Vec<Transfer>,
    measured: &mut Limits,
) -> Result<()> {
    let transfer = bench.transfer(run, source, expected)?;
    eprintln!(
        "run {}, {} sources: {:.2} s, {:.0} MB/s",
        run + 1,
        bench.sources,
        transfer.wall_s,
        bench.size as f64 / 1e6 / transfer.wall_s
    );
    transfers.push(transfer);
    measured.measure(source, &bench.folder.join("copy"))
}

/// What the machine can do, once a run, so that a slow minute falls on both.
#[derive(Default)]
struct Limits {
    tls: Vec<f64>,
    tls_cpu: Vec<f64>,
    sha: Vec<f64>,
    copy: Vec<f64>,
    read_hash: Vec<f64>,
}

impl Limits {
    fn measure(&mut self, source: &Path, copy: &Path) -> Result<()> {
        let (rate, cpu) = limits::tls_loopback(TLS_BYTES)?;
        self.tls.push(rate);
        self.tls_cpu.push(cpu);
        self.sha.push(limits::sha256());
        self.copy.push(limits::copy_synced(source, copy)?);
        self.read_hash.push(limits::read_and_hash(source)?);
        Ok(())
    }
}

struct Transfer {
    wall_s: f64,
    /// Hashing of the source, before anybody can fetch it.
    share_s: f64,
    /// The same by a node that runs already, with the file in memory.
    add_s: f64,
    fsync_after_s: f64,
    send_cpu_s: Option<f64>,
    recv_cpu_s: Option<f64>,
    send_peak_mib: Option<f64>,
    recv_peak_mib: Option<f64>,
    sources: u64,
}

struct Bench {
    program: PathBuf,
    folder: PathBuf,
    size: u64,
    sources: usize,
    /// What each sharer may send a second, as `--up` takes it.
    up: Option<String>,
}

impl Bench {
    fn command(&self, data: &Path, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["--json", "--host", "127.0.0.1", "--port", "0", "--file-port", "0"]);
        command.args(["--no-upnp", "--no-lan", "--data"]).arg(data).args(words);
        if let Some(up) = &self.up {
            command.args(["--up", up]);
        }
        command
    }

    fn transfer(&self, run: usize, source: &Path, expected: &[u8; 32]) -> Result<Transfer> {
        let folder = self.folder.join(format!("run{run}"));
        fs::create_dir_all(&folder)?;
        let result = self.transfer_in(&folder, source, expected);
        fs::remove_dir_all(&folder).ok();
        result
    }

    fn transfer_in(&self, folder: &Path, source: &Path, expected: &[u8; 32]) -> Result<Transfer> {
        let path = source.to_str().context("a path of ours is UTF-8")?;
        let add_s = self.add(folder, path)?;
        let first =
            Program::start("share", folder, &mut self.command(&folder.join("share"), &["share", path]))?;
        let added = first.event("file_added", 0, LIMIT, |e| e.is("file_added") || failed(e))?;
        ensure!(!failed(&added), "share: {}", added.value);
        let ticket = added.str("ticket").to_owned();
        let share_s = (added.at - first.started).as_secs_f64();
        let mut sharers = vec![first];
        for i in 1..self.sources {
            sharers.push(self.another(&format!("share{i}"), folder, path, &ticket)?);
        }
        let cpu_before = self.cpu(&sharers);
        let out = folder.join("out.bin");
        let words = ["get", &ticket, "-o", out.to_str().context("a path of ours is UTF-8")?];
        let mut getter = Program::start("get", folder, &mut self.command(&folder.join("get"), &words))?;
        let (send_peak, recv_peak) = (Peak::of(sharers[0].pid), Peak::of(getter.pid));
        let done = getter.event("file_done", 0, LIMIT, |e| e.is("file_done") || failed(e))?;
        let send_cpu_s = self.cpu(&sharers).zip(cpu_before).map(|(after, before)| after - before);
        ensure!(!failed(&done), "get: {}", done.value);
        let wall_s = (done.at - getter.started).as_secs_f64();
        getter.close_stdin();
        let recv_cpu_s = cpu_at_the_end(getter.pid);
        let status = getter.exit(EXIT)?;
        ensure!(status.success(), "get ended with {status}");
        let synced = Instant::now();
        File::open(&out)?.sync_all()?;
        let fsync_after_s = synced.elapsed().as_secs_f64();
        ensure!(digest(&out)? == *expected, "the file differs");
        let transfer = Transfer {
            wall_s,
            share_s,
            add_s,
            fsync_after_s,
            send_cpu_s,
            recv_cpu_s,
            send_peak_mib: send_peak.mib(),
            recv_peak_mib: recv_peak.mib(),
            sources: done.value["sources"].as_u64().unwrap_or_default(),
        };
        for mut sharer in sharers {
            sharer.close_stdin();
            let status = sharer.exit(EXIT)?;
            ensure!(status.success(), "share ended with {status}");
        }
        Ok(transfer)
    }

    /// How long a node that runs takes to share the file.
    fn add(&self, folder: &Path, path: &str) -> Result<f64> {
        let mut node = Program::start("add", folder, &mut self.command(&folder.join("add"), &[]))?;
        node.event("ready", 0, LINK, |e| e.is("ready"))?;
        let begin = Instant::now();
        node.tell(&format!("add \"{path}\""), LIMIT)?;
        let took = begin.elapsed().as_secs_f64();
        node.close_stdin();
        node.exit(EXIT)?;
        Ok(took)
    }

    /// One more node that has the file: linked to the first, so that a search finds it.
    fn another(&self, name: &str, folder: &Path, path: &str, ticket: &str) -> Result<Program> {
        let mut command = self.command(&folder.join(name), &["--connect", ticket]);
        let mut node = Program::start(name, folder, &mut command)?;
        node.event("peer_up", 0, LINK, |e| e.is("peer_up"))?;
        node.tell(&format!("add \"{path}\""), LIMIT)?;
        Ok(node)
    }

    fn cpu(&self, sharers: &[Program]) -> Option<f64> {
        sharers.iter().map(|s| process::cpu_s(s.pid)).sum()
    }
}

pub(super) fn failed(event: &Event) -> bool {
    event.is("error") || event.is("file_failed")
}

/// The CPU time of a process that is about to end: it stays readable until it is waited for.
fn cpu_at_the_end(pid: u32) -> Option<f64> {
    let end = Instant::now() + EXIT;
    while !process::has_ended(pid) && Instant::now() < end {
        thread::sleep(Duration::from_millis(1));
    }
    process::cpu_s(pid)
}

/// Watches the peak memory of a process, which can't be read any more once it has ended.
pub(super) struct Peak {
    kib: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Peak {
    pub(super) fn of(pid: u32) -> Self {
        let (kib, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (kib2, stop2) = (Arc::clone(&kib), Arc::clone(&stop));
        thread::spawn(move || {
            while !stop2.load(Relaxed) {
                let Some(now) = process::peak_rss_kib(pid) else { break };
                kib2.fetch_max(now, Relaxed);
                thread::sleep(LOOK);
            }
        });
        Self { kib, stop }
    }

    pub(super) fn mib(&self) -> Option<f64> {
        let kib = self.kib.load(Relaxed);
        (kib > 0).then_some(kib as f64 / 1024.0)
    }
}

impl Drop for Peak {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
    }
}

fn summary(bench: &Bench, transfers: &[Transfer], limits: &Limits) -> Value {
    let size = bench.size as f64;
    let spread = |of: &dyn Fn(&Transfer) -> Option<f64>| -> Value {
        Spread::of(transfers.iter().filter_map(of)).map_or(Value::Null, Spread::json)
    };
    let of = |values: &[f64]| Spread::of(values.iter().copied()).map_or(Value::Null, Spread::json);
    let both = |t: &Transfer| Some((t.send_cpu_s? + t.recv_cpu_s?) / (size / 1e9));
    json!({
        "bench": "files", "size": bench.size, "sources": bench.sources, "runs": transfers.len(),
        "sources_used": spread(&|t| Some(t.sources as f64)),
        "wall_s": spread(&|t| Some(t.wall_s)),
        "MB_s": spread(&|t| Some(size / 1e6 / t.wall_s)),
        "share_s": spread(&|t| Some(t.share_s)),
        "add_MB_s": spread(&|t| Some(size / 1e6 / t.add_s)),
        "fsync_after_s": spread(&|t| Some(t.fsync_after_s)),
        "send_cpu_s": spread(&|t| t.send_cpu_s),
        "recv_cpu_s": spread(&|t| t.recv_cpu_s),
        "cpu_s_per_GB": spread(&both),
        "send_peak_MiB": spread(&|t| t.send_peak_mib),
        "recv_peak_MiB": spread(&|t| t.recv_peak_mib),
        "limits": {
            "tls_loopback_MB_s": of(&limits.tls),
            "tls_loopback_cpu_s_per_GB": of(&limits.tls_cpu),
            "sha256_one_core_MB_s": of(&limits.sha),
            "copy_synced_MB_s": of(&limits.copy),
            "read_and_hash_all_cores_MB_s": of(&limits.read_hash),
        },
    })
}

fn print_table(out: &Value) {
    let rows = [
        ("wall time, s", &out["wall_s"], 2),
        ("rate, MB/s", &out["MB_s"], 0),
        ("hashing before sharing, s", &out["share_s"], 2),
        ("hashing by a node that runs, MB/s", &out["add_MB_s"], 0),
        ("fsync still needed after, s", &out["fsync_after_s"], 3),
        ("sources used", &out["sources_used"], 0),
        ("CPU of all senders, s", &out["send_cpu_s"], 2),
        ("CPU of the receiver, s", &out["recv_cpu_s"], 2),
        ("CPU of all, s per GB", &out["cpu_s_per_GB"], 2),
        ("peak memory of a sender, MiB", &out["send_peak_MiB"], 0),
        ("peak memory of the receiver, MiB", &out["recv_peak_MiB"], 0),
        ("limit: one TLS 1.3 stream, MB/s", &out["limits"]["tls_loopback_MB_s"], 0),
        ("limit: the same, CPU s per GB", &out["limits"]["tls_loopback_cpu_s_per_GB"], 2),
        ("limit: SHA-256 of one core, MB/s", &out["limits"]["sha256_one_core_MB_s"], 0),
        ("limit: copy and fsync, MB/s", &out["limits"]["copy_synced_MB_s"], 0),
        ("limit: read and hash, all cores, MB/s", &out["limits"]["read_and_hash_all_cores_MB_s"], 0),
    ];
    println!(
        "one file of {} bytes from {} to one over loopback, {} runs",
        out["size"], out["sources"], out["runs"]
    );
    for (name, value, digits) in rows {
        let get = |key: &str| value[key].as_f64();
        let text = match (get("median"), get("min"), get("max")) {
            (Some(median), Some(min), Some(max)) => format!("{:.digits$}", Spread { median, min, max }),
            _ => "not known on this system".into(),
        };
        println!("  {name:<36} {text}");
    }
}
