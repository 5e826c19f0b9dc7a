//! A session as it is stored: whose it is, its limits, its data; and its encoding.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::clock::Timestamp;
use crate::data::{Data, undecodable, without_data};
use crate::error::Result;
use crate::id::{IdpSessionId, PublicId, Realm, UserKey};
use crate::lifetime::Limits;

/// The number of the format that this version writes. A record with a higher one was written by
/// a newer version and is undecodable here.
pub const FORMAT: u32 = 1;

/// What is known of the client that began a session, when the application asked for it.
///
/// This is personal data: keep it only if somebody will look at it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Client {
    /// The address.
    pub address: Option<IpAddr>,
    /// The user agent, cut to 256 bytes.
    pub user_agent: Option<Box<str>>,
}

impl Client {
    /// The longest user agent that is kept, in bytes.
    pub const MAX_USER_AGENT: usize = 256;

    /// A client; a longer user agent is cut at 256 bytes, before the character that crosses them.
    #[must_use]
    pub fn new(address: Option<IpAddr>, user_agent: Option<&str>) -> Self {
        let user_agent = user_agent.map(|text| {
            let kept = text.char_indices().map(|(at, c)| at + c.len_utf8());
            let end = kept.take_while(|end| *end <= Self::MAX_USER_AGENT).last().unwrap_or(0);
            text.get(..end).unwrap_or_default().into()
        });
        Client { address, user_agent }
    }

    /// The client as JSON text, for stores that keep it in a column of its own.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Nothing in it can fail to serialize.
        serde_json::to_string(&WireClient::from(self)).unwrap_or_default()
    }

    /// Reads what [`to_json`](Self::to_json) wrote; `None` for anything else.
    #[must_use]
    pub fn from_json(text: &str) -> Option<Self> {
        serde_json::from_str::<WireClient>(text).ok().map(Client::from)
    }
}

impl From<&Client> for WireClient {
    fn from(client: &Client) -> Self {
        WireClient { address: client.address, user_agent: client.user_agent.clone() }
    }
}

impl From<WireClient> for Client {
    fn from(wire: WireClient) -> Self {
        Client { address: wire.address, user_agent: wire.user_agent }
    }
}

/// What a new session begins with, apart from its data.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NewSession {
    /// Its public name.
    pub public_id: PublicId,
    /// The realm of the manager that begins it. Defaults to that of the default cookie.
    pub realm: Realm,
    /// Its limits, already counted from now.
    pub limits: Limits,
    /// Whether the browser keeps its cookie when it is closed.
    pub persistent: bool,
    /// The client, if the application keeps that.
    pub client: Option<Client>,
    /// The name the identity provider has for it.
    pub idp_session_id: Option<IdpSessionId>,
    /// How strongly its user is authenticated; the application gives the number its meaning.
    pub auth_level: u16,
}

impl NewSession {
    /// A session with these limits and a new handle.
    ///
    /// # Errors
    /// [`Unavailable`](crate::ErrorKind::Unavailable) when the operating system gives no randomness.
    pub fn new(limits: Limits) -> Result<Self> {
        Ok(NewSession {
            public_id: PublicId::generate()?,
            realm: Realm::default(),
            limits,
            persistent: true,
            client: None,
            idp_session_id: None,
            auth_level: 0,
        })
    }
}

/// Activity, to be recorded as the time a session was last seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Touch {
    /// When the session was used.
    pub seen: Timestamp,
}

impl Touch {
    /// Activity at `seen`.
    #[must_use]
    pub const fn at(seen: Timestamp) -> Self {
        Touch { seen }
    }
}

/// A session as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record {
    /// Its public name, the same for its whole life.
    pub public_id: PublicId,
    /// The realm whose managers find it.
    pub realm: Realm,
    /// Whose it is; `None` for an anonymous session.
    pub user: Option<UserKey>,
    /// The name the identity provider has for it.
    pub idp_session_id: Option<IdpSessionId>,
    /// How strongly its user is authenticated.
    pub auth_level: u16,
    /// When it began.
    pub created: Timestamp,
    /// When its user last signed in.
    pub authenticated: Option<Timestamp>,
    /// The last stored activity.
    pub seen: Timestamp,
    /// When it got the id that it has: at its beginning, its last renewal or sign-in.
    pub id_issued: Timestamp,
    /// Its limits.
    pub limits: Limits,
    /// Whether the browser keeps its cookie when it is closed.
    pub persistent: bool,
    /// Counts the committed changes, from 1. A touch does not count.
    pub revision: u64,
    /// The client that began it, if the application keeps that.
    pub client: Option<Client>,
    /// The data.
    pub data: Data,
}

