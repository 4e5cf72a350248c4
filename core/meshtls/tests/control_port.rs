//! # Control-plane ports
//!
//! Job: which connections reach gRPC. May touch: loopback sockets. Callers: the test runner.
#![allow(clippy::unwrap_used)]

mod common;

use common::Ca;
use futures::StreamExt;
use mesh_meshtls::{
    Credentials, TlsTarget, connect,
    control::{ControlAcceptor, ControlConfig, ControlIo},
};
use mesh_process::drain;
use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::mpsc,
    time::timeout,
};

const SERVER: &str = "linkerd-destination.linkerd.serviceaccount.identity.linkerd.cluster.local";
const CLIENT: &str = "client.test.serviceaccount.identity.linkerd.cluster.local";
const HOST: &str = "127.0.0.1";
const POD: &str = "127.77.1.3";
const SOON: Duration = Duration::from_secs(5);

struct Port {
    addr: SocketAddr,
    arrived: mpsc::Receiver<ControlIo>,
    _signal: drain::Signal,
}

async fn open(credentials: &Credentials, config: ControlConfig) -> Port {
    let listener = TcpListener::bind("127.77.1.2:0").await.unwrap();
    let acceptor = ControlAcceptor::new(listener, credentials.clone(), config);
    let addr = acceptor.local_addr().unwrap();
    let (_signal, watch) = drain::channel();
    let mut incoming = acceptor.incoming(watch);
    let (send, arrived) = mpsc::channel(64);
    tokio::spawn(async move {
        while let Some(Ok(io)) = incoming.next().await {
            if send.send(io).await.is_err() {
                return;
            }
        }
    });
    Port { addr, arrived, _signal }
}

async fn dial(from: &str, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(from.parse::<IpAddr>().unwrap(), 0)).unwrap();
    socket.connect(to).await.unwrap()
}

fn target(name: &str) -> TlsTarget {
    TlsTarget { id: name.parse().unwrap(), server_name: name.parse().unwrap() }
}

async fn closed(stream: &mut TcpStream) -> bool {
    let read = timeout(SOON, stream.read_u8()).await.expect("neither closed nor answered");
    read.is_err_and(|e| {
        matches!(e.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset)
    })
}

// proves: CTL-1
#[tokio::test]
async fn mesh_tls_reaches_grpc_with_the_clients_name() {
    let ca = Ca::new();
    let mut port = open(&ca.workload(SERVER), ControlConfig::default()).await;
    let client = ca.workload(CLIENT);
    let stream = dial(POD, port.addr).await;
    let mut connected = connect(stream, &client, &target(SERVER), false).await.unwrap();
    connected.io.write_all(b"hello").await.unwrap();
    let mut io = timeout(SOON, port.arrived.recv()).await.unwrap().unwrap();
    assert!(io.info().tls);
    assert_eq!(io.info().client.as_ref().unwrap().as_str(), CLIENT);
    let mut bytes = [0; 5];
    io.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"hello");
}

// proves: CTL-2
#[tokio::test]
async fn only_identity_serves_clients_without_certificate() {
    let ca = Ca::new();
    for require_client in [true, false] {
        let config = ControlConfig { require_client, ..ControlConfig::default() };
        let mut port = open(&ca.workload(SERVER), config).await;
        let client = ca.bare(CLIENT, &ca.anchors);
        let stream = dial(POD, port.addr).await;
        let mut connected = connect(stream, &client, &target(SERVER), false).await.unwrap();
        if require_client {
            let read = timeout(SOON, connected.io.read_u8()).await.unwrap();
            assert!(read.is_err());
        } else {
            let io = timeout(SOON, port.arrived.recv()).await.unwrap().unwrap();
            assert!(io.info().tls && io.info().client.is_none());
        }
    }
}

// proves: CTL-3
#[tokio::test]
async fn plaintext_is_for_this_host() {
    let ca = Ca::new();
    let credentials = ca.workload(SERVER);
    for (own, from, served) in [
        (false, HOST, true),
        (false, POD, false),
        (false, "127.77.1.2", false),
        (true, "127.77.1.2", true),
        (true, POD, false),
    ] {
        let config = ControlConfig { plaintext_from_own: own, ..ControlConfig::default() };
        let mut port = open(&credentials, config).await;
        let mut stream = dial(from, port.addr).await;
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        if served {
            let io = timeout(SOON, port.arrived.recv()).await.unwrap().unwrap();
            assert!(!io.info().tls);
        } else {
            assert!(closed(&mut stream).await, "{own} {from}");
        }
    }
}

// proves: CTL-1
#[tokio::test]
async fn other_names_are_refused() {
    let ca = Ca::new();
    let port = open(&ca.workload(SERVER), ControlConfig::default()).await;
    let stream = dial(POD, port.addr).await;
    assert!(connect(stream, &ca.workload(CLIENT), &target(CLIENT), false).await.is_err());
}

// proves: CTL-4
#[tokio::test]
async fn the_port_survives_ten_thousand_random_strings() {
    let ca = Ca::new();
    let config = ControlConfig { deadline: Duration::from_millis(200), ..ControlConfig::default() };
    let mut port = open(&ca.workload(SERVER), config).await;
    let addr = port.addr;
    let mut workers = tokio::task::JoinSet::new();
    for worker in 0..16_u64 {
        workers.spawn(async move {
            let mut random = Random(worker + 1);
            for _ in 0..625 {
                let mut stream = dial(POD, addr).await;
                let _ = stream.write_all(&random.bytes()).await;
            }
        });
    }
    workers.join_all().await;
    let client = ca.workload(CLIENT);
    let stream = dial(POD, port.addr).await;
    connect(stream, &client, &target(SERVER), false).await.unwrap();
    let io = timeout(SOON, port.arrived.recv()).await.unwrap().unwrap();
    assert!(io.info().tls);
}

/// xorshift: the same strings in each run. Half of them begin like a ClientHello.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self) -> Vec<u8> {
        let length = (self.next() % 600) as usize;
        let mut bytes: Vec<u8> = (0..length).map(|_| self.next() as u8).collect();
        if self.next().is_multiple_of(2) {
            let head = [22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3];
            for (to, from) in bytes.iter_mut().zip(head) {
                *to = from;
            }
        }
        bytes
    }
}
