//! # The destination API as a proxy sees it
//!
//! Job: requests and streams over real HTTP/2, without a cluster: objects are put into the index.
//! Callers: `cargo test`.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use k8s_openapi::api::{
    core::v1::{Pod, Service},
    discovery::v1::EndpointSlice,
};
use linkerd2_proxy_api::destination::{
    self as api, destination_client::DestinationClient, update::Update,
};
use mesh_cluster::watch::Index;
use mesh_destination::{Config, Destination, DestinationIndex, metrics::Metrics};
use mesh_process::{drain, ready::Readiness};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tokio::{net::TcpListener, time::timeout};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Status, Streaming, transport::Channel};

struct Rig {
    index: Arc<Mutex<DestinationIndex>>,
    readiness: Readiness,
    drain: drain::Signal,
    client: DestinationClient<Channel>,
    server: tokio::task::JoinHandle<Result<(), tonic::transport::Error>>,
    registry: prometheus::Registry,
}

fn config() -> Config {
    Config {
        addr: "127.0.0.1:0".parse().unwrap(),
        metrics_addr: "127.0.0.1:0".parse().unwrap(),
        controller_namespace: "linkerd".into(),
        trust_domain: Some("cluster.local".into()),
        cluster_domain: "cluster.local".into(),
        transport_header: true,
        enable_h2_upgrade: true,
        enable_ipv6: false,
        default_opaque_ports: Default::default(),
        meshed_http2: Default::default(),
        zone_weights: false,
    }
}

async fn rig() -> Rig {
    let config = Arc::new(config());
    let index = Arc::new(Mutex::new(DestinationIndex::new(config.clone())));
    let readiness = Readiness::new();
    let (signal, watch) = drain::channel();
    let registry = prometheus::Registry::new();
    let metrics = Metrics::register(&registry).unwrap();
    let service = Destination::new(config, index.clone(), readiness.clone(), watch, metrics);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(service.run(TcpListenerStream::new(listener)));
    let client = DestinationClient::connect(url).await.unwrap();
    Rig { index, readiness, drain: signal, client, server, registry }
}

fn request(path: &str, token: &str) -> api::GetDestination {
    api::GetDestination { path: path.into(), context_token: token.into(), ..Default::default() }
}

const WEB: &str = "web.shop.svc.cluster.local:80";
const PLAIN: &str = "{\"ns\":\"shop\",\"nodeName\":\"node-a\"}\n";
const GATEWAY: &str =
    "{\"ns\":\"mc\",\"gateway\":{\"export\":\"mirror.linkerd.io/exported=true\"}}";

impl Rig {
    async fn get(&mut self, path: &str, token: &str) -> Result<Streaming<api::Update>, Status> {
        self.client.get(request(path, token)).await.map(tonic::Response::into_inner)
    }

    async fn profile(
        &mut self,
        path: &str,
        token: &str,
    ) -> Result<Streaming<api::DestinationProfile>, Status> {
        self.client.get_profile(request(path, token)).await.map(tonic::Response::into_inner)
    }

    fn apply<K>(&self, object: Value)
    where
        K: serde::de::DeserializeOwned,
        DestinationIndex: Index<K>,
    {
        self.index.lock().apply(serde_json::from_value(object).unwrap());
    }

    fn web(&self, exported: &str) {
        self.apply::<Service>(json!({
            "metadata": {
                "namespace": "shop", "name": "web",
                "labels": {"mirror.linkerd.io/exported": exported},
            },
            "spec": {"clusterIP": "10.96.0.1", "ports": [{"name": "http", "port": 80}]},
        }));
    }

    fn endpoints(&self, ips: &[&str]) {
        let endpoints: Vec<_> = ips
            .iter()
            .map(|ip| {
                self.apply::<Pod>(json!({
                    "metadata": {
                        "namespace": "shop", "name": format!("web-{ip}"),
                        "labels": {"linkerd.io/control-plane-ns": "linkerd"},
                    },
                    "spec": {"serviceAccountName": "web", "containers": [{
                        "name": "linkerd-proxy",
                        "env": [{"name": "LINKERD2_PROXY_INBOUND_LISTEN_ADDR", "value": "[::]:4143"}],
                    }]},
                    "status": {"podIP": ip},
                }));
                let pod = json!({"kind": "Pod", "namespace": "shop", "name": format!("web-{ip}")});
                json!({"addresses": [ip], "targetRef": pod})
            })
            .collect();
        self.apply::<EndpointSlice>(json!({
            "metadata": {
                "namespace": "shop", "name": "web-1",
                "labels": {"kubernetes.io/service-name": "web"},
            },
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080}],
            "endpoints": endpoints,
        }));
    }

    fn delete_web(&self) {
        Index::<Service>::delete(&mut *self.index.lock(), Some("shop"), "web");
    }
}

