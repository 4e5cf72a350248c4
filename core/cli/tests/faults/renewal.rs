//! Certificates of seconds, renewed under load, also by an issuer that is replaced meanwhile.

use crate::{
    harness::{Cluster, demo, eventually, mesh, through},
    stage::{EXTENSION, Stage, by_build, deployments, load},
};
use k8s_openapi::{
    ByteString,
    api::core::v1::{Event, Secret},
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use mesh_demo::client::{Client, Protocol, Target};
use serde_json::json;
use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

const CONTROL: &str = "linkerd";
const IDENTITY: &str = "linkerd-identity";
/// A leaf outlives its lifetime by the allowance, so that both count.
const FLAGS: [&str; 2] = ["-identity-issuance-lifetime=", "-identity-clock-skew-allowance="];

/// proves: GW-7
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_certificates_renew_and_an_issuer_is_replaced_under_load() {
    let stage = Stage::enter().await;
    let usual = set_validity(&stage, ["20s", "0s"]).await;
    let length = Duration::from_secs(by_build(34, 120));

    let before = refreshes(&stage).await;
    let report = load(length, Duration::from_secs(10)).await.unwrap();
    let renewed = refreshes(&stage).await - before;
    println!("certificates of 20 s for {length:?}: renewed {renewed} times; {report}");
    assert_eq!(report.failures(), 0, "{report}");
    assert!(renewed >= length.as_secs() / 20, "renewed {renewed} times in {length:?}");

    let load = load(length, Duration::from_secs(10));
    for cluster in [&stage.east, &stage.west] {
        replace_issuer(cluster, if std::ptr::eq(cluster, &stage.east) { "east" } else { "west" })
            .await;
    }
    let replaced = refreshes(&stage).await;
    let report = load.await.unwrap();
    let renewed = refreshes(&stage).await - replaced;
    println!("issuers of both clusters replaced: renewed {renewed} times since; {report}");
    assert_eq!(report.failures(), 0, "{report}");
    assert!(renewed >= 1, "nothing was signed by the new issuer");

    set_validity(&stage, [&usual[0], &usual[1]]).await;
    stage.well().await;
}

/// Gives new leafs another validity, and every proxy on the way such a leaf; the values until now.
async fn set_validity(stage: &Stage, values: [&str; 2]) -> [String; 2] {
    let mut usual = [String::new(), String::new()];
    for cluster in [&stage.east, &stage.west] {
        let api = deployments(cluster, CONTROL);
        let mut identity = api.get(IDENTITY).await.unwrap();
        let pod = identity.spec.as_mut().unwrap().template.spec.as_mut().unwrap();
        let args = pod.containers[0].args.as_mut().unwrap();
        for ((flag, wanted), usual) in FLAGS.into_iter().zip(values).zip(&mut usual) {
            let now = args.iter_mut().find(|a| a.starts_with(flag)).unwrap();
            *usual = now.trim_start_matches(flag).to_owned();
            *now = format!("{flag}{wanted}");
        }
        api.replace(IDENTITY, &PostParams::default(), &identity).await.unwrap();
        rolled_out(cluster, CONTROL, IDENTITY).await;
    }
    let parts = [
        (&stage.east, "demo", "echo"),
        (&stage.east, EXTENSION, "linkerd-gateway"),
        (&stage.west, "demo", "web"),
    ];
    for (cluster, namespace, name) in parts {
        deployments(cluster, namespace).restart(name).await.unwrap();
        rolled_out(cluster, namespace, name).await;
    }
    let ip = eventually("the one client Pod", async || {
        let pods = stage.west.pods("demo").list(&Default::default()).await.unwrap().items;
        let mut web = pods
            .into_iter()
            .filter(|p| p.metadata.labels.as_ref().is_some_and(|l| l["app"] == "web"));
        let pod = web.next()?;
        if web.next().is_some() { None } else { pod.status?.pod_ip?.parse::<IpAddr>().ok() }
    })
    .await;
    *demo().proxy.lock().unwrap() = SocketAddr::new(ip, 4140);
    stage.well().await;
    usual
}

async fn rolled_out(cluster: &Cluster, namespace: &str, name: &str) {
    eventually(&format!("the rollout of {name}"), async || {
        let found = deployments(cluster, namespace).get(name).await.unwrap();
        let (wanted, status) = (found.spec?.replicas, found.status?);
        (status.observed_generation >= found.metadata.generation
            && status.updated_replicas == wanted
            && status.replicas == wanted
            && status.ready_replicas == wanted)
            .then_some(())
    })
    .await;
}

/// How often the gateway in east has got a certificate.
async fn refreshes(stage: &Stage) -> u64 {
    let pods = stage.east.pods(EXTENSION).list(&Default::default()).await.unwrap();
    let gateway = |p: &&k8s_openapi::api::core::v1::Pod| {
        p.metadata.name.as_ref().is_some_and(|n| n.starts_with("linkerd-gateway"))
            && p.metadata.deletion_timestamp.is_none()
    };
    let ip = pods.items.iter().find(gateway).unwrap().status.as_ref().unwrap().pod_ip.clone();
    let uri = format!("http://{}:4191/metrics", ip.unwrap()).parse().unwrap();
    let target = Target { uri, proxy: None, ..through("unused", "/", Protocol::Http1) };
    let answer = Client::new(target).get().await.unwrap();
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    let line = text
        .lines()
        .find_map(|l| l.strip_prefix("control_identity_cert_refreshes_total{result=\"ok\"} "));
    line.unwrap_or_else(|| panic!("no count of refreshes in:\n{text}")).parse().unwrap()
}

/// Another issuer under the same root, put where identity looks for it, and taken up there.
async fn replace_issuer(cluster: &Cluster, name: &str) {
    let ca = demo().data.join("ca");
    let (issuer, out) = (format!("{name}-next"), ca.to_str().unwrap());
    mesh(
        &["ca", "create", "--existing-root", "--out", out, "--issuer", &issuer],
        &cluster.kubeconfig,
    );
    let file = |kind: &str| ByteString(std::fs::read(ca.join(&issuer).join(kind)).unwrap());
    let data = json!({ "data": { "crt.pem": file("issuer.crt"), "key.pem": file("issuer.key") } });
    let secrets: Api<Secret> = Api::namespaced(cluster.client.clone(), CONTROL);
    let begun = Instant::now();
    secrets
        .patch("linkerd-identity-issuer", &PatchParams::default(), &Patch::Merge(data))
        .await
        .unwrap();
    let events: Api<Event> = Api::namespaced(cluster.client.clone(), CONTROL);
    eventually("identity's word about its new issuer", async || {
        let all = events.list(&Default::default()).await.unwrap().items;
        all.iter().any(|e| e.reason.as_deref() == Some("IssuerUpdated")).then_some(())
    })
    .await;
    println!("issuer of {name} replaced: taken up after {:?}", begun.elapsed());
}
