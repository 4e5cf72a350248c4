//! # Webhooks that fail, and when they are asked
//!
//! Job: failure policies for every way to fail, words of refusals, selectors, versions, reinvocation, dry runs.
//! May touch: the subject, a webhook on loopback. Must not touch: its inside. Callers: cargo test.

use std::net::SocketAddr;

use ::base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::{
    admission::{CONFIGURATIONS, webhook},
    schemas::Things,
    subject::{Answer, MERGE, Subject, config_map},
};

const MAPS: &str = "/api/v1/namespaces/NS/configmaps";

/// Webhooks of one configuration; each is asked about objects whose label `hook` is its name.
struct Hooks<'a> {
    subject: &'a Subject,
    path: String,
    addr: SocketAddr,
}

impl<'a> Hooks<'a> {
    /// Registers them and waits until the last is asked, which has to refuse.
    async fn new(
        subject: &'a Subject,
        kind: &str,
        answer: fn(&Value) -> Value,
        hooks: &[(&str, Value)],
    ) -> Self {
        let (addr, ca) = webhook("127.0.0.1", answer).await;
        let hook = |(name, more): &(&str, Value)| {
            let path = name.trim_end_matches("-ignored");
            let mut hook = json!({
                "name": format!("{name}.example.com"), "admissionReviewVersions": ["v1"], "sideEffects": "None",
                "timeoutSeconds": 1, "objectSelector": {"matchLabels": {"hook": name}},
                "failurePolicy": if name.ends_with("-ignored") { "Ignore" } else { "Fail" },
                "clientConfig": {"url": format!("https://{addr}/{path}"), "caBundle": STANDARD.encode(&ca)},
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": subject.namespace}},
                "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"],
                    "operations": ["CREATE", "UPDATE"]}]});
            for (field, value) in more.as_object().into_iter().flatten() {
                hook[field] = value.clone();
            }
            hook
        };
        let all: Vec<Value> = hooks.iter().map(hook).collect();
        let plural = format!("{CONFIGURATIONS}/{}webhookconfigurations", kind.to_lowercase());
        let name = format!("{}-failures", subject.namespace);
        let body = json!({"apiVersion": "admissionregistration.k8s.io/v1",
            "kind": format!("{kind}WebhookConfiguration"), "metadata": {"name": name}, "webhooks": all});
        subject.post(&plural, body).await.ok();
        let own = Self { subject, path: format!("{plural}/{name}"), addr };
        let (last, _) = hooks.last().expect("hooks");
        // A real server learns of it a moment later.
        for _ in 0..400 {
            if own.create("canary", last, "?dryRun=All").await.code >= 400 {
                return own;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        panic!("the webhooks were never asked");
    }

    async fn create(&self, name: &str, hook: &str, more: &str) -> Answer {
        let mut body = config_map(name, json!({"k": "v"}));
        body["metadata"]["labels"] = json!({"hook": hook});
        self.subject.post(&format!("{MAPS}{more}"), body).await
    }

    async fn remove(self) {
        self.subject.delete(&self.path).await.ok();
    }
}

fn patch(patch: &Value) -> Value {
    json!({"allowed": true, "patchType": "JSONPatch", "patch": STANDARD.encode(patch.to_string())})
}

/// Fails in the way that the path names.
fn fail(request: &Value) -> Value {
    let replace = |path: &str| json!([{"op": "replace", "path": path, "value": "x"}]);
    match request["path"].as_str().unwrap_or_default() {
        "/slow" => json!({"hang": true}),
        "/broken" => json!({"http": 500, "raw": "{}"}),
        "/away" => json!({"http": 302, "raw": "{}"}),
        "/empty" => json!({"raw": "{}"}),
        "/other" => json!({"uid": "other", "allowed": true}),
        "/untyped" => json!({"allowed": true, "patch": STANDARD.encode("[]")}),
        "/garbage" => {
            json!({"allowed": true, "patchType": "JSONPatch", "patch": STANDARD.encode("hello")})
        }
        "/misfit" => patch(&replace("/data/nope/deep")),
        "/wrong" => patch(&json!([{"op": "add", "path": "/data/n", "value": 5}])),
        _ => json!({"allowed": false}),
    }
}

