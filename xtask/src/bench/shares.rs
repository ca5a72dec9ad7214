//! Very many shared files: how long they take to share, and how soon a node that starts knows them all.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::args::Args;
use crate::bench::stats::Spread;
use crate::bench::{Scratch, program};
use crate::process;
use crate::program::{Program, kill_on_signal};

/// The first look at the files, at worst.
const LIMIT: Duration = Duration::from_secs(900);
const READY: Duration = Duration::from_secs(20);
/// Files of one folder; a content folder of so many has some order in it.
const PER_FOLDER: usize = 500;

pub(crate) fn run(mut args: Args) -> Result<()> {
    let files: usize = args.parsed("--files", 200_000)?;
    let runs: usize = args.parsed("--runs", 5)?;
    let as_json = args.flag("--json");
    args.finish()?;
    ensure!(files >= 1 && runs >= 1, "--files and --runs begin at 1");
    let scratch = Scratch::new("shares")?;
    let bench = Bench { program: program()?, folder: scratch.0.clone() };
    kill_on_signal()?;
    let last = bench.make(files)?;
    let first_s = bench.share_all(files)?;
    let index_mib = fs::metadata(bench.folder.join("data/shares.redb"))?.len() as f64 / f64::from(1 << 20);
    let last_hash = bench.hash_of(&last)?;
    let mut starts = Vec::new();
    for run in 0..runs {
        // The last one was killed, every second time.
        let start = bench.start(files, &last_hash, run % 2 == 1)?;
        eprintln!(
            "run {}: ready after {:.0} ms, one found after {:.0} ms",
            run + 1,
            start.ready_ms,
            start.known_ms
        );
        starts.push(start);
    }
    let out = json!({
        "bench": "shares", "files": files, "runs": runs, "first_s": first_s, "index_MiB": index_mib,
        "ready_ms": spread(&starts, |s| Some(s.ready_ms)),
        "known_ms": spread(&starts, |s| Some(s.known_ms)),
        "listed_ms": spread(&starts, |s| Some(s.listed_ms)),
        "looked_through_ms": spread(&starts, |s| Some(s.looked_ms)),
        "rss_ready_MiB": spread(&starts, |s| s.rss_ready_mib),
        "rss_after_MiB": spread(&starts, |s| s.rss_after_mib),
    });
    if as_json {
        println!("{out}");
    } else {
        print_table(&out);
    }
    Ok(())
}

struct Bench {
    program: PathBuf,
    folder: PathBuf,
}

struct Start {
    ready_ms: f64,
    /// From the start of the process until somebody who asked for the last file was told that it is here.
    known_ms: f64,
    listed_ms: f64,
    looked_ms: f64,
    rss_ready_mib: Option<f64>,
    rss_after_mib: Option<f64>,
}

impl Bench {
    /// Makes the files and returns the last one.
    fn make(&self, files: usize) -> Result<PathBuf> {
        let content = self.folder.join("content");
        let mut path = content.clone();
        for n in 0..files {
            let folder = content.join(format!("folder {:04}", n / PER_FOLDER));
            if n % PER_FOLDER == 0 {
                fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
            }
            path = folder.join(format!("file {n:06}.txt"));
            fs::write(&path, format!("contents of {n}"))?;
        }
        Ok(path)
    }

    fn node(&self, name: &str, data: &str, more: &[&str]) -> Result<Program> {
        let mut command = Command::new(&self.program);
        command.args(["--json", "--host", "127.0.0.1", "--port", "0", "--file-port", "0", "--no-upnp"]);
        command.args(["--no-lan", "--no-watch"]).args(more);
        command.arg("--data").arg(self.folder.join(data));
        if data == "data" {
            command.arg("--content").arg(self.folder.join("content"));
        }
        Program::start(name, &self.folder, &mut command)
    }