/// The next message, which must come soon.
async fn next<T>(stream: &mut Streaming<T>) -> Result<Option<T>, Status> {
    timeout(Duration::from_secs(5), stream.message()).await.expect("a message within 5 s")
}

/// `+ip` for each address added, `-ip` for each removed.
async fn change(stream: &mut Streaming<api::Update>) -> String {
    let show = |addr: &api::WeightedAddr| addr.addr;
    let (sign, addrs): (_, Vec<_>) = match next(stream).await.unwrap().unwrap().update.unwrap() {
        Update::Add(set) => ("+", set.addrs.iter().filter_map(show).collect()),
        Update::Remove(set) => ("-", set.addrs),
        Update::NoEndpoints(_) => panic!("this message is never sent"),
    };
    let text = |addr| std::net::SocketAddr::try_from(addr).unwrap().to_string();
    addrs.into_iter().map(|a| format!("{sign}{}", text(a))).collect::<Vec<_>>().join(" ")
}

// proves: DST-2
#[tokio::test]
async fn get_streams_what_changes() {
    let mut rig = rig().await;
    rig.web("false");
    let mut stream = rig.get(WEB, PLAIN).await.unwrap();
    rig.endpoints(&["10.0.0.1", "10.0.0.2"]);
    assert_eq!(change(&mut stream).await, "+10.0.0.1:8080 +10.0.0.2:8080");
    rig.endpoints(&["10.0.0.2", "10.0.0.3"]);
    assert_eq!(change(&mut stream).await, "+10.0.0.3:8080");
    assert_eq!(change(&mut stream).await, "-10.0.0.1:8080");
    // The same without the port in the path: 80 is meant.
    let mut again = rig.get("web.shop.svc.cluster.local", "ns:shop").await.unwrap();
    assert_eq!(change(&mut again).await, "+10.0.0.2:8080 +10.0.0.3:8080");
    rig.delete_web();
    assert_eq!(change(&mut stream).await, "-10.0.0.2:8080 -10.0.0.3:8080");
    assert_eq!(next(&mut stream).await.unwrap_err().code(), Code::NotFound);
}

// proves: DST-6
#[tokio::test]
async fn what_cannot_be_looked_up_is_refused_with_its_code() {
    let mut rig = rig().await;
    let authority = "Invalid authority: ";
    for path in
        ["10.0.0.1:80", "foo", "web.shop.svc.other:80", "web:0", "", "a.b.c.shop.svc.cluster.local"]
    {
        let refused = rig.get(path, PLAIN).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{path}");
        assert_eq!(refused.message(), format!("{authority}{path}"));
    }
    assert_eq!(rig.get(WEB, PLAIN).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(rig.profile(WEB, PLAIN).await.unwrap_err().code(), Code::NotFound);
    let refused = rig.profile("foo", PLAIN).await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::InvalidArgument, "Invalid authority: foo")
    );
    // A token that is no token counts as an empty one; a gateway's must be right.
    rig.web("true");
    assert!(rig.get(WEB, "nonsense").await.is_ok());
    let bad = rig.get(WEB, "{\"gateway\":{\"export\":\"a in\"}}").await.unwrap_err();
    assert_eq!(bad.code(), Code::InvalidArgument);
}

