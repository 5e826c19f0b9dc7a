//! An r2d2 pool of slots, whose connections the callers open on their own threads. If r2d2 opened
//! them, it would retry a failure until the timeout, and report it as a text without a kind. Its
//! check of a connection before each use is off too, because it would cost as much as a read.

use std::convert::Infallible;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

use r2d2::{ManageConnection, Pool, PooledConnection};

use crate::error::{Error, ErrorKind, Result};

/// How long to wait for r2d2 before asking it again: it wakes no waiter when it drops a slot.
const RECHECK_INTERVAL: Duration = Duration::from_millis(100);

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
        .test_on_check_out(false)
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
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match pool.get_timeout(left.min(RECHECK_INTERVAL)) {
            Ok(slot) => return Ok(slot),
            Err(_) if left > RECHECK_INTERVAL => {}
            Err(_) => {
                let why = format!("all {} connections are in use", pool.max_size());
                return Err(Error::with_source(ErrorKind::Busy, operation, why));
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

    /// Makes r2d2 drop a slot without a connection: it hands out the slot that was returned last,
    /// so an empty one would hide the open ones.
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
