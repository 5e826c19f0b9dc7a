//! Reads rows, and decodes them to records.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::backend::{LiveSession, Lookup, Missing, ReplacedBy, ReplacedId, ReplacedIdStatus};
use crate::clock::Timestamp;
use crate::data::Data;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{IdpSessionId, JoinSalt, PublicId, Realm, SessionIdHash, UserKey};
use crate::lifetime::Limits;
use crate::record::{self, Client, Cursor, Record, Summary};
use crate::stores::sqlite::error::while_doing;
use crate::stores::sqlite::sql::Sql;

/// The row of a session as it was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct FoundRow {
    pub(super) id: i64,
    pub(super) id_hash: SessionIdHash,
    pub(super) public_id: PublicId,
    pub(super) seen: Timestamp,
    /// The deadline column, which an operator may have edited.
    pub(super) deadline: Timestamp,
}

impl FoundRow {
    /// Whether the deadline column equals the deadline computed from `record`.
    pub(super) fn agrees_with(&self, record: &Record) -> bool {
        self.deadline == record.deadline()
    }
}

/// Looks `id_hash` up at `now`, as a current or as a replaced id.
pub(super) fn find(
    connection: &Connection,
    sql: &Sql,
    id_hash: &SessionIdHash,
    now: Timestamp,
) -> Result<Lookup<FoundRow>> {
    let failed = || while_doing("look a session up");
    if let Some(found) = by_id_hash(connection, sql, id_hash, now).map_err(failed())? {
        return Ok(found);
    }
    let replaced = by_replaced_id(connection, sql, id_hash, now).map_err(failed())?;
    Ok(replaced.unwrap_or(Lookup::not_found()))
}

fn by_id_hash(
    connection: &Connection,
    sql: &Sql,
    id_hash: &SessionIdHash,
    now: Timestamp,
) -> rusqlite::Result<Option<Lookup<FoundRow>>> {
    let mut statement = connection.prepare_cached(&sql.by_id_hash)?;
    let mut rows = statement.query([id_hash.as_bytes()])?;
    rows.next()?.map(|row| session(row, now)).transpose()
}

fn by_replaced_id(
    connection: &Connection,
    sql: &Sql,
    id_hash: &SessionIdHash,
    now: Timestamp,
) -> rusqlite::Result<Option<Lookup<FoundRow>>> {
    let mut statement = connection.prepare_cached(&sql.by_replaced_id)?;
    let mut rows = statement.query([id_hash.as_bytes()])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let id = replaced_id(row, *id_hash)?;
    let status = id.status(now);
    if status == ReplacedIdStatus::Forgotten {
        return Ok(None);
    }
    Ok(Some(match session(row, now)? {
        Lookup::Live { session, at } if status == ReplacedIdStatus::Remembered => {
            Lookup::Missing(Missing::Replaced { id, session, at })
        }
        found => found,
    }))
}

/// Decodes the columns of a replaced id, which follow those of its session.
fn replaced_id(row: &Row<'_>, id_hash: SessionIdHash) -> rusqlite::Result<ReplacedId> {
    let grace_until = row.get::<_, Option<i64>>(21)?.map(Timestamp::from_millis);
    Ok(ReplacedId {
        id_hash,
        successor: SessionIdHash::from_bytes(row.get(19)?),
        replaced_at: Timestamp::from_millis(row.get(20)?),
        by: match row.get(22)? {
            true => ReplacedBy::SignIn {
                salt: row.get::<_, Option<[u8; 32]>>(23)?.map(JoinSalt::from_bytes),
            },
            false => ReplacedBy::Renewal { grace_until },
        },
        had_user: row.get(24)?,
    })
}

/// Decodes the session in a row.
fn session(row: &Row<'_>, now: Timestamp) -> rusqlite::Result<Lookup<FoundRow>> {
    let deadline = Timestamp::from_millis(row.get(12)?);
    let id_hash = SessionIdHash::from_bytes(row.get(1)?);
    let seen = Timestamp::from_millis(row.get(9)?);
    let public_id = PublicId::from_bytes(row.get(3)?);
    let at = FoundRow { id: row.get(0)?, id_hash, public_id, seen, deadline };
    if deadline <= now {
        return Ok(Lookup::Missing(Missing::NotFound { expired: Some(at) }));
    }
    Ok(match decode(row)? {
        Ok(record) => Lookup::Live { session: LiveSession { record, id_hash }, at },
        Err(error) => {
            Lookup::Missing(Missing::Undecodable { public_id: Some(public_id), error, at })
        }
    })
}

