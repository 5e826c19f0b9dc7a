//! A commit on its way to whoever writes, and carried out there.

use rusqlite::Connection;

use crate::backend::{Action, Commit, Committed, Decision, Loaded, SessionLimit};
use crate::clock::Timestamp;
use crate::delta::Delta;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{JoinSalt, Realm, SessionIdHash, UserKey};
use crate::record::{NewSession, Touch};
use crate::stores::sqlite::error::while_doing;
use crate::stores::sqlite::record_cache::{Hot, Transaction};
use crate::stores::sqlite::row::{self, Place};
use crate::stores::sqlite::sql::Sql;
use crate::stores::sqlite::write::CommitMode;

/// A commit that owns what it needs: the thread that carries it out may be another one.
pub(super) struct Owned {
    id_hash: SessionIdHash,
    action: OwnedFate,
    delta: Delta,
    if_revision: Option<u64>,
    touch: Option<Touch>,
    session_limit: Option<SessionLimit>,
    max_bytes: usize,
    opened: Timestamp,
    now: Timestamp,
}

enum OwnedFate {
    Create(NewSession),
    Merge,
    Renew {
        to: SessionIdHash,
        realm: Realm,
        grace_until: Option<Timestamp>,
    },
    SignIn {
        to: SessionIdHash,
        user: UserKey,
        new_session: NewSession,
        join_salt: Option<JoinSalt>,
    },
    Delete,
}

impl Owned {
    pub(super) fn new(commit: &Commit<'_>) -> Self {
        Owned {
            id_hash: *commit.id_hash,
            action: match commit.action {
                Action::Create(new_session) => OwnedFate::Create(new_session.clone()),
                Action::Merge => OwnedFate::Merge,
                Action::Renew { to, realm, grace_until } => {
                    OwnedFate::Renew { to: *to, realm: realm.clone(), grace_until }
                }
                Action::SignIn { to, user, new_session, join_salt } => OwnedFate::SignIn {
                    to: *to,
                    user: user.clone(),
                    new_session: new_session.clone(),
                    join_salt,
                },
                Action::Delete => OwnedFate::Delete,
            },
            delta: commit.delta.clone(),
            if_revision: commit.if_revision,
            touch: commit.touch,
            session_limit: commit.session_limit,
            max_bytes: commit.max_bytes,
            opened: commit.opened,
            now: commit.now,
        }
    }

    fn borrow(&self) -> Commit<'_> {
        Commit {
            id_hash: &self.id_hash,
            action: match &self.action {
                OwnedFate::Create(new_session) => Action::Create(new_session),
                OwnedFate::Merge => Action::Merge,
                OwnedFate::Renew { to, realm, grace_until } => {
                    Action::Renew { to, realm, grace_until: *grace_until }
                }
                OwnedFate::SignIn { to, user, new_session, join_salt } => {
                    Action::SignIn { to, user, new_session, join_salt: *join_salt }
                }
                OwnedFate::Delete => Action::Delete,
            },
            delta: &self.delta,
            if_revision: self.if_revision,
            touch: self.touch,
            session_limit: self.session_limit,
            max_bytes: self.max_bytes,
            opened: self.opened,
            now: self.now,
        }
    }

    /// Finds the session and does what is decided, within the writer's transaction.
    pub(super) fn carry_out(
        &self,
        connection: &Connection,
        sql: &Sql,
        transaction: &mut Transaction<'_>,
    ) -> Result<Committed> {
        carry_out(&self.borrow(), connection, sql, transaction)
    }
}

pub(super) fn commit_mode(commit: &Commit<'_>) -> CommitMode {
    match commit.is_revocation() {
        true => CommitMode::Synced,
        false => CommitMode::Normal,
    }
}

