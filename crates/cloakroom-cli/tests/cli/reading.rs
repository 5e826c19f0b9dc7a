//! `stats`, `list` and `show`: their output, and the data that they never show.

use std::collections::HashSet;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use cloakroom::stores::sqlite::rusqlite::Connection;
use rustix::process::Signal;
use serde_json::json;

use crate::fixture::{
    DAY, begin, begin_with, count, done, fails, fill, interrupt, json, masked, program, run,
    set_up, signal, start, with_store,
};

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn statistics_count_sessions_and_measure_the_file() {
    let (folder, store) = with_store();
    begin(&store, Some("ada"), 3 * DAY);
    begin(&store, Some("ada"), MINUTE);
    begin(&store, None, MINUTE);
    drop(store);
    let shown = masked(&folder, &done(&folder, &["stats"]));
    let mut lines = shown.lines();
    assert_eq!(lines.next(), Some("file      FOLDER/app.db"));
    assert_eq!(lines.next(), Some("table     cloakroom_sessions, schema version 1"));
    assert_eq!(lines.next(), Some("live      2: 1 signed in, 1 anonymous"));
    assert_eq!(lines.next(), Some("expired   1: 1 signed in, 0 anonymous; to be swept"));
    assert_eq!(lines.next(), Some("created   from YYYY-MM-DD hh:mm:ss to YYYY-MM-DD hh:mm:ss"));
    assert_eq!(lines.next(), Some("data      29 B a session, 29 B at most"));
    assert!(lines.next().unwrap().starts_with("size      68.00 KiB, 0 B of it free; log "));
    assert_eq!(lines.next(), Some("journal   wal"));
    assert_eq!(lines.next(), Some("by day    YYYY-MM-DD          0"));
    assert_eq!(lines.count(), 7);
}