#[tokio::test]
async fn every_failure_has_its_words_and_only_failures_to_call_can_be_ignored() {
    let subject = Subject::new().await;
    let nobody = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("an address")
    };
    let away = |_| json!({"clientConfig": {"url": format!("https://{nobody}/gone")}});
    let lost = json!({"clientConfig": {"service": {"name": "nope", "namespace": subject.namespace, "path": "/x"}}});
    let none = json!({});
    let hooks = Hooks::new(
        &subject,
        "Mutating",
        fail,
        &[
            ("slow", none.clone()),
            ("slow-ignored", none.clone()),
            ("broken", none.clone()),
            ("broken-ignored", none.clone()),
            ("away", none.clone()),
            ("away-ignored", none.clone()),
            ("empty", none.clone()),
            ("empty-ignored", none.clone()),
            ("other", none.clone()),
            ("other-ignored", none.clone()),
            ("untyped", none.clone()),
            ("untyped-ignored", none.clone()),
            ("garbage", none.clone()),
            ("garbage-ignored", none.clone()),
            ("gone", away(())),
            ("gone-ignored", away(())),
            ("lost", lost.clone()),
            ("lost-ignored", lost),
            ("misfit", none.clone()),
            ("misfit-ignored", none.clone()),
            ("wrong", none.clone()),
            ("wrong-ignored", none.clone()),
            ("deny-ignored", none),
        ],
    )
    .await;
    let addr = hooks.addr;
    let post = |what: &str| format!("failed to call webhook: Post \"https://{what}");
    let invalid = "received invalid webhook response: ";
    let cases = [
        ("slow", post(&format!("{addr}/slow?timeout=1s\": context deadline exceeded"))),
        ("broken", "failed to call webhook: an error on the server (\"unknown\") has prevented the request from succeeding".into()),
        ("away", "failed to call webhook: the server responded with the status code 302 but did not return more information".into()),
        ("empty", format!("{invalid}webhook response was absent")),
        ("other", format!("{invalid}expected response.uid=")),
        ("untyped", format!("{invalid}webhook returned response.patch but not response.patchType")),
        ("garbage", "received undecodable patch in webhook response: ".into()),
        ("gone", post(&format!("{nobody}/gone?timeout=1s\": dial tcp {nobody}: connect: connection refused"))),
        ("lost", post(&format!("nope.{}.svc:443/x?timeout=1s\": service \"nope\" not found", subject.namespace))),
    ];
    for (name, why) in cases {
        let message = hooks.create(name, name, "").await.refused(500, "InternalError");
        let start = format!(
            "Internal error occurred: failed calling webhook \"{name}.example.com\": {why}"
        );
        assert!(message.starts_with(&start), "{message}\n{start}");
        hooks.create(&format!("{name}-ignored"), &format!("{name}-ignored"), "").await.ok();
    }
    // A patch that does not fit is a failure of its own, and so is a refusal.
    for name in ["misfit", "misfit-ignored", "wrong", "wrong-ignored"] {
        let message = hooks.create(name, name, "").await.refused(500, "InternalError");
        assert!(!message.contains("failed calling webhook"), "{message}");
    }
    let message = hooks.create("deny", "deny-ignored", "").await;
    let expected =
        "admission webhook \"deny-ignored.example.com\" denied the request without explanation";
    assert_eq!((message.code, &message.body["message"]), (400, &json!(expected)));
    hooks.remove().await;
}

