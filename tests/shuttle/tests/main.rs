//! The code in which threads meet, on a scheduler. In each schedule it decides at every lock, wait,
//! atomic and send which thread continues.
//!
//! A schedule fails if no thread can continue, or if an assertion fails. A failure prints its seed
//! and the schedule.

#![allow(unreachable_pub, dead_code, reason = "the parts of one program, some shared")]

#[path = "../../linearizability/checker.rs"]
mod checker;
mod cleaner;
#[path = "../../common/dice.rs"]
mod dice;
#[path = "../../common/hooked.rs"]
mod hooked;
#[path = "../../linearizability/model.rs"]
mod model;
#[path = "../../linearizability/operations.rs"]
mod operations;
#[path = "../../linearizability/pausing.rs"]
mod pausing;
#[path = "../../linearizability/plan.rs"]
mod plan;
mod sessions;
mod stores;
#[path = "../../linearizability/target.rs"]
mod target;

// The library on the scheduler takes the place of the library.
extern crate cloakroom_shuttle as cloakroom;

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, Runner};

mod common {
    pub(crate) use super::{dice, hooked};
    use cloakroom::clock::Timestamp;

    pub const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);
}

mod pause {
    pub fn pause() {
        shuttle::thread::yield_now();
    }
}

/// Executes this number of random schedules, or that of `CLOAKROOM_SCHEDULES`. Half of them change
/// rarely from one thread to another, which finds faults that need few changes.
fn explore(name: &str, schedules: usize, run: impl Fn() + Send + Sync + 'static) {
    let schedules =
        common::dice::number("CLOAKROOM_SCHEDULES").map_or(schedules, |given| given as usize);
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    let seed = common::dice::number("CLOAKROOM_SEED").unwrap_or(time);
    println!("{name}: {schedules} schedules from seed {seed}");
    let began = Instant::now();
    let mut config = Config::new();
    // SQLite needs more than the default.
    config.stack_size = 1 << 20;
    let run = std::sync::Arc::new(run);
    let (again, half) = (run.clone(), schedules.div_ceil(2));
    let random = RandomScheduler::new_from_seed(seed, half);
    Runner::new(random, config.clone()).run(move || again());
    let few_changes = PctScheduler::new_from_seed(seed, 3, half);
    Runner::new(few_changes, config).run(move || run());
    println!("{name}: {schedules} schedules in {:.1?}", began.elapsed());
}
