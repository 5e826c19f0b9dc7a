//! The credential of a client, by each carrier: a cookie, plain or sealed, or a header.

use cloakroom::adapter::{Outcome, RequestHead, ResponseHeaders};
use cloakroom::cookie::CookieKeys;
use cloakroom::manager::SessionManagerBuilder;
use cloakroom::{CookieConfig, Session, SessionManager};

use super::app::sign_in;

/// The id that a client received: name and value of a cookie or a header.
#[derive(Clone, Debug, PartialEq)]
pub struct Credential {
    pub name: String,
    pub value: String,
}

impl Credential {
    pub fn of(headers: &ResponseHeaders) -> Credential {
        let (field, text) = headers.id_fields.first().expect("an id");
        match field.eq_ignore_ascii_case("Set-Cookie") {
            true => {
                let (name, value) = text.split(';').next().unwrap().split_once('=').unwrap();
                Credential { name: name.to_owned(), value: value.to_owned() }
            }
            false => Credential { name: field.to_string(), value: text.clone() },
        }
    }

    /// Presents the value as what the manager takes, under its own name.
    pub fn open(&self, sessions: &SessionManager, name: &str) -> Session {
        let cookie = format!("{name}={}", self.value);
        sessions.open(RequestHead::new().cookie(&cookie).id(&self.value))
    }

    pub fn user(&self, sessions: &SessionManager, name: &str) -> Option<String> {
        let session = self.open(sessions, name);
        let user = session.user().unwrap().map(|user| user.as_str().to_owned());
        sessions.close(&session, Outcome::Completed).unwrap();
        user
    }
}

pub fn sign_in_as(sessions: &SessionManager, name: &str) -> Credential {
    let session = sessions.open(None);
    sign_in(&session, name);
    Credential::of(&sessions.close(&session, Outcome::Completed).unwrap())
}

fn keys() -> CookieKeys {
    CookieKeys::new([[7; 64]]).unwrap()
}

pub type Configure = fn(SessionManagerBuilder, &str) -> SessionManagerBuilder;

/// The ways in which a manager's ids can travel, under this name.
pub const CARRIERS: [(&str, Configure); 4] = [
    ("plain", |builder, name| builder.cookie(CookieConfig::new().name(name))),
    ("signed", |builder, name| builder.cookie(CookieConfig::new().name(name).signed(keys()))),
    ("encrypted", |builder, name| builder.cookie(CookieConfig::new().name(name).encrypted(keys()))),
    ("header", |builder, name| builder.header(name)),
];
