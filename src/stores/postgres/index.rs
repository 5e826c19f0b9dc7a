//! Lists, revocations and counts.

use std::num::NonZeroUsize;

use tokio_postgres::Row;

use crate::backend::{RemovalReport, SessionIndex, StoreIdentity};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{PublicId, Realm, SessionIdHash, UserKey};
use crate::list::{Page, SessionFilter, Stats, Summary};
use crate::record::EndedSession;
use crate::stores::postgres::connection::{CallTime, Param, Query, Trips};
use crate::stores::postgres::error::CallFailure;
use crate::stores::postgres::row::{self, get};
use crate::stores::postgres::sql::Statements;
use crate::stores::postgres::store::PostgresInner;
use crate::stores::sql::{self, decode, page_params, saturating_i64, with_condition};
use crate::sync::monotonic_now;

/// Appends the parameters of `filter` to `params`, and returns its condition.
fn condition<'f>(filter: &'f SessionFilter<'_>, params: &mut Vec<Param<'f>>) -> String {
    let mut equals = |column: &str, value: Param<'f>| {
        params.push(value);
        format!("{column} = ${}", params.len())
    };
    match filter {
        SessionFilter::All => "true".to_owned(),
        SessionFilter::User(user) => equals("user_key", user.as_str().into()),
        SessionFilter::PublicId(public_id) => equals("public_id", public_id.as_bytes().into()),
        SessionFilter::PublicIdOfUser(user, public_id) => {
            let of_user = equals("user_key", user.as_str().into());
            format!("{of_user} AND {}", equals("public_id", public_id.as_bytes().into()))
        }
        SessionFilter::IdpSession(id) => equals("idp_session_id", id.as_str().into()),
        SessionFilter::InRealm(realm, filter) => {
            let in_realm = equals("realm", realm.as_str().into());
            format!("{in_realm} AND {}", condition(filter, params))
        }
    }
}

impl PostgresInner {
    /// Executes a transaction during which no user signs in.
    fn revocation<T: Send>(
        &self,
        time: CallTime,
        operation: &'static str,
        work: impl AsyncFn(&mut Trips<'_>, &Statements) -> Result<T, CallFailure> + Sync,
    ) -> Result<T> {
        self.pool.call_within(time, operation, async |trips| {
            let lock = Query::new(&self.sql.exclusive_lock, [self.locks.revocation.into()]);
            trips.begin([lock]).await?;
            work(trips, &self.sql).await
        })
    }

    /// Ends sessions as [`SessionIndex::revoke`] does, and executes `also` in the same transaction.
    pub(super) fn revoke_with(
        &self,
        filter: &SessionFilter<'_>,
        except: Option<&PublicId>,
        now: Timestamp,
        also: Option<&str>,
    ) -> Result<Vec<EndedSession>> {
        let time = if concerns_all(filter) { CallTime::Bulk } else { CallTime::Normal };
        let except = except.map(|public_id| public_id.as_bytes().as_slice());
        self.revocation(time, "revoke sessions", async |trips, sql| {
            let mut params = vec![Param::Bytes(except)];
            let revoke = with_condition(&sql.revoke, &condition(filter, &mut params));
            let mut queries = vec![Query { sql: &revoke, params }];
            queries.extend(also.map(|sql| Query::new(sql, [])));
            let answers = trips.commit(queries).await?;
            let ended = answers.first().into_iter().flatten();
            let mut ended: Vec<_> =
                ended.map(|row| decode::ended_session(row, now)).collect::<Result<_>>()?;
            ended.retain(|ended| ended.reached_limit.is_none());
            Ok(ended)
        })
    }

    /// Reads a page of the rows that match `filter` by `select`, a statement with a `{condition}`.
    pub(super) fn list_by(
        &self,
        time: CallTime,
        operation: &'static str,
        select: &str,
        filter: &SessionFilter<'_>,
        page: Page,
        now: Timestamp,
    ) -> Result<Vec<Summary>> {
        self.pool.call_within(time, operation, async |trips| {
            let [before, limit] = page_params(page);
            let mut params = vec![now.as_millis().into(), before.into(), limit.into()];
            let sql = with_condition(select, &condition(filter, &mut params));
            let rows = trips.query(Query { sql: &sql, params }).await?;
            Ok(rows.iter().map(decode::summary).collect::<Result<_>>()?)
        })
    }

    /// Reads one of the store's properties.
    fn property(&self, operation: &'static str, sql: &str) -> Result<String> {
        self.pool.call(operation, async |trips| {
            let rows = trips.query(Query::new(sql, [])).await?;
            match rows.first() {
                Some(row) => Ok(get(row, "value")?),
                None => Err(Error::new(ErrorKind::NotSetUp, operation).into()),
            }
        })
    }
}

impl SessionIndex for PostgresInner {
    fn list(&self, filter: &SessionFilter<'_>, page: Page, now: Timestamp) -> Result<Vec<Summary>> {
        self.list_by(CallTime::Normal, "list sessions", &self.sql.list, filter, page, now)
    }

