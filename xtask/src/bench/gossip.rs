//! N nodes on loopback, one of which talks: all in one process, or each in its own (`--processes`).

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use p2p_node::{Event, Node, NodeBuilder, Status};
use serde_json::{Value, json};

use crate::args::Args;
use crate::bench::floor;
use crate::bench::measure::{Board, Plan, drive};
use crate::bench::processes;
use crate::bench::stats::Spread;
use crate::process;
use crate::program;

/// Links that a node must have before the network counts as formed (all others, where there are fewer).
pub(crate) const FORMED: usize = 3;
pub(crate) const FORM_LIMIT: Duration = Duration::from_secs(60);
/// After that: what still goes on is not counted as the cost of messages.
pub(crate) const SETTLE: Duration = Duration::from_secs(4);
const KIB_PER_MIB: f64 = 1024.0;

pub(crate) fn run(mut args: Args) -> Result<()> {
    let processes: Option<usize> = args.value("--processes")?.map(|n| n.parse()).transpose()?;
    let plan = Plan {
        nodes: args.parsed("--nodes", processes.unwrap_or(50))?,
        burst: args.parsed("--burst", 5000)?,
        window: args.parsed("--window", 128)?,
    };
    let copies = args.parsed("--copies", 1u8)? == 1;
    let runs: usize = args.parsed("--runs", 1)?;
    let as_json = args.flag("--json");
    args.finish()?;
    ensure!(processes.is_none_or(|n| n == plan.nodes), "--processes says how many nodes there are");
    ensure!(
        plan.nodes >= 2 && plan.burst >= 1 && plan.window >= 1 && runs >= 1,
        "too small a network or burst"
    );
    program::kill_on_signal()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if runs == 1 {
        let out = runtime.block_on(measure(plan, copies, processes))?;
        if !as_json {
            print_table(&out);
        }
        // Last and alone on its line, table or not: harnesses read it.
        println!("{out}");
        return Ok(());
    }
    let mut all = Vec::new();
    for run in 0..runs {
        let out = runtime.block_on(measure(plan, copies, processes))?;
        eprintln!("run {}: {out}", run + 1);
        all.push(out);
    }
    let out = medians(&all);
    if !as_json {
        print_table(&out);
    }
    println!("{out}");
    Ok(())
}

async fn measure(plan: Plan, copies: bool, processes: Option<usize>) -> Result<Value> {
    let mut out = match processes {
        None => once(plan, copies).await?,
        Some(_) => processes::once(plan, copies).await?,
    };
    floor::lone_messages(plan.nodes, &mut out).await?;
    Ok(out)
}

/// A node of the bench: on loopback, any port, nothing of the machine touched.
pub(crate) fn local() -> NodeBuilder {
    Node::builder().host(IpAddr::V4(Ipv4Addr::LOCALHOST)).port(0).file_port(0).upnp(false)
}

async fn once(plan: Plan, count_copies: bool) -> Result<Value> {
    let me = std::process::id();
    let rss = || process::rss_kib(me).unwrap_or_default();
    let (begin, rss_before) = (Instant::now(), rss());
    let board = Board::new(plan);
    let nodes = form(plan, &board).await?;
    let form_s = begin.elapsed().as_secs_f64();
    tokio::time::sleep(SETTLE).await;
    let rss_idle = rss();
    let mut links = 0;
    for node in &nodes {
        links += node.status().await.links;
    }
    let publisher = nodes[plan.nodes / 2].clone();
    let publish = async |payload: Vec<u8>| {
        if let Err(error) = publisher.send(payload).await {
            eprintln!("send: {error}");
        }
    };
    let copies = async || if count_copies { Some(received_copies(&nodes).await) } else { None };
    let mut out = drive(plan, &board, publish, copies).await;
    let per_node = |kib: u64| kib.saturating_sub(rss_before) as f64 / KIB_PER_MIB / plan.nodes as f64;
    out["nodes"] = json!(plan.nodes);
    out["form_s"] = json!(form_s);
    out["mean_neighbors"] = json!(links as f64 / plan.nodes as f64);
    out["rss_MiB_per_node"] = json!(per_node(rss_idle));
    out["rss_MiB_per_node_after"] = json!(per_node(rss()));
    out["peak_MiB"] = json!(process::peak_rss_kib(me).unwrap_or_default() as f64 / KIB_PER_MIB);
    for node in nodes {
        node.shutdown().await;
    }
    Ok(out)
}

