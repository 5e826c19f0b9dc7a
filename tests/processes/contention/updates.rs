//! Many requests that update one session, beside visitors with sessions of their own.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;

use cloakroom::adapter::Outcome;
use cloakroom::{ErrorKind, Session, SessionManager, SqliteStore};

use crate::common::app::{App, Browser, defaults, get, on_both_stores};
use crate::common::client::{self, PATIENCE, Request, send};
use crate::common::faulty::{Call, Faulty};
use crate::common::gate::Gate;
use crate::common::scripted_app::{self, ScriptedApp, Server};
use crate::common::{Folder, on_threads};

fn count_up(session: &Session) {
    session.update("n", |n: Option<u32>| n.unwrap_or(0) + 1).unwrap();
}

/// Sends a request that counts up. Returns false if it was refused because too many others wait.
fn request(app: &App, browser: &Browser) -> bool {
    let session = browser.open(&app.sessions);
    count_up(&session);
    match app.sessions.close(&session, Outcome::Completed) {
        Ok(headers) => {
            assert!(!headers.discarded);
            true
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Busy);
            false
        }
    }
}

#[test]
fn updates_beyond_64_waiting_ones_are_refused_at_once() {
    on_both_stores(defaults, |app| {
        let (shared, other) = (app.visitor(0), app.visitor(0));
        let late = shared.open(&app.sessions);
        count_up(&late);
        assert!(request(&app, &shared));
        let (sender, received) = channel();
        thread::scope(|scope| {
            // Its first commit finds that it was overtaken, the second is made in its turn.
            app.store.hold(Call::Commit).open();
            let control = app.store.hold(Call::Commit);
            let (app, shared, late) = (&app, &shared, &late);
            let first = scope.spawn(|| app.sessions.close(late, Outcome::Completed).is_ok());
            control.wait_until_reached();
            for _ in 0..100 {
                let sender = sender.clone();
                scope.spawn(move || sender.send(request(app, shared)).unwrap());
            }
            // While the first commit is in the store.
            for _ in 0..36 {
                assert!(!received.recv_timeout(PATIENCE).unwrap());
            }
            assert!(request(app, &other));
            control.open();
            for _ in 0..64 {
                assert!(received.recv_timeout(PATIENCE).unwrap());
            }
            assert!(first.join().unwrap());
        });
        assert_eq!((app.stored_n(&shared), app.stored_n(&other)), (Some(66), Some(1)));
    });
}

#[test]
fn updates_of_400_threads_that_are_tried_again_all_count() {
    on_both_stores(defaults, |app| {
        let browser = app.visitor(0);
        on_threads(400, || {
            for _ in 0..8 {
                while !request(&app, &browser) {
                    thread::yield_now();
                }
            }
        });
        assert_eq!(app.stored_n(&browser), Some(3200));
    });
}

#[test]
fn an_update_function_that_panics_leaves_the_session_to_others() {
    on_both_stores(defaults, |app| {
        let (browser, late) = app.open_visitor(1);
        let panics = |n: Option<u32>| match n {
            Some(1) => 2,
            _ => panic!("as planned"),
        };
        late.update("n", panics).unwrap();
        assert!(request(&app, &browser));
        let close = || app.sessions.close(&late, Outcome::Completed);
        assert!(catch_unwind(AssertUnwindSafe(close)).is_err());
        assert!(request(&app, &browser));
        assert_eq!(app.stored_n(&browser), Some(3));
    });
}

#[test]
fn an_update_function_that_blocks_holds_up_no_other_session() {
    on_both_stores(defaults, |app| {
        let browser = app.visitor(1);
        let others: Vec<_> = (0..100).map(|_| app.visitor(0)).collect();
        let late = browser.open(&app.sessions);
        let (gate, control) = Gate::new();
        let gate = Mutex::new(Some(gate));
        let blocks = move |n: Option<u32>| {
            if n != Some(1) {
                gate.lock().unwrap().take().unwrap().pass();
            }
            n.unwrap() + 10
        };
        late.update("n", blocks).unwrap();
        assert!(request(&app, &browser));
        thread::scope(|scope| {
            scope.spawn(|| app.sessions.close(&late, Outcome::Completed).unwrap());
            control.wait_until_reached();
            for other in &others {
                assert!(request(&app, other));
            }
            control.open();
        });
        assert_eq!(app.stored_n(&browser), Some(12));
        assert_eq!(get(&app.sessions, &others[0], "n"), Some(1));
    });
}

