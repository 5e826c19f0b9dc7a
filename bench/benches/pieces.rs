//! The cost of the pieces of a request, each alone, with its data in the processor's caches:
//! `cargo bench --manifest-path bench/Cargo.toml`.

#[path = "../src/workload.rs"]
mod workload;

use cloakroom::adapter::Outcome;
use cloakroom::backend::{Data, Delta, NewSession, Record, Value};
use cloakroom::clock::Timestamp;
use cloakroom::id::{Realm, SessionId};
use cloakroom::{Lifetime, MemoryStore, SessionManager};
use divan::{Bencher, black_box};
use workload::{Random, session_json};

fn main() {
    // A fixed number of calls between two readings of the clock.
    divan::Divan::from_args().sample_size(100).main();
}

#[divan::bench]
fn generate_an_id() -> SessionId {
    SessionId::generate().expect("randomness")
}

#[divan::bench]
fn parse_an_id(bencher: Bencher) {
    let text = generate_an_id().reveal();
    bencher.bench_local(|| SessionId::parse(black_box(&text)));
}

#[divan::bench]
fn hash_an_id(bencher: Bencher) {
    let id = generate_an_id();
    bencher.bench_local(|| black_box(&id).hash(Realm::default().tag()));
}

/// A session that is not used, of a request without a cookie.
#[divan::bench]
fn open_without_a_cookie(bencher: Bencher) {
    let sessions = SessionManager::new(MemoryStore::new()).expect("a manager");
    bencher.bench_local(|| sessions.open(black_box(None)));
}

/// The same, where the session cookie is the third of three.
#[divan::bench]
fn open_with_three_cookies(bencher: Bencher) {
    let sessions = SessionManager::new(MemoryStore::new()).expect("a manager");
    let header = format!("lang=en; theme=dark; __Host-id={}", generate_an_id().reveal());
    bencher.bench_local(|| sessions.open(black_box(Some(header.as_str()))));
}

/// A whole request that reads one value, of a session in memory.
#[divan::bench]
fn read_from_memory(bencher: Bencher) {
    let sessions = SessionManager::new(MemoryStore::new()).expect("a manager");
    let session = sessions.open(None);
    let data = Data::from_json(&session_json(0)).expect("it decodes");
    for (name, value) in data.iter() {
        let value: serde_json::Value = value.decode().expect("JSON");
        session.set(name, value).expect("it is set");
    }
    let headers = sessions.close(&session, Outcome::Completed).expect("it closes");
    let (_, cookie) = headers.id_fields.first().expect("an id");
    let cookie = cookie.split(';').next().unwrap_or_default();
    bencher.bench_local(|| {
        let session = sessions.open(black_box(Some(cookie)));
        black_box(session.get::<u32>("user_id").expect("it loads"));
        sessions.close(&session, Outcome::Completed).expect("it closes")
    });
}

#[divan::bench]
fn decode_a_session(bencher: Bencher) {
    let json = session_json(0);
    bencher.bench_local(|| Data::from_json(black_box(&json)).expect("it decodes"));
}

#[divan::bench]
fn decode_a_value(bencher: Bencher) {
    let value = Value::encode(&123_456_u32).expect("it encodes");
    bencher.bench_local(|| black_box(&value).decode::<u32>().expect("a number"));
}

#[divan::bench]
fn encode_a_value(bencher: Bencher) {
    let theme = String::from("dark000000");
    bencher.bench_local(|| Value::encode(black_box(&theme)).expect("it encodes"));
}

/// Replaces one of five values.
#[divan::bench]
fn apply_a_delta(bencher: Bencher) {
    let now = Timestamp::from_millis(1_900_000_000_000);
    let new_session = NewSession::new(Lifetime::default().limits_from(now)).expect("randomness");
    let mut random = Random::new(1);
    let setting = |theme: &str| {
        let mut delta = Delta::new();
        delta.set("theme", Value::encode(&theme).expect("it encodes"));
        delta
    };
    let deltas = [setting("light"), setting("dark")];
    bencher
        .with_inputs(|| {
            let mut record = Record::create(&new_session, now);
            record.data = Data::from_json(&session_json(0)).expect("it decodes");
            (record, random.pick(&deltas).clone())
        })
        .bench_local_values(|(mut record, delta)| {
            assert!(delta.apply(&mut record));
            record
        });
}
