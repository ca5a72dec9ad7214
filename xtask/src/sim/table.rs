//! `cargo xtask sim table`: every scenario with its bars and, where there is one, the anchor's figure, as the table of
//! `docs/gossip.md`.

use std::fmt::Write as _;
use std::fs;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result};
use p2p_node::sim::{Options, Report, Scenario};

use crate::args::Args;
use crate::workspace;

/// The table stands between these two lines.
const BEGIN: &str = "<!-- cargo xtask sim table -->";
const END: &str = "<!-- end of the table -->";

struct Row {
    name: &'static str,
    scenario: Scenario,
    set: fn(&mut Options),
    /// What iroh-gossip 0.101 shows in its own simulator at the same latencies.
    anchor: &'static str,
    /// Takes half an hour and 16 GiB: only with `--large`, and one seed.
    large: bool,
}

const fn row(name: &'static str, scenario: Scenario, set: fn(&mut Options), anchor: &'static str) -> Row {
    Row { name, scenario, set, anchor, large: false }
}

const ROWS: &[Row] = &[
    row("one sender, 1,000 nodes", Scenario::OneSender, |_| (), "RMR 0.07, LDH 12, last 318 ms"),
    row("one sender, 5,000", Scenario::OneSender, |o| o.nodes = 5000, "RMR 0.07, LDH 25, last 743 ms"),
    row("random senders, 1,000", Scenario::RandomSenders, |_| (), "RMR 0.43, LDH 19.6, last 574 ms"),
    row(
        "random senders, 5,000",
        Scenario::RandomSenders,
        |o| o.nodes = 5000,
        "RMR 0.42, LDH 35.5, last 1,084 ms",
    ),
    Row {
        name: "one sender, 100,000, tables of 256, one seed",
        scenario: Scenario::OneSender,
        set: |o| {
            (o.nodes, o.sim.peers.max_peers, o.join_rate) = (100_000, 256, 1000);
            (o.warm_up, o.messages, o.one_introducer) = (5, 5, false);
        },
        anchor: "",
        large: true,
    },
    row("30 % of 10,000 processes killed", Scenario::MassDeath, |o| died(o, 0.3), ""),
    row("50 % of the processes", Scenario::MassDeath, |o| died(o, 0.5), ""),
    row("80 % of the processes", Scenario::MassDeath, |o| died(o, 0.8), ""),
    row("90 % of the processes, reported", Scenario::MassDeath, |o| died(o, 0.9), ""),
    row("30 % of 10,000 machines", Scenario::MassDeath, |o| machines_died(o, 0.3), ""),
    row("50 % of the machines", Scenario::MassDeath, |o| machines_died(o, 0.5), ""),
    row("80 % of the machines", Scenario::MassDeath, |o| machines_died(o, 0.8), ""),
    row("churn, mean life 60 s, 5 % loss, 200 ms, 200 nodes", Scenario::Churn, |o| o.nodes = 200, ""),
    row("two halves apart for 120 s, 100 nodes", Scenario::Partition, |_| (), "none: not after 30 s"),
    row("one of 50 away for 1 h, 10,000 messages", Scenario::Absence, |_| (), "none: not after 30 s"),
    row("covert flash, 30 of 60", Scenario::CovertFlash, |_| (), ""),
    row("spam by 10 of 100", Scenario::Spam, |_| (), ""),
    row("one of 20 among 200 that want to eclipse it, 50 restarts", Scenario::Eclipse, |_| (), ""),
];

fn died(options: &mut Options, share: f64) {
    (options.nodes, options.share, options.messages) = (10_000, share, 30);
}

fn machines_died(options: &mut Options, share: f64) {
    died(options, share);
    options.machines = true;
}

