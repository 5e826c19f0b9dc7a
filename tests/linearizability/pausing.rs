//! A store or a cache that pauses at random before and after each call, so that operations of
//! other threads come between two calls more often.

use std::sync::Arc;

use cloakroom::Result;

use super::common::hooked::{Call, Hook, Hooked};
use super::pause::pause;

pub type Pausing<T> = Hooked<T, Pauses>;

#[derive(Debug)]
pub struct Pauses;

impl Hook for Pauses {
    fn around<R>(&self, _: Call, work: impl FnOnce() -> Result<R>) -> Result<R> {
        pause();
        let answer = work();
        pause();
        answer
    }
}

pub fn pausing<T>(inner: T) -> Pausing<T> {
    Hooked::with(Pauses, Arc::new(inner))
}
