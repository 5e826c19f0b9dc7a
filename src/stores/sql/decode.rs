//! Decodes the rows of the tables.
//!
//! Each store implements [`SqlRow`] for the rows of its driver.

use std::time::Duration;

use crate::backend::{Found, LiveSession, ReplacedBy, ReplacedId};
use crate::clock::Timestamp;
use crate::data::{CsrfSecret, Data};
use crate::error::Result;
use crate::id::{IdpSessionId, JoinSalt, PublicId, Realm, SessionIdHash, UserKey};
use crate::lifetime::Limits;
use crate::list::{Cursor, Summary};
use crate::record::{Client, EndedSession, Record, check_format};
use crate::stores::admin::{SessionCounts, SessionDetails};
use crate::stores::copy::StoredSession;
use crate::stores::sql::columns::{ROW_ID, ended, replaced, session};
use crate::stores::sql::malformed;

/// A row, whose columns are read by their positions. A value of another type is an error of the
/// driver.
pub(crate) trait SqlRow {
    type Error;

    /// Returns whether a column could not be read because this one row is damaged.
    fn is_damage(error: &Self::Error) -> bool;

    fn int(&self, column: usize) -> Result<i64, Self::Error>;

    fn optional_int(&self, column: usize) -> Result<Option<i64>, Self::Error>;

    fn flag(&self, column: usize) -> Result<bool, Self::Error>;

    fn array<const N: usize>(&self, column: usize) -> Result<[u8; N], Self::Error>;

    fn bytes(&self, column: usize) -> Result<Option<&[u8]>, Self::Error>;

    /// Reads a text, which may not be UTF-8, or the data.
    fn text(&self, column: usize) -> Result<Option<&[u8]>, Self::Error>;

    fn time(&self, column: usize) -> Result<Timestamp, Self::Error> {
        self.int(column).map(Timestamp::from_millis)
    }

    fn optional_time(&self, column: usize) -> Result<Option<Timestamp>, Self::Error> {
        Ok(self.optional_int(column)?.map(Timestamp::from_millis))
    }
}

/// Decodes the session in a row with this key, which its current id finds.
pub(crate) fn lookup<R: SqlRow, K>(row: &R, key: K, now: Timestamp) -> Result<Found<K>, R::Error> {
    if row.time(session::deadline)? <= now {
        let record = LenientRow::of(row).without_data()?;
        return Ok(Found::of_expired(&record, key));
    }
    let id_hash = SessionIdHash::from_bytes(row.array(session::id_hash)?);
    Ok(match record(row)? {
        Ok(record) => Found::Live { session: LiveSession { record, id_hash }, key },
        Err(error) => {
            let public_id = Some(PublicId::from_bytes(row.array(session::public_id)?));
            Found::Undecodable { id_hash, public_id, error, key }
        }
    })
}

/// Decodes a session for a copy, with its replaced ids. The outer error is the driver's.
pub(crate) fn stored_session<R: SqlRow>(
    row: &R,
    replaced: Vec<ReplacedId>,
) -> Result<Result<StoredSession>, R::Error> {
    let position = row.int(ROW_ID)?;
    let id_hash = SessionIdHash::from_bytes(row.array(session::id_hash)?);
    let deadline = row.time(session::deadline)?;
    Ok(record(row)?.map(|record| {
        let session = LiveSession { record, id_hash };
        StoredSession { position, session, deadline, replaced }
    }))
}

/// Decodes a record. The outer error is the driver's; the inner one reports a malformed row.
pub(crate) fn record<R: SqlRow>(row: &R) -> Result<Result<Record>, R::Error> {
    let mut lenient = LenientRow::of(row);
    let record = lenient.without_data()?;
    let text = lenient.text(session::data, Ok)?;
    let malformed_column = lenient.malformed;
    let format = lenient.number(session::format)?;
    let data = || {
        check_format(format.ok_or_else(|| malformed(name(session::format)))?)?;
        match (malformed_column, text) {
            (None, Some(text)) => Data::from_json(text),
            (column, _) => Err(malformed(name(column.unwrap_or(session::data)))),
        }
    };
    Ok(data().map(|data| Record { data, ..record }))
}

/// Decodes a session for an operator.
pub(crate) fn details<R: SqlRow>(row: &R) -> Result<SessionDetails, R::Error> {
    let data = LenientRow::of(row).bytes_of_text(session::data)?;
    let summary = summary_of(row, data.map_or(0, <[u8]>::len))?;
    Ok(SessionDetails { summary, record: record(row)? })
}

/// Decodes one row of a list, which has the size of the data in its place.
pub(crate) fn summary<R: SqlRow>(row: &R) -> Result<Summary, R::Error> {
    summary_of(row, usize::try_from(row.int(session::data)?).unwrap_or(0))
}

/// A malformed column is shown as empty, so that the row stays visible.
fn summary_of<R: SqlRow>(row: &R, bytes: usize) -> Result<Summary, R::Error> {
    let record = LenientRow::of(row).without_data()?;
    let cursor = Cursor::new(row.int(ROW_ID)?);
    let deadline = row.time(session::deadline)?;
    Ok(Summary { deadline, bytes, ..Summary::of(&record, cursor) })
}