pub(super) fn run(mut args: Args) -> Result<ExitCode> {
    let line = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
    let seeds: u64 = args.parsed("--seeds", 3)?;
    let large = args.flag("--large");
    let write = args.flag("--write");
    let only = args.value("--only")?;
    args.finish()?;
    let mut table = format!("{}, `cargo xtask {line}`, each the mean of {seeds} seeds.\n\n", today()?);
    table += "| scenario | iroh-gossip 0.101 | p2p | bars |\n| --- | --- | --- | --- |\n";
    let mut met = true;
    let wanted =
        |row: &&Row| (large || !row.large) && only.as_deref().is_none_or(|only| row.name.contains(only));
    for row in ROWS.iter().filter(wanted) {
        let begin = Instant::now();
        let seeds = if row.large { 1 } else { seeds };
        let reports: Vec<Report> = (1..=seeds).map(|seed| play(row, seed)).collect();
        let missed = not_met(&reports);
        met &= missed.is_empty();
        let verdict = if missed.is_empty() { "met".to_owned() } else { format!("not met: {missed}") };
        let line = format!("| {} | {} | {} | {verdict} |", row.name, row.anchor, figures(&reports));
        eprintln!("{line} {:.0} s", begin.elapsed().as_secs_f64());
        writeln!(table, "{line}")?;
    }
    println!("{table}");
    if write {
        put_into_docs(&table)?;
    }
    Ok(if met { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn play(row: &Row, seed: u64) -> Report {
    let mut options = Options::of(row.scenario);
    (row.set)(&mut options);
    options.sim.seed = seed;
    row.scenario.run(&options)
}

/// The bars that some seed does not meet, each with its worst value.
fn not_met(reports: &[Report]) -> String {
    let mut worst: Vec<(&str, f64, f64)> = Vec::new();
    for bar in reports.iter().flat_map(Report::bars).filter(|bar| !bar.is_met()) {
        match worst.iter_mut().find(|(name, ..)| *name == bar.name) {
            Some((_, value, _)) => *value = value.max(bar.value),
            None => worst.push((bar.name, bar.value, bar.limit)),
        }
    }
    let text = |(name, value, limit): &(&str, f64, f64)| format!("{name} {value:.3} > {limit}");
    worst.iter().map(text).collect::<Vec<_>>().join("; ")
}

fn figures(reports: &[Report]) -> String {
    let mean =
        |value: fn(&Report) -> f64| reports.iter().map(value).sum::<f64>() / reports.len().max(1) as f64;
    let missed: u64 = reports.iter().map(|r| r.missed).sum();
    let twice: u64 = reports.iter().map(|r| r.duplicates).sum();
    // Not computed where links come and go.
    let optimum = mean(|r| r.optimum_ms);
    let flood = if optimum > 0.0 { format!(" (flood {optimum:.0})") } else { String::new() };
    let mut text = format!(
        "RMR {:.2}, LDH {:.1}, last {:.0} ms{flood}, degree {:.1}, control {:.0} %, missed {missed}, twice {twice}",
        mean(|r| r.rmr),
        mean(|r| r.ldh),
        mean(|r| r.last_ms),
        mean(|r| r.overlay.degree_mean),
        100.0 * mean(|r| r.control_ratio),
    );
    for key in reports.first().iter().flat_map(|r| r.more.keys()) {
        let sum: f64 = reports.iter().filter_map(|r| r.more.get(key)).sum();
        write!(text, ", {} {:.3}", key.replace('_', " "), sum / reports.len() as f64)
            .expect("a String takes all");
    }
    text
}

fn today() -> Result<String> {
    Ok(workspace::output(Command::new("date").args(["-u", "+%F"]))?.trim().to_owned())
}

fn put_into_docs(table: &str) -> Result<()> {
    let path = workspace::root().join("docs/gossip.md");
    let text = fs::read_to_string(&path)?;
    let (before, rest) = text.split_once(BEGIN).with_context(|| format!("docs/gossip.md has no {BEGIN}"))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("docs/gossip.md has no {END}"))?;
    fs::write(&path, format!("{before}{BEGIN}\n\n{table}\n{END}{after}"))?;
    Ok(())
}
