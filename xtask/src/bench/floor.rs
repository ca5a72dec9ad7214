//! The least that lone signed messages can cost on this machine: a tree of connections, one check of the signature at each
//! node before it passes the message on, and nothing else: no ids, no log, no repair. Once without encryption, once with.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use p2p_node::SecretKey;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::bench::measure::{Board, Plan, SINGLE_BYTES, latency};
use crate::bench::tls;

/// Children of a node, as many as our nodes have neighbours that they push to at most.
const FANOUT: usize = 9;
const SIGNATURE_BYTES: usize = 64;
const DOMAIN: &[u8] = b"p2p/bench/floor";

/// Adds the times of single messages over `nodes` such nodes in one process: `floor_p50_ms`, `floor_p99_ms`; and over the same
/// tree of TLS 1.3 connections: `floor_tls_p50_ms`, `floor_tls_p99_ms`.
pub(crate) async fn lone_messages(nodes: usize, out: &mut Value) -> Result<()> {
    let (mut plain, mut encrypted) = (Vec::new(), Vec::new());
    let (server, client) = tls::configs()?;
    let (acceptor, connector) = (TlsAcceptor::from(server), TlsConnector::from(client));
    for _ in 1..nodes {
        plain.push(connection().await?);
        let (down, up) = connection().await?;
        let name = ServerName::from(IpAddr::V4(Ipv4Addr::LOCALHOST));
        encrypted.push(tokio::try_join!(connector.connect(name, down), acceptor.accept(up))?);
    }
    for (name, found) in [("floor", tree(nodes, plain).await?), ("floor_tls", tree(nodes, encrypted).await?)]
    {
        for quantile in ["p50", "p99"] {
            out[format!("{name}_{quantile}_ms")] = found[format!("lat_{quantile}_ms")].clone();
        }
    }
    Ok(())
}

/// The times of single messages through a tree whose node `n + 1` hangs on the `n`th connection.
async fn tree<D, U>(nodes: usize, connections: Vec<(D, U)>) -> Result<Value>
where
    D: AsyncWrite + Unpin + Send + 'static,
    U: AsyncRead + Unpin + Send + 'static,
{
    let plan = Plan { nodes, burst: 0, window: 1 };
    let board = Board::new(plan);
    let key = SecretKey::from_bytes(&[7; 32]);
    let author = key.id().public_key().context("a key of our own is valid")?;
    let mut children: Vec<Vec<D>> = (0..nodes).map(|_| Vec::new()).collect();
    let mut parents = Vec::new();
    for (node, (down, up)) in connections.into_iter().enumerate() {
        children[node / FANOUT].push(down);
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
                pass_on(&mut children, &frame).await;
                board.delivered(&frame);
            }
        });
    }
    let mut publish = async |mut frame: Vec<u8>| {
        let signature = key.sign(DOMAIN, &[&frame]);
        frame.extend_from_slice(&signature);
        pass_on(&mut own, &frame).await;
    };
    let mut found = json!({});
    latency(plan, &board, &mut publish, &mut async || None, &mut found).await;
    ensure!(found["lat_ratio"] == 1.0, "the floor lost messages: {found}");
    Ok(found)
}

async fn pass_on<D: AsyncWrite + Unpin>(children: &mut [D], frame: &[u8]) {
    for child in children {
        child.write_all(frame).await.ok();
        child.flush().await.ok();
    }
}

async fn connection() -> Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let (down, accepted) = tokio::join!(TcpStream::connect(listener.local_addr()?), listener.accept());
    let (down, (up, _)) = (down?, accepted?);
    down.set_nodelay(true)?;
    Ok((down, up))
}
