//! The program as it is: real processes, driven through `--json` and as people do.

#![expect(clippy::unwrap_used, reason = "helpers of tests; the line that panics says what failed")]

mod console;
mod files;
mod folders;
mod log;
mod output;
mod resume;
mod send;
mod start;
mod talk;
#[cfg(unix)]
mod terminal;
mod util;
