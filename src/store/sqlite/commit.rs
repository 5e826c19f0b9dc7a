//! A commit on its way to whoever writes, and carried out there.

use rusqlite::Connection;

use crate::clock::Timestamp;
use crate::delta::Delta;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{JoinSalt, Realm, SessionKey, UserKey};
use crate::record::{Birth, Touch};
use crate::store::sqlite::failure::while_doing;
use crate::store::sqlite::hot::{Hot, Transaction};
use crate::store::sqlite::rows::{self, Place};
use crate::store::sqlite::sql::Sql;
use crate::store::sqlite::writer::Pace;
use crate::store::{Admit, Commit, Committed, Decision, Fate, Loaded};

/// A commit that owns what it needs: the thread that carries it out may be another one.
pub(super) struct Owned {
    key: SessionKey,
    fate: OwnedFate,
    delta: Delta,
    if_revision: Option<u64>,
    touch: Option<Touch>,
    admit: Option<Admit>,
    max_bytes: usize,
    opened: Timestamp,
    now: Timestamp,
}

enum OwnedFate {
    Create(Birth),
    Merge,
    Renew { to: SessionKey, realm: Realm, grace_until: Option<Timestamp> },
    SignIn { to: SessionKey, user: UserKey, birth: Birth, join_salt: Option<JoinSalt> },
    Delete,
}

impl Owned {
    pub(super) fn new(commit: &Commit<'_>) -> Self {
        Owned {
            key: *commit.key,
            fate: match commit.fate {
                Fate::Create(birth) => OwnedFate::Create(birth.clone()),
                Fate::Merge => OwnedFate::Merge,
                Fate::Renew { to, realm, grace_until } => {
                    OwnedFate::Renew { to: *to, realm: realm.clone(), grace_until }
                }
                Fate::SignIn { to, user, birth, join_salt } => OwnedFate::SignIn {
                    to: *to,
                    user: user.clone(),
                    birth: birth.clone(),
                    join_salt,
                },
                Fate::Delete => OwnedFate::Delete,
            },
            delta: commit.delta.clone(),
            if_revision: commit.if_revision,
            touch: commit.touch,
            admit: commit.admit,
            max_bytes: commit.max_bytes,
            opened: commit.opened,
            now: commit.now,
        }
    }

