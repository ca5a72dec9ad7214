//! A folder of many small files from `p2p share` to `p2p get`, over loopback, as a user runs them.
//!
//! Measured from outside: what sharing it takes (every file hashed, every file in the index), what sharing it again takes,
//! when all of it stands verified, synced and shared on the other side, what it takes to see that all of it is there
//! already, and the peak memory of both. Every byte is compared in the end.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::args::Args;
use crate::bench::files::{Peak, failed};
use crate::bench::{Scratch, program};
use crate::program::{Program, kill_on_signal};
use crate::random::Random;

/// Sharing, fetching, each.
const LIMIT: Duration = Duration::from_secs(3600);
const EXIT: Duration = Duration::from_secs(30);
/// Files in one folder.
const IN_ONE: usize = 1_000;
/// Every so many files there is one that is equal to another.
const EQUAL_EVERY: usize = 10;

pub(crate) fn run(mut args: Args) -> Result<()> {
    let files: usize = args.parsed("--files", 200_000)?;
    let longest: usize = args.parsed("--longest", 2_048)?;
    let as_json = args.flag("--json");
    args.finish()?;
    ensure!(files >= 1, "--files begins at 1");
    let scratch = Scratch::new("folders")?;
    kill_on_signal()?;
    let source = scratch.0.join("source");
    let bytes = make(&source, files, longest)?;
    let bench = Bench { program: program()?, folder: scratch.0.clone() };

    let (first, ticket, share_s) = bench.share(&source)?;
    let share_peak = Peak::of(first.pid);
    let out = scratch.0.join("out");
    let (get_s, get_mib) = bench.get(&ticket, &out)?;
    let started = Instant::now();
    compare(&source, &out)?;
    eprintln!("compared in {:.1} s", started.elapsed().as_secs_f64());
    let (again_s, _) = bench.get(&ticket, &scratch.0)?;
    let share_mib = share_peak.mib();
    bench.end(first)?;
    let (first, _, reshare_s) = bench.share(&source)?;
    bench.end(first)?;

    let result = json!({
        "bench": "folders", "files": files, "bytes": bytes,
        "share_s": share_s, "share_again_s": reshare_s, "get_s": get_s, "get_again_s": again_s,
        "files_per_s": files as f64 / get_s, "share_peak_MiB": share_mib, "get_peak_MiB": get_mib,
    });
    if as_json {
        println!("{result}");
        return Ok(());
    }
    println!("a folder of {files} files, {bytes} bytes, from one to one over loopback");
    for (name, value) in [
        ("sharing it, s", Some(share_s)),
        ("sharing it again, s", Some(reshare_s)),
        ("fetching it, s", Some(get_s)),
        ("files a second", Some(files as f64 / get_s)),
        ("seeing that it is here, s", Some(again_s)),
        ("peak memory of the sender, MiB", share_mib),
        ("peak memory of the receiver, MiB", get_mib),
    ] {
        println!("  {name:<36} {}", value.map_or_else(|| "not known".into(), |value| format!("{value:.1}")));
    }
    Ok(())
}

/// Files of random lengths and contents, some of them equal; their bytes in all.
fn make(source: &Path, files: usize, longest: usize) -> Result<u64> {
    let (mut random, mut buffer, mut bytes) = (Random::new(files as u64), vec![0; longest], 0);
    let mut length = 0;
    for number in 0..files {
        let folder = source.join(format!("{:04}", number / IN_ONE));
        if number % IN_ONE == 0 {
            fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        }
        if number % EQUAL_EVERY != 1 {
            random.fill(&mut buffer[..8.min(longest)]);
            length = number * 7_919 % (longest + 1);
            random.fill(&mut buffer[..length]);
        }
        fs::write(folder.join(format!("file-{number:06}.dat")), &buffer[..length])?;
        bytes += length as u64;
    }
    Ok(bytes)
}

/// Everything in one folder is in the other, and nothing else.
fn compare(a: &Path, b: &Path) -> Result<()> {
    let names = |folder: &Path| -> Result<Vec<_>> {
        let names = fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name()));
        let mut names: Vec<_> = names.collect::<std::io::Result<_>>()?;
        names.sort();
        Ok(names)
    };
    let all = names(a)?;
    ensure!(all == names(b)?, "{} and {} hold different names", a.display(), b.display());
    for name in all {
        let (a, b) = (a.join(&name), b.join(&name));
        if a.is_dir() {
            compare(&a, &b)?;
        } else {
            ensure!(fs::read(&a)? == fs::read(&b)?, "{} differs", b.display());
        }
    }
    Ok(())
}

struct Bench {
    program: PathBuf,
    folder: PathBuf,
}

impl Bench {
    fn command(&self, data: &str, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["--json", "--host", "127.0.0.1", "--port", "0", "--file-port", "0"]);
        command.args(["--no-upnp", "--no-lan", "--data"]).arg(self.folder.join(data)).args(words);
        command
    }

    /// A sharer, its ticket, and seconds until it had one.
    fn share(&self, source: &Path) -> Result<(Program, String, f64)> {
        let path = source.to_str().context("a path of ours is UTF-8")?;
        let program = Program::start("share", &self.folder, &mut self.command("share", &["share", path]))?;
        let added = program.event("file_added", 0, LIMIT, |e| e.is("file_added") || failed(e))?;
        ensure!(!failed(&added), "share: {}", added.value);
        let seconds = (added.at - program.started).as_secs_f64();
        let ticket = added.str("ticket").to_owned();
        Ok((program, ticket, seconds))
    }

    /// Seconds until all of it was there, and the peak memory in MiB.
    fn get(&self, ticket: &str, to: &Path) -> Result<(f64, Option<f64>)> {
        let to = to.to_str().context("a path of ours is UTF-8")?;
        let words = ["get", ticket, "-o", to];
        let program = Program::start("get", &self.folder, &mut self.command("get", &words))?;
        let peak = Peak::of(program.pid);
        let done = program.event("file_done", 0, LIMIT, |e| e.is("file_done") || failed(e))?;
        ensure!(!failed(&done), "get: {}", done.value);
        let seconds = (done.at - program.started).as_secs_f64();
        let mib = peak.mib();
        self.end(program)?;
        Ok((seconds, mib))
    }

    fn end(&self, mut program: Program) -> Result<()> {
        program.close_stdin();
        let status = program.exit(EXIT)?;
        ensure!(status.success(), "it ended with {status}");
        Ok(())
    }
}
