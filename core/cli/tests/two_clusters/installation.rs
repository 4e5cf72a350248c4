//! What changes an installation or removes it: upgrade, prune, uninstall, an issuer from elsewhere.

use crate::harness::{Cluster, demo, mesh, try_mesh};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret};
use kube::{
    Api,
    api::{DeleteParams, PostParams},
};
use serde_json::{Value, json};
use std::{fs, path::Path};

fn objects(printed: &str) -> Vec<Value> {
    printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> Option<&'a Value> {
    objects.iter().find(|o| o["kind"] == kind && o["metadata"]["name"] == name)
}

/// Without what each rendering makes anew: the webhook's certificate.
fn stable(mut objects: Vec<Value>) -> Vec<Value> {
    objects.retain(|o| o["metadata"]["name"] != "linkerd-proxy-injector-k8s-tls");
    for object in &mut objects {
        for path in [
            "/webhooks/0/clientConfig/caBundle",
            "/spec/template/metadata/annotations/checksum~1config",
        ] {
            if let Some(value) = object.pointer_mut(path) {
                *value = json!("made anew");
            }
        }
    }
    objects
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_keeps_issuer_anchors_and_values() {
    // proves: CLI-6
    let west = Cluster::open("west").await;
    let printed = objects(&mesh(&["upgrade", "-o", "json"], &west.kubeconfig));
    let secrets: Api<Secret> = Api::namespaced(west.client.clone(), "linkerd");
    let configs: Api<ConfigMap> = Api::namespaced(west.client.clone(), "linkerd");
    let mut manifests = Vec::new();
    for name in ["linkerd-config-overrides", "linkerd-identity-issuer"] {
        let live = serde_json::to_value(secrets.get(name).await.unwrap()).unwrap();
        assert_eq!(find(&printed, "Secret", name).unwrap()["data"], live["data"], "{name}");
        manifests.push(with_kind("Secret", live));
    }
    for name in ["linkerd-config", "linkerd-identity-trust-roots"] {
        let live = serde_json::to_value(configs.get(name).await.unwrap()).unwrap();
        assert_eq!(find(&printed, "ConfigMap", name).unwrap()["data"], live["data"], "{name}");
        manifests.push(with_kind("ConfigMap", live));
    }
    // From manifests, without a cluster: the same.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("live.json");
    fs::write(&file, json!({ "kind": "List", "items": manifests }).to_string()).unwrap();
    let nowhere = Path::new("/nonexistent");
    let from = file.to_str().unwrap();
    let from_file = mesh(&["upgrade", "--from-manifests", from, "-o", "json"], nowhere);
    assert_eq!(stable(objects(&from_file)), stable(printed));
    // A change is laid on top, and remembered for the next time.
    let args = ["upgrade", "--from-manifests", from, "-o", "json", "--set", "controllerReplicas=2"];
    let changed = objects(&mesh(&args, nowhere));
    assert_eq!(find(&changed, "Deployment", "linkerd-destination").unwrap()["spec"]["replicas"], 2);
    // An issuer that the proxies do not trust is refused.
    let ca = folder.path().join("ca");
    mesh(&["ca", "create", "--out", ca.to_str().unwrap()], nowhere);
    let path = |name: &str| ca.join(name).display().to_string();
    let other = [
        "upgrade".to_owned(),
        format!("--identity-trust-anchors-file={}", path("ca.crt")),
        format!("--identity-issuer-certificate-file={}", path("issuer.crt")),
        format!("--identity-issuer-key-file={}", path("issuer.key")),
    ];
    let other: Vec<&str> = other.iter().map(String::as_str).collect();
    let (ok, _, notes) = try_mesh(&other, &west.kubeconfig);
    assert!(!ok && notes.contains("do not trust the issuer"), "{notes}");
    assert!(notes.contains("* demo/"), "{notes}");
    let forced: Vec<&str> = other.iter().copied().chain(["--force"]).collect();
    let (ok, _, notes) = try_mesh(&forced, &west.kubeconfig);
    assert!(ok && notes.contains("The trust anchors change"), "{notes}");
}

fn with_kind(kind: &str, mut object: Value) -> Value {
    object["kind"] = json!(kind);
    object
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prune_prints_what_is_no_longer_installed() {
    let west = Cluster::open("west").await;
    let configs: Api<ConfigMap> = Api::namespaced(west.client.clone(), "linkerd");
    let old = json!({
        "metadata": { "name": "linkerd-old", "labels": { "linkerd.io/control-plane-ns": "linkerd" } },
    });
    configs.create(&PostParams::default(), &serde_json::from_value(old).unwrap()).await.unwrap();
    let printed = objects(&mesh(&["prune", "-o", "json"], &west.kubeconfig));
    configs.delete("linkerd-old", &DeleteParams::default()).await.unwrap();
    let expected = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": "linkerd-old", "namespace": "linkerd" },
    });
    assert_eq!(printed, [expected]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uninstall_refuses_while_it_is_needed() {
    // proves: CLI-7
    let west = Cluster::open("west").await;
    let (ok, out, notes) = try_mesh(&["uninstall"], &west.kubeconfig);
    assert!(!ok && out.is_empty(), "{out}");
    assert!(
        notes.contains("uninstall the following extensions") && notes.contains("* multicluster"),
        "{notes}"
    );
    let printed = objects(&mesh(&["uninstall", "--force", "-o", "json"], &west.kubeconfig));
    for (kind, name) in [
        ("Namespace", "linkerd"),
        ("ClusterRole", "linkerd-linkerd-destination"),
        ("CustomResourceDefinition", "servers.policy.linkerd.io"),
        ("MutatingWebhookConfiguration", "linkerd-proxy-injector-webhook-config"),
    ] {
        assert!(find(&printed, kind, name).is_some(), "{kind} {name}");
    }
    assert!(find(&printed, "Namespace", "linkerd-multicluster").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_issuer_from_elsewhere_brings_its_anchors() {
    let west = Cluster::open("west").await;
    let args = ["install", "--identity-external-issuer", "-L", "spare", "-o", "json"];
    let (ok, _, notes) = try_mesh(&args, &west.kubeconfig);
    assert!(!ok && notes.contains("Secret linkerd-identity-issuer in spare"), "{notes}");
    let namespaces: Api<Namespace> = Api::all(west.client.clone());
    let spare = json!({ "metadata": { "name": "spare" } });
    namespaces
        .create(&PostParams::default(), &serde_json::from_value(spare).unwrap())
        .await
        .unwrap();
    let folder = demo().data.join("ca");
    let anchors = fs::read_to_string(folder.join("ca.crt")).unwrap();
    let secret = json!({
        "metadata": { "name": "linkerd-identity-issuer" }, "type": "kubernetes.io/tls",
        "stringData": {
            "ca.crt": anchors,
            "tls.crt": fs::read_to_string(folder.join("west/issuer.crt")).unwrap(),
            "tls.key": fs::read_to_string(folder.join("west/issuer.key")).unwrap(),
        },
    });
    let secrets: Api<Secret> = Api::namespaced(west.client.clone(), "spare");
    secrets.create(&PostParams::default(), &serde_json::from_value(secret).unwrap()).await.unwrap();
    let printed = objects(&mesh(&args, &west.kubeconfig));
    namespaces.delete("spare", &DeleteParams::default()).await.unwrap();
    let roots = find(&printed, "ConfigMap", "linkerd-identity-trust-roots").unwrap();
    assert_eq!(roots["data"]["ca-bundle.crt"].as_str().unwrap().trim(), anchors.trim());
    assert!(find(&printed, "Secret", "linkerd-identity-issuer").is_none(), "it is made elsewhere");
}

#[test]
fn a_multicluster_install_without_a_cluster_needs_the_anchors() {
    let nowhere = Path::new("/nonexistent");
    let (ok, _, notes) = try_mesh(&["mc", "install", "--ignore-cluster"], nowhere);
    assert!(!ok && notes.contains("--set-file identityTrustAnchorsPEM=ca.crt"), "{notes}");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.crt");
    fs::write(&file, "anchors").unwrap();
    let given = format!("identityTrustAnchorsPEM={}", file.display());
    let args = ["mc", "install", "--ignore-cluster", "--set-file", &given, "-o", "json"];
    let printed = objects(&mesh(&args, nowhere));
    assert!(find(&printed, "Deployment", "linkerd-gateway").is_some());
}
