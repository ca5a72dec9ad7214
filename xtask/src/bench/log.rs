//! What the message log on disk costs: the same messages between two nodes of this process, kept in memory and on disk.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use p2p_node::{Event, Events, LogMode, Node, Target};
use serde_json::{Value, json};

use crate::args::Args;
use crate::bench::Scratch;
use crate::bench::stats::{Spread, quantile};
use crate::process;

/// Messages one at a time, each sent once the last one was delivered.
const LONE: usize = 300;
/// Bytes of a payload.
const PAYLOAD: usize = 700;
/// Everything of one step, at worst.
const LIMIT: Duration = Duration::from_secs(300);

pub(crate) fn run(mut args: Args) -> Result<()> {
    let messages: usize = args.parsed("--messages", 50_000)?;
    let runs: usize = args.parsed("--runs", 5)?;
    let as_json = args.flag("--json");
    args.finish()?;
    ensure!(messages >= 1 && runs >= 1, "--messages and --runs begin at 1");
    ensure!(!cfg!(debug_assertions), "this is a debug build: its numbers mean nothing");
    let scratch = Scratch::new("log")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let (mut memory, mut disk) = (Vec::new(), Vec::new());
    for run in 0..runs {
        // In turns, so that a slow minute falls on both.
        memory.push(runtime.block_on(measure(
            &scratch.0.join(format!("memory{run}")),
            LogMode::Memory,
            messages,
        ))?);
        disk.push(runtime.block_on(measure(
            &scratch.0.join(format!("disk{run}")),
            LogMode::Disk,
            messages,
        ))?);
        eprintln!(
            "run {}: {:.0} messages/s in memory, {:.0} on disk",
            run + 1,
            memory[run].rate,
            disk[run].rate
        );
    }
    let out = json!({
        "bench": "log", "messages": messages, "payload": PAYLOAD, "runs": runs,
        "memory": figures(&memory), "disk": figures(&disk),
    });
    if as_json {
        println!("{out}");
    } else {
        print_table(&out);
    }
    Ok(())
}

struct Measured {
    lone_p50_ms: f64,
    lone_p99_ms: f64,
    /// Messages a second, from the first that was sent to the last that was delivered.
    rate: f64,
    cpu_us: Option<f64>,
    /// Of the next start, with the log that this left.
    start_ms: f64,
    /// Bytes in the folder of the log, for each byte of payload.
    room: f64,
}

async fn measure(folder: &Path, mode: LogMode, messages: usize) -> Result<Measured> {
    let local = || Node::builder().host([127, 0, 0, 1]).port(0).file_port(0);
    let data = folder.join("data");
    let receiver = local().data_dir(&data).log(mode).start().await?;
    let sender = local().start().await?;
    let mut events = receiver.events();
    receiver.connect(Target::Addr(sender.listen_addrs()[0])).await?;
    let mut lone = Vec::with_capacity(LONE);
    for _ in 0..LONE {
        let begin = Instant::now();
        sender.send(vec![1; PAYLOAD]).await?;
        delivered(&mut events, 1).await?;
        lone.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    lone.sort_unstable_by(f64::total_cmp);
    let (begin, cpu) = (Instant::now(), process::cpu_s(std::process::id()));
    let send = async {
        for _ in 0..messages {
            sender.send(vec![2; PAYLOAD]).await?;
        }
        anyhow::Ok(())
    };
    let (sent, got) = tokio::join!(send, delivered(&mut events, messages));
    sent.and(got)?;
    let seconds = begin.elapsed().as_secs_f64();
    let cpu = process::cpu_s(std::process::id()).zip(cpu).map(|(after, before)| after - before);
    receiver.shutdown().await;
    drop((receiver, events));
    sender.shutdown().await;
    let begin = restart(&data, mode).await?;
    let payload = ((messages + LONE) * PAYLOAD) as f64;
    let measured = Measured {
        lone_p50_ms: quantile(&lone, 0.5),
        lone_p99_ms: quantile(&lone, 0.99),
        rate: messages as f64 / seconds,
        cpu_us: cpu.map(|cpu| cpu * 1e6 / messages as f64),
        start_ms: begin.as_secs_f64() * 1e3,
        room: bytes_in(&data.join("log")) as f64 / payload,
    };
    std::fs::remove_dir_all(folder).ok();
    Ok(measured)
}

/// How long a start on this data directory takes.
async fn restart(data: &Path, mode: LogMode) -> Result<Duration> {
    let end = Instant::now() + LIMIT;
    loop {
        let node = Node::builder().host([127, 0, 0, 1]).port(0).file_port(0).data_dir(data).log(mode);
        let begin = Instant::now();
        match node.start().await {
            Ok(node) => {
                let took = begin.elapsed();
                node.shutdown().await;
                return Ok(took);
            }
            // The directory is free once the last task of the node before has let go of it.
            Err(error) if Instant::now() > end => return Err(error.into()),
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

async fn delivered(events: &mut Events, count: usize) -> Result<()> {
    let all = async {
        let mut left = count as u64;
        while left > 0 {
            match events.next().await.context("the node stopped")? {
                Event::Message(_) => left -= 1,
                // Delivered, and not read fast enough here.
                Event::Lagged { missed, .. } => left = left.saturating_sub(missed),
                _ => {}
            }
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(LIMIT, all).await.context("not all was delivered")?
}

fn bytes_in(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    entries.flatten().filter_map(|entry| entry.metadata().ok()).map(|data| data.len()).sum()
}

fn figures(runs: &[Measured]) -> Value {
    let spread = |of: fn(&Measured) -> Option<f64>| {
        Spread::of(runs.iter().filter_map(of)).map_or(Value::Null, Spread::json)
    };
    json!({
        "lone_p50_ms": spread(|m| Some(m.lone_p50_ms)),
        "lone_p99_ms": spread(|m| Some(m.lone_p99_ms)),
        "messages_s": spread(|m| Some(m.rate)),
        "cpu_us_per_message": spread(|m| m.cpu_us),
        "start_ms": spread(|m| Some(m.start_ms)),
        "bytes_per_byte": spread(|m| Some(m.room)),
    })
}

fn print_table(out: &Value) {
    println!(
        "{} messages of {} bytes between two nodes of one process, {} runs, median (min-max)",
        out["messages"], out["payload"], out["runs"]
    );
    println!("  {:<38} {:<24} on disk", "", "in memory");
    let rows = [
        ("one at a time: p50, ms", "lone_p50_ms", 2),
        ("one at a time: p99, ms", "lone_p99_ms", 2),
        ("all at once: messages/s", "messages_s", 0),
        ("all at once: CPU of both, us a message", "cpu_us_per_message", 0),
        ("the next start, ms", "start_ms", 1),
        ("bytes on disk a byte of payload", "bytes_per_byte", 2),
    ];
    for (name, key, digits) in rows {
        let text = |kind: &str| {
            let get = |part: &str| out[kind][key][part].as_f64();
            match (get("median"), get("min"), get("max")) {
                (Some(median), Some(min), Some(max)) => format!("{:.digits$}", Spread { median, min, max }),
                _ => "not known here".to_owned(),
            }
        };
        println!("  {name:<38} {:<24} {}", text("memory"), text("disk"));
    }
}
