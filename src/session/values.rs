//! The values of a session: the methods of [`Session`] that read, set, remove and update them by
//! name.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::data::{RESERVED_PREFIX, Value};
use crate::delta::{Change, Delta};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::id::PublicId;
use crate::session::changes::Update;
use crate::session::{CommitOutcome, Session, State};

const GET: &str = "get a session value";
const SET: &str = "set a session value";
const REMOVE: &str = "remove a session value";
const UPDATE: &str = "update a session value";

impl Session {
    /// Returns the value of `name`; `None` if there is no value, or if it is a JSON `null` that
    /// does not decode as a `T`. Sees the changes of this request.
    ///
    /// The first read loads the session. Later reads show it as it was then, also if another
    /// request has changed it meanwhile.
    ///
    /// ```
    /// # let sessions = cloakroom::SessionManager::new(cloakroom::MemoryStore::new())?;
    /// # let session = sessions.open(None);
    /// let cart: Vec<u32> = session.get("cart")?.unwrap_or_default();
    /// let theme: Option<String> = session.get("theme")?;
    /// # assert_eq!((cart, theme), (vec![], None));
    /// # Ok::<(), cloakroom::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::WrongType`] when the value is not a `T`; and [those of all
    /// methods](Self#errors-of-all-methods).
    pub fn get<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let mut state = self.lock_for_use(GET)?;
        state.response.varies = true;
        let (set, data);
        let value = match state.changes.delta().change(name) {
            Change::Set(value) => {
                set = value.clone();
                Some(set.borrowed())
            }
            Change::Removed => None,
            Change::Untouched => {
                data = self.ensure_loaded(&mut state)?.data().cloned();
                data.as_ref().and_then(|data| data.get(name))
            }
        };
        let public_id = state.load_state.public_id();
        // Decoding runs code of the application, so the lock is released first.
        drop(state);
        let Some(value) = value else { return Ok(None) };
        decode(name, &value).inspect_err(|error| self.report_wrong_type(error, public_id))
    }

    /// Returns whether `name` has a value. A JSON `null`, as which `None` is stored, is a value.
    ///
    /// # Errors
    /// [Those of all methods](Self#errors-of-all-methods).
    pub fn contains(&self, name: &str) -> Result<bool> {
        let mut state = self.lock_for_use("look for a session value")?;
        state.response.varies = true;
        Ok(match state.changes.delta().change(name) {
            Change::Set(_) => true,
            Change::Removed => false,
            Change::Untouched => {
                self.ensure_loaded(&mut state)?.data().is_some_and(|data| data.get(name).is_some())
            }
        })
    }

    /// Returns the names of all values, sorted, without the names of this crate, which begin with
    /// `cloakroom.`.
    ///
    /// ```
    /// # let sessions = cloakroom::SessionManager::new(cloakroom::MemoryStore::new())?;
    /// # let session = sessions.open(None);
    /// session.set("theme", "dark")?;
    /// session.set("cart", [1, 2, 3])?;
    /// assert_eq!(session.names()?, ["cart", "theme"]);
    /// # Ok::<(), cloakroom::Error>(())
    /// ```
    ///
    /// # Errors
    /// [Those of all methods](Self#errors-of-all-methods).
    pub fn names(&self) -> Result<Vec<String>> {
        let mut state = self.lock_for_use("list session values")?;
        let mut data = self.ensure_loaded(&mut state)?.data().cloned().unwrap_or_default();
        state.changes.delta().apply_data(&mut data);
        let names = data.iter().map(|(name, _)| name);
        Ok(names.filter(|name| !name.starts_with(RESERVED_PREFIX)).map(str::to_owned).collect())
    }

    /// Sets the value of `name`, for a value that does not depend on the old one; otherwise use
    /// [`update`](Self::update).
    ///
    /// Does not load the session: the change is merged into the stored session at the end of the
    /// request.
    ///
    /// ```
    /// # let sessions = cloakroom::SessionManager::new(cloakroom::MemoryStore::new())?;
    /// # let session = sessions.open(None);
    /// session.set("theme", "dark")?;
    /// session.set("cart", [1, 2, 3])?;
    /// # Ok::<(), cloakroom::Error>(())
    /// ```
    ///
    /// # Concurrent requests
    /// Another request can end the session, or replace its id, before this change is stored. Then
    /// the change can be discarded, or begin a new, anonymous session, although this call has
    /// returned `Ok`. If [`user`](Self::user) has found the session before `set`, the change is
    /// stored in this session or discarded, and begins no other. [`commit`](Self::commit) returns
    /// whether it was discarded. The guide has [the cases](crate::guide::values#discarded-changes).
    ///
    /// # Errors
    /// After an error the previous value stays.
    /// - [`ErrorKind::WrongType`] for a value that [`get`](Self::get) could not decode: JSON has no
    ///   NaN, no infinities and no map keys but strings, numbers and booleans, and arrays and
    ///   objects are decoded up to 127 levels deep;
    /// - [`ErrorKind::TooLarge`] when the value alone exceeds the limit of a session;
    /// - [`ErrorKind::Invalid`] for a name that begins with `cloakroom.`;
    /// - [those of all methods](Self#errors-of-all-methods).
    pub fn set(&self, name: &str, value: impl Serialize) -> Result<()> {
        check_name(name, SET)?;
        let value = encode(name, &value, self.context.settings.max_bytes, SET)?;
        let mut state = self.lock_for_change(SET)?;
        state.changes.edit(|delta| delta.set(name, value.clone()));
        Ok(())
    }

    /// Removes the value of `name`. Does not load the session.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a name that begins with `cloakroom.`; and [those of all
    /// methods](Self#errors-of-all-methods).
    pub fn remove(&self, name: &str) -> Result<()> {
        check_name(name, REMOVE)?;
        self.lock_for_change(REMOVE)?.changes.edit(|delta| delta.remove(name));
        Ok(())
    }

    /// Removes the value of `name` and returns it, as [`get`](Self::get) does.
    ///
    /// Two concurrent requests can both receive the value; to use a value only once, see
    /// [`update_now`](Self::update_now). A value that a concurrent request stores between the read
    /// and the end of this request is removed too.
    ///
    /// ```
    /// # let sessions = cloakroom::SessionManager::new(cloakroom::MemoryStore::new())?;
    /// # let session = sessions.open(None);
    /// session.set("next", "/cart")?;
    /// let next: Option<String> = session.take("next")?;
    /// assert_eq!(next.as_deref(), Some("/cart"));
    /// # assert!(!session.contains("next")?);
    /// # Ok::<(), cloakroom::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`get`](Self::get) and [`remove`](Self::remove); the value stays after an error.
    pub fn take<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let value = self.get(name)?;
        // The value may be a null, which is to be removed too.
        if value.is_some() || self.contains(name)? {
            self.remove(name)?;
        }
        Ok(value)
    }

    /// Removes every value and every flash message. The session continues, its user stays signed
    /// in, and its [CSRF tokens](Self::csrf_token) stay valid. To end the session, use
    /// [`destroy`](Self::destroy).
    ///
    /// The removal includes what other requests store before the clear is stored. What this request
    /// sets afterwards stays.
    ///
    /// # Errors
    /// Reads and stores nothing now, so it fails only [as all methods
    /// do](Self#errors-of-all-methods).
    pub fn clear(&self) -> Result<()> {
        self.lock_for_change("clear the session")?.changes.edit(Delta::clear);
        Ok(())
    }

    /// Changes the value of `name` with `f`, for a value that depends on the old one. It overwrites
    /// no change of a concurrent request.
    ///
    /// ```
    /// # let sessions = cloakroom::SessionManager::new(cloakroom::MemoryStore::new())?;
    /// # let session = sessions.open(None);
    /// let visits = session.update("visits", |visits: Option<u32>| visits.unwrap_or(0) + 1)?;
    /// assert_eq!(visits, 1);
    /// # Ok::<(), cloakroom::Error>(())
    /// ```
    ///
    /// `f` runs immediately on the value that [`get`](Self::get) would return. This call returns
    /// its result, which is stored at the end of the request.
    ///
    /// # The closure can run again
    /// If another request has changed the session by the end of this one, `f` runs again on what
    /// that request has stored, after the handler has returned. So `f` depends on its argument
    /// only, owns what it uses, and clones what it stores:
    ///
    /// ```
    /// use cloakroom::Session;
    ///
    /// fn add_name(session: &Session, name: &str) -> cloakroom::Result<Vec<String>> {
    ///     let name = name.to_owned(); // owned, because the closure outlives `name: &str`
    ///     session.update("names", move |names: Option<Vec<String>>| {
    ///         let mut names = names.unwrap_or_default();
    ///         names.push(name.clone()); // cloned, because the closure can run again
    ///         names
    ///     })
    /// }
    /// # let sessions = cloakroom::SessionManager::new(cloakroom::MemoryStore::new())?;
    /// # assert_eq!(add_name(&sessions.open(None), "ada")?, ["ada"]);
    /// # Ok::<(), cloakroom::Error>(())
    /// ```
    ///
    /// Then the stored result can differ from the one that this call has returned. If you act on
    /// the result, use [`update_now`](Self::update_now).
    ///
    /// # What the closure cannot do
    /// - It cannot fail, and cannot remove the value. To keep a value, return the argument. For a
    ///   value that may be absent, use an empty collection, or an `Option` as `T`, whose `None` is
    ///   stored as a null.
    /// - It must not use this session, whose lock is held meanwhile: on the thread that runs `f`
    ///   every call fails with [`ErrorKind::Invalid`], and other threads wait until `f` returns.
    ///
    /// # Concurrent requests
    /// The result can be [discarded](crate::guide::values#discarded-changes) if another request
    /// ends the session, or replaces its id, before the result is stored.
    ///
    /// In each process at most 64 requests wait for their turn to update one session, for at most
    /// five seconds each. A request beyond these limits fails at its end with [`ErrorKind::Busy`]
    /// and stores no values, although this call has succeeded.
    ///
    /// # Errors
    /// The value stays after an error.
    /// - [`ErrorKind::WrongType`] when the value is not a `T`, or when [`get`](Self::get) could not
    ///   decode the result;
    /// - [`ErrorKind::TooLarge`] when the result alone exceeds the limit of a session;
    /// - [`ErrorKind::Invalid`] for a name that begins with `cloakroom.`;
    /// - [those of all methods](Self#errors-of-all-methods).
    pub fn update<T, F>(&self, name: &str, f: F) -> Result<T>
    where
        T: Serialize + DeserializeOwned,
        F: Fn(Option<T>) -> T + Send + 'static,
    {
        check_name(name, UPDATE)?;
        let update = self.update_of_type(name, f);
        let value = self.record_update(&mut *self.lock_for_change(UPDATE)?, name, update)?;
        decode_result(name, value)
    }

    /// Changes the value of `name` with `f` and stores it immediately, so that you can act on the
    /// result. It is [`update`](Self::update) and [`commit`](Self::commit) in one: all other
    /// changes of this request so far are stored too.
    ///
    /// Returns the stored result, or `None` if the changes were
    /// [discarded](crate::CommitOutcome::Discarded).
    ///
    /// Concurrent requests of one session take turns, and `f` runs on the result of the turn
    /// before. So only one request of a session gets each number:
    ///
    /// ```
    /// # let sessions = cloakroom::SessionManager::new(cloakroom::MemoryStore::new())?;
    /// # let session = sessions.open(None);
    /// # let ada = cloakroom::UserKey::new("1")?;
    /// # assert_eq!(session.sign_in(ada)?, cloakroom::SignIn::Done);
    /// // Read first: `update_now` then returns `None` if the session has ended since.
    /// if session.user()?.is_some() {
    ///     let mails = session.update_now("mails", |n: Option<u32>| n.unwrap_or(0) + 1)?;
    ///     if mails == Some(1) {
    ///         // One request of this session sends the mail.
    ///     }
    ///     # assert_eq!(mails, Some(1));
    /// }
    /// # Ok::<(), cloakroom::Error>(())
    /// ```
    ///
    /// Use it for an effect that may be missing but not doubled, such as one mail per session: the
    /// process can be killed between this call and the mail. For a payment or an order use a table
    /// of the application, with a unique key. Use such a table also for what a user may do only
    /// once, because each browser of a user has a session of its own.
    ///
    /// # Errors
    /// After an error the value is unchanged, unless the error [has an unknown
    /// outcome](Error::has_unknown_outcome). The end of the request does not store the result
    /// either; it tries to store the other changes again.
    /// - [`ErrorKind::Busy`] when too many requests [wait](Self::update) to update the session, or
    ///   after a wait of five seconds;
    /// - [`ErrorKind::WrongType`] when the value is not a `T`, or when [`get`](Self::get) could not
    ///   decode the result;
    /// - [`ErrorKind::TooLarge`] when the result, or all values together, exceed the limit of a
    ///   session;
    /// - [`ErrorKind::Invalid`] for a name that begins with `cloakroom.`;
    /// - the other [store's errors](ErrorKind#the-stores-errors), and [those of all
    ///   methods](Self#errors-of-all-methods).
    pub fn update_now<T, F>(&self, name: &str, f: F) -> Result<Option<T>>
    where
        T: Serialize + DeserializeOwned,
        F: Fn(Option<T>) -> T + Send + 'static,
    {
        check_name(name, UPDATE)?;
        let mut state = self.lock_for_change(UPDATE)?;
        if state.is_ignored {
            return Ok(None);
        }
        let before = state.changes.snapshot();
        self.record_update(&mut state, name, self.update_of_type(name, f))?;
        match self.commit_all(&mut state) {
            Ok(CommitOutcome::Stored) => {
                // With the result of the last run of `f`, on what other requests have stored.
                let data = state.load_state.data().cloned();
                drop(state);
                let value = data.as_ref().and_then(|data| data.get(name));
                decode_result(name, value).map(Some)
            }
            Ok(CommitOutcome::Discarded) => Ok(None),
            Err(error) => {
                state.changes.restore(before);
                Err(error)
            }
        }
    }

    /// Records an update of the value as JSON. It may remove the value, and has no size limit.
    pub(crate) fn update_json(
        &self,
        name: &str,
        f: impl Fn(Option<&Value<'_>>) -> Result<Option<Value<'static>>> + Send + 'static,
    ) -> Result<()> {
        let mut state = self.lock_for_change(UPDATE)?;
        self.record_update(&mut state, name, Box::new(f)).map(drop)
    }

    /// Makes an update from the closure of both public methods.
    fn update_of_type<T, F>(&self, name: &str, f: F) -> Update
    where
        T: Serialize + DeserializeOwned,
        F: Fn(Option<T>) -> T + Send + 'static,
    {
        let max_bytes = self.context.settings.max_bytes;
        let name: Box<str> = name.into();
        Box::new(move |current| {
            let current = current.map_or(Ok(None), |value| decode(&name, value))?;
            let value = encode(&name, &f(current), max_bytes, UPDATE)?;
            // A value that a `T` encodes but does not decode would fail every later update.
            value.decode_named::<T>(&name)?;
            Ok(Some(value))
        })
    }

    /// Records an update of the loaded session, and returns the new value.
    fn record_update(
        &self,
        state: &mut State,
        name: &str,
        update: Update,
    ) -> Result<Option<Value<'static>>> {
        self.load_for_change(state, UPDATE)?;
        let State { load_state, changes, .. } = state;
        let _running = self.running_update.begin();
        changes
            .update(name, load_state.data(), load_state.expected(), update)
            .inspect_err(|error| self.report_wrong_type(error, load_state.public_id()))
    }

    /// Raises an event if a value has the wrong type.
    fn report_wrong_type(&self, error: &Error, public_id: Option<PublicId>) {
        if error.kind() == ErrorKind::WrongType {
            self.context.events.raise(&Event::WrongType { public_id: public_id.as_ref(), error });
        }
    }
}

