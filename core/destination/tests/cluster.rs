//! # Destination against an API server
//!
//! Job: what is created through the API reaches a subscriber, at once, in all watched kinds.
//! Callers: `cargo test`.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use k8s_openapi::api::{
    apps::v1::ReplicaSet,
    core::v1::{Node, Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
    core::{DeserializeGuard, PartialObjectMeta},
    runtime::watcher,
};
use mesh_cluster::watch::{self, Index};
use mesh_destination::{Config, DestinationIndex, index::EndpointsKey};
use mesh_model::authority::ServiceName;
use mesh_process::ready::Readiness;
use mesh_sandbox::api::{ApiConfig, ApiServer};
use parking_lot::Mutex;
use serde_json::json;
use std::{num::NonZeroU16, sync::Arc, time::Duration};
use tokio::time::timeout;

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

async fn client(server: &ApiServer) -> Client {
    let kubeconfig = kube::config::Kubeconfig::from_yaml(&server.admin_kubeconfig()).unwrap();
    let options = kube::config::KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
    Client::try_from(config).unwrap()
}

fn follow<K>(client: &Client, index: &Arc<Mutex<DestinationIndex>>, readiness: &Readiness)
where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + Send + 'static,
    K: serde::de::DeserializeOwned,
    DestinationIndex: Index<K>,
{
    let api: Api<DeserializeGuard<K>> = Api::all(client.clone());
    let ready = readiness.block(K::kind(&()));
    watch::spawn(api, watcher::Config::default(), index.clone(), ready);
}

fn of<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> T {
    serde_json::from_value(value).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_api_server_holds_reaches_a_subscriber() {
    let folder = tempfile::tempdir().unwrap();
    let bind = "127.0.0.1:0".parse().unwrap();
    let server = ApiServer::start(ApiConfig::new("east", folder.path(), bind)).await.unwrap();
    let client = client(&server).await;
    let index = Arc::new(Mutex::new(DestinationIndex::new(Arc::new(config()))));
    let readiness = Readiness::new();
    follow::<Service>(&client, &index, &readiness);
    follow::<EndpointSlice>(&client, &index, &readiness);
    follow::<Pod>(&client, &index, &readiness);
    follow::<PartialObjectMeta<Node>>(&client, &index, &readiness);
    follow::<PartialObjectMeta<ReplicaSet>>(&client, &index, &readiness);
    timeout(Duration::from_secs(10), readiness.ready()).await.unwrap();

    let services: Api<Service> = Api::namespaced(client.clone(), "default");
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), "default");
    let post = PostParams::default();
    let web = of(json!({
        "metadata": {"name": "web"},
        "spec": {"ports": [{"name": "http", "port": 80}]},
    }));
    services.create(&post, &web).await.unwrap();
    let service = ServiceName { namespace: "default".into(), name: "web".into() };
    let port = NonZeroU16::new(80).unwrap();
    let selector = "mirror.linkerd.io/exported=true".parse().unwrap();
    let key = EndpointsKey { service, port, instance: None, export: Some(Arc::new(selector)) };
    let mut view = index.lock().endpoints(key);
    assert!(view.borrow().is_err(), "not exported yet");

    let slice = of(json!({
        "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080}],
        "endpoints": [{"addresses": ["203.0.113.1"]}],
    }));
    slices.create(&post, &slice).await.unwrap();
    let label = json!({"metadata": {"labels": {"mirror.linkerd.io/exported": "true"}}});
    services.patch("web", &PatchParams::default(), &Patch::Merge(label)).await.unwrap();
    let seen = view.wait_for(|view| view.as_ref().is_ok_and(|v| v.endpoints.len() == 1));
    let seen = timeout(Duration::from_secs(10), seen).await.unwrap().unwrap().clone().unwrap();
    assert_eq!(seen.endpoints.keys().next().unwrap().to_string(), "203.0.113.1:8080");

    services.delete("web", &Default::default()).await.unwrap();
    let gone = timeout(Duration::from_secs(10), view.wait_for(Result::is_err)).await;
    assert!(gone.unwrap().is_ok());
    server.shutdown().await;
}
