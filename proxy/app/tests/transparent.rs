//! # A client and a server that know nothing of the mesh
//!
//! Two Pods in network namespaces that the test makes, with redirect rules and a proxy in each. The client
//! calls a Service's address; what the server sees tells what the proxies made of it.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../../init/tests/support/net.rs"]
#[allow(dead_code, reason = "shared with the tests of the rules")]
mod net;
#[path = "binary/plane.rs"]
mod plane;

use mesh_init::rules::Redirect;
use mesh_model::{
    balance::Balancing,
    endpoint::{Endpoint, EndpointMetadata, ProtocolHint, TlsTarget},
    meta::Meta,
    outbound::{Backend, BackendKind, OutboundPolicy, OutboundProtocol, OutboundRoute},
    profile::Profile,
};
use net::{APP, Namespace, join, with_rights};
use plane::{NAME, Plane, Service};
use std::{
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    num::NonZeroU16,
    os::unix::{fs::chown, process::CommandExt},
    process::{Child, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

const PATIENCE: Duration = Duration::from_secs(30);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
/// An address that no host has: a Service's.
const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 77);
const NAMED: &str = "echo.demo.svc.cluster.local";
const HTTP: u16 = 8080;
const BYTES: u16 = 5432;

/// Two Pods, each with a proxy, and the control plane that both ask.
struct Mesh {
    client: Namespace,
    server: Namespace,
    proxies: Vec<(Child, tempfile::TempDir)>,
    plane: Plane,
    _runtime: tokio::runtime::Runtime,
}

impl Mesh {
    fn start() -> Self {
        let (client, server) = (Namespace::new(), Namespace::new());
        join((&client, CLIENT), (&server, SERVER));
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let plane = runtime.block_on(async {
            let listen = |pod: &Namespace| {
                let socket = pod.run(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 8086))).unwrap();
                socket.set_nonblocking(true).unwrap();
                tokio::net::TcpListener::from_std(socket).unwrap()
            };
            Plane::start_on(true, vec![listen(&client), listen(&server)])
        });
        serve_http(&server);
        serve_bytes(&server);
        let mut mesh = Self { client, server, proxies: vec![], plane, _runtime: runtime };
        mesh.inject();
        mesh
    }

    /// What the injector does to both Pods.
    fn inject(&mut self) {
        for (pod, ip) in [(&self.client, CLIENT), (&self.server, SERVER)] {
            let root = rustix::process::getuid().is_root();
            // Without root there is but one user, who is both proxy and application: then ports tell.
            let skip = if root { "" } else { "8080,5432,4143" };
            let redirect = Redirect {
                inbound_port: NonZeroU16::new(4143).unwrap(),
                outbound_port: NonZeroU16::new(4140).unwrap(),
                proxy_uid: root.then_some(APP),
                proxy_gid: None,
                only_inbound: "".parse().unwrap(),
                skip_inbound: "4190,4191".parse().unwrap(),
                skip_outbound: skip.parse().unwrap(),
                skip_subnets: vec![],
                ipv6: false,
            };
            pod.run(|| mesh_init::apply(&redirect, None)).unwrap();
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("token"), b"token").unwrap();
            chown(folder.path(), Some(APP), Some(APP)).unwrap();
            let mut command = self.plane.command();
            let path = folder.path().to_str().unwrap();
            command.env_remove("MESH_POD_IP").env_remove("MESH_INTERCEPTION");
            for (name, value) in [
                ("INBOUND_LISTEN_ADDR", "0.0.0.0:4143".to_owned()),
                ("OUTBOUND_LISTEN_ADDR", "127.0.0.1:4140".to_owned()),
                ("ADMIN_LISTEN_ADDR", "0.0.0.0:4191".to_owned()),
                ("INBOUND_IPS", ip.to_string()),
                ("INBOUND_PORTS", format!("{HTTP},{BYTES}")),
                ("INBOUND_PORTS_DISABLE_PROTOCOL_DETECTION", BYTES.to_string()),
                ("IDENTITY_DIR", path.to_owned()),
                ("IDENTITY_TOKEN_FILE", format!("{path}/token")),
            ] {
                command.env(format!("LINKERD2_PROXY_{name}"), value);
            }
            if root {
                command.uid(APP).gid(APP);
            }
            command.stdout(Stdio::inherit());
            self.proxies.push((pod.run(|| command.spawn()).unwrap(), folder));
        }
        for pod in [&self.client, &self.server] {
            until(|| pod.run(|| ask((Ipv4Addr::LOCALHOST, 4191), "GET /ready")).0 == 200);
        }
    }

    /// The Service leads to this port of the server's Pod.
    fn tell(&self, port: u16, metadata: EndpointMetadata, opaque: bool) {
        let endpoint =
            Endpoint { addr: SocketAddr::from((SERVER, port)), metadata: Arc::new(metadata) };
        let backend = Backend::new(
            Meta::built_in("echo"),
            BackendKind::Balance {
                addr: format!("{NAMED}:80").parse().unwrap(),
                balancing: Balancing::default(),
            },
        );
        let route = OutboundRoute::to(Meta::built_in("echo"), backend);
        let protocol = match opaque {
            true => OutboundProtocol::Opaque(Arc::new([route])),
            false => {
                let routes: Arc<[OutboundRoute]> = Arc::new([route]);
                OutboundProtocol::detect(PATIENCE, routes.clone().into(), routes)
            }
        };
        let service = Service {
            endpoint,
            profile: Profile { fqn: Some(NAMED.parse().unwrap()), opaque, ..Profile::default() },
            policy: Some(OutboundPolicy { parent: Meta::built_in("echo"), protocol }),
        };
        // A client knows the address, its proxy the name too.
        for key in [SERVICE.to_string(), NAMED.to_owned()] {
            self.plane.service(&key, service.clone());
        }
    }

    fn metrics(&self, pod: &Namespace) -> String {
        pod.run(|| ask((Ipv4Addr::LOCALHOST, 4191), "GET /metrics")).1
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        for (proxy, _) in &mut self.proxies {
            let _ = proxy.kill();
            let _ = proxy.wait();
        }
    }
}

