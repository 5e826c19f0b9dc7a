//! Measurement in slices of time, and medians.

use std::sync::Barrier;
use std::time::{Duration, Instant};

/// The wall time of one operation in nanoseconds, while `threads` threads each run `operation` for
/// `slice`.
pub fn per_operation<S>(
    threads: usize,
    slice: Duration,
    start: impl Fn(usize) -> S + Sync,
    operation: impl Fn(&mut S) + Sync,
) -> f64 {
    let barrier = Barrier::new(threads);
    let run = |thread: usize| {
        let mut state = start(thread);
        barrier.wait();
        let began = Instant::now();
        let mut operations = 0_u64;
        while began.elapsed() < slice {
            for _ in 0..8 {
                operation(&mut state);
            }
            operations += 8;
        }
        (operations, began.elapsed())
    };
    let results: Vec<(u64, Duration)> = if threads == 1 {
        vec![run(0)]
    } else {
        std::thread::scope(|scope| {
            let run = &run;
            let threads: Vec<_> =
                (0..threads).map(|thread| scope.spawn(move || run(thread))).collect();
            threads.into_iter().map(|thread| thread.join().expect("no thread panics")).collect()
        })
    };
    let operations: u64 = results.iter().map(|(operations, _)| operations).sum();
    let longest = results.iter().map(|(_, time)| *time).max().unwrap_or_default();
    longest.as_nanos() as f64 / operations as f64
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The median time of each of two sides that took turns (A B A B …), and of the ratios A/B.
pub struct Pairs {
    pub a: f64,
    pub b: f64,
    pub ratio: f64,
}

pub fn interleaved(rounds: usize, mut a: impl FnMut() -> f64, mut b: impl FnMut() -> f64) -> Pairs {
    // One uncounted round fills caches and opens connections.
    let _ = (a(), b());
    let pairs: Vec<(f64, f64)> = (0..rounds).map(|_| (a(), b())).collect();
    Pairs {
        a: median(pairs.iter().map(|(a, _)| *a).collect()),
        b: median(pairs.iter().map(|(_, b)| *b).collect()),
        ratio: median(pairs.iter().map(|(a, b)| a / b).collect()),
    }
}
