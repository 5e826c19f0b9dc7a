//! The substitute for `cache` without the feature `memcached`.

use clap::Args;
use cloakroom::clock::Timestamp;
use cloakroom::id::SessionIdHash;

use crate::error::CliResult;

/// No arguments: there is no cache.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct NoCacheArgs {}

impl NoCacheArgs {
    pub(crate) fn check(&self, _: Timestamp) -> CliResult {
        Ok(())
    }

    pub(crate) fn invalidate(&self, _: &[SessionIdHash], _: Timestamp) -> CliResult {
        Ok(())
    }

    pub(crate) fn invalidate_all(&self, _: Timestamp) -> CliResult {
        Ok(())
    }
}