/// Everybody joins through the first; who links to whom beyond that is the network's own doing.
async fn form(plan: Plan, board: &Arc<Board>) -> Result<Vec<Node>> {
    let begin = Instant::now();
    let mut nodes: Vec<Node> = Vec::new();
    for _ in 0..plan.nodes {
        let node = local().start().await?;
        let (mut events, board) = (node.events(), Arc::clone(board));
        tokio::spawn(async move {
            while let Some(event) = events.next().await {
                match event {
                    Event::Message(message) => board.delivered(&message.payload),
                    Event::Lagged { missed, .. } => board.lagged(missed),
                    _ => {}
                }
            }
        });
        if let Some(first) = nodes.first() {
            let addr = *first.listen_addrs().first().context("a node listens")?;
            node.connect(addr).await?;
        }
        nodes.push(node);
    }
    let wanted = FORMED.min(plan.nodes - 1);
    while let Some((at, links)) = first_short(&nodes, wanted).await {
        if begin.elapsed() > FORM_LIMIT {
            bail!("node {at} has {links} links of {wanted} after {FORM_LIMIT:?}");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(nodes)
}

/// The first node with fewer links than wanted, and how many. The others are not asked: that takes its time as well.
async fn first_short(nodes: &[Node], wanted: usize) -> Option<(usize, usize)> {
    for (at, node) in nodes.iter().enumerate() {
        let links = node.status().await.links;
        if links < wanted {
            return Some((at, links));
        }
    }
    None
}

/// Payloads that came in over all links, those that were known already included.
async fn received_copies(nodes: &[Node]) -> u64 {
    let mut sum = 0;
    for node in nodes {
        sum += copies_of(&node.status().await);
    }
    sum
}

pub(crate) fn copies_of(status: &Status) -> u64 {
    status.messages_in + status.refused.get("duplicates").copied().unwrap_or_default()
}

/// Per key the median of several runs.
fn medians(all: &[Value]) -> Value {
    let mut out = json!({"runs": all.len()});
    for key in all.first().and_then(Value::as_object).into_iter().flat_map(|o| o.keys()) {
        let values = all.iter().filter_map(|v| v[key].as_f64());
        out[key] = Spread::of(values).map_or(Value::Null, |s| json!(s.median));
        if key.ends_with("_ms") || key.ends_with("deliveries_s") {
            let values = all.iter().filter_map(|v| v[key].as_f64());
            out[format!("{key}_spread")] = Spread::of(values).map_or(Value::Null, Spread::json);
        }
    }
    out
}

fn print_table(out: &Value) {
    let number = |key: &str| out[key].as_f64().unwrap_or(f64::NAN);
    println!(
        "{} nodes in {}, {:.1} links each, formed in {:.2} s",
        out["nodes"],
        if out["processes"].is_null() { "one process" } else { "as many processes" },
        number("mean_neighbors"),
        number("form_s")
    );
    println!(
        "  one message of 100 bytes      last node after {:.1} ms (p50), {:.1} (p99), {:.1} (max); {:.4} delivered, {:.2} copies a node (the first: {:.1})",
        number("lat_p50_ms"),
        number("lat_p99_ms"),
        number("lat_max_ms"),
        number("lat_ratio"),
        number("lat_copies"),
        number("lat_first_copies")
    );
    println!(
        "    the least that it can take  {:.2} ms (p50), {:.2} (p99): plain connections and one check a node; {:.2}, {:.2} with TLS",
        number("floor_p50_ms"),
        number("floor_p99_ms"),
        number("floor_tls_p50_ms"),
        number("floor_tls_p99_ms"),
    );
    for (tag, name) in [("thr", "1 KiB, in a window"), ("flood", "1 KiB, as fast as accepted")] {
        let of = |key: &str| number(&format!("{tag}_{key}"));
        println!(
            "  {name:<28}  {:.0} messages/s, {:.0} deliveries/s, {:.1} CPU µs each; {:.4} delivered, {:.1} copies a node",
            of("msgs_s"),
            of("deliveries_s"),
            of("cpu_us_per_delivery"),
            of("ratio"),
            of("copies")
        );
    }
    println!(
        "  memory a node, MiB            {:.2} idle, {:.2} after; whole process {:.0} at its peak",
        number("rss_MiB_per_node"),
        number("rss_MiB_per_node_after"),
        number("peak_MiB")
    );
}
