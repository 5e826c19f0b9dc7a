//! Values that a session accepts and rejects, and values that it returns.

use std::cell::Cell;
use std::fmt;

use cloakroom::adapter::Outcome;
use cloakroom::event::EventKind;
use cloakroom::{ErrorKind, Session};
use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use crate::common::app::{complete, defaults, get, on_both_stores};
use crate::common::faulty::Call;

/// This number of arrays inside of each other. It takes no memory and is dropped without recursion.
#[derive(Debug, PartialEq)]
struct Nested(u32);

impl Serialize for Nested {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq((1..self.0).last().map(Nested))
    }
}

impl<'de> Deserialize<'de> for Nested {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Levels;

        impl<'de> Visitor<'de> for Levels {
            type Value = Nested;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("arrays inside of each other")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Nested, A::Error> {
                Ok(Nested(seq.next_element::<Nested>()?.map_or(0, |inner| inner.0) + 1))
            }
        }

        deserializer.deserialize_seq(Levels)
    }
}

/// The deepest value that a session takes.
const DEEPEST: u32 = 127;

/// The floats that JSON has no number for.
const NOT_FINITE: [f64; 3] = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY];

#[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
struct Price {
    name: Option<String>,
    amount: f64,
}

fn priced(amount: f64) -> Price {
    Price { name: None, amount }
}

/// A change that must fail, and leave the session of `n` = 1 and this request as they were.
fn assert_refused<T: fmt::Debug>(
    kind: ErrorKind,
    change: impl Fn(&Session) -> cloakroom::Result<T>,
) {
    on_both_stores(defaults, |app| {
        let mut browser = app.visitor(1);
        browser.request(&app.sessions, |session| {
            assert_eq!(change(session).unwrap_err().kind(), kind);
            assert_eq!(session.get::<u32>("n").unwrap(), Some(1));
            assert!(!session.is_changed());
        });
        assert_eq!(app.stored_n(&browser), Some(1));
        // Also where there is a change already.
        browser.request(&app.sessions, |session| {
            session.set("n", 2).unwrap();
            assert_eq!(change(session).unwrap_err().kind(), kind);
            assert_eq!(session.get::<u32>("n").unwrap(), Some(2));
        });
        assert_eq!(app.stored_n(&browser), Some(2));
    });
}

#[test]
fn floats_come_back_exactly() {
    let floats = [
        117.633_311_394_000_17,
        5e-324,
        2.225_073_858_507_201e-308,
        -0.0,
        9_007_199_254_740_991.0,
        9_007_199_254_740_993.0,
        1e308,
        f64::MAX,
        f64::MIN,
        0.1 + 0.2,
    ];
    on_both_stores(defaults, |app| {
        let browser = app.visitor_after(|session| session.set("x", floats).unwrap());
        let read: [f64; 10] = get(&app.sessions, &browser, "x").unwrap();
        assert_eq!(read.map(f64::to_bits), floats.map(f64::to_bits));
    });
}

#[test]
fn set_of_a_float_that_is_not_finite_is_refused() {
    for x in NOT_FINITE {
        assert_refused(ErrorKind::WrongType, |session| session.set("n", x));
        assert_refused(ErrorKind::WrongType, |session| session.set("n", x as f32));
        assert_refused(ErrorKind::WrongType, |session| session.set("n", Some(x)));
        assert_refused(ErrorKind::WrongType, |session| session.set("n", (1, [x])));
        assert_refused(ErrorKind::WrongType, |session| session.set("n", priced(x)));
    }
}

#[test]
fn set_of_the_deepest_value_comes_back() {
    on_both_stores(defaults, |app| {
        let browser = app.visitor_after(|session| {
            session.set("x", Nested(DEEPEST)).unwrap();
            session.set("y", json!({ "a": Nested(DEEPEST - 1) })).unwrap();
        });
        assert_eq!(get(&app.sessions, &browser, "x"), Some(Nested(DEEPEST)));
        assert!(get::<Value>(&app.sessions, &browser, "y").is_some());
    });
}

#[test]
fn set_of_a_value_too_deep_to_be_read_is_refused() {
    for levels in [DEEPEST + 1, 10_000, 1_000_000] {
        assert_refused(ErrorKind::WrongType, |session| session.set("n", Nested(levels)));
        assert_refused(ErrorKind::WrongType, |session| session.set("n", &[Nested(levels - 1)]));
        assert_refused(ErrorKind::WrongType, |session| session.set("n", Some(Nested(levels))));
    }
}

#[test]
fn set_of_a_tree_too_deep_to_be_read_is_refused() {
    assert_refused(ErrorKind::WrongType, |session| {
        let tree = (0..10_000).fold(Value::Null, |inner, _| Value::Array(vec![inner]));
        session.set("n", tree)
    });
}

