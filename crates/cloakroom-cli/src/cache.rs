//! A memcached in front of the database, whose entries of ended sessions are invalidated.

use clap::Args;
use cloakroom::Error;
use cloakroom::backend::Cache;
use cloakroom::clock::Timestamp;
use cloakroom::id::SessionIdHash;
use cloakroom::stores::memcached::MemcachedStore;

use crate::error::{CliError, CliResult};

/// The arguments that name the cache, if there is one.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct MemcachedArgs {
    /// The memcached servers in front of the database, as the service has them; entries of
    /// sessions that a command ends are invalidated there
    #[arg(long, env = "CLOAKROOM_MEMCACHED", value_name = "HOST:PORT", value_delimiter = ',')]
    #[arg(global = true)]
    memcached: Vec<String>,
    /// The namespace that the service uses there [default: cloakroom]
    #[arg(long, value_name = "NAME", global = true)]
    namespace: Option<String>,
}

impl MemcachedArgs {
    fn open(&self) -> CliResult<Option<MemcachedStore>> {
        if self.memcached.is_empty() {
            return Ok(None);
        }
        let builder = MemcachedStore::builder().servers(self.memcached.iter().map(String::as_str));
        let builder = match &self.namespace {
            Some(namespace) => builder.namespace(namespace),
            None => builder,
        };
        Ok(Some(builder.open()?))
    }

    /// Fails unless every server can be written, before a command ends anything: afterwards the
    /// ids are gone from the database, and a second attempt would invalidate nothing.
    pub(crate) fn check(&self, now: Timestamp) -> CliResult {
        let Some(cache) = self.open()? else { return Ok(()) };
        let unused_in = |shard| unused_ids().find(|id_hash| cache.shard_of(id_hash) == shard);
        let unused: Vec<_> = (0..cache.shards().get()).filter_map(unused_in).collect();
        cache.forget(&unused, now).map_err(|error| {
            CliError::new(format!(
                "nothing was ended, since memcached cannot be invalidated: {error}; without \
                 --memcached only the database is changed"
            ))
        })
    }

    pub(crate) fn invalidate(&self, id_hashes: &[SessionIdHash], now: Timestamp) -> CliResult {
        invalidated(self.open()?.map_or(Ok(()), |cache| cache.forget(id_hashes, now)))
    }

    pub(crate) fn invalidate_all(&self, now: Timestamp) -> CliResult {
        let Some(cache) = self.open()? else { return Ok(()) };
        // The others are invalidated although one is down.
        let results = (0..cache.shards().get()).map(|shard| cache.forget_shard(shard, now));
        invalidated(results.fold(Ok(()), Result::and))
    }
}

/// Returns hashes that belong to no session, enough of them that every server has one.
fn unused_ids() -> impl Iterator<Item = SessionIdHash> {
    (0..=u16::MAX).map(|number| {
        let mut bytes = [0; 32];
        bytes.iter_mut().zip(number.to_be_bytes()).for_each(|(place, byte)| *place = byte);
        SessionIdHash::from_bytes(bytes)
    })
}

fn invalidated(result: Result<(), Error>) -> CliResult {
    result.map_err(|error| {
        CliError::new(format!(
            "ended in the database, but memcached was not invalidated: {error}; its entries may \
             be used until they expire, 60 seconds after they were read by default"
        ))
    })
}
