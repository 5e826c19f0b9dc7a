//! A server that is killed under load: no answered change is lost, no signed-out session is live.

use std::io;
use std::net::SocketAddr;
use std::sync::mpsc::{self, Sender};

use crate::common::client::{COOKIE, HttpClient, Request, send};
use crate::common::dice::Dice;
use crate::common::integrity::assert_integrity;
use crate::common::scripted_app::{FRAMEWORKS, Framework};
use crate::common::server_process::{serve, start};
use crate::common::{Folder, role};
use cloakroom::{SessionManager, SqliteStore};

const CLIENTS: usize = 4;

#[test]
fn child_process() {
    let Some(role) = role() else { return };
    let store = SqliteStore::open(std::env::var("DATABASE").unwrap()).unwrap();
    serve(&role, SessionManager::new(store).unwrap());
}

/// The promises of the responses to one client.
#[derive(Default)]
struct Promised {
    /// The session that counts, and how far it has counted.
    counter: Option<(HttpClient, u64)>,
    /// Users who are signed in.
    signed_in: Vec<(String, String)>,
    /// Ids that must find no session: replaced by a sign-in, or signed out.
    ended: Vec<String>,
    users: usize,
}

impl Promised {
    /// Sends requests until the server is gone, and a message for each answer.
    fn work(&mut self, address: SocketAddr, client: usize, answered: &Sender<()>) {
        while self.step(address, client).is_ok() {
            if answered.send(()).is_err() {
                return;
            }
        }
    }

    fn step(&mut self, address: SocketAddr, client: usize) -> io::Result<()> {
        let (counter, promised) = self.counter.get_or_insert_with(|| (HttpClient::new(address), 0));
        counter.address = address;
        for _ in 0..3 {
            let response = counter.try_send(Request::post("/count"))?;
            assert_eq!(response.status, 200);
            let count = response.text().parse().unwrap();
            assert_eq!(count, *promised + 1);
            *promised = count;
        }
        self.users += 1;
        let user = format!("user-{client}-{}", self.users);
        let mut visitor = HttpClient::new(address);
        visitor.try_send(Request::post("/count"))?;
        let before = visitor.id().to_owned();
        visitor.try_send(Request::post(format!("/sign-in:{user}/redirect")))?;
        self.ended.push(before);
        let id = visitor.id().to_owned();
        match self.users % 4 {
            0 => self.signed_in.push((user, id)),
            1 => {
                visitor.try_send(Request::post("/renew"))?;
                self.ended.push(id);
                self.signed_in.push((user, visitor.id().to_owned()));
            }
            _ => {
                visitor.try_send(Request::post("/destroy/redirect"))?;
                self.ended.push(id);
            }
        }
        Ok(())
    }

    /// Asserts that the server has kept all promises.
    fn check(&mut self, address: SocketAddr) {
        let read = |path: &str, id: &str| {
            let request = Request::get(path).cookie(format!("{COOKIE}={id}"));
            let response = send(address, &request).unwrap();
            assert_eq!(response.status, 200);
            response.text().to_owned()
        };
        if let Some((counter, promised)) = &mut self.counter
            && let Some(id) = &counter.id
        {
            let stored = read("/visits", id).parse().unwrap();
            // One more may have been in flight when the server was killed.
            assert!((*promised..=*promised + 1).contains(&stored), "{stored}, not {promised}");
            *promised = stored;
        }
        for (user, id) in &self.signed_in {
            assert_eq!(&read("/who", id), user);
        }
        for id in &self.ended {
            assert_eq!(read("/who/visits", id), "none\n0", "an ended session is back");
        }
    }
}

#[test]
fn kills_under_load_lose_no_answer_and_revive_no_session() {
    let mut dice = Dice::new(crate::common::dice::seed());
    let kills =
        crate::common::dice::number("CLOAKROOM_KILLS").map_or(10, |kills| kills.div_ceil(10));
    for Framework { name: framework, .. } in FRAMEWORKS {
        let folder = Folder::new();
        let mut clients: Vec<Promised> = (0..CLIENTS).map(|_| Promised::default()).collect();
        for _ in 0..kills {
            let (mut process, address) = start(module_path!(), framework, &folder);
            let fatal = 5 + dice.roll(100);
            let (answered, answers) = mpsc::channel();
            std::thread::scope(|scope| {
                for (number, client) in clients.iter_mut().enumerate() {
                    let answered = answered.clone();
                    scope.spawn(move || client.work(address, number, &answered));
                }
                drop(answered);
                assert_eq!(answers.iter().take(fatal).count(), fatal, "the server ended by itself");
                process.0.kill().unwrap();
                process.0.wait().unwrap();
            });
            let (_process, address) = start(module_path!(), framework, &folder);
            for client in &mut clients {
                client.check(address);
            }
        }
        assert_integrity(folder.database());
        let ended: usize = clients.iter().map(|client| client.ended.len()).sum();
        let counted: u64 = clients.iter().flat_map(|c| &c.counter).map(|(_, n)| n).sum();
        println!("{framework}: {counted} changes and {ended} ended sessions over {kills} kills");
        assert!(ended > 100, "too few sessions ended before the kills");
    }
}
