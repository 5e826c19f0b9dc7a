//! The effects of commands on replaced ids, which are in a separate table.

use std::time::Duration;

use cloakroom::SqliteStore;
use cloakroom::backend::{Action, Commit, CommitAnswer, Delta, Loaded, Store, Unreadable};
use cloakroom::id::SessionIdHash;

use crate::common::{Folder, new_id_hash};
use crate::fixture::{DAY, begin, done, fill, is_intact, now, number, run, with_store};

const MINUTE: Duration = Duration::from_secs(60);

/// A session that was renewed twice: its replaced id hashes, of which the second is within its
/// grace.
struct Renewed {
    replaced: SessionIdHash,
    in_grace: SessionIdHash,
    now: SessionIdHash,
}

fn renewed(store: &SqliteStore) -> Renewed {
    let first = begin(store, Some("ada"), MINUTE).id_hash;
    let renew = |from: &SessionIdHash, grace| {
        let to = new_id_hash();
        let grace_until = Some(now() + MINUTE).filter(|_| grace);
        let action = Action::Renew { to, grace_until };
        let renewed = store.commit(&Commit::new(from, action, Delta::new(), now())).unwrap();
        let CommitAnswer::Done { session, .. } = renewed else { panic!("{renewed:?}") };
        assert_eq!(session.id_hash, to);
        to
    };
    let second = renew(&first, false);
    Renewed { replaced: first, in_grace: second, now: renew(&second, true) }
}

/// True if the store remembers both.
fn are_remembered(store: &SqliteStore, ids: &Renewed) -> bool {
    let found = [&ids.in_grace, &ids.replaced].map(|id_hash| store.load(id_hash, now()).unwrap());
    match &found {
        [
            Loaded::Live(session),
            Loaded::Unreadable(Unreadable::Replaced { session: other, .. }),
        ] => session.id_hash == ids.now && other.id_hash == ids.now,
        _ => false,
    }
}

fn rows(folder: &Folder) -> i64 {
    number(&folder.database(), "SELECT count(*) FROM cloakroom_sessions_replaced")
}

#[test]
fn a_replaced_id_finds_its_session_after_compacting() {
    let (folder, store) = with_store();
    fill(&folder, 3000, false);
    let ids = renewed(&store);
    fill(&folder, 3000, false);
    done(&folder, &["sweep"]);
    let ran = run(&folder, &["compact", "--full", "--yes"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(!ran.err.contains("other tables"), "{}", ran.err);
    assert!(are_remembered(&store, &ids) && is_intact(&folder.database()));
}

#[test]
fn a_kept_copy_keeps_its_replaced_ids() {
    let (folder, store) = with_store();
    let ids = renewed(&store);
    let copy = folder.fresh().display().to_string();
    done(&folder, &["backup", &copy]);
    done(&folder, &["clear", "--yes"]);
    assert_eq!(rows(&folder), 0);
    let ran = run(&folder, &["restore", &copy, "--keep", "--yes"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(!ran.err.contains("other table"), "{}", ran.err);
    assert!(are_remembered(&store, &ids));
}

/// Fails if one of these ids finds a session after the command.
fn assert_find_nothing(store: &SqliteStore, ids: &[SessionIdHash], command: &[&str]) {
    for id_hash in ids {
        let found = store.load(id_hash, now()).unwrap();
        assert!(matches!(found, Loaded::Unreadable(Unreadable::NotFound { .. })), "{command:?}");
    }
}

#[test]
fn ending_all_sessions_removes_their_replaced_ids() {
    let (folder, store) = with_store();
    let _ = renewed(&store);
    let copy = folder.fresh().display().to_string();
    done(&folder, &["backup", &copy]);
    for command in
        [&["clear", "--yes"][..], &["revoke", "--all", "--yes"], &["restore", &copy, "--yes"]]
    {
        let ids = renewed(&store);
        assert!(are_remembered(&store, &ids) && rows(&folder) > 0, "{command:?}");
        done(&folder, command);
        assert_eq!(rows(&folder), 0, "{command:?}");
        assert_find_nothing(&store, &[ids.in_grace, ids.replaced, ids.now], command);
    }
}

#[test]
fn the_replaced_ids_of_a_revoked_session_find_nothing() {
    let (folder, store) = with_store();
    for command in [
        &["revoke", "--user", "ada"][..],
        &["revoke", "--user", "ada", "--realm", "__Host-id"],
        &["revoke", "--all", "--realm", "__Host-id", "--yes"],
    ] {
        let ids = renewed(&store);
        assert!(are_remembered(&store, &ids), "{command:?}");
        done(&folder, command);
        assert_find_nothing(&store, &[ids.in_grace, ids.replaced], command);
    }
}

#[test]
fn a_sweep_removes_forgotten_replaced_ids() {
    let (folder, store) = with_store();
    let _ = renewed(&store);
    done(&folder, &["sweep"]);
    assert_eq!(rows(&folder), 2, "both are remembered for minutes");
    let past = (now() - DAY).as_millis();
    let set = "UPDATE cloakroom_sessions_replaced SET forget_at = ?1 WHERE grace_until IS NULL";
    cloakroom::stores::sqlite::rusqlite::Connection::open(folder.database())
        .unwrap()
        .execute(set, [past])
        .unwrap();
    done(&folder, &["sweep"]);
    assert_eq!(rows(&folder), 1);
}
