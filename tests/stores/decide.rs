//! `Commit::decide` as a table: every kind of session that an id can find, times every action,
//! times every condition. The first line of the table that fits a case is its decision.

use std::num::NonZeroU32;
use std::panic::catch_unwind;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cloakroom::backend::{
    Action, Commit, CommitAnswer, CsrfSecret, Decision, Delta, EndedSession, Expected, Found,
    IdChange, LiveSession, MaxSessions, NewSession, Record, ReplacedBy, ReplacedId, SessionWrite,
    Touch, Unreadable, UserMaximum, Value,
};
use cloakroom::clock::Timestamp;
use cloakroom::id::{JoinSalt, PublicId, Realm, SessionIdHash, UserKey};
use cloakroom::lifetime::{AtMaximum, Lifetime};
use cloakroom::{Error, ErrorKind};

/// Kinds of sessions that the presented id finds, in the order of the table's first column.
///
/// - `current`, `in grace`: a live session by its current id, or by one in its grace.
/// - `renewed`: a renewal replaced the id, and the request overlaps it.
/// - `signed in`: the same for a sign-in, whose salt is remembered. Its session has a user, so the
///   table need not distinguish `anonymous` there.
/// - `stale`: the request does not overlap it. `unsalted`: no salt.
/// - `moved`: the session has moved on since.
/// - `expired`: the deadline has passed; a store finds it and answers as for `not found`.
const FOUND: [&str; 11] = [
    "current",
    "in grace",
    "renewed",
    "renewed stale",
    "signed in",
    "signed in stale",
    "signed in unsalted",
    "signed in moved",
    "expired",
    "undecodable",
    "not found",
];

/// Names for several of them.
const LIVE: &[&str] = FOUND.split_at(2).0;
const REPLACED: &[&str] = FOUND.split_at(2).1.split_at(6).0;

/// Whose session it is. `since`: the session got its user after the presented id was replaced.
const OWNERS: [&str; 5] = ["anonymous", "ada", "bob", "ada since", "bob since"];

/// The sign-ins are Ada's. `unsalted`: the new id does not follow from the presented one.
/// `stronger`: with another level than the session has.
const ACTIONS: [&str; 7] =
    ["create", "merge", "renew", "sign in", "sign in unsalted", "sign in stronger", "end"];

/// The revision that the commit expects. `none`: no session.
const REVISIONS: [&str; 4] = ["any", "same", "other", "none"];

/// The delta. `confirmed`: the user has authenticated again. `too large`: the data grows beyond the
/// limit. `shrinks`: the data is beyond the limit, before and after.
const CHANGES: [&str; 5] = ["nothing", "data", "confirmed", "too large", "shrinks"];

/// Touches of a commit.
const TOUCHES: [&str; 3] = ["none", "due", "not due"];

/// `*` matches anything, `live` and `replaced` for all ids of such a session, `sign in*` for the
/// three sign-ins.
const TABLE: &str = "
found                  | session of     | action           | revision    | change    | touch | decision
*                      | *              | create           | *           | too large | *     | too large
*                      | *              | create           | *           | *         | *     | insert

live                   | *              | end              | *           | *         | *     | end
replaced               | *              | end              | *           | *         | *     | end
undecodable            | *              | end              | *           | *         | *     | end
expired                | *              | end              | *           | *         | *     | remove expired
not found              | *              | end              | *           | *         | *     | not found

expired                | *              | merge            | *           | *         | *     | not found
not found              | *              | merge            | *           | *         | *     | not found
undecodable            | *              | merge            | *           | *         | *     | undecodable
replaced               | *              | merge            | *           | *         | *     | replaced
live                   | *              | merge            | other, none | *         | *     | revision mismatch
live                   | *              | merge            | *           | too large | *     | too large
live                   | anonymous      | merge            | *           | confirmed | due   | touch
live                   | anonymous      | merge            | *           | confirmed | *     | unchanged
live                   | *              | merge            | *           | nothing   | due   | touch
live                   | *              | merge            | *           | nothing   | *     | unchanged
live                   | *              | merge            | *           | *         | *     | update

