//! # The CNI plugin and its installer
//!
//! The plugin is called as a container runtime calls it, with an API server of the test's own and a network
//! namespace as the Pod's; the installer works on folders of the test.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/net.rs"]
#[allow(dead_code, reason = "shared with the tests of the rules")]
mod net;

use base64::{Engine, prelude::BASE64_STANDARD};
use net::{Namespace, join, with_rights};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

const PATIENCE: Duration = Duration::from_secs(20);
const POD: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
const WORLD: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);

/// A path and the object there.
type Known = (&'static str, fn() -> Value);

/// An API server that knows a few objects, and the kubeconfig for it.
struct Api {
    addr: SocketAddr,
    certificate: String,
}

impl Api {
    fn start(objects: &'static [Known]) -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".into()]).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let config = Arc::new(config);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let connection = rustls::ServerConnection::new(config.clone()).unwrap();
                let mut io = rustls::StreamOwned::new(connection, stream);
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") && io.read(&mut byte).is_ok_and(|n| n > 0) {
                    head.push(byte[0]);
                }
                let head = String::from_utf8_lossy(&head).into_owned();
                let path = head.split(' ').nth(1).unwrap_or_default();
                let found = objects.iter().find(|(at, _)| *at == path);
                let (status, body) = match found {
                    _ if !head.contains("Bearer secret") => {
                        (401, json!({"message": "Unauthorized"}))
                    }
                    Some((_, object)) => (200, object()),
                    None => (404, json!({"message": "not found"})),
                };
                let body = body.to_string();
                let length = body.len();
                let _ = write!(io, "HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n\r\n{body}");
                io.conn.send_close_notify();
                let _ = io.flush();
            }
        });
        Self { addr, certificate: made.cert.pem() }
    }

    fn kubeconfig(&self, path: &Path) {
        let data = BASE64_STANDARD.encode(&self.certificate);
        let text = format!(
            "clusters: [{{name: x, cluster: {{server: 'https://{}', certificate-authority-data: {data}}}}}]\n\
             users: [{{name: y, user: {{token: secret}}}}]\n",
            self.addr
        );
        fs::write(path, text).unwrap();
    }
}

fn meshed() -> Value {
    json!({
        "metadata": {"annotations": {"config.linkerd.io/skip-inbound-ports": "443"}},
        "spec": {"initContainers": [{"name": "linkerd-network-validator"}, {"name": "linkerd-proxy"}],
                 "containers": [{"name": "app"}]},
    })
}

fn plain() -> Value {
    json!({"metadata": {}, "spec": {"containers": [{"name": "app"}]}})
}

const OBJECTS: &[Known] = &[
    ("/api/v1/namespaces/demo/pods/web", meshed),
    ("/api/v1/namespaces/demo/pods/plain", plain),
    ("/api/v1/namespaces/demo", || json!({"metadata": {"annotations": {}}})),
];

fn plugin(command: &str, pod: &str, netns: &str, kubeconfig: &Path) -> Output {
    let config = json!({
        "cniVersion": "1.0.0", "name": "net", "type": "linkerd-cni",
        "kubernetes": {"kubeconfig": kubeconfig},
        "linkerd": {"incoming-proxy-port": 4143, "outgoing-proxy-port": 4140, "proxy-uid": 2102,
                    "inbound-ports-to-ignore": ["4190", "4191"]},
        "prevResult": {"cniVersion": "1.0.0", "ips": [{"address": "10.99.0.2/24"}]},
    });
    let mut child = Command::new(env!("CARGO_BIN_EXE_mesh-cni"))
        .arg("linkerd-cni")
        .env("CNI_COMMAND", command)
        .env("CNI_NETNS", netns)
        .env("CNI_ARGS", format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=demo;K8S_POD_NAME={pod}"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(config.to_string().as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn said(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

/// Who answers at a port of the Pod.
fn serve(pod: &Namespace, port: u16, name: &'static str) {
    let listener = pod.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))).unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.write_all(name.as_bytes());
        }
    });
}

fn hear(world: &Namespace, port: u16) -> String {
    world.run(|| {
        let mut stream = TcpStream::connect_timeout(&(POD, port).into(), PATIENCE).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    })
}

// proves: INIT-10 INIT-11
#[test]
fn the_plugin_sets_the_rules_of_a_pod_with_a_proxy() {
    with_rights("the_plugin_sets_the_rules_of_a_pod_with_a_proxy", || {
        let (pod, world) = (Namespace::new(), Namespace::new());
        join((&pod, POD), (&world, WORLD));
        serve(&pod, 80, "app");
        serve(&pod, 443, "app");
        serve(&pod, 4143, "inbound");
        let folder = tempfile::tempdir().unwrap();
        let kubeconfig = folder.path().join("kubeconfig");
        Api::start(OBJECTS).kubeconfig(&kubeconfig);
        let call = |command, name| plugin(command, name, &pod.path(), &kubeconfig);

        let output = call("ADD", "plain");
        assert!(output.status.success(), "{output:?}");
        assert_eq!(said(&output)["ips"][0]["address"], "10.99.0.2/24");
        assert_eq!(hear(&world, 80), "app");

        let output = call("ADD", "web");
        assert!(output.status.success(), "{output:?}");
        assert_eq!(said(&output)["ips"][0]["address"], "10.99.0.2/24");
        assert_eq!(hear(&world, 80), "inbound");
        assert_eq!(hear(&world, 443), "app");

        let output = call("ADD", "nobody");
        assert_eq!(output.status.code(), Some(1));
        let error = said(&output);
        assert_eq!((&error["cniVersion"], &error["code"]), (&json!("1.0.0"), &json!(11)));
        assert!(error["msg"].as_str().unwrap().contains("404"), "{error}");
        for command in ["CHECK", "DEL", "GC", "STATUS"] {
            let output = call(command, "web");
            assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
        }
        assert_eq!(hear(&world, 80), "inbound");
    });
}

