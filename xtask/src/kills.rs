//! `cargo xtask kills`: one download by real processes, killed (SIGKILL) again and again at random points.
//!
//! Counted is what the provider sent against what came to stand in the file: the difference is what a kill costs.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use crate::args::Args;
use crate::digest::digest;
use crate::program::{Event, Program, kill_on_signal};
use crate::random::Random;
use crate::test_net::node::{Launch, Node};
use crate::workspace;

/// Longer than anything here takes; only a failure waits for it.
const LIMIT: Duration = Duration::from_secs(120);
/// How often the growing file is looked at.
const LOOK: Duration = Duration::from_millis(1);
/// The most that one kill may cost: this, or 2 % of the file if that is more.
const COST: u64 = 16 << 20;
/// Of so many lives, one is ended at any time since its start; the others after their first byte.
const EARLY: u64 = 4;

pub(crate) fn run(mut args: Args) -> Result<ExitCode> {
    let kills: usize = args.parsed("--kills", 100)?;
    let size = args.size("--size", 1 << 30)?;
    let seed: u64 = args.parsed("--seed", 1)?;
    let as_json = args.flag("--json");
    let built = args.value("--program")?;
    args.finish()?;
    ensure!(kills >= 1 && size > 1 << 20, "--kills begins at 1, --size above 1MiB");
    let target = workspace::target_dir()?;
    let program = workspace::p2p(built)?;
    let folder = target.join("kills").join(std::process::id().to_string());
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    kill_on_signal()?;
    eprintln!("kills: {kills} in a download of {size} bytes, seed {seed}");
    let done = Kills::begin(Launch { program, folder: folder.clone() }, size, seed).and_then(|mut it| {
        it.play(kills)?;
        Ok(it.costs)
    });
    let costs = match done {
        Ok(costs) => costs,
        Err(error) => {
            eprintln!("logs: {} (repeat with --seed {seed})", folder.display());
            return Err(error);
        }
    };
    fs::remove_dir_all(&folder).ok();
    let limit = COST.max(size / 50);
    let (sum, most) = (costs.iter().sum::<u64>(), costs.iter().copied().max().unwrap_or_default());
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let mean = mib(sum) / costs.len() as f64;
    if as_json {
        let out = json!({
            "kills": costs.len(), "size": size, "seed": seed, "fetched_again_MiB": mib(sum),
            "per_kill_MiB": mean, "most_MiB": mib(most), "limit_MiB": mib(limit),
        });
        println!("{out}");
    } else {
        println!(
            "{} kills: {:.1} MiB fetched again in all, {mean:.2} MiB a kill, at most {:.1} MiB (limit {:.0} MiB); every file identical",
            costs.len(),
            mib(sum),
            mib(most),
            mib(limit)
        );
    }
    ensure!(most <= limit, "a kill cost {most} bytes, the limit is {limit}");
    Ok(ExitCode::SUCCESS)
}

struct Kills {
    launch: Launch,
    sharer: Node,
    ticket: String,
    size: u64,
    expected: [u8; 32],
    random: Random,
    /// How long a life lasts after its first byte, at most; follows what was reached.
    span: Duration,
    costs: Vec<u64>,
}

/// How a life of the receiver ended.
enum End {
    Killed,
    /// The file stands here.
    Complete(PathBuf),
}

impl Kills {
    fn begin(launch: Launch, size: u64, seed: u64) -> Result<Self> {
        let source = launch.folder.join("source.bin");
        make(&source, size, seed)?;
        let expected = digest(&source)?;
        let mut sharer = launch.start("share", &["--no-watch"])?;
        let added = sharer.program.tell(&format!("add \"{}\"", source.display()), LIMIT)?;
        let ticket = added.str("ticket").to_owned();
        let random = Random::new(seed);
        let span = Duration::from_millis(200);
        Ok(Self { launch, sharer, ticket, size, expected, random, span, costs: Vec::new() })
    }

    fn play(&mut self, kills: usize) -> Result<()> {
        let mut round = 0;
        while self.costs.len() < kills {
            // It came to its end before it was killed often enough: once more, from the start.
            round += 1;
            self.round(&format!("get{round}"), kills)?;
        }
        Ok(())
    }

