//! A store with a cache in front of it: what the cache may never say, and what becomes of requests
//! while it is down.

mod common;
#[path = "cached/endings.rs"]
mod endings;
#[path = "cached/entries.rs"]
mod entries;
#[path = "cached/outages.rs"]
mod outages;
#[path = "cached/races.rs"]
mod races;
#[path = "cached/shares.rs"]
mod shards;
#[path = "cached/stage.rs"]
mod stage;
#[path = "cached/storm.rs"]
mod storm;
