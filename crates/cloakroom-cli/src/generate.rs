//! Output generated from the commands' definitions: shell completions and manual pages.

use std::io::Write;

use clap::CommandFactory;

use crate::arguments::{Arguments, CompletionsArgs, ManArgs};
use crate::error::{CliError, CliResult};

pub(crate) fn completions(args: &CompletionsArgs, out: &mut dyn Write) -> CliResult {
    // The generator panics when a write fails, so it writes to memory.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Arguments::command(), "cloakroom", &mut script);
    out.write_all(&script)?;
    Ok(())
}

pub(crate) fn man(args: &ManArgs, out: &mut dyn Write) -> CliResult {
    let mut command = Arguments::command();
    command.build();
    let page = match &args.command {
        None => command,
        Some(name) => match command.find_subcommand(name) {
            Some(found) => found.clone(),
            None => {
                return Err(CliError::usage(format!("there is no command {name}; see `help`")));
            }
        },
    };
    clap_mangen::Man::new(page).render(out)?;
    Ok(())
}
