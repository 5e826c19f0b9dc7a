//! A pool of empty slots, each for one connection, which the caller opens on its own thread. If the
//! pool opened connections, it would retry a failure until the timeout, and report it as a text.
//!
//! Called by the pools of `sqlite` and `postgres`.

use std::convert::Infallible;
use std::marker::PhantomData;

use r2d2::{Builder, ManageConnection, Pool};

/// Makes empty slots for connections of the type `C`.
#[derive(Debug)]
pub(super) struct EmptySlots<C>(PhantomData<fn() -> C>);

impl<C: Send + 'static> EmptySlots<C> {
    /// Returns the settings of a pool of at most `number` slots.
    pub(super) fn pool(number: u32) -> Builder<Self> {
        Pool::builder().max_size(number).min_idle(Some(0)).test_on_check_out(false)
    }

    pub(super) const fn new() -> Self {
        EmptySlots(PhantomData)
    }
}

impl<C: Send + 'static> ManageConnection for EmptySlots<C> {
    type Connection = Option<C>;
    type Error = Infallible;

    fn connect(&self) -> Result<Option<C>, Infallible> {
        Ok(None)
    }

    fn is_valid(&self, _: &mut Option<C>) -> Result<(), Infallible> {
        Ok(())
    }

    /// Makes the pool drop a slot without a connection: it hands out the slot that was returned
    /// last, so an empty one would hide the open ones.
    fn has_broken(&self, slot: &mut Option<C>) -> bool {
        slot.is_none()
    }
}