#[test]
fn set_of_raw_json_too_deep_to_be_read_is_refused() {
    let raw = |levels: usize| {
        let text = format!("{}\"]\\\"[\"{}", "[".repeat(levels), "]".repeat(levels));
        serde_json::value::RawValue::from_string(text).unwrap()
    };
    assert_refused(ErrorKind::WrongType, |session| session.set("n", raw(DEEPEST as usize + 1)));
    assert_refused(ErrorKind::WrongType, |session| session.set("n", [raw(DEEPEST as usize)]));
    on_both_stores(defaults, |app| {
        let browser = app.visitor_after(|session| {
            session.set("x", raw(DEEPEST as usize)).unwrap();
            session.set("y", [raw(DEEPEST as usize - 1), raw(1)]).unwrap();
        });
        assert!(get::<Value>(&app.sessions, &browser, "x").is_some());
        assert!(get::<Value>(&app.sessions, &browser, "y").is_some());
    });
}

#[test]
fn an_update_to_a_float_that_is_not_finite_is_refused() {
    for x in NOT_FINITE {
        assert_refused(ErrorKind::WrongType, |session| {
            session.update("n", move |_: Option<f64>| x)
        });
    }
}

#[test]
fn an_update_to_a_value_too_deep_is_refused() {
    for levels in [DEEPEST + 1, 10_000, 1_000_000] {
        assert_refused(ErrorKind::WrongType, |session| {
            session.update("other", move |_: Option<Nested>| Nested(levels))
        });
    }
}

#[test]
fn an_update_to_a_value_too_large_is_refused() {
    assert_refused(ErrorKind::TooLarge, |session| {
        session.update("other", |_: Option<String>| "x".repeat(65_536))
    });
}

#[test]
fn an_update_that_cannot_be_read_again_is_refused() {
    /// It is written as a number, and read as a text.
    #[derive(Debug, serde::Serialize, serde::Deserialize)]
    #[serde(into = "u32", from = "String")]
    struct OneWay;

    impl From<OneWay> for u32 {
        fn from(_: OneWay) -> u32 {
            7
        }
    }

    impl From<String> for OneWay {
        fn from(_: String) -> Self {
            OneWay
        }
    }

    impl Clone for OneWay {
        fn clone(&self) -> Self {
            OneWay
        }
    }

    assert_refused(ErrorKind::WrongType, |session| {
        session.update("other", |_: Option<OneWay>| OneWay)
    });
}

#[test]
fn an_update_after_one_that_failed_is_computed_alone() {
    on_both_stores(defaults, |app| {
        let mut browser = app.visitor(1);
        let mut parallel = browser.clone();
        browser.request(&app.sessions, |session| {
            session.update("n", |n: Option<f64>| n.unwrap() + 1.0).unwrap();
            session.update("n", |_: Option<f64>| f64::NAN).unwrap_err();
            // Another request comes first: all is computed again.
            parallel.request(&app.sessions, |other| other.set("n", 10).unwrap());
            session.update("n", |n: Option<f64>| n.unwrap() * 2.0).unwrap();
        });
        assert_eq!(get(&app.sessions, &browser, "n"), Some(22.0));
    });
}

#[test]
fn an_update_that_panics_changes_nothing() {
    on_both_stores(defaults, |app| {
        let mut browser = app.visitor(1);
        browser.request(&app.sessions, |session| {
            let update = || session.update("n", |_: Option<u32>| -> u32 { panic!("on purpose") });
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(update)).unwrap_err();
            assert!(!session.is_changed());
            assert_eq!(session.update("n", |n: Option<u32>| n.unwrap() + 1).unwrap(), 2);
        });
        assert_eq!(app.stored_n(&browser), Some(2));
    });
}

#[test]
fn a_null_is_no_value_for_a_type_without_null() {
    on_both_stores(defaults, |app| {
        let mut browser = app.visitor(1);
        browser.request(&app.sessions, |session| session.set("x", None::<String>).unwrap());
        browser.request(&app.sessions, |session| {
            assert_eq!(session.get::<String>("x").unwrap(), None);
            assert_eq!(session.get::<Price>("x").unwrap(), None);
            assert_eq!(session.get::<Option<String>>("x").unwrap(), Some(None));
            assert_eq!(session.get::<Value>("x").unwrap(), Some(Value::Null));
            assert_eq!(session.get::<()>("x").unwrap(), Some(()));
            assert!(session.contains("x").unwrap());
        });
    });
}

#[test]
fn a_null_inside_of_a_value_is_of_a_wrong_type() {
    on_both_stores(defaults, |app| {
        let mut browser = app.visitor(1);
        browser.request(&app.sessions, |session| session.set("x", [Some(1), None]).unwrap());
        browser.request(&app.sessions, |session| {
            assert_eq!(session.get::<Vec<u32>>("x").unwrap_err().kind(), ErrorKind::WrongType);
        });
    });
}

