//! What is printed for the shell and the manual, without a node.

use std::io::{ErrorKind, Write as _};

use clap_complete::Shell;

use crate::failure::Failure;

/// Completions for a shell, on standard output.
pub(crate) fn completions(shell: Shell, command: &mut clap::Command) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, command, "p2p", &mut script);
    write(&script)
}

/// The manual page, on standard output.
pub(crate) fn man(command: clap::Command) -> Result<(), Failure> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command)
        .render(&mut page)
        .map_err(|source| Failure::failed("man", format!("the manual page can't be made: {source}")))?;
    write(&page)
}

fn write(text: &[u8]) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text).and_then(|()| stdout.flush()) {
        // Whoever reads wants no more: `p2p man | head`.
        Err(source) if source.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::failed("output", format!("standard output: {source}")))
        }
        _ => Ok(()),
    }
}
