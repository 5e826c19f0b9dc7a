//! The columns of the tables: their names, the values that a write gives them, and their decoding.

use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::types::FromSql;

use crate::backend::{Found, LiveSession, ReplacedBy, ReplacedId};
use crate::clock::Timestamp;
use crate::data::Data;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{IdpSessionId, JoinSalt, PublicId, Realm, SessionIdHash, UserKey};
use crate::lifetime::Limits;
use crate::list::{Cursor, Summary};
use crate::record::{self, Client, EndedSession, FORMAT, Record};
use crate::stores::postgres::connection::Param;
use crate::stores::sql::{idle_millis, malformed, to_int};

/// The columns of a session but `id` and `sweep_at`.
pub(super) const SESSION: [&str; 18] = [
    "id_hash",
    "public_id",
    "realm",
    "user_key",
    "idp_session_id",
    "auth_level",
    "created",
    "authenticated",
    "seen",
    "id_issued",
    "idle",
    "absolute",
    "deadline",
    "persistent",
    "revision",
    "client",
    "format",
    "data",
];

/// The position of `deadline` in [`SESSION`].
pub(super) const DEADLINE: usize = 12;

/// Returns the values of [`SESSION`].
pub(super) fn session_values(new: &LiveSession) -> [Param<'_>; SESSION.len()] {
    let LiveSession { record, id_hash } = new;
    [
        id_hash.as_bytes().into(),
        record.public_id.as_bytes().into(),
        record.realm.as_str().into(),
        Param::Text(record.user.as_ref().map(UserKey::as_str)),
        Param::Text(record.idp_session_id.as_ref().map(IdpSessionId::as_str)),
        i64::from(record.auth_level).into(),
        record.created.as_millis().into(),
        Param::Int(record.authenticated.map(Timestamp::as_millis)),
        record.seen.as_millis().into(),
        record.id_issued.as_millis().into(),
        Param::Int(idle_millis(&record.limits)),
        Param::Int(record.limits.absolute_deadline.map(Timestamp::as_millis)),
        record.deadline().as_millis().into(),
        Param::Bool(record.persistent),
        to_int(record.revision).into(),
        Param::OwnedText(record.client.as_ref().map(Client::to_json)),
        i64::from(FORMAT).into(),
        Param::Bytes(Some(record.data.as_json().as_bytes())),
    ]
}

/// The columns of a replaced id but `id` and `session`.
pub(super) const REPLACED: [&str; 8] = [
    "id_hash",
    "successor",
    "replaced_at",
    "grace_until",
    "by_sign_in",
    "join_salt",
    "had_user",
    "forget_at",
];

/// Returns the values of [`REPLACED`].
pub(super) fn replaced_values(id: &ReplacedId) -> [Param<'_>; REPLACED.len()] {
    let salt = match &id.by {
        ReplacedBy::SignIn { salt } => salt.as_ref().map(|salt| salt.as_bytes().as_slice()),
        ReplacedBy::Renewal { .. } => None,
    };
    [
        id.id_hash.as_bytes().into(),
        id.successor.as_bytes().into(),
        id.replaced_at.as_millis().into(),
        Param::Int(id.grace_until().map(Timestamp::as_millis)),
        Param::Bool(matches!(id.by, ReplacedBy::SignIn { .. })),
        Param::Bytes(salt),
        Param::Bool(id.had_user),
        id.forget_at().as_millis().into(),
    ]
}

/// The key of a row as it was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowKey {
    pub(super) id: i64,
    pub(super) id_hash: SessionIdHash,
}

/// Reads a column. A table with columns of other types is not this program's.
pub(super) fn get<'r, T: FromSql<'r>>(row: &'r Row, column: &str) -> Result<T> {
    row.try_get(column).map_err(|source| {
        Error::with_source(ErrorKind::ForeignTable, "read a stored session", source)
    })
}

pub(super) fn time(row: &Row, column: &str) -> Result<Timestamp> {
    get(row, column).map(Timestamp::from_millis)
}

