//! # Lists and watches
//!
//! Job: pages, selectors, resuming, expiry, bookmarks. May touch: the subject.
//! Must not touch: its inside. Callers: cargo test.

use serde_json::{Value, json};

use super::subject::{MERGE, Subject, config_map};

const MAPS: &str = "/api/v1/namespaces/NS/configmaps";

fn names(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().expect("items");
    items.iter().map(|i| i["metadata"]["name"].as_str().expect("a name").to_owned()).collect()
}

fn revision(value: &Value) -> String {
    value["metadata"]["resourceVersion"].as_str().expect("a revision").to_owned()
}

// proves: API-1
#[tokio::test]
async fn a_watch_goes_on_where_a_list_ended() {
    let subject = Subject::new().await;
    subject.post(MAPS, config_map("before", json!({}))).await.ok();
    let list = subject.get(MAPS).await.ok();
    // A controller may put objects of its own there.
    let selector = "fieldSelector=metadata.name%3Da";
    let path = format!("{MAPS}?watch=true&{selector}&resourceVersion={}", revision(&list));
    let mut watch = subject.watch(&path).await;
    let made = subject.post(MAPS, config_map("a", json!({}))).await.ok();
    subject.patch(&format!("{MAPS}/a"), MERGE, json!({"data": {"k": "v"}})).await.ok();
    subject.delete(&format!("{MAPS}/a")).await.ok();
    let (change, object) = watch.next().await;
    assert_eq!((change.as_str(), &object), ("ADDED", &made));
    let (change, modified) = watch.next().await;
    assert_eq!((change.as_str(), &modified["data"]["k"]), ("MODIFIED", &json!("v")));
    let (change, deleted) = watch.next().await;
    assert_eq!(change, "DELETED");
    // The object of a removal has the revision of the removal.
    assert_ne!(revision(&deleted), revision(&modified));
}

// proves: API-2
#[tokio::test]
async fn a_selector_sees_objects_enter_and_leave() {
    let subject = Subject::new().await;
    let list = subject.get(MAPS).await.ok();
    let path = format!("{MAPS}?watch=true&labelSelector=l%3Dx&resourceVersion={}", revision(&list));
    let mut watch = subject.watch(&path).await;
    subject.post(MAPS, config_map("a", json!({}))).await.ok();
    let label = |value: Value| json!({"metadata": {"labels": {"l": value}}});
    for value in [json!("x"), json!("y"), json!("x"), json!(null)] {
        subject.patch(&format!("{MAPS}/a"), MERGE, label(value)).await.ok();
    }
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(watch.next().await.0);
    }
    assert_eq!(seen, ["ADDED", "DELETED", "ADDED", "DELETED"]);
}

#[tokio::test]
async fn a_watch_without_a_position_begins_with_what_there_is() {
    let subject = Subject::new().await;
    for name in ["a", "b"] {
        subject.post(MAPS, config_map(name, json!({}))).await.ok();
    }
    for path in ["?watch=1", "?watch=1&resourceVersion=0"] {
        let selector = "fieldSelector=metadata.name%3Db";
        let mut watch = subject.watch(&format!("{MAPS}{path}&{selector}")).await;
        assert_eq!(watch.next_name().await, ("ADDED".into(), "b".into()));
    }
}

#[tokio::test]
async fn initial_events_end_with_a_bookmark() {
    let subject = Subject::new().await;
    subject.post(MAPS, config_map("a", json!({}))).await.ok();
    let path = "?watch=1&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan";
    let selector = "fieldSelector=metadata.name%3Da";
    let mut watch = subject.watch(&format!("{MAPS}{path}&{selector}")).await;
    assert_eq!(watch.next_name().await, ("ADDED".into(), "a".into()));
    let (change, bookmark) = watch.next().await;
    assert_eq!(change, "BOOKMARK");
    assert_eq!(bookmark["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
}

#[tokio::test]
async fn a_watch_ends_when_its_time_is_over() {
    let subject = Subject::new().await;
    let mut watch =
        subject.watch(&format!("{MAPS}?watch=1&timeoutSeconds=1&labelSelector=no%3Done")).await;
    let ended = tokio::time::timeout(std::time::Duration::from_secs(8), async {
        tokio::spawn(async move { watch.next().await }).await
    });
    // Reading on past the end fails.
    assert!(ended.await.expect("an end in time").is_err());
}

#[tokio::test]
async fn lists_come_in_pages() {
    let subject = Subject::new().await;
    for name in ["a", "b", "c", "d", "e"] {
        let mut body = config_map(name, json!({}));
        body["metadata"]["labels"] = json!({"p": "q"});
        subject.post(MAPS, body).await.ok();
    }
    let mut all = Vec::new();
    let mut path = format!("{MAPS}?limit=2&labelSelector=p%3Dq");
    loop {
        let page = subject.get(&path).await.ok();
        assert!(names(&page).len() <= 2);
        all.extend(names(&page));
        match page["metadata"]["continue"].as_str().unwrap_or_default() {
            "" => break,
            token => path = format!("{MAPS}?limit=2&labelSelector=p%3Dq&continue={token}"),
        }
    }
    assert_eq!(all, ["a", "b", "c", "d", "e"]);
}

#[tokio::test]
async fn selectors_that_make_no_sense_are_refused() {
    let subject = Subject::new().await;
    let message =
        subject.get(&format!("{MAPS}?fieldSelector=spec.foo%3Dx")).await.refused(400, "BadRequest");
    assert!(message.contains("\"spec.foo\" is not a known field selector"), "{message}");
    let message =
        subject.get(&format!("{MAPS}?labelSelector=a%20b")).await.refused(400, "BadRequest");
    assert!(message.contains("unable to parse requirement"), "{message}");
}

// proves: API-1
#[tokio::test]
async fn a_position_that_is_forgotten_is_gone() {
    let subject = Subject::new().await;
    let Some(sandbox) = &subject.sandbox else {
        // A real server forgets only by compaction, minutes later.
        return;
    };
    let list = subject.get(MAPS).await.ok();
    for n in 0..1100 {
        let body = config_map(&format!("m{n}"), json!({}));
        subject.post(MAPS, body).await.ok();
    }
    assert!(sandbox.folder.path().exists());
    let path = format!("{MAPS}?watch=true&resourceVersion={}", revision(&list));
    let (change, status) = subject.watch(&path).await.next().await;
    assert_eq!(
        (change.as_str(), &status["reason"], &status["code"]),
        ("ERROR", &json!("Expired"), &json!(410))
    );
}
