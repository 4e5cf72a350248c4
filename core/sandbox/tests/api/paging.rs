//! # Pages, positions and many watchers
//!
//! Job: a list in pages is one state; positions that are gone or not there yet; watches under load.
//! May touch: the subject. Must not touch: its inside. Callers: cargo test.

use futures::future::join_all;
use serde_json::{Value, json};

use super::{
    schemas::Things,
    subject::{MERGE, Subject, config_map},
};

const MAPS: &str = "/api/v1/namespaces/NS/configmaps";

fn names(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().expect("items");
    items.iter().map(|i| i["metadata"]["name"].as_str().expect("a name").to_owned()).collect()
}

fn revision(value: &Value) -> &str {
    value["metadata"]["resourceVersion"].as_str().expect("a revision")
}

/// Makes ConfigMaps with the label `l`.
async fn fill(subject: &Subject, names: &[&str]) {
    for name in names {
        let mut body = config_map(name, json!({}));
        body["metadata"]["labels"] = json!({"l": "x"});
        subject.post(MAPS, body).await.ok();
    }
}

// proves: API-1
#[tokio::test]
async fn all_pages_of_a_list_are_of_one_state() {
    let subject = Subject::new().await;
    fill(&subject, &["a", "b", "c", "d", "e"]).await;
    let path = format!("{MAPS}?labelSelector=l&limit=2");
    let first = subject.get(&path).await.ok();
    assert!(first["metadata"].get("remainingItemCount").is_none(), "unknown with a selector");
    subject.delete(&format!("{MAPS}/a")).await.ok();
    subject.delete(&format!("{MAPS}/c")).await.ok();
    fill(&subject, &["cc"]).await;
    subject.patch(&format!("{MAPS}/d"), MERGE, json!({"data": {"k": "v"}})).await.ok();
    let mut seen = names(&first);
    let mut page = first.clone();
    while let Some(token) = page["metadata"]["continue"].as_str() {
        page = subject.get(&format!("{path}&continue={token}")).await.ok();
        assert_eq!(revision(&page), revision(&first));
        let changed =
            page["items"].as_array().expect("items").iter().any(|i| i["data"]["k"] == "v");
        assert!(!changed, "{page}");
        seen.extend(names(&page));
    }
    assert_eq!(seen, ["a", "b", "c", "d", "e"]);
    // So a watch from there misses nothing.
    let watch = format!("{MAPS}?watch=1&labelSelector=l&resourceVersion={}", revision(&first));
    let mut watch = subject.watch(&watch).await;
    for (change, name) in [("DELETED", "a"), ("DELETED", "c"), ("ADDED", "cc"), ("MODIFIED", "d")] {
        assert_eq!(watch.next_name().await, (change.into(), name.into()));
    }
    let exact = format!(
        "{MAPS}?labelSelector=l&resourceVersionMatch=Exact&resourceVersion={}",
        revision(&first)
    );
    let exact = subject.get(&exact).await.ok();
    assert_eq!((names(&exact).len(), revision(&exact)), (5, revision(&first)));
}

#[tokio::test]
async fn the_rest_of_a_list_is_counted_where_nothing_is_selected() {
    let subject = Subject::new().await;
    let secrets = "/api/v1/namespaces/NS/secrets";
    for name in ["a", "b", "c"] {
        subject.post(secrets, json!({"metadata": {"name": name}})).await.ok();
    }
    let page = subject.get(&format!("{secrets}?limit=1")).await.ok();
    assert_eq!(page["metadata"]["remainingItemCount"], 2);
}

// proves: API-1
#[tokio::test]
async fn a_position_before_the_kind_is_expired() {
    let things =
        Things::new(json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})).await;
    let path = things.path("v1");
    things.subject.post(&path, things.thing("v1", json!({}))).await.ok();
    let watch = format!("{path}?watch=1&resourceVersion=1&allowWatchBookmarks=true");
    // The answer is a stream all the same; the refusal is its only event.
    let mut watch = things.subject.watch(&watch).await;
    let (change, status) = watch.next().await;
    assert_eq!((change.as_str(), &status["kind"]), ("ERROR", &json!("Status")));
    assert_eq!((&status["code"], &status["reason"]), (&json!(410), &json!("Expired")));
    let message = status["message"].as_str().unwrap_or_default();
    assert!(message.starts_with("too old resource version: 1 ("), "{message}");
    assert!(watch.ended().await);
    things.remove().await;
}

