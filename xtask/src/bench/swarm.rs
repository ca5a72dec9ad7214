//! One seed whose uploads are limited, and many that fetch the same file from it at once, knowing only its ticket.
//!
//! What counts: how much the seed sends, and when the last one is done, beside what one alone takes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::args::Args;
use crate::bench::{Scratch, make_source, program};
use crate::digest::digest;
use crate::program::{Program, kill_on_signal};

/// The whole of it, at worst.
const LIMIT: Duration = Duration::from_secs(1200);
const SOON: Duration = Duration::from_secs(20);

pub(crate) fn run(mut args: Args) -> Result<()> {
    let size = args.size("--size", 256 << 20)?;
    let up = args.size("--up", 10_000_000)?;
    let receivers: usize = args.parsed("--receivers", 20)?;
    let as_json = args.flag("--json");
    args.finish()?;
    ensure!(receivers >= 1 && up >= 1, "--receivers and --up begin at 1");
    let scratch = Scratch::new("swarm")?;
    let bench = Bench { program: program()?, folder: scratch.0.clone(), up };
    kill_on_signal()?;
    let source = make_source(&bench.folder, size)?;
    let expected = digest(&source)?;
    let one = bench.crowd("one", &source, 1, &expected)?;
    eprintln!("one: {:.1} s", one.last_s);
    let all = bench.crowd("all", &source, receivers, &expected)?;
    let out = json!({
        "bench": "swarm", "size": size, "up": up, "receivers": receivers,
        "one_s": one.last_s, "last_s": all.last_s, "first_s": all.first_s,
        "last_by_one": all.last_s / one.last_s,
        "seed_copies_one": one.seed_sent as f64 / size as f64,
        "seed_copies": all.seed_sent as f64 / size as f64,
    });
    if as_json {
        println!("{out}");
        return Ok(());
    }
    println!("{size} bytes from a seed that sends {up} bytes a second to {receivers} that know its ticket");
    for (name, key) in [
        ("one alone, s", "one_s"),
        ("the first of all, s", "first_s"),
        ("the last of all, s", "last_s"),
        ("the last by one alone", "last_by_one"),
        ("copies the seed sent", "seed_copies"),
    ] {
        println!("  {name:<36} {:.2}", out[key].as_f64().unwrap_or(f64::NAN));
    }
    Ok(())
}

struct Bench {
    program: PathBuf,
    folder: PathBuf,
    up: u64,
}

struct Outcome {
    first_s: f64,
    last_s: f64,
    seed_sent: u64,
}

impl Bench {
    fn command(&self, data: &Path, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["--json", "--host", "127.0.0.1", "--port", "0", "--file-port", "0"]);
        command.args(["--allow-private", "--no-upnp", "--no-lan", "--data"]).arg(data).args(words);
        command
    }

    fn crowd(&self, name: &str, source: &Path, count: usize, expected: &[u8; 32]) -> Result<Outcome> {
        let folder = self.folder.join(name);
        fs::create_dir_all(&folder)?;
        let up = self.up.to_string();
        let mut seed =
            Program::start("seed", &folder, &mut self.command(&folder.join("seed"), &["--up", &up]))?;
        seed.event("ready", 0, SOON, |e| e.is("ready"))?;
        let added = seed.ask(&format!("add \"{}\"", source.display()), LIMIT)?;
        let ticket = added.str("ticket").to_owned();
        ensure!(!ticket.is_empty(), "add: {}", added.value);
        let begin = Instant::now();
        let mut getters = Vec::new();
        for n in 0..count {
            let out = folder.join(format!("out{n}"));
            let words = ["get", &ticket, "-o", out.to_str().context("a path of ours is UTF-8")?];
            let data = folder.join(format!("get{n}"));
            let getter = Program::start(&format!("get{n}"), &folder, &mut self.command(&data, &words))?;
            getters.push((getter, out));
        }
        let mut done = Vec::new();
        for (getter, _) in &getters {
            let end = getter.event("file_done", 0, LIMIT, |e| {
                e.is("file_done") || e.is("file_failed") || e.is("error")
            })?;
            ensure!(end.is("file_done"), "get: {}", end.value);
            done.push((end.at - begin).as_secs_f64());
        }
        let status = seed.ask("status", SOON)?;
        let seed_sent = status.value["files_sent"].as_u64().context("status tells what was sent")?;
        for (mut getter, out) in getters {
            getter.close_stdin();
            getter.exit(SOON)?;
            ensure!(digest(&out)? == *expected, "{} differs", out.display());
        }
        seed.close_stdin();
        seed.exit(SOON)?;
        fs::remove_dir_all(&folder).ok();
        let first_s = done.iter().copied().fold(f64::INFINITY, f64::min);
        let last_s = done.iter().copied().fold(0.0, f64::max);
        Ok(Outcome { first_s, last_s, seed_sent })
    }
}
