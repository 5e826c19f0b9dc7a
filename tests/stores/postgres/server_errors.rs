//! Errors of the server, as kinds.

use std::num::NonZeroUsize;

use cloakroom::ErrorKind;
use cloakroom::backend::{Delta, Store, Touch, TouchError};
use cloakroom::list::{Page, SessionFilter};

use super::given::number;
use crate::common::postgres::{Postgres, shared};
use crate::common::{HOUR, NOW, create, live, merge, new_id_hash, setting};

/// Makes every update of the table fail with this SQLSTATE while the condition holds.
fn fail_updates(server: &Postgres, table: &str, state: &str, condition: &str) {
    server.sql(&format!(
        "CREATE OR REPLACE FUNCTION fail_{table}() RETURNS trigger LANGUAGE plpgsql AS $$ \
         BEGIN IF {condition} THEN RAISE EXCEPTION 'planted' USING ERRCODE = '{state}'; END IF; \
         RETURN NEW; END $$; \
         CREATE OR REPLACE TRIGGER fail BEFORE UPDATE ON {table} FOR EACH ROW \
         EXECUTE FUNCTION fail_{table}()"
    ));
}

#[test]
fn errors_of_the_server_have_kinds() {
    let store = shared().store();
    let id_hash = create(&store, &setting("n", 1)).unwrap();
    for (state, kind) in [
        ("53100", ErrorKind::Full),
        ("53200", ErrorKind::Unavailable),
        ("53300", ErrorKind::Busy),
        ("57P01", ErrorKind::Unavailable),
        ("57P03", ErrorKind::Unavailable),
        ("57014", ErrorKind::Busy),
        ("55P03", ErrorKind::Busy),
        ("08006", ErrorKind::Unavailable),
        ("58030", ErrorKind::Unavailable),
        ("25006", ErrorKind::ReadOnly),
        ("42501", ErrorKind::ReadOnly),
        ("XX001", ErrorKind::Corrupt),
        ("P0001", ErrorKind::Unexpected),
    ] {
        fail_updates(shared(), store.table(), state, "true");
        let error = merge(&store, &id_hash, &setting("n", 2)).unwrap_err();
        assert_eq!(error.kind(), kind, "{state}: {error}");
        assert!(error.to_string().contains(&format!("planted (SQLSTATE {state})")), "{error}");
        assert_eq!(number(&store, &id_hash), 1, "{state}");
    }
}

#[test]
fn serialization_failures_and_deadlocks_are_retried() {
    let store = shared().store();
    let id_hash = create(&store, &setting("n", 1)).unwrap();
    for (n, state) in [(2, "40001"), (3, "40P01")] {
        let table = store.table();
        // A sequence counts, because a rollback does not reset it.
        shared().sql(&format!("CREATE SEQUENCE attempts_{table}_{n}"));
        fail_updates(shared(), table, state, &format!("nextval('attempts_{table}_{n}') < 4"));
        merge(&store, &id_hash, &setting("n", n)).unwrap();
        assert_eq!(number(&store, &id_hash), n);
        assert_eq!(shared().sql(&format!("SELECT last_value FROM attempts_{table}_{n}")), "4");
    }
}

#[test]
fn an_error_shows_no_value_of_a_row() {
    let store = shared().store();
    let id_hash = create(&store, &setting("n", "treasure")).unwrap();
    shared().sql(&format!("ALTER TABLE {} ADD CHECK (revision < 2) NOT VALID", store.table()));
    let error = merge(&store, &id_hash, &setting("n", "treasure chest")).unwrap_err();
    let data = b"treasure".iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let text = error.to_string();
    assert!(text.contains("violates check constraint"), "{text}");
    assert!(!text.contains("treasure") && !text.contains(&data), "{text}");
}

#[test]
fn a_touch_that_one_row_refuses_reaches_the_others() {
    let store = shared().store();
    let [refused, other] = [(); 2].map(|()| create(&store, &Delta::new()).unwrap());
    let bytes = crate::common::hex(&refused);
    fail_updates(shared(), store.table(), "P0001", &format!("NEW.id_hash = '\\x{bytes}'"));
    let later = NOW + HOUR;
    let batch = [(refused, Touch::at(later)), (other, Touch::at(later))];
    let Err(TouchError::Sessions(failed)) = store.touch(&batch, later) else {
        panic!("one touch fails")
    };
    assert_eq!(failed.iter().map(|((id_hash, _), _)| *id_hash).collect::<Vec<_>>(), [refused]);
    assert_eq!(live(&store, &other).unwrap().unwrap().seen, later);
    assert_eq!(live(&store, &refused).unwrap().unwrap().seen, NOW);
}

#[test]
fn a_lost_table_is_not_set_up() {
    let store = shared().store();
    shared().sql(&format!("DROP TABLE {} CASCADE", store.table()));
    let error = store.load(&new_id_hash(), NOW).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotSetUp, "{error}");
    let error = create(&store, &Delta::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotSetUp, "{error}");
}

#[test]
fn every_character_survives() {
    let store = shared().store();
    for text in ["a\0b", "\u{10ffff}\u{feff}", "1E5", "\\u0000 \\x00", "'; DROP TABLE x; --"] {
        let id_hash = create(&store, &setting("n", text)).unwrap();
        let record = live(&store, &id_hash).unwrap().unwrap();
        assert_eq!(crate::common::value::<String>(&record, "n").unwrap(), text);
    }
}

#[test]
fn a_row_that_does_not_decode_is_reported_and_stays() {
    let store = shared().store();
    let id_hash = create(&store, &setting("n", 1)).unwrap();
    for sql in [
        "format = 99",
        "format = 1, data = 'x'",
        "data = '\\xff'",
        "data = '{}', idle = -1",
        "idle = NULL, auth_level = -1",
        "auth_level = 2, user_key = ''",
    ] {
        shared().sql(&format!("UPDATE {} SET {sql}", store.table()));
        let found = store.load(&id_hash, NOW).unwrap();
        assert!(
            matches!(
                found,
                cloakroom::backend::Loaded::Unreadable(
                    cloakroom::backend::Unreadable::Undecodable { .. }
                )
            ),
            "{sql}: {found:?}"
        );
    }
    let index = store.index().unwrap();
    assert_eq!(index.stats(NOW).unwrap().live, 1);
    let listed = index.list(&SessionFilter::All, Page::first(NonZeroUsize::MIN), NOW).unwrap();
    assert_eq!(listed[0].auth_level, 2, "only the malformed column is left out");
}
