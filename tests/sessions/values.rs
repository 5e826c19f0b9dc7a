//! Every value that JSON has comes back as it was, from each store; every other one is refused, and
//! leaves what was there.

use std::collections::BTreeMap;
use std::fmt::Debug;

use crate::common::app::{Browser, get};
use crate::common::memcached::shared;
use crate::common::{Folder, cached_store};
use cloakroom::adapter::Outcome;
use cloakroom::backend::Store;
use cloakroom::stores::memory::MemoryCache;
use cloakroom::{ErrorKind, MemoryStore, Session, SessionManager, SqliteStore};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde::Serialize;
use serde_json::Value;

/// The greatest depth of a value.
const DEEPEST: usize = 127;

/// An application on one store: where requests write, and where they read.
struct TwoManagers {
    store: &'static str,
    writer: SessionManager,
    reader: SessionManager,
}

impl TwoManagers {
    /// A browser after its first request.
    fn visitor(&self, handler: impl FnOnce(&Session)) -> Browser {
        Browser::default().after_request(&self.writer, handler)
    }
}

/// On each store. What has a file is read by another store on it, which has nothing in memory.
fn pairs(folder: &Folder) -> Vec<TwoManagers> {
    fn manager(store: impl Store) -> SessionManager {
        SessionManager::new(store).unwrap()
    }

    let one = |store: &'static str, sessions: SessionManager| TwoManagers {
        store,
        writer: sessions.clone(),
        reader: sessions,
    };
    let path = folder.fresh();
    let sqlite = || SqliteStore::open(&path).unwrap();
    let behind = || SqliteStore::open(folder.fresh()).unwrap();
    vec![
        one("memory", manager(MemoryStore::new())),
        TwoManagers { store: "SQLite", writer: manager(sqlite()), reader: manager(sqlite()) },
        one("memcached", manager(shared().store())),
        one("memory in front of SQLite", manager(cached_store(MemoryCache::new(), behind()))),
        one("memcached in front of SQLite", manager(cached_store(shared().store(), behind()))),
    ]
}

/// Runs `test` with many inputs on each store.
fn on_each_store<S: Strategy>(
    inputs: &S,
    test: impl Fn(&TwoManagers, S::Value) -> Result<(), TestCaseError>,
) where
    S::Value: Clone,
{
    let folder = Folder::in_memory();
    let apps = pairs(&folder);
    let config = ProptestConfig { cases: 100, failure_persistence: None, ..Default::default() };
    let run = |input: S::Value| {
        apps.iter().try_for_each(|app| {
            test(app, input.clone()).map_err(|error| match error {
                TestCaseError::Fail(why) => TestCaseError::fail(format!("on {}: {why}", app.store)),
                rejected => rejected,
            })
        })
    };
    TestRunner::new(config).run(inputs, run).unwrap_or_else(|error| panic!("{error}"));
}

fn number() -> impl Strategy<Value = Value> {
    let two_53 = 9_007_199_254_740_992_i64;
    let small = [0.0, -0.0, 5e-324, 2.225_073_858_507_201e-308, f64::MIN_POSITIVE, f64::EPSILON];
    let large = [1e308, f64::MAX, f64::MIN, (two_53 - 1) as f64, (two_53 + 2) as f64];
    let integers = [two_53 - 1, two_53 + 1, -two_53 - 1, i64::MIN, i64::MAX];
    let floats = small.into_iter().chain(large).map(Value::from);
    let edges = floats.chain(integers.map(Value::from)).chain([Value::from(u64::MAX)]);
    let edges = prop::sample::select(edges.collect::<Vec<_>>());
    prop_oneof![
        edges,
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        finite().prop_map(Value::from),
    ]
}

/// Every double but those that JSON has no number for, all bits alike.
fn finite() -> impl Strategy<Value = f64> {
    any::<u64>().prop_map(f64::from_bits).prop_filter("finite", |float| float.is_finite())
}

/// All of Unicode, and what JSON escapes more often than chance has it.
fn text() -> impl Strategy<Value = String> {
    let odd = "\0\u{1}\u{8}\t\n\r\u{1f}\"\\/\u{7f}\u{80}\u{2028}\u{2029}\u{d7ff}\u{e000}\u{feff}\
               \u{ffff}\u{10000}\u{10ffff}é😀[{";
    let odd = prop::sample::select(odd.chars().collect::<Vec<_>>());
    prop::collection::vec(prop_oneof![odd, any::<char>()], 0..12).prop_map(String::from_iter)
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        1 => Just(Value::Null),
        1 => any::<bool>().prop_map(Value::from),
        4 => number(),
        3 => text().prop_map(Value::from),
    ];
    let tree = leaf.prop_recursive(6, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(text(), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    });
    // Up to the deepest, which is some levels above the tree.
    (tree, prop_oneof![Just(0), 0..DEEPEST], any::<bool>()).prop_map(|(tree, levels, objects)| {
        let free = DEEPEST - depth(&tree);
        nested(tree, levels.min(free), objects)
    })
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