fn optional_time(row: &Row, column: &str) -> Result<Option<Timestamp>> {
    Ok(get::<Option<i64>>(row, column)?.map(Timestamp::from_millis))
}

/// Reads a column of a fixed number of bytes, which the table checks.
pub(super) fn bytes<const N: usize>(row: &Row, column: &'static str) -> Result<[u8; N]> {
    get::<&[u8]>(row, column)?.try_into().map_err(|_| malformed(column))
}

pub(super) fn id_hash(row: &Row) -> Result<SessionIdHash> {
    bytes(row, "id_hash").map(SessionIdHash::from_bytes)
}

pub(super) fn key(row: &Row) -> Result<RowKey> {
    Ok(RowKey { id: get(row, "id")?, id_hash: id_hash(row)? })
}

/// Reads a session that is about to end, or was deleted, for the events that name it.
pub(super) fn to_ended_session(row: &Row) -> Result<EndedSession> {
    let user = get::<Option<String>>(row, "user_key")?.and_then(|user| UserKey::new(user).ok());
    let public_id = PublicId::from_bytes(bytes(row, "public_id")?);
    Ok(EndedSession::new(id_hash(row)?, Some(public_id), user))
}

/// Reads a user's session that a sweep has removed; `None` if the row names no session.
pub(super) fn swept(row: &Row) -> Result<Option<EndedSession>> {
    if get::<Option<&[u8]>>(row, "id_hash")?.is_none() {
        return Ok(None);
    }
    let idle = get::<Option<i64>>(row, "idle")?.and_then(|idle| u64::try_from(idle).ok());
    let limits = Limits::new(idle.map(Duration::from_millis), optional_time(row, "absolute")?);
    Ok(Some(to_ended_session(row)?.with_reached_limit(limits.reached_limit(time(row, "seen")?))))
}

/// Decodes the session in `row`, which was found by `presented`: by its current id, or by the
/// replaced id `replaced`.
pub(super) fn lookup(
    row: &Row,
    replaced: Option<ReplacedId>,
    presented: &SessionIdHash,
    now: Timestamp,
) -> Result<Found<RowKey>> {
    let at = key(row)?;
    if at.id_hash == *presented {
        return by_current_id(row, at, now);
    }
    match replaced {
        Some(id) => Ok(by_current_id(row, at, now)?.by_replaced_id(id, now)),
        None => Ok(Found::Nothing),
    }
}

/// Decodes the session in `row`, which its current id finds.
fn by_current_id(row: &Row, at: RowKey, now: Timestamp) -> Result<Found<RowKey>> {
    let public_id = PublicId::from_bytes(bytes(row, "public_id")?);
    if time(row, "deadline")? <= now {
        return Ok(match decode(row, public_id) {
            Ok(record) => Found::of_expired(&record, at),
            Err(_) => Found::Expired { reached_limit: None, at },
        });
    }
    match decode(row, public_id) {
        Ok(record) => Ok(Found::Live { session: LiveSession { record, id_hash: at.id_hash }, at }),
        Err(error) if error.kind() == ErrorKind::Undecodable => {
            let id_hash = at.id_hash;
            Ok(Found::Undecodable { id_hash, public_id: Some(public_id), error, at })
        }
        Err(error) => Err(error),
    }
}

/// Decodes a replaced id, whose columns have the prefix `replaced_`.
pub(super) fn replaced_id(row: &Row) -> Result<Option<ReplacedId>> {
    let Some(id_hash) = get::<Option<&[u8]>>(row, "replaced_id_hash")? else { return Ok(None) };
    let by = if get(row, "replaced_by_sign_in")? {
        let salt: Option<&[u8]> = get(row, "replaced_join_salt")?;
        let salt = salt.map(|salt| salt.try_into().map_err(|_| malformed("join_salt")));
        ReplacedBy::SignIn { salt: salt.transpose()?.map(JoinSalt::from_bytes) }
    } else {
        ReplacedBy::Renewal { grace_until: optional_time(row, "replaced_grace_until")? }
    };
    Ok(Some(ReplacedId {
        id_hash: SessionIdHash::from_bytes(id_hash.try_into().map_err(|_| malformed("id_hash"))?),
        successor: SessionIdHash::from_bytes(bytes(row, "replaced_successor")?),
        replaced_at: time(row, "replaced_replaced_at")?,
        by,
        had_user: get(row, "replaced_had_user")?,
    }))
}

