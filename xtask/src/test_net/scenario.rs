//! What the test network does, step by step, and what must come of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::digest::digest;
use crate::program::{Output, Program};
use crate::random::Random;
use crate::test_net::node::{Launch, Node, Place, heard, saved_peers};
use crate::test_net::step::{Step, needed, step};
use anyhow::{Context, Result, bail, ensure};

const LINKS: Duration = Duration::from_secs(20);
const HEARD: Duration = Duration::from_secs(10);
const ANSWER: Duration = Duration::from_secs(10);
const FILE: Duration = Duration::from_secs(120);
/// A search ends after 15 s; the rest is for a slow machine.
const NOT_FOUND: Duration = Duration::from_secs(25);
/// Hanging up is noticed at once, whoever hung up and how.
const GONE: Duration = Duration::from_secs(5);
const BACK: Duration = Duration::from_secs(30);
/// What the program promises for SIGTERM.
const EXIT: Duration = Duration::from_secs(5);
const FILE_SIZE: usize = 32 << 20;
const SMALL_FILE: usize = 1 << 20;
const LINE: usize = 5;

pub(crate) const STEPS: &[Step<Scenario>] = &[
    needed("start", Scenario::start),
    needed("join through one", Scenario::join),
    step("every message is heard once by all others", Scenario::talk),
    step("a private message is heard by its target only", Scenario::whisper),
    step("a message passes a line of 5", Scenario::line_talk),
    step("a file is found over several hops", Scenario::line_file),
    step("the line says goodbye", Scenario::line_exit),
    step("a file of 32 MiB reaches all", Scenario::file),
    step("an unknown hash is `not_found` in time", Scenario::unknown_hash),
    step("a second process on one directory exits 2", Scenario::second_process),
    needed("the introducer is killed", Scenario::kill_introducer),
    step("messages still reach all the rest", Scenario::talk_without),
    step("the killed node is back with no argument", Scenario::restart),
    step("SIGTERM: exit 0, state saved", Scenario::terminate),
    step("nobody heard anything twice, or itself", Scenario::audit),
];

pub(crate) struct Scenario {
    launch: Launch,
    size: usize,
    seed: u64,
    random: Random,
    nodes: Vec<Node>,
    line: Vec<Node>,
    /// What each process ever printed, with the id of its node.
    printed: Vec<(String, String, Arc<Output>)>,
    /// The private message: text and target.
    secret: Option<(String, String)>,
}

impl Scenario {
    pub(crate) fn new(program: PathBuf, folder: PathBuf, size: usize, seed: u64) -> Self {
        Self {
            launch: Launch { program, folder },
            size,
            seed,
            random: Random::new(seed),
            nodes: Vec::new(),
            line: Vec::new(),
            printed: Vec::new(),
            secret: None,
        }
    }

    fn started(&mut self, node: &Node) {
        self.printed.push((node.name.clone(), node.id.clone(), node.program.output()));
    }

    fn start(&mut self) -> Result<String> {
        for i in 0..self.size {
            let node = self.launch.start(&format!("node{i}"), &[])?;
            self.started(&node);
            self.nodes.push(node);
        }
        let mut ids: Vec<&str> = self.nodes.iter().map(|n| n.id.as_str()).collect();
        ids.sort_unstable();
        ids.dedup();
        ensure!(ids.len() == self.size, "two nodes have one id");
        Ok(format!("{} nodes", self.size))
    }

    /// Everybody connects to the first only; the rest is the network's own doing.
    fn join(&mut self) -> Result<String> {
        let (first, others) = self.nodes.split_first_mut().context("no nodes")?;
        for node in others {
            let connected = node.program.tell(&format!("connect {}", first.addr), LINKS)?;
            ensure!(connected.str("id") == first.id, "{}: connected to {}", node.name, connected.value);
        }
        for node in &self.nodes {
            node.wait_links(&ids_but(&self.nodes, &node.id), LINKS)?;
        }
        for node in &mut self.nodes {
            let links = node.connected()?.len();
            ensure!(links == self.size - 1, "{}: `peers` shows {links} connected peers", node.name);
        }
        Ok(format!("{} peers each", self.size - 1))
    }

