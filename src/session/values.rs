//! The values of a session: read, set, removed and updated by name.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::data::Value;
use crate::delta::{Change, Delta};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::id::PublicId;
use crate::session::changes::Latest;
use crate::session::running_update::Updating;
use crate::session::{CommitOutcome, Session, State};

const GET: &str = "get a session value";
const SET: &str = "set a session value";
const REMOVE: &str = "remove a session value";
const UPDATE: &str = "update a session value";

impl Session {
    /// The value of `name`; `None` if there is none, or if it is a JSON `null` and a `T` is never
    /// null.
    ///
    /// # Errors
    /// [`ErrorKind::WrongType`] when the value is not a `T`; and the store's errors when this is
    /// the first read.
    pub fn get<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let mut state = self.lock(GET)?;
        state.looked_at = true;
        let (set, data);
        let value = match state.changes.delta().change(name) {
            Change::Set(value) => {
                set = value.clone();
                Some(set.borrowed())
            }
            Change::Removed => None,
            Change::Untouched => {
                data = self.read(&mut state)?.data().cloned();
                data.as_ref().and_then(|data| data.get(name))
            }
        };
        let public_id = state.known.public_id();
        // The application's code decodes it.
        drop(state);
        let Some(value) = value else { return Ok(None) };
        decode(name, &value).inspect_err(|error| self.report(error, public_id))
    }

    /// Whether there is a value of `name`. A JSON `null`, such as `None` is stored as, is one.
    ///
    /// # Errors
    /// The store's errors when this is the first read.
    pub fn contains(&self, name: &str) -> Result<bool> {
        let mut state = self.lock("look for a session value")?;
        state.looked_at = true;
        Ok(match state.changes.delta().change(name) {
            Change::Set(_) => true,
            Change::Removed => false,
            Change::Untouched => {
                self.read(&mut state)?.data().is_some_and(|data| data.get(name).is_some())
            }
        })
    }

    /// All names that have a value, in order. Names of cloakroom's own, which begin with
    /// `cloakroom.`, are left out.
    ///
    /// # Errors
    /// The store's errors when this is the first read.
    pub fn keys(&self) -> Result<Vec<String>> {
        let mut state = self.lock("list session values")?;
        let mut data = self.read(&mut state)?.data().cloned().unwrap_or_default();
        state.changes.delta().apply_data(&mut data);
        let names = data.iter().map(|(name, _)| name);
        Ok(names.filter(|name| !name.starts_with("cloakroom.")).map(str::to_owned).collect())
    }

    /// Sets `name`. Loads nothing: what is stored is merged with at the end.
    ///
    /// # Errors
    /// The value from before stays.
    /// - [`ErrorKind::WrongType`] for a value that [`get`](Self::get) could not give back: JSON has
    ///   no NaN, no infinities and no map keys but strings, numbers and booleans, and arrays and
    ///   objects are read up to 127 deep;
    /// - [`ErrorKind::TooLarge`] when the value alone exceeds the limit of a session;
    /// - [`ErrorKind::Invalid`] for a name that begins with `cloakroom.`;
    /// - [`ErrorKind::Closed`] after the end of the request;
    /// - [`ErrorKind::Unavailable`] when the session was read as empty.
    pub fn set(&self, name: &str, value: impl Serialize) -> Result<()> {
        check_name(name, SET)?;
        let value = encode(name, &value, self.context.settings.max_bytes, SET)?;
        let mut state = self.writable(SET)?;
        state.changes.edit(|delta| delta.set(name, value.clone()));
        Ok(())
    }

    /// Removes `name`. Loads nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`] after the end of the request, [`ErrorKind::Invalid`] for a name that
    /// begins with `cloakroom.`.
    pub fn remove(&self, name: &str) -> Result<()> {
        check_name(name, REMOVE)?;
        self.writable(REMOVE)?.changes.edit(|delta| delta.remove(name));
        Ok(())
    }

    /// Removes `name` and gives the value it had, as [`get`](Self::get) does. Two parallel requests
    /// can both get it: for something that may be used once only, use
    /// [`update_now`](Self::update_now).
    ///
    /// # Errors
    /// As [`get`](Self::get); the value stays then.
    pub fn take<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let value = self.get(name)?;
        // A null may be there all the same.
        if value.is_some() || self.contains(name)? {
            self.remove(name)?;
        }
        Ok(value)
    }

    /// Removes every value. The session goes on, and its user stays signed in.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`] after the end of the request.
    pub fn clear(&self) -> Result<()> {
        self.writable("clear the session")?.changes.edit(Delta::clear);
        Ok(())
    }

    /// Changes the value of `name` by `f`, such that no change of a parallel request is lost.
    ///
    /// `f` runs at once, on what this request sees, as [`get`](Self::get) would give it, and its
    /// result is returned. It is stored at the end of the request. If another request has changed
    /// the session by then, `f` runs again, on the thread that stores the changes, on what is
    /// stored then: so it must depend on nothing but its argument, and the result returned here
    /// may not be the one that is stored. Where that matters, use [`update_now`](Self::update_now).
    ///
    /// Of many requests at once that update one session, 64 wait for each other. For the others
    /// [`commit`](Self::commit), or the end of the request, fails with [`ErrorKind::Busy`] at once.
    ///
    /// `f` must not use this session, which is locked meanwhile: on the thread on which `f` runs
    /// every call fails with [`ErrorKind::Invalid`], and other threads wait until `f` returns.
    ///
    /// # Errors
    /// As [`get`](Self::get), and for the result as [`set`](Self::set); the value stays then.
    pub fn update<T, F>(&self, name: &str, f: F) -> Result<T>
    where
        T: Serialize + DeserializeOwned,
        F: Fn(Option<T>) -> T + Send + 'static,
    {
        check_name(name, UPDATE)?;
        let update = self.compute(name, f)?;
        updated(name, &update)
    }

    /// [`update`](Self::update) and [`commit`](Self::commit) in one: changes the value of `name` by
    /// `f` and stores it at once, together with whatever else this request has changed so far.
    /// Returns the result that was stored, or `None` if nothing was, because the session had ended
    /// or had been renewed before it could be, or because this request
    /// [ignores](Self::ignore) it.
    ///
    /// Of parallel requests with one session each gets the result of a turn of its own, so that
    /// something can be used once only:
    ///
    /// ```
    /// # let sessions = cloakroom::SessionManager::new(cloakroom::MemoryStore::new())?;
    /// # let session = sessions.open(None);
    /// let uses = session.update_now("coupon_uses", |uses: Option<u32>| uses.unwrap_or(0) + 1)?;
    /// if uses == Some(1) {
    ///     // Exactly one request comes here.
    /// }
    /// # Ok::<(), cloakroom::Error>(())
    /// ```
    ///
    /// Where there is no session, one begins: parallel first requests of one visitor have a
    /// session each.
    ///
    /// # Errors
    /// As [`update`](Self::update), and the store's. The value is as it was, then and at the end of
    /// the request; the other changes are tried again at the end.
    pub fn update_now<T, F>(&self, name: &str, f: F) -> Result<Option<T>>
    where
        T: Serialize + DeserializeOwned,
        F: Fn(Option<T>) -> T + Send + 'static,
    {
        check_name(name, UPDATE)?;
        if self.writable(UPDATE)?.ignored {
            return Ok(None);
        }
        let update = self.compute(name, f)?;
        match self.commit() {
            Ok(CommitOutcome::Stored) => updated(name, &update).map(Some),
            Ok(CommitOutcome::Discarded) => Ok(None),
            Err(error) => {
                let mut state = self.lock(UPDATE)?;
                let State { known, changes, .. } = &mut *state;
                changes.withdraw(&update, known.data())?;
                Err(error)
            }
        }
    }

    /// The step that both updates take first.
    fn compute<T, F>(&self, name: &str, f: F) -> Result<Latest>
    where
        T: Serialize + DeserializeOwned,
        F: Fn(Option<T>) -> T + Send + 'static,
    {
        let max_bytes = self.context.settings.max_bytes;
        let its_name: Box<str> = name.into();
        self.compute_json(name, move |now| {
            let now = now.map_or(Ok(None), |now| decode(&its_name, now))?;
            let value = encode(&its_name, &f(now), max_bytes, UPDATE)?;
            // What a `T` writes but does not read would fail every update from now on.
            value.decode_named::<T>(&its_name)?;
            Ok(Some(value))
        })
    }

    /// An update of the value as JSON, which can also remove it, and has no limit.
    pub(crate) fn compute_json<F>(&self, name: &str, f: F) -> Result<Latest>
    where
        F: Fn(Option<&Value<'_>>) -> Result<Option<Value<'static>>> + Send + 'static,
    {
        let mut state = self.writable(UPDATE)?;
        self.read(&mut state)?;
        state.check_readable(UPDATE)?;
        let updating = self.updating.get_or_init(Updating::default).clone();
        let compute = move |now: Option<&Value<'_>>| {
            let _running = updating.begin();
            f(now)
        };
        let State { known, changes, .. } = &mut *state;
        let update = changes.update(name, known.data(), Box::new(compute));
        update.inspect_err(|error| self.report(error, state.known.public_id()))
    }

    /// Tells the operator of a value of a wrong type.
    fn report(&self, error: &Error, public_id: Option<PublicId>) {
        if error.kind() == ErrorKind::WrongType {
            self.context.events.raise(&Event::WrongType { public_id: public_id.as_ref(), error });
        }
    }
}

/// What an update came to when it was last computed.
fn updated<T: DeserializeOwned>(name: &str, update: &Latest) -> Result<T> {
    let none = || Error::new(ErrorKind::Unexpected, UPDATE);
    update.value().ok_or_else(none)?.decode_named(name)
}

/// The value as a `T`; `None` for a null that is no `T`.
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

/// Names of our own are not the application's to change: it would be told of a wrong type later.
fn check_name(name: &str, operation: &'static str) -> Result<()> {
    match name.starts_with("cloakroom.") {
        true => {
            let why = "names that begin with `cloakroom.` are its own";
            Err(Error::with_source(ErrorKind::Invalid, operation, why))
        }
        false => Ok(()),
    }
}
