//! # Contract tests
//!
//! Job: the mirror between two API servers: exports, edits, faults, restarts, as an operator sees them.
//! May touch: loopback, temporary folders. Must not touch: the index directly. Callers: cargo.

use super::*;
use bytes::Bytes;
use futures::future::BoxFuture;
use http_body_util::Empty;
use hyper::{Response, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::{
    api::{
        coordination::v1::Lease,
        core::v1::{Event, Secret},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Resource, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    core::NamespaceResourceScope,
};
use mesh_k8s::{annotations, link::Link, names};
use mesh_link::probe::{Failure, dial::Stream};
use mesh_model::identity::Identity;
use mesh_sandbox::api::{ApiConfig, ApiServer};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::{
    convert::Infallible,
    fmt::Debug,
    io::{Read, Write},
    net::SocketAddr,
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};
use tokio::task::JoinHandle;

/// A gateway in memory. 0: refuses connections.
#[derive(Clone)]
struct Gate(Arc<AtomicU16>);

impl Dial for Gate {
    fn dial(&self, _: SocketAddr, _: &Identity) -> BoxFuture<'static, Result<Stream, Failure>> {
        let status = self.0.clone();
        Box::pin(async move {
            if status.load(Ordering::SeqCst) == 0 {
                return Err(Failure::Tcp("connection refused".into()));
            }
            let (ours, theirs) = tokio::io::duplex(65536);
            let answer = service_fn(move |_| {
                let code = status.load(Ordering::SeqCst).max(100);
                async move {
                    Ok::<_, Infallible>(
                        Response::builder().status(code).body(Empty::<Bytes>::new()).unwrap(),
                    )
                }
            });
            tokio::spawn(async move {
                http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(theirs), answer)
                    .await
            });
            Ok(Box::new(ours) as Stream)
        })
    }
}

/// A cluster: its API alone.
struct Cluster {
    server: ApiServer,
    client: Client,
    _folder: tempfile::TempDir,
}

impl Cluster {
    async fn start(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = ApiConfig::new(name, folder.path(), "127.0.0.1:0".parse().unwrap());
        let server = ApiServer::start(config).await.unwrap();
        let client =
            mesh_cluster::client::from_kubeconfig_text(&server.admin_kubeconfig()).await.unwrap();
        Self { server, client, _folder: folder }
    }

    fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), "web")
    }

    async fn create<K>(&self, object: Value)
    where
        K: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned,
    {
        let object: K = serde_json::from_value(object).unwrap();
        let url = K::url_path(&(), object.meta().namespace.as_deref());
        let request = kube::core::Request::new(url)
            .create(&PostParams::default(), serde_json::to_vec(&object).unwrap());
        self.client.request::<Value>(request.unwrap()).await.unwrap();
    }

    async fn namespace(&self, name: &str) {
        self.create::<Namespace>(
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}),
        )
        .await;
    }

    /// A Service with one ready Pod behind it.
    async fn service(&self, name: &str, exported: bool) {
        let labels =
            if exported { json!({"mirror.linkerd.io/exported": "true"}) } else { json!({}) };
        self.create::<Service>(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "web", "labels": labels},
            "spec": {"ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
        }))
        .await;
        self.create::<Endpoints>(json!({
            "apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": name, "namespace": "web"},
            "subsets": [{"addresses": [{"ip": "10.1.1.1"}], "ports": [{"name": "http", "port": 8080}]}],
        }))
        .await;
    }

    async fn label(&self, name: &str, value: Value) {
        let patch = json!({"metadata": {"labels": {"mirror.linkerd.io/exported": value}}});
        self.api::<Service>()
            .patch(name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .unwrap();
    }
}

/// East exports, west imports; both know namespace `web` unless told otherwise.
struct Pair {
    east: Cluster,
    west: Cluster,
    gate: Gate,
}

struct Mirror {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Mirror {
    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

impl Pair {
    async fn start() -> Self {
        let (east, west) = (Cluster::start("east").await, Cluster::start("west").await);
        east.namespace("web").await;
        west.namespace("web").await;
        west.namespace("mc").await;
        west.create::<CustomResourceDefinition>(crd()).await;
        let pair = Self { east, west, gate: Gate(Arc::new(AtomicU16::new(200))) };
        pair.until("the Link kind is served", async || {
            Api::<Link>::all(pair.west.client.clone()).list(&ListParams::default()).await.is_ok()
        })
        .await;
        pair.credentials(&pair.east.server.admin_kubeconfig()).await;
        pair.link().await;
        pair
    }

