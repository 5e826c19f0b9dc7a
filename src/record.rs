//! The stored session: the record, its encoding as JSON, and what is known of an ended session.
//!
//! Invariant: a record of a newer format than `FORMAT` is not decoded.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::clock::Timestamp;
use crate::data::{Data, describe_json_error, undecodable};
use crate::error::Result;
use crate::id::{IdpSessionId, PublicId, Realm, SessionIdHash, UserKey};
use crate::lifetime::{EndReason, Limits};

/// The version of the record format that this crate writes. A record of a higher version was
/// written by a newer version of the crate and is [`Undecodable`](crate::ErrorKind::Undecodable)
/// here.
pub(crate) const FORMAT: u32 = 1;

/// The client that began a session or signed in to it, if the application records it.
///
/// Both fields are personal data: record only what the application shows or needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Client {
    /// The client's address, if it is recorded and known.
    pub address: Option<IpAddr>,
    /// The `User-Agent` header, cut to 256 bytes.
    pub user_agent: Option<Box<str>>,
}

impl Client {
    /// The maximum length of a stored user agent, in bytes.
    pub const MAX_USER_AGENT: usize = 256;

    /// Makes a client. A longer user agent is cut at the last character boundary within 256 bytes.
    #[must_use]
    pub fn new(address: Option<IpAddr>, user_agent: Option<&str>) -> Self {
        let user_agent = user_agent.map(|text| {
            let kept = text.char_indices().map(|(index, c)| index + c.len_utf8());
            let end = kept.take_while(|end| *end <= Self::MAX_USER_AGENT).last().unwrap_or(0);
            text.get(..end).unwrap_or_default().into()
        });
        Client { address, user_agent }
    }

    /// Encodes the client as JSON text, for stores that keep it in its own column.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Every part of the value serializes.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Decodes the text that [`to_json`](Self::to_json) wrote; `None` for any other text.
    #[must_use]
    pub fn from_json(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}

/// The fields of a new session, apart from its data.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NewSession {
    /// The public id. A session that a sign-in finds keeps its own.
    pub public_id: PublicId,
    /// The realm of the manager that begins the session. A session that a sign-in finds is in this
    /// realm already. Defaults to the realm of the default cookie.
    pub realm: Realm,
    /// The limits, counted from the current time.
    pub limits: Limits,
    /// Whether the browser keeps the cookie when it is closed.
    pub persistent: bool,
    /// The client, if the application records it.
    pub client: Option<Client>,
    /// The identity provider's id of the session.
    pub idp_session_id: Option<IdpSessionId>,
    /// The level of the user's authentication. The application defines the meaning of the number.
    pub auth_level: u16,
}

impl NewSession {
    /// Makes the fields of an anonymous, persistent session with these limits and a new public id.
    ///
    /// # Errors
    /// [`Unavailable`](crate::ErrorKind::Unavailable) when the operating system provides no
    /// randomness.
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

/// Activity to record: the time at which a session was last used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Touch {
    /// The time of the activity.
    pub seen: Timestamp,
}

impl Touch {
    /// Makes a touch at `seen`.
    #[must_use]
    pub const fn at(seen: Timestamp) -> Self {
        Touch { seen }
    }
}

/// A stored session.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record {
    /// The public id, which never changes.
    pub public_id: PublicId,
    /// The realm whose managers find the session.
    pub realm: Realm,
    /// The user; `None` for an anonymous session.
    pub user: Option<UserKey>,
    /// The identity provider's id of the session.
    pub idp_session_id: Option<IdpSessionId>,
    /// The level of the user's last proof of identity.
    pub auth_level: u16,
    /// The time at which the session began.
    pub created: Timestamp,
    /// The time of the user's last proof of identity: a sign-in, or
    /// [`confirm_authentication`](crate::Session::confirm_authentication).
    pub authenticated: Option<Timestamp>,
    /// The time of the last recorded activity.
    pub seen: Timestamp,
    /// The time at which the current session id was issued: at the beginning, the last renewal or
    /// the last sign-in.
    pub id_issued: Timestamp,
    /// The limits.
    pub limits: Limits,
    /// Whether the browser keeps the cookie when it is closed.
    pub persistent: bool,
    /// The number of committed changes, which starts at 1. A touch does not count.
    pub revision: u64,
    /// The client that began the session or signed in to it, if the application records it.
    pub client: Option<Client>,
    /// The values of the session.
    pub data: Data,
}

impl Record {
    /// Makes the record of an anonymous session without data that begins at `now`.
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

    /// Returns the time at which the session expires without further activity.
    #[must_use]
    pub fn deadline(&self) -> Timestamp {
        self.limits.deadline(self.seen)
    }

    /// Returns whether the session is live at `now`. At its deadline it has expired.
    #[must_use]
    pub fn is_live(&self, now: Timestamp) -> bool {
        now < self.deadline()
    }

    /// Records the activity of a touch and returns true, or returns false if it is not later than
    /// the recorded activity.
    pub fn touch(&mut self, touch: Touch) -> bool {
        let is_later = touch.seen > self.seen;
        if is_later {
            self.seen = touch.seen;
        }
        is_later
    }

    /// Records the activity of a request whose commit at `now` sets the idle limit to `new_idle`,
    /// if that is `Some`. Returns false if none is due. A changed limit counts from its change,
    /// because the recorded activity may be older than the new limit.
    pub(crate) fn touch_if_due(
        &mut self,
        activity: Option<Touch>,
        new_idle: Option<Duration>,
        now: Timestamp,
    ) -> bool {
        let due = if new_idle.is_some() && new_idle != self.limits.idle {
            Some(activity.unwrap_or(Touch::at(now)))
        } else {
            activity.filter(|touch| self.limits.touch_due(self.seen, touch.seen))
        };
        due.is_some_and(|touch| self.touch(touch))
    }

