//! The table of users: sign-up, passwords, and the user of a session.

use std::error::Error;
use std::ops::RangeInclusive;
use std::sync::Arc;

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use cloakroom::stores::sqlite::rusqlite::{OptionalExtension, Row, params};
use cloakroom::web::rocket::guard_outcome;
use cloakroom::{Session, SignIn, UserKey};
use rocket::Request;
use rocket::http::Status;
use rocket::outcome::try_outcome;
use rocket::request::{FromRequest, Outcome};
use rocket::tokio::sync::Semaphore;
use rocket::tokio::task::spawn_blocking;

use super::app::App;
use super::database::Database;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// The length of passwords, in characters. NIST SP 800-63B-4, 3.1.1.2, requires at least 15 where
/// the password is the only factor.
pub const PASSWORD_LENGTH: RangeInclusive<usize> = 15..=200;

/// The maximum number of passwords that are hashed at a time. argon2 occupies a core and 19 MiB for
/// each.
const MAX_HASHES: usize = 4;

/// The session value with the generation of the user at the sign-in.
const GENERATION: &str = "generation";

/// A row of the table `users`.
pub struct User {
    pub id: i64,
    pub name: String,
    password_hash: String,
    generation: i64,
}

impl User {
    fn from_row(row: &Row<'_>) -> cloakroom::stores::sqlite::rusqlite::Result<Self> {
        let (id, name, password_hash) = (row.get(0)?, row.get(1)?, row.get(2)?);
        Ok(User { id, name, password_hash, generation: row.get(3)? })
    }

    /// The key under which the sessions of this user are listed and revoked: the number, because a
    /// name can change, and can be given to another user later.
    pub fn key(&self) -> cloakroom::Result<UserKey> {
        UserKey::new(self.id.to_string())
    }
}

/// The user who is signed in. Without one the route is not called, and the catcher of the status
/// 401 answers.
#[rocket::async_trait]
impl<'r> FromRequest<'r> for User {
    type Error = cloakroom::Error;

    async fn from_request(request: &'r Request<'_>) -> Outcome<Self, cloakroom::Error> {
        let session = try_outcome!(request.guard::<&Session>().await);
        let Some(app) = request.rocket().state::<App>() else {
            return Outcome::Forward(Status::InternalServerError);
        };
        match try_outcome!(guard_outcome(request, signed_in(&app.db, session))) {
            Some(user) => Outcome::Success(user),
            None => Outcome::Forward(Status::Unauthorized),
        }
    }
}

pub struct Accounts {
    argon2: Argon2<'static>,
    permits: Arc<Semaphore>,
    /// A hash of no account, so that a sign-in takes as long without the account as with it.
    no_account: String,
}

impl Accounts {
    pub fn new(argon2: Argon2<'static>) -> Result<Self> {
        let no_account = hash(&argon2, "a password of no account")?;
        Ok(Accounts { argon2, permits: Arc::new(Semaphore::new(MAX_HASHES)), no_account })
    }

    /// Creates an account; returns `None` if the name is taken.
    pub async fn create(&self, db: &Database, name: &str, password: &str) -> Result<Option<User>> {
        let hash = self.hash(password).await?;
        let created = db.write(|tx| {
            let sql = "INSERT INTO users (name, password_hash) VALUES (?1, ?2)
                       ON CONFLICT DO NOTHING RETURNING id, name, password_hash, generation";
            Ok(tx.query_row(sql, params![name, hash], User::from_row).optional()?)
        })?;
        Ok(created)
    }

