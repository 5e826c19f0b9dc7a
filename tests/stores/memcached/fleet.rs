//! Three servers, of which one is away for a while, under the users of a manager.

use std::time::Duration;

use cloakroom::adapter::Outcome;
use cloakroom::clock::ManualClock;
use cloakroom::stores::memcached::MemcachedStore;
use cloakroom::{ErrorKind, Lifetime, SessionManager};

use crate::common::NOW;
use crate::common::app::{Browser, sign_in, user_of};
use crate::common::memcached::Memcached;

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn a_dead_server_ends_no_session_of_the_others() {
    let servers = [Memcached::start(), Memcached::start(), Memcached::start()];
    let addresses = servers.iter().map(|server| server.address.to_string());
    let store = MemcachedStore::builder().servers(addresses).open().unwrap();
    let clock = ManualClock::new(NOW);
    let builder = SessionManager::builder(store).clock(clock.clone());
    let sessions = builder.lifetime(Lifetime::idle(MINUTE * 30)).build().unwrap();
    let mut browsers: Vec<Browser> = (0..60).map(|_| Browser::with("")).collect();
    for (number, browser) in browsers.iter_mut().enumerate() {
        browser.request(&sessions, |session| sign_in(session, &format!("user {number}")));
    }
    let read = |browser: &mut Browser| {
        browser.try_request(&sessions, Outcome::Completed, |session| drop(session.user()))
    };

    // Activity of the first server's sessions waits to be written when it dies.
    clock.advance(MINUTE);
    browsers.iter_mut().for_each(|browser| drop(read(browser).unwrap()));
    servers[0].kill();
    let (mut there, mut here): (Vec<_>, Vec<_>) =
        browsers.into_iter().partition(|browser| browser.open(&sessions).user().is_err());
    assert!((5..40).contains(&there.len()), "{} of 60 are on the first server", there.len());
    let mut ended = here.split_off(here.len() / 2);
    for browser in &ended {
        let session = browser.open(&sessions);
        session.destroy().unwrap();
        sessions.close(&session, Outcome::Completed).unwrap();
    }
    assert_eq!(sessions.flush().unwrap_err().kind(), ErrorKind::Unavailable);
    // Users of all servers are active, the dead one's in vain, for longer than the idle limit.
    for _ in 0..40 {
        clock.advance(MINUTE);
        there.iter_mut().take(1).chain(&mut here).for_each(|browser| drop(read(browser)));
        let _ = sessions.flush();
    }
    assert!(here.iter().all(|browser| user_of(&sessions, browser).is_some()), "none ended early");
    for browser in &there {
        let failed = browser.open(&sessions).user().unwrap_err();
        assert_eq!(failed.kind(), ErrorKind::Unavailable);
    }

    servers[0].start_again();
    assert!(there.iter().all(|browser| user_of(&sessions, browser).is_none()), "lost with it");
    assert!(ended.iter_mut().all(|browser| user_of(&sessions, browser).is_none()), "stay ended");
    assert!(here.iter().all(|browser| user_of(&sessions, browser).is_some()));
    sessions.flush().unwrap();
}
