//! # Tests of the store
//!
//! Job: revisions, history and restart. May touch: a temporary folder. Must not touch: requests.
//! Callers: cargo test.

use serde_json::json;

use super::*;

fn object(name: &str) -> Value {
    json!({"metadata": {"name": name}})
}

#[test]
fn a_restart_keeps_objects_and_never_reuses_a_revision() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let key = Key::new("ns", "a");
    let last = {
        let store = Store::open(folder.path()).expect("new store");
        store.create("/pods", key.clone(), object("a")).expect("free").revision
    };
    let store = Store::open(folder.path()).expect("same store");
    assert!(store.revision() > last);
    assert_eq!(store.get("/pods", &key).expect("kept").value["metadata"]["name"], "a");
    assert_eq!(
        store.since("/pods", last).expect_err("forgotten"),
        TooOld { oldest: store.revision() }
    );
}

#[test]
fn history_resumes_after_a_revision_and_forgets_the_oldest() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let store = Store::open(folder.path()).expect("new store");
    let first = store.create("/pods", Key::new("ns", "a"), object("a")).expect("free");
    let second = store.create("/pods", Key::new("ns", "b"), object("b")).expect("free");
    let (present, events) = store.since("/pods", first.revision).expect("kept");
    assert_eq!((present, events.len()), (second.revision, 1));
    let mut current = second.revision;
    for _ in 0..HISTORY {
        current = store
            .replace("/pods", Key::new("ns", "b"), current, object("b"))
            .expect("current")
            .revision;
    }
    assert!(store.since("/pods", first.revision).is_err());
    assert_eq!(store.replace("/pods", Key::new("ns", "b"), 1, object("b")).err(), Some(Stale));
}

// proves: API-9
#[test]
fn a_damaged_folder_is_an_error_with_the_remedy() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let store = Store::open(folder.path()).expect("new store");
    store.create("/pods", Key::new("ns", "a"), object("a")).expect("free");
    drop(store);
    let log = folder.path().join("db");
    let length = std::fs::metadata(&log).expect("a log").len();
    for garbage in [vec![0; length as usize], b"garbage".repeat(length as usize / 7)] {
        std::fs::write(&log, garbage).expect("writable");
        let error = Store::open(folder.path()).expect_err("damaged").to_string();
        assert!(error.contains("remove that folder"), "{error}");
    }
}

// proves: API-9
#[test]
fn a_store_in_use_says_so() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let _held = Store::open(folder.path()).expect("new store");
    let error = Store::open(folder.path()).expect_err("held").to_string();
    assert!(error.contains("is in use by another process"), "{error}");
}
