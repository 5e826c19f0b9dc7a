//! The parts of a history: operations, on small numbers instead of ids, and their results.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// An id, public id, user, name or value, by a small number.
pub type Number = u8;

/// Milliseconds since the beginning of the history.
pub type Moment = i64;

/// One change of a delta, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Change {
    Set(Number, Number),
    Remove(Number),
    Clear,
    /// The user has authenticated again, at this time and level.
    Confirm(Moment, u16),
}

/// The values of a session from its beginning or its sign-in on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Begins {
    pub public_id: Number,
    pub idp_session_id: Option<Number>,
    pub level: u16,
    pub idle: Option<Moment>,
    pub absolute: Option<Moment>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum AtLimit {
    Refuse,
    EndOldest,
    EndOthers,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Who {
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
        begins: Begins,
        changes: Vec<Change>,
    },
    Merge {
        id_hash: Number,
        changes: Vec<Change>,
        if_revision: Option<u64>,
        seen: Option<Moment>,
    },
    Renew {
        id_hash: Number,
        to: Number,
        grace_until: Option<Moment>,
        changes: Vec<Change>,
    },
    SignIn {
        id_hash: Number,
        to: Number,
        user: Number,
        begins: Begins,
        changes: Vec<Change>,
        limit: Option<(u32, AtLimit)>,
    },
    Delete {
        id_hash: Number,
    },
    Touch {
        id_hash: Number,
        seen: Moment,
    },
    Sweep,
    List(Who),
    Revoke(Who),
    RevokeEveryone,
    Stats,
    /// A volatile store loses all it has: its server was started again.
    Lose,
}

impl Call {
    /// The id it goes to, if it goes to one.
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
    pub now: Moment,
}

impl Operation {
    /// The same at another time, with the times that are counted from it.
    pub fn at(&self, now: Moment) -> Operation {
        let (mut call, later) = (self.call.clone(), now - self.now);
        match &mut call {
            Call::Merge { seen: Some(time), .. }
            | Call::Touch { seen: time, .. }
            | Call::Renew { grace_until: Some(time), .. }
            | Call::SignIn { begins: Begins { absolute: Some(time), .. }, .. } => *time += later,
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
    pub created: Moment,
    pub authenticated: Option<Moment>,
    pub seen: Moment,
    pub idle: Option<Moment>,
    pub absolute: Option<Moment>,
    pub revision: u64,
    pub data: BTreeMap<Number, Number>,
}

/// One row of a list.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct UserSession {
    pub public_id: Number,
    pub user: Option<Number>,
    pub seen: Moment,
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
    /// It was done, and there is nothing to say about it.
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
    /// It failed in a way that leaves open what was done.
    Unknown(String),
    /// It failed in a way in which nothing here should.
    Failed(String),
}

/// An operation as it happened. Who began after another had ended came after it.
#[derive(Clone, Debug)]
pub struct Happened {
    pub thread: usize,
    pub process: usize,
    pub operation: Operation,
    pub answer: Answer,
    pub start: u64,
    pub end: u64,
    /// The latest time that any operation had been given at its end.
    pub latest: Moment,
}

impl Happened {
    /// Returns true if it may have been executed, may still be, or may never be.
    pub fn is_open(&self) -> bool {
        matches!(self.answer, Answer::Unknown(_))
    }
}

/// A history, one operation a line, in the order of their beginnings.
pub fn readable(history: &[Happened]) -> String {
    let mut sorted: Vec<&Happened> = history.iter().collect();
    sorted.sort_by_key(|happened| happened.start);
    let line = |happened: &&Happened| {
        let Happened { thread, operation, answer, start, end, .. } = happened;
        let Operation { call, now } = operation;
        format!(
            "  [{start:>3}..{end:>3}] thread {thread} at {now} ms: {call:?}\n      {answer:?}\n"
        )
    };
    sorted.iter().map(line).collect()
}
