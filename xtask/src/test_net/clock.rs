//! Wall clocks that are wrong: libfaketime between a program and the system.

use std::path::PathBuf;
use std::process::Command;
use std::{env, fs};

/// How wrong a clock is.
pub(crate) const YEARS: i32 = 10;

/// Where Debian and others put the library; the star is the machine's name.
const FOLDERS: [&str; 3] = ["/usr/lib/*/faketime", "/usr/lib/faketime", "/usr/lib64/faketime"];

/// The variant for programs with several threads, if it is installed (Debian: faketime).
pub(crate) fn library() -> Option<PathBuf> {
    let mut folders = Vec::new();
    for folder in FOLDERS {
        match folder.split_once('*') {
            Some((before, after)) => folders.extend(
                fs::read_dir(before)
                    .into_iter()
                    .flatten()
                    .flatten()
                    .map(|entry| entry.path().join(after.trim_start_matches('/'))),
            ),
            None => folders.push(PathBuf::from(folder)),
        }
    }
    folders.into_iter().map(|folder| folder.join("libfaketimeMT.so.1")).find(|path| path.is_file())
}

/// Moves the wall clock of what `command` starts by so many years. The clock that only counts on stays right, as it
/// does where a person sets the time.
pub(crate) fn shift(command: &mut Command, years: i32) {
    let Some(library) = library().filter(|_| years != 0) else { return };
    let mut preload = library.into_os_string();
    if let Some(more) = env::var_os("LD_PRELOAD") {
        preload.push(":");
        preload.push(more);
    }
    command.env("LD_PRELOAD", preload).env("FAKETIME", format!("{:+}d", years * 365));
    command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("DONT_FAKE_MONOTONIC", "1");
}
