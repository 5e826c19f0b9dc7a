//! The program `cloakroom`.

use std::process::ExitCode;

use cloakroom_cli::Target;

fn main() -> ExitCode {
    cloakroom_cli::run(std::env::args_os(), Target::Arguments)
}