    fn revoke(
        &self,
        filter: &SessionFilter<'_>,
        except: Option<&PublicId>,
        now: Timestamp,
    ) -> Result<Vec<EndedSession>> {
        self.revoke_with(filter, except, now, None)
    }

    fn rename_user(
        &self,
        realm: &Realm,
        from: &UserKey,
        to: &UserKey,
        _: Timestamp,
    ) -> Result<Vec<SessionIdHash>> {
        // A sign-in counts the user's sessions, so none may run meanwhile.
        self.revocation(CallTime::Normal, "rename a user", async |trips, sql| {
            let params = [from.as_str().into(), to.as_str().into(), realm.as_str().into()];
            let answers = trips.commit(vec![Query::new(&sql.rename_user, params)]).await?;
            Ok(answers.iter().flatten().map(row::id_hash).collect::<Result<_>>()?)
        })
    }

    fn revoke_everyone(&self, realm: Option<&Realm>, now: Timestamp) -> Result<u64> {
        self.revocation(CallTime::Bulk, "revoke everyone", async |trips, sql| {
            let params = [now.as_millis().into(), Param::Text(realm.map(Realm::as_str))];
            let queries =
                vec![Query::new(&sql.delete_all, params), Query::new(&sql.raise_epoch, [])];
            let answers = trips.commit(queries).await?;
            count(answers.first().and_then(|rows| rows.first()), "live")
        })
    }

    fn epoch(&self) -> Result<u64> {
        let epoch = self.property("read the epoch", &self.sql.epoch)?;
        Ok(epoch.parse().unwrap_or(0))
    }

    fn identity(&self) -> Result<StoreIdentity> {
        let read = |sql| self.property("read the identity of the store", sql);
        // An attempt without the right would be an error in the server's log, each second.
        let sql = match &*read(&self.sql.may_read_server)? {
            "true" => &self.sql.identity,
            _ => &self.sql.identity_without_server,
        };
        sql::identity(&read(sql)?)
    }

    fn idle_anonymous(
        &self,
        realm: &Realm,
        keep: u64,
        limit: NonZeroUsize,
    ) -> Result<Vec<SessionIdHash>> {
        self.pool.call_within(CallTime::Bulk, "list idle sessions", async |trips| {
            let params = [
                realm.as_str().into(),
                saturating_i64(keep).into(),
                saturating_i64(limit.get()).into(),
            ];
            let rows = trips.query(Query::new(&self.sql.idle_anonymous, params)).await?;
            Ok(rows.iter().map(row::id_hash).collect::<Result<_>>()?)
        })
    }

    fn evict_anonymous(&self, id_hashes: &[SessionIdHash], _: Timestamp) -> Result<RemovalReport> {
        let began = monotonic_now();
        let removed = self.pool.call("evict anonymous sessions", async |trips| {
            let id_hashes = id_hashes.iter().map(|id_hash| id_hash.as_bytes().as_slice());
            let params = [Param::BytesList(id_hashes.collect())];
            let end = Query::new(&self.sql.evict_anonymous, params);
            Ok(trips.write(end).await?.len())
        })?;
        Ok(RemovalReport::since(began, removed))
    }

    fn stats(&self, now: Timestamp) -> Result<Stats> {
        self.pool.call_within(CallTime::Bulk, "count sessions", async |trips| {
            let rows = trips.query(Query::new(&self.sql.stats, [now.as_millis().into()])).await?;
            let row = rows.first();
            let time = |column| -> Result<Option<Timestamp>> {
                let Some(row) = row else { return Ok(None) };
                Ok(get::<Option<i64>>(row, column)?.map(Timestamp::from_millis))
            };
            Ok(Stats {
                live: count(row, "live")?,
                expired: count(row, "expired")?,
                signed_in: count(row, "signed_in")?,
                expired_signed_in: count(row, "expired_signed_in")?,
                oldest: time("oldest")?,
                newest: time("newest")?,
            })
        })
    }
}

fn concerns_all(filter: &SessionFilter<'_>) -> bool {
    match filter {
        SessionFilter::All => true,
        SessionFilter::InRealm(_, filter) => concerns_all(filter),
        _ => false,
    }
}

pub(super) fn count(row: Option<&Row>, column: &str) -> Result<u64, CallFailure> {
    let Some(row) = row else { return Ok(0) };
    Ok(u64::try_from(get::<i64>(row, column)?).unwrap_or(0))
}
