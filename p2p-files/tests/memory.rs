//! Memory does not grow with the file. A test binary of its own: it measures the whole process.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod util;

use util::{Peer, end, start};

/// Peak resident memory of this process in KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_256_mib_passes_through_a_few_buffers() {
    let (from, to) = (Peer::new(), Peer::new());
    let path = from.dir.path().join("sparse");
    std::fs::File::create(&path).unwrap().set_len(256 << 20).unwrap();
    let before = peak();
    let hash = from.library.add(&path, |_, _| ()).unwrap().hash;
    let download = start(&to, hash);
    for label in ["a", "b"] {
        download.add_source(label, from.connect_tcp().await);
    }
    let finished = end(&download).await.unwrap();
    assert_eq!(finished.length, 256 << 20);
    let grown = (peak() - before) >> 10;
    // 2 hashing, 2 × 3 serving, 2 + 4 receiving, the caches of two indexes, threads.
    assert!(grown <= 40, "grown by {grown} MiB");
}