fn meshed(hint: ProtocolHint, header: bool) -> EndpointMetadata {
    EndpointMetadata {
        tls: Some(TlsTarget { id: NAME.parse().unwrap(), server_name: NAME.parse().unwrap() }),
        hint,
        opaque_transport: NonZeroU16::new(4143).filter(|_| header),
        ..EndpointMetadata::default()
    }
}

/// Answers each request with its own head.
fn serve_http(pod: &Namespace) {
    let listener = pod.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, HTTP))).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut lines = BufReader::new(stream.try_clone().unwrap());
                let mut head = String::new();
                while lines.read_line(&mut head).is_ok_and(|read| read > 0) {
                    if head.ends_with("\r\n\r\n") {
                        let answer = format!(
                            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{head}",
                            head.len()
                        );
                        let _ = (&stream).write_all(answer.as_bytes());
                        if head.contains("connection: close") {
                            return;
                        }
                        head.clear();
                    }
                }
            });
        }
    });
}

/// Speaks first, then gives back what it is given.
fn serve_bytes(pod: &Namespace) {
    let listener = pod.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, BYTES))).unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let _ = stream.write_all(b"hello\n");
                let mut echo = stream.try_clone().unwrap();
                let _ = std::io::copy(&mut stream, &mut echo);
                let _ = echo.shutdown(std::net::Shutdown::Write);
            });
        }
    });
}

