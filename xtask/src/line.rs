//! `cargo xtask line`: messages beside the transfer of a file, on a slow line (two nodes in network namespaces, `tc tbf`).
//!
//! Measured is the time from the command typed at the node that sends the file, whose line is full, to the line that the other
//! node prints. Once with a queue of 100 ms in front of the line and no limit on files, once with a queue of 2 s and files
//! limited to 80 % of the line.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::args::Args;
use crate::program::kill_on_signal;
use crate::random::Random;
use crate::test_net::lan::{self, Lan};
use crate::test_net::node::{Launch, Node};
use crate::workspace;

/// Bits a second of the line, each way.
const LINE: u64 = 1_000_000;
/// What 99 of 100 messages take at most.
const BAR: Duration = Duration::from_millis(300);
/// Between two messages. The length of the measurement comes from it, and nothing waits for an event by it.
const EVERY: Duration = Duration::from_millis(300);
const LIMIT: Duration = Duration::from_secs(60);

/// One way to fill the line.
struct Case {
    name: &'static str,
    queue_ms: u64,
    /// Bytes of files a second.
    up: Option<u64>,
}

const CASES: [Case; 2] = [
    Case { name: "queue of 100 ms, no limit", queue_ms: 100, up: None },
    Case { name: "queue of 2 s, files limited to 80 %", queue_ms: 2_000, up: Some(LINE / 8 * 8 / 10) },
];

pub(crate) fn run(mut args: Args) -> Result<ExitCode> {
    let mut again = std::env::args().skip(1).collect::<Vec<_>>();
    let messages: usize = args.parsed("--messages", 200)?;
    let as_json = args.flag("--json");
    let built = args.value("--program")?;
    let inside = args.flag("--inside");
    args.finish()?;
    ensure!(messages >= 1, "--messages begins at 1");
    let target = workspace::target_dir()?;
    let program = workspace::p2p(built)?;
    if !inside {
        if let Some(why) = lan::missing() {
            bail!("line needs network namespaces: {why}");
        }
        again.push("--inside".into());
        if !again.iter().any(|a| a.starts_with("--program")) {
            let program = program.to_str().context("the program's path is no text")?;
            again.extend(["--program".into(), program.into()]);
        }
        return lan::inside(&again);
    }
    let folder = target.join("line").join(std::process::id().to_string());
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    kill_on_signal()?;
    let lan = Lan::new(2)?;
    let mut kept = true;
    for (number, case) in CASES.iter().enumerate() {
        for node in ["n0", "n1"] {
            // The first case has nothing to replace; a burst of two packets, the queue in front of the rate.
            let mut tc = Command::new("tc");
            tc.args(["-n", node, "qdisc", "replace", "dev", "eth0", "root", "tbf", "burst", "4kb"]);
            tc.args(["rate", &format!("{LINE}bit"), "latency", &format!("{}ms", case.queue_ms)]);
            workspace::run(&mut tc)?;
        }
        let launch = Launch { program: program.clone(), folder: folder.join(number.to_string()) };
        fs::create_dir_all(&launch.folder)?;
        let out = measure(case, &launch, &lan, messages)?;
        kept &= out["beside_ms"]["p99"].as_f64().is_some_and(|p99| p99 < BAR.as_secs_f64() * 1e3);
        if as_json {
            println!("{out}");
        } else {
            let of = |key: &str, which: &str| out[key][which].as_f64().unwrap_or_default();
            println!(
                "{}: message alone {:.0} ms; beside a file at {:.0} kB/s: half within {:.0} ms, 99 % within {:.0} ms, all within {:.0} ms",
                case.name,
                of("alone_ms", "p50"),
                out["file_kB_s"].as_f64().unwrap_or_default(),
                of("beside_ms", "p50"),
                of("beside_ms", "p99"),
                of("beside_ms", "max"),
            );
        }
    }
    fs::remove_dir_all(&folder).ok();
    ensure!(kept, "99 % take longer than {BAR:?}");
    Ok(ExitCode::SUCCESS)
}

