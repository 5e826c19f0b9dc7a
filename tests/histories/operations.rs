//! What a history is made of: operations on small numbers instead of keys, and what was answered.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A key, handle, user, name or value, by a small number.
pub type Number = u8;

/// Milliseconds since the beginning of the history.
pub type Moment = i64;

/// One change of a delta, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Change {
    Set(Number, Number),
    Remove(Number),
    Clear,
    User(Option<Number>),
}

/// What a session begins with, or has from its sign-in on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Begins {
    pub handle: Number,
    pub external: Option<Number>,
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
    Handle(Number),
    OfUser(Number, Number),
    External(Number),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Call {
    Load {
        key: Number,
    },
    Create {
        key: Number,
        begins: Begins,
        changes: Vec<Change>,
    },
    Merge {
        key: Number,
        changes: Vec<Change>,
        if_revision: Option<u64>,
        seen: Option<Moment>,
    },
    Renew {
        key: Number,
        to: Number,
        grace_until: Option<Moment>,
        changes: Vec<Change>,
    },
    SignIn {
        key: Number,
        to: Number,
        user: Number,
        begins: Begins,
        changes: Vec<Change>,
        limit: Option<(u32, AtLimit)>,
    },
    Delete {
        key: Number,
    },
    Touch {
        key: Number,
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
    /// The key it goes to, if it goes to one.
    pub fn key(&self) -> Option<Number> {
        match self {
            Call::Load { key }
            | Call::Create { key, .. }
            | Call::Merge { key, .. }
            | Call::Renew { key, .. }
            | Call::SignIn { key, .. }
            | Call::Delete { key }
            | Call::Touch { key, .. } => Some(*key),
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
    pub handle: Number,
    pub user: Option<Number>,
    pub external: Option<Number>,
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
pub struct Listed {
    pub handle: Number,
    pub user: Option<Number>,
    pub seen: Moment,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Answer {
    Live {
        session: Session,
        key: Number,
    },
    /// The key was replaced; the session has this one.
    Replaced {
        key: Number,
    },
    /// There is no such session, to a load or to a commit.
    Absent,
    Done {
        session: Session,
        key: Number,
        ended: Vec<Number>,
    },
    Unchanged {
        session: Session,
        key: Number,
    },
    Stale {
        session: Session,
        key: Number,
    },
    Deleted {
        key: Number,
    },
    Full,
    /// It was done, and there is nothing to say about it.
    Ok,
    Swept(usize),
    List(Vec<Listed>),
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
    /// The latest time that anybody was given until its end.
    pub latest: Moment,
}

impl Happened {
    /// Whether it may have been done, may be done yet, or never.
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
