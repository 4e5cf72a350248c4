//! The mirror in west is replaced.

use crate::{
    harness::{demo, eventually},
    stage::{EXTENSION, Stage, by_build},
};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams};
use serde_json::{Value, json};
use std::time::Instant;

const USER: &str = "system:serviceaccount:linkerd-multicluster:linkerd-service-mirror";

/// Writes to Services and Endpoints that west's API server has logged of the mirror.
fn writes() -> Vec<String> {
    let path = demo().data.join("sandbox/west/audit.log");
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        // The last line may be half written.
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|line| {
            let resource = line["objectRef"]["resource"].as_str().unwrap_or_default();
            let verb = line["verb"].as_str().unwrap_or_default();
            line["user"]["username"] == USER
                && ["services", "endpoints", "endpointslices"].contains(&resource)
                && !["get", "list", "watch"].contains(&verb)
        })
        .map(|line| format!("{} {}", line["verb"], line["requestURI"]))
        .collect()
}

async fn mirror_pods(stage: &Stage) -> Vec<Pod> {
    let label = ListParams::default().labels("component=controller");
    stage.west.pods(EXTENSION).list(&label).await.unwrap().items
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}

async fn holder(stage: &Stage) -> Option<String> {
    let leases: kube::Api<k8s_openapi::api::coordination::v1::Lease> =
        kube::Api::namespaced(stage.west.client.clone(), EXTENSION);
    leases.get_opt("service-mirror-write-east").await.unwrap()?.spec?.holder_identity
}

/// proves: MIR-5, GWA-3
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_mirror_writes_nothing_that_is_there() {
    let stage = Stage::enter().await;
    let before = writes();
    assert!(!before.is_empty(), "the mirror's first writes are not in the audit log");
    let rounds = by_build(3, 20);
    let begun = Instant::now();
    for _ in 0..rounds {
        let old = mirror_pods(&stage).await.pop().unwrap().metadata.name.unwrap();
        stage.west.pods(EXTENSION).delete(&old, &DeleteParams::default()).await.unwrap();
        let new = eventually("a new mirror", async || {
            let mut pods = mirror_pods(&stage).await;
            pods.retain(|p| p.metadata.name.as_ref() != Some(&old) && is_ready(p));
            pods.pop()?.metadata.name
        })
        .await;
        eventually("its Lease", async || {
            holder(&stage).await.filter(|h| h.contains(&new)).map(drop)
        })
        .await;
    }
    let took = begun.elapsed();
    // An edit that the new mirror carries over shows that it has caught up, and that the log tells of its writes.
    let stamp = rounds.to_string();
    let note =
        |value: Option<&str>| json!({ "metadata": { "annotations": { "demo/fault": value } } });
    stage.east.patch_service("echo", note(Some(&stamp))).await;
    eventually("the edit in west", async || {
        let mirror = stage.west.services().get("echo-east").await.unwrap();
        mirror.metadata.annotations?.get("demo/fault").filter(|v| **v == stamp).map(drop)
    })
    .await;
    let after = eventually("the edit in the audit log", async || {
        Some(writes()).filter(|w| w.len() > before.len())
    })
    .await;
    let new = &after[before.len()..];
    println!(
        "mirror replaced {rounds} times in {took:?}; writes: {new:?}, of which one by an edit"
    );
    assert_eq!(new.len(), 1, "{new:?}");
    stage.east.patch_service("echo", note(None)).await;
    eventually("the end of the edit", async || {
        let mirror = stage.west.services().get("echo-east").await.unwrap();
        (!mirror.metadata.annotations?.contains_key("demo/fault")).then_some(())
    })
    .await;
}
