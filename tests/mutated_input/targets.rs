//! Targets for untrusted input. Each is a function of bytes that asserts what must hold for any
//! bytes.
//!
//! `tests/mutated_input` calls them with mutations of `corpus/`, and `fuzz/` with inputs that are
//! guided by coverage.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cloakroom::adapter::{Outcome, RequestHead};
use cloakroom::backend::{
    Action, Commit, Data, Delta, Loaded, NewSession, Record, Store, Unreadable, Value,
};
use cloakroom::clock::{ManualClock, Timestamp};
use cloakroom::cookie::CookieKeys;
use cloakroom::csrf::CsrfCheck;
use cloakroom::id::{Realm, SessionId};
use cloakroom::list::{Page, SessionFilter};
use cloakroom::stores::sqlite::rusqlite::{Connection, params};
use cloakroom::{CookieConfig, ErrorKind, Lifetime, MemoryStore, SessionManager, SqliteStore};
use serde_json::value::RawValue;

/// The name of a target, which is also that of its corpus, and its function.
pub(crate) type NamedTarget = (&'static str, fn(&[u8]));

pub(crate) const TARGETS: [NamedTarget; 7] = [
    ("cookie_header", cookie_header),
    ("sealed_cookie", sealed_cookie),
    ("request_head", request_head),
    ("record", record),
    ("data", data),
    ("row", row),
    ("csrf_token", csrf_token),
];

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

/// The one id that finds a session: 32 bytes from 0 to 31.
const KNOWN: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";

/// Stands in seeds for a sealed cookie, which differs in every run.
const SEALED: &str = "SEALED";

fn new_session() -> NewSession {
    NewSession::new(Lifetime::default().limits_from(NOW)).expect("randomness")
}

/// A store with the session of [`KNOWN`], in which `n` is 7.
fn store(delta: Delta) -> MemoryStore {
    let (store, mut delta) = (MemoryStore::new(), delta);
    delta.set("n", Value::encode(&7).expect("a number"));
    let id_hash = SessionId::parse(KNOWN).expect("it is an id").hash(Realm::default().tag());
    let new_session = new_session();
    let create = Commit::new(&id_hash, Action::Create(new_session), delta.clone(), NOW);
    store.commit(&create).expect("it begins");
    store
}

fn manager(delta: Delta, cookie: CookieConfig) -> SessionManager {
    let builder = SessionManager::builder(store(delta)).clock(ManualClock::new(NOW));
    builder.cookie(cookie).without_cleaner().build().expect("it builds")
}

/// Returns true if a request with this `Cookie` header finds the known session.
fn is_known(sessions: &SessionManager, head: RequestHead<'_>) -> bool {
    let session = sessions.open(head);
    let n: Option<u32> = session.get("n").expect("the store does not fail");
    let headers = sessions.close(&session, Outcome::Completed).expect("nothing is stored");
    for (name, value) in headers.iter() {
        assert_has_no_line_break(name);
        assert_has_no_line_break(value);
    }
    assert!(n.is_none() || n == Some(7));
    n.is_some()
}

/// Asserts that the text, of a response's header, cannot begin another header field.
fn assert_has_no_line_break(text: &str) {
    assert!(text.bytes().all(|byte| byte >= b' ' && byte != 127), "{text:?}");
}

/// Returns the values of the session cookie in a `Cookie` header, by a second, simple parser.
fn session_cookies(header: &str) -> Vec<&str> {
    let blank = |c: char| c == ' ' || c == '\t';
    let pairs = header.split(';').filter_map(|pair| {
        let at = pair.find('=')?;
        let (name, value) = (&pair[..at], &pair[at + 1..]);
        (name.trim_matches(blank) == "__Host-id").then(|| value.trim_matches(blank))
    });
    // One pair of quotes around a value does not belong to it.
    let in_quotes = |value: &str| value.len() > 1 && value.starts_with('"') && value.ends_with('"');
    pairs.map(|v| if in_quotes(v) { &v[1..v.len() - 1] } else { v }).collect()
}

/// Returns whether the text encodes 32 bytes in base64url; the last character has two unused bits.
fn looks_like_an_id(text: &str) -> bool {
    text.len() == 43
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        && text.ends_with(|last| "AEIMQUYcgkosw048".contains(last))
}

/// A `Cookie` header finds the known session if it has the known id, among the first sixteen ids.
pub(crate) fn cookie_header(bytes: &[u8]) {
    static SESSIONS: LazyLock<SessionManager> =
        LazyLock::new(|| manager(Delta::new(), CookieConfig::new()));
    let header = String::from_utf8_lossy(bytes);
    let mut ids: Vec<&str> = Vec::new();
    for value in session_cookies(&header) {
        if looks_like_an_id(value) && !ids.contains(&value) {
            ids.push(value);
        }
    }
    let expected = ids.iter().take(16).any(|id| *id == KNOWN);
    assert_eq!(is_known(&SESSIONS, RequestHead::new().cookie(&header)), expected, "{header:?}");
}

/// A sealed cookie finds the session only in the text that the server issued.
pub(crate) fn sealed_cookie(bytes: &[u8]) {
    static SEALS: LazyLock<[(SessionManager, String); 2]> = LazyLock::new(|| {
        let keys = || CookieKeys::new([[7; 64]]).expect("long enough");
        let configs = [CookieConfig::new().signed(keys()), CookieConfig::new().encrypted(keys())];
        configs.map(|config| {
            let sessions = manager(Delta::new(), config);
            let session = sessions.open(None);
            session.set("n", 7).expect("it is set");
            let headers = sessions.close(&session, Outcome::Completed).expect("it is stored");
            let issued =
                headers.iter().find(|(name, _)| *name == "Set-Cookie").expect("a cookie").1;
            let value = issued.split([';', '=']).nth(1).expect("a value");
            let value = &issued[issued.find(value).expect("there")..];
            let value = value.split(';').next().expect("its beginning").to_owned();
            (sessions, value)
        })
    });
    for (sessions, sealed) in SEALS.iter() {
        let header = String::from_utf8_lossy(bytes).replace(SEALED, sealed);
        let values = session_cookies(&header);
        // The first sixteen different values are tried.
        let mut tried: Vec<&str> = Vec::new();
        for value in values {
            if !matches!(value, "" | "signed-out") && !tried.contains(&value) {
                tried.push(value);
            }
        }
        let expected = tried.iter().take(16).any(|value| value == sealed);
        let known = is_known(sessions, RequestHead::new().cookie(&header));
        assert_eq!(known, expected, "{header:?} where {sealed:?} was issued");
    }
}

/// Headers other than `Cookie` do not change which session a request finds, and put no line breaks
/// into the response. The headers of the cross-origin check can only refuse the request.
pub(crate) fn request_head(bytes: &[u8]) {
    static SESSIONS: LazyLock<SessionManager> = LazyLock::new(|| {
        let store = store(Delta::new());
        let builder = SessionManager::builder(store).clock(ManualClock::new(NOW)).without_cleaner();
        let builder = builder.behind_proxies(2).record_address(true).record_user_agent(true);
        builder.build().expect("it builds")
    });
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.lines();
    let mut next = || lines.next().unwrap_or_default();
    let cookie = format!("__Host-id={KNOWN}");
    let (host, agent, now) = (next(), next(), next());
    let mut head = RequestHead::new().host(host).user_agent(agent).id(now);
    head = head.peer_addr([127, 0, 0, 1].into()).cookie(&cookie).cookie(next());
    for line in lines {
        head = head.forwarded_for(line);
    }
    assert!(is_known(&SESSIONS, head.clone()));
    for origin in [host, agent, now] {
        let post = head.clone().method("POST").target(now).origin(origin).forwarded_host(host);
        let is_refused = SESSIONS.check_origin(&post).is_err();
        assert_eq!(is_refused, SESSIONS.open(post.clone()).user().is_err());
        let foreign = post.sec_fetch_site("cross-site");
        assert!(SESSIONS.check_origin(&foreign).is_err());
        assert!(is_known(&SESSIONS, foreign.method("GET")));
    }
    let session = SESSIONS.open(head);
    session.set("n", 7).expect("it is set");
    let headers = SESSIONS.close(&session, Outcome::Completed).expect("nothing changes");
    if let Some(vary) = headers.vary(Some(now)) {
        assert!(vary.contains(now.trim()), "{vary:?} has lost {now:?}");
    }
    let _ = headers.cache_control(Some(now));
}

/// Any text is a record or undecodable, and a record round-trips through its text.
pub(crate) fn record(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    match Record::from_json(&text) {
        Ok(record) => {
            assert_eq!(Record::from_json(&record.to_json()).expect("it was written"), record);
            assert_counted_length(&record.data);
            // No time causes an overflow.
            let _ = record.is_live(NOW);
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Undecodable);
        }
    }
}