fn measure(case: &Case, launch: &Launch, lan: &Lan, messages: usize) -> Result<Value> {
    let file = launch.folder.join("file.bin");
    // More than goes through while it is measured.
    let seconds = EVERY.as_secs() + (EVERY * u32::try_from(messages)?).as_secs() + LIMIT.as_secs();
    make_file(&file, usize::try_from(LINE / 8 * seconds)?)?;
    let up = case.up.map(|up| up.to_string());
    let limit: Vec<&str> = up.iter().flat_map(|up| ["--up", up]).collect();
    let mut sender = launch.start_at("sender", &lan.places[0], &limit)?;
    let mut receiver = launch.start_at("receiver", &lan.places[1], &[])?;
    receiver.program.tell(&format!("connect {}", sender.addr), LIMIT)?;
    sender.wait_links(&[&receiver.id], LIMIT)?;
    let alone = times(&mut sender, &receiver, "alone", 20)?;

    let added = sender.program.tell(&format!("add \"{}\"", file.display()), LIMIT)?;
    receiver.program.type_line(&format!("req {}", added.str("hash")))?;
    let begun =
        receiver.program.event("the file", 0, LIMIT, |e| e.is("file_progress") && done(&e.value) > 0)?;
    // What fills the queue at first is no part of it.
    thread::sleep(Duration::from_secs(5));
    let beside = times(&mut sender, &receiver, "beside", messages)?;
    let events = receiver.program.output().events();
    ensure!(!events.iter().any(|e| e.is("file_done") || e.is("file_failed")), "the transfer ended too early");
    let last = events.iter().rfind(|e| e.is("file_progress")).context("there was progress")?;
    let rate = (done(&last.value) - done(&begun.value)) as f64 / (last.at - begun.at).as_secs_f64();
    sender.program.kill();
    receiver.program.kill();
    fs::remove_dir_all(&launch.folder).ok();
    Ok(json!({
        "line": case.name, "line_bits_s": LINE, "queue_ms": case.queue_ms, "up": case.up, "messages": messages,
        "file_kB_s": rate / 1e3, "alone_ms": spread(alone), "beside_ms": spread(beside),
    }))
}

fn done(progress: &Value) -> u64 {
    progress["done"].as_u64().unwrap_or_default()
}

fn make_file(path: &Path, size: usize) -> Result<()> {
    let mut bytes = vec![0; size];
    Random::new(1).fill(&mut bytes);
    File::create_new(path)
        .and_then(|mut file| file.write_all(&bytes))
        .with_context(|| path.display().to_string())
}

/// Sends messages, one after another whatever becomes of them, and says how long each took: in ms, rising.
fn times(sender: &mut Node, receiver: &Node, word: &str, count: usize) -> Result<Vec<f64>> {
    let mark = receiver.program.mark();
    let mut typed = Vec::new();
    for number in 0..count {
        typed.push(Instant::now());
        sender.program.type_line(&format!("msg {word} {number}"))?;
        thread::sleep(EVERY);
    }
    let heard = receiver.program.wait("every message", mark, LIMIT, |events| {
        let heard: HashMap<String, Instant> =
            events.iter().filter(|e| e.is("message")).map(|e| (e.str("text").to_owned(), e.at)).collect();
        (heard.len() >= count).then_some(heard)
    })?;
    let took = |(number, typed): (usize, &Instant)| {
        let heard =
            heard.get(&format!("{word} {number}")).context("a message came twice, and another not")?;
        Ok((*heard - *typed).as_secs_f64() * 1e3)
    };
    let mut took = typed.iter().enumerate().map(took).collect::<Result<Vec<f64>>>()?;
    took.sort_unstable_by(f64::total_cmp);
    Ok(took)
}

/// By nearest rank, of values in rising order.
fn spread(rising: Vec<f64>) -> Value {
    let at = |percent: usize| rising[(rising.len() * percent).div_ceil(100).max(1) - 1];
    json!({"p50": at(50), "p90": at(90), "p99": at(99), "max": at(100)})
}
