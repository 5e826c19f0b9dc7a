//! Every store passes the conformance suite. A new store is one line here.

use std::sync::Arc;

use crate::common::memcached::shared;
use crate::common::{Folder, cached_store, postgres};
use cloakroom::conformance::check;
use cloakroom::stores::memory::MemoryCache;
use cloakroom::{MemoryStore, SqliteStore};

/// `name: make` checks the store that `make` makes, with a path for its file.
macro_rules! stores {
    ($($name:ident: $make:expr;)+) => {
        $(#[test]
        fn $name() {
            let folder = Folder::in_memory();
            let make = $make;
            check(|| make(folder.fresh())).unwrap();
        })+
    };
}

stores! {
    memory: |_| MemoryStore::new();
    memory_in_a_box: |_| Box::new(MemoryStore::new());
    memory_in_an_arc: |_| Arc::new(MemoryStore::new());
    sqlite: |path| SqliteStore::open(path).unwrap();
    sqlite_in_memory: |_| SqliteStore::in_memory().unwrap();
    memcached: |_| shared().store();
    postgres: |_| postgres::shared().store();
    sqlite_behind_memory: |path| {
        cached_store(MemoryCache::new(), SqliteStore::open(path).unwrap())
    };
    sqlite_behind_memcached: |path| {
        cached_store(shared().store(), SqliteStore::open(path).unwrap())
    };
}
