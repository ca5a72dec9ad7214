//! Developer tasks of the p2p workspace: `cargo xtask TASK`.
#![expect(clippy::print_stdout, reason = "a program for developers: what it finds goes to standard output")]

mod args;
mod bench;
mod ci;
mod digest;
mod endure;
mod full_disk;
mod fuzz;
mod kills;
mod line;
#[cfg(feature = "bench")]
mod process;
mod program;
mod random;
mod sim;
mod test_net;
mod tidy;
mod torrent;
mod workspace;

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::args::Args;

/// 5,000 simulated nodes take half the time that they take with glibc's.
#[cfg(feature = "sim")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const HELP: &str = "\
cargo xtask TASK

  ci [STEP...] [--keep-going]          everything a change must pass; steps: fmt tidy clippy doc test package fuzz hardship
                                       test-net
  tidy                                 the rules of the repository that no compiler checks
  test-net [--nodes 5] [--seed N] [--keep-logs]
                                       a network of real `p2p` processes on loopback, driven through --json
  test-net --hardship [--nodes 20] [--stopped 60]
                                       the same in network namespaces: cut in two and healed, a third stopped, one killed
  bench files [--size 1GiB] [--sources 1,4] [--up RATE] [--runs 5] [--json]
  bench folders [--files 200000] [--longest 2048] [--json]
  bench gossip [--nodes 50 | --processes 20] [--burst 5000] [--window 128] [--copies 1] [--runs 1] [--json]
  bench log [--messages 50000] [--runs 5] [--json]
  bench shares [--files 200000] [--runs 5] [--json]
  bench startup [--runs 20] [--json]
  bench swarm [--size 256MiB] [--receivers 20] [--up 10000000] [--json]
  bench startup-probe                  one start, one JSON line, then waits for the end of standard input
  endure [NAME]                        minutes of floods, silence and duplicates against a node whose memory and CPU time are
                                       measured (Linux)
  kills [--kills 100] [--size 1GiB] [--seed 1] [--json]
                                       a download by real processes, killed at random points; what a kill costs
  full-disk                            a node on a disk that is too small or becomes full (Linux, `unshare -Urm`)
  line [--messages 200] [--json]       messages beside a file on a line of 1 Mbit/s (Linux, network namespaces, `tc`)
  torrent [--python python3]           torrents of ours checked by libtorrent, where its Python package is installed
  sim SCENARIO [--nodes N] [--seed S] [--seeds 1] [--messages M] [--size B] [--json] and more: docs/sim.md
                                       whole nodes in a virtual network: one-sender, random-senders, mass-death, churn,
                                       partition, absence, covert-flash, spam
  sim table [--seeds 3] [--only WORDS] [--large] [--write]
                                       all of them, as the table of docs/gossip.md
  fuzz [TARGET] [--seconds 60]         runs the fuzz targets (needs cargo-fuzz and a nightly toolchain)
";

fn main() -> ExitCode {
    let mut args = Args::from_env();
    let Some(task) = args.word() else {
        print!("{HELP}");
        return ExitCode::SUCCESS;
    };
    match run(&task, args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask {task}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: &str, args: Args) -> Result<ExitCode> {
    match task {
        "ci" => ci::run(args),
        "tidy" => tidy::run(args),
        "test-net" => test_net::run(args),
        "bench" => bench::run(args),
        "sim" => sim::run(args),
        "fuzz" => fuzz::run(args),
        "endure" => endure::run(args),
        "full-disk" => full_disk::run(args),
        "kills" => kills::run(args),
        "line" => line::run(args),
        "torrent" => torrent::run(args),
        "help" | "--help" | "-h" => {
            print!("{HELP}");
            Ok(ExitCode::SUCCESS)
        }
        _ => bail!("there is no such task; `cargo xtask` lists them"),
    }
}