#[tokio::test]
async fn a_refusal_keeps_the_words_of_the_webhook() {
    let subject = Subject::new().await;
    let hooks = Hooks::new(&subject, "Validating", |request| match request["path"].as_str() {
        Some("/reason") => json!({"allowed": false, "status": {"reason": "BadStuff"}}),
        Some("/low") => json!({"allowed": false, "status": {"code": 200, "message": "x"}}),
        Some("/full") => json!({"allowed": false, "status": {"code": 422, "message": "x", "reason": "Invalid",
            "details": {"causes": [{"field": "f", "message": "m"}]}}}),
        Some("/patch") => patch(&json!([{"op": "add", "path": "/data/z", "value": "z"}])),
        Some("/warn") => json!({"allowed": true, "warnings": ["one", "two \"quoted\""]}),
        _ => json!({"allowed": false, "status": {"code": 403, "message": "no", "reason": "Forbidden"}}),
    }, &[("reason", json!({})), ("low", json!({})), ("full", json!({})), ("patch", json!({})), ("warn", json!({})), ("deny", json!({}))])
    .await;
    let words = |name: &str, why: &str| {
        format!("admission webhook \"{name}.example.com\" denied the request: {why}")
    };
    for (name, code, reason, why) in [
        ("reason", 400, json!("BadStuff"), "BadStuff"),
        ("low", 400, Value::Null, "x"),
        ("full", 422, json!("Invalid"), "x"),
        ("deny", 403, json!("Forbidden"), "no"),
    ] {
        let answer = hooks.create(name, name, "").await;
        let got = (answer.code, &answer.body["reason"], &answer.body["message"]);
        assert_eq!(got, (code, &reason, &json!(words(name, why))));
        assert_eq!(answer.body["details"]["causes"][0]["field"].is_string(), name == "full");
    }
    let message = hooks.create("patch", "patch", "").await.refused(500, "InternalError");
    assert!(
        message.ends_with(
            "received invalid webhook response: validating webhook may not return response.patch"
        ),
        "{message}"
    );
    let answer = hooks.create("warn", "warn", "").await;
    assert_eq!(answer.warnings, ["one", "two \"quoted\""]);
    hooks.remove().await;
}

/// Appends the webhook's name to `data.seen`.
fn append(request: &Value) -> Value {
    let name = request["path"].as_str().unwrap_or_default();
    if name == "/deny" {
        return json!({"allowed": false});
    }
    let seen = request["object"]["data"]["seen"].as_str().unwrap_or_default();
    let seen = format!("{seen}{}", name.trim_start_matches(['/', '1', '2', '3']));
    patch(&json!([{"op": "add", "path": "/data/seen", "value": seen}]))
}

#[tokio::test]
async fn a_webhook_that_wishes_is_asked_again_when_a_later_one_changed_the_object() {
    let subject = Subject::new().await;
    let hook = |test: &str, again: bool| {
        json!({"objectSelector": {"matchLabels": {"hook": test}},
            "reinvocationPolicy": if again { "IfNeeded" } else { "Never" }})
    };
    let hooks = Hooks::new(
        &subject,
        "Mutating",
        append,
        &[
            ("1a", hook("both", true)),
            ("1b", hook("both", true)),
            ("2a", hook("first", true)),
            ("2b", hook("first", false)),
            ("3a", hook("last", false)),
            ("3b", hook("last", true)),
            ("deny", json!({})),
        ],
    )
    .await;
    for (test, seen) in [("both", "abab"), ("first", "aba"), ("last", "ab")] {
        let made = hooks.create(test, test, "").await.ok();
        assert_eq!(made["data"]["seen"], seen, "{test}");
    }
    // An update that takes the label away concerns the webhook of the old object.
    let path = format!("{MAPS}/last");
    let patch = json!({"metadata": {"labels": {"hook": null}}});
    let updated = subject.patch(&path, MERGE, patch).await.ok();
    assert_eq!(updated["data"]["seen"], "abab");
    let updated = subject.patch(&path, MERGE, json!({"data": {"x": "y"}})).await.ok();
    assert_eq!(updated["data"]["seen"], "abab");
    let tried = hooks.create("tried", "last", "?dryRun=All").await.ok();
    assert_eq!(tried["data"]["seen"], "ab");
    hooks.remove().await;
}

