//! # The mesh's own kinds
//!
//! Job: what the definitions of our charts refuse, and what they fill in. May touch: the subject.
//! Must not touch: its inside. Callers: cargo test.

use mesh_charts::{CRDS, Chart, MULTICLUSTER, Release};
use serde_json::{Value, json};

use super::subject::{APPLY, Answer, Subject};

const POLICY: &str = "policy.linkerd.io";
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// Gives the subject the charts' definitions; a real server may have them from another test.
async fn installed(chart: &Chart) -> Subject {
    let subject = Subject::new().await;
    let mut values = chart.defaults().expect("values");
    values["identityTrustAnchorsPEM"] = "none that a definition would need".into();
    let sign = |_: &str, _: &[String], _: u32| Err("definitions need no certificate".to_owned());
    let objects = chart.render(Release::cli("linkerd"), &values, &sign).expect("objects");
    for object in objects.into_iter().filter(|o| o["kind"] == "CustomResourceDefinition") {
        let name = object["metadata"]["name"].as_str().expect("a name").to_owned();
        let answer = subject
            .patch(&format!("{DEFINITIONS}/{name}?fieldManager=charts"), APPLY, object)
            .await;
        let spec = answer.ok()["spec"].clone();
        for version in spec["versions"].as_array().expect("versions") {
            let (group, version) = (spec["group"].as_str(), version["name"].as_str());
            let plural = spec["names"]["plural"].as_str().expect("a plural");
            let path = format!(
                "/apis/{}/{}/{plural}",
                group.expect("a group"),
                version.expect("a version")
            );
            subject.until(&path, |answer| answer.code == 200).await;
        }
    }
    subject
}

async fn create(
    subject: &Subject,
    group: &str,
    version: &str,
    plural: &str,
    kind: &str,
    spec: Value,
) -> Answer {
    let path = format!("/apis/{group}/{version}/namespaces/NS/{plural}?dryRun=All");
    let body = json!({"apiVersion": format!("{group}/{version}"), "kind": kind, "metadata": {"name": "x"}, "spec": spec});
    subject.post(&path, body).await
}

/// The causes as `field: message`.
fn causes(answer: &Answer) -> Vec<String> {
    assert_eq!(answer.code, 422, "{answer:?}");
    answer.causes().iter().map(|(field, why)| format!("{field}: {why}")).collect()
}

#[tokio::test]
async fn bad_policy_is_refused_with_its_reason() {
    let subject = installed(&CRDS).await;
    let server = |spec: Value| create(&subject, POLICY, "v1beta3", "servers", "Server", spec);
    let made = server(json!({"podSelector": {}, "port": "http"})).await.ok();
    let expected = json!({"podSelector": {}, "port": "http", "proxyProtocol": "unknown", "accessPolicy": "deny"});
    assert_eq!(made["spec"], expected);
    assert_eq!(causes(&server(json!({"podSelector": {}})).await), ["spec.port: Required value"]);
    let one =
        "<nil>: Invalid value: \"\": \"spec\" must validate one and only one schema (oneOf). Found";
    let both = json!({"podSelector": {}, "externalWorkloadSelector": {}, "port": 1});
    assert_eq!(causes(&server(both).await), [format!("{one} 2 valid alternatives")]);
    let neither = causes(&server(json!({"port": 1})).await);
    assert_eq!(neither, [format!("{one} none valid"), "spec.podSelector: Required value".into()]);
    let bad = json!({"podSelector": {"matchExpressions": [{"key": "a"}]}, "port": true, "proxyProtocol": "quic"});
    assert_eq!(
        causes(&server(bad).await),
        [
            "spec.podSelector.matchExpressions[0].operator: Required value",
            "spec.port: Invalid value: \"boolean\": spec.port in body must be of type integer,string: \"boolean\"",
            "spec.proxyProtocol: Unsupported value: \"quic\": supported values: \"unknown\", \"HTTP/1\", \"HTTP/2\", \"gRPC\", \"opaque\", \"TLS\"",
        ]
    );
    let old = create(
        &subject,
        POLICY,
        "v1beta1",
        "servers",
        "Server",
        json!({"podSelector": {}, "port": 1}),
    )
    .await;
    assert_eq!(
        old.warnings,
        ["policy.linkerd.io/v1beta1 Server is deprecated; use policy.linkerd.io/v1beta3"]
    );
    let identities = create(
        &subject,
        POLICY,
        "v1alpha1",
        "meshtlsauthentications",
        "MeshTLSAuthentication",
        json!({}),
    )
    .await;
    assert_eq!(
        causes(&identities),
        [format!("{one} none valid"), "spec.identities: Required value".into()]
    );
}

