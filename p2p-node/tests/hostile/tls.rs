//! Connections that are no p2p, or p2p with other papers; sockets that say nothing (faults 4, 10).

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::util::{
    CERTIFIED, Channel, DEADLINE, Hostile, SOON, Shown, Stage, hasty, key, refused_connections, start, target,
};

/// Everything a socket gives until its end; a reset is an end.
async fn drain(stream: &mut (impl AsyncReadExt + Unpin)) -> Vec<u8> {
    let mut all = Vec::new();
    let read = async { while stream.read_buf(&mut all).await.is_ok_and(|n| n > 0) {} };
    timeout(DEADLINE, read).await.expect("it was not closed");
    all
}

/// A client hello as TLS 1.2 has it: no supported_versions, two suites of its time.
fn tls12_hello() -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.push(0);
    body.extend([0, 4, 0xc0, 0x2b, 0xc0, 0x2f]);
    body.extend([1, 0]);
    // supported_groups x25519, signature_algorithms ed25519 and ecdsa_p256.
    let extensions = [0, 10, 0, 4, 0, 2, 0, 29, 0, 13, 0, 6, 0, 4, 8, 7, 4, 3];
    body.extend([0, 18]);
    body.extend(extensions);
    let len = u8::try_from(body.len()).unwrap();
    [&[22, 3, 1, 0, len + 4, 1, 0, 0, len][..], &body].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_tls_1_3_gets_an_alert_at_most() {
    let mut stage = Stage::new().await;
    let old = tls12_hello();
    let garbage = [0x5a; 600];
    let cases: [(&str, &[u8]); 4] = [
        ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
        ("TLS 1.2", &old),
        ("garbage", &garbage),
        ("a frame in clear", &[0, 0, 0, 5, 3, 0x81, 0xa1, b'n', 7]),
    ];
    for port in [stage.addr(), stage.victim.file_addrs()[0]] {
        for (what, bytes) in cases {
            let began = Instant::now();
            let mut tcp = TcpStream::connect(port).await.unwrap();
            tcp.write_all(bytes).await.unwrap();
            let answer = drain(&mut tcp).await;
            assert!(began.elapsed() < SOON, "{what}: closed after {:?}", began.elapsed());
            // At most one TLS record, an alert of two bytes.
            assert!(answer.is_empty() || (answer.len() == 7 && answer[0] == 21), "{what}: {answer:?}");
        }
    }
    refused_connections(&stage.victim, 8).await;
    stage.alive_and_untouched().await;
}

/// Opens a channel, says hello if it can, and returns what the node's application said.
async fn answered(addr: SocketAddr, channel: Channel) -> Vec<u8> {
    // Some learn of the refusal within the handshake, some with the first read.
    let Ok(mut stream) = channel.open(addr, &key(5)).await else { return Vec::new() };
    let hello = p2p_wire::encode_frame(&crate::util::hello(Vec::new())).unwrap();
    stream.write_all(&hello).await.ok();
    stream.flush().await.ok();
    drain(&mut stream).await
}

#[tokio::test(flavor = "multi_thread")]
async fn other_papers_or_protocols_get_no_application_byte() {
    let mut stage = Stage::new().await;
    let wrong: &[&[u8]] = &[b"h2", b"p2p/2"];
    let cases = [
        ("no ALPN", Channel { alpn: &[], ..CERTIFIED }),
        ("wrong ALPN", Channel { alpn: wrong, ..CERTIFIED }),
        ("no client key", Channel { shown: Shown::Nothing, ..CERTIFIED }),
        ("X.509", Channel { shown: Shown::X509, ..CERTIFIED }),
        ("X.509 as raw key", Channel { shown: Shown::X509AsRawKey, ..CERTIFIED }),
        ("a chain of keys", Channel { shown: Shown::Chain, ..CERTIFIED }),
    ];
    for port in [stage.addr(), stage.victim.file_addrs()[0]] {
        for (what, channel) in cases {
            let began = Instant::now();
            let answer = answered(port, channel).await;
            assert!(began.elapsed() < SOON, "{what}: closed after {:?}", began.elapsed());
            assert!(answer.is_empty(), "{what}: {answer:?}");
        }
    }
    refused_connections(&stage.victim, 12).await;
    assert_eq!(stage.victim.status().await.links, 1);
    // The same client with the right papers is welcome, at either port.
    Hostile::join(stage.addr(), &key(5)).await;
    Hostile::join(stage.victim.file_addrs()[0], &key(6)).await;
    stage.alive_and_untouched().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_and_dripping_sockets_do_not_keep_anybody_out() {
    const LIMIT: Duration = Duration::from_millis(1500);
    const SILENT: usize = 200;
    const DRIPPING: usize = 20;
    let mut stage = Stage::with(hasty(|limits| limits.handshake_timeout = LIMIT)).await;
    let began = Instant::now();
    let mut silent = Vec::new();
    for _ in 0..SILENT {
        silent.push(TcpStream::connect(stage.addr()).await.unwrap());
    }
    let drips = (0..DRIPPING).map(|_| {
        let addr = stage.addr();
        tokio::spawn(async move {
            let mut tcp = TcpStream::connect(addr).await.unwrap();
            let (mut reader, mut writer) = tcp.split();
            let drip = async {
                // A record that promises much.
                let mut tick = tokio::time::interval(LIMIT / 50);
                for byte in [22, 3, 1, 0x20, 0].into_iter().chain(std::iter::repeat(1)) {
                    tick.tick().await;
                    if writer.write_all(&[byte]).await.is_err() {
                        return;
                    }
                }
            };
            tokio::select! {
                _ = drain(&mut reader) => {}
                () = drip => {}
            }
        })
    });
    let drips: Vec<_> = drips.collect();
    // While they are there.
    let newcomer = start().await;
    let asked = Instant::now();
    newcomer.connect(target(&stage.victim)).await.unwrap();
    assert!(asked.elapsed() < Duration::from_secs(3), "connected after {:?}", asked.elapsed());
    stage.alive_and_untouched().await;
    for mut tcp in silent {
        assert!(drain(&mut tcp).await.is_empty(), "a silent socket was spoken to");
    }
    for drip in drips {
        timeout(DEADLINE, drip).await.expect("a dripping socket was not closed").unwrap();
    }
    assert!(began.elapsed() < LIMIT + SOON, "closed after {:?}", began.elapsed());
    refused_connections(&stage.victim, (SILENT + DRIPPING) as u64).await;
    stage.alive_and_untouched().await;
}
