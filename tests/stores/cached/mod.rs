//! A store with a cache in front of it: what the cache may never say, and what becomes of requests
//! while it is down.

mod endings;
mod entries;
mod fixture;
mod outages;
mod races;
mod random_outages;
mod shards;
