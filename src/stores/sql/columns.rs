//! The columns of the tables. One list for each table yields the names in its statements, the
//! values that a write gives them, and the positions at which a read finds them.

use crate::backend::{LiveSession, ReplacedBy, ReplacedId};
use crate::clock::Timestamp;
use crate::id::{IdpSessionId, UserKey};
use crate::record::{Client, FORMAT, duration_to_millis};
use crate::stores::sql::saturating_i64;

/// The value of a column, which each store converts to a parameter of its driver.
pub(crate) enum ColumnValue<'v> {
    Bool(bool),
    Int(Option<i64>),
    Bytes(Option<&'v [u8]>),
    Text(Option<&'v str>),
    OwnedText(Option<String>),
    /// The data: a text in SQLite, bytes in PostgreSQL.
    Data(&'v str),
}

/// Declares the constant `NAMES` of columns, and for each column its position among them.
macro_rules! names {
    ($($column:ident),*) => {
        enum Position { $($column),* }

        $(pub(crate) const $column: usize = Position::$column as usize;)*

        pub(crate) const NAMES: [&str; [$($column),*].len()] = [$(stringify!($column)),*];
    };
}

/// Declares a module with the names and positions of a table's columns, and the function `values`,
/// which returns their values in that order.
macro_rules! columns {
    ($table:ident($($arg:ident: $type:ty),*) {
        $($column:ident: $value:expr,)*
    }) => {
        #[allow(dead_code, non_camel_case_types, non_upper_case_globals)]
        pub(crate) mod $table {
            use crate::stores::sql::columns::ColumnValue::*;
            use crate::stores::sql::columns::*;

            names!($($column),*);

            pub(crate) fn values($($arg: $type),*) -> [ColumnValue<'_>; NAMES.len()] {
                [$($value),*]
            }
        }
    };
}

// The deadline to store: that of a copied session can be earlier than its record says.
columns!(session(new: &LiveSession, stored_deadline: Timestamp) {
    id_hash: Bytes(Some(new.id_hash.as_bytes())),
    public_id: Bytes(Some(new.record.public_id.as_bytes())),
    realm: Text(Some(new.record.realm.as_str())),
    user_key: Text(new.record.user.as_ref().map(UserKey::as_str)),
    idp_session_id: Text(new.record.idp_session_id.as_ref().map(IdpSessionId::as_str)),
    auth_level: Int(Some(new.record.auth_level.into())),
    created: Int(Some(new.record.created.as_millis())),
    authenticated: Int(new.record.authenticated.map(Timestamp::as_millis)),
    seen: Int(Some(new.record.seen.as_millis())),
    id_issued: Int(Some(new.record.id_issued.as_millis())),
    idle: Int(new.record.limits.idle.map(duration_to_millis).map(saturating_i64)),
    absolute: Int(new.record.limits.absolute_deadline.map(Timestamp::as_millis)),
    deadline: Int(Some(stored_deadline.as_millis())),
    persistent: Bool(new.record.persistent),
    revision: Int(Some(saturating_i64(new.record.revision))),
    client: OwnedText(new.record.client.as_ref().map(Client::to_json)),
    format: Int(Some(FORMAT.into())),
    data: Data(new.record.data.as_json()),
});

columns!(replaced(replaced_id: &ReplacedId) {
    id_hash: Bytes(Some(replaced_id.id_hash.as_bytes())),
    successor: Bytes(Some(replaced_id.successor.as_bytes())),
    replaced_at: Int(Some(replaced_id.replaced_at.as_millis())),
    grace_until: Int(replaced_id.grace_until().map(Timestamp::as_millis)),
    by_sign_in: Bool(matches!(replaced_id.by, ReplacedBy::SignIn { .. })),
    join_salt: Bytes(match &replaced_id.by {
        ReplacedBy::SignIn { salt } => salt.as_ref().map(|salt| salt.as_bytes().as_slice()),
        ReplacedBy::Renewal { .. } => None,
    }),
    had_user: Bool(replaced_id.had_user),
    csrf_secret: Bytes(replaced_id.csrf_secret.as_ref().map(|secret| secret.as_bytes().as_slice())),
    forget_at: Int(Some(replaced_id.forget_at().as_millis())),
});

/// The columns that an event needs of a session that has ended.
#[allow(non_camel_case_types, non_upper_case_globals)]
pub(crate) mod ended {
    names!(id_hash, public_id, user_key, seen, idle, absolute, deadline);
}

/// The position of a session's row id, which a read yields after the columns above.
pub(crate) const ROW_ID: usize = session::NAMES.len();

/// The position of the first column of a replaced id, in a read that finds its session by it.
pub(crate) const REPLACED_ID: usize = ROW_ID + 1;

/// Returns these columns of the row `row` of a join.
pub(crate) fn qualified(row: &str, names: &[&str]) -> String {
    names.iter().map(|name| format!("{row}.{name}")).collect::<Vec<_>>().join(", ")
}
