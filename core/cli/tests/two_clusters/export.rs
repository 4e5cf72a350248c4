//! A Service is exported, edited, withdrawn: what west sees, and when.

use crate::harness::{Cluster, EXPORTED, eventually, first_200, median};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{EndpointSubset, Namespace, Service};
use kube::{
    Api,
    api::{DeleteParams, PostParams},
    runtime::watcher,
};
use mesh_k8s::link::Link;
use serde_json::json;
use std::time::{Duration, Instant};

/// proves: MIR-2, MIR-4, MIR-13, OUT-5
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_arrives_and_a_withdrawal_too() {
    let (east, west) = (Cluster::open("east").await, Cluster::open("west").await);
    east.add_service("cycle", json!({})).await;
    let (mut mirrored, mut answered, mut gone) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds() {
        let poller = tokio::spawn(first_200("cycle-east.demo".to_owned()));
        // The poller must be at work before the label is set.
        tokio::task::yield_now().await;
        let appeared = tokio::spawn(appears(west.client.clone(), "cycle-east"));
        east.label("cycle", Some("true")).await;
        let begun = Instant::now();
        mirrored.push(appeared.await.unwrap().duration_since(begun));
        let before = poller.await.unwrap();
        answered.push(begun.elapsed());
        for (status, body) in before {
            assert!(
                status == 502 && body.contains("no such Service"),
                "before the first 200: {status} {body}"
            );
        }
        east.label("cycle", Some("false")).await;
        let begun = Instant::now();
        eventually("the mirror's removal", async || {
            west.services().get_opt("cycle-east").await.unwrap().is_none().then_some(())
        })
        .await;
        gone.push(begun.elapsed());
    }
    println!(
        "medians of {}: endpoints {:?}, first 200 {:?}, gone {:?}",
        rounds(),
        median(&mut mirrored),
        median(&mut answered),
        median(&mut gone)
    );
    east.delete_service("cycle").await;
}

fn rounds() -> usize {
    if cfg!(debug_assertions) { 3 } else { 20 }
}

/// When a watch sees endpoints with an address.
async fn appears(client: kube::Client, name: &'static str) -> Instant {
    let api: Api<k8s_openapi::api::core::v1::Endpoints> = Api::namespaced(client, "demo");
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut events = std::pin::pin!(watcher(api, config));
    while let Some(event) = events.next().await {
        let (Ok(watcher::Event::Apply(e)) | Ok(watcher::Event::InitApply(e))) = event else {
            continue;
        };
        let filled = |s: &EndpointSubset| s.addresses.as_ref().is_some_and(|a| !a.is_empty());
        if e.subsets.iter().flatten().any(filled) {
            return Instant::now();
        }
    }
    panic!("the watch ended");
}

/// proves: MIR-3, MIR-4
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn edits_follow() {
    let (east, west) = (Cluster::open("east").await, Cluster::open("west").await);
    east.add_service("edited", json!({ EXPORTED: "true" })).await;
    eventually("the mirror", async || west.ready_address("edited-east").await).await;
    east.patch_service("edited", json!({
        "metadata": { "labels": { "team": "blue" }, "annotations": { "retry.linkerd.io/limit": "3" } },
        "spec": { "ports": [{ "name": "http", "port": 81, "targetPort": "http" }] },
    }))
    .await;
    let begun = Instant::now();
    eventually("the edit in west", async || {
        let mirror = west.services().get_opt("edited-east").await.unwrap()?;
        let ports = mirror.spec?.ports?;
        let labels = mirror.metadata.labels?;
        let notes = mirror.metadata.annotations?;
        let followed = ports.len() == 1
            && ports[0].port == 81
            && labels.get("team").is_some_and(|v| v == "blue")
            && notes.get("retry.linkerd.io/limit").is_some_and(|v| v == "3")
            && !labels.contains_key(EXPORTED);
        followed.then_some(())
    })
    .await;
    println!("edit followed after {:?}", begun.elapsed());
    first_200("edited-east.demo:81".to_owned()).await;
    east.delete_service("edited").await;
    eventually("the mirror's removal", async || {
        west.services().get_opt("edited-east").await.unwrap().is_none().then_some(())
    })
    .await;
}

/// proves: MIR-2, MIR-13
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_exports_at_once_all_answer() {
    let east = Cluster::open("east").await;
    let count = if cfg!(debug_assertions) { 60 } else { 300 };
    let names: Vec<String> = (0..count).map(|n| format!("many-{n}")).collect();
    futures::future::join_all(names.iter().map(|name| east.add_service(name, json!({})))).await;
    futures::future::join_all(names.iter().map(|name| east.label(name, Some("true")))).await;
    let begun = Instant::now();
    let hosts = names.iter().map(|name| format!("{name}-east.demo"));
    futures::future::join_all(hosts.map(first_200)).await;
    println!("{count} Services exported at once: all answer after {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(30));
    futures::future::join_all(names.iter().map(|name| east.delete_service(name))).await;
}

/// proves: MIR-8, STA-1
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_namespace_is_told_and_healed() {
    let (east, west) = (Cluster::open("east").await, Cluster::open("west").await);
    let namespace = |client: &kube::Client| Api::<Namespace>::all(client.clone());
    let object: Namespace =
        serde_json::from_value(json!({ "metadata": { "name": "only-east" } })).unwrap();
    namespace(&east.client).create(&PostParams::default(), &object).await.unwrap();
    let service: Service = serde_json::from_value(json!({
        "metadata": { "name": "lonely", "labels": { EXPORTED: "true" } },
        "spec": { "selector": { "app": "none" }, "ports": [{ "port": 80 }] },
    }))
    .unwrap();
    let there = |client: &kube::Client| Api::<Service>::namespaced(client.clone(), "only-east");
    there(&east.client).create(&PostParams::default(), &service).await.unwrap();
    let links = Api::<Link>::namespaced(west.client.clone(), "linkerd-multicluster");
    let condition = async || {
        let status = links.get_status("east").await.unwrap().status?;
        let entry = status.mirror_services.into_iter().find(|s| s.remote_ref.name == "lonely")?;
        entry.conditions.into_iter().next()
    };
    eventually("MissingNamespace in Link status", async || {
        condition().await.filter(|c| c.reason == "MissingNamespace" && c.status == "False")
    })
    .await;
    namespace(&west.client).create(&PostParams::default(), &object).await.unwrap();
    eventually("the mirror", async || there(&west.client).get_opt("lonely-east").await.unwrap())
        .await;
    eventually("Mirrored in Link status", async || {
        condition().await.filter(|c| c.status == "True")
    })
    .await;
    there(&east.client).delete("lonely", &DeleteParams::default()).await.unwrap();
    eventually("the mirror's removal", async || {
        there(&west.client).get_opt("lonely-east").await.unwrap().is_none().then_some(())
    })
    .await;
}
