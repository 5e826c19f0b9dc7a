//! A pool of slots, each for one connection, which the caller opens on its own thread. If r2d2
//! opened the connections, it would retry a failure until the timeout, and report it as a text.

use std::convert::Infallible;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

use r2d2::{ManageConnection, Pool, PooledConnection};

use crate::error::{Error, ErrorKind, Result};

/// How long to wait for r2d2 before asking it again: it wakes no waiter when it drops a slot.
const RECHECK_INTERVAL: Duration = Duration::from_millis(100);

/// A slot in use. Dropping it returns it to the pool.
pub(super) type ConnectionSlot<C> = PooledConnection<EmptySlots<C>>;

/// At most a fixed number of slots. Clones share them.
#[derive(Debug)]
pub(super) struct SlotPool<C: Send + 'static>(Pool<EmptySlots<C>>);

impl<C: Send + 'static> Clone for SlotPool<C> {
    fn clone(&self) -> Self {
        SlotPool(self.0.clone())
    }
}

impl<C: Send + 'static> SlotPool<C> {
    /// Makes a pool of at most `number` slots, and closes connections that were idle for, or open
    /// for, longer than these times.
    pub(super) fn new(
        number: u32,
        max_idle: Option<Duration>,
        max_lifetime: Option<Duration>,
    ) -> Self {
        let settings = Pool::builder().max_size(number).min_idle(Some(0));
        let settings = settings.idle_timeout(max_idle).max_lifetime(max_lifetime);
        // A check of a connection costs as much as a read.
        let slots = settings.test_on_check_out(false).build_unchecked(EmptySlots(PhantomData));
        SlotPool(slots)
    }

    /// Takes a slot that is not in use, if there is one.
    #[allow(dead_code, reason = "only the SQLite store uses it")]
    pub(super) fn try_take(&self) -> Option<ConnectionSlot<C>> {
        self.0.try_get()
    }

    /// Takes a slot, and waits for one until the deadline if all are in use.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] if none becomes free in time.
    pub(super) fn take(
        &self,
        operation: &'static str,
        deadline: Instant,
    ) -> Result<ConnectionSlot<C>> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.0.get_timeout(left.min(RECHECK_INTERVAL)) {
                Ok(slot) => return Ok(slot),
                Err(_) if left > RECHECK_INTERVAL => {}
                Err(_) => {
                    let why = format!("all {} connections are in use", self.0.max_size());
                    return Err(Error::with_source(ErrorKind::Busy, operation, why));
                }
            }
        }
    }
}

/// Makes empty slots for connections of the type `C`.
#[derive(Debug)]
pub(super) struct EmptySlots<C>(PhantomData<fn() -> C>);

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

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::thread;

    use super::*;

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(30)
    }

    #[test]
    fn an_open_connection_is_taken_before_an_empty_slot() {
        let pool = SlotPool::new(2, None, None);
        let mut open = pool.take("read", later()).unwrap();
        let empty = pool.take("read", later()).unwrap();
        *open = Some("open");
        drop(open);
        drop(empty);
        assert_eq!(*pool.take("read", later()).unwrap(), Some("open"));
    }

    #[test]
    fn a_waiter_gets_the_place_of_a_slot_returned_empty() {
        for _ in 0..5 {
            let pool = SlotPool::<()>::new(1, None, None);
            let slot = pool.take("read", later()).unwrap();
            let started = Barrier::new(2);
            thread::scope(|scope| {
                let waiter = scope.spawn(|| {
                    started.wait();
                    pool.take("read", later()).is_ok()
                });
                started.wait();
                drop(slot);
                assert!(waiter.join().unwrap());
            });
        }
    }

    #[test]
    fn a_pool_whose_slots_are_in_use_is_busy() {
        let pool = SlotPool::<()>::new(1, None, None);
        let _slot = pool.take("read", later()).unwrap();
        let busy = pool.take("read", Instant::now()).unwrap_err();
        assert_eq!((busy.kind(), busy.has_unknown_outcome()), (ErrorKind::Busy, false));
    }
}
