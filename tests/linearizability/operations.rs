//! The parts of a history: operations, on small numbers instead of ids, and their results.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// An id, public id, user, name or value, by a small number.
pub type Number = u8;

/// Milliseconds since the beginning of the history.
pub type Millis = i64;

/// One change of a delta, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Change {
    Set(Number, Number),
    Remove(Number),
    Clear,
    /// The user has authenticated again, at this time and level.
    Confirm(Millis, u16),
}

/// The fields that a session gets when it begins or is signed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct InitialFields {
    pub public_id: Number,
    pub idp_session_id: Option<Number>,
    pub level: u16,
    pub idle: Option<Millis>,
    pub absolute: Option<Millis>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum AtMaximum {
    Refuse,
    EndOldest,
    EndOthers,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Filter {
    All,
    User(Number),
    PublicId(Number),
    OfUser(Number, Number),
    IdpSession(Number),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Call {
    Load {
        id_hash: Number,
    },
    Create {
        id_hash: Number,
        initial: InitialFields,
        changes: Vec<Change>,
    },
    Merge {
        id_hash: Number,
        changes: Vec<Change>,
        if_revision: Option<u64>,
        seen: Option<Millis>,
    },
    Renew {
        id_hash: Number,
        to: Number,
        grace_until: Option<Millis>,
        changes: Vec<Change>,
    },
    SignIn {
        id_hash: Number,
        to: Number,
        user: Number,
        initial: InitialFields,
        changes: Vec<Change>,
        limit: Option<(u32, AtMaximum)>,
    },
    Delete {
        id_hash: Number,
    },
    Touch {
        id_hash: Number,
        seen: Millis,
    },
    Sweep,
    List(Filter),
    Revoke(Filter),
    RevokeEveryone,
    Stats,
    /// A store in memory loses all its sessions, because its server was restarted.
    LoseAll,
}

impl Call {
    /// The id that it issues, if it issues one.
    pub fn issued_id(&self) -> Option<Number> {
        match self {
            Call::Create { id_hash, .. } => Some(*id_hash),
            Call::Renew { to, .. } | Call::SignIn { to, .. } => Some(*to),
            _ => None,
        }
    }

    pub fn is_commit(&self) -> bool {
        matches!(
            self,
            Call::Create { .. }
                | Call::Merge { .. }
                | Call::Renew { .. }
                | Call::SignIn { .. }
                | Call::Delete { .. }
        )
    }

    /// The id that it names, if it names one.
    pub fn id_hash(&self) -> Option<Number> {
        match self {
            Call::Load { id_hash }
            | Call::Create { id_hash, .. }
            | Call::Merge { id_hash, .. }
            | Call::Renew { id_hash, .. }
            | Call::SignIn { id_hash, .. }
            | Call::Delete { id_hash }
            | Call::Touch { id_hash, .. } => Some(*id_hash),
            _ => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Operation {
    pub call: Call,
    pub now: Millis,
}

impl Operation {
    /// Returns the same operation at another time, with all times that count from it.
    pub fn at(&self, now: Millis) -> Operation {
        let (mut call, later) = (self.call.clone(), now - self.now);
        match &mut call {
            Call::Merge { seen: Some(time), .. }
            | Call::Touch { seen: time, .. }
            | Call::Renew { grace_until: Some(time), .. }
            | Call::SignIn { initial: InitialFields { absolute: Some(time), .. }, .. } => {
                *time += later
            }
            _ => {}
        }
        Operation { call, now }
    }
}

/// A record, in numbers.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Session {
    pub public_id: Number,
    pub user: Option<Number>,
    pub idp_session_id: Option<Number>,
    pub level: u16,
    pub created: Millis,
    pub authenticated: Option<Millis>,
    pub seen: Millis,
    pub idle: Option<Millis>,
    pub absolute: Option<Millis>,
    pub revision: u64,
    pub data: BTreeMap<Number, Number>,
}

/// One row of a list.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct UserSession {
    pub public_id: Number,
    pub user: Option<Number>,
    pub seen: Millis,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Answer {
    Live {
        session: Session,
        id_hash: Number,
    },
    /// The id was replaced; the session has this one.
    Replaced {
        id_hash: Number,
    },
    /// There is no such session, to a load or to a commit.
    NotFound,
    Done {
        session: Session,
        id_hash: Number,
        retired_ids: Vec<Number>,
    },
    Unchanged {
        session: Session,
        id_hash: Number,
    },
    Stale {
        session: Session,
        id_hash: Number,
    },
    Deleted {
        id_hash: Number,
    },
    Full,
    /// It was done; the answer has no value.
    Ok,
    Swept(usize),
    List(Vec<UserSession>),
    Revoked(Vec<Number>),
    RevokedEveryone(Option<u64>),
    Counts {
        live: u64,
        expired: u64,
        signed_in: u64,
    },
    /// It failed with an unknown outcome.
    Unknown(String),
    /// It failed, and the store says that it changed nothing.
    NothingDone(String),
    /// It failed in a way that no test expects.
    Failed(String),
}

/// An operation with its answer. One that began after another had ended came after it.
#[derive(Clone, Debug)]
pub struct RecordedOperation {
    pub thread: usize,
    pub process: usize,
    pub operation: Operation,
    pub answer: Answer,
    pub start: u64,
    pub end: u64,
    /// The latest time that any operation had been given at its end.
    pub latest: Millis,
}

impl RecordedOperation {
    /// Whether it is a sign-in by an id that `other` issues at the same time. No client knows such
    /// an id.
    pub fn signs_in_early(&self, other: &RecordedOperation) -> bool {
        let Call::SignIn { id_hash, .. } = self.operation.call else { return false };
        other.operation.call.issued_id() == Some(id_hash)
            && other.start < self.end
            && (self.start < other.end || other.has_unknown_outcome())
    }

    /// Whether it may have been executed, may still be, or may never be.
    pub fn has_unknown_outcome(&self) -> bool {
        matches!(self.answer, Answer::Unknown(_))
    }
}

/// Formats a history, one operation a line, in the order of their beginnings.
pub fn readable(history: &[RecordedOperation]) -> String {
    let mut sorted: Vec<&RecordedOperation> = history.iter().collect();
    sorted.sort_by_key(|recorded| recorded.start);
    let line = |recorded: &&RecordedOperation| {
        let RecordedOperation { thread, operation, answer, start, end, .. } = recorded;
        let Operation { call, now } = operation;
        format!(
            "  [{start:>3}..{end:>3}] thread {thread} at {now} ms: {call:?}\n      {answer:?}\n"
        )
    };
    sorted.iter().map(line).collect()
}
