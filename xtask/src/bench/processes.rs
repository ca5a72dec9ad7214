//! The broadcast bench with one process a node: this one publishes, each of the others tells it what it delivers.
//!
//! A node's process is this program again, as `bench gossip-node`. It writes its address as a line, then records of 9
//! bytes: what it is, and a number. It is asked for its counters by a line on standard input, and ends with that.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use p2p_node::{Event, Events};
use serde_json::{Value, json};

use crate::args::Args;
use crate::bench::gossip::{FORM_LIMIT, FORMED, SETTLE, copies_of, local};
use crate::bench::measure::{Board, Plan, drive};
use crate::process;

const DELIVERED: u8 = 0;
const LAGGED: u8 = 1;
const LINKS: u8 = 2;
const COPIES: u8 = 3;
const RECORD: usize = 9;
/// What one write to the pipe holds at most.
const RECORDS_AT_ONCE: usize = 1024;
const ANSWER: Duration = Duration::from_secs(10);
const KIB_PER_MIB: f64 = 1024.0;

/// One node in a process of its own.
pub(crate) fn node(mut args: Args) -> Result<()> {
    let join = args.value("--join")?;
    args.finish()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let node = local().start().await?;
        let events = node.events();
        let addr = *node.listen_addrs().first().context("a node listens")?;
        say(format!("{addr}\n").as_bytes())?;
        if let Some(addr) = join {
            node.connect(addr.parse::<std::net::SocketAddr>()?).await?;
        }
        let told = tokio::spawn(tell(events));
        let (asked, mut questions) = tokio::sync::mpsc::channel(1);
        thread::spawn(move || {
            for _ in std::io::stdin().lock().lines().map_while(Result::ok) {
                if asked.blocking_send(()).is_err() {
                    break;
                }
            }
        });
        while let Some(()) = questions.recv().await {
            let status = node.status().await;
            say(&[record(LINKS, status.links as u64), record(COPIES, copies_of(&status))].concat())?;
        }
        told.abort();
        node.shutdown().await;
        Ok(())
    })
}

/// Writes what was delivered, as much at once as there is.
async fn tell(mut events: Events) {
    let mut out = Vec::with_capacity(RECORDS_AT_ONCE * RECORD);
    while let Some(first) = events.next().await {
        out.clear();
        let mut next = Some(first);
        while let Some(event) = next {
            match event {
                Event::Message(message) => {
                    let number = message.payload.first_chunk().copied().map(u64::from_be_bytes);
                    out.extend(record(DELIVERED, number.unwrap_or(u64::MAX)));
                }
                Event::Lagged { missed, .. } => out.extend(record(LAGGED, missed)),
                _ => {}
            }
            next = if out.len() < RECORDS_AT_ONCE * RECORD { events.try_next() } else { None };
        }
        if say(&out).is_err() {
            return;
        }
    }
}

fn record(what: u8, number: u64) -> [u8; RECORD] {
    let mut record = [what; RECORD];
    record[1..].copy_from_slice(&number.to_be_bytes());
    record
}

fn say(bytes: &[u8]) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}

/// The parent's end of a node's process; ends it when dropped.
struct Remote {
    child: Child,
    stdin: Option<ChildStdin>,
    answers: Arc<Answers>,
}

#[derive(Default)]
struct Answers {
    given: AtomicU64,
    links: AtomicU64,
    copies: AtomicU64,
}

