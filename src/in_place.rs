//! Sections in which a thread of an asynchronous runtime may block, as in Tokio's `block_in_place`.
//!
//! Within one, the thread may also run another runtime; outside, Tokio panics at the attempt, and
//! has no function that says which of the two holds. So the adapter for Rocket marks its sections,
//! for the PostgreSQL store.

use std::cell::Cell;

thread_local! {
    static IS_IN_PLACE: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is in such a section.
pub(crate) fn is_in_place() -> bool {
    IS_IN_PLACE.get()
}

/// Makes a call in a section in which this thread may block.
pub(crate) fn mark<T>(call: impl FnOnce() -> T) -> T {
    struct End(bool);
    impl Drop for End {
        fn drop(&mut self) {
            IS_IN_PLACE.set(self.0);
        }
    }
    let _end = End(IS_IN_PLACE.replace(true));
    call()
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

    use super::*;

    #[test]
    fn a_section_ends_with_its_call() {
        assert!(!is_in_place());
        mark(|| {
            assert!(is_in_place());
            mark(|| assert!(is_in_place()));
            assert!(is_in_place());
            assert!(!std::thread::spawn(is_in_place).join().unwrap());
        });
        assert!(!is_in_place());
        catch_unwind(|| mark(|| panic!("a call panics"))).unwrap_err();
        assert!(!is_in_place());
    }
}
