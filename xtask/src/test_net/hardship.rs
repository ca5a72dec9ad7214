//! What a network must live through: it is cut in two and heals, a third of it stands still, a process is killed, clocks
//! are wrong by years all the time.
//! Afterwards everybody has everything, once, and each author's messages in order.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::program::{Event, Output, Program};
use crate::test_net::clock;
use crate::test_net::lan::Lan;
use crate::test_net::node::{Launch, Node, heard};
use crate::test_net::step::{Step, needed, step};

const LINKS: Duration = Duration::from_secs(20);
const HEARD: Duration = Duration::from_secs(20);
/// Silence is death after 30 s; a node looks once a second, and a loaded machine later.
const DEAD: Duration = Duration::from_secs(45);
/// Within it all have what they missed (faults.md, rows 38 and 44), from the moment that the fault ends.
const CAUGHT_UP: Duration = Duration::from_secs(30);
/// Messages that each half sends while it cannot reach the other.
const PER_HALF: usize = 200;
/// The node that is killed: neither the introducer nor the one that speaks.
const KILLED: usize = 5;
const SPEAKER: usize = 0;
/// Wall clocks ten years ahead and ten years behind. The node that is killed comes back with a right one.
const AHEAD: [usize; 2] = [3, KILLED];
const BEHIND: [usize; 1] = [4];

pub(crate) const STEPS: &[Step<Hardship>] = &[
    needed("start, each at an address of its own", Hardship::start),
    needed("join through one", Hardship::join),
    needed("the cable is cut: both halves go on", Hardship::cut),
    step("the cable is mended: all have all", Hardship::heal),
    step("a third stands still, and wakes", Hardship::stop),
    step("kill -9 while messages come", Hardship::kill),
    step("everything once, in each author's order", Hardship::audit),
];

pub(crate) struct Hardship {
    launch: Launch,
    lan: Lan,
    stopped_for: Duration,
    nodes: Vec<Node>,
    /// What each process printed, by the name of its node; a restarted one has two entries.
    printed: Vec<(String, Arc<Output>)>,
    said: Vec<Said>,
}

/// Messages of one author: (seq, text).
struct Said {
    author: String,
    messages: Vec<(u64, String)>,
}

impl Hardship {
    pub(crate) fn new(launch: Launch, size: usize, stopped_for: Duration) -> Result<Self> {
        let lan = Lan::new(size)?;
        Ok(Self { launch, lan, stopped_for, nodes: Vec::new(), printed: Vec::new(), said: Vec::new() })
    }

    fn start_node(&mut self, i: usize) -> Result<Node> {
        let node = self.launch.start_at(&format!("node{i}"), &self.lan.places[i], &[])?;
        self.printed.push((node.name.clone(), node.program.output()));
        Ok(node)
    }

    fn start(&mut self) -> Result<String> {
        let (ahead, behind) = (AHEAD.map(|i| (i, clock::YEARS)), BEHIND.map(|i| (i, -clock::YEARS)));
        for (i, years) in ahead.into_iter().chain(behind) {
            if let Some(place) = self.lan.places.get_mut(i) {
                place.years = years;
            }
        }
        for i in 0..self.lan.places.len() {
            let node = self.start_node(i)?;
            self.nodes.push(node);
        }
        let clocks = match clock::library() {
            Some(_) => format!("{AHEAD:?} {} years ahead, {BEHIND:?} as many behind", clock::YEARS),
            None => "all clocks right (Debian: faketime is not installed)".into(),
        };
        Ok(format!("{} nodes, {clocks}", self.nodes.len()))
    }

    fn join(&mut self) -> Result<String> {
        let introducer = self.nodes[0].addr;
        for node in &mut self.nodes[1..] {
            node.program.tell(&format!("connect {introducer}"), LINKS)?;
        }
        let everybody: Vec<usize> = (0..self.nodes.len()).collect();
        self.say(&everybody, 1, "hello")?;
        self.wait_all(&everybody, HEARD)?;
        let links = self.nodes.iter_mut().map(|n| Ok(n.connected()?.len())).collect::<Result<Vec<_>>>()?;
        Ok(format!("{:.1} links each", links.iter().sum::<usize>() as f64 / links.len() as f64))
    }