impl Record {
    /// The record of a session that begins `now`, anonymous and without data.
    #[must_use]
    pub fn create(new_session: &NewSession, now: Timestamp) -> Self {
        Record {
            public_id: new_session.public_id,
            realm: new_session.realm.clone(),
            user: None,
            idp_session_id: new_session.idp_session_id.clone(),
            auth_level: new_session.auth_level,
            created: now,
            authenticated: None,
            seen: now,
            id_issued: now,
            limits: new_session.limits,
            persistent: new_session.persistent,
            revision: 1,
            client: new_session.client.clone(),
            data: Data::default(),
        }
    }

    /// When it ends if nothing more happens.
    #[must_use]
    pub fn deadline(&self) -> Timestamp {
        self.limits.deadline(self.seen)
    }

    /// Whether it lives at `now`. At its deadline it does not.
    #[must_use]
    pub fn is_live(&self, now: Timestamp) -> bool {
        now < self.deadline()
    }

    /// Records activity; false if that is no news. Time never moves back.
    pub fn touch(&mut self, touch: Touch) -> bool {
        let news = touch.seen > self.seen;
        if news {
            self.seen = touch.seen;
        }
        news
    }

    /// The whole record as JSON text, for stores that keep a record as one value.
    #[must_use]
    pub fn to_json(&self) -> String {
        let wire = Wire {
            format: FORMAT,
            public_id: self.public_id.to_string(),
            realm: self.realm.as_str().to_owned(),
            user: self.user.as_ref().map(|user| user.as_str().into()),
            idp_session_id: self.idp_session_id.as_ref().map(|id_hash| id_hash.as_str().into()),
            auth_level: self.auth_level,
            created: self.created.as_millis(),
            authenticated: self.authenticated.map(Timestamp::as_millis),
            seen: self.seen.as_millis(),
            id_issued: self.id_issued.as_millis(),
            idle: self.limits.idle.map(duration_to_millis),
            absolute: self.limits.absolute.map(Timestamp::as_millis),
            persistent: self.persistent,
            revision: self.revision,
            client: self.client.as_ref().map(WireClient::from),
            data: serde_json::from_str::<&RawValue>(self.data.as_json()).ok(),
        };
        // Nothing in the wire format can fail to serialize: numbers, text, and checked JSON.
        serde_json::to_string(&wire).unwrap_or_default()
    }

    /// Reads what [`to_json`](Self::to_json) wrote.
    ///
    /// # Errors
    /// [`Undecodable`](crate::ErrorKind::Undecodable) for anything else, and for a newer format.
    pub fn from_json(text: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let json = |source| undecodable(without_data(&source));
        let wire = match serde_json::from_str::<Wire<&RawValue>>(text) {
            Ok(wire) => wire,
            Err(source) => {
                // A newer format says more about it than what does not fit into this one.
                check_format(serde_json::from_str::<Format>(text).map_err(json)?.format)?;
                return Err(json(source));
            }
        };
        check_format(wire.format)?;
        Ok(Record {
            public_id: wire.public_id.parse().map_err(undecodable)?,
            realm: Realm::new(wire.realm).map_err(undecodable)?,
            user: wire.user.map(UserKey::new).transpose().map_err(undecodable)?,
            idp_session_id: wire
                .idp_session_id
                .map(IdpSessionId::new)
                .transpose()
                .map_err(undecodable)?,
            auth_level: wire.auth_level,
            created: Timestamp::from_millis(wire.created),
            authenticated: wire.authenticated.map(Timestamp::from_millis),
            seen: Timestamp::from_millis(wire.seen),
            id_issued: Timestamp::from_millis(wire.id_issued),
            limits: Limits::new(
                wire.idle.map(Duration::from_millis),
                wire.absolute.map(Timestamp::from_millis),
            ),
            persistent: wire.persistent,
            revision: wire.revision,
            client: wire.client.map(Client::from),
            data: match wire.data {
                Some(data) => Data::from_json(data.get())?,
                None => return Err(undecodable("there is no data")),
            },
        })
    }
}

/// Refuses a record that a newer version wrote.
///
/// # Errors
/// [`Undecodable`](crate::ErrorKind::Undecodable) for a format above [`FORMAT`], and for 0.
pub(crate) fn check_format(format: u32) -> Result<()> {
    match format {
        1..=FORMAT => Ok(()),
        other => {
            Err(undecodable(format!("its format is {other}, this version knows 1 to {FORMAT}")))
        }
    }
}

pub(crate) fn duration_to_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[derive(Serialize, Deserialize)]
struct Wire<D> {
    format: u32,
    public_id: String,
    realm: String,
    user: Option<String>,
    idp_session_id: Option<String>,
    auth_level: u16,
    created: i64,
    authenticated: Option<i64>,
    seen: i64,
    id_issued: i64,
    idle: Option<u64>,
    absolute: Option<i64>,
    persistent: bool,
    revision: u64,
    client: Option<WireClient>,
    data: Option<D>,
}

#[derive(Serialize, Deserialize)]
struct WireClient {
    address: Option<IpAddr>,
    user_agent: Option<Box<str>>,
}