    /// Three messages each: one text twice, and one that is not ASCII.
    fn talk(&mut self) -> Result<String> {
        let seed = self.seed;
        for i in 0..self.nodes.len() {
            let twice = format!("hello from {i}, seed {seed}");
            let texts = [twice.clone(), twice, format!("grüße aus {i}: 世界 — \"quoted\"  two  spaces 🌍")];
            say_to_all(&mut self.nodes, i, &texts)?;
        }
        Ok(format!("{} messages to {} others", 3 * self.size, self.size - 1))
    }

    fn whisper(&mut self) -> Result<String> {
        let text = format!("between us {:x}", self.random.next());
        let target = (self.nodes[self.size - 1].id.clone(), self.nodes[self.size - 1].name.clone());
        let sent = self.nodes[1].program.tell(&format!("pm {} {text}", target.0), ANSWER)?;
        ensure!(sent.str("to") == target.0, "pm answered {}", sent.value);
        let what = "the private message";
        let got = self.nodes[self.size - 1].program.event(what, 0, HEARD, |e| e.str("text") == text)?;
        ensure!(got.value["private"] == true, "it is not marked private: {}", got.value);
        ensure!(got.str("author") == self.nodes[1].id, "wrong author: {}", got.value);
        // Whoever was to hear it would have heard it before this.
        say_to_all(&mut self.nodes, 1, &["said aloud after the whisper".to_owned()])?;
        self.secret = Some((text, target.0));
        self.only_the_target_heard()?;
        Ok(String::new())
    }

    fn only_the_target_heard(&self) -> Result<()> {
        let Some((text, target)) = &self.secret else { return Ok(()) };
        for (name, id, output) in &self.printed {
            let heard = output.events().iter().any(|e| e.is("message") && e.str("text") == text);
            ensure!(!heard || id == target, "{name} heard the private message");
        }
        Ok(())
    }

    fn line_talk(&mut self) -> Result<String> {
        for i in 0..LINE {
            let node = self.launch.start(&format!("line{i}"), &["--no-discover"])?;
            self.started(&node);
            self.line.push(node);
        }
        for i in 1..LINE {
            let before = self.line[i - 1].addr;
            self.line[i].program.tell(&format!("connect {before}"), LINKS)?;
        }
        for i in 0..LINE {
            let next = [i.checked_sub(1), Some(i + 1).filter(|n| *n < LINE)];
            let ids: Vec<&str> = next.into_iter().flatten().map(|n| self.line[n].id.as_str()).collect();
            self.line[i].wait_links(&ids, LINKS)?;
            let wanted = ids.len();
            let links = self.line[i].connected()?.len();
            ensure!(links == wanted, "line{i} has {links} links, in a line it is {wanted}");
        }
        for from in [0, LINE - 1, LINE / 2] {
            say_to_all(&mut self.line, from, &[format!("along the line from {from}")])?;
        }
        Ok(format!("{} hops", LINE - 1))
    }

    fn line_file(&mut self) -> Result<String> {
        ensure!(self.line.len() == LINE, "there is no line");
        let path = self.make_file("small.bin", SMALL_FILE)?;
        let hash = add(&mut self.line[0], &path)?;
        let done = self.line[LINE - 1].program.tell(&format!("req {hash}"), FILE)?;
        same_file(&path, Path::new(done.str("path")))?;
        Ok(format!("{} ms", done.value["ms"]))
    }

    fn line_exit(&mut self) -> Result<String> {
        ensure!(self.line.len() == LINE, "there is no line");
        for mut node in std::mem::take(&mut self.line) {
            ensure!(node.program.tell("exit", ANSWER)?.is("bye"), "{}: no `bye`", node.name);
            let status = node.program.exit(EXIT)?;
            ensure!(status.code() == Some(0), "{} ended with {status}", node.name);
        }
        Ok(String::new())
    }

