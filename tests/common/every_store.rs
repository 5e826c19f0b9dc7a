//! The application of [`app`](super::app) on each store, and behind each cache.

use std::sync::atomic::{AtomicI64, Ordering};

use cloakroom::backend::Store;
use cloakroom::clock::{Clock, Timestamp};
use cloakroom::manager::SessionManagerBuilder;
use cloakroom::stores::memory::MemoryCache;
use cloakroom::{MemoryStore, SqliteStore};

use super::app::App;
use super::cached_store;
use super::memcached::shared;
use super::{Folder, NOW};

/// Every reading is a millisecond later than the one before, as on a busy machine.
#[derive(Debug)]
struct TickingClock(AtomicI64);

impl Clock for TickingClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.fetch_add(1, Ordering::SeqCst))
    }
}

pub fn with_ticking_clock(builder: SessionManagerBuilder) -> SessionManagerBuilder {
    builder.clock(TickingClock(AtomicI64::new(NOW.as_millis())))
}

/// Runs `test` with an application on each store.
pub fn on_every_store(
    configure: impl Fn(SessionManagerBuilder) -> SessionManagerBuilder,
    test: impl Fn(App),
) {
    type Make = fn(&Folder) -> Box<dyn Store>;
    let stores: [(&str, Make); 5] = [
        ("memory", |_| Box::new(MemoryStore::new())),
        ("SQLite", |folder| Box::new(SqliteStore::open(folder.database()).unwrap())),
        ("memcached", |_| Box::new(shared().store())),
        ("memory before SQLite", |folder| {
            let backing = SqliteStore::open(folder.database()).unwrap();
            Box::new(cached_store(MemoryCache::new(), backing))
        }),
        ("memcached before SQLite", |folder| {
            let backing = SqliteStore::open(folder.database()).unwrap();
            Box::new(cached_store(shared().store(), backing))
        }),
    ];
    for (name, make) in stores {
        eprintln!("on {name}");
        let folder = Folder::in_memory();
        test(App::on(make(&folder), folder, &configure));
    }
}
