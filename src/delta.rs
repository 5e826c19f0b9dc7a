//! The changes of one request as a value, which is merged into the stored session.
//!
//! Invariant: applying `a.then(b)` equals applying `a`, then `b`.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::data::{CSRF_SECRET, Data, Value};
use crate::record::Record;

/// The changes of one request: names set and removed, all names cleared, the user authenticated
/// again, the idle limit changed.
///
/// Applying `a.then(b)` equals applying `a` and then `b`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// Removes every name that `changes` does not contain, but not the CSRF secret.
    clear: bool,
    /// `Some` sets the name, `None` removes it.
    changes: BTreeMap<Box<str>, Option<Value<'static>>>,
    /// Another proof of identity by the session's user.
    confirmation: Option<Confirmation>,
    idle_limit: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Confirmation {
    time: Timestamp,
    level: u16,
}

/// The change of one name in a delta.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change<'a> {
    /// The delta leaves the stored value.
    Untouched,
    /// The delta removes the name.
    Removed,
    /// The delta sets this value.
    Set(&'a Value<'static>),
}

impl Delta {
    /// Makes an empty delta.
    #[must_use]
    pub const fn new() -> Self {
        Delta { clear: false, changes: BTreeMap::new(), confirmation: None, idle_limit: None }
    }

    /// Sets `name`.
    pub fn set(&mut self, name: &str, value: Value<'static>) {
        self.changes.insert(name.into(), Some(value));
    }

    /// Removes `name`.
    pub fn remove(&mut self, name: &str) {
        if self.keeps(name) {
            self.changes.insert(name.into(), None);
        } else {
            // It is absent already, unless this delta has set it since the clear.
            self.changes.remove(name);
        }
    }

    /// Removes every name but that of the CSRF secret, whose tokens are in open pages. The user
    /// does not change.
    pub fn clear(&mut self) {
        self.clear = true;
        self.changes.retain(|name, _| &**name == CSRF_SECRET);
    }

    /// Returns whether a name stays that `changes` does not contain.
    fn keeps(&self, name: &str) -> bool {
        !self.clear || name == CSRF_SECRET
    }

    /// Sets the time and the level of the authentication, if the session has a user.
    pub fn confirm_authentication(&mut self, time: Timestamp, level: u16) {
        self.confirmation = Some(Confirmation { time, level });
    }

    /// Sets the idle limit, in whole milliseconds. If the same commit signs a user in, the limit of
    /// the sign-in applies instead.
    pub fn set_idle_limit(&mut self, limit: Duration) {
        self.idle_limit = Some(limit);
    }

    /// Returns the new idle limit, or `None` if the delta does not change it.
    #[must_use]
    pub fn idle_limit(&self) -> Option<Duration> {
        self.idle_limit
    }

    /// Returns this delta for a session that another request has signed in: without the clear, the
    /// CSRF secret and the confirmed authentication, which concern the session before the sign-in,
    /// and with this idle limit.
    pub(crate) fn for_join(&self, idle_limit: Option<Duration>) -> Self {
        let mut delta = Delta { clear: false, confirmation: None, idle_limit, ..self.clone() };
        delta.changes.remove(CSRF_SECRET);
        delta
    }

