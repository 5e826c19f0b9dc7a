//! The page of a user's sessions of docs/devices.md.

use cloakroom::manager::UserSession;
use cloakroom::{Result, Session, SessionManager};
use rocket::form::{Form, FromForm};
use rocket::response::Redirect;
use rocket::response::content::RawHtml;
use rocket::{get, post};

#[get("/sessions")]
fn list(sessions: &SessionManager, session: &Session) -> Result<RawHtml<String>> {
    let Some(user) = session.user()? else { return Ok(RawHtml("Sign in first.".to_owned())) };
    let list = sessions.list_for_user(&user, Some(session))?;
    let rows = list.sessions.iter().map(row).collect::<String>();
    let others = "<form method=post action=/sessions/end-others><button>End the others</button>";
    Ok(RawHtml(format!("<ul>{rows}</ul>{others}</form>")))
}

fn row(UserSession { summary, is_current, .. }: &UserSession) -> String {
    let client = summary.client.as_ref();
    let agent = client.and_then(|client| client.user_agent.as_deref()).unwrap_or("unknown");
    let agent = agent.replace('&', "&amp;").replace('<', "&lt;");
    let address = client.and_then(|client| client.address);
    let address = address.map_or("unknown address".to_owned(), |address| address.to_string());
    let (public_id, created, seen) = (&summary.public_id, summary.created, summary.seen);
    let end = match is_current {
        true => "this session".to_owned(),
        false => format!("<button name=public_id value={public_id}>End it</button>"),
    };
    let text = format!("{agent}, {address}, since {created}, seen {seen}");
    format!("<li><form method=post action=/sessions/end>{text} {end}</form></li>")
}

#[derive(FromForm)]
struct Chosen<'r> {
    public_id: &'r str,
}

#[post("/sessions/end", data = "<form>")]
fn end_one(
    sessions: &SessionManager,
    session: &Session,
    form: Form<Chosen<'_>>,
) -> Result<Redirect> {
    if let (Some(user), Ok(public_id)) = (session.user()?, form.public_id.parse()) {
        // False if the session had already ended, or is another user's.
        let _ended: bool = sessions.revoke(&user, &public_id, Some(session))?;
    }
    Ok(Redirect::to("/sessions"))
}

#[post("/sessions/end-others")]
fn end_others(sessions: &SessionManager, session: &Session) -> Result<Redirect> {
    sessions.revoke_others(session)?;
    Ok(Redirect::to("/sessions"))
}

mod checks {
    use cloakroom::{MemoryStore, SignIn, UserKey};
    use rocket::http::{ContentType, Header, Status};
    use rocket::local::blocking::Client;
    use rocket::routes;

    use super::*;
    use crate::bare;
    use crate::pages::assert_shown;

    #[post("/sign-in")]
    fn sign_in(session: &Session) -> Result<()> {
        assert_eq!(session.sign_in(UserKey::new("ada")?)?, SignIn::Done);
        Ok(())
    }

    fn sessions() -> SessionManager {
        let manager = SessionManager::builder(MemoryStore::new());
        manager.record_user_agent(true).record_address(true).build().unwrap()
    }

    /// A client that is signed in.
    fn device(sessions: &SessionManager) -> Client {
        let rocket = bare().attach(sessions.clone());
        let routes = routes![sign_in, list, end_one, end_others];
        let client = Client::tracked(rocket.mount("/", routes)).unwrap();
        let agent = Header::new("User-Agent", "<b>&");
        let address = "192.0.2.1:80".parse().unwrap();
        let response = client.post("/sign-in").header(agent).remote(address).dispatch();
        assert_eq!(response.status(), Status::Ok);
        drop(response);
        client
    }

    fn page(client: &Client) -> String {
        client.get("/sessions").dispatch().into_string().unwrap()
    }

    #[test]
    fn a_button_of_the_page_ends_another_session() {
        let sessions = sessions();
        let [phone, laptop] = [device(&sessions), device(&sessions)];
        let html = page(&laptop);
        assert_eq!(html.matches("<li>").count(), 2, "{html}");
        assert_eq!(html.matches("&lt;b>&amp;, 192.0.2.1, since 20").count(), 2, "{html}");
        let (_, button) = html.split_once("value=").unwrap();
        let form = format!("public_id={}", button.split('>').next().unwrap());
        let ended = laptop.post("/sessions/end").header(ContentType::Form).body(form).dispatch();
        assert_eq!(ended.status(), Status::SeeOther);
        drop(ended);
        let html = page(&laptop);
        assert!(html.contains("this session") && !html.contains("End it"), "{html}");
        assert_eq!(page(&phone), "Sign in first.");
    }

    #[test]
    fn a_button_of_the_page_ends_the_other_sessions() {
        let sessions = sessions();
        let [phone, tablet, laptop] = [(); 3].map(|()| device(&sessions));
        let ended = laptop.post("/sessions/end-others").dispatch().status();
        assert_eq!(ended, Status::SeeOther);
        let html = page(&laptop);
        assert_eq!(html.matches("<li>").count(), 1, "{html}");
        assert_eq!([phone, tablet].map(|client| page(&client)), ["Sign in first."; 2]);
    }

    #[test]
    fn the_page_on_devices_shows_the_tested_list() {
        assert_shown(include_str!("devices.rs"), include_str!("../../../docs/devices.md"));
    }
}
