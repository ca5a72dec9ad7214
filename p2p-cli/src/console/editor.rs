//! The line editor of a terminal: history, completion, and messages that arrive above the line being typed.

use std::collections::VecDeque;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc as sync;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

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
/// A text that no prompt has taken up for so long waits for the next one.
const STUCK: Duration = Duration::from_millis(50);

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
            // Several, if they were pasted.
            let commands = line.lines().filter(|command| !command.trim().is_empty());
            let new = commands.filter(|command| matches!(self.editor.add_history_entry(*command), Ok(true)));
            if new.count() > 0 {
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
/// The editor's own printer blocks once a text waits that no prompt takes up, as happens in the moment in
/// which a line is entered. It therefore gets a thread of its own, and what comes behind goes round it. A
/// text caught in that moment is shown with the next prompt.
fn relay(printer: impl ExternalPrinter + Send + 'static) -> Printer {
    let relay = Arc::new(Relay::default());
    let shared = Arc::clone(&relay);
    std::thread::spawn(move || shared.run(printer));
    Box::new(move |text| relay.give(text))
}

#[derive(Default)]
struct Relay {
    texts: Mutex<VecDeque<String>>,
    filled: Condvar,
    /// A text is with the editor's printer.
    printing: AtomicBool,
}

impl Relay {
    fn run(&self, mut printer: impl ExternalPrinter) {
        loop {
            let mut texts = self.lock();
            let text = loop {
                match texts.pop_front() {
                    Some(text) => break text,
                    None => texts = self.filled.wait(texts).unwrap_or_else(PoisonError::into_inner),
                }
            };
            if !TYPING.load(Ordering::SeqCst) {
                // Under the lock, so that nothing overtakes it. A terminal that is gone is noticed by the
                // thread that reads it.
                let _ = straight(&text);
                continue;
            }
            self.printing.store(true, Ordering::SeqCst);
            drop(texts);
            let _ = printer.print(text);
            self.printing.store(false, Ordering::SeqCst);
        }
    }

    fn give(&self, text: &str) -> io::Result<()> {
        loop {
            if self.is_stuck() {
                let mut texts = self.lock();
                let waiting: String = texts.drain(..).collect();
                straight(&waiting)?;
                return straight(text);
            }
            let mut texts = self.lock();
            let idle = texts.is_empty() && !self.printing.load(Ordering::SeqCst);
            if idle && !TYPING.load(Ordering::SeqCst) {
                return straight(text);
            }
            if texts.len() < MAX_RELAYED {
                texts.push_back(text.to_owned());
                self.filled.notify_one();
                return Ok(());
            }
            drop(texts);
            std::thread::sleep(RELAY_RETRY);
        }
    }

    /// The editor's printer has a text and no prompt takes it up, for longer than a moment.
    fn is_stuck(&self) -> bool {
        let now = || self.printing.load(Ordering::SeqCst) && !TYPING.load(Ordering::SeqCst);
        let until = Instant::now() + STUCK;
        while now() {
            if Instant::now() >= until {
                return true;
            }
            std::thread::sleep(RELAY_RETRY);
        }
        false
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<String>> {
        self.texts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn straight(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}
