//! The figures, as lines and as JSON.

use std::path::Path;

use serde_json::{Map, Value, json};

/// The goal of a figure: an upper or a lower bound.
#[derive(Clone, Copy)]
pub enum Goal {
    AtMost(f64),
    AtLeast(f64),
}

impl Goal {
    fn text(self) -> String {
        match self {
            Goal::AtMost(bound) => format!("<= {bound}"),
            Goal::AtLeast(bound) => format!(">= {bound}"),
        }
    }
}

pub struct Report {
    only: Option<String>,
    figures: Vec<Value>,
    began: Option<Used>,
}

/// The processor time used so far, in the clock ticks of the system.
#[derive(Clone, Copy)]
struct Used {
    all: f64,
    busy: f64,
    /// The time of this process, and of its child processes that have ended.
    ours: f64,
}

impl Used {
    /// `None` where the system does not report it (not Linux).
    fn now() -> Option<Used> {
        let numbers = |text: &str| -> Vec<f64> {
            text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
        };
        let stat = std::fs::read_to_string("/proc/stat").ok()?;
        let all = numbers(stat.lines().next()?);
        let own = std::fs::read_to_string("/proc/self/stat").ok()?;
        // The fields after the program's name, which may contain blanks, and the state.
        let own = numbers(own.rsplit_once(')')?.1);
        let idle = all.get(3..5)?.iter().sum::<f64>();
        // The last two of the ten fields are contained in the first two.
        let sum: f64 = all.get(..8)?.iter().sum();
        Some(Used { all: sum, busy: sum - idle, ours: own.get(10..14)?.iter().sum() })
    }
}

impl Report {
    pub fn new(only: Option<String>) -> Self {
        Report { only, figures: Vec::new(), began: Used::now() }
    }

    /// True if the command line selects the ratio `name`.
    pub fn wants(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|only| name.starts_with(only.as_str()))
    }

    /// True if the command line selects only names that begin with `family`.
    pub fn is_only(&self, family: &str) -> bool {
        self.only.as_ref().is_some_and(|only| only.starts_with(family))
    }

    /// Adds one ratio, with the two or more sides in microseconds: `cloakroom`, and the others.
    pub fn ratio(&mut self, name: &str, value: f64, goal: Goal, sides: &[(&str, f64)]) {
        let goal = goal.text();
        let times: Vec<String> =
            sides.iter().map(|(side, time)| format!("{side} {time:.2} µs")).collect();
        println!("ratio {name} {value:.2} goal {goal}   ({})", times.join(", "));
        self.figures.push(json!({
            "name": name, "value": rounded(value), "goal": goal, "microseconds": points(sides),
        }));
    }

    /// Adds a measurement with a goal that is no ratio of two sides.
    pub fn amount(&mut self, name: &str, value: f64, unit: &str, goal: Goal) {
        let goal = goal.text();
        println!("amount {name} {value:.2} {unit} goal {goal}");
        let value = rounded(value);
        self.figures.push(json!({ "name": name, "value": value, "unit": unit, "goal": goal }));
    }

    /// Adds a measurement without a goal: a value for each of several labels.
    pub fn series(&mut self, name: &str, unit: &str, points_of: &[(&str, f64)]) {
        let line: Vec<String> =
            points_of.iter().map(|(what, value)| format!("{what} {}", rounded(*value))).collect();
        println!("series {name} in {unit}: {}", line.join(", "));
        self.figures.push(json!({ "name": name, "unit": unit, "points": points(points_of) }));
    }

    /// The share of the machine that other programs used meanwhile, in percent. If it is large, the
    /// figures are unreliable.
    pub fn others(&self) -> Option<f64> {
        if self.figures.is_empty() {
            return None;
        }
        let (began, now) = (self.began?, Used::now()?);
        let others = (now.busy - began.busy) - (now.ours - began.ours);
        Some((100.0 * others / (now.all - began.all)).round().max(0.0))
    }

    /// Writes the figures, with the command that made them.
    pub fn write(&self, path: &Path) -> std::io::Result<()> {
        let words: Vec<String> = std::env::args().skip(1).collect();
        // The paths of the figures and the databases do not affect the figures.
        let mut command = Vec::new();
        let mut words = words.iter().map(String::as_str);
        while let Some(word) = words.next() {
            match word {
                "--json" | "--dir" => drop(words.next()),
                word => command.push(word),
            }
        }
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        // A day of UTC, from the system's program.
        let date = std::process::Command::new("date").args(["-u", "+%F"]).output()?.stdout;
        let date = String::from_utf8_lossy(&date);
        let run = json!({
            "command": command.join(" "), "date": date.trim_end(), "cores": cores, "others_percent": self.others(),
            "figures": self.figures,
        });
        std::fs::write(path, format!("{run:#}\n"))
    }
}

/// Rounds to four digits, because further ones change with every run.
fn rounded(value: f64) -> f64 {
    format!("{value:.3e}").parse().unwrap_or(value)
}

fn points(sides: &[(&str, f64)]) -> Value {
    let map: Map<String, Value> =
        sides.iter().map(|(what, value)| ((*what).to_owned(), rounded(*value).into())).collect();
    Value::Object(map)
}