    /// The first half of the messages is sent while nobody knows that the others are gone.
    fn cut(&mut self) -> Result<String> {
        self.lan.cut()?;
        let begin = Instant::now();
        let all: Vec<usize> = (0..self.nodes.len()).collect();
        let each = PER_HALF / self.nodes.len();
        let before = self.said.len();
        self.say(&all, each, "nobody there?")?;
        for i in 0..self.nodes.len() {
            let ids = self.half(1 - i % 2);
            self.nodes[i].program.wait("the end of links to the other half", 0, DEAD, |events| {
                Node::linked(events).iter().all(|up| !ids.contains(up)).then_some(())
            })?;
        }
        let noticed = begin.elapsed();
        self.say(&all, each, "among ourselves")?;
        for half in 0..2 {
            let (ids, members) = (self.half(half), members(&self.nodes, half));
            for said in self.said[before..].iter().filter(|s| ids.contains(&s.author)) {
                wait_heard(&self.nodes, &members, said, HEARD)?;
            }
        }
        Ok(format!("noticed after {:.0} s", noticed.as_secs_f64()))
    }

    fn heal(&mut self) -> Result<String> {
        self.lan.heal()?;
        let begin = Instant::now();
        let everybody: Vec<usize> = (0..self.nodes.len()).collect();
        self.wait_all(&everybody, CAUGHT_UP)?;
        Ok(format!("after {:.1} s", begin.elapsed().as_secs_f64()))
    }

    fn stop(&mut self) -> Result<String> {
        let (stopped, rest): (Vec<usize>, Vec<usize>) = (0..self.nodes.len()).partition(|i| i % 3 == 2);
        for i in &stopped {
            self.nodes[*i].program.signal("STOP")?;
        }
        let begin = Instant::now();
        let spoken = self.say(&rest, 5, "you are quiet").and_then(|()| self.wait_all(&rest, HEARD));
        // The fault lasts this long: nothing is waited for.
        thread::sleep(self.stopped_for.saturating_sub(begin.elapsed()));
        for i in &stopped {
            self.nodes[*i].program.signal("CONT")?;
        }
        spoken?;
        let begin = Instant::now();
        let everybody: Vec<usize> = (0..self.nodes.len()).collect();
        self.wait_all(&everybody, CAUGHT_UP)?;
        let woken = begin.elapsed().as_secs_f64();
        self.say(&everybody, 1, "all awake")?;
        self.wait_all(&everybody, HEARD)?;
        Ok(format!("{} nodes for {:?}, all have all after {woken:.1} s", stopped.len(), self.stopped_for))
    }

    /// What was printed before, what the log holds and what is printed after the restart must be everything; what is
    /// printed twice is a failure of `audit` too.
    fn kill(&mut self) -> Result<String> {
        let mark = self.nodes[SPEAKER].program.mark();
        for i in 0..100 {
            self.nodes[SPEAKER].program.type_line(&format!("msg in a row, {i}"))?;
        }
        let author = self.nodes[SPEAKER].id.clone();
        let row = |e: &&Event| e.is("message") && e.str("text").starts_with("in a row");
        self.nodes[KILLED].program.wait("some of the messages", 0, HEARD, |events| {
            (events.iter().filter(row).count() >= 10).then_some(())
        })?;
        self.nodes[KILLED].program.kill();
        let seqs = self.nodes[SPEAKER].program.wait("what was sent", mark, HEARD, |events| {
            let sent: Vec<u64> =
                events.iter().filter(|e| e.is("sent")).filter_map(|e| e.value["seq"].as_u64()).collect();
            (sent.len() == 100).then_some(sent)
        })?;
        let messages = seqs.into_iter().enumerate().map(|(i, seq)| (seq, format!("in a row, {i}"))).collect();
        self.said.push(Said { author: author.clone(), messages });
        self.say(&[SPEAKER], 20, "while you are dead")?;
        let logged = self.logged(KILLED)?;
        self.lan.places[KILLED].years = 0;
        let node = self.start_node(KILLED)?;
        ensure!(node.id == self.nodes[KILLED].id, "it has another id now");
        self.nodes[KILLED] = node;
        let begin = Instant::now();
        let wanted: BTreeSet<u64> =
            self.said.iter().filter(|s| s.author == author).flat_map(|s| &s.messages).map(|m| m.0).collect();
        self.nodes[KILLED].program.wait("what it lacks", 0, CAUGHT_UP, |events| {
            let now: HashSet<u64> = heard(events).filter(|h| h.0 == author).map(|h| h.1).collect();
            wanted
                .iter()
                .all(|seq| now.contains(seq) || logged.contains(&(author.clone(), *seq)))
                .then_some(())
        })?;
        Ok(format!("{} in its log, the rest after {:.1} s", logged.len(), begin.elapsed().as_secs_f64()))
    }

