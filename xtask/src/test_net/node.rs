//! One node of the test network: a `p2p` process with a data directory that outlives it.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::program::{Event, Program};
use crate::test_net::clock;

/// From the start of the process to its `ready` line. It takes some milliseconds; a loaded machine more.
const READY: Duration = Duration::from_secs(20);

/// How nodes are started: the program and the folder that takes logs and data directories.
#[derive(Debug, Clone)]
pub(crate) struct Launch {
    pub(crate) program: PathBuf,
    pub(crate) folder: PathBuf,
}

/// Where a node lives: its address, the network namespace that has it unless that is our own, and the years by which its
/// wall clock is wrong.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) host: IpAddr,
    pub(crate) namespace: Option<PathBuf>,
    pub(crate) years: i32,
}

impl Place {
    pub(crate) const LOOPBACK: Self =
        Self { host: IpAddr::V4(Ipv4Addr::LOCALHOST), namespace: None, years: 0 };

    fn run(&self, program: &Path) -> Command {
        let Some(namespace) = &self.namespace else { return Command::new(program) };
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", namespace.display())).arg(program);
        command
    }
}

impl Launch {
    pub(crate) fn data_dir(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The command line of a node: free ports, no router, no LAN.
    pub(crate) fn command(&self, name: &str, place: &Place, more: &[&str]) -> Command {
        let mut command = place.run(&self.program);
        command.args(["--json", "--host", &place.host.to_string(), "--port", "0", "--file-port", "0"]);
        command.args(["--no-upnp", "--no-lan", "--data"]).arg(self.data_dir(name)).args(more);
        clock::shift(&mut command, place.years);
        // What the caller's own node is told must not reach these.
        for (key, _) in std::env::vars_os().filter(|(k, _)| k.to_string_lossy().starts_with("P2P_")) {
            command.env_remove(key);
        }
        command
    }

    pub(crate) fn start(&self, name: &str, more: &[&str]) -> Result<Node> {
        self.start_at(name, &Place::LOOPBACK, more)
    }

    pub(crate) fn start_at(&self, name: &str, place: &Place, more: &[&str]) -> Result<Node> {
        let data = self.data_dir(name);
        fs::create_dir_all(&data).with_context(|| data.display().to_string())?;
        let program = Program::start(name, &self.folder, &mut self.command(name, place, more))?;
        let ready = program.event("ready", 0, READY, |e| e.is("ready"))?;
        let id = ready.str("id").to_owned();
        ensure!(id.len() == 64, "{name}: `id` of the ready line is no id: {}", ready.value);
        let addr: SocketAddr =
            first_addr(&ready, "listen").with_context(|| format!("{name}: {}", ready.value))?;
        first_addr(&ready, "files").with_context(|| format!("{name}: {}", ready.value))?;
        Ok(Node { name: name.to_owned(), id, addr, data, program })
    }
}

fn first_addr(ready: &Event, key: &str) -> Result<SocketAddr> {
    let text = ready.value[key][0].as_str().with_context(|| format!("the ready line has no `{key}`"))?;
    text.parse().with_context(|| format!("`{key}` names {text}"))
}

pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) addr: SocketAddr,
    pub(crate) data: PathBuf,
    pub(crate) program: Program,
}

impl Node {
    /// The peers that this node is linked to now, counted over its events.
    pub(crate) fn linked(events: &[Event]) -> Vec<String> {
        let mut up: Vec<String> = Vec::new();
        for event in events {
            if event.is("peer_up") && !up.iter().any(|id| id == event.str("id")) {
                up.push(event.str("id").to_owned());
            } else if event.is("peer_down") {
                up.retain(|id| id != event.str("id"));
            }
        }
        up
    }

    /// Waits until it is linked to each of `ids` (and perhaps to others).
    pub(crate) fn wait_links(&self, ids: &[&str], limit: Duration) -> Result<()> {
        let what = format!("links to {} peers", ids.len());
        self.program.wait(&what, 0, limit, |events| {
            let up = Self::linked(events);
            ids.iter().all(|id| up.iter().any(|u| u == id)).then_some(())
        })
    }

    /// Waits until it has heard these (seq, text) of an author.
    pub(crate) fn wait_heard(&self, author: &str, wanted: &[(u64, String)], limit: Duration) -> Result<()> {
        let what = format!("{} messages of {}", wanted.len(), &author[..10]);
        let heard = self.program.wait(&what, 0, limit, |events| {
            let of: Vec<(u64, String)> =
                heard(events).filter(|h| h.0 == author).map(|h| (h.1, h.2)).collect();
            wanted.iter().all(|w| of.iter().any(|h| h.0 == w.0)).then_some(of)
        })?;
        for (seq, text) in wanted {
            let got = heard.iter().filter(|h| h.0 == *seq).collect::<Vec<_>>();
            ensure!(got.len() == 1, "{}: heard message {seq} {} times", self.name, got.len());
            ensure!(got[0].1 == *text, "{}: heard {:?} instead of {text:?}", self.name, got[0].1);
        }
        Ok(())
    }

    /// Says something to all; its seq.
    pub(crate) fn say(&mut self, text: &str) -> Result<(u64, String)> {
        let sent = self.program.tell(&format!("msg {text}"), Duration::from_secs(10))?;
        let seq =
            sent.value["seq"].as_u64().with_context(|| format!("{}: no `seq`: {}", self.name, sent.value))?;
        Ok((seq, text.to_owned()))
    }

    /// The ids of its `peers` list that are connected.
    pub(crate) fn connected(&mut self) -> Result<Vec<String>> {
        let answer = self.program.tell("peers", Duration::from_secs(10))?;
        let list = answer.value["peers"].as_array().context("`peers` is no list")?;
        let up = list.iter().filter(|p| p["state"] == "connected");
        Ok(up.filter_map(|p| p["id"].as_str()).map(String::from).collect())
    }

    pub(crate) fn state_file(&self) -> PathBuf {
        self.data.join("state.json")
    }
}

/// The ids that a state file names.
pub(crate) fn saved_peers(state_file: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(state_file).with_context(|| state_file.display().to_string())?;
    let state: Value = serde_json::from_str(&text).with_context(|| state_file.display().to_string())?;
    let peers = state["peers"].as_array().with_context(|| format!("{}: no `peers`", state_file.display()))?;
    Ok(peers.iter().filter_map(|p| p["id"].as_str()).map(String::from).collect())
}

/// The messages among the events: author, seq, text.
pub(crate) fn heard(events: &[Event]) -> impl Iterator<Item = (String, u64, String)> + '_ {
    events.iter().filter(|e| e.is("message")).map(|e| {
        let seq = e.value["seq"].as_u64().unwrap_or_default();
        (e.str("author").to_owned(), seq, e.str("text").to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::time::Instant;

    fn events(values: &[Value]) -> Vec<Event> {
        values.iter().map(|v| Event { at: Instant::now(), value: v.clone() }).collect()
    }

    #[test]
    fn links_are_what_came_up_and_did_not_go_down() {
        let up = |id: &str| json!({"event": "peer_up", "id": id});
        let down = |id: &str| json!({"event": "peer_down", "id": id});
        let all = [up("a"), up("b"), down("a"), up("c"), up("b"), down("c"), up("a")];
        assert_eq!(Node::linked(&events(&all)), ["b", "a"]);
    }
}