    /// Returns whether the delta changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Delta::new()
    }

    /// Returns whether the delta sets a value.
    pub(crate) fn sets_any_value(&self) -> bool {
        self.iter().any(|(_, value)| value.is_some())
    }

    /// Returns whether the delta changes nothing but the data of the session, or nothing at all.
    #[must_use]
    pub fn changes_data_only(&self) -> bool {
        self.confirmation.is_none() && self.idle_limit.is_none()
    }

    /// Returns the change of `name`.
    #[must_use]
    pub fn change(&self, name: &str) -> Change<'_> {
        match self.changes.get(name) {
            Some(Some(value)) => Change::Set(value),
            Some(None) => Change::Removed,
            None if self.keeps(name) => Change::Untouched,
            None => Change::Removed,
        }
    }

    /// Returns whether the delta removes every name that it does not set, except the CSRF secret's.
    #[must_use]
    pub fn is_clear(&self) -> bool {
        self.clear
    }

    /// Iterates over the names that the delta sets, and those that it removes by name, with `None`.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Option<&Value<'static>>)> {
        self.changes.iter().map(|(name, value)| (&**name, value.as_ref()))
    }

    /// Returns this delta followed by `next`.
    #[must_use]
    pub fn then(mut self, next: Delta) -> Delta {
        if next.clear {
            self.clear();
        }
        for (name, value) in next.changes {
            match value {
                Some(value) => self.set(&name, value),
                None => self.remove(&name),
            }
        }
        self.confirmation = next.confirmation.or(self.confirmation);
        self.idle_limit = next.idle_limit.or(self.idle_limit);
        self
    }

    /// Applies the changes to the data; returns false if the data is unchanged.
    pub(crate) fn apply_data(&self, data: &mut Data) -> bool {
        if !self.clear && self.changes.is_empty() {
            return false;
        }
        let changes = self.iter().map(|(name, value)| (name, value.map(Value::as_json)));
        data.change(|name| self.keeps(name), changes)
    }

    /// Applies the delta to a record; returns false if the record is unchanged. The caller
    /// increments the revision.
    pub fn apply(&self, record: &mut Record) -> bool {
        let data_changed = self.apply_data(&mut record.data);
        let before = (record.authenticated, record.auth_level, record.limits.idle);
        if let Some(Confirmation { time, level }) = self.confirmation
            && record.user.is_some()
        {
            (record.authenticated, record.auth_level) = (Some(time), level);
        }
        record.limits.idle = self.idle_limit.or(record.limits.idle);
        data_changed || before != (record.authenticated, record.auth_level, record.limits.idle)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::id::{PublicId, UserKey};
    use crate::lifetime::Lifetime;
    use crate::record::NewSession;

    #[derive(Clone, Debug)]
    enum Step {
        Set(usize, u8),
        Remove(usize),
        Clear,
        Confirm(u8),
        Idle(u8),
    }

    const NAMES: [&str; 3] = ["a", "b", CSRF_SECRET];

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0..3_usize, 0..3_u8).prop_map(|(name, value)| Step::Set(name, value)),
            3 => (0..3_usize).prop_map(Step::Remove),
            1 => Just(Step::Clear),
            2 => (0..3_u8).prop_map(Step::Confirm),
            1 => (1..4_u8).prop_map(Step::Idle),
        ];
        prop::collection::vec(step, 0..6)
    }

    fn delta(steps: &[Step]) -> Delta {
        let mut delta = Delta::new();
        for step in steps {
            match step {
                Step::Set(name, value) => delta.set(NAMES[*name], Value::encode(value).unwrap()),
                Step::Remove(name) => delta.remove(NAMES[*name]),
                Step::Clear => delta.clear(),
                Step::Confirm(level) => {
                    let time = Timestamp::from_millis(i64::from(*level));
                    delta.confirm_authentication(time, u16::from(*level));
                }
                Step::Idle(hours) => {
                    delta.set_idle_limit(Duration::from_secs(u64::from(*hours) * 3600));
                }
            }
        }
        delta
    }

    fn record(steps: &[Step], is_users: bool) -> Record {
        let now = Timestamp::from_millis(0);
        let mut new_session = NewSession::new(Lifetime::default().limits_from(now)).unwrap();
        new_session.public_id = PublicId::from_bytes([0; 16]);
        new_session.auth_level = 2;
        let mut record = Record::create(&new_session, now);
        record.user = is_users.then(|| UserKey::new("ada").unwrap());
        record.authenticated = is_users.then_some(now);
        delta(steps).apply(&mut record);
        record
    }

    proptest! {
        #[test]
        fn applying_two_deltas_equals_applying_both_joined(
            start in steps(), is_users: bool, a in steps(), b in steps(),
        ) {
            let a = delta(&a);
            let b = delta(&b);
            let mut in_turn = record(&start, is_users);
            a.apply(&mut in_turn);
            b.apply(&mut in_turn);
            let mut joined = record(&start, is_users);
            a.then(b).apply(&mut joined);
            prop_assert_eq!(in_turn, joined);
        }

        #[test]
        fn then_is_associative_and_the_empty_delta_is_neutral(
            a in steps(), b in steps(), c in steps(),
        ) {
            let a = delta(&a);
            let b = delta(&b);
            let c = delta(&c);
            prop_assert_eq!(
                a.clone().then(b.clone()).then(c.clone()),
                a.clone().then(b.then(c))
            );
            prop_assert_eq!(a.clone().then(Delta::new()), a.clone());
            prop_assert_eq!(Delta::new().then(a.clone()), a);
        }

        #[test]
        fn apply_returns_whether_the_record_changed(
            start in steps(), is_users: bool, a in steps(),
        ) {
            let before = record(&start, is_users);
            let mut after = before.clone();
            let changed = delta(&a).apply(&mut after);
            prop_assert_eq!(changed, before != after);
        }

        #[test]
        fn change_agrees_with_apply_for_every_name(start in steps(), a in steps()) {
            let delta = delta(&a);
            let before = record(&start, false);
            let mut after = before.clone();
            delta.apply(&mut after);
            for name in NAMES {
                let expected = match delta.change(name) {
                    Change::Untouched => before.data.get(name),
                    Change::Removed => None,
                    Change::Set(value) => Some(value.borrowed()),
                };
                prop_assert_eq!(after.data.get(name), expected);
            }
        }
    }
}
