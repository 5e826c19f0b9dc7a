//! Unencrypted connections, for builds without the feature `postgres-rustls`.

use crate::error::{Error, ErrorKind, Result};

pub(super) use tokio_postgres::NoTls as TlsConnector;

/// Refuses root certificates, which only an encrypted connection needs.
pub(super) fn connector(root_certificates: Option<&str>) -> Result<TlsConnector> {
    match root_certificates {
        None => Ok(TlsConnector),
        Some(_) => {
            let why = "encryption needs the feature postgres-rustls";
            Err(Error::with_source(ErrorKind::Invalid, "open the store", why))
        }
    }
}