    async fn credentials(&self, kubeconfig: &str) {
        let api: Api<Secret> = Api::namespaced(self.west.client.clone(), "mc");
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "type": names::CREDENTIALS_TYPE,
            "metadata": {"name": "cluster-credentials-east", "namespace": "mc"},
            "stringData": {"kubeconfig": kubeconfig},
        });
        let params = PatchParams::apply("test").force();
        api.patch("cluster-credentials-east", &params, &Patch::Apply(&secret)).await.unwrap();
    }

    async fn link(&self) {
        self.west
            .create::<Link>(json!({
                "apiVersion": "multicluster.linkerd.io/v1alpha3", "kind": "Link",
                "metadata": {"name": "east", "namespace": "mc"},
                "spec": {
                    "targetClusterName": "east", "targetClusterDomain": "cluster.local",
                    "targetClusterLinkerdNamespace": "linkerd", "clusterCredentialsSecret": "cluster-credentials-east",
                    "gatewayAddress": "203.0.113.7", "gatewayPort": "4143", "gatewayIdentity": "gw.mc.serviceaccount.identity.linkerd.cluster.local",
                    "probeSpec": {"path": "/ready", "port": "4191", "period": "200ms", "timeout": "1s", "failureThreshold": "3"},
                    "selector": {"matchLabels": {"mirror.linkerd.io/exported": "true"}},
                },
            }))
            .await;
    }

    fn mirror(&self, identity: &str) -> Mirror {
        let args = ["-namespace=mc", "-metrics-addr=127.0.0.1:0"].map(Into::into);
        let name = identity.to_owned();
        let config =
            Config::parse(&args, move |v| (v == "HOSTNAME").then(|| name.clone())).unwrap();
        let (client, dial, stop) =
            (self.west.client.clone(), Arc::new(self.gate.clone()), CancellationToken::new());
        let ended = stop.clone();
        let task = tokio::spawn(async move {
            let (registry, readiness) = (Registry::new(), Readiness::new());
            mirror(config, &PodContext::default(), client, dial, registry, readiness, ended)
                .await
                .unwrap();
        });
        Mirror { stop, task }
    }

    /// Waits for a condition; every wait here has the same generous deadline.
    async fn until(&self, what: &str, good: impl AsyncFn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !good().await {
            assert!(Instant::now() < deadline, "never: {what}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn endpoints(&self, name: &str) -> Option<Endpoints> {
        self.west.api::<Endpoints>().get_opt(name).await.unwrap()
    }

    async fn has_ready(&self, name: &str) -> bool {
        let found = self.endpoints(name).await;
        found.iter().flat_map(|e| e.subsets.iter().flatten()).any(|s| s.addresses.is_some())
    }

    async fn status(&self) -> Value {
        let link =
            Api::<Link>::namespaced(self.west.client.clone(), "mc").get("east").await.unwrap();
        serde_json::to_value(link.status.unwrap_or_default()).unwrap()["mirrorServices"].clone()
    }

    async fn lease(&self) -> Lease {
        let api: Api<Lease> = Api::namespaced(self.west.client.clone(), "mc");
        api.get_opt("service-mirror-write-east").await.unwrap().unwrap_or_default()
    }

    async fn versions(&self) -> Vec<(String, Option<String>)> {
        let services = self.west.api::<Service>().list(&ListParams::default()).await.unwrap();
        let endpoints = self.west.api::<Endpoints>().list(&ListParams::default()).await.unwrap();
        let links = Api::<Link>::namespaced(self.west.client.clone(), "mc")
            .list(&ListParams::default())
            .await
            .unwrap();
        let services =
            services.iter().map(|o| (format!("s/{}", o.name_any()), o.resource_version()));
        let endpoints =
            endpoints.iter().map(|o| (format!("e/{}", o.name_any()), o.resource_version()));
        let links = links.iter().map(|o| (format!("l/{}", o.name_any()), o.resource_version()));
        services.chain(endpoints).chain(links).collect()
    }
}

fn crd() -> Value {
    let version = |name: &str, storage: bool| {
        json!({
            "name": name, "served": true, "storage": storage, "subresources": {"status": {}},
            "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
        })
    };
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "links.multicluster.linkerd.io"},
        "spec": {
            "group": "multicluster.linkerd.io", "scope": "Namespaced",
            "names": {"kind": "Link", "listKind": "LinkList", "plural": "links", "singular": "link"},
            "versions": [version("v1alpha1", false), version("v1alpha2", false), version("v1alpha3", true)],
        },
    })
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