#[tokio::test]
async fn bad_routes_are_refused_with_their_reasons() {
    let subject = installed(&CRDS).await;
    let route = |spec: Value| create(&subject, POLICY, "v1beta3", "httproutes", "HTTPRoute", spec);
    let rule = |rule: Value| json!({"rules": [rule]});
    let filters = json!([{"type": "Nope"}, {"type": "RequestRedirect", "requestRedirect": {"scheme": "ftp", "port": 99999}}]);
    assert_eq!(
        causes(&route(rule(json!({"filters": filters}))).await),
        [
            "spec.rules[0].filters[0].type: Unsupported value: \"Nope\": supported values: \"RequestHeaderModifier\", \"ResponseHeaderModifier\", \"RequestRedirect\"",
            "spec.rules[0].filters[1].requestRedirect.port: Invalid value: 99999: spec.rules[0].filters[1].requestRedirect.port in body should be less than or equal to 65535",
            "spec.rules[0].filters[1].requestRedirect.scheme: Unsupported value: \"ftp\": supported values: \"http\", \"https\"",
        ]
    );
    let path = json!({"matches": [{"path": {"type": "X", "value": "y".repeat(2000)}}]});
    assert_eq!(
        causes(&route(rule(path)).await),
        [
            "spec.rules[0].matches[0].path.type: Unsupported value: \"X\": supported values: \"Exact\", \"PathPrefix\", \"RegularExpression\"",
            "spec.rules[0].matches[0].path.value: Too long: may not be more than 1024 bytes",
        ]
    );
    let backends = json!({"backendRefs": [{"name": "x", "weight": -1}, {"weight": "1"}]});
    assert_eq!(
        causes(&route(rule(backends)).await),
        [
            "spec.rules[0].backendRefs[0].weight: Invalid value: -1: spec.rules[0].backendRefs[0].weight in body should be greater than or equal to 0",
            "spec.rules[0].backendRefs[1].name: Required value",
            "spec.rules[0].backendRefs[1].weight: Invalid value: \"string\": spec.rules[0].backendRefs[1].weight in body must be of type integer: \"string\"",
        ]
    );
}

#[tokio::test]
async fn bad_links_are_refused_with_their_reasons() {
    let subject = installed(&MULTICLUSTER).await;
    let link = |spec: Value| {
        create(&subject, "multicluster.linkerd.io", "v1alpha3", "links", "Link", spec)
    };
    let bad =
        json!({"targetClusterName": 1, "probeSpec": {"port": 1}, "selector": {"matchLabels": 1}});
    let told = causes(&link(bad).await);
    for part in [
        "spec.targetClusterName: Invalid value: \"integer\": spec.targetClusterName in body must be of type string: \"integer\"",
        "spec.probeSpec.port: Invalid value: \"integer\": spec.probeSpec.port in body must be of type string: \"integer\"",
        "spec.selector.matchLabels: Invalid value: \"integer\": spec.selector.matchLabels in body must be of type object: \"integer\"",
    ] {
        assert!(told.iter().any(|line| line == part), "{part}\n{told:#?}");
    }
}