/// Decodes the columns [`ended`] of a session, which has reached a limit if its deadline has
/// passed. A malformed column counts as empty, so that the session can be deleted.
pub(crate) fn ended_session<R: SqlRow>(row: &R, now: Timestamp) -> Result<EndedSession, R::Error> {
    let mut lenient = LenientRow::of(row);
    let id_hash = SessionIdHash::from_bytes(row.array(ended::id_hash)?);
    let public_id = PublicId::from_bytes(row.array(ended::public_id)?);
    let user = lenient.text(ended::user_key, UserKey::new)?;
    let session = EndedSession::new(id_hash, Some(public_id), user);
    if row.time(ended::deadline)? > now {
        return Ok(session);
    }
    let limits = lenient.limits(ended::idle, ended::absolute)?;
    Ok(session.with_reached_limit(limits.reached_limit(row.time(ended::seen)?)))
}

/// Decodes a replaced id, the first column of which is at the position `first`.
pub(crate) fn replaced_id<R: SqlRow>(row: &R, first: usize) -> Result<ReplacedId, R::Error> {
    let by = if row.flag(first + replaced::by_sign_in)? {
        let salt = row.bytes(first + replaced::join_salt)?;
        let salt = salt.and_then(|salt| salt.try_into().ok()).map(JoinSalt::from_bytes);
        ReplacedBy::SignIn { salt }
    } else {
        let grace_until = row.optional_time(first + replaced::grace_until)?;
        ReplacedBy::Renewal { grace_until }
    };
    let csrf_secret = row.bytes(first + replaced::csrf_secret)?;
    Ok(ReplacedId {
        id_hash: SessionIdHash::from_bytes(row.array(first + replaced::id_hash)?),
        successor: SessionIdHash::from_bytes(row.array(first + replaced::successor)?),
        replaced_at: row.time(first + replaced::replaced_at)?,
        by,
        had_user: row.flag(first + replaced::had_user)?,
        csrf_secret: csrf_secret
            .and_then(|secret| secret.try_into().ok())
            .map(CsrfSecret::from_bytes),
    })
}

/// Decodes a realm; `None` if it is malformed.
pub(crate) fn realm<R: SqlRow>(row: &R) -> Result<Option<Realm>, R::Error> {
    LenientRow::of(row).text(0, Realm::new)
}

/// Decodes the average and the maximum size of the data, and the counts of
/// [`created_counts`](crate::stores::sql::created_counts).
pub(crate) fn counts<R: SqlRow>(row: &R, periods: usize) -> Result<SessionCounts, R::Error> {
    let number = |column| Ok(u64::try_from(row.int(column)?).unwrap_or(0));
    let created = (2..periods + 2).map(number).collect::<Result<_, _>>()?;
    Ok(SessionCounts { created, average: number(0)?, largest: number(1)? })
}

fn name(column: usize) -> &'static str {
    session::NAMES.get(column).copied().unwrap_or_default()
}

/// A row, of which a malformed column counts as empty if the table does not check its values.
struct LenientRow<'r, R> {
    row: &'r R,
    /// The position of the last malformed one.
    malformed: Option<usize>,
}

impl<'r, R: SqlRow> LenientRow<'r, R> {
    fn of(row: &'r R) -> Self {
        LenientRow { row, malformed: None }
    }

    /// Decodes the columns of a record except the format and the data.
    fn without_data(&mut self) -> Result<Record, R::Error> {
        let row = self.row;
        Ok(Record {
            public_id: PublicId::from_bytes(row.array(session::public_id)?),
            realm: self.text(session::realm, Realm::new)?.unwrap_or_default(),
            user: self.text(session::user_key, UserKey::new)?,
            idp_session_id: self.text(session::idp_session_id, IdpSessionId::new)?,
            auth_level: self.number(session::auth_level)?.unwrap_or_default(),
            created: row.time(session::created)?,
            authenticated: row.optional_time(session::authenticated)?,
            seen: row.time(session::seen)?,
            id_issued: row.time(session::id_issued)?,
            limits: self.limits(session::idle, session::absolute)?,
            persistent: row.flag(session::persistent)?,
            revision: self.number(session::revision)?.unwrap_or_default(),
            // Informative only, so a malformed one makes no record malformed.
            client: LenientRow::of(row)
                .text(session::client, |text| Ok(Client::from_json(text)))?
                .flatten(),
            data: Data::default(),
        })
    }

    fn bytes_of_text(&mut self, column: usize) -> Result<Option<&'r [u8]>, R::Error> {
        self.undamaged(column, self.row.text(column))
    }

    fn text<T>(
        &mut self,
        column: usize,
        parse: impl FnOnce(&'r str) -> Result<T>,
    ) -> Result<Option<T>, R::Error> {
        let parse = |bytes: &'r [u8]| parse(str::from_utf8(bytes).ok()?).ok();
        let bytes = self.bytes_of_text(column)?;
        Ok(bytes.and_then(|bytes| self.checked(column, parse(bytes))))
    }

    fn number<T: TryFrom<i64>>(&mut self, column: usize) -> Result<Option<T>, R::Error> {
        let number = self.undamaged(column, self.row.optional_int(column))?;
        Ok(number.and_then(|number| self.checked(column, number.try_into().ok())))
    }

    fn limits(&mut self, idle: usize, absolute: usize) -> Result<Limits, R::Error> {
        let idle = self.number(idle)?.map(Duration::from_millis);
        Ok(Limits::new(idle, self.number(absolute)?.map(Timestamp::from_millis)))
    }

    fn undamaged<T>(
        &mut self,
        column: usize,
        value: Result<Option<T>, R::Error>,
    ) -> Result<Option<T>, R::Error> {
        match value {
            Err(error) if R::is_damage(&error) => Ok(self.checked(column, None)),
            value => value,
        }
    }

    fn checked<T>(&mut self, column: usize, value: Option<T>) -> Option<T> {
        if value.is_none() {
            self.malformed = Some(column);
        }
        value
    }
}
