//! Where a session meets its store: sign-in, commit, and the end of the request.

use std::time::Duration;

use crate::delta::Delta;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::http::{Outcome, ResponseHeaders};
use crate::id::{SessionId, SessionKey, UserKey};
use crate::record::{Birth, Record, Touch};
use crate::session::changes::Changes;
use crate::session::update_queue::overtaken;
use crate::session::{Authentication, Known, Saved, Secret, Session, SignIn, State};
use crate::store::{Commit, Committed, Fate, Loaded};
use crate::sync::instant;

/// The most times that a commit is computed again because others were faster. From the second try
/// on the updates of one process take turns, so this many mean that other processes do nothing
/// else.
const TRIES: usize = 100;

impl Session {
    /// Signs `user` in: the session gets a new id and is this user's from now on, both clocks
    /// start again, and the limit per user is applied. All changes so far are stored with it. The
    /// id from before is dead. Where there is no session, one begins; where it is another user's,
    /// that one ends and a new one begins.
    ///
    /// It is done at once and stands, whatever the response will be.
    ///
    /// The cookie of the session is kept by the browser as [`set_persistent`](Self::set_persistent)
    /// said before in this request; else as that of the session so far.
    ///
    /// # Errors
    /// The store's errors; nobody was signed in then. A [`destroy`](Self::destroy) that came
    /// before in this request may be done already.
    pub fn sign_in(&self, user: UserKey) -> Result<SignIn> {
        self.sign_in_with(user, &Authentication::new())
    }

    /// [`sign_in`](Self::sign_in) that says how the user was authenticated.
    ///
    /// # Errors
    /// As [`sign_in`](Self::sign_in); and [`ErrorKind::Invalid`] for an end that is not to come.
    pub fn sign_in_with(&self, user: UserKey, how: &Authentication) -> Result<SignIn> {
        const DOING: &str = "sign a user in";
        let mut state = self.writable(DOING)?;
        self.read(&mut state)?;
        state.check_readable(DOING)?;
        self.end_what_was_destroyed(&mut state)?;
        let id = SessionId::generate()?;
        let to = id.key();
        let mut birth = self.birth(&state)?;
        how.apply(&mut birth, self.shared.now())?;
        // Without a session any key will do under which there is none.
        let from = match &state.known {
            Known::Live { key, .. } => *key,
            Known::Unread | Known::None { .. } => SessionId::generate()?.key(),
        };
        let fate = Fate::SignIn { to: &to, user: &user, birth: &birth };
        // Nothing of one user's session may reach the next user's, nor what was computed from it.
        let apart = match &state.known {
            Known::Live { record, .. } if record.user.as_ref().is_some_and(|had| *had != user) => {
                Some(state.changes.apart()?)
            }
            _ => None,
        };
        let kept = apart.map(|apart| std::mem::replace(&mut state.changes, apart));
        let ending = self.shared.endings.begin();
        let answer = self.commit_to(&mut state, &from, fate);
        if let Some(kept) = kept {
            state.changes = kept;
        }
        match answer? {
            Committed::Done { record, key, ended } => {
                ended.into_iter().for_each(|key| self.shared.endings.note(key));
                drop(ending);
                let handle = record.handle;
                self.shared.events.raise(&Event::SignedIn { handle: &handle, user: &user });
                state.left_behind.extend(self.other_sessions(&from));
                state.known = Known::Live { record, key };
                state.issued = Some(id);
                state.changes = Changes::default();
                state.renew = false;
                state.lost = false;
                Ok(SignIn::Done)
            }
            Committed::Full => {
                self.shared.events.raise(&Event::Refused { user: &user });
                Ok(SignIn::Refused)
            }
            _ => Err(Error::new(ErrorKind::Unexpected, DOING)),
        }
    }

    /// The sessions of the ids presented, but `from`, that are not known to be gone. After a sign-in
    /// the browser would go on sending those ids, and one of them could be found first.
    fn other_sessions(&self, from: &SessionKey) -> Vec<SessionKey> {
        let now = self.shared.now();
        let is_another = |key: &SessionKey| match self.cross(|| self.shared.store()?.load(key, now))
        {
            Ok(Loaded::Live { key, .. }) => key != *from,
            Ok(_) => false,
            // To end one that is gone does no harm.
            Err(_) => true,
        };
        self.presented.keys().filter(|key| key != from).filter(is_another).collect()
    }

    /// Stores all changes now, for a handler that must know that they are. What it did stands,
    /// whatever the response will be. After [`ignore`](Self::ignore) it does nothing.
    ///
    /// # Errors
    /// The store's errors; the changes are kept and tried again at the end of the request.
    pub fn commit(&self) -> Result<Saved> {
        let mut state = self.writable("commit the session")?;
        if state.ignored {
            return Ok(Saved::Kept);
        }
        self.end_what_was_destroyed(&mut state)?;
        self.store_changes(&mut state)?;
        Ok(if state.lost { Saved::Discarded } else { Saved::Kept })
    }

