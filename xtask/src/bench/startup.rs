//! From the start of the process to the line that says it listens.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::args::Args;
use crate::bench::stats::Spread;
use crate::bench::{Scratch, program};
use crate::process;
use crate::program::{Program, kill_on_signal};

const READY: Duration = Duration::from_secs(20);
const EXIT: Duration = Duration::from_secs(5);

fn command(program: &Path, data: &Path) -> Command {
    let mut command = Command::new(program);
    command.args(["--json", "--host", "127.0.0.1", "--port", "0", "--file-port", "0"]);
    command.args(["--no-upnp", "--no-lan", "--data"]).arg(data);
    command
}

struct Start {
    ready: Duration,
    rss_kib: Option<u64>,
}

fn start(name: &str, logs: &Path, data: &Path, program: &Path) -> Result<Start> {
    let mut node = Program::start(name, logs, &mut command(program, data))?;
    let ready = node.event("ready", 0, READY, |e| e.is("ready"))?.at - node.started;
    let rss_kib = process::rss_kib(node.pid);
    node.close_stdin();
    let status = node.exit(EXIT)?;
    ensure!(status.success(), "the node ended with {status}");
    Ok(Start { ready, rss_kib })
}

pub(crate) fn run(mut args: Args) -> Result<()> {
    let runs: usize = args.parsed("--runs", 20)?;
    let as_json = args.flag("--json");
    args.finish()?;
    let program = program()?;
    let scratch = Scratch::new("startup")?;
    kill_on_signal()?;
    let (mut fresh, mut again): (Vec<Start>, Vec<Start>) = (Vec::new(), Vec::new());
    for i in 0..runs {
        let data: PathBuf = scratch.0.join(format!("data{i}"));
        fresh.push(start("fresh", &scratch.0, &data, &program)?);
        again.push(start("again", &scratch.0, &data, &program)?);
    }
    let ready = |starts: &[Start]| Spread::of(starts.iter().map(|s| s.ready.as_secs_f64() * 1e3));
    let (fresh_ms, again_ms) = (ready(&fresh).context("no runs")?, ready(&again).context("no runs")?);
    let rss = Spread::of(again.iter().filter_map(|s| s.rss_kib).map(|kib| kib as f64 / 1024.0));
    if as_json {
        println!(
            "{}",
            json!({"bench": "startup", "runs": runs, "fresh_ms": fresh_ms.json(), "again_ms": again_ms.json(),
                   "rss_MiB": rss.map(Spread::json)})
        );
        return Ok(());
    }
    println!("start of the process to the `ready` line, {runs} runs, median (min-max)");
    println!("  first start (makes an identity)   {fresh_ms:.1} ms");
    println!("  with a data directory             {again_ms:.1} ms");
    if let Some(rss) = rss {
        println!("  resident memory when ready        {rss:.1} MiB");
    }
    Ok(())
}

/// One start of the real program, told in the words of a harness that compares several systems: one line
/// `{"ready":true,"listening_s":…,"rss_kib":…}`, then it waits for the end of standard input. The time
/// is that of the program's whole start, seen from outside; this program's own start is not in it.
pub(crate) fn probe(args: Args) -> Result<()> {
    args.finish()?;
    let program = program()?;
    let scratch = Scratch::new("probe")?;
    kill_on_signal()?;
    let node = Program::start("probe", &scratch.0, &mut command(&program, &scratch.0.join("data")))?;
    let ready = node.event("ready", 0, READY, |e| e.is("ready"))?.at;
    let listening_s = (ready - node.started).as_secs_f64();
    let line = json!({"ready": true, "listening_s": listening_s, "rss_kib": process::rss_kib(node.pid)});
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()?;
    let mut rest = Vec::new();
    std::io::stdin().read_to_end(&mut rest)?;
    Ok(())
}
