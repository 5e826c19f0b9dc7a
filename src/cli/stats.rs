//! How many sessions, and how large.

use std::io::Write;
use std::time::Duration;

use indicatif::{HumanBytes, HumanCount};
use serde_json::{Value as Json, json};

use crate::backend::Store;
use crate::cli::Context;
use crate::cli::arguments::Stats;
use crate::cli::failure::{Done, Failure};
use crate::cli::interrupt::Interrupt;
use crate::cli::output::{self, Colour, Style, one_line};
use crate::clock::{Clock, SystemClock, Timestamp};
use crate::record;
use crate::stores::sqlite::{DataSizes, DatabaseInfo, SqliteStore};

/// The days that are shown one by one.
const DAYS: usize = 7;

pub(super) fn stats(args: &Stats, context: &Context, out: &mut dyn Write) -> Result<Done, Failure> {
    let store = context.place.store_to_read()?;
    let Some(seconds) = args.watch else {
        let counted = Counted::now(&store, context, context.now, args.json)?;
        counted.print(args.json, context, out)?;
        return Ok(Done::Well);
    };
    let interrupt = Interrupt::listen()?;
    while !interrupt.is_asked() {
        let counted = Counted::now(&store, context, SystemClock.now(), args.json)?;
        if !args.json && context.style.is_terminal() {
            // Clears the screen and begins at its top.
            write!(out, "\u{1b}[2J\u{1b}[H")?;
        }
        counted.print(args.json, context, out)?;
        out.flush()?;
        interrupt.wait(Duration::from_secs(u64::from(seconds)));
    }
    Ok(Done::Well)
}

struct Counted {
    at: Timestamp,
    table: String,
    facts: Option<DatabaseInfo>,
    sessions: record::Stats,
    sizes: DataSizes,
    /// Live sessions by the day they were begun, and those of the days before.
    days: Vec<(String, u64)>,
    earlier: u64,
}

impl Counted {
    fn now(
        store: &SqliteStore,
        context: &Context,
        now: Timestamp,
        utc: bool,
    ) -> Result<Self, Failure> {
        let Some(index) = store.index() else {
            return Err(Failure::new("this store cannot count its sessions"));
        };
        let sessions = index.stats(now)?;
        let style: Style = if utc { context.style.in_utc() } else { context.style.clone() };
        let (names, moments): (Vec<_>, Vec<_>) = style.days(now, DAYS).into_iter().unzip();
        let counts = store.count_created_since(&moments, now)?;
        let days: Vec<_> = names.into_iter().zip(counts).collect();
        let listed: u64 = days.iter().map(|(_, count)| count).sum();
        Ok(Counted {
            at: now,
            table: store.table().to_owned(),
            facts: store.facts()?,
            sessions,
            sizes: store.sizes()?,
            days,
            // Others may have ended some in between.
            earlier: sessions.live.saturating_sub(listed),
        })
    }

    fn print(&self, json: bool, context: &Context, out: &mut dyn Write) -> Result<(), Failure> {
        if json {
            writeln!(out, "{}", output::json(&self.to_json()))?;
            return Ok(());
        }
        let style = &context.style;
        let mut line = |name: &str, words: String| {
            writeln!(
                out,
                "{} {}",
                style.paint(Colour::Bold, &format!("{name:<9}")),
                one_line(&words)
            )
        };
        if let Some(facts) = &self.facts {
            line("file", facts.path.display().to_string())?;
        }
        let version = match self.facts.as_ref().map(|facts| &facts.schema) {
            Some(Ok(version)) => format!(", schema version {version}"),
            _ => String::new(),
        };
        line("table", format!("{}{version}", self.table))?;
        let record::Stats { live, expired, signed_in, oldest, newest, .. } = self.sessions;
        let (live, signed_in) = (HumanCount(live), HumanCount(signed_in));
        line("live", format!("{live}, {signed_in} of them signed in"))?;
        line("expired", format!("{}, to be swept", HumanCount(expired)))?;
        if let (Some(oldest), Some(newest)) = (oldest, newest) {
            line("begun", format!("from {} to {}", style.time(oldest), style.time(newest)))?;
        }
        if expired > 0 || self.sessions.live > 0 {
            let DataSizes { sampled, average, largest, .. } = self.sizes;
            let average = HumanBytes(average);
            let largest = HumanBytes(largest);
            line(
                "data",
                format!("{average} a session, {largest} at most, by a sample of {sampled}"),
            )?;
        }
        if let Some(facts) = &self.facts {
            let free = HumanBytes(facts.free_pages.saturating_mul(facts.page_size));
            let (bytes, log) = (HumanBytes(facts.bytes), HumanBytes(facts.log_bytes));
            line("size", format!("{bytes}, {free} of it free; log {log}"))?;
            line("journal", facts.journal.clone())?;
        }
        for (day, count) in &self.days {
            line(
                if Some(day) == self.days.first().map(|(day, _)| day) { "by day" } else { "" },
                format!("{day}  {:>9}", HumanCount(*count).to_string()),
            )?;
        }
        if !self.days.is_empty() {
            line("", format!("before      {:>9}", HumanCount(self.earlier).to_string()))?;
        }
        Ok(())
    }

    fn to_json(&self) -> Json {
        let days: Vec<_> = self
            .days
            .iter()
            .map(|(day, sessions)| json!({ "day": day, "sessions": sessions }))
            .collect();
        json!({
            "at": output::json_time(self.at),
            "table": self.table,
            "live": self.sessions.live,
            "signed_in": self.sessions.signed_in,
            "expired": self.sessions.expired,
            "oldest": self.sessions.oldest.map(output::json_time),
            "newest": self.sessions.newest.map(output::json_time),
            "begun": { "days": days, "before": self.earlier },
            "data_bytes": {
                "sampled": self.sizes.sampled,
                "average": self.sizes.average,
                "largest": self.sizes.largest,
            },
            "file": self.facts.as_ref().map(facts_json),
        })
    }
}

pub(super) fn facts_json(facts: &DatabaseInfo) -> Json {
    json!({
        "path": facts.path.display().to_string(),
        "bytes": facts.bytes,
        "log_bytes": facts.log_bytes,
        "page_size": facts.page_size,
        "pages": facts.pages,
        "free_pages": facts.free_pages,
        "journal": facts.journal,
        "schema": facts.schema.as_ref().ok(),
        "other_tables": facts.other_tables,
    })
}
