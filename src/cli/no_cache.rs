//! What stands for `cache` where the program knows no memcached.

use clap::Args;

use crate::cli::failure::Failure;
use crate::clock::Timestamp;
use crate::id::SessionIdHash;

/// None.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct InFront {}

impl InFront {
    pub(super) fn check(&self, _: Timestamp) -> Result<(), Failure> {
        Ok(())
    }

    pub(super) fn forget(&self, _: &[SessionIdHash], _: Timestamp) -> Result<(), Failure> {
        Ok(())
    }

    pub(super) fn forget_everything(&self, _: Timestamp) -> Result<(), Failure> {
        Ok(())
    }
}
