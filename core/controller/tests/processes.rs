//! # The control plane as processes
//!
//! Job: identity and destination as child processes against the sandbox's API server: the second gets its
//! certificate from the first, both become ready, and SIGTERM ends them with 0.
//! May touch: child processes it started, loopback sockets. Callers: the test runner.
#![allow(clippy::unwrap_used)]

#[path = "processes/subscribers.rs"]
mod subscribers;

use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::{Api, api::PostParams, core::ObjectMeta};
use mesh_pki::{CaParams, create_issuer, create_root};
use mesh_sandbox::api::{ApiConfig, ApiServer};
use std::{
    fs,
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant, SystemTime},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const BINARY: &str = env!("CARGO_BIN_EXE_mesh-controller");
const TRUST: &str = "cluster.local";

/// Killed with the test, however it ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    async fn terminate(&mut self) -> Option<i32> {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").arg(&pid).status().unwrap().success());
        let start = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code();
            }
            assert!(start.elapsed() < Duration::from_secs(12), "it does not end");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Anonymous resident memory, kB.
    fn anonymous(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }
}

fn output(args: &[&str]) -> Output {
    Command::new(BINARY).args(args).output().unwrap()
}

// proves: SET-1
#[test]
fn bad_command_lines_exit_with_2_and_say_all() {
    let unknown = output(&["tap"]);
    assert_eq!(unknown.status.code(), Some(2));
    let text = String::from_utf8(unknown.stderr).unwrap();
    assert!(text.contains("`tap`") && text.contains("proxy-injector"), "{text}");
    let bad =
        output(&["destination", "-addr=x", "-enable-ipv6=maybe", "-nope", "--log-format", "xml"]);
    assert_eq!(bad.status.code(), Some(2));
    let text = String::from_utf8(bad.stderr).unwrap();
    for part in ["addr=\"x\"", "enable-ipv6=\"maybe\"", "-nope", "log-format=\"xml\""] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn help_and_version_need_no_cluster() {
    let help = output(&["identity", "-help"]);
    assert!(help.status.success());
    let text = String::from_utf8(help.stdout).unwrap();
    assert!(text.contains("identity-issuance-lifetime") && text.contains("log-level"), "{text}");
    let version = output(&["proxy-injector", "--version"]);
    assert!(version.status.success() && version.stdout.starts_with(b"0."));
    // Without a scheme there is nothing to do, as Linkerd's service has it.
    assert_eq!(output(&["identity", "-log-level=error"]).status.code(), Some(0));
}

struct World {
    folder: tempfile::TempDir,
    api: ApiServer,
    ips: [String; 2],
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config =
            ApiConfig::new("east", folder.path().join("api"), "127.0.0.1:0".parse().unwrap());
        let api = ApiServer::start(config).await.unwrap();
        fs::write(folder.path().join("kubeconfig"), api.admin_kubeconfig()).unwrap();
        let client =
            mesh_cluster::client::from_kubeconfig_text(&api.admin_kubeconfig()).await.unwrap();
        let named = |name: &str| ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() };
        let post = PostParams::default();
        let namespace = Namespace { metadata: named("linkerd"), ..Namespace::default() };
        Api::all(client.clone()).create(&post, &namespace).await.unwrap();
        let account =
            ServiceAccount { metadata: named("linkerd-destination"), ..ServiceAccount::default() };
        let accounts: Api<ServiceAccount> = Api::namespaced(client, "linkerd");
        accounts.create(&post, &account).await.unwrap();
        let mut ask = TokenRequest::default();
        ask.spec.audiences = vec!["identity.l5d.io".into()];
        let token =
            accounts.create_token_request("linkerd-destination", &post, &ask).await.unwrap();
        write(&folder.path().join("b/token"), &token.status.unwrap().token);
        // Addresses that no parallel run has, and no other test of this one.
        static WORLDS: AtomicU32 = AtomicU32::new(94);
        let (pid, world) = (std::process::id(), WORLDS.fetch_add(1, Ordering::Relaxed));
        let ip = |last: u32| format!("127.{world}.{}.{}", pid / 120 % 250, pid % 120 * 2 + last);
        Self { folder, api, ips: [ip(1), ip(2)] }
    }

    fn material(&self) -> String {
        let now = SystemTime::now();
        let day = Duration::from_secs(86_400);
        let root = create_root(&CaParams::root("root", now, day)).unwrap();
        let issuer = create_issuer(&root, &CaParams::issuer("issuer", now, day)).unwrap();
        let mount = self.folder.path().join("a/var/run/linkerd/identity");
        write(&mount.join("trust-roots/ca-bundle.crt"), &root.certificate.to_pem());
        write(&mount.join("issuer/crt.pem"), &issuer.certificate.to_pem());
        write(&mount.join("issuer/key.pem"), &issuer.key.to_pem());
        root.certificate.to_pem()
    }

    fn start(&self, pod: usize, args: &[&str], variables: &[(&str, String)]) -> Running {
        let kubeconfig = format!("-kubeconfig={}/kubeconfig", self.folder.path().display());
        let root = self.folder.path().join(["a", "b"][pod]);
        let child = Command::new(BINARY)
            .args(args)
            .arg(kubeconfig)
            .env("MESH_POD_IP", &self.ips[pod])
            .env("MESH_POD_ROOT", root)
            .env("MESH_RESOLVER", "127.0.0.1:53")
            .env("MESH_INTERCEPTION", "none")
            .envs(variables.iter().map(|(k, v)| (k, v)))
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Running(child)
    }

    /// Identity, and destination, which asks it for a certificate.
    async fn control_plane(&self, anchors: &str) -> (Running, Running) {
        let trust = "-identity-trust-domain=cluster.local";
        let identity = self.start(0, &["identity", trust, "-identity-scheme=linkerd.io/tls"], &[]);
        let first = &self.ips[0];
        ready(&format!("{first}:9990")).await;
        let destination = self.start(
            1,
            &["destination", trust, "-default-opaque-ports=25"],
            &[
                ("LINKERD2_PROXY_IDENTITY_LOCAL_NAME", account("linkerd-destination")),
                ("LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS", anchors.to_owned()),
                ("LINKERD2_PROXY_IDENTITY_TOKEN_FILE", "/token".into()),
                ("LINKERD2_PROXY_IDENTITY_SVC_ADDR", format!("{first}:8080")),
                ("LINKERD2_PROXY_IDENTITY_SVC_NAME", account("linkerd-identity")),
            ],
        );
        (identity, destination)
    }
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

