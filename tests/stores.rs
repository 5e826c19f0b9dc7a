//! Every store keeps the laws: bare, in a box, and shared. A new store is one line here.

#![cfg(feature = "conformance")]

use std::sync::Arc;

use cloakroom::MemoryStore;
use cloakroom::conformance::check;

/// `name: make` checks the store that `make` makes.
macro_rules! stores {
    ($($(#[$attribute:meta])* $name:ident: $make:expr;)+) => {
        $($(#[$attribute])* mod $name {
            use super::*;

            #[test]
            fn keeps_the_laws() {
                check(|| $make).unwrap();
            }

            #[test]
            fn keeps_the_laws_in_a_box() {
                check(|| Box::new($make)).unwrap();
            }

            #[test]
            fn keeps_the_laws_when_it_is_shared() {
                check(|| Arc::new($make)).unwrap();
            }
        })+
    };
}

stores! {
    memory: MemoryStore::new();
}
