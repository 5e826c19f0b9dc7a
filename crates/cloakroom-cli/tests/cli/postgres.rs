//! The commands on PostgreSQL.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use cloakroom::{PostgresStore, SessionManager, SignIn, UserKey};
use cloakroom_cli::Target;

use crate::common::Folder;
use crate::common::postgres::{Postgres, fresh_table, shared};
use crate::fixture::Ran;

/// The program on this database, without environment variables that would affect it.
pub(crate) fn program(url: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cloakroom"));
    command.args(args).env("TZ", "UTC").env("HOME", "/nonexistent");
    match url {
        "" => command.env_remove("CLOAKROOM_STORE"),
        url => command.env("CLOAKROOM_STORE", url),
    };
    for variable in ["CLOAKROOM_DB", "NO_COLOR", "PGPASSWORD", "PGPASSFILE", "PGSSLROOTCERT"] {
        command.env_remove(variable);
    }
    command
}

pub(crate) fn run(url: &str, args: &[&str]) -> Ran {
    program(url, args).output().unwrap().into()
}

/// Runs it, and fails unless it succeeds.
pub(crate) fn done(url: &str, args: &[&str]) -> String {
    let ran = run(url, args);
    assert_eq!(ran.code, 0, "{args:?}: {}{}", ran.out, ran.err);
    ran.out
}

/// Runs it, and fails unless it ends with this exit code and one line with the reason.
pub(crate) fn fails(url: &str, args: &[&str], code: i32) -> String {
    let ran = run(url, args);
    assert_eq!(ran.code, code, "{args:?}: {}{}", ran.out, ran.err);
    assert!(ran.err.starts_with("cloakroom: "), "{args:?}: {}", ran.err);
    assert_eq!(ran.err.lines().count(), 1, "{args:?}: {}", ran.err);
    ran.err
}

/// A session of this user, and its cookie.
pub(crate) fn sign_in(sessions: &SessionManager, user: &str) -> String {
    let session = sessions.open(None);
    assert_eq!(session.sign_in(UserKey::new(user).unwrap()).unwrap(), SignIn::Done);
    close(sessions, &session).unwrap()
}

/// Closes the session, and returns its new cookie, if it has one.
pub(crate) fn close(sessions: &SessionManager, session: &cloakroom::Session) -> Option<String> {
    let headers = sessions.close(session, cloakroom::adapter::Outcome::Completed).unwrap();
    let set = headers.iter().find(|(name, _)| *name == "Set-Cookie")?.1.to_owned();
    Some(set.split(';').next().unwrap().to_owned())
}

pub(crate) fn user(sessions: &SessionManager, cookie: &str) -> Option<String> {
    sessions.open(Some(cookie)).user().unwrap().map(|user| user.to_string())
}

/// A table that is set up, and a manager on it.
fn with_sessions() -> (String, SessionManager) {
    let table = fresh_table();
    let store = shared().builder_in(&table).open().unwrap();
    let sessions = SessionManager::builder(store).sweep_every(Duration::from_secs(86_400));
    (table, sessions.build().unwrap())
}