/// A session as a list shows it: everything but its data.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// Its public name.
    pub public_id: PublicId,
    /// The realm whose managers find it.
    pub realm: Realm,
    /// Whose it is.
    pub user: Option<UserKey>,
    /// The name the identity provider has for it.
    pub idp_session_id: Option<IdpSessionId>,
    /// How strongly its user is authenticated.
    pub auth_level: u16,
    /// When it began.
    pub created: Timestamp,
    /// When its user last signed in.
    pub authenticated: Option<Timestamp>,
    /// The last stored activity.
    pub seen: Timestamp,
    /// When it ends if nothing more happens.
    pub deadline: Timestamp,
    /// Whether the browser keeps its cookie when it is closed.
    pub persistent: bool,
    /// The client that began it, if the application keeps that.
    pub client: Option<Client>,
    /// The size of its data, in bytes of JSON.
    pub bytes: usize,
    /// Its place in the list, to go on from.
    pub cursor: Cursor,
}

impl Summary {
    /// The summary of `record`, which stands at `cursor`.
    #[must_use]
    pub fn of(record: &Record, cursor: Cursor) -> Self {
        Summary {
            public_id: record.public_id,
            realm: record.realm.clone(),
            user: record.user.clone(),
            idp_session_id: record.idp_session_id.clone(),
            auth_level: record.auth_level,
            created: record.created,
            authenticated: record.authenticated,
            seen: record.seen,
            deadline: record.deadline(),
            persistent: record.persistent,
            client: record.client.clone(),
            bytes: record.data.as_json().len(),
            cursor,
        }
    }
}

/// A place in a list of sessions. It names no session and means nothing to another store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor(i64);

impl Cursor {
    /// The place `position`; a store chooses what its positions mean, newer sessions higher.
    #[must_use]
    pub const fn new(position: i64) -> Self {
        Cursor(position)
    }

    /// The position.
    #[must_use]
    pub const fn position(self) -> i64 {
        self.0
    }
}

/// How many sessions a store holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Live sessions.
    pub live: u64,
    /// Sessions that have ended and were not swept yet.
    pub expired: u64,
    /// Live sessions with a user.
    pub signed_in: u64,
    /// When the oldest live session began.
    pub oldest: Option<Timestamp>,
    /// When the newest live session began.
    pub newest: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Value;
    use crate::delta::Delta;
    use crate::error::ErrorKind;
    use crate::lifetime::Lifetime;

    fn record() -> Record {
        let now = Timestamp::from_millis(1_700_000_000_123);
        let mut new_session = NewSession::new(Lifetime::default().starting(now)).unwrap();
        new_session.client = Some(Client::new("::1".parse().ok(), Some("curl/8 \"quoted\"")));
        new_session.idp_session_id = Some(IdpSessionId::new("sid-1").unwrap());
        new_session.auth_level = 2;
        let mut record = Record::create(&new_session, now);
        record.user = Some(UserKey::new("søren").unwrap());
        record.authenticated = Some(now);
        let mut delta = Delta::new();
        delta.set("cart", Value::encode(&[1, 2, 3]).unwrap());
        delta.set("a \"name\"\n\\", Value::encode("tab\t").unwrap());
        delta.apply(&mut record);
        record
    }

    #[test]
    fn a_record_survives_its_encoding() {
        let record = record();
        assert_eq!(Record::from_json(&record.to_json()).unwrap(), record);
    }

    #[test]
    fn what_is_not_a_record_of_this_or_an_older_format_is_undecodable() {
        let newer = record().to_json().replace("\"format\":1", "\"format\":2");
        let no_data = record().to_json().replace("\"data\"", "\"date\"");
        for bad in ["", "{", "[]", "null", "{\"format\":1}", "{\"format\":0}", &newer, &no_data] {
            assert_eq!(Record::from_json(bad).unwrap_err().kind(), ErrorKind::Undecodable, "{bad}");
        }
    }

    #[test]
    fn a_user_agent_is_cut_between_characters() {
        let long = format!("{}é", "x".repeat(255));
        let client = Client::new(None, Some(&long));
        assert_eq!(client.user_agent.unwrap().len(), 255);
        assert_eq!(Client::new(None, Some("curl")).user_agent.as_deref(), Some("curl"));
    }

    #[test]
    fn time_never_moves_back_in_a_record() {
        let mut record = record();
        let seen = record.seen;
        assert!(!record.touch(Touch::at(seen - Duration::from_secs(1))));
        assert!(!record.touch(Touch::at(seen)));
        assert_eq!(record.seen, seen);
        assert!(record.touch(Touch::at(seen + Duration::from_secs(1))));
        assert_eq!(record.revision, 1);
    }

    #[test]
    fn debug_output_shows_no_session_data() {
        assert!(!format!("{:?}", record()).contains("tab"));
    }
}