/// Data is decoded as `serde_json` decodes an object, and round-trips through its text.
pub(crate) fn data(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let reference = serde_json::from_str::<BTreeMap<String, Box<RawValue>>>(&text);
    match (Data::from_json(&text), reference) {
        (Ok(data), Ok(reference)) => {
            assert!(data.iter().map(|(name, _)| name).eq(reference.keys()));
            for ((name, value), expected) in data.iter().zip(reference.values()) {
                assert_eq!(value.as_json(), expected.get());
                assert!(data.get(name) == Some(value));
            }
            assert_counted_length(&data);
            assert_eq!(Data::from_json(data.as_json()).expect("it was written"), data);
        }
        (Err(error), Err(_)) => assert_eq!(error.kind(), ErrorKind::Undecodable),
        (ours, theirs) => panic!("{text:?}: {ours:?} here, {theirs:?} from serde_json"),
    }
}

/// All of the text counts towards the maximum size, except values under names of cloakroom.
fn assert_counted_length(data: &Data) {
    let (counted, length) = (data.json_len(), data.as_json().len());
    let has_own_names = data.iter().any(|(name, _)| name.starts_with("cloakroom."));
    assert!(counted == length || has_own_names && counted < length, "{counted} of {length}");
}

/// A row with any content is a session or undecodable, and fails no call.
pub(crate) fn row(bytes: &[u8]) {
    thread_local! {
        static DATABASE: (tempfile::TempDir, SqliteStore, Connection) = {
            // A folder in memory, where there is one, is ten times as fast.
            let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
            let folder = folder.expect("a folder");
            let path = folder.path().join("app.db");
            let store = SqliteStore::open(&path).expect("it opens");
            let connection = Connection::open(&path).expect("it opens");
            connection.pragma_update(None, "synchronous", "OFF").expect("it is set");
            (folder, store, connection)
        };
    }
    let mut parts = bytes.split(|byte| *byte == b'\n');
    let mut part = || parts.next().unwrap_or_default();
    let (data, user, idp_session, client, numbers) = (part(), part(), part(), part(), part());
    let number = |at: usize| {
        let bytes = numbers.chunks(8).nth(at).unwrap_or_default();
        bytes.iter().fold(0_i64, |number, byte| (number << 8) | i64::from(*byte))
    };
    DATABASE.with(|(_, store, connection)| {
        let id_hash = SessionId::parse(KNOWN).expect("it is an id").hash(Realm::default().tag());
        let now = NOW.as_millis();
        connection
            .execute(
                "INSERT OR REPLACE INTO cloakroom_sessions (id, id_hash, public_id, data, user_key,
                 idp_session_id, client, created, seen, idle, absolute, deadline, persistent,
                 revision, format, auth_level, realm, id_issued) VALUES (1, ?1, zeroblob(16), CAST(?2 AS TEXT),
                 CAST(nullif(?3, x'') AS TEXT), CAST(nullif(?4, x'') AS TEXT),
                 CAST(nullif(?5, x'') AS TEXT), ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14,
                 '__Host-id', ?6)",
                params![
                    id_hash.as_bytes(),
                    data,
                    user,
                    idp_session,
                    client,
                    now.wrapping_sub(number(0)),
                    now.wrapping_sub(number(1)),
                    number(2),
                    Some(number(3)).filter(|n| n % 2 == 0),
                    now + 1 + number(4).rem_euclid(1 << 40),
                    number(5),
                    number(6),
                    1 + number(7) % 2,
                    number(8),
                ],
            )
            .expect("the columns' types are right");
        let loaded = store.load(&id_hash, NOW);
        assert!(
            matches!(loaded, Ok(Loaded::Live(_) | Loaded::Unreadable(Unreadable::Undecodable { .. }))),
            "{loaded:?}"
        );
        let index = store.index().expect("it lists");
        let summaries = index.list(&SessionFilter::All, Page::first(NonZeroUsize::MIN), NOW);
        assert_eq!(summaries.expect("a list").len(), 1);
        let delta = Delta::new();
        let merged = store.commit(&Commit::new(&id_hash, Action::Merge, delta, NOW));
        merged.expect("nothing changes");
        assert_eq!(index.stats(NOW).expect("it counts").live, 1);
    });
}

/// A token is valid only if it is base64url without padding and unmasks to the secret.
pub(crate) fn csrf_token(bytes: &[u8]) {
    const SECRET: [u8; 32] = [0xC5; 32];
    static SESSIONS: LazyLock<SessionManager> = LazyLock::new(|| {
        let mut delta = Delta::new();
        let secret = Value::encode(&URL_SAFE_NO_PAD.encode(SECRET)).expect("text");
        delta.set("cloakroom.csrf", secret);
        manager(delta, CookieConfig::new())
    });
    let token = String::from_utf8_lossy(bytes);
    let cookie = format!("__Host-id={KNOWN}");
    let session = SESSIONS.open(Some(cookie.as_str()));
    let expected = URL_SAFE_NO_PAD.decode(token.as_bytes()).is_ok_and(|bytes| {
        bytes.len() == 64 && (0..32).all(|at| bytes[at] ^ bytes[at + 32] == SECRET[at])
    });
    let found = session.verify_csrf(&token).expect("the store does not fail");
    assert_eq!(found == CsrfCheck::Valid, expected, "{token:?}");
}
