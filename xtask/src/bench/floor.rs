//! The least that lone signed messages can cost on this machine: a tree of plain connections, one check of the signature at
//! each node before it passes the message on, and nothing else: no encryption, no ids, no log, no repair.

use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use p2p_node::SecretKey;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::bench::measure::{Board, Plan, SINGLE_BYTES, latency};

/// Children of a node, as many as our nodes have neighbours that they push to at most.
const FANOUT: usize = 9;
const SIGNATURE_BYTES: usize = 64;
const DOMAIN: &[u8] = b"p2p/bench/floor";

/// Adds the times of single messages over `nodes` such nodes in one process: `floor_p50_ms`, `floor_p99_ms`.
pub(crate) async fn lone_messages(nodes: usize, out: &mut Value) -> Result<()> {
    let plan = Plan { nodes, burst: 0, window: 1 };
    let board = Board::new(plan);
    let key = SecretKey::from_bytes(&[7; 32]);
    let author = key.id().public_key().context("a key of our own is valid")?;
    let mut children: Vec<Vec<TcpStream>> = (0..nodes).map(|_| Vec::new()).collect();
    let mut parents = Vec::new();
    for node in 1..nodes {
        let (down, up) = connection().await?;
        children[(node - 1) / FANOUT].push(down);
        parents.push(up);
    }
    let mut own = std::mem::take(&mut children[0]);
    let mut tasks = JoinSet::new();
    for (mut parent, mut children) in parents.into_iter().zip(children.into_iter().skip(1)) {
        let board = Arc::clone(&board);
        tasks.spawn(async move {
            let mut frame = [0; SINGLE_BYTES + SIGNATURE_BYTES];
            while parent.read_exact(&mut frame).await.is_ok() {
                let Some((payload, signature)) = frame.split_last_chunk::<SIGNATURE_BYTES>() else { return };
                if author.verify(DOMAIN, &[payload], signature).is_err() {
                    return;
                }
                for child in &mut children {
                    child.write_all(&frame).await.ok();
                }
                board.delivered(&frame);
            }
        });
    }
    let mut publish = async |mut frame: Vec<u8>| {
        let signature = key.sign(DOMAIN, &[&frame]);
        frame.extend_from_slice(&signature);
        for child in &mut own {
            child.write_all(&frame).await.ok();
        }
    };
    let mut found = json!({});
    latency(plan, &board, &mut publish, &mut async || None, &mut found).await;
    ensure!(found["lat_ratio"] == 1.0, "the floor lost messages: {found}");
    for quantile in ["p50", "p99"] {
        out[format!("floor_{quantile}_ms")] = found[format!("lat_{quantile}_ms")].take();
    }
    Ok(())
}

async fn connection() -> Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let (down, accepted) = tokio::join!(TcpStream::connect(listener.local_addr()?), listener.accept());
    let (down, (up, _)) = (down?, accepted?);
    down.set_nodelay(true)?;
    Ok((down, up))
}
