//! Command lines as a function of bytes, driven by `tests/mutated_input` with mutations of its
//! corpus and by `fuzz/`, guided by coverage.

use std::cell::RefCell;
use std::process::ExitCode;

use cloakroom::backend::{Action, Commit, Delta, Loaded, NewSession, Store};
use cloakroom::clock::{Clock, SystemClock};
use cloakroom::id::{Realm, SessionId};
use cloakroom::{Lifetime, SqliteStore};
use cloakroom_cli::Target;

/// The id of the one session: 32 bytes from 0 to 31.
const KNOWN: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";

/// The arguments of a command line, one per line. Any command line ends with a documented code.
pub(crate) fn arguments(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    // The commands are executed: excludes paths out of the current folder, and endless commands.
    if ["/", "..", "-w", "\\", "@"].iter().any(|part| text.contains(part)) {
        return;
    }
    thread_local! {
        static STORE: RefCell<Option<SqliteStore>> = const { RefCell::new(None) };
    }
    let id_hash = SessionId::parse(KNOWN).expect("it is an id").hash(Realm::default().tag());
    let has_it = |store: &SqliteStore| {
        matches!(store.load(&id_hash, SystemClock.now()), Ok(Loaded::Live(_)))
    };
    // Most command lines do not change the store, so that the next one can use it.
    let store = STORE.take().filter(has_it).unwrap_or_else(|| {
        let store = SqliteStore::in_memory().expect("memory");
        let (now, delta) = (SystemClock.now(), Delta::new());
        let new_session =
            NewSession::new(Lifetime::default().limits_from(now)).expect("randomness");
        let create = Commit::new(&id_hash, Action::Create(new_session), delta, now);
        store.commit(&create).expect("done");
        store
    });
    STORE.set(Some(store.clone()));
    let args = std::iter::once("cloakroom").chain(text.lines()).map(str::to_owned);
    let code = cloakroom_cli::run(args.collect::<Vec<_>>(), Target::Sqlite(store));
    assert!((0..=4).any(|known| code == ExitCode::from(known)), "{code:?}");
}
