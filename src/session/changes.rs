//! The changes of one request, in a form that can be recomputed on newer data.
//!
//! The session records changes; the commit recomputes them when the stored revision has changed.

use std::fmt::{self, Debug};
use std::sync::Arc;

use crate::backend::Expected;
use crate::data::{CSRF_SECRET, CsrfSecret, Data, Value};
use crate::delta::{Change, Delta};
use crate::error::Result;

/// Computes a new value from the current one; `None` is no value.
pub(super) type Update = Box<dyn Fn(Option<&Value<'_>>) -> Result<Option<Value<'static>>> + Send>;

#[derive(Default)]
pub(super) struct Changes {
    /// The result of all steps on the data that the request has read. `None`: no change.
    delta: Option<Arc<Delta>>,
    /// The steps, recorded from the first update on; until then the delta is enough.
    steps: Vec<Step>,
    /// What the steps were computed on.
    pub(super) expected: Expected,
    /// Whether the session gets a new id.
    pub(super) renew: bool,
}

enum Step {
    Plain(Delta),
    Update { name: Box<str>, compute: Update },
}

/// The changes before an update.
pub(super) struct Snapshot {
    delta: Option<Arc<Delta>>,
    steps: usize,
    expected: Expected,
}

impl Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changes").field("delta", &self.delta).finish_non_exhaustive()
    }
}

/// Returns the value of `name` when `delta` is applied to `data`.
fn effective_value<'v>(delta: &'v Delta, data: Option<&'v Data>, name: &str) -> Option<Value<'v>> {
    match delta.change(name) {
        Change::Set(value) => Some(value.borrowed()),
        Change::Removed => None,
        Change::Untouched => data.and_then(|data| data.get(name)),
    }
}

fn put(delta: &mut Delta, name: &str, value: Option<Value<'static>>) {
    match value {
        Some(value) => delta.set(name, value),
        None => delta.remove(name),
    }
}

impl Changes {
    pub(super) fn is_empty(&self) -> bool {
        !self.renew && self.delta().is_empty()
    }

    pub(super) fn drop_all_but_renewal(&mut self) {
        *self = Changes { renew: self.renew, ..Changes::default() };
    }

    pub(super) fn delta(&self) -> &Delta {
        static NOTHING: Delta = Delta::new();
        self.delta.as_deref().unwrap_or(&NOTHING)
    }

    /// Returns the delta for a commit. Later changes do not change that delta.
    pub(super) fn shared_delta(&self) -> Arc<Delta> {
        self.delta.clone().unwrap_or_default()
    }

    /// Returns the delta for a commit that gives the session this CSRF secret.
    pub(super) fn delta_with_secret(&self, secret: &CsrfSecret) -> Result<Arc<Delta>> {
        let mut delta = self.delta().clone();
        delta.set(CSRF_SECRET, secret.to_value()?);
        Ok(delta.into())
    }

    fn delta_mut(&mut self) -> &mut Delta {
        Arc::make_mut(self.delta.get_or_insert_default())
    }

    /// Records a change that does not depend on the current data.
    pub(super) fn edit(&mut self, edit: impl Fn(&mut Delta)) {
        edit(self.delta_mut());
        match self.steps.last_mut() {
            None => {}
            Some(Step::Plain(delta)) => edit(delta),
            Some(Step::Update { .. }) => {
                let mut delta = Delta::new();
                edit(&mut delta);
                self.steps.push(Step::Plain(delta));
            }
        }
    }

    /// Records a change computed from `data` with the changes so far, and returns the new value. On
    /// an error nothing changes.
    pub(super) fn update(
        &mut self,
        name: &str,
        data: Option<&Data>,
        expected: Expected,
        compute: Update,
    ) -> Result<Option<Value<'static>>> {
        let value = compute(effective_value(self.delta(), data, name).as_ref())?;
        if self.steps.is_empty() {
            self.steps.push(Step::Plain(self.delta().clone()));
            self.expected = expected;
        }
        put(self.delta_mut(), name, value.clone());
        self.steps.push(Step::Update { name: name.into(), compute });
        Ok(value)
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let Changes { delta, steps, expected, .. } = self;
        Snapshot { delta: delta.clone(), steps: steps.len(), expected: *expected }
    }

    /// Withdraws the update that is the only change since the snapshot. Runs no other update, which
    /// could fail. If a commit has recomputed the changes meanwhile, that is undone too, with the
    /// expected revision: the next commit then finds another revision, and recomputes them again.
    pub(super) fn restore(&mut self, snapshot: Snapshot) {
        self.delta = snapshot.delta;
        self.steps.truncate(snapshot.steps);
        self.expected = snapshot.expected;
    }

    /// Recomputes all changes on a newer revision of the session.
    pub(super) fn rebase_on(&mut self, data: &Data, revision: u64) -> Result<()> {
        self.delta = Some(self.rebased_delta(data)?);
        self.expected = Expected::Revision(revision);
        Ok(())
    }

    /// Returns the changes recomputed on empty data, for another session: they contain nothing of
    /// the session that was read.
    pub(super) fn rebased_on_empty(&self) -> Result<Self> {
        let delta = Some(self.rebased_delta(&Data::default())?);
        Ok(Changes { delta, ..Changes::default() })
    }

    fn rebased_delta(&self, data: &Data) -> Result<Arc<Delta>> {
        if self.steps.is_empty() {
            return Ok(self.shared_delta());
        }
        let mut delta = Delta::new();
        for step in &self.steps {
            match step {
                Step::Plain(plain) => delta = delta.then(plain.clone()),
                Step::Update { name, compute } => {
                    let value = compute(effective_value(&delta, Some(data), name).as_ref())?;
                    put(&mut delta, name, value);
                }
            }
        }
        Ok(delta.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(n: u32) -> Update {
        Box::new(move |current| {
            let current = current.map_or(Ok(0), Value::decode::<u32>)?;
            Value::encode(&(current + n)).map(Some)
        })
    }

    fn set(name: &'static str, value: u32) -> impl Fn(&mut Delta) {
        move |delta| delta.set(name, Value::encode(&value).unwrap())
    }

    #[test]
    fn updates_are_recomputed_in_order_with_the_other_changes() {
        const REVISION: Expected = Expected::Revision(3);
        let old = Data::from_json("{\"a\":1,\"b\":1}").unwrap();
        let new = Data::from_json("{\"a\":10,\"b\":20,\"c\":30}").unwrap();
        let mut changes = Changes::default();
        changes.edit(set("b", 5));
        assert_eq!(changes.expected, Expected::Anything);
        changes.update("a", Some(&old), REVISION, add(1)).unwrap();
        changes.update("b", Some(&old), REVISION, add(1)).unwrap();
        changes.edit(|delta| delta.remove("c"));
        changes.update("c", Some(&old), REVISION, add(7)).unwrap();
        assert_eq!(changes.expected, Expected::Revision(3));
        let value = |changes: &Changes, name| match changes.delta().change(name) {
            Change::Set(value) => value.decode::<u32>().unwrap(),
            other => panic!("{other:?}"),
        };
        assert_eq!(["a", "b", "c"].map(|name| value(&changes, name)), [2, 6, 7]);
        changes.rebase_on(&new, 4).unwrap();
        assert_eq!(changes.expected, Expected::Revision(4));
        assert_eq!(["a", "b", "c"].map(|name| value(&changes, name)), [11, 6, 7]);
    }
}
