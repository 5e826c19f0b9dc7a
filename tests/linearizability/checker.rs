//! Checks that a history is linearizable: that every operation takes effect at one moment between
//! its beginning and its end, with the answer of the model.
//!
//! The search is that of Wing and Gong, with Lowe's set of the configurations that lead to no order.

use std::collections::HashSet;
use std::fmt::Debug;
use std::hash::Hash;

/// A sequential model.
pub trait Model {
    type State: Clone + Debug + Eq + Hash;
    type Operation;
    type Answer;

    /// The states that may follow if the operation is done here and is answered so. Without an
    /// answer, the answer is unknown.
    fn step(
        &self,
        state: &Self::State,
        operation: &Self::Operation,
        answer: Option<&Self::Answer>,
    ) -> Vec<Self::State>;
}

/// One operation of a history.
pub struct HistoryEntry<'h, O, A> {
    pub operation: &'h O,
    /// `None` if it is not known whether it was done: it may be done at any later time, or never.
    pub answer: Option<&'h A>,
    pub start: u64,
    pub end: u64,
}

/// The history has no order.
#[derive(Debug)]
pub struct NoOrder<S> {
    /// The longest order of a part of the entries, and the state after them.
    pub furthest: Vec<usize>,
    pub state: S,
}

/// A set of operations, one bit each.
type Done = u128;

/// The maximum number of operations of a history.
pub const MAX_OPERATIONS: usize = Done::BITS as usize;

/// Finds an order, if there is one.
pub fn check<M: Model>(
    model: &M,
    initial: M::State,
    history: &[HistoryEntry<'_, M::Operation, M::Answer>],
) -> Result<(), NoOrder<M::State>> {
    assert!(
        history.len() <= MAX_OPERATIONS,
        "a history of {} operations is too long",
        history.len()
    );
    let furthest = NoOrder { furthest: Vec::new(), state: initial.clone() };
    let mut search = Search { model, history, dead: HashSet::new(), path: Vec::new(), furthest };
    match search.from(0, &initial) {
        true => Ok(()),
        false => Err(search.furthest),
    }
}

struct Search<'m, 'h, M: Model> {
    model: &'m M,
    history: &'h [HistoryEntry<'h, M::Operation, M::Answer>],
    /// The sets of executed operations, with the state after them, from which no order goes on.
    dead: HashSet<(Done, M::State)>,
    path: Vec<usize>,
    furthest: NoOrder<M::State>,
}

impl<M: Model> Search<'_, '_, M> {
    fn from(&mut self, done: Done, state: &M::State) -> bool {
        let left = |at: &usize| done >> at & 1 == 0;
        let waiting = || (0..self.history.len()).filter(left).map(|at| (at, &self.history[at]));
        // An operation that begins after the first of these has ended comes after it.
        let Some(first_end) =
            waiting().filter(|(_, entry)| entry.answer.is_some()).map(|(_, e)| e.end).min()
        else {
            return true;
        };
        let next: Vec<usize> =
            waiting().filter(|(_, entry)| entry.start <= first_end).map(|(at, _)| at).collect();
        for at in next {
            let HistoryEntry { operation, answer, .. } = self.history[at];
            for after in self.model.step(state, operation, answer) {
                let done = done | 1 << at;
                if !self.dead.insert((done, after.clone())) {
                    continue;
                }
                self.path.push(at);
                if self.path.len() > self.furthest.furthest.len() {
                    self.furthest = NoOrder { furthest: self.path.clone(), state: after.clone() };
                }
                if self.from(done, &after) {
                    return true;
                }
                self.path.pop();
            }
        }
        false
    }
}
