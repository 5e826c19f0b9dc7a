//! The tables: created, migrated, and refused unchanged.

use std::collections::HashSet;
use std::sync::Barrier;

use cloakroom::backend::{Delta, Store, StoreIdentity};
use cloakroom::event::EventKind;
use cloakroom::{ErrorKind, PostgresStore};

use super::given::{CALLS, number};
use crate::common::postgres::{Postgres, fresh_table, shared};
use crate::common::{NOW, create, events, merge, on_threads, setting};

#[test]
fn opening_again_changes_nothing() {
    let table = fresh_table();
    let (events, raised) = events();
    let store = shared().builder_in(&table).events(events.clone()).open().unwrap();
    let id_hash = create(&store, &setting("n", 1)).unwrap();
    let again = shared().builder_in(&table).migrate(false).events(events).open().unwrap();
    assert_eq!(number(&again, &id_hash), 1);
    assert_eq!(identity(&again), identity(&store));
    let raised: Vec<_> = raised.try_iter().collect();
    assert_eq!(raised, [EventKind::Migrated, EventKind::StoreOpened, EventKind::StoreOpened]);
}

fn identity(store: &PostgresStore) -> StoreIdentity {
    store.index().unwrap().identity().unwrap()
}

#[test]
fn tables_from_a_dump_have_an_identity_of_their_own() {
    let [original, copy, other_copy] = [(); 3].map(|()| Postgres::start());
    let table = fresh_table();
    let store = original.builder_in(&table).open().unwrap();
    let id_hash = create(&store, &setting("n", 1)).unwrap();
    let dump = original.dump();
    let mut identities = vec![identity(&store)];
    // In the same way on two new servers, where the numbers of the tables can be the same.
    for server in [&copy, &other_copy] {
        server.load(&dump);
        let store = server.builder_in(&table).migrate(false).open().unwrap();
        assert_eq!(number(&store, &id_hash), 1);
        identities.push(identity(&store));
    }
    // In place of the original.
    original.sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public");
    original.load(&dump);
    identities.push(identity(&store));
    let different: HashSet<_> = identities.iter().map(|it| it.cache_key(&id_hash)).collect();
    assert_eq!(different.len(), identities.len(), "{identities:?}");

    // A user that may not read the number of the server.
    copy.sql("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC");
    copy.sql("CREATE ROLE app LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO app");
    let builder = PostgresStore::builder(&copy.url_of("app")).table(&table).migrate(false);
    let store = builder.open().unwrap();
    assert_eq!(identity(&store), identity(&store));
    assert_ne!(identity(&store), identities[0]);
}

#[test]
fn many_processes_can_set_up_at_once() {
    let table = fresh_table();
    let (events, raised) = events();
    let barrier = Barrier::new(8);
    on_threads(8, || {
        let builder = shared().builder_in(&table).events(events.clone());
        barrier.wait();
        let store = builder.open().unwrap();
        create(&store, &Delta::new()).unwrap();
    });
    assert_eq!(raised.try_iter().filter(|kind| *kind == EventKind::Migrated).count(), 1);
    assert_eq!(shared().sql(&format!("SELECT count(*) FROM {table}")), "8");
}

#[test]
fn tables_that_are_missing_are_not_set_up_without_migrating() {
    let table = fresh_table();
    let error = shared().builder_in(&table).migrate(false).open().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotSetUp, "{error}");
    let found = format!("SELECT count(*) FROM pg_class WHERE relname = '{table}'");
    assert_eq!(shared().sql(&found), "0");
}

#[test]
fn a_newer_schema_is_refused_unchanged() {
    let table = fresh_table();
    shared().builder_in(&table).open().unwrap();
    shared().sql(&format!(
        "INSERT INTO cloakroom_migrations VALUES ('{table}', 99, 'later', 'x', 0, 'later')"
    ));
    let error = shared().builder_in(&table).open().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NewerSchema, "{error}");
    assert!(error.to_string().contains("version 99"), "{error}");
}

#[test]
fn a_changed_migration_is_refused() {
    let table = fresh_table();
    shared().builder_in(&table).open().unwrap();
    shared().sql(&format!(
        "UPDATE cloakroom_migrations SET checksum = 'x' WHERE table_name = '{table}'"
    ));
    let error = shared().builder_in(&table).open().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ForeignTable, "{error}");
}

#[test]
fn a_table_of_another_program_is_refused_unchanged() {
    for suffix in ["", "_meta", "_replaced", "_readable"] {
        let table = fresh_table();
        let foreign = format!("{table}{suffix}");
        shared().sql(&format!("CREATE TABLE {foreign} (a int); INSERT INTO {foreign} VALUES (7)"));
        let error = shared().builder_in(&table).open().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ForeignTable, "{error}");
        assert!(error.to_string().contains(&foreign), "{error}");
        assert_eq!(shared().sql(&format!("SELECT a FROM {foreign}")), "7");
    }
}

