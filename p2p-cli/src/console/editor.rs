//! The line editor of a terminal: history, completion, and messages that arrive above the line being typed.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc as sync;
use std::time::Duration;

use rustyline::completion::FilenameCompleter;
use rustyline::history::FileHistory;
use rustyline::{CompletionType, Config, Editor, ExternalPrinter};
use tokio::sync::mpsc;

use super::complete::{Completion, Words};
use super::input::{Input, Typed};
use crate::failure::Failure;
use crate::output::Printer;
use crate::terminal::{self, TYPING};

const PROMPT: &str = "> ";
/// Lines of history kept.
const MAX_HISTORY: usize = 1_000;
/// Texts handed to the editor and not yet shown.
const MAX_RELAYED: usize = 64;
/// While the editor's queue is full: how soon to look again.
const RELAY_RETRY: Duration = Duration::from_millis(2);

/// Starts the editor on a thread of its own. What is to be written while it runs goes through the printer.
pub(crate) fn start(history: &Path, words: &Arc<Words>) -> Result<(Input, Printer), Failure> {
    let fail = |source: rustyline::error::ReadlineError| {
        Failure::failed("terminal", format!("the terminal can't be used: {source}"))
    };
    terminal::remember();
    let config = Config::builder()
        .max_history_size(MAX_HISTORY)
        .and_then(|config| config.history_ignore_dups(true))
        .map_err(fail)?
        .completion_type(CompletionType::List)
        .build();
    let mut editor: Editor<Completion, FileHistory> = Editor::with_config(config).map_err(fail)?;
    editor.set_helper(Some(Completion { words: Arc::clone(words), paths: FilenameCompleter::new() }));
    let printer = relay(editor.create_external_printer().map_err(fail)?);
    let (give, lines) = mpsc::channel(1);
    let (prompt, prompted) = sync::sync_channel(1);
    let thread = Typing { editor, history: history.to_owned(), give, prompted };
    std::thread::spawn(move || thread.run());
    Ok((Input::from_editor(lines, prompt), printer))
}

struct Typing {
    editor: Editor<Completion, FileHistory>,
    history: PathBuf,
    give: mpsc::Sender<Typed>,
    prompted: sync::Receiver<()>,
}

impl Typing {
    /// One line each time it is asked for, until the end of input or Ctrl-C.
    fn run(mut self) {
        // No history yet, or one that can't be read, is an empty one.
        let _ = self.editor.load_history(&self.history);
        while self.prompted.recv().is_ok() {
            TYPING.store(true, Ordering::SeqCst);
            let line = self.editor.readline(PROMPT);
            TYPING.store(false, Ordering::SeqCst);
            let Ok(line) = line else { return };
            if !line.trim().is_empty() && matches!(self.editor.add_history_entry(&line), Ok(true)) {
                // Written with mode 0600 by the editor. A full disk costs the history, not the console.
                let _ = self.editor.append_history(&self.history);
            }
            if self.give.blocking_send(Typed::Line(line.into_bytes())).is_err() {
                return;
            }
        }
    }
}

/// Text above the line being typed, or straight to the terminal while there is none.
///
/// The editor's own printer blocks once a text waits that no prompt takes up. It therefore gets a thread of
/// its own, so that what a running command says is never held up behind it.
fn relay(mut printer: impl ExternalPrinter + Send + 'static) -> Printer {
    let (give, texts) = sync::sync_channel::<String>(MAX_RELAYED);
    std::thread::spawn(move || {
        while let Ok(text) = texts.recv() {
            let shown = if TYPING.load(Ordering::SeqCst) {
                printer.print(text).is_ok()
            } else {
                straight(&text).is_ok()
            };
            if !shown {
                return;
            }
        }
    });
    Box::new(move |text| {
        let mut text = text.to_owned();
        while TYPING.load(Ordering::SeqCst) {
            text = match give.try_send(text) {
                Ok(()) => return Ok(()),
                Err(sync::TrySendError::Full(text)) => text,
                Err(sync::TrySendError::Disconnected(_)) => return Err(io::ErrorKind::BrokenPipe.into()),
            };
            std::thread::sleep(RELAY_RETRY);
        }
        straight(&text)
    })
}

fn straight(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}