    /// The end of the request.
    pub(crate) fn close(&self, outcome: Outcome) -> Result<ResponseHeaders> {
        let mut state = self.state();
        if std::mem::replace(&mut state.closed, true) {
            return Err(Error::new(ErrorKind::Closed, "close a session"));
        }
        let headers = self.end(&mut state, outcome);
        if headers.is_err() {
            // Who answers the failure must not read what was never stored.
            state.changes = Changes::default();
        }
        headers
    }

    fn end(&self, state: &mut State, outcome: Outcome) -> Result<ResponseHeaders> {
        if state.ignored {
            state.changes = Changes::default();
            state.renew = false;
            state.to_end.clear();
            state.destroyed = false;
        }
        let discard = match outcome {
            Outcome::Completed => false,
            Outcome::ServerError => !self.shared.settings.keep_on_server_error,
            Outcome::Panicked => true,
        };
        if discard {
            state.changes = Changes::default();
            state.renew &= outcome == Outcome::ServerError;
        }
        self.end_what_was_destroyed(state)?;
        if state.has_changes() {
            // They may have been made before the store failed to be read.
            state.check_readable("store the session's changes")?;
            self.store_changes(state)?;
        }
        if let Known::Live { record, key } = &state.known
            && !state.ignored
        {
            let now = self.shared.now();
            self.shared.touch(self.crossing, *key, record, state.used.unwrap_or(now), now);
        }
        Ok(self.headers(state))
    }

    /// What the response needs although the end of the request failed: the id that a sign-in or a
    /// commit has brought before.
    pub(crate) fn standing(&self) -> ResponseHeaders {
        let state = self.state();
        let mut headers = self.headers(&state);
        if state.issued.is_none() {
            headers.id = None;
        }
        headers
    }

    fn headers(&self, state: &State) -> ResponseHeaders {
        let transport = &self.shared.settings.transport;
        let id = if state.unreadable.is_some() || (state.ignored && state.issued.is_none()) {
            None
        } else if let Known::Live { record, key } = &state.known {
            let issued = state.issued.as_ref().or_else(|| self.to_be_sealed_again(key));
            if issued.is_some() {
                self.shared.warn_if_insecure(self.insecure_host.as_ref());
            }
            issued.map(|id| transport.issue(id, self.max_age(record)))
        } else if self.takes_id_away(state) {
            transport.remove()
        } else {
            None
        };
        let settings = &self.shared.settings;
        ResponseHeaders {
            id,
            depends_on: state.looked_at.then(|| transport.request_header()),
            discarded: state.discarded,
            no_store: settings.no_store_when_signed_in && state.has_seen_user(),
            clear_site_data: settings.clear_site_data && state.destroyed && state.ended,
        }
    }

    /// Only when this request ended the session, or when it is known that nothing the client
    /// presented is of use: a late answer must not take away the id that another has just given.
    fn takes_id_away(&self, state: &State) -> bool {
        let dead = match state.known {
            Known::None { overtaken, undecodable } => !overtaken && !undecodable,
            Known::Unread | Known::Live { .. } => false,
        };
        let dead = dead && !state.in_doubt;
        !self.presented.is_empty() && !state.lost && (state.destroyed || dead)
    }

    /// The id presented, if it finds this session by its current key and was sealed with an old key.
    fn to_be_sealed_again(&self, key: &SessionKey) -> Option<&SessionId> {
        let outdated = self.presented.ids.iter().flatten().filter(|(_, outdated)| *outdated);
        let id = outdated.map(|(id, _)| id).find(|id| id.key() == *key)?;
        // Asked again: by now another response may have brought the client a newer id.
        match self.cross(|| self.shared.store()?.load(key, self.shared.now())) {
            Ok(Loaded::Live { key: current, .. }) if current == *key => Some(id),
            _ => None,
        }
    }

    fn max_age(&self, record: &Record) -> Option<Duration> {
        record.persistent.then(|| {
            let absolute = record.limits.absolute.map(|end| end.since(self.shared.now()));
            absolute.unwrap_or(Duration::MAX)
        })
    }