#[tokio::test]
async fn a_page_of_a_forgotten_state_says_how_to_go_on() {
    let subject = Subject::new().await;
    if subject.sandbox.is_none() {
        // A real server forgets only by compaction, minutes later.
        return;
    }
    fill(&subject, &["a", "b", "c"]).await;
    let path = format!("{MAPS}?labelSelector=l&limit=2");
    let first = subject.get(&path).await.ok();
    for n in 0..1100 {
        let patch = json!({"data": {"n": n.to_string()}});
        subject.patch(&format!("{MAPS}/a"), MERGE, patch).await.ok();
    }
    let token = first["metadata"]["continue"].as_str().expect("a token");
    let answer = subject.get(&format!("{path}&continue={token}")).await;
    let resume = answer.body["metadata"]["continue"].as_str().expect("a token").to_owned();
    let message = answer.refused(410, "Expired");
    assert!(message.starts_with("The provided continue parameter is too old"), "{message}");
    let rest = subject.get(&format!("{path}&continue={resume}")).await.ok();
    assert_eq!(names(&rest), ["c"]);
    let exact = format!("{MAPS}?resourceVersionMatch=Exact&resourceVersion={}", revision(&first));
    subject.get(&exact).await.refused(410, "Expired");
}

#[tokio::test]
async fn positions_and_their_rules_are_checked() {
    let subject = Subject::new().await;
    fill(&subject, &["a", "b", "c"]).await;
    let page = subject.get(&format!("{MAPS}?labelSelector=l&limit=1")).await.ok();
    let (token, at) = (page["metadata"]["continue"].as_str().expect("a token"), revision(&page));
    let invalid: [(String, &str); 7] = [
        (
            "resourceVersionMatch=Exact".into(),
            "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
        ),
        (
            "resourceVersionMatch=Exact&resourceVersion=0".into(),
            "resourceVersionMatch: Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
        ),
        (
            format!("resourceVersionMatch=Foo&resourceVersion={at}"),
            "resourceVersionMatch: Unsupported value: \"Foo\": supported values: \"Exact\", \"NotOlderThan\", \"\"",
        ),
        (
            format!("resourceVersionMatch=NotOlderThan&resourceVersion={at}&continue={token}"),
            "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden when continue is provided",
        ),
        (
            "sendInitialEvents=true".into(),
            "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list",
        ),
        (
            format!("watch=1&resourceVersionMatch=NotOlderThan&resourceVersion={at}"),
            "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        ),
        (
            "watch=1&sendInitialEvents=true".into(),
            "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        ),
    ];
    for (query, why) in invalid {
        let message = subject.get(&format!("{MAPS}?{query}")).await.refused(422, "Invalid");
        assert_eq!(message, format!("ListOptions.meta.k8s.io \"\" is invalid: {why}"));
    }
    let both = format!("{MAPS}?limit=1&continue={token}&resourceVersion={at}");
    let message = subject.get(&both).await.refused(400, "BadRequest");
    assert_eq!(message, "specifying resource version is not allowed when using continue");
    let message =
        subject.get(&format!("{MAPS}?resourceVersion=abc")).await.refused(400, "BadRequest");
    assert_eq!(
        message,
        "invalid resource version: resourceVersion: Invalid value: \"abc\": strconv.ParseUint: parsing \"abc\": invalid syntax"
    );
}

// proves: API-1
#[tokio::test]
async fn many_watchers_all_see_every_change_in_order() {
    let subject = Subject::new().await;
    let list = subject.get(MAPS).await.ok();
    let initial =
        "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let from = format!("{MAPS}?watch=1&labelSelector=l&resourceVersion={}", revision(&list));
    let stream = format!("{MAPS}?watch=1&labelSelector=l&{initial}");
    let mut watches = Vec::new();
    for n in 0..40 {
        watches.push((n % 2 == 1, subject.watch(if n % 2 == 0 { &from } else { &stream }).await));
    }
    let expected: Vec<String> = (0..100).map(|n| format!("m{n:03}")).collect();
    let writers = expected.chunks(25).map(|chunk| {
        let names: Vec<&str> = chunk.iter().map(String::as_str).collect();
        let subject = &subject;
        async move { fill(subject, &names).await }
    });
    join_all(writers).await;
    let read = watches.into_iter().map(|(streamed, mut watch)| async move {
        let (mut seen, mut last, mut bookmarks) = (Vec::new(), 0, 0);
        while seen.len() < 100 || (streamed && bookmarks == 0) {
            let (change, object) = watch.next().await;
            if change == "BOOKMARK" {
                bookmarks += 1;
                continue;
            }
            assert_eq!(change, "ADDED");
            let at: u64 = revision(&object).parse().expect("a number");
            // What is there when a stream begins comes in the order of names.
            assert!(at > last || (streamed && bookmarks == 0), "{at} after {last}");
            last = at;
            seen.push(object["metadata"]["name"].as_str().expect("a name").to_owned());
        }
        (streamed, seen)
    });
    let all = join_all(read).await;
    for (streamed, seen) in &all {
        assert!(*streamed || *seen == all[0].1, "one order for all");
        let mut sorted = seen.clone();
        sorted.sort();
        assert_eq!(sorted, expected);
    }
}
