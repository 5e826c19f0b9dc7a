//! An r2d2 pool of slots, whose connections the callers open on their own threads. If r2d2 opened
//! them, it would retry a failure until the timeout, and report it as a text without a kind.

use std::convert::Infallible;
use std::marker::PhantomData;
use std::mem;
use std::time::{Duration, Instant};

use r2d2::{ManageConnection, Pool, PooledConnection};

use crate::error::{Error, ErrorKind, Result};

/// A pool of a fixed number of slots. Clones share them.
pub(super) type SlotPool<C> = Pool<EmptySlots<C>>;

/// Makes a pool of at most `number` slots, which closes connections that were idle for, or open
/// for, longer than these times.
pub(super) fn pool<C: Send + 'static>(
    number: u32,
    max_idle: Option<Duration>,
    max_lifetime: Option<Duration>,
) -> SlotPool<C> {
    Pool::builder()
        .max_size(number)
        .min_idle(Some(0))
        .idle_timeout(max_idle)
        .max_lifetime(max_lifetime)
        .build_unchecked(EmptySlots(PhantomData))
}

/// Takes a slot, and waits for one until the deadline if all are in use. Dropping it returns it to
/// the pool.
///
/// # Errors
/// [`ErrorKind::Busy`] if none becomes free in time.
pub(super) fn take<C: Send + 'static>(
    pool: &SlotPool<C>,
    operation: &'static str,
    deadline: Instant,
) -> Result<PooledConnection<EmptySlots<C>>> {
    let left = deadline.saturating_duration_since(Instant::now());
    let mut slot = pool.get_timeout(left).map_err(|_| {
        let why = format!("all {} connections are in use", pool.max_size());
        Error::with_source(ErrorKind::Busy, operation, why)
    })?;
    // r2d2 hands out the slot that was returned last. An empty one must not hide the open ones.
    let mut empty = Vec::new();
    while slot.is_none()
        && let Some(next) = pool.try_get()
    {
        empty.push(mem::replace(&mut slot, next));
    }
    Ok(slot)
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

    /// Checks nothing: a check before each use would cost as much as a read.
    fn is_valid(&self, _: &mut Option<C>) -> Result<(), Infallible> {
        Ok(())
    }

    /// Keeps an empty slot: r2d2 wakes no waiter when it drops one.
    fn has_broken(&self, _: &mut Option<C>) -> bool {
        false
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
        let pool = pool(2, None, None);
        let mut open = take(&pool, "read", later()).unwrap();
        let empty = take(&pool, "read", later()).unwrap();
        *open = Some("open");
        drop(open);
        drop(empty);
        assert_eq!(*take(&pool, "read", later()).unwrap(), Some("open"));
    }

    #[test]
    fn a_waiter_gets_the_place_of_a_slot_returned_empty() {
        for _ in 0..5 {
            let pool = pool::<()>(1, None, None);
            let slot = take(&pool, "read", later()).unwrap();
            let started = Barrier::new(2);
            thread::scope(|scope| {
                let waiter = scope.spawn(|| {
                    started.wait();
                    take(&pool, "read", later()).is_ok()
                });
                started.wait();
                drop(slot);
                assert!(waiter.join().unwrap());
            });
        }
    }

    #[test]
    fn a_pool_whose_slots_are_in_use_is_busy() {
        let pool = pool::<()>(1, None, None);
        let _slot = take(&pool, "read", later()).unwrap();
        let busy = take(&pool, "read", Instant::now()).unwrap_err();
        assert_eq!((busy.kind(), busy.has_unknown_outcome()), (ErrorKind::Busy, false));
    }
}
