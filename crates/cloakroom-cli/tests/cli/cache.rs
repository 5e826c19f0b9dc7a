//! A service with a cache in front of the database stops using it after operators' commands.

use std::time::Duration;

use cloakroom::adapter::Outcome;
use cloakroom::clock::{Clock, ManualClock, SystemClock};
use cloakroom::id::UserKey;
use cloakroom::stores::memory::MemoryCache;
use cloakroom::{ErrorKind, SessionManager, SignIn, SqliteStore};

use crate::common::{Folder, cached_store};
use crate::fixture::run;

#[test]
fn a_command_that_ends_sessions_reaches_caches_within_a_second() {
    let folder = Folder::new();
    let database = SqliteStore::open(folder.database()).unwrap();
    let store = cached_store(MemoryCache::new(), database);
    let clock = ManualClock::new(SystemClock.now());
    let sessions = SessionManager::builder(store).clock(clock.clone()).build().unwrap();
    let sign_in = || {
        let session = sessions.open(None);
        assert_eq!(session.sign_in(UserKey::new("ada").unwrap()).unwrap(), SignIn::Done);
        let headers = sessions.close(&session, Outcome::Completed).unwrap();
        headers.id_fields[0].1.split(';').next().unwrap().to_owned()
    };
    let user = |cookie: &str| sessions.open(Some(cookie)).user();
    let copy = folder.path("copy.db");
    assert_eq!(run(&folder, &["backup", copy.to_str().unwrap()]).code, 0);
    for words in [
        &["revoke", "--user", "ada"][..],
        &["revoke", "--all", "--yes"],
        &["clear", "--yes"],
        &["restore", copy.to_str().unwrap(), "--yes"],
        &["drop", "--yes"],
    ] {
        let cookie = sign_in();
        assert!(user(&cookie).unwrap().is_some());
        assert!(user(&cookie).unwrap().is_some(), "from the cache by now");
        let ran = run(&folder, words);
        assert_eq!(ran.code, 0, "{words:?}: {ran:?}");
        clock.advance(Duration::from_secs(1));
        match user(&cookie) {
            Ok(user) => assert_eq!(user, None, "{words:?}"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::NotSetUp, "{words:?}"),
        }
        // After a restore or new tables the cache is not used for two seconds.
        clock.advance(Duration::from_secs(4));
    }
}