    fn file(&mut self) -> Result<String> {
        let path = self.make_file("payload.bin", FILE_SIZE)?;
        let hash = add(&mut self.nodes[1], &path)?;
        let line = format!("req {hash}");
        let begin = Instant::now();
        let mut marks = Vec::new();
        for node in self.nodes.iter_mut().filter(|n| n.name != "node1") {
            marks.push((node.name.clone(), node.program.mark()));
            node.program.type_line(&line)?;
        }
        for (name, mark) in marks {
            let node = self.nodes.iter().find(|n| n.name == name).context("a node of ours")?;
            let done = node.program.answer(&line, mark, FILE)?;
            ensure!(done.is("file_done"), "{name}: {}", done.value);
            ensure!(done.value["length"] == FILE_SIZE, "{name}: {}", done.value);
            same_file(&path, Path::new(done.str("path"))).with_context(|| name.clone())?;
        }
        Ok(format!("to {} nodes in {:.1} s", self.size - 1, begin.elapsed().as_secs_f64()))
    }

    fn unknown_hash(&mut self) -> Result<String> {
        let hash = self.random.hex64();
        let begin = Instant::now();
        let answer = self.nodes[self.size - 1].program.ask(&format!("req {hash}"), NOT_FOUND)?;
        let found =
            answer.is("file_failed") && answer.str("error") == "not_found" && answer.str("hash") == hash;
        ensure!(found, "answered {}", answer.value);
        Ok(format!("after {:.1} s", (answer.at - begin).as_secs_f64()))
    }

    fn second_process(&mut self) -> Result<String> {
        let name = self.nodes[2].name.clone();
        let second = Program::start(
            "second",
            &self.launch.folder,
            &mut self.launch.command(&name, &Place::LOOPBACK, &[]),
        )?;
        let status = second.exit(EXIT)?;
        ensure!(status.code() == Some(2), "the second process ended with {status}");
        ensure!(!second.output().events().iter().any(|e| e.is("ready")), "the second process was ready");
        say_to_all(&mut self.nodes, 2, &["the first one is unimpressed".to_owned()])?;
        Ok(String::new())
    }

    /// SIGKILL, once its peer table has reached the disk as it must by itself.
    fn kill_introducer(&mut self) -> Result<String> {
        let wanted = ids_but(&self.nodes, &self.nodes[0].id);
        wait_saved(&self.nodes[0].state_file(), &wanted, LINKS)?;
        let marks: Vec<usize> = self.nodes.iter().map(|n| n.program.mark()).collect();
        self.nodes[0].program.kill();
        let killed = &self.nodes[0].id;
        for (node, mark) in self.nodes.iter().zip(marks).skip(1) {
            let down = |e: &crate::program::Event| e.is("peer_down") && e.str("id") == killed;
            node.program.event("peer_down of the killed node", mark, GONE, down)?;
        }
        Ok("SIGKILL, noticed by all".to_owned())
    }

    fn talk_without(&mut self) -> Result<String> {
        let rest = &mut self.nodes[1..];
        for i in 0..rest.len() {
            say_to_all(rest, i, &[format!("still here, says {}", i + 1)])?;
        }
        Ok(format!("{} nodes", self.size - 1))
    }

    fn restart(&mut self) -> Result<String> {
        let begin = Instant::now();
        let node = self.launch.start("node0", &[])?;
        self.started(&node);
        ensure!(node.id == self.nodes[0].id, "it has another id now");
        self.nodes[0] = node;
        let node = &self.nodes[0];
        node.wait_links(&ids_but(&self.nodes, &node.id), BACK)?;
        for other in &self.nodes[1..] {
            other.wait_links(&[&node.id], BACK)?;
        }
        let took = begin.elapsed();
        say_to_all(&mut self.nodes, 0, &["I am back".to_owned()])?;
        let last = self.size - 1;
        say_to_all(&mut self.nodes, last, &["welcome back".to_owned()])?;
        Ok(format!("linked after {:.2} s", took.as_secs_f64()))
    }