    fn share_all(&self, files: usize) -> Result<f64> {
        let mut node = self.node("first", "data", &[])?;
        node.event("ready", 0, READY, |e| e.is("ready"))?;
        let begin = Instant::now();
        let done = node.tell("refresh", LIMIT)?;
        let seconds = begin.elapsed().as_secs_f64();
        ensure!(done.value["added"] == json!(files), "not all were shared: {}", done.value);
        node.close_stdin();
        node.exit(LIMIT)?;
        Ok(seconds)
    }

    fn hash_of(&self, path: &Path) -> Result<String> {
        let mut node = self.node("hash", "data", &[])?;
        let added = node.tell(&format!("add \"{}\"", path.display()), LIMIT)?;
        node.close_stdin();
        node.exit(LIMIT)?;
        Ok(added.str("hash").to_owned())
    }

    fn start(&self, files: usize, hash: &str, kill: bool) -> Result<Start> {
        // Who asks is there before, so that the time is that of the node with the files alone.
        let mut asker = self.node("asker", "asker", &[])?;
        let ready = asker.event("ready", 0, READY, |e| e.is("ready"))?;
        let mut node = self.node("node", "data", &["--connect", ready.str("ticket")])?;
        let started = node.started;
        let since = |at: Instant| (at - started).as_secs_f64() * 1e3;
        let ready_ms = since(node.event("ready", 0, READY, |e| e.is("ready"))?.at);
        let mib = |kib: u64| kib as f64 / 1024.0;
        let rss_ready_mib = process::rss_kib(node.pid).map(mib);
        asker.event("peer_up", 0, READY, |e| e.is("peer_up"))?;
        let to = self.folder.join("fetched");
        let done = asker.tell(&format!("req {hash} \"{}\"", to.display()), READY)?;
        let known_ms = since(done.at);
        fs::remove_file(&to)?;
        let timed = |node: &mut Program, line: &str| -> Result<(f64, Value)> {
            let begin = Instant::now();
            let answer = node.tell(line, LIMIT)?;
            Ok((begin.elapsed().as_secs_f64() * 1e3, answer.value))
        };
        let (listed_ms, listed) = timed(&mut node, "files")?;
        ensure!(listed["files"].as_array().map(Vec::len) == Some(files), "not all are known");
        let (looked_ms, looked) = timed(&mut node, "refresh")?;
        ensure!(looked["added"] == 0 && looked["removed"] == 0, "nothing has changed: {looked}");
        let rss_after_mib = process::rss_kib(node.pid).map(mib);
        if kill {
            node.kill();
        } else {
            node.close_stdin();
            node.exit(LIMIT)?;
        }
        asker.close_stdin();
        asker.exit(LIMIT)?;
        fs::remove_dir_all(self.folder.join("asker"))?;
        Ok(Start { ready_ms, known_ms, listed_ms, looked_ms, rss_ready_mib, rss_after_mib })
    }
}

fn spread(starts: &[Start], of: impl Fn(&Start) -> Option<f64>) -> Value {
    Spread::of(starts.iter().filter_map(of)).map_or(Value::Null, Spread::json)
}

fn print_table(out: &Value) {
    println!("{} shared files, {} starts, median (min-max)", out["files"], out["runs"]);
    println!("  sharing them at first, s             {:.1}", out["first_s"].as_f64().unwrap_or_default());
    println!("  the index, MiB                       {:.0}", out["index_MiB"].as_f64().unwrap_or_default());
    let rows = [
        ("start to `ready`, ms", "ready_ms"),
        ("start until one was fetched, ms", "known_ms"),
        ("`files`, ms", "listed_ms"),
        ("`refresh` with nothing new, ms", "looked_through_ms"),
        ("memory when ready, MiB", "rss_ready_MiB"),
        ("memory after these, MiB", "rss_after_MiB"),
    ];
    for (name, key) in rows {
        let get = |part: &str| out[key][part].as_f64();
        if let (Some(median), Some(min), Some(max)) = (get("median"), get("min"), get("max")) {
            println!("  {name:<36} {:.0}", Spread { median, min, max });
        }
    }
}