fn nested(value: Value, levels: usize, objects: bool) -> Value {
    (0..levels).fold(value, |inner, level| match objects && level % 2 == 0 {
        true => Value::Object([(String::from("a"), inner)].into_iter().collect()),
        false => Value::Array(vec![inner]),
    })
}

/// A value that a session must refuse, within good ones.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
enum Bad {
    Float(f64),
    SmallFloat(f32),
    Maybe(Option<f64>),
    Deep(Value),
    List(Value, Box<Bad>),
    Map(BTreeMap<String, Bad>),
    Struct { good: Value, bad: Box<Bad> },
}

fn bad() -> impl Strategy<Value = Bad> {
    let not_finite = prop::sample::select(vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY]);
    let leaf = prop_oneof![
        not_finite.clone().prop_map(Bad::Float),
        not_finite.clone().prop_map(|float| Bad::SmallFloat(float as f32)),
        not_finite.prop_map(|float| Bad::Maybe(Some(float))),
        (json(), 1..100_usize, any::<bool>()).prop_map(|(json, more, objects)| {
            let missing = DEEPEST - depth(&json);
            Bad::Deep(nested(json, missing + more, objects))
        }),
    ];
    leaf.prop_recursive(4, 8, 1, |inner| {
        prop_oneof![
            (json(), inner.clone()).prop_map(|(json, bad)| Bad::List(json, Box::new(bad))),
            (text(), inner.clone()).prop_map(|(name, bad)| Bad::Map([(name, bad)].into())),
            (json(), inner).prop_map(|(good, bad)| Bad::Struct { good, bad: Box::new(bad) }),
        ]
    })
}

/// A request of the browser that goes well.
fn request<T>(
    sessions: &SessionManager,
    browser: &mut Browser,
    handler: impl FnOnce(&Session) -> T,
) -> T {
    let session = browser.open(sessions);
    let result = handler(&session);
    browser.take(&sessions.close(&session, Outcome::Completed).unwrap());
    result
}

/// The value that a request reads, as text: values that compare equal may differ, such as zeros.
fn read(app: &TwoManagers, browser: &Browser, name: &str) -> Option<String> {
    let first: Option<Value> = get(&app.reader, browser, name);
    // The second time it may come from memory.
    assert_eq!(get(&app.reader, browser, name), first);
    first.map(|value| value.to_string())
}

#[test]
fn a_value_that_is_set_comes_back() {
    on_each_store(&(text(), json()), |app, (name, value)| {
        let browser = app.visitor(|session| {
            session.set(&name, &value).unwrap();
            let now: Option<Value> = session.get(&name).unwrap();
            assert_eq!(now.map(|now| now.to_string()), Some(value.to_string()));
        });
        prop_assert_eq!(read(app, &browser, &name), Some(value.to_string()));
        Ok(())
    });
}

#[test]
fn a_value_that_is_updated_comes_back() {
    on_each_store(&(text(), json(), json()), |app, (name, old, new)| {
        let mut browser = app.visitor(|session| session.set(&name, &old).unwrap());
        let (before, after) = (old.to_string(), new.to_string());
        let update = move |now: Option<Value>| {
            assert_eq!(now.map(|now| now.to_string()), Some(before.clone()));
            new.clone()
        };
        let updated = request(&app.writer, &mut browser, |session| session.update(&name, update));
        prop_assert_eq!(updated.unwrap().to_string(), after.clone());
        prop_assert_eq!(read(app, &browser, &name), Some(after));
        Ok(())
    });
}

#[test]
fn a_value_that_is_updated_now_comes_back() {
    on_each_store(&(text(), json()), |app, (name, value)| {
        let mut browser = Browser::default();
        let new = value.clone();
        let update = move |_: Option<Value>| new.clone();
        let stored =
            request(&app.writer, &mut browser, |session| session.update_now(&name, update));
        prop_assert_eq!(stored.unwrap().map(|now| now.to_string()), Some(value.to_string()));
        prop_assert_eq!(read(app, &browser, &name), Some(value.to_string()));
        Ok(())
    });
}

#[test]
fn a_typed_float_comes_back() {
    let floats = (finite(), any::<u32>().prop_map(f32::from_bits));
    on_each_store(&floats, |app, (double, single)| {
        prop_assume!(single.is_finite());
        let browser = app.visitor(|session| session.set("x", (double, single)).unwrap());
        let read: Option<(f64, f32)> = get(&app.reader, &browser, "x");
        let bits = read.map(|(double, single)| (double.to_bits(), single.to_bits()));
        prop_assert_eq!(bits, Some((double.to_bits(), single.to_bits())));
        Ok(())
    });
}

