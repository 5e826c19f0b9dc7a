//! Output generated from the commands' definitions: shell completions and manual pages.

use std::io::Write;

use clap::CommandFactory;

use crate::arguments::Arguments;
use crate::error::{CliError, CliResult};

pub(crate) fn completions(shell: clap_complete::Shell, out: &mut dyn Write) -> CliResult {
    // The generator panics when a write fails, so it writes to memory.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "cloakroom", &mut script);
    Ok(out.write_all(&script)?)
}

/// Prints the page of this command, or of the program.
pub(crate) fn man(command: Option<&str>, out: &mut dyn Write) -> CliResult {
    let mut program = Arguments::command();
    program.build();
    let page = match command {
        None => &program,
        Some(name) => program
            .find_subcommand(name)
            .ok_or_else(|| CliError::usage(format!("there is no command {name}; see `help`")))?,
    };
    Ok(clap_mangen::Man::new(page.clone()).render(out)?)
}