    fn end_what_was_destroyed(&self, state: &mut State) -> Result<()> {
        let mut overtaken = false;
        state.to_end.append(&mut state.left_behind);
        while let Some(key) = state.to_end.last() {
            let (store, now) = (self.shared.store()?, self.shared.now());
            let nothing = Delta::new();
            let end = Commit::new(key, Fate::Delete, &nothing, now);
            let ending = self.shared.endings.begin();
            match self.cross(|| store.commit(&end))? {
                Committed::Deleted { key: current } => {
                    state.ended = true;
                    self.shared.endings.note(current);
                    self.shared.endings.note(*key);
                    drop(ending);
                    self.shared.events.raise(&Event::Destroyed);
                }
                Committed::Renewed => overtaken = true,
                _ => {}
            }
            state.to_end.pop();
        }
        let goes_on = matches!(state.known, Known::Live { .. });
        if overtaken && state.destroyed && !state.ended && !goes_on {
            // The client has a newer id by now, which this request knows nothing of.
            state.destroyed = false;
            state.known = Known::None { overtaken: true, undecodable: false };
            self.lose(state, None);
        }
        Ok(())
    }

    fn store_changes(&self, state: &mut State) -> Result<()> {
        if !state.has_changes() {
            return Ok(());
        }
        match &state.known {
            Known::Unread => self.change_unread(state)?,
            Known::Live { key, .. } => {
                let key = *key;
                self.change(state, &key)?;
            }
            Known::None { .. } => {}
        }
        // Those that found a session have taken the changes; the others are left here.
        if let Known::None { overtaken, .. } = state.known
            && !state.changes.delta().is_empty()
        {
            if overtaken || state.lost || self.was_ended_in_flight(state)? {
                self.lose(state, None);
            } else {
                self.begin(state)?;
            }
        }
        state.changes = Changes::default();
        state.renew = false;
        Ok(())
    }

    /// Merges into the first live one of the sessions that were presented, without a look before.
    fn change_unread(&self, state: &mut State) -> Result<()> {
        let (mut overtaken, mut undecodable) = (false, false);
        for key in self.presented.keys() {
            match self.change(state, &key)? {
                Found::Live => return Ok(()),
                Found::Renewed => overtaken = true,
                // It was alive when this request came.
                Found::Gone if self.has_ended_meanwhile(&key)? => {
                    overtaken = true;
                }
                Found::Gone => self.unknown_id(&key),
                Found::Undecodable => undecodable = true,
            }
        }
        state.known = Known::None { overtaken, undecodable };
        Ok(())
    }