pub(super) fn operation(commit: &Commit<'_>) -> &'static str {
    match commit.action {
        Action::Create(_) => "begin a session",
        Action::Merge => "merge into a session",
        Action::Renew { .. } => "renew a session",
        Action::SignIn { .. } => "sign a session in",
        Action::Delete => "end a session",
    }
}

fn carry_out(
    commit: &Commit<'_>,
    connection: &Connection,
    sql: &Sql,
    transaction: &mut Transaction<'_>,
) -> Result<Committed> {
    let failed = || while_doing(operation(commit));
    let (loaded, place) = match commit.action {
        // The unique key finds the conflict that a look-up would find.
        Action::Create(_) => (Loaded::NotFound, None),
        _ => match transaction.find(commit.id_hash) {
            Some(record_cache) => found(commit, record_cache),
            None => row::find(connection, sql, commit.id_hash, commit.now)?,
        },
    };
    if let (Loaded::NotFound, Some(place)) = (&loaded, place)
        && commit.removes_expired()
    {
        row::delete(connection, sql, place.id).map_err(failed())?;
        transaction.remove(place.id_hash);
    }
    match (commit.decide(loaded)?, place) {
        (Decision::Insert { id_hash: to, record, replaces }, place) => {
            let place = place.filter(|_| replaces.is_some());
            let Some(mut ended) = make_room(commit, connection, sql, &to, place, transaction)?
            else {
                return Ok(Committed::LimitReached);
            };
            if let Some(place) = place {
                row::delete(connection, sql, place.id).map_err(failed())?;
                transaction.remove(place.id_hash);
                ended.push(place.id_hash);
            }
            row::insert(connection, sql, &to, &record).map_err(failed())?;
            let id = connection.last_insert_rowid();
            transaction.put(to, id, &record);
            if let Some(left) = &replaces {
                let session = (id, &record.public_id);
                row::remember_anew(connection, sql, session, left, transaction).map_err(failed())?;
            }
            Ok(Committed::Done { record, id_hash: to, ended })
        }
        (Decision::Update { record, id_change: Some(id_change) }, Some(place)) => {
            let to = id_change.left.successor;
            let room = make_room(commit, connection, sql, &to, Some(place), transaction)?;
            let Some(mut ended) = room else { return Ok(Committed::LimitReached) };
            row::id_change(connection, sql, place, &id_change, transaction).map_err(failed())?;
            row::update_all(connection, sql, place, &record).map_err(failed())?;
            transaction.remove(place.id_hash);
            transaction.put(to, place.id, &record);
            ended.push(place.id_hash);
            Ok(Committed::Done { record, id_hash: to, ended })
        }
        (Decision::Update { record, id_change: None }, Some(place)) => {
            let with_deadline = match commit.delta.user() {
                Some(_) => row::update_all(connection, sql, place, &record).map(|()| true),
                None => row::update_data(connection, sql, place, &record),
            }
            .map_err(failed())?;
            match with_deadline || place.agrees_with(&record) {
                true => transaction.put(place.id_hash, place.id, &record),
                false => transaction.remove(place.id_hash),
            }
            Ok(Committed::Done { record, id_hash: place.id_hash, ended: Vec::new() })
        }
        (Decision::Touch { record }, Some(place)) => {
            row::update_seen(connection, sql, place.id, record.seen, record.deadline())
                .map_err(failed())?;
            transaction.seen(place.id_hash, record.seen);
            Ok(Committed::Unchanged { record, id_hash: place.id_hash })
        }
        (Decision::Remove, Some(place)) => {
            row::delete(connection, sql, place.id).map_err(failed())?;
            transaction.remove(place.id_hash);
            Ok(Committed::Deleted { id_hash: place.id_hash })
        }
        (Decision::Answer(answer), _) => Ok(answer),
        // Only a session that was found is changed, and what was found has a place.
        (_, None) => Err(Error::new(ErrorKind::Unexpected, operation(commit))),
    }
}

/// What a query would find where the session is known.
fn found(commit: &Commit<'_>, Hot { id, record }: Hot) -> (Loaded, Option<Place>) {
    let (id_hash, public_id) = (*commit.id_hash, record.public_id);
    let place = Place { id, id_hash, public_id, seen: record.seen, deadline: record.deadline() };
    match record.is_live(commit.now) {
        true => (Loaded::Live { record, id_hash }, Some(place)),
        false => (Loaded::NotFound, Some(place)),
    }
}

/// Checks that `to` is free and obeys the limit per user: the keys that were ended for it, or
/// `None` when the user has too many sessions.
fn make_room(
    commit: &Commit<'_>,
    connection: &Connection,
    sql: &Sql,
    to: &SessionIdHash,
    found: Option<Place>,
    transaction: &mut Transaction<'_>,
) -> Result<Option<Vec<SessionIdHash>>> {
    let failed = || while_doing(operation(commit));
    if row::is_taken(connection, sql, to).map_err(failed())? {
        return Err(Error::new(ErrorKind::Conflict, "give a session its new key"));
    }
    let Some((session_limit, user, realm)) = commit.session_limit_of() else {
        return Ok(Some(Vec::new()));
    };
    let except = found.map(|place| place.id);
    let expired =
        row::delete_expired_of(connection, sql, (user, realm), commit.now).map_err(failed())?;
    transaction.swept(commit.now, expired);
    let others =
        row::by_sign_in(connection, sql, (user, realm), except, commit.now).map_err(failed())?;
    let Some(ended) = session_limit.sessions_to_end(&others) else { return Ok(None) };
    for (id, id_hash) in ended {
        row::delete(connection, sql, *id).map_err(failed())?;
        transaction.remove(*id_hash);
    }
    Ok(Some(ended.iter().map(|(_, id_hash)| *id_hash).collect()))
}