/// Decodes a record. The outer error is SQLite's; the inner one reports a malformed row.
pub(super) fn decode(row: &Row<'_>) -> rusqlite::Result<Result<Record>> {
    let format: i64 = row.get(16)?;
    if let Err(error) = record::check_format(u32::try_from(format).unwrap_or(u32::MAX)) {
        return Ok(Err(error));
    }
    let Ok(data) = row.get_ref(17)?.as_str() else { return Ok(Err(malformed("data"))) };
    let data = match Data::from_json(data) {
        Ok(data) => data,
        Err(error) => return Ok(Err(error)),
    };
    let Some(limits) = limits(row, 10)? else { return Ok(Err(malformed("idle"))) };
    let Some(owner) = owner(row, 4)? else { return Ok(Err(malformed("user_key"))) };
    let Ok(revision) = u64::try_from(row.get::<_, i64>(14)?) else {
        return Ok(Err(malformed("revision")));
    };
    let Some(realm) = realm(row, 18)? else { return Ok(Err(malformed("realm"))) };
    Ok(Ok(Record {
        public_id: PublicId::from_bytes(row.get(3)?),
        realm,
        user: owner.user,
        idp_session_id: owner.idp_session_id,
        auth_level: owner.auth_level,
        created: Timestamp::from_millis(row.get(7)?),
        authenticated: row.get::<_, Option<i64>>(8)?.map(Timestamp::from_millis),
        seen: Timestamp::from_millis(row.get(9)?),
        id_issued: Timestamp::from_millis(row.get(2)?),
        limits,
        persistent: row.get(13)?,
        revision,
        client: client(row, 15)?,
        data,
    }))
}

fn malformed(column: &'static str) -> Error {
    Error::with_source(
        ErrorKind::Undecodable,
        "decode a stored session",
        format!("the column {column} is malformed"),
    )
}

/// Decodes the columns `idle` and `absolute`, from `at`; `None` if they are malformed.
fn limits(row: &Row<'_>, at: usize) -> rusqlite::Result<Option<Limits>> {
    let idle = row.get::<_, Option<i64>>(at)?.map(u64::try_from).transpose();
    let absolute = row.get::<_, Option<i64>>(at + 1)?.map(Timestamp::from_millis);
    Ok(idle.ok().map(|idle| Limits::new(idle.map(Duration::from_millis), absolute)))
}

struct Owner {
    user: Option<UserKey>,
    idp_session_id: Option<IdpSessionId>,
    auth_level: u16,
}

/// Decodes the columns `user_key`, `idp_session_id` and `auth_level`, from `at`; `None` if they are
/// malformed.
fn owner(row: &Row<'_>, at: usize) -> rusqlite::Result<Option<Owner>> {
    let user = text(row, at)?.map(|user| user.map(UserKey::new).transpose());
    let idp_session_id = text(row, at + 1)?.map(|id| id.map(IdpSessionId::new).transpose());
    let auth_level = u16::try_from(row.get::<_, i64>(at + 2)?);
    Ok(match (user, idp_session_id, auth_level) {
        (Some(Ok(user)), Some(Ok(idp_session_id)), Ok(auth_level)) => {
            Some(Owner { user, idp_session_id, auth_level })
        }
        _ => None,
    })
}

/// Decodes the column `realm`; `None` if it is malformed.
fn realm(row: &Row<'_>, at: usize) -> rusqlite::Result<Option<Realm>> {
    Ok(text(row, at)?.flatten().and_then(|name| Realm::new(name).ok()))
}

/// Reads a text column; the outer `None` if it is not UTF-8, which SQLite does not check.
fn text<'r>(row: &'r Row<'_>, at: usize) -> rusqlite::Result<Option<Option<&'r str>>> {
    Ok(row.get_ref(at)?.as_str_or_null().ok())
}

