//! Short pauses at random.

use std::cell::RefCell;
use std::thread;

use cloakroom::id::{Realm, SessionId};

use super::common::dice::Dice;

pub fn pause() {
    thread_local! {
        static CHANCE: RefCell<Dice> = RefCell::new({
            let [first, second, ..] = *SessionId::generate().unwrap().hash(Realm::default().tag()).as_bytes();
            Dice::new(u64::from(first) << 8 | u64::from(second))
        });
    }
    let (kind, length) = CHANCE.with_borrow_mut(|dice| (dice.roll(8), dice.roll(400)));
    match kind {
        0..=3 => {}
        4 | 5 => (0..length / 40).for_each(|_| thread::yield_now()),
        6 => (0..length).for_each(|_| std::hint::spin_loop()),
        // As long as others take for a few operations.
        _ => (0..length * 50).for_each(|_| std::hint::spin_loop()),
    }
}
