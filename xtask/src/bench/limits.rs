//! What this machine can do at best, measured in the same minutes as what we do with it.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::bench::tls;
use crate::process;

const BUFFER: usize = 256 * 1024;
const HASHED: usize = 512 << 20;
const PAGE: usize = 4096;

/// SHA-256 of one core, MB/s.
pub(crate) fn sha256() -> f64 {
    let buffer = vec![0x5a; 1 << 20];
    let begin = Instant::now();
    let mut hash = Sha256::new();
    for _ in 0..HASHED / buffer.len() {
        hash.update(&buffer);
    }
    std::hint::black_box(hash.finalize());
    HASHED as f64 / 1e6 / begin.elapsed().as_secs_f64()
}

/// Reads a file that is in memory and hashes it, MiB by MiB, on all cores, each into room that begins with a page (elsewhere
/// some processors copy at a third of the speed); MB/s.
pub(crate) fn read_and_hash(path: &Path) -> Result<f64> {
    let length = std::fs::metadata(path).with_context(|| path.display().to_string())?.len();
    let next = AtomicU64::new(0);
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let work = || -> Result<()> {
        let (mut file, mut room) = (File::open(path)?, vec![0; (1 << 20) + PAGE]);
        let start = room.as_ptr().align_offset(PAGE);
        let buffer = &mut room[start..start + (1 << 20)];
        loop {
            let at = next.fetch_add(buffer.len() as u64, Relaxed);
            let Some(left) = length.checked_sub(at).filter(|left| *left > 0) else { return Ok(()) };
            let n = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            file.seek(SeekFrom::Start(at))?;
            file.read_exact(&mut buffer[..n])?;
            std::hint::black_box(Sha256::digest(&buffer[..n]));
        }
    };
    let begin = Instant::now();
    thread::scope(|scope| {
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("it does not panic"))
    })?;
    Ok(length as f64 / 1e6 / begin.elapsed().as_secs_f64())
}

/// Copies a file by plain reads and writes, and syncs it; MB/s.
pub(crate) fn copy_synced(from: &Path, to: &Path) -> Result<f64> {
    let begin = Instant::now();
    let mut source = File::open(from).with_context(|| from.display().to_string())?;
    let mut copy = File::create_new(to).with_context(|| to.display().to_string())?;
    let mut buffer = vec![0; BUFFER];
    let mut total = 0;
    loop {
        let n = source.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        copy.write_all(&buffer[..n])?;
        total += n;
    }
    copy.sync_all()?;
    let took = begin.elapsed().as_secs_f64();
    drop(copy);
    std::fs::remove_file(to)?;
    Ok(total as f64 / 1e6 / took)
}

/// One TLS 1.3 stream over loopback, no disk and no hash: MB/s, and CPU seconds per GB of both ends.
pub(crate) fn tls_loopback(bytes: u64) -> Result<(f64, f64)> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let me = std::process::id();
    let before = process::cpu_s(me).unwrap_or_default();
    let seconds = runtime.block_on(stream(bytes))?;
    let cpu = process::cpu_s(me).unwrap_or_default() - before;
    Ok((bytes as f64 / 1e6 / seconds, cpu / (bytes as f64 / 1e9)))
}

async fn stream(bytes: u64) -> Result<f64> {
    let (server, client) = tls::configs()?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let addr = listener.local_addr()?;
    let sender = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await?;
        tcp.set_nodelay(true)?;
        let mut tls = TlsAcceptor::from(server).accept(tcp).await?;
        let buffer = vec![0x5a; BUFFER];
        let mut left = bytes;
        while left > 0 {
            let n = usize::try_from(left).unwrap_or(BUFFER).min(BUFFER);
            tls.write_all(&buffer[..n]).await?;
            left -= n as u64;
        }
        tls.shutdown().await?;
        anyhow::Ok(())
    });
    let tcp = TcpStream::connect(addr).await?;
    tcp.set_nodelay(true)?;
    let mut tls = TlsConnector::from(client).connect("localhost".try_into()?, tcp).await?;
    let mut buffer = vec![0; BUFFER];
    let begin = Instant::now();
    let mut got = 0u64;
    loop {
        match tls.read(&mut buffer).await? {
            0 => break,
            n => got += n as u64,
        }
    }
    let took = begin.elapsed().as_secs_f64();
    sender.await??;
    ensure!(got == bytes, "{got} of {bytes} bytes came");
    Ok(took)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_bare_channel_carries_every_byte() {
        assert!(stream(3 * BUFFER as u64 + 1).await.unwrap() > 0.0);
    }
}
