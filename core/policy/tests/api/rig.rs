//! # A policy controller in the test's process
//!
//! Job: both services on a loopback port over empty indexes. Callers: the contract tests.

use mesh_model::inbound::DefaultPolicy;
use mesh_policy::{Config, InboundIndex, OutboundIndex, serve::Policies};
use mesh_process::{drain, ready::Readiness};
use parking_lot::Mutex;
use std::{sync::Arc, time::Duration};
use tokio::{net::TcpListener, time::timeout};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Status, Streaming,
    transport::{Channel, Endpoint},
};

pub(crate) struct Rig {
    pub(crate) inbound: Arc<Mutex<InboundIndex>>,
    pub(crate) outbound: Arc<Mutex<OutboundIndex>>,
    pub(crate) readiness: Readiness,
    pub(crate) drain: drain::Signal,
    pub(crate) channel: Channel,
}

pub(crate) async fn rig() -> Rig {
    let config = Arc::new(Config {
        grpc_addr: "127.0.0.1:0".parse().unwrap(),
        admin_addr: "127.0.0.1:0".parse().unwrap(),
        control_plane_namespace: "linkerd".into(),
        identity_domain: "cluster.local".into(),
        cluster_domain: "cluster.local".into(),
        cluster_networks: vec!["10.0.0.0/8".parse().unwrap()],
        probe_networks: vec!["0.0.0.0/0".parse().unwrap()],
        default_policy: DefaultPolicy::AllUnauthenticated,
        default_opaque_ports: Default::default(),
    });
    let inbound = Arc::new(Mutex::new(InboundIndex::new(config.clone())));
    let outbound = Arc::new(Mutex::new(OutboundIndex::new(config.clone())));
    let readiness = Readiness::new();
    let (signal, watch) = drain::channel();
    let policies =
        Policies::new(config, inbound.clone(), outbound.clone(), readiness.clone(), watch);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(policies.run(TcpListenerStream::new(listener)));
    let channel = Endpoint::from_shared(url).unwrap().connect().await.unwrap();
    Rig { inbound, outbound, readiness, drain: signal, channel }
}

pub(crate) fn of<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// The next message, which must come soon.
pub(crate) async fn next<T>(stream: &mut Streaming<T>) -> Result<Option<T>, Status> {
    timeout(Duration::from_secs(5), stream.message()).await.expect("a message within 5 s")
}
