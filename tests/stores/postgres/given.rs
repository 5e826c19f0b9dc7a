//! Operations of the tests on a store.

use std::io::{BufRead, BufReader, Write};
use std::num::NonZeroUsize;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cloakroom::backend::{Action, Commit, CommitAnswer, Delta, SessionIndex, Store, Touch};
use cloakroom::id::{SessionIdHash, UserKey};
use cloakroom::list::{Page, SessionFilter};
use cloakroom::stores::postgres::PostgresStoreBuilder;
use cloakroom::{Error, ErrorKind, PostgresStore, Result};

use crate::common::postgres::{Postgres, fresh_table};
use crate::common::{KillOnDrop, NOW, create, end, live, merge, new_id_hash, setting, value};

pub(crate) use crate::common::sign_in_to as sign_in;

/// The call timeout of stores whose server does not answer.
pub(crate) const HASTY: Duration = Duration::from_millis(500);

/// Far more than that timeout.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// A store with this call timeout, whose connection is open, and a session with `n` = 1.
pub(crate) fn hasty(
    server: &Postgres,
    configure: impl Fn(PostgresStoreBuilder) -> PostgresStoreBuilder,
) -> (PostgresStore, SessionIdHash) {
    let table = fresh_table();
    let patient = server.builder_in(&table).open().unwrap();
    let id_hash = create(&patient, &setting("n", 1)).unwrap();
    let builder = || configure(server.builder_in(&table).call_timeout(HASTY));
    let deadline = Instant::now() + SOON * 6;
    // A busy machine takes more than that time now and then.
    loop {
        if let Ok(store) = builder().open()
            && store.load(&id_hash, NOW).is_ok()
        {
            return (store, id_hash);
        }
        assert!(Instant::now() < deadline, "the machine is too busy");
    }
}

pub(crate) fn user(name: &str) -> UserKey {
    UserKey::new(name).unwrap()
}

pub(crate) fn renew(
    store: &PostgresStore,
    id_hash: &SessionIdHash,
    to: &SessionIdHash,
) -> Result<CommitAnswer> {
    let action = Action::Renew { to: *to, grace_until: None };
    store.commit(&Commit::new(id_hash, action, Delta::new(), NOW))
}

/// The number `n` of a session.
pub(crate) fn number(store: &PostgresStore, id_hash: &SessionIdHash) -> i64 {
    value(&live(store, id_hash).unwrap().expect("it is live"), "n").unwrap()
}

type StoreCall = fn(&PostgresStore, &SessionIdHash) -> Result<()>;

/// Every call of a store, by its name.
pub(crate) const CALLS: [(&str, StoreCall); 12] = [
    ("load", |store, id_hash| store.load(id_hash, NOW).map(drop)),
    ("create", |store, _| create(store, &Delta::new()).map(drop)),
    ("merge", |store, id_hash| merge(store, id_hash, &setting("n", 7)).map(drop)),
    ("renew", |store, _| renew(store, &new_id_hash(), &new_id_hash()).map(drop)),
    ("sign in", |store, _| sign_in(store, &new_id_hash(), &new_id_hash(), "ada").map(drop)),
    ("end", |store, _| end(store, &new_id_hash()).map(drop)),
    ("touch", |store, id_hash| {
        store.touch(&[(*id_hash, Touch::at(NOW))], NOW).map_err(Error::from)
    }),
    ("sweep", |store, _| store.sweep(NOW, NonZeroUsize::MIN).map(drop)),
    ("revoke", |store, _| {
        index(store).revoke(&SessionFilter::User(&user("x")), None, NOW).map(drop)
    }),
    ("list", |store, _| index(store).list(&SessionFilter::All, Page::first(FEW), NOW).map(drop)),
    ("epoch", |store, _| index(store).epoch().map(drop)),
    ("maintenance", |store, _| store.maintenance().unwrap().run()),
];

const FEW: NonZeroUsize = NonZeroUsize::new(10).unwrap();

fn index(store: &PostgresStore) -> &dyn SessionIndex {
    store.index().unwrap()
}

/// Every call fails with this kind, and soon.
pub(crate) fn all_fail(store: &PostgresStore, id_hash: &SessionIdHash, kind: ErrorKind) {
    let began = Instant::now();
    for (name, call) in CALLS {
        assert_eq!(call(store, id_hash).expect_err(name).kind(), kind, "{name}");
    }
    assert!(began.elapsed() < SOON * 4, "it took {:?}", began.elapsed());
}

#[track_caller]
pub(crate) fn all_succeed(store: &PostgresStore, id_hash: &SessionIdHash) {
    for (name, call) in CALLS {
        call(store, id_hash).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

/// Every call succeeds, also as the first one after a disturbance.
pub(crate) fn all_succeed_after(
    disturb: impl Fn(),
    store: &PostgresStore,
    id_hash: &SessionIdHash,
) {
    for (name, call) in CALLS {
        // Prepares its statements, so that the next one sends nothing else.
        call(store, id_hash).unwrap();
        disturb();
        call(store, id_hash).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

/// Kills the server while a thread counts in `n` of a session. Returns the last number that was
/// acknowledged.
pub(crate) fn killed_under_changes(
    server: &Postgres,
    store: &PostgresStore,
    id_hash: &SessionIdHash,
) -> i64 {
    let acknowledged = AtomicI64::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            for n in 1.. {
                match merge(store, id_hash, &setting("n", n)) {
                    Ok(_) => acknowledged.store(n, Ordering::SeqCst),
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
                        break;
                    }
                }
            }
        });
        while acknowledged.load(Ordering::SeqCst) < 50 {
            thread::yield_now();
        }
        server.kill();
    });
    acknowledged.into_inner()
}

/// A transaction of another program, which lasts until this is dropped.
pub(crate) struct OpenTransaction(#[allow(dead_code, reason = "dropped")] KillOnDrop);

impl OpenTransaction {
    pub(crate) fn on(server: &Postgres, sql: &str) -> Self {
        let mut child: Child =
            server.psql().stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        writeln!(input, "BEGIN; {sql}; SELECT 'ready';").unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.map_while(std::io::Result::ok).any(|line| line == "ready"));
        child.stdin = Some(input);
        OpenTransaction(KillOnDrop(child))
    }
}
