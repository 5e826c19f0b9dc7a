//! The command `stats`: counts of sessions, and sizes.

use std::io::Write;
use std::time::Duration;

use cloakroom::clock::{Clock, SystemClock, Timestamp};
use cloakroom::list;
use cloakroom::stores::admin::{Admin, SessionCounts};
use indicatif::{HumanBytes, HumanCount};
use serde_json::{Value as Json, json};

use crate::CliContext;
use crate::arguments::StatsArgs;
use crate::database::Properties;
use crate::error::CliResult;
use crate::output::{self, Style};
use crate::signals::Interrupt;

/// The number of days with a separate line.
const DAYS: usize = 7;

pub(crate) fn stats(args: &StatsArgs, context: &CliContext, out: &mut dyn Write) -> CliResult {
    let store = &*context.database()?.open_for_reading()?;
    let Some(seconds) = args.watch else {
        let report = Report::new(store, context, context.now, args.json)?;
        return report.print(args.json, context, out);
    };
    let interrupt = Interrupt::listen()?;
    while !interrupt.is_set() {
        let report = Report::new(store, context, SystemClock.now(), args.json)?;
        if !args.json && context.style.is_terminal() {
            // Clears the screen and moves the cursor to its top.
            write!(out, "\u{1b}[2J\u{1b}[H")?;
        }
        report.print(args.json, context, out)?;
        out.flush()?;
        interrupt.wait(Duration::from_secs(u64::from(seconds)));
    }
    Ok(())
}

struct Report {
    at: Timestamp,
    table: String,
    properties: Properties,
    sessions: list::Stats,
    counts: SessionCounts,
    /// Live sessions by the day of their creation, and those of the days before.
    days: Vec<(String, u64)>,
    earlier: u64,
}

impl Report {
    fn new(store: &dyn Admin, context: &CliContext, now: Timestamp, utc: bool) -> CliResult<Self> {
        let sessions = store.session_index().stats(now)?;
        let style: Style = if utc { context.style.in_utc() } else { context.style.clone() };
        let (names, moments): (Vec<_>, Vec<_>) = style.days(now, DAYS).into_iter().unzip();
        let counts = store.counts(&moments, now)?;
        let days: Vec<_> = names.into_iter().zip(counts.created.iter().copied()).collect();
        let listed: u64 = days.iter().map(|(_, count)| count).sum();
        Ok(Report {
            at: now,
            table: store.table().to_owned(),
            properties: context.database()?.properties()?,
            sessions,
            counts,
            days,
            // Another process may have ended some in between.
            earlier: sessions.live.saturating_sub(listed),
        })
    }

    fn print(&self, json: bool, context: &CliContext, out: &mut dyn Write) -> CliResult {
        if json {
            writeln!(out, "{}", output::json(&self.to_json()))?;
            return Ok(());
        }
        let style = &context.style;
        let mut line = |name: &str, value: String| writeln!(out, "{}", style.line(9, name, &value));
        for (name, value) in &self.properties.place {
            line(name, value.clone())?;
        }
        let version = self.properties.schema.map(|version| format!(", schema version {version}"));
        let version = version.unwrap_or_default();
        line("table", format!("{}{version}", self.table))?;
        let sessions = &self.sessions;
        let list::Stats { live, expired, oldest, newest, .. } = *sessions;
        line("live", by_user(live, sessions.signed_in, sessions.anonymous()))?;
        let expired_by_user =
            by_user(expired, sessions.expired_signed_in, sessions.expired_anonymous());
        line("expired", format!("{expired_by_user}; to be swept"))?;
        if let (Some(oldest), Some(newest)) = (oldest, newest) {
            line("created", format!("from {} to {}", style.time(oldest), style.time(newest)))?;
        }
        if expired > 0 || self.sessions.live > 0 {
            let SessionCounts { average, largest, .. } = self.counts;
            let average = HumanBytes(average);
            let most = HumanBytes(largest);
            line("data", format!("{average} a session, {most} at most"))?;
        }
        for (name, value) in &self.properties.size {
            line(name, value.clone())?;
        }
        for (index, (day, count)) in self.days.iter().enumerate() {
            let name = if index == 0 { "by day" } else { "" };
            line(name, format!("{day}  {:>9}", HumanCount(*count).to_string()))?;
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
        let (place, properties) = &self.properties.json;
        json!({
            "at": output::json_time(self.at),
            "table": self.table,
            "live": self.sessions.live,
            "signed_in": self.sessions.signed_in,
            "anonymous": self.sessions.anonymous(),
            "expired": self.sessions.expired,
            "expired_signed_in": self.sessions.expired_signed_in,
            "oldest": self.sessions.oldest.map(output::json_time),
            "newest": self.sessions.newest.map(output::json_time),
            "created": { "days": days, "before": self.earlier },
            "data_bytes": {
                "average": self.counts.average,
                "largest": self.counts.largest,
            },
            (*place): properties,
        })
    }
}

/// Writes a number of sessions, and how many of them have a user.
fn by_user(all: u64, signed_in: u64, anonymous: u64) -> String {
    let [all, signed_in, anonymous] = [all, signed_in, anonymous].map(HumanCount);
    format!("{all}: {signed_in} signed in, {anonymous} anonymous")
}