    /// Returns the account of this name if this is its password.
    pub async fn verify(&self, db: &Database, name: &str, password: &str) -> Result<Option<User>> {
        let user = by_column(db, "name", name)?;
        let hash = user.as_ref().map_or(&self.no_account, |user| &user.password_hash).clone();
        let password = password.to_owned();
        let verify = move |argon2: &Argon2<'_>| {
            let hash = PasswordHash::new(&hash)?;
            Ok(argon2.verify_password(password.as_bytes(), &hash).is_ok())
        };
        let is_right = self.hashing(verify).await?;
        Ok(user.filter(|_| is_right))
    }

    /// Changes the password of a user whom `verify` has returned, and returns the user's new row;
    /// `None` if another request has changed the password since.
    pub async fn change_password(
        &self,
        db: &Database,
        user: &User,
        new: &str,
    ) -> Result<Option<User>> {
        let hash = self.hash(new).await?;
        let changed = db.write(|tx| {
            let sql = "UPDATE users SET password_hash = ?1, generation = generation + 1
                       WHERE id = ?2 AND generation = ?3
                       RETURNING id, name, password_hash, generation";
            let values = params![hash, user.id, user.generation];
            Ok(tx.query_row(sql, values, User::from_row).optional()?)
        })?;
        Ok(changed)
    }

    async fn hash(&self, password: &str) -> Result<String> {
        let password = password.to_owned();
        self.hashing(move |argon2| hash(argon2, &password)).await
    }

    /// Runs argon2 on a thread for blocking work, after it has waited for a permit. Without permits
    /// a flood of sign-ins would occupy up to 512 of these threads, on which calls of the session
    /// wait too, and 19 MiB for each.
    async fn hashing<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Argon2<'static>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let permit = self.permits.clone().acquire_owned().await?;
        let argon2 = self.argon2.clone();
        let work = move || {
            // Until argon2 has ended, even if the request has been given up.
            let _permit = permit;
            work(&argon2)
        };
        spawn_blocking(work).await?
    }
}

fn hash(argon2: &Argon2<'_>, password: &str) -> Result<String> {
    Ok(argon2.hash_password(password.as_bytes())?.to_string())
}

/// Signs the user in. The sign-in stores the generation in the same step.
pub fn sign_in(session: &Session, user: &User) -> cloakroom::Result<SignIn> {
    let before: Option<i64> = session.get(GENERATION)?;
    session.set(GENERATION, user.generation)?;
    let outcome = session.sign_in(user.key()?)?;
    if !matches!(outcome, SignIn::Done) {
        // The end of the request would store it in the session from before, which may be another
        // user's.
        match before {
            Some(generation) => session.set(GENERATION, generation)?,
            None => session.remove(GENERATION)?,
        }
    }
    Ok(outcome)
}

/// Returns the user of the session; `None` also if the user was deleted, or if the password was
/// changed after the sign-in, or while the sign-in was verifying the old one. Such a session is
/// refused and not ended: a request that read it before the change of the password would end the
/// session that has just got the new generation.
pub fn signed_in(db: &Database, session: &Session) -> cloakroom::Result<Option<User>> {
    let Some(key) = session.user()? else { return Ok(None) };
    let generation = session.get::<i64>(GENERATION)?;
    let user = by_column(db, "id", key.as_str())?;
    Ok(user.filter(|user| Some(user.generation) == generation))
}

fn by_column(db: &Database, column: &str, value: &str) -> cloakroom::Result<Option<User>> {
    let sql = format!("SELECT id, name, password_hash, generation FROM users WHERE {column} = ?1");
    db.read(|c| c.prepare_cached(&sql)?.query_row([value], User::from_row).optional())
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use rocket::futures::FutureExt;
    use rocket::tokio::runtime::Runtime;

    use super::*;

    #[test]
    fn a_permit_is_held_until_argon2_has_ended() {
        Runtime::new().unwrap().block_on(async {
            let accounts = Accounts::new(Argon2::default()).unwrap();
            let gate = Arc::new(Barrier::new(MAX_HASHES + 1));
            for _ in 0..MAX_HASHES {
                let gate = gate.clone();
                let work = move |_: &Argon2<'static>| {
                    gate.wait(); // all have begun
                    gate.wait(); // and may end
                    Ok(())
                };
                // The request is given up at once.
                assert!(accounts.hashing(work).now_or_never().is_none());
            }
            gate.wait();
            let free = accounts.permits.available_permits();
            gate.wait();
            assert_eq!(free, 0);
            accounts.hashing(|_| Ok(())).await.unwrap();
        });
    }
}
