//! Takes the place of `cache` without the feature `memcached`.

use clap::Args;
use cloakroom::clock::Timestamp;
use cloakroom::id::SessionIdHash;

use crate::failure::Outcome;

/// No cache, and no arguments for one.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct CacheArgs {}

impl CacheArgs {
    pub(crate) fn check(&self, _: Timestamp) -> Outcome {
        Ok(())
    }

    pub(crate) fn invalidate(&self, _: &[SessionIdHash], _: Timestamp) -> Outcome {
        Ok(())
    }

    pub(crate) fn invalidate_all(&self, _: Timestamp) -> Outcome {
        Ok(())
    }
}