#[test]
fn an_update_of_a_null_gets_none() {
    on_both_stores(defaults, |app| {
        let mut browser = app.visitor(1);
        browser.request(&app.sessions, |session| session.set("n", None::<u32>).unwrap());
        browser.request(&app.sessions, |session| {
            let n = session.update("n", |n: Option<u32>| n.map_or(7, |n| n + 1)).unwrap();
            assert_eq!(n, 7);
        });
        assert_eq!(app.stored_n(&browser), Some(7));
        browser.request(&app.sessions, |session| {
            let n = session.update("n", |n: Option<Option<u32>>| n.flatten().filter(|n| *n > 9));
            assert_eq!(n.unwrap(), None, "a null is stored by a type that has it");
            assert!(session.contains("n").unwrap());
        });
    });
}

#[test]
fn take_removes_a_null() {
    on_both_stores(defaults, |app| {
        let mut browser = app.visitor(1);
        browser.request(&app.sessions, |session| session.set("n", None::<u32>).unwrap());
        browser.request(&app.sessions, |session| {
            assert_eq!(session.take::<u32>("n").unwrap(), None);
            assert!(!session.contains("n").unwrap());
        });
        browser.request(&app.sessions, |session| assert!(!session.contains("n").unwrap()));
    });
}

#[test]
fn take_of_nothing_changes_nothing() {
    on_both_stores(defaults, |app| {
        let mut browser = app.visitor(1);
        let commits = app.store.calls(Call::Commit);
        browser.request(&app.sessions, |session| {
            assert_eq!(session.take::<u32>("none").unwrap(), None);
            assert!(!session.is_changed());
        });
        assert_eq!(app.store.calls(Call::Commit), commits);
    });
}

#[test]
fn take_of_a_value_of_a_wrong_type_leaves_it() {
    on_both_stores(defaults, |app| {
        let mut browser = app.visitor(1);
        browser.request(&app.sessions, |session| {
            assert_eq!(session.take::<String>("n").unwrap_err().kind(), ErrorKind::WrongType);
        });
        assert_eq!(app.stored_n(&browser), Some(1));
    });
}

/// The whole text of the error, sources included.
fn words<T: fmt::Debug>(result: cloakroom::Result<T>) -> String {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongType);
    format!("{error:?}")
}

#[test]
fn a_wrong_type_names_the_value_and_what_it_is() {
    on_both_stores(defaults, |app| {
        let mut browser = app.visitor(1);
        browser.request(&app.sessions, |session| {
            session.set("theme", "secret").unwrap();
            session.set("price", json!({ "name": "secret", "amount": "secret" })).unwrap();
            session.set("list", ["secret"]).unwrap();
            session.set("yes", true).unwrap();
        });
        browser.request(&app.sessions, |session| {
            let found = |text: String, expected: &str| {
                assert!(text.contains(expected), "{text}");
                assert!(!text.contains("secret"), "{text}");
            };
            let theme = "session value \"theme\": expected u32, found a string";
            found(words(session.get::<u32>("theme")), theme);
            found(words(session.take::<u32>("theme")), theme);
            found(words(session.update("theme", |n: Option<u32>| n.unwrap_or(0))), theme);
            found(words(session.get::<u8>("yes")), "\"yes\": expected u8, found a boolean");
            found(words(session.get::<bool>("n")), "\"n\": expected bool, found a number");
            found(words(session.get::<u8>("list")), "\"list\": expected u8, found an array");
            found(words(session.get::<u8>("price")), "\"price\": expected u8, found an object");
            let price = words(session.get::<Price>("price"));
            found(price.clone(), "Price, found an object");
            found(price, "column 18");
            found(words(session.set("price", f64::NAN)), "session value \"price\": ");
            let deep = session.update("price", |_: Option<Value>| too_deep());
            found(words(deep), "session value \"price\": ");
        });
    });
}

fn too_deep() -> Value {
    (0..=DEEPEST).fold(Value::Null, |inner, _| Value::Array(vec![inner]))
}

#[test]
fn a_value_of_a_wrong_type_raises_an_event() {
    on_both_stores(defaults, |app| {
        let mut browser = app.visitor(1);
        browser.request(&app.sessions, |session| {
            session.get::<u32>("n").unwrap();
            session.get::<String>("none").unwrap();
            assert_eq!(app.count(EventKind::WrongType), 0);
            session.get::<String>("n").unwrap_err();
            session.take::<String>("n").unwrap_err();
            session.update("n", |_: Option<String>| String::new()).unwrap_err();
            assert_eq!(app.count(EventKind::WrongType), 3);
        });
    });
}

#[test]
fn a_value_is_encoded_once() {
    /// It is another one each time it is written.
    struct Once(Cell<Option<f64>>);

    impl Serialize for Once {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            (None::<u8>, self.0.take()).serialize(serializer)
        }
    }

    on_both_stores(defaults, |app| {
        let session = app.sessions.open(None);
        assert!(session.set("x", Once(Cell::new(Some(f64::NAN)))).is_err());
        session.set("x", Once(Cell::new(Some(1.0)))).unwrap();
        assert_eq!(session.get::<Value>("x").unwrap(), Some(json!([null, 1.0])));
        complete(&app.sessions, &session);
        assert!(app.sessions.close(&session, Outcome::Completed).is_err());
    });
}
