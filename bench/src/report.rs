//! The figures, as lines and as JSON.

use serde_json::{Value, json};

/// Which way is good.
#[derive(Clone, Copy)]
pub enum Goal {
    AtMost(f64),
    AtLeast(f64),
}

pub struct Report {
    only: Option<String>,
    figures: Vec<Value>,
}

impl Report {
    pub fn new(only: Option<String>) -> Self {
        Report { only, figures: Vec::new() }
    }

    /// Whether a ratio of this name is asked for.
    pub fn wants(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|only| name.starts_with(only.as_str()))
    }

    /// Whether all that is asked for has a name that begins like this.
    pub fn is_only(&self, family: &str) -> bool {
        self.only.as_ref().is_some_and(|only| only.starts_with(family))
    }

    /// One ratio, with what it was made from, in words.
    pub fn ratio(&mut self, name: &str, value: f64, goal: Goal, from: &str) {
        let (sign, bound) = match goal {
            Goal::AtMost(bound) => ("<=", bound),
            Goal::AtLeast(bound) => (">=", bound),
        };
        println!("ratio {name} {value:.2} goal {sign} {bound}   ({from})");
        self.figures.push(json!({
            "name": name, "value": value, "goal": format!("{sign} {bound}"), "from": from,
        }));
    }

    pub fn json(&self) -> String {
        format!("{:#}\n", Value::Array(self.figures.clone()))
    }
}