    /// Encodes the record as JSON text, for stores that keep a record as one value.
    #[must_use]
    pub fn to_json(&self) -> String {
        let fields = JsonRecord {
            format: FORMAT,
            public_id: self.public_id.to_string(),
            realm: self.realm.as_str().to_owned(),
            user: self.user.as_ref().map(|user| user.as_str().into()),
            idp_session_id: self.idp_session_id.as_ref().map(|id| id.as_str().into()),
            auth_level: self.auth_level,
            created: self.created.as_millis(),
            authenticated: self.authenticated.map(Timestamp::as_millis),
            seen: self.seen.as_millis(),
            id_issued: self.id_issued.as_millis(),
            idle: self.limits.idle.map(duration_to_millis),
            absolute: self.limits.absolute_deadline.map(Timestamp::as_millis),
            persistent: self.persistent,
            revision: self.revision,
            client: self.client.clone(),
            data: serde_json::from_str::<&RawValue>(self.data.as_json()).ok(),
        };
        // Every part of the value serializes: numbers, text, and validated JSON.
        serde_json::to_string(&fields).unwrap_or_default()
    }

    /// Decodes the text that [`to_json`](Self::to_json) wrote.
    ///
    /// # Errors
    /// [`Undecodable`](crate::ErrorKind::Undecodable) for any other text, and for a newer format.
    pub fn from_json(text: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let to_error = |source| undecodable(describe_json_error(&source));
        let fields = match serde_json::from_str::<JsonRecord<&RawValue>>(text) {
            Ok(fields) => fields,
            Err(source) => {
                // If the format is newer, that explains the failure better than the field that does
                // not fit.
                check_format(serde_json::from_str::<Format>(text).map_err(to_error)?.format)?;
                return Err(to_error(source));
            }
        };
        check_format(fields.format)?;
        Ok(Record {
            public_id: fields.public_id.parse().map_err(undecodable)?,
            realm: Realm::new(fields.realm).map_err(undecodable)?,
            user: fields.user.map(UserKey::new).transpose().map_err(undecodable)?,
            idp_session_id: fields
                .idp_session_id
                .map(IdpSessionId::new)
                .transpose()
                .map_err(undecodable)?,
            auth_level: fields.auth_level,
            created: Timestamp::from_millis(fields.created),
            authenticated: fields.authenticated.map(Timestamp::from_millis),
            seen: Timestamp::from_millis(fields.seen),
            id_issued: Timestamp::from_millis(fields.id_issued),
            limits: Limits::new(
                fields.idle.map(Duration::from_millis),
                fields.absolute.map(Timestamp::from_millis),
            ),
            persistent: fields.persistent,
            revision: fields.revision,
            client: fields.client,
            data: Data::from_json(fields.data.get())?,
        })
    }
}

/// Refuses a record that a newer version of the crate wrote.
///
/// # Errors
/// [`Undecodable`](crate::ErrorKind::Undecodable) for a format above [`FORMAT`], and for 0.
pub(crate) fn check_format(format: u32) -> Result<()> {
    match format {
        1..=FORMAT => Ok(()),
        other => {
            Err(undecodable(format!("the format is {other}, this version reads 1 to {FORMAT}")))
        }
    }
}

pub(crate) fn duration_to_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The fields of a record in its JSON text.
#[derive(Serialize, Deserialize)]
struct JsonRecord<D> {
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
    client: Option<Client>,
    data: D,
}

/// A session that has ended, as the events name it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndedSession {
    /// The hash of the id that it had last.
    pub id_hash: SessionIdHash,
    /// The public id; `None` if it cannot be read.
    pub public_id: Option<PublicId>,
    /// The user; `None` if the session was anonymous or cannot be read.
    pub user: Option<UserKey>,
    /// The limit that it had reached; `None` if it was live until it was ended.
    pub reached_limit: Option<EndReason>,
}

impl EndedSession {
    /// Makes the value for a session that was live, or cannot be read.
    #[must_use]
    pub const fn new(
        id_hash: SessionIdHash,
        public_id: Option<PublicId>,
        user: Option<UserKey>,
    ) -> Self {
        EndedSession { id_hash, public_id, user, reached_limit: None }
    }

    /// Makes the value for the session of `record`, which was live.
    #[must_use]
    pub fn of(id_hash: SessionIdHash, record: &Record) -> Self {
        EndedSession::new(id_hash, Some(record.public_id), record.user.clone())
    }

    /// Makes the value for the session of `record`, which has expired.
    #[must_use]
    pub fn expired(id_hash: SessionIdHash, record: &Record) -> Self {
        EndedSession::of(id_hash, record)
            .with_reached_limit(record.limits.reached_limit(record.seen))
    }

    /// Returns this with the limit that the session had reached.
    #[must_use]
    pub fn with_reached_limit(self, limit: EndReason) -> Self {
        EndedSession { reached_limit: Some(limit), ..self }
    }
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
        let mut new_session = NewSession::new(Lifetime::default().limits_from(now)).unwrap();
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
    fn a_record_round_trips_through_json() {
        let record = record();
        assert_eq!(Record::from_json(&record.to_json()).unwrap(), record);
    }

    #[test]
    fn malformed_and_newer_records_are_undecodable() {
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
    fn a_touch_never_moves_time_back() {
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
