//! The pictures of docs/performance.md and the tables of figures in docs and bench/README.md, from
//! the figures in `bench/figures`.

mod pages;
mod pictures;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// A file, and the text that it should have.
type Wanted = (PathBuf, String);

/// Writes all pictures and tables from `bench/figures`. With `check` it panics instead if a file is
/// outdated.
pub fn run(check: bool) {
    let bench = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = bench.join("../docs");
    let runs = Runs::read(&bench.join("figures"));
    for (path, text) in pictures::draw(&runs, &docs).into_iter().chain(pages::fill(&runs, &docs)) {
        if check {
            let is_current = fs::read_to_string(&path).is_ok_and(|current| current == text);
            assert!(is_current, "{} is outdated: run the command `chart`", path.display());
        } else {
            fs::write(&path, text).expect("the file");
        }
    }
}

/// The figures: one run of each command.
struct Runs {
    limit: Run,
    peers: Run,
    scale: Run,
    http: Run,
    memcached: Run,
    postgres: Run,
    contention: Run,
}

impl Runs {
    fn read(folder: &Path) -> Self {
        let run = |name: &str| {
            let path = folder.join(name);
            let text = fs::read_to_string(&path);
            let text = text.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            Run(serde_json::from_str(&text).expect("JSON"))
        };
        Runs {
            limit: run("limit.json"),
            peers: run("peers.json"),
            scale: run("scale.json"),
            http: run("http.json"),
            memcached: run("memcached.json"),
            postgres: run("postgres.json"),
            contention: run("contention.json"),
        }
    }
}

/// One run of one command.
struct Run(Value);

impl Run {
    fn figures(&self) -> &[Value] {
        self.0["figures"].as_array().expect("figures")
    }

    fn figure(&self, name: &str) -> &Value {
        let found = self.figures().iter().find(|figure| figure["name"] == name);
        found.unwrap_or_else(|| panic!("no figure `{name}`"))
    }

    fn value(&self, name: &str) -> f64 {
        self.figure(name)["value"].as_f64().expect("a number")
    }

    /// Returns whether a figure is a ratio of two sides.
    fn is_ratio(&self, name: &str) -> bool {
        self.figure(name)["microseconds"].is_object()
    }

    /// The figure's goal: whether it is an upper bound, and the bound.
    fn goal(&self, name: &str) -> (bool, f64) {
        let goal = self.figure(name)["goal"].as_str().expect("a goal");
        let (sign, bound) = goal.split_once(' ').expect("a sign and a bound");
        (sign == "<=", bound.parse().expect("a number"))
    }

    /// The ratio of times, even if the goal is about throughput.
    fn time_ratio(&self, name: &str) -> f64 {
        match self.goal(name) {
            (true, _) => self.value(name),
            (false, _) => 1.0 / self.value(name),
        }
    }

    /// The fastest of the other sides, with its microseconds.
    fn best_other(&self, name: &str) -> (&str, f64) {
        let sides = self.figure(name)["microseconds"].as_object().expect("sides");
        let others = sides.iter().filter(|(side, _)| *side != "cloakroom");
        let others = others.map(|(side, time)| (side.as_str(), time.as_f64().expect("a time")));
        others.min_by(|a, b| a.1.total_cmp(&b.1)).expect("another side")
    }

    /// The microseconds of one of the sides.
    fn side(&self, name: &str, side: &str) -> f64 {
        let time = self.figure(name)["microseconds"][side].as_f64();
        time.unwrap_or_else(|| panic!("no `{side}` in `{name}`"))
    }

    /// The microseconds of one operation: of a ratio, or of one label of a series.
    fn operation(&self, name: &str) -> f64 {
        let Some((name, label)) = name.split_once(": ") else {
            return self.side(name, "cloakroom");
        };
        let value = self.point(name, label);
        match self.figure(name)["unit"].as_str() {
            Some("rows a second") => 1e6 / value,
            _ => value,
        }
    }

    fn point(&self, name: &str, label: &str) -> f64 {
        let value = self.figure(name)["points"][label].as_f64();
        value.unwrap_or_else(|| panic!("no `{label}` in `{name}`"))
    }

    /// A value for each number of sessions, in ascending order.
    fn points(&self, name: &str) -> Vec<(f64, f64)> {
        let points = self.figures().iter().filter(|figure| figure["name"] == name);
        let points = points.filter_map(|figure| figure["points"].as_object()).flatten();
        let mut points: Vec<(f64, f64)> = points
            .map(|(size, value)| {
                (size.parse().expect("sessions"), value.as_f64().expect("a number"))
            })
            .collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        points
    }
}