// proves: MIR-2, MIR-3, MIR-4, MIR-13, STA-1
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exports_appear_follow_and_go() {
    let pair = Pair::start().await;
    let mirror = pair.mirror("pod-1");
    pair.east.service("warm", true).await;
    pair.until("the first mirror", async || pair.has_ready("warm-east").await).await;
    pair.east.service("echo", false).await;
    let (mut made, mut gone) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        pair.east.label("echo", json!("true")).await;
        let start = Instant::now();
        pair.until("the mirror", async || pair.has_ready("echo-east").await).await;
        made.push(start.elapsed());
        pair.east.label("echo", json!(null)).await;
        let start = Instant::now();
        pair.until("its end", async || {
            pair.west.api::<Service>().get_opt("echo-east").await.unwrap().is_none()
        })
        .await;
        gone.push(start.elapsed());
    }
    println!("export {:?}, unexport {:?} (medians of 20)", median(made), median(gone));
    pair.east.label("echo", json!("true")).await;
    pair.until("the status", async || {
        let status = pair.status().await;
        status.as_array().is_some_and(|all| {
            all.iter()
                .any(|e| e["remoteRef"]["name"] == "echo" && e["conditions"][0]["status"] == "True")
        })
    })
    .await;
    let patch = json!({"metadata": {"labels": {"tier": "gold"}}, "spec": {"ports": [{"name": "http", "port": 80, "targetPort": 8080}, {"name": "x", "port": 81}]}});
    pair.east
        .api::<Service>()
        .patch("echo", &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .unwrap();
    // The status that was just seen may be that of the export before: the mirror may still be on its way.
    pair.until("the edit", async || {
        let service = pair.west.api::<Service>().get_opt("echo-east").await.unwrap();
        let (Some(service), Some(endpoints)) = (service, pair.endpoints("echo-east").await) else {
            return false;
        };
        let ports =
            endpoints.subsets.iter().flatten().flat_map(|s| s.ports.iter().flatten()).count();
        service.labels().get("tier").is_some_and(|v| v == "gold") && ports == 2
    })
    .await;
    mirror.end().await;
}

// proves: MIR-13, STA-1
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_exports_at_once_all_land() {
    let pair = Pair::start().await;
    let mirror = pair.mirror("pod-1");
    pair.east.service("warm", true).await;
    pair.until("the first mirror", async || pair.has_ready("warm-east").await).await;
    for n in 0..300 {
        pair.east.service(&format!("s{n}"), false).await;
    }
    let start = Instant::now();
    for n in 0..300 {
        pair.east.label(&format!("s{n}"), json!("true")).await;
    }
    let labelled = start.elapsed();
    pair.until("all mirrors", async || {
        let all = pair.west.api::<Endpoints>().list(&ListParams::default()).await.unwrap();
        all.iter().filter(|e| e.subsets.is_some()).count() == 301
    })
    .await;
    println!("300 exports: labelled in {labelled:?}, all mirrored in {:?}", start.elapsed());
    pair.until("all statuses", async || {
        pair.status().await.as_array().is_some_and(|a| a.len() == 301)
    })
    .await;
    mirror.end().await;
}

// proves: MIR-8
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_namespace_is_told_in_both_clusters() {
    let pair = Pair::start().await;
    let namespaces: Api<Namespace> = Api::all(pair.west.client.clone());
    namespaces.delete("web", &DeleteParams::default()).await.unwrap();
    let mirror = pair.mirror("pod-1");
    pair.east.service("echo", true).await;
    pair.until("the status", async || {
        pair.status().await[0]["conditions"][0]["reason"] == "MissingNamespace"
    })
    .await;
    pair.until("the Event", async || {
        let events = pair.east.api::<Event>().list(&ListParams::default()).await.unwrap();
        events.iter().any(|e| {
            e.reason.as_deref() == Some("ServiceMirroringSkipped")
                && e.message.as_deref()
                    == Some("Skipped mirroring service: namespace does not exist")
                && e.involved_object.name.as_deref() == Some("echo")
        })
    })
    .await;
    // Without controllers nobody finalises the old one.
    pair.until("the namespace is free", async || {
        let finalize = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "web"}, "spec": {"finalizers": []}});
        let request = http::Request::put("/api/v1/namespaces/web/finalize").body(serde_json::to_vec(&finalize).unwrap()).unwrap();
        let _ = pair.west.client.request::<Value>(request).await;
        namespaces.get_opt("web").await.unwrap().is_none()
    })
    .await;
    pair.west.namespace("web").await;
    pair.until("the mirror", async || pair.has_ready("echo-east").await).await;
    pair.until("the status", async || pair.status().await[0]["conditions"][0]["status"] == "True")
        .await;
    mirror.end().await;
}

