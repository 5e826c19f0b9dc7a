//! The columns of the tables. One list for each table yields the names in its statements, the
//! values that a write gives them, and the indexes at which a read finds them.

use rusqlite::{ToSql, params};

use crate::backend::{LiveSession, ReplacedBy, ReplacedId};
use crate::clock::Timestamp;
use crate::id::{IdpSessionId, JoinSalt, PublicId, UserKey};
use crate::record::{Client, FORMAT};
use crate::stores::sql::{idle_millis, to_int};

/// Declares a module with the constant `NAMES`, the function `with_values`, and for each column its
/// index among them.
macro_rules! columns {
    ($table:ident($($arg:ident: $type:ty),*) {
        $($column:ident: $value:expr,)*
    }) => {
        #[allow(dead_code, non_camel_case_types, non_upper_case_globals)]
        pub(crate) mod $table {
            use crate::stores::sqlite::sql::columns::*;

            enum Position { $($column),* }

            $(pub(crate) const $column: usize = Position::$column as usize;)*

            pub(crate) const NAMES: &[&str] = &[$(stringify!($column)),*];

            /// Calls `write` with the values, in the order of the names.
            pub(crate) fn with_values<T>(
                $($arg: $type,)*
                write: impl FnOnce(&[&dyn ToSql]) -> T,
            ) -> T {
                write(params![$($value),*])
            }
        }
    };
}

columns!(session(new: &LiveSession) {
    id_hash: new.id_hash.as_bytes(),
    public_id: new.record.public_id.as_bytes(),
    realm: new.record.realm.as_str(),
    user_key: new.record.user.as_ref().map(UserKey::as_str),
    idp_session_id: new.record.idp_session_id.as_ref().map(IdpSessionId::as_str),
    auth_level: new.record.auth_level,
    created: new.record.created.as_millis(),
    authenticated: new.record.authenticated.map(Timestamp::as_millis),
    seen: new.record.seen.as_millis(),
    id_issued: new.record.id_issued.as_millis(),
    idle: idle_millis(&new.record.limits),
    absolute: new.record.limits.absolute_deadline.map(Timestamp::as_millis),
    deadline: new.record.deadline().as_millis(),
    persistent: new.record.persistent,
    revision: to_int(new.record.revision),
    client: new.record.client.as_ref().map(Client::to_json),
    format: FORMAT,
    data: new.record.data.as_json(),
});

/// The index of a session's row id, which a read yields after the columns above.
pub(crate) const ROW_ID: usize = session::NAMES.len();

/// The index of the first column of a replaced id, in a read that finds its session by it.
pub(crate) const REPLACED_ID: usize = ROW_ID + 1;

/// What an event needs of a session that has ended, for `row::to_ended_session`. `?1` is the
/// current time.
pub(crate) const ENDED: &str =
    "id_hash, deadline > ?1 AS is_live, public_id, user_key, seen, idle, absolute";

columns!(replaced(session_row: i64, of: &PublicId, replaced_id: &ReplacedId) {
    id_hash: replaced_id.id_hash.as_bytes(),
    session: session_row,
    public_id: of.as_bytes(),
    successor: replaced_id.successor.as_bytes(),
    replaced_at: replaced_id.replaced_at.as_millis(),
    grace_until: replaced_id.grace_until().map(Timestamp::as_millis),
    by_sign_in: matches!(replaced_id.by, ReplacedBy::SignIn { .. }),
    join_salt: match &replaced_id.by {
        ReplacedBy::SignIn { salt } => salt.as_ref().map(JoinSalt::as_bytes),
        ReplacedBy::Renewal { .. } => None,
    },
    had_user: replaced_id.had_user,
    forget_at: replaced_id.forget_at().as_millis(),
});
