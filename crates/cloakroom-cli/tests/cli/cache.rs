//! A memcached in front: what is ended in the database is forgotten there too.

use cloakroom::id::UserKey;
use cloakroom::stores::cached::CachedStore;
use cloakroom::{SessionManager, SignIn, SqliteStore};

use crate::common::Folder;
use crate::common::memcached::Memcached;
use crate::fixture::run;

#[test]
fn a_revocation_reaches_the_service_at_once_through_its_cache() {
    let (folder, server) = (Folder::new(), Memcached::start());
    let cache = server.builder_in("front").open().unwrap();
    let store = CachedStore::builder(cache, SqliteStore::open(folder.database()).unwrap());
    let sessions = SessionManager::new(store.build().unwrap()).unwrap();
    let sign_in = || {
        let session = sessions.open(None);
        assert_eq!(session.sign_in(UserKey::new("ada").unwrap()).unwrap(), SignIn::Done);
        let headers = sessions.close(&session, cloakroom::http::Outcome::Completed).unwrap();
        headers.id_fields[0].1.split(';').next().unwrap().to_owned()
    };
    let is_in = |cookie: &str| sessions.open(Some(cookie)).user().unwrap().is_some();
    let address = server.address.to_string();
    let with = |words: &[&str]| {
        let front = ["--memcached", &address, "--namespace", "front"];
        run(&folder, &[words, &front].concat())
    };
    for words in
        [&["revoke", "--user", "ada"][..], &["revoke", "--all", "--yes"], &["clear", "--yes"]]
    {
        let cookie = sign_in();
        assert!(is_in(&cookie) && is_in(&cookie), "from the cache by now");
        let ran = with(words);
        assert_eq!(ran.code, 0, "{words:?}: {ran:?}");
        assert!(!is_in(&cookie), "{words:?}");
    }

    let cookie = sign_in();
    assert!(is_in(&cookie));
    server.kill();
    let ran = with(&["revoke", "--user", "ada"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("nothing was ended"), "{ran:?}");
    assert!(is_in(&cookie), "from the database");
    assert_eq!(run(&folder, &["revoke", "--user", "ada"]).code, 0, "without --memcached");
    assert!(!is_in(&cookie));
}

#[test]
fn nothing_is_ended_while_a_server_cannot_be_invalidated() {
    let (folder, servers) = (Folder::new(), [Memcached::start(), Memcached::start()]);
    assert_eq!(run(&folder, &["setup"]).code, 0);
    let front = servers.each_ref().map(|server| server.address.to_string()).join(",");
    let end_all = ["revoke", "--all", "--yes", "--memcached", &front];
    for server in &servers {
        server.kill();
        let ran = run(&folder, &end_all);
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(ran.err.contains("nothing was ended"), "{ran:?}");
        assert!(ran.err.contains(&server.address.to_string()), "it says which: {ran:?}");
        server.start_again();
        assert_eq!(run(&folder, &end_all).code, 0);
    }
}