/// Decodes the client's description. It is informative only, so a malformed one is read as `None`.
fn client(row: &Row<'_>, at: usize) -> rusqlite::Result<Option<Client>> {
    Ok(text(row, at)?.flatten().and_then(Client::from_json))
}

/// Decodes one row of a list. A malformed owner is shown as no owner, so that the row stays
/// visible.
pub(super) fn summary(row: &Row<'_>) -> rusqlite::Result<Summary> {
    let owner = owner(row, 2)?;
    let (user, idp_session_id, auth_level) = match owner {
        Some(owner) => (owner.user, owner.idp_session_id, owner.auth_level),
        None => (None, None, 0),
    };
    Ok(Summary {
        public_id: PublicId::from_bytes(row.get(1)?),
        realm: realm(row, 12)?.unwrap_or_default(),
        user,
        idp_session_id,
        auth_level,
        created: Timestamp::from_millis(row.get(5)?),
        authenticated: row.get::<_, Option<i64>>(6)?.map(Timestamp::from_millis),
        seen: Timestamp::from_millis(row.get(7)?),
        deadline: Timestamp::from_millis(row.get(8)?),
        persistent: row.get(9)?,
        client: client(row, 10)?,
        bytes: usize::try_from(row.get::<_, i64>(11)?).unwrap_or(0),
        cursor: Cursor::new(row.get(0)?),
    })
}

pub(super) fn idle_column(limits: &Limits) -> Option<i64> {
    let millis = limits.idle.map(record::duration_to_millis);
    millis.map(|millis| i64::try_from(millis).unwrap_or(i64::MAX))
}

pub(super) fn revision_column(record: &Record) -> i64 {
    i64::try_from(record.revision).unwrap_or(i64::MAX)
}

/// What a touch needs to know of a session.
pub(super) struct TouchRow {
    pub(super) id: i64,
    pub(super) id_hash: SessionIdHash,
    pub(super) seen: Timestamp,
    /// The deadline column.
    pub(super) deadline: Timestamp,
    /// `None` if they are malformed.
    pub(super) limits: Option<Limits>,
}

/// What a touch needs of the session with this id, which may be a replaced one within its grace.
pub(super) fn touch_row(
    connection: &Connection,
    sql: &Sql,
    id_hash: &SessionIdHash,
    now: Timestamp,
) -> rusqlite::Result<Option<TouchRow>> {
    let decode = |row: &Row<'_>| {
        Ok(TouchRow {
            id: row.get(0)?,
            seen: Timestamp::from_millis(row.get(1)?),
            deadline: Timestamp::from_millis(row.get(2)?),
            limits: limits(row, 3)?,
            id_hash: SessionIdHash::from_bytes(row.get(5)?),
        })
    };
    let mut by_id_hash = connection.prepare_cached(&sql.touch_row_by_id_hash)?;
    if let Some(found) = by_id_hash.query_row([id_hash.as_bytes()], decode).optional()? {
        return Ok(Some(found));
    }
    let params = params![id_hash.as_bytes(), now.as_millis()];
    connection.prepare_cached(&sql.touch_row_by_replaced_id)?.query_row(params, decode).optional()
}

/// The number of sessions that are live at `now`.
pub(super) fn count_live(
    connection: &Connection,
    sql: &Sql,
    now: Timestamp,
) -> rusqlite::Result<u64> {
    let live: i64 = connection.query_row(&sql.count_live, [now.as_millis()], |row| row.get(0))?;
    Ok(u64::try_from(live).unwrap_or(0))
}

/// The number of sessions of a realm that are live at `now`.
pub(super) fn count_live_of(
    connection: &Connection,
    sql: &Sql,
    realm: &Realm,
    now: Timestamp,
) -> rusqlite::Result<u64> {
    let params = params![now.as_millis(), realm.as_str()];
    let live: i64 = connection.query_row(&sql.count_live_of, params, |row| row.get(0))?;
    Ok(u64::try_from(live).unwrap_or(0))
}

/// The epoch, which rises when all sessions end.
pub(super) fn epoch(connection: &Connection, sql: &Sql) -> rusqlite::Result<i64> {
    connection.prepare_cached(&sql.epoch)?.query_row([], |row| row.get(0))
}
