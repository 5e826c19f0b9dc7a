//! URLs, names and timeouts.

use std::time::Duration;

use cloakroom::backend::Delta;
use cloakroom::{ErrorKind, PostgresStore};

use super::given::all_succeed;
use crate::common::create;
use crate::common::postgres::{fresh_table, shared};

const MILLI: Duration = Duration::from_millis(1);

#[test]
fn urls_without_sense_are_refused() {
    for bad in [
        "",
        "app.db",
        "postgres://",
        "postgres:///app",
        "postgres://localhost:port/app",
        "postgres://localhost:99999999/app",
        "postgres://localhost/app?nonsense=1",
        "postgres://localhost/app?sslmode=require",
        "mysql://localhost/app",
        "host=localhost nonsense",
    ] {
        let error = PostgresStore::open(bad).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{bad:?}: {error}");
    }
}

#[test]
fn settings_out_of_range_are_refused() {
    let builder = || PostgresStore::builder("postgres://localhost/app");
    for bad in [
        builder().connections(0),
        builder().connections(1001),
        builder().connect_timeout(Duration::ZERO),
        builder().call_timeout(MILLI * 9),
        builder().call_timeout(Duration::from_secs(86_401)),
        builder().statement_timeout(Duration::ZERO),
        builder().statement_timeout(Duration::from_secs(5)),
        builder().table(""),
        builder().table("a b"),
        builder().table("a\"b"),
        builder().table("a;b"),
        builder().table("cloakroom_migrations"),
        builder().table("x".repeat(47)),
        builder().schema(""),
        builder().schema("a\0b"),
        builder().schema("x".repeat(64)),
    ] {
        assert_eq!(bad.validate().unwrap_err().kind(), ErrorKind::Invalid, "{bad:?}");
        assert_eq!(bad.open().unwrap_err().kind(), ErrorKind::Invalid);
    }
    builder().statement_timeout(Duration::from_millis(4999)).validate().unwrap();
}

#[test]
fn debug_output_and_errors_have_no_password() {
    for url in
        ["postgres://app:treasure@127.0.0.1:1/app", "host=127.0.0.1 port=1 password=treasure"]
    {
        let builder = PostgresStore::builder(url);
        let shown = format!("{builder:?} {}", builder.clone().open().unwrap_err());
        assert!(!shown.contains("treasure"), "{shown}");
    }
    let store = shared().store();
    assert!(!format!("{store:?}").contains("password: Some(\""), "{store:?}");
}

#[test]
fn a_wrong_user_or_database_is_unavailable() {
    for url in [
        shared().url_of("stranger"),
        format!("postgres://postgres@127.0.0.1:{}/no_such_database", shared().port()),
        "postgres://postgres@127.0.0.1:1/postgres".to_owned(),
    ] {
        let error = PostgresStore::open(&url).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    }
}

#[test]
fn names_are_quoted() {
    let longest = "s".repeat(63);
    for schema in ["two words", "a\"b", "a;b", "a'b", "Schema", "é", "{t}", "select", &longest] {
        let table = "T".repeat(46);
        for open in 0..2 {
            let store = shared().builder_in(&table).schema(schema).open().unwrap();
            assert_eq!((store.schema(), store.table()), (schema, &*table));
            let id_hash = create(&store, &Delta::new()).unwrap();
            all_succeed(&store, &id_hash);
            assert!(open < 2);
        }
    }
}

#[test]
fn names_of_other_case_are_other_tables() {
    let lower = fresh_table();
    let upper = lower.to_uppercase();
    let [lower, upper] = [lower, upper].map(|name| shared().builder_in(&name).open().unwrap());
    create(&lower, &Delta::new()).unwrap();
    assert_eq!(shared().sql(&format!("SELECT count(*) FROM \"{}\"", upper.table())), "0");
}

#[test]
fn a_unix_socket_is_used_like_tcp() {
    let folder = shared().socket_folder();
    let port = shared().port();
    let folder = folder.to_str().unwrap();
    for url in [
        format!("host={folder} port={port} user=postgres dbname=postgres"),
        format!("postgres:///postgres?host={folder}&port={port}&user=postgres"),
    ] {
        let store = PostgresStore::builder(&url).table(fresh_table()).open().unwrap();
        let id_hash = create(&store, &Delta::new()).unwrap();
        all_succeed(&store, &id_hash);
    }
}

#[test]
fn settings_for_a_pooler_prepare_nothing() {
    let store = shared().builder().pooler(true).open().unwrap();
    let id_hash = create(&store, &Delta::new()).unwrap();
    all_succeed(&store, &id_hash);
}