/// Decodes a record. A malformed value is [`ErrorKind::Undecodable`].
pub(super) fn decode(row: &Row, public_id: PublicId) -> Result<Record> {
    let format: i64 = get(row, "format")?;
    record::check_format(u32::try_from(format).unwrap_or(u32::MAX))?;
    let Ok(data) = str::from_utf8(get(row, "data")?) else { return Err(malformed("data")) };
    let owner = owner(row)?;
    Ok(Record {
        public_id,
        realm: Realm::new(get::<&str>(row, "realm")?).map_err(|_| malformed("realm"))?,
        user: owner.user,
        idp_session_id: owner.idp_session_id,
        auth_level: owner.auth_level,
        created: time(row, "created")?,
        authenticated: optional_time(row, "authenticated")?,
        seen: time(row, "seen")?,
        id_issued: time(row, "id_issued")?,
        limits: limits(row)?,
        persistent: get(row, "persistent")?,
        revision: u64::try_from(get::<i64>(row, "revision")?).map_err(|_| malformed("revision"))?,
        client: client(row)?,
        data: Data::from_json(data)?,
    })
}

/// Decodes the columns `idle` and `absolute`.
pub(super) fn limits(row: &Row) -> Result<Limits> {
    let idle = get::<Option<i64>>(row, "idle")?.map(u64::try_from).transpose();
    let idle = idle.map_err(|_| malformed("idle"))?;
    Ok(Limits::new(idle.map(Duration::from_millis), optional_time(row, "absolute")?))
}

#[derive(Default)]
struct SessionOwner {
    user: Option<UserKey>,
    idp_session_id: Option<IdpSessionId>,
    auth_level: u16,
}

/// Decodes the columns `user_key`, `idp_session_id` and `auth_level`.
fn owner(row: &Row) -> Result<SessionOwner> {
    let user = get::<Option<&str>>(row, "user_key")?.map(UserKey::new).transpose();
    let idp = get::<Option<&str>>(row, "idp_session_id")?.map(IdpSessionId::new).transpose();
    let auth_level = u16::try_from(get::<i64>(row, "auth_level")?);
    Ok(SessionOwner {
        user: user.map_err(|_| malformed("user_key"))?,
        idp_session_id: idp.map_err(|_| malformed("idp_session_id"))?,
        auth_level: auth_level.map_err(|_| malformed("auth_level"))?,
    })
}

/// Decodes the client's description. It is informative only, so a malformed one is read as `None`.
fn client(row: &Row) -> Result<Option<Client>> {
    Ok(get::<Option<&str>>(row, "client")?.and_then(Client::from_json))
}

/// Decodes one row of a list, which has the size of the data in its place. A malformed owner is
/// shown as no owner, so that the row stays visible.
pub(super) fn summary(row: &Row) -> Result<Summary> {
    let owner = owner(row).unwrap_or_default();
    Ok(Summary {
        public_id: PublicId::from_bytes(bytes(row, "public_id")?),
        realm: Realm::new(get::<&str>(row, "realm")?).unwrap_or_default(),
        user: owner.user,
        idp_session_id: owner.idp_session_id,
        auth_level: owner.auth_level,
        created: time(row, "created")?,
        authenticated: optional_time(row, "authenticated")?,
        seen: time(row, "seen")?,
        deadline: time(row, "deadline")?,
        persistent: get(row, "persistent")?,
        client: client(row)?,
        bytes: usize::try_from(get::<i64>(row, "data")?).unwrap_or(0),
        cursor: Cursor::new(get(row, "id")?),
    })
}
