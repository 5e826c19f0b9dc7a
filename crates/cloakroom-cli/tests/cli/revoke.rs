//! `revoke`: immediate and permanent, also for a running service.

use std::time::Duration;

use cloakroom::adapter::Outcome;
use cloakroom::{SessionManager, SignIn, UserKey};

use crate::common::Folder;
use crate::fixture::{DAY, answered, begin, count, done, fails, open, run, with_store};

const MINUTE: Duration = Duration::from_secs(60);
const UNKNOWN: &str = "0123456789abcdef0123456789abcdef";

#[test]
fn one_session_is_ended_by_its_public_id() {
    let (folder, store) = with_store();
    for user in [Some("ada"), None] {
        let public_id = begin(&store, user, MINUTE).public_id.to_string();
        begin(&store, user, MINUTE);
        assert_eq!(done(&folder, &["revoke", &public_id]), "ended 1 session\n");
        fails(&folder, &["revoke", &public_id], 4);
        fails(&folder, &["show", &public_id], 4);
    }
    assert_eq!(count(&folder), 2);
    fails(&folder, &["revoke", UNKNOWN], 4);
    let expired = begin(&store, None, 2 * DAY).public_id.to_string();
    fails(&folder, &["revoke", &expired], 4);
}

#[test]
fn all_sessions_of_a_user_are_ended_or_all_but_one() {
    let (folder, store) = with_store();
    let kept = begin(&store, Some("ada"), MINUTE).public_id.to_string();
    begin(&store, Some("ada"), MINUTE);
    begin(&store, Some("ada"), MINUTE);
    begin(&store, Some("ada"), 2 * DAY);
    let others = begin(&store, Some("bob"), MINUTE).public_id.to_string();
    for wrong in [UNKNOWN, &others] {
        let said = fails(&folder, &["revoke", "--user", "ada", "--except", wrong], 4);
        assert!(said.contains("nothing was ended"), "{said}");
    }
    assert_eq!(count(&folder), 5);
    let but_one = ["revoke", "--user", "ada", "--except", &kept];
    assert_eq!(done(&folder, &but_one), "ended 2 sessions in all realms\n");
    fails(&folder, &but_one, 4);
    done(&folder, &["show", &kept]);
    assert_eq!(done(&folder, &["revoke", "--user", "ada"]), "ended 1 session in all realms\n");
    fails(&folder, &["revoke", "--user", "ada"], 4);
    done(&folder, &["show", &others]);
}

#[test]
fn all_sessions_are_ended_after_confirmation() {
    let (folder, store) = with_store();
    begin(&store, Some("ada"), MINUTE);
    begin(&store, None, MINUTE);
    begin(&store, None, 2 * DAY);
    let ran = answered(&folder, &["revoke", "--all"], "yes\n");
    assert_eq!(
        (ran.code, ran.out.as_str()),
        (0, "ended 2 sessions in all realms\n"),
        "{}",
        ran.err
    );
    assert!(ran.err.starts_with("This ends 2 live sessions of table"), "{}", ran.err);
    assert_eq!(count(&folder), 0);
    assert_eq!(run(&folder, &["revoke", "--all", "--yes"]).out, "ended 0 sessions in all realms\n");
}

#[test]
fn a_revocation_affects_the_next_request_of_a_service() {
    let folder = Folder::new();
    let sessions = SessionManager::new(open(&folder)).unwrap();
    let session = sessions.open(None);
    let ada = UserKey::new("ada").unwrap();
    assert_eq!(session.sign_in(ada.clone()).unwrap(), SignIn::Done);
    let headers = sessions.close(&session, Outcome::Completed).unwrap();
    let set = headers.iter().find(|(name, _)| *name == "Set-Cookie").unwrap().1;
    let cookie = set.split(';').next().unwrap();

    let session = sessions.open(Some(cookie));
    assert_eq!(session.user().unwrap(), Some(ada));
    assert_eq!(done(&folder, &["revoke", "--user", "ada"]), "ended 1 session in all realms\n");
    // The request in flight is late, and the next one finds no user.
    session.set("late", true).unwrap();
    sessions.close(&session, Outcome::Completed).unwrap();
    assert_eq!(count(&folder), 0);
    let session = sessions.open(Some(cookie));
    assert_eq!(session.user().unwrap(), None);
    sessions.close(&session, Outcome::Completed).unwrap();
}