impl Remote {
    fn start(join: Option<&str>, board: &Arc<Board>) -> Result<(Self, String)> {
        let mut command = Command::new(std::env::current_exe().context("where this program is")?);
        command.args(["bench", "gossip-node"]).args(join.map(|addr| format!("--join={addr}")));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let stdin = child.stdin.take();
        let mut stdout = BufReader::new(child.stdout.take().context("it is piped")?);
        let answers = Arc::new(Answers::default());
        let remote = Self { child, stdin, answers: Arc::clone(&answers) };
        let mut addr = String::new();
        stdout.read_line(&mut addr)?;
        board.counts_cpu_of(remote.child.id());
        let board = Arc::clone(board);
        thread::spawn(move || {
            let mut record = [0; RECORD];
            while stdout.read_exact(&mut record).is_ok() {
                let number = &record[1..];
                let value = number.try_into().map_or(0, u64::from_be_bytes);
                match record[0] {
                    DELIVERED => board.delivered(number),
                    LAGGED => board.lagged(value),
                    LINKS => answers.links.store(value, Relaxed),
                    _ => {
                        answers.copies.store(value, Relaxed);
                        answers.given.fetch_add(1, Relaxed);
                    }
                }
            }
        });
        ensure!(!addr.trim().is_empty(), "a node's process did not start");
        Ok((remote, addr.trim().to_owned()))
    }

    fn ask(&mut self) {
        if let Some(stdin) = &mut self.stdin {
            stdin.write_all(b"\n").and_then(|()| stdin.flush()).ok();
        }
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let end = Instant::now() + ANSWER;
        while Instant::now() < end {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Counters of all others; links and copies, summed.
async fn ask_all(remotes: &mut [Remote]) -> Result<Vec<(u64, u64)>> {
    let before: Vec<u64> = remotes.iter().map(|r| r.answers.given.load(Relaxed)).collect();
    remotes.iter_mut().for_each(Remote::ask);
    let begin = Instant::now();
    while remotes.iter().zip(&before).any(|(r, before)| r.answers.given.load(Relaxed) == *before) {
        ensure!(begin.elapsed() < ANSWER, "a node's process does not answer");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let both = |r: &Remote| (r.answers.links.load(Relaxed), r.answers.copies.load(Relaxed));
    Ok(remotes.iter().map(both).collect())
}

pub(crate) async fn once(plan: Plan, count_copies: bool) -> Result<Value> {
    let begin = Instant::now();
    let board = Board::new(plan);
    let publisher = local().start().await?;
    let addr = publisher.listen_addrs().first().context("a node listens")?.to_string();
    let mut remotes = Vec::new();
    for _ in 1..plan.nodes {
        let (remote, _) = Remote::start(Some(&addr), &board)?;
        remotes.push(remote);
    }
    let wanted = FORMED.min(plan.nodes - 1) as u64;
    while ask_all(&mut remotes).await?.iter().any(|(links, _)| *links < wanted) {
        ensure!(begin.elapsed() < FORM_LIMIT, "some have fewer than {wanted} links after {FORM_LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let form_s = begin.elapsed().as_secs_f64();
    tokio::time::sleep(SETTLE).await;
    let mib = |remotes: &[Remote]| {
        let all = remotes.iter().filter_map(|r| process::rss_kib(r.child.id()));
        all.sum::<u64>() as f64 / KIB_PER_MIB / remotes.len().max(1) as f64
    };
    let idle = mib(&remotes);
    let links: u64 = ask_all(&mut remotes).await?.iter().map(|(links, _)| links).sum();
    let publish = async |payload: Vec<u8>| {
        if let Err(error) = publisher.send(payload).await {
            eprintln!("send: {error}");
        }
    };
    let copies = async || {
        let answers = if count_copies { ask_all(&mut remotes).await.ok() } else { None };
        answers.map(|answers| answers.iter().map(|(_, copies)| copies).sum())
    };
    let mut out = drive(plan, &board, publish, copies).await;
    out["processes"] = json!(plan.nodes);
    out["nodes"] = json!(plan.nodes);
    out["form_s"] = json!(form_s);
    out["mean_neighbors"] = json!(links as f64 / remotes.len().max(1) as f64);
    // Of whole processes: program and runtime included.
    out["rss_MiB_per_node"] = json!(idle);
    out["rss_MiB_per_node_after"] = json!(mib(&remotes));
    let peaks = remotes.iter().filter_map(|r| process::peak_rss_kib(r.child.id()));
    out["peak_MiB"] = json!(peaks.max().unwrap_or_default() as f64 / KIB_PER_MIB);
    drop(remotes);
    publisher.shutdown().await;
    Ok(out)
}
