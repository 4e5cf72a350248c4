//! # Schemas of custom kinds
//!
//! Job: what a definition's schema refuses, and in which words; nulls, defaults, versions that are going away.
//! May touch: the subject. Must not touch: its inside. Callers: cargo test.

use serde_json::{Value, json};

use super::subject::{APPLY, Answer, JSON_PATCH, MERGE, Subject};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// A kind `Thing` of a group of the test's own, in versions v1, v1beta1 and v1alpha1 of one schema.
pub(crate) struct Things {
    pub(crate) subject: Subject,
    group: String,
}

impl Things {
    /// Defines it by the schema of its spec.
    pub(crate) async fn new(spec: Value) -> Self {
        let subject = Subject::new().await;
        let group = format!("{}.example.com", subject.namespace);
        let condition = json!({"type": "object", "required": ["type"], "properties": {
            "type": {"type": "string"}, "status": {"type": "string", "enum": ["True", "False"]}}});
        let schema = json!({"openAPIV3Schema": {"type": "object", "required": ["spec"], "properties": {
            "spec": spec, "status": {"type": "object", "properties": {
                "n": {"type": "integer"},
                "conditions": {"type": "array", "items": condition,
                    "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}}}}}});
        let body = json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("things.{group}")},
            "spec": {"group": group, "scope": "Namespaced", "names": {"plural": "things", "kind": "Thing"},
                "versions": [
                    {"name": "v1", "served": true, "storage": true, "schema": schema, "subresources": {"status": {}}},
                    {"name": "v1beta1", "served": true, "storage": false, "deprecated": true, "schema": schema},
                    {"name": "v1alpha1", "served": true, "storage": false, "deprecated": true,
                        "deprecationWarning": "an old one", "schema": schema}]}});
        subject.post(DEFINITIONS, body).await.ok();
        let things = Self { subject, group };
        for version in ["v1", "v1beta1", "v1alpha1"] {
            things.subject.until(&things.path(version), |answer| answer.code == 200).await;
        }
        things
    }

    /// The path of its objects in a version.
    pub(crate) fn path(&self, version: &str) -> String {
        format!("/apis/{}/{version}/namespaces/NS/things", self.group)
    }

    /// An object `t`.
    pub(crate) fn thing(&self, version: &str, spec: Value) -> Value {
        json!({"apiVersion": format!("{}/{version}", self.group), "kind": "Thing", "metadata": {"name": "t"},
            "spec": spec})
    }

    async fn create(&self, spec: Value) -> Answer {
        self.subject.post(&self.path("v1"), self.thing("v1", spec)).await
    }

    async fn apply(&self, manager: &str, spec: Value) -> Answer {
        let path = format!("{}/t?fieldManager={manager}", self.path("v1"));
        self.subject.patch(&path, APPLY, self.thing("v1", spec)).await
    }

    pub(crate) async fn remove(self) {
        let path = format!("{DEFINITIONS}/things.{}", self.group);
        self.subject.delete(&path).await.ok();
    }
}

fn limits() -> Value {
    let pair = |rule: &str, value: Value| {
        let mut schema = json!({"type": "object", "properties": {"p": {"type": "string"}, "q": {"type": "string"}}});
        schema[rule] = value;
        schema
    };
    let either = json!([{"required": ["p"]}, {"required": ["q"]}]);
    json!({"type": "object", "required": ["port"], "properties": {
        "port": {"type": "integer", "minimum": 1, "maximum": 65535},
        "below": {"type": "integer", "maximum": 10, "exclusiveMaximum": true},
        "mode": {"type": "string", "enum": ["a", "b"], "default": "a"},
        "name": {"type": "string", "pattern": "^[a-z]+$", "minLength": 2, "maxLength": 5},
        "target": {"x-kubernetes-int-or-string": true},
        "flag": {"type": "boolean"},
        "plain": {"type": "string"},
        "maybe": {"type": "string", "nullable": true, "default": "x"},
        "deep": {"type": "object", "default": {}, "properties": {"n": {"type": "integer", "default": 7}}},
        "map": {"type": "object", "minProperties": 1, "maxProperties": 2,
            "additionalProperties": {"type": "string", "maxLength": 3}},
        "list": {"type": "array", "minItems": 1, "maxItems": 2, "items": {"type": "string"}},
        "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "whole": {"type": "array", "x-kubernetes-list-type": "atomic", "items": {"type": "string"}},
        "items": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name", "proto"],
            "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"},
                "proto": {"type": "string", "default": "TCP"}, "v": {"type": "integer"}}}},
        "one": pair("oneOf", either.clone()), "any": pair("anyOf", either.clone()), "all": pair("allOf", either),
        "none": pair("not", json!({"required": ["p"]})),
        "when": {"type": "string", "format": "date-time"},
    }})
}

