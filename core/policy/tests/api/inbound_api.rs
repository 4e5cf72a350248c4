//! # The inbound policy API as a proxy sees it
//!
//! Job: requests and streams over real HTTP/2, without a cluster: objects are put into the index.
//! Callers: `cargo test`.

use crate::rig::{Rig, next, of, rig};
use k8s_openapi::api::core::v1::Pod;
use linkerd2_proxy_api::inbound::{
    self as api, inbound_server_policies_client::InboundServerPoliciesClient,
};
use mesh_cluster::watch::Index;
use mesh_k8s::policy::{AuthorizationPolicy, Server};
use serde_json::json;
use tonic::{Code, Status, Streaming};

fn pod() -> Pod {
    of(json!({
        "metadata": {
            "namespace": "shop", "name": "web-0",
            "labels": {"app": "web", "linkerd.io/control-plane-ns": "linkerd"},
        },
        "spec": {"containers": [{"name": "app", "ports": [{"name": "http", "containerPort": 8080}]}]},
    }))
}

fn server(access: &str) -> Server {
    of(json!({
        "apiVersion": "policy.linkerd.io/v1beta3", "kind": "Server",
        "metadata": {"namespace": "shop", "name": "web"},
        "spec": {"podSelector": {}, "port": 8080, "proxyProtocol": "HTTP/1", "accessPolicy": access},
    }))
}

async fn watch(rig: &Rig, workload: &str, port: u32) -> Result<Streaming<api::Server>, Status> {
    let spec = api::PortSpec { workload: workload.into(), port };
    let mut client = InboundServerPoliciesClient::new(rig.channel.clone());
    client.watch_port(spec).await.map(tonic::Response::into_inner)
}

fn labels(server: &api::Server) -> [&str; 3] {
    ["group", "kind", "name"].map(|key| server.labels[key].as_str())
}

// proves: POL-8
#[tokio::test]
async fn watch_port_sends_one_message_a_change() {
    let rig = rig().await;
    rig.inbound.lock().apply(pod());
    let mut stream = watch(&rig, "shop:web-0", 8080).await.unwrap();
    let first = next(&mut stream).await.unwrap().unwrap();
    assert_eq!(labels(&first), ["", "default", "all-unauthenticated"]);
    rig.inbound.lock().apply(pod());
    rig.inbound.lock().apply(server("deny"));
    let second = next(&mut stream).await.unwrap().unwrap();
    assert_eq!(labels(&second), ["policy.linkerd.io", "server", "web"]);
    assert!(second.authorizations.is_empty());
    rig.inbound.lock().apply(server("deny"));
    rig.inbound.lock().apply(of::<AuthorizationPolicy>(json!({
        "apiVersion": "policy.linkerd.io/v1alpha1", "kind": "AuthorizationPolicy",
        "metadata": {"namespace": "shop", "name": "all"},
        "spec": {
            "targetRef": {"group": "policy.linkerd.io", "kind": "Server", "name": "web"},
            "requiredAuthenticationRefs": [],
        },
    })));
    let third = next(&mut stream).await.unwrap().unwrap();
    let authorization = &third.authorizations[0];
    assert_eq!(authorization.labels["kind"], "authorizationpolicy");
    assert_eq!(authorization.networks.len(), 2);
    Index::<Pod>::delete(&mut *rig.inbound.lock(), Some("shop"), "web-0");
    assert!(next(&mut stream).await.unwrap().is_none(), "deletion ends the stream with OK");
}

#[tokio::test]
async fn get_port_answers_once() {
    let rig = rig().await;
    rig.inbound.lock().apply(pod());
    rig.inbound.lock().apply(server("audit"));
    let spec = api::PortSpec { workload: "{\"ns\":\"shop\",\"pod\":\"web-0\"}".into(), port: 8080 };
    let mut client = InboundServerPoliciesClient::new(rig.channel.clone());
    let server = client.get_port(spec).await.unwrap().into_inner();
    assert_eq!(labels(&server)[2], "web");
    assert_eq!(server.authorizations[0].labels["name"], "audit");
}

#[tokio::test]
async fn what_cannot_be_answered_is_refused_with_its_code() {
    let rig = rig().await;
    rig.inbound.lock().apply(pod());
    for (workload, port, code) in [
        ("nonsense", 8080, Code::InvalidArgument),
        ("shop:", 8080, Code::InvalidArgument),
        ("{\"ns\":\"shop\"}", 8080, Code::InvalidArgument),
        ("shop:web-0", 0, Code::InvalidArgument),
        ("shop:web-0", 70_000, Code::InvalidArgument),
        ("shop:web-1", 8080, Code::NotFound),
        ("{\"ns\":\"shop\",\"external_workload\":\"x\"}", 8080, Code::NotFound),
    ] {
        assert_eq!(
            watch(&rig, workload, port).await.unwrap_err().code(),
            code,
            "{workload} {port}"
        );
    }
    let token = rig.readiness.block("pods");
    assert_eq!(watch(&rig, "shop:web-1", 8080).await.unwrap_err().code(), Code::Unavailable);
    drop(token);
}