fn public_ids(url: &str, args: &[&str]) -> Vec<String> {
    let listed: serde_json::Value =
        serde_json::from_str(&done(url, &[&["list", "--json"], args].concat())).unwrap();
    let sessions = listed["sessions"].as_array().unwrap();
    sessions.iter().map(|session| session["public_id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn sessions_in_postgres_are_listed_shown_and_ended() {
    let (table, sessions) = with_sessions();
    let url = &shared().url();
    let table = &["--table", &*table][..];
    let ada = sign_in(&sessions, "ada");
    let bob = sign_in(&sessions, "bob");
    let ids = public_ids(url, table);
    assert_eq!(ids.len(), 2);
    assert!(done(url, &[&["list"], table].concat()).contains("bob"));
    let shown = done(url, &[&["show", &ids[0]], table].concat());
    assert!(shown.contains("user          bob"), "the newest comes first: {shown}");
    assert_eq!(done(url, &[&["revoke", &ids[0]], table].concat()), "ended 1 session\n");
    assert_eq!((user(&sessions, &bob), user(&sessions, &ada)), (None, Some("ada".to_owned())));
    let gone = fails(url, &[&["revoke", &ids[0]], table].concat(), 4);
    assert!(gone.contains("there is no live session"), "{gone}");
    let unknown = fails(url, &[&["list", "--user", "eve"], table].concat(), 4);
    assert!(unknown.contains("here such as ada"), "{unknown}");
    let unknown = fails(url, &[&["list", "--realm", "other"], table].concat(), 4);
    assert!(unknown.contains("the realms with sessions are __Host-id"), "{unknown}");
    let ended = done(url, &[&["revoke", "--all", "--yes"], table].concat());
    assert_eq!(ended, "ended 1 session in all realms\n");
    assert_eq!(user(&sessions, &ada), None);
}

#[test]
fn an_operators_revocation_in_postgres_raises_the_epoch() {
    let (table, sessions) = with_sessions();
    sign_in(&sessions, "ada");
    let epoch = || shared().sql(&format!("SELECT value FROM {table}_meta WHERE name = 'epoch'"));
    assert_eq!(epoch(), "0");
    done(&shared().url(), &["revoke", "--user", "ada", "--table", &table]);
    assert_eq!(epoch(), "1", "so that a cache in front of the store is not used any more");
}

#[test]
fn stats_of_postgres_count_sessions_and_describe_the_server() {
    let (table, sessions) = with_sessions();
    sign_in(&sessions, "ada");
    let url = &shared().url();
    let shown = done(url, &["stats", "--table", &table]);
    for part in ["server    127.0.0.1/postgres, PostgreSQL ", "schema version 1", "live      1: 1"]
    {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let json: serde_json::Value =
        serde_json::from_str(&done(url, &["stats", "--json", "--table", &table])).unwrap();
    assert_eq!((&json["live"], &json["created"]["before"]), (&1.into(), &0.into()), "{json}");
    let size = &json["data_bytes"];
    assert_eq!(size["average"], size["largest"], "there is one: {json}");
    assert_eq!(json["server"]["schema_name"], "public", "{json}");
}

#[test]
fn expired_sessions_in_postgres_are_swept() {
    let (table, sessions) = with_sessions();
    let url = &shared().url();
    (0..3).for_each(|_| drop(sign_in(&sessions, "ada")));
    shared().sql(&format!("UPDATE {table} SET deadline = 1, sweep_at = 1 WHERE id < 3"));
    assert_eq!(public_ids(url, &["--expired", "--table", &table]).len(), 2);
    assert_eq!(done(url, &["sweep", "--limit", "1", "--table", &table]), "swept 1 session\n");
    assert_eq!(done(url, &["sweep", "--table", &table]), "swept 1 session\n");
    assert_eq!(shared().sql(&format!("SELECT count(*) FROM {table}")), "1");
}

#[test]
fn tables_in_postgres_are_created_cleared_and_dropped() {
    let (table, url) = (fresh_table(), &shared().url());
    let args =
        |command: &'static str| [command, "--yes", "--schema", "A \"b\"; c", "--table", &table];
    let place = ["--schema", "A \"b\"; c", "--table", &table];
    let run = |command: &[&'static str]| done(url, &[command, &place].concat());
    fails(url, &[&["stats"], &place[..]].concat(), 3);
    assert!(run(&["setup"]).starts_with("set up: table A \"b\"; c."));
    assert!(run(&["setup"]).starts_with("already set up"));
    assert!(run(&["migrate"]).starts_with("nothing to do"));
    let store = shared().builder_in(&table).schema("A \"b\"; c").open().unwrap();
    let sessions = SessionManager::new(store).unwrap();
    let cookie = sign_in(&sessions, "ada");
    let cleared = done(url, &args("clear"));
    assert_eq!(cleared, "ended 1 session in all realms, expired ones included\n");
    assert_eq!(user(&sessions, &cookie), None);
    assert!(done(url, &args("drop")).starts_with("removed table"));
    let tables = "SELECT count(*) FROM pg_class JOIN pg_namespace AS n ON n.oid = relnamespace \
                  WHERE nspname = 'A \"b\"; c' AND relkind IN ('r', 'v')";
    assert_eq!(shared().sql(tables), "0", "the history of no table goes too");
    assert!(run(&["migrate"]).contains("applied migration 1, sessions"));
}

#[test]
fn another_table_keeps_its_history_when_one_is_dropped() {
    let (table, other) = (fresh_table(), fresh_table());
    let _stores = [&table, &other].map(|table| shared().builder_in(table).open().unwrap());
    done(&shared().url(), &["drop", "--yes", "--table", &table]);
    shared().builder_in(&other).migrate(false).open().unwrap();
}

#[test]
fn commands_on_a_file_are_wrong_usage_on_postgres() {
    let url = &shared().url();
    for (args, instead) in [
        (&["backup", "copy"][..], "pg_dump"),
        (&["restore", "copy", "--yes"], "pg_restore"),
        (&["compact", "--yes"], "VACUUM FULL"),
        (&["setup", "--keep-journal"], "journal"),
    ] {
        assert!(fails(url, args, 2).contains(instead), "{args:?}");
    }
}

#[test]
fn errors_of_postgres_have_the_exit_codes_of_their_kinds() {
    let url = shared().url();
    let none = &fresh_table();
    let advice = fails(&url, &["stats", "--table", none], 3);
    assert!(advice.contains("`setup` creates the tables"), "{advice}");
    fails(&url, &["stats", "--table", "a b"], 2);
    fails(&url, &["stats", "--schema", ""], 2);
    fails(&url, &["stats", "--db", &url], 2);
    let down = fails("postgres://ada@127.0.0.1:1/app", &["stats"], 1);
    assert!(down.contains("check the URL"), "{down}");
    let encryption = fails("postgres://ada@127.0.0.1:1/app?sslmode=require", &["stats"], 2);
    assert!(encryption.contains("--root-certificates"), "{encryption}");
    fails(&url.replace("/postgres", "/no_such_database"), &["stats"], 1);
    let (foreign, newer) = (fresh_table(), fresh_table());
    shared().sql(&format!("CREATE TABLE {foreign} (a int)"));
    fails(&url, &["setup", "--table", &foreign], 1);
    shared().builder_in(&newer).open().unwrap();
    shared().sql(&format!(
        "INSERT INTO cloakroom_migrations VALUES ('{newer}', 99, 'later', 'x', 0, 'later')"
    ));
    fails(&url, &["stats", "--table", &newer], 1);
}

#[test]
fn no_error_of_a_url_contains_its_password() {
    for url in [
        "postgres://ada:s3cret@127.0.0.1:1/app",
        "postgres://ada:s3cret@127.0.0.1:port/app",
        "postgres://ada:s3cret@127.0.0.1/app?nonsense=1",
        "postgres://ada:s3cret@127.0.0.1:1/app?sslmode=require",
    ] {
        let ran = run(url, &["stats"]);
        assert!(ran.code == 1 || ran.code == 2, "{ran:?}");
        assert!(!ran.err.contains("s3cret"), "{ran:?}");
    }
}

#[test]
fn the_store_of_the_command_line_comes_before_the_environment() {
    let (folder, url) = (Folder::new(), shared().url());
    let mut setup = program(&url, &["setup", "--db", folder.database().to_str().unwrap()]);
    let ran: Ran = setup.output().unwrap().into();
    assert!(ran.code == 0 && ran.out.contains("app.db"), "{ran:?}");
    let file = folder.database();
    let both = Ran::from(program(&url, &["stats"]).env("CLOAKROOM_DB", &file).output().unwrap());
    assert_eq!(both.code, 2, "{both:?}");
    assert!(both.err.contains("not both"), "{both:?}");
    done(file.to_str().unwrap(), &["stats"]);
    let empty =
        program(&url, &["stats"]).env("CLOAKROOM_DB", &file).env("CLOAKROOM_STORE", "").output();
    assert_eq!(Ran::from(empty.unwrap()).code, 0, "an empty variable is not set");
}

#[test]
fn the_password_comes_from_the_environment_or_a_file() {
    let server = Postgres::start();
    server
        .sql("CREATE ROLE ada LOGIN PASSWORD 'p:w' CREATEROLE; GRANT ALL ON SCHEMA public TO ada");
    let hba = server.sql("SHOW hba_file");
    server.sql(&format!(
        "COPY (VALUES ('host all postgres all trust'), ('host all all all scram-sha-256')) \
         TO '{hba}'"
    ));
    server.sql("SELECT pg_reload_conf()");
    let url = &server.url_of("ada");
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while run(url, &["setup"]).code == 0 {
        assert!(std::time::Instant::now() < deadline, "the server asks for no password");
        done(url, &["drop", "--yes"]);
    }
    let refused = fails(url, &["setup"], 1);
    assert!(refused.contains("PGPASSWORD") && refused.contains("put it in the URL"), "{refused}");
    let with = |variable: &str, value: &str| -> Ran {
        program(url, &["setup"]).env(variable, value).output().unwrap().into()
    };
    assert_eq!(with("PGPASSWORD", "p:w").code, 0);
    assert_eq!(with("PGPASSWORD", "wrong").code, 1);
    let folder = Folder::new();
    let file = folder.path(".pgpass");
    fs::write(&file, format!("127.0.0.1:{}:postgres:ada:p\\:w\n", server.port())).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(with("PGPASSFILE", file.to_str().unwrap()).code, 0);
    assert_eq!(with("HOME", folder.path("").to_str().unwrap()).code, 0);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    let ignored = with("PGPASSFILE", file.to_str().unwrap());
    assert_eq!(ignored.code, 1, "{ignored:?}");
    assert!(ignored.err.contains("`chmod 600` it"), "{ignored:?}");
}

/// The checks that find a problem, with their texts, but that of the tests' servers, which do not
/// wait for their disks.
fn wrong(url: &str, table: &str) -> Vec<(String, String)> {
    let ran = run(url, &["doctor", "--json", "--table", table]);
    let answer: serde_json::Value = serde_json::from_str(&ran.out).expect(&ran.err);
    assert_eq!(ran.code, 1, "{}", ran.err);
    let findings = answer["findings"].as_array().unwrap().iter();
    let wrong = findings.filter(|finding| finding["severity"] == "problem").map(|finding| {
        assert!(finding["remedy"].as_str().is_some_and(|words| !words.is_empty()), "{finding}");
        let text = |name: &str| finding[name].as_str().unwrap().to_owned();
        (text("check"), text("found"))
    });
    let mut wrong: Vec<_> = wrong.collect();
    let fsync = wrong.iter().position(|(check, _)| check == "fsync").unwrap();
    assert!(wrong.remove(fsync).1.contains("off"));
    wrong
}

fn only(url: &str, table: &str, check: &str, words: &str) {
    let found = wrong(url, table);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].0, check, "{found:?}");
    assert!(found[0].1.contains(words), "{found:?}");
}

#[test]
fn a_sound_database_in_postgres_has_no_problem() {
    let (table, sessions) = with_sessions();
    sign_in(&sessions, "ada");
    let url = &shared().url();
    assert_eq!(wrong(url, &table), []);
    let shown = run(url, &["doctor", "--table", &table]).out;
    for check in [
        "ok      server ",
        "ok      encryption ",
        "ok      access ",
        "ok      tables ",
        "ok      rights ",
        "ok      objects ",
        "ok      durability   synchronous_commit = on",
        "ok      vacuum ",
        "ok      server clock ",
        "ok      cleaner ",
        "ok      live         1 signed in, 0 anonymous",
        "ok      sessions     all 1 decode",
        "ok      realms       1 __Host-id",
        "note    cookie ",
    ] {
        assert!(shown.contains(check), "{check}: {shown}");
    }
}

#[test]
fn doctor_finds_what_others_put_on_the_tables() {
    let url = &shared().url();
    shared().sql(
        "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
    );
    for (sql, words) in [
        (
            "CREATE TRIGGER keep BEFORE DELETE ON {t} FOR EACH ROW EXECUTE FUNCTION nothing()",
            "trigger keep on ",
        ),
        ("CREATE RULE keep AS ON DELETE TO {t} DO INSTEAD NOTHING", "rule keep on "),
        ("CREATE POLICY mine ON {t} USING (false)", "policy mine on "),
        ("ALTER TABLE {t} ENABLE ROW LEVEL SECURITY", "row level security on "),
        (
            "CREATE TABLE of_{t} (session bigint CONSTRAINT refers REFERENCES {t})",
            "foreign key refers of of_",
        ),
    ] {
        let table = with_sessions().0;
        shared().sql(&sql.replace("{t}", &table));
        only(url, &table, "objects", words);
    }
}

#[test]
fn doctor_finds_missing_rights() {
    let table = with_sessions().0;
    shared().sql(&format!(
        "CREATE ROLE reader LOGIN; GRANT SELECT ON {table}, {table}_meta, {table}_replaced, \
         cloakroom_migrations TO reader"
    ));
    only(&shared().url_of("reader"), &table, "rights", &format!("DELETE on {table}"));
    shared().sql(&format!("CREATE ROLE stranger LOGIN; GRANT SELECT ON {table} TO stranger"));
    let found = wrong(&shared().url_of("stranger"), &table);
    assert!(found.iter().any(|(check, _)| check == "rights"), "{found:?}");
    assert!(found.iter().any(|(check, _)| check == "tables"), "{found:?}");
    let found = wrong(&shared().url_of("stranger"), &fresh_table());
    let is_create = |(check, text): &(String, String)| {
        check == "rights" && text.contains("CREATE on the schema public")
    };
    assert!(found.iter().any(is_create), "{found:?}");
}

#[test]
fn doctor_finds_that_nothing_vacuums() {
    let (table, url) = (with_sessions().0, &shared().url());
    shared().sql(&format!("ALTER TABLE {table} SET (autovacuum_enabled = off)"));
    only(url, &table, "vacuum", "autovacuum is off");
}

#[test]
fn doctor_finds_dead_rows() {
    let (table, url) = (with_sessions().0, &shared().url());
    let insert = format!(
        "INSERT INTO {table} (id_hash, public_id, realm, auth_level, created, seen, id_issued, \
         deadline, sweep_at, persistent, revision, format, data) \
         SELECT sha256(n::text::bytea), decode(md5(n::text), 'hex'), 'r', 0, 0, 0, 0, \
         9000000000000, 1, true, 1, 1, '{{}}' FROM generate_series(1, 10001) AS n"
    );
    // The transaction keeps autovacuum away until the statistics say what it has left.
    shared().sql(&insert);
    shared().sql(&format!("DELETE FROM {table}"));
    let dead = format!("SELECT n_dead_tup FROM pg_stat_all_tables WHERE relname = '{table}'");
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while shared().sql(&dead) == "0" {
        assert!(std::time::Instant::now() < deadline, "the server has no statistics");
    }
    only(url, &table, "vacuum", "10,001 dead rows");
}

#[test]
fn doctor_finds_a_clock_that_differs() {
    let table = with_sessions().0;
    shared().sql(
        "CREATE ROLE skewed LOGIN SUPERUSER; CREATE SCHEMA skewed; \
         CREATE FUNCTION skewed.clock_timestamp() RETURNS timestamptz LANGUAGE sql \
         AS 'SELECT now() - interval ''1 hour'''; \
         ALTER ROLE skewed SET search_path = skewed, pg_catalog, public",
    );
    let url = &shared().url_of("skewed");
    let place = ["--schema", "public", "--table", &table];
    let shown = run(url, &[&["doctor"], &place[..]].concat()).out;
    assert!(shown.contains("PROBLEM server clock the clock of this machine is 3"), "{shown}");
    let refused = fails(url, &[&["sweep"], &place[..]].concat(), 1);
    assert!(refused.contains("nothing was swept"), "{refused}");
}

#[test]
fn doctor_finds_an_unencrypted_connection_over_a_network() {
    let table = with_sessions().0;
    shared().sql(
        "CREATE ROLE distant LOGIN SUPERUSER; CREATE SCHEMA distant; \
         CREATE FUNCTION distant.inet_server_addr() RETURNS inet LANGUAGE sql \
         AS $$SELECT inet '192.0.2.1'$$; \
         ALTER ROLE distant SET search_path = distant, pg_catalog, public",
    );
    let place = ["doctor", "--schema", "public", "--table", &table];
    let shown = run(&shared().url_of("distant"), &place);
    assert!(shown.out.contains("PROBLEM encryption "), "{shown:?}");
}

#[test]
fn doctor_notes_that_others_may_lose_changes() {
    let table = with_sessions().0;
    shared()
        .sql("CREATE ROLE hasty LOGIN SUPERUSER; ALTER ROLE hasty SET synchronous_commit = off");
    let shown = run(&shared().url_of("hasty"), &["doctor", "--table", &table]);
    assert!(shown.out.contains("note    durability   synchronous_commit = off"), "{shown:?}");
}

#[test]
fn doctor_finds_a_replica() {
    let server = Postgres::start();
    server.builder_in("cloakroom_sessions").open().unwrap();
    let replica = server.start_replica();
    let tables = "SELECT count(*) FROM pg_class WHERE relname = 'cloakroom_sessions_readable'";
    while replica.sql(tables) == "0" {}
    only(&replica.url(), "cloakroom_sessions", "access", "replica");
    let refused = run(&replica.url(), &["clear", "--yes"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.err.contains("connect to the primary"), "{refused:?}");
}

#[test]
fn doctor_finds_tables_that_are_missing() {
    let found = wrong(&shared().url(), &fresh_table());
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].1.contains("there is no table"), "{found:?}");
}

#[test]
fn an_application_offers_the_commands_on_its_own_store() {
    let table = fresh_table();
    let target = || Target::PostgresBuilder(Box::new(shared().builder_in(&table)));
    let run = |words: &[&str]| format!("{:?}", cloakroom_cli::run(words, target()));
    let [done, usage, not_set_up] =
        [0, 2, 3].map(|n| format!("{:?}", std::process::ExitCode::from(n)));
    assert_eq!(run(&["app", "stats"]), not_set_up);
    assert_eq!(run(&["app", "setup"]), done);
    assert_eq!(run(&["app", "stats", "--store", "x"]), usage);
    PostgresStore::builder(&shared().url()).table(&table).migrate(false).open().unwrap();
}

#[test]
fn psql_shows_sessions_in_a_readable_view() {
    let (table, sessions) = with_sessions();
    let cookie = sign_in(&sessions, "ada");
    let session = sessions.open(Some(&*cookie));
    session.set("note", "a\u{0}b é").unwrap();
    close(&sessions, &session);
    // Without the CSRF secret, which is random.
    let data = "regexp_replace(data, '\"cloakroom.csrf\":\"[^\"]*\",', '')";
    let columns =
        format!("realm, \"user\", state, revision, {data}, signed_in = created, deadline > now()");
    let row = shared().sql(&format!("SELECT {columns} FROM {table}_readable"));
    assert_eq!(row, "__Host-id|ada|live|2|{\"note\":\"a\\u0000b é\"}|t|t");
    shared().sql(&format!("UPDATE {table} SET deadline = 1"));
    assert_eq!(shared().sql(&format!("SELECT state FROM {table}_readable")), "expired");
    let ids = shared()
        .sql(&format!("SELECT length(id_hash_prefix), length(public_id) FROM {table}_readable"));
    assert_eq!(ids, "8|32", "the hash of the id is not shown");
}
