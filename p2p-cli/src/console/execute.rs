//! What each command does. Every one ends in one [`Line`] or one [`Failure`].

use std::time::Duration;

use p2p_node::{Fetch, FetchOptions, NodeId, Target};

use super::Console;
use super::parse::{COMMANDS, Command};
use crate::commands::{fetch, resolve, share};
use crate::failure::Failure;
use crate::output::{Entry, Line, Peer, Renewed};

impl Console {
    pub(crate) async fn execute(&self, command: Command) -> Result<Line, Failure> {
        let node = &self.session.node;
        let name = command.name();
        Ok(match command {
            Command::Help => Line::Help { command: name, commands: COMMANDS },
            Command::Id => Line::id(node),
            Command::Status => Line::status(node.status().await),
            Command::Connect(text) => self.connect(&text).await?,
            Command::Disconnect(id) => self.with_peer(name, &id).await?,
            Command::Ban(id) => self.with_peer(name, &id).await?,
            Command::Unban(id) => self.with_peer(name, &id).await?,
            Command::Msg(text) => {
                let sent = node.send(text).await?;
                Line::Sent { command: name, seq: sent.seq, queued_links: sent.queued_links, to: None }
            }
            Command::Pm(id, text) => {
                let to = resolve::peer(&id, &node.peers().await)?;
                let sent = node.send_to(to, text).await?;
                Line::Sent {
                    command: name,
                    seq: sent.seq,
                    queued_links: sent.queued_links,
                    to: Some(to.to_string()),
                }
            }
            Command::PmWait(seconds, id, text) => {
                let to = resolve::peer(&id, &node.peers().await)?;
                let within = Duration::from_secs(seconds);
                // What comes of it is told by an event, so that the console goes on meanwhile.
                let receipt = node.send_for_receipt(to, text, within).await?;
                let sent = receipt.sent();
                self.receipts.expect(receipt);
                let (seq, queued_links, to) = (sent.seq, sent.queued_links, Some(to.to_string()));
                Line::Sent { command: name, seq, queued_links, to }
            }
            Command::Publish(topic, text) => {
                let sent = node.send_topic(&topic, text).await?;
                Line::Sent { command: name, seq: sent.seq, queued_links: sent.queued_links, to: None }
            }
            Command::Subscribe(topics) => {
                let topics = (!topics.is_empty()).then(|| topics.into_iter().collect());
                node.subscribe(topics).await?;
                Line::Ok { command: name, id: None, hash: None }
            }
            Command::Add(path) => Line::file_added(name, node, &node.share(path).await?),
            Command::Unshare(hash) => share::unshare_from(node, &hash).await?,
            Command::Req(what, path, only) => {
                let selection = fetch::selection(&only)?;
                let fetch =
                    self.fetch(&what, FetchOptions { to: path, selection, ..FetchOptions::default() });
                let (Ok(line) | Err((_, line))) =
                    fetch::follow(name, fetch.await?, &self.session.screen).await;
                line
            }
            Command::List(what) => {
                let fetch = self.fetch(&what, FetchOptions { list: true, ..FetchOptions::default() }).await?;
                let (Ok(line) | Err((_, line))) = fetch::list(name, node, fetch, &self.session.screen).await;
                line
            }
            Command::Files => Line::Files {
                command: name,
                files: node.files().await.into_iter().map(Entry::from).collect(),
            },
            Command::Refresh => self.refresh().await?,
            Command::Peers => {
                Line::Peers { command: name, peers: node.peers().await.into_iter().map(Peer::from).collect() }
            }
            Command::Save(file) => {
                let (path, peers) = node.save_state(file.as_deref()).await?;
                Line::Saved { command: name, path: path.display().to_string(), peers }
            }
            Command::Load(file) => Line::loaded(name, node.load_state(file.as_deref()).await?),
            Command::Debug => Line::Debug { command: name, on: self.logging.toggle_debug() },
            Command::Stop => {
                node.leave().await;
                Line::Stopped { command: name }
            }
            Command::Exit => Line::Bye { command: Some(name) },
        })
    }

    async fn connect(&self, text: &str) -> Result<Line, Failure> {
        let target = text.parse::<Target>().map_err(|e| Failure::usage("bad_address", e.to_string()))?;
        let connected = self.session.node.connect(target).await?;
        Ok(Line::Connected {
            command: "connect",
            id: connected.id.to_string(),
            addr: connected.addr.to_string(),
            already: connected.already,
        })
    }

    async fn with_peer(&self, command: &'static str, typed: &str) -> Result<Line, Failure> {
        let node = &self.session.node;
        let id: NodeId = resolve::peer(typed, &node.peers().await)?;
        match command {
            "disconnect" => node.disconnect(id).await?,
            "ban" => node.ban(id).await?,
            _ => node.unban(id).await?,
        }
        Ok(Line::Ok { command, id: Some(id.to_string()), hash: None })
    }

    async fn refresh(&self) -> Result<Line, Failure> {
        let node = &self.session.node;
        let found = node.refresh().await?;
        let folders = found.folders.iter().map(|folder| Renewed {
            path: folder.share.path.display().to_string(),
            hash: folder.share.hash.to_string(),
            ticket: node.file_ticket(&folder.share).to_string(),
            left_out: Some(folder.left_out.to_string()).filter(|_| folder.left_out.count > 0),
        });
        let failed = found.failed.iter().map(|(path, error)| format!("{}: {error}", path.display()));
        Ok(Line::Refreshed {
            command: "refresh",
            added: found.added.len(),
            removed: found.removed.len(),
            folders: folders.collect(),
            failed: failed.collect(),
        })
    }

    /// Begins to fetch what was typed; an error only if that names no file.
    async fn fetch(&self, what: &str, options: FetchOptions) -> Result<Fetch, Failure> {
        let node = &self.session.node;
        Ok(if resolve::looks_like_ticket(what) {
            node.fetch(resolve::file_ticket(what)?, options)
        } else {
            node.fetch(resolve::hash(what, &node.files().await)?, options)
        })
    }
}
