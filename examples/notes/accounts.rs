//! The table of users: sign-up, passwords, and the user of a session.

use std::error::Error;
use std::ops::RangeInclusive;

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use cloakroom::stores::sqlite::rusqlite::{OptionalExtension, Row, params};
use cloakroom::{CommitOutcome, Session, SignIn, UserKey};

use super::database::Database;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// The length of passwords, in characters. NIST SP 800-63B-4, 3.1.1.2, requires at least 15 where
/// the password is the only factor.
pub const PASSWORD_LENGTH: RangeInclusive<usize> = 15..=200;

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
    pub fn key(&self) -> Result<UserKey> {
        Ok(UserKey::new(self.id.to_string())?)
    }
}

pub struct Accounts {
    argon2: Argon2<'static>,
    /// A hash of no account, so that a sign-in takes as long without the account as with it.
    no_account: String,
}

impl Accounts {
    pub fn new(argon2: Argon2<'static>) -> Result<Self> {
        let mut accounts = Accounts { argon2, no_account: String::new() };
        accounts.no_account = accounts.hash("a password of no account")?;
        Ok(accounts)
    }

    /// Creates an account; returns `None` if the name is taken.
    pub fn create(&self, db: &Database, name: &str, password: &str) -> Result<Option<User>> {
        let hash = self.hash(password)?;
        db.write(|tx| {
            let sql = "INSERT INTO users (name, password_hash) VALUES (?1, ?2)
                       ON CONFLICT DO NOTHING RETURNING id, name, password_hash, generation";
            Ok(tx.query_row(sql, params![name, hash], User::from_row).optional()?)
        })
    }

    /// Returns the account of this name if this is its password.
    pub fn verify(&self, db: &Database, name: &str, password: &str) -> Result<Option<User>> {
        let user = by_column(db, "name", name)?;
        let hash = user.as_ref().map_or(&self.no_account, |user| &user.password_hash);
        let is_right =
            self.argon2.verify_password(password.as_bytes(), &PasswordHash::new(hash)?).is_ok();
        Ok(user.filter(|_| is_right))
    }

    /// Changes the password of a user whom `verify` has returned, and returns the user's new row;
    /// `None` if another request has changed the password since.
    pub fn change_password(&self, db: &Database, user: &User, new: &str) -> Result<Option<User>> {
        let hash = self.hash(new)?;
        db.write(|tx| {
            let sql = "UPDATE users SET password_hash = ?1, generation = generation + 1
                       WHERE id = ?2 AND generation = ?3
                       RETURNING id, name, password_hash, generation";
            let values = params![hash, user.id, user.generation];
            Ok(tx.query_row(sql, values, User::from_row).optional()?)
        })
    }

    fn hash(&self, password: &str) -> Result<String> {
        Ok(self.argon2.hash_password(password.as_bytes())?.to_string())
    }
}

/// Signs the user in. The sign-in stores the generation in the same step.
pub fn sign_in(session: &Session, user: &User) -> Result<SignIn> {
    session.set(GENERATION, user.generation)?;
    Ok(session.sign_in(user.key()?)?)
}

/// Gives the session a new id and the user's new generation, after a change of the password. In
/// contrast to a sign-in, its limits and its level stay.
pub fn confirm(session: &Session, user: &User) -> Result<CommitOutcome> {
    session.set(GENERATION, user.generation)?;
    Ok(session.confirm_authentication(session.auth_level()?)?)
}

/// Returns the user of the session. Ends the session if its user was deleted, or if the password
/// was changed after the sign-in, or while the sign-in was verifying the old one.
pub fn signed_in(db: &Database, session: &Session) -> Result<Option<User>> {
    let Some(key) = session.user()? else { return Ok(None) };
    let generation = session.get::<i64>(GENERATION)?;
    match by_column(db, "id", key.as_str())? {
        Some(user) if Some(user.generation) == generation => Ok(Some(user)),
        _ => {
            session.destroy()?;
            Ok(None)
        }
    }
}

fn by_column(db: &Database, column: &str, value: &str) -> Result<Option<User>> {
    let sql = format!("SELECT id, name, password_hash, generation FROM users WHERE {column} = ?1");
    db.read(|c| c.prepare_cached(&sql)?.query_row([value], User::from_row).optional())
}