expired                | *              | renew            | *           | *         | *     | not found
not found              | *              | renew            | *           | *         | *     | not found
undecodable            | *              | renew            | *           | *         | *     | undecodable
replaced               | *              | renew            | *           | *         | *     | replaced
live                   | *              | renew            | other, none | *         | *     | revision mismatch
live                   | *              | renew            | *           | too large | *     | too large
current                | *              | renew            | *           | *         | *     | move
in grace               | anonymous      | renew            | *           | confirmed | due   | touch
in grace               | anonymous      | renew            | *           | confirmed | *     | unchanged
in grace               | *              | renew            | *           | nothing   | due   | touch
in grace               | *              | renew            | *           | nothing   | *     | unchanged
in grace               | *              | renew            | *           | *         | *     | update

expired                | *              | sign in*         | *           | too large | *     | too large
expired                | *              | sign in*         | *           | *         | *     | insert after expired
not found              | *              | sign in*         | *           | too large | *     | too large
not found              | *              | sign in*         | *           | *         | *     | insert
undecodable            | *              | sign in*         | *           | too large | *     | too large
undecodable            | *              | sign in*         | *           | *         | *     | insert
*                      | bob, bob since | sign in*         | *           | too large | *     | too large
live                   | bob, bob since | sign in*         | *           | *         | *     | replace
replaced               | bob            | sign in*         | *           | *         | *     | replace
replaced               | bob since      | sign in*         | *           | *         | *     | insert
signed in              | *              | sign in          | *           | *         | *     | can join
*                      | *              | sign in*         | other, none | *         | *     | revision mismatch
*                      | *              | sign in*         | *           | too large | *     | too large
current                | *              | sign in*         | *           | *         | *     | move
*                      | *              | sign in*         | *           | *         | *     | move by replaced id
";

const LIMIT: usize = 100;
const MAX_PER_USER: MaxSessions = MaxSessions::new(NonZeroU32::MIN, AtMaximum::Refuse);
const SECOND: Duration = Duration::from_secs(1);
const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

const GRACE_UNTIL: Timestamp = Timestamp::from_millis(1_700_000_060_000);

const PRESENTED: SessionIdHash = SessionIdHash::from_bytes([1; 32]);
const CURRENT: SessionIdHash = SessionIdHash::from_bytes([2; 32]);
const NEW: SessionIdHash = SessionIdHash::from_bytes([3; 32]);
const BETWEEN: SessionIdHash = SessionIdHash::from_bytes([4; 32]);
/// The CSRF secret of the session, and the one that it had when an id was replaced.
const SECRET: CsrfSecret = CsrfSecret::from_bytes([5; 32]);
const EARLIER_SECRET: CsrfSecret = CsrfSecret::from_bytes([6; 32]);
const SALT: JoinSalt = JoinSalt::from_bytes([5; 32]);
const NEW_SALT: JoinSalt = JoinSalt::from_bytes([6; 32]);
const REVISION: u64 = 7;
const LEVEL: u16 = 1;

/// One case: a value of each column.
#[derive(Clone, Copy, Debug)]
struct Case {
    found: &'static str,
    owner: &'static str,
    action: &'static str,
    revision: &'static str,
    change: &'static str,
    touch: &'static str,
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for found in FOUND {
        for owner in OWNERS {
            for action in ACTIONS {
                for revision in REVISIONS {
                    for change in CHANGES {
                        for touch in TOUCHES {
                            cases.push(Case { found, owner, action, revision, change, touch });
                        }
                    }
                }
            }
        }
    }
    cases
}

fn user(name: &str) -> UserKey {
    UserKey::new(name).unwrap()
}

fn new_session(auth_level: u16) -> NewSession {
    let mut new_session = NewSession::new(Lifetime::idle(3600 * SECOND).limits_from(NOW)).unwrap();
    new_session.auth_level = auth_level;
    new_session
}

fn text(bytes: usize) -> Value<'static> {
    Value::encode(&"x".repeat(bytes)).unwrap()
}

