//! # Rules at work
//!
//! Rules are set in a network namespace that the test makes, and connections are sent through them.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/net.rs"]
mod net;

use mesh_init::{apply, rules::Redirect};
use mesh_net::{
    listen::{ListenOptions, bind},
    orig_dst::{self, Source},
};
use mesh_process::context::PodContext;
use net::{APP, Namespace, join, with_rights};
use std::{
    io::{ErrorKind, Read},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    num::NonZeroU16,
    time::Duration,
};
use tokio::{io::AsyncWriteExt, runtime};

const POD: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
const WORLD: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
const PATIENCE: Duration = Duration::from_secs(10);

/// A Pod with an application, and a proxy that tells what it was asked for; and the world outside.
struct Network {
    pod: Namespace,
    world: Namespace,
}

impl Network {
    fn new() -> Self {
        let network = Self { pod: Namespace::new(), world: Namespace::new() };
        join((&network.pod, POD), (&network.world, WORLD));
        for port in [80, 443, 8000] {
            serve(&network.world, (Ipv4Addr::UNSPECIFIED, port), "world");
            serve(&network.pod, (Ipv4Addr::UNSPECIFIED, port), "app");
        }
        serve(&network.pod, (Ipv4Addr::UNSPECIFIED, 4143), "inbound");
        serve(&network.pod, (Ipv4Addr::LOCALHOST, 4140), "outbound");
        network
    }

    fn apply(&self, change: impl FnOnce(&mut Redirect)) {
        let mut redirect = Redirect {
            inbound_port: NonZeroU16::new(4143).unwrap(),
            outbound_port: NonZeroU16::new(4140).unwrap(),
            proxy_uid: None,
            proxy_gid: None,
            only_inbound: "".parse().unwrap(),
            skip_inbound: "".parse().unwrap(),
            skip_outbound: "".parse().unwrap(),
            skip_subnets: vec![],
            ipv6: true,
        };
        change(&mut redirect);
        self.pod.run(|| apply(&redirect, None)).unwrap();
    }

    /// Who answers a client outside.
    fn outside_hears(&self, port: u16) -> String {
        self.world.run(|| hear((POD, port)))
    }

    /// Who answers the application's call to the world.
    fn app_hears(&self, port: u16) -> String {
        self.pod.run_as_app(|| hear((WORLD, port)))
    }
}

/// Answers each connection with a name and the address that it was meant for.
fn serve(namespace: &Namespace, addr: (Ipv4Addr, u16), name: &'static str) {
    let addr = SocketAddr::from(addr);
    let bound = namespace.run(|| bind(&PodContext::default(), addr, ListenOptions::default()));
    let bound = bound.unwrap();
    std::thread::spawn(move || {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = bound.listener().unwrap();
            loop {
                let mut accepted = listener.accept().await;
                // Whoever stands at the place that was meant has no need to ask.
                let meant = match orig_dst::of(&accepted, Source::Redirect) {
                    Ok(meant) if meant.0.port() != addr.port() => format!("{name} for {}", meant.0),
                    _ => name.to_owned(),
                };
                let _ = accepted.io.write_all(meant.as_bytes()).await;
            }
        });
    });
}

fn hear(addr: (Ipv4Addr, u16)) -> String {
    let mut stream = match TcpStream::connect_timeout(&addr.into(), PATIENCE) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => return "nobody".into(),
        connected => connected.unwrap(),
    };
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

// proves: INIT-1
#[test]
fn all_that_comes_and_goes_is_redirected_and_its_destination_is_known() {
    with_rights("all_that_comes_and_goes_is_redirected_and_its_destination_is_known", || {
        let network = Network::new();
        assert_eq!(network.outside_hears(80), "app");
        assert_eq!(network.app_hears(80), "world");
        network.apply(|_| {});
        assert_eq!(network.outside_hears(80), "inbound for 10.99.0.2:80");
        assert_eq!(network.outside_hears(9), "inbound for 10.99.0.2:9");
        assert_eq!(network.app_hears(80), "outbound for 10.99.0.1:80");
        assert_eq!(network.app_hears(9), "outbound for 10.99.0.1:9");
        // What comes to the proxy's own port was meant for it.
        assert_eq!(network.outside_hears(4143), "inbound");
    });
}

// proves: INIT-1
#[test]
fn the_proxys_user_and_group_and_loopback_pass() {
    with_rights("the_proxys_user_and_group_and_loopback_pass", || {
        let network = Network::new();
        network.apply(|redirect| redirect.proxy_uid = Some(APP));
        assert_eq!(network.app_hears(80), "world");
        network.apply(|redirect| redirect.proxy_uid = Some(APP + 1));
        assert_eq!(network.app_hears(80), "outbound for 10.99.0.1:80");
        network.apply(|redirect| redirect.proxy_gid = Some(APP));
        assert_eq!(network.app_hears(80), "world");
        network.apply(|redirect| redirect.proxy_gid = Some(APP + 1));
        assert_eq!(network.app_hears(80), "outbound for 10.99.0.1:80");
        for own in [Ipv4Addr::LOCALHOST, POD] {
            assert_eq!(network.pod.run_as_app(|| hear((own, 80))), "app");
        }
    });
}