// proves: API-5
#[tokio::test]
async fn every_limit_has_its_sentence() {
    let things = Things::new(limits()).await;
    let body = |field: &str, why: &str| format!("spec.{field} in body {why}");
    let typed = |field: &str, is: &str, should: &str| {
        format!(
            "Invalid value: \"{is}\": {}",
            body(field, &format!("must be of type {should}: \"{is}\""))
        )
    };
    let invalid = |value: &str, field: &str, why: &str| {
        format!("Invalid value: {value}: {}", body(field, why))
    };
    let nil = |field: &str, why: &str| format!("Invalid value: \"\": \"spec.{field}\" must {why}");
    let one = "validate one and only one schema (oneOf). Found";
    let missing = "Required value".to_owned();
    let cases: Vec<(Value, Vec<(&str, String)>)> = vec![
        (json!({}), vec![("port", missing.clone())]),
        (json!({"port": null}), vec![("port", missing.clone())]),
        (json!({"port": "x"}), vec![("port", typed("port", "string", "integer"))]),
        (json!({"port": 1.5}), vec![("port", typed("port", "number", "integer"))]),
        (
            json!({"port": 0}),
            vec![("port", invalid("0", "port", "should be greater than or equal to 1"))],
        ),
        (
            json!({"port": 70000}),
            vec![("port", invalid("70000", "port", "should be less than or equal to 65535"))],
        ),
        (json!({"below": 10}), vec![("below", invalid("10", "below", "should be less than 10"))]),
        (
            json!({"mode": "z"}),
            vec![("mode", "Unsupported value: \"z\": supported values: \"a\", \"b\"".into())],
        ),
        (
            json!({"mode": 1}),
            vec![
                ("mode", typed("mode", "integer", "string")),
                ("mode", "Unsupported value: 1: supported values: \"a\", \"b\"".into()),
            ],
        ),
        (
            json!({"name": "A1"}),
            vec![("name", invalid("\"A1\"", "name", "should match '^[a-z]+$'"))],
        ),
        (
            json!({"name": "a"}),
            vec![("name", invalid("\"a\"", "name", "should be at least 2 chars long"))],
        ),
        (
            json!({"name": "ABCDEF"}),
            vec![("name", "Too long: may not be more than 5 bytes".into())],
        ),
        (json!({"target": true}), vec![("target", typed("target", "boolean", "integer,string"))]),
        (json!({"flag": "true"}), vec![("flag", typed("flag", "string", "boolean"))]),
        (json!({"deep": {"n": "x"}}), vec![("deep.n", typed("deep.n", "string", "integer"))]),
        (
            json!({"map": {}}),
            vec![("map", invalid("0", "map", "should have at least 1 properties"))],
        ),
        (
            json!({"map": {"a": "1", "b": "2", "c": "3"}}),
            vec![("map", "Too many: 3: must have at most 2 items".into())],
        ),
        (
            json!({"map": {"a": "1234"}}),
            vec![("map.a", "Too long: may not be more than 3 bytes".into())],
        ),
        (json!({"list": []}), vec![("list", invalid("0", "list", "should have at least 1 items"))]),
        (
            json!({"list": ["a", "b", "c"]}),
            vec![("list", "Too many: 3: must have at most 2 items".into())],
        ),
        (json!({"list": ["a", 5]}), vec![("list[1]", typed("list[1]", "integer", "string"))]),
        (json!({"list": {}}), vec![("list", typed("list", "object", "array"))]),
        (json!({"set": ["a", "b", "a"]}), vec![("set[2]", "Duplicate value: \"a\"".into())]),
        (
            json!({"items": [{"name": "a"}, {"name": "a", "v": 1}]}),
            vec![("items[1]", "Duplicate value: {\"name\":\"a\",\"proto\":\"TCP\"}".into())],
        ),
        (json!({"items": [{"v": 1}]}), vec![("items[0].name", missing.clone())]),
        (
            json!({"one": {}}),
            vec![("<nil>", nil("one", &format!("{one} none valid"))), ("one.p", missing.clone())],
        ),
        (
            json!({"one": {"p": "1", "q": "2"}}),
            vec![("<nil>", nil("one", &format!("{one} 2 valid alternatives")))],
        ),
        (
            json!({"any": {}}),
            vec![
                ("<nil>", nil("any", "validate at least one schema (anyOf)")),
                ("any.p", missing.clone()),
            ],
        ),
        (
            json!({"all": {"p": "1"}}),
            vec![("<nil>", nil("all", "validate all the schemas (allOf)")), ("all.q", missing)],
        ),
        (
            json!({"none": {"p": "1"}}),
            vec![("<nil>", nil("none", "not validate the schema (not)"))],
        ),
        (
            json!({"when": "soon"}),
            vec![("when", typed("when", "x", "date-time").replace("\"x\"", "\"soon\""))],
        ),
    ];
    for (mut spec, expected) in cases {
        if spec.get("port").is_none() && spec != json!({}) {
            spec["port"] = 1.into();
        }
        let answer = things.create(spec.clone()).await;
        let mut expected: Vec<(String, String)> = expected
            .into_iter()
            .map(|(field, why)| match field {
                "<nil>" => (field.to_owned(), why),
                field => (format!("spec.{field}"), why),
            })
            .collect();
        expected.sort();
        assert_eq!((answer.code, answer.causes()), (422, expected), "{spec}");
    }
    things.remove().await;
}

