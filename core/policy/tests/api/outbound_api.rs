//! # The outbound policy API as a proxy sees it
//!
//! Job: requests and streams over real HTTP/2, without a cluster: objects are put into the index.
//! Callers: `cargo test`.

use crate::rig::{Rig, next, of, rig};
use k8s_openapi::api::core::v1::Service;
use linkerd2_proxy_api::outbound::{
    self as api, outbound_policies_client::OutboundPoliciesClient, proxy_protocol::Kind,
    traffic_spec::Target,
};
use mesh_cluster::watch::Index;
use mesh_process::drain::Drained;
use serde_json::json;
use std::{net::SocketAddr, time::Duration};
use tonic::{Code, Status, Streaming};

const PLAIN: &str = "client:pod-0";
const GATEWAY: &str =
    "{\"ns\":\"mc\",\"pod\":\"gw\",\"gateway\":{\"export\":\"mirror.linkerd.io/exported=true\"}}";

fn web(exported: &str, opaque: &str) -> Service {
    of(json!({
        "metadata": {
            "namespace": "shop", "name": "web",
            "labels": {"mirror.linkerd.io/exported": exported},
            "annotations": {"config.linkerd.io/opaque-ports": opaque},
        },
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"name": "http", "port": 80}]},
    }))
}

fn spec(source: &str, target: &str) -> api::TrafficSpec {
    let target = match target.parse::<SocketAddr>() {
        Ok(addr) => Target::Addr(addr.into()),
        Err(_) => Target::Authority(target.to_owned()),
    };
    api::TrafficSpec { source_workload: source.into(), target: Some(target) }
}

async fn watch(
    rig: &Rig,
    source: &str,
    target: &str,
) -> Result<Streaming<api::OutboundPolicy>, Status> {
    let mut client = OutboundPoliciesClient::new(rig.channel.clone());
    client.watch(spec(source, target)).await.map(tonic::Response::into_inner)
}

fn kind(policy: api::OutboundPolicy) -> Kind {
    policy.protocol.unwrap().kind.unwrap()
}

// proves: POL-9
#[tokio::test]
async fn watch_follows_the_service() {
    let rig = rig().await;
    rig.outbound.lock().apply(web("false", ""));
    let mut stream = watch(&rig, PLAIN, "10.96.0.1:80").await.unwrap();
    let Kind::Detect(detect) = kind(next(&mut stream).await.unwrap().unwrap()) else {
        panic!("expected detection")
    };
    let routes = detect.http1.unwrap().routes;
    assert_eq!(routes, detect.http2.unwrap().routes, "the same for both versions");
    assert_eq!(routes[0].rules[0].matches.len(), 1);
    rig.outbound.lock().apply(web("false", ""));
    rig.outbound.lock().apply(web("false", "80"));
    assert!(matches!(kind(next(&mut stream).await.unwrap().unwrap()), Kind::Opaque(_)));
    Index::<Service>::delete(&mut *rig.outbound.lock(), Some("shop"), "web");
    assert!(next(&mut stream).await.unwrap().is_none(), "the address means nothing any more: OK");
}

// proves: POL-11
#[tokio::test]
async fn targets_by_name_and_address() {
    let rig = rig().await;
    rig.outbound.lock().apply(web("false", ""));
    for (target, code) in [
        ("web.shop.svc.cluster.local:80", Code::Ok),
        ("web.shop.svc.cluster.local", Code::Ok),
        ("web.shop.svc:80", Code::Ok),
        ("missing.shop.svc.cluster.local:80", Code::Ok),
        ("8.8.8.8:443", Code::Ok),
        ("web-0.web.shop.svc.cluster.local:80", Code::NotFound),
        ("web.shop:80", Code::NotFound),
        ("example.com:80", Code::NotFound),
        ("10.1.2.3:80", Code::NotFound),
        ("10.96.0.1:0", Code::InvalidArgument),
    ] {
        let mut client = OutboundPoliciesClient::new(rig.channel.clone());
        let got = client.get(spec(PLAIN, target)).await.map_or_else(|s| s.code(), |_| Code::Ok);
        assert_eq!(got, code, "{target}");
    }
    let nothing = api::TrafficSpec { source_workload: PLAIN.into(), target: None };
    let mut client = OutboundPoliciesClient::new(rig.channel.clone());
    assert_eq!(client.get(nothing).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(watch(&rig, "x", "web.shop.svc").await.unwrap_err().code(), Code::InvalidArgument);
}

// proves: EXP-2
#[tokio::test]
async fn a_withdrawn_export_ends_a_gateways_stream() {
    let rig = rig().await;
    rig.outbound.lock().apply(web("true", ""));
    let mut stream = watch(&rig, GATEWAY, "web.shop.svc.cluster.local:80").await.unwrap();
    next(&mut stream).await.unwrap().unwrap();
    rig.outbound.lock().apply(web("false", ""));
    let status = next(&mut stream).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "not exported"));
    for target in ["web.shop.svc.cluster.local:80", "example.com:80", "10.96.0.1:80", "8.8.8.8:1"] {
        let status = watch(&rig, GATEWAY, target).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "not exported"));
    }
}

#[tokio::test]
async fn a_drain_ends_streams_well() {
    let rig = rig().await;
    let token = rig.readiness.block("services");
    assert_eq!(watch(&rig, PLAIN, "web.shop.svc").await.unwrap_err().code(), Code::Unavailable);
    drop(token);
    let mut stream = watch(&rig, PLAIN, "web.shop.svc").await.unwrap();
    next(&mut stream).await.unwrap().unwrap();
    let drained = rig.drain.drain(Duration::from_secs(5));
    let (end, drained) = tokio::join!(next(&mut stream), drained);
    assert!(end.unwrap().is_none());
    assert_eq!(drained, Drained::Complete);
}
