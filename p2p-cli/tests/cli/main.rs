//! The program as it is: real processes, driven through `--json` and as people do.

mod console;
mod files;
mod start;
mod talk;
mod util;