#[tokio::test]
async fn one_refusal_names_all_breaches_on_every_way_in() {
    let things = Things::new(limits()).await;
    let good = json!({"port": 1});
    let bad = json!({"port": 0, "mode": "z", "list": ["a", "b", "c"]});
    let named = [
        ("spec.list", "FieldValueTooMany"),
        ("spec.mode", "FieldValueNotSupported"),
        ("spec.port", "FieldValueInvalid"),
    ];
    let check = |answer: Answer| {
        let causes = answer.body["details"]["causes"].as_array().expect("causes");
        let text =
            |cause: &Value, field: &str| cause[field].as_str().unwrap_or_default().to_owned();
        let mut causes: Vec<_> =
            causes.iter().map(|c| (text(c, "field"), text(c, "reason"))).collect();
        causes.sort();
        let named: Vec<_> = named.iter().map(|(f, r)| ((*f).to_owned(), (*r).to_owned())).collect();
        assert_eq!(causes, named);
        let start = format!("Thing.{} \"t\" is invalid: [", things.group);
        let message = answer.refused(422, "Invalid");
        assert!(message.starts_with(&start), "{message}");
    };
    check(things.create(bad.clone()).await);
    things.create(good).await.ok();
    let object = format!("{}/t", things.path("v1"));
    check(things.subject.patch(&object, MERGE, json!({"spec": bad})).await);
    check(things.apply("one&force=true", bad.clone()).await);
    let mut update = things.subject.get(&object).await.ok();
    update["spec"] = bad.clone();
    check(things.subject.put(&object, update).await);
    let patch = json!([{"op": "replace", "path": "/spec", "value": bad}]);
    check(things.subject.patch(&object, JSON_PATCH, patch).await);
    let answer = things.apply("one", json!({"port": "x"})).await;
    let message = answer.body["message"].as_str().unwrap_or_default();
    let expected = "Kind=Thing): .spec.port: expected numeric (int or float), got string";
    assert!(answer.code == 500 && message.ends_with(expected), "{answer:?}");
    things.remove().await;
}

#[tokio::test]
async fn nulls_count_as_absent_where_they_are_not_allowed() {
    let things = Things::new(limits()).await;
    let made = things
        .create(json!({"port": 1, "mode": null, "plain": null, "maybe": null, "deep": null}))
        .await;
    let expected = json!({"port": 1, "mode": "a", "maybe": null, "deep": {"n": 7}});
    assert_eq!(made.ok()["spec"], expected);
    things.remove().await;
}

#[tokio::test]
async fn what_is_no_object_of_the_kind_is_refused() {
    let things = Things::new(limits()).await;
    let thing = || things.thing("v1", json!({"port": 1}));
    let path = things.path("v1");
    let mut other = thing();
    other["kind"] = "Other".into();
    let message = things.subject.post(&path, other).await.refused(422, "Invalid");
    assert!(message.ends_with("kind: Invalid value: \"Other\": must be Thing"), "{message}");
    let mut none = thing();
    none.as_object_mut().expect("a map").remove("kind");
    let message = things.subject.post(&path, none).await.refused(400, "BadRequest");
    assert!(message.contains("(must be of type Thing): Object 'Kind' is missing in"), "{message}");
    let mut label = thing();
    label["metadata"]["labels"] = json!({"a": 1});
    let message = things.subject.post(&path, label).await.refused(400, "BadRequest");
    assert_eq!(
        message,
        "Thing in version \"v1\" cannot be handled as a Thing: json: cannot unmarshal number into Go struct field \
         ObjectMeta.labels of type string"
    );
    things.remove().await;
}

