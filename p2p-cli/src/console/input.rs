//! Lines of input, one at a time. They are read on a thread of their own: reading a terminal or a pipe can't
//! be interrupted.

use std::collections::VecDeque;
use std::io::{self, BufRead};
use std::sync::mpsc as sync;

use tokio::sync::mpsc;

/// The longest line from a pipe: the largest message and room for the command before it. A longer one is
/// skipped and answered with an error.
const MAX_LINE: usize = 2 * 1024 * 1024;
/// Lines read ahead; the rest waits in the pipe.
const MAX_AHEAD: usize = 4;

/// One line of input.
#[derive(Debug)]
pub(crate) enum Typed {
    Line(Vec<u8>),
    TooLong { limit: usize },
}

/// Where commands come from.
#[derive(Debug)]
pub(crate) struct Input {
    lines: mpsc::Receiver<Typed>,
    /// The rest of what was pasted.
    pasted: VecDeque<Typed>,
    /// Tells the editor that the last command is done and it may prompt; a pipe needs no telling.
    prompt: Option<sync::SyncSender<()>>,
    prompted: bool,
}

impl Input {
    /// Standard input, line by line.
    pub(crate) fn from_pipe() -> Self {
        let (give, lines) = mpsc::channel(MAX_AHEAD);
        std::thread::spawn(move || {
            let mut stdin = io::stdin().lock();
            // A reading error is the end of input: nothing more will come.
            while let Ok(Some(typed)) = read_line(&mut stdin, MAX_LINE) {
                if give.blocking_send(typed).is_err() {
                    return;
                }
            }
        });
        Self { lines, pasted: VecDeque::new(), prompt: None, prompted: false }
    }

    /// An editor that sends a line each time it is told to prompt.
    pub(crate) const fn from_editor(lines: mpsc::Receiver<Typed>, prompt: sync::SyncSender<()>) -> Self {
        Self { lines, pasted: VecDeque::new(), prompt: Some(prompt), prompted: false }
    }

    /// The next line; `None` at the end of input. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Option<Typed> {
        if let Some(typed) = self.pasted.pop_front() {
            return Some(typed);
        }
        if let (Some(prompt), false) = (&self.prompt, self.prompted) {
            // The editor reads one such word per line: there is room, unless it is gone, and then the
            // lines end too.
            let _ = prompt.try_send(());
            self.prompted = true;
        }
        let typed = self.lines.recv().await?;
        self.prompted = false;
        match typed {
            // The editor takes what is pasted as one text. As typed, each line of it is a command.
            Typed::Line(text) if text.contains(&b'\n') => {
                self.pasted.extend(text.split(|&b| b == b'\n').map(|line| Typed::Line(line.to_vec())));
                self.pasted.pop_front()
            }
            typed => Some(typed),
        }
    }
}

/// A line without its end (`\n` or `\r\n`); `None` at the end of input.
fn read_line(input: &mut impl BufRead, limit: usize) -> io::Result<Option<Typed>> {
    let mut line = Vec::new();
    let mut too_long = false;
    let mut any = false;
    loop {
        let chunk = input.fill_buf()?;
        if chunk.is_empty() {
            break;
        }
        any = true;
        let newline = chunk.iter().position(|&b| b == b'\n');
        let end = newline.unwrap_or(chunk.len());
        if line.len() + end > limit {
            too_long = true;
        } else if !too_long {
            line.extend_from_slice(&chunk[..end]);
        }
        input.consume(newline.map_or(end, |at| at + 1));
        if newline.is_some() {
            break;
        }
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    Ok(match (any, too_long) {
        (false, _) => None,
        (true, true) => Some(Typed::TooLong { limit }),
        (true, false) => Some(Typed::Line(line)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(input: &[u8], capacity: usize) -> Vec<Option<Vec<u8>>> {
        let mut input = io::BufReader::with_capacity(capacity, input);
        let mut lines = Vec::new();
        while let Some(typed) = read_line(&mut input, 8).unwrap() {
            lines.push(match typed {
                Typed::Line(line) => Some(line),
                Typed::TooLong { .. } => None,
            });
        }
        lines
    }

    #[tokio::test]
    async fn what_is_pasted_is_a_command_a_line() {
        let (give, lines) = mpsc::channel(1);
        let (prompt, prompts) = sync::sync_channel(1);
        let mut input = Input::from_editor(lines, prompt);
        for text in ["msg one\n\nmsg two", "status"] {
            give.send(Typed::Line(text.into())).await.unwrap();
            for expected in text.split('\n') {
                let Some(Typed::Line(line)) = input.next().await else { panic!("no line") };
                assert_eq!(line, expected.as_bytes());
            }
            // One prompt for all of them.
            assert!(prompts.try_recv().is_ok() && prompts.try_recv().is_err());
        }
    }

    #[test]
    fn lines_end_and_limits_hold_however_the_bytes_arrive() {
        for capacity in [1, 2, 3, 7, 64] {
            let got = lines(b"one\r\n\n12345678\n123456789\n\xff\nlast", capacity);
            let want = [Some(&b"one"[..]), Some(b""), Some(b"12345678"), None, Some(b"\xff"), Some(b"last")];
            assert_eq!(got, want.map(|line| line.map(<[u8]>::to_vec)), "buffer of {capacity}");
        }
    }
}
