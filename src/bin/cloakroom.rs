//! The operator's program. Everything it does is in `cloakroom::cli`.

use std::process::ExitCode;

use cloakroom::cli::{self, Target};

fn main() -> ExitCode {
    cli::run(std::env::args_os(), Target::Arguments)
}