async fn get(addr: &str, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(addr).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

async fn ready(addr: &str) {
    let start = Instant::now();
    while !get(addr, "/ready").await.is_ok_and(|a| a.starts_with("HTTP/1.1 200")) {
        assert!(start.elapsed() < Duration::from_secs(20), "{addr} is not ready");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn account(name: &str) -> String {
    format!("{name}.linkerd.serviceaccount.identity.linkerd.{TRUST}")
}

// proves: PROC-1, CTL-2
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn destination_is_certified_by_identity_and_both_drain() {
    let world = World::new().await;
    let anchors = world.material();
    let (mut identity, mut destination) = world.control_plane(&anchors).await;
    let [first, second] = &world.ips;
    for admin in [9996, 9990] {
        ready(&format!("{second}:{admin}")).await;
    }
    for port in [8086, 8090] {
        TcpStream::connect((second.as_str(), port)).await.unwrap();
    }
    let metrics = get(&format!("{first}:9990"), "/metrics").await.unwrap();
    for name in ["issuer_cert_ttl_seconds 8", "process_resident_memory_bytes", "grpc_code=\"OK\""] {
        assert!(metrics.contains(name), "{name} in {metrics}");
    }
    for process in [&identity, &destination] {
        println!("anonymous memory: {} kB", process.anonymous());
        assert!(process.anonymous() <= 15 * 1024);
    }
    assert_eq!(destination.terminate().await, Some(0));
    assert_eq!(identity.terminate().await, Some(0));
    world.api.shutdown().await;
}
