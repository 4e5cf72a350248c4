//! # What a subscriber costs
//!
//! Job: many `Destination.Get` streams that nothing happens on, each on a connection of its own and a hundred on one, over mutual
//! TLS as proxies have it: the anonymous memory that the process grows by.
//! May touch: as the parent. Callers: the test runner.

use super::{Running, TRUST, World, account, ready};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::{
    core::v1::{Namespace, Service},
    discovery::v1::EndpointSlice,
};
use kube::{Api, Client, api::PostParams};
use linkerd2_proxy_api::destination::{
    GetDestination, Update, destination_client::DestinationClient,
};
use mesh_meshtls::{Credentials, Params, TlsTarget, connect};
use mesh_pki::{Csr, Issuer, Key, LeafPolicy, TrustBundle};
use serde_json::{Value, json};
use std::{
    fs,
    time::{Duration, SystemTime},
};
use tokio::net::TcpStream;
use tonic::{
    Streaming,
    transport::{Channel, Endpoint},
};

const SUBSCRIBERS: usize = 200;
const A_CONNECTION: usize = 100;
/// What Linkerd's controller needs of resident memory, measured: with others on a connection, and on its own.
const MOST_KIB: [u64; 2] = [29, 57];

/// A proxy that asks, with a certificate of the cluster's issuer.
struct Proxy {
    credentials: Credentials,
    addr: String,
}

impl Proxy {
    fn new(world: &World, anchors: &str) -> Self {
        let mount = world.folder.path().join("a/var/run/linkerd/identity/issuer");
        let file = |name: &str| fs::read(mount.join(name)).unwrap();
        let issuer = Issuer::from_pem(&file("crt.pem"), &file("key.pem")).unwrap();
        let name = format!("client.shop.serviceaccount.identity.linkerd.{TRUST}");
        let params = Params {
            local: name.parse().unwrap(),
            server_name: name.parse().unwrap(),
            anchors: TrustBundle::from_pem(anchors.as_bytes()).unwrap(),
            key: Key::generate().unwrap(),
            csr: None,
        };
        let credentials = Credentials::new(params).unwrap();
        let csr = Csr::from_der(&credentials.csr()).unwrap().check(credentials.local()).unwrap();
        let policy = LeafPolicy { lifetime: Duration::from_secs(3600), clock_skew: Duration::ZERO };
        let leaf = issuer.issue(&csr, policy, SystemTime::now()).unwrap();
        let between: Vec<_> = leaf.intermediates.iter().map(|der| der.to_vec()).collect();
        credentials.install(&leaf.leaf, &between, SystemTime::now()).unwrap();
        Self { credentials, addr: format!("{}:8086", world.ips[1]) }
    }

    async fn channel(&self) -> Channel {
        let (credentials, addr) = (self.credentials.clone(), self.addr.clone());
        let name = account("linkerd-destination");
        let target = TlsTarget { id: name.parse().unwrap(), server_name: name.parse().unwrap() };
        let dial = tower::service_fn(move |_| {
            let (credentials, addr, target) = (credentials.clone(), addr.clone(), target.clone());
            async move {
                let stream = TcpStream::connect(addr).await?;
                let connected = connect(stream, &credentials, &target, false).await;
                connected.map(|c| TokioIo::new(c.io)).map_err(std::io::Error::other)
            }
        });
        Endpoint::from_static("http://destination").connect_with_connector(dial).await.unwrap()
    }

    /// Streams on one connection that have had their first answer.
    async fn subscribe(&self, streams: usize) -> Vec<Streaming<Update>> {
        let mut client = DestinationClient::new(self.channel().await);
        let mut open = Vec::with_capacity(streams);
        for _ in 0..streams {
            let path = "web.shop.svc.cluster.local:80".to_owned();
            let asked = GetDestination { path, ..GetDestination::default() };
            let mut stream = client.get(asked).await.unwrap().into_inner();
            assert!(stream.message().await.unwrap().unwrap().update.is_some());
            open.push(stream);
        }
        open
    }
}

async fn service_with_endpoints(client: &Client) {
    let post = PostParams::default();
    let object = |value: Value| serde_json::from_value(value).unwrap();
    let namespace = json!({"metadata": {"name": "shop"}});
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces.create(&post, &serde_json::from_value(namespace).unwrap()).await.unwrap();
    let service: Service = serde_json::from_value(json!({
        "metadata": {"name": "web"}, "spec": {"ports": [{"name": "http", "port": 80}]},
    }))
    .unwrap();
    Api::namespaced(client.clone(), "shop").create(&post, &service).await.unwrap();
    let slice: EndpointSlice = object(json!({
        "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}],
        "endpoints": [{"addresses": ["10.1.1.1"], "conditions": {"ready": true}}],
    }));
    Api::namespaced(client.clone(), "shop").create(&post, &slice).await.unwrap();
}

/// Asks until the memory stands still: what is closed is given back soon, not at once.
async fn settled(process: &Running) -> u64 {
    let mut last = process.anonymous();
    loop {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let now = process.anonymous();
        if now.abs_diff(last) < 64 {
            return now;
        }
        last = now;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_subscriber_costs_little() {
    let world = World::new().await;
    let kubeconfig = world.api.admin_kubeconfig();
    let client = mesh_cluster::client::from_kubeconfig_text(&kubeconfig).await.unwrap();
    service_with_endpoints(&client).await;
    let anchors = world.material();
    let (mut identity, mut destination) = world.control_plane(&anchors).await;
    ready(&format!("{}:9990", world.ips[1])).await;
    let proxy = Proxy::new(&world, &anchors);
    drop(proxy.subscribe(A_CONNECTION).await);
    let mut kib = Vec::new();
    // Those that need less first: what they leave is used again.
    for each in [A_CONNECTION, 1] {
        let before = settled(&destination).await;
        let mut open = Vec::new();
        for _ in 0..SUBSCRIBERS / each {
            open.extend(proxy.subscribe(each).await);
        }
        let grown = settled(&destination).await.saturating_sub(before);
        kib.push(grown / SUBSCRIBERS as u64);
        drop(open);
    }
    println!("KiB a subscriber: {} with others, {} on its own connection", kib[0], kib[1]);
    assert!(kib.iter().zip(MOST_KIB).all(|(kib, most)| *kib <= most), "{kib:?}");
    assert_eq!(destination.terminate().await, Some(0));
    assert_eq!(identity.terminate().await, Some(0));
    world.api.shutdown().await;
}
