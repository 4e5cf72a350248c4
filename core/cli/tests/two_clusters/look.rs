//! What a person sees: kubectl's objects, `mc gateways`, `mc check`, memory.

use crate::harness::{Cluster, demo, eventually, mesh, try_mesh};
use serde_json::json;
use std::process::Command;

/// proves: CLI-4
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_mirror_points_at_the_gateway() {
    let (east, west) = (Cluster::open("east").await, Cluster::open("west").await);
    let gateway: kube::Api<k8s_openapi::api::core::v1::Service> =
        kube::Api::namespaced(east.client.clone(), "linkerd-multicluster");
    let gateway = gateway.get("linkerd-gateway").await.unwrap();
    let ip = gateway.status.unwrap().load_balancer.unwrap().ingress.unwrap()[0].ip.clone().unwrap();
    let address = eventually("echo-east", async || west.ready_address("echo-east").await).await;
    assert_eq!(address, format!("{ip}:4143"));
    let table = mesh(&["mc", "gateways"], &west.kubeconfig);
    let row: Vec<&str> =
        table.lines().find(|l| l.starts_with("east")).unwrap().split_whitespace().collect();
    assert!(row[1] == "True" && row[3].ends_with("ms"), "{table}");
    println!("{table}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_is_green_and_names_an_orphan() {
    let west = Cluster::open("west").await;
    println!("{}", mesh(&["check", "--wait", "30s"], &west.kubeconfig));
    println!("{}", mesh(&["mc", "check", "--wait", "30s"], &west.kubeconfig));
    west.add_service(
        "orphan-north",
        json!({
            "mirror.linkerd.io/mirrored-service": "true", "mirror.linkerd.io/cluster-name": "north",
        }),
    )
    .await;
    let (_, out, _) = try_mesh(&["mc", "check", "--wait", "1s"], &west.kubeconfig);
    west.delete_service("orphan-north").await;
    assert!(out.contains("mirror service orphan-north.demo is not part of any Link"), "{out}");
}

#[test]
fn status_prints_memory() {
    let data = demo().data.join("sandbox");
    let output = Command::new(env!("CARGO_BIN_EXE_mesh"))
        .args(["sandbox", "status", "--data-dir"])
        .arg(data)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("east") && text.contains("west"), "{text}");
    println!("{text}");
}

/// proves: OUT-5
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_does_not_exist_is_502_at_once() {
    use mesh_demo::client::{Client, Protocol};
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let mut client = Client::new(crate::harness::through("nothing.demo", "/", protocol));
        let answer = client.get().await.unwrap();
        assert_eq!(answer.status, 502);
        let body = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(body.contains("no such Service"), "{body}");
    }
}