    fn terminate(&mut self) -> Result<String> {
        let everybody = self.nodes.iter().map(|n| n.id.clone()).collect::<Vec<_>>();
        let begin = Instant::now();
        for node in &mut self.nodes {
            node.program.terminate()?;
        }
        for node in &self.nodes {
            let left = EXIT.saturating_sub(begin.elapsed());
            let status = node.program.exit(left)?;
            ensure!(status.code() == Some(0), "{} ended with {status}", node.name);
        }
        let took = begin.elapsed();
        for node in &self.nodes {
            let saved = saved_peers(&node.state_file())?;
            let missing = everybody.iter().filter(|id| **id != node.id && !saved.contains(id)).count();
            ensure!(
                missing == 0,
                "{}: {missing} peers are not in {}",
                node.name,
                node.state_file().display()
            );
        }
        Ok(format!("all after {:.2} s", took.as_secs_f64()))
    }

    /// Over everything that any process printed until its end.
    fn audit(&mut self) -> Result<String> {
        self.only_the_target_heard()?;
        let mut all: Vec<(String, String, u64)> = Vec::new();
        for (name, id, output) in &self.printed {
            ensure!(output.noise().is_empty(), "{name} printed {:?}", output.noise());
            let events = output.events();
            for (author, seq, text) in heard(&events) {
                ensure!(author != *id, "{name} heard itself say {text:?}");
                all.push((id.clone(), author, seq));
            }
            let lost = events.iter().find(|e| e.is("lagged") || e.is("gap") || e.is("forked"));
            ensure!(lost.is_none(), "{name}: {}", lost.expect("it is there").value);
        }
        let count = all.len();
        all.sort_unstable();
        if let Some(twice) = all.windows(2).find(|w| w[0] == w[1]) {
            bail!("{} heard message {} of {} twice", twice[0].0, twice[0].2, twice[0].1);
        }
        Ok(format!("{count} deliveries"))
    }

    fn make_file(&mut self, name: &str, size: usize) -> Result<PathBuf> {
        let mut bytes = vec![0; size];
        self.random.fill(&mut bytes);
        let path = self.launch.folder.join(name);
        fs::write(&path, bytes).with_context(|| path.display().to_string())?;
        Ok(path)
    }
}

impl Drop for Scenario {
    /// The programs that still run would otherwise be killed one by one while the others complain.
    fn drop(&mut self) {
        for node in self.nodes.iter().chain(&self.line) {
            node.program.kill();
        }
    }
}

/// One of them says these texts, one after another; all others must hear each of them.
fn say_to_all(nodes: &mut [Node], from: usize, texts: &[String]) -> Result<()> {
    let said = texts.iter().map(|t| nodes[from].say(t)).collect::<Result<Vec<_>>>()?;
    ensure!(said.is_sorted_by(|a, b| a.0 < b.0), "{}: seqs do not rise: {said:?}", nodes[from].name);
    let author = nodes[from].id.clone();
    for node in nodes.iter().filter(|n| n.id != author) {
        node.wait_heard(&author, &said, HEARD)?;
    }
    Ok(())
}

fn ids_but<'a>(nodes: &'a [Node], id: &str) -> Vec<&'a str> {
    nodes.iter().map(|n| n.id.as_str()).filter(|i| *i != id).collect()
}

/// Adds a file to what a node shares; its hash.
fn add(node: &mut Node, path: &Path) -> Result<String> {
    let added = node.program.tell(&format!("add \"{}\"", path.display()), FILE)?;
    let hash = added.str("hash").to_owned();
    ensure!(hash.len() == 64, "{}: `add` answered {}", node.name, added.value);
    Ok(hash)
}

/// A file that a program writes when it sees fit: no event tells, so it is looked at.
fn wait_saved(state_file: &Path, ids: &[&str], limit: Duration) -> Result<()> {
    let end = Instant::now() + limit;
    loop {
        let saved = saved_peers(state_file);
        if saved.as_ref().is_ok_and(|saved| ids.iter().all(|id| saved.iter().any(|s| s == id))) {
            return Ok(());
        }
        if Instant::now() > end {
            let found = saved.map_or_else(|e| format!("{e:#}"), |s| format!("{} peers", s.len()));
            bail!("{} does not name all {} peers after {limit:?}: {found}", state_file.display(), ids.len());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn same_file(a: &Path, b: &Path) -> Result<()> {
    ensure!(a != b, "{} is the source itself", b.display());
    ensure!(digest(a)? == digest(b)?, "{} differs from {}", b.display(), a.display());
    Ok(())
}
