//! PostgreSQL without the feature `postgres`: says how to get a program with it.

use crate::arguments::StoreOptions;
use crate::error::{CliError, CliResult};
use crate::location::Location;

pub(crate) fn location(_: &str, _: &StoreOptions) -> CliResult<Location> {
    Err(CliError::usage(
        "this program was built without PostgreSQL; `cargo install cloakroom-cli --features \
         postgres-rustls` builds one with it (`postgres` leaves out encryption)",
    ))
}
