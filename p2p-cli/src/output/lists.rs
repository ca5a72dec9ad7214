//! Lists for people: files, peers, counters, commands.

use std::time::Duration;

use super::human::{plural, short};
use super::line::{Entry, Line, Manual, Peer};
use super::text::{ago, duration, named, shortened, size, table, visible};

pub(super) fn listed_files(files: &[Entry]) -> String {
    if files.is_empty() {
        return "no files; `add PATH` shares one".to_owned();
    }
    let row = |f: &Entry| {
        let length = f.length.map_or_else(|| "?".to_owned(), size);
        let have = match f.state {
            "fetching" if f.sources > 0 => format!(
                "fetching, {} at {}/s from {}",
                size(f.have),
                size(f.rate),
                if f.sources == 1 { "1 source".to_owned() } else { format!("{} sources", f.sources) }
            ),
            "fetching" => format!("fetching, {}, looking for sources", size(f.have)),
            "partial" if f.have > 0 => format!("partial, {}", size(f.have)),
            state => state.to_owned(),
        };
        let slash = if f.kind == "dir" { "/" } else { "" };
        vec![f.hash.clone(), length, have, format!("{}{slash}", visible(&f.path))]
    };
    table(&["hash", "size", "state", "path"], &files.iter().map(row).collect::<Vec<_>>())
}

pub(super) fn listed_peers(peers: &[Peer]) -> String {
    if peers.is_empty() {
        return "no peers; `connect IP:PORT` joins a network".to_owned();
    }
    let dash = || "-".to_owned();
    let row = |p: &Peer| {
        vec![
            short(&p.id).to_owned(),
            p.name.as_deref().map_or_else(dash, |n| named(n).into_owned()),
            p.addr.clone().unwrap_or_else(dash),
            p.state.to_owned(),
            p.direction.map_or_else(dash, str::to_owned),
            p.rtt_ms.map_or_else(dash, |ms| format!("{ms} ms")),
            p.heard.map_or_else(dash, ago),
            p.path.map_or_else(dash, str::to_owned),
            p.agent.as_deref().map_or_else(dash, |a| shortened(a, 64)),
        ]
    };
    let head = ["id", "name", "address", "state", "dir", "rtt", "heard", "path", "agent"];
    table(&head, &peers.iter().map(row).collect::<Vec<_>>())
}

pub(super) fn status(line: &Line) -> String {
    let Line::Status {
        uptime_ms,
        links,
        known_peers,
        messages_in,
        messages_out,
        refused,
        log,
        files_sent,
        upnp,
        ..
    } = line
    else {
        return String::new();
    };
    let refused: Vec<String> =
        refused.iter().filter(|(_, n)| **n > 0).map(|(word, n)| format!("{n} {word}")).collect();
    let refused = if refused.is_empty() { "nothing".to_owned() } else { refused.join(", ") };
    format!(
        "up        {}\nlinks     {links}, {known_peers} peer{} known\nmessages  {messages_in} in, {messages_out} out\n\
         log       {} message{}, {}\nfiles     {} sent\nrefused   {refused}\nrouter    {}",
        duration(Duration::from_millis(*uptime_ms)),
        plural(*known_peers as u64),
        log.messages,
        plural(log.messages),
        size(log.bytes),
        size(*files_sent),
        visible(upnp)
    )
}

pub(super) fn help(commands: &[Manual]) -> String {
    let row = |m: &Manual| vec![format!("{} {}", m.name, m.args), m.help.to_owned()];
    let text = table(&["command", ""], &commands.iter().map(row).collect::<Vec<_>>());
    format!("{text}An id or a hash may be shortened to any unique start. Quotes group words.")
}