#[test]
fn a_large_integer_comes_back() {
    on_each_store(&(any::<i128>(), any::<u128>()), |app, numbers| {
        let browser = app.visitor(|session| session.set("x", numbers).unwrap());
        prop_assert_eq!(get(&app.reader, &browser, "x"), Some(numbers));
        Ok(())
    });
}

#[test]
fn a_flash_comes_back() {
    on_each_store(&prop::collection::vec((text(), text()), 1..4), |app, flashes| {
        let mut browser = app.visitor(|session| {
            for (kind, text) in &flashes {
                session.flash(kind, text).unwrap();
            }
        });
        let read = request(&app.reader, &mut browser, |session| session.flashes().unwrap());
        let read: Vec<_> = read.into_iter().map(|flash| (flash.kind, flash.text)).collect();
        prop_assert_eq!(read, flashes);
        Ok(())
    });
}

#[test]
fn a_value_that_cannot_come_back_is_refused() {
    on_each_store(&(text(), json(), bad()), |app, (name, old, bad)| {
        let mut browser = app.visitor(|session| session.set(&name, &old).unwrap());
        request(&app.writer, &mut browser, |session| {
            assert_eq!(session.set(&name, &bad).unwrap_err().kind(), ErrorKind::WrongType);
            assert!(!session.is_changed());
        });
        prop_assert_eq!(read(app, &browser, &name), Some(old.to_string()));
        Ok(())
    });
}

#[test]
fn an_update_that_fails_changes_nothing() {
    /// A value that must not be written, read as any value.
    #[derive(Clone, Debug)]
    struct Written(Bad);

    impl Serialize for Written {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            self.0.serialize(serializer)
        }
    }

    impl<'de> serde::Deserialize<'de> for Written {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            Value::deserialize(deserializer).map(|value| Written(Bad::Deep(value)))
        }
    }

    let inputs = (json(), json(), bad(), any::<bool>());
    on_each_store(&inputs, |app, (old, set, bad, panics)| {
        let mut browser = app.visitor(|session| session.set("x", &old).unwrap());
        request(&app.writer, &mut browser, |session| {
            session.set("y", &set).unwrap();
            let bad = Written(bad.clone());
            let update = move |_: Option<Written>| match panics {
                // A panic of which nothing is printed.
                true => std::panic::resume_unwind(Box::new(())),
                false => bad.clone(),
            };
            let update = || session.update("x", update).map(drop);
            match std::panic::catch_unwind(std::panic::AssertUnwindSafe(update)) {
                Ok(refused) => assert_eq!(refused.unwrap_err().kind(), ErrorKind::WrongType),
                Err(_) => assert!(panics),
            }
        });
        prop_assert_eq!(read(app, &browser, "x"), Some(old.to_string()));
        prop_assert_eq!(read(app, &browser, "y"), Some(set.to_string()));
        Ok(())
    });
}

/// Checks that a `T` is read from a value if it is one, nothing from a null, and else an error.
fn reads<T: serde::de::DeserializeOwned + PartialEq + Debug>(
    session: &Session,
    value: &Value,
) -> Result<(), TestCaseError> {
    match (session.get::<T>("x"), serde_json::from_value::<T>(value.clone())) {
        (Ok(ours), Ok(theirs)) => prop_assert_eq!(ours, Some(theirs)),
        (Ok(ours), Err(_)) => prop_assert_eq!((ours, value), (None, &Value::Null)),
        (Err(error), theirs) => {
            prop_assert_eq!(error.kind(), ErrorKind::WrongType);
            prop_assert!(!value.is_null() && theirs.is_err());
        }
    }
    Ok(())
}

#[test]
fn a_null_is_none_and_a_wrong_type_an_error() {
    let values = prop_oneof![1 => Just(Value::Null), 3 => json()];
    on_each_store(&values, |app, value| {
        let browser = app.visitor(|session| session.set("x", &value).unwrap());
        let session = browser.open(&app.reader);
        prop_assert!(session.contains("x").unwrap());
        reads::<()>(&session, &value)?;
        reads::<bool>(&session, &value)?;
        reads::<String>(&session, &value)?;
        reads::<i64>(&session, &value)?;
        reads::<u64>(&session, &value)?;
        reads::<Option<String>>(&session, &value)?;
        reads::<Vec<Option<u8>>>(&session, &value)?;
        reads::<BTreeMap<String, Value>>(&session, &value)?;
        Ok(())
    });
}
