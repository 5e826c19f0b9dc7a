//! The command `stats`: counts of sessions, and sizes.

use std::io::Write;
use std::time::Duration;

use cloakroom::clock::{Clock, SystemClock, Timestamp};
use cloakroom::list;
use cloakroom::stores::admin::{Admin, SessionCounts};
#[cfg(feature = "postgres")]
use cloakroom::stores::postgres::DatabaseServer;
use cloakroom::stores::sqlite::DatabaseInfo;
use indicatif::{HumanBytes, HumanCount};
use serde_json::{Value as Json, json};

use crate::CliContext;
use crate::arguments::StatsArgs;
use crate::database::Database;
use crate::error::CliResult;
use crate::output::{self, Style};
use crate::signals::Interrupt;

/// The number of days with a separate line.
const DAYS: usize = 7;

pub(crate) fn stats(args: &StatsArgs, context: &CliContext, out: &mut dyn Write) -> CliResult {
    let store = &*context.database()?.open_for_reading()?;
    let style = if args.json { &context.style.in_utc() } else { &context.style };
    let Some(seconds) = args.watch else {
        return Report::new(store, context, style, context.now)?.print(args.json, style, out);
    };
    let interrupt = Interrupt::listen()?;
    while !interrupt.is_set() {
        let report = Report::new(store, context, style, SystemClock.now())?;
        if !args.json && style.is_terminal() {
            // Clears the screen and moves the cursor to its top.
            write!(out, "\u{1b}[2J\u{1b}[H")?;
        }
        report.print(args.json, style, out)?;
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
    fn new(
        store: &dyn Admin,
        context: &CliContext,
        style: &Style,
        now: Timestamp,
    ) -> CliResult<Self> {
        let sessions = store.session_index().stats(now)?;
        let (names, moments): (Vec<_>, Vec<_>) = style.days(now, DAYS).into_iter().unzip();
        let counts = store.counts(&moments, now)?;
        let days: Vec<_> = names.into_iter().zip(counts.created.iter().copied()).collect();
        let listed: u64 = days.iter().map(|(_, count)| count).sum();
        Ok(Report {
            at: now,
            table: store.table().to_owned(),
            properties: Properties::of(context.database()?)?,
            sessions,
            counts,
            days,
            // Another process may have ended some in between.
            earlier: sessions.live.saturating_sub(listed),
        })
    }

    fn print(&self, json: bool, style: &Style, out: &mut dyn Write) -> CliResult {
        if json {
            writeln!(out, "{}", output::json(&self.to_json()))?;
            return Ok(());
        }
        let mut line = |name: &str, value: String| writeln!(out, "{}", style.line(9, name, &value));
        for (name, value) in &self.properties.names {
            line(name, value.clone())?;
        }
        let version = self.properties.schema.map(|version| format!(", schema version {version}"));
        line("table", self.table.clone() + &version.unwrap_or_default())?;
        let all = &self.sessions;
        line("live", by_user(all.live, all.signed_in, all.anonymous()))?;
        let expired = by_user(all.expired, all.expired_signed_in, all.expired_anonymous());
        line("expired", format!("{expired}; to be swept"))?;
        if let (Some(oldest), Some(newest)) = (all.oldest, all.newest) {
            line("created", format!("from {} to {}", style.time(oldest), style.time(newest)))?;
        }
        if all.expired > 0 || all.live > 0 {
            let [average, largest] = [self.counts.average, self.counts.largest].map(HumanBytes);
            line("data", format!("{average} a session, {largest} at most"))?;
        }
        for (name, value) in &self.properties.sizes {
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
        let (database, properties) = &self.properties.json;
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
            (*database): properties,
        })
    }
}

/// What is printed of the database beside its sessions.
#[derive(Default)]
struct Properties {
    /// The lines before those on sessions.
    names: Vec<(&'static str, String)>,
    /// The lines after those on sessions.
    sizes: Vec<(&'static str, String)>,
    /// The schema version of the tables, if it is known.
    schema: Option<u32>,
    /// Its name and value in JSON.
    json: (&'static str, Json),
}

impl Properties {
    fn of(database: &Database) -> CliResult<Self> {
        match database {
            Database::Sqlite(_) => Ok(match database.file_info()? {
                Some(info) => Properties::of_file(&info),
                None => Properties { json: ("file", Json::Null), ..Properties::default() },
            }),
            #[cfg(feature = "postgres")]
            Database::Postgres(builder) => Ok(Properties::of_server(&builder.inspect()?)),
        }
    }

    fn of_file(info: &DatabaseInfo) -> Self {
        let free = HumanBytes(info.free_pages.saturating_mul(info.page_size));
        let bytes = HumanBytes(info.bytes);
        let log = HumanBytes(info.log_bytes);
        let schema = info.schema.as_ref().ok().copied();
        let path = info.path.display().to_string();
        let json = json!({
            "path": path,
            "bytes": info.bytes,
            "log_bytes": info.log_bytes,
            "page_size": info.page_size,
            "pages": info.pages,
            "free_pages": info.free_pages,
            "journal": info.journal,
            "schema": schema,
            "other_tables": info.other_tables,
        });
        Properties {
            names: vec![("file", path)],
            sizes: vec![
                ("size", format!("{bytes}, {free} of it free; log {log}")),
                ("journal", info.journal.clone()),
            ],
            schema,
            json: ("file", json),
        }
    }

    #[cfg(feature = "postgres")]
    fn of_server(info: &DatabaseServer) -> Self {
        let schema = info.schema_version.as_ref().ok().copied();
        let json = json!({
            "name": info.server,
            "version": info.version,
            "schema": schema,
            "schema_name": info.schema,
            "bytes": info.bytes,
            "dead_rows": info.dead_rows,
        });
        Properties {
            names: vec![
                ("server", format!("{}, PostgreSQL {}", info.server, info.version)),
                ("schema", info.schema.clone()),
            ],
            sizes: vec![("size", format!("{}, with indexes", HumanBytes(info.bytes)))],
            schema,
            json: ("server", json),
        }
    }
}

/// Writes a number of sessions, and how many of them have a user.
fn by_user(all: u64, signed_in: u64, anonymous: u64) -> String {
    let [all, signed_in, anonymous] = [all, signed_in, anonymous].map(HumanCount);
    format!("{all}: {signed_in} signed in, {anonymous} anonymous")
}
