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
    Ok(RawHtml(format!("<ul>{}</ul>", list.sessions.iter().map(row).collect::<String>())))
}

fn row(UserSession { summary, is_current, .. }: &UserSession) -> String {
    let agent = summary.client.as_ref().and_then(|client| client.user_agent.as_deref());
    let agent = agent.unwrap_or("unknown").replace('&', "&amp;").replace('<', "&lt;");
    let (public_id, seen) = (&summary.public_id, summary.seen);
    let end = match is_current {
        true => "this session".to_owned(),
        false => format!("<button name=public_id value={public_id}>End it</button>"),
    };
    format!("<li><form method=post action=/sessions/end>{agent}, {seen} {end}</form></li>")
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

    #[test]
    fn a_button_of_the_page_ends_another_session() {
        let manager = SessionManager::builder(MemoryStore::new()).record_user_agent(true);
        let sessions = manager.build().unwrap();
        let device = || {
            let rocket = bare().attach(sessions.clone());
            let client = Client::tracked(rocket.mount("/", routes![sign_in, list, end_one]));
            let client = client.unwrap();
            let agent = Header::new("User-Agent", "<b>&");
            assert_eq!(client.post("/sign-in").header(agent).dispatch().status(), Status::Ok);
            client
        };
        let page = |client: &Client| client.get("/sessions").dispatch().into_string().unwrap();
        let [phone, laptop] = [device(), device()];
        let html = page(&laptop);
        assert_eq!(html.matches("<li>").count(), 2, "{html}");
        assert_eq!(html.matches("&lt;b>&amp;").count(), 2, "{html}");
        let (_, button) = html.split_once("value=").unwrap();
        let form = format!("public_id={}", button.split('>').next().unwrap());
        let ended = laptop.post("/sessions/end").header(ContentType::Form).body(form).dispatch();
        assert_eq!(ended.status(), Status::SeeOther);
        drop(ended);
        let html = page(&laptop);
        assert!(html.contains("this session") && !html.contains("<button"), "{html}");
        assert_eq!(page(&phone), "Sign in first.");
    }

    #[test]
    fn the_page_on_devices_shows_the_tested_list() {
        assert_shown(include_str!("devices.rs"), include_str!("../../../docs/devices.md"));
    }
}
