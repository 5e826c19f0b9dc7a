//! A memcached in front of the database, which must forget what is ended here.

use clap::Args;

use crate::backend::Cache;
use crate::cli::failure::Failure;
use crate::clock::Timestamp;
use crate::error::Error;
use crate::id::SessionIdHash;
use crate::stores::memcached::MemcachedStore;

/// Which memcached, if there is one.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct InFront {
    /// The memcached servers in front of the database, as the service has them; what is ended
    /// here is forgotten there too
    #[arg(long, env = "CLOAKROOM_MEMCACHED", value_name = "HOST:PORT", value_delimiter = ',')]
    #[arg(global = true)]
    memcached: Vec<String>,
    /// The namespace that the service uses there [default: cloakroom]
    #[arg(long, value_name = "NAME", global = true)]
    namespace: Option<String>,
}

impl InFront {
    fn cache(&self) -> Result<Option<MemcachedStore>, Failure> {
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

    /// Sees whether it can be told, before anything is ended: afterwards the keys are gone, and
    /// trying again would end and tell nothing.
    pub(super) fn check(&self, now: Timestamp) -> Result<(), Failure> {
        let Some(cache) = self.cache()? else { return Ok(()) };
        // Every server may have some of what is going to be ended.
        let nobody_in = |shard| nobodys_keys().find(|key| cache.shard_of(key) == shard);
        let nobodies: Vec<_> = (0..cache.shards().get()).filter_map(nobody_in).collect();
        cache.forget(&nobodies, now).map_err(|error| {
            Failure::new(format!(
                "nothing was ended, since memcached could not be told: {error}; without \
                 --memcached it is ended in the database alone"
            ))
        })
    }

    pub(super) fn forget(&self, keys: &[SessionIdHash], now: Timestamp) -> Result<(), Failure> {
        told(self.cache()?.map_or(Ok(()), |cache| cache.forget(keys, now)))
    }

    pub(super) fn forget_everything(&self, now: Timestamp) -> Result<(), Failure> {
        let Some(cache) = self.cache()? else { return Ok(()) };
        let forgotten = (0..cache.shards().get()).map(|shard| cache.forget_shard(shard, now));
        // A server that is down keeps nothing from being told to the others.
        told(forgotten.fold(Ok(()), Result::and))
    }
}

/// Keys of no session, enough of them for every server to have one.
fn nobodys_keys() -> impl Iterator<Item = SessionIdHash> {
    (0..=u16::MAX).map(|number| {
        let mut bytes = [0; 32];
        bytes.iter_mut().zip(number.to_be_bytes()).for_each(|(place, byte)| *place = byte);
        SessionIdHash::from_bytes(bytes)
    })
}

fn told(forgotten: Result<(), Error>) -> Result<(), Failure> {
    forgotten.map_err(|error| {
        Failure::new(format!(
            "ended in the database, but memcached was not told: {error}; its entries may \
             be believed until they end, 60 seconds after they were read by default"
        ))
    })
}