#[test]
fn the_json_of_statistics_is_as_documented() {
    let (folder, store) = with_store();
    for days in [8, 3, 0] {
        // All live sessions, by any day of creation.
        let begun = begin(&store, None, days * DAY + MINUTE * 2);
        Connection::open(folder.database())
            .unwrap()
            .execute(
                "UPDATE cloakroom_sessions SET deadline = deadline + 864000000 WHERE public_id = ?1",
                [begun.public_id.as_bytes()],
            )
            .unwrap();
    }
    let mut answer = json(&folder, &["stats", "--json"]);
    let begun = answer["created"].take();
    let keys: Vec<_> = answer.as_object().unwrap().keys().cloned().collect();
    assert_eq!(
        keys,
        [
            "anonymous",
            "at",
            "created",
            "data_bytes",
            "expired",
            "expired_signed_in",
            "file",
            "live",
            "newest",
            "oldest",
            "signed_in",
            "table"
        ]
    );
    assert_eq!(answer["live"], 3);
    assert_eq!(answer["data_bytes"], json!({ "average": 29, "largest": 29 }));
    let file: Vec<_> = answer["file"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(
        file,
        [
            "bytes",
            "free_pages",
            "journal",
            "log_bytes",
            "other_tables",
            "page_size",
            "pages",
            "path",
            "schema"
        ]
    );
    assert_eq!(begun["before"], 1, "{begun}");
    let days = begun["days"].as_array().unwrap();
    let counts: Vec<_> = days.iter().map(|day| day["sessions"].as_u64().unwrap()).collect();
    // A creation two minutes ago may be yesterday.
    assert!(counts == [0, 0, 0, 1, 0, 0, 1] || counts == [0, 0, 1, 0, 0, 1, 0], "{begun}");
    assert_eq!(days[0]["day"].as_str().unwrap().len(), 10);
    assert!(answer["at"].as_str().unwrap().ends_with('Z'));
}

/// Reads this number of lines.
fn lines(child: &mut Child, lines: usize) {
    let out = child.stdout.as_mut().unwrap();
    let mut seen = 0;
    while seen < lines {
        let mut some = [0; 4096];
        let read = out.read(&mut some).unwrap();
        assert!(read > 0, "it ended by itself");
        seen += some[..read].iter().filter(|byte| **byte == b'\n').count();
    }
}

#[test]
fn a_watch_repeats_until_it_is_interrupted() {
    let folder = set_up();
    for end in [Signal::INT, Signal::TERM, Signal::HUP] {
        let mut child = start(&mut program(&folder, &["stats", "--json", "--watch", "1"]));
        lines(&mut child, 2);
        signal(&child, end);
        assert_eq!(child.wait().unwrap().code(), Some(0), "{end:?}");
    }
}

#[test]
fn a_command_under_nohup_survives_its_terminal() {
    let folder = set_up();
    let mut nohup = Command::new("sh");
    let watch = "trap '' HUP; exec \"$0\" stats --json --watch 1";
    nohup.args(["-c", watch, env!("CARGO_BIN_EXE_cloakroom")]);
    let mut child = start(nohup.env("CLOAKROOM_DB", folder.database()));
    lines(&mut child, 1);
    signal(&child, Signal::HUP);
    lines(&mut child, 2);
    interrupt(&child);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_list_shows_live_sessions_newest_first() {
    let (folder, store) = with_store();
    begin(&store, Some("ada"), 2 * DAY);
    let first = begin(&store, Some("ada"), MINUTE * 2);
    let second = begin(&store, None, MINUTE);
    let shown = done(&folder, &["list"]);
    assert_eq!(
        masked(&folder, &shown),
        "\
PUBLIC_ID                         USER  REALM      CREATED              SEEN                 DEADLINE             ADDRESS    BYTES  AGENT
HHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHH  -     __Host-id  YYYY-MM-DD hh:mm:ss  YYYY-MM-DD hh:mm:ss  YYYY-MM-DD hh:mm:ss  192.0.2.7  29     Firefox on Linux
HHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHH  ada   __Host-id  YYYY-MM-DD hh:mm:ss  YYYY-MM-DD hh:mm:ss  YYYY-MM-DD hh:mm:ss  192.0.2.7  29     Firefox on Linux
"
    );
    let at = |public_id: &str| shown.find(public_id).unwrap();
    assert!(at(&second.public_id.to_string()) < at(&first.public_id.to_string()));
    let limited = done(&folder, &["list", "--limit", "1"]);
    assert!(limited.contains(&second.public_id.to_string()));
    assert!(!limited.contains(&first.public_id.to_string()));
    assert!(limited.ends_with("There are more; --limit shows them.\n"));
}

#[test]
fn a_list_can_be_limited_to_a_user_or_to_expired_ones() {
    let (folder, store) = with_store();
    let old = begin(&store, Some("ada"), 2 * DAY);
    let others = begin(&store, Some("bob"), 2 * DAY);
    let live = begin(&store, Some("ada"), MINUTE);
    let public_ids = |args: &[&str]| -> Vec<String> {
        let answer = json(&folder, args);
        let list = answer["sessions"].as_array().unwrap().clone();
        list.iter().map(|session| session["public_id"].as_str().unwrap().to_owned()).collect()
    };
    let names = |begun: &[&crate::fixture::Begun]| -> Vec<String> {
        begun.iter().map(|begun| begun.public_id.to_string()).collect()
    };
    assert_eq!(public_ids(&["list", "--user", "ada", "--json"]), names(&[&live]));
    assert_eq!(public_ids(&["list", "--expired", "--json"]), names(&[&others, &old]));
    assert_eq!(public_ids(&["list", "--expired", "--user", "ada", "--json"]), names(&[&old]));
    fails(&folder, &["list", "--user", "bob"], 4);
    fails(&folder, &["list", "--user", "unknown", "--expired"], 4);
    let nothing = run(&folder, &["list", "--user", "bob", "--json"]);
    assert_eq!((nothing.code, nothing.out.as_str()), (4, "{\"sessions\":[],\"more\":false}\n"));
    let answer = json(&folder, &["list", "--user", "ada", "--json"]);
    assert_eq!(answer["more"], false);
    let keys: Vec<_> = answer["sessions"][0].as_object().unwrap().keys().cloned().collect();
    assert_eq!(
        keys,
        [
            "address",
            "auth_level",
            "authenticated",
            "bytes",
            "created",
            "deadline",
            "idp_session_id",
            "persistent",
            "public_id",
            "realm",
            "seen",
            "user",
            "user_agent"
        ]
    );
}

#[test]
fn a_long_list_is_complete_and_in_order() {
    let folder = set_up();
    // More than one page.
    fill(&folder, 5500, true);
    fill(&folder, 5500, false);
    for (limit, shown, more) in
        [("5000", 5000, true), ("5499", 5499, true), ("5500", 5500, false), ("9999", 5500, false)]
    {
        for which in [&["list"][..], &["list", "--expired"]] {
            let args = [which, &["--limit", limit]].concat();
            let answer = json(&folder, &[&args[..], &["--json"]].concat());
            let list = answer["sessions"].as_array().unwrap();
            let public_ids: Vec<_> =
                list.iter().map(|s| s["public_id"].as_str().unwrap()).collect();
            let different: HashSet<_> = public_ids.iter().collect();
            assert_eq!((different.len(), public_ids.len()), (shown, shown), "{args:?}");
            assert_eq!(answer["more"], more, "{args:?}");
            // The table has the same rows, under one header.
            let table = done(&folder, &args);
            let mut lines = table.lines();
            assert!(lines.next().unwrap().starts_with("PUBLIC_ID "), "{args:?}");
            let rows: Vec<_> = lines.by_ref().take(shown).map(|line| &line[..32]).collect();
            assert_eq!(rows, public_ids, "{args:?}");
            let end: &[&str] = if more { &["There are more; --limit shows them."] } else { &[] };
            assert_eq!(lines.collect::<Vec<_>>(), end, "{args:?}");
        }
    }
}

#[test]
fn an_empty_list_says_so() {
    let folder = set_up();
    assert_eq!(done(&folder, &["list"]), "There are none.\n");
    assert_eq!(done(&folder, &["list", "--expired"]), "There are none.\n");
}

#[test]
fn session_data_is_shown_only_on_request() {
    let (folder, store) = with_store();
    let begun = begin(&store, Some("ada"), MINUTE);
    let public_id = begun.public_id.to_string();
    let shown = done(&folder, &["show", &public_id]);
    assert_eq!(
        masked(&folder, &shown),
        "\
public id     HHHHHHHHHHHHHHHHHHHHHHHHHHHHHHHH
user          ada
realm         __Host-id
level         0
created       YYYY-MM-DD hh:mm:ss
signed in     YYYY-MM-DD hh:mm:ss
seen          YYYY-MM-DD hh:mm:ss
deadline      YYYY-MM-DD hh:mm:ss
address       192.0.2.7
agent         Firefox on Linux
persistent    yes
data          29 bytes
"
    );
    let with_data = done(&folder, &["show", &public_id, "--data"]);
    assert_eq!(with_data, format!("{shown}{{\"cart\":\"three secret coats\"}}\n"));
    let answer = json(&folder, &["show", &public_id, "--json"]);
    assert!(answer.get("data").is_none());
    assert_eq!((&answer["expired"], &answer["revision"]), (&json!(false), &json!(1)));
    let answer = json(&folder, &["show", &public_id, "--json", "--data"]);
    assert_eq!(answer["data"], json!({ "cart": "three secret coats" }));
    fails(&folder, &["show", "0123456789abcdef0123456789abcdef"], 4);
}

#[test]
fn session_data_is_shown_as_it_is_stored() {
    let (folder, store) = with_store();
    let public_id = begin(&store, Some("ada"), MINUTE).public_id.to_string();
    let numbers = "[117.63331139400017,5e-324,-0.0,340282366920938463463374607431768211455]";
    Connection::open(folder.database())
        .unwrap()
        .execute("UPDATE cloakroom_sessions SET data = ?1", [format!("{{ \"z\": {numbers} }}")])
        .unwrap();
    let answer = done(&folder, &["show", &public_id, "--json", "--data"]);
    assert!(answer.ends_with(&format!(",\"data\":{{\"z\":{numbers}}}}}\n")), "{answer}");
    let shown = done(&folder, &["show", &public_id, "--data"]);
    assert!(shown.ends_with(&format!("\n{{\"z\":{numbers}}}\n")), "{shown}");
}

#[test]
fn expired_and_undecodable_sessions_are_marked() {
    let (folder, store) = with_store();
    let expired = begin(&store, None, 2 * DAY).public_id.to_string();
    assert!(done(&folder, &["show", &expired]).contains(" (expired)\n"));
    assert_eq!(json(&folder, &["show", &expired, "--json"])["expired"], true);
    let spoilt = begin(&store, Some("ada"), MINUTE).public_id.to_string();
    Connection::open(folder.database())
        .unwrap()
        .execute("UPDATE cloakroom_sessions SET data = 'no JSON' WHERE user_key = 'ada'", [])
        .unwrap();
    let shown = done(&folder, &["show", &spoilt, "--data"]);
    assert!(shown.contains("undecodable   cannot decode"), "{shown}");
    let answer = json(&folder, &["show", &spoilt, "--json", "--data"]);
    assert!(answer["undecodable"].is_string() && answer["data"].is_null(), "{answer}");
    assert!(done(&folder, &["list"]).contains(&spoilt), "it stays in the list");
}

#[test]
fn no_command_shows_an_id_or_its_hash() {
    let (folder, store) = with_store();
    let begun = begin(&store, Some("ada"), MINUTE);
    let public_id = begun.public_id.to_string();
    let mut all = String::new();
    for args in [
        &["stats"][..],
        &["stats", "--json"],
        &["list"],
        &["list", "--json"],
        &["show", &public_id, "--data"],
        &["show", &public_id, "--data", "--json"],
        &["doctor"],
        &["doctor", "--json"],
        &["revoke", &public_id],
    ] {
        let ran = run(&folder, args);
        all.push_str(&ran.out);
        all.push_str(&ran.err);
    }
    assert!(all.contains(&public_id));
    assert!(!all.contains(&begun.id.reveal()));
    assert!(!all.to_lowercase().contains(&crate::common::hex(&begun.id_hash)[..8]));
}

#[test]
fn text_from_visitors_cannot_control_the_terminal() {
    let (folder, store) = with_store();
    let agent = "\u{1b}]0;owned\u{7}\n\u{9b}2J\u{202e}agent";
    let begun = begin_with(&store, Some("a\u{1b}[31mda"), MINUTE, "::1", agent);
    let public_id = begun.public_id.to_string();
    let outputs = [
        done(&folder, &["list"]),
        done(&folder, &["show", &public_id]),
        done(&folder, &["list", "--json"]),
        fails(&folder, &["list", "--user", "x\u{1b}[2J"], 4),
    ];
    for shown in &outputs {
        let commands = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!shown.chars().any(commands), "{shown:?}");
    }
    assert_eq!(outputs[0].lines().count(), 2, "{}", outputs[0]);
    let answer: serde_json::Value = serde_json::from_str(&outputs[2]).unwrap();
    assert_eq!(answer["sessions"][0]["user_agent"], agent, "and programs get what was sent");
}

#[test]
fn times_are_local_unless_utc_is_requested() {
    let (folder, store) = with_store();
    let public_id = begin(&store, None, MINUTE).public_id.to_string();
    let line = |args: &[&str], zone: &str| {
        let output = program(&folder, args).env("TZ", zone).output().unwrap();
        let out = String::from_utf8(output.stdout).unwrap();
        out.lines().find(|line| line.starts_with("created")).unwrap().to_owned()
    };
    let utc = line(&["show", &public_id, "--utc"], "Etc/GMT-5");
    let local = line(&["show", &public_id], "Etc/GMT-5");
    assert!(utc.ends_with('Z') && !local.ends_with('Z'), "{utc} {local}");
    let hour = |line: &str| line.split(' ').next_back().unwrap()[..2].parse::<u32>().unwrap();
    assert_eq!(hour(&local), (hour(&utc) + 5) % 24);
    assert_eq!(utc, line(&["--utc", "show", &public_id], "Etc/GMT+7"));
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let folder = set_up();
    fill(&folder, 3000, true);
    let mut command = program(&folder, &["list", "--limit", "3000"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let ran = child.wait_with_output().unwrap();
    assert_eq!(ran.status.code(), Some(0));
    assert_eq!(String::from_utf8(ran.stderr).unwrap(), "");
    assert_eq!(count(&folder), 3000);
}
