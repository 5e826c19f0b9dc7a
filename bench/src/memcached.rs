//! The memcached store beside its client's own commands on values of the same size; and a cache that
//! does not answer.

use std::hint::black_box;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cloakroom::backend::{
    Action, Commit, CommitAnswer, Delta, LiveSession, Loaded, NewSession, Store, Touch, Value,
};
use cloakroom::clock::Timestamp;
use cloakroom::id::{Realm, SessionId, SessionIdHash};
use cloakroom::stores::cached::CachedStore;
use cloakroom::stores::memcached::MemcachedStore;
use cloakroom::{Lifetime, SqliteStore};
use memcache::exp::{Meta, MetaClient, Ttl};

use crate::report::{Goal, Report};
use crate::timing::{Pairs, interleaved, per_operation};
use crate::workload::{Random, session_json};

const NOW: Timestamp = Timestamp::from_millis(crate::raw::NOW);

/// A memcached that is started for the measurement and stopped after it.
struct Server {
    process: Child,
    address: String,
}

impl Server {
    fn start() -> Server {
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let address = free.expect("a free port");
        let mut command = Command::new("memcached");
        command.args(["-l", "127.0.0.1", "-U", "0", "-u", "nobody", "-m", "256"]);
        command.args(["-p", &address.port().to_string()]).stderr(Stdio::null());
        let child = command.spawn().expect("memcached is installed");
        while TcpStream::connect(address).is_err() {
            std::thread::sleep(Duration::from_millis(5));
        }
        Server { process: child, address: address.to_string() }
    }

