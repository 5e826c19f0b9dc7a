//! Compares response times, which must reveal nothing about ids and tokens.
//!
//! Ids are looked up by their hashes, so an id that is similar to an issued one must take as long
//! as any other; and a CSRF token is compared as a whole. Each pair of classes is compared by
//! Welch's t-test, after Reparaz, Balasch and Verbauwhede, "Dude, is my code constant time?"
//! (2017): the slowest tenth is left out, and |t| below 4.5 shows no difference.

use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use cloakroom::adapter::Outcome;
use cloakroom::id::SessionId;
use cloakroom::{SessionManager, SqliteStore};

use crate::workload::Random;

const SESSIONS: usize = 1000;

struct Sample {
    mean: f64,
    /// The variance of the mean.
    variance: f64,
}

impl Sample {
    fn of(mut times: Vec<f64>) -> Self {
        times.sort_by(f64::total_cmp);
        times.truncate(times.len() * 9 / 10);
        let count = times.len() as f64;
        let mean = times.iter().sum::<f64>() / count;
        let squares: f64 = times.iter().map(|time| (time - mean).powi(2)).sum();
        Sample { mean, variance: squares / (count - 1.0) / count }
    }
}

/// Times the operation for inputs of both classes, in random order.
fn compare(
    name: &str,
    (a, b): (&str, &str),
    rounds: usize,
    mut input: impl FnMut(bool) -> String,
    operation: impl Fn(&str),
) {
    let mut random = Random::new(7);
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        let class = random.next() % 2 == 1;
        let input = input(class);
        let began = Instant::now();
        operation(&input);
        times[usize::from(class)].push(began.elapsed().as_nanos() as f64);
    }
    let [a_times, b_times] = times.map(Sample::of);
    let t = (a_times.mean - b_times.mean) / (a_times.variance + b_times.variance).sqrt();
    let (a_mean, b_mean) = (a_times.mean, b_times.mean);
    println!("timing {name}: {a} {a_mean:.0} ns, {b} {b_mean:.0} ns, t = {t:.2}");
}

pub fn run(quick: bool, dir: Option<&Path>) {
    let temporary = tempfile::tempdir().expect("a temporary folder");
    let rounds = if quick { 20_000 } else { 500_000 };
    let path = dir.unwrap_or(temporary.path()).join("secrets.db");
    let store = SqliteStore::open(path).expect("it opens");
    let sessions = SessionManager::new(store).expect("it starts");
    let mut token = String::new();
    let known: Vec<String> = (0..SESSIONS)
        .map(|n| {
            let session = sessions.open(None);
            session.set("n", n).expect("it is set");
            token = session.csrf_token().expect("there is one");
            let headers = sessions.close(&session, Outcome::Completed).expect("it is stored");
            let cookie = headers.iter().find(|(name, _)| *name == "Set-Cookie").expect("a cookie");
            cookie.1.split(';').next().expect("a pair").to_owned()
        })
        .collect();
    let load = |cookie: &str| {
        let session = sessions.open(Some(cookie));
        black_box(session.get::<usize>("n").expect("it loads"));
    };
    let unknown: Vec<String> = (0..SESSIONS)
        .map(|_| format!("__Host-id={}", SessionId::generate().expect("randomness").reveal()))
        .collect();
    // Change two of the last four characters to others that are valid there.
    let near: Vec<String> = known
        .iter()
        .map(|known| {
            let (head, tail) = known.split_at(known.len() - 4);
            let other = if tail.starts_with("AA") { "BB" } else { "AA" };
            format!("{head}{other}{}", &tail[2..])
        })
        .collect();
    // Both classes make their input in the same way, so that only the look-ups differ.
    let classes = ("nothing like ours", "all but ours");
    let mut random = Random::new(3);
    let pick = |close| random.pick(if close { &near } else { &unknown }).clone();
    compare("unknown_ids", classes, rounds, pick, load);
    let mut random = Random::new(5);
    let pick = |is_known| random.pick(if is_known { &known } else { &unknown }).clone();
    compare("known_ids", ("unknown", "known"), rounds, pick, load);
    let last = known.last().expect("there are some").clone();
    let session = sessions.open(Some(last.as_str()));
    let wrong = |at: usize| {
        let mut text = token.clone();
        let other = if text.as_bytes()[at] == b'A' { "B" } else { "A" };
        text.replace_range(at..=at, other);
        text
    };
    let (early, late) = (wrong(44), wrong(80));
    compare(
        "csrf_tokens",
        ("wrong at the beginning", "wrong at the end"),
        rounds,
        |class| if class { late.clone() } else { early.clone() },
        |token| {
            let _ = black_box(session.verify_csrf(token).expect("it is read"));
        },
    );
}