// proves: INIT-10
#[test]
fn the_plugin_answers_in_json_also_when_it_is_asked_wrongly() {
    let nowhere = Path::new("/nowhere/kubeconfig");
    let version = said(&plugin("VERSION", "web", "", nowhere));
    assert!(version["supportedVersions"].as_array().unwrap().contains(&json!("1.1.0")));
    let output = plugin("ADD", "web", "/proc/self/ns/net", nowhere);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output)["msg"].as_str().unwrap().contains("DaemonSet linkerd-cni"), "{output:?}");
    assert_eq!(said(&plugin("JUMP", "web", "", nowhere))["code"], 4);
}

/// The installer on folders that stand for a node's.
struct Installer {
    child: Child,
    folder: tempfile::TempDir,
}

impl Installer {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        for path in ["host/opt/cni/bin", "host/etc/cni/net.d", "account"] {
            fs::create_dir_all(at(path)).unwrap();
        }
        fs::write(at("account/token"), "first").unwrap();
        fs::write(at("account/ca.crt"), "pem").unwrap();
        let list = json!({"cniVersion": "0.3.1", "name": "net", "plugins": [{"type": "bridge"}]});
        fs::write(at("host/etc/cni/net.d/10-net.conflist"), list.to_string()).unwrap();
        let template = r#"{"name": "linkerd-cni", "type": "linkerd-cni",
                           "kubernetes": {"kubeconfig": "__KUBECONFIG_FILEPATH__"}}"#;
        let child = Command::new(env!("CARGO_BIN_EXE_mesh-cni"))
            .arg("install-cni")
            .env("CONTAINER_MOUNT_PREFIX", at("host"))
            .env("CONTAINER_CNI_BIN_DIR", at("none"))
            .env("SERVICEACCOUNT_PATH", at("account"))
            .env("KUBERNETES_SERVICE_HOST", "10.96.0.1")
            .env("CNI_NETWORK_CONFIG", template)
            .spawn()
            .unwrap();
        Self { child, folder }
    }

    fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.folder.path().join("host").join(path)).ok()
    }

    fn write(&self, path: &str, text: &str) {
        fs::write(self.folder.path().join(path), text).unwrap();
    }

    /// The types of the plugins in a list.
    fn plugins(&self, file: &str) -> Vec<String> {
        let text = self.read(&format!("etc/cni/net.d/{file}")).unwrap_or_default();
        let list: Value = serde_json::from_str(&text).unwrap_or_default();
        let plugins = list["plugins"].as_array().cloned().unwrap_or_default();
        plugins.iter().map(|p| p["type"].as_str().unwrap_or_default().to_owned()).collect()
    }

    fn until(&self, what: &str, ready: impl Fn(&Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !ready(self) {
            assert!(Instant::now() < end, "{what}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Installer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// proves: INIT-12 INIT-13
#[test]
fn the_installer_brings_keeps_and_takes_away() {
    let mut installer = Installer::start();
    installer.until("the plugin is in the list", |i| {
        i.plugins("10-net.conflist") == ["bridge", "linkerd-cni"]
    });
    let list = installer.read("etc/cni/net.d/10-net.conflist").unwrap();
    assert!(list.contains("/etc/cni/net.d/ZZZ-linkerd-cni-kubeconfig"), "{list}");
    let program = installer.folder.path().join("host/opt/cni/bin/linkerd-cni");
    assert_eq!(fs::metadata(&program).unwrap().permissions().mode() & 0o777, 0o755);
    assert_eq!(fs::read(program).unwrap(), fs::read(env!("CARGO_BIN_EXE_mesh-cni")).unwrap());
    let kubeconfig = "etc/cni/net.d/ZZZ-linkerd-cni-kubeconfig";
    assert!(installer.read(kubeconfig).unwrap().contains("https://10.96.0.1:443"));

    // The network's own agent writes its configuration anew; another one comes; the token is renewed.
    let list = r#"{"name":"net","plugins":[{"type":"calico"}]}"#;
    installer.write("host/etc/cni/net.d/10-net.conflist", list);
    installer.write("host/etc/cni/net.d/05-other.conf", r#"{"type":"ptp"}"#);
    installer.write("account/token", "second");
    installer.until("a new list is patched", |i| {
        i.plugins("10-net.conflist") == ["calico", "linkerd-cni"]
    });
    installer.until("a file becomes a list", |i| {
        i.plugins("05-other.conflist") == ["ptp", "linkerd-cni"]
    });
    installer.until("the token is renewed", |i| i.read(kubeconfig).unwrap().contains("second"));
    assert_eq!(installer.read("etc/cni/net.d/05-other.conf"), None);

    let pid = installer.child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let end = Instant::now() + PATIENCE;
    while installer.child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < end, "it does not end");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(installer.plugins("10-net.conflist"), ["calico"]);
    assert_eq!(installer.plugins("05-other.conflist"), ["ptp"]);
    assert_eq!(installer.read(kubeconfig), None);
    let rest = fs::read_dir(installer.folder.path().join("host/opt/cni/bin")).unwrap();
    assert_eq!(rest.count(), 0);
}