    /// What `p2p log` prints of the data directory of a node that does not run: (author, seq).
    fn logged(&self, i: usize) -> Result<HashSet<(String, u64)>> {
        let data = self.launch.data_dir(&format!("node{i}"));
        let mut command = std::process::Command::new(&self.launch.program);
        command.args(["--json", "--data"]).arg(data).arg("log");
        let program = Program::start("log", &self.launch.folder, &mut command)?;
        let status = program.exit(HEARD)?;
        ensure!(status.success(), "`p2p log` ended with {status}");
        let events = program.output().events();
        Ok(heard(&events).map(|(author, seq, _)| (author, seq)).collect())
    }

    fn audit(&mut self) -> Result<String> {
        let mut newest: HashMap<(String, String), BTreeSet<u64>> = HashMap::new();
        let mut deliveries = 0;
        for (name, output) in &self.printed {
            ensure!(output.noise().is_empty(), "{name} printed {:?}", output.noise());
            for event in output.events() {
                let bad = event.is("lagged") || event.is("gap") || event.is("forked");
                ensure!(!bad, "{name}: {}", event.value);
                if !event.is("message") {
                    continue;
                }
                deliveries += 1;
                let seq = event.value["seq"].as_u64().context("a message has a seq")?;
                let seen = newest.entry((name.clone(), event.str("author").to_owned())).or_default();
                let in_order = seen.last().is_none_or(|last| *last < seq);
                ensure!(seen.insert(seq), "{name} heard this twice: {}", event.value);
                ensure!(in_order || event.value["late"] == true, "{name}: out of order: {}", event.value);
            }
        }
        Ok(format!("{deliveries} deliveries"))
    }

    /// Each of `speakers` says `count` messages.
    fn say(&mut self, speakers: &[usize], count: usize, text: &str) -> Result<()> {
        for i in speakers {
            let node = &mut self.nodes[*i];
            let messages =
                (0..count).map(|n| node.say(&format!("{text} {i}/{n}"))).collect::<Result<Vec<_>>>()?;
            self.said.push(Said { author: node.id.clone(), messages });
        }
        Ok(())
    }

    /// Waits until `listeners` have heard all that was ever said, within `limit` in all.
    fn wait_all(&self, listeners: &[usize], limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        for said in &self.said {
            wait_heard(&self.nodes, listeners, said, end.saturating_duration_since(Instant::now()))?;
        }
        Ok(())
    }

    fn half(&self, half: usize) -> HashSet<String> {
        members(&self.nodes, half).into_iter().map(|i| self.nodes[i].id.clone()).collect()
    }
}

impl Drop for Hardship {
    /// The programs that still run would otherwise be killed one by one while the others complain. A stopped one
    /// dies of SIGKILL too.
    fn drop(&mut self) {
        for node in &self.nodes {
            node.program.kill();
        }
    }
}

fn members(nodes: &[Node], half: usize) -> Vec<usize> {
    (0..nodes.len()).filter(|i| i % 2 == half).collect()
}

fn wait_heard(nodes: &[Node], listeners: &[usize], said: &Said, limit: Duration) -> Result<()> {
    for node in listeners.iter().map(|i| &nodes[*i]).filter(|n| n.id != said.author) {
        node.wait_heard(&said.author, &said.messages, limit)?;
    }
    Ok(())
}

/// How the task starts it.
pub(crate) fn new(program: PathBuf, folder: PathBuf, size: usize, stopped_for: u64) -> Result<Hardship> {
    Hardship::new(Launch { program, folder }, size, Duration::from_secs(stopped_for))
}
