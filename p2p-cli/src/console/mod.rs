//! The console: commands come in from a terminal or a pipe, run one after another, and answer in one line
//! each.

mod complete;
mod editor;
mod execute;
mod input;
mod parse;
mod receipts;

use std::borrow::Cow;
use std::io::IsTerminal as _;
use std::sync::Arc;

use p2p_node::Target;

use crate::config::Settings;
use crate::console::complete::Words;
use crate::console::input::{Input, Typed};
use crate::console::parse::{Command, ParseError};
use crate::console::receipts::Receipts;
use crate::failure::Failure;
use crate::joining::Joining;
use crate::logging::Logging;
use crate::output::{Line, Screen};
use crate::session::{Session, Show, UNTIL_TAKEN};
use crate::signals::Stop;

/// Runs a node with a console until `exit`, the end of input or a signal.
pub(crate) async fn run(
    settings: Settings,
    screen: Screen,
    logging: Logging,
    stop: Stop,
) -> Result<(), Failure> {
    let by_hand = std::io::stdin().is_terminal();
    let on_terminal = !settings.json && by_hand;
    // Who types sees when there is a link; a script has written its first command before there can be one.
    let awaited = if by_hand { Vec::new() } else { settings.node.connect.clone() };
    let session = Session::start(settings.node, screen.clone(), stop, Show::Console).await?;
    let console = Console { session, logging, by_hand, words: Arc::default(), receipts: Receipts::default() };
    let input = if on_terminal {
        let (input, printer) =
            editor::start(&console.session.node.data_dir().join("history"), &console.words)?;
        screen.attach(printer).await;
        input
    } else {
        Input::from_pipe()
    };
    let mut failed = 0;
    let left = console.serve(input, awaited, &mut failed).await;
    if left.is_some() && !by_hand {
        // Who types may leave before; a script said how long it waits.
        let settled = console.session.waiting("for receipts", console.receipts.settled());
        let missing = console.session.unless_stopped(async { Ok(settled.await) }).await;
        failed += missing.unwrap_or(0);
    }
    let mut not_taken = None;
    // Who types and has no link was told that what is kept goes out with the first one.
    if left.is_some() && (!by_hand || console.session.node.status().await.links > 0) {
        // A script ends as soon as it has said everything; the node itself tells what has not left.
        let handed_over = console.session.waiting(UNTIL_TAKEN, console.session.node.handed_over());
        let all = console.session.unless_stopped(async { Ok(handed_over.await) }).await;
        if matches!(all, Ok(false)) && !by_hand {
            let failure = Failure::not_taken();
            screen.show(&Line::error(None, &failure)).await;
            not_taken = Some(failure.detail);
        }
    }
    console.session.end().await?;
    screen.show(&Line::Bye { command: left }).await;
    // Who types has seen it, and who ends it by a signal asks for nothing more. A script may look at the code alone.
    let commands =
        (failed > 0).then(|| format!("{failed} command{} failed", if failed == 1 { "" } else { "s" }));
    let wrong: Vec<String> = commands.into_iter().chain(not_taken).collect();
    if !wrong.is_empty() && !by_hand && left.is_some() {
        return Err(Failure::failed("commands_failed", wrong.join("; ")).told());
    }
    Ok(())
}

/// A session and what only a console needs.
struct Console {
    session: Session,
    logging: Logging,
    /// Somebody types.
    by_hand: bool,
    /// What can be completed; empty and unused where nobody types.
    words: Arc<Words>,
    receipts: Receipts,
}

/// Whether the console goes on.
enum Flow {
    Next,
    /// The command was not done; the next one is.
    Failed,
    Leave,
}

impl Console {
    /// Takes commands, once the links to those `awaited` are there, until one, or somebody, ends it; `bye` answers to
    /// what is returned.
    async fn serve(&self, mut input: Input, awaited: Vec<Target>, failed: &mut u64) -> Option<&'static str> {
        let mut stop = self.session.stop.clone();
        let mut links = self.session.link_changes();
        tokio::select! {
            flow = self.join(awaited) => *failed += u64::from(matches!(flow, Flow::Failed)),
            () = stop.wait() => return None,
            () = self.unseen() => return None,
        }
        loop {
            self.learn_words().await;
            let typed = loop {
                tokio::select! {
                    typed = input.next() => break typed,
                    Ok(()) = links.changed() => self.learn_words().await,
                    () = stop.wait() => return None,
                    () = self.unseen() => return None,
                }
            };
            let Some(typed) = typed else { return Some("exit") };
            tokio::select! {
                flow = self.obey(typed) => match flow {
                    Flow::Next => {}
                    Flow::Failed => *failed += 1,
                    Flow::Leave => return Some("exit"),
                },
                () = stop.wait() => return None,
                () = self.unseen() => return None,
            }
        }
    }

    /// Returns once somebody types and sees nothing any more. A script has its commands run to the end, as with standard
    /// output closed from the start: whoever read the answers may have seen enough of them, as `head -1` does.
    async fn unseen(&self) {
        if !self.by_hand {
            std::future::pending::<()>().await;
        }
        self.session.screen.wait_closed().await;
    }

    /// Waits for the links to these. Without one the commands run still: not all need it.
    async fn join(&self, awaited: Vec<Target>) -> Flow {
        if awaited.is_empty() {
            return Flow::Next;
        }
        match Joining::through(&self.session, awaited).all_named().await {
            Ok(()) => Flow::Next,
            Err(failure) => {
                self.session.screen.show(&Line::error(None, &failure)).await;
                Flow::Failed
            }
        }
    }

    /// Runs one line of input to its end and answers it.
    async fn obey(&self, typed: Typed) -> Flow {
        let parsed = match typed {
            Typed::Line(line) => parse::parse(&line),
            Typed::TooLong { limit } => Err(ParseError {
                command: None,
                word: "line_too_long",
                detail: format!("a line is longer than {limit} bytes; send it as a file (`add`)"),
            }),
        };
        let answer = match parsed {
            Ok(None) => return Flow::Next,
            Ok(Some(Command::Exit)) => return Flow::Leave,
            Ok(Some(command)) => {
                let name = command.name();
                match Box::pin(self.execute(command)).await {
                    Ok(line) => line,
                    Err(failure) => Line::error(Some(name), &failure),
                }
            }
            Err(ParseError { command, word, detail }) => {
                Line::Error { command: Some(Cow::Owned(command.unwrap_or_default())), error: word, detail }
            }
        };
        self.session.screen.show(&answer).await;
        match answer {
            Line::Error { .. } | Line::FileFailed { .. } => Flow::Failed,
            _ => Flow::Next,
        }
    }

    /// Peers and files as they are now, for completion.
    async fn learn_words(&self) {
        if Arc::strong_count(&self.words) > 1 {
            let node = &self.session.node;
            self.words.learn(&node.peers().await, &node.files().await);
        }
    }
}