#[tokio::test]
async fn a_version_that_goes_away_says_so() {
    let things = Things::new(limits()).await;
    things.create(json!({"port": 1})).await.ok();
    let read = |version: &str| {
        let path = format!("{}/t", things.path(version));
        let subject = &things.subject;
        async move { subject.get(&path).await.warnings }
    };
    assert_eq!(read("v1").await, Vec::<String>::new());
    assert_eq!(read("v1alpha1").await, ["an old one"]);
    let group = &things.group;
    let expected = format!("{group}/v1beta1 Thing is deprecated; use {group}/v1 Thing");
    assert_eq!(read("v1beta1").await, [expected]);
    things.remove().await;
}

#[tokio::test]
async fn lists_merge_by_their_list_type() {
    let things = Things::new(limits()).await;
    let one = json!({"port": 1, "items": [{"name": "a", "v": 1}], "set": ["x", "y"], "whole": ["a"], "map": {"k": "v"}});
    things.apply("one", one).await.ok();
    let two = json!({"items": [{"name": "a", "proto": "UDP", "v": 2}], "set": ["y", "z"]});
    let merged = things.apply("two", two.clone()).await.ok();
    let items =
        json!([{"name": "a", "proto": "TCP", "v": 1}, {"name": "a", "proto": "UDP", "v": 2}]);
    assert_eq!(
        (&merged["spec"]["items"], &merged["spec"]["set"]),
        (&items, &json!(["x", "y", "z"]))
    );
    let bad = json!({"whole": ["b"], "items": [{"name": "a", "v": 3}], "map": {"k": "w"}});
    let message = things.apply("two", bad).await.refused(409, "Conflict");
    // Wholes before their parts.
    let expected = "Apply failed with 3 conflicts: conflicts with \"one\":\n- .spec.whole\n\
        - .spec.items[name=\"a\",proto=\"TCP\"].v\n- .spec.map.k";
    assert_eq!(message, expected);
    let less = things.apply("one", json!({"port": 1, "set": ["x"]})).await.ok();
    assert_eq!(less["spec"]["items"], two["items"]);
    assert_eq!(less["spec"]["set"], json!(["x", "y", "z"]));
    assert!(less["spec"].get("whole").is_none() && less["spec"].get("map").is_none(), "{less}");
    for (spec, why) in [
        (json!({"port": 1, "set": ["x", "x"]}), ".spec.set: duplicate entries for key [=\"x\"]"),
        (
            json!({"port": 1, "items": [{"name": "a"}, {"name": "a", "proto": "TCP"}]}),
            ".spec.items: duplicate entries for key [name=\"a\",proto=\"TCP\"]",
        ),
        (json!({"port": 1, "items": "x"}), ".spec.items: expected list, got &{x}"),
        (json!({"port": 1, "what": 1}), ".spec.what: field not declared in schema"),
    ] {
        let answer = things.apply("one", spec).await;
        let message = answer.body["message"].as_str().unwrap_or_default();
        assert!(answer.code == 500 && message.ends_with(why), "{answer:?}");
    }
    things.remove().await;
}

#[tokio::test]
async fn the_status_of_a_custom_kind_is_apart() {
    let things = Things::new(limits()).await;
    things.create(json!({"port": 1})).await.ok();
    let status = format!("{}/t/status", things.path("v1"));
    let bad = json!({"status": {"n": "x", "conditions": [{"status": "Maybe"}]}});
    let answer = things.subject.patch(&status, MERGE, bad).await;
    let fields: Vec<String> = answer.causes().into_iter().map(|(field, _)| field).collect();
    assert_eq!(fields, ["status.conditions[0].status", "status.conditions[0].type", "status.n"]);
    let apply = |manager: &str, kind: &str| {
        let path = format!("{status}?fieldManager={manager}");
        let mut body = things.thing("v1", json!({"port": 9}));
        body["status"] = json!({"conditions": [{"type": kind, "status": "True"}]});
        let subject = &things.subject;
        async move { subject.patch(&path, APPLY, body).await.ok() }
    };
    apply("one", "A").await;
    let both = apply("two", "B").await;
    assert_eq!(both["status"]["conditions"].as_array().map(Vec::len), Some(2));
    assert_eq!((&both["spec"]["port"], &both["metadata"]["generation"]), (&json!(1), &json!(1)));
    things.remove().await;
}