#[test]
fn a_table_replaced_by_another_program_is_refused() {
    let table = fresh_table();
    shared().builder_in(&table).open().unwrap();
    shared().sql(&format!("DROP TABLE {table} CASCADE; CREATE TABLE {table} (a int)"));
    let error = shared().builder_in(&table).open().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ForeignTable, "{error}");
}

#[test]
fn dropped_tables_are_set_up_anew() {
    let table = fresh_table();
    shared().builder_in(&table).open().unwrap();
    shared().sql(&format!("DROP TABLE {table} CASCADE"));
    let store = shared().builder_in(&table).open().unwrap();
    create(&store, &Delta::new()).unwrap();
}

#[test]
fn a_history_of_another_program_is_refused() {
    shared().sql("CREATE SCHEMA other; CREATE TABLE other.cloakroom_migrations (a int)");
    let error = shared().builder().schema("other").open().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ForeignTable, "{error}");
}

#[test]
fn a_user_without_rights_cannot_set_up() {
    shared().sql("CREATE ROLE guest LOGIN; REVOKE CREATE ON SCHEMA public FROM guest");
    let builder = PostgresStore::builder(&shared().url_of("guest")).table(fresh_table());
    let error = builder.open().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReadOnly, "{error}");
    assert!(error.to_string().contains("permission denied"), "{error}");
}

#[test]
fn a_user_who_may_only_read_loads_and_changes_nothing() {
    let store = shared().store();
    let id_hash = create(&store, &setting("n", 1)).unwrap();
    shared().sql("CREATE ROLE reader LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader");
    let builder = PostgresStore::builder(&shared().url_of("reader")).table(store.table());
    let reader = builder.migrate(false).open().unwrap();
    assert_eq!(number(&reader, &id_hash), 1);
    let error = merge(&reader, &id_hash, &setting("n", 2)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReadOnly, "{error}");
    let error = create(&reader, &Delta::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReadOnly, "{error}");
}

#[test]
fn a_user_who_may_only_change_the_rows_needs_no_more() {
    let store = shared().store();
    let table = store.table();
    shared().sql(&format!(
        "CREATE ROLE app LOGIN; GRANT SELECT, INSERT, UPDATE, DELETE ON {table}, {table}_replaced, \
         {table}_meta TO app; GRANT SELECT ON cloakroom_migrations TO app"
    ));
    let builder = PostgresStore::builder(&shared().url_of("app")).table(table);
    let app = builder.open().unwrap();
    let id_hash = create(&app, &setting("n", 1)).unwrap();
    super::given::all_succeed(&app, &id_hash);
    app.index().unwrap().revoke_everyone(None, NOW).unwrap();
}

#[test]
fn a_read_only_server_loads_and_refuses_changes() {
    let store = shared().store();
    let id_hash = create(&store, &setting("n", 1)).unwrap();
    let read_only = format!("{}?options=-c%20default_transaction_read_only%3Don", shared().url());
    let replica = PostgresStore::builder(&read_only).table(store.table()).open().unwrap();
    assert_eq!(number(&replica, &id_hash), 1);
    let error = merge(&replica, &id_hash, &setting("n", 2)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReadOnly, "{error}");
    let error = PostgresStore::builder(&read_only).table(fresh_table()).open().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReadOnly, "{error}");
}

#[test]
fn a_replica_loads_and_refuses_changes() {
    let server = Postgres::start();
    let store = server.store();
    let id_hash = create(&store, &setting("n", 1)).unwrap();
    let replica = server.start_replica();
    let read_only = replica.builder_in(store.table()).open().unwrap();
    assert_eq!(number(&read_only, &id_hash), 1);
    for (name, call) in CALLS {
        let result = call(&read_only, &id_hash).map_err(|error| error.kind());
        let reads = ["load", "list", "epoch", "maintenance"].contains(&name);
        assert_eq!(result, if reads { Ok(()) } else { Err(ErrorKind::ReadOnly) }, "{name}");
    }
    let error = replica.builder().open().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReadOnly, "{error}");
}

#[test]
fn the_view_shows_sessions_in_readable_form() {
    let store = shared().store();
    create(&store, &setting("name", "Ada")).unwrap();
    let sql = format!("SELECT realm, state, data FROM {}_readable", store.table());
    assert_eq!(shared().sql(&sql), "__Host-id|expired|{\"name\":\"Ada\"}");
}

#[test]
fn a_database_of_another_encoding_is_refused() {
    shared().sql("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0");
    let url = shared().url().replace("/postgres", "/latin").replace("//latin", "//postgres");
    let error = PostgresStore::open(&url).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(error.to_string().contains("LATIN1"), "{error}");
}