    /// Whether a deletion that was in flight when no session was found has ended one.
    fn was_ended_in_flight(&self, state: &mut State) -> Result<bool> {
        if !std::mem::take(&mut state.in_doubt) {
            return Ok(false);
        }
        // In a fork nobody ends what is in flight.
        self.shared.process.check()?;
        for key in self.presented.keys() {
            if self.has_ended_meanwhile(&key)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether the session of a key that finds none was ended since this request came.
    fn has_ended_meanwhile(&self, key: &SessionKey) -> Result<bool> {
        self.cross(|| Ok(self.shared.endings.has_ended_since(key, self.opened)))
    }

    /// Merges into, or renews, the session that `key` finds.
    fn change(&self, state: &mut State, key: &SessionKey) -> Result<Found> {
        // Through an id in its grace nothing is rotated: the client has been sent a newer one.
        let rotates = state.renew
            && (state.issued.iter().map(SessionId::key).chain(self.presented.keys()))
                .any(|own| own == *key);
        let id = rotates.then(SessionId::generate).transpose()?;
        let to = id.as_ref().map(SessionId::key);
        let grace = self.shared.settings.grace;
        let grace_until = grace.map(|grace| self.shared.now() + grace);
        let fate = match &to {
            Some(to) => Fate::Renew { to, grace_until },
            None => Fate::Merge,
        };
        let answer = self.commit_to(state, key, fate)?;
        // A session that was seen alive and is not there any more was ended by someone else.
        let seen = match &state.known {
            Known::Live { record, .. } => Some(record.handle),
            Known::Unread | Known::None { .. } => None,
        };
        let found = match answer {
            Committed::Done { record, key: current, ended } => {
                ended.into_iter().for_each(|key| self.shared.endings.note(key));
                if to == Some(current) {
                    let handle = record.handle;
                    self.shared.events.raise(&Event::Renewed { handle: &handle });
                    state.issued = id;
                }
                return Ok(self.changed(state, record, current));
            }
            Committed::Unchanged { record, key } => return Ok(self.changed(state, record, key)),
            Committed::Renewed => Found::Renewed,
            Committed::Gone => Found::Gone,
            Committed::Undecodable { handle, error } => {
                self.undecodable(handle.as_ref(), &error);
                Found::Undecodable
            }
            _ => return Err(Error::new(ErrorKind::Unexpected, "change a session")),
        };
        if seen.is_some() {
            state.forget();
            self.lose(state, seen.as_ref());
        }
        Ok(found)
    }

    fn changed(&self, state: &mut State, record: Record, key: SessionKey) -> Found {
        state.known = Known::Live { record, key };
        state.changes = Changes::default();
        Found::Live
    }

    pub(super) fn lose(&self, state: &mut State, handle: Option<&crate::id::Handle>) {
        state.lost = true;
        state.discarded = true;
        state.issued = None;
        state.changes = Changes::default();
        self.shared.events.raise(&Event::Discarded { handle });
    }

    /// Begins a session with the changes so far, if they come to anything.
    fn begin(&self, state: &mut State) -> Result<()> {
        let now = self.shared.now();
        let birth = self.birth(state)?;
        if !state.changes.delta().apply(&mut Record::born(&birth, now)) {
            return Ok(());
        }
        let id = SessionId::generate()?;
        let key = id.key();
        match self.commit_to(state, &key, Fate::Create(&birth))? {
            Committed::Done { record, key, .. } => {
                let handle = record.handle;
                self.shared.events.raise(&Event::Created { handle: &handle });
                state.known = Known::Live { record, key };
                state.issued = Some(id);
                Ok(())
            }
            _ => Err(Error::new(ErrorKind::Unexpected, "begin a session")),
        }
    }

    fn birth(&self, state: &State) -> Result<Birth> {
        let settings = &self.shared.settings;
        let persistent = state.persistent.unwrap_or(match &state.known {
            Known::Live { record, .. } => record.persistent,
            Known::Unread | Known::None { .. } => settings.persistent,
        });
        let lifetime = match settings.browser_session {
            Some(short) if !persistent => short,
            _ => settings.lifetime,
        };
        let mut birth = Birth::new(lifetime.starting(self.shared.now()))?;
        birth.persistent = persistent;
        birth.client.clone_from(&self.client);
        Ok(birth)
    }

    /// Commits the changes; computes them again as often as another request was faster.
    pub(super) fn commit_to(
        &self,
        state: &mut State,
        key: &SessionKey,
        fate: Fate<'_>,
    ) -> Result<Committed> {
        let new_secret = match fate {
            Fate::SignIn { .. } => Some(Secret::generate()?),
            _ => None,
        };
        let mut revision = match &state.known {
            Known::Live { record, .. } if state.changes.depends_on_data() => Some(record.revision),
            _ => None,
        };
        let entered = instant();
        let mut turn = match revision {
            Some(_) => {
                // In a fork a lock of the queues may be held for ever.
                self.shared.process.check()?;
                self.shared.updates.turn_if_contended(self.crossing, key, entered)?
            }
            None => None,
        };
        let newest = turn.as_mut().and_then(|turn| turn.newest.take());
        if let (Some(newest), Known::Live { record, .. }) = (newest, &mut state.known)
            && newest.revision > record.revision
        {
            state.changes.again(&newest.data)?;
            revision = Some(newest.revision);
            *record = newest;
        }
        for _ in 0..TRIES {
            let now = self.shared.now();
            let with_secret;
            let delta = match &new_secret {
                Some(secret) => {
                    with_secret = state.with_new_secret(secret)?;
                    &with_secret
                }
                None => state.changes.delta(),
            };
            let mut commit = Commit::new(key, fate, delta, now);
            commit.if_revision = revision;
            commit.touch = Some(Touch::at(state.used.unwrap_or(now)));
            commit.admit = self.shared.settings.admit;
            commit.max_bytes = self.shared.settings.max_bytes;
            if let Some(turn) = &turn {
                turn.wake_next();
            }
            match self.cross(|| self.shared.store()?.commit(&commit))? {
                Committed::Stale { record, .. } => {
                    let turn = match &mut turn {
                        Some(turn) if turn.is_over() => break,
                        Some(turn) => turn,
                        None => {
                            turn.insert(self.shared.updates.turn(self.crossing, key, entered)?)
                        }
                    };
                    let newest = turn.newest.take();
                    let newest = newest.filter(|newest| newest.revision > record.revision);
                    let record = newest.unwrap_or(record);
                    state.changes.again(&record.data)?;
                    revision = Some(record.revision);
                    if let Known::Live { record: known, .. } = &mut state.known {
                        *known = record;
                    }
                }
                Committed::Done { record, key: current, ended } => {
                    if let Some(turn) = &mut turn
                        && current == *key
                    {
                        turn.newest = Some(record.clone());
                    }
                    return Ok(Committed::Done { record, key: current, ended });
                }
                answer => return Ok(answer),
            }
        }
        Err(overtaken())
    }
}

/// What a key presented led to.
enum Found {
    Live,
    Renewed,
    Gone,
    Undecodable,
}