// proves: MIR-5, MIR-12, STA-3
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_mirror_writes_nothing_that_stands_and_finds_orphans() {
    let pair = Pair::start().await;
    let first = pair.mirror("pod-1");
    for name in ["a", "b", "c"] {
        pair.east.service(name, true).await;
    }
    pair.until("all statuses", async || {
        pair.status().await.as_array().is_some_and(|a| a.len() == 3)
    })
    .await;
    pair.until("the last status", async || pair.has_ready("c-east").await).await;
    first.end().await;
    assert_eq!(pair.lease().await.spec.unwrap().holder_identity.as_deref(), Some(""), "given back");
    let before = pair.versions().await;
    let second = pair.mirror("pod-2");
    // What comes last proves that all before has been looked at: keys are worked on in order.
    pair.east.service("marker", true).await;
    pair.until("the marker", async || pair.has_ready("marker-east").await).await;
    let after = pair.versions().await;
    for (name, version) in before.iter().filter(|(n, _)| !n.starts_with("l/")) {
        assert!(after.contains(&(name.clone(), version.clone())), "{name} was written");
    }
    second.end().await;
    pair.east.api::<Service>().delete("a", &DeleteParams::default()).await.unwrap();
    let third = pair.mirror("pod-3");
    pair.until("the orphan's end", async || {
        pair.west.api::<Service>().get_opt("a-east").await.unwrap().is_none()
    })
    .await;
    pair.until("its status' end", async || {
        pair.status().await.as_array().is_some_and(|a| a.len() == 3)
    })
    .await;
    third.end().await;
}

// proves: MIR-10
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_of_that_name_stays_whose_it_is() {
    let pair = Pair::start().await;
    pair.west.service("echo-east", false).await;
    let before = pair.west.api::<Service>().get("echo-east").await.unwrap();
    let mirror = pair.mirror("pod-1");
    pair.east.service("echo", true).await;
    pair.until("the status", async || {
        let status = pair.status().await;
        status[0]["conditions"][0]["reason"] == "Error"
            && status[0]["conditions"][0]["message"]
                .as_str()
                .is_some_and(|m| m.contains("is not a mirror"))
    })
    .await;
    assert_eq!(pair.west.api::<Service>().get("echo-east").await.unwrap(), before);
    pair.west.api::<Service>().delete("echo-east", &DeleteParams::default()).await.unwrap();
    pair.west.api::<Endpoints>().delete("echo-east", &DeleteParams::default()).await.unwrap();
    pair.until("the mirror", async || pair.has_ready("echo-east").await).await;
    mirror.end().await;
}

// proves: GWA-2, PRB-2
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_gateways_endpoints_are_withdrawn_and_come_back() {
    let pair = Pair::start().await;
    let mirror = pair.mirror("pod-1");
    pair.east.service("echo", true).await;
    pair.until("the mirror", async || pair.has_ready("echo-east").await).await;
    let note =
        async |key: &str| pair.lease().await.metadata.annotations.unwrap_or_default().remove(key);
    pair.until("alive", async || note(annotations::GATEWAY_ALIVE).await.as_deref() == Some("true"))
        .await;
    assert!(note(annotations::GATEWAY_LATENCY_MS).await.is_some());
    pair.gate.0.store(503, Ordering::SeqCst);
    let start = Instant::now();
    pair.until("withdrawn", async || !pair.has_ready("echo-east").await).await;
    println!("withdrawn after {:?}", start.elapsed());
    pair.until("dead", async || note(annotations::GATEWAY_ALIVE).await.as_deref() == Some("false"))
        .await;
    assert!(note(annotations::GATEWAY_ERROR).await.is_some_and(|e| e.contains("503")));
    pair.gate.0.store(200, Ordering::SeqCst);
    let start = Instant::now();
    pair.until("back", async || pair.has_ready("echo-east").await).await;
    println!("back after {:?}", start.elapsed());
    pair.until("no error", async || note(annotations::GATEWAY_ERROR).await.is_none()).await;
    mirror.end().await;
}