    /// Stops the process: it then accepts connections and answers nothing.
    fn freeze(&self) {
        let stop = Command::new("kill").args(["-STOP", &self.process.id().to_string()]).status();
        assert!(stop.expect("kill is installed").success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn fill(store: &impl Store, rows: usize) -> Vec<SessionIdHash> {
    let data: std::collections::BTreeMap<String, serde_json::Value> =
        serde_json::from_str(&session_json(0)).expect("JSON");
    let mut delta = Delta::new();
    for (name, value) in data {
        delta.set(&name, Value::encode(&value).expect("it encodes"));
    }
    let row = |_| {
        let id_hash = SessionId::generate().expect("randomness").hash(Realm::default().tag());
        let new_session =
            NewSession::new(Lifetime::default().limits_from(NOW)).expect("randomness");
        let create = Commit::new(&id_hash, Action::Create(new_session.clone()), delta.clone(), NOW);
        store.commit(&create).expect("it is stored");
        id_hash
    };
    (0..rows).map(row).collect()
}

fn load(store: &impl Store, id_hash: &SessionIdHash) {
    let loaded = store.load(id_hash, NOW).expect("it loads");
    assert!(matches!(black_box(loaded), Loaded::Live(_)));
}

fn merge(store: &impl Store, id_hash: &SessionIdHash, n: u64) {
    let mut delta = Delta::new();
    let theme = Value::encode(&format!("dark{:06}", n % 1_000_000)).expect("it encodes");
    delta.set("theme", theme);
    let mut merge = Commit::new(id_hash, Action::Merge, delta.clone(), NOW);
    merge.touch = Some(Touch::at(NOW));
    let answer = store.commit(&merge).expect("it merges");
    assert!(matches!(answer, CommitAnswer::Done { .. } | CommitAnswer::Unchanged(_)));
}

pub fn run(quick: bool, report: &mut Report) {
    let (rounds, slice) = (if quick { 5 } else { 11 }, if quick { 60 } else { 400 });
    let slice = Duration::from_millis(slice);
    if report.wants("memcached_down") {
        frozen_cache(rounds, slice, report);
    }
    let names = ["memcached_load_1t", "memcached_load_8t", "memcached_merge"];
    if !names.iter().any(|name| report.wants(name)) {
        return;
    }
    let server = Server::start();
    let store = MemcachedStore::builder().servers([&server.address]).open().expect("open");
    let ids = fill(&store, if quick { 2_000 } else { 20_000 });
    let client =
        MetaClient::builder().max_idle(16).connect(server.address.as_str()).expect("connect");
    // A value as long as the store's.
    let value = match store.load(&ids[0], NOW) {
        Ok(Loaded::Live(LiveSession { record, .. })) => record.to_json(),
        other => panic!("{other:?}"),
    };
    let names: Vec<String> = ids.iter().map(|id_hash| format!("raw:{id_hash:?}")).collect();
    for name in &names {
        client.set(name, &value).ttl(Ttl::secs(86_400)).send().expect("it is stored");
    }
    let random = |thread| Random::new(thread as u64 + 1);
    for (name, threads) in [("memcached_load_1t", 1), ("memcached_load_8t", 8)] {
        if report.wants(name) {
            let ours =
                || per_operation(threads, slice, random, |random| load(&store, random.pick(&ids)));
            let raw = || {
                per_operation(threads, slice, random, |random| {
                    let got = client.get(random.pick(&names)).send().expect("it is read");
                    assert!(black_box(got).hit());
                })
            };
            add(report, name, Goal::AtMost(1.3), &interleaved(rounds, ours, raw));
        }
    }
    if report.wants("memcached_merge") {
        let ours = || {
            per_operation(1, slice, random, |random| {
                let n = random.next();
                merge(&store, random.pick(&ids), n);
            })
        };
        let raw = || {
            per_operation(1, slice, random, |random| {
                let name = random.pick(&names);
                let got = client.get(name).meta(Meta::NONE.cas()).send().expect("it is read");
                let cas = got.item.cas.expect("a version");
                let value = got.value.expect("a value");
                let set = client.set(name, &value).ttl(Ttl::secs(86_400)).compare_cas(cas);
                assert!(set.send().expect("it is stored").applied());
            })
        };
        let pairs = interleaved(rounds, ours, raw);
        add(report, "memcached_merge", Goal::AtMost(1.3), &pairs);
    }
}

/// A read and a write with a frozen cache in front of the store, beside the same without a cache.
fn frozen_cache(rounds: usize, slice: Duration, report: &mut Report) {
    let (server, folder) = (Server::start(), tempfile::tempdir().expect("a temporary folder"));
    let backing = SqliteStore::open(folder.path().join("app.db")).expect("open");
    let cache = MemcachedStore::builder().servers([&server.address]).open().expect("open");
    let store = CachedStore::new(cache, backing.clone());
    // For its first two seconds a cached store does not read the cache.
    let _ = store.load(&SessionIdHash::from_bytes([0; 32]), NOW - Duration::from_secs(2));
    let ids = fill(&store, 2_000);
    ids.iter().for_each(|id_hash| load(&store, id_hash));
    server.freeze();
    // The first reads wait for the timeout, then the circuit breaker opens.
    ids.iter().take(10).for_each(|id_hash| load(&store, id_hash));
    fn request(store: &impl Store, ids: &[SessionIdHash], random: &mut Random) {
        let (id_hash, n) = (random.pick(ids), random.next());
        load(store, id_hash);
        merge(store, id_hash, n);
    }
    let random = |thread| Random::new(thread as u64 + 1);
    let pairs = interleaved(
        rounds,
        || per_operation(1, slice, random, |random| request(&store, &ids, random)),
        || per_operation(1, slice, random, |random| request(&backing, &ids, random)),
    );
    report.amount("memcached_down", (pairs.a - pairs.b) / 1e3, "µs", Goal::AtMost(1000.0));
    // The breaker probes the server once a second, and no request may wait for that.
    let (mut with, mut without) = (Vec::new(), Vec::new());
    let (mut random, began) = (Random::new(7), Instant::now());
    while began.elapsed() < Duration::from_secs(5) {
        let one = Instant::now();
        request(&store, &ids, &mut random);
        with.push(one.elapsed().as_nanos() as f64);
        let one = Instant::now();
        request(&backing, &ids, &mut random);
        without.push(one.elapsed().as_nanos() as f64);
    }
    let slow = |mut times: Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times[times.len() * 999 / 1000] / 1e3
    };
    let more = slow(with) - slow(without);
    report.amount("memcached_down_p999", more, "µs", Goal::AtMost(1000.0));
}

fn add(report: &mut Report, name: &str, goal: Goal, pairs: &Pairs) {
    let sides = [("cloakroom", pairs.a / 1e3), ("the client", pairs.b / 1e3)];
    report.ratio(name, pairs.ratio, goal, &sides);
}
