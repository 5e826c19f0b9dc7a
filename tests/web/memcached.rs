//! Services on memcached, and on a database with memcached in front, driven on a real socket.

use std::net::SocketAddr;

use crate::common::client::{COOKIE, HttpClient, Request, Response, send};
use crate::common::memcached::Memcached;
use crate::common::scripted_app::{FRAMEWORKS, Framework, ScriptedApp, Server};
use crate::common::{Folder, cached_store};
use cloakroom::backend::Store;
use cloakroom::stores::memcached::MemcachedStore;
use cloakroom::stores::memory::MemoryCache;
use cloakroom::{SessionManager, SqliteStore};

/// An intervention in a memcached.
type Act = fn(&Memcached);

/// Starts a service on a store, as its process does when it is started again.
fn serve(framework: &Framework, store: impl Store) -> Server {
    let app = ScriptedApp::new(SessionManager::new(store).unwrap());
    (framework.serve)(app, SocketAddr::from(([127, 0, 0, 1], 0)))
}

fn with_cookie(address: SocketAddr, path: &str, id: &str) -> Response {
    send(address, &Request::get(path).cookie(format!("{COOKIE}={id}"))).unwrap()
}

/// The story that the author of the memcached seed wished for.
fn visits_sign_in_restart_and_sign_out(start: impl Fn() -> Server) {
    let service = start();
    let mut browser = HttpClient::new(service.address);
    for visit in 1..=3 {
        assert_eq!(browser.post("/count").text(), visit.to_string());
    }
    let anonymous = browser.id().to_owned();
    assert_eq!(browser.post("/sign-in:ada").status, 200);
    assert_ne!(browser.id(), anonymous);
    assert_eq!(browser.get("/who/visits").text(), "ada\n3");
    let old = with_cookie(service.address, "/who/visits", &anonymous);
    assert_eq!(old.text(), "none\n0", "the id from before the sign-in is dead");
    assert_eq!(old.session_cookie(), None, "and a late answer takes nothing away");

    drop(service);
    let service = start();
    browser.address = service.address;
    assert_eq!(browser.get("/who/visits").text(), "ada\n3", "still signed in after a restart");
    assert_eq!(browser.post("/count").text(), "4");

    let recorded = browser.id().to_owned();
    assert_eq!(browser.post("/destroy").status, 200);
    assert_eq!(browser.id, None, "the cookie is taken away");
    for address in [service.address, start().address] {
        let replayed = with_cookie(address, "/who/visits", &recorded);
        assert_eq!(replayed.text(), "none\n0", "a recorded cookie is not signed in");
    }
    let late =
        send(service.address, &Request::post("/set:a:b").cookie(format!("{COOKIE}={recorded}")));
    assert_eq!(late.unwrap().status, 200);
    let replayed = with_cookie(service.address, "/who/get:a", &recorded);
    assert_eq!(replayed.text(), "none\nnone", "and no request can write to it");
}

#[test]
fn a_service_on_memcached_survives_restarts() {
    for framework in FRAMEWORKS {
        let server = Memcached::start();
        let store = || server.builder_in("http").open().unwrap();
        visits_sign_in_restart_and_sign_out(|| serve(framework, store()));
    }
}

#[test]
fn a_service_behind_memcached_survives_restarts() {
    for framework in FRAMEWORKS {
        let (server, folder) = (Memcached::start(), Folder::new());
        visits_sign_in_restart_and_sign_out(|| {
            let backing = SqliteStore::open(folder.database()).unwrap();
            serve(framework, cached_store(server.builder_in("http").open().unwrap(), backing))
        });
        let folder = Folder::new();
        visits_sign_in_restart_and_sign_out(|| {
            let backing = SqliteStore::open(folder.database()).unwrap();
            serve(framework, cached_store(MemoryCache::new(), backing))
        });
    }
}

#[test]
fn two_services_on_one_memcached_share_their_sessions() {
    for framework in FRAMEWORKS {
        let server = Memcached::start();
        let store = || server.builder_in("http").open().unwrap();
        let (one, other) = (serve(framework, store()), serve(framework, store()));
        let mut browser = HttpClient::new(one.address);
        browser.post("/sign-in:ada/count");
        browser.address = other.address;
        assert_eq!(browser.post("/who/count").text(), "ada\n2");
        let recorded = browser.id().to_owned();
        browser.post("/destroy");
        assert_eq!(with_cookie(one.address, "/who", &recorded).text(), "none");
    }
}

#[test]
fn a_service_without_its_memcached_answers_503() {
    for framework in FRAMEWORKS {
        let server = Memcached::start();
        let store: MemcachedStore = server.store();
        let service = serve(framework, store);
        let mut browser = HttpClient::new(service.address);
        browser.post("/sign-in:ada/count");
        let id = browser.id().to_owned();
        server.kill();
        for path in ["/who", "/count", "/sign-in:bob", "/destroy"] {
            let response = browser.post(path);
            assert_eq!(response.status, 503, "{path}");
            assert_eq!(response.session_cookie(), None, "{path}");
        }
        assert_eq!(browser.get("/hello").status, 200, "what needs no session goes on");
        server.start_again();
        assert_eq!(browser.get("/who").text(), "none", "what was in memory only is lost");
        assert_eq!(browser.id(), id, "no read removes the cookie");
        browser.post("/sign-in:ada");
        assert_ne!(browser.id(), id);
        assert_eq!(browser.get("/who").text(), "ada");
    }
}

#[test]
fn a_service_without_its_cache_signs_no_user_out() {
    for framework in FRAMEWORKS {
        let (server, folder) = (Memcached::start(), Folder::new());
        let backing = SqliteStore::open(folder.database()).unwrap();
        let service = serve(framework, cached_store(server.store(), backing));
        let mut browser = HttpClient::new(service.address);
        browser.post("/sign-in:ada/count");
        assert_eq!(browser.get("/who").text(), "ada");
        let break_and_mend: [(Act, Act); 2] =
            [(Memcached::kill, Memcached::start_again), (Memcached::freeze, Memcached::thaw)];
        for (n, (breaks, mends)) in (0..).zip(break_and_mend) {
            breaks(&server);
            for visit in 1..=5 {
                let response = browser.post("/who/count");
                assert_eq!(response.status, 200);
                assert_eq!(response.text(), format!("ada\n{}", 1 + visit + n * 10));
            }
            mends(&server);
            for visit in 6..=10 {
                let response = browser.post("/who/count");
                assert_eq!(response.text(), format!("ada\n{}", 1 + visit + n * 10));
            }
        }
        let recorded = browser.id().to_owned();
        server.kill();
        browser.post("/destroy");
        server.start_again();
        assert_eq!(with_cookie(service.address, "/who", &recorded).text(), "none");
    }
}