fn connect(addr: (Ipv4Addr, u16)) -> TcpStream {
    let stream = TcpStream::connect_timeout(&addr.into(), PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Status and body; status 0 if nobody listens yet.
fn ask(addr: (Ipv4Addr, u16), what: &str) -> (u16, String) {
    let mut stream = match TcpStream::connect_timeout(&addr.into(), PATIENCE) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => return (0, String::new()),
        connected => connected.unwrap(),
    };
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = format!("{what} HTTP/1.1\r\nhost: echo.demo\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or_default();
    (status, answer.split_once("\r\n\r\n").unwrap_or_default().1.to_owned())
}

fn until(ready: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !ready() {
        assert!(Instant::now() < end, "it did not happen within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

// proves: INIT-9
#[test]
fn requests_are_carried_with_the_callers_identity() {
    with_rights("requests_are_carried_with_the_callers_identity", || {
        let mesh = Mesh::start();
        let called = |pod: &Namespace, addr| pod.run(|| ask(addr, "GET /x"));
        for (hint, header) in [
            (ProtocolHint::Http2, false),
            (ProtocolHint::Http2, true),
            (ProtocolHint::Unknown, false),
        ] {
            mesh.tell(HTTP, meshed(hint, header), false);
            let (status, seen) = called(&mesh.client, (SERVICE, 80));
            assert_eq!(status, 200, "{hint:?} {seen}");
            assert!(seen.starts_with("GET /x HTTP/1.1\r\n"), "{hint:?} {seen}");
            assert!(seen.contains(&format!("l5d-client-id: {NAME}")), "{hint:?} {seen}");
        }
        // An endpoint outside the mesh, and a server reached from outside: no identity.
        mesh.tell(HTTP, EndpointMetadata::default(), false);
        let (status, seen) = called(&mesh.client, (SERVICE, 81));
        assert!(status == 200 && !seen.contains("l5d-client-id"), "{seen}");
        // The Pod's own call to itself passes both proxies by.
        let (status, seen) = called(&mesh.server, (SERVER, HTTP));
        assert!(status == 200 && !seen.contains("l5d-"), "{seen}");
        let metrics = mesh.metrics(&mesh.server);
        for part in ["inbound_http_authz_allow_total{", "tls=\"true\"", "tls=\"no_identity\""] {
            assert!(metrics.contains(part), "{part} {metrics}");
        }
    });
}

// proves: INIT-9
#[test]
fn bytes_are_carried_both_ways_also_where_the_server_speaks_first() {
    with_rights("bytes_are_carried_both_ways_also_where_the_server_speaks_first", || {
        let mesh = Mesh::start();
        for (port, metadata) in
            [(6000, meshed(ProtocolHint::Opaque, true)), (6001, EndpointMetadata::default())]
        {
            mesh.tell(BYTES, metadata, true);
            let said = mesh.client.run(|| {
                let mut stream = connect((SERVICE, port));
                let mut first = [0; 6];
                stream.read_exact(&mut first).unwrap();
                let sent = vec![7; 1 << 20];
                let mut reader = stream.try_clone().unwrap();
                let back = std::thread::spawn(move || {
                    let mut back = Vec::new();
                    reader.read_to_end(&mut back).map(|_| back)
                });
                stream.write_all(&sent).unwrap();
                stream.shutdown(std::net::Shutdown::Write).unwrap();
                assert!(back.join().unwrap().unwrap() == sent, "{port}");
                first
            });
            assert_eq!(&said, b"hello\n", "{port}");
        }
    });
}

// proves: INIT-9
#[test]
fn a_proxys_own_ports_are_no_way_around_the_rules() {
    with_rights("a_proxys_own_ports_are_no_way_around_the_rules", || {
        let mesh = Mesh::start();
        mesh.tell(HTTP, meshed(ProtocolHint::Http2, false), false);
        // Outbound was not redirected to itself; inbound takes nothing in plaintext.
        let refused = |pod: &Namespace, addr| {
            pod.run(|| {
                let mut stream = connect(addr);
                let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n");
                let mut answer = Vec::new();
                let _ = stream.read_to_end(&mut answer);
                assert_eq!(String::from_utf8_lossy(&answer), "", "{addr:?}");
            });
        };
        refused(&mesh.client, (Ipv4Addr::LOCALHOST, 4140));
        refused(&mesh.server, (Ipv4Addr::LOCALHOST, 4143));
        let (status, _) = mesh.client.run(|| ask((SERVICE, 80), "GET /"));
        assert_eq!(status, 200, "and the proxies are well");
    });
}
