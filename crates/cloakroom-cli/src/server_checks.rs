//! The checks of `doctor` on a PostgreSQL server.

use cloakroom::stores::postgres::DatabaseServer;
use indicatif::{HumanBytes, HumanCount};

use crate::doctor::Examination;

/// The largest difference to the server's clock that is no problem. A machine that is further ahead
/// does not sweep.
const MAX_CLOCK_SKEW_MILLIS: i64 = 5_000;

/// The number of dead rows that is no problem in a table of any size.
const MAX_DEAD_ROWS: u64 = 10_000;

/// Checks the server and the tables. Returns whether the sessions can be read.
pub(crate) fn check(exam: &mut Examination<'_>, info: &DatabaseServer) -> bool {
    exam.ok("server", format!("{}, PostgreSQL {}", info.server, info.version));
    if info.is_encrypted {
        exam.ok("encryption", "the connection is encrypted");
    } else if info.is_remote {
        exam.problem(
            "encryption",
            "the connection crosses a network and is not encrypted",
            "give --root-certificates (PGSSLROOTCERT) here and `root_certificates` in the service, \
             or use a tunnel",
        );
    } else {
        exam.ok("encryption", "the server is on this machine");
    }
    if info.is_read_only {
        exam.problem(
            "access",
            "the server is a replica, or its transactions only read",
            "use the primary: its URL, or several hosts with target_session_attrs=read-write",
        );
    } else {
        exam.ok("access", "the server can be written");
    }
    let is_set_up = check_tables(exam, info);
    if info.missing_rights.is_empty() {
        exam.ok("rights", format!("{} has all that the service needs", info.user));
    } else {
        exam.problem(
            "rights",
            format!("{} has not: {}", info.user, info.missing_rights.join(", ")),
            "GRANT them to the service's user; if that is another one, connect as it",
        );
    }
    if info.foreign_objects.is_empty() {
        exam.ok("objects", "no trigger, rule or policy is on the tables");
    } else {
        exam.problem(
            "objects",
            info.foreign_objects.join(", "),
            "examine and drop them: they run with every change, can keep or bring back ended \
             sessions, and hide live ones; a foreign key needs ON DELETE CASCADE",
        );
    }
    check_server(exam, info);
    is_set_up && !info.missing_rights.iter().any(|right| right.starts_with("SELECT"))
}

fn check_tables(exam: &mut Examination<'_>, info: &DatabaseServer) -> bool {
    match &info.schema_version {
        Ok(version) if *version == info.newest_schema => {
            let schema = &info.schema;
            let table = &info.table;
            let bytes = HumanBytes(info.bytes);
            exam.ok("tables", format!("{schema}.{table}, schema version {version}, {bytes}"));
            return true;
        }
        Ok(0) => exam.problem(
            "tables",
            format!("there is no table {} in the schema {}", info.table, info.schema),
            "check the URL, --schema and --table; run `setup`",
        ),
        Ok(version) => exam.old_schema(*version, info.newest_schema),
        Err(error) => exam.failed("tables", error),
    }
    false
}

fn check_server(exam: &mut Examination<'_>, info: &DatabaseServer) {
    if info.has_fsync {
        exam.ok("fsync", "on");
    } else {
        exam.problem(
            "fsync",
            "off: a crash of the server's machine can damage the database",
            "set fsync = on",
        );
    }
    if info.synchronous_commit == "off" {
        exam.note(
            "durability",
            "synchronous_commit = off: a crash of the server loses the last changes of programs \
             that do not set it themselves, as cloakroom does",
            "set synchronous_commit = on, unless your own tables may lose changes",
        );
    } else {
        exam.ok("durability", format!("synchronous_commit = {}", info.synchronous_commit));
    }
    let dead = HumanCount(info.dead_rows);
    let live = HumanCount(info.live_rows);
    let found = format!("{dead} dead rows beside {live} live ones");
    if !info.has_autovacuum {
        exam.problem(
            "vacuum",
            format!("autovacuum is off; {found}"),
            "set autovacuum = on, for the table too (ALTER TABLE … RESET (autovacuum_enabled)): \
             every change leaves a dead row",
        );
    } else if info.dead_rows > info.live_rows.max(MAX_DEAD_ROWS) {
        exam.problem(
            "vacuum",
            found,
            "autovacuum removes them within minutes; if they stay, end long transactions \
             (`pg_stat_activity`), VACUUM the table, and lower its autovacuum_vacuum_scale_factor",
        );
    } else {
        exam.ok("vacuum", found);
    }
    if info.clock_ahead.abs() > MAX_CLOCK_SKEW_MILLIS {
        let seconds = info.clock_ahead.abs() / 1000;
        let way = if info.clock_ahead > 0 { "ahead" } else { "behind" };
        exam.problem(
            "server clock",
            format!("the clock of this machine is {seconds} s {way} of the server's"),
            "correct the clocks (NTP): limits depend on them, and a machine that is ahead does not \
             sweep",
        );
    } else {
        exam.ok("server clock", "agrees with this machine's");
    }
}