// proves: LNK-5
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_are_followed_and_their_trouble_is_told() {
    let pair = Pair::start().await;
    pair.credentials(&pair.east.server.token_kubeconfig("x", "not-a-token")).await;
    let mirror = pair.mirror("pod-1");
    pair.east.service("echo", true).await;
    let problem = async || {
        pair.lease().await.metadata.annotations.unwrap_or_default().remove(annotations::LINK_ERROR)
    };
    pair.until("the reason on the Lease", async || {
        problem().await.is_some_and(|p| p.contains("token"))
    })
    .await;
    pair.until("the reason in the status", async || {
        let status = pair.status().await;
        status.as_array().is_some_and(|a| a.iter().any(|e| e["remoteRef"]["kind"] == "Secret"))
    })
    .await;
    pair.credentials("{").await;
    pair.until("another reason", async || {
        problem().await.is_some_and(|p| p.contains("kubeconfig"))
    })
    .await;
    pair.credentials(&pair.east.server.admin_kubeconfig()).await;
    pair.until("the mirror", async || pair.has_ready("echo-east").await).await;
    pair.until("no trouble", async || problem().await.is_none()).await;
    mirror.end().await;
}

// proves: LNK-2
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_of_garbage_is_told_and_its_mirrors_stay() {
    let pair = Pair::start().await;
    let mirror = pair.mirror("pod-1");
    pair.east.service("echo", true).await;
    pair.until("the mirror", async || pair.has_ready("echo-east").await).await;
    let links: Api<Link> = Api::namespaced(pair.west.client.clone(), "mc");
    let patch = |port: &str, address: &str| json!({"spec": {"gatewayPort": port, "gatewayAddress": address}});
    links
        .patch("east", &PatchParams::default(), &Patch::Merge(&patch("ninety", "%%")))
        .await
        .unwrap();
    pair.until("the reason", async || {
        let notes = pair.lease().await.metadata.annotations.unwrap_or_default();
        notes
            .get(annotations::LINK_ERROR)
            .is_some_and(|e| e.contains("gatewayPort") && e.contains("gatewayAddress"))
    })
    .await;
    assert!(pair.has_ready("echo-east").await);
    links
        .patch("east", &PatchParams::default(), &Patch::Merge(&patch("4143", "203.0.113.9")))
        .await
        .unwrap();
    pair.until("the new address", async || {
        let endpoints = pair.endpoints("echo-east").await.unwrap();
        serde_json::to_string(&endpoints.subsets).unwrap().contains("203.0.113.9")
    })
    .await;
    mirror.end().await;
}

// proves: PROC-1
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_asks_first_is_told_that_the_mirror_is_not_ready() {
    let silent = tower::service_fn(|_: http::Request<kube::client::Body>| {
        futures::future::pending::<Result<http::Response<kube::client::Body>, Infallible>>()
    });
    let client = Client::new(silent, "mc");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let admin = taken.local_addr().unwrap();
    let args = [format!("-metrics-addr={admin}").into()];
    let config = Config::parse(&args, |v| (v == "HOSTNAME").then(|| "pod-1".into())).unwrap();
    let (readiness, stop) = (Readiness::new(), CancellationToken::new());
    let run = || {
        let (config, client, known, ended) =
            (config.clone(), client.clone(), readiness.clone(), stop.clone());
        let dial = Arc::new(Gate(Arc::default()));
        tokio::spawn(async move {
            mirror(config, &PodContext::default(), client, dial, Registry::new(), known, ended)
                .await
        })
    };
    // The port cannot be opened, yet readiness was held back already: nobody can have seen it before.
    let before = readiness.subscribe();
    run().await.unwrap().unwrap_err();
    assert!(before.has_changed().unwrap(), "ready when the port opens");

    drop(taken);
    let running = run();
    let asking = tokio::task::spawn_blocking(move || ask(admin));
    let answer = tokio::time::timeout(Duration::from_secs(20), asking).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 500"), "{answer}");
    let waiting = ["local services", "local endpoints", "namespaces", "links"];
    assert_eq!(readiness.waiting_for(), waiting);
    stop.cancel();
    running.await.unwrap().unwrap();
}

/// What `/ready` answers as soon as the port is open: the question waits for whoever will answer it.
fn ask(admin: SocketAddr) -> String {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match std::net::TcpStream::connect(admin) {
            Ok(mut io) => {
                io.write_all(b"GET /ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                    .unwrap();
                let mut answer = String::new();
                io.read_to_string(&mut answer).unwrap();
                return answer;
            }
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
    }
}
