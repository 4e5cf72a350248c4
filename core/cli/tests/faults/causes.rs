//! `mc check` names the cause of what is wrong, and is green once it is mended.

use crate::{
    harness::{Cluster, demo, eventually, mesh, try_mesh},
    stage::{EXTENSION, Stage, ready, scale},
};
use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use mesh_k8s::link::Link;
use serde_json::json;

/// What `mc check` says in west while something is wrong.
fn complaint(west: &Cluster) -> String {
    let (ok, out, err) = try_mesh(&["mc", "check", "--wait", "1s"], &west.kubeconfig);
    assert!(!ok, "mc check is green:\n{out}{err}");
    let problems: Vec<&str> = out.lines().filter(|l| !l.starts_with('√')).collect();
    println!("{}\n", problems.join("\n"));
    out
}

fn green(west: &Cluster) {
    let (ok, out, err) = try_mesh(&["mc", "check", "--wait", "30s"], &west.kubeconfig);
    assert!(ok && !out.contains('‼'), "{out}{err}");
}

fn secrets(west: &Cluster) -> Api<Secret> {
    Api::namespaced(west.client.clone(), EXTENSION)
}

async fn put_kubeconfig(west: &Cluster, text: &str) {
    let data = json!({ "data": { "kubeconfig": ByteString(text.as_bytes().to_vec()) } });
    secrets(west)
        .patch("cluster-credentials-east", &PatchParams::default(), &Patch::Merge(data))
        .await
        .unwrap();
}

/// The kubeconfig with the value of each line that starts with `key` replaced.
fn with_value(text: &str, key: &str, value: &str) -> String {
    let mut found = false;
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines() {
        match line.split_once(key) {
            Some((before, _)) if before.chars().all(|c| c == ' ' || c == '-') => {
                found = true;
                lines.push(format!("{before}{key} {value}"));
            }
            _ => lines.push(line.to_owned()),
        }
    }
    assert!(found, "no {key} in:\n{text}");
    lines.join("\n") + "\n"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_names_bad_credentials_and_an_unreachable_api() {
    let stage = Stage::enter().await;
    let secret = secrets(&stage.west).get("cluster-credentials-east").await.unwrap();
    let good = String::from_utf8(secret.data.unwrap()["kubeconfig"].0.clone()).unwrap();
    put_kubeconfig(&stage.west, &with_value(&good, "token:", "not-a-token")).await;
    let out = complaint(&stage.west);
    assert!(out.contains("the credentials of cluster [east] are refused"), "{out}");
    assert!(out.contains("east: unable to fetch anchors: Unauthorized"), "{out}");
    assert!(!out.contains("--identity-trust-anchors-file"), "a remedy for something else: {out}");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let closed = format!("https://127.0.0.1:{port}");
    put_kubeconfig(&stage.west, &with_value(&good, "server:", &closed)).await;
    let out = complaint(&stage.west);
    assert!(out.contains("failed to connect to API for cluster: [east]"), "{out}");
    assert!(out.contains(&closed), "the address: {out}");
    assert!(out.contains("refused"), "{out}");
    put_kubeconfig(&stage.west, &good).await;
    stage.well().await;
    green(&stage.west);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_names_a_foreign_trust_anchor() {
    let stage = Stage::enter().await;
    let maps: Api<ConfigMap> = Api::namespaced(stage.east.client.clone(), "linkerd");
    let good = maps.get("linkerd-config").await.unwrap().data.unwrap()["values"].clone();
    let mut values = mesh_charts::yaml::parse(&good).unwrap();
    // Any other CA will do: an issuer is one.
    let other = std::fs::read_to_string(demo().data.join("ca/west/issuer.crt")).unwrap();
    values["identityTrustAnchorsPEM"] = other.into();
    let put = async |text: String| {
        let patch = json!({ "data": { "values": text } });
        maps.patch("linkerd-config", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    };
    put(values.to_string()).await;
    let out = complaint(&stage.west);
    put(good).await;
    assert!(out.contains("Problematic clusters:") && out.contains("* east"), "{out}");
    assert!(out.contains("--identity-trust-anchors-file"), "{out}");
    green(&stage.west);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_names_a_missing_gateway_and_a_missing_mirror() {
    let stage = Stage::enter().await;
    scale(&stage.east, "linkerd-gateway", 0).await;
    stage.withdrawn().await;
    let out = complaint(&stage.west);
    assert!(out.contains("liveness checks failed for east: gateway"), "{out}");
    scale(&stage.east, "linkerd-gateway", 1).await;
    ready(&stage.east, "linkerd-gateway", 1).await;
    stage.well().await;
    scale(&stage.west, "linkerd-service-mirror", 0).await;
    ready(&stage.west, "linkerd-service-mirror", 0).await;
    let out = complaint(&stage.west);
    assert!(out.contains("linkerd-service-mirror is scaled to 0"), "{out}");
    scale(&stage.west, "linkerd-service-mirror", 1).await;
    ready(&stage.west, "linkerd-service-mirror", 1).await;
    eventually("a green check", async || {
        try_mesh(&["mc", "check", "--wait", "1s"], &stage.west.kubeconfig).0.then_some(())
    })
    .await;
}

/// A Link that the CRD accepts and the mirror cannot use.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalid_link_is_told_and_unlink_prints_only_what_exists() {
    let stage = Stage::enter().await;
    let links: Api<Link> = Api::namespaced(stage.west.client.clone(), EXTENSION);
    let mut link = links.get("east").await.unwrap();
    link.metadata = ObjectMeta { name: Some("ghost".into()), ..ObjectMeta::default() };
    link.status = None;
    link.spec.target_cluster_name = "ghost".into();
    link.spec.gateway_identity = "not an identity".into();
    link.spec.cluster_credentials_secret = "No_Secret".into();
    links.create(&PostParams::default(), &link).await.unwrap();
    let (_, table, notes) = try_mesh(&["mc", "gateways"], &stage.west.kubeconfig);
    let out = complaint(&stage.west);
    let printed =
        mesh(&["mc", "unlink", "--cluster-name", "ghost", "-o", "json"], &stage.west.kubeconfig);
    links.delete("ghost", &DeleteParams::default()).await.unwrap();
    println!("{notes}{table}\n{printed}");
    assert!(notes.contains("ghost: the Link is not valid:"), "{notes}");
    assert!(out.contains("ghost"), "{out}");
    // The mirror may have taken a Lease before it looked; there is no Role, and no such Secret can be.
    for line in printed.lines() {
        let object: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(["Link", "Lease"].contains(&object["kind"].as_str().unwrap()), "{printed}");
    }
    assert!(printed.contains("\"Link\""), "{printed}");
    green(&stage.west);
}