#[tokio::test]
async fn a_rule_names_versions_and_parts() {
    let things =
        Things::new(json!({"type": "object", "properties": {"port": {"type": "integer"}}})).await;
    let group =
        things.thing("v1", json!({}))["apiVersion"].as_str().expect("a version").replace("/v1", "");
    let rules = |version: &str, resource: &str| {
        json!([{"apiGroups": [group], "apiVersions": [version], "resources": [resource],
            "operations": ["CREATE", "UPDATE"]}])
    };
    let hooks = Hooks::new(
        &things.subject,
        "Validating",
        |request| {
            let told = json!([
                request["resource"]["version"],
                request["requestResource"]["version"],
                request["object"]["apiVersion"],
                request["subResource"]
            ]);
            json!({"allowed": false, "status": {"message": told.to_string()}})
        },
        &[
            ("exact", json!({"rules": rules("v1", "things"), "matchPolicy": "Exact"})),
            ("equivalent", json!({"rules": rules("v1", "things"), "matchPolicy": "Equivalent"})),
            ("status", json!({"rules": rules("v1", "things/status")})),
            ("deny", json!({})),
        ],
    )
    .await;
    let create = |version: &str, hook: &str, name: &str| {
        let mut body = things.thing(version, json!({"port": 1}));
        body["metadata"]["labels"] = json!({"hook": hook});
        body["metadata"]["name"] = name.into();
        let path = things.path(version);
        let subject = &things.subject;
        async move { subject.post(&path, body).await }
    };
    let told = |answer: &Answer| -> Value {
        let message = answer.body["message"].as_str().unwrap_or_default();
        let told = message.split_once("denied the request: ").map_or("null", |(_, told)| told);
        serde_json::from_str(told).expect("JSON")
    };
    let converted = format!("{group}/v1");
    create("v1alpha1", "exact", "a").await.ok();
    assert_eq!(told(&create("v1", "exact", "b").await), json!(["v1", "v1", converted, null]));
    let other = create("v1alpha1", "equivalent", "b").await;
    assert_eq!(told(&other), json!(["v1", "v1alpha1", converted, null]));
    create("v1", "status", "c").await.ok();
    let path = format!("{}/c", things.path("v1"));
    things.subject.patch(&path, MERGE, json!({"spec": {"port": 2}})).await.ok();
    let patch = json!({"status": {"n": 1}});
    let status = things.subject.patch(&format!("{path}/status"), MERGE, patch).await;
    assert_eq!(told(&status), json!(["v1", "v1", converted, "status"]));
    hooks.remove().await;
    things.remove().await;
}

#[tokio::test]
async fn configurations_are_checked() {
    let subject = Subject::new().await;
    let hook = json!({"name": "a.example.com", "admissionReviewVersions": ["v1"], "sideEffects": "None",
        "clientConfig": {"url": "https://127.0.0.1/x"}});
    for (field, value, why) in [
        (
            "name",
            json!("x"),
            "webhooks[0].name: Invalid value: \"x\": should be a domain with at least three segments separated by dots",
        ),
        (
            "sideEffects",
            json!("Some"),
            "webhooks[0].sideEffects: Unsupported value: \"Some\": supported values: \"None\", \"NoneOnDryRun\"",
        ),
        (
            "admissionReviewVersions",
            json!(["v9"]),
            "webhooks[0].admissionReviewVersions: Invalid value: [\"v9\"]: must include at least one of v1, v1beta1",
        ),
        (
            "timeoutSeconds",
            json!(31),
            "webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds",
        ),
        (
            "failurePolicy",
            json!("Foo"),
            "webhooks[0].failurePolicy: Unsupported value: \"Foo\": supported values: \"Fail\", \"Ignore\"",
        ),
    ] {
        let mut hook = hook.clone();
        hook[field] = value;
        let body = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": "checked"}, "webhooks": [hook]});
        let path = format!("{CONFIGURATIONS}/validatingwebhookconfigurations?dryRun=All");
        let message = subject.post(&path, body).await.refused(422, "Invalid");
        assert!(message.contains(why), "{message}");
    }
}