// proves: INIT-1
#[test]
fn skipped_ports_and_networks_pass() {
    with_rights("skipped_ports_and_networks_pass", || {
        let network = Network::new();
        network.apply(|redirect| {
            redirect.skip_inbound = "80,440-450".parse().unwrap();
            redirect.skip_outbound = "8000".parse().unwrap();
        });
        assert_eq!(network.outside_hears(80), "app");
        assert_eq!(network.outside_hears(443), "app");
        assert_eq!(network.outside_hears(8000), "inbound for 10.99.0.2:8000");
        assert_eq!(network.app_hears(80), "outbound for 10.99.0.1:80");
        assert_eq!(network.app_hears(8000), "world");
        for (subnet, heard) in [
            ("10.99.0.1/32", "app"),
            ("10.96.0.0/13", "app"),
            ("10.99.0.2/32", "inbound for 10.99.0.2:80"),
            ("fd00::/8", "inbound for 10.99.0.2:80"),
        ] {
            network.apply(|redirect| redirect.skip_subnets = vec![subnet.parse().unwrap()]);
            assert_eq!(network.outside_hears(80), heard, "{subnet}");
            assert_eq!(network.app_hears(80), "outbound for 10.99.0.1:80", "{subnet}");
        }
        network.apply(|redirect| redirect.only_inbound = "443,8000-8001".parse().unwrap());
        assert_eq!(network.outside_hears(80), "app");
        assert_eq!(network.outside_hears(443), "inbound for 10.99.0.2:443");
        assert_eq!(network.outside_hears(8000), "inbound for 10.99.0.2:8000");
    });
}

// proves: INIT-2
#[test]
fn a_second_run_replaces_and_a_failed_one_changes_nothing() {
    with_rights("a_second_run_replaces_and_a_failed_one_changes_nothing", || {
        let network = Network::new();
        for _ in 0..3 {
            network.apply(|redirect| redirect.skip_inbound = "80".parse().unwrap());
            assert_eq!(network.outside_hears(80), "app");
        }
        network.apply(|redirect| redirect.skip_inbound = "443".parse().unwrap());
        assert_eq!(network.outside_hears(80), "inbound for 10.99.0.2:80");
        // More ports than one transaction holds.
        let many: Vec<String> = (0..4000).map(|n| (2 * n + 1).to_string()).collect();
        let redirect = Redirect {
            inbound_port: NonZeroU16::new(4143).unwrap(),
            outbound_port: NonZeroU16::new(4140).unwrap(),
            proxy_uid: None,
            proxy_gid: None,
            only_inbound: "".parse().unwrap(),
            skip_inbound: many.join(",").parse().unwrap(),
            skip_outbound: "".parse().unwrap(),
            skip_subnets: vec![],
            ipv6: false,
        };
        let error = network.pod.run(|| apply(&redirect, None)).unwrap_err();
        assert!(error.to_string().contains("too many rules"), "{error}");
        assert_eq!(network.outside_hears(443), "app");
        assert_eq!(network.outside_hears(80), "inbound for 10.99.0.2:80");
    });
}

// proves: INIT-3
#[test]
fn another_namespace_can_be_named() {
    with_rights("another_namespace_can_be_named", || {
        let network = Network::new();
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_mesh-init"))
            .args(["proxy-init", "-p", "4143", "-o", "4140", "--netns", &network.pod.path()])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(network.outside_hears(80), "inbound for 10.99.0.2:80");
        assert_eq!(network.world.run_as_app(|| hear((WORLD, 80))), "world");
    });
}

// proves: INIT-6
#[test]
fn without_the_capability_the_remedy_is_told() {
    with_rights("without_the_capability_the_remedy_is_told", || {
        let namespace = Namespace::new();
        let output = namespace.run(|| {
            std::process::Command::new("setpriv")
                .args(["--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all"])
                .args(["--", env!("CARGO_BIN_EXE_mesh-init"), "-p", "4143", "-o", "4140"])
                .output()
                .unwrap()
        });
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("NET_ADMIN"), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    });
}

// proves: INIT-7
#[test]
fn the_validator_tells_a_redirected_pod_from_another() {
    with_rights("the_validator_tells_a_redirected_pod_from_another", || {
        let pod = Namespace::new();
        let world = Namespace::new();
        join((&pod, POD), (&world, WORLD));
        let validate = |listen: &str| {
            // An address of the link's network that nobody has.
            let flags = ["--connect-addr=10.99.0.77:20001", "--timeout=200ms", listen];
            pod.run_as_app(|| {
                std::process::Command::new(env!("CARGO_BIN_EXE_mesh-init"))
                    .arg("network-validator")
                    .args(flags)
                    .output()
                    .unwrap()
            })
        };
        let listen = "--listen-addr=0.0.0.0:4140";
        let output = validate(listen);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(95), "{said}");
        assert!(said.contains("linkerd-cni"), "{said}");
        let ports = ["-p", "4143", "-o", "4140", "--netns", &pod.path()];
        let set = std::process::Command::new(env!("CARGO_BIN_EXE_mesh-init")).args(ports).output();
        assert!(set.unwrap().status.success());
        let output = validate(listen);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(validate("--listen-addr=10.99.0.3:4140").status.code(), Some(95));
    });
}

// proves: INIT-8
#[test]
fn where_nothing_is_intercepted_there_is_nothing_to_do() {
    for program in ["proxy-init", "network-validator"] {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_mesh-init"));
        command.arg(program).env("MESH_INTERCEPTION", "none");
        if program == "proxy-init" {
            command.args(["-p", "4143", "-o", "4140"]);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 1, "{output:?}");
    }
}
