//! Calls that may block, in Tokio's `block_in_place`. Made by the blocking hook of the manager.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use rocket::tokio::runtime::{Handle, RuntimeFlavor};
use rocket::tokio::task::block_in_place;

use crate::in_place;

thread_local! {
    /// Whether this thread enters `block_in_place`, which panics if the thread must not block.
    static IS_ENTERING: Cell<bool> = const { Cell::new(false) };
}

/// Returns whether a panic of this thread only says that the thread must not block.
pub(super) fn is_entering() -> bool {
    IS_ENTERING.get()
}

/// Makes a call that may block, in `block_in_place` where Tokio allows that.
pub(super) fn run_in_place(call: &mut dyn FnMut()) {
    // An application can also use the manager on its own thread, or in a task of a `LocalSet`.
    let flavor = Handle::try_current().map(|runtime| runtime.runtime_flavor());
    if !matches!(flavor, Ok(RuntimeFlavor::MultiThread)) || !try_in_place(call) {
        call();
    }
}

/// Makes a call in `block_in_place`, and returns true. Where this thread must not block, as in a
/// task of a `LocalSet`, makes no call and returns false. Tokio has no function that says so:
/// `block_in_place` panics there before the call.
pub(super) fn try_in_place(call: &mut dyn FnMut()) -> bool {
    IS_ENTERING.set(true);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        block_in_place(|| {
            IS_ENTERING.set(false);
            in_place::mark(call);
        });
    }));
    let has_entered = !IS_ENTERING.replace(false);
    match outcome {
        Err(panic) if has_entered => resume_unwind(panic),
        _ => has_entered,
    }
}

#[cfg(test)]
mod tests {
    use rocket::tokio::runtime::{Builder, Runtime};
    use rocket::tokio::task::LocalSet;

    use super::*;

    /// Returns whether the call may run a runtime, and tries it if so.
    fn may_run_a_runtime() -> bool {
        let mut is_in_place = false;
        run_in_place(&mut || {
            is_in_place = in_place::is_in_place();
            if is_in_place {
                Builder::new_current_thread().build().unwrap().block_on(async {});
            }
        });
        is_in_place
    }

    #[test]
    fn calls_of_a_multi_threaded_runtime_may_run_another_one() {
        let runtime = Runtime::new().unwrap();
        assert!(runtime.block_on(async { may_run_a_runtime() }));
        let task = runtime.spawn(async { (may_run_a_runtime(), in_place::is_in_place()) });
        assert_eq!(runtime.block_on(task).unwrap(), (true, false));
    }

    #[test]
    fn calls_that_must_not_block_may_run_none() {
        assert!(!may_run_a_runtime());
        let single = Builder::new_current_thread().build().unwrap();
        assert!(!single.block_on(async { may_run_a_runtime() }));
        let runtime = Runtime::new().unwrap();
        assert!(!LocalSet::new().block_on(&runtime, async { may_run_a_runtime() }));
    }
}