fn decode_result<T: DeserializeOwned>(name: &str, value: Option<Value<'_>>) -> Result<T> {
    value.ok_or_else(|| Error::new(ErrorKind::Unexpected, UPDATE))?.decode_named(name)
}

/// Decodes the value as a `T`; `None` for a null that is no `T`.
fn decode<T: DeserializeOwned>(name: &str, value: &Value<'_>) -> Result<Option<T>> {
    match value.decode_named(name) {
        Err(_) if value.is_null() => Ok(None),
        decoded => decoded.map(Some),
    }
}

fn encode(
    name: &str,
    value: &impl Serialize,
    max_bytes: usize,
    operation: &'static str,
) -> Result<Value<'static>> {
    let value = Value::encode_named(name, value)?;
    let bytes = value.as_json().len();
    if bytes > max_bytes {
        let why =
            format!("session value {name:?} has {bytes} bytes, a session at most {max_bytes}");
        return Err(Error::with_source(ErrorKind::TooLarge, operation, why));
    }
    Ok(value)
}

/// Refuses the names of this crate, because a value of another type there would fail later.
fn check_name(name: &str, operation: &'static str) -> Result<()> {
    if name.starts_with(RESERVED_PREFIX) {
        let why = format!("names that begin with `{RESERVED_PREFIX}` are reserved");
        return Err(Error::with_source(ErrorKind::Invalid, operation, why));
    }
    Ok(())
}
