//! The builder of a store in PostgreSQL, from a URL and the options.

use std::time::Duration;
use std::{env, fs};

use cloakroom::PostgresStore;
use cloakroom::stores::postgres::tokio_postgres::Config;
use cloakroom::stores::postgres::tokio_postgres::config::SslMode;

use crate::arguments::StoreOptions;
use crate::database::Database;
use crate::error::{CliError, CliResult};
use crate::pgpass;

/// Returns the database of the URL, with a password from elsewhere if the URL has none.
pub(crate) fn database(url: &str, options: &StoreOptions) -> CliResult<Database> {
    // A command reads and ends all sessions, over any network, and also behind a pooler.
    let mut builder = PostgresStore::builder(url)
        .connections(2)
        .connect_timeout(Duration::from_secs(10))
        .call_timeout(Duration::from_secs(60))
        .pooler(true);
    if let Some(schema) = &options.schema {
        builder = builder.schema(schema);
    }
    if let Some(table) = &options.table {
        builder = builder.table(table);
    }
    let config = url.parse::<Config>().ok();
    let encrypts = config.as_ref().is_none_or(|it| it.get_ssl_mode() != SslMode::Disable);
    if let Some(path) = options.root_certificates.as_ref().filter(|_| encrypts) {
        let pem = fs::read_to_string(path)
            .map_err(|error| CliError::usage(format!("cannot read {}: {error}", path.display())))?;
        builder = builder.root_certificates(pem);
    }
    let requires = config.as_ref().is_some_and(|it| it.get_ssl_mode() == SslMode::Require);
    if requires && options.root_certificates.is_none() {
        return Err(CliError::usage(
            "sslmode=require needs the certificates of --root-certificates (PGSSLROOTCERT)",
        ));
    }
    if let Some(config) = config
        && config.get_password().is_none()
        && let Some(password) = pgpass::password(&config, |name| env::var(name).ok())
    {
        builder = builder.password(password);
    }
    builder.validate().map_err(|error| CliError::usage(error.to_string()))?;
    Ok(Database::Postgres(Box::new(builder)))
}