impl Case {
    fn owner(&self) -> Option<&'static str> {
        match self.owner.split(' ').next() {
            Some("anonymous") => None,
            name => name,
        }
    }

    fn is_sign_in(&self) -> bool {
        self.action.starts_with("sign in")
    }

    fn record(&self) -> Record {
        let signed_in = NOW - 500 * SECOND;
        let mut session = new_session(LEVEL);
        session.public_id = PublicId::from_bytes([9; 16]);
        session.limits = Lifetime::idle(3600 * SECOND).limits_from(signed_in);
        let mut record = Record::create(&session, signed_in);
        let mut delta = Delta::new();
        delta.set("kept", text(if self.change == "shrinks" { 2 * LIMIT } else { 10 }));
        delta.set("removed", text(10));
        delta.set(
            "cloakroom.csrf",
            Value::encode(&URL_SAFE_NO_PAD.encode(SECRET.as_bytes())).unwrap(),
        );
        delta.apply(&mut record);
        record.user = self.owner().map(user);
        record.authenticated = record.user.as_ref().map(|_| signed_in);
        record.revision = REVISION;
        if self.touch == "due" {
            record.seen = NOW - 300 * SECOND;
        } else {
            record.seen = NOW - SECOND;
        }
        record
    }

    fn key(&self) -> SessionIdHash {
        if self.found == "current" { PRESENTED } else { CURRENT }
    }

    fn session(&self) -> LiveSession {
        LiveSession { record: self.record(), id_hash: self.key() }
    }

    fn replaced(&self) -> ReplacedId {
        let salt = (self.found != "signed in unsalted").then_some(SALT);
        ReplacedId {
            id_hash: PRESENTED,
            successor: if self.found.ends_with("moved") { BETWEEN } else { CURRENT },
            replaced_at: NOW - 60 * SECOND,
            by: match self.found.starts_with("renewed") {
                true => ReplacedBy::Renewal { grace_until: None },
                false => ReplacedBy::SignIn { salt },
            },
            had_user: self.owner().is_some() && !self.owner.ends_with("since"),
            csrf_secret: Some(EARLIER_SECRET),
        }
    }

    /// The key is the id under which the session is stored.
    fn found(&self) -> Found<SessionIdHash> {
        let session = self.session();
        let key = self.key();
        match self.found {
            "current" | "in grace" => Found::Live { session, key },
            "not found" => Found::NotFound,
            "expired" => Found::of_expired(&session.record, key),
            "undecodable" => {
                let error = Error::new(ErrorKind::Undecodable, "decode a session");
                let public_id = Some(session.record.public_id);
                Found::Undecodable { id_hash: key, public_id, error, key }
            }
            _ => Found::Replaced { replaced: self.replaced(), session, key },
        }
    }

    fn delta(&self) -> Delta {
        let mut delta = Delta::new();
        match self.change {
            "nothing" => {}
            "confirmed" => delta.confirm_authentication(NOW - SECOND, LEVEL + 2),
            "shrinks" => delta.remove("removed"),
            "too large" => delta.set("added", text(LIMIT)),
            _ => delta.set("added", text(10)),
        }
        delta
    }

    /// The time at which the request was opened: the meaning of `replaced` depends on it.
    fn opened_at(&self) -> Timestamp {
        let since = if self.found.ends_with("stale") { 11 * SECOND } else { Duration::ZERO };
        self.replaced().replaced_at + since
    }

    /// Checks that a merge into the session as loaded is the decision after a lookup that finds it
    /// unchanged.
    fn check_loaded(&self, commit: &mut Commit) {
        let Found::Live { session, .. } = self.found() else { return };
        commit.loaded = Some(session.into());
        let merged = commit.merge_into_loaded();
        let is_merge = matches!(commit.action, Action::Merge) && commit.delta.changes_data_only();
        match commit.decide(self.found()).map(|decision| decision.write) {
            Ok(SessionWrite::Update { session, .. })
                if is_merge && session.id_hash == PRESENTED =>
            {
                assert_eq!(merged, Some(session));
            }
            _ => assert_eq!(merged, None),
        }
    }

    /// Calls `Commit::decide` and checks the record in the decision.
    fn decision(&self) -> &'static str {
        let level = if self.action == "sign in stronger" { LEVEL + 1 } else { LEVEL };
        let new_session = new_session(level);
        let join_salt = (self.action != "sign in unsalted").then_some(NEW_SALT);
        let action = match self.action {
            "create" => Action::Create(new_session),
            "merge" => Action::Merge,
            "renew" => {
                let grace_until = Some(GRACE_UNTIL);
                Action::Renew { to: NEW, grace_until }
            }
            "end" => Action::End,
            _ => Action::SignIn { to: NEW, user: user("ada"), new_session, join_salt },
        };
        let mut commit = Commit::new(&PRESENTED, action, self.delta(), NOW);
        commit.expected = match self.revision {
            "any" => Expected::Anything,
            "same" => Expected::Revision(REVISION),
            "other" => Expected::Revision(REVISION - 1),
            _ => Expected::NoSession,
        };
        commit.touch = (self.touch != "none").then_some(Touch::at(NOW));
        commit.max_bytes = LIMIT;
        commit.opened_at = self.opened_at();
        // It concerns sign-ins only.
        commit.max_sessions = Some(MAX_PER_USER);
        self.check_loaded(&mut commit);
        let Decision { expired, user_maximum, ended, write } = match commit.decide(self.found()) {
            Ok(decision) => decision,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::TooLarge);
                return "too large";
            }
        };
        let writes = matches!(write, SessionWrite::Insert { .. } | SessionWrite::Move { .. });
        let is_counted = writes && self.is_sign_in();
        let maximum =
            UserMaximum { user: user("ada"), realm: Realm::default(), max_sessions: MAX_PER_USER };
        assert_eq!(user_maximum, is_counted.then_some(maximum));
        assert!(expired.len() <= 1 && ended.len() <= 1);
        match (write, expired.into_iter().next(), ended.into_iter().next()) {
            (SessionWrite::Nothing(answer), None, None) => self.check_answer(&answer),
            (SessionWrite::Nothing(answer), Some(key), None) => {
                assert_eq!((key, self.found), (CURRENT, "expired"));
                assert_eq!(self.check_answer(&answer), "not found");
                "remove expired"
            }
            (SessionWrite::Nothing(CommitAnswer::Ended(answer)), None, Some((key, ended))) => {
                assert_eq!((key, &ended), (self.key(), &answer));
                let user = self.record().user.filter(|_| self.found != "undecodable");
                let public_id = Some(self.record().public_id);
                assert_eq!(ended, EndedSession::new(self.key(), public_id, user));
                "end"
            }
            (SessionWrite::Insert { session, replaced: None }, expired, None) => {
                assert_eq!(session.id_hash, if self.is_sign_in() { NEW } else { PRESENTED });
                self.check_new(&session.record, level);
                match expired {
                    None => "insert",
                    Some(key) => {
                        assert_eq!(key, CURRENT);
                        "insert after expired"
                    }
                }
            }
            (
                SessionWrite::Insert { session, replaced: Some(replaced) },
                None,
                Some((key, ended)),
            ) => {
                assert_eq!((key, session.id_hash), (self.key(), NEW));
                self.check_new(&session.record, level);
                assert_eq!(replaced, self.expected_replaced_id(PRESENTED, join_salt));
                assert_eq!(ended, self.session().to_ended());
                "replace"
            }
            (SessionWrite::Update { key, session }, None, None) => {
                assert!(!self.is_sign_in());
                assert_eq!((key, session.id_hash), (self.key(), key));
                self.check_changed(&session.record);
                "update"
            }
            (SessionWrite::Move { key, session, id_change }, None, None) => {
                assert_eq!((key, session.id_hash), (self.key(), NEW));
                self.check_changed(&session.record);
                match id_change {
                    IdChange { previous, presented: None } => {
                        assert_eq!(previous, self.expected_replaced_id(PRESENTED, join_salt));
                        "move"
                    }
                    IdChange { previous, presented: Some(presented) } => {
                        assert_eq!(previous, self.expected_replaced_id(CURRENT, None));
                        assert_eq!(presented, self.expected_replaced_id(PRESENTED, join_salt));
                        "move by replaced id"
                    }
                }
            }
            (SessionWrite::Touch { key, session }, None, None) => {
                let mut touched = self.session();
                touched.record.seen = NOW;
                assert_eq!((key, session), (self.key(), touched));
                "touch"
            }
            other => panic!("{self:?}: {other:?}"),
        }
    }

    /// The replaced id that a store must remember in place of the current id `id_hash`.
    fn expected_replaced_id(&self, id_hash: SessionIdHash, salt: Option<JoinSalt>) -> ReplacedId {
        let by = if self.is_sign_in() {
            ReplacedBy::SignIn { salt }
        } else {
            ReplacedBy::Renewal { grace_until: Some(GRACE_UNTIL) }
        };
        let had_user = self.owner().is_some();
        let is_replaced_again = id_hash == PRESENTED && REPLACED.contains(&self.found);
        let secret = if is_replaced_again { EARLIER_SECRET } else { SECRET };
        let csrf_secret = Some(secret);
        ReplacedId { id_hash, successor: NEW, replaced_at: NOW, by, had_user, csrf_secret }
    }

    fn check_answer(&self, answer: &CommitAnswer) -> &'static str {
        match answer {
            CommitAnswer::Unchanged(session) => {
                assert_eq!(*session, self.session());
                "unchanged"
            }
            CommitAnswer::RevisionMismatch(session) => {
                assert_eq!(*session, self.session());
                "revision mismatch"
            }
            CommitAnswer::CanJoin { salt } => {
                assert_eq!(*salt, SALT);
                "can join"
            }
            CommitAnswer::Unreadable(Unreadable::Replaced { replaced, session }) => {
                assert_eq!((*replaced, session), (self.replaced(), &self.session()));
                "replaced"
            }
            CommitAnswer::Unreadable(Unreadable::NotFound { .. }) => "not found",
            CommitAnswer::Unreadable(Unreadable::Undecodable { public_id, .. }) => {
                assert_eq!(*public_id, Some(self.record().public_id));
                "undecodable"
            }
            other => panic!("{self:?}: {other:?}"),
        }
    }

    /// A session that begins has nothing of the one that was found.
    fn check_new(&self, record: &Record, level: u16) {
        let mut data = Record::create(&new_session(LEVEL), NOW);
        self.delta().apply(&mut data);
        assert_eq!(record.data, data.data);
        assert_ne!(record.public_id, self.record().public_id);
        assert_eq!((record.created, record.seen, record.revision), (NOW, NOW, 1));
        match self.is_sign_in() {
            true => self.check_signed_in(record, level),
            false => assert_eq!(record.user, data.user),
        }
    }

    /// A session that goes on keeps all that the action does not change.
    fn check_changed(&self, record: &Record) {
        let before = self.record();
        let mut after = before.clone();
        self.delta().apply(&mut after);
        assert_eq!(record.data, after.data);
        assert_eq!(record.public_id, before.public_id);
        assert_eq!(record.created, before.created);
        assert_eq!(record.revision, REVISION + 1);
        let seen = if self.touch == "due" || self.is_sign_in() { NOW } else { before.seen };
        assert_eq!(record.seen, seen);
        let moves = self.is_sign_in() || self.action == "renew" && self.found == "current";
        assert_eq!(record.id_issued, if moves { NOW } else { before.id_issued });
        match self.is_sign_in() {
            true => {
                let level = if self.action == "sign in stronger" { LEVEL + 1 } else { LEVEL };
                self.check_signed_in(record, level);
            }
            false => {
                let of_user = |it: &Record| (it.user.clone(), it.authenticated, it.auth_level);
                assert_eq!(of_user(record), of_user(&after));
                assert_eq!(record.limits, before.limits);
            }
        }
    }

    fn check_signed_in(&self, record: &Record, level: u16) {
        assert_eq!(record.user, Some(user("ada")));
        assert_eq!((record.authenticated, record.auth_level), (Some(NOW), level));
        assert_eq!(record.limits, new_session(level).limits);
    }

    /// True if the line of the table covers this case.
    fn fits(&self, line: &[&str]) -> bool {
        let columns = [self.found, self.owner, self.action, self.revision, self.change, self.touch];
        columns.iter().zip(line).all(|(value, cell)| match *cell {
            "*" => true,
            "live" => LIVE.contains(value),
            "replaced" => REPLACED.contains(value),
            "sign in*" => self.is_sign_in(),
            cell => cell == *value || cell.split(", ").any(|one| one == *value),
        })
    }
}

/// The lines of the table, each with the columns and the decision.
fn lines() -> Vec<Vec<&'static str>> {
    let lines = TABLE.lines().filter(|line| !line.is_empty()).skip(1);
    let lines: Vec<Vec<_>> = lines.map(|line| line.split('|').map(str::trim).collect()).collect();
    assert!(lines.iter().all(|line| line.len() == 7), "a line has not seven columns");
    lines
}

#[test]
fn every_case_is_decided_as_the_table_says() {
    let lines = lines();
    let mut used = vec![false; lines.len()];
    for case in cases() {
        let line = lines.iter().position(|line| case.fits(line));
        let Some(line) = line else { panic!("the table says nothing of {case:?}") };
        used[line] = true;
        let decision = catch_unwind(|| case.decision());
        assert_eq!(decision.ok(), Some(lines[line][6]), "{case:?}");
    }
    let unused = lines.iter().zip(used).find(|(_, used)| !used);
    assert_eq!(unused, None, "a line is about no case");
}
