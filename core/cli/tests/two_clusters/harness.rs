//! The stage: one `mesh demo` for all tests of this binary, which ends when the binary does.

use http::Uri;
use k8s_openapi::api::core::v1::{Endpoints, Pod, Service};
use kube::{
    Api, Client, Config,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use mesh_demo::client::{self, Protocol, Target};
use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Mutex, OnceLock},
    time::{Duration, Instant},
};

/// Longest that anything may take before a test gives up.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
pub(crate) const EXPORTED: &str = "mirror.linkerd.io/exported";

/// The demo while it is up.
pub(crate) struct Demo {
    /// Its standard input: closing it, also by the death of this process, ends the demo.
    _tether: ChildStdin,
    _child: Child,
    _dir: tempfile::TempDir,
    pub(crate) data: PathBuf,
    /// The explicit proxy of the client Pod in west: a replaced Pod has another address.
    pub(crate) proxy: Mutex<SocketAddr>,
}

/// The demo, started by the first test that asks.
pub(crate) fn demo() -> &'static Demo {
    static DEMO: OnceLock<Demo> = OnceLock::new();
    DEMO.get_or_init(start)
}

fn start() -> Demo {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("demo");
    let mut child = Command::new(env!("CARGO_BIN_EXE_mesh"))
        .args(["demo", "--until-eof", "--data-dir"])
        .arg(&data)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut notes = child.stderr.take().unwrap();
    let notes = std::thread::spawn(move || {
        let mut text = String::new();
        notes.read_to_string(&mut text).unwrap();
        text
    });
    let mut said = String::new();
    let mut proxy = None;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        said += &format!("{line}\n");
        if let Some(rest) = line.strip_prefix("curl -x http://") {
            proxy = rest.split(' ').next().and_then(|a| a.parse().ok());
        }
        if proxy.is_some() && line.contains("mc gateways") {
            break;
        }
    }
    let Some(proxy) = proxy else {
        panic!("the demo did not come up:\n{said}\n{}", notes.join().unwrap());
    };
    println!("{said}");
    Demo {
        _tether: child.stdin.take().unwrap(),
        _child: child,
        _dir: dir,
        data,
        proxy: Mutex::new(proxy),
    }
}

/// One of the two clusters, over its API.
pub(crate) struct Cluster {
    pub(crate) client: Client,
    pub(crate) kubeconfig: PathBuf,
}

impl Cluster {
    pub(crate) async fn open(name: &str) -> Self {
        let kubeconfig = demo().data.join("sandbox").join(name).join("kubeconfig");
        let file = Kubeconfig::read_from(&kubeconfig).unwrap();
        let config =
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.unwrap();
        Self { client: Client::try_from(config).unwrap(), kubeconfig }
    }

    pub(crate) fn services(&self) -> Api<Service> {
        Api::namespaced(self.client.clone(), "demo")
    }

    pub(crate) fn endpoints(&self) -> Api<Endpoints> {
        Api::namespaced(self.client.clone(), "demo")
    }

    pub(crate) fn pods(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// A Service in front of the demo's `echo`.
    pub(crate) async fn add_service(&self, name: &str, labels: Value) {
        let service = json!({
            "metadata": { "name": name, "labels": labels, "annotations": { "config.linkerd.io/opaque-ports": "9090" } },
            "spec": {
                "selector": { "app": "echo" },
                "ports": [
                    { "name": "http", "port": 80, "targetPort": "http" },
                    { "name": "tcp", "port": 9090, "targetPort": "tcp" },
                ],
            },
        });
        self.services()
            .create(&PostParams::default(), &serde_json::from_value(service).unwrap())
            .await
            .unwrap();
    }

    pub(crate) async fn patch_service(&self, name: &str, patch: Value) {
        self.services().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    pub(crate) async fn label(&self, name: &str, value: Option<&str>) {
        self.patch_service(name, json!({ "metadata": { "labels": { EXPORTED: value } } })).await;
    }

    pub(crate) async fn delete_service(&self, name: &str) {
        self.services().delete(name, &DeleteParams::default()).await.unwrap();
    }

    pub(crate) async fn ready_address(&self, name: &str) -> Option<String> {
        let endpoints = self.endpoints().get_opt(name).await.unwrap()?;
        let subset = endpoints.subsets?.into_iter().next()?;
        let port = subset.ports?.first()?.port;
        Some(format!("{}:{port}", subset.addresses?.first()?.ip))
    }

    pub(crate) async fn pod_of(&self, namespace: &str, app: &str) -> Pod {
        let list = self
            .pods(namespace)
            .list(&ListParams::default().labels(&format!("app={app}")))
            .await
            .unwrap();
        list.items.into_iter().next().unwrap()
    }
}

/// Output of a `mesh` verb; panics with its words if it failed.
pub(crate) fn mesh(args: &[&str], kubeconfig: &Path) -> String {
    let (ok, out, err) = try_mesh(args, kubeconfig);
    assert!(ok, "mesh {args:?}:\n{out}\n{err}");
    out
}

/// Whether a verb succeeded, with what it printed.
pub(crate) fn try_mesh(args: &[&str], kubeconfig: &Path) -> (bool, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_mesh"))
        .args(args)
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

/// A request target through west's client Pod.
pub(crate) fn through(host: &str, path: &str, protocol: Protocol) -> Target {
    let uri: Uri = format!("http://{host}{path}").parse().unwrap();
    Target {
        uri,
        proxy: Some(*demo().proxy.lock().unwrap()),
        protocol,
        source: None,
        timeout: Duration::from_secs(60),
    }
}

/// Polls every 5 ms until `done` gives a value; the time since `since` is in it for the caller to take.
pub(crate) async fn eventually<T>(what: &str, mut done: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    let mut tick = tokio::time::interval(Duration::from_millis(5));
    loop {
        tick.tick().await;
        if let Some(value) = done().await {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {LIMIT:?} for {what}");
    }
}

/// Polls a name in west every 5 ms until it answers 200; gives the statuses seen before with their bodies.
pub(crate) async fn first_200(host: String) -> Vec<(u16, String)> {
    let mut client = client::Client::new(through(&host, "/", Protocol::Http1));
    let mut before = Vec::new();
    let deadline = Instant::now() + LIMIT;
    let mut tick = tokio::time::interval(Duration::from_millis(5));
    loop {
        tick.tick().await;
        match client.get().await {
            Ok(answer) if answer.status.as_u16() == 200 => return before,
            Ok(answer) => {
                let body = String::from_utf8_lossy(&answer.body).into_owned();
                before.push((answer.status.as_u16(), body));
            }
            Err(error) => before.push((0, error.to_string())),
        }
        assert!(
            Instant::now() < deadline,
            "no 200 from {host} within {LIMIT:?}: {:?}",
            before.last()
        );
    }
}

/// The middle of some times.
pub(crate) fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