/// Serves the application with few threads and with many, from a file.
fn on_servers(test: impl Fn(SocketAddr, &ScriptedApp, &Faulty<SqliteStore>)) {
    type Serve = fn(Arc<ScriptedApp>, SocketAddr) -> Server;
    let rocket = scripted_app::FRAMEWORKS.iter().find(|framework| framework.name == "Rocket");
    let servers: [(&str, Serve); 2] = [
        ("rouille with 100 threads", |app, address| scripted_app::rouille_pool(app, address, 100)),
        ("Rocket", rocket.unwrap().serve),
    ];
    for (name, serve) in servers {
        println!("{name}");
        served(serve, &test);
    }
}

fn served(
    serve: impl Fn(Arc<ScriptedApp>, SocketAddr) -> Server,
    test: impl Fn(SocketAddr, &ScriptedApp, &Faulty<SqliteStore>),
) {
    let folder = Folder::new();
    let store = Faulty::new(SqliteStore::open(folder.database()).unwrap());
    let sessions = SessionManager::new(store.clone()).unwrap();
    let app = ScriptedApp::new(sessions);
    let server = serve(app.clone(), SocketAddr::from(([127, 0, 0, 1], 0)));
    test(server.address, &app, &store);
}

#[test]
fn requests_beyond_64_waiting_ones_get_503_at_once() {
    on_servers(|address, app, store| {
        let (mut shared, mut other) =
            (client::HttpClient::new(address), client::HttpClient::new(address));
        shared.post("/count");
        other.post("/count");
        let gate = app.gate("late");
        let mut late = shared.start(Request::post("/count/gate:late"));
        gate.wait_until_reached();
        shared.post("/count");
        let count = shared.with_cookie(Request::post("/count"));
        let (sender, received) = channel();
        thread::scope(|scope| {
            // Its first commit finds that it was overtaken, the second is made in its turn.
            store.hold(Call::Commit).open();
            let control = store.hold(Call::Commit);
            gate.open();
            control.wait_until_reached();
            for _ in 0..99 {
                let (sender, count) = (sender.clone(), &count);
                scope.spawn(move || sender.send(send(address, count).unwrap().status).unwrap());
            }
            // While the first commit is in the store.
            for _ in 0..35 {
                assert_eq!(received.recv_timeout(PATIENCE).unwrap(), 503);
            }
            assert_eq!(other.post("/count").text(), "2");
            control.open();
            for _ in 0..64 {
                assert_eq!(received.recv_timeout(PATIENCE).unwrap(), 200);
            }
            assert_eq!(late.answer().unwrap().status, 200);
        });
        assert_eq!(shared.get("/visits").text(), "67");
    });
}

#[test]
fn beside_100_clients_of_one_session_no_visitor_fails() {
    let test = |address: SocketAddr, _: &ScriptedApp, _: &Faulty<SqliteStore>| {
        let mut shared = client::HttpClient::new(address);
        shared.post("/count");
        let count = shared.with_cookie(Request::post("/count"));
        let counted = AtomicU32::new(1);
        thread::scope(|scope| {
            for _ in 0..100 {
                scope.spawn(|| {
                    for _ in 0..10 {
                        match send(address, &count).unwrap().status {
                            200 => drop(counted.fetch_add(1, Ordering::SeqCst)),
                            status => assert_eq!(status, 503),
                        }
                    }
                });
            }
            for _ in 0..8 {
                scope.spawn(|| {
                    let mut visitor = client::HttpClient::new(address);
                    for n in 1..=25 {
                        let response = visitor.post("/count");
                        assert_eq!((response.status, response.text()), (200, &*n.to_string()));
                    }
                });
            }
        });
        assert_eq!(shared.get("/visits").text(), counted.into_inner().to_string());
    };
    on_servers(test);
    println!("rouille with 16 threads");
    served(|app, address| scripted_app::rouille_pool(app, address, 16), test);
}
