//! The example `sign_in_postgres`, by HTTP, on a real server.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::thread;

use rcgen::generate_simple_self_signed;

use crate::common::client::{HttpClient, Request, Response};
use crate::common::example::program;
use crate::common::postgres::Postgres;
use crate::common::{Folder, KillOnDrop};

const PASSWORD: &str = "correct horse battery";

/// The example as a process of its own.
struct Application {
    _process: KillOnDrop,
    address: SocketAddr,
}

impl Application {
    fn start(server: &Postgres) -> Application {
        Application::start_with(server, |command| command)
    }

    fn start_with(
        server: &Postgres,
        settings: impl Fn(&mut Command) -> &mut Command,
    ) -> Application {
        let mut command = Command::new(program("sign_in_postgres"));
        command.env("DATABASE", server.url()).env_remove("ROOT_CERTIFICATES");
        command.env("ROCKET_PORT", "0").env("ROCKET_CLI_COLORS", "false");
        settings(&mut command).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = KillOnDrop(command.spawn().unwrap());
        let mut lines =
            BufReader::new(process.0.stdout.take().unwrap()).lines().map_while(Result::ok);
        let launched = |line: String| line.split_once("launched from http://")?.1.parse().ok();
        let address = lines.find_map(launched).expect("the example starts");
        // It must not find the pipe full.
        thread::spawn(move || lines.for_each(drop));
        Application { _process: process, address }
    }

    fn visitor(&self) -> HttpClient {
        HttpClient::new(self.address)
    }

    fn user(&self, name: &str) -> HttpClient {
        let mut visitor = self.visitor();
        assert_eq!(location(&submit(&mut visitor, "/sign-up", name, PASSWORD)), "/account");
        visitor
    }
}

fn submit(visitor: &mut HttpClient, path: &'static str, name: &str, password: &str) -> Response {
    submit_fields(visitor, path, [("user", name), ("password", password)])
}

fn submit_fields(
    visitor: &mut HttpClient,
    path: &'static str,
    fields: [(&str, &str); 2],
) -> Response {
    let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    let form = "application/x-www-form-urlencoded";
    let request = Request::new("POST", path).header("Content-Type", form).body(body);
    visitor.try_send(request).unwrap()
}

fn location(response: &Response) -> &str {
    response.one("Location").unwrap_or_else(|| panic!("no redirect: {}", response.text()))
}

/// The name on the page of the account.
fn account(visitor: &mut HttpClient) -> Option<String> {
    let page = visitor.get("/account");
    if page.status == 303 {
        assert_eq!(location(&page), "/sign-in");
        return None;
    }
    assert_eq!(page.status, 200, "{}", page.text());
    let (line, _) = page.text().split_once('\n').unwrap();
    Some(line.strip_prefix("<p>the account of ").unwrap().to_owned())
}

#[test]
fn users_sign_up_in_and_out() {
    let server = Postgres::start();
    let application = Application::start(&server);
    let mut ada = application.user("Ada");
    assert_eq!(account(&mut ada).as_deref(), Some("Ada"));
    let recorded = ada.clone();
    assert_eq!(location(&ada.post("/sign-out")), "/sign-in");
    assert_eq!(account(&mut ada), None);
    assert_eq!(account(&mut recorded.clone()), None);

    let mut visitor = application.visitor();
    for wrong in [("ada", "wrong password!"), ("eve", PASSWORD), ("a\0da", PASSWORD), ("", "")] {
        assert_eq!(submit(&mut visitor, "/sign-in", wrong.0, wrong.1).status, 403, "{wrong:?}");
    }
    assert_eq!(visitor.id, None);
    for refused in ["ADA", "a\0da", "<b>", ""] {
        let status = submit(&mut visitor, "/sign-up", refused, PASSWORD).status;
        assert_eq!(status, if refused == "ADA" { 409 } else { 400 }, "{refused:?}");
    }
    assert_eq!(location(&submit(&mut visitor, "/sign-in", "aDA", PASSWORD)), "/account");
    assert_eq!(account(&mut visitor).as_deref(), Some("Ada"));

    // Another machine on the same database has the session and the user.
    let other = Application::start(&server);
    let mut elsewhere = HttpClient { address: other.address, ..visitor };
    assert_eq!(account(&mut elsewhere).as_deref(), Some("Ada"));
}

#[test]
fn a_new_generation_refuses_the_sessions_of_before() {
    let server = Postgres::start();
    let application = Application::start(&server);
    let mut ada = application.user("ada");
    server.sql("UPDATE users SET generation = generation + 1");
    assert_eq!(account(&mut ada), None);
    assert_eq!(location(&submit(&mut ada, "/sign-in", "ada", PASSWORD)), "/account");
    assert_eq!(account(&mut ada).as_deref(), Some("ada"));
    server.sql("DELETE FROM users");
    assert_eq!(account(&mut ada), None);
}

fn change_password(visitor: &mut HttpClient, old: &str, new: &str) -> Response {
    assert!(visitor.get("/password").text().contains("action=/password"));
    submit_fields(visitor, "/password", [("old", old), ("new", new)])
}

#[test]
fn a_change_of_the_password_ends_the_other_sessions() {
    let server = Postgres::start();
    let application = Application::start(&server);
    let mut ada = application.user("ada");
    let mut phone = application.visitor();
    submit(&mut phone, "/sign-in", "ada", PASSWORD);
    assert_eq!(account(&mut phone).as_deref(), Some("ada"));

    let new = "another horse battery";
    assert_eq!(change_password(&mut ada, "wrong", new).status, 403);
    assert_eq!(change_password(&mut ada, PASSWORD, "short").status, 400);
    assert_eq!(account(&mut phone).as_deref(), Some("ada"));
    let before = ada.clone();
    assert_eq!(location(&change_password(&mut ada, PASSWORD, new)), "/account");
    assert_eq!(account(&mut ada).as_deref(), Some("ada"));
    assert_eq!(account(&mut phone), None);
    assert_eq!(server.sql("SELECT count(*) FROM cloakroom_sessions"), "1");
    assert_ne!(before.id, ada.id);
    assert_eq!(submit(&mut phone, "/sign-in", "ada", PASSWORD).status, 403);
    assert_eq!(location(&submit(&mut phone, "/sign-in", "ada", new)), "/account");
}

#[test]
fn an_outage_of_the_server_is_503_and_ends_no_session() {
    let server = Postgres::start();
    let application = Application::start(&server);
    let mut ada = application.user("ada");
    server.terminate_connections();
    assert_eq!(account(&mut ada).as_deref(), Some("ada"));
    server.kill();
    assert_eq!(ada.get("/account").status, 503);
    let mut visitor = application.visitor();
    assert_eq!(submit(&mut visitor, "/sign-in", "ada", PASSWORD).status, 503);
    server.start_again();
    assert_eq!(account(&mut ada).as_deref(), Some("ada"));
}

#[test]
fn both_kinds_of_connections_are_encrypted() {
    let server = Postgres::start();
    let made = generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    server.require_encryption(&made.cert.pem(), &made.signing_key.serialize_pem());
    let (folder, file) = (Folder::new(), "roots.pem");
    std::fs::write(folder.path(file), made.cert.pem()).unwrap();
    let application = Application::start_with(&server, |command| {
        command.env("ROOT_CERTIFICATES", folder.path(file))
    });
    assert_eq!(account(&mut application.user("ada")).as_deref(), Some("ada"));
}