// proves: DST-4
#[tokio::test]
async fn profiles_follow_the_service() {
    let mut rig = rig().await;
    rig.web("false");
    let mut by_name = rig.profile(WEB, PLAIN).await.unwrap();
    let mut by_ip = rig.profile("10.96.0.1:80", PLAIN).await.unwrap();
    let first = next(&mut by_name).await.unwrap().unwrap();
    assert_eq!(first.fully_qualified_name, "web.shop.svc.cluster.local");
    assert!(first.retry_budget.is_some() && first.parent_ref.is_some());
    assert_eq!(next(&mut by_ip).await.unwrap().unwrap(), first);
    let mut undeclared = rig.profile("web.shop.svc.cluster.local:81", PLAIN).await.unwrap();
    assert_eq!(next(&mut undeclared).await.unwrap().unwrap(), Default::default());

    rig.web("true");
    rig.apply::<Service>(json!({
        "metadata": {
            "namespace": "shop", "name": "web",
            "annotations": {"config.linkerd.io/opaque-ports": "80"},
        },
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"name": "http", "port": 80}]},
    }));
    let second = next(&mut by_name).await.unwrap().unwrap();
    assert_eq!(second, api::DestinationProfile { opaque_protocol: true, ..first });
    rig.delete_web();
    assert_eq!(next(&mut by_name).await.unwrap_err().code(), Code::NotFound);
}

// proves: EXP-2
#[tokio::test]
async fn a_withdrawn_export_ends_a_gateways_streams() {
    let mut rig = rig().await;
    rig.web("true");
    rig.endpoints(&["10.0.0.1"]);
    let mut endpoints = rig.get(WEB, GATEWAY).await.unwrap();
    let mut profile = rig.profile(WEB, GATEWAY).await.unwrap();
    assert_eq!(change(&mut endpoints).await, "+10.0.0.1:8080");
    next(&mut profile).await.unwrap().unwrap();
    rig.web("false");
    assert_eq!(change(&mut endpoints).await, "-10.0.0.1:8080");
    for status in [next(&mut endpoints).await.unwrap_err(), next(&mut profile).await.unwrap_err()] {
        assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "not exported"));
    }
    for path in [WEB, "missing.shop.svc.cluster.local:80", "example.com:80"] {
        for status in [
            rig.get(path, GATEWAY).await.unwrap_err(),
            rig.profile(path, GATEWAY).await.unwrap_err(),
        ] {
            assert_eq!(
                (status.code(), status.message()),
                (Code::FailedPrecondition, "not exported")
            );
        }
    }
    assert!(rig.get(WEB, PLAIN).await.is_ok(), "others are not concerned");
}

// proves: DST-7
#[tokio::test]
async fn nothing_is_denied_before_the_cluster_was_read() {
    let mut rig = rig().await;
    let token = rig.readiness.block("services");
    for code in [
        rig.get(WEB, PLAIN).await.unwrap_err().code(),
        rig.profile(WEB, GATEWAY).await.unwrap_err().code(),
    ] {
        assert_eq!(code, Code::Unavailable);
    }
    rig.web("true");
    drop(token);
    assert!(rig.get(WEB, GATEWAY).await.is_ok());
}

#[tokio::test]
async fn a_drain_ends_streams_well() {
    let mut rig = rig().await;
    rig.web("true");
    let mut stream = rig.get(WEB, PLAIN).await.unwrap();
    let drained = rig.drain.drain(Duration::from_secs(5));
    let (end, drained) = tokio::join!(next(&mut stream), drained);
    assert!(end.unwrap().is_none(), "the end is OK, so that the client comes back");
    drop(rig.client);
    rig.server.await.unwrap().unwrap();
    assert_eq!(drained, drain::Drained::Complete);
}

#[tokio::test]
async fn streams_are_counted() {
    let mut rig = rig().await;
    rig.web("true");
    rig.endpoints(&["10.0.0.1"]);
    let mut stream = rig.get(WEB, PLAIN).await.unwrap();
    change(&mut stream).await;
    let text = String::from_utf8(mesh_process::metrics::encode(&rig.registry)).unwrap();
    let labels =
        "{cluster=\"local\",hostname=\"\",namespace=\"shop\",port=\"80\",service=\"web\"} 1";
    for family in ["endpoints_subscribers", "endpoints_updates"] {
        assert!(text.contains(&format!("{family}{labels}")), "{text}");
    }
    drop(stream);
    assert!(rig.get("missing.shop.svc.cluster.local:1", PLAIN).await.is_err());
    let empty = async {
        while !rig.registry.gather().iter().all(|family| family.get_metric().is_empty()) {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(5), empty).await.expect("series go with their last stream");
}
