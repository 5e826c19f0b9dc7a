//! Every store keeps the laws: bare, in a box, and shared. A new store is one line here.

use std::sync::Arc;

use crate::common::Folder;
use crate::common::memcached::shared;
use cloakroom::conformance::check;
use cloakroom::stores::cached::CachedStore;
use cloakroom::{MemoryStore, SqliteStore};

/// `name: make` checks the store that `make` makes in the folder it is given.
macro_rules! stores {
    ($($name:ident: $make:expr;)+) => {
        $(mod $name {
            use super::*;

            #[test]
            fn keeps_the_laws() {
                let (folder, make) = (Folder::in_memory(), $make);
                check(|| make(&folder)).unwrap();
            }

            #[test]
            fn keeps_the_laws_in_a_box() {
                let (folder, make) = (Folder::in_memory(), $make);
                check(|| Box::new(make(&folder))).unwrap();
            }

            #[test]
            fn keeps_the_laws_when_it_is_shared() {
                let (folder, make) = (Folder::in_memory(), $make);
                check(|| Arc::new(make(&folder))).unwrap();
            }
        })+
    };
}

stores! {
    memory: |_: &Folder| MemoryStore::new();
    sqlite: |folder: &Folder| SqliteStore::open(folder.fresh()).unwrap();
    sqlite_in_memory: |_: &Folder| SqliteStore::in_memory().unwrap();
    memcached: |_: &Folder| shared().store();
}

// Around a store that was checked above: what is passed on is the same in a box.

#[test]
fn sqlite_behind_memory_keeps_the_laws() {
    let folder = Folder::in_memory();
    let backing = || SqliteStore::open(folder.fresh()).unwrap();
    check(|| CachedStore::new(MemoryStore::new(), backing())).unwrap();
}

#[test]
fn sqlite_behind_memcached_keeps_the_laws() {
    let folder = Folder::in_memory();
    let backing = || SqliteStore::open(folder.fresh()).unwrap();
    check(|| CachedStore::new(shared().store(), backing())).unwrap();
}