    fn round(&mut self, name: &str, kills: usize) -> Result<()> {
        let content = self.launch.data_dir(name).join("content");
        let (begin, first) = (self.sent()?, self.costs.len());
        let (mut sent, mut stands) = (begin, 0);
        let path = loop {
            let last = self.costs.len() >= kills;
            let end = self.life(name, &content, stands == 0, last)?;
            let End::Complete(path) = end else {
                let (sent_now, stands_now) = (self.sent()?, allocated(&content));
                let cost = (sent_now - sent).saturating_sub(stands_now.saturating_sub(stands));
                let got = stands_now.saturating_sub(stands);
                eprintln!(
                    "kill {:>3}: {:>4} MiB stand, {:.1} MiB of this life were in vain",
                    self.costs.len() + 1,
                    stands_now >> 20,
                    cost as f64 / f64::from(1 << 20)
                );
                self.costs.push(cost);
                self.adapt(got, kills);
                (sent, stands) = (sent_now, stands_now);
                continue;
            };
            break path;
        };
        ensure!(digest(&path)? == self.expected, "{} differs from what was shared", path.display());
        let again = (self.sent()? - begin).saturating_sub(self.size);
        let kills = self.costs.len() - first;
        eprintln!(
            "{name}: identical after {kills} kills, {:.1} MiB came twice",
            again as f64 / f64::from(1 << 20)
        );
        fs::remove_dir_all(self.launch.data_dir(name)).ok();
        Ok(())
    }

    /// One life of the receiver.
    fn life(&mut self, name: &str, content: &Path, is_first: bool, to_the_end: bool) -> Result<End> {
        let peer = self.sharer.addr.to_string();
        let mut node = self.launch.start(name, &["--no-watch", "--connect", &peer])?;
        let before = allocated(content);
        if is_first {
            node.program.type_line(&format!("req {}", self.ticket))?;
        }
        let begin = Instant::now();
        let early = self.random.next().is_multiple_of(EARLY);
        let part = Duration::from_nanos(self.random.next() % u64::try_from(self.span.as_nanos())?.max(1));
        if !to_the_end {
            if !early {
                while allocated(content) <= before && complete(&node.program).is_none() {
                    ensure!(begin.elapsed() < LIMIT, "{name}: nothing comes");
                    thread::sleep(LOOK);
                }
            }
            thread::sleep(part);
            if complete(&node.program).is_none() {
                node.program.kill();
                return Ok(End::Killed);
            }
        }
        let path = node
            .program
            .wait("the end of the download", 0, LIMIT, |events| events.iter().find_map(path_of))?;
        node.program.kill();
        Ok(End::Complete(path))
    }

    /// A life should bring its part of the file.
    fn adapt(&mut self, got: u64, kills: usize) {
        let wanted = self.size / kills as u64;
        if got > 2 * wanted {
            self.span = self.span.mul_f64(0.7).max(Duration::from_millis(1));
        } else if got < wanted / 2 {
            self.span = self.span.mul_f64(1.4).min(Duration::from_secs(2));
        }
    }

    /// Bytes of the file that the provider has sent.
    fn sent(&mut self) -> Result<u64> {
        let status = self.sharer.program.tell("status", LIMIT)?;
        status.value["files_sent"].as_u64().with_context(|| format!("no `files_sent`: {}", status.value))
    }
}

fn complete(program: &Program) -> Option<PathBuf> {
    program.output().events().iter().find_map(path_of)
}

/// The file of a download that is complete, whether it was asked for in this life or before.
fn path_of(event: &Event) -> Option<PathBuf> {
    if event.is("file_done") {
        return Some(event.str("path").into());
    }
    let (_, path) = event.is("notice").then(|| event.str("text").split_once(" is complete: "))??;
    Some(path.into())
}

/// Bytes of all files here that stand on disk, holes left out.
fn allocated(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries.flatten().filter_map(|entry| entry.metadata().ok()).map(|data| blocks(&data) * 512).sum()
}

#[cfg(unix)]
fn blocks(data: &fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::blocks(data)
}

#[cfg(not(unix))]
fn blocks(data: &fs::Metadata) -> u64 {
    data.len() / 512
}

/// A file of random bytes.
pub(crate) fn make(path: &Path, size: u64, seed: u64) -> Result<()> {
    let mut file = File::create(path).with_context(|| path.display().to_string())?;
    let (mut random, mut left, mut buffer) = (Random::new(seed), size, vec![0; 1 << 20]);
    while left > 0 {
        random.fill(&mut buffer);
        let n = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        if file.write(&buffer[..n])? != n {
            bail!("{}: a short write", path.display());
        }
        left -= n as u64;
    }
    Ok(())
}