    fn borrow(&self) -> Commit<'_> {
        Commit {
            key: &self.key,
            fate: match &self.fate {
                OwnedFate::Create(birth) => Fate::Create(birth),
                OwnedFate::Merge => Fate::Merge,
                OwnedFate::Renew { to, realm, grace_until } => {
                    Fate::Renew { to, realm, grace_until: *grace_until }
                }
                OwnedFate::SignIn { to, user, birth, join_salt } => {
                    Fate::SignIn { to, user, birth, join_salt: *join_salt }
                }
                OwnedFate::Delete => Fate::Delete,
            },
            delta: &self.delta,
            if_revision: self.if_revision,
            touch: self.touch,
            admit: self.admit,
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

pub(super) fn pace(commit: &Commit<'_>) -> Pace {
    match commit.is_revocation() {
        true => Pace::Synced,
        false => Pace::Normal,
    }
}

pub(super) fn doing(commit: &Commit<'_>) -> &'static str {
    match commit.fate {
        Fate::Create(_) => "begin a session",
        Fate::Merge => "merge into a session",
        Fate::Renew { .. } => "renew a session",
        Fate::SignIn { .. } => "sign a session in",
        Fate::Delete => "end a session",
    }
}

fn carry_out(
    commit: &Commit<'_>,
    connection: &Connection,
    sql: &Sql,
    transaction: &mut Transaction<'_>,
) -> Result<Committed> {
    let failed = || while_doing(doing(commit));
    let (loaded, place) = match commit.fate {
        // The unique key finds the conflict that a look-up would find.
        Fate::Create(_) => (Loaded::Absent, None),
        _ => match transaction.find(commit.key) {
            Some(hot) => found(commit, hot),
            None => rows::find(connection, sql, commit.key, commit.now)?,
        },
    };
    if let (Loaded::Absent, Some(place)) = (&loaded, place)
        && commit.removes_expired()
    {
        rows::delete(connection, sql, place.id).map_err(failed())?;
        transaction.remove(place.key);
    }
    match (commit.decide(loaded)?, place) {
        (Decision::Insert { key: to, record, replaces }, place) => {
            let place = place.filter(|_| replaces.is_some());
            let Some(mut ended) = make_room(commit, connection, sql, &to, place, transaction)?
            else {
                return Ok(Committed::Full);
            };
            if let Some(place) = place {
                rows::delete(connection, sql, place.id).map_err(failed())?;
                transaction.remove(place.key);
                ended.push(place.key);
            }
            rows::insert(connection, sql, &to, &record).map_err(failed())?;
            let id = connection.last_insert_rowid();
            transaction.put(to, id, &record);
            if let Some(left) = &replaces {
                let session = (id, &record.handle);
                rows::remember_anew(connection, sql, session, left, transaction)
                    .map_err(failed())?;
            }
            Ok(Committed::Done { record, key: to, ended })
        }
        (Decision::Update { record, rekey: Some(rekey) }, Some(place)) => {
            let to = rekey.left.successor;
            let room = make_room(commit, connection, sql, &to, Some(place), transaction)?;
            let Some(mut ended) = room else { return Ok(Committed::Full) };
            rows::rekey(connection, sql, place, &rekey, transaction).map_err(failed())?;
            rows::update_all(connection, sql, place, &record).map_err(failed())?;
            transaction.remove(place.key);
            transaction.put(to, place.id, &record);
            ended.push(place.key);
            Ok(Committed::Done { record, key: to, ended })
        }
        (Decision::Update { record, rekey: None }, Some(place)) => {
            let with_deadline = match commit.delta.user() {
                Some(_) => rows::update_all(connection, sql, place, &record).map(|()| true),
                None => rows::update_data(connection, sql, place, &record),
            }
            .map_err(failed())?;
            match with_deadline || place.agrees_with(&record) {
                true => transaction.put(place.key, place.id, &record),
                false => transaction.remove(place.key),
            }
            Ok(Committed::Done { record, key: place.key, ended: Vec::new() })
        }
        (Decision::Touch { record }, Some(place)) => {
            rows::update_seen(connection, sql, place.id, record.seen, record.deadline())
                .map_err(failed())?;
            transaction.seen(place.key, record.seen);
            Ok(Committed::Unchanged { record, key: place.key })
        }
        (Decision::Remove, Some(place)) => {
            rows::delete(connection, sql, place.id).map_err(failed())?;
            transaction.remove(place.key);
            Ok(Committed::Deleted { key: place.key })
        }
        (Decision::Answer(answer), _) => Ok(answer),
        // Only a session that was found is changed, and what was found has a place.
        (_, None) => Err(Error::new(ErrorKind::Unexpected, doing(commit))),
    }
}

/// What a query would find where the session is known.
fn found(commit: &Commit<'_>, Hot { id, record }: Hot) -> (Loaded, Option<Place>) {
    let (key, handle) = (*commit.key, record.handle);
    let place = Place { id, key, handle, seen: record.seen, deadline: record.deadline() };
    match record.is_live(commit.now) {
        true => (Loaded::Live { record, key }, Some(place)),
        false => (Loaded::Absent, Some(place)),
    }
}

/// Checks that `to` is free and obeys the limit per user: the keys that were ended for it, or
/// `None` when the user has too many sessions.
fn make_room(
    commit: &Commit<'_>,
    connection: &Connection,
    sql: &Sql,
    to: &SessionKey,
    found: Option<Place>,
    transaction: &mut Transaction<'_>,
) -> Result<Option<Vec<SessionKey>>> {
    let failed = || while_doing(doing(commit));
    if rows::is_taken(connection, sql, to).map_err(failed())? {
        return Err(Error::new(ErrorKind::Conflict, "give a session its new key"));
    }
    let Some((admit, user, realm)) = commit.admission() else { return Ok(Some(Vec::new())) };
    let except = found.map(|place| place.id);
    let expired =
        rows::delete_expired_of(connection, sql, (user, realm), commit.now).map_err(failed())?;
    transaction.swept(commit.now, expired);
    let others =
        rows::by_sign_in(connection, sql, (user, realm), except, commit.now).map_err(failed())?;
    let Some(ended) = admit.judge(&others) else { return Ok(None) };
    for (id, key) in ended {
        rows::delete(connection, sql, *id).map_err(failed())?;
        transaction.remove(*key);
    }
    Ok(Some(ended.iter().map(|(_, key)| *key).collect()))
}
