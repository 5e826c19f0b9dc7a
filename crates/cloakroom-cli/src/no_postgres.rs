//! PostgreSQL without the feature `postgres`: says how to get a program with it.

use crate::arguments::StoreOptions;
use crate::database::Database;
use crate::error::{CliError, CliResult};

pub(crate) fn database(_: &str, _: &StoreOptions) -> CliResult<Database> {
    Err(CliError::usage(
        "this program was built without PostgreSQL; `cargo install cloakroom-cli --features \
         postgres-rustls` builds one with it (`postgres` leaves out encryption)",
    ))
}
