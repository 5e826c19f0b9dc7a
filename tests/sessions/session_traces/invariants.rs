//! What must hold in every sequence, whatever its calls.

use std::collections::{HashMap, HashSet};

use cloakroom::UserKey;
use cloakroom::adapter::{ResponseHeaders, SharedCaching};
use cloakroom::backend::{Action, Commit, CommitAnswer, LiveSession, Loaded};
use cloakroom::event::Event;
use cloakroom::id::PublicId;
use cloakroom::{Error, ErrorKind, Result};

use crate::session_traces::trace::carries_id;

/// The sessions and requests of a sequence, as they have shown themselves so far.
#[derive(Debug, Default)]
pub(super) struct Invariants {
    pub(super) violations: Vec<String>,
    /// The latest revision of each session, and its user at that revision.
    sessions: HashMap<PublicId, (u64, Option<UserKey>)>,
    ended: HashSet<PublicId>,
    /// The requests whose calls run, an interrupted one before the one that interrupts it.
    running: Vec<char>,
    requests: HashMap<char, RequestFacts>,
}

#[derive(Debug, Default)]
struct RequestFacts {
    /// The current call may store changes.
    may_commit: bool,
    /// The store has acknowledged a commit that did not end a session.
    has_stored: bool,
    /// The request has destroyed or revoked.
    has_ended: bool,
    has_discarded: bool,
}

impl Invariants {
    pub(super) fn open(&mut self, name: char) {
        self.requests.insert(name, RequestFacts::default());
    }

    pub(super) fn begin_call(&mut self, name: char, may_commit: bool, ends: bool) {
        self.running.push(name);
        let facts = self.requests.get_mut(&name).unwrap();
        facts.may_commit = may_commit;
        facts.has_ended |= ends;
    }

    pub(super) fn end_call(&mut self) {
        self.running.pop();
    }

    fn require(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.violations.push(what());
        }
    }

    fn facts(&mut self) -> Option<&mut RequestFacts> {
        self.requests.get_mut(self.running.last()?)
    }

    pub(super) fn loaded(&mut self, loaded: &Result<Loaded>) {
        if let Ok(Loaded::Live(session)) = loaded {
            self.found_live(session, false);
        }
    }

    /// A session that has ended never returns. Its revision grows, and only a sign-in changes its
    /// user.
    fn found_live(&mut self, session: &LiveSession, is_sign_in: bool) {
        let LiveSession { record, .. } = session;
        let public_id = record.public_id;
        let is_ended = self.ended.contains(&public_id);
        self.require(!is_ended, || format!("an ended session is live: {record:?}"));
        let now = (record.revision, record.user.clone());
        if let Some(before) = self.sessions.insert(public_id, now.clone()) {
            self.require(before.0 <= now.0, || format!("the revision was {}: {now:?}", before.0));
            let same_user = before.1 == now.1 || is_sign_in;
            self.require(same_user, || format!("the user was {:?}: {now:?}", before.1));
        }
    }

    /// Calls that read or change values in memory store nothing, and neither does a closed request.
    pub(super) fn commit(&mut self, commit: &Commit) {
        let may_commit = self.facts().is_none_or(|facts| facts.may_commit);
        // A stale id ends its session at the first read, if the manager is configured so.
        let is_end = matches!(commit.action, Action::End);
        self.require(may_commit || is_end, || format!("a call must not commit: {commit:?}"));
    }

    /// What the store has done, whether the request learns of it or not.
    pub(super) fn committed(&mut self, commit: &Commit, answer: &Result<CommitAnswer>) {
        match answer {
            Ok(CommitAnswer::Done { session, .. } | CommitAnswer::Unchanged(session)) => {
                self.found_live(session, matches!(commit.action, Action::SignIn { .. }));
            }
            Ok(CommitAnswer::Ended(ended)) => self.ended.extend(ended.public_id),
            _ => {}
        }
    }

    /// The answer that the request receives.
    pub(super) fn acknowledged(&mut self, answer: &Result<CommitAnswer>) {
        if let Ok(CommitAnswer::Done { .. } | CommitAnswer::Unchanged(_)) = answer
            && let Some(facts) = self.facts()
        {
            facts.has_stored = true;
        }
    }

    pub(super) fn event(&mut self, event: &Event<'_>) {
        match event {
            Event::Ended { public_id, .. } => self.ended.extend(*public_id),
            Event::ChangesDiscarded { .. } => {
                self.facts().into_iter().for_each(|facts| facts.has_discarded = true);
            }
            _ => {}
        }
    }

    /// The response says what has happened: an id only after an acknowledged commit, a removal of
    /// the cookie only after a sign-out, and that changes were discarded if they were.
    pub(super) fn headers(&mut self, headers: &ResponseHeaders) {
        let Some(&mut RequestFacts { has_stored, has_ended, has_discarded, .. }) = self.facts()
        else {
            return;
        };
        let is_id = |value: &str| carries_id(value.split_once(';').map_or(value, |(pair, _)| pair));
        let (ids, others): (Vec<_>, Vec<_>) =
            headers.id_fields.iter().partition(|(_, value)| is_id(value));
        let describe = |what: &str| format!("{what}: {headers:?}");
        self.require(ids.len() <= 1, || describe("several ids"));
        self.require(ids.is_empty() || has_stored, || describe("an id without a commit"));
        let is_private =
            headers.shared_caching == SharedCaching::Never && headers.vary_on.is_some();
        self.require(ids.is_empty() || is_private, || describe("an id for all"));
        // With an id, the others remove the cookie of a former name.
        let may_remove = has_ended || !ids.is_empty();
        self.require(others.is_empty() || may_remove, || describe("a removal without a sign-out"));
        self.require(headers.discarded == has_discarded, || describe("discarded"));
        let clears = headers.clear_site_data;
        self.require(!clears || has_ended, || describe("clears the site without a sign-out"));
    }

    /// No error says that this crate, or the store, contradicts itself.
    pub(super) fn error(&mut self, error: &Error) {
        let unexpected = matches!(error.kind(), ErrorKind::Unexpected | ErrorKind::Conflict);
        self.require(!unexpected, || error.to_string());
    }
}
